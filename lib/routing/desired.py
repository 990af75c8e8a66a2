"""A snapshot to the routes that its labels ask for, with a reason for all that is left out.

Pure. This is where a request is held against what the client is attached to, so that no label can
cut a client off or reach a namespace that is not its own.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from lib import advice
from lib.model import (
    DEFAULT_METRIC,
    DIRECT_LABEL,
    NETWORKS_LABEL,
    OPEN,
    TABLE,
    Client,
    Desired,
    Refusal,
    Route,
    Skipped,
)
from lib.routing import attached, coverage, direct, policy, serving
from lib.routing.surprises import surprises

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from lib.model import Container, Endpoint, Gateway, Network, Snapshot
    from lib.routing.serving import Portion


def compute(snapshot: Snapshot, gateway: Gateway) -> Desired:
    """Return what every container that asks gets through that gateway, ordered by name.

    What another gateway serves is left to the sidecar of that one. While the gateway is lost, what
    it led to is unreachable: its address may go to a stranger.
    """
    clients, skipped = [], [_told(one, gateway) for one in snapshot.skipped]
    for container, owner in sorted(snapshot.clients, key=lambda pair: (pair[0].name, pair[0].id)):
        verdict = _client(container, owner, gateway)
        if isinstance(verdict, Client):
            clients.append(verdict)
        else:
            skipped.append(_told(verdict, gateway))
    skipped.sort(key=lambda one: (one.container, one.container_id))
    return Desired(tuple(clients), tuple(skipped))


def _told(skipped: Skipped, gateway: Gateway) -> Skipped:
    """Return it as nothing to mind where the first of several networks tells of it."""
    return skipped._replace(expected=skipped.expected or bool(gateway.before))


def _client(container: Container, owner: Container, gateway: Gateway) -> Client | Skipped:
    def skip(reason: str, hint: str = "", *, expected: bool = False) -> Skipped:
        return Skipped(container.name, container.id, reason, hint, expected)

    if not owner.running and owner.id != container.id:
        hint = advice.start_shared(owner.name, container.name)
        return skip(f"{owner.name} is not running", hint, expected=True)
    if not container.running:
        hint = advice.start(container.name)
        return skip(f"{container.name} is not running", hint, expected=True)
    if owner.network_mode == "host":
        hint = f"attach it to {gateway.network} instead, or remove the label"
        return skip("uses the host's network namespace, which is never written", hint)
    point = owner.endpoint(gateway.network_id)
    if owner.id == gateway.container_id or (gateway.is_outside and _is_at(point, gateway)):
        hint = f"remove the label {NETWORKS_LABEL}: the gateway has these routes itself"
        return skip("is in the gateway's own network namespace", hint)
    there = _other_network(_names(owner), gateway)
    portion = serving.portion(container.labels, gateway.gateways, _names(owner))
    near = (*owner.attached, *gateway.unlisted)
    versions = {one.version for one in (point.interfaces if point else owner.attached)}
    portion, auto = coverage.completed(portion, gateway, near, versions)
    if there:
        portion = serving.left(portion, gateway.gateways.ours)
    if not point and not there:
        hint = advice.attach(gateway.network, owner)
        skipped = skip(f"is not attached to {gateway.network}", hint, expected=True)
        return skipped._replace(left=_left(container, owner, gateway, portion))
    if not owner.sandbox_key:
        return skip("has no network namespace yet", expected=True)
    client = _served(container, owner, gateway, versions, portion)._replace(auto=auto)
    if client.routes or client.refusals or not (others := _others(portion, gateway)):
        return client
    hint = "" if there else f"ask the sidecar of {others} about it"
    reason = f"is for the network {there}" if there else f"is served by the gateway {others}"
    return skip(reason, hint, expected=True)._replace(elsewhere=client)


def _is_at(point: Endpoint | None, gateway: Gateway) -> bool:
    """Tell whether the gateway's address there is a container's own."""
    return any(one.ip in gateway.addresses for one in (point.interfaces if point else ()))


def _others(portion: Portion, gateway: Gateway) -> str:
    """Return the names of the gateways that serve somebody instead of ours; empty if none does."""
    names = {name for name in (*portion.elsewhere.values(), *portion.autos) if name}
    if not names and not portion.tells:
        return gateway.gateways.unnamed
    return ", ".join(sorted(names))


def _served(
    container: Container,
    owner: Container,
    gateway: Gateway,
    versions: Collection[int],
    portion: Portion,
) -> Client:
    """Return a client that has addresses of these IP versions on the gateway's network."""
    networks = (*owner.attached, *gateway.unlisted)
    past = container.labels.get(DIRECT_LABEL, "")
    wholly = direct.names_networks(past)
    routes, remarks = _routes(portion, gateway, versions, networks, wholly=wholly)
    elsewhere = _elsewhere(portion.elsewhere, networks, wholly=wholly)
    nobodys = [one for one in elsewhere if not portion.elsewhere[one.dst]]
    beside, refusals = direct.asked(past, (*routes, *elsewhere), owner, gateway, networks)
    own = tuple(thing for thing in beside if direct.is_beside(thing, routes, elsewhere))
    theirs = (thing for thing in beside if direct.is_beside(thing, elsewhere, routes))
    is_open = not coverage.is_complete(portion, gateway)
    tells = portion.tells and not is_open  # Else it may be inside what is not known here.
    places = {thing.place for thing in (*policy.needs(elsewhere), *theirs)}
    surprising = surprises(owner, [route.dst for route in routes], own)
    return Client(
        container.name,
        container.id,
        owner.sandbox_key,
        routes,
        (*remarks, *(refusals if tells else ()), *surprising),
        shared_with=owner.name if owner.id != container.id else "",
        direct=own,
        others=frozenset(places | ({OPEN} if is_open else set())),
        unserved=frozenset(thing.place for thing in policy.needs(nobodys)),
        yields_to=coverage.rivals(portion, gateway),
    )


