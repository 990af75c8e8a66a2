"""Which gateway serves what of a client's labels, as a table, and that it does not flap."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model import Candidate, Claim, Gateways, Refusal, Standing
from lib.routing.contest import HOLD_SECONDS
from lib.routing.serving import Shares, asks, candidates, shares

NOW = 1_000_000.0
LONG = 3600.0

A = Candidate("a", frozenset({"work", "vpn", "project-a"}))
B = Candidate("b", frozenset({"home", "vpn"}))
A_WAITS, B_WAITS = (one._replace(standing=Standing.WAITING) for one in (A, B))
A_LOST, B_LOST = (one._replace(standing=Standing.LOST) for one in (A, B))

X, Y, ALL, ALL6 = "198.51.100.0/24", "203.0.113.0/24", "0.0.0.0/0", "::/0"


def sharing(text: dict[str, str], *there: Candidate, unnamed: str = "a") -> Shares:
    """Return who serves labels, written without what all of them begin with."""
    prefix = "wgroutemgr."
    among = Gateways("a", unnamed, there or (A, B))
    return shares({prefix + key: value for key, value in text.items()}, among)


def whose(found: Shares) -> dict[str, str]:
    return {str(dst): gateway for dst, gateway in found.gateways.items()}


BOTH = {"networks.a": X, "networks.b": X}
B_FIRST = BOTH | {"prefer": "b, a"}


@pytest.mark.parametrize(
    ("labels", "there", "expected"),
    [
        pytest.param({}, [A, B], {}, id="no client"),
        pytest.param({"networks": X}, [A, B], {X: "a"}, id="any"),
        pytest.param({"networks": X}, [A_LOST, B], {X: "a"}, id="any: lost, and no substitute"),
        pytest.param({"networks.b": X}, [A, B], {X: "b"}, id="by the container's name"),
        pytest.param({"networks.home": X}, [A, B], {X: "b"}, id="by a service or an alias"),
        pytest.param({"networks.vpn": X}, [A, B], {X: "a"}, id="a name of both: the first"),
        pytest.param({"networks.vpn": X}, [A_LOST, B], {X: "b"}, id="a name of both: who is left"),
        pytest.param(
            {"networks.b": X}, [A._replace(names=frozenset({"b"})), B], {X: "b"}, id="not an alias"
        ),
        pytest.param({"networks.b": X}, [A, B_LOST], {X: "b"}, id="lost, and no substitute"),
        pytest.param({"networks.b": X}, [A, B_WAITS], {X: "b"}, id="just back, and no substitute"),
        pytest.param({"networks.c": X}, [A, B], {X: ""}, id="nobody"),
        pytest.param({"networks": X, "networks.b": Y}, [A, B], {X: "a", Y: "b"}, id="each its own"),
        pytest.param(
            {"networks.b": f"{X}, {Y}", "networks.a": X}, [A, B], {X: "a", Y: "b"}, id="in part"
        ),
        pytest.param(BOTH, [A, B], {X: "a"}, id="both: the first by name"),
        pytest.param(BOTH, [A_LOST, B], {X: "b"}, id="both: the first is lost"),
        pytest.param(BOTH, [A_WAITS, B], {X: "b"}, id="both: the first is just back"),
        pytest.param(BOTH, [A, B_LOST], {X: "a"}, id="both: the second is lost"),
        pytest.param(BOTH, [A_LOST, B_WAITS], {X: "b"}, id="both: the second is just back"),
        pytest.param(BOTH, [A_WAITS, B_LOST], {X: "a"}, id="both: who is just back is left"),
        pytest.param(BOTH, [A_WAITS, B_WAITS], {X: "a"}, id="both: both are just back"),
        pytest.param(BOTH, [A_LOST, B_LOST], {X: "a"}, id="both: both are lost"),
        pytest.param(BOTH, [B], {X: "b"}, id="both: the first is not there at all"),
        pytest.param(B_FIRST, [A, B], {X: "b"}, id="preferred"),
        pytest.param(B_FIRST, [A, B_LOST], {X: "a"}, id="preferred, and lost"),
        pytest.param(B_FIRST, [A, B_WAITS], {X: "a"}, id="preferred, and just back"),
        pytest.param(BOTH | {"prefer": "b"}, [A, B], {X: "b"}, id="preferred to what is not named"),
        pytest.param(
            {"networks": X, "networks.b": X}, [A, B], {X: "b"}, id="a name before no name"
        ),
        pytest.param(
            {"networks": X, "networks.b": X}, [A, B_LOST], {X: "a"}, id="no name as a substitute"
        ),
        pytest.param({"networks.a": ALL}, [A, B], {ALL: "a"}, id="everything"),
        pytest.param(
            {"networks.a": ALL, "networks.b": X}, [A, B], {ALL: "a", X: "b"}, id="all but some"
        ),
        pytest.param(
            {"networks.a": ALL, "networks.b": ALL6}, [A, B], {ALL: "a", ALL6: "b"}, id="by version"
        ),
        pytest.param(
            {"networks.a": ALL, "networks.b": ALL}, [A_LOST, B], {ALL: "a"}, id="two defaults"
        ),
        pytest.param(
            {"networks": ALL, "networks.b": ALL}, [A, B_LOST], {ALL: "b"}, id="two, one by no name"
        ),
        pytest.param(
            {"networks.c": ALL, "networks.d": ALL}, [A, B], {ALL: ""}, id="two by nobody at all"
        ),
        pytest.param(
            {"networks.a": ALL, "networks.b": ALL, "prefer": "a, b"},
            [A_LOST, B],
            {ALL: "b"},
            id="one default, with a substitute that is named",
        ),
        pytest.param(
            {"networks.a": ALL, "networks.work": ALL}, [A, B], {ALL: "a"}, id="the same one twice"
        ),
    ],
)
def test_who_serves_what(
    labels: dict[str, str], there: list[Candidate], expected: dict[str, str]
) -> None:
    for order in (labels, dict(reversed(labels.items()))):
        assert whose(sharing(order, *there)) == expected


def test_who_serves_what_names_none_is_told_from_outside() -> None:
    assert whose(sharing({"networks": X}, unnamed="b")) == {X: "b"}


NO_CIDR = Refusal("mail", "is not a network in CIDR notation", "write it like 192.168.66.0/24")
NOBODY = Refusal(
    "wgroutemgr.networks.c",
    "names a gateway to which none with a sidecar on this engine answers",
    "write one of a, b, or start that one's sidecar",
)
SECOND = "but goes through a: there is one default route"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param({"networks": X, "networks.b": X} | B_FIRST, {}, id="nothing"),
        pytest.param({"networks.b": "mail"}, {"b": [NO_CIDR]}, id="an entry, by who is named"),
        pytest.param({"networks": "mail"}, {"a": [NO_CIDR]}, id="an entry, by who is not"),
        pytest.param({"networks.vpn": "mail"}, {"a": [NO_CIDR]}, id="an entry, by the first"),
        pytest.param({"networks.c": "mail"}, {"a": [NOBODY, NO_CIDR]}, id="nobody's"),
        pytest.param(
            {"networks": "mail", "networks.a": "mail"}, {"a": [NO_CIDR]}, id="the same only once"
        ),
        pytest.param(
            {"networks.a": ALL, "networks.b": ALL},
            {
                "b": [
                    Refusal(
                        ALL,
                        f"stands in wgroutemgr.networks.b, {SECOND}",
                        "take it out of one, or write wgroutemgr.prefer: a, b",
                    )
                ]
            },
            id="two defaults",
        ),
        pytest.param(
            {"networks": ALL, "networks.a": ALL}, {}, id="one default, with and without its name"
        ),
        pytest.param(
            {"networks.b": X, "prefer": "b, c"},
            {
                "a": [
                    Refusal(
                        "c",
                        "stands in wgroutemgr.prefer, and no label wgroutemgr.networks.c"
                        " asks it for anything",
                        "take it out of wgroutemgr.prefer, or add that label",
                    )
                ]
            },
            id="preferred, and asked for nothing",
        ),
    ],
)
def test_what_is_refused_and_who_tells(
    labels: dict[str, str], expected: dict[str, list[Refusal]]
) -> None:
    assert sharing(labels).refusals == expected


def test_a_default_without_a_name_is_refused_beside_one_with() -> None:
    hint = "take it out of wgroutemgr.networks"
    reason = "stands in wgroutemgr.networks, but goes through b: there is one default route"

    assert sharing({"networks": ALL, "networks.b": ALL}).refusals == {
        "a": [Refusal(ALL, reason, hint)]
    }


@given(
    st.dictionaries(
        st.sampled_from(["networks", "networks.a", "networks.vpn", "networks.c", "networks."]),
        st.sampled_from([X, Y, f"{X}, {Y}", ALL, "", "mail"]),
    ),
    st.sampled_from(["", "a", "vpn, a", "c,,b"]),
    st.tuples(st.sampled_from([A, A_WAITS, A_LOST]), st.sampled_from([B, B_WAITS, B_LOST])),
    st.sampled_from("ab"),
)
def test_each_destination_is_served_once_whoever_looks(
    labels: dict[str, str], prefer: str, there: tuple[Candidate, Candidate], unnamed: str
) -> None:
    texts = labels | {"prefer": prefer}
    found = sharing(texts, *there, unnamed=unnamed)

    assert {*found.gateways.values()} <= {"a", "b", ""}
    assert {*found.refusals} <= {"a", "b"}
    again = sharing(dict(reversed(texts.items())), *there[::-1], unnamed=unnamed)
    assert whose(again) == whose(found)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"wgroutemgr.networks": ""}, True),
        ({"wgroutemgr.networks.a": ""}, True),
        ({"wgroutemgr.network": "wg-net", "wgroutemgr.prefer": "a"}, False),
        ({"wgroutemgr.networksa": ""}, False),
    ],
)
def test_who_asks(labels: dict[str, str], expected: bool) -> None:  # noqa: FBT001 - a table
    assert asks(labels) is expected


def claim(gateway: str, up: float | None) -> Claim:
    """Return the claim of a sidecar whose gateway is up for so many seconds; None if it is lost."""
    since = None if up is None else NOW - up
    return Claim(gateway, f"{gateway}-id", up_since=since, names=frozenset({f"{gateway}-service"}))


T, W, L = Standing.THERE, Standing.WAITING, Standing.LOST


@pytest.mark.parametrize(
    ("ups", "expected", "again"),
    [
        pytest.param([LONG, LONG], [T, T], math.inf, id="both are there"),
        pytest.param([None, LONG], [L, T], math.inf, id="one is lost"),
        pytest.param([None, None], [L, L], math.inf, id="both are lost"),
        pytest.param([0, LONG], [W, T], 10.0, id="one is back"),
        pytest.param([9, LONG], [W, T], 1.0, id="still"),
        pytest.param([10, LONG], [T, T], math.inf, id="for long enough"),
        pytest.param([2, 9], [T, T], math.inf, id="after a boot"),
        pytest.param([2, 12], [W, T], 8.0, id="a boot, and much later"),
        pytest.param([2, None], [T, L], math.inf, id="back, and the other one is lost"),
        pytest.param([-5, LONG], [T, T], math.inf, id="the clock was set back"),
    ],
)
def test_how_far_gateways_can_serve(
    ups: list[float | None], expected: list[Standing], again: float
) -> None:
    found, until = candidates([claim("b", ups[1]), claim("a", ups[0])], NOW)

    names = [frozenset({"a-service"}), frozenset({"b-service"})]
    assert [one.gateway for one in found] == ["a", "b"]
    assert [one.names for one in found] == names
    assert [one.standing for one in found] == expected
    assert until - NOW == again


class World:
    """Two gateways with sidecars that look as often as they can, and by whom a client is served."""

    def __init__(self) -> None:
        self.now = NOW
        self.up: dict[str, float | None] = {"a": NOW - LONG, "b": NOW - LONG}
        self.history = ["a"]

    def pass_on(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            claims = [Claim(name, name, up_since=up) for name, up in self.up.items()]
            there, _ = candidates(claims, self.now)
            gateway = whose(sharing(BOTH, *there))[X]
            if gateway != self.history[-1]:
                self.history.append(gateway)
            self.now += 0.5

    def cycle(self, name: str, down: float, up: float) -> None:
        self.up[name] = None
        self.pass_on(down)
        self.up[name] = self.now
        self.pass_on(up)


def test_a_loss_moves_it_at_once_and_the_return_after_a_while() -> None:
    world = World()
    world.up["a"] = None
    world.pass_on(0.5)
    assert world.history == ["a", "b"]

    world.up["a"] = world.now
    world.pass_on(HOLD_SECONDS)
    assert world.history == ["a", "b"]
    world.pass_on(1)
    assert world.history == ["a", "b", "a"]


@pytest.mark.parametrize("up", [0.5, 5.0, 9.5])
def test_one_that_crashes_again_and_again_moves_it_once(up: float) -> None:
    world = World()
    for _ in range(50):
        world.cycle("a", down=1, up=up)

    assert world.history == ["a", "b"]


def test_the_substitute_may_crash_as_it_likes() -> None:
    world = World()
    for _ in range(50):
        world.cycle("b", down=1, up=3)

    assert world.history == ["a"]
