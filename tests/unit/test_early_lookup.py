"""When the engine is asked who is being started, and what becomes of it when it does not answer."""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
import structlog

from lib.early.known import KnownContainers
from lib.early.lookup import Connections, Lookup, Need, Questions, Reference
from lib.errors import CallError, EngineError, StaleSocketError, WgRouteMgrError
from lib.model import Endpoint
from tests.fakes import CREATED, GATEWAY, GWBRIDGE, OTHER, WG_NET, StandInEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lib.early.lookup import Answers
    from lib.engine.client import Engine
    from lib.model import Container, DockerNetwork

SECONDS = 5.0
BY_ID, BY_NAME = Reference("c1"), Reference("dovecot", is_name=True)


@dataclass
class Counting(StandInEngine):
    """An engine that counts what it is asked, and may fail."""

    asked: list[str] = field(default_factory=list)
    failures: list[WgRouteMgrError] = field(default_factory=list)
    """What it answers first, to anything."""
    silent_on: str = ""
    """What it does not answer, as it may for long."""

    def find(self, *, container_id: str = "", name: str = "") -> Container | None:
        self._answer(f"container {container_id or name}")
        return super().find(container_id=container_id, name=name)

    def is_named(self, container_id: str, name: str) -> bool:
        self._answer(f"name {name}")
        return super().is_named(container_id, name)

    def network(self, reference: str) -> DockerNetwork:
        self._answer("addresses")
        return super().network(reference)

    def networks(self) -> tuple[DockerNetwork, ...]:
        self._answer("networks")
        return super().networks()

    def _answer(self, what: str) -> None:
        self.asked.append(what)
        while what == self.silent_on:
            time.sleep(0.01)
        if self.failures:
            raise self.failures.pop()


@dataclass
class Site:
    """An engine, who connects to it, and what is remembered of its containers."""

    engine: Counting = field(default_factory=lambda: Counting((CREATED,), on=(WG_NET, OTHER)))
    connections: int = 0
    refusals: list[WgRouteMgrError] = field(default_factory=list)
    known: KnownContainers = field(default_factory=KnownContainers)
    news: threading.Event = field(default_factory=threading.Event)

    def connect(self) -> Engine:
        if self.refusals:
            raise self.refusals.pop()
        self.connections += 1
        return cast("Engine", self.engine)

    @contextmanager
    def looking(self, questions: Questions | None = None) -> Iterator[Lookup]:
        """Look, as after a namespace appeared just now."""
        lookup = Lookup(GATEWAY, self.known, Connections(self.connect), self.news.set)
        with closing(lookup):
            lookup.expect(time.monotonic())
            if questions:
                lookup.ask(questions)
            yield lookup

    def await_answer(self, lookup: Lookup, wanted: Callable[[Answers], object]) -> Answers:
        """Wait for an answer, as who serves does: until there is news."""
        deadline = time.monotonic() + SECONDS
        while not wanted(answers := lookup.answers):
            assert self.news.wait(deadline - time.monotonic()), answers
            self.news.clear()
        return answers


def addresses(answers: Answers) -> object:
    return answers.asked


def everything(answers: Answers) -> object:
    return answers.asked and answers.subnets_asked and answers.described


WHO = Questions(addresses=True, subnets_since=0.1, containers={BY_ID: Need(0.1)})


def test_addresses_are_asked_for_until_it_is_enough_and_networks_once() -> None:
    site = Site()
    with site.looking() as lookup:
        first = site.await_answer(lookup, addresses)
        site.await_answer(lookup, lambda answers: answers.asked > first.asked)
        lookup.ask(Questions())

        time.sleep(0.1)
        asked = len(site.engine.asked)
        time.sleep(0.2)

    assert len(site.engine.asked) == asked
    assert site.engine.asked.count("networks") == 1
    assert lookup.answers.owner_of(interface.ip for interface in WG_NET.interfaces["c1"]) == BY_ID


def test_nothing_is_asked_of_a_container_unless_that_is_wanted() -> None:
    site = Site()
    with site.looking() as lookup:
        site.await_answer(lookup, lambda answers: answers.subnets_asked)
        assert not any("container" in asked for asked in site.engine.asked)

        lookup.ask(WHO)
        found = site.await_answer(lookup, everything)

    assert found.described[BY_ID].container == CREATED
    assert found.description(BY_ID, 0.1)


