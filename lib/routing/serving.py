"""Which gateway serves what of a client's labels.

Pure, and by what the engine tells alone, so that all sidecars come to the same answer. A label that
names a gateway is that one's, whose names are its container's, its service's and its aliases on the
network; one without a name is for the one that serves those. The same destination in several
labels is the first one's, and the next one's while that is lost. Who comes back from a loss waits
for a while, so that one that crashes again and again takes nothing from another.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from lib.model import (
    DIRECT_LABEL,
    NAMED_PREFIX,
    NETWORKS_LABEL,
    PREFER_LABEL,
    Candidate,
    First,
    Gateways,
    Standing,
)
from lib.routing import labels
from lib.routing.contest import HOLD_SECONDS, is_new

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from lib.model import Claim, Network, Refusal


_BESIDE = (DIRECT_LABEL, PREFER_LABEL)
"""Labels that say how what others ask for is to be served."""


@dataclass(slots=True)
class Shares:
    """What of a client's labels which gateway serves, by the names of their containers."""

    gateways: dict[Network, str] = field(default_factory=dict)
    """By destination; empty where nobody answers to the name that asks for it."""
    refusals: dict[str, list[Refusal]] = field(default_factory=dict)
    """By the gateway whose sidecar tells of them."""
    autos: set[str] = field(default_factory=set)
    """Those of which all that their tunnels cover is asked for: each knows its own alone."""


class Portion(NamedTuple):
    """What of a client's labels is ours to do."""

    destinations: tuple[Network, ...]
    refusals: tuple[Refusal, ...]
    elsewhere: Mapping[Network, str]
    """By destination, the gateway that serves it instead; empty where none does."""
    tells: bool
    """Whether what no single gateway has to do with is ours to tell."""
    is_auto: bool = False
    """Whether all that our gateway's tunnels cover is asked for beside that."""
    autos: frozenset[str] = frozenset()
    """The other gateways of which that is asked for; with an empty name if it is nobody's."""

    @property
    def everything(self) -> tuple[Network, ...]:
        """All destinations, whoever serves them."""
        return (*self.destinations, *self.elsewhere)


class _Wish(NamedTuple):
    """One label of a client that asks for networks."""

    name: str | None
    """The gateway's, as it stands there; None for any."""
    gateways: tuple[str, ...]
    """Those that answer to it, by their containers' names."""
    destinations: tuple[Network, ...]
    refusals: tuple[Refusal, ...]
    is_auto: bool


def candidates(claims: Iterable[Claim], now: float) -> tuple[tuple[Candidate, ...], float]:
    """Return the gateways of these claims at a moment, by name, and when they are others.

    That is seconds of Unix time, as `now` is, and infinite if nothing is to come by itself.
    """
    there = sorted(claims, key=lambda claim: (claim.gateway, claim.gateway_id))
    ups = [claim.up_since for claim in there if claim.up_since is not None]
    new = {up for up in ups if is_new(up, ups, now)}
    until = min((up + HOLD_SECONDS for up in new), default=math.inf)
    found = (
        Candidate(one.gateway, one.names, _standing(one, new), one.network, one.addresses)
        for one in there
        if one.gateway != one.untold
    )
    return tuple(found), until


def asks(texts: Mapping[str, str]) -> bool:
    """Tell whether somebody with these labels asks for networks."""
    return any(map(_is_asking, texts))


def asks_auto(texts: Mapping[str, str]) -> bool:
    """Tell whether they ask for all that a gateway's tunnels cover."""
    return any(labels.asks_auto(text) for key, text in texts.items() if _is_asking(key))


def ours(texts: Mapping[str, str]) -> dict[str, str]:
    """Return those of a container's labels that say what it asks for, and how."""
    return {key: text for key, text in texts.items() if key in _BESIDE or _is_asking(key)}


def shares(texts: Mapping[str, str], among: Gateways) -> Shares:
    """Return who of these gateways serves what these labels ask for.

    Who serves what names no gateway also tells of what is nobody else's to tell.
    """
    there, unnamed = among.candidates, among.unnamed
    preferred = list(labels.names(texts.get(PREFER_LABEL, "")))
    wishes = sorted(_wishes(texts, among), key=lambda wish: _place(wish.name, preferred))
    standings = defaultdict(lambda: Standing.LOST, {one.gateway: one.standing for one in there})
    found = Shares()
    for wish in wishes:
        if wish.is_auto:
            found.autos.add(min(wish.gateways, key=standings.__getitem__, default=""))
    by_destination: dict[Network, list[_Wish]] = defaultdict(list)
    for wish in wishes:
        for dst in wish.destinations:
            by_destination[dst].append(wish)
    for dst, asking in by_destination.items():
        if dst.prefixlen == 0 and any(wish.name not in preferred for wish in asking):
            first = asking[0]
            others = (one for one in asking[1:] if one.gateways != first.gateways)
            _tell(found, unnamed, ((one, _second(dst, first, one)) for one in others))
            del asking[1:]
        able = dict.fromkeys(gateway for wish in asking for gateway in wish.gateways)
        found.gateways[dst] = min(able, key=standings.__getitem__, default="")
    _tell(found, unnamed, ((wish, refusal) for wish in wishes for refusal in wish.refusals))
    strangers = [name for name in preferred if all(name != wish.name for wish in wishes)]
    found.refusals.setdefault(unnamed, []).extend(map(_strange, strangers))
    found.refusals = {key: told for key, told in found.refusals.items() if told}
    return found


