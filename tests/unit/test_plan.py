"""Wanted and actual routes to ordered steps."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model import IPV4, IPV6, MAIN, TABLE, Route, Rule, Step, Thing
from lib.routing import policy
from lib.routing.plan import directly_reached, plan


def route(dst: str, gateway: str | None = None, metric: int = 0, kind: str = "unicast") -> Route:
    return Route(ip_network(dst), ip_address(gateway) if gateway else None, metric, kind)


WANTED = route("192.0.2.0/24", "198.51.100.1")
DEFAULT = route("0.0.0.0/0", "198.51.100.254")
CONNECTED = route("198.51.100.0/24", None, 0, "connected")
V6 = route("2001:db8:1::/48", "2001:db8::1", 1024)


def other_way(there: Route, *, exact: bool = False) -> Step:
    return Step("del", there, "another way to the same destination", exact)


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
            [Step("replace", WANTED), other_way(route("192.0.2.0/24", "198.51.100.9", 50))],
            id="of another metric: ours first, then away with the other",
        ),
        pytest.param(
            [WANTED],
            [route("192.0.2.0/24", "198.51.100.1", 50)],
            [Step("replace", WANTED), other_way(route("192.0.2.0/24", "198.51.100.1", 50))],
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
            [Step("replace", WANTED._replace(mtu=1280)), other_way(WANTED, exact=True)],
            id="and another way before that one",
        ),
        pytest.param(
            [WANTED._replace(mtu=1280)],
            [WANTED, WANTED._replace(mtu=1280)],
            [other_way(WANTED, exact=True)],
            id="one of another size before ours",
        ),
        pytest.param(
            [WANTED],
            [WANTED, route("192.0.2.0/24", "198.51.100.9", 50)],
            [other_way(route("192.0.2.0/24", "198.51.100.9", 50))],
            id="there, beside one of another metric",
        ),
        pytest.param(
            [V6],
            [route("2001:db8:1::/48", "2001:db8::9", 5), V6],
            [other_way(route("2001:db8:1::/48", "2001:db8::9", 5))],
            id="IPv6 one that wins over ours",
        ),
        pytest.param(
            [V6],
            [V6, route("2001:db8:1::/48", "2001:db8::9", 1024)],
            [other_way(route("2001:db8:1::/48", "2001:db8::9", 1024))],
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

    assert steps == (Step("replace", WANTED), Step("del", gone, "nobody asks for it any more"))


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
        assert isinstance(step.thing, Route)
        key = (step.thing.dst, step.thing.metric)
        if step.verb == "replace":
            after[key] = step.thing
        else:
            assert after.pop(key) == step.thing
        assert any(known.dst == step.thing.dst for known in after.values())
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


# --- our own table ------------------------------------------------------------------------------

ALL4 = route("0.0.0.0/0", "198.51.100.1")._replace(table=TABLE)
ALL6 = route("::/0", "2001:db8::1", 1024)._replace(table=TABLE)
WIDE = route("198.0.0.0/8", "198.51.100.1")._replace(table=TABLE)
GUARD4, GUARD6, GUARD_WIDE = (policy.guard(one.dst) for one in (ALL4, ALL6, WIDE))
MAIN4, TABLE4 = policy.rules(IPV4)
MAIN6, TABLE6 = policy.rules(IPV6)
WHOLE4 = policy.needs([ALL4])


def test_rules_of_ours_are_these() -> None:
    assert (Rule(4, 670, 254, 0), Rule(4, 671, 671)) == (MAIN4, TABLE4)
    assert (Rule(6, 670, 254, 0), Rule(6, 671, 671)) == (MAIN6, TABLE6)
    assert Route(ip_network("0.0.0.0/0"), None, 4000, "unreachable", 671) == GUARD4


@pytest.mark.parametrize(
    ("routes", "needed"),
    [
        pytest.param([WANTED, V6], [WANTED, V6], id="the main table needs nothing more"),
        pytest.param([ALL4], [ALL4, GUARD4, MAIN4, TABLE4], id="IPv4"),
        pytest.param(
            [ALL6, WANTED, WIDE],
            [ALL6, GUARD6, WANTED, WIDE, GUARD_WIDE, MAIN6, TABLE6, MAIN4, TABLE4],
            id="both, among others",
        ),
        pytest.param([GUARD6], [GUARD6, MAIN6, TABLE6], id="a guard alone"),
    ],
)
def test_what_routes_need(routes: list[Route], needed: list[Thing]) -> None:
    assert policy.needs(routes) == tuple(needed)


def lines(steps: tuple[Step, ...]) -> list[tuple[str, Thing]]:
    return [(step.verb, step.thing) for step in steps]


def test_our_table_is_asked_when_all_is_there_and_only_after_the_main_one() -> None:
    wanted = policy.needs([ALL4, ALL6, WANTED])

    assert lines(plan(wanted, [DEFAULT, CONNECTED])) == [
        ("replace", ALL4),
        ("replace", GUARD4),
        ("replace", ALL6),
        ("replace", GUARD6),
        ("replace", WANTED),
        ("add", MAIN4),
        ("add", MAIN6),
        ("add", TABLE4),
        ("add", TABLE6),
    ]


@pytest.mark.parametrize("missing", WHOLE4)
def test_only_what_lacks_is_set(missing: Thing) -> None:
    there = [thing for thing in WHOLE4 if thing != missing]
    verb = "add" if isinstance(missing, Rule) else "replace"

    assert lines(plan(WHOLE4, [DEFAULT, *there])) == [(verb, missing)]
    assert plan(WHOLE4, [DEFAULT, *WHOLE4]) == ()


def test_our_table_is_given_back_in_reverse_and_the_guard_last() -> None:
    given = [GUARD4, *WHOLE4, GUARD_WIDE, WIDE]

    assert lines(plan([], [DEFAULT, *WHOLE4, WIDE, GUARD_WIDE], dict.fromkeys(given))) == [
        ("del", TABLE4),
        ("del", MAIN4),
        ("del", ALL4),
        ("del", WIDE),
        ("del", GUARD4),
        ("del", GUARD_WIDE),
    ]


def test_rules_stay_for_what_is_still_wanted() -> None:
    there = policy.needs([ALL4, WIDE])

    assert lines(plan(policy.needs([WIDE]), there, there)) == [("del", ALL4), ("del", GUARD4)]


def test_a_lost_gateway_is_replaced_in_place_and_its_rules_stay() -> None:
    lost = ALL4._replace(gateway=None, kind="unreachable")

    assert lines(plan(policy.needs([lost]), WHOLE4, WHOLE4)) == [("replace", lost)]
    assert lines(plan(WHOLE4, policy.needs([lost]))) == [("replace", ALL4)]


def test_a_destination_that_changes_its_table_is_never_without_a_route() -> None:
    narrow = WIDE._replace(table=MAIN)

    assert lines(plan(policy.needs([WIDE]), [narrow], [narrow])) == [
        ("replace", WIDE),
        ("replace", GUARD_WIDE),
        ("add", MAIN4),
        ("add", TABLE4),
        ("del", narrow),
    ]
    there = policy.needs([WIDE])
    assert lines(plan([narrow], there, there)) == [
        ("replace", narrow),
        ("del", TABLE4),
        ("del", MAIN4),
        ("del", WIDE),
        ("del", GUARD_WIDE),
    ]


def test_the_same_destination_in_the_main_table_is_the_engines() -> None:
    assert lines(plan(WHOLE4, [DEFAULT, *WHOLE4], [DEFAULT._replace(table=TABLE)])) == []


def test_another_route_in_our_table_is_deleted_like_elsewhere() -> None:
    other = ALL4._replace(metric=50, gateway=ip_address("198.51.100.9"))

    assert lines(plan(WHOLE4, [*WHOLE4, other])) == [("del", other)]


def test_a_like_rule_of_somebody_else_is_none_of_ours() -> None:
    theirs = [Rule(4, 671, 100), Rule(4, 670, 254), Rule(4, 669, 254, 0)]

    assert lines(plan(WHOLE4, [*theirs, *WHOLE4[:2]])) == [("add", MAIN4), ("add", TABLE4)]


def test_a_connected_network_in_the_main_table_does_not_matter_to_ours() -> None:
    tunnel = route("0.0.0.0/0", None, 0, "connected")

    assert directly_reached([ALL4], [tunnel]) == frozenset()
    assert len(plan(WHOLE4, [tunnel])) == 4
