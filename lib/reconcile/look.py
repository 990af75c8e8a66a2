"""One look at everything, as a first pass would take it, for commands that end. Changes nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from lib.errors import NetnsError, NotReadyError
from lib.model import Skipped
from lib.reconcile import covered, failures, guard
from lib.reconcile.clients import Clients
from lib.reconcile.gateway import GatewayTracker
from lib.reconcile.namespace import Namespace, gather
from lib.reconcile.report import Lost, Unknown
from lib.reconcile.tunnels import once
from lib.routing import desired, reach, serving

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.engine.client import Engine
    from lib.kernel.access import Reader
    from lib.model import Client, Desired, Gateway, Inside, Network
    from lib.reconcile.report import Failure
    from lib.settings import Settings


class Findings(NamedTuple):
    """What one look at everything found."""

    gateway: Gateway
    lost: Lost | None
    """Why the gateway is not there, if it is not."""
    desired: Desired
    namespaces: list[Namespace]
    """Those that could be read."""
    failures: list[Failure]
    astray: frozenset[Network] = frozenset()
    """What clients ask for and the gateway should send into a tunnel, and does not."""
    unguarded: Skipped | None = None
    """Why the gateway has no guard, if it is to have one."""


def look(engine: Engine, kernel: Reader, settings: Settings) -> Findings:
    """Look at everything once.

    Raises NotReadyError if there is no gateway, EngineError if the engine does not answer.
    """
    tracker = GatewayTracker(settings, time.monotonic)
    state = tracker.find(engine)
    if isinstance(state, Unknown):
        raise NotReadyError(state.reason, state.hint)
    clients = Clients(kernel)
    located = clients.locate(engine, clients.list(engine))
    lost = state if isinstance(state, Lost) else None
    found_there = None if lost else state.gateway
    tunnels, covers = once(kernel, settings), covered.once(kernel, settings)
    tunnels.look(found_there, tracker.netns)
    covers.look(found_there, tracker.netns)
    gateway = covers.applied(tunnels.applied(state.gateway))
    if settings.command == "withdraw":
        # What is to be taken back was given by this gateway, whoever serves now.
        gateway = gateway._replace(among=serving.alone(gateway.gateways))
    wanted = desired.compute(located.snapshot, gateway)
    tunnels.learn(route.dst for client in wanted.clients for route in client.routes)
    network, seen = gateway.network, {}
    astray = frozenset(tunnels.lost)
    spaces, unguarded = _guarded(kernel, settings, tracker, gateway)
    found = Findings(gateway, lost, wanted, [], list(located.failures), astray, unguarded)
    mtus, unsized = tunnels.mtus, tunnels.unsized
    for namespace in (*spaces, *gather(wanted).values()):
        namespace.mtus, namespace.unsized = mtus, unsized
        try:
            kernel.check(namespace.path, own=namespace.is_gateways)
            seen[namespace.path] = here = kernel.read(namespace.path, rules=namespace.has_rules)
        except NetnsError as error:
            there = (client for client in namespace.clients if failures.is_there(engine, client))
            found.failures.extend(
                failures.of_entry(client, namespace.path, error) for client in there
            )
        else:
            namespace.take(here, network)
            found.namespaces.append(namespace)
    limited = (_limited(one, seen, network) for one in wanted.clients)
    return found._replace(desired=wanted._replace(clients=tuple(limited)))


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
