"""Reads the main routing table of a namespace, as rtnetlink(7) has it.

Through a socket in the namespace: that takes a tenth of a millisecond, `nsenter` and `ip` take one.
And it says what BusyBox's `ip` does not, a gateway of the other IP version.
"""

from __future__ import annotations

import socket
import struct
import sys
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING

from lib.kernel import netlink
from lib.kernel.namespaces import explained
from lib.model import Route

if TYPE_CHECKING:
    from lib.kernel.netlink import Message
    from lib.model import Network

# linux/rtnetlink.h
_NEW_ROUTE, _GET_ROUTE = 24, 26
_ROUTE = struct.Struct("=BBBBBBBBI")
"""`rtmsg`: address family, prefix length, three that do not matter here, table, origin, scope,
type and flags."""
_MAIN = 254
_CLONED = 0x200
"""`RTM_F_CLONED`: no route, but what the kernel has learnt of one, such as a smaller MTU."""
_DST, _DEVICE, _GATEWAY, _METRIC, _METRICS, _VIA = 1, 4, 5, 6, 8, 18
_MTU = 2
"""Among the metrics, which are attributes in one."""
_VIA_ADDRESS = 2
"""Where the address is in `rtvia`, the gateway of a route of the other IP version."""

_NETWORKS: dict[int, type[Network]] = {
    socket.AF_INET: IPv4Network,
    socket.AF_INET6: IPv6Network,
}
_UNICAST = 1
_KINDS = {
    _UNICAST: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
    10: "nat",
}


def read(path: str = "") -> tuple[Route, ...]:
    """Return the routes of both IP versions in the namespace of a file, in ours if none is named.

    Raises NetnsError if the namespace cannot be entered, or the kernel does not tell.
    """
    where = path or "our own network namespace"
    with (
        explained(f"read the routes in {where}"),
        netlink.connect(socket.NETLINK_ROUTE, path) as kernel,
    ):
        return listed(kernel)


def listed(kernel: socket.socket) -> tuple[Route, ...]:
    """Return the routes where a socket is; raise OSError if the kernel does not tell.

    A multipath route has no gateway here, so that it never equals a wanted one.
    """
    said = netlink.dump(kernel, _GET_ROUTE, bytes(_ROUTE.size))
    return tuple(route for message in said if (route := _route(message)))


def is_in_main(message: Message) -> bool:
    """Tell whether a message tells of a route in the main table."""
    return message.kind == _NEW_ROUTE and _ROUTE.unpack_from(message.body)[4] == _MAIN


def header(family: int, length: int, source_length: int) -> bytes:
    """Return what a question for the way to one address begins with."""
    return _ROUTE.pack(family, length, source_length, 0, 0, 0, 0, 0, 0)


def is_unicast(message: Message) -> bool:
    """Tell whether a message tells of a route to others."""
    return message.kind == _NEW_ROUTE and _ROUTE.unpack_from(message.body)[7] == _UNICAST


@lru_cache(maxsize=4096)  # Many namespaces have the same ones, and each pass reads them all.
def _network(family: int, start: bytes | int, length: int) -> Network:
    return _NETWORKS[family]((start, length))


def _route(message: Message) -> Route | None:
    """Return the route that a message tells of; None if it is not of this table."""
    if message.kind != _NEW_ROUTE:
        return None
    family, length, _, _, table, _, _, number, flags = _ROUTE.unpack_from(message.body)
    if table != _MAIN or family not in _NETWORKS or flags & _CLONED:
        return None
    values = dict(netlink.attributes(message.body[_ROUTE.size :]))
    gateway = values.get(_GATEWAY) or values.get(_VIA, b"")[_VIA_ADDRESS:]
    is_connected = number == _UNICAST and _DEVICE in values and not gateway
    return Route(
        dst=_network(family, values.get(_DST, 0), length),
        gateway=ip_address(gateway) if gateway else None,
        metric=int.from_bytes(values.get(_METRIC, b""), sys.byteorder),
        kind="connected" if is_connected else _KINDS.get(number, str(number)),
        mtu=_mtu(values[_METRICS]) if _METRICS in values else 0,
    )


def _mtu(metrics: bytes) -> int:
    return int.from_bytes(dict(netlink.attributes(metrics)).get(_MTU, b""), sys.byteorder)
