"""Stand-ins for seams of our own. `tests/e2e/test_engine_contract.py` holds them to the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING

from lib.errors import CallError, GoneError
from lib.model import NETWORKS_LABEL, Container, DockerNetwork, Endpoint, Gateway, Task

if TYPE_CHECKING:
    from collections.abc import Iterable

# A gateway, and a client that was created and not started; the engine attaches it just now.
GATEWAY = Gateway("wireguard", "gw", "wg-net", "n1", tuple(map(ip_address, ("192.0.2.1", "fd::1"))))
CREATED = Container(
    id="c1",
    name="dovecot",
    running=False,
    labels={NETWORKS_LABEL: "10.8.0.0/16,fd00:8::/64"},
    network_mode="wg-net",
    sandbox_key="",
    endpoints=(Endpoint("wg-net", "", ()),),
)
FACES = (ip_interface("192.0.2.7/24"), ip_interface("fd::7/64"))
WG_NET = DockerNetwork(
    "n1", "wg-net", (ip_network("192.0.2.0/24"), ip_network("fd::/64")), {"c1": FACES}
)
GWBRIDGE = DockerNetwork("n8", "docker_gwbridge", (ip_network("172.18.0.0/16"),), {})
OTHER = DockerNetwork("n2", "other", (ip_network("10.8.1.0/24"),), {})


@dataclass
class StandInEngine:
    """The part of `lib.engine.client.Engine` that a pass uses, over containers given by a test."""

    known: tuple[Container, ...]
    silent_about: str = ""
    listing: tuple[Container, ...] | None = None
    """What it lists, where that is older than what it knows."""
    on: tuple[DockerNetwork, ...] = ()
    """Its networks."""
    services: dict[str, tuple[Task, ...]] = field(default_factory=dict)
    """The tasks on each of its networks."""
    calls: list[str] = field(default_factory=list)
    """What it was asked: the method, and about what."""

    def inspect(self, reference: str) -> Container:
        self.calls.append(f"inspect {reference}")
        if reference.startswith(self.silent_about or "-"):
            reason = "the engine was silent for too long"
            raise CallError(reason)
        for container in self.known:
            if reference in {container.id, container.name}:
                return container
        raise GoneError(reference)

    def network(self, reference: str) -> DockerNetwork:
        self.calls.append(f"network {reference}")
        for network in self.on:
            if reference in {network.id, network.name}:
                return network
        raise GoneError(reference)

    def tasks(self, reference: str) -> dict[str, tuple[Task, ...]]:
        self.calls.append(f"tasks {reference}")
        if self.silent_about == "tasks":
            reason = "the engine refused: Forbidden"
            raise CallError(reason)
        return self.services

    def networks(self) -> tuple[DockerNetwork, ...]:
        self.calls.append("networks")
        return tuple(network._replace(interfaces={}, attaching={}) for network in self.on)

    def find(self, *, container_id: str = "", name: str = "") -> Container | None:
        self.calls.append(f"find {container_id or name}")
        known = self.known if self.listing is None else self.listing
        same = (one for one in known if one.id == container_id or one.name == name)
        return next(map(_listed, same), None)

    def is_named(self, container_id: str, name: str) -> bool:
        if all(one.id != container_id for one in self.known):
            raise GoneError(container_id)
        return all(one.id == container_id for one in self.known if one.name == name)

    def close(self) -> None:
        """Nothing is open."""

    def containers(
        self, *labels: str, running: bool = True, ids: Iterable[str] | None = None
    ) -> tuple[Container, ...]:
        self.calls.append(" ".join(("containers", *labels)))
        wanted = None if ids is None else set(ids)
        return tuple(
            _listed(container)
            for container in (self.known if self.listing is None else self.listing)
            if container.running == running
            and all(_carries(container, label) for label in labels)
            and (wanted is None or container.id in wanted)
        )


def _listed(container: Container) -> Container:
    """Return a container without what only an inspection tells."""
    return container._replace(sandbox_key="", upper_dir="", dns=(), published=(), runtime="")


def _carries(container: Container, label: str) -> bool:
    key, has_value, value = label.partition("=")
    return key in container.labels and (not has_value or container.labels[key] == value)
