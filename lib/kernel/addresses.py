"""The addresses of a network namespace, as rtnetlink(7) has them: listed once, or followed.

Who follows them has a socket that stays there. Of its messages only what tells of addresses is
read, and that the main table has routes.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import ExitStack
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from lib.kernel import links, netlink, route_table
from lib.kernel.namespaces import explained
from lib.model import LocalAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.kernel.netlink import Message
    from lib.model import Address, Network

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""Of rtnetlink(7): links, addresses and routes of both IP versions."""

# linux/rtnetlink.h, linux/if_addr.h
_NEW_ADDRESS, _GET_ADDRESS = 20, 22
_ADDRESS = struct.Struct("=BBBBI")
"""`ifaddrmsg`: address family, prefix length, flags, scope and index of the link."""
_FAR, _LOCAL = 1, 2
"""`IFA_ADDRESS`, which is the other end's on a link between two, and `IFA_LOCAL`."""
_OWN = {_FAR, _LOCAL}
_DUPLICATE = 0x08
"""`IFA_F_DADFAILED`."""
_LINK, _HOST = 253, 254
"""Scopes."""
_NARROW = {socket.AF_INET: _HOST, socket.AF_INET6: _LINK}
"""The scope from which on an address is not told of."""
_KINDS: dict[int, tuple[type[Address], type[Network]]] = {
    socket.AF_INET: (IPv4Address, IPv4Network),
    socket.AF_INET6: (IPv6Address, IPv6Network),
}


def listed(kernel: socket.socket, *, sizes: bool = True) -> tuple[LocalAddress, ...]:
    """Return the addresses where a socket is; raise OSError if the kernel does not tell.

    With how large packets may be on their links if these `sizes` matter.

    Not those that make no neighbours beyond a link: of the loopback, and IPv6's own of each link.
    """
    known = links.mtus(kernel) if sizes else {}
    return tuple(address for _, address in held(kernel, known))


def held(kernel: socket.socket, sizes: Mapping[int, int]) -> tuple[tuple[int, LocalAddress], ...]:
    """Return the same with the index of the link that each is on, by which `sizes` are."""
    said = netlink.answers(kernel, _GET_ADDRESS, bytes(_ADDRESS.size))
    return tuple(
        (link, one._replace(mtu=sizes[link]) if link in sizes else one)
        for data in said
        for link, one in _addresses(data)
    )


@lru_cache(maxsize=1024)  # Each pass reads all namespaces, and most say what they said before.
def _addresses(data: bytes) -> tuple[tuple[int, LocalAddress], ...]:
    return tuple(found for message in netlink.messages(data) if (found := _address(message)))


def _address(message: Message) -> tuple[int, LocalAddress] | None:
    family, length, flags, scope, link = _ADDRESS.unpack_from(message.body)
    if family not in _KINDS or scope >= _NARROW[family]:
        return None
    # What `ipaddress` has for any text takes four times that.
    address, network = _KINDS[family]
    values = dict(netlink.attributes(message.body[_ADDRESS.size :]))
    far = values[_FAR]
    host_bits = 8 * len(far) - length
    start = int.from_bytes(far, "big") >> host_bits << host_bits
    return link, LocalAddress(
        address(values.get(_LOCAL, far)),
        network((start, length)),
        is_duplicate=bool(flags & _DUPLICATE),
    )


class AddressMonitor:
    """Knows the addresses of a namespace, and when it has routes."""

    def __init__(self, path: str) -> None:
        """Listen from now on; raise NetnsError if that cannot be."""
        self._path = path
        self.addresses: set[Address] = set()
        """Those that it has or had."""
        self.is_up = False
        """Whether there may be a neighbour: the kernel puts an address's network into the main
        table once its link is up."""
        with explained(f"listen in {path}"), ExitStack() as opened:
            self._socket = opened.enter_context(netlink.connect(socket.NETLINK_ROUTE, path))
            self._socket.setblocking(False)  # noqa: FBT003
            self._socket.bind((0, _GROUPS))
            self._socket.send(netlink.request(_GET_ADDRESS, bytes(_ADDRESS.size)))
            opened.pop_all()

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is news."""
        return self._socket.fileno()

    def read(self) -> bool:
        """Take in the news, and tell whether there was any; raise NetnsError if that fails."""
        is_news = False
        while data := self._receive():
            is_news = True
            for message in netlink.messages(data):
                if message.kind == _NEW_ADDRESS:
                    values = dict(netlink.attributes(message.body[_ADDRESS.size :]))
                    self.addresses.update(ip_address(values[kind]) for kind in _OWN & values.keys())
                # What has addresses when it is asked for them may have routes too.
                if route_table.is_in_main(message) or message.is_listed:
                    self.is_up = any(not address.is_loopback for address in self.addresses)
        return is_news

    def close(self) -> None:
        """Leave nothing in the namespace: it could not end."""
        self._socket.close()

    def _receive(self) -> bytes:
        with explained(f"listen in {self._path}"):
            while True:
                try:
                    return self._socket.recv(netlink.BUFFER)
                except BlockingIOError:
                    return b""
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # Some was lost, others will come.
                        raise
