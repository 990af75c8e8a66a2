"""The engine: calls that only read, answered with values of `lib.model`.

Nothing is decided and nothing is remembered.
"""

from __future__ import annotations

import copy
import errno
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from docker.errors import DockerException
from docker.utils import version_lt

from lib import advice
from lib.engine import answers, sdk
from lib.engine.events import EventStream
from lib.errors import (
    CallError,
    DeniedError,
    EngineError,
    GoneError,
    OldEngineError,
    StaleSocketError,
)
from lib.kernel import prerequisites

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lib.engine.answers import Answer
    from lib.engine.sdk import Ask
    from lib.model import Container, DockerNetwork, Event, Task

T = TypeVar("T")

INSPECT_SECONDS = 2
"""Seconds that the engine may take to answer for one container."""

OLDEST_API, NEWEST_API = "1.41", "1.56"
"""Versions of the API: of Docker 20.10, from which on all is there that is used here, and of the
development version after 29, up to which it was tried. The newest that an engine has is spoken."""

MOST_IDS = 100
"""Ids asked for in one call: a proxy refuses a URL that its buffer cannot hold, of 16 KiB often."""

_SOCKET = f"unix://{advice.SOCKET}"
_NOT_RUNNING = ("created", "restarting", "exited")
_NOT_RUNNING_PODMAN = ("created", "initialized", "stopped", "exited")
"""As Podman has them, which refuses a listing for any other (`libpod/define/containerstate.go`)."""


class Engine:
    """A connection to the Docker Engine that `DOCKER_HOST` and its kin name, else the local one."""

    def __init__(self, ask: Ask = sdk.directly) -> None:
        """Connect; raise EngineError if no engine answers, StaleSocketError if none ever will.

        `ask` is handed each question, to do what else there is to do until it is answered.
        """
        try:
            with sdk.our_errors(_where_to_connect()):
                version = sdk.new_client(OLDEST_API, ask).version(api_version=False)
                self.api_version = str(version["ApiVersion"])
                self.is_newer_than_tried = version_lt(NEWEST_API, self.api_version)
                self._check_version()
                self._client = sdk.new_client(self.api_version, ask)
        except EngineError as error:
            _check_socket(error)
            raise
        self.version = str(version.get("Version", "unknown"))
        parts = [part.get("Name") for part in version.get("Components") or ()]
        self._not_running = _NOT_RUNNING_PODMAN if "Podman Engine" in parts else _NOT_RUNNING

    def another(self) -> Engine:
        """Return a connection beside this one, for another thread, without asking the engine.

        For the versions that a new one asks for, the engine runs two programs
        (`fillRuntimeVersion` in moby's daemon/info.go).
        """
        beside = copy.copy(self)
        beside._client = sdk.new_client(self.api_version)  # noqa: SLF001 - one of our own
        return beside

    def close(self) -> None:
        """Close all connections; who has an event stream closes that."""
        self._client.close()

    def inspect(self, reference: str) -> Container:
        """Return the container of that id or name; GoneError if there is none.

        CallError if the engine does not answer for it in time, as while it hangs in a start.
        """
        self._client.timeout = INSPECT_SECONDS
        try:
            with sdk.our_errors():
                answer = self._client.inspect_container(reference)
        except CallError as error:
            if self._answers():
                raise
            raise EngineError(error.reason, error.hint) from error
        finally:
            self._client.timeout = sdk.CALL_SECONDS
        return self._identified([_read(answers.parse_container, answer)])[0]

    def containers(
        self, *labels: str, running: bool = True, ids: Iterable[str] | None = None
    ) -> tuple[Container, ...]:
        """List the containers that run, or do not, and carry all those labels (`key[=value]`).

        Only those of the ids, if ids are given.

        Of a listing `sandbox_key` and `upper_dir` are empty, and the rest is as it was when the
        container last changed; one that is being started does not run yet. It never blocks.
        """
        wanted = None if ids is None else frozenset(ids)
        if wanted is not None and not wanted:
            return ()
        status = list(answers.RUNNING if running else self._not_running)
        filters = {"label": list(labels), "status": status}
        if wanted and len(wanted) <= MOST_IDS:
            filters["id"] = sorted(wanted)
        with sdk.our_errors():
            listed = answers.parse_listing(self._client.containers(all=True, filters=filters))
        return self._identified([one for one in listed if wanted is None or one.id in wanted])

    def find(self, *, container_id: str = "", name: str = "") -> Container | None:
        """Return the container of that id or name as a listing tells it, or None.

        It is as in `containers`, in whatever state, and this never blocks, as `inspect` does while
        a container is started.
        """
        filters = {"id": [container_id]} if container_id else {"name": [f"^/?{re.escape(name)}$"]}
        with sdk.our_errors():
            found = answers.parse_listing(self._client.containers(all=True, filters=filters))
        same = [one for one in found if one.id == container_id or one.name == name]
        return next(iter(self._identified(same)), None)

    def is_named(self, container_id: str, name: str) -> bool:
        """Tell whether a container has that name, if anyone has it; it never blocks either.

        Unlike `find` it costs no look at an image: of those with that name, the engine lists who
        comes before the container (`includeContainerInList` in moby's daemon/list.go), which is
        nobody if that is the one. Raises GoneError or CallError if there is no such container.
        """
        filters = {"name": [f"^/?{re.escape(name)}$"], "since": [container_id]}
        with sdk.our_errors():
            return not self._client.containers(all=True, filters=filters)

    def network(self, reference: str) -> DockerNetwork:
        """Return the network of that name or id; GoneError if there is none."""
        with sdk.our_errors():
            answer = self._client.inspect_network(reference)
        return _read(answers.parse_network, answer)

    def tasks(self, reference: str) -> Mapping[str, tuple[Task, ...]]:
        """Return the tasks on a network of a swarm, by their service's full name.

        Those of all nodes, on any node. Each call writes errors into the engine's log
        ("Inconsistent driver and libnetwork state"). GoneError if there is no such network.
        """
        with sdk.our_errors():
            answer = self._client.inspect_network(reference, verbose=True)
        return _read(answers.parse_services, answer)

    def networks(self) -> tuple[DockerNetwork, ...]:
        """List all networks; of a listing `interfaces` is empty."""
        with sdk.our_errors():
            listed = answers.parse_networks(self._client.networks())
        # Podman tells who is attached in a listing, too.
        return tuple(network._replace(interfaces={}) for network in listed)

    def firewall(self) -> str:
        """Return what the engine makes its firewall rules with: `iptables`, `nftables` or such.

        Engines up to Docker 27 do not tell, and have iptables. CallError where a proxy refuses.
        """
        with sdk.our_errors():
            answer = self._client.info()
        backend = answer.get("FirewallBackend") or {}
        return str(backend.get("Driver") or "iptables").partition("+")[0]

    def service_labels(self, service: str) -> Mapping[str, str]:
        """Return the labels of a swarm's service itself, which its containers do not have.

        Only a manager of the swarm tells: else CallError.
        """
        with sdk.our_errors():
            answer = self._client.inspect_service(service)  # type: ignore[no-untyped-call]
        return _read(lambda found: found["Spec"].get("Labels") or {}, answer)

    def listen(self, since: int, note: Callable[[Event], None] = lambda _: None) -> EventStream:
        """Return the events from a moment on (seconds of Unix time), on a connection of their own.

        Each is noted as soon as it comes, in the stream's thread. Whoever asked for them closes
        them.
        """
        return EventStream(self.api_version, since, note)

    def _identified(self, containers: Sequence[Container]) -> tuple[Container, ...]:
        """Put in the ids of networks whose names were told for them, by one call for each."""
        points = (point for container in containers for point in container.endpoints)
        names = {point.network for point in points if answers.has_name_for_id(point)}
        if not names:
            return tuple(containers)
        ids = {}
        for name in names:
            with suppress(GoneError):
                ids[name] = self.network(name).id
        return tuple(answers.with_network_ids(container, ids) for container in containers)

    def _check_version(self) -> None:
        if version_lt(self.api_version, OLDEST_API):
            reason = f"the engine is too old: API {self.api_version}, and {OLDEST_API} is needed"
            raise OldEngineError(reason, advice.ENGINE_UPDATE)

    def _answers(self) -> bool:
        try:
            return bool(self._client.version())
        except (DockerException, OSError):
            return False


