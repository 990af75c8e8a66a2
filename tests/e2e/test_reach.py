"""What one client's own addresses cannot reach is refused by name, and hurts nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab.engine import poll

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST, DST6 = "198.51.100.0/24", "2001:db8:51::/48"
RESYNC = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=1")
NO_IPV6 = "net.ipv6.conf.all.disable_ipv6"


def passes(sidecar: Container) -> int:
    return len(events(sidecar, "pass.finished", trigger="resync"))


def test_a_client_without_ipv6_gets_the_rest_and_the_sidecar_is_well(lab: Lab) -> None:
    network = lab.network("wg-net", "192.168.67.0/24", "fd00:67::/64")
    gateway = lab.gateway("wireguard", network)
    debug = ("--env", "WGROUTEMGR_LOG_LEVEL=debug")
    sidecar = lab.sidecar("sidecar", gateway, *RESYNC, *debug, network=network)
    words = ("--sysctl", f"{NO_IPV6}=1", "--cap-add", "NET_ADMIN")
    client = lab.client("client", network, *words, networks=f"{DST},{DST6}")
    client.enter("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
    v4, v6 = gateway.address(network), gateway.address(network, ipv6=True)

    refused = await_event(sidecar, "entry.refused", container=client.name, entry=DST6)
    assert refused["reason"] == f"is IPv6, and the container has no IPv6 address on {network}"
    await_routes(client, {DST: v4})
    seen = passes(sidecar)
    assert poll(lambda: passes(sidecar) >= seen + 3, 20)
    assert len(events(sidecar, "entry.refused")) == 1
    assert sidecar.exec("wgroutemgr", "health") == "ok"
    assert routes(client) == {DST: v4}
    for command in ("status", "plan", "doctor", f"doctor {client.name}"):
        said = sidecar.exec("sh", "-c", f"wgroutemgr {command}; :")
        assert refused["reason"] in said, command
        assert f"replace {DST6}" not in said

    client.enter("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
    # Docker 28 gives it none, so one by hand.
    client.enter("ip", "address", "add", "fd00:67::77/64", "dev", "eth0", "nodad")
    await_routes(client, {DST: v4, DST6: v6})
