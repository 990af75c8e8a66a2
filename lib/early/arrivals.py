"""The new namespaces that are looked at, each until its client is served or nothing is to come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from lib.early.arrival import PATIENCE_SECONDS, Arrival, State, grant, next_state
from lib.early.lookup import Need, Questions, Reference
from lib.errors import NetnsError
from lib.kernel import namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from lib.early.arrival import Grant
    from lib.early.lookup import Answers
    from lib.model import Address

log = structlog.get_logger()

CALM_SECONDS = 0.5
"""Without news from a namespace, after which nobody is being attached to it."""

MOST_ARRIVALS = 128
"""Namespaces looked at at a time, each by a file descriptor; the pass serves the rest."""


class Monitor(Protocol):
    """The part of `AddressMonitor` that is used here."""

    @property
    def addresses(self) -> set[Address]:
        """All addresses that the namespace has or had."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether routes can be set."""
        ...

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is news."""
        ...

    def read(self) -> bool:
        """Take in the news, and tell whether there was any."""
        ...

    def close(self) -> None:
        """Let go of the namespace."""
        ...


class Arrivals:
    """Those that are looked at now, and whose the served ones were."""

    def __init__(self, monitor: Callable[[str], Monitor]) -> None:
        """Take what opens a monitor in the namespace of a path; it may raise NetnsError."""
        self._open = monitor
        self._pairs: list[tuple[Arrival, Monitor]] = []
        self._served: dict[str, str] = {}
        """Paths of namespaces by the name or id of their container, which may not run yet."""

    def __len__(self) -> int:
        return len(self._pairs)

    def monitors(self) -> list[Monitor]:
        """Return what tells of news."""
        return [monitor for _, monitor in self._pairs]

    def patience(self, now: float) -> float:
        """Return for how many seconds the oldest may still be looked at."""
        since = min((arrival.since for arrival, _ in self._pairs), default=now)
        return max(0.0, since + PATIENCE_SECONDS - now)

    def take_up(self, paths: Iterable[str], now: float) -> None:
        """Look at new namespaces too."""
        for path in paths:
            if len(self) == MOST_ARRIVALS:
                break
            try:
                self._pairs.append((Arrival(path, now, now), self._open(path)))
            except (NetnsError, OSError) as error:
                log.debug("watch.failed", netns=path, reason=str(error))
        for key in [key for key, path in self._served.items() if not namespaces.identify(path)]:
            del self._served[key]  # It ended, and may be started again.

    def advance(
        self, known: Answers, now: float, tried: Container[Grant] = frozenset()
    ) -> list[Grant]:
        """Take in the news, and return what is to be tried: where there is any.

        What is `tried` now is widened by nothing until it is known what came of that.
        """
        due = []
        for arrival, monitor in self._pairs:
            is_news = _read(arrival, monitor, now)
            arrival.state = next_state(arrival, known, now)
            if arrival.state is State.READY and not arrival.grant:
                arrival.grant = grant(arrival, known)
                self._note_served(arrival, known)
                is_news = True
            elif _lacks_networks(arrival) and arrival.grant not in tried:
                is_news |= _widen(arrival, known)
                arrival.state = next_state(arrival, known, now)
            if arrival.grant and arrival.state is State.READY and is_news and monitor.is_up:
                due.append(arrival.grant)
        return due

    def let_go(self, known: Answers, now: float) -> None:
        """Look no longer where all is done, or nothing is to be expected."""
        kept = []
        for arrival, monitor in self._pairs:
            arrival.state = next_state(arrival, known, now)
            if arrival.state.is_over:
                _close(arrival, monitor)
            else:
                kept.append((arrival, monitor))
        self._pairs = kept

    def begin_anew(self) -> None:
        """Forget what the engine said: routes are to lead to another gateway."""
        for arrival, _ in self._pairs:
            arrival.state, arrival.grant = State.NEW, None

    def close(self) -> None:
        """Look no longer anywhere."""
        for arrival, monitor in self._pairs:
            _close(arrival, monitor)
        self._pairs = []

    def questions(self, known: Answers, now: float) -> Questions:
        """Return what the engine has to be asked, and go on to be."""
        waiting = [
            arrival
            for arrival, _ in self._pairs
            if (arrival.state in {State.NEW, State.HELD} or _lacks_networks(arrival))
            and arrival.last_news > now - CALM_SECONDS
        ]
        if not waiting:
            return Questions()
        since = [arrival.since for arrival in waiting]
        unknown = [arrival for arrival in waiting if not arrival.grant]
        names = (Reference(name, is_name=True) for name in known.network.attaching)
        need = Need(min(since))
        coming = {name: need for name in names if not known.description(name, need.since)}
        return Questions(
            addresses=len(self._expected(known)) < len(unknown)
            or any(
                known.asked < arrival.since or known.is_on_network(arrival.addresses)
                for arrival in unknown
            ),
            news=max((one.last_news for one in unknown), default=0.0),
            subnets_since=max(since),
            containers=coming | dict(_undescribed(waiting, known)),
        )

    def _expected(self, known: Answers) -> set[Reference]:
        """Return who is being started, as far as it is known, and has no namespace yet."""
        return {
            who for who, _ in known.attached() if who.text not in self._served and known.starts(who)
        }

    def _note_served(self, arrival: Arrival, known: Answers) -> None:
        if owner := known.owner_of(arrival.addresses):
            self._served[owner.text] = arrival.path
        if arrival.grant:
            self._served[arrival.grant.given.client.container_id] = arrival.path


def _lacks_networks(arrival: Arrival) -> bool:
    return bool(arrival.grant and arrival.grant.lacks_networks)


def _widen(arrival: Arrival, known: Answers) -> bool:
    """Grant what depended on the client's networks, and tell whether they are known by now."""
    wider = grant(arrival, known)
    if not wider or wider.lacks_networks or not arrival.grant:
        return False
    wider.follow(arrival.grant)
    arrival.grant = wider
    return True


def _undescribed(waiting: Iterable[Arrival], known: Answers) -> Iterable[tuple[Reference, Need]]:
    """Yield who holds a namespace and is to be asked for."""
    for arrival in waiting:
        owner = known.owner_of(arrival.addresses)
        if owner and not known.description(owner, arrival.since):
            yield owner, Need(arrival.since)
        elif owner and known.subnets_asked >= arrival.since:
            yield owner, Need(arrival.since, subnets=True)


def _read(arrival: Arrival, monitor: Monitor, now: float) -> bool:
    """Take in what the kernel says of a namespace, and tell whether that was anything."""
    arrival.is_gone = not namespaces.identify(arrival.path)
    try:
        is_news = monitor.read()
    except OSError as error:
        log.debug("watch.failed", netns=arrival.path, reason=str(error))
        arrival.is_gone = True
        return False
    arrival.addresses = monitor.addresses
    if is_news:
        arrival.last_news = now
    return is_news


def _close(arrival: Arrival, monitor: Monitor) -> None:
    monitor.close()
    if arrival.grant:
        arrival.grant.tell_missed()
