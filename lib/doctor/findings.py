"""How a check says what it saw, and what fixes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.model import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN = 5
"""Names, or remarks on one client, that are shown."""


def ok(seen: str, *if_wanted: str) -> Finding:
    """Nothing to do, unless it is wanted otherwise."""
    return Finding("ok", seen, if_wanted)


def warn(seen: str, *fix: str) -> Finding:
    """It may be meant so, or matter later."""
    return Finding("warn", seen, tuple(filter(None, fix)))


def fail(seen: str, *fix: str) -> Finding:
    """Traffic cannot flow, or nobody sees to it that it does."""
    return Finding("fail", seen, tuple(filter(None, fix)))


def some(names: Iterable[str]) -> str:
    """Return names for a line, not more than fit."""
    known = sorted(set(names))
    more = len(known) - SHOWN
    return ", ".join(known[:SHOWN]) + (f" and {more} more" if more > 0 else "")
