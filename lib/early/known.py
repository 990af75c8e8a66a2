"""What is known of containers, by id: their labels, which never change.

Who is started needs no listing then, which costs the engine dearly: on containerd's image store, a
read of its database for each container listed (`refreshImage` in moby's daemon/list.go). Nothing
that can change is trusted: names are asked for anew, so are networks where they matter, and who is
said to run. What an event did not tell is asked for; what it told too late costs time only.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lib.model import Container
from lib.routing.serving import asks, ours

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lib.model import Event, Network

MOST_CONTAINERS = 2000
"""Of which something is remembered; the longest unheard-of is forgotten first."""

MOST_CHARACTERS = 4096
"""Of all labels of a container that are remembered."""


class KnownContainers:
    """The memory, for use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.mtus: Mapping[Network, int] = {}
        """How large packets to a destination may be behind the gateway (bytes)."""
        self._containers: dict[str, Container] = {}
        self._names: dict[str, str] = {}
        """Ids by the name that was heard last."""
        self._idle: set[str] = set()
        """Ids of clients that do not run."""
        self._is_listed = self._hears = False
        """Whether all that do not run were listed once, and events come."""

    def __len__(self) -> int:
        return len(self._containers)

    def get(self, container_id: str) -> Container | None:
        """Return what is known of a container, or None."""
        return self._containers.get(container_id)

    def named(self, name: str) -> Container | None:
        """Return who had a name when it was heard of last, or None."""
        return self._containers.get(self._names.get(name, ""))

    def may_start(self) -> bool:
        """Tell whether any client may be started, as far as it is known."""
        return bool(self._idle) or not (self._is_listed and self._hears)

    def learn(self, container: Container) -> None:
        """Take in what a listing told of one."""
        with self._lock:
            self._keep(container)

    def learn_idle(self, containers: Iterable[Container]) -> None:
        """Take in a listing of all clients that do not run."""
        with self._lock:
            self._is_listed = True
            for container in containers:
                self._keep(container)

    def learn_running(self, containers: Iterable[Container]) -> None:
        """Take in a listing of all clients that run: no other does, whatever was not told."""
        with self._lock:
            running = {container.id: container for container in containers}
            for known in tuple(self._containers.values()):
                if known.running and known.id not in running:
                    self._keep(known._replace(running=False))
            for container in running.values():
                self._keep(container)

    def note(self, event: Event) -> None:
        """Take in an event of the engine."""
        if event.network_id:
            return
        with self._lock:
            self._hears = True
            known = self._containers.get(event.container_id)
            self._forget(event.container_id)
            if event.action == "destroy":
                return
            running = {"start": True, "die": False}.get(event.action, bool(known and known.running))
            self._keep(
                Container(
                    id=event.container_id,
                    name=event.container,
                    running=running,
                    labels=event.labels,
                    network_mode="",
                    sandbox_key="",
                    endpoints=(),
                )
            )

    def _keep(self, container: Container) -> None:
        self._forget(container.id)
        labels = ours(container.labels)
        if sum(len(key) + len(text) for key, text in labels.items()) > MOST_CHARACTERS:
            self._is_listed = False  # Not everything is known any more.
            return
        self._containers[container.id] = container._replace(
            labels=labels, sandbox_key="", endpoints=(), upper_dir=""
        )
        self._names[container.name] = container.id
        if asks(labels) and not container.running:
            self._idle.add(container.id)
        if len(self._containers) > MOST_CONTAINERS:
            oldest = next(iter(self._containers))
            self._is_listed = self._is_listed and oldest not in self._idle
            self._forget(oldest)

    def _forget(self, container_id: str) -> None:
        self._idle.discard(container_id)
        known = self._containers.pop(container_id, None)
        if known and self._names.get(known.name) == container_id:
            del self._names[known.name]
