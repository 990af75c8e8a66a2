"""The difference between wanted and actual routes of one namespace, as ordered steps.

Pure. A route that is wanted by nobody is never touched: containers have routes of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.model import Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.model import Route


def plan(
    wanted: Iterable[Route], actual: Iterable[Route], given: Iterable[Route] = ()
) -> tuple[Step, ...]:
    """Return what makes each wanted destination lead where it should, and nowhere else.

    The kernel's `replace` only replaces a route of the same destination *and* metric. One of
    another metric would stay beside ours and may win over it, so it is deleted, after ours stands:
    the destination is never without a route. Routes that were `given` before and are there, but
    whose destination is not wanted any more, are deleted too. What `directly_reached` tells of is
    left alone.
    """
    present = tuple(actual)
    desired = tuple(wanted)
    direct = directly_reached(desired, present)
    destinations = {route.dst for route in desired}
    kept = (step for route in desired if route not in direct for step in _steps(route, present))
    unwanted = (route for route in given if route.dst not in destinations and route in present)
    return (*kept, *(Step("del", route) for route in unwanted))


def directly_reached(wanted: Iterable[Route], actual: Iterable[Route]) -> frozenset[Route]:
    """Return the wanted routes whose destination is a connected network of the namespace.

    The engine need not know it: a container can have bridges and tunnels of its own. The kernel
    would let us replace the connected route, and so cut the container off.
    """
    connected = {route.dst for route in actual if route.kind == "connected"}
    return frozenset(route for route in wanted if route.dst in connected)


def _steps(wanted: Route, actual: tuple[Route, ...]) -> Iterator[Step]:
    same_dst = [route for route in actual if route.dst == wanted.dst]
    stands = wanted in same_dst
    if not stands:
        yield Step("replace", wanted)
    for other in same_dst:
        overwritten = not stands and other.metric == wanted.metric
        if other != wanted and not overwritten:
            yield Step("del", other)
