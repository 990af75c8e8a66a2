"""The engine's events, on a connection and a thread of their own.

They are hints: the engine drops some when it is busy, and docker-py takes an error for the end of
the stream, so the connection is held here and not by it.
"""

from __future__ import annotations

import json
import queue
import socket
import threading
from contextlib import closing, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import structlog
from requests import Request

from lib.engine import answers, sdk
from lib.errors import CallError, EngineError, StreamEndedError
from lib.model import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker import APIClient
    from requests import PreparedRequest
    from requests.adapters import HTTPAdapter
    from urllib3 import BaseHTTPResponse
    from urllib3.connection import HTTPConnection

log = structlog.get_logger()

FILTERS = {
    "type": ["container", "network"],
    "event": ["create", "start", "die", "destroy", "rename", "connect", "disconnect"],
}
"""What is asked for. A filter by label would hide the events of networks."""


class EventStream:
    """Events from a moment on, read by a thread that enqueues: a slow reader slows the engine.

    Whoever has it closes it; thread and connection end then, whatever they wait for.
    """

    def __init__(
        self, api_version: str, since: int, note: Callable[[Event], None] = lambda _: None
    ) -> None:
        """Listen, from `since` on (seconds of Unix time); nothing here waits for the engine.

        Each event is handed to `note` as soon as it comes, in this stream's thread.
        """
        self._note = note
        self._queue: queue.SimpleQueue[Event | EngineError | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._socket: socket.socket | None = None
        thread = threading.Thread(
            target=self._run, args=(api_version, since), name="events", daemon=True
        )
        thread.start()

    def read(self, seconds: float) -> list[Event]:
        """Return the events that came, after waiting for one at most that long.

        Raises StreamEndedError when there will be no more, CallError if the engine, or a proxy,
        refused to tell any.
        """
        try:
            batch = [self._queue.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._queue.empty():
            batch.append(self._queue.get())
        if end := next((one for one in batch if isinstance(one, EngineError)), None):
            self._queue.put(end)
            raise end
        return [event for event in batch if isinstance(event, Event)]

    def wake(self) -> None:
        """Let who reads, or reads next, return at once; from any thread."""
        self._queue.put(None)

    def close(self) -> None:
        """End thread and connection; an answer that is still to come is not waited for.

        Only an attempt to connect lasts on, as long as any may (`sdk.CALL_SECONDS`).
        """
        with self._lock:
            self._is_closed = True
            if self._socket:
                # It ends a `recv` in another thread, as closing the socket would not.
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self, api_version: str, since: int) -> None:
        end: EngineError = StreamEndedError("the engine ended the event stream")
        try:
            with sdk.our_errors():
                for line in self._lines(api_version, since):
                    if event := answers.parse_event(line):
                        self._note(event)
                        self._queue.put(event)
        except CallError as error:
            end = error
        except EngineError as error:
            log.debug("stream.ended", reason=error.reason)
        finally:
            self._queue.put(end)

    def _lines(self, api_version: str, since: int) -> Iterator[bytes]:
        """Yield what the engine says, an event a line."""
        client = sdk.new_client(api_version)
        asked = {"since": str(since), "filters": json.dumps(FILTERS)}
        url = f"{client.base_url}/v{api_version}/events"
        request = client.prepare_request(Request("GET", url, params=asked))
        connection, target = _connection(client, request)
        try:
            self._connect(connection)
            connection.request("GET", target, headers=request.headers, preload_content=False)
            with closing(connection.getresponse()) as response:
                _check(response)
                yield from _split(response)
        finally:
            with self._lock:
                self._socket = None
            connection.close()
            client.close()

    def _connect(self, connection: HTTPConnection) -> None:
        """Connect, and have `close` know of it before anything is waited for."""
        connection.timeout = sdk.CALL_SECONDS
        connection.connect()
        connection.timeout = None
        with self._lock:
            self._socket = connection.sock
            if self._is_closed:
                reason = "it was closed"
                raise StreamEndedError(reason)


def _connection(client: APIClient, request: PreparedRequest) -> tuple[HTTPConnection, str]:
    """Return a connection as the SDK would make it for that request, and what to ask it for."""
    url = str(request.url)
    settings = client.merge_environment_settings(url, {}, stream=True, verify=None, cert=None)
    adapter = cast("HTTPAdapter", client.get_adapter(url))
    proxies = settings["proxies"]
    pool: Any = adapter.get_connection_with_tls_context(
        request, settings["verify"], proxies, settings["cert"]
    )
    # The SDK itself, too, extends the pool at this point.
    return pool._new_conn(), adapter.request_url(request, proxies)  # noqa: SLF001


def _check(response: BaseHTTPResponse) -> None:
    if response.status != HTTPStatus.OK:
        said = response.read().decode(errors="replace").strip()
        with suppress(LookupError, TypeError, ValueError):
            said = json.loads(said)["message"]
        reason = f"the engine refused: {said or response.status}"
        raise CallError(reason)


def _split(response: BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    while piece := response.read1():
        *lines, rest = (rest + piece).split(b"\n")
        yield from filter(None, lines)
