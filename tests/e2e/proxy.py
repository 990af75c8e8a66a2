"""A proxy before an engine's socket that can fail in ways that an engine rarely does."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from pathlib import Path

Mode = Literal["pass", "error", "truncate", "stall"]

_ERROR = b'{"message":"out of order"}'
_ANSWERS = {
    "error": b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_ERROR), _ERROR),
    "truncate": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b'Transfer-Encoding: chunked\r\n\r\n9\r\n[{"Id": "\r\n0\r\n\r\n',
}


class Proxy:
    """Passes requests on, or answers them wrongly; `stall` holds back what streams send."""

    def __init__(self, path: Path, target: str) -> None:
        self.mode: Mode = "pass"
        self.delay = 0.0
        """Seconds that the engine seems to need to inspect a container."""
        self.requests = 0
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._path = path

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._path.unlink()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine, contextlib.suppress(OSError):
            request = client.recv(1 << 16)
            self.requests += 1
            if answer := _ANSWERS.get(self.mode):
                client.sendall(answer)
                return
            line = request.split(b"\r\n")[0]
            if re.search(rb"/containers/[0-9a-f]+/json", line):
                time.sleep(self.delay)
            engine.connect(self._target)
            engine.sendall(request)
            stream = b"/events" in line
            while data := engine.recv(1 << 16):
                if not (stream and self.mode == "stall"):
                    client.sendall(data)
