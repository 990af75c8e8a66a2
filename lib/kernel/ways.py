"""Where a gateway's kernel sends what its clients send, and how large that may be."""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from lib.kernel import addresses, links, netlink, route_table
from lib.model import Way
from lib.routing.hosts import hosts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from lib.model import Address, LocalAddress, Network

# linux/rtnetlink.h
_GET_ROUTE = 26
_DST, _SRC, _IN, _OUT = 1, 2, 3, 4
_HEADER_SIZE = len(route_table.header(0, 0, 0))
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def ways(
    kernel: socket.socket, front: Collection[Address], destinations: Iterable[Network]
) -> dict[Network, Way]:
    """Return where packets to a destination are sent that come in by the link with these addresses.

    Nowhere, in an IP version of which no link has such an address. Raises OSError if the kernel
    does not tell.
    """
    known = links.listed(kernel)
    held = addresses.held(kernel, {index: link.mtu for index, link in known.items()})
    by_version = {one.address.version: (link, one) for link, one in held if one.address in front}
    near = tuple(one.network for _, one in held)
    found = {}
    for dst in destinations:
        if dst.version not in by_version:
            found[dst] = Way()
            continue
        link, own = by_version[dst.version]
        out = next(_outs(kernel, _questions(dst, near, link, own)), 0)
        found[dst] = _way(known.get(out), own.mtu, is_back=out == link)
    return found


def _way(out: links.Link | None, size: int, *, is_back: bool) -> Way:
    """Return the way by a link, for packets that may be of that size where they come in."""
    if not out or is_back:
        return Way(out.name if out else "")
    return Way(out.name, out.is_tunnel, out.mtu if out.mtu < size else 0)


def _outs(kernel: socket.socket, questions: Iterable[bytes]) -> Iterator[int]:
    """Yield the links that the kernel answers with, but for none and where the host is its own."""
    for question in questions:
        with suppress(OSError):
            answer = netlink.ask(kernel, _GET_ROUTE, question)
            values = dict(netlink.attributes(answer.body[_HEADER_SIZE:]))
            if route_table.is_unicast(answer) and _OUT in values:
                yield int.from_bytes(values[_OUT], sys.byteorder)


@lru_cache(maxsize=4096)  # Each full pass asks for all.
def _questions(
    dst: Network, near: tuple[Network, ...], link: int, own: LocalAddress
) -> tuple[bytes, ...]:
    """Ask by which link packets leave, as for one that comes in, and as for one of its own.

    The latter where the former is dropped, as without forwarding: that is not judged here.
    """
    came_in = netlink.attribute(_IN, struct.pack("=I", link))
    bits = dst.max_prefixlen
    source = next((one for one in hosts(own.network) if one != own.address), None)
    if source:
        came_in += netlink.attribute(_SRC, source.packed)
    asked = [netlink.attribute(_DST, host.packed) for host in hosts(dst, near)]
    sent_on = route_table.header(_FAMILIES[dst.version], bits, bits)
    sent = route_table.header(_FAMILIES[dst.version], bits, 0)
    return (*(sent_on + one + came_in for one in asked), *(sent + one for one in asked))
