"""Routes before a client's first instruction.

The engine tells of a start when it is over. But the file of a new namespace appears before, and its
addresses are up before the client's process runs. So when a namespace appears, it is listened to;
when it gets an address that the engine is giving to a client, the client gets its routes. The
kernel keeps it honest: a route with `src ADDRESS` is refused in a namespace that does not hold that
address.

Its failure costs nothing. The pass that follows every start verifies and repairs, and takes back
what came to the wrong place. Nothing here waits for the engine's lock on a starting container, and
nothing at all happens while no namespace appears.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from lib.early.lookup import Scout
from lib.errors import NetnsError
from lib.kernel import namespaces
from lib.kernel.addresses import AddressMonitor
from lib.kernel.mounts import MountWatch
from lib.model import Client, Endpoint, Snapshot, Step
from lib.reconcile.reporting import who
from lib.routing import desired, iproute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lib.early.lookup import Known
    from lib.engine.client import Engine
    from lib.kernel.shells import Shell
    from lib.model import Address, Gateway, Network, Outcome, Route

log = structlog.get_logger()

PATIENCE = 5.0
"""Seconds for which a new namespace is looked at."""

CALM = 0.5
"""Seconds without news from a namespace after which nobody is being attached to it."""

CROWD = 128
"""Namespaces listened to at a time, each by a file descriptor; the pass serves the rest."""

MOST = 32
"""Routes that one client is given early; the pass gives the rest, so that others need not wait."""


class _Arrival:
    """A new namespace, until its client has its routes or it turns out to be somebody else's."""

    def __init__(self, path: str, ear: AddressMonitor) -> None:
        """It is only just there."""
        self.path = path
        self.ear = ear
        self.attempt: _Attempt | None = None
        self.since = self.heard = time.monotonic()
        """When it was seen first, and when there was the last news from it."""

    @property
    def addresses(self) -> set[Address]:
        """All that it has or had."""
        return self.ear.addresses

    def hear(self) -> bool:
        """Take in the news, and tell whether there was any."""
        is_news = self.ear.read()
        if is_news:
            self.heard = time.monotonic()
        return is_news

    def close(self) -> None:
        """Let go of the namespace."""
        self.ear.close()
        if self.attempt:
            self.attempt.tell_missed()


class _Look:
    """The namespaces that are looked at, and whose they turned out to be."""

    def __init__(self, gateway: Gateway, served: dict[str, str]) -> None:
        self.gateway = gateway
        self.arrivals: list[_Arrival] = []
        self._served = served
        """Namespaces of clients that were found, by container id; they may not run yet."""

    def take_up(self, paths: Iterable[str]) -> None:
        """Look at new namespaces too."""
        for path in islice(paths, CROWD - len(self.arrivals)):
            try:
                self.arrivals.append(_Arrival(path, AddressMonitor(path)))
            except NetnsError as error:
                log.debug("watch.failed", netns=path, reason=error.reason)
        for key in [key for key, path in self._served.items() if not namespaces.is_namespace(path)]:
            del self._served[key]  # It ended, and may be started again.

    def due(self, known: Known) -> list[_Attempt]:
        """Return what to try: where the kernel has news, or it is known only now for whom."""
        found = []
        for arrival in self.arrivals:
            is_news = arrival.hear()
            if not arrival.attempt and known.asked >= arrival.since:
                arrival.attempt = self._begin(arrival, known)
                is_news = True
            if arrival.attempt and arrival.ear.is_up and is_news:
                found.append(arrival.attempt)
        return found

    def lacks(self, known: Known) -> bool:
        """Tell whether the engine has to be asked more."""
        since = time.monotonic() - CALM
        strangers = [one for one in self.arrivals if not one.attempt and one.heard > since]
        return any(
            known.asked < arrival.since or known.is_on_network(arrival.addresses)
            for arrival in strangers
        ) or len(known.starting() - self._served.keys()) < len(strangers)

    def let_go(self, known: Known) -> None:
        """Look no longer where all is done, or nothing is to be expected."""
        now = time.monotonic()
        for arrival in tuple(self.arrivals):
            is_late = now - arrival.since > PATIENCE or not namespaces.is_namespace(arrival.path)
            if is_late or _is_over(arrival, known):
                arrival.close()
                self.arrivals.remove(arrival)

    def close(self) -> None:
        """Look no longer anywhere."""
        for arrival in self.arrivals:
            arrival.close()

    def _begin(self, arrival: _Arrival, known: Known) -> _Attempt | None:
        """Return what to try in a namespace that holds the address of a candidate.

        From Docker 28 on networks are attached one by one, and a route that overlaps one still to
        come makes the start itself fail. Without an address of its IP version there is no proof.
        """
        key = known.holder(arrival.addresses)
        if not key:
            return None
        others, subnets = known.other_networks(key, self.gateway), known.attached.others
        if not others <= subnets.keys():
            return None
        self._served[key] = arrival.path
        container, faces = known.candidates[key], known.faces(key)
        point = Endpoint(self.gateway.network, self.gateway.network_id, faces)
        as_if = replace(container, running=True, sandbox_key=arrival.path, endpoints=(point,))
        wanted = desired.compute(Snapshot(((as_if, as_if),)), self.gateway)
        sources: dict[int, Address] = {face.version: face.ip for face in faces}
        avoid = [subnet for name in others for subnet in subnets[name]]
        early = [
            route
            for client in wanted.clients
            for route in client.routes
            if route.gateway and route.dst.version in sources
            if not any(map(_overlaps(route), avoid))
        ]
        client = Client(container.name, container.id, arrival.path, tuple(early[:MOST]))
        return _Attempt(client, sources)


