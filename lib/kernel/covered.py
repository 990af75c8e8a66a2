"""What a gateway's kernel sends into its tunnels, of what its clients send.

Its routes say what that may be, in whatever table they are; where they lead in the end, by its
rules, it is asked for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.kernel import addresses, links, route_table
from lib.kernel.ways import ways
from lib.model import Tunnelled

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection

    from lib.model import Address


def covered(kernel: socket.socket, front: Collection[Address]) -> Tunnelled:
    """Return the destinations of its routes that go into tunnels, with everything, if that does.

    That is asked for packets that come in by the link with the `front` addresses. Not those of its
    own addresses' networks. Raises OSError if the kernel does not tell.
    """
    tunnels = {index: one for index, one in links.listed(kernel).items() if one.is_tunnel}
    held = [one for _, one in addresses.held(kernel, {})]
    asked = route_table.destinations(kernel, tunnels) if tunnels else set()
    found = ways(kernel, front, asked - {one.network for one in held})
    return Tunnelled(
        {dst: way.device for dst, way in found.items() if way.is_tunnel},
        frozenset(one.name for one in tunnels.values() if one.is_up),
        frozenset(one.address.version for one in held if one.address in front),
    )
