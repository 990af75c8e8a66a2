"""How large packets on a route may be: as the tunnel takes them, if the client sends larger ones.

Pure. A route with a size that is larger than the client's own link takes would have the far side
send packets that get lost on that link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.model import Inside, Network, Route


def sized(route: Route, here: Inside, mtus: Mapping[Network, int]) -> Route:
    """Return a route with what the tunnel takes (bytes, by destination), if that is smaller."""
    size, gateway = mtus.get(route.dst, 0), route.gateway
    if not size or not gateway:
        return route
    link = max((one.mtu for one in here.addresses if gateway in one.network), default=0)
    return route._replace(mtu=size) if size < link else route
