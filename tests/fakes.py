"""Stand-ins for seams of our own. `tests/e2e/test_engine_contract.py` holds them to the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lib.errors import CallError, GoneError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.model import Container, DockerNetwork


@dataclass
class StandInEngine:
    """The part of `lib.engine.Engine` that a pass uses, over containers given by a test."""

    known: tuple[Container, ...]
    silent_about: str = ""
    listing: tuple[Container, ...] | None = None
    """What it lists, where that is older than what it knows."""
    on: tuple[DockerNetwork, ...] = ()
    """Its networks."""

    def inspect(self, reference: str) -> Container:
        if reference.startswith(self.silent_about or "-"):
            reason = "the engine was silent for too long"
            raise CallError(reason)
        for container in self.known:
            if reference in {container.id, container.name}:
                return container
        raise GoneError(reference)

    def network(self, reference: str) -> DockerNetwork:
        for network in self.on:
            if reference in {network.id, network.name}:
                return network
        raise GoneError(reference)

    def containers(
        self, *labels: str, running: bool = True, ids: Iterable[str] | None = None
    ) -> tuple[Container, ...]:
        return tuple(
            replace(container, sandbox_key="")
            for container in self.listing or self.known
            if container.running == running
            and container.labels.keys() >= set(labels)
            and (ids is None or container.id in ids)
        )
