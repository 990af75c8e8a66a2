"""Which hosts of a destination the kernel is asked for, to learn where it sends packets.

Pure. The first address of a network may be a broadcast, and the first ones of all are special to
the kernel: `0.0.0.1` is nobody's, `::1` is its own.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from lib.model import IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lib.model import Address, Network

_NOBODY = {IPV4: ip_network("192.0.2.0/30"), IPV6: ip_network("2001:db8::/126")}
"""For examples only (RFC 5737, RFC 3849): no route is meant for it but that to everything."""


def hosts(dst: Network, near: Collection[Network] = ()) -> tuple[Address, ...]:
    """Return two hosts of a network, or the one that it has.

    Not such as are in the `near` networks, where another way leads, if it has others.
    """
    usual = _usual(dst)
    same = [one for one in near if one.version == dst.version]
    far = [host for host in (*usual, *_beyond(same, dst)) if not any(host in one for one in same)]
    return tuple(dict.fromkeys(far or usual))[:2]


def host(dst: Network) -> Address:
    """Return the first of them."""
    return hosts(dst)[0]


def _usual(dst: Network) -> tuple[Address, ...]:
    nobody = _NOBODY[dst.version]
    if not dst.network_address.is_unspecified:
        return _after(dst, 0)
    if nobody.subnet_of(dst):  # type: ignore[arg-type]
        return _after(nobody, 0)
    return _after(dst, dst.num_addresses // 2)


def _after(network: Network, place: int) -> tuple[Address, ...]:
    last = network.num_addresses - 1
    return tuple(dict.fromkeys(network[min(place + number, last)] for number in (1, 2)))


def _beyond(near: Collection[Network], dst: Network) -> Iterator[Address]:
    """Yield the first hosts of a network after each of these."""
    start = int(dst.network_address)
    for end in (int(one.broadcast_address) for one in near):
        places = (end + number - start for number in (2, 3))
        yield from (dst[place] for place in places if 0 <= place < dst.num_addresses)
