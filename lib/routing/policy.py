"""Policy routing: what goes into our own table, and what it takes for that to be asked.

Pure. A default route in the main table is the engine's, and a route there that overlaps a network
keeps the engine from attaching the container to it. So these go into a table of our own, which is
asked after all of the main table but its default route. With each goes a guard: the link takes the
route with it when it goes, and then the main table would be asked.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lib.model import GUARD_METRIC, MAIN, TABLE, Route, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.model import Network, Thing

SOURCE_PREF, MAIN_PREF, TABLE_PREF = 669, 670, 671
"""When rules of ours are asked: before those of the kernel, which has main at 32766."""

_HALF = 1
"""Prefix length of a half of everything, which stands for a default route."""


def table_of(dst: Network, attached: Iterable[Network]) -> int:
    """Return the table for a destination of a client that is attached to these networks."""
    if dst.prefixlen <= _HALF:
        return TABLE
    same = (one for one in attached if one.version == dst.version)
    return TABLE if any(one.subnet_of(dst) for one in same) else MAIN  # type: ignore[arg-type]


def whole(destinations: Iterable[Network]) -> frozenset[int]:
    """Return the IP versions of which these are everything, be it in halves."""
    lengths = Counter((dst.version, dst.prefixlen) for dst in {*destinations})
    halves = {version for (version, length), n in lengths.items() if (length, n) == (_HALF, 2)}
    return frozenset(halves | {version for version, length in lengths if not length})


def guard(dst: Network) -> Route:
    """Return what holds in our table where there is no route to a destination."""
    return Route(dst, None, GUARD_METRIC, "unreachable", TABLE)


def rules(version: int) -> tuple[Rule, Rule]:
    """Return the rules by which our table is asked, in the order in which they are set.

    The other way round, the client's own networks would go by the gateway meanwhile.
    """
    return (
        Rule(version, MAIN_PREF, MAIN, suppress=0),
        Rule(version, TABLE_PREF, TABLE),
    )


def needs(routes: Iterable[Route]) -> tuple[Thing, ...]:
    """Return all that has to be there for these routes to hold, in the order of its setting."""
    found: dict[Thing, None] = {}
    versions: dict[int, None] = {}
    for route in routes:
        found[route] = None
        if route.table == TABLE:
            found[guard(route.dst)] = None
            versions[route.version] = None
    for version in versions:
        found.update(dict.fromkeys(rules(version)))
    return tuple(found)


def is_before(rule: Rule) -> bool:
    """Tell whether a rule of somebody else's is asked before ours, and may have an answer."""
    return rule.pref < SOURCE_PREF and rule.suppress != 0


def is_ours(thing: Thing) -> bool:
    """Tell whether it can only be there because of us: our table is nobody else's."""
    if isinstance(thing, Rule):
        return thing in rules(thing.version)
    return thing.table == TABLE
