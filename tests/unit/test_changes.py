"""Who listens to a gateway's network: what the kernel says, and what it could not say."""

from __future__ import annotations

import errno
import os
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from lib.errors import NetnsError
from lib.kernel import netlink
from lib.kernel.changes import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 5


class Kernel:
    """Its end of a socket, and what our end meets."""

    def __init__(self) -> None:
        self.says, self._ours = socket.socketpair()
        self._ours.setblocking(False)  # noqa: FBT003
        self.errors: list[int] = []

    def __enter__(self) -> Kernel:  # noqa: PYI034 - it stands for a socket
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()

    def fileno(self) -> int:
        return self._ours.fileno()

    def setblocking(self, _: bool) -> None:  # noqa: FBT001
        """It is as it should be."""

    def bind(self, address: tuple[int, int]) -> None:
        assert address == (0, 1 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18)

    def recv(self, size: int) -> bytes:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return self._ours.recv(size)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    found = Kernel()
    monkeypatch.setattr(netlink, "connect", lambda *_: found)
    yield found
    found.says.close()


def test_what_is_said_is_told_until_it_is_closed(kernel: Kernel) -> None:
    told: queue.SimpleQueue[None] = queue.SimpleQueue()
    threads = threading.active_count()
    listener = Listener("/run/netns/gateway", lambda: told.put(None))
    for _ in range(2):
        kernel.says.send(b"x")
        told.get(timeout=SECONDS)
    listener.close()

    assert threading.active_count() == threads
    assert kernel.fileno() == -1


def test_what_could_not_be_said_is_told_too(kernel: Kernel) -> None:
    kernel.errors = [errno.ENOBUFS]
    told: queue.SimpleQueue[None] = queue.SimpleQueue()
    listener = Listener("/run/netns/gateway", lambda: told.put(None))
    kernel.says.send(b"x")

    told.get(timeout=SECONDS)
    listener.close()


def test_a_socket_that_fails_is_listened_to_no_more(kernel: Kernel) -> None:
    kernel.errors = [errno.EIO]
    told: list[None] = []
    threads = threading.active_count()
    listener = Listener("/run/netns/gateway", lambda: told.append(None))
    kernel.says.send(b"x")
    deadline = time.monotonic() + SECONDS
    while not listener.is_over and time.monotonic() < deadline:
        time.sleep(0.001)
    assert listener.is_over
    listener.close()

    assert (told, threading.active_count()) == ([], threads)


def test_where_nobody_may_listen_is_an_error_that_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(netlink, "connect", refuse)

    with pytest.raises(NetnsError, match="cannot listen in /run/netns/gateway: Operation not"):
        Listener("/run/netns/gateway", lambda: None)
