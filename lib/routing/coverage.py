"""What `auto` stands for: all that a gateway sends into its tunnels.

Pure. What a tunnel that is up does not cover any more is nobody's after a while, in which it is
cut off: routes come back one by one. What went into one that is away stays asked for, so that
nothing takes another way.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from lib import advice
from lib.model import Network, Refusal, Route, Tunnelled
from lib.routing import attached, policy
from lib.routing.labels import AUTO, MAX_ENTRIES, not_unicast

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from lib.model import Address, Client, Coverage, Gateway, Thing
    from lib.routing.serving import Portion

HOLD_SECONDS = 10.0
"""For which a tunnel has to be up without a route before that is taken back."""

_EVERYTHING = "0.0.0.0/0, ::/0"


class Last(NamedTuple):
    """When a destination was last seen to go into a tunnel."""

    device: str
    """The tunnel's name."""
    missing_since: float | None = None
    """Since when (monotonic seconds) that tunnel is up without it; None if it is not."""
    is_there: bool = True
    """Whether it went there at the last look."""


Memory = dict[Network, Last]


def remembered(known: Mapping[Network, Last], found: Tunnelled, now: float) -> Memory:
    """Return what is known after a look, of a tunnel that is away what it covered."""
    memory = {dst: Last(device) for dst, device in found.devices.items()}
    for dst, last in known.items():
        since = None
        if last.device in found.up:
            since = now if last.missing_since is None else last.missing_since
        if dst in memory:
            continue
        if dst.version not in found.versions:
            memory[dst] = last._replace(missing_since=None)
        elif since is None or now - since < HOLD_SECONDS:
            memory[dst] = Last(last.device, since, is_there=False)
    return memory


def unseen(known: Mapping[Network, Last]) -> Memory:
    """Return the same without a look: what was missing begins anew."""
    return remembered(known, Tunnelled(), 0.0)


def ends(known: Mapping[Network, Last]) -> float:
    """Return when (monotonic seconds) something is taken back; infinite if nothing is."""
    since = (last.missing_since for last in known.values() if last.missing_since is not None)
    return min(since, default=math.inf) + HOLD_SECONDS


def completed(
    portion: Portion,
    gateway: Gateway,
    networks: Collection[Network],
    versions: Collection[int],
) -> tuple[Portion, frozenset[Network]]:
    """Return what a client asks for with what `auto` adds to it, and that.

    It is attached to these networks. What is asked for by name, of whomever, is not added; nor is
    an IP version that the client does not have.
    """
    if not portion.is_auto:
        return portion, frozenset()
    named = frozenset(portion.everything)
    remarks = list(_nothing(gateway, named))
    added = []
    for dst in destinations(gateway.coverage, named):
        if remark := attached.refusal(dst, networks):
            remarks.append(remark._replace(hint=advice.OVERLAP))
        elif dst.version in versions:
            added.append(dst)
    if surplus := added[MAX_ENTRIES:]:
        reason = f"is more than {MAX_ENTRIES} networks; {len(surplus)} of them are left out"
        remarks.append(Refusal(AUTO, reason, advice.JOIN_ROUTES))
    kept = added[:MAX_ENTRIES]
    complete = portion._replace(
        destinations=(*portion.destinations, *kept), refusals=(*portion.refusals, *remarks)
    )
    return complete, frozenset(kept)


@lru_cache(maxsize=64)  # Most clients name nothing beside it, and each pass asks for all.
def destinations(
    coverage: Coverage, named: frozenset[Network] = frozenset()
) -> tuple[Network, ...]:
    """Return what a client gets of it beside what it names, in order.

    Neither everything nor its halves; and what is inside another one needs no route of its own.
    """
    usual = (
        dst
        for dst in coverage.networks or ()
        if dst not in named and not policy.is_wide(dst) and not not_unicast(dst)
    )
    found: list[Network] = []
    for dst in sorted(usual, key=lambda dst: (dst.version, dst)):
        # One that contains others comes right before them.
        if not (found and found[-1].version == dst.version and dst.subnet_of(found[-1])):  # type: ignore[arg-type]
            found.append(dst)
    return tuple(found)


def _nothing(gateway: Gateway, named: Iterable[Network]) -> Iterator[Refusal]:
    """Refuse what stands for nothing, or for nobody knows what, beside what is named."""
    coverage, name = gateway.coverage, gateway.container
    if coverage.networks is None and coverage.reason:
        yield Refusal(AUTO, f"is not known: {coverage.reason}", advice.DOCTOR)
    elif not coverage.networks:
        reason = f"is nothing yet: {name} was not seen to send anything into a tunnel"
        yield Refusal(AUTO, reason, advice.tunnel_routes(name))
    elif not destinations(coverage) and not any(map(policy.is_wide, named)):
        reason = f"is nothing: {name} sends only everything into its tunnel"
        yield Refusal(AUTO, reason, f"write {AUTO}, {_EVERYTHING}")


def is_complete(portion: Portion, gateway: Gateway) -> bool:
    """Tell whether all is known here that a client asks for, of whomever."""
    is_known = gateway.coverage.networks is not None or not portion.is_auto
    return is_known and not portion.autos


def rivals(portion: Portion, gateway: Gateway) -> frozenset[Address]:
    """Return the addresses of the other gateways of which `auto` is asked for."""
    there = (one for one in gateway.gateways.candidates if one.gateway in portion.autos)
    return frozenset(address for one in there for address in one.addresses)


def yielded(wanted: Mapping[Thing, Client], actual: Iterable[Thing]) -> dict[Route, Refusal]:
    """Return what is left to another gateway, whose tunnels cover it too: it was there first."""
    there = {one.place: one.gateway for one in actual if isinstance(one, Route) and one.gateway}
    found = {}
    for thing, client in wanted.items():
        if isinstance(thing, Route) and thing.dst in client.auto:
            by = there.get(thing.place)
            if by in client.yields_to:
                reason = f"leads through {by} already, whose tunnels cover it too"
                found[thing] = Refusal(str(thing.dst), reason, advice.NAME_IT)
    return found