def portion(texts: Mapping[str, str], gateways: Gateways, networks: Container[str]) -> Portion:
    """Return what is ours of what these labels ask for; their bearer is on those other networks."""
    near = tuple(one for one in gateways.candidates if not one.network or one.network in networks)
    first = min(
        (one for one in gateways.firsts if not one.network or one.network in networks),
        default=First("", gateways.unnamed),
    )
    own = Gateways(gateways.ours, first.gateway, near, gateways.untold)
    return _portion(tuple(ours(texts).items()), own)


def left(portion: Portion, gateway: str) -> Portion:
    """Return a portion of which nothing is ours: our gateway serves it on another network."""
    elsewhere = {**dict.fromkeys(portion.destinations, gateway), **portion.elsewhere}
    return portion._replace(destinations=(), refusals=(), elsewhere=elsewhere, tells=False)


@lru_cache(maxsize=256)  # Labels never change, and each pass asks for all.
def _portion(texts: tuple[tuple[str, str], ...], gateways: Gateways) -> Portion:
    found = shares(dict(texts), gateways)
    own = gateways.ours
    return Portion(
        tuple(dst for dst, gateway in found.gateways.items() if gateway == own),
        tuple(found.refusals.get(own, ())),
        {dst: gateway for dst, gateway in found.gateways.items() if gateway != own},
        gateways.unnamed == own,
        own in found.autos,
        frozenset(found.autos - {own}),
    )


def alone(gateways: Gateways) -> Gateways:
    """Return the same as if there were no other than ours."""
    own = tuple(one for one in gateways.candidates if one.gateway == gateways.ours)
    return Gateways(gateways.ours, gateways.ours, own)


def _standing(claim: Claim, new: Iterable[float]) -> Standing:
    if claim.up_since is None or claim.untold:
        return Standing.LOST
    return Standing.WAITING if claim.up_since in new else Standing.THERE


def _wishes(texts: Mapping[str, str], among: Gateways) -> Iterator[_Wish]:
    for key, text in texts.items():
        if key == NETWORKS_LABEL:
            yield _Wish(None, (among.unnamed,), *labels.parse(text), labels.asks_auto(text))
        elif _is_named(key):
            name = key.removeprefix(NAMED_PREFIX)
            gateways = _answering(name, among)
            destinations, refusals = labels.parse(text)
            is_auto = labels.asks_auto(text)
            unanswered = () if gateways else (_unanswered(key, among.candidates),)
            yield _Wish(name, gateways, destinations, (*unanswered, *refusals), is_auto)


def _is_asking(key: str) -> bool:
    return key == NETWORKS_LABEL or _is_named(key)


def _is_named(key: str) -> bool:
    return key.startswith(NAMED_PREFIX)


def _answering(name: str, among: Gateways) -> tuple[str, ...]:
    """Return who answers to a name: the container that has it, or else all that are called so.

    If nobody does, it may be one whose name only its own sidecar knows.
    """
    by_name = {one.gateway: one for one in among.candidates}
    if name in by_name:
        return (name,)
    called = tuple(sorted(one.gateway for one in by_name.values() if name in one.names))
    return called or (name,) * among.untold


def _place(name: str | None, preferred: Sequence[str]) -> tuple[bool, int, str]:
    """Return when a label comes among those for the same: after all, that which names nobody."""
    where = preferred.index(name) if name in preferred else len(preferred)
    return name is None, where, name or ""


def _tell(found: Shares, unnamed: str, said: Iterable[tuple[_Wish, Refusal]]) -> None:
    """Have each told by who answers to that label, else by who serves those without a name."""
    for wish, refusal in said:
        teller = wish.gateways[0] if wish.gateways else unnamed
        told = found.refusals.setdefault(teller, [])
        if refusal not in told:
            told.append(refusal)


def _second(dst: Network, first: _Wish, second: _Wish) -> Refusal:
    """Refuse a default route beside another gateway's, of which no substitute is named."""
    label, hint = NETWORKS_LABEL, f"take it out of {NETWORKS_LABEL}"
    if second.name is not None:
        label = NAMED_PREFIX + second.name
        hint = f"take it out of one, or write {PREFER_LABEL}: {first.name}, {second.name}"
    reason = f"stands in {label}, but goes through {first.name}: there is one default route"
    return labels.refusal(str(dst), reason, hint)


def _unanswered(key: str, there: Iterable[Candidate]) -> Refusal:
    reason = "names a gateway to which none with a sidecar on this engine answers"
    known = ", ".join(sorted(one.gateway for one in there))
    return labels.refusal(key, reason, f"write one of {known}, or start that one's sidecar")


def _strange(name: str) -> Refusal:
    reason = f"stands in {PREFER_LABEL}, and no label {NAMED_PREFIX}{name} asks it for anything"
    return labels.refusal(name, reason, f"take it out of {PREFER_LABEL}, or add that label")
