"""When the engine is asked who is being started, and what becomes of it when it does not answer."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import pytest

from lib.errors import EngineError
from lib.model import Endpoint
from lib.scout import NOTHING, Scout
from tests.fakes import CREATED, GATEWAY, OTHER, WG_NET, StandInEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lib.engine import Engine
    from lib.model import Container, DockerNetwork
    from lib.scout import Known

SECONDS = 5.0


@dataclass
class Counting(StandInEngine):
    """An engine that counts what it is asked, and may fail."""

    asked: list[str] = field(default_factory=list)
    broken: bool = False

    def containers(
        self, *labels: str, running: bool = True, ids: Iterable[str] | None = None
    ) -> tuple[Container, ...]:
        broken = self.broken
        self.asked.append("containers")
        if broken:
            reason = "the engine went away"
            raise EngineError(reason)
        return super().containers(*labels, running=running, ids=ids)

    def network(self, reference: str) -> DockerNetwork:
        self.asked.append(reference)
        return super().network(reference)


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

    first = site.await_answer(lambda known: known.interfaces)
    later = site.await_answer(lambda known: known.asked > first.asked)
    site.scout.enough()
    assert later.listed == first.listed
    assert later.starting() == {"c1"}
    assert site.engine.asked[:2] == ["containers", "n1"]

    time.sleep(0.1)
    asked = len(site.engine.asked)
    time.sleep(0.3)
    assert len(site.engine.asked) == asked


def test_who_may_be_starting_is_asked_anew_at_once() -> None:
    site = Site(CREATED)
    site.scout.ask(GATEWAY)
    first = site.await_answer(lambda known: known.interfaces)

    site.scout.ask(GATEWAY)

    site.await_answer(lambda known: known.listed > first.listed and known.interfaces)
    site.scout.enough()


def test_without_a_client_that_may_be_starting_nothing_more_is_asked() -> None:
    site = Site()
    site.scout.ask(GATEWAY)

    known = site.await_answer(lambda known: known.listed)
    time.sleep(0.1)

    assert known.candidates == {}
    assert site.engine.asked == ["containers"]


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

    known = site.await_answer(lambda known: known.interfaces)
    site.scout.enough()

    assert set(site.engine.asked) == asked
    assert known.others == ({"other": OTHER.subnets} if "other" in networks else {})


def test_after_a_failure_the_next_question_connects_again() -> None:
    site = Site(CREATED)
    site.engine.broken = True
    site.scout.ask(GATEWAY)
    deadline = time.monotonic() + SECONDS
    while not site.engine.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    assert site.scout.hear() is NOTHING

    site.engine.broken = False
    site.scout.ask(GATEWAY)

    site.await_answer(lambda known: known.interfaces)
    site.scout.enough()
    assert site.connections == 2
