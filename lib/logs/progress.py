"""How far long work is, about once a second; work that takes less says nothing and costs nothing.

It only counts what passes by.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")

EVERY_SECONDS = 1.0
"""Between two lines, and before the first."""

log = structlog.get_logger()


def with_progress(
    items: Iterable[Item], total: int, work: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Item]:
    """Yield the items, and now and then tell how many of them are done."""
    due = clock() + EVERY_SECONDS
    for done, item in enumerate(items):
        if (now := clock()) >= due:
            log.info("pass.progressed", work=work, done=done, total=total)
            due = now + EVERY_SECONDS
        yield item
