"""One pass: snapshot -> desired -> actual -> plan -> apply -> report.

Idempotent, and the only way in which routes come about: whatever happens merely triggers a pass.
Each namespace stands for itself: what fails in one is reported and keeps no other from its routes.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from lib import desired, iproute, netns, sidecar
from lib.errors import CallError, GoneError, NetnsError, NotReadyError
from lib.model import NETWORKS_LABEL, Client, Gateway, Report, Route, Snapshot
from lib.plan import directly_reached, plan
from lib.reporting import Reporting, hint, who

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lib.engine import Engine
    from lib.model import Container, Event, Network, Outcome, Step
    from lib.settings import Settings
    from lib.shell import Shell

log = structlog.get_logger()

MAX_STEPS = 100
"""Steps in one namespace in one pass; the next pass goes on where this one ended."""

_EARLY = 30.0
"""Seconds after which a client that was given routes early should run."""

_DONE = {"replace": "route.replaced", "del": "route.deleted"}

_VANISHED = "No such process"
"""What the kernel says to the deletion of a route that is gone already (ESRCH)."""

_OFF_LINK = "check that the container's link to the gateway's network is up"
_HINTS = {
    "not permitted": "give the sidecar both capabilities: cap_add: [NET_ADMIN, SYS_ADMIN]",
    "not found": "use an image with ip and nsenter",
    "can't execute": "use an image with ip and nsenter",
    "unreachable": _OFF_LINK,
    "invalid gateway": _OFF_LINK,
}


@dataclass(slots=True)
class _Namespace:
    """What is to be in one namespace and for whom, what was given before, and what is there."""

    path: str
    wanted: dict[Route, Client] = field(default_factory=dict)
    given: dict[Route, Client] = field(default_factory=dict)
    actual: tuple[Route, ...] = ()

    def clients(self) -> Iterator[Client]:
        """All for whom it is entered, each once."""
        yield from _each_once(self._for_whom.values())

    def tasks(self) -> Iterator[_Task]:
        """Plan it."""
        first = next(self.clients())
        for step in plan(self.wanted, self.actual, self.given):
            client = self._for_whom.get(step.route, first)
            yield _Task(self.path, client, step, iproute.command(self.path, step))

    @property
    def _for_whom(self) -> dict[Route, Client]:
        return self.given | self.wanted


@dataclass(frozen=True, slots=True)
class _Task:
    """A step, where and for whom it is done, and the line that does it."""

    netns: str
    client: Client
    step: Step
    command: str

    @property
    def target(self) -> tuple[str, Network]:
        """What it changes the way to."""
        return self.netns, self.step.route.dst


class Reconciler:
    """Makes what is be what the labels ask for; remembers what it gave, to take it back."""

    def __init__(self, shell: Shell, settings: Settings) -> None:
        self._shell = shell
        self._settings = settings
        self._sidecar: sidecar.Sidecar | None = None
        self.gateway: Gateway | None = None
        """Where clients are led, as far as it is known."""
        self._located: dict[str, netns.Proof] = {}
        self._given: dict[str, dict[Network, tuple[Route, Client]]] = {}
        self._early: dict[str, tuple[Client, float]] = {}
        self._tied: set[str] = set()
        """Ids of containers that share a namespace, and of those whose namespace it is."""
        self._reporting = Reporting()
        self.pending: frozenset[str] = frozenset()
        """Ids of containers that want more steps than one pass does."""

    @property
    def failing(self) -> frozenset[str]:
        """Ids of containers for which something failed; only a pass of their own tries again."""
        return self._reporting.failing

    @property
    def unfinished(self) -> frozenset[str]:
        """Ids of containers that want a pass soon."""
        return self.failing | self.pending

    @property
    def netns_directory(self) -> Path | None:
        """Where the engine keeps the files of namespaces, as far as it is known."""
        key = self._sidecar.gateway.sandbox_key if self._sidecar else ""
        return Path(key).parent if key else None

    def run(self, engine: Engine, trigger: str, only: frozenset[str] | None = None) -> Report:
        """Do a pass and return what it came to; `only` limits it to those containers.

        Raises NotReadyError while there was no gateway yet, EngineError if the engine does not
        answer.
        """
        asked_for = only or frozenset()
        before = gateway = self.gateway
        if not gateway or gateway.lost or not only or only & {gateway.container_id, *self._tied}:
            gateway, only = self._find_gateway(engine), None
        scope = self._scope(engine, only, asked_for)
        ids = {container.id for container in scope}
        self._reporting.begin(ids)
        self.pending -= ids
        self._own_up(ids)
        pairs = tuple(self._locate(engine, scope, asked_for))
        wanted = desired.compute(Snapshot(pairs), gateway)
        self._reporting.remarks(wanted)
        namespaces = self._namespaces(wanted.clients, ids)
        namespaces = [space for space in namespaces if self._can_enter(engine, space)]
        tasks = self._plan(self._read(engine, namespaces))
        changed = self._apply(engine, tasks, gateway, trigger)
        if gateway != before:
            self.pending |= self.failing  # They must not wait until their next try is due.
        return Report(
            clients=len(wanted.clients),
            routes=sum(len(client.routes) for client in wanted.clients),
            changed=changed,
            refused=sum(not entry.served for client in wanted.clients for entry in client.refusals),
            failed=len(self.failing),
        )

    def gave(self, client: Client) -> None:
        """Take note of routes that a client was given before it ran; passes verify them after."""
        self._early[client.container_id] = client, time.monotonic() + _EARLY

    def was_early(self, container_id: str) -> bool:
        """Tell whether a container was given routes before it ran, so that its pass can wait."""
        return container_id in self._early

    def concerns(self, event: Event) -> bool:
        """Tell whether an event can change what should be; the end of most containers cannot."""
        ends = event.action in {"die", "destroy"}
        many = {self.gateway.container_id if self.gateway else "", *self._tied}
        return not ends or event.container_id in many

    def _find_gateway(self, engine: Engine) -> Gateway:
        if self._sidecar is None:
            self._sidecar = sidecar.find(engine, self._settings)
            _tell_sidecar(self._sidecar, self._settings)
            _tell_gateway(self._sidecar.gateway)
        try:
            gateway = self._reach_gateway(engine, self._sidecar)
        except CallError as error:
            # The engine is well but silent about the gateway, as in a long start or stop.
            if self.gateway is None:
                raise NotReadyError(error.reason, error.hint) from error
            return self.gateway
        except NotReadyError as error:
            if self._settings.on_gateway_loss == "keep":
                self.gateway = None
                raise
            gateway = self._lost_gateway(engine, self._sidecar, error)
            if gateway != self.gateway:
                values = {"container": gateway.container, "network": gateway.network}
                log.warning("gateway.lost", **values, reason=error.reason, **hint(error.hint))
        else:
            if gateway != self.gateway:
                values = {"container": gateway.container, "network": gateway.network}
                addresses = [str(address) for address in gateway.addresses]
                log.info("gateway.addressed", **values, gateway=addresses)
        self.gateway = gateway
        return gateway

    def _reach_gateway(self, engine: Engine, found: sidecar.Sidecar) -> Gateway:
        container = sidecar.follow(engine, found.gateway)
        if container.id != found.gateway.id:
            self._sidecar = replace(found, gateway=container)
            _tell_gateway(container)
        if not container.running:
            reason = f"the gateway {container.name} is not running"
            raise NotReadyError(reason, f"docker start {container.name}")
        endpoint = container.endpoint(found.network)
        if endpoint is None or not endpoint.interfaces:
            reason = f"the gateway {container.name} has no address on the network {found.network}"
            raise NotReadyError(reason, f"docker network connect {found.network} {container.name}")
        addresses = tuple(interface.ip for interface in endpoint.interfaces)
        gateway = Gateway(
            container.name, container.id, endpoint.network, endpoint.network_id, addresses
        )
        return self._with_losses(gateway)

    def _lost_gateway(
        self, engine: Engine, found: sidecar.Sidecar, error: NotReadyError
    ) -> Gateway:
        """Return the gateway without addresses, which makes unreachable what it should lead to."""
        if self.gateway:
            return _without_addresses(self.gateway)
        try:
            network = engine.network(found.network)
        except GoneError:
            advice = f"docker network create {found.network}, or name another by label or --network"
            reason = f"there is no network {found.network}"
            raise NotReadyError(reason, advice) from error
        container = found.gateway
        versions = frozenset(subnet.version for subnet in network.subnets)
        return Gateway(container.name, container.id, network.name, network.id, (), lost=versions)

    def _with_losses(self, gateway: Gateway) -> Gateway:
        """Add the IP versions in which the last gateway on that network had an address."""
        last = self.gateway
        if self._settings.on_gateway_loss == "keep" or not last:
            return gateway
        if last.network_id != gateway.network_id:
            return gateway
        here = {address.version for address in gateway.addresses}
        return replace(gateway, lost=_without_addresses(last).lost - here)

    def _scope(
        self, engine: Engine, only: frozenset[str] | None, asked_for: frozenset[str]
    ) -> list[Container]:
        """List the containers that a pass is for: of those that failed, only who is asked for."""
        listed = engine.containers(NETWORKS_LABEL, ids=only)
        present = {container.id for container in listed}
        if only is None:
            self._reporting.forget_all_but(present)
            self._located = {key: self._located[key] for key in present & self._located.keys()}
            self._tied = set()
            self.pending &= present
        self._reporting.present(present)
        self._tied |= {container.id for container in listed if container.shares_netns_of}
        left_out = self.failing - asked_for
        return [container for container in listed if container.id not in left_out]

    def _own_up(self, running: set[str]) -> None:
        """Count as given what was given early to those that run by now, or never came to run."""
        now = time.monotonic()
        for key, (client, until) in tuple(self._early.items()):
            if key in running or now > until:
                given = self._given.setdefault(client.netns, {})
                given.update({route.dst: (route, client) for route in client.routes})
                del self._early[key]

    def _locate(
        self, engine: Engine, containers: Iterable[Container], asked_for: frozenset[str]
    ) -> Iterator[tuple[Container, Container]]:
        """Pair each container with the owner of its namespace, whose path is known then.

        Those asked for have just changed, which a listing may not show yet.
        """
        for listed in containers:
            try:
                fresh = listed.id in asked_for
                container = engine.inspect(listed.id) if fresh else listed
                yield container, self._owner(engine, container)
            except GoneError as error:
                log.debug("client.gone", container=listed.name, reason=error.reason)
            except CallError as error:
                values = {"container": listed.name, "reason": error.reason}
                self._reporting.failure("client.failed", listed.id, "engine", **values)

    def _owner(self, engine: Engine, container: Container) -> Container:
        owner = container
        while reference := owner.shares_netns_of:
            owner = engine.inspect(reference)
        if owner is not container:
            self._tied.add(owner.id)
            return owner
        proof = self._located.get(container.id)
        if proof and proof.holds() and not container.sandbox_key:
            # A listing tells all but the namespace, and costs no call for each container.
            return replace(container, sandbox_key=proof.path)
        owner = container if container.sandbox_key else engine.inspect(container.id)
        if proof := netns.Proof.of(owner.sandbox_key):
            self._located[container.id] = proof
        return owner

    def _namespaces(self, clients: Iterable[Client], scope: set[str]) -> list[_Namespace]:
        """Gather what is wanted, and what was given to clients that may not want it any more."""
        spaces: dict[str, _Namespace] = {}
        for client in clients:
            space = spaces.setdefault(client.netns, _Namespace(client.netns))
            for route in client.routes:
                space.wanted.setdefault(route, client)
        for path, given in self._given.items():
            space = spaces.setdefault(path, _Namespace(path))
            for route, client in given.values():
                if client.container_id in scope or not self._reporting.knows(client.container_id):
                    space.given[route] = client
        return [space for space in spaces.values() if space.wanted or space.given]

    def _can_enter(self, engine: Engine, space: _Namespace) -> bool:
        try:
            netns.check(space.path)
        except NetnsError as error:
            for client in _each_once(space.wanted.values()):
                if _is_there(engine, client):
                    values = {"netns": space.path, "reason": error.reason} | hint(error.hint)
                    self._fail("client.failed", client, "netns", **values)
            self._given.pop(space.path, None)
            return False
        return True

    def _read(self, engine: Engine, spaces: Sequence[_Namespace]) -> list[_Namespace]:
        """Read the routes that are there; leave out the namespaces where that fails."""
        asked = [
            (space, version, iproute.show_command(space.path, version))
            for space in spaces
            for version in sorted({route.dst.version for route in space.wanted | space.given})
        ]
        unread = set()
        outcomes = self._shell.run([command for *_, command in asked])
        for (space, version, _), outcome in zip(asked, outcomes, strict=True):
            space.actual += iproute.parse(outcome.output, version)
            if outcome.exit_code:
                unread.add(space.path)
                for client in space.clients():
                    self._fail_command(engine, client, outcome, netns=space.path)
        return [space for space in spaces if space.path not in unread]

    def _plan(self, spaces: Iterable[_Namespace]) -> list[_Task]:
        tasks: list[_Task] = []
        pending: set[str] = set()
        for space in spaces:
            due = list(space.tasks())
            tasks += due[:MAX_STEPS]
            pending.update(task.client.container_id for task in due[MAX_STEPS:])
            self._tell_direct(space)
            given = self._given.setdefault(space.path, {})
            for route, client in space.wanted.items():
                if route in space.actual:
                    given[route.dst] = (route, client)
        self.pending |= pending
        return tasks

    def _tell_direct(self, space: _Namespace) -> None:
        for client in space.clients():
            wanted = [route for route, whose in space.wanted.items() if whose is client]
            direct = [str(route.dst) for route in directly_reached(wanted, space.actual)]
            self._reporting.direct(client, tuple(sorted(direct)))

    def _apply(self, engine: Engine, tasks: Sequence[_Task], gateway: Gateway, trigger: str) -> int:
        done: Counter[Client] = Counter()
        for task, outcome in self._run(tasks):
            client, route = task.client, task.step.route
            values = {"dst": str(route.dst), "netns": task.netns}
            if task.step.verb == "del" and _VANISHED in outcome.output:
                log.debug("route.vanished", **who(client), **values, command=task.command)
                continue
            if outcome.exit_code:
                self._fail_command(engine, client, outcome, **values)
                continue
            done[client] += 1
            self._note(task)
            log.info(
                _DONE[task.step.verb],
                **who(client),
                network=gateway.network,
                **values,
                gateway=str(route.gateway or route.kind),
                command=task.command,
                trigger=trigger,
                duration_ms=round(outcome.duration_ms, 1),
            )
        for client in done:
            shared = {"shared_with": client.shared_with} if client.shared_with else {}
            log.info("client.routed", **who(client), **shared, routes=len(client.routes))
        return done.total()

    def _run(self, tasks: Sequence[_Task]) -> Iterator[tuple[_Task, Outcome]]:
        """Run replacements first, then deletions, but none where the replacement failed."""
        failed = set()
        for verb in ("replace", "del"):
            due = [task for task in tasks if task.step.verb == verb and task.target not in failed]
            outcomes = self._shell.run([task.command for task in due])
            for task, outcome in zip(due, outcomes, strict=True):
                if outcome.exit_code:
                    failed.add(task.target)
                yield task, outcome

    def _note(self, task: _Task) -> None:
        """Remember what stands in a namespace because of us."""
        given, route = self._given[task.netns], task.step.route
        if task.step.verb == "replace":
            given[route.dst] = (route, task.client)
        elif given.get(route.dst, (None,))[0] == route:
            del given[route.dst]

    def _fail_command(
        self, engine: Engine, client: Client, outcome: Outcome, **values: str
    ) -> None:
        """Report a failed command, unless it failed because the container ended under it."""
        if not _is_namespace(values["netns"]) or not _is_there(engine, client):
            log.debug("client.gone", **who(client), command=outcome.command, reason=outcome.output)
            return
        advice = next((advice for text, advice in _HINTS.items() if text in outcome.output), "")
        self._fail(
            "route.failed",
            client,
            outcome.command,
            **values,
            command=outcome.command,
            exit_code=outcome.exit_code,
            stderr=outcome.output,
            reason=f"the command ended with exit code {outcome.exit_code}",
            **hint(advice),
        )

    def _fail(self, event: str, client: Client, about: str, **values: str | int) -> None:
        named = {"container": client.container} | values
        self._reporting.failure(event, client.container_id, about, **named)


def _without_addresses(gateway: Gateway) -> Gateway:
    lost = gateway.lost | {address.version for address in gateway.addresses}
    return replace(gateway, addresses=(), lost=lost)


def _each_once(clients: Iterable[Client]) -> Iterable[Client]:
    return {client.container_id: client for client in clients}.values()


def _is_namespace(path: str) -> bool:
    try:
        netns.check(path)
    except NetnsError:
        return False
    return True


def _is_there(engine: Engine, client: Client) -> bool:
    """Tell whether a client still runs in the namespace that it had a moment ago."""
    try:
        container = engine.inspect(client.container_id)
    except GoneError:
        return False
    except CallError:
        return True
    # A lodger has no namespace of its own to compare.
    return container.running and container.sandbox_key in {"", client.netns}


def _tell_sidecar(found: sidecar.Sidecar, settings: Settings) -> None:
    if found.own:
        values = {"container": found.own.name, "container_id": found.own.id[:12]}
        log.info("sidecar.found", **values, network=found.network)
    elif not settings.network:
        reason = "our own container was not found, so its label cannot be read"
        advice = "name the network with --network if it is another one"
        log.warning("sidecar.unknown", network=found.network, reason=reason, hint=advice)


def _tell_gateway(gateway: Container) -> None:
    values = {"container": gateway.name, "container_id": gateway.id[:12]}
    log.info("gateway.found", **values, netns=gateway.sandbox_key)