class FastPath:
    """Watches for new namespaces in a thread of its own, with its own shell and scout."""

    def __init__(self, shell: Shell, connect: Callable[[], Engine]) -> None:
        """Nothing is watched until the first `lead_to`."""
        self._shell = shell
        self._scout = Scout(connect)
        self._gateway: Gateway | None = None
        self._watch: MountWatch | None = None
        self._given: queue.SimpleQueue[Client] = queue.SimpleQueue()
        self._served: dict[str, str] = {}

    def lead_to(self, gateway: Gateway | None, directory: Path | None) -> None:
        """Lead clients there from now on, whose namespaces appear in that directory."""
        self._gateway = gateway
        if gateway and directory and not self._watch:
            try:
                self._watch = MountWatch(directory)
            except NetnsError as error:
                log.debug("watch.failed", reason=error.reason)
                return
            self._scout.start()
            threading.Thread(target=self._run, name="fastpath", daemon=True).start()

    def given(self) -> Iterator[Client]:
        """Yield, once, what clients were given."""
        while not self._given.empty():
            yield self._given.get()

    def _run(self) -> None:
        assert self._watch  # noqa: S101 - it is set before this thread is started
        while True:
            self._watch.wait()
            paths = self._watch.appeared()
            gateway = self._gateway
            if paths and gateway and gateway.addresses:
                self._look_at(self._watch, gateway, paths)

    def _look_at(self, watch: MountWatch, gateway: Gateway, paths: Iterable[str]) -> None:
        """Look at new namespaces until each is served, somebody else's, or too old."""
        look = _Look(gateway, self._served)
        try:
            look.take_up(paths)
            self._scout.ask(gateway)
            while look.arrivals and self._gateway == gateway:
                watch.wait([self._scout, *(arrival.ear for arrival in look.arrivals)], PATIENCE)
                if paths := watch.appeared():
                    look.take_up(paths)
                    self._scout.ask(gateway)
                known = self._scout.hear()
                self._execute(look.due(known), gateway)
                look.let_go(known)
                if not look.lacks(known):
                    self._scout.enough()
                elif not self._scout.is_wanted:
                    self._scout.ask(gateway)
        finally:
            self._scout.enough()
            look.close()

    def _execute(self, attempts: Sequence[_Attempt], gateway: Gateway) -> None:
        lines = [(attempt, route) for attempt in attempts for route in attempt.commands]
        outcomes = self._shell.run([attempt.commands[route] for attempt, route in lines])
        ended = [(*line, outcome) for line, outcome in zip(lines, outcomes, strict=True)]
        for attempt in attempts:
            own = {route: outcome for one, route, outcome in ended if one is attempt}
            if new := attempt.take(own):
                self._given.put(attempt.given)
                attempt.tell(new, gateway)


class _Attempt:
    """To give a client its routes in a namespace that holds its addresses, once these are up."""

    def __init__(self, client: Client, sources: Mapping[int, Address]) -> None:
        self.given = replace(client, routes=())
        """The client with the routes that it has by now."""
        self.commands = {
            route: iproute.command(client.netns, Step("replace", route), sources[route.dst.version])
            for route in client.routes
        }
        """Those that did not succeed yet."""
        self._refusal: Outcome | None = None

    def take(self, ended: Mapping[Route, Outcome]) -> dict[Route, Outcome]:
        """Take note of how commands ended, and return those that succeeded."""
        new = {route: outcome for route, outcome in ended.items() if not outcome.exit_code}
        for route in new:
            del self.commands[route]
        self.given = replace(self.given, routes=(*self.given.routes, *new))
        self._refusal = next((one for one in ended.values() if one.exit_code), self._refusal)
        return new

    def tell(self, new: Mapping[Route, Outcome], gateway: Gateway) -> None:
        """Log what was given now."""
        for route, outcome in new.items():
            log.info(
                "route.replaced",
                **who(self.given),
                network=gateway.network,
                dst=str(route.dst),
                netns=self.given.netns,
                command=outcome.command,
                gateway=str(route.gateway),
                trigger="early",
                duration_ms=round(outcome.duration_ms, 1),
            )
        log.info("client.routed", **who(self.given), routes=len(self.given.routes))

    def tell_missed(self) -> None:
        """Log what was refused until it was too late: too early each time, or wrong for good."""
        if self.commands and self._refusal:
            values = {"command": self._refusal.command, "reason": self._refusal.output}
            log.debug("start.missed", **who(self.given), netns=self.given.netns, **values)


def _is_over(arrival: _Arrival, known: Known) -> bool:
    """Tell whether all is done in that namespace, or it turned out to be nobody's."""
    if arrival.attempt:
        return not arrival.attempt.commands
    if known.listing.asked < arrival.since:
        return False
    if not known.candidates:
        return True
    is_anothers = known.is_on_network(arrival.addresses) and not known.holder(arrival.addresses)
    return is_anothers and known.attached.asked > arrival.heard


def _overlaps(route: Route) -> Callable[[Network], bool]:
    return lambda network: network.version == route.dst.version and network.overlaps(route.dst)
