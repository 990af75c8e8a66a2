"""What the name server of a Docker network has for a name: one question, one answer (RFC 1035).

It is asked from our own network namespace, where the engine answers at an address that leads
nowhere else. What an answer says about how long it holds is for other readers: the engine says ten
minutes.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple

from lib.model import IPV4

if TYPE_CHECKING:
    from lib.model import Address

SERVER = ("127.0.0.11", 53)
"""Where the engine answers who is on one of its own networks (moby, libnetwork/resolver.go)."""

SECONDS = 1.0
"""For an answer. One that is forwarded to a silent server takes four, and is none."""

_NO_ERROR, _NO_SUCH_NAME, _REFUSED = 0, 3, 5
_HEADER = struct.Struct(">HHHHHH")
"""Id, flags, and how many questions, answers and other records follow."""
_QUESTION, _RECORD = struct.Struct(">HH"), struct.Struct(">HHIH")
_IS_ANSWER, _WANTS_MORE, _CODE = 0x8000, 0x0100, 0x000F
_INTERNET = 1
_KINDS = {IPV4: 1, 6: 28}
"""`A` and `AAAA` (RFC 3596), by IP version."""
_ADDRESSES: dict[tuple[int, int], type[Address]] = {(1, 4): IPv4Address, (28, 16): IPv6Address}
"""By kind and length in bytes."""
_POINTER = 0xC0
_LONGEST_PART, _MOST_BYTES = 63, 4096

_ID_DIGITS = 12
"""Of a container's id: by these it is known."""


class Reply(NamedTuple):
    """What came of a question."""

    code: int | None
    """As RFC 1035 has it; None if nobody answered in time."""
    addresses: tuple[Address, ...] = ()

    @property
    def known(self) -> tuple[Address, ...] | None:
        """The addresses, none of a name that is not known; None if that could not be told."""
        return self.addresses if self.code in {_NO_ERROR, _NO_SUCH_NAME} else None

    @property
    def left(self) -> bool:
        """Whether another server had a word in it: the engine itself fails, or is silent."""
        return self.code in {_NO_ERROR, _NO_SUCH_NAME, _REFUSED}


def of_container(container_id: str) -> str:
    """Return the name by which a container itself is known."""
    return container_id[:_ID_DIGITS]


def of_tasks(service: str) -> str:
    """Return the name that all tasks of a swarm's service have."""
    return f"tasks.{service}"


def ask(
    name: str,
    version: int = IPV4,
    server: tuple[str, int] = SERVER,
    seconds: float = SECONDS,
) -> Reply:
    """Ask for a name's addresses of an IP version, and wait so many seconds for the answer."""
    number = secrets.randbelow(1 << 16)
    try:
        asked = question(name, _KINDS[version], number)
    except UnicodeError:
        return Reply(_NO_SUCH_NAME)
    try:
        return _answer(asked, server, seconds) or Reply(None)
    except OSError:
        return Reply(None)  # Nobody listens there, or nobody answers.


def _answer(asked: bytes, server: tuple[str, int], seconds: float) -> Reply | None:
    """Return the first answer to a question; None, or OSError, if none comes in time."""
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.connect(server)
        channel.send(asked)
        while (left := end - time.monotonic()) > 0:
            channel.settimeout(left)
            if found := parse(channel.recv(_MOST_BYTES), asked):
                return found
    return None


def question(name: str, kind: int, number: int) -> bytes:
    """Return a question as it is sent; UnicodeError for what cannot be a name."""
    parts = [part.encode("ascii") for part in name.rstrip(".").split(".")]
    if not all(0 < len(part) <= _LONGEST_PART for part in parts):
        reason = f"{name!r} is no name"
        raise UnicodeError(reason)
    written = b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
    head = _HEADER.pack(number, _WANTS_MORE, 1, 0, 0, 0)
    return head + written + _QUESTION.pack(kind, _INTERNET)


def parse(answer: bytes, asked: bytes) -> Reply | None:
    """Return what an answer says to a question; None if it is none to that, or cannot be read."""
    try:
        number, flags, questions, count, _, _ = _HEADER.unpack_from(answer)
        repeated = answer[_HEADER.size : len(asked)]
        is_to_it = number == int.from_bytes(asked[:2]) and flags & _IS_ANSWER and questions == 1
        if not is_to_it or repeated.lower() != asked[_HEADER.size :].lower():
            return None
        wanted = _QUESTION.unpack(asked[-_QUESTION.size :])[0]
        addresses = _addresses(answer, len(asked), count, wanted)
    except (IndexError, struct.error):
        return None
    return Reply(flags & _CODE, tuple(dict.fromkeys(addresses)))


def _addresses(answer: bytes, at: int, count: int, wanted: int) -> list[Address]:
    """Return the addresses of so many records from there on, those of the wanted kind."""
    found = []
    for _ in range(count):
        at = _after_name(answer, at)
        kind, family, _, length = _RECORD.unpack_from(answer, at)
        at += _RECORD.size
        value = answer[at : at + length]
        at += length
        of_kind = _ADDRESSES.get((kind, len(value)))
        if of_kind and kind == wanted and family == _INTERNET:
            found.append(of_kind(value))
    return found


def _after_name(answer: bytes, at: int) -> int:
    """Return where a name ends: with an empty part, or a pointer to where it goes on."""
    while length := answer[at]:
        if length >= _POINTER:
            return at + 2
        at += 1 + length
    return at + 1
