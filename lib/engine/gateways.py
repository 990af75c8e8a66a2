"""The gateway's container: by the name it was given, and who took its place since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.engine.sharing import netns_owner
from lib.errors import GoneError, HostNetworkError, NamespaceLeftError, NotReadyError
from lib.model import Container

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.engine.client import Engine

_SERVICE, _PROJECT, _NUMBER = (
    f"com.docker.compose.{key}" for key in ("service", "project", "container-number")
)
_ONE_OFF = "com.docker.compose.oneoff"
SERVICE_LABELS = (_SERVICE, "com.docker.swarm.service.name")
"""By which a container says of which service it is."""
_SWARM_SERVICE, _SWARM_TASK = "com.docker.swarm.service.name", "com.docker.swarm.task.name"


def named(engine: Engine, reference: str, by: str, own: Container | None) -> Container:
    """Return the gateway of that name or id, or of that service in our own Compose project.

    Of a service with several containers, the first that runs. `by` says what named it. Raises
    NotReadyError if there is none.
    """
    try:
        return engine.inspect(reference)
    except GoneError as error:
        found = [*_of_service(engine, reference, own)] if own else []
        if found:
            return min(
                found, key=lambda one: (not one.running, one.labels.get(_NUMBER, ""), one.id)
            )
        reason = f"the engine has no container {reference}, named by {by}"
        raise NotReadyError(reason, "start the gateway, or correct the name") from error


def follow(engine: Engine, last: Container) -> Container:
    """Return the gateway as it is now: that container, or its successor if it does not run.

    A successor has the same name, as one that an updater made, or the same place in its service.
    Of several that run, or do not, the one with the name. Raises NotReadyError if there is none.
    """
    found = [*existing(engine, (last.id,))]
    if not any(container.running for container in found):
        found += _successors(engine, last)
    if not found:
        reason = f"the gateway {last.name} was removed"
        raise NotReadyError(reason, "create it again, under the same name")
    return min(found, key=lambda container: (not container.running, container.name != last.name))


def check(gateway: Container) -> None:
    """Raise HostNetworkError if the gateway has no network of its own in which to be reached."""
    if gateway.network_mode == "host":
        reason = (
            f"the gateway {gateway.name} uses the host's network: "
            "clients reach its tunnels by their default route"
        )
        hint = "nothing is to be done for them; or make it anew with a network of its own"
        raise HostNetworkError(reason, hint)


def netns_owner_of(engine: Engine, gateway: Container) -> Container:
    """Return whose network namespace the gateway uses, mostly its own: there its tunnels end.

    Raises HostNetworkError if that is the host's, NotReadyError if the gateway is in none that
    could be reached.
    """
    try:
        owner = netns_owner(engine, gateway)
    except NamespaceLeftError as error:
        reason = f"the gateway {gateway.name} cannot be reached: it {error.reason}"
        raise NotReadyError(reason, error.hint) from error
    check(owner)
    return owner


def standing_for(service: str) -> Container:
    """Return what stands for a service's task until that is found."""
    return Container(
        id=service,
        name=service,
        running=False,
        labels={},
        network_mode="",
        sandbox_key="",
        endpoints=(),
    )


def existing(engine: Engine, identifiers: Iterable[str]) -> Iterator[Container]:
    """Inspect those of the containers that are there."""
    for identifier in identifiers:
        try:
            yield engine.inspect(identifier)
        except GoneError:
            continue


def _of_service(engine: Engine, service: str, own: Container) -> Iterator[Container]:
    if project := own.labels.get(_PROJECT):
        labels = (f"{_SERVICE}={service}", f"{_PROJECT}={project}")
        listed = (*engine.containers(*labels), *engine.containers(*labels, running=False))
        yield from existing(engine, (one.id for one in listed if not _is_one_off(one)))


def _successors(engine: Engine, last: Container) -> Iterator[Container]:
    """Yield what may have taken a container's place: never a one-off that of the service's own."""
    likely = [last.name]
    if place := _place(last):
        likely += [other.id for other in engine.containers(place[0]) if _place(other) == place]
    for other in existing(engine, likely):
        is_alike = other.name == last.name or (place and _place(other) == place)
        if is_alike and _is_one_off(other) == _is_one_off(last):
            yield other


def _place(container: Container) -> tuple[str, ...]:
    """Return its place in its service, by labels, the first to list by; nothing if it has none.

    Compose counts a service's containers. A task of a swarm is named SERVICE.SLOT.ID, where the
    next one in that slot has another id; ended ones stay for a while.
    """
    labels, keys = container.labels, (_SERVICE, _PROJECT, _NUMBER)
    if not _is_one_off(container) and all(key in labels for key in keys):
        return tuple(f"{key}={labels[key]}" for key in keys)
    if _SWARM_SERVICE in labels and _SWARM_TASK in labels:
        slot = labels[_SWARM_TASK].rpartition(".")[0]
        return f"{_SWARM_SERVICE}={labels[_SWARM_SERVICE]}", slot
    return ()


def _is_one_off(container: Container) -> bool:
    """Tell whether it is one of `docker compose run`, which bears its service's labels."""
    return container.labels.get(_ONE_OFF, "").lower() == "true"
