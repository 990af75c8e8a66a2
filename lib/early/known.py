"""What is known of containers, by id: their labels, which never change.

Who is started needs no listing then, which costs the engine dearly: on containerd's image store, a
read of its database for each container listed (`refreshImage` in moby's daemon/list.go). Nothing
that can change is trusted: neither names nor networks, and who is said to run is asked for anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from lib.model import NETWORKS_LABEL, Container

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.model import Event

MOST_CONTAINERS = 2000
"""Of which something is remembered; the longest unheard-of is forgotten first."""

MOST_CHARACTERS = 4096
"""Of the label of a container that is remembered."""


class KnownContainers:
    """The memory, for use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._containers: OrderedDict[str, Container] = OrderedDict()

    def __len__(self) -> int:
        return len(self._containers)

    def get(self, container_id: str) -> Container | None:
        """Return what is known of a container, or None."""
        return self._containers.get(container_id)

    def learn(self, containers: Iterable[Container]) -> None:
        """Take in what a listing or an inspection told."""
        for container in containers:
            self._keep(container)

    def note(self, event: Event) -> None:
        """Take in an event of the engine."""
        if event.network_id:
            return
        if event.action == "destroy":
            self._forget(event.container_id)
            return
        known = self._containers.get(event.container_id)
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
        label = container.labels.get(NETWORKS_LABEL)
        if label is not None and len(label) > MOST_CHARACTERS:
            self._forget(container.id)
            return
        labels = {} if label is None else {NETWORKS_LABEL: label}
        with self._lock:
            self._containers[container.id] = replace(
                container, labels=labels, sandbox_key="", endpoints=(), upper_dir=""
            )
            self._containers.move_to_end(container.id)
            if len(self._containers) > MOST_CONTAINERS:
                self._containers.popitem(last=False)

    def _forget(self, container_id: str) -> None:
        with self._lock:
            self._containers.pop(container_id, None)
