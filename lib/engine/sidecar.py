"""Finds out who we are: our own container and our gateway.

Proposals come from `identity`; the engine confirms the container and the kernel the namespace.
Nothing is written.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from lib.engine import gateways, identity, outside
from lib.errors import CallError, GoneError, NotReadyError
from lib.kernel import namespaces
from lib.model import GATEWAY_LABEL, NETWORK_LABEL, SERVICE_LABEL, Sidecar
from lib.routing.labels import names
from lib.settings import DEFAULT_NETWORK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lib.engine.client import Engine
    from lib.model import Address, Container, Gateway
    from lib.settings import Settings

log = structlog.get_logger()

CGROUP = Path("/proc/self/cgroup")
MOUNTINFO = Path("/proc/self/mountinfo")
FIRST_PROCESS = Path("/proc/1")

_SWARM_SERVICE = "com.docker.swarm.service.name"
"""A label that the engine gives to a service's containers."""

_STEP_SECONDS, _NEAR_SECONDS, _APART_SECONDS = 0.5, 10, 2
"""The engine notes a start after the first process began, by so much at most; by how much the clock
may have been set meanwhile; and how far from ours any other start must be."""


def find(engine: Engine, settings: Settings) -> Sidecar:
    """Return our place with the gateway as it is, or raise NotReadyError with what is missing."""
    found = locate(engine, settings)
    if found.addresses:
        return found._replace(gateway=outside.standing_for(_held(engine, found)))
    if found.service:
        return found
    gateway = gateways.follow(engine, found.gateway)
    gateways.check(gateway)
    return found._replace(gateway=gateway)


def locate(engine: Engine, settings: Settings) -> Sidecar:
    """Return our place with the gateway as it was last known: it may have ended or gone since.

    Raises NotReadyError with what is missing.
    """
    published = settings.published
    if published and published.sidecar:
        return _beside(engine, settings, published.sidecar)
    chosen = published.chosen if published else {}
    mountinfo = MOUNTINFO.read_text()
    named = _named(settings, chosen)
    owner = _netns_owner(engine, mountinfo, search=not named)
    own = _own(engine, owner, CGROUP.read_text(), mountinfo)
    text = settings.network or chosen.get("network") or _label(own, NETWORK_LABEL)
    by, reference, service = named or _labelled(own)
    found = Sidecar(gateways.standing_for(service), own, DEFAULT_NETWORK)
    if reference and (there := outside.addresses(reference, by)):
        return _outside(engine, found.on(names(text) or ("",)), by, there)
    found = found.on(names(text) or (DEFAULT_NETWORK,))
    if service:
        return found._replace(named_by=by, service=service)
    if reference:
        return found._replace(named_by=by, gateway=gateways.named(engine, reference, by, own))
    return found._replace(gateway=_unnamed(owner, own))


def _outside(engine: Engine, found: Sidecar, by: str, addresses: tuple[Address, ...]) -> Sidecar:
    """Return our place with the gateway that has these addresses, by which it was named.

    Of several networks it is on one, and the others wait.
    """
    network = outside.network_of(engine, addresses, found.network)
    found = found._replace(network=network, named_by=by, service="", addresses=addresses)
    return found._replace(gateway=outside.standing_for(_held(engine, found)))


def _held(engine: Engine, found: Sidecar) -> Gateway:
    """Return the gateway on the first of the networks in which its addresses are.

    Raises NotReadyError, for the first network, if there is none.
    """
    first: NotReadyError | None = None
    for network in found.networks:
        try:
            return outside.gateway(engine, found.addresses, network)
        except NotReadyError as error:
            first = first or error
    assert first  # noqa: S101 - there is one network at least
    raise first


