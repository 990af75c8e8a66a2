"""Where a gateway's kernel sends what its clients send, and how large that may be."""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from lib.kernel import addresses, links, netlink, route_table
from lib.routing.hosts import hosts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from lib.model import Address, LocalAddress, Network

# linux/rtnetlink.h
_GET_ROUTE = 26
_DST, _SRC, _IN, _OUT = 1, 2, 3, 4
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def tunnel_mtus(
    kernel: socket.socket, front: Collection[Address], destinations: Iterable[Network]
) -> dict[Network, int]:
    """Return how large a packet to a destination may be (bytes); 0 if it may be as it comes in.

    That is by the link that has the addresses of `front`. A destination that is sent back there, or
    nowhere, is left out: it has no tunnel now. Raises OSError if the kernel does not tell.
    """
    sizes = links.mtus(kernel)
    by_version = {
        one.address.version: (link, one)
        for link, one in addresses.held(kernel, sizes)
        if one.address in front
    }
    found = {}
    for dst in destinations:
        if dst.version in by_version:
            link, own = by_version[dst.version]
            out = next(_outs(kernel, dst, link, own), link)
            if out != link:
                size = sizes.get(out, 0)
                found[dst] = size if size < own.mtu else 0
    return found


def _outs(kernel: socket.socket, dst: Network, link: int, own: LocalAddress) -> Iterator[int]:
    """Yield by which link packets leave, as for one that comes in, and as for one of its own.

    The latter where the former is dropped, as without forwarding: that is not judged here.
    """
    came_in = netlink.attribute(_IN, struct.pack("=I", link))
    for sender in hosts(own.network):
        if sender != own.address:
            came_in += netlink.attribute(_SRC, sender.packed)
            break
    for how in (came_in, b""):
        for host in hosts(dst):
            with suppress(OSError):
                yield from _out(kernel, host, how)


def _out(kernel: socket.socket, host: Address, how: bytes) -> Iterator[int]:
    """Yield the link by which a packet leaves, unless the host is the gateway itself."""
    bits = host.max_prefixlen
    source = bits if how else 0
    body = route_table.header(_FAMILIES[host.version], bits, source)
    answer = netlink.ask(kernel, _GET_ROUTE, body + netlink.attribute(_DST, host.packed) + how)
    values = dict(netlink.attributes(answer.body[len(body) :]))
    if route_table.is_unicast(answer) and _OUT in values:
        yield int.from_bytes(values[_OUT], sys.byteorder)
