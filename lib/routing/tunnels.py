"""Which destinations should go into the gateway's tunnel, and do not.

Pure. A gateway whose tunnel is down mostly sends what its clients send back out by the link by
which it came in, and so past the tunnel.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from lib.model import Rule, Way
from lib.routing import desired, policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from lib.model import Gateway, Network, Thing

EVERYTHING: tuple[Network, ...] = tuple(
    map(ip_network, ("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0", "::/1", "8000::/1"))
)
"""All of an IP version, and its halves."""

NOWHERE = Way()


def lost(
    known: Iterable[Network],
    ways: Mapping[Network, Way],
    through: AbstractSet[Network],
    elsewhere: AbstractSet[Network],
    *,
    may_tunnel: bool = True,
) -> frozenset[Network]:
    """Return which of the known destinations should go into a tunnel, and do not.

    That is what went `through` one before, and everything, or half of that, if the gateway
    `may_tunnel`. While any of the former is lost, it is also what was not seen to go `elsewhere`
    before: nobody knows where it would go. So a gateway that never had a tunnel is not judged by
    single networks, and one that can have none not at all.
    """
    astray = {dst for dst in known if not ways.get(dst, NOWHERE).is_tunnel}
    gone = astray & through
    unknown = astray - elsewhere if gone else set()
    wide = {dst for dst in astray if policy.is_wide(dst)} if may_tunnel or through else set()
    return frozenset(gone | unknown | wide)


def led(thing: Thing, gateway: Gateway) -> Thing:
    """Return what stands in a namespace because of us, as it is to be with that gateway.

    What has no next hop and is no loss either is a proof of early routes, soon to be taken back.
    """
    if isinstance(thing, Rule) or thing.is_guard or thing.kind == "connected":
        return thing
    return desired.leading(thing.dst, gateway, thing.table)
