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
GATEWAYS = {"wg-a": "wg-a", "wg-b": "wg-b", "wg-z": "wg-a"}
"""The network of each gateway, which has a sidecar of its own; by the middle of their names."""
FIRST = {"wg-a": 129, "wg-b": 129, "wg-z": 189}
"""The first number of a gateway's addresses; there are sixty."""

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
    """Destinations; before one the gateway that its label names: `wg-z=10.8.0.0/16`."""
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


Addresses = dict[str, tuple[str, str] | None]
"""Of each gateway; None while it is lost."""


def destination(ask: str) -> str:
    """Return where an ask leads to, whoever is to lead."""
    return ask.rpartition("=")[2]


def wanted(box: Box, boxes: Iterable[Box], gateways: Addresses) -> Routes:
    """Return the routes that a running container is to have in its main table, and no other.

    Its labels, and those of all that run in its namespace, name destinations behind the gateways of
    the network it is attached to; not those of who runs in a namespace that it has left. What lies
    inside an attached network is reached without. What contains one stands in a table of its own.
    While the gateway is lost, they are unreachable. None leads a gateway to itself.
    """
    if not box.served():
        return {}
    (net,) = box.served()
    attached = [ip_network(subnet) for name in box.networks for subnet in NETS[name].subnets]
    lodgers = (other for other in boxes if other.running and other.host_of == box.id)
    askers = [box, *(other for other in lodgers if other.started >= box.started)]
    by: dict[str, str] = {}
    for asker in sorted(askers, key=lambda one: one.name):
        by = serving(asker.asks, net, gateways) | by
    routes = {}
    for dst, gateway in sorted(by.items()):
        network = ip_network(dst)
        same = [a for a in attached if network.version == a.version]
        is_self = box.what == f"gw-{gateway}"
        if network.prefixlen and not is_self and not any(network.overlaps(a) for a in same):
            addresses = gateways[gateway]
            routes[dst] = addresses[network.version == 6] if addresses else "unreachable"
    return routes


def serving(asks: Iterable[str], net: str, gateways: Addresses) -> dict[str, str]:
    """Return which gateway serves what a container on a network asks for.

    What names none is for the first by name on that network, and comes last. What names one that is
    not on it is for nobody. Of several for the same, the first that is not lost, else the first.
    """
    there = sorted(key for key, network in GATEWAYS.items() if network == net)
    named: dict[str, list[str]] = {}
    for ask in sorted(asks, key=lambda one: ("=" not in one, one)):
        name, _, dst = ask.rpartition("=")
        if (name or there[0]) in there:
            named.setdefault(dst, []).append(name or there[0])
    return {
        dst: next((one for one in names if gateways[one]), names[0]) for dst, names in named.items()
    }


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
