"""What labels mean, for the soak: once more and in its own words.

It must not use anything of `lib`: it is what that is held against. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RESYNC = 5


@dataclass(frozen=True)
class Net:
    """A network of the site.

    Attributes:
        subnets: of it.
        ranges: where clients get their addresses from.
        gateway: beginning of the gateway's addresses; the rest is a number that grows.
        resync: seconds between the full passes of its sidecar. Where that is long, nothing but
            events can make good in time what happens, so routes are not changed by hand there.
    """

    subnets: tuple[str, ...]
    ranges: tuple[str, ...] = ()
    gateway: tuple[str, str] = ("", "")
    resync: int = 60


NETS = {
    "wg-a": Net(
        ("192.168.67.0/24", "fd00:67::/64"),
        ("192.168.67.0/25", "fd00:67::1:0/112"),
        ("192.168.67.", "fd00:67::"),
        RESYNC,
    ),
    "wg-b": Net(
        ("192.168.68.0/24", "fd00:68::/64"),
        ("192.168.68.0/25", "fd00:68::1:0/112"),
        ("192.168.68.", "fd00:68::"),
    ),
    "aside": Net(("172.31.99.0/24",)),
}
SERVED = ("wg-a", "wg-b")

GOOD = (
    "198.51.100.0/24",
    "203.0.113.0/24",
    "10.8.0.0/16",
    "10.8.1.0/24",
    "192.0.2.7/32",
    "192.168.66.0/24",
    "192.168.0.0/16",  # contains what clients are attached to, as do the next two
    "0.0.0.0/0",
    "::/0",
    "192.168.67.0/24",  # wanted by those only that are not attached to it; so the next two
    "192.168.68.128/25",
    "172.31.99.0/24",
    "2001:db8:51::/48",
    "2001:db8:52:1::/64",
    "2001:db8:53::1/128",
    "fd00:68::/64",
)
BAD = (
    *("nonsense", "198.51.100.7/24", "198.51.100.0", "10.8/16", "$(reboot)", "; ip link del eth0"),
    *("127.0.0.0/8", "224.0.0.0/24", "255.255.255.255/32"),
    *("fe80::%eth0/64", "fe80::/64", "ff02::/16", "\n", "-6", "x" * 9000),
)


@dataclass(frozen=True)
class Box:
    """A container as the engine describes it."""

    id: str
    name: str
    role: str
    running: bool
    pid: int
    mode: str
    key: str
    networks: dict[str, tuple[str, str]]
    """What it is attached to, and its addresses there."""
    asks: tuple[str, ...]
    log: str
    started: str = ""
    """When its first process ran, as the engine writes it."""

    @property
    def what(self) -> str:
        """Its name without the lab's token."""
        return self.name.rpartition("-")[0]

    @property
    def host_of(self) -> str:
        """Id of the container in whose namespace it is; empty if in its own."""
        return self.mode.partition(":")[2] if self.mode.startswith("container:") else ""

    def served(self) -> list[str]:
        """Return the served networks to which it is attached."""
        return [net for net in SERVED if net in self.networks]


Routes = dict[str, str]
"""Destination, with a metric unless it is the usual one, to gateway or type."""


def wanted(box: Box, boxes: Iterable[Box], gateways: dict[str, tuple[str, str] | None]) -> Routes:
    """Return the routes that a running container is to have in its main table, and no other.

    Its label, and those of all that run in its namespace, name destinations behind the gateway of
    the network it is attached to; not those of who runs in a namespace that it has left. What lies
    inside an attached network is reached without. What contains one stands in a table of its own.
    While the gateway is lost, they are unreachable.
    """
    if box.role == "gateway" or not box.served():
        return {}
    (net,) = box.served()
    attached = [ip_network(subnet) for name in box.networks for subnet in NETS[name].subnets]
    lodgers = (other for other in boxes if other.running and other.host_of == box.id)
    askers = [box, *(other for other in lodgers if other.started >= box.started)]
    routes = {}
    for dst in sorted({ask for asker in askers for ask in asker.asks}):
        network = ip_network(dst)
        same = [a for a in attached if network.version == a.version]
        if network.prefixlen and not any(network.overlaps(a) for a in same):
            gateway = gateways[net]
            routes[dst] = gateway[network.version == 6] if gateway else "unreachable"
    return routes


def parse(text: str, family: str) -> Routes:
    """Return what `ip -j route show` printed, without the default and the connected routes."""
    found: Routes = {}
    usual = {"-4": 0, "-6": 1024}[family]
    for route in json.loads(text.strip() or "[]"):
        if route["dst"] == "default" or route.get("protocol") == "kernel":
            continue
        metric = route.get("metric", usual)
        key = str(ip_network(route["dst"])) + (f" metric {metric}" if metric != usual else "")
        value = route.get("gateway") or route.get("type") or "connected"
        found[key] = f"{found[key]} and {value}" if key in found else value
    return found


def differences(title: str, want: Routes, have: Routes) -> Iterator[str]:
    """Yield a line for every destination that is not as it should be."""
    for dst in sorted(want.keys() | have.keys()):
        if want.get(dst) != have.get(dst):
            wants, has = want.get(dst, "no route"), have.get(dst, "no route")
            yield f"{title}: {dst}: expected {wants}, actual {has}"
