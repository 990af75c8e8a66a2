"""Who the gateway is and where: one object that tracks it, logs its changes and announces them.

It asks the engine; it touches no route.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from lib import advice
from lib.engine import gateways, outside, sidecar
from lib.engine.gwbridge import with_unlisted
from lib.errors import CallError, GoneError, HostNetworkError, NotReadyError, UnprovenError
from lib.kernel.namespaces import is_at_process
from lib.model import Gateway
from lib.reconcile.contest import Contest
from lib.reconcile.report import Found, Lost, Unknown
from lib.reconcile.reporting import hint
from lib.reconcile.service import ServiceGateway, Watch
from lib.routing.fitness import unfit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from lib.engine.asking import Running
    from lib.engine.client import Engine
    from lib.model import Container, DockerNetwork, Event, Network, Sidecar
    from lib.reconcile.contest import Judgement
    from lib.reconcile.report import GatewayState
    from lib.settings import Settings

log = structlog.get_logger()


class GatewayTracker:
    """Follows the gateway through restarts and re-creations."""

    def __init__(  # noqa: PLR0913 - what is asked, what is told, and what is known before
        self,
        settings: Settings,
        clock: Callable[[], float],
        announce: Callable[[Gateway | None, Path | None], None] = lambda *_: None,
        time_of_day: Callable[[], float] = time.time,
        *,
        moved: Callable[[], None] | None = None,
        place: Sidecar | None = None,
    ) -> None:
        """Tell `announce` of the gateway and of the directory of namespaces, before anyone acts.

        One that is lost has no addresses. None for the gateway where it is unknown, None for the
        directory where it is not mounted here. `moved` is called, in a thread, when a gateway that
        is a service's task may be another one. Without a `place`, that is found out.
        """
        self._settings = settings
        self._clock = clock
        self._announce = announce
        self._time = time_of_day
        self._contest = Contest(time_of_day)
        self._task = ServiceGateway(clock, Watch(moved) if moved else None)
        self._judgement: Judgement | None = None
        self._sidecar = place
        self._container: Container | None = None
        """The gateway's, as inspected last."""
        self._owner: Container | None = None
        """The one whose network namespace that uses, mostly its own."""
        self._last: Gateway | None = None
        """As it was when it was last found or lost."""
        self._directory: Path | None = advice.NETNS_DIRECTORY
        """That of namespaces; the usual one until a gateway has run."""
        self._network: DockerNetwork | None = None
        """The one that was looked at last."""
        self._unlisted: tuple[Network, ...] = ()
        """What who is attached to that is attached to besides."""
        self._judged_network = ""
        """Id of the one that was last found fit or not."""
        self.network = ""
        """Name of the network that is served, once the gateway was found or lost there."""
        self.state: GatewayState = Unknown("the gateway has not been looked for yet")

    @property
    def netns(self) -> str:
        """File of the namespace that the gateway uses, as inspected last; empty without one."""
        return self._owner.sandbox_key if self._owner else ""

    @property
    def owner(self) -> Container | None:
        """The container whose namespace the gateway uses, as inspected last."""
        return self._owner

    @property
    def place(self) -> Sidecar | None:
        """Our place, with the gateway as it was when that was found out; None until then."""
        return self._sidecar

    @property
    def sidecar(self) -> Sidecar | None:
        """Our place, with the gateway as inspected last; None until it is known."""
        if self._sidecar and self._container:
            return self._sidecar._replace(gateway=self._container)
        return self._sidecar if self._sidecar and self._sidecar.service else None

    def update(self, engine: Engine, running: Running) -> GatewayState:
        """Look for the gateway anew, log and announce what changed, and return its state.

        Raises EngineError if the engine does not answer.
        """
        state, before = self.find(engine, running), self.state
        if _alone(state) != _alone(before):
            _log_change(before, state)
        self._log_contest(before, state)
        self.state = state
        self._last = None if isinstance(state, Unknown) else state.gateway
        self.network = self._last.network if self._last else self.network
        own = self._sidecar.own if self._sidecar and self._sidecar.addresses else None
        if key := self.netns or self._task.own_netns or (own.sandbox_key if own else ""):
            self._directory = None if is_at_process(key) else Path(key).parent
        self._announce(self._last, self._directory)
        if isinstance(state, Found) and not state.gateway.is_outside:
            self._judge_network()
        return state

    def end(self, ended: Mapping[str, float]) -> Gateway | None:
        """Take in when containers ended (Unix seconds); return the gateway if it is lost by that.

        The end of an earlier run is no news: the engine tells it again when it is listened to anew.
        The engine is asked nothing: it does not answer while it starts the gateway again. Log and
        announce it as `update` does, which finds what is true now. A task is never started again,
        and its name server may still tell of it.
        """
        state, container, owner = self.state, self._container, self._owner
        if not isinstance(state, Found) or self._settings.on_gateway_loss == "keep":
            return None
        if state.gateway.service or not container or not owner:
            return None
        own = (container, owner)
        now = {one.id for one in own if ended.get(one.id, -math.inf) > one.started_at}
        stopped = _stopped(container, owner, now)
        if not stopped:
            return None
        self._last = _without_addresses(state.gateway)
        self.state = Lost(self._last, stopped.reason, stopped.hint, self._clock())
        _log_change(state, self.state)
        self._announce(self._last, self._directory)
        return self._last

    @property
    def again_at(self) -> float:
        """When to look again although nothing happens (monotonic seconds)."""
        if not self._judgement or self._judgement.until == math.inf:
            return self._task.again_at
        until = self._clock() + max(0.0, self._judgement.until - self._time())
        return min(until, self._task.again_at)

    def depends_on(self, event: Event) -> bool:
        """Tell whether an event is about the gateway, or about another sidecar."""
        return self._contest.concerns(event) or event.container_id in self.ids

    def find(self, engine: Engine, running: Running) -> GatewayState:
        """Look for the gateway anew, and return its state; neither log it nor announce it.

        Raises EngineError if the engine does not answer.
        """
        self._judgement = None
        try:
            place = self._place(engine)
        except NotReadyError as error:
            return Unknown(error.reason, error.hint)
        state = self._find(engine, place)
        if isinstance(state, Unknown):
            return state
        return self._judged(engine, running, place, state)

    def _find(self, engine: Engine, place: Sidecar) -> GatewayState:
        try:
            gateway = self._with_losses(self._search(engine, place))
            self._look_at_network(engine, gateway)
            return Found(gateway._replace(unlisted=self._unlisted))
        except CallError as error:
            # The engine is well but silent about the gateway, as in a long start or stop.
            is_first = isinstance(self.state, Unknown)
            return Unknown(error.reason, error.hint) if is_first else self.state
        except (HostNetworkError, UnprovenError) as error:
            return Unknown(error.reason, error.hint)
        except NotReadyError as error:
            if self._settings.on_gateway_loss == "keep" or place.addresses:
                return Unknown(error.reason, error.hint)
            return self._lost(engine, place, error)

    def _search(self, engine: Engine, place: Sidecar) -> Gateway:
        """Return the gateway by the way in which it was named."""
        if place.addresses:
            return self._find_outside(engine, place)
        return (self._find_task if place.service else self._find_container)(engine, place)

    def _find_task(self, engine: Engine, place: Sidecar) -> Gateway:
        self._container = self._owner = None
        gateway = self._task.find(engine, place)
        self._container = self._owner = self._task.container
        return gateway

    def _find_container(self, engine: Engine, place: Sidecar) -> Gateway:
        self._follow(engine, place)
        return self._reach(place.network)

    def _find_outside(self, engine: Engine, place: Sidecar) -> Gateway:
        gateway = outside.gateway(engine, place.addresses, place.network)
        self._container = self._owner = outside.standing_for(gateway)
        return gateway

    def _judged(
        self, engine: Engine, running: Running, place: Sidecar, state: Found | Lost
    ) -> Found | Lost:
        """Add to a state by whom clients are served, and on which other networks."""
        gateway = state.gateway._replace(before=place.before, after=place.after)
        ours = [one for one in (self._container, self._owner) if one] or [place.gateway]
        ours = [gateways.standing_for(place.service)] if place.service else ours
        self._judgement = self._contest.judge(engine, running, gateway, ours, place.own)
        winner, among = self._judgement.verdict.winner, self._judgement.among
        served_by = winner.gateway * (winner.gateway != ours[0].name)
        return state._replace(gateway=gateway._replace(among=among), served_by=served_by)

    @property
    def ids(self) -> frozenset[str]:
        """Ids of the containers that are the gateway, if that is known, and of other sidecars."""
        if isinstance(self.state, Unknown):
            return frozenset()
        own = {one.id for one in (self._container, self._owner) if one}
        return frozenset(own | self._contest.ids)

    def _look_at_network(self, engine: Engine, gateway: Gateway) -> None:
        """Ask for the network, once."""
        if self._network and gateway.network_id == self._network.id:
            return
        self._network, self._unlisted = None, ()
        try:
            network = engine.network(gateway.network_id)
            others = with_unlisted(engine, [network])[1:]
        except (CallError, GoneError) as error:
            log.debug("answer.skipped", kind="network", reason=error.reason)
            return
        self._network = network
        self._unlisted = tuple(subnet for one in others for subnet in one.subnets)

    def _judge_network(self) -> None:
        """Warn, once, of a network on which no container can be a gateway."""
        network = self._network
        if not network or network.id == self._judged_network:
            return
        self._judged_network = network.id
        if reason := unfit(network):
            values = {"network": network.name, "reason": reason}
            log.warning("network.warned", **values, hint=advice.driver(network.name))

    def _place(self, engine: Engine) -> Sidecar:
        if self._sidecar is None:
            self._sidecar = sidecar.locate(engine, self._settings)
            _log_sidecar(self._sidecar, self._settings)
        return self._sidecar

    def _follow(self, engine: Engine, place: Sidecar) -> None:
        """Inspect the gateway's container afresh, or the one that took its place."""
        container = gateways.follow(engine, self._container or place.gateway)
        is_other = not self._container or container.id != self._container.id
        if is_other and not place.before:  # Of several networks, the first tells.
            _log_gateway(container)
            if self._container and sidecar.is_stranded(engine, place, container):
                _log_stranded(place)
        self._container = self._owner = container
        if container.running:
            self._owner = gateways.netns_owner_of(engine, container)

    def _reach(self, network: str) -> Gateway:
        """Return the gateway on the network; NotReadyError if it is not there."""
        container, owner = self._container, self._owner
        assert container  # noqa: S101 - it was inspected just now
        assert owner  # noqa: S101
        ended = {one.id for one in (container, owner) if not one.running}
        if stopped := _stopped(container, owner, ended):
            raise stopped
        endpoint = owner.endpoint(network)
        if endpoint is None or not endpoint.interfaces:
            reason = f"the gateway {owner.name} has no address on the network {network}"
            raise NotReadyError(reason, advice.attach(network, owner))
        addresses = tuple(interface.ip for interface in endpoint.interfaces)
        found = Gateway(owner.name, owner.id, endpoint.network, endpoint.network_id, addresses)
        return found._replace(may_tunnel=container.may_tunnel or owner.may_tunnel)

    def _lost(self, engine: Engine, place: Sidecar, error: NotReadyError) -> Lost | Unknown:
        """Return the gateway without addresses, so that what it led to becomes unreachable."""
        if isinstance(self.state, Lost):
            return self.state._replace(reason=error.reason, hint=error.hint)
        gateway = self._last
        if gateway is None:
            try:
                network = engine.network(place.network)
            except GoneError:
                create = advice.create_network(place.network)
                reason = f"there is no network {place.network}"
                return Unknown(reason, f"{create}, or name another by label or --network")
            versions = frozenset(subnet.version for subnet in network.subnets)
            container = self._container or place.gateway
            key = "" if place.service else container.id
            gateway = Gateway(container.name, key, network.name, network.id, (), lost=versions)
        return Lost(_without_addresses(gateway), error.reason, error.hint, self._clock())

    def _with_losses(self, gateway: Gateway) -> Gateway:
        """Add the IP versions in which the last gateway on that network had an address."""
        last = self._last
        if self._settings.on_gateway_loss == "keep" or not last:
            return gateway
        if gateway.network_id != last.network_id:
            return gateway
        here = {address.version for address in gateway.addresses}
        return gateway._replace(lost=_without_addresses(last).lost - here)

    def _log_contest(self, before: GatewayState, state: GatewayState) -> None:
        """Log that another gateway serves the clients now, or that ours does so again."""
        was = "" if isinstance(before, Unknown) else before.served_by
        if isinstance(state, Unknown) or state.served_by == was:
            return
        values = {"container": state.gateway.container, "network": state.gateway.network}
        if not state.served_by:
            reason = f"{was} serves the clients of {state.gateway.network} no more"
            log.info("gateway.chosen", **values, reason=reason)
            return
        assert self._judgement  # noqa: S101 - else nobody is known to serve them
        reason = self._judgement.verdict.reason
        log.warning("gateway.contested", **values, reason=reason, hint=advice.ONE_GATEWAY)


