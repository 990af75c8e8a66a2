"""The links of a network namespace, as rtnetlink(7) has them."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

from lib.kernel import netlink

if TYPE_CHECKING:
    import socket

# linux/rtnetlink.h, linux/if_link.h
_GET_LINK = 18
_UP = 1
"""`IFF_UP`."""
_LINK = struct.Struct("=BxHiII")
"""`ifinfomsg`: address family, type, index, flags and which of these to change."""
_NAME, _MTU, _INFO, _EXT_MASK = 3, 4, 18, 29
_INFO_KIND = 1
_SKIP_STATS = 1 << 3
"""`RTEXT_FILTER_SKIP_STATS`: what it has counted makes most of the answer."""
_ASKED = _LINK.pack(0, 0, 0, 0, 0) + netlink.attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATS))

_ETHERNET, _LOOPBACK = 1, 772
"""`ARPHRD_ETHER`, `ARPHRD_LOOPBACK` of linux/if_arp.h. An engine's links are of the former."""
_TUN = b"tun"
"""The kind of a tun and of a tap, which has Ethernet in it."""


class Link(NamedTuple):
    """One link."""

    name: str
    mtu: int
    """Bytes."""
    is_tunnel: bool
    is_up: bool


def mtus(kernel: socket.socket) -> dict[int, int]:
    """Return how large packets may be on each link where a socket is (bytes), by its index.

    Raises OSError if the kernel does not tell.
    """
    found = {}
    for message in netlink.dump(kernel, _GET_LINK, _ASKED):
        index = _LINK.unpack_from(message.body)[2]
        # One of the first of some thirty: each visit to a namespace comes here.
        told = netlink.attributes(message.body[_LINK.size :])
        size = next((value for kind, value in told if kind == _MTU), b"")
        found[index] = int.from_bytes(size, sys.byteorder)
    return found


def listed(kernel: socket.socket) -> dict[int, Link]:
    """Return the links where a socket is, by index; raise OSError if the kernel does not tell."""
    found = {}
    for message in netlink.dump(kernel, _GET_LINK, _ASKED):
        _, hardware, index, flags, _ = _LINK.unpack_from(message.body)
        told = dict(netlink.attributes(message.body[_LINK.size :]))
        kind = dict(netlink.attributes(told.get(_INFO, b""))).get(_INFO_KIND, b"")
        found[index] = Link(
            netlink.text(told[_NAME]),
            int.from_bytes(told.get(_MTU, b""), sys.byteorder),
            is_tunnel=hardware not in {_ETHERNET, _LOOPBACK} or kind.rstrip(b"\0") == _TUN,
            is_up=bool(flags & _UP),
        )
    return found
