"""Which gateway serves whom, as a table, and that the answer does not flap."""

from __future__ import annotations

import math

import pytest

from lib.model import Claim
from lib.routing.contest import HOLD_SECONDS, decide, remembered

NOW = 1_000_000.0
NEVER, LONG = math.inf, 3600.0


def claim(gateway: str, ran: float = LONG, absent: float = NEVER, ended: float = 0.0) -> Claim:
    """Return the claim of a sidecar that has run for so many seconds, after so many of absence."""
    return Claim(gateway, f"{gateway}-id", f"{gateway}-sidecar", NOW - ran, absent, ended)


@pytest.mark.parametrize(
    ("claims", "winner", "again"),
    [
        pytest.param([claim("a", 0)], "a", NEVER, id="alone, and just started"),
        pytest.param([claim("b"), claim("a")], "a", NEVER, id="the first by name"),
        pytest.param([claim("b", 5), claim("a", 0)], "a", NEVER, id="after a boot"),
        pytest.param([claim("b", 14), claim("a", 5)], "a", NEVER, id="a boot, a little later"),
        pytest.param([claim("b"), claim("a", 4)], "b", 6.0, id="a newcomer waits"),
        pytest.param([claim("b"), claim("a", 10)], "a", NEVER, id="and has waited"),
        pytest.param([claim("b"), claim("a", 4, absent=9)], "a", NEVER, id="a restart"),
        pytest.param([claim("b"), claim("a", 4, absent=10)], "b", 6.0, id="a long absence"),
        pytest.param([claim("b"), claim("a", ended=NOW - 4)], "a", 6.0, id="its place is held"),
        pytest.param([claim("b", 4), claim("a")], "a", 6.0, id="a newcomer that comes after"),
        pytest.param([claim("b"), claim("a", -5)], "a", NEVER, id="the clock was set back"),
        pytest.param([claim("c"), claim("b"), claim("a", 1)], "b", 9.0, id="three"),
    ],
)
def test_who_serves_clients_that_name_no_gateway(
    claims: list[Claim], winner: str, again: float
) -> None:
    for order in (claims, claims[::-1]):
        found = decide(order, NOW)

        assert found.winner.gateway == winner
        assert found.until - NOW == again


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ([claim("b"), claim("a")], "gateway a, by name the first of those on this network"),
        ([claim("b"), claim("a", 4)], "gateway b until the sidecar of a has run for 10 s"),
        ([claim("b", 4), claim("a")], "gateway a, by name the first of those on this network"),
    ],
)
def test_it_says_why(claims: list[Claim], reason: str) -> None:
    assert decide(claims, NOW).reason == f"clients are served by the {reason}"


@pytest.mark.parametrize(
    ("known", "found", "expected"),
    [
        pytest.param([], [claim("a")], [claim("a")], id="all is new"),
        pytest.param(
            [claim("a")], [], [claim("a", ended=NOW)], id="one is gone, and its place is held"
        ),
        pytest.param([claim("a", ended=NOW - 9)], [], [claim("a", ended=NOW - 9)], id="still"),
        pytest.param([claim("a", ended=NOW - 10)], [], [], id="no more"),
        pytest.param(
            [claim("a")._replace(gateway="z")], [claim("a")], [claim("a")], id="one was renamed"
        ),
        pytest.param(
            [claim("a")._replace(network="far")],
            [claim("a")._replace(network=name) for name in ("far", "farther")],
            [claim("a")._replace(network=name) for name in ("far", "farther")],
            id="one sidecar on two networks",
        ),
        pytest.param(
            [claim("a", ended=NOW - 9)],
            [claim("a", 2)._replace(sidecar_id="new")],
            [claim("a", 2, absent=7)._replace(sidecar_id="new")],
            id="a sidecar made anew takes the place of the old one",
        ),
        pytest.param(
            [claim("a")._replace(since=NOW - 50)],
            [claim("a", 2)._replace(sidecar_id="new")],
            [claim("a", 2, absent=0)._replace(sidecar_id="new")],
            id="also if its absence was not seen",
        ),
        pytest.param(
            [claim("a", 2, absent=3)],
            [claim("a", 2)],
            [claim("a", 2, absent=3)],
            id="which stays so",
        ),
        pytest.param(
            [],
            [claim("a", 1)._replace(sidecar_id="new"), claim("a")],
            [claim("a")],
            id="of two beside one gateway the one that is there for longer",
        ),
    ],
)
def test_what_is_remembered(known: list[Claim], found: list[Claim], expected: list[Claim]) -> None:
    assert remembered(known, found, NOW) == tuple(expected)


class Sidecar:
    """What the engine knows of one, and what that one remembers and does."""

    def __init__(self, gateway: str, started: float) -> None:
        self.claim = Claim(gateway, f"{gateway}-id", f"{gateway}-sidecar", started, math.inf)
        self.ended = 0.0
        self.known: tuple[Claim, ...] = ()

    def stop(self, now: float) -> None:
        self.ended, self.known = now, ()

    def start(self, now: float) -> None:
        self.claim = self.claim._replace(since=now, absent=now - self.ended)
        self.ended = 0.0


class World:
    """Two sidecars, each looking as often as it can, and who set the client's route."""

    def __init__(self) -> None:
        self.now = NOW
        self.both = {name: Sidecar(name, NOW - LONG) for name in ("a", "b")}
        self.route: list[str] = []
        self.pass_on(1)

    def pass_on(self, seconds: float, step: float = 0.5) -> None:
        until = self.now + seconds
        while self.now < until:
            claims = [one.claim for one in self.both.values() if not one.ended]
            served = set()
            for one in self.both.values():
                if one.ended:
                    continue
                one.known = remembered(one.known, claims, self.now)
                winner = decide(one.known, self.now).winner.gateway
                if winner == one.claim.gateway:
                    served.add(winner)
            assert len(served) <= 1
            if served and self.route[-1:] != [*served]:
                self.route += served
            self.now += step

    def cycle(self, name: str, away: float, up: float) -> None:
        """Stop a sidecar for so long, and start it again."""
        self.both[name].stop(self.now)
        self.pass_on(away)
        self.both[name].start(self.now)
        self.pass_on(up)


def test_a_restart_of_either_moves_no_route() -> None:
    world = World()
    for name in ("a", "b"):
        world.cycle(name, away=HOLD_SECONDS / 2, up=LONG)

    assert world.route == ["a"]


def test_a_long_absence_moves_it_once_and_the_return_once() -> None:
    world = World()
    world.both["a"].stop(world.now)
    world.pass_on(HOLD_SECONDS - 1)
    assert world.route == ["a"]
    world.pass_on(LONG)
    assert world.route == ["a", "b"]
    world.both["a"].start(world.now)
    world.pass_on(HOLD_SECONDS - 1)
    assert world.route == ["a", "b"]
    world.pass_on(LONG)
    assert world.route == ["a", "b", "a"]


@pytest.mark.parametrize("up", [1.0, 3.0, 9.0])
def test_one_that_crashes_again_and_again_takes_nothing_from_another(up: float) -> None:
    """As the engine has it: it is started again after a delay that is doubled, up to a minute."""
    world, delay = World(), 0.1
    for _ in range(50):
        world.cycle("a", away=delay, up=up)
        delay = min(60.0, 2 * delay)

    assert world.route == ["a", "b"]
