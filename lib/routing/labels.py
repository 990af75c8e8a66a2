"""Label text to destinations, and a reason for every entry that is not one.

Pure, and total: any text whatsoever gives an answer, never an exception. What depends on the
networks that the client is attached to is decided in `lib.routing.desired`.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_interface, ip_network

from lib.model import Network, Refusal

MAX_ENTRIES = 1000
"""Entries of one label that are read; a client with more of them wants a wider network."""

_NOT_UNICAST = {
    text: (ip_network(text), name)
    for text, name in {
        "0.0.0.0/8": "this host",
        "127.0.0.0/8": "loopback",
        "169.254.0.0/16": "link-local",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
        "224.0.0.0/3": "multicast and reserved",
        "::/128": "unspecified",
        "::1/128": "loopback",
        "::/127": "unspecified and loopback",
        "::ffff:0:0/96": "IPv4-mapped",
        "fe80::/10": "link-local",
        "ff00::/8": "multicast",
    }.items()
}
_SHOWN = 80


@lru_cache(maxsize=256)  # Labels never change, and each pass asks for all.
def parse(text: str) -> tuple[tuple[Network, ...], tuple[Refusal, ...]]:
    """Return the destinations of a `wgroutemgr.networks` label in order, and what was refused.

    White space around entries, empty entries and repetitions are passed over in silence.
    """
    entries = [entry for raw in text.split(",") if (entry := raw.strip())]
    destinations: dict[Network, None] = {}
    refusals: dict[Refusal, None] = {}
    for entry in entries[:MAX_ENTRIES]:
        parsed = _destination(entry)
        if isinstance(parsed, Refusal):
            refusals[parsed] = None
        else:
            destinations[parsed] = None
    if surplus := entries[MAX_ENTRIES:]:
        reason = (
            f"is entry {MAX_ENTRIES + 1} of the label; from here on all {len(surplus)} are left out"
        )
        refusals[_refusal(surplus[0], reason, "join neighbouring networks into wider ones")] = None
    return tuple(destinations), tuple(refusals)


def _destination(entry: str) -> Network | Refusal:
    # ipaddress takes any text after a "%" for a scope id, and a mask such as /0.0.0.255 for a
    # prefix length.
    if "%" in entry:
        return _refusal(entry, "has a scope id", "write the network without the % part")
    address, slash, length = entry.partition("/")
    try:
        interface = ip_interface(entry)
    except ValueError:
        return _refusal(entry, "is not a network in CIDR notation", "write it like 192.168.66.0/24")
    network = interface.network
    if not slash or not length.isdigit():
        return _refusal(entry, "has no prefix length", f"write {address}/{network.prefixlen}")
    if interface.ip != network.network_address:
        return _refusal(entry, "has host bits set", f"write {network}")
    for text, (special, name) in _NOT_UNICAST.items():
        if network.version == special.version and network.subnet_of(special):  # type: ignore[arg-type]
            return _refusal(entry, f"is not unicast: {name}, {text}", "no gateway leads there")
    return network


def _refusal(entry: str, reason: str, hint: str) -> Refusal:
    """Show the entry short and printable: it is the client's text, and it ends in a log."""
    text = entry if entry.isprintable() else ascii(entry)[1:-1]
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(entry)} characters)"
    return Refusal(shown, reason, hint)
