"""The event stream on sockets of the test's own: what it yields, how it ends, and what it leaves.

Each test says what the engine does with a connection. An engine that hangs is one that does nothing
until the other side has gone.
"""

from __future__ import annotations

import gc
import json
import re
import socketserver
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from lib.engine.events import FILTERS, EventStream
from lib.errors import CallError, StreamEndedError
from lib.model import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from socket import socket

    Handler = Callable[[socket], None]

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
NUMBER = re.compile(r"\d+")
SECONDS = 5
"""How long a test waits for what should come at once."""


def line(action: str, key: str = "c1", **attributes: str) -> bytes:
    event = {"Type": "container", "Action": action, "Actor": {"ID": key, "Attributes": attributes}}
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"


BOTH = line("start"), line("die", "c2")


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def request_of(connection: socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received and (piece := connection.recv(4096)):
        received += piece
    return received


def hang(connection: socket) -> None:
    with suppress(ConnectionResetError):
        while connection.recv(4096):
            pass


def says(*pieces: bytes) -> Handler:
    """Answer in those pieces, and hang."""

    def handle(connection: socket) -> None:
        request_of(connection)
        for piece in pieces:
            connection.sendall(piece)
        hang(connection)

    return handle


def until(is_true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.005)
    return is_true()


# Closing it waits for its connections, so that each test begins with none.
class UnixServer(socketserver.ThreadingUnixStreamServer):
    request_queue_size = 64


class TCPServer(socketserver.ThreadingTCPServer):
    request_queue_size = 64


@pytest.fixture
def listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Handler], EventStream]]:
    """Have the engine do that with each connection, and listen to it."""
    path = str(tmp_path / "engine.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    streams: list[EventStream] = []
    with ExitStack() as stack:

        def start(handle: Handler) -> EventStream:
            if not streams:
                stack.enter_context(served(partial(UnixServer, path), handle))
            streams.append(EventStream("1.45", 1700000000))
            return streams[-1]

        yield start
        for stream in streams:
            stream.close()
    assert until(lambda: not listening())


@contextmanager
def served(
    make: Callable[[type[socketserver.BaseRequestHandler]], socketserver.TCPServer],
    handle: Handler,
) -> Iterator[socketserver.TCPServer]:
    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(BrokenPipeError):
                handle(self.request)

    with make(Connection) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def events(stream: EventStream, count: int) -> list[Event]:
    found: list[Event] = []
    deadline = time.monotonic() + SECONDS
    while len(found) < count and time.monotonic() < deadline:
        found += stream.read(0.05)
    return found


def end(stream: EventStream) -> Exception:
    """Read until the end, which is the same however often it is asked for."""
    with pytest.raises((StreamEndedError, CallError)) as ended:
        until(lambda: bool(stream.read(0.05) and False))
    with pytest.raises(type(ended.value)):
        stream.read(0)
    return ended.value


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([CHUNKED, chunk(BOTH[0]), chunk(BOTH[1])], id="a chunk each"),
        pytest.param([CHUNKED + chunk(BOTH[0] + BOTH[1])], id="all in one"),
        pytest.param([CHUNKED, chunk(BOTH[0][:9]), chunk(BOTH[0][9:] + BOTH[1])], id="in parts"),
        pytest.param([OK + b"\r\n", *BOTH], id="without chunks"),
        pytest.param(
            [CHUNKED, chunk(BOTH[0] + b"{}\n[]\nnone\n\n" + BOTH[1])], id="odd ones between"
        ),
    ],
)
def test_events_come_while_the_stream_lasts(
    listen: Callable[[Handler], EventStream], pieces: list[bytes]
) -> None:
    stream = listen(says(*pieces))

    assert events(stream, 2) == [Event("start", "c1"), Event("die", "c2")]


def test_labels_are_read_whatever_their_alphabet_and_length(
    listen: Callable[[Handler], EventStream],
) -> None:
    text = "ж" * 100_001
    stream = listen(says(CHUNKED, chunk(line("create", name="web", note=text))))

    assert events(stream, 1) == [Event("create", "c1", "web", labels={"note": text})]


def test_the_engine_is_asked_for_what_passes_need_from_that_moment_on(
    listen: Callable[[Handler], EventStream],
) -> None:
    asked: list[bytes] = []

    def handle(connection: socket) -> None:
        asked.append(request_of(connection))
        hang(connection)

    stream = listen(handle)
    assert until(lambda: bool(asked))
    stream.close()

    url = urlsplit(asked[0].split()[1].decode())
    query = parse_qs(url.query)
    assert url.path == "/v1.45/events"
    assert query["since"] == ["1700000000"]
    assert json.loads(query["filters"][0]) == FILTERS


def ends(connection: socket) -> None:
    request_of(connection)
    connection.sendall(CHUNKED + chunk(line("start")) + chunk(b""))


def breaks_off(connection: socket) -> None:
    request_of(connection)
    connection.sendall(CHUNKED + b"ff\r\n{")


