"""Label text to destinations, and a reason for every entry that is not one.

Pure, and total: any text whatsoever gives an answer, never an exception. What depends on the
networks that the client is attached to is decided in `lib.routing.desired`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, TypeVar

from lib.model import Network, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

AUTO = "auto"
"""Entry that stands for all that the gateway sends into its tunnels."""

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
_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9_.-]*")
"""What the engine takes for the name of a network (moby, daemon/names/names.go)."""


@lru_cache(maxsize=256)  # Labels never change, and each pass asks for all.
def parse(text: str) -> tuple[tuple[Network, ...], tuple[Refusal, ...]]:
    """Return the destinations of a `wgroutemgr.networks` label in order, and what was refused.

    White space around entries, empty entries, repetitions and `auto` are passed over in silence.
    """
    return _entries([entry for entry in _split(text) if entry != AUTO], _destination)


@lru_cache(maxsize=256)
def parse_direct(text: str) -> tuple[tuple[Network | str, ...], tuple[Refusal, ...]]:
    """Return destinations and names of networks of a `wgroutemgr.direct` label, and the same."""
    return _entries(_split(text), _destination_or_name)


def asks_auto(text: str) -> bool:
    """Tell whether a `wgroutemgr.networks` label asks for all that the gateway's tunnels cover."""
    return AUTO in _split(text)


def names(text: str) -> tuple[str, ...]:
    """Return the entries of a label, each once, whatever they are."""
    return tuple(dict.fromkeys(_split(text)))


def _split(text: str) -> list[str]:
    return [entry for raw in text.split(",") if (entry := raw.strip())]


def _entries(
    entries: Sequence[str], parse_one: Callable[[str], T | Refusal]
) -> tuple[tuple[T, ...], tuple[Refusal, ...]]:
    found: dict[T, None] = {}
    refusals: dict[Refusal, None] = {}
    for entry in entries[:MAX_ENTRIES]:
        parsed = parse_one(entry)
        if isinstance(parsed, Refusal):
            refusals[parsed] = None
        else:
            found[parsed] = None
    if surplus := entries[MAX_ENTRIES:]:
        reason = (
            f"is entry {MAX_ENTRIES + 1} of the label; from here on all {len(surplus)} are left out"
        )
        refusals[refusal(surplus[0], reason, "join neighbouring networks into wider ones")] = None
    return tuple(found), tuple(refusals)


def _destination_or_name(entry: str) -> Network | str | Refusal:
    return entry if _NAME.fullmatch(entry) and not _is_address(entry) else _destination(entry)


def _is_address(entry: str) -> bool:
    try:
        ip_address(entry)
    except ValueError:
        return False
    return True


def _destination(entry: str) -> Network | Refusal:
    # ipaddress takes any text after a "%" for a scope id, and a mask such as /0.0.0.255 for a
    # prefix length.
    if "%" in entry:
        return refusal(entry, "has a scope id", "write the network without the % part")
    address, slash, length = entry.partition("/")
    try:
        interface = ip_interface(entry)
    except ValueError:
        return refusal(entry, "is not a network in CIDR notation", "write it like 192.168.66.0/24")
    network = interface.network
    if not slash or not length.isdigit():
        return refusal(entry, "has no prefix length", f"write {address}/{network.prefixlen}")
    if interface.ip != network.network_address:
        return refusal(entry, "has host bits set", f"write {network}")
    if special := not_unicast(network):
        return refusal(entry, f"is not unicast: {special}", "no gateway leads there")
    return network


def not_unicast(network: Network) -> str:
    """Return of which special network a network is a part; empty if of none."""
    for text, (special, name) in _NOT_UNICAST.items():
        if network.version == special.version and network.subnet_of(special):  # type: ignore[arg-type]
            return f"{name}, {text}"
    return ""


def refusal(entry: str, reason: str, hint: str) -> Refusal:
    """Refuse an entry, short and printable: it is the client's text, and it ends in a log."""
    text = entry if entry.isprintable() else ascii(entry)[1:-1]
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(entry)} characters)"
    return Refusal(shown, reason, hint)
