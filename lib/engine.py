"""The Docker SDK: reading calls only, errors turned into ours; the only importer of `docker`.

What the engine answers becomes values of `lib.model` here. Nothing is decided and nothing is
remembered.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any, cast

import docker
from docker.errors import DockerException, NotFound
from docker.utils import kwargs_from_env

from lib.errors import EngineError, GoneError
from lib.model import Container, Endpoint, Event, Interface

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from docker.types.daemon import CancellableStream

TIMEOUT = 10
"""Seconds that the engine may take to answer a call; the event stream has no limit."""

_FILTERS = {
    "type": ["container", "network"],
    "event": ["start", "die", "destroy", "rename", "connect", "disconnect"],
}
_HINT = (
    "mount the engine's socket (-v /var/run/docker.sock:/var/run/docker.sock:ro), "
    "or set DOCKER_HOST"
)


class Engine:
    """A connection to the Docker Engine that `DOCKER_HOST` and its kin name, else the local one."""

    def __init__(self) -> None:
        """Connect; raise EngineError if no engine answers."""
        with _our_errors(_HINT):
            self._client = _client()
            version = self._client.version()
        self._stream: tuple[docker.APIClient, CancellableStream[dict[str, Any]]] | None = None
        self.version = str(version.get("Version", "unknown"))
        self.api_version = str(self._client.api_version)

    def close(self) -> None:
        """Close all connections; a stream that is being read in another thread ends."""
        self._client.close()
        if self._stream:
            client, stream = self._stream
            with suppress(
                AttributeError, OSError, DockerException
            ):  # docker-py fails so on a stream that has ended.
                stream.close()
            client.close()

    def inspect(self, reference: str) -> Container:
        """Return the container of that id or name; GoneError if there is none."""
        with _our_errors():
            answer = self._client.inspect_container(reference)
        return _container(answer)

    def containers(
        self, label: str | None = None, wanted: Callable[[str, str], bool] = lambda _, __: True
    ) -> tuple[Container, ...]:
        """Inspect the running containers with that label that are wanted by id and network mode.

        One that ends meanwhile is left out.
        """
        with _our_errors():
            listed = self._client.containers(filters={"label": [label]} if label else None)
        modes = {
            item["Id"]: (item.get("HostConfig") or {}).get("NetworkMode") or "" for item in listed
        }
        return tuple(
            self._present(
                identifier for identifier, mode in modes.items() if wanted(identifier, mode)
            )
        )

    def network_exists(self, name: str) -> bool:
        """Tell whether the engine has a network of that name or id."""
        try:
            with _our_errors():
                self._client.inspect_network(name)
        except GoneError:
            return False
        return True

    def events(self, since: int) -> Iterator[Event]:
        """Yield events from a moment on (seconds of Unix time) until engine or connection ends.

        Blocks for as long as nothing happens; runs on a connection of its own, so it may run in
        another thread. An end is no error here, even if it came from one (docker-py hides it):
        connect again to learn more.
        """
        with _our_errors():
            client = _client()
            stream = client.events(since=since, filters=_FILTERS, decode=True)
            self._stream = client, stream
            for answer in stream:
                if event := _event(answer):
                    yield event

    def _present(self, identifiers: Iterable[str]) -> Iterator[Container]:
        for identifier in identifiers:
            try:
                yield self.inspect(identifier)
            except GoneError:
                continue


def _client() -> docker.APIClient:
    return docker.APIClient(version="auto", timeout=TIMEOUT, **kwargs_from_env())


@contextmanager
def _our_errors(hint: str = "") -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise GoneError(str(error.explanation)) from error
    except (DockerException, OSError, ValueError) as error:
        reason = f"the engine did not answer as it should: {error}"
        raise EngineError(reason, hint) from error


def _container(answer: dict[str, Any]) -> Container:
    settings = answer["NetworkSettings"]
    layer = (answer.get("GraphDriver") or {}).get("Data") or {}
    return Container(
        id=answer["Id"],
        name=answer["Name"].removeprefix("/"),
        running=bool(answer["State"]["Running"]),
        labels=answer["Config"].get("Labels") or {},
        network_mode=answer["HostConfig"].get("NetworkMode") or "",
        sandbox_key=settings.get("SandboxKey") or "",
        endpoints=tuple(
            Endpoint(name, endpoint.get("NetworkID") or "", tuple(_interfaces(endpoint)))
            for name, endpoint in (settings.get("Networks") or {}).items()
        ),
        upper_dir=layer.get("UpperDir") or "",
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
    return Event(answer["Action"], actor["ID"], attributes.get("name", ""))
