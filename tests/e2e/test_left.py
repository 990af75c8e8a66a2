"""Who has left the network, or starts while the gateway is lost: nothing goes another way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.e2e.doctor_site import beside
from tests.e2e.look import await_event, events
from tests.e2e.test_whole import (
    NO_TUNNEL,
    PATIENCE_SECONDS,
    RULES,
    World,
    await_rules,
    rules,
    table,
    world,
)
from tests.lab import images
from tests.lab.engine import poll

if TYPE_CHECKING:
    from tests.lab.site import Container

__all__ = ["world"]

ALL = "0.0.0.0/0, ::/0"
HELD = ["-4 default unreachable", "-6 default unreachable"]


def rows(sidecar: Container) -> list[tuple[str, str]]:
    """Return state and reason of each row."""
    shown = sidecar.exec("sh", "-c", "wgroutemgr status --json; :")
    return [(row["state"], row["reason"]) for row in json.loads(shown)["routes"]]


def test_who_has_left_the_network_is_unreachable_until_it_is_back(world: World) -> None:
    other = world.lab.network("other", "10.9.0.0/24", "fd09::/64")
    client = world.client(ALL)
    world.lab.engine.docker("network", "connect", other, client.name)
    sidecar = world.sidecar()
    await_rules(client, 4, 6)
    assert poll(lambda: len(table(client)) == 4, PATIENCE_SECONDS)
    before = world.past()

    world.lab.engine.docker("network", "disconnect", world.network, client.name)
    reason = f"is unreachable: the container has left {world.network}"
    await_event(sidecar, "entry.warned", reason=reason)
    assert (table(client), rules(client)) == (HELD, RULES[4] + RULES[6])
    assert [world.way(client, version) for version in (4, 6)] == ["", ""]
    assert rows(sidecar) == [("unreachable", reason)] * 2

    world.lab.engine.docker("network", "connect", world.network, client.name)
    assert poll(lambda: len(table(client)) == 4, PATIENCE_SECONDS)
    assert [world.way(client, version) for version in (4, 6)] == ["tunnel", "tunnel"]
    assert rows(sidecar) == [("ok", NO_TUNNEL)] * 2
    world.lab.engine.docker("network", "disconnect", world.network, client.name)
    assert poll(lambda: table(client) == HELD, PATIENCE_SECONDS)

    # A daemon that remembers nothing of it tells of it as well, and lets it be.
    sidecar.restart()
    assert poll(lambda: len(events(sidecar, "pass.finished", trigger="startup")) == 2, 20)
    told = [entry["entry"] for entry in events(sidecar, "entry.warned", reason=reason)]
    assert told == ["0.0.0.0/0", "::/0"] * 2
    assert (table(client), rules(client)) == (HELD, RULES[4] + RULES[6])
    assert [world.way(client, version) for version in (4, 6)] == ["", ""]
    assert world.past() == before

    sidecar.stop()
    withdrawn = world.lab.container(
        "withdrawn",
        images.product(world.lab.engine),
        *beside(world.gateway, world.network),
        command=("withdraw",),
    )
    assert poll(lambda: not withdrawn.running(), PATIENCE_SECONDS)
    assert (table(client), rules(client)) == ([], [])
    assert world.way(client, 4) == "past"


LOOK = "ip rule; ip -6 rule; ip route show table 671; ip -6 route show table 671; ip route"
FIRST = ("sh", "-c", f"{LOOK}; ping -c 1 -W 1 203.0.113.80; trap 'exit 0' TERM; sleep 1000 & wait")
STARTS = 10


def held_at_first(client: Container) -> bool:
    """Tell whether at each start all that is asked for was unreachable at the first instruction.

    BusyBox before 1.37 shows nothing of IPv6 but the rules.
    """
    log = client.logs()
    starts = log.count("PING")
    wanted = {"671:": 2, "unreachable default": 2, "unreachable 198.51.100.0/24": 1}
    return all(log.count(text) >= count * starts for text, count in wanted.items())


def test_who_starts_while_the_gateway_is_lost_is_unreachable_from_the_first_instruction(
    world: World,
) -> None:
    second = world.lab.network("z-second", "10.9.0.0/24")
    sidecar = world.sidecar()
    world.gateway.stop()
    await_event(sidecar, "gateway.lost")
    before = world.past()

    label = ("--label", f"wgroutemgr.networks={ALL},198.51.100.0/24")
    clients = [
        world.lab.client(f"client{number}", world.network, *label, command=FIRST)
        for number in range(STARTS)
    ]
    world.lab.engine.docker("network", "connect", second, clients[0].name)
    for client in clients[:3]:  # No start fails, whatever networks it is on.
        client.restart()
    lost = [line for held in HELD for line in (held, held)]
    assert poll(lambda: all(table(one) == lost for one in clients), PATIENCE_SECONDS)
    for client in clients:
        await_rules(client, 4, 6)
        assert "unreachable 198.51.100.0/24" in client.enter("ip", "route")

    # On a busy machine one may be late.
    held = sum(held_at_first(client) for client in clients)
    assert held >= STARTS - 1, [client.logs() for client in clients]
    assert held < STARTS or world.past() == before
    proofs = events(sidecar, "route.replaced", dst="192.0.2.255/32", trigger="early")
    assert len(proofs) >= STARTS - 1

    world.gateway.start()
    assert poll(lambda: all(len(table(one)) == 4 for one in clients), PATIENCE_SECONDS)