def _stopped(
    container: Container, owner: Container, ended: Collection[str]
) -> NotReadyError | None:
    """Return why a gateway whose namespace that owner has is none, if either of them ended."""
    if container.id in ended:
        reason = f"the gateway {container.name} is not running"
        return NotReadyError(reason, advice.start(container.name))
    if owner.id in ended:
        reason = f"{owner.name}, whose network the gateway {container.name} uses, does not run"
        return NotReadyError(reason, advice.start_shared(owner.name, container.name))
    return None


def _alone(state: GatewayState) -> GatewayState:
    if isinstance(state, Unknown):
        return state
    return state._replace(gateway=state.gateway._replace(among=None), served_by="")


def _without_addresses(gateway: Gateway) -> Gateway:
    lost = gateway.lost | {address.version for address in gateway.addresses}
    return gateway._replace(addresses=(), lost=lost)


def _log_change(before: GatewayState, now: GatewayState) -> None:
    """Log what became of the gateway."""
    if isinstance(now, Unknown):
        log.warning("gateway.missing", reason=now.reason, **hint(now.hint))
        return
    gateway = now.gateway
    values = {"container": gateway.container, "network": gateway.network}
    if isinstance(now, Lost):
        log.warning("gateway.lost", **values, reason=now.reason, **hint(now.hint))
        return
    addresses = [str(address) for address in gateway.addresses]
    where = {"service": gateway.service, "node": gateway.node} if gateway.service else {}
    log.info("gateway.ready", **values, **where, gateway=addresses)
    if gateway.is_outside:
        log.info("gateway.outside", **values, reason=advice.OUTSIDE)
    known = before.gateway.lost if isinstance(before, Found) else frozenset()
    for version in sorted(gateway.lost - known):
        reason = f"the gateway has no IPv{version} address on {gateway.network} any more"
        log.warning("gateway.lost", **values, reason=reason, hint=advice.restart(gateway.container))


def _log_sidecar(found: Sidecar, settings: Settings) -> None:
    if found.own:
        values = {"container": found.own.name, "container_id": found.own.id[:12]}
        log.info("sidecar.found", **values, network=", ".join(found.networks))
    elif not settings.network:
        reason = "our own container was not found, so its label cannot be read"
        values = {"network": ", ".join(found.networks), "reason": reason}
        log.warning("sidecar.unknown", **values, hint=advice.NETWORK_OPTION)


def _log_stranded(place: Sidecar) -> None:
    """Tell that routes are served on, but not after our next start."""
    assert place.own  # noqa: S101 - else it would not be known
    values = {"container": place.own.name, "container_id": place.own.id[:12]}
    log.warning(
        "sidecar.stranded", **values, reason=advice.STRANDED, hint=advice.recreate(place.own)
    )


def _log_gateway(gateway: Container) -> None:
    values = {"container": gateway.name, "container_id": gateway.id[:12]}
    log.info("gateway.found", **values, netns=gateway.sandbox_key)
