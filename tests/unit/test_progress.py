"""Long work tells how far it is, short work is silent."""

from __future__ import annotations

from itertools import count

import structlog

from lib.logs.progress import with_progress


def lines(seconds: float, items: int) -> list[tuple[int, int]]:
    """Return what is told while each item takes that long."""
    clock = count(0.0, seconds)
    with structlog.testing.capture_logs() as logged:
        passed = with_progress(range(items), items, "routes set", lambda: next(clock))
        assert list(passed) == [*range(items)]
    assert {(line["event"], line["work"], line["log_level"]) for line in logged} <= {
        ("pass.progressed", "routes set", "info")
    }
    return [(line["done"], line["total"]) for line in logged]


def test_less_than_a_second_is_silent() -> None:
    assert lines(0.001, 900) == []
    assert lines(5, 0) == []


def test_longer_work_is_told_once_a_second() -> None:
    assert lines(0.25, 13) == [(3, 13), (7, 13), (11, 13)]


def test_the_first_item_too_can_take_long() -> None:
    assert lines(3, 2) == [(0, 2), (1, 2)]
