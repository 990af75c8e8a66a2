"""Without the namespace directory, as on Docker Desktop: namespaces are entered at processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.doctor_site import ask, beside, without
from tests.e2e.look import await_event, await_routes, events, routes
from tests.e2e.proxy import Proxy
from tests.lab import images
from tests.lab.engine import Docker, poll

if TYPE_CHECKING:
    from tests.lab.engine import Engine
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
AGAIN = """
for _ in 1 2 3 4 5 6 7 8 9 10; do
    echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid
    nsenter --net="$2" sleep 600 >/dev/null 2>&1 &
    [ $! = "$1" ] && echo "$!" && exit
    kill $!
done
"""
"""Starts a process with the process id $1 in the network namespace $2, and prints its id."""
MOUNT = f"{Docker.netns}:{Docker.netns}:ro,rslave"


def sidecar_of(lab: Lab, gateway: Container, network: str, *options: str) -> Container:
    """Run the product with `pid: host` and what more it is given, without the mount."""
    words = (*beside(gateway, network, *without(MOUNT)), "--pid", "host", *options)
    return lab.container("sidecar", images.product(lab.engine), *words)


def path_of(client: Container) -> str:
    return f"/proc/{client.inspect('{{.State.Pid}}')}/ns/net"


def test_namespaces_are_entered_through_processes(
    lab: Lab, network: str, gateway: Container
) -> None:
    wanted = {DST: gateway.address(network)}
    first = lab.client("first", network, networks=DST)
    lodger = lab.container(
        "lodger",
        images.client(lab.engine),
        *("--network", f"container:{first.name}", "--label", "wgroutemgr.networks=203.0.113.0/24"),
    )
    sidecar = sidecar_of(lab, gateway, network, "--cap-add", "SYS_PTRACE")
    both = wanted | {"203.0.113.0/24": gateway.address(network)}
    await_routes(first, both)
    second = lab.client("second", network, networks=DST)
    await_routes(second, wanted)

    for client, at in ((first, first), (second, second), (lodger, first)):
        command = await_event(sidecar, "route.replaced", container=client.name)["command"]
        assert str(command).startswith(f"nsenter --net={path_of(at)} ip route replace ")
    assert events(sidecar, "prerequisite.missing") == []

    before = path_of(second)
    second.restart()
    await_routes(second, wanted)
    assert path_of(second) != before
    found = ask(sidecar, second.name)
    assert found.one("namespaces").seen.endswith("are entered through processes (pid: host)")
    assert [found.one(check).level for check in ("namespaces", "commands", "route")] == ["ok"] * 3
    sidecar.exec("wgroutemgr", "withdraw")
    await_routes(first, {})


def test_what_processes_need_is_named(lab: Lab, network: str, gateway: Container) -> None:
    client = lab.client("client", network, networks=DST)
    sidecar = sidecar_of(lab, gateway, network)

    missing = await_event(sidecar, "prerequisite.missing")
    assert "SYS_PTRACE not in effect" in str(missing["reason"])
    finding = ask(sidecar).one("namespaces")
    assert finding.level == "fail"
    assert (
        finding.mend[-1] == "or, where that cannot be: cap_add: [NET_ADMIN, SYS_ADMIN, SYS_PTRACE]"
    )
    await_routes(client, {})


def test_process_id_that_is_given_again_during_a_pass_leads_nowhere(
    lab: Lab, engine: Engine, network: str, gateway: Container
) -> None:
    """The process was a client's when the pass located it, and is in a stranger's network now."""
    client = lab.client("client", network, networks=DST)
    stranger = lab.client("stranger", network)
    host = lab.client("host", network)
    words = ("--network", f"container:{host.name}", "--label", "wgroutemgr.networks=203.0.113.0/24")
    for number in range(3):  # After the client by name, and inspected in each pass.
        lab.container(f"lodger{number}", images.client(engine), *words)
    name = f"proxy-{lab.token}.sock"
    slow = ("--volume", f"{engine.state}:/engine", "--env", f"DOCKER_HOST=unix:///engine/{name}")
    more = ("--cap-add", "SYS_PTRACE", "--env", "WGROUTEMGR_RESYNC_INTERVAL=3")
    with Proxy(engine.state / name, engine.socket) as proxy:
        sidecar = sidecar_of(lab, gateway, network, *more, *slow)
        await_routes(client, {DST: gateway.address(network)})
        await_event(sidecar, "pass.finished", trigger="startup")
        pid, lodger = client.inspect("{{.State.Pid}}"), lab.name("lodger0")
        key = stranger.inspect("{{.NetworkSettings.SandboxKey}}")
        asked = f"GET /containers/{engine.docker('inspect', '--format', '{{.Id}}', lodger)}/json"
        proxy.delay = 0.5
        proxy.seen.clear()
        assert poll(lambda: asked in proxy.seen, 20, every=0.01)  # By now the client is located.

        engine.docker("kill", client.name)
        assert engine.enter("sh", "-c", AGAIN, "sh", pid, key) == pid
        try:
            proxy.seen.clear()
            assert poll(lambda: asked in proxy.seen, 20)  # The next pass has begun.
            assert len(events(sidecar, "route.replaced", container=client.name)) == 1
            assert routes(stranger) == {}
        finally:
            engine.enter("kill", pid)