def _elsewhere(
    destinations: Iterable[Network], networks: Sequence[Network], *, wholly: bool
) -> tuple[Route, ...]:
    """Return what stands for the routes of other gateways: where these are, not where they lead."""
    return tuple(
        Route(
            dst,
            None,
            DEFAULT_METRIC[dst.version],
            table=policy.table_of(dst, networks, wholly=wholly),
        )
        for dst in destinations
        if not attached.refusal(dst, networks)
    )


def _left(
    container: Container, owner: Container, gateway: Gateway, portion: Portion
) -> Client | None:
    """Return what holds on for who is not on the network any more, as far as it stands.

    That is what keeps packets from any other way: the guards of what went to our table.
    """
    near = (*owner.attached, *gateway.unlisted, *map(ip_network, gateway.addresses))
    past = container.labels.get(DIRECT_LABEL, "")
    wholly = direct.names_networks(past) or not gateway.addresses
    guards = tuple(
        policy.guard(dst)
        for dst in portion.destinations
        if policy.table_of(dst, near, wholly=wholly) == TABLE
    )
    if not guards or not owner.sandbox_key:
        return None
    reason = f"is unreachable: the container has left {gateway.network}"
    hint = advice.attach(gateway.network, owner)
    remarks = (Refusal(str(one.dst), reason, hint, served=True) for one in guards)
    beside, _ = direct.asked(past, guards, owner, gateway, near)
    return Client(
        container.name, container.id, owner.sandbox_key, guards, tuple(remarks), direct=beside
    )


def _routes(
    portion: Portion,
    gateway: Gateway,
    near: Collection[int],
    networks: Sequence[Network],
    *,
    wholly: bool,
) -> tuple[tuple[Route, ...], tuple[Refusal, ...]]:
    versions: set[int] = {network.version for network in networks}
    routes = []
    remarks = list(portion.refusals)
    for dst in portion.destinations:
        remark = _lacking(dst, gateway, near) or attached.refusal(dst, networks)
        is_served = not remark or remark.served
        if is_served:
            routes.append(leading(dst, gateway, policy.table_of(dst, networks, wholly=wholly)))
        # Who has no address of an IP version lacks nothing where that is unreachable.
        if remark and (dst.version in versions or not is_served):
            remarks.append(remark)
    everything = {dst.version for dst in portion.everything if dst.prefixlen == 0}
    remarks += _open(portion.destinations, versions - everything)
    return tuple(routes), tuple(remarks)


def asked(container: Container, gateway: Gateway) -> tuple[Network, ...]:
    """Return what a container's labels ask of a gateway, whether it can be served or not."""
    names = _names(container)
    if _other_network(names, gateway):
        return ()
    return serving.portion(container.labels, gateway.gateways, names).destinations


def _names(owner: Container) -> frozenset[str]:
    """Return the names and ids of its networks."""
    points = owner.endpoints
    return frozenset(name for one in points for name in (one.network, one.network_id))


def _other_network(names: Collection[str], gateway: Gateway) -> str:
    """Return on which other network our gateway serves who is on these; empty if on this one.

    Of several it is the first. Who is on none may have left one, to which the first sees.
    """
    if earlier := [one for one in gateway.earlier if one in names]:
        return earlier[0]
    if gateway.network in names or gateway.network_id in names:
        return ""
    others = [one for one in gateway.after if one in names] or gateway.before
    return next(iter(others), "")


def leading(dst: Network, gateway: Gateway, table: int) -> Route:
    """Return what leads to a destination, or what keeps packets from any other way there."""
    address = gateway.address(dst.version)
    if dst.version in gateway.lost or (address and dst in gateway.cut_off):
        return Route(dst, None, DEFAULT_METRIC[dst.version], "unreachable", table)
    if address:
        return Route(dst, address, DEFAULT_METRIC[dst.version], table=table)
    return policy.guard(dst)


def _lacking(dst: Network, gateway: Gateway, near: Collection[int]) -> Refusal | None:
    """Refuse an IP version in which there is no next hop, nor was, for who has these versions.

    All of that version is another matter: it is not to leave by another way, and fails at once.
    """
    if gateway.address(dst.version) or dst.version in gateway.lost:
        return None
    family = f"IPv{dst.version}"
    reason = f"is {family}, and the gateway has no {family} address on {gateway.network}"
    hint = f"give the network {gateway.network} an {family} subnet"
    if dst.version in near:
        hint = f"the network has {family}: see the sysctls of {gateway.container}"
    if gateway.is_outside:
        hint = f"name its {family} address too, after a comma, or remove the entry"
    if dst.prefixlen == 0:
        reason = f"is unreachable: the gateway has no {family} address on {gateway.network}"
        return Refusal(str(dst), reason, hint, served=True)
    return Refusal(str(dst), reason, hint)


def _open(destinations: Iterable[Network], versions: Iterable[int]) -> Iterator[Refusal]:
    """Yield a remark on an IP version that goes its own way where all of the other is asked for."""
    for dst in (one for one in destinations if one.prefixlen == 0):
        for other in versions:
            reason = f"is served, but IPv{other} goes on by the engine's default route"
            yield Refusal(str(dst), reason, advice.both_versions(other), served=True)