@pytest.mark.parametrize("handle", [ends, breaks_off])
def test_an_end_is_told_as_one(listen: Callable[[Handler], EventStream], handle: Handler) -> None:
    assert isinstance(end(listen(handle)), StreamEndedError)


# The SDK leaves a socket that did not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_is_not_there_ends_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing")

    assert isinstance(end(EventStream("1.41", 0)), StreamEndedError)
    assert until(lambda: not listening())
    gc.collect()  # Here: later tests count descriptors.


def test_who_reads_is_woken_from_another_thread(listen: Callable[[Handler], EventStream]) -> None:
    stream = listen(says(CHUNKED))
    begun = time.monotonic()
    threading.Timer(0.05, stream.wake).start()

    assert stream.read(SECONDS) == []
    assert time.monotonic() - begun < SECONDS / 2
    stream.wake()
    assert stream.read(SECONDS) == []


def test_who_is_woken_hears_of_the_end_all_the_same(
    listen: Callable[[Handler], EventStream],
) -> None:
    stream = listen(lambda _: None)
    with pytest.raises(StreamEndedError):
        stream.read(SECONDS)
    stream.wake()

    with pytest.raises(StreamEndedError):
        stream.read(SECONDS)


@pytest.mark.parametrize(
    ("status", "said", "reason"),
    [
        ("403 Forbidden", b'{"message": "not allowed"}', "the engine refused: not allowed"),
        ("403 Forbidden", b"no\n", "the engine refused: no"),
        ("404 Not Found", b"[]", "the engine refused: []"),
        ("500 Internal Server Error", b"", "the engine refused: 500"),
    ],
)
def test_a_refusal_is_told_as_one(
    listen: Callable[[Handler], EventStream], status: str, said: bytes, reason: str
) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(said)}\r\n\r\n"
    refusal = end(listen(says(head.encode() + said)))

    assert isinstance(refusal, CallError)
    assert refusal.reason == reason


def held() -> Counter[str]:
    """Count this process's descriptors and threads, by what they are."""
    threads = [thread.name for thread in threading.enumerate()]
    return Counter(NUMBER.sub("N", name) for name in (*descriptors(), *threads))


def descriptors() -> list[str]:
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that this folder is read by
            links.append(str(descriptor.readlink()))
    return links


def with_server() -> Counter[str]:
    """Return what is held now, and what the engine to come will hold."""
    gc.collect()  # What earlier tests left may hold some.
    return held() + Counter(["socket:[N]", "Thread-N (serve_forever)"])


def left(before: Counter[str]) -> Counter[str]:
    """Return what is held beyond that, when nothing is or after a while.

    Threads of earlier tests may end meanwhile.
    """
    until(lambda: not held() - before)
    return held() - before


def listening() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "events"]


@pytest.mark.parametrize(
    ("handle", "heard"),
    [
        pytest.param(hang, 0, id="it does not even read"),
        pytest.param(says(), 0, id="headers are held back"),
        pytest.param(says(b"HTTP/1.1 200"), 0, id="in the middle of the headers"),
        pytest.param(says(CHUNKED), 0, id="before the first event"),
        pytest.param(says(CHUNKED, chunk(line("start"))), 1, id="after an event"),
        pytest.param(says(CHUNKED, chunk(line("start")), b"ff\r\n{"), 1, id="in an event"),
    ],
)
def test_a_closed_stream_leaves_nothing_wherever_the_engine_hangs(
    listen: Callable[[Handler], EventStream], handle: Handler, heard: int
) -> None:
    before = with_server()

    for _ in range(5):
        stream = listen(handle)
        assert len(events(stream, heard)) == heard
        assert until(lambda: held()["socket:[N]"] >= before["socket:[N]"] + 2)
        stream.close()
        stream.close()
        assert until(lambda: not listening())
        assert isinstance(end(stream), StreamEndedError)

    assert left(before) == Counter()


def test_a_stream_that_is_closed_at_once_leaves_nothing(
    listen: Callable[[Handler], EventStream],
) -> None:
    before = with_server()

    for _ in range(20):
        listen(hang).close()

    assert left(before) == Counter()


def test_an_answer_that_comes_late_is_not_taken(listen: Callable[[Handler], EventStream]) -> None:
    is_closed, was_taken = threading.Event(), []

    def handle(connection: socket) -> None:
        request_of(connection)
        is_closed.wait(SECONDS)
        was_taken.append(connection.recv(1) != b"")
        connection.sendall(CHUNKED + chunk(line("start")))

    stream = listen(handle)
    assert stream.read(0.1) == []
    stream.close()
    is_closed.set()

    assert isinstance(end(stream), StreamEndedError)
    assert until(lambda: was_taken == [False])


def test_it_is_the_same_over_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    before = held()

    with served(partial(TCPServer, ("127.0.0.1", 0)), says(CHUNKED, chunk(BOTH[0]))) as server:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.socket.getsockname()[1]}")
        stream = EventStream("1.45", 0)
        assert events(stream, 1) == [Event("start", "c1")]
        assert stream.read(0.1) == []
        stream.close()

    assert left(before) == Counter()