def test_each_is_asked_for_once_and_again_when_it_is_to_be_told_anew() -> None:
    site = Site()
    with site.looking(WHO) as lookup:
        first = site.await_answer(lookup, everything)
        time.sleep(0.05)
        assert site.engine.asked.count("container c1") == 1

        now = time.monotonic()
        lookup.ask(WHO._replace(containers={BY_ID: Need(now), BY_NAME: Need(now, subnets=True)}))
        found = site.await_answer(lookup, lambda answers: len(answers.described) == 2)
        found = site.await_answer(
            lookup, lambda answers: answers.described[BY_ID] != first.described[BY_ID]
        )

    assert site.engine.asked.count("container dovecot") == 1
    assert found.described[BY_NAME].container == CREATED


NAMED = Questions(containers={BY_NAME: Need(0.1)})


def described(answers: Answers) -> object:
    return answers.described


@pytest.mark.parametrize(
    ("remembered", "there", "asked"),
    [
        pytest.param(CREATED, CREATED, ["name dovecot"], id="it is"),
        pytest.param(CREATED._replace(running=True), CREATED, ["name dovecot"], id="it ran before"),
        pytest.param(
            CREATED._replace(id="c0"),
            CREATED,
            ["name dovecot", "container dovecot"],
            id="it was removed and made again, and nothing told of it",
        ),
        pytest.param(None, CREATED, ["container dovecot"], id="nothing is known of it"),
    ],
)
def test_whose_a_remembered_name_is_is_asked_for(
    remembered: Container | None, there: Container, asked: list[str]
) -> None:
    site = Site(Counting((there,), on=(WG_NET,)))
    for container in filter(None, [remembered]):
        site.known.learn(container)
    with site.looking(NAMED) as lookup:
        found = site.await_answer(lookup, described).described[BY_NAME]

    assert found.container
    assert (found.container.id, found.container.running) == ("c1", False)
    assert [what for what in site.engine.asked if what[0] in "nc" and " " in what] == asked


def test_name_that_was_given_to_another_is_not_believed() -> None:
    """No event told of it: the one that is remembered is another by now."""
    renamed = CREATED._replace(name="dovecot-old")
    other = CREATED._replace(id="c2", labels={})
    site = Site(Counting((renamed, other), on=(WG_NET,)))
    site.known.learn(CREATED)
    with site.looking(NAMED) as lookup:
        found = site.await_answer(lookup, described).described[BY_NAME]

    assert found.container == other


def test_what_a_listing_told_is_remembered() -> None:
    site = Site()
    with site.looking(WHO) as lookup:
        site.await_answer(lookup, everything)

    remembered = site.known.get("c1")
    assert remembered
    assert remembered.labels == CREATED.labels


def test_who_does_not_exist_is_told_too() -> None:
    site = Site(Counting((), on=(WG_NET,)))
    with site.looking(WHO) as lookup:
        assert site.await_answer(lookup, everything).described[BY_ID].container is None


@pytest.mark.parametrize(
    ("silent_on", "lacking"),
    [
        ("addresses", {"asked"}),
        ("container c1", {"described"}),
        ("networks", {"subnets_asked"}),
    ],
)
def test_no_question_waits_for_another(silent_on: str, lacking: set[str]) -> None:
    """Each may wait for what the engine writes to disk, and all are needed for a route."""
    needed = {"asked", "described", "subnets_asked"}
    site = Site()
    site.engine.silent_on = silent_on
    with site.looking(WHO) as lookup:
        early = site.await_answer(
            lookup, lambda answers: all(getattr(answers, name) for name in needed - lacking)
        )
        assert {name for name in needed if not getattr(early, name)} == lacking

        site.engine.silent_on = ""
        site.await_answer(lookup, everything)


@pytest.mark.parametrize(
    "error", [EngineError("it went away"), StaleSocketError("its socket was deleted")]
)
@pytest.mark.parametrize("where", ["connecting", "asking"])
def test_a_question_that_failed_is_asked_again(error: WgRouteMgrError, where: str) -> None:
    """Whatever it was that failed: neither the look nor a thread ends with it."""
    site = Site()
    (site.refusals if where == "connecting" else site.engine.failures).extend([error] * 3)
    with structlog.testing.capture_logs() as logged, site.looking(WHO) as lookup:
        site.await_answer(lookup, everything)

    assert [entry["event"] for entry in logged] == ["lookup.failed"] * 3


