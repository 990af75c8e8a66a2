"""What keeps off the gateway: by which way packets leave, and who gets an answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.e2e.doctor_site import beside, reaches
from tests.e2e.look import await_event, events
from tests.e2e.test_whole import FAR, PATIENCE_SECONDS, UPLINK, WARN, World, rules, table, world
from tests.lab import images
from tests.lab.engine import poll

if TYPE_CHECKING:
    from tests.lab.site import Container

__all__ = ["world"]

OTHER = {4: "203.0.113.200", 6: "2001:db8:80::200"}
"""Addresses of the far host that are reached through the tunnel alone."""
ALL = "0.0.0.0/0, ::/0"
PART = "203.0.113.64/26, 2001:db8:80::/120"
"""What the others are in."""
BAD = "203.0.113.1/26, nowhere, 198.51.100.0/33, 192.168.67.0/25"


def direct(label: str) -> tuple[str, str]:
    return ("--label", f"wgroutemgr.direct={label}")


def ways(world: World, client: Container) -> list[str]:
    """Return by which way the far host is reached: at its own addresses, and at the others."""
    found = []
    for far in (FAR, OTHER):
        for address in far.values():
            before = world.past()
            answered = reaches(client, address, seconds=3)
            past = "past" if world.past() != before else ""
            found.append(past or ("tunnel" if answered else ""))
    return found


def await_ways(world: World, client: Container, *wanted: str) -> None:
    poll(lambda: ways(world, client) == [*wanted], PATIENCE_SECONDS)
    assert ways(world, client) == [*wanted]


def next_hop(client: Container, version: int = 4) -> str:
    """Return where packets to the far host's own address go."""
    shown = client.enter("ip", "-j", "route", "get", FAR[version])
    return str(json.loads(shown)[0]["gateway"])


def with_more_addresses(world: World) -> World:
    for version, address in OTHER.items():
        world.far.enter("ip", f"-{version}", "address", "replace", address, "dev", "lo")
    return world


def states(sidecar: Container) -> dict[str, str]:
    shown = sidecar.exec("sh", "-c", "wgroutemgr status --json; :")
    rows = json.loads(shown)["routes"]
    return {row["dst"]: row["state"] for row in rows if row["direct"] or row["state"] != "ok"}


def test_a_part_goes_past_the_gateway_whatever_becomes_of_that_and_of_the_engines_own(
    world: World,
) -> None:
    with_more_addresses(world)
    past_alone = ("past", "past", "tunnel", "tunnel")
    client = world.client(ALL, *direct(f"{PART}, {BAD}"))
    sidecar = world.sidecar()
    await_ways(world, client, *past_alone)

    refused = {entry["entry"] for entry in events(sidecar, "entry.refused")}
    assert refused == {*BAD.split(", ")}
    expected = dict.fromkeys(PART.split(", "), "ok") | dict.fromkeys(refused, "refused")
    assert states(sidecar) == expected
    assert "ip " not in sidecar.exec("sh", "-c", "wgroutemgr plan | grep -v '^#'; :")

    # The engine moves its default route to the network that is first by name, and back.
    first = world.lab.network("a-first", "10.5.0.0/24", "fd05::/64")
    before = next_hop(client)
    world.lab.engine.docker("network", "connect", first, client.name)
    assert poll(lambda: next_hop(client) == "10.5.0.1", PATIENCE_SECONDS), next_hop(client)
    await_ways(world, client, *past_alone)
    world.lab.engine.docker("network", "disconnect", first, client.name)
    assert poll(lambda: next_hop(client) == before, PATIENCE_SECONDS), next_hop(client)
    await_ways(world, client, *past_alone)

    # One that is made anew without the label has nothing of it.
    client.remove()
    client = world.client(ALL)
    await_ways(world, client, *["tunnel"] * 4)
    client.remove()
    client = world.client(ALL, *direct(PART))

    world.gateway.stop()
    await_event(sidecar, "gateway.lost")
    await_ways(world, client, "past", "past", "", "")
    for _ in range(3):  # No start fails.
        client.restart()
    await_ways(world, client, "past", "past", "", "")


def listens(world: World, what: str, *options: str) -> Container:
    """Run a client that answers on a published port of its network `front`."""
    return world.lab.client(
        what, world.network, *options, networks=ALL, command=("httpd", "-f", "-p", "80")
    )


def answers(world: World, port: int) -> bool:
    """Tell whether a caller from outside gets an answer of the host's port."""
    line = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {UPLINK[4][0]} {port}; :"
    return "404" in world.far.exec("sh", "-c", line)


def test_callers_of_a_published_port_are_answered_and_the_rest_goes_through_the_gateway(
    world: World,
) -> None:
    with_more_addresses(world)
    front = world.lab.network("a-front", "10.5.0.0/24", "fd05::/64")
    named = listens(world, "named", "--publish", "8080:80", *direct(f"{front}, {world.network}"))
    other = listens(world, "other", "--publish", "8081:80")
    for client in (named, other):
        world.lab.engine.docker("network", "connect", front, client.name)
    assert poll(lambda: answers(world, 8080) and answers(world, 8081), PATIENCE_SECONDS)
    options = ("--env", "WGROUTEMGR_ON_STOP=unreachable", "--env", WARN)
    sidecar = world.lab.lone_sidecar(
        "sidecar", *options, gateway=world.gateway, network=world.network
    )
    await_event(sidecar, "pass.finished", trigger="startup")

    assert poll(lambda: not answers(world, 8081), PATIENCE_SECONDS)
    assert answers(world, 8080)
    assert ways(world, named) == ["tunnel"] * 4
    own = [f"from {named.address(front, ipv6=ipv6)}" for ipv6 in (False, True)]
    assert states(sidecar) == dict.fromkeys(own, "ok") | {world.network: "refused"}
    assert rules(named)[::3] == ["-4 669 main", "-6 669 main"]

    sidecar.stop()
    assert answers(world, 8080)
    assert ways(world, named) == [""] * 4

    withdrawn = world.lab.container(
        "withdrawn",
        images.product(world.lab.engine),
        *beside(world.gateway, world.network),
        command=("withdraw",),
    )
    assert poll(lambda: not withdrawn.running(), PATIENCE_SECONDS)
    assert (rules(named), table(named)) == ([], [])
    assert answers(world, 8081)
