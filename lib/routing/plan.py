"""The difference between wanted and actual routes of one namespace, as ordered steps.

Pure. A route that is wanted by nobody is never touched: containers have routes of their own.
"""

from __future__ import annotations

from collections import defaultdict
from enum import IntEnum
from typing import TYPE_CHECKING

from lib.model import IPV6, MAIN, Route, Rule, Step
from lib.routing.policy import TABLE_PREF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.model import Thing

_TAKEN_BACK = "nobody asks for it any more"
_ANOTHER_WAY = "another way to the same destination"


class Stage(IntEnum):
    """When a step is due: all of one stage is over before the next begins."""

    ROUTES = 0
    RULES = 1
    TABLE_RULE = 2
    """Our table is asked from here on, or a gateway's guard holds."""
    NO_TABLE_RULE = 3
    NO_RULES = 4
    NO_ROUTES = 5
    NO_GUARDS = 6


def plan(
    wanted: Iterable[Thing], actual: Iterable[Thing], given: Iterable[Thing] = ()
) -> tuple[Step, ...]:
    """Return what makes each wanted destination lead where it should, and nowhere else.

    The kernel's `replace` only replaces a route of the same destination *and* metric. One of
    another metric would stay beside ours and may win over it, so it is deleted, after ours stands:
    the destination is never without a route. Routes that were `given` before and are there, but
    whose destination is not wanted any more, are deleted too. What `directly_reached` tells of is
    left alone. The steps come by stage.
    """
    present: dict[object, list[Thing]] = defaultdict(list)
    for thing in actual:
        present[thing.place].append(thing)
    steps = [step for thing in wanted for step in _steps(thing, present.pop(thing.place, []))]
    unwanted = (thing for thing in given if thing in present.get(thing.place, ()))
    steps += (Step("del", thing, _TAKEN_BACK) for thing in unwanted)
    return tuple(sorted(steps, key=stage))


def stage(step: Step) -> Stage:
    """Return when a step is due."""
    is_deleted = step.verb == "del"
    if isinstance(step.thing, Rule):
        if step.thing.pref == TABLE_PREF or step.thing.is_unreachable:
            return Stage.NO_TABLE_RULE if is_deleted else Stage.TABLE_RULE
        return Stage.NO_RULES if is_deleted else Stage.RULES
    if not is_deleted:
        return Stage.ROUTES
    return Stage.NO_GUARDS if step.thing.is_guard else Stage.NO_ROUTES


def chain(step: Step) -> object:
    """Return to what a step belongs of which nothing more is done in a pass once a part failed.

    Those are the steps to one destination; and the rules of an IP version, with what may only go
    from our table after them. A rule for one address keeps none of these waiting.
    """
    thing = step.thing
    if isinstance(thing, Rule):
        return thing if thing.source else thing.version
    return thing.dst if thing.table == MAIN or step.verb == "replace" else thing.version


def directly_reached(wanted: Iterable[Thing], actual: Iterable[Thing]) -> frozenset[Route]:
    """Return the wanted routes whose destination is a connected network of the namespace.

    The engine need not know it: a container can have bridges and tunnels of its own. The kernel
    would let us replace the connected route, and so cut the container off.
    """
    connected = {one.place for one in actual if isinstance(one, Route) and one.kind == "connected"}
    routes = (thing for thing in wanted if isinstance(thing, Route))
    return frozenset(route for route in routes if route.place in connected)


def _steps(wanted: Thing, there: list[Thing]) -> Iterator[Step]:
    """Yield what makes all that is in one place what is wanted there."""
    if isinstance(wanted, Rule):
        if not there:
            yield Step("add", wanted)
        return
    same_dst = [thing for thing in there if isinstance(thing, Route)]
    if any(route.kind == "connected" for route in same_dst):
        return
    others = [route for route in same_dst if route != wanted]
    if wanted not in same_dst:
        yield Step("replace", wanted)
        same_metric = [route for route in others if route.metric == wanted.metric]
        if same_metric:
            # Of several, IPv4 overwrites the first, IPv6 the first of the same kind if any is.
            ipv6 = wanted.version == IPV6
            others.remove(min(same_metric, key=lambda route: ipv6 and route.kind != wanted.kind))
    for route in others:
        yield Step("del", route, _ANOTHER_WAY, exact=route.plain == wanted.plain)
