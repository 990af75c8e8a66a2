"""Talks with the kernel by netlink(7), in any network namespace.

Knows how messages are framed, not what they say.
"""

from __future__ import annotations

import os
import socket
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from lib.kernel.namespaces import entered

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
"""Size, kind, flags, sequence number and port of a message; size and kind of an attribute."""

_KIND = 0x3FFF
"""Of an attribute's kind, without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`."""

# linux/netlink.h
_REQUEST, _DUMP = 0x1, 0x300
_LISTED = 0x2
"""`NLM_F_MULTI`."""
_ENDS = {2, 3}
"""`NLMSG_ERROR` and `NLMSG_DONE`, which begin with an error number below zero, or zero."""

_LIMIT_SECONDS = 2.0
"""To wait for an answer of the kernel, which has them at once."""

BUFFER = 1 << 17
"""Bytes to receive at most: more than the kernel puts together."""


class Message(NamedTuple):
    """What the kernel says of one thing."""

    kind: int
    flags: int
    body: bytes

    @property
    def is_listed(self) -> bool:
        """Whether it was there when that was asked for; it is no news."""
        return bool(self.flags & _LISTED)


def connect(protocol: int, path: str = "") -> socket.socket:
    """Open a socket in the namespace of a file, in ours if none is named.

    The calling thread is in that namespace for as long as it takes to open the socket. Raises
    OSError if that cannot be.
    """
    with entered(path):
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    kernel.settimeout(_LIMIT_SECONDS)
    return kernel


def request(kind: int, body: bytes, flags: int = _REQUEST | _DUMP) -> bytes:
    """Return the message that asks for all things of a kind."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute of a request; the value is of whole words."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def ask(kernel: socket.socket, kind: int, body: bytes) -> Message:
    """Ask for one thing; raise OSError if the kernel refuses."""
    kernel.send(request(kind, body, _REQUEST))
    message = next(_messages(kernel.recv(BUFFER)))
    if message.kind in _ENDS:
        number = -struct.unpack_from("=i", message.body)[0]
        raise OSError(number, os.strerror(number))
    return message


def dump(kernel: socket.socket, kind: int, body: bytes) -> Iterator[Message]:
    """Ask for all things of a kind, and yield them; raise OSError if the kernel refuses."""
    return (message for data in answers(kernel, kind, body) for message in messages(data))


def answers(kernel: socket.socket, kind: int, body: bytes) -> Iterator[bytes]:
    """Ask for all things of a kind, and yield what is received, for `messages`.

    What the kernel said before need not be taken apart again. Raises OSError if it refuses.
    """
    kernel.send(request(kind, body))
    while True:
        data = kernel.recv(BUFFER)
        yield data
        if (number := _end(data)) is not None:
            if number:
                raise OSError(number, os.strerror(number))
            return


@lru_cache(maxsize=512)
def _end(data: bytes) -> int | None:
    """Return the error number with which an answer ends, or zero; None if there is more to come."""
    ends = (one for one in _messages(data) if one.kind in _ENDS)
    return next((-struct.unpack_from("=i", one.body)[0] for one in ends), None)


def messages(data: bytes) -> Iterator[Message]:
    """Take apart what was received, but for what ends an answer."""
    return (message for message in _messages(data) if message.kind not in _ENDS)


def _messages(data: bytes) -> Iterator[Message]:
    at = 0
    while at < len(data):
        size, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        yield Message(kind, flags, data[at + _HEADER.size : at + size])
        at += _aligned(size)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and value of each attribute."""
    at = 0
    while at < len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind & _KIND, data[at + _ATTRIBUTE.size : at + size]
        at += _aligned(size)


def text(value: bytes) -> str:
    """Return an attribute that is a name."""
    return value.rstrip(b"\0").decode(errors="replace")


def _aligned(size: int) -> int:
    return (size + 3) & ~3
