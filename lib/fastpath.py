"""Routes before a client's first instruction.

The engine tells of a start when it is over. But the file of a new namespace appears before, and is
ready for routes before the client's process runs. So when a file appears, the network is asked who
is being attached to it, and what a client among these wants is tried in the new namespace until the
kernel takes it. The kernel keeps it honest: a route with `src ADDRESS` is refused in a namespace
that does not hold that address.

Its failure costs nothing. The pass that follows every start verifies and repairs, and takes back
what came to the wrong place. Nothing here waits for the engine's lock on a starting container, and
nothing at all happens while no namespace appears.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from lib import desired, iproute, netns
from lib.errors import EngineError, NetnsError
from lib.model import NETWORKS_LABEL, Client, Endpoint, Snapshot, Step
from lib.reporting import who

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lib.engine import Engine
    from lib.model import Address, Container, Gateway, Interface, Network, Outcome, Route
    from lib.shell import Shell

log = structlog.get_logger()

PATIENCE = 5.0
"""Seconds for which a new namespace is looked at."""

MOST = 32
"""Routes that one client is given early; the pass gives the rest, so that others need not wait."""

_SHORTEST, _OF_AGE = 0.001, 0.05
"""Seconds between two looks, at least, and as a part of the youngest namespace's age: what takes
the engine long in the beginning takes it long in the end."""


class _Look:
    """What is known while namespaces are looked at. Containers go by their ids."""

    def __init__(self, engine: Engine, gateway: Gateway, served: dict[str, str]) -> None:
        self.gateway = gateway
        self.pending: dict[str, float] = {}
        """Paths of namespaces, and when (monotonic seconds) to give each up."""
        self._engine = engine
        self._candidates: dict[str, Container] = {}
        """Clients on the gateway's network that do not run (yet)."""
        self._served = served
        """Namespaces of clients that were served, by container id; they may not run yet."""
        self._interfaces: Mapping[str, tuple[Interface, ...]] = {}
        self._subnets: tuple[Network, ...] = ()
        self._attempts: dict[tuple[str, str], _Attempt] = {}
        self._newest = 0.0

    def goes_on(self, new: Iterable[str]) -> bool:
        """Take up new namespaces, give up old ones, and tell whether any is left to look at."""
        now = time.monotonic()
        if new:
            self._newest = now
            self.pending |= dict.fromkeys(new, now + PATIENCE)
            self._list()
        self.pending = {path: until for path, until in self.pending.items() if now < until}
        going_on = bool(self.pending and self._candidates)
        # For a new one afresh: names and addresses are given again.
        if going_on and (new or len(self.starting()) < len(self.pending)):
            self._refresh()
        return going_on

    def starting(self) -> list[str]:
        """Return the ids of candidates that the engine is attaching, which are being started."""
        return [key for key in self._candidates if self._faces(key)]

    def whose(self, path: str, addresses: Iterable[Address]) -> str | None:
        """Return the id of the candidate that has one of the addresses that a namespace holds.

        A namespace that holds an address of the network which is no candidate's is not looked at
        again.
        """
        held = {face for face in addresses if any(face in subnet for subnet in self._subnets)}
        if held and not self._holder(held):
            self._refresh()
            if not self._holder(held):
                del self.pending[path]
        return self._holder(held)

    def attempt(self, path: str, key: str) -> _Attempt:
        """Return the attempt to give a candidate its routes in that namespace, begun afresh."""
        if (path, key) not in self._attempts:
            sources: dict[int, Address] = {face.version: face.ip for face in self._faces(key)}
            self._attempts[path, key] = _Attempt(self._client(path, key), sources)
        attempt = self._attempts[path, key]
        attempt.outcomes = []
        return attempt

    def served(self, client: Client) -> None:
        """Have done with a client and, if it was given anything there, the namespace."""
        self._candidates.pop(client.container_id, None)
        if client.routes:
            self.pending.pop(client.netns, None)
            self._served[client.container_id] = client.netns

    def pause(self) -> float:
        """Return for how many seconds to wait until the next look."""
        return max(_SHORTEST, _OF_AGE * (time.monotonic() - self._newest))

    def _client(self, path: str, key: str) -> Client:
        """Return a candidate as a client in that namespace with what may be routed early.

        From Docker 28 on networks are attached one by one, and a route that overlaps one still to
        come makes the start itself fail. Without an address of its IP version there is no proof.
        """
        container = self._candidates[key]
        point = Endpoint(self.gateway.network, self.gateway.network_id, self._faces(key))
        as_if = replace(container, running=True, sandbox_key=path, endpoints=(point,))
        wanted = desired.compute(Snapshot(((as_if, as_if),)), self.gateway)
        avoid = self._other_subnets(container)
        versions = {face.version for face in self._faces(key)}
        early = [
            route
            for client in wanted.clients
            for route in client.routes
            if route.gateway and route.dst.version in versions
            if not any(map(_overlaps(route), avoid))
        ]
        return Client(container.name, container.id, path, tuple(early[:MOST]))

    def _faces(self, key: str) -> tuple[Interface, ...]:
        """Return a candidate's addresses on the network, if the engine is attaching it."""
        by_name = self._interfaces.get(self._candidates[key].name, ())
        return self._interfaces.get(key, by_name)

    def _holder(self, held: set[Address]) -> str | None:
        faces = ((key, face) for key in self.starting() for face in self._faces(key))
        return next((key for key, face in faces if face.ip in held), None)

    def _refresh(self) -> None:
        network = self._engine.network(self.gateway.network_id)
        if network.interfaces != self._interfaces:
            self._attempts.clear()
        self._interfaces, self._subnets = network.interfaces, network.subnets

    def _list(self) -> None:
        for key in [key for key, path in self._served.items() if not _is_mounted(path)]:
            del self._served[key]  # It ended, and may be started again.
        names = (self.gateway.network, self.gateway.network_id)
        self._candidates = {
            container.id: container
            for container in self._engine.containers(NETWORKS_LABEL, running=False)
            if any(container.endpoint(name) for name in names) and container.id not in self._served
        }

    def _other_subnets(self, container: Container) -> list[Network]:
        others = {point.network for point in container.endpoints} - {self.gateway.network}
        return [subnet for name in others for subnet in self._engine.network(name).subnets]


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
        self._served: dict[str, str] = {}

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
        look = _Look(engine, gateway, self._served)
        while look.goes_on(paths):
            self._serve(look)
            paths = watch.read(look.pause())

    def _serve(self, look: _Look) -> None:
        """Serve the namespaces of which it can be told whose they are."""
        starting = look.starting()
        paths = [path for path in look.pending if _is_mounted(path)] if starting else []
        if len(starting) == 1:
            # To try is as safe as to look first, and no dearer.
            attempts = [look.attempt(path, starting[0]) for path in paths]
            self._execute((attempt, attempt.commands[:1]) for attempt in attempts)
        else:
            outcomes = self._shell.run([iproute.addresses_command(path) for path in paths])
            attempts = [
                look.attempt(path, key)
                for path, outcome in zip(paths, outcomes, strict=True)
                if (key := look.whose(path, iproute.parse_addresses(outcome.output)))
            ]
        self._execute((attempt, attempt.rest()) for attempt in attempts if not attempt.is_refused)
        for attempt in attempts:
            if not attempt.is_refused:
                look.served(attempt.client)
            if attempt.outcomes and not attempt.is_refused:
                self._given.put(attempt.given())
                attempt.tell(look.gateway)

    def _execute(self, work: Iterable[tuple[_Attempt, Sequence[str]]]) -> None:
        lines = [(attempt, command) for attempt, commands in work for command in commands]
        outcomes = self._shell.run([command for _, command in lines])
        for (attempt, _), outcome in zip(lines, outcomes, strict=True):
            attempt.outcomes.append(outcome)


