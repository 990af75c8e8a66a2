"""What is remembered of containers: what never changes, and for no longer than they are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lib.early.known import MOST_CHARACTERS, MOST_CONTAINERS, KnownContainers
from lib.model import DIRECT_LABEL, NAMED_PREFIX, NETWORKS_LABEL, PREFER_LABEL, Event
from tests.fakes import CREATED

if TYPE_CHECKING:
    from lib.model import Container


def event(action: str, identifier: str = "c1", name: str = "dovecot") -> Event:
    return Event(action, identifier, name, labels={**CREATED.labels, "image": "x"})


def test_a_listing_tells_the_labels_and_nothing_that_may_change() -> None:
    known = KnownContainers()

    known.learn(CREATED._replace(labels={**CREATED.labels, "other": "x"}))

    assert known.get("c1") == CREATED._replace(endpoints=())
    assert known.get("dovecot") is None


def test_events_tell_as_much_as_a_listing() -> None:
    known = KnownContainers()

    known.note(event("create"))
    created = known.get("c1")
    assert created
    assert (created.labels, created.running) == (CREATED.labels, False)

    states = []
    for action in ("start", "rename", "die", "start"):
        known.note(event(action))
        found = known.get("c1")
        states.append(found and found.running)
    assert states == [True, True, False, True]


def test_an_event_of_a_network_tells_nothing_of_the_container() -> None:
    known = KnownContainers()
    known.note(event("create"))

    known.note(Event("connect", "c1", network_id="n1"))

    assert known.get("c1")
    known.note(Event("connect", "c2", network_id="n1"))
    assert known.get("c2") is None


def test_a_name_is_of_who_had_it_last() -> None:
    known = KnownContainers()
    known.note(event("create", "c1"))
    known.note(event("rename", "c1", "old"))
    known.note(event("create", "c2"))

    for name, holder in (("dovecot", "c2"), ("old", "c1")):
        found = known.named(name)
        assert found
        assert found.id == holder
    known.note(event("destroy", "c2"))
    assert known.named("dovecot") is None


def test_nobody_can_start_when_all_that_do_not_run_are_known_to_be_none() -> None:
    known = KnownContainers()
    assert known.may_start()  # Who knows.
    known.learn_idle([])
    assert known.may_start()  # Nothing would tell.
    known.note(event("start"))
    assert not known.may_start()

    known.note(event("die"))
    assert known.may_start()
    known.note(event("destroy"))
    assert not known.may_start()


def test_memory_falls_when_containers_go() -> None:
    known = KnownContainers()
    known.note(event("create", "stays"))

    for number in range(10_000):
        known.note(event("create", str(number)))
        known.note(event("start", str(number)))
        known.note(event("die", str(number)))
        known.note(event("destroy", str(number)))

    assert len(known) == 1


def test_memory_is_bounded_even_if_nothing_is_told_of_their_end() -> None:
    known = KnownContainers()
    long = {NETWORKS_LABEL: "x" * (MOST_CHARACTERS + 1)}

    known.learn_idle(CREATED._replace(id=str(number)) for number in range(MOST_CONTAINERS + 10))
    assert len(known) == MOST_CONTAINERS
    assert known.get("9") is None
    known.learn(CREATED._replace(id="10", labels=long))

    assert known.get("10") is None


@pytest.mark.parametrize(
    "forgotten",
    [
        pytest.param([CREATED._replace(labels={NETWORKS_LABEL: "x" * 5000})], id="too long"),
        pytest.param(
            [CREATED._replace(id=str(number)) for number in range(MOST_CONTAINERS + 1)],
            id="too many",
        ),
    ],
)
def test_who_is_not_remembered_may_start_all_the_same(forgotten: list[Container]) -> None:
    known = KnownContainers()
    known.learn_idle(forgotten)
    for container in forgotten:
        known.note(event("destroy", container.id))
    assert known.may_start()


def test_who_is_not_among_those_that_run_does_not() -> None:
    """As after a restart of the engine, which tells of no end that it did not see."""
    known = KnownContainers()
    known.learn_idle([])
    known.note(event("start", "c1", "one"))
    known.note(event("start", "c2", "two"))
    assert not known.may_start()

    known.learn_running([CREATED._replace(id="c2", running=True)])

    assert known.may_start()
    states = [known.get(identifier) for identifier in ("c1", "c2")]
    assert [found.running for found in states if found] == [False, True]


def test_of_its_labels_those_that_are_ours_are_remembered() -> None:
    known = KnownContainers()
    ours = {
        NETWORKS_LABEL: "10.8.0.0/16",
        f"{NAMED_PREFIX}work": "10.9.0.0/16",
        PREFER_LABEL: "work",
        DIRECT_LABEL: "front",
    }
    known.learn(CREATED._replace(id="1", labels={**ours, "other": "text"}))
    known.learn(CREATED._replace(id="2", labels={**ours, DIRECT_LABEL: "x" * 5000}))

    found = known.get("1")
    assert found
    assert found.labels == ours
    assert known.get("2") is None
