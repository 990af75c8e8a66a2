"""The difference between wanted and actual routes of one namespace, as ordered steps.

Pure. A route that is wanted by nobody is never touched: containers have routes of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.model import Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.model import Route


def plan(wanted: Iterable[Route], actual: Iterable[Route]) -> tuple[Step, ...]:
    """Return what makes each wanted destination lead where it should, and nowhere else.

    The kernel's `replace` only replaces a route of the same destination *and* metric. One of
    another metric would stay beside ours and may win over it, so it is deleted, after ours stands:
    the destination is never without a route.
    """
    present = tuple(actual)
    return tuple(step for route in wanted for step in _steps(route, present))


def _steps(wanted: Route, actual: tuple[Route, ...]) -> Iterator[Step]:
    same_dst = [route for route in actual if route.dst == wanted.dst]
    stands = wanted in same_dst
    if not stands:
        yield Step("replace", wanted)
    for other in same_dst:
        overwritten = not stands and other.metric == wanted.metric
        if other != wanted and not overwritten:
            yield Step("del", other)
