"""Reads the routes and rules of a namespace, as rtnetlink(7) has them: the main table and our own.

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
from lib.model import MAIN, TABLE, Route, Rule

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from lib.kernel.netlink import Message
    from lib.model import Network

# linux/rtnetlink.h
_NEW_ROUTE, _GET_ROUTE = 24, 26
_NEW_RULE, _GET_RULE = 32, 34
_ROUTE = struct.Struct("=BBBBBBBBI")
"""`rtmsg`: address family, prefix length, three that do not matter here, table, origin, scope,
type and flags."""
_IN_ATTRIBUTE = 252
"""Instead of a table that the header has no room for (`RT_TABLE_COMPAT`)."""
_CLONED = 0x200
"""`RTM_F_CLONED`: no route, but what the kernel has learnt of one, such as a smaller MTU."""
_DST, _DEVICE, _GATEWAY, _METRIC, _METRICS, _TABLE, _VIA = 1, 4, 5, 6, 8, 15, 18
_MTU = 2
"""Among the metrics, which are attributes in one."""
_VIA_ADDRESS = 2
"""Where the address is in `rtvia`, the gateway of a route of the other IP version."""

# linux/fib_rules.h: the header is like that of a route, with an action in the place of the type.
_SOURCE, _COMES_BY, _PREF, _SUPPRESS, _ORIGIN = 2, 3, 6, 14, 21
_OF_OURS = {_SOURCE, _COMES_BY, _PREF, _SUPPRESS, _TABLE, _ORIGIN}
"""Attributes that rules of ours have; any other selects packets."""
_TO_TABLE, _UNREACHABLE = 1, 7
"""`FR_ACT_TO_TBL`, `FR_ACT_UNREACHABLE`."""
_NO_SUCH_LINK = 0x8
"""`FIB_RULE_IIF_DETACHED`."""
_BY_KERNEL = bytes([2])
"""`RTPROT_KERNEL`: one that each namespace has."""
_NONE = 0xFFFFFFFF

_NETWORKS: dict[int, type[Network]] = {
    socket.AF_INET: IPv4Network,
    socket.AF_INET6: IPv6Network,
}
_VERSIONS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}
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
    said = netlink.answers(kernel, _GET_ROUTE, bytes(_ROUTE.size))
    return tuple(route for data in said for route in _routes(data))


@lru_cache(maxsize=1024)  # Each pass reads all namespaces, and most say what they said before.
def _routes(data: bytes) -> tuple[Route, ...]:
    return tuple(route for message in netlink.messages(data) if (route := _route(message)))


def destinations(kernel: socket.socket, links: Container[int]) -> set[Network]:
    """Return where routes of any table lead that go by one of these links, or by several links.

    Raises OSError if the kernel does not tell.
    """
    found = set()
    for message in netlink.dump(kernel, _GET_ROUTE, bytes(_ROUTE.size)):
        family, length, _, _, _, _, _, number, flags = _ROUTE.unpack_from(message.body)
        if number != _UNICAST or family not in _NETWORKS or flags & _CLONED:
            continue
        values = dict(netlink.attributes(message.body[_ROUTE.size :]))
        if _DEVICE not in values or _number(values[_DEVICE]) in links:
            found.add(_network(family, values.get(_DST, 0), length))
    return found


def rules(kernel: socket.socket) -> tuple[tuple[Rule, ...], frozenset[int]]:
    """Return the rules that were added where a socket is, and in which IP versions there are any.

    Each namespace has some of the kernel's own, unless the kernel was built or booted without IPv6,
    or without its rules. Raises OSError if the kernel does not tell.
    """
    said = [*netlink.dump(kernel, _GET_RULE, bytes(_ROUTE.size))]
    families = {one.body[0] for one in said}
    versions = frozenset(number for family, number in _VERSIONS.items() if family in families)
    return tuple(rule for message in said if (rule := _rule(message))), versions


def is_in_main(message: Message) -> bool:
    """Tell whether a message tells of a route in the main table."""
    return message.kind == _NEW_ROUTE and _ROUTE.unpack_from(message.body)[4] == MAIN


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
    """Return the route that a message tells of; None if it is not of these tables."""
    if message.kind != _NEW_ROUTE:
        return None
    family, length, _, _, table, _, _, number, flags = _ROUTE.unpack_from(message.body)
    if table not in {MAIN, _IN_ATTRIBUTE} or family not in _NETWORKS or flags & _CLONED:
        return None
    values = dict(netlink.attributes(message.body[_ROUTE.size :]))
    if table == _IN_ATTRIBUTE and (table := _number(values[_TABLE])) != TABLE:
        return None
    gateway = values.get(_GATEWAY) or values.get(_VIA, b"")[_VIA_ADDRESS:]
    is_connected = number == _UNICAST and _DEVICE in values and not gateway
    return Route(
        dst=_network(family, values.get(_DST, 0), length),
        gateway=ip_address(gateway) if gateway else None,
        metric=_number(values.get(_METRIC, b"")),
        kind="connected" if is_connected else _KINDS.get(number, str(number)),
        table=table,
        mtu=_mtu(values[_METRICS]) if _METRICS in values else 0,
    )


def _rule(message: Message) -> Rule | None:
    """Return the rule that a message tells of; None if it is the kernel's own."""
    family, _, of_src, _, table, _, _, action, _ = _ROUTE.unpack_from(message.body)
    values = dict(netlink.attributes(message.body[_ROUTE.size :]))
    if message.kind != _NEW_RULE or family not in _NETWORKS or values.get(_ORIGIN) == _BY_KERNEL:
        return None
    source = ip_address(values[_SOURCE]) if _SOURCE in values else None
    is_unreachable = action == _UNREACHABLE  # Some programs name a table all the same.
    suppress = _number(values[_SUPPRESS]) if _SUPPRESS in values else _NONE
    is_whole = not source or of_src == source.max_prefixlen
    return Rule(
        version=_VERSIONS[family],
        pref=_number(values.get(_PREF, b"")),
        table=0 if is_unreachable else _number(values[_TABLE]) if _TABLE in values else table,
        suppress=None if suppress == _NONE else suppress,
        source=source,
        device=netlink.text(values.get(_COMES_BY, b"")),
        is_unreachable=is_unreachable,
        is_foreign=not (is_whole and _is_alike(message, values)),
    )


def _is_alike(message: Message, values: Mapping[int, bytes]) -> bool:
    """Tell whether it leads to a table or nowhere, and asks no more than rules of ours may."""
    _, of_dst, _, service, _, _, _, action, flags = _ROUTE.unpack_from(message.body)
    is_simple = not (of_dst or service or flags & ~_NO_SUCH_LINK)
    is_simple &= action in {_TO_TABLE, _UNREACHABLE}
    return is_simple and _PREF in values and not values.keys() - _OF_OURS


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def _mtu(metrics: bytes) -> int:
    return _number(dict(netlink.attributes(metrics)).get(_MTU, b""))
