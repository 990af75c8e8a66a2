"""The engine's answers as values of `lib.model`.

What differs between engines and their versions ends here. An entry of a list that cannot be read
costs that entry, never the list: containers are told of in odd ways while they are removed.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any, TypeVar, cast

import structlog

from lib.kernel import namespaces
from lib.model import (
    Container,
    DockerNetwork,
    Endpoint,
    Event,
    Interface,
    PublishedPort,
    Task,
)
from lib.settings import VARIABLE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

log = structlog.get_logger()

Answer = dict[str, Any]
S = TypeVar("S")
T = TypeVar("T")

RUNNING = ("running", "paused")
"""States of a container that has a network namespace."""

UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)
"""What a parser raises for an answer that has not the form it should have."""


def _may_tunnel(host: Answer) -> bool:
    """Tell whether a container may make a link: with a capability that none has by default."""
    added = {name.upper().removeprefix("CAP_") for name in host.get("CapAdd") or ()}
    return bool(host.get("Privileged") or added & {"NET_ADMIN", "ALL"})


def parse_container(answer: Answer) -> Container:
    """Return the container that was inspected."""
    settings, host = answer["NetworkSettings"], answer["HostConfig"]
    layer = (answer.get("GraphDriver") or {}).get("Data") or {}
    return Container(
        id=answer["Id"],
        name=answer["Name"].removeprefix("/"),
        running=bool(answer["State"]["Running"]),
        labels=answer["Config"].get("Labels") or {},
        network_mode=host.get("NetworkMode") or "",
        sandbox_key=namespaces.locate(
            settings.get("SandboxKey") or "", answer["State"].get("Pid") or 0, answer["Id"]
        ),
        endpoints=_endpoints(settings, answer["Id"]),
        upper_dir=layer.get("UpperDir") or "",
        started_at=_moment(answer["State"].get("StartedAt")),
        dns=tuple(_readable("address", ip_address, host.get("Dns") or ())),
        published=tuple(_readable("port", _published, _bindings(settings.get("Ports") or {}))),
        runtime=host.get("Runtime") or "",
        may_tunnel=_may_tunnel(host),
        finished_at=_moment(answer["State"].get("FinishedAt")),
        arguments=tuple(answer["Config"].get("Cmd") or ()),
        environment=_variables(answer["Config"].get("Env") or ()),
    )


def _bindings(ports: Mapping[str, list[Answer] | None]) -> Iterator[tuple[str, Answer]]:
    for port, bindings in ports.items():
        yield from ((port, binding) for binding in bindings or ())


def _published(item: tuple[str, Answer]) -> PublishedPort:
    port, binding = item
    address = ip_address(binding.get("HostIp") or "0.0.0.0")  # noqa: S104 - as the engine means it
    return PublishedPort(port, None if address.is_unspecified else address, address.version)


def _variables(pairs: Iterable[str]) -> dict[str, str]:
    """Return the variables that are options of ours; others may be secrets."""
    found = (pair.partition("=") for pair in pairs)
    return {name: value for name, _, value in found if name.startswith(VARIABLE_PREFIX)}


def _moment(text: object) -> float:
    """Return a moment in seconds of Unix time; 0 for what is none."""
    with suppress(OverflowError, ValueError):
        return max(0.0, datetime.fromisoformat(str(text)).timestamp())
    return 0.0


def parse_listing(answer: object) -> tuple[Container, ...]:
    """Return the containers that were listed, without what only an inspection tells."""
    return tuple(_readable("container", _parse_listed, _list(answer)))


def _parse_listed(item: Answer) -> Container:
    # Legacy links show as further names, with a second slash.
    names = [name.removeprefix("/") for name in item["Names"]]
    return Container(
        id=item["Id"],
        name=[name for name in names if "/" not in name][0],  # noqa: RUF015 - IndexError is wanted
        running=item["State"] in RUNNING,
        labels=item.get("Labels") or {},
        network_mode=(item.get("HostConfig") or {}).get("NetworkMode") or "",
        sandbox_key="",
        endpoints=_endpoints(item.get("NetworkSettings") or {}, item["Id"]),
    )


def parse_network(answer: Answer) -> DockerNetwork:
    """Return the network that was inspected.

    Its subnets may have host bits: up to Docker 24 they are as somebody typed them.
    """
    pools = (answer.get("IPAM") or {}).get("Config") or []
    ends = list(_readable("endpoint", _parse_end, (answer.get("Containers") or {}).items()))
    return DockerNetwork(
        answer["Id"],
        answer["Name"],
        tuple(ip_network(pool["Subnet"], strict=False) for pool in pools if pool.get("Subnet")),
        {whose: addresses for is_id, whose, addresses in ends if is_id},
        {whose: addresses for is_id, whose, addresses in ends if not is_id},
        driver=answer.get("Driver") or "",
        internal=bool(answer.get("Internal")),
        options=answer.get("Options") or {},
        nodes=tuple(str(peer.get("IP")) for peer in answer.get("Peers") or ()),
    )


def parse_networks(answer: object) -> tuple[DockerNetwork, ...]:
    """Return the networks that were listed."""
    return tuple(_readable("network", parse_network, _list(answer)))


def parse_services(answer: Answer) -> dict[str, tuple[Task, ...]]:
    """Return the tasks on a network that was inspected with `verbose`, by service.

    Plain containers stand there under no name. Those that have ended just now may stand there still
    (moby, `GetServices` in libnetwork/agent.go).
    """
    services = answer.get("Services") or {}
    found = {
        name: tuple(_readable("endpoint", _parse_task, service.get("Tasks") or ()))
        for name, service in services.items()
    }
    return {name: tasks for name, tasks in found.items() if name}


def _parse_task(item: Answer) -> Task:
    node = (item.get("Info") or {}).get("Host IP") or ""
    return Task(item["Name"], ip_address(item["EndpointIP"]), node)


def parse_event(line: str | bytes) -> Event | None:
    """Return an event of a container, or of its attachment to a network; None for anything else."""
    return next(_readable("event", _parse_event, [line]), None)


def with_network_ids(container: Container, ids: Mapping[str, str]) -> Container:
    """Return the container with the ids of its networks where their names were told for ids."""
    points = (
        point._replace(network_id=ids.get(point.network, "")) if has_name_for_id(point) else point
        for point in container.endpoints
    )
    return container._replace(endpoints=tuple(points))


def has_name_for_id(endpoint: Endpoint) -> bool:
    """Tell whether the network's name was told for its id, as by Podman 4.3."""
    return endpoint.network_id == endpoint.network


