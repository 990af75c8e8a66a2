"""One pass: snapshot -> desired -> actual -> plan -> apply -> report.

Idempotent, and the only way in which routes come about: whatever happens merely triggers a pass.
Each client stands for itself; what fails for one is reported and keeps no other from its routes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from lib import desired, iproute, netns, sidecar
from lib.errors import GoneError, NetnsError, NetnsGoneError, NotReadyError
from lib.model import NETWORKS_LABEL, Gateway, Report, Snapshot
from lib.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lib.engine import Engine
    from lib.model import Client, Desired, Outcome, Route, Step
    from lib.settings import Settings
    from lib.shell import Shell

log = structlog.get_logger()

_MAX_REMARKS = 20
"""Refused entries of one client that are logged one by one."""

_DONE = {"replace": "route.replaced", "del": "route.deleted"}

_OFF_LINK = "check that the container's link to the gateway's network is up"
_HINTS = {
    "not permitted": "give the sidecar both capabilities: cap_add: [NET_ADMIN, SYS_ADMIN]",
    "not found": "use an image with ip and nsenter",
    "can't execute": "use an image with ip and nsenter",
    "unreachable": _OFF_LINK,
    "invalid gateway": _OFF_LINK,
}


@dataclass(frozen=True, slots=True)
class _Task:
    """A step, the client for which it is done, and the line that does it."""

    client: Client
    step: Step
    command: str


class Reconciler:
    """Makes what is be what the labels ask for, over one connection to the engine."""

    def __init__(self, engine: Engine, shell: Shell, settings: Settings) -> None:
        """Remember the means; nothing is asked of the engine yet."""
        self._engine = engine
        self._shell = shell
        self._settings = settings
        self._sidecar: sidecar.Sidecar | None = None
        self._gateway: Gateway | None = None
        self._remarks: dict[str, object] = {}
        self._failures: dict[tuple[str, str], str] = {}
        self._past_failures: dict[tuple[str, str], str] = {}

    def run(self, trigger: str, only: frozenset[str] | None = None) -> Report:
        """Do a pass and return what it came to; `only` limits it to those containers' clients.

        Raises NotReadyError while there is no gateway to lead to, EngineError if the engine does
        not answer.
        """
        if only and (self._gateway is None or self._gateway.container_id in only):
            only = None
        gateway = self._find_gateway()
        wanted = desired.compute(self._snapshot(only), gateway)
        self._begin(only)
        self._tell_remarks(wanted, complete=only is None)
        clients = [client for client in wanted.clients if client.routes and self._enterable(client)]
        tasks = _tasks(self._tables(clients))
        changed = self._apply(tasks, gateway, trigger)
        return Report(
            clients=len(wanted.clients),
            routes=sum(len(client.routes) for client in wanted.clients),
            changed=changed,
            refused=sum(
                not refusal.served for client in wanted.clients for refusal in client.refusals
            ),
            failed=len(self._failures),
        )

    def _find_gateway(self) -> Gateway:
        if self._sidecar is None:
            self._sidecar = sidecar.find(self._engine, self._settings)
            _tell_sidecar(self._sidecar)
        try:
            gateway = self._reach_gateway(self._sidecar)
        except NotReadyError:
            self._gateway = None
            raise
        if gateway != self._gateway:
            addresses = [str(address) for address in gateway.addresses]
            log.info(
                "gateway.addressed",
                container=gateway.container,
                network=gateway.network,
                gateway=addresses,
            )
            self._gateway = gateway
        return gateway

    def _reach_gateway(self, found: sidecar.Sidecar) -> Gateway:
        try:
            container = self._engine.inspect(found.gateway.id)
        except GoneError as error:
            self._sidecar = None
            reason = f"the gateway {found.gateway.name} was removed"
            raise NotReadyError(reason, "create it again, then the sidecar") from error
        if not container.running:
            reason = f"the gateway {container.name} is not running"
            raise NotReadyError(reason, f"docker start {container.name}")
        name = found.network
        endpoint = container.endpoint(name)
        if endpoint is None and not self._engine.network_exists(name):
            hint = f"docker network create {name}, or name another with label or --network"
            reason = f"there is no network {name}"
            raise NotReadyError(reason, hint)
        if endpoint is None or not endpoint.interfaces:
            reason = f"the gateway {container.name} has no address on the network {name}"
            raise NotReadyError(reason, f"docker network connect {name} {container.name}")
        addresses = tuple(interface.ip for interface in endpoint.interfaces)
        return Gateway(
            container.name, container.id, endpoint.network, endpoint.network_id, addresses
        )

    def _snapshot(self, only: frozenset[str] | None) -> Snapshot:
        def concerned(identifier: str, mode: str) -> bool:
            return only is None or identifier in only or mode.partition(":")[2] in only

        clients = self._engine.containers(NETWORKS_LABEL, concerned)
        owners = {}
        for reference in {client.shares_netns_of for client in clients} - {None}:
            try:
                owners[str(reference)] = self._engine.inspect(str(reference))
            except GoneError:
                continue  # Then lib.desired finds no owner and says so.
        return Snapshot(clients, owners)

    def _begin(self, only: frozenset[str] | None) -> None:
        """Forget the failures that this pass will see again if they last."""
        self._past_failures = self._failures
        self._failures = {
            key: text for key, text in self._failures.items() if only and key[0] not in only
        }

    def _tell_remarks(self, wanted: Desired, *, complete: bool) -> None:
        """Log what is left out and why: once, and again only when it changes."""
        news: dict[str, object] = {
            client.container_id: client.refusals for client in wanted.clients
        }
        news |= {skipped.container_id: skipped for skipped in wanted.skipped}
        known = self._remarks
        self._remarks = news if complete else known | news
        for client in wanted.clients:
            if known.get(client.container_id, ()) != client.refusals:
                _tell_refusals(client)
        for skipped in wanted.skipped:
            if known.get(skipped.container_id) != skipped:
                tell = log.debug if skipped.expected else log.warning
                labels = {"container": skipped.container, "container_id": skipped.container_id[:12]}
                tell("client.skipped", **labels, reason=skipped.reason, **_hint(skipped.hint))

    def _enterable(self, client: Client) -> bool:
        try:
            netns.check(client.netns)
        except NetnsGoneError as error:
            log.debug("client.gone", **_who(client), reason=error.reason)
        except NetnsError as error:
            self._fail("client.failed", client, "netns", error.reason, **_hint(error.hint))
        else:
            return True
        return False

    def _tables(self, clients: Iterable[Client]) -> list[tuple[Client, tuple[Route, ...]]]:
        """Read the routes that are there; leave out the clients whose routes cannot be read."""
        asked = [
            (client, version, iproute.show_command(client.netns, version))
            for client in clients
            for version in sorted({route.dst.version for route in client.routes})
        ]
        tables: dict[str, tuple[Client, tuple[Route, ...]]] = {}
        unread = set()
        for (client, version, _), outcome in zip(
            asked, self._shell.run([line for *_, line in asked]), strict=True
        ):
            if outcome.exit_code:
                self._fail_command(client, outcome)
                unread.add(client.container_id)
            _, routes = tables.get(client.container_id, (client, ()))
            tables[client.container_id] = (client, routes + iproute.parse(outcome.output, version))
        return [table for identifier, table in tables.items() if identifier not in unread]

    def _apply(self, tasks: Sequence[_Task], gateway: Gateway, trigger: str) -> int:
        done: Counter[Client] = Counter()
        for task, outcome in zip(
            tasks, self._shell.run([task.command for task in tasks]), strict=True
        ):
            if outcome.exit_code:
                self._fail_command(task.client, outcome, dst=str(task.step.route.dst))
                continue
            done[task.client] += 1
            log.info(
                _DONE[task.step.verb],
                **_who(task.client),
                network=gateway.network,
                dst=str(task.step.route.dst),
                gateway=str(task.step.route.gateway),
                netns=task.client.netns,
                command=task.command,
                trigger=trigger,
                duration_ms=round(outcome.duration_ms, 1),
            )
        for client in done:
            shared = {"shared_with": client.shared_with} if client.shared_with else {}
            log.info(
                "client.routed",
                **_who(client),
                **shared,
                dst=[str(route.dst) for route in client.routes],
            )
        return done.total()

    def _fail_command(self, client: Client, outcome: Outcome, **values: str) -> None:
        """Report a failed command, unless it failed because the container ended under it."""
        try:
            netns.check(client.netns)
        except NetnsError as error:
            log.debug("client.gone", **_who(client), command=outcome.command, reason=error.reason)
            return
        hint = next((hint for text, hint in _HINTS.items() if text in outcome.output), "")
        values |= {"command": outcome.command, "stderr": outcome.output} | _hint(hint)
        self._fail(
            "route.failed",
            client,
            outcome.command,
            outcome.output,
            exit_code=outcome.exit_code,
            **values,
        )

    def _fail(self, event: str, client: Client, about: str, text: str, **values: str | int) -> None:
        """Remember a failure, and log it unless the last pass saw the same."""
        self._failures[client.container_id, about] = text
        if self._past_failures.get((client.container_id, about)) != text:
            log.warning(event, **_who(client), netns=client.netns, **{"reason": text} | values)


def _tasks(tables: Iterable[tuple[Client, tuple[Route, ...]]]) -> list[_Task]:
    """Plan every namespace; what two clients of one namespace both want is done once."""
    tasks: dict[str, _Task] = {}
    for client, actual in tables:
        for step in plan(client.routes, actual):
            command = iproute.command(client.netns, step)
            tasks.setdefault(command, _Task(client, step, command))
    return list(tasks.values())


def _tell_sidecar(found: sidecar.Sidecar) -> None:
    if found.own:
        log.info(
            "sidecar.found",
            container=found.own.name,
            container_id=found.own.id[:12],
            network=found.network,
        )
    else:
        hint = "name the network with --network if it is another one"
        log.warning(
            "sidecar.unknown",
            reason="our own container was not found",
            network=found.network,
            hint=hint,
        )
    gateway = found.gateway
    log.info(
        "gateway.found",
        container=gateway.name,
        container_id=gateway.id[:12],
        netns=gateway.sandbox_key,
    )


def _tell_refusals(client: Client) -> None:
    for refusal in client.refusals[:_MAX_REMARKS]:
        event = "entry.flagged" if refusal.served else "entry.refused"
        log.warning(
            event, **_who(client), entry=refusal.entry, reason=refusal.reason, **_hint(refusal.hint)
        )
    if surplus := client.refusals[_MAX_REMARKS:]:
        log.warning(
            "entry.refused", **_who(client), reason=f"and {len(surplus)} more entries of this label"
        )


def _who(client: Client) -> dict[str, str]:
    return {"container": client.container, "container_id": client.container_id[:12]}


def _hint(hint: str) -> dict[str, str]:
    return {"hint": hint} if hint else {}
