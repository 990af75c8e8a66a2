"""Without the namespace directory, as on Docker Desktop: namespaces are entered at processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.doctor_site import ask, beside, without
from tests.e2e.look import await_event, await_routes, events
from tests.lab import images
from tests.lab.engine import Docker

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
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
