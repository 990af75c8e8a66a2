"""Routes before a client's first instruction.

The engine tells of a start when it is over. But the file of a new namespace appears before, and is
ready for routes before the client's process runs. So a file that appears is looked at until it
holds the address of a client that is being started, and gets that client's routes. The kernel
keeps it honest: a route with `src ADDRESS` is refused in a namespace that does not hold it.

Its failure costs nothing. The pass that follows every start verifies and repairs, and takes back
what came to the wrong place. Nothing here waits for the engine's lock on a starting container, and
nothing at all happens while no namespace appears.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from lib import desired, iproute, netns
from lib.errors import EngineError, GoneError, NetnsError
from lib.model import NETWORKS_LABEL, Client, Endpoint, Snapshot, Step
from lib.reporting import who

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from lib.engine import Engine
    from lib.model import Address, Container, Gateway, Interface, Network, Outcome, Route
    from lib.shell import Shell

log = structlog.get_logger()

PATIENCE = 5.0
"""Seconds for which a new namespace is looked at."""

DOUBT = 0.5
"""Seconds for which a namespace is looked at once it holds addresses."""

_PAUSES = ((0.5, 0.002), (1.0, 0.005), (PATIENCE, 0.01))
"""Up to which age of the youngest namespace (seconds) to pause how long between two looks."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A client that may be starting."""

    container: Container
    avoid: tuple[Network, ...]
    """Subnets of its other networks. From Docker 28 on they are attached one by one, and a route
    that overlaps one still to come makes the start itself fail."""

    def client(self, path: str, interfaces: tuple[Interface, ...], gateway: Gateway) -> Client:
        """Return it as a client in that namespace with what may be routed early."""
        point = Endpoint(gateway.network, gateway.network_id, interfaces)
        as_if = replace(self.container, running=True, sandbox_key=path, endpoints=(point,))
        wanted = desired.compute(Snapshot(((as_if, as_if),)), gateway)
        routes = [route for client in wanted.clients for route in client.routes]
        early = tuple(
            route
            for route in routes
            if route.gateway and not any(map(_overlaps(route), self.avoid))
        )
        return Client(self.container.name, self.container.id, path, early)


class _Look:
    """What is known while namespaces are looked at."""

    def __init__(self, engine: Engine, gateway: Gateway) -> None:
        self.gateway = gateway
        self.pending: dict[str, float] = {}
        """Paths of namespaces, and when (monotonic seconds) to give each up."""
        self.candidates: dict[str, _Candidate] = {}
        self.interfaces: Mapping[str, tuple[Interface, ...]] = {}
        self.held: dict[str, set[Address]] = {}
        """Addresses by path of a namespace, where it holds some."""
        self._engine = engine
        self._served: set[str] = set()
        self._newest = 0.0

    def goes_on(self, new: Iterable[str]) -> bool:
        """Take up new namespaces, give up old ones, and tell whether any is left to look at."""
        now = time.monotonic()
        if new:
            self._newest = now
            self.pending |= dict.fromkeys(new, now + PATIENCE)
            self.candidates |= self._startable()
            self._refresh()
        self.pending = {path: until for path, until in self.pending.items() if now < until}
        return bool(self.pending and self.candidates)

    def known(self) -> list[str]:
        """Return the ids of candidates whose addresses are known: they are being started."""
        return [key for key in self.candidates if key in self.interfaces]

    def note_addresses(self, path: str, addresses: Iterable[Address]) -> None:
        """Take note of what a namespace holds, once that is more than its loopback."""
        held = {face for face in addresses if not face.is_loopback and not face.is_link_local}
        if held:
            self.held[path] = held
            # If they are nobody's whom we know, the namespace is somebody else's, or the engine
            # (from 28 on) is about to tell: that was seen to take up to 30 ms.
            self.pending[path] = min(self.pending[path], time.monotonic() + DOUBT)

    def holder(self, path: str) -> str | None:
        """Return the id of the candidate that has an address which the namespace holds."""

        def search() -> str | None:
            faces = ((key, face) for key in self.known() for face in self.interfaces[key])
            return next((key for key, face in faces if face.ip in self.held[path]), None)

        if not (found := search()):
            self._refresh()
            found = search()
        return found

    def served(self, path: str, key: str) -> None:
        """Have done with a namespace and its container."""
        del self.pending[path], self.candidates[key]
        self._served.add(key)

    def pause(self) -> float:
        """Return for how many seconds to wait until the next look."""
        age = time.monotonic() - self._newest
        return next((pause for until, pause in _PAUSES if age < until), _PAUSES[-1][1])

    def _refresh(self) -> None:
        self.interfaces = self._engine.network(self.gateway.network_id).interfaces

    def _startable(self) -> dict[str, _Candidate]:
        """Return the clients on the gateway's network that do not run (yet), by id."""
        found = {}
        for container in self._engine.containers(NETWORKS_LABEL, running=False):
            networks = {point.network for point in container.endpoints}
            if self.gateway.network in networks and container.id not in self._served:
                others = networks - {self.gateway.network}
                try:
                    avoid = [net for name in others for net in self._engine.network(name).subnets]
                except GoneError:
                    continue  # It cannot start without that network.
                found[container.id] = _Candidate(container, tuple(avoid))
        return found


