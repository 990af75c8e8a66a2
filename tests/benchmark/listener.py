"""When a route was set in a container's network namespace, as the kernel tells of it."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.engine import Engine
    from tests.lab.site import Container

SECONDS = 20.0
IPV4_ROUTES, NEWROUTE, GATEWAY, UNICAST, UNREACHABLE = 7, 24, 5, 1, 7
CLONE_NEWNET = 0x40000000


class Heard(NamedTuple):
    """An IPv4 route that was set."""

    kind: int
    gateway: str
    """Empty without one."""


def is_led(route: Heard) -> bool:
    """Tell whether packets go somewhere."""
    return route.kind == UNICAST


def is_unreachable(route: Heard) -> bool:
    """Tell whether they are refused."""
    return route.kind == UNREACHABLE


def namespace_of(container: Container) -> str:
    """Return where this machine sees a container's network namespace."""
    engine: Engine = container.engine  # type: ignore[assignment]
    pid = container.inspect("{{.State.Pid}}")
    return f"/proc/{engine.pid}/root/proc/{pid}/ns/net"


@contextmanager
def entered(space: str) -> Iterator[None]:
    """Be in a network namespace with this thread: sockets that are made there stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as here, open(space) as there:  # noqa: PTH123
        assert not libc.setns(there.fileno(), CLONE_NEWNET), os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert not libc.setns(here.fileno(), CLONE_NEWNET)


class RouteListener:
    """Hears of IPv4 routes that are set in a namespace."""

    def __init__(self, space: str) -> None:
        """Listen from now on."""
        with entered(space):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 1 << IPV4_ROUTES - 1))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        self._socket.close()

    def until(self, is_wanted: Callable[[Heard], bool], deed: Callable[[], None]) -> float:
        """Return milliseconds from a deed to the first such route; raises TimeoutError."""
        with suppress(BlockingIOError):
            while self._socket.recv(1 << 16, socket.MSG_DONTWAIT):
                pass
        begun = time.monotonic()
        deed()
        while select.select([self._socket], [], [], SECONDS)[0]:
            data = self._socket.recv(1 << 16)
            now = time.monotonic()
            if any(map(is_wanted, _routes(data))):
                return (now - begun) * 1000
        print("no such route was set", file=sys.stderr)
        raise TimeoutError


def _routes(data: bytes) -> Iterator[Heard]:
    """Yield the routes that messages tell of."""
    at = 0
    while at < len(data):
        size, message = struct.unpack_from("=IH", data, at)
        if message == NEWROUTE:
            yield Heard(data[at + 16 + 7], _gateway(data[at + 28 : at + size]))
        at += size + 3 & ~3


def _gateway(attributes: bytes) -> str:
    at = 0
    while at < len(attributes):
        size, kind = struct.unpack_from("=HH", attributes, at)
        if kind == GATEWAY:
            return socket.inet_ntoa(attributes[at + 4 : at + 8])
        at += size + 3 & ~3
    return ""
