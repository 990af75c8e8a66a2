"""Hears what becomes of a network namespace: a socket of rtnetlink(7) that stays in it.

Of its messages only what tells of addresses is read, and that the main table has routes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lib.errors import NetnsError
from lib.netns import OWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.model import Address

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NET = 0x40000000
"""`CLONE_NEWNET`, for setns(2)."""

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""Of rtnetlink(7): links, addresses and routes of both IP versions."""

_HEADER, _ATTRIBUTE = struct.Struct("IHH"), struct.Struct("HH")
"""Size, kind and flags of a message; size and kind of an attribute of it."""

_BODY = 24
"""Where the attributes of a message on an address begin: `nlmsghdr`, `ifaddrmsg`."""

_NEW_ADDRESS, _ADDRESS, _NEW_ROUTE = 20, (1, 2), 24
"""`RTM_NEWADDR`; of its attributes, `IFA_ADDRESS` and `IFA_LOCAL`; `RTM_NEWROUTE`."""

_TABLE, _MAIN = 20, 254
"""Where the table of a message on a route is (`nlmsghdr`, `rtmsg`), and `RT_TABLE_MAIN`."""

_LIST_ADDRESSES = struct.pack("IHHII8x", _BODY, 22, 0x301, 0, 0)
"""`RTM_GETADDR` with `NLM_F_REQUEST` and `NLM_F_DUMP`."""

_LISTED = 0x2
"""`NLM_F_MULTI`: it was there when that was asked for, and so may be the routes."""


class Ear:
    """Hears, in a namespace, that addresses and routes come.

    The calling thread is in that namespace for as long as it takes to open the socket.
    """

    def __init__(self, path: str) -> None:
        """Listen from now on; raise NetnsError if that cannot be."""
        self.addresses: set[Address] = set()
        """Those that it has or had."""
        self.is_up = False
        """Whether there may be a neighbour: the kernel puts an address's network into the main
        table once its link is up."""
        try:
            with Path(path).open("rb") as there, OWN.open("rb") as here:
                _enter(there)
                try:
                    self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
                finally:
                    _enter(here)
        except OSError as error:
            reason = f"cannot listen in {path}: {error.strerror}"
            raise NetnsError(reason) from error
        self._socket.setblocking(False)  # noqa: FBT003
        self._socket.bind((0, _GROUPS))
        self._socket.send(_LIST_ADDRESSES)

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is news."""
        return self._socket.fileno()

    def hear(self) -> bool:
        """Take in what there is, and tell whether that was anything."""
        anything = False
        while data := self._receive():
            anything = True
            while data:
                size, kind, flags = _HEADER.unpack_from(data)
                if kind == _NEW_ADDRESS:
                    self.addresses.update(_addresses(data[_BODY:size]))
                is_route = kind == _NEW_ROUTE and data[_TABLE] == _MAIN
                if is_route or flags & _LISTED:
                    self.is_up = any(not address.is_loopback for address in self.addresses)
                data = data[_aligned(size) :]
        return anything

    def close(self) -> None:
        """Leave nothing in the namespace: it could not end."""
        self._socket.close()

    def _receive(self) -> bytes:
        while True:
            try:
                return self._socket.recv(1 << 16)
            except BlockingIOError:
                return b""
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # Some was lost, others will come.
                    raise


def _addresses(attributes: bytes) -> Iterator[Address]:
    while attributes:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind in _ADDRESS:
            yield ip_address(attributes[_ATTRIBUTE.size : size])
        attributes = attributes[_aligned(size) :]


def _aligned(size: int) -> int:
    return (size + 3) & ~3


def _enter(namespace: BinaryIO) -> None:
    if _LIBC.setns(namespace.fileno(), _NEW_NET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
