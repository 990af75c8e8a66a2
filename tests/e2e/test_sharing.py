"""Containers that share a network namespace: who is in it still, and what helps who is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab import images
from tests.lab.site import PRIVILEGES

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
RESYNC = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=1")


def paste(lab: Lab, fix: str) -> None:
    """Run the commands of a fix as a person would."""
    for command in fix.split(" && "):
        docker, *words = command.split()
        assert docker == "docker"
        lab.engine.docker(*words)


def test_who_is_in_a_namespace_that_was_left_is_told_and_the_fix_works(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *RESYNC, network=network)
    owner = lab.client("owner", network)
    first = lab.client("first", f"container:{owner.name}", networks=DST)
    second = lab.client("second", f"container:{first.name}", networks="203.0.113.0/24")
    wanted = {one: gateway.address(network) for one in (DST, "203.0.113.0/24")}
    await_routes(owner, wanted)

    owner.restart()
    for guest in (first, second):
        told = await_event(sidecar, "client.skipped", container=guest.name, level="warning")
        assert told["reason"] == f"runs in a namespace that {owner.name} has left"
        for command in ("status", f"doctor {guest.name}", "doctor"):
            said = sidecar.exec("sh", "-c", f"wgroutemgr {command}; :")
            assert told["reason"] in said, command
            assert told["hint"] in said, command
    assert routes(owner) == {}
    assert len(events(sidecar, "client.skipped", level="warning")) == 2

    assert told["hint"] == f"docker restart {first.name} && docker restart {second.name}"
    paste(lab, told["hint"])
    await_routes(owner, wanted)


def test_whose_owner_is_gone_is_told_that_a_restart_is_refused(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *RESYNC, network=network)
    owner = lab.client("owner", network)
    owner_id = owner.inspect("{{.Id}}")
    guest = lab.client("guest", f"container:{owner_id}", networks=DST)
    await_routes(owner, {DST: gateway.address(network)})

    owner.remove()
    told = await_event(sidecar, "client.skipped", container=guest.name, level="warning")
    assert told["reason"] == "runs in the network namespace of a container that was removed"
    assert told["hint"].startswith(f"docker rm -f {guest.name}, and run it again")


def test_a_gateway_in_anothers_namespace_is_followed_there(lab: Lab, network: str) -> None:
    pause = lab.client("pause", network)
    tunnel = lab.client("tunnel", f"container:{pause.name}")
    words = ("--network", "none", "--label", f"wgroutemgr.network={network}")
    named = ("--label", f"wgroutemgr.gateway={tunnel.name}")
    image = images.product(lab.engine)
    sidecar = lab.container("sidecar", image, *PRIVILEGES, *words, *named, *RESYNC)
    client = lab.client("client", network, networks=DST)
    await_routes(client, {DST: pause.address(network)})

    pause.restart()
    lost = await_event(sidecar, "gateway.lost", hint=f"docker restart {tunnel.name}")
    assert lost["reason"].endswith(f"it runs in a namespace that {pause.name} has left")
    await_routes(client, {DST: "unreachable"})
    paste(lab, lost["hint"])
    await_routes(client, {DST: pause.address(network)})


def test_no_fix_is_printed_that_the_engine_refuses(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *RESYNC, network=network)
    other = lab.network("other", "192.168.99.0/24")
    for mode in ("none", other):
        client = lab.client(f"on-{mode}", mode, networks=DST)
        said = sidecar.exec("sh", "-c", f"wgroutemgr doctor {client.name}; :")
        connects = f"docker network connect {network} {client.name}"
        assert (connects in said) == (mode == other), said
        if mode == other:
            paste(lab, connects)
            await_routes(client, {DST: gateway.address(network)})
