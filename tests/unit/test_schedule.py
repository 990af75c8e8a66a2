"""What is due when, on a clock of the test's own."""

from __future__ import annotations

import math

import pytest

from lib.model import Event
from lib.reconcile.report import TUNNEL, Found, Report, Scope, Unfinished, Unknown, Why
from lib.schedule import Schedule, delay, delays
from tests.fakes import GATEWAY

FOUND, UNKNOWN = Found(GATEWAY), Unknown("the gateway wireguard is not running")
CONNECT, START = Event("connect", "a"), Event("start", "b")
INTERVAL = 60.0


def finished(scope: Scope, *works: Unfinished, state: Found | Unknown = FOUND) -> Report:
    return Report(scope, state, unfinished=works)


@pytest.fixture
def schedule() -> Schedule:
    """Return a schedule whose first pass ended at 100 seconds."""
    schedule = Schedule(INTERVAL)
    schedule.begin("startup")
    scope = schedule.take(99.0)
    assert scope == Scope("startup", is_full=True)
    schedule.finish(finished(scope), 100.0)
    return schedule


def test_nothing_is_due_before_it_begins() -> None:
    schedule = Schedule(INTERVAL)

    assert schedule.next_at() == math.inf
    assert schedule.take(1e9) is None


def test_a_full_pass_comes_an_interval_after_the_end_of_the_last(schedule: Schedule) -> None:
    assert schedule.next_at() == schedule.full_at == 160.0
    assert schedule.take(159.9) is None
    scope = schedule.take(161.0)
    assert scope == Scope("resync", is_full=True)
    schedule.finish(finished(scope), 165.0)

    assert schedule.next_at() == 225.0


def test_a_gateway_that_may_have_moved_is_looked_for_at_once_and_no_event_forgotten(
    schedule: Schedule,
) -> None:
    schedule.add([START], 101.0, urgent=False)
    schedule.note_move()

    assert schedule.take(101.0) == Scope("gateway", frozenset({"b"}), is_full=True)
    schedule.begin("reconnect")
    schedule.note_move()
    assert schedule.take(101.0) == Scope("reconnect", is_full=True)


def test_a_gateway_that_may_not_serve_for_ever_is_looked_at_again(schedule: Schedule) -> None:
    scope = Scope("start", frozenset({"a"}))
    schedule.finish(Report(scope, FOUND, again_at=110.0), 101.0)
    assert schedule.next_at() == 110.0
    assert schedule.take(110.0) == Scope("retry", is_full=True)

    schedule.finish(finished(scope), 110.0)
    assert schedule.next_at() == 160.0


def test_a_new_connection_makes_a_full_pass_due_at_once(schedule: Schedule) -> None:
    schedule.add([CONNECT], 101.0, urgent=False)
    schedule.begin("reconnect")

    assert schedule.take(101.0) == Scope("reconnect", is_full=True)
    assert schedule.take(102.0) is None


@pytest.mark.parametrize(
    ("batches", "due"),
    [
        pytest.param([(0.0, [CONNECT], False)], 0.3, id="quiet comes"),
        pytest.param([(0.0, [CONNECT], False), (0.2, [CONNECT], False)], 0.5, id="more comes"),
        pytest.param([(0.0, [CONNECT], False), (0.2, [START], True)], 0.2, id="urgent comes"),
        pytest.param([(0.0, [START], True)], 0.0, id="it is urgent"),
        pytest.param(
            [(at / 10, [CONNECT], False) for at in range(0, 10, 2)], 1.0, id="there is no end"
        ),
    ],
)
def test_events_that_can_wait_are_gathered(
    schedule: Schedule, batches: list[tuple[float, list[Event], bool]], due: float
) -> None:
    for at, events, urgent in batches:
        schedule.add(events, 100 + at, urgent=urgent)

    assert schedule.next_at() == pytest.approx(100 + due)
    assert schedule.take(100 + due - 0.01) is None
    scope = schedule.take(100 + due)
    assert scope
    assert scope.trigger == batches[0][1][0].action
    assert scope.ids == {event.container_id for _, events, _ in batches for event in events}
    assert not scope.is_full
    assert schedule.take(100 + due) is None


def test_a_full_pass_takes_the_events_with_it_settled_or_not(schedule: Schedule) -> None:
    schedule.add([CONNECT], 159.9, urgent=False)

    assert schedule.take(160.0) == Scope("resync", frozenset({"a"}), is_full=True)
    assert schedule.take(170.0) is None


def test_events_without_end_do_not_keep_a_full_pass_away(schedule: Schedule) -> None:
    triggers = []
    for second in range(100, 170):
        schedule.add([START], second, urgent=True)
        if scope := schedule.take(second):
            triggers.append(scope.trigger)
            schedule.finish(finished(scope), second)

    assert triggers.count("resync") == 1
    assert triggers.count("start") == 69


def test_unfinished_work_is_due_at_its_time_and_for_its_container(schedule: Schedule) -> None:
    soon = Unfinished("a", "dovecot", Why.FAILED, 101.0, 1)
    later = Unfinished("b", "postfix", Why.LOOK_AGAIN, 103.0)
    schedule.finish(finished(Scope("start"), soon, later), 100.0)

    assert schedule.next_at() == 101.0
    assert schedule.take(102.0) == Scope("retry", frozenset({"a"}))
    assert schedule.next_at() == 103.0


