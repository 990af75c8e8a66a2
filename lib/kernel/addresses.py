"""Hears what becomes of a network namespace: a socket of rtnetlink(7) that stays in it.

Of its messages only what tells of addresses is read, and that the main table has routes.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lib.errors import NetnsError
from lib.kernel import netlink, route_table

if TYPE_CHECKING:
    from lib.model import Address

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""Of rtnetlink(7): links, addresses and routes of both IP versions."""

# linux/rtnetlink.h, linux/if_addr.h
_NEW_ADDRESS, _GET_ADDRESS = 20, 22
_ADDRESS = struct.Struct("=BBBBI")
"""`ifaddrmsg`."""
_OWN = {1, 2}
"""`IFA_ADDRESS` and `IFA_LOCAL`."""


class AddressMonitor:
    """Hears, in a namespace, that addresses and routes come."""

    def __init__(self, path: str) -> None:
        """Listen from now on; raise NetnsError if that cannot be."""
        self.addresses: set[Address] = set()
        """Those that it has or had."""
        self.is_up = False
        """Whether there may be a neighbour: the kernel puts an address's network into the main
        table once its link is up."""
        try:
            self._socket = netlink.connect(socket.NETLINK_ROUTE, path)
        except OSError as error:
            reason = f"cannot listen in {path}: {error.strerror}"
            raise NetnsError(reason) from error
        self._socket.setblocking(False)  # noqa: FBT003
        self._socket.bind((0, _GROUPS))
        self._socket.send(netlink.request(_GET_ADDRESS, bytes(_ADDRESS.size)))

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is news."""
        return self._socket.fileno()

    def read(self) -> bool:
        """Take in what there is, and tell whether that was anything."""
        anything = False
        while data := self._receive():
            anything = True
            for message in netlink.messages(data):
                if message.kind == _NEW_ADDRESS:
                    values = dict(netlink.attributes(message.body[_ADDRESS.size :]))
                    self.addresses.update(ip_address(values[kind]) for kind in _OWN & values.keys())
                # What has addresses when it is asked for them may have routes too.
                if route_table.is_in_main(message) or message.is_listed:
                    self.is_up = any(not address.is_loopback for address in self.addresses)
        return anything

    def close(self) -> None:
        """Leave nothing in the namespace: it could not end."""
        self._socket.close()

    def _receive(self) -> bytes:
        while True:
            try:
                return self._socket.recv(netlink.BUFFER)
            except BlockingIOError:
                return b""
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # Some was lost, others will come.
                    raise
