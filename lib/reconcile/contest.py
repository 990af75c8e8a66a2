"""Whose gateway serves the clients of our network: asks the engine, remembers the sidecars."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lib.engine import peers
from lib.model import ROLE_LABEL, SIDECAR, Claim, First, Gateways
from lib.routing.contest import HOLD_SECONDS, decide, remembered
from lib.routing.serving import candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lib.engine.asking import Running
    from lib.engine.client import Engine
    from lib.model import Container, Event, Gateway
    from lib.routing.contest import Verdict


_VERIFY_SECONDS = 2.0
"""After a change: another sidecar may have heard of it later, and set its own once more."""


class Judgement(NamedTuple):
    """What was found."""

    verdict: Verdict
    among: Gateways | None
    """The gateways on the network; None if ours is the only one."""
    until: float
    """When it may be another although nothing happens (seconds of Unix time); else infinite."""


class Contest:
    """Knows the sidecars beside ours, also those that have just gone."""

    def __init__(self, time_of_day: Callable[[], float]) -> None:
        """Judge by that clock (seconds of Unix time)."""
        self._time = time_of_day
        self._known: tuple[Claim, ...] = ()
        """The claims of the last judgement."""
        self._far: tuple[Claim, ...] = ()
        """Those for other networks."""
        self._before: dict[str, float] = {}
        """When another sidecar of our gateway was missed, by its network; 0 while it runs."""
        self._ids: set[str] = set()
        """Of sidecars that were seen, or told of by an event."""
        self._gateways: set[str] = set()
        """Ids of the others' gateways."""
        self._among: Gateways | None = None
        """As last judged."""
        self._verify_at = 0.0
        """When to look again at what came of a change."""
        self._own_id = ""

    def judge(
        self,
        engine: Engine,
        running: Running,
        gateway: Gateway,
        ours: Sequence[Container],
        own: Container | None,
    ) -> Judgement:
        """Return whose gateway serves what of the clients of the network.

        `ours` are the containers that are our gateway, first the one by whose name it is known;
        `own` is our own. Without another sidecar, that costs no question but who runs.
        """
        listed = running.sidecars()
        self._own_id = own.id if own else ""
        self._ids = {one.id for one in listed}
        networks = (gateway.network, gateway.network_id)
        claims: list[Claim] = []
        known = (*self._known, *self._far)
        if len(known) > 1 or self._ids - {self._own_id}:
            rivals = [one for one in known if one.sidecar_id != self._own_id]
            claims += peers.claims(engine, listed, networks, rivals)
        now = self._time()
        near = self._with_ours([one for one in claims if not one.network], gateway, ours)
        self._known = self._remembered(engine, self._known, near, networks)
        names = {one.gateway for one in self._known}
        far = [one for one in claims if one.network and one.gateway not in names]
        self._far = self._remembered(engine, self._far, far, networks)
        served = {"", *gateway.before, *gateway.after}
        rivals = [one for one in claims if one.sidecar_id != self._own_id]
        also = {one.network for one in rivals if one.gateway == ours[0].name} - served
        self._note({one for one in also if one < gateway.network}, now)
        self._gateways = {one.gateway_id for one in (*self._known, *self._far)} - {ours[0].id}
        return self._judged(ours[0], now)

    def _remembered(
        self,
        engine: Engine,
        known: Sequence[Claim],
        found: Sequence[Claim],
        networks: Sequence[str],
    ) -> tuple[Claim, ...]:
        """Return claims with those that went just now, whose gateways are looked at anew."""
        claims = remembered(known, found, self._time())
        return tuple(peers.again(engine, one, networks) if one.ended else one for one in claims)

    def _note(self, before: Iterable[str], now: float) -> None:
        """Note on which networks before ours our gateway has other sidecars, or had just now."""
        missed = {key: ended or now for key, ended in self._before.items()}
        self._before = {
            key: ended
            for key, ended in (missed | dict.fromkeys(before, 0.0)).items()
            if now - ended < HOLD_SECONDS or not ended
        }

    def _judged(self, our: Container, now: float) -> Judgement:
        claims, networks = (*self._known, *self._far), {one.network for one in self._far}
        verdicts = [
            decide([one for one in claims if one.network == network], now)
            for network in ("", *sorted(networks))
        ]
        verdict, winners = verdicts[0], [one.winner for one in verdicts]
        there, until = candidates(claims, now)
        among = None
        if len(claims) > 1 or self._before:
            firsts = tuple(First(one.untold, one.gateway, one.network) for one in winners)
            is_all = len(there) == len(claims)
            before = frozenset(self._before)
            among = Gateways(our.name, verdict.winner.gateway, there, not is_all, firsts, before)
        if among and self._among and among != self._among:
            self._verify_at = now + _VERIFY_SECONDS
        self._among = among
        until = min([until, *(ended + HOLD_SECONDS for ended in self._before.values() if ended)])
        verify_at = self._verify_at if self._verify_at > now else math.inf
        return Judgement(verdict, among, min(until, verify_at, *(one.until for one in verdicts)))

    def _with_ours(
        self, claims: Sequence[Claim], gateway: Gateway, ours: Sequence[Container]
    ) -> list[Claim]:
        """Return the claims with that of our gateway as we know it.

        Without the image's label we are not seen by the others at all.
        """
        key, ids = ours[0].id, {one.id for one in ours}
        known = [
            _as_known(one, gateway, ours)
            if one.gateway_id in ids or one.sidecar_id == self._own_id
            else one
            for one in claims
        ]
        if not known or (self._own_id not in self._ids and all(k.gateway_id != key for k in known)):
            known.append(_as_known(Claim("", ""), gateway, ours))
        return known

    def concerns(self, event: Event) -> bool:
        """Tell whether an event is about another sidecar, and remember that one."""
        if event.labels.get(ROLE_LABEL) == SIDECAR and event.container_id != self._own_id:
            self._ids.add(event.container_id)
        return event.container_id in self.ids

    @property
    def ids(self) -> set[str]:
        """Ids of the other sidecars and of their gateways, as far as they are known."""
        return self._gateways | self._ids - {self._own_id}


def _as_known(claim: Claim, gateway: Gateway, ours: Sequence[Container]) -> Claim:
    """Return what our sidecar claims, with our gateway as we know it."""
    claim = claim._replace(gateway=ours[0].name, gateway_id=ours[0].id)
    found = peers.described(claim, ours, (gateway.network, gateway.network_id))
    return found if gateway.addresses else found._replace(up_since=None)
