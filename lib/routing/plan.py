"""The difference between wanted and actual routes of one namespace, as ordered steps.

Pure. A route that is wanted by nobody is never touched: containers have routes of their own.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from lib.model import IPV6, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.model import Network, Route

_TAKEN_BACK = "nobody asks for it any more"
_ANOTHER_WAY = "another way to the same destination"


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
    present: dict[Network, list[Route]] = defaultdict(list)
    for route in actual:
        present[route.dst].append(route)
    steps = [step for route in wanted for step in _steps(route, present.pop(route.dst, []))]
    unwanted = (route for route in given if route in present.get(route.dst, []))
    return (*steps, *(Step("del", route, _TAKEN_BACK) for route in unwanted))


def directly_reached(wanted: Iterable[Route], actual: Iterable[Route]) -> frozenset[Route]:
    """Return the wanted routes whose destination is a connected network of the namespace.

    The engine need not know it: a container can have bridges and tunnels of its own. The kernel
    would let us replace the connected route, and so cut the container off.
    """
    connected = {route.dst for route in actual if route.kind == "connected"}
    return frozenset(route for route in wanted if route.dst in connected)


def _steps(wanted: Route, same_dst: list[Route]) -> Iterator[Step]:
    if any(route.kind == "connected" for route in same_dst):
        return
    others = [route for route in same_dst if route != wanted]
    if wanted not in same_dst:
        yield Step("replace", wanted)
        same_metric = [route for route in others if route.metric == wanted.metric]
        if same_metric:
            # Of several, IPv4 overwrites the first, IPv6 the first of the same kind if any is.
            ipv6 = wanted.dst.version == IPV6
            others.remove(min(same_metric, key=lambda route: ipv6 and route.kind != wanted.kind))
    for route in others:
        yield Step("del", route, _ANOTHER_WAY, exact=route.plain == wanted.plain)
