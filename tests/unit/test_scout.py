"""When the engine is asked who is being started, and what becomes of it when it does not answer."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import pytest

from lib.early.lookup import Known, Scout
from lib.errors import EngineError
from lib.model import Endpoint
from tests.fakes import CREATED, GATEWAY, OTHER, WG_NET, StandInEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lib.engine.client import Engine
    from lib.model import Container, DockerNetwork

SECONDS = 5.0


@dataclass
class Counting(StandInEngine):
    """An engine that counts what it is asked, and may fail."""

    asked: list[str] = field(default_factory=list)
    broken: bool = False
    silent_on: str = ""
    """What it does not answer, as it may for long."""

    def containers(
        self, *labels: str, running: bool = True, ids: Iterable[str] | None = None
    ) -> tuple[Container, ...]:
        self._answer("containers")
        return super().containers(*labels, running=running, ids=ids)

    def network(self, reference: str) -> DockerNetwork:
        self._answer(reference)
        return super().network(reference)

    def _answer(self, what: str) -> None:
        broken = self.broken
        self.asked.append(what)
        while what == self.silent_on:
            time.sleep(0.01)
        if broken:
            reason = "the engine went away"
            raise EngineError(reason)


class Site:
    """A scout that runs, its engine, and how often it connected."""

    def __init__(self, *containers: Container) -> None:
        self.engine = Counting(containers, on=(WG_NET, OTHER))
        self.connections = 0
        self.scout = Scout(self._connect)
        self.scout.start()

    def _connect(self) -> Engine:
        self.connections += 1
        return cast("Engine", self.engine)

    def await_answer(self, wanted: Callable[[Known], object]) -> Known:
        """Wait for an answer, as who serves does: until the descriptor can be read."""
        deadline = time.monotonic() + SECONDS
        while not wanted(known := self.scout.hear()):
            left = deadline - time.monotonic()
            assert left > 0, known
            select.select([self.scout], [], [], left)
        return known


def test_addresses_are_asked_for_again_and_again_until_it_is_enough() -> None:
    site = Site(CREATED)
    site.scout.ask(GATEWAY)

    first = site.await_answer(lambda known: known.asked)
    later = site.await_answer(lambda known: known.attached.asked > first.attached.asked)
    site.scout.enough()
    assert later.listing == first.listing
    assert later.starting() == {"c1"}
    assert site.engine.asked.count("containers") == 1

    time.sleep(0.1)
    asked = len(site.engine.asked)
    time.sleep(0.3)
    assert len(site.engine.asked) == asked


def test_who_may_be_starting_is_asked_anew_at_once() -> None:
    site = Site(CREATED)
    site.scout.ask(GATEWAY)
    first = site.await_answer(lambda known: known.asked)

    site.scout.ask(GATEWAY)

    newest = max(first.listing.asked, first.attached.asked)
    site.await_answer(lambda known: known.asked > newest)
    site.scout.enough()


@pytest.mark.parametrize("silent_on", ["containers", "n1"])
def test_neither_question_waits_for_the_other(silent_on: str) -> None:
    site = Site(CREATED)
    site.engine.silent_on = silent_on
    site.scout.ask(GATEWAY)

    early = site.await_answer(lambda known: known.listing.asked or known.attached.asked)
    assert (early.listing.asked == 0, early.attached.asked == 0) == (
        silent_on == "containers",
        silent_on == "n1",
    )

    site.engine.silent_on = ""
    assert site.await_answer(lambda known: known.asked).starting() == {"c1"}
    site.scout.enough()


def test_without_a_client_that_may_be_starting_nothing_more_is_asked() -> None:
    site = Site()
    site.scout.ask(GATEWAY)

    known = site.await_answer(lambda known: known.asked)
    time.sleep(0.1)

    assert known.candidates == {}
    assert site.engine.asked.count("containers") == 1
    assert site.engine.asked.count("n1") <= 2  # The first answer may come before the list.


@pytest.mark.parametrize(
    ("networks", "asked"),
    [
        pytest.param(("wg-net",), {"containers", "n1"}, id="on one network"),
        pytest.param(("wg-net", "other"), {"containers", "n1", "other"}, id="on two"),
    ],
)
def test_other_networks_are_asked_for_only_where_a_client_is_on_one(
    networks: tuple[str, ...], asked: set[str]
) -> None:
    points = tuple(Endpoint(name, "", ()) for name in networks)
    site = Site(replace(CREATED, endpoints=points))
    site.scout.ask(GATEWAY)

    known = site.await_answer(
        lambda known: known.asked and len(known.attached.others) == len(networks) - 1
    )
    site.scout.enough()

    assert set(site.engine.asked) == asked
    assert known.attached.others == ({"other": OTHER.subnets} if "other" in networks else {})


def test_after_a_failure_the_next_question_connects_again() -> None:
    site = Site(CREATED)
    site.engine.broken = True
    site.scout.ask(GATEWAY)
    deadline = time.monotonic() + SECONDS
    while len(site.engine.asked) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert site.scout.hear() == Known()

    site.engine.broken = False
    site.scout.ask(GATEWAY)

    site.await_answer(lambda known: known.asked)
    site.scout.enough()
    assert site.connections == 4  # Two at a time.
