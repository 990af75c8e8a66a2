"""The daemon on a clock of its own: it never gives up, and never in a hurry."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn, cast

import pytest
import structlog

from lib.daemon import Daemon, delays
from lib.errors import EngineError
from lib.health import Health
from lib.model import Event, Gateway
from lib.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from lib.early.service import FastPath
    from lib.engine.client import Engine
    from lib.engine.events import EventStream
    from lib.kernel.shells import Shell

DAY = 86_400.0


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.naps: list[float] = []

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.naps.append(seconds)
        self.now += seconds


class Back(Exception):  # noqa: N818 - it is no error
    """The engine is back: the end of a test."""


@pytest.fixture
def health(tmp_path: Path) -> Health:
    return Health(tmp_path / "health")


def run_without_engine(
    health: Health, clock: Clock, seconds: float, interval: float
) -> list[dict[str, object]]:
    """Run a daemon whose engine is away for that long; return what was logged."""
    end = clock.now + seconds

    def connect() -> Engine:
        if clock.now >= end:
            raise Back
        reason = f"no engine answers, try {len(clock.naps)}"
        raise EngineError(reason, "start it")

    settings = Settings(resync_interval=interval)
    nothing = cast("Shell", None), cast("FastPath", None)
    with structlog.testing.capture_logs() as logged, pytest.raises(Back):
        Daemon(settings, *nothing, health, connect=connect, clock=clock).run()
    return cast("list[dict[str, object]]", logged)


def test_a_day_without_an_engine_ends_with_another_try(health: Health) -> None:
    clock = Clock()

    logged = run_without_engine(health, clock, DAY, interval=60)

    assert sum(clock.naps) == pytest.approx(DAY, abs=30)
    assert clock.naps[0] <= 0.5
    assert all(12 <= nap <= 30 for nap in clock.naps[6:])
    assert DAY / 30 <= len(clock.naps) <= DAY / 20
    assert [entry["event"] for entry in logged] == ["engine.lost"]
    assert logged[0]["hint"] == "start it"


def test_tries_are_no_further_apart_than_the_resync_interval(health: Health) -> None:
    clock = Clock()

    run_without_engine(health, clock, 600, interval=5)

    assert max(clock.naps) <= 5


def test_delays_double_up_to_the_limit_with_jitter() -> None:
    found = [delay for delay, _ in zip(delays(math.inf), range(9), strict=False)]

    for delay, longest in zip(found, (0.5, 1, 2, 4, 8, 16, 30, 30, 30), strict=True):
        assert 0.8 * longest <= delay <= longest
    assert (
        len({delay / longest for delay, longest in zip(found[6:], (30, 30, 30), strict=True)}) == 3
    )


def test_an_error_that_is_not_ours_ends_the_daemon(health: Health) -> None:
    def connect() -> NoReturn:
        raise ZeroDivisionError

    nothing = cast("Shell", None), cast("FastPath", None)
    with pytest.raises(ZeroDivisionError):
        Daemon(Settings(), *nothing, health, connect=connect, clock=Clock()).run()


class Script:
    """A stream that has these batches to read, each after the whole time that may be waited."""

    def __init__(self, clock: Clock, *batches: list[Event]) -> None:
        self.clock = clock
        self.batches = list(batches)

    def read(self, seconds: float) -> list[Event]:
        self.clock.now += seconds
        return self.batches.pop(0) if self.batches else []


CONNECT, START, CREATE = Event("connect", "a"), Event("start", "b"), Event("create", "c")


@pytest.mark.parametrize(
    ("batches", "seconds", "events"),
    [
        pytest.param([[CONNECT]], 0.3, 1, id="quiet comes"),
        pytest.param([[CONNECT], [CONNECT]], 0.6, 2, id="more comes"),
        pytest.param([[CONNECT], [START], [CONNECT]], 0.3, 2, id="something urgent comes"),
        pytest.param([[START], [CONNECT]], 0.0, 1, id="it is urgent"),
        pytest.param([[Event("disconnect", "gw")]], 0.0, 1, id="it is the gateway"),
        pytest.param([[CONNECT]] * 9, 1.2, 5, id="there is no end"),
        pytest.param([[]], 0.0, 0, id="nothing came"),
        pytest.param([[CONNECT], [CREATE]], 0.3, 1, id="somebody is created"),
    ],
)
def test_events_of_networks_are_gathered(
    health: Health, batches: list[list[Event]], seconds: float, events: int
) -> None:
    clock = Clock()
    begun = clock.now
    fastpath = cast("FastPath", SimpleNamespace(given=lambda: iter(())))
    daemon = Daemon(Settings(), cast("Shell", None), fastpath, health, clock=clock)
    daemon._reconciler.survey.gateway = Gateway("wireguard", "gw", "wg-net", "n", ())

    gathered = daemon._settled(cast("EventStream", Script(clock, *batches[1:])), batches[0])

    assert len(gathered) == events
    assert clock.now - begun == pytest.approx(seconds)
