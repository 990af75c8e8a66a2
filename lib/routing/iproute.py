"""The `ip` dialect: steps to words, and the texts that the doctor reads.

Pure. Only what BusyBox and iproute2 both understand is used, and their answers are read alike.
Failures are told by the exit code; texts differ and are for people.
"""

from __future__ import annotations

import re
import shlex
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING

from lib.model import DEFAULT_METRIC, IPV4, IPV6, Address, Link, Lookup, Route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.model import Step

_INET = {"inet", "inet6"}
_REJECTING = {"unreachable", "blackhole", "prohibit", "throw"}
_IP = {IPV4: ("ip",), IPV6: ("ip", "-6")}


def command(netns: str, step: Step, source: Address | None = None) -> str:
    """Return the command line of a step, as it runs and as a person can paste it.

    With a source address the kernel refuses it in any namespace that does not hold that address.
    """
    version = step.route.dst.version
    words = [*_IP[version], "route", step.verb, *_route(step.route)]
    if source:
        words += ["src", str(source)]
    if step.verb == "del" and version == IPV6:
        # The kernel deletes the first route that is like it in what is said.
        if "metric" not in words:
            words += ["metric", str(step.route.metric)]
        if step.route.kind in _REJECTING:  # It does not compare the type.
            words += ["dev", "lo"]
    return shlex.join(("nsenter", f"--net={netns}", *words))


def text(route: Route) -> str:
    """Return a route in the words of a command."""
    return " ".join(_route(route))


def parse_addresses(text: str) -> frozenset[Address]:
    """Return the addresses that `ip address show` printed, also of interfaces that are down."""
    lines = (line.split() for line in text.splitlines())
    words = (
        rest[0].partition("/")[0] for kind, *rest in filter(None, lines) if kind in _INET and rest
    )
    return frozenset(address for word in words if (address := _address(word)))


def lookup_words(dst: Address, source: Address | None = None, device: str = "") -> tuple[str, ...]:
    """Return the words that ask the kernel where it would send a packet.

    With source and device, one that comes in there. Then the kernel does all that it does with a
    real one, so with forwarding off it answers "No route to host" (`inet_rtm_getroute` in
    net/ipv4/route.c).
    """
    origin = ("from", str(source), "iif", device) if source else ()
    return (*_IP[dst.version], "route", "get", str(dst), *origin)


def parse_lookup(text: str) -> Lookup:
    """Return what `ip route get` printed, on its first line."""
    words = text.partition("\n")[0].split()
    if not words or words[0] in _REJECTING:
        return Lookup()
    after = dict(pairwise(words))
    via = after.get("via", "")
    return Lookup(
        after.get("dev", ""), _address(after.get(via, "") if via.startswith("inet") else via)
    )


def parse_links(text: str) -> tuple[Link, ...]:
    """Return the interfaces that `ip address show` printed."""
    blocks = re.split(r"^\d+: ", text, flags=re.MULTILINE)[1:]
    return tuple(
        Link(
            name=re.split("[@:]", block, maxsplit=1)[0],
            mtu=int(mtu[1]) if (mtu := re.search(r" mtu (\d+)", block)) else 0,
            mac=mac[1] if (mac := re.search(r"link/ether (\S+)", block)) else "",
            addresses=tuple(parse_addresses(block)),
        )
        for block in blocks
    )


def parse_neighbours(text: str) -> dict[Address, tuple[str, str]]:
    """Return MAC address (empty if unknown) and state by address, as `ip neigh show` printed it."""
    rows = (line.split() for line in text.splitlines())
    return {
        address: (dict(pairwise(words)).get("lladdr", ""), words[-1])
        for words in rows
        if words and (address := _address(words[0]))
    }


def _route(route: Route) -> Iterator[str]:
    if route.kind not in {"unicast", "connected"}:
        yield route.kind
    yield str(route.dst)
    # iproute2 takes no gateway of the other IP version without a keyword that BusyBox lacks.
    if route.gateway and route.gateway.version == route.dst.version:
        yield from ("via", str(route.gateway))
    if route.metric != DEFAULT_METRIC[route.dst.version]:
        yield from ("metric", str(route.metric))


def _address(word: str) -> Address | None:
    try:
        return ip_address(word)
    except ValueError:
        return None
