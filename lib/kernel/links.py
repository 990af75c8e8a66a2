"""The links of a network namespace, as rtnetlink(7) has them."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

from lib.kernel import netlink

if TYPE_CHECKING:
    import socket

# linux/rtnetlink.h, linux/if_link.h
_GET_LINK = 18
_LINK = struct.Struct("=BxHiII")
"""`ifinfomsg`: address family, type, index, flags and which of these to change."""
_MTU, _EXT_MASK = 4, 29
_SKIP_STATS = 1 << 3
"""`RTEXT_FILTER_SKIP_STATS`: what it has counted makes most of the answer."""
_ASKED = _LINK.pack(0, 0, 0, 0, 0) + netlink.attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATS))


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