def test_networks_that_cannot_be_told_cost_no_other_answer() -> None:
    """As when one of them, of somebody else, has a subnet that cannot be read."""

    class Odd(Counting):
        def networks(self) -> tuple[DockerNetwork, ...]:
            reason = "'203.0.113.1/24' has host bits set"
            raise EngineError(reason)

    site = Site(Odd((CREATED,), on=(WG_NET,)))
    with site.looking(WHO) as lookup:
        first = site.await_answer(lookup, lambda answers: answers.asked and answers.described)
        site.await_answer(lookup, lambda answers: answers.asked > first.asked)


def test_networks_of_a_client_are_asked_for_where_their_list_is_refused() -> None:
    """As by a proxy that lets no more through than was needed once."""

    class Refusing(Counting):
        def networks(self) -> tuple[DockerNetwork, ...]:
            reason = "the engine refused: forbidden"
            raise CallError(reason)

    both = CREATED._replace(endpoints=(*CREATED.endpoints, Endpoint("other", "", ())))
    site = Site(Refusing((both,), on=(WG_NET, OTHER)))
    who = WHO._replace(containers={BY_ID: Need(0.1, subnets=True)})
    with structlog.testing.capture_logs() as logged, site.looking(who) as lookup:
        answers = site.await_answer(lookup, everything)

    assert answers.subnets is None
    assert answers.described[BY_ID].subnets == OTHER.subnets
    assert {entry["event"] for entry in logged} == {"lookup.failed"}


def test_the_network_that_no_container_lists_counts_among_those_of_who_is_on_an_overlay() -> None:
    both = CREATED._replace(endpoints=(*CREATED.endpoints, Endpoint("other", "", ())))
    overlay = OTHER._replace(driver="overlay")
    site = Site(Counting((both,), on=(WG_NET, overlay, GWBRIDGE)))
    who = WHO._replace(containers={BY_ID: Need(0.1, subnets=True)})
    with site.looking(who) as lookup:
        answers = site.await_answer(lookup, everything)

    assert answers.described[BY_ID].subnets == (*OTHER.subnets, *GWBRIDGE.subnets)


THREADS = 6


def lookups() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lookup")]


def test_a_look_ends_with_its_threads_whose_connections_are_kept_for_the_next() -> None:
    site = Site()
    connections = Connections(site.connect)
    for _ in range(5):
        with closing(Lookup(GATEWAY, site.known, connections, site.news.set)) as lookup:
            lookup.expect(time.monotonic())
            lookup.ask(WHO)
            site.await_answer(lookup, everything)
        deadline = time.monotonic() + SECONDS
        while lookups() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lookups() == []

    assert site.connections <= THREADS


def test_a_connection_is_one_that_is_free_until_one_failed() -> None:
    closed: list[StandInEngine] = []
    made: list[Engine] = []

    class Connection(StandInEngine):
        def close(self) -> None:
            closed.append(self)

    def connect() -> Engine:
        made.append(cast("Engine", Connection(())))
        return made[-1]

    connections = Connections(connect)
    one, two = (connections.take() for _ in range(2))
    connections.give_back(one)
    connections.give_back(two)
    assert connections.take() is two
    assert made == [one, two]

    connections.forget()

    assert [id(each) for each in closed] == [id(one)]
    assert connections.take() is made[2]


def test_a_question_that_takes_long_keeps_no_other_waiting() -> None:
    site = Site()
    site.engine.known = (CREATED, CREATED._replace(id="c2", name="held"))
    site.engine.silent_on = "container c2"
    both = {Reference("c2"): Need(0.1), BY_ID: Need(0.1)}
    with site.looking(Questions(containers=both)) as lookup:
        site.await_answer(lookup, lambda answers: BY_ID in answers.described)
        assert site.engine.asked.count("container c2") == 1
        site.engine.silent_on = ""
        site.await_answer(lookup, lambda answers: Reference("c2") in answers.described)


def test_a_namespace_that_appears_has_addresses_asked_for_beside_an_earlier_question() -> None:
    site = Site()
    site.engine.silent_on = "addresses"
    with site.looking() as lookup:
        deadline = time.monotonic() + SECONDS
        while site.engine.asked.count("addresses") < 2:
            assert time.monotonic() < deadline
            lookup.expect(time.monotonic())
            time.sleep(0.01)
        site.engine.silent_on = ""
        site.await_answer(lookup, addresses)
