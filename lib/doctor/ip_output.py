"""What `ip` prints when it is asked, by BusyBox and by iproute2 alike, as values.

Pure. What cannot be read is left out: a failure is told by the command's exit code.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from lib.model import IPV6

if TYPE_CHECKING:
    from lib.model import Address, Network

_INET = {"inet", "inet6"}
_REJECTING = {"unreachable", "blackhole", "prohibit", "throw"}
_KERNELS_RULES = {0, 32766, 32767}


class Link(NamedTuple):
    """A network interface of one namespace."""

    name: str
    mtu: int
    """Bytes."""
    mac: str
    addresses: tuple[Address, ...]
    is_up: bool = True


class Rule(NamedTuple):
    """A policy rule that is none of the kernel's own three."""

    preference: int
    table: str
    """Empty where it sends packets nowhere."""
    text: str
    """As it was printed."""


class Lookup(NamedTuple):
    """The kernel's answer to where it would send a packet."""

    device: str = ""
    """Empty where it would send it nowhere."""
    gateway: Address | None = None


def parse_addresses(text: str) -> frozenset[Address]:
    """Return the addresses that `ip address show` printed, also of interfaces that are down."""
    lines = (line.split() for line in text.splitlines())
    words = (
        rest[0].partition("/")[0] for kind, *rest in filter(None, lines) if kind in _INET and rest
    )
    return frozenset(address for word in words if (address := _address(word)))


def parse_links(text: str) -> tuple[Link, ...]:
    """Return the interfaces that `ip address show` printed."""
    blocks = re.split(r"^\d+: ", text, flags=re.MULTILINE)[1:]
    return tuple(
        Link(
            name=re.split("[@:]", block, maxsplit=1)[0],
            mtu=int(mtu[1]) if (mtu := re.search(r" mtu (\d+)", block)) else 0,
            mac=mac[1] if (mac := re.search(r"link/ether (\S+)", block)) else "",
            addresses=tuple(parse_addresses(block)),
            is_up="UP" in re.split("[<,>]", block.partition("\n")[0]),
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


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Return the policy rules that `ip rule show` printed, without the kernel's own three."""
    rows = (line.partition(":") for line in text.splitlines())
    return tuple(
        Rule(int(number), dict(pairwise(words.split())).get("lookup", ""), " ".join(words.split()))
        for number, _, words in rows
        if number.isdigit() and int(number) not in _KERNELS_RULES
    )


def parse_route(text: str, dst: Address) -> Lookup:
    """Return where the routes that `ip route show` printed lead to: the longest prefix wins."""
    best, found = -1, Lookup()
    for line in text.splitlines():
        words = line.split()
        kind, *rest = words or [""]
        network = _network(rest[0] if kind in _REJECTING and rest else kind, dst.version)
        if network and dst in network and network.prefixlen > best:
            best, found = network.prefixlen, parse_lookup(" ".join(words))
    return found


def lookup_words(dst: Address, source: Address | None = None, device: str = "") -> tuple[str, ...]:
    """Return the words that ask the kernel where it would send a packet.

    With a source, one that it sends from there; with a device too, one that comes in there. Then
    the kernel does all that it does with a real one, so with forwarding off it answers that there
    is no route (`inet_rtm_getroute` in net/ipv4/route.c).
    """
    sender = ("from", str(source)) if source else ()
    entry = ("iif", device) if source and device else ()
    return (*program(dst.version), "route", "get", str(dst), *sender, *entry)


def program(version: int) -> tuple[str, ...]:
    """Return the words that begin a command of `ip` for an IP version."""
    return ("ip", "-6") if version == IPV6 else ("ip",)


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


def _network(word: str, version: int) -> Network | None:
    try:
        return ip_network({IPV6: "::/0"}.get(version, "0.0.0.0/0") if word == "default" else word)
    except ValueError:
        return None


def _address(word: str) -> Address | None:
    try:
        return ip_address(word)
    except ValueError:
        return None