def _read(parse: Callable[[Answer], T], answer: Answer) -> T:
    """Return what an answer about one thing says; CallError if it cannot be read."""
    try:
        return parse(answer)
    except answers.UNREADABLE as error:
        reason = f"the engine's answer cannot be read: {error!r}"
        raise CallError(reason) from error


class Engines:
    """Connects to the engine, and once that is done, again without asking what it is."""

    def __init__(self) -> None:
        self._last: Engine | None = None

    def connect(self, ask: Ask = sdk.directly) -> Engine:
        """Return a connection to what answers now, with whatever `Engine` raises."""
        self._last = Engine(ask)
        return self._last

    def another(self) -> Engine:
        """Return a connection beside the last one, for another thread."""
        return self._last.another() if self._last else Engine()


def _where_to_connect() -> str:
    user = prerequisites.rootless_user()
    return advice.ENGINE if user is None else advice.rootless_socket(user)


def _check_socket(error: EngineError) -> None:
    """Raise DeniedError if we may not use it, StaleSocketError if its file was deleted.

    It is deleted after a restart of an engine that makes its socket itself, and mounted here still.
    Where systemd holds the socket (`-H fd://`, as the distributions' packages have it), it stays.
    """
    if os.strerror(errno.EACCES) in error.reason:
        hint = advice.USERNS if prerequisites.is_remapped() else advice.SOCKET_DENIED
        raise DeniedError(error.reason, hint) from error
    path = Path(os.environ.get("DOCKER_HOST", _SOCKET).removeprefix("unix://"))
    with suppress(OSError):
        if path.stat().st_nlink == 0:
            reason = f"the engine went away and its socket {path} was deleted"
            raise StaleSocketError(reason, advice.RESTART_POLICY) from error
