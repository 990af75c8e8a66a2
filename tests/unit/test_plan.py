"""Wanted and actual routes to ordered steps."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model import Route, Step
from lib.routing.plan import directly_reached, plan


def route(dst: str, gateway: str | None = None, metric: int = 0, kind: str = "unicast") -> Route:
    return Route(ip_network(dst), ip_address(gateway) if gateway else None, metric, kind)


WANTED = route("192.0.2.0/24", "198.51.100.1")
DEFAULT = route("0.0.0.0/0", "198.51.100.254")
CONNECTED = route("198.51.100.0/24", None, 0, "connected")
V6 = route("2001:db8:1::/48", "2001:db8::1", 1024)


@pytest.mark.parametrize(
    ("wanted", "actual", "expected"),
    [
        pytest.param([], [DEFAULT, CONNECTED], [], id="nothing wanted, nothing touched"),
        pytest.param([WANTED], [], [Step("replace", WANTED)], id="missing"),
        pytest.param([WANTED], [DEFAULT, WANTED, CONNECTED], [], id="already there"),
        pytest.param(
            [WANTED],
            [route("192.0.2.0/24", "198.51.100.9")],
            [Step("replace", WANTED)],
            id="leads elsewhere",
        ),
        pytest.param(
            [WANTED], [route("192.0.2.0/24")], [Step("replace", WANTED)], id="has no gateway"
        ),
        pytest.param(
            [WANTED],
            [route("192.0.2.0/24", None, 0, "unreachable")],
            [Step("replace", WANTED)],
            id="is unreachable",
        ),
        pytest.param(
            [WANTED],
            [route("192.0.2.0/24", "198.51.100.9", 50)],
            [Step("replace", WANTED), Step("del", route("192.0.2.0/24", "198.51.100.9", 50))],
            id="of another metric: ours first, then away with the other",
        ),
        pytest.param(
            [WANTED],
            [route("192.0.2.0/24", "198.51.100.1", 50)],
            [Step("replace", WANTED), Step("del", route("192.0.2.0/24", "198.51.100.1", 50))],
            id="our gateway under another metric",
        ),
        pytest.param(
            [WANTED._replace(mtu=1280)],
            [WANTED._replace(mtu=1300)],
            [Step("replace", WANTED._replace(mtu=1280))],
            id="for packets of another size",
        ),
        pytest.param(
            [WANTED._replace(mtu=1280)],
            [route("192.0.2.0/24", "198.51.100.9"), WANTED],
            [Step("replace", WANTED._replace(mtu=1280)), Step("del", WANTED, exact=True)],
            id="and another way before that one",
        ),
        pytest.param(
            [WANTED._replace(mtu=1280)],
            [WANTED, WANTED._replace(mtu=1280)],
            [Step("del", WANTED, exact=True)],
            id="one of another size before ours",
        ),
        pytest.param(
            [WANTED],
            [WANTED, route("192.0.2.0/24", "198.51.100.9", 50)],
            [Step("del", route("192.0.2.0/24", "198.51.100.9", 50))],
            id="there, beside one of another metric",
        ),
        pytest.param(
            [V6],
            [route("2001:db8:1::/48", "2001:db8::9", 5), V6],
            [Step("del", route("2001:db8:1::/48", "2001:db8::9", 5))],
            id="IPv6 one that wins over ours",
        ),
        pytest.param(
            [V6],
            [V6, route("2001:db8:1::/48", "2001:db8::9", 1024)],
            [Step("del", route("2001:db8:1::/48", "2001:db8::9", 1024))],
            id="IPv6 one of the same metric beside ours",
        ),
        pytest.param(
            [WANTED],
            [route("192.0.2.0/25", "198.51.100.9"), route("192.0.0.0/16", "198.51.100.9")],
            [Step("replace", WANTED)],
            id="narrower and wider ones are somebody else's",
        ),
        pytest.param(
            [V6, WANTED],
            [],
            [Step("replace", V6), Step("replace", WANTED)],
            id="the order of the label",
        ),
    ],
)
def test_the_steps_are_exactly_these(
    wanted: list[Route], actual: list[Route], expected: list[Step]
) -> None:
    assert plan(wanted, actual) == tuple(expected)


def test_a_connected_network_is_left_alone_and_named_whatever_else_leads_there() -> None:
    connected = route("192.0.2.0/24", None, 0, "connected")
    other = route("203.0.113.0/24", "198.51.100.1")
    beside = route("192.0.2.0/24", "198.51.100.9", 50)

    actual = [connected, beside]

    assert plan([WANTED, other], actual) == (Step("replace", other),)
    assert directly_reached([WANTED, other], actual) == {WANTED}


def test_a_connected_network_of_another_metric_is_left_alone_too() -> None:
    connected = route("2001:db8:1::/48", None, 256, "connected")

    assert plan([V6], [connected]) == ()
    assert directly_reached([V6], [connected]) == {V6}


def test_a_route_without_an_interface_is_not_taken_for_a_connected_network() -> None:
    unreachable = route("192.0.2.0/24", None, 0, "unreachable")

    assert directly_reached([WANTED], [unreachable, DEFAULT]) == frozenset()


def test_what_was_given_and_is_wanted_no_more_is_deleted_if_it_is_still_there() -> None:
    gone = route("203.0.113.0/24", "198.51.100.1")
    changed = route("192.0.2.128/25", "198.51.100.1")
    theirs = route("192.0.2.128/25", "198.51.100.9")

    steps = plan([WANTED], [DEFAULT, gone, theirs], given=[WANTED, gone, changed])

    assert steps == (Step("replace", WANTED), Step("del", gone))


def test_what_was_given_and_is_wanted_still_is_replaced_not_deleted() -> None:
    given = route("192.0.2.0/24", "198.51.100.9")

    assert plan([WANTED], [given], given=[given]) == (Step("replace", WANTED),)


def test_an_iterator_of_actual_routes_serves_every_wanted_one() -> None:
    other = route("203.0.113.0/24", "198.51.100.1")

    assert plan([WANTED, other], iter([WANTED, other])) == ()


DESTINATIONS = st.sampled_from(["192.0.2.0/24", "192.0.2.0/25", "203.0.113.0/24", "0.0.0.0/0"])
GATEWAYS = st.sampled_from(["198.51.100.1", "198.51.100.9", None])
ROUTES = st.builds(route, DESTINATIONS, GATEWAYS, st.sampled_from([0, 50, 3_000_000_000]))
WANTED_ROUTES = st.lists(
    st.builds(route, DESTINATIONS, st.just("198.51.100.1")), unique_by=lambda wanted: wanted.dst
)


def applied(table: list[Route], steps: tuple[Step, ...]) -> list[Route]:
    """Return what the kernel's IPv4 table becomes: one route for each destination and metric."""
    after = {(known.dst, known.metric): known for known in table}
    for step in steps:
        key = (step.route.dst, step.route.metric)
        if step.verb == "replace":
            after[key] = step.route
        else:
            assert after.pop(key) == step.route
        assert any(known.dst == step.route.dst for known in after.values())
    return list(after.values())


@given(WANTED_ROUTES, st.lists(ROUTES, unique_by=lambda known: (known.dst, known.metric)))
def test_applying_the_plan_leaves_nothing_to_plan_and_strangers_untouched(
    wanted: list[Route], actual: list[Route]
) -> None:
    after = applied(actual, plan(wanted, actual))

    assert plan(wanted, after) == ()
    destinations = {route.dst for route in wanted}
    strangers = [route for route in actual if route.dst not in destinations]
    assert [route for route in after if route.dst not in destinations] == strangers
    assert {route for route in after if route.dst in destinations} == set(wanted)
