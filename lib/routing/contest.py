"""Which of several gateways on one network serves the clients that name none.

Pure, and by what the engine tells alone, so that all sidecars come to the same answer: of the
gateways the first by name, which stays the same over restarts, re-creations and reboots. So that it
never flaps, who is away for less than a while keeps its place, and who comes after a longer time,
or for the first time, waits that long if another one serves already: a sidecar that crashes again
and again never takes anything from another.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.model import Claim

HOLD_SECONDS = 10.0
"""For which a container has to run so that the engine starts it again at once, not after a growing
delay (moby, `ShouldRestart` in restartmanager/restartmanager.go)."""


class Verdict(NamedTuple):
    """Who serves, and for how long that is sure."""

    winner: Claim
    waiting: tuple[str, ...]
    """Names of gateways whose sidecars have to wait."""
    until: float
    """When it may be another although nothing happens (seconds of Unix time); else infinite."""

    @property
    def reason(self) -> str:
        """Why it is that one."""
        served = f"clients are served by the gateway {self.winner.gateway}"
        if self.winner.gateway == self.winner.untold:
            served = f"clients are served by that of the sidecar {self.winner.untold}"
        if sooner := [name for name in self.waiting if name < self.winner.gateway]:
            return f"{served} until the sidecar of {sooner[0]} has run for {HOLD_SECONDS:g} s"
        return f"{served}, by name the first of those on this network"


def decide(claims: Iterable[Claim], now: float) -> Verdict:
    """Return who serves at a moment (seconds of Unix time), of one claim at least."""
    there = [*claims]
    waiting = [one for one in there if _waits(one, there, now)]
    winner = min((one for one in there if one not in waiting), key=_rank)
    ends = [one.ended + HOLD_SECONDS for one in there if one.ended]
    ends += [one.since + HOLD_SECONDS for one in waiting]
    names = tuple(sorted(one.gateway for one in waiting))
    return Verdict(winner, names, min(ends, default=math.inf))


def remembered(known: Iterable[Claim], found: Iterable[Claim], now: float) -> tuple[Claim, ...]:
    """Return one claim for each gateway on a network: those found, and those known that just went.

    Of several sidecars beside one gateway it is that of the one that is there for longest. One that
    took another's place was away for no longer than that place was empty. One of which nobody can
    tell any more which gateway it has went, too.
    """
    claims: dict[tuple[str, str], Claim] = {}
    for one in sorted(found, key=_there_since):
        claims.setdefault((one.gateway, one.network), one)
    there = {one.sidecar_id for one in claims.values() if not one.untold}
    for old in known:
        place = old.gateway, old.network
        new, ended = claims.get(place), old.ended or now
        if new and (old.untold or not new.untold):
            claims[place] = new._replace(absent=min(new.absent, _absence(old, new)))
        elif old.sidecar_id not in there and now - ended < HOLD_SECONDS:
            claims[place] = old._replace(ended=ended)
    return tuple(claims.values())


def _absence(old: Claim, new: Claim) -> float:
    """Return for how long a gateway's place was empty before its sidecar came (seconds)."""
    if (old.sidecar_id, old.since) == (new.sidecar_id, new.since):
        return old.absent
    return max(0.0, new.since - old.ended) if old.ended else 0.0


def _rank(claim: Claim) -> tuple[str, str, str]:
    return claim.untold, claim.gateway, claim.gateway_id


def _there_since(claim: Claim) -> float:
    """Return since when a sidecar has its place, which it keeps over a short absence."""
    return 0.0 if claim.ended or claim.absent < HOLD_SECONDS else claim.since


def _waits(claim: Claim, others: Iterable[Claim], now: float) -> bool:
    """Tell whether it is new, and came when another one had its place already.

    A clock that was set back makes nobody wait.
    """
    return is_new(_there_since(claim), map(_there_since, others), now)


def is_new(since: float, others: Iterable[float], now: float) -> bool:
    """Tell whether who is there since then came just now, when another was there for a while."""
    came_just_now = 0 <= now - since < HOLD_SECONDS
    return came_just_now and any(since - other >= HOLD_SECONDS for other in others)
