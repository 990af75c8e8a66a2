"""One look at everything, as a first pass would take it, for commands that end. Changes nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from lib.engine.asking import Running
from lib.errors import NetnsError, NotReadyError
from lib.model import Desired, Gateway, Skipped
from lib.reconcile import covered, failures, guard
from lib.reconcile.clients import Clients
from lib.reconcile.gateway import GatewayTracker
from lib.reconcile.namespace import Namespace, gather
from lib.reconcile.report import Lost, Unknown
from lib.reconcile.tunnels import once
from lib.routing import desired, reach, serving

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lib.engine.client import Engine
    from lib.kernel.access import Reader
    from lib.model import Client, Inside, Network
    from lib.reconcile.clients import Located
    from lib.reconcile.report import Failure, Found
    from lib.settings import Settings


class Findings(NamedTuple):
    """What one look at everything found on one network."""

    gateway: Gateway
    lost: Lost | Unknown | None
    """Why the gateway is not there, if it is not; nothing is found where it is not known."""
    desired: Desired
    namespaces: list[Namespace]
    """Those that could be read."""
    failures: list[Failure]
    astray: frozenset[Network] = frozenset()
    """What clients ask for and the gateway should send into a tunnel, and does not."""
    unguarded: Skipped | None = None
    """Why the gateway has no guard, if it is to have one."""

    @property
    def is_known(self) -> bool:
        """Whether it is known who the gateway is."""
        return not isinstance(self.lost, Unknown)


def look(engine: Engine, kernel: Reader, settings: Settings) -> list[Findings]:
    """Look at everything once, and return what was found on each network that is served.

    Raises NotReadyError if there is no gateway on any, EngineError if the engine does not answer.
    """
    first = GatewayTracker(settings, time.monotonic)
    running = Running(engine)
    states = {first: first.find(engine, running)}
    for place in first.place.each[1:] if first.place else ():
        other = GatewayTracker(settings, time.monotonic, place=place)
        states[other] = other.find(engine, running)
    known = [one for one, state in states.items() if not isinstance(state, Unknown)]
    if not known and isinstance(reason := states[first], Unknown):
        raise NotReadyError(reason.reason, reason.hint)
    clients = Clients(kernel)
    common = _Look(engine, kernel, settings, clients.locate(engine, clients.list(running)))
    return [
        _nothing(tracker, state)
        if isinstance(state, Unknown)
        else common.at(tracker, state, is_first=tracker is known[0])
        for tracker, state in states.items()
    ]


def _nothing(tracker: GatewayTracker, state: Unknown) -> Findings:
    """Return that nothing is known of a network."""
    network = tracker.place.network if tracker.place else ""
    return Findings(Gateway("", "", network, "", ()), state, Desired((), ()), [], [])


class _Look(NamedTuple):
    """What is the same for each network."""

    engine: Engine
    kernel: Reader
    settings: Settings
    located: Located

    def at(self, tracker: GatewayTracker, state: Found | Lost, *, is_first: bool) -> Findings:
        """Look at one; the first tells who could not be looked for at all."""
        kernel, settings = self.kernel, self.settings
        lost = state if isinstance(state, Lost) else None
        found_there = None if lost else state.gateway
        network = tracker.place.network if tracker.place else ""
        tunnels, covers = once(kernel, settings), covered.once(kernel, settings, network)
        tunnels.look(found_there, tracker.netns)
        covers.look(found_there, tracker.netns)
        gateway = covers.applied(tunnels.applied(state.gateway))
        if settings.command == "withdraw":
            # What is to be taken back was given by this gateway, whoever serves now.
            gateway = gateway._replace(among=serving.alone(gateway.gateways))
        wanted = desired.compute(self.located.snapshot, gateway)
        tunnels.learn(route.dst for client in wanted.clients for route in client.routes)
        failed = list(self.located.failures) if is_first else []
        spaces, unguarded = _guarded(kernel, settings, tracker, gateway)
        found = Findings(gateway, lost, wanted, [], failed, frozenset(tunnels.lost), unguarded)
        namespaces = [*spaces, *gather(wanted).values()]
        for namespace in namespaces:
            namespace.mtus, namespace.unsized = tunnels.mtus, tunnels.unsized
        seen = self._read(namespaces, found)
        limited = (_limited(one, seen, gateway.network) for one in wanted.clients)
        return found._replace(desired=wanted._replace(clients=tuple(limited)))

    def _read(self, namespaces: Iterable[Namespace], found: Findings) -> dict[str, Inside]:
        """Read what is there into these, add it to what was found, and return it by path."""
        seen = {}
        for space in namespaces:
            try:
                self.kernel.check(space.path, own=space.is_gateways)
                seen[space.path] = here = self.kernel.read(space.path, rules=space.has_rules)
            except NetnsError as error:
                there = (one for one in space.clients if failures.is_there(self.engine, one))
                found.failures.extend(failures.of_entry(one, space.path, error) for one in there)
            else:
                space.take(here, found.gateway.network)
                found.namespaces.append(space)
        return seen


def _limited(client: Client, seen: Mapping[str, Inside], network: str) -> Client:
    return reach.limited(client, seen[client.netns], network) if client.netns in seen else client


def _guarded(
    kernel: Reader, settings: Settings, tracker: GatewayTracker, gateway: Gateway
) -> tuple[list[Namespace], Skipped | None]:
    """Return the gateway's namespace if there is anything of a guard to do, or why there is not.

    Whoever set that, it is taken back.
    """
    is_over = settings.command == "withdraw"
    place, owner = tracker.sidecar, tracker.owner
    is_due = is_over or settings.gateway_guard == "on"
    if not is_due or not gateway.addresses or not place or not owner:
        return [], None
    try:
        return [guard.guarded(kernel, gateway, place.gateway, owner, is_over=is_over)], None
    except guard.RefusedError as error:
        name, key = gateway.container, gateway.container_id
        return [], Skipped(name, key, f"has no guard: {error.reason}", error.hint)
