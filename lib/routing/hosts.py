"""Which hosts of a destination the kernel is asked for, to learn where it sends packets.

Pure. The first address of a network may be a broadcast, and the first ones of all are special to
the kernel: `0.0.0.1` is nobody's, `::1` is its own.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from lib.model import IPV4, IPV6

if TYPE_CHECKING:
    from lib.model import Address, Network

_NOBODY = {IPV4: ip_network("192.0.2.0/30"), IPV6: ip_network("2001:db8::/126")}
"""For examples only (RFC 5737, RFC 3849): no route is meant for it but that to everything."""


def hosts(dst: Network) -> tuple[Address, ...]:
    """Return two hosts of a network, or the one that it has."""
    nobody = _NOBODY[dst.version]
    if not dst.network_address.is_unspecified:
        return _after(dst, 0)
    if nobody.subnet_of(dst):  # type: ignore[arg-type]
        return _after(nobody, 0)
    return _after(dst, dst.num_addresses // 2)


def _after(network: Network, place: int) -> tuple[Address, ...]:
    last = network.num_addresses - 1
    return tuple(dict.fromkeys(network[min(place + number, last)] for number in (1, 2)))


def host(dst: Network) -> Address:
    """Return the first of them."""
    return hosts(dst)[0]
