"""What is due when: full passes, passes after events, further tries.

Pure: every method is handed the time, in monotonic seconds.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from lib.reconcile.report import GATEWAY, TUNNEL, Scope, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.model import Event
    from lib.reconcile.report import Report, Unfinished

_SETTLING_SECONDS = 0.3
"""To wait for more events after one that can wait: the containers concerned are starting, or others
are, and need the CPU."""

_LONGEST_SETTLING_SECONDS = 1.0
"""After which they have waited enough, whatever else happens."""

_REST = 4
"""For so many times as long as a reroute took there is not another one: routes of a gateway may
change without end."""

_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 0.5, 30.0


def delay(tries: int, longest: float = _LONGEST_DELAY_SECONDS) -> float:
    """Return seconds to wait after so many failed tries in a row: doubled each time, with jitter.

    Never longer than half a minute, nor than `longest`.
    """
    doubled = _FIRST_DELAY_SECONDS * 2.0 ** min(tries - 1, 16)
    shortest = min(doubled, longest, _LONGEST_DELAY_SECONDS)
    return shortest * random.uniform(0.8, 1.0)  # noqa: S311 - no secret


def delays(longest: float) -> Iterator[float]:
    """Yield the delays after the first failed try, the second, and so on for ever."""
    tries = 0
    while True:
        tries += 1
        yield delay(tries, longest)


class Schedule:
    """When the next pass is due, and for whom."""

    def __init__(self, interval: float) -> None:
        """Nothing is due before `begin`. The interval is that between full passes, in seconds."""
        self._interval = interval
        self._trigger = ""
        """Why a full pass is due at once; empty if none is."""
        self.full_at = math.inf
        """When the next regular full pass is due; infinite while one is under way."""
        self._gateway_at = math.inf
        """When the gateway is looked for again."""
        self._gateway_delays = delays(interval)
        self._again_at = math.inf
        """When the gateway is looked at again, as the last pass said."""
        self._changed: dict[str, str] = {}
        """What the first event of each container was that a pass has still to look at."""
        self._ended: dict[str, float] = {}
        """When those of them ended last that did (Unix seconds)."""
        self._settled_at = self._settled_until = math.inf
        self._unfinished: tuple[Unfinished, ...] = ()
        self.reroute_at = math.inf
        """When to look at the gateway's tunnel."""
        self._verify_at = math.inf
        """When to verify what came of that."""
        self._rest_until = self._taken_at = -math.inf

    def begin(self, trigger: str) -> None:
        """Make a full pass due at once: whatever was heard before is covered by it."""
        self._trigger = trigger
        self._forget_events()

    def add(self, events: Iterable[Event], now: float, *, urgent: bool) -> None:
        """Take in events that concern us; with an urgent one nobody waits for more."""
        for event in events:
            if not self._changed:
                self._settled_until = now + _LONGEST_SETTLING_SECONDS
            self._changed.setdefault(event.container_id, event.action)
            if event.action == "die":
                self._ended[event.container_id] = event.moment
            self._settled_at = now + _SETTLING_SECONDS
        if urgent:
            self._settled_until = now

    def note_change(self, now: float) -> None:
        """Take in that links, routes or rules of the gateway changed."""
        self.reroute_at = min(self.reroute_at, max(now, self._rest_until))

    def note_move(self) -> None:
        """Make a full pass due at once, as the gateway may be another one."""
        self._trigger = self._trigger or GATEWAY

    def finish(self, report: Report, now: float) -> None:
        """Take in what a pass left to do."""
        if report.scope.is_reroute:
            self._rest_until = now + _REST * (now - self._taken_at)
            if report.is_rerouted:
                self._verify_at = now + _SETTLING_SECONDS
            return
        self._unfinished = report.unfinished
        self._again_at = report.again_at
        self.full_at = self.full_due(now)
        if not isinstance(report.gateway, Unknown):
            self._gateway_at = math.inf
            self._gateway_delays = delays(self._interval)
        elif not now < self._gateway_at < math.inf:  # Events must not put the next try off.
            self._gateway_at = now + next(self._gateway_delays)

    def full_due(self, now: float) -> float:
        """Return when the next regular full pass is due, as if one that is under way ended now."""
        return now + self._interval if self.full_at == math.inf else self.full_at

    def next_at(self) -> float:
        """Return when something is due."""
        if self._trigger:
            return -math.inf
        works = (work.due for work in self._unfinished)
        full = min(self.full_at, self._gateway_at, self._again_at, self._verify_at)
        return min(full, self.reroute_at, self._events_at, *works)

    def take(self, now: float) -> Scope | None:
        """Return whom a pass is due for, once; None if none is."""
        if self.next_at() > now:
            return None
        if not self._trigger and (scope := self.take_reroute(now)):
            return scope
        retries = {work.container_id for work in self._unfinished if work.due <= now}
        self._unfinished = tuple(work for work in self._unfinished if work.due > now)
        is_settled = self._events_at <= now
        trigger = self._full_trigger(now)
        changed = self._changed if trigger or is_settled else {}
        first = next(iter(changed.values()), "retry")
        ids = frozenset(retries | changed.keys())
        scope = Scope(trigger or first, ids, bool(trigger), self._ended if changed else {})
        if changed:
            self._forget_events()
        return scope

    def take_reroute(self, now: float) -> Scope | None:
        """Return the scope of a reroute if one is due, which needs no engine; else None."""
        if self.reroute_at > now:
            return None
        self.reroute_at, self._taken_at = math.inf, now
        return Scope(TUNNEL)

    def _full_trigger(self, now: float) -> str:
        """Return why a full pass is due, if one is; it is not after that."""
        trigger, self._trigger = self._trigger, ""
        if not trigger and self.full_at <= now:
            trigger = "resync"
        elif not trigger and self._verify_at <= now:
            trigger = TUNNEL
        if trigger:
            self._verify_at = math.inf
            self.full_at = math.inf  # It counts from the end of this one.
        elif min(self._gateway_at, self._again_at) <= now:
            trigger = "retry"
        return trigger

    @property
    def _events_at(self) -> float:
        return min(self._settled_at, self._settled_until)

    def _forget_events(self) -> None:
        self._changed = {}
        self._ended = {}
        self._settled_at = self._settled_until = math.inf
