"""The Docker SDK: reading calls only, errors turned into ours; the only importer of `docker`.

What the engine answers becomes values of `lib.model` here. Nothing is decided and nothing is
remembered.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env, version_lt
from requests.exceptions import ReadTimeout

from lib.errors import CallError, EngineError, GoneError, OldEngineError, StaleSocketError
from lib.kernel import namespaces
from lib.model import Container, DockerNetwork, Endpoint, Event, Interface

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from docker.types.daemon import CancellableStream

TIMEOUT = 10
"""Seconds that the engine may take to answer a call; the event stream has no limit."""

INSPECT_TIMEOUT = 2
"""Seconds that it may take to answer for one container."""

OLDEST_API, NEWEST_API = "1.41", "1.51"
"""Versions of the API: of Docker 20.10, from which on all is there that is used here, and of 28.5,
up to which it was tried. The newest that an engine has is spoken."""

_SOCKET = "unix:///var/run/docker.sock"
_STALE_HINT = "give the sidecar `restart: unless-stopped`: its next start mounts the new socket"
_RUNNING = ["running", "paused"]

_ATTACHING = "ep-"
"""What the key of a network's endpoint begins with until the engine tells its container's id."""

_FILTERS = {
    "type": ["container", "network"],
    "event": ["create", "start", "die", "destroy", "rename", "connect", "disconnect"],
}
_HINT = (
    "mount the engine's socket (-v /var/run/docker.sock:/var/run/docker.sock:ro), "
    "or set DOCKER_HOST"
)


class Engine:
    """A connection to the Docker Engine that `DOCKER_HOST` and its kin name, else the local one."""

    def __init__(self) -> None:
        """Connect; raise EngineError if no engine answers, StaleSocketError if none ever will."""
        try:
            with _our_errors(_HINT):
                version = _client(OLDEST_API).version(api_version=False)
                self.api_version = str(version["ApiVersion"])
                self.is_newer_than_tried = version_lt(NEWEST_API, self.api_version)
                self._check_version()
                self._client = _client(self.api_version)
        except EngineError as error:
            _check_socket(error)
            raise
        self._stream: tuple[docker.APIClient, CancellableStream[dict[str, Any]]] | None = None
        self.version = str(version.get("Version", "unknown"))

    def close(self) -> None:
        """Close all connections; a stream that is being read in another thread ends."""
        self._close_stream()
        self._client.close()

    def inspect(self, reference: str) -> Container:
        """Return the container of that id or name; GoneError if there is none.

        CallError if the engine does not answer for it in time, as while it hangs in a start.
        """
        self._client.timeout = INSPECT_TIMEOUT
        try:
            with _our_errors():
                return _inspected(self._client.inspect_container(reference))
        except CallError as error:
            if self._answers():
                raise
            raise EngineError(error.reason, error.hint) from error
        finally:
            self._client.timeout = TIMEOUT

    def containers(
        self, *labels: str, running: bool = True, ids: Iterable[str] | None = None
    ) -> tuple[Container, ...]:
        """List the containers that run, or do not, and carry all those labels (`key[=value]`).

        Only those of the ids, if any are given.

        Of a listing `sandbox_key` and `upper_dir` are empty, and the rest is as it was when the
        container last changed; one that is being started does not run yet. It never blocks.
        """
        # Who does not run is not asked for by status: Podman refuses `restarting`.
        status = _RUNNING if running else []
        filters = {"label": list(labels), "status": status, "id": list(ids or ())}
        with _our_errors():
            found = map(_listed, self._client.containers(all=True, filters=filters))
            return tuple(one for one in found if one.running == running)

    def find(self, *, container_id: str = "", name: str = "") -> Container | None:
        """Return the container of that id or name as a listing tells it, or None.

        It is as in `containers`, in whatever state, and this never blocks, as `inspect` does while
        a container is started.
        """
        filters = {"id": [container_id]} if container_id else {"name": [f"^/?{re.escape(name)}$"]}
        with _our_errors():
            found = map(_listed, self._client.containers(all=True, filters=filters))
            return next((one for one in found if one.id == container_id or one.name == name), None)

    def is_named(self, container_id: str, name: str) -> bool:
        """Tell whether a container has that name, if anyone has it; it never blocks either.

        Unlike `find` it costs no look at an image: of those with that name, the engine lists who
        comes before the container (`includeContainerInList` in moby's daemon/list.go), which is
        nobody if that is the one. Raises GoneError or CallError if there is no such container.
        """
        filters = {"name": [f"^/?{re.escape(name)}$"], "since": [container_id]}
        with _our_errors():
            return not self._client.containers(all=True, filters=filters)

    def network(self, reference: str) -> DockerNetwork:
        """Return the network of that name or id; GoneError if there is none."""
        with _our_errors():
            return _network(self._client.inspect_network(reference))

    def networks(self) -> tuple[DockerNetwork, ...]:
        """List all networks; of a listing `interfaces` is empty."""
        with _our_errors():
            return tuple(_network(answer) for answer in self._client.networks())

    def events(self, since: int) -> Iterator[Event]:
        """Yield events from a moment on (seconds of Unix time) until engine or connection ends.

        Blocks for as long as nothing happens; runs on a connection of its own, so it may run in
        another thread, and ends the stream before it. An end is no error here, even if it came
        from one (docker-py hides it): connect again to learn more.
        """
        with _our_errors():
            self._close_stream()
            client = _client(self.api_version)
            stream = client.events(since=since, filters=_FILTERS, decode=True)
            self._stream = client, stream
            # docker-py would take the error of a refused stream for its end.
            cast("Any", client)._raise_for_status(cast("Any", stream)._response)  # noqa: SLF001
            for answer in stream:
                if event := _event(answer):
                    yield event

    def _check_version(self) -> None:
        if version_lt(self.api_version, OLDEST_API):
            reason = f"the engine is too old: API {self.api_version}, and {OLDEST_API} is needed"
            raise OldEngineError(reason, "update it to Docker 20.10 or newer")

    def _close_stream(self) -> None:
        if self._stream:
            client, stream = self._stream
            # docker-py fails in these ways on a stream that has ended.
            with suppress(AttributeError, OSError, DockerException):
                stream.close()
            client.close()

    def _answers(self) -> bool:
        try:
            return bool(self._client.version())
        except (DockerException, OSError):
            return False


def _client(api_version: str) -> docker.APIClient:
    client = docker.APIClient(version=api_version, timeout=TIMEOUT, **kwargs_from_env())
    # Each call would look through the environment for a proxy, which no local socket has.
    client.trust_env = not client.base_url.startswith("http+docker:")
    # The SDK would keep a connection open for each of the last 25 URLs, and trip over one that a
    # proxy has closed meanwhile.
    client.headers["Connection"] = "close"
    return client


def _check_socket(error: EngineError) -> None:
    """Raise StaleSocketError if the socket's file is deleted although it is mounted here.

    So it is after a restart of an engine that makes its socket itself. Where systemd holds the
    socket (`-H fd://`, as the distributions' packages have it), it stays.
    """
    path = Path(os.environ.get("DOCKER_HOST", _SOCKET).removeprefix("unix://"))
    with suppress(OSError):
        if path.stat().st_nlink == 0:
            reason = f"the engine went away and its socket {path} was deleted"
            raise StaleSocketError(reason, _STALE_HINT) from error


@contextmanager
def _our_errors(advice: str = "") -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise GoneError(str(error.explanation)) from error
    except APIError as error:
        reason = f"the engine refused: {error.explanation or error}"
        raise CallError(reason, advice) from error
    except ReadTimeout as error:
        reason = "the engine was silent for too long"
        raise CallError(reason, advice) from error
    except (DockerException, OSError, ValueError, KeyError, TypeError) as error:
        reason = f"the engine did not answer as it should: {error}"
        raise EngineError(reason, advice) from error


def _inspected(answer: dict[str, Any]) -> Container:
    settings = answer["NetworkSettings"]
    layer = (answer.get("GraphDriver") or {}).get("Data") or {}
    return Container(
        id=answer["Id"],
        name=answer["Name"].removeprefix("/"),
        running=bool(answer["State"]["Running"]),
        labels=answer["Config"].get("Labels") or {},
        network_mode=answer["HostConfig"].get("NetworkMode") or "",
        sandbox_key=namespaces.locate(
            settings.get("SandboxKey") or "", answer["State"].get("Pid") or 0, answer["Id"]
        ),
        endpoints=_endpoints(settings),
        upper_dir=layer.get("UpperDir") or "",
    )


def _listed(item: dict[str, Any]) -> Container:
    # Legacy links show as further names, with a second slash.
    names = [name.removeprefix("/") for name in item["Names"]]
    return Container(
        id=item["Id"],
        name=next(name for name in names if "/" not in name),
        running=item["State"] in _RUNNING,
        labels=item.get("Labels") or {},
        network_mode=(item.get("HostConfig") or {}).get("NetworkMode") or "",
        sandbox_key="",
        endpoints=_endpoints(item.get("NetworkSettings") or {}),
    )


def _network(answer: dict[str, Any]) -> DockerNetwork:
    pools = answer["IPAM"]["Config"] or []
    ends = answer.get("Containers") or {}
    return DockerNetwork(
        answer["Id"],
        answer["Name"],
        tuple(ip_network(pool["Subnet"]) for pool in pools if pool.get("Subnet")),
        {key: _addresses(end) for key, end in ends.items() if not key.startswith(_ATTACHING)},
        {end["Name"]: _addresses(end) for key, end in ends.items() if key.startswith(_ATTACHING)},
        driver=answer.get("Driver") or "",
        internal=bool(answer.get("Internal")),
        options=answer.get("Options") or {},
    )


def _addresses(end: dict[str, Any]) -> tuple[Interface, ...]:
    return tuple(ip_interface(end[key]) for key in ("IPv4Address", "IPv6Address") if end.get(key))


def _endpoints(settings: dict[str, Any]) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(name, endpoint.get("NetworkID") or "", tuple(_interfaces(endpoint)))
        for name, endpoint in (settings.get("Networks") or {}).items()
    )


def _interfaces(endpoint: dict[str, Any]) -> Iterator[Interface]:
    for address, length in (
        ("IPAddress", "IPPrefixLen"),
        ("GlobalIPv6Address", "GlobalIPv6PrefixLen"),
    ):
        if endpoint.get(address):
            yield ip_interface(f"{endpoint[address]}/{endpoint[length]}")


def _event(answer: object) -> Event | None:
    """Return the event, or None for anything else: a refused stream arrives as if it were one."""
    if not isinstance(answer, dict) or not isinstance(answer.get("Actor"), dict):
        return None
    actor = cast("dict[str, Any]", answer["Actor"])
    attributes = actor.get("Attributes") or {}
    if answer.get("Type") == "network":
        return Event(answer["Action"], attributes.get("container", ""), network_id=actor["ID"])
    return Event(answer["Action"], actor["ID"], attributes.get("name", ""), labels=attributes)