def _list(answer: object) -> list[Answer]:
    """Return a listing; TypeError if the answer is none, which is not an empty one."""
    if not isinstance(answer, list):
        reason = f"{type(answer).__name__} instead of a list"
        raise TypeError(reason)
    return answer


def _readable(kind: str, parse: Callable[[S], T], entries: Iterable[S]) -> Iterator[T]:
    for entry in entries:
        try:
            found = parse(entry)
        except UNREADABLE as error:
            log.debug("answer.skipped", kind=kind, reason=repr(error))
        else:
            yield found


def _parse_end(item: tuple[str, Answer]) -> tuple[bool, str, tuple[Interface, ...]]:
    """Return one end of a network: whether the id is told, that or the name, and addresses."""
    key, end = item
    texts = (end.get(version) for version in ("IPv4Address", "IPv6Address"))
    addresses = tuple(_interface(text) for text in texts if text)
    is_id = not key.startswith("ep-")
    return is_id, key if is_id else end["Name"], addresses


def _endpoints(settings: Answer, container_id: str) -> tuple[Endpoint, ...]:
    """Return its attachments. Up to Docker 24 its short id is among its aliases."""
    return tuple(
        Endpoint(
            name,
            endpoint.get("NetworkID") or "",
            tuple(_interfaces(endpoint)),
            tuple(one for one in endpoint.get("Aliases") or () if one != container_id[:12]),
        )
        for name, endpoint in (settings.get("Networks") or {}).items()
    )


def _interfaces(endpoint: Answer) -> Iterator[Interface]:
    for address, length in (
        ("IPAddress", "IPPrefixLen"),
        ("GlobalIPv6Address", "GlobalIPv6PrefixLen"),
    ):
        if endpoint.get(address):
            yield _interface(f"{endpoint[address]}/{endpoint[length]}")


@lru_cache(maxsize=4096)  # Each pass lists all containers, and most have the addresses they had.
def _interface(text: str) -> Interface:
    return ip_interface(text)


def _parse_event(line: str | bytes) -> Event | None:
    answer = json.loads(line)
    actor, action = answer["Actor"], answer["Action"]
    attributes = cast("dict[str, str]", actor.get("Attributes") or {})
    if answer["Type"] == "container":
        # Labels stand among the others, unmarked; these two overwrite labels of their names.
        labels = {key: attributes[key] for key in attributes.keys() - {"image", "name"}}
        moment = answer.get("timeNano", 0) / 1e9
        return Event(action, actor["ID"], attributes.get("name", ""), "", labels, moment)
    if action not in {"connect", "disconnect"}:
        return None
    if container_id := attributes.get("container"):
        return Event(action, container_id, network_id=actor["ID"])
    # Podman tells it the other way round (libpod, newNetworkEvent), the network by its name.
    return Event(action, actor["ID"], attributes.get("name", ""))