class _Attempt:
    """A candidate's routes in a namespace that may be its own; the first is refused if not."""

    def __init__(self, client: Client, sources: Mapping[int, Address]) -> None:
        self.client = client
        self.commands = [
            iproute.command(client.netns, Step("replace", route), sources[route.dst.version])
            for route in client.routes
        ]
        self.outcomes: list[Outcome] = []

    @property
    def is_refused(self) -> bool:
        """Whether it is the wrong namespace, or too soon."""
        return any(outcome.exit_code for outcome in self.outcomes[:1])

    def rest(self) -> Sequence[str]:
        """Return the commands that did not run yet."""
        return self.commands[len(self.outcomes) :]

    def given(self) -> Client:
        """Return the client with the routes that it has now."""
        done = zip(self.client.routes, self.outcomes, strict=True)
        return replace(
            self.client, routes=tuple(route for route, outcome in done if not outcome.exit_code)
        )

    def tell(self, gateway: Gateway) -> None:
        """Log what was done."""
        for route, outcome in zip(self.client.routes, self.outcomes, strict=True):
            _tell(self.client, route, outcome, gateway)
        log.info("client.routed", **who(self.client), routes=len(self.given().routes))


def _is_mounted(path: str) -> bool:
    """Tell whether the file is a namespace yet: the engine makes it before it mounts that on it."""
    proof = netns.Proof.of(path)
    return bool(proof and proof.holds())


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
