"""What does not go through the gateway, although a network that does contains it.

Pure. A network goes by the engine's own gateway, which is that of the default route in the main
table: the engine changes it when it attaches the container elsewhere, so it is read in each pass.
A name stands for another network that the container is attached to: what it answers from its
address there, as to callers of a published port, leaves there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from lib import advice
from lib.model import (
    DEFAULT_METRIC,
    DIRECT,
    DIRECT_LABEL,
    GWBRIDGE,
    MAIN,
    NETWORKS_LABEL,
    Refusal,
    Route,
    Rule,
)
from lib.routing import attached, labels, policy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from lib.model import Address, Container, Gateway, Inside, Network, Thing


def names_networks(label: str) -> bool:
    """Tell whether a label has names: then all routes go to our table, as such rules pass it by."""
    return any(isinstance(entry, str) for entry in labels.parse_direct(label)[0])


def asked(
    label: str,
    routes: Sequence[Route],
    owner: Container,
    gateway: Gateway,
    networks: Collection[Network],
) -> tuple[tuple[Thing, ...], tuple[Refusal, ...]]:
    """Return what a client's label asks for beside its routes through the gateway.

    The owner of its namespace is attached to these networks.
    """
    entries, refusals = labels.parse_direct(label)
    wholly = names_networks(label)
    things: dict[Thing, None] = {}
    remarks = list(refusals)
    for entry in entries:
        if isinstance(entry, str):
            remark = _foreign(entry, owner, gateway)
            found: Iterable[Thing] = _rules(entry, routes, owner)
        else:
            remark = attached.refusal(entry, networks) or _outside(entry, routes)
            table = policy.table_of(entry, networks, wholly=wholly)
            found = (Route(entry, None, DEFAULT_METRIC[entry.version], DIRECT, table),)
        if remark:
            remarks.append(remark)
        else:
            things.update(dict.fromkeys(found))
    return tuple(things), tuple(remarks)


def is_beside(thing: Thing, routes: Iterable[Route], elsewhere: Iterable[Route]) -> bool:
    """Tell whether what keeps off the gateways is to be set with these routes of ours.

    A rule goes with any of its IP version, a route with the narrowest that is around it.
    """
    if isinstance(thing, Rule):
        return any(one.version == thing.version for one in routes)
    return _narrowest(thing, routes) > _narrowest(thing, elsewhere)


def _narrowest(thing: Route, routes: Iterable[Route]) -> int:
    """Return the longest prefix of those destinations that contain a route's; -1 if none does."""
    same = (one.dst for one in routes if one.version == thing.version)
    around = (dst.prefixlen for dst in same if thing.dst.subnet_of(dst))  # type: ignore[arg-type]
    return max(around, default=-1)


def resolved(wanted: Collection[Thing], here: Inside) -> dict[Route, Route | Refusal]:
    """Return, of what is wanted in a namespace, each direct route as it is now; or why not."""
    through = [thing for thing in wanted if isinstance(thing, Route) and not _is_direct(thing)]
    return {route: _way(route, through, here) for route in filter(_is_direct, wanted)}


def _way(route: Route, through: Iterable[Route], here: Inside) -> Route | Refusal:
    """Return where a direct route leads, beside those through the gateway; or why nowhere."""
    gateway, hint = _default_gateway(route.version, here), advice.NOT_INTERNAL
    reason = f"has no other way: the engine gave the container no IPv{route.version} gateway"
    if any(one.place == route.place for one in through):
        reason = "is to go through the gateway for another container in this network namespace"
        hint = advice.ONE_OF_TWO_LABELS
    elif gateway and any(one.gateway == gateway for one in through):
        reason = "has no other way: the container's default route leads to the gateway, too"
        hint = advice.NOT_THE_ENGINES
    elif gateway:
        return route._replace(gateway=gateway, kind="unicast")
    return Refusal(str(route.dst), reason, hint)


def _is_direct(thing: Thing) -> TypeGuard[Route]:
    return isinstance(thing, Route) and thing.kind == DIRECT


def _default_gateway(version: int, here: Inside) -> Address | None:
    """Return the next hop of the main table's default route; none that needs its device named."""
    defaults = [
        one
        for one in here.routes
        if (one.version, one.dst.prefixlen, one.table) == (version, 0, MAIN)
        and one.gateway
        and one.gateway.version == version
        and not one.gateway.is_link_local
    ]
    return min(defaults, key=lambda one: one.metric).gateway if defaults else None


def _rules(name: str, routes: Iterable[Route], owner: Container) -> tuple[Rule, ...]:
    point = owner.endpoint(name)
    versions = {route.version for route in routes}
    faces = point.interfaces if point else ()
    return tuple(policy.past(face.ip) for face in faces if face.version in versions)


def _foreign(name: str, owner: Container, gateway: Gateway) -> Refusal | None:
    """Refuse a network to which the container is not attached, and the one that is served."""
    if name in {gateway.network, gateway.network_id}:
        reason = "is the network of the gateway: all would go past it"
        return Refusal(name, reason, "name another network, or those who call in CIDR notation")
    if owner.endpoint(name):
        return None
    if name == GWBRIDGE:
        reason = "is the engine's own network, which does not tell whose address is whose"
        return Refusal(name, reason, "write the networks of those who call in CIDR notation")
    others = [one.network for one in owner.endpoints if one.network_id != gateway.network_id]
    hint = f"write {', '.join(others)}" if others else advice.attach(name, owner)
    return Refusal(name, "is the name of no network to which the container is attached", hint)


def _outside(dst: Network, routes: Iterable[Route]) -> Refusal | None:
    """Refuse what goes past the gateway anyway, and what both labels name."""
    around = [one.dst for one in routes if one.version == dst.version and dst.subnet_of(one.dst)]  # type: ignore[arg-type]
    if dst in around:
        reason = f"stands in {NETWORKS_LABEL} too, and goes through the gateway"
        return Refusal(str(dst), reason, advice.ONE_OF_TWO_LABELS)
    if around:
        return None
    reason = f"is inside no network of {NETWORKS_LABEL} that is served"
    return Refusal(str(dst), reason, f"remove it from {DIRECT_LABEL}: it goes past the gateway")
