"""A proxy before an engine's socket: it refuses, fails as an engine rarely does, or speaks TLS."""

from __future__ import annotations

import contextlib
import ctypes
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from ssl import SSLContext

Mode = Literal["pass", "error", "truncate", "stall"]

_VERSION = re.compile(r"^/v1\.\d+")
_ERROR = b'{"message":"out of order"}'
_ANSWERS = {
    "error": b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_ERROR), _ERROR),
    "truncate": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b'Transfer-Encoding: chunked\r\n\r\n9\r\n[{"Id": "\r\n0\r\n\r\n',
}
_FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nConnection: close\r\n\r\nForbidden"
_CLONE_NEWNET = 0x40000000


class Proxy:
    """Passes requests on, or answers them wrongly; `stall` holds back what streams send.

    Args:
        listener: where to listen: a path, or a socket that is bound.
        target: path of the engine's socket.
        allowed: pattern of the paths that GET may have; all other requests are refused.
        idle: seconds of silence after which a stream is cut.
        tls: speak TLS with these certificates.
    """

    def __init__(
        self,
        listener: Path | socket.socket,
        target: str,
        *,
        allowed: str = "",
        idle: float | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        self.mode: Mode = "pass"
        self.delay = 0.0
        """Seconds that the engine seems to need to inspect a container."""
        self.requests = 0
        self.seen: list[str] = []
        """Method and path of each request, without the API version."""
        self.asked: list[str] = []
        """Paths with what was asked of them."""
        self.refused: list[str] = []
        self._target = target
        self._allowed = re.compile(allowed)
        self._filters = bool(allowed)
        self._idle = idle
        self._tls = tls
        self._path = listener if isinstance(listener, Path) else None
        self._listener = _bound(listener) if isinstance(listener, Path) else listener
        self._listener.listen()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # a close alone does not end the accept()
        self._listener.close()
        if self._path:
            self._path.unlink()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if not self._tls:
                self._answer(client)
                return
            with self._tls.wrap_socket(client, server_side=True) as secured:
                self._answer(secured)

    def _answer(self, client: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):  # only reads, so there is no body
            if not (data := client.recv(1 << 16)):
                return
            request += data
        self.requests += 1
        method, target, *_ = request.decode(errors="replace").split(" ", 2)
        path = target.partition("?")[0]
        self.asked.append(target)
        self.seen.append(line := f"{method} {_VERSION.sub('', path)}")
        if self._filters and not (method == "GET" and self._allowed.fullmatch(path)):
            self.refused.append(line)
            client.sendall(_FORBIDDEN)
        elif answer := _ANSWERS.get(self.mode):
            client.sendall(answer)
        else:
            if re.search(r"/containers/[0-9a-f]+/json", path):
                time.sleep(self.delay)
            self._pass_on(client, request, stream=path.endswith("/events"))

    def _pass_on(self, client: socket.socket, request: bytes, *, stream: bool) -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(self._target)
            engine.sendall(request.replace(b": keep-alive", b": close"))  # one request, one answer
            engine.settimeout(self._idle if stream else None)
            while data := engine.recv(1 << 16):
                if not (stream and self.mode == "stall"):
                    client.sendall(data)


def tcp_listener(netns: Path, address: tuple[str, int]) -> socket.socket:
    """Return a socket that is bound to an address in another network namespace."""
    made: list[socket.socket] = []

    def bind() -> None:
        with netns.open() as file:
            assert not ctypes.CDLL(None).setns(file.fileno(), _CLONE_NEWNET)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        made.append(listener)

    thread = threading.Thread(target=bind)  # its namespace ends with it, the socket keeps its own
    thread.start()
    thread.join()
    return made[0]


def _bound(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    return listener


def main(words: list[str]) -> None:
    """Filter like the documented proxy, and as long as one is there: its words are taken."""
    options = dict(word.removeprefix("-").split("=", 1) for word in words)
    path = Path(options["proxysocketendpoint"])
    path.unlink(missing_ok=True)
    with Proxy(path, "/var/run/docker.sock", allowed=options["allowGET"]):
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
