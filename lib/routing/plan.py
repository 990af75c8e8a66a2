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
    """Our table is asked from here on."""
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
        present[_key(thing)].append(thing)
    asked: dict[object, list[Thing]] = defaultdict(list)
    for thing in wanted:
        asked[_key(thing)].append(thing)
    steps = [step for key, things in asked.items() for step in _steps(things, present.pop(key, []))]
    unwanted = (thing for thing in given if thing in present.get(_key(thing), []))
    steps += (Step("del", thing, _TAKEN_BACK) for thing in unwanted)
    return tuple(sorted(steps, key=stage))


def stage(step: Step) -> Stage:
    """Return when a step is due."""
    is_deleted = step.verb == "del"
    if isinstance(step.thing, Rule):
        if step.thing.pref == TABLE_PREF:
            return Stage.NO_TABLE_RULE if is_deleted else Stage.TABLE_RULE
        return Stage.NO_RULES if is_deleted else Stage.RULES
    if not is_deleted:
        return Stage.ROUTES
    return Stage.NO_GUARDS if step.thing.is_guard else Stage.NO_ROUTES


def chain(step: Step) -> object:
    """Return to what a step belongs of which nothing more is done in a pass once a part failed.

    Those are the steps to one destination; and the rules of an IP version, with what may only go
    from our table after them.
    """
    thing = step.thing
    if isinstance(thing, Rule):
        return thing.version
    return thing.dst if thing.table == MAIN or step.verb == "replace" else thing.version


def directly_reached(wanted: Iterable[Thing], actual: Iterable[Thing]) -> frozenset[Route]:
    """Return the wanted routes whose destination is a connected network of the namespace.

    The engine need not know it: a container can have bridges and tunnels of its own. The kernel
    would let us replace the connected route, and so cut the container off.
    """
    connected = {
        _key(thing) for thing in actual if isinstance(thing, Route) and thing.kind == "connected"
    }
    routes = (thing for thing in wanted if isinstance(thing, Route))
    return frozenset(route for route in routes if _key(route) in connected)


def _key(thing: Thing) -> object:
    """Return what decides together: a rule for itself, else all routes to a destination."""
    if isinstance(thing, Rule):
        return thing
    return thing.dst if thing.table == MAIN else (thing.dst, thing.table)


def _steps(wanted: list[Thing], there: list[Thing]) -> Iterator[Step]:
    """Yield what makes all that there is to one destination what is wanted."""
    routes = [thing for thing in there if isinstance(thing, Route)]
    if any(route.kind == "connected" for route in routes):
        return
    others = [route for route in routes if route not in wanted]
    for thing in wanted:
        if thing in there:
            continue
        if isinstance(thing, Rule):
            yield Step("add", thing)
            continue
        yield Step("replace", thing)
        same_metric = [route for route in others if route.metric == thing.metric]
        if same_metric:
            # Of several, IPv4 overwrites the first, IPv6 the first of the same kind if any is.
            others.remove(_overwritten(thing, same_metric))
    yield from (Step("del", route, _ANOTHER_WAY) for route in others)


def _overwritten(new: Route, same_metric: list[Route]) -> Route:
    return min(same_metric, key=lambda route: new.version == IPV6 and route.kind != new.kind)