def test_work_that_is_due_goes_with_the_events(schedule: Schedule) -> None:
    more = Unfinished("a", "dovecot", Why.MORE, 100.0)
    schedule.finish(finished(Scope("start"), more), 100.0)
    schedule.add([START], 100.0, urgent=True)

    assert schedule.take(100.0) == Scope("start", frozenset({"a", "b"}))


def test_who_ended_is_told_also_where_it_runs_again(schedule: Schedule) -> None:
    restarted = [Event("disconnect", "a"), Event("die", "a"), Event("start", "a"), START]
    schedule.add(restarted, 100.0, urgent=True)

    assert schedule.take(100.0) == Scope(
        "disconnect", frozenset({"a", "b"}), ended=frozenset({"a"})
    )
    schedule.add([START], 101.0, urgent=True)
    assert schedule.take(101.0) == Scope("start", frozenset({"b"}))


def test_work_that_a_pass_does_not_tell_of_any_more_is_gone(schedule: Schedule) -> None:
    more = Unfinished("a", "dovecot", Why.MORE, 100.0)
    schedule.finish(finished(Scope("start"), more), 100.0)
    schedule.finish(finished(Scope("die")), 100.1)

    assert schedule.next_at() == 160.0


def test_a_missing_gateway_is_looked_for_with_growing_delays() -> None:
    schedule = Schedule(INTERVAL)
    schedule.begin("startup")
    now, found = 0.0, list[float]()
    while len(found) < 8:
        scope = schedule.take(now)
        assert scope
        assert scope.is_full
        schedule.finish(finished(scope, state=UNKNOWN), now)
        found.append(schedule.next_at() - now)
        now = schedule.next_at()

    for pause, longest in zip(found, (0.5, 1, 2, 4, 8, 16, 30, 30), strict=True):
        assert 0 < pause <= longest
    assert all(
        pause >= 0.8 * longest for pause, longest in zip(found[:4], (0.5, 1, 2, 4), strict=True)
    )


def test_events_do_not_put_off_the_next_look_for_the_gateway(schedule: Schedule) -> None:
    schedule.finish(finished(Scope("die", is_full=True), state=UNKNOWN), 100.0)
    due = schedule.next_at()
    schedule.add([START], 100.1, urgent=True)
    scope = schedule.take(100.1)
    assert scope
    schedule.finish(finished(scope, state=UNKNOWN), 100.2)

    assert schedule.next_at() == due


def test_delays_double_up_to_the_limit_with_jitter() -> None:
    found = [delay for delay, _ in zip(delays(math.inf), range(9), strict=False)]

    for seconds, longest in zip(found, (0.5, 1, 2, 4, 8, 16, 30, 30, 30), strict=True):
        assert 0.8 * longest <= seconds <= longest
    assert len(set(found[6:])) == 3


def test_no_number_of_tries_is_too_large() -> None:
    assert 24 <= delay(10**6) <= 30
    assert 4 <= delay(10**6, 5.0) <= 5


# --- the gateway's tunnel -----------------------------------------------------------------------

REROUTE, VERIFY = Scope(TUNNEL), Scope(TUNNEL, is_full=True)


def test_a_change_of_the_gateways_routes_is_looked_at_at_once(schedule: Schedule) -> None:
    schedule.add([CONNECT], 110.0, urgent=False)
    schedule.note_change(110.0)
    assert schedule.next_at() == 110.0
    assert schedule.take(110.0) == REROUTE
    schedule.finish(finished(REROUTE), 110.001)

    assert schedule.take(110.002) is None
    assert schedule.take(110.3) == Scope("connect", frozenset({"a"}))


def test_changes_without_end_take_a_fifth_of_the_time(schedule: Schedule) -> None:
    now, busy = 110.0, 0.0
    schedule.note_change(now)
    while now < 120.0:
        assert schedule.take(now) == REROUTE
        schedule.finish(finished(REROUTE), now + 0.01)
        busy += 0.01
        schedule.note_change(now + 0.01)
        now = schedule.next_at()

    assert busy == pytest.approx(2.0, rel=0.02)


def test_what_a_change_brought_about_is_verified_once_it_is_calm(schedule: Schedule) -> None:
    for at in (110.0, 110.2):
        schedule.note_change(at)
        assert schedule.take(at) == REROUTE
        schedule.finish(Report(REROUTE, FOUND, is_rerouted=True), at + 0.001)

    assert schedule.next_at() == pytest.approx(110.501)
    assert schedule.take(110.51) == VERIFY
    schedule.finish(finished(VERIFY), 110.52)
    assert schedule.next_at() == pytest.approx(170.52)


def test_a_full_pass_that_is_due_at_once_covers_it(schedule: Schedule) -> None:
    schedule.note_change(110.0)
    schedule.begin("reconnect")

    assert schedule.take(110.0) == Scope("reconnect", is_full=True)


def test_work_that_is_left_stays_so_over_a_look(schedule: Schedule) -> None:
    work = Unfinished("a", "dovecot", Why.FAILED, 111.0, 1)
    schedule.finish(finished(Scope("start"), work), 110.0)
    schedule.note_change(110.5)
    assert schedule.take(110.5) == REROUTE
    schedule.finish(finished(REROUTE), 110.6)

    assert schedule.take(111.0) == Scope("retry", frozenset({"a"}))
