"""A gateway that is no container of this engine: named by its addresses on the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.doctor_site import ask
from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab import images
from tests.lab.engine import poll

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST, DST6, FAR = "198.51.100.0/24", "2001:db8:51::/64", "198.51.100.80"
SUBNETS = ("192.168.67.0/24", "fd00:67::/64")
LOOK = ("sh", "-c", "ip route show; trap 'exit 0' TERM; sleep 1000 & wait")
"""What the first process sees when it looks, as its first action; then it stays."""
ROUTER, ROUTER6 = "192.168.67.254", "fd00:67::254"


def bridge_of(client: Container) -> str:
    """Return the name of the bridge that is a container's network."""
    return "br-" + client.inspect("{{range .NetworkSettings.Networks}}{{.NetworkID}}{{end}}")[:12]


def plug_in(router: Container, bridge: str) -> None:
    """Give a machine that the engine knows nothing of an address on a bridge.

    Its namespace is a container's without a network, which stands for another machine.
    """
    key = router.inspect("{{.NetworkSettings.SandboxKey}}")
    engine = router.engine
    engine.enter("ip", "link", "add", "outside0", "type", "veth", "peer", "name", "outside1")
    engine.enter("ip", "link", "set", "outside1", "master", bridge, "up")
    pid = router.inspect("{{.State.Pid}}")
    engine.enter("ip", "link", "set", "outside0", "netns", pid, "name", "lan0")
    lines = [
        "echo 0 >/proc/sys/net/ipv6/conf/lan0/disable_ipv6",
        "ip link set lan0 up",
        f"ip address add {ROUTER}/24 dev lan0",
        f"ip -6 address add {ROUTER6}/64 dev lan0 nodad",
        f"ip address add {FAR}/32 dev lo",
    ]
    engine.enter("nsenter", f"--net={key}", "sh", "-ec", "\n".join(lines))


def is_silent(client: Container, sidecar: Container) -> bool:
    """Have a client ask for the router anew, and tell whether the doctor says that it is silent."""
    client.enter("ip", "neigh", "flush", "dev", "eth0")  # Else it is believed for half a minute.
    client.exec("sh", "-c", f"ping -c 1 -w 4 {FAR}; :")
    found = ask(sidecar).levels("fail")
    return ("address", f"{ROUTER} does not answer {client.name}") in found


def test_clients_are_led_to_a_machine_that_is_no_container(lab: Lab) -> None:
    network = lab.network("lan", *SUBNETS)
    client = lab.client("client", network, networks=f"{DST},{DST6}")
    router = lab.container("router", images.client(lab.engine), "--network", "none")
    plug_in(router, bridge_of(client))
    label = (
        "--label",
        f"wgroutemgr.gateway={ROUTER}, {ROUTER6}",
        "--env",
        "WGROUTEMGR_GATEWAY_GUARD=on",
    )
    sidecar = lab.lone_sidecar("sidecar", *label, network=network)
    told = await_event(sidecar, "gateway.outside")
    assert (told["container"], told["network"]) == (ROUTER, network)
    wanted = {DST: ROUTER, DST6: ROUTER6}
    await_routes(client, wanted)
    assert "1 packets received" in client.exec("ping", "-c", "1", "-w", "10", FAR)

    said = ask(sidecar)
    assert said.one("gateway").seen.endswith("is no container of this engine")
    assert said.one("forwarding").level == said.one("nat").level == "skip"
    assert [
        one for _, one in said.levels("ok") if one.startswith(f"{ROUTER} is ") and "seen by" in one
    ]
    assert events(sidecar, "guard.refused")
    words = ("--network", network, "--label", f"wgroutemgr.networks={DST}")
    image = images.client(lab.engine)
    early = [lab.container(f"early{n}", image, *words, command=LOOK) for n in range(4)]
    for one in early:
        await_routes(one, {DST: ROUTER})
    assert any(DST in one.logs() for one in early)  # Of a few starts one is early on any machine.

    router.remove()
    assert poll(lambda: is_silent(client, sidecar), 20)
    assert routes(client) == wanted
    assert sidecar.exec("wgroutemgr", "health") == "ok"
    sidecar.exec("wgroutemgr", "withdraw")
    assert routes(client) == {}


def test_clients_on_a_macvlan_are_led_to_another_host(lab: Lab) -> None:
    """A bridge stands for the switch between the two hosts."""
    lab.engine.enter("ip", "link", "add", "switch0", "type", "bridge")
    try:
        lab.engine.enter("ip", "link", "set", "switch0", "up")
        options = ("--driver", "macvlan", "--opt", "parent=switch0")
        network = lab.network("lan", *SUBNETS, options=options)
        router = lab.container("router", images.client(lab.engine), "--network", "none")
        plug_in(router, "switch0")
        label = ("--label", f"wgroutemgr.gateway={ROUTER}, {ROUTER6}")
        sidecar = lab.lone_sidecar("sidecar", *label, network=network)
        client = lab.client("client", network, networks=f"{DST},{DST6}")

        await_routes(client, {DST: ROUTER, DST6: ROUTER6})
        assert "1 packets received" in client.exec("ping", "-c", "1", "-w", "10", FAR)
        assert ask(sidecar).levels("fail") == []
    finally:
        lab.engine.remove_labelled(lab.token)
        lab.engine.enter("ip", "link", "del", "switch0")
