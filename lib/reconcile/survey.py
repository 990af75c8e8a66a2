"""What should be and what is: snapshot -> desired -> actual -> plan. Changes nothing.

The daemon's pass and the commands that look or take back go this way alike. It remembers what
spares the next look calls to the engine, and tells what fails to whoever asked for the look.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from lib.engine import gateways, sidecar
from lib.engine.sharing import netns_owner
from lib.errors import CallError, GoneError, NetnsError, NotReadyError
from lib.kernel import namespaces, route_table
from lib.kernel.prerequisites import CAP_ADD
from lib.logs.progress import told
from lib.model import NETWORKS_LABEL, Client, Failure, Gateway, Refusal, Route, Snapshot
from lib.reconcile.reporting import hint, who
from lib.routing import desired, iproute
from lib.routing.plan import directly_reached, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lib.engine.client import Engine
    from lib.model import Container, Desired, Network, Outcome, Step
    from lib.settings import Settings

log = structlog.get_logger()

VANISHED = "No such process"
"""What the kernel says to the deletion of a route that is gone already (ESRCH)."""

_OFF_LINK = "check that the container's link to the gateway's network is up"
_HINTS = {
    "not permitted": f"give the sidecar both capabilities: {CAP_ADD}",
    "not found": "use an image with ip and nsenter",
    "can't execute": "use an image with ip and nsenter",
    "unreachable": _OFF_LINK,
    "invalid gateway": _OFF_LINK,
}


@dataclass(slots=True)
class Namespace:
    """What is to be in one namespace and for whom, what was given before, and what is there."""

    path: str
    wanted: dict[Route, Client] = field(default_factory=dict)
    given: dict[Route, Client] = field(default_factory=dict)
    actual: tuple[Route, ...] = ()

    def clients(self) -> Iterator[Client]:
        """All for whom it is entered, each once."""
        yield from _each_once(self._for_whom.values())

    def tasks(self) -> Iterator[Task]:
        """Plan it."""
        first = next(self.clients())
        for step in plan(self.wanted, self.actual, self.given):
            yield self.task(step, self._for_whom.get(step.route, first))

    def task(self, step: Step, client: Client) -> Task:
        """Return what a step means here."""
        return Task(self.path, client, step, iproute.command(self.path, step))

    def direct(self, routes: Iterable[Route]) -> tuple[Refusal, ...]:
        """Tell which of the routes are refused because they would replace a connected network."""
        reason = "is a network to which the container is connected by itself"
        advice = "remove it from the label: the container reaches that network directly"
        found = sorted(str(route.dst) for route in directly_reached(routes, self.actual))
        return tuple(Refusal(dst, reason, advice) for dst in found)

    @property
    def _for_whom(self) -> dict[Route, Client]:
        return self.given | self.wanted


@dataclass(frozen=True, slots=True)
class Task:
    """A step, where and for whom it is done, and the line that does it."""

    netns: str
    client: Client
    step: Step
    command: str

    @property
    def target(self) -> tuple[str, Network]:
        """What it changes the way to."""
        return self.netns, self.step.route.dst


def gather(clients: Iterable[Client]) -> dict[str, Namespace]:
    """Gather what is wanted by namespace."""
    spaces: dict[str, Namespace] = {}
    for client in clients:
        for route in client.routes:
            space = spaces.setdefault(client.netns, Namespace(client.netns))
            space.wanted.setdefault(route, client)
    return spaces


class Survey:
    """Looks; remembers who the gateway is and whose namespace is whose."""

    def __init__(self, settings: Settings, fail: Callable[[Failure], None]) -> None:
        """Tell `fail` what fails for one container; it keeps no other from being looked at."""
        self._settings = settings
        self._fail = fail
        self._sidecar: sidecar.Sidecar | None = None
        self.gateway: Gateway | None = None
        """Where clients are led, as far as it is known."""
        self._located: dict[str, namespaces.Proof] = {}
        self.tied: set[str] = set()
        """Ids of containers that share a namespace, and of those whose namespace it is."""

    @property
    def netns_directory(self) -> Path | None:
        """Where the engine keeps the files of namespaces, as far as it is known and mounted."""
        key = self._sidecar.gateway.sandbox_key if self._sidecar else ""
        return Path(key).parent if key and not namespaces.is_at_process(key) else None

    def find_gateway(self, engine: Engine) -> Gateway:
        """Return the gateway as it is now; NotReadyError while there was none yet."""
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
        container = gateways.follow(engine, found.gateway)
        if container.id != found.gateway.id:
            self._sidecar = replace(found, gateway=container)
            _tell_gateway(container)
        if not container.running:
            reason = f"the gateway {container.name} is not running"
            raise NotReadyError(reason, f"docker start {container.name}")
        gateways.check(container)
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
        if gateway.network_id != last.network_id:
            return gateway
        here = {address.version for address in gateway.addresses}
        return replace(gateway, lost=_without_addresses(last).lost - here)

    def containers(
        self, engine: Engine, only: frozenset[str] | None = None
    ) -> tuple[Container, ...]:
        """List the running containers with the label: all, or some of them."""
        listed = engine.containers(NETWORKS_LABEL, ids=only)
        if only is None:
            present = {container.id for container in listed}
            self._located = {key: self._located[key] for key in present & self._located.keys()}
            self.tied = set()
        self.tied |= {container.id for container in listed if container.shares_netns_of}
        return listed

    def wanted(
        self, engine: Engine, containers: Iterable[Container], fresh: frozenset[str] = frozenset()
    ) -> Desired:
        """Return what the containers ask for, in the namespaces that they have now.

        Those in `fresh` have just changed, which a listing may not show yet.
        """
        gateway = self.gateway
        assert gateway  # noqa: S101 - it is found first
        listed = tuple(containers)
        looked_at = told(listed, len(listed), "clients looked at")
        pairs = tuple(self._locate(engine, looked_at, fresh))
        return desired.compute(Snapshot(pairs), gateway)

    def _locate(
        self, engine: Engine, containers: Iterable[Container], fresh: frozenset[str]
    ) -> Iterator[tuple[Container, Container]]:
        """Pair each container with the owner of its namespace, whose path is known then."""
        for listed in containers:
            try:
                container = engine.inspect(listed.id) if listed.id in fresh else listed
                yield container, self._owner(engine, container)
            except GoneError as error:
                log.debug("client.gone", container=listed.name, reason=error.reason)
            except CallError as error:
                values = {"container": listed.name, "reason": error.reason}
                self._fail(Failure("client.failed", listed.id, "engine", values))

    def _owner(self, engine: Engine, container: Container) -> Container:
        owner = netns_owner(engine, container)
        if owner.id == container.id:
            proof = self._located.get(container.id)
            if proof and proof.holds() and not container.sandbox_key:
                # A listing tells all but the namespace, and costs no call for each container.
                return replace(container, sandbox_key=proof.path)
            if not container.sandbox_key:
                # That it shares a namespace, Podman 4.3 tells in an inspection only.
                owner = netns_owner(engine, engine.inspect(container.id))
        if owner.id != container.id:
            self.tied |= {container.id, owner.id}
            return owner
        if proof := namespaces.Proof.of(owner.sandbox_key):
            self._located[container.id] = proof
        return owner

    def can_enter(self, engine: Engine, space: Namespace) -> bool:
        """Tell whether a namespace is there, and is one that may be written."""
        try:
            namespaces.check(space.path)
        except NetnsError as error:
            self._fail_entry(engine, space.path, _each_once(space.wanted.values()), error)
            return False
        return True

    def read(self, engine: Engine, spaces: Iterable[Namespace]) -> list[Namespace]:
        """Read the routes that are there; leave out the namespaces where that fails."""
        read = []
        for space in spaces:
            try:
                space.actual = route_table.read(space.path)
                read.append(space)
            except NetnsError as error:
                if self.can_enter(engine, space):  # It did not just end.
                    self._fail_entry(engine, space.path, space.clients(), error)
        return read

    def _fail_entry(
        self, engine: Engine, path: str, clients: Iterable[Client], error: NetnsError
    ) -> None:
        """Tell that a namespace cannot be entered, for each of its clients that is still there."""
        values = {"netns": path, "reason": error.reason}
        values |= hint(error.hint or _advice(error.reason))
        for client in clients:
            if _is_there(engine, client):
                named = {"container": client.container} | values
                self._fail(Failure("client.failed", client.container_id, "netns", named))

    def fail_command(self, engine: Engine, client: Client, outcome: Outcome, **values: str) -> None:
        """Tell of a failed command, unless it failed because the container ended under it."""
        if not _is_namespace(values["netns"]) or not _is_there(engine, client):
            log.debug("client.gone", **who(client), command=outcome.command, reason=outcome.output)
            return
        named: dict[str, str | int] = {
            "container": client.container,
            **values,
            "command": outcome.command,
            "exit_code": outcome.exit_code,
            "stderr": outcome.output,
            "reason": f"the command ended with exit code {outcome.exit_code}",
            **hint(_advice(outcome.output)),
        }
        self._fail(Failure("route.failed", client.container_id, outcome.command, named))


@dataclass(frozen=True, slots=True)
class Findings:
    """What one look at everything found."""

    survey: Survey
    gateway: Gateway
    desired: Desired
    spaces: list[Namespace]
    """Those that could be looked at."""
    failures: list[Failure]


def look(engine: Engine, settings: Settings) -> Findings:
    """Look at everything once, as a first pass would.

    Raises NotReadyError if there is no gateway, EngineError if the engine does not answer.
    """
    failures: list[Failure] = []
    survey = Survey(settings, failures.append)
    gateway = survey.find_gateway(engine)
    wanted = survey.wanted(engine, survey.containers(engine))
    spaces = [s for s in gather(wanted.clients).values() if survey.can_enter(engine, s)]
    return Findings(survey, gateway, wanted, survey.read(engine, spaces), failures)


def _without_addresses(gateway: Gateway) -> Gateway:
    lost = gateway.lost | {address.version for address in gateway.addresses}
    return replace(gateway, addresses=(), lost=lost)


def _each_once(clients: Iterable[Client]) -> Iterable[Client]:
    return {client.container_id: client for client in clients}.values()


def _advice(output: str) -> str:
    return next((advice for text, advice in _HINTS.items() if text in output), "")


def _is_namespace(path: str) -> bool:
    try:
        namespaces.check(path)
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
