"""How large packets on a route may be: as the tunnel takes them, if the client sends larger ones.

Pure. A route with a size that is larger than the client's own link takes would have the far side
send packets that get lost on that link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from lib.model import Address, Inside, Network, Route

_MIDDLE = {
    "0.0.0.0/0": "192.0.2.0/30",
    "0.0.0.0/1": "64.0.0.0/30",
    **{f"0.0.0.0/{length}": "1.255.255.0/30" for length in range(2, 8)},
    **{f"::/{length}": "2001:db8::/126" for length in range(3)},
}
"""Of what begins with addresses that are the host's own, or nobody's: 0.0.0.0/8 and ::1."""


def sized(route: Route, here: Inside, mtus: Mapping[Network, int]) -> Route:
    """Return a route with what the tunnel takes (bytes, by destination), if that is smaller."""
    size, gateway = mtus.get(route.dst, 0), route.gateway
    if not size or not gateway:
        return route
    link = max((one.mtu for one in here.addresses if gateway in one.network), default=0)
    return route._replace(mtu=size) if size < link else route


def hosts(dst: Network, near: Collection[Network] = ()) -> tuple[Address, ...]:
    """Return some hosts of a destination by which to ask for the way there: two, or what it has.

    Not such as are in the `near` networks, where another way leads, if it has others.
    """
    here = type(dst)(_MIDDLE.get(str(dst), dst))
    near = [one for one in near if one.version == dst.version]
    last = here.num_addresses - 1
    found = dict.fromkeys(here[min(number, last)] for number in (1, 2))
    beyond = dict.fromkeys((*found, *_after(near, here)))
    far = [host for host in beyond if not any(host in one for one in near)]
    return tuple(far or found)[:2]


def _after(near: Collection[Network], here: Network) -> Iterator[Address]:
    """Yield the first hosts after each of these networks."""
    start = int(here.network_address)
    for end in (int(one.broadcast_address) for one in near):
        places = (end + number - start for number in (2, 3))
        yield from (here[place] for place in places if 0 <= place < here.num_addresses)