def _named(settings: Settings, chosen: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Return by which option the gateway is named, its name, and its service's; None by none."""
    published = chosen.get("gateway"), chosen.get("gateway-service")
    for reference, service in ((settings.gateway, settings.gateway_service), published):
        if reference or service:
            by = "--gateway-service" if service else "--gateway"
            return by, reference or "", service or ""
    return None


def _labelled(own: Container | None) -> tuple[str, str, str]:
    """Return the same of our labels; NotReadyError if they name two gateways."""
    reference, service = _label(own, GATEWAY_LABEL), _label(own, SERVICE_LABEL)
    if reference and service:
        reason = f"this container has both labels, {GATEWAY_LABEL} and {SERVICE_LABEL}"
        raise NotReadyError(reason, "remove one of them")
    return f"the label {SERVICE_LABEL if service else GATEWAY_LABEL}", reference, service


def _beside(engine: Engine, settings: Settings, daemon: Sidecar) -> Sidecar:
    """Return the place of the daemon beside which we run, but for what an option or variable says.

    Where that is something else than the daemon goes by, the log says so.
    """
    ids = (daemon.own.id,) if daemon.own else ()
    found = daemon._replace(own=next(gateways.existing(engine, ids), None))
    chosen = names(settings.network or "")
    if named := _named(settings, {}):
        found = _followed(engine, found.on(chosen or daemon.networks), *named)
        if (found.gateway.id, found.service) != (daemon.gateway.id, daemon.service):
            reason = f"the daemon of this container follows {daemon.service or daemon.gateway.name}"
            log.warning("daemon.differs", container=found.gateway.name, reason=reason)
    if chosen and chosen != daemon.networks:
        reason = f"the daemon of this container serves {', '.join(daemon.networks)}"
        log.warning("daemon.differs", network=", ".join(chosen), reason=reason)
    return found.on(chosen or daemon.networks)


def _followed(engine: Engine, found: Sidecar, by: str, reference: str, service: str) -> Sidecar:
    """Return our place with another gateway, or another service."""
    if service == found.service and service:
        return found._replace(named_by=by)
    if reference and (there := outside.addresses(reference, by)):
        return _outside(engine, found, by, there)
    is_named = gateways.named(engine, reference, by, found.own) if reference else None
    gateway = is_named or gateways.standing_for(service)
    return found._replace(gateway=gateway, named_by=by, service=service, addresses=())


def is_stranded(engine: Engine, place: Sidecar, gateway: Container) -> bool:
    """Tell whether we share the network of a container whose place the gateway has taken.

    Then we run on, but the engine cannot start us again: we would join what does not run any more.
    """
    joined = place.own.shares_netns_of if place.own else None
    if not joined or joined in {gateway.id, gateway.name}:
        return False
    return not any(one.running for one in gateways.existing(engine, (joined,)))


def _label(own: Container | None, key: str) -> str:
    return own.labels.get(key, "").strip() if own else ""


def _unnamed(owner: Container | None, own: Container | None) -> Container:
    """Return the owner of our network namespace, which must be another than we."""
    if owner is None:
        reason = "no container owns our network namespace"
        hint = (
            "give the sidecar the gateway's namespace (network_mode: service:GATEWAY, or "
            "--network container:GATEWAY) and mount /var/run/docker/netns with ro,rslave; "
            "or name the gateway with --gateway"
        )
        raise NotReadyError(reason, hint)
    if own and own.id == owner.id:
        kind = (
            "uses the host's network" if own.network_mode == "host" else "has a network of its own"
        )
        is_task = _SWARM_SERVICE in own.labels
        key, option = (SERVICE_LABEL, "-service") if is_task else (GATEWAY_LABEL, "")
        name = "STACK_SERVICE" if is_task else "GATEWAY"
        hint = f"labels: {{{key}: {name}}}, or --gateway{option} {name}"
        reason = f"this container {kind}: name the gateway"
        raise NotReadyError(reason, hint)
    return owner


def _netns_owner(engine: Engine, mountinfo: str, *, search: bool) -> Container | None:
    """Return the container whose namespace file is our namespace, or None.

    The likely ones are tried first; all others only if they are to be searched. Podman tells the
    file of whose namespace it is for who shares it too, as we do.
    """
    named = gateways.existing(engine, identity.netns_owner_ids(mountinfo))
    likely = tuple(one for one in named if not one.shares_netns_of)
    owner = next(filter(_owns_our_netns, likely), None)
    if owner is None and search:
        ids = (other.id for other in engine.containers())
        owner = next(filter(_owns_our_netns, _answered(engine, ids)), None)
    # One that is likely, if it is not so now, restarted or stopped after our start: our namespace
    # is dead, its owner known.
    return owner or (likely[0] if len(likely) == 1 else None)


def _owns_our_netns(container: Container) -> bool:
    return not container.shares_netns_of and namespaces.is_own(container.sandbox_key)


def _own(engine: Engine, owner: Container | None, cgroup: str, mountinfo: str) -> Container | None:
    """Return our own container: the one that /proc names, else one in the namespace that we are in.

    Of several such, the one with our writable layer, or that started with our first process; if
    that cannot be told either, the one with the label. None if there are several of these with
    different networks: a wrong guess would leave ours without routes, and nobody would know.
    """
    named = next(gateways.existing(engine, identity.own_ids(cgroup, mountinfo)), None)
    if named or owner is None:
        return named
    sharing, layer = _sharing(engine, owner), identity.upper_dir(mountinfo)
    by_layer = (one for one in (owner, *sharing) if layer and one.upper_dir == layer)
    if found := next(by_layer, None):
        return found
    if sharing:
        return _started_with_us((owner, *sharing)) or _by_label(sharing)
    # The owner's files are mounted here and nobody else is there: that is we, if no layer says no.
    is_we = owner.id in identity.netns_owner_ids(mountinfo) and not (layer and owner.upper_dir)
    return owner if is_we else None


def _sharing(engine: Engine, owner: Container) -> list[Container]:
    """Return the containers that run in another's namespace.

    We may be listed as one that does not run yet, while the engine is still busy with our start.
    """
    for is_running in (True, False):
        listed = engine.containers(running=is_running)
        # Podman 4.3 tells the mode in an inspection only.
        likely = (*_joined(owner, listed), *(one for one in listed if not one.network_mode))
        inspected = [*_answered(engine, (one.id for one in likely))]
        if found := [one for one in _joined(owner, inspected) if one.running]:
            return found
    return []


def _joined(owner: Container, others: Sequence[Container]) -> list[Container]:
    """Return those that joined a container's namespace, or that of one that did."""
    found: list[Container] = []
    hosts = {owner.id, owner.name}
    while more := [one for one in others if one.shares_netns_of in hosts and one not in found]:
        found += more
        hosts |= {key for one in more for key in (one.id, one.name)}
    return found


def _started_with_us(containers: Sequence[Container]) -> Container | None:
    """Return the one that started when our first process did, if no other did so too."""
    try:
        since_boot = int(namespaces.process_start(FIRST_PROCESS)) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return None
    began = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
    later = sorted((one.started_at - began, one.id) for one in containers)
    later = [pair for pair in later if -_STEP_SECONDS <= pair[0] <= _NEAR_SECONDS]
    if not later or (len(later) > 1 and later[1][0] - later[0][0] < _APART_SECONDS):
        return None
    return next(one for one in containers if one.id == later[0][1])


def _by_label(sharing: Sequence[Container]) -> Container | None:
    labelled = [one for one in sharing if NETWORK_LABEL in one.labels]
    if len({one.labels[NETWORK_LABEL] for one in labelled}) > 1:
        return None
    return next(iter(labelled or sharing), None)


def _answered(engine: Engine, identifiers: Iterable[str]) -> Iterator[Container]:
    """Inspect those of the containers about which the engine answers: some may hang in a start."""
    for identifier in identifiers:
        try:
            yield engine.inspect(identifier)
        except GoneError:
            continue
        except CallError as error:
            log.debug("answer.skipped", kind="container", reason=error.reason)
