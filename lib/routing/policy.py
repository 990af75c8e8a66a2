"""Policy routing: what goes into our own table, and what it takes for that to be asked.

Pure. A default route in the main table is the engine's, and a route there that overlaps a network
keeps the engine from attaching the container to it. So these go into a table of our own, which is
asked after all of the main table but its default route. With each goes a guard: the link takes the
route with it when it goes, and then the main table would be asked.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network
from typing import TYPE_CHECKING

from lib.model import DEFAULT_METRIC, GUARD_METRIC, IPV4, IPV6, MAIN, TABLE, Route, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.model import Address, Network, Thing

SOURCE_PREF, MAIN_PREF, TABLE_PREF = 669, 670, 671
"""When rules of ours are asked: before those of the kernel, which has main at 32766."""

_NOWHERE = {IPV4: ip_network("192.0.2.255/32"), IPV6: ip_network("2001:db8::ffff/128")}
"""For documentation (RFC 5737, RFC 3849): nobody is there."""

GUARD_PREF = 32765
"""When a gateway's guard is asked: right before the kernel's rule for main. Rules of the same
preference are asked in the order in which they came, and a rule without one comes before all others
(`fib_default_rule_pref`): so those of `wg-quick` come before, be they older or younger."""

_HALF = 1
"""Prefix length of a half of everything, which stands for a default route."""


def is_wide(dst: Network) -> bool:
    """Tell whether a destination is all of an IP version, or half of it."""
    return dst.prefixlen <= _HALF


def table_of(dst: Network, attached: Iterable[Network], *, wholly: bool = False) -> int:
    """Return the table for a destination of a client that is attached to these networks.

    Ours for all of them if `wholly`.
    """
    if wholly or is_wide(dst):
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


def proof(version: int) -> Route:
    """Return a route that changes no packet's way, to be set with the address of a namespace.

    The kernel takes it where that address is; an unreachable one it takes anywhere, in IPv4. It is
    to be taken back.
    """
    return Route(_NOWHERE[version], None, DEFAULT_METRIC[version], "connected", TABLE)


def past(source: Address) -> Rule:
    """Return the rule by which packets from an address do not come to our table."""
    return Rule(source.version, SOURCE_PREF, MAIN, source=source)


def gateway_guard(version: int, device: str) -> tuple[Rule, Rule]:
    """Return the rules by which a gateway sends nothing by its default route that came by a link.

    What a tunnel's own rules send, or a route of main that is no default, goes its way.
    """
    return (
        Rule(version, GUARD_PREF, MAIN, suppress=0, device=device),
        Rule(version, GUARD_PREF, 0, device=device, is_unreachable=True),
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
    """Tell whether it can only be there because of us: our table is nobody else's.

    A rule for one address may be the container's own: one that is added without a preference gets
    the one before the lowest that is there.
    """
    if isinstance(thing, Rule):
        return thing in rules(thing.version)
    return thing.table == TABLE