class FastPath:
    """Watches for new namespaces in a thread of its own, with its own shell and connection."""

    def __init__(self, shell: Shell, connect: Callable[[], Engine]) -> None:
        """Nothing is watched until the first `lead_to`."""
        self._shell = shell
        self._connect = connect
        self._engine: Engine | None = None
        self._gateway: Gateway | None = None
        self._watch: netns.Watch | None = None
        self._given: queue.SimpleQueue[Client] = queue.SimpleQueue()

    def lead_to(self, gateway: Gateway | None, directory: Path | None) -> None:
        """Lead clients there from now on, whose namespaces appear in that directory."""
        self._gateway = gateway
        if gateway and directory and not self._watch:
            try:
                self._watch = netns.Watch(directory)
            except NetnsError as error:
                log.debug("watch.failed", reason=error.reason)
                return
            threading.Thread(target=self._run, name="fastpath", daemon=True).start()

    def given(self) -> Iterator[Client]:
        """Yield, once, what clients were given."""
        while not self._given.empty():
            yield self._given.get()

    def _run(self) -> None:
        assert self._watch  # noqa: S101 - it is set before this thread is started
        while True:
            paths = self._watch.read()
            gateway = self._gateway
            if not gateway or not gateway.addresses:
                continue
            try:
                self._engine = self._engine or self._connect()
                self._look_at(self._engine, self._watch, gateway, paths)
            except EngineError as error:
                log.debug("start.missed", reason=error.reason)
                self._engine = None

    def _look_at(
        self, engine: Engine, watch: netns.Watch, gateway: Gateway, paths: Iterable[str]
    ) -> None:
        """Look at new namespaces until each is served, somebody else's, or too old."""
        look = _Look(engine, gateway)
        while look.goes_on(paths):
            for path in tuple(look.pending):
                self._serve(look, path)
            paths = watch.read(look.pause())

    def _serve(self, look: _Look, path: str) -> None:
        """Serve a namespace if it can be told whose it is."""
        proof = netns.Proof.of(path)
        if not proof or not proof.holds():
            return  # The engine made the file and is about to mount the namespace on it.
        known = look.known()
        if len(look.candidates) == len(known) == 1:
            self._try(look, path, known[0])  # That costs what looking would, and is as safe.
            return
        if path not in look.held:
            (outcome,) = self._shell.run([iproute.addresses_command(path)])
            look.note_addresses(path, iproute.parse_addresses(outcome.output))
        if path in look.held and (key := look.holder(path)):
            self._try(look, path, key)

    def _try(self, look: _Look, path: str, key: str) -> None:
        interfaces = look.interfaces[key]
        client = look.candidates[key].client(path, interfaces, look.gateway)
        sources: dict[int, Address] = {face.version: face.ip for face in interfaces}
        if self._give(client, sources, look.gateway, sure=path in look.held):
            look.served(path, key)

    def _give(
        self, client: Client, sources: Mapping[int, Address], gateway: Gateway, *, sure: bool
    ) -> bool:
        """Give a client its routes; False if the first is refused: wrong namespace, or too soon.

        Unless it is sure whose namespace it is, the others wait for the first.
        """
        commands = [
            iproute.command(client.netns, Step("replace", route), sources.get(route.dst.version))
            for route in client.routes
        ]
        outcomes = list(self._shell.run(commands if sure else commands[:1]))
        if not outcomes or outcomes[0].exit_code:
            return False
        outcomes += self._shell.run(commands[len(outcomes) :])
        given = replace(
            client,
            routes=tuple(
                route
                for route, outcome in zip(client.routes, outcomes, strict=True)
                if not outcome.exit_code
            ),
        )
        self._given.put(given)
        for route, outcome in zip(client.routes, outcomes, strict=True):
            _tell(client, route, outcome, gateway)
        log.info("client.routed", **who(client), routes=len(given.routes))
        return True


def _overlaps(route: Route) -> Callable[[Network], bool]:
    return lambda network: network.version == route.dst.version and network.overlaps(route.dst)


def _tell(client: Client, route: Route, outcome: Outcome, gateway: Gateway) -> None:
    values = {"dst": str(route.dst), "netns": client.netns, "command": outcome.command}
    if outcome.exit_code:
        log.debug("start.missed", **who(client), **values, reason=outcome.output)
        return
    log.info(
        "route.replaced",
        **who(client),
        network=gateway.network,
        **values,
        gateway=str(route.gateway),
        trigger="early",
        duration_ms=round(outcome.duration_ms, 1),
    )
