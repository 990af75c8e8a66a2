"""Finds out who we are: our gateway and our own container.

Proposals come from `identity`; the engine confirms the container and the kernel the namespace.
Nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.engine import identity
from lib.errors import GoneError, NotReadyError
from lib.kernel import namespaces
from lib.model import NETWORK_LABEL
from lib.settings import DEFAULT_NETWORK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.engine.client import Engine
    from lib.model import Container
    from lib.settings import Settings

CGROUP = Path("/proc/self/cgroup")
MOUNTINFO = Path("/proc/self/mountinfo")
_COMPOSE = tuple(f"com.docker.compose.{key}" for key in ("service", "project", "container-number"))
_ONE_OFF = "com.docker.compose.oneoff"
_SWARM_SERVICE, _SWARM_TASK = "com.docker.swarm.service.name", "com.docker.swarm.task.name"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Our place among the containers."""

    gateway: Container
    own: Container | None
    """Our own container; None where it could not be told, as outside of any."""
    network: str
    """Name of the network to serve."""


def find(engine: Engine, settings: Settings) -> Sidecar:
    """Return our place, or raise NotReadyError with what is missing."""
    mountinfo = MOUNTINFO.read_text()
    gateway = (
        _named(engine, settings.gateway) if settings.gateway else _netns_owner(engine, mountinfo)
    )
    sharing = not settings.gateway or namespaces.is_own(gateway.sandbox_key)
    own = _own(engine, gateway if sharing else None, CGROUP.read_text(), mountinfo)
    label = own.labels.get(NETWORK_LABEL, "").strip() if own else ""
    return Sidecar(gateway, own, settings.network or label or DEFAULT_NETWORK)


def follow(engine: Engine, last: Container) -> Container:
    """Return the gateway as it is now: that container, or its successor if it does not run.

    A successor has the same name, as one that an updater made, or the same place in its service.
    Of several that run, or do not, the one with the name. Raises NotReadyError if there is none.
    """
    found = [*_existing(engine, (last.id,))]
    if not any(container.running for container in found):
        found += _successors(engine, last)
    if not found:
        reason = f"the gateway {last.name} was removed"
        raise NotReadyError(reason, "create it again, under the same name")
    return min(found, key=lambda container: (not container.running, container.name != last.name))


def _successors(engine: Engine, last: Container) -> Iterator[Container]:
    """Yield what may have taken a container's place: never a one-off that of the service's own."""
    likely = [last.name]
    if place := _place(last):
        likely += [other.id for other in engine.containers(place[0]) if _place(other) == place]
    for other in _existing(engine, likely):
        is_alike = other.name == last.name or (place and _place(other) == place)
        if is_alike and _is_one_off(other) == _is_one_off(last):
            yield other


def _place(container: Container) -> tuple[str, ...]:
    """Return its place in its service, by labels, the first to list by; nothing if it has none.

    Compose counts a service's containers. A task of a swarm is named SERVICE.SLOT.ID, where the
    next one in that slot has another id; ended ones stay for a while.
    """
    labels = container.labels
    if not _is_one_off(container) and all(key in labels for key in _COMPOSE):
        return tuple(f"{key}={labels[key]}" for key in _COMPOSE)
    if _SWARM_SERVICE in labels and _SWARM_TASK in labels:
        slot = labels[_SWARM_TASK].rpartition(".")[0]
        return f"{_SWARM_SERVICE}={labels[_SWARM_SERVICE]}", slot
    return ()


def _is_one_off(container: Container) -> bool:
    """Tell whether it is one of `docker compose run`, which bears its service's labels."""
    return container.labels.get(_ONE_OFF, "").lower() == "true"


def _named(engine: Engine, reference: str) -> Container:
    try:
        return engine.inspect(reference)
    except GoneError as error:
        reason = f"the engine has no container {reference}, named by --gateway"
        raise NotReadyError(reason, "start the gateway, or correct the name") from error


def _netns_owner(engine: Engine, mountinfo: str) -> Container:
    """Return the container whose namespace file is our namespace, trying the likely ones first.

    Podman tells the file of whose namespace it is for who shares it too, as we do.
    """
    likely = tuple(_owners(engine, identity.netns_owner_ids(mountinfo)))
    for container in likely:
        if namespaces.is_own(container.sandbox_key):
            return container
    for container in _owners(engine, (other.id for other in engine.containers())):
        if namespaces.is_own(container.sandbox_key):
            return container
    if len(likely) == 1:
        # The gateway restarted or stopped after our start: our namespace is dead, its owner known.
        return likely[0]
    reason = "no container owns our network namespace"
    hint = (
        "give the sidecar the gateway's namespace (network_mode: service:GATEWAY, or "
        "--network container:GATEWAY) and mount /var/run/docker/netns with ro,rslave; "
        "or name the gateway with --gateway"
    )
    raise NotReadyError(reason, hint)


def _own(
    engine: Engine, gateway: Container | None, cgroup: str, mountinfo: str
) -> Container | None:
    """Return our own container: the one that /proc names, else one in the gateway's namespace.

    Of several such, the one with our writable layer; if that cannot be told either, the one with
    the label. None if there are several of these with different networks: a wrong guess would
    leave ours without routes, and nobody would know.
    """
    named = next(_existing(engine, identity.own_ids(cgroup, mountinfo)), None)
    if named or gateway is None:
        return named
    modes = {f"container:{gateway.id}", f"container:{gateway.name}"}
    # Podman 4.3 tells the mode in an inspection only.
    ids = (other.id for other in engine.containers() if other.network_mode in {*modes, ""})
    sharing = tuple(one for one in _existing(engine, ids) if one.network_mode in modes)
    layer = identity.upper_dir(mountinfo)
    by_layer = [container for container in sharing if layer and container.upper_dir == layer]
    by_label = [container for container in sharing if NETWORK_LABEL in container.labels]
    if not by_layer and len({container.labels[NETWORK_LABEL] for container in by_label}) > 1:
        return None
    return next(iter(by_layer or by_label or sharing), None)


def _owners(engine: Engine, identifiers: Iterable[str]) -> Iterator[Container]:
    return (one for one in _existing(engine, identifiers) if not one.shares_netns_of)


def _existing(engine: Engine, identifiers: Iterable[str]) -> Iterator[Container]:
    for identifier in identifiers:
        try:
            yield engine.inspect(identifier)
        except GoneError:
            continue
