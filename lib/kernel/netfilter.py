"""Forward chains of our own network namespace, as the kernel has them: whose policy drops?

Asks the kernel itself, since the image has no firewall program. Changes no rule; a legacy table
that does not exist is not asked for, as the kernel would make it.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.kernel import libc, netlink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.kernel.netlink import Message

_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
"""Families whose chains see forwarded packets: `NFPROTO_*` of linux/netfilter.h."""
_FORWARD, _DROP = 2, 0
"""`NF_INET_FORWARD` and `NF_DROP` (linux/netfilter.h)."""

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.
_NETLINK_NETFILTER = 12
_GET_CHAIN = 10 << 8 | 4
"""Of the subsystem nf_tables."""
_GENERAL = 4
"""Size of `nfgenmsg`, which begins with the family."""
_TABLE, _NAME, _HOOK, _POLICY, _USE, _HOOK_NUMBER = 1, 3, 4, 5, 6, 1

# linux/netfilter_ipv4/ip_tables.h and ip6_tables.h; the numbers are the same in both.
_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")
_GET = struct.Struct("=32sI4x")
_TARGET_HEADER = 32
_VERDICT_DROP = -_DROP - 1
_LEGACY = {
    "ip": (socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names", 88),
    "ip6": (socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names", 140),
}
"""By family: socket family and level, file of table names, and where in an entry (after `ipt_ip`
or `ip6t_ip6` and `nfcache`) the offset of its target stands."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain through which forwarded packets pass."""

    family: str
    table: str
    name: str
    drops: bool
    """Its policy drops what no rule decides."""
    rules: int


def forward_chains() -> tuple[Chain, ...]:
    """Return all of them; raise OSError if the kernel does not tell, as without NET_ADMIN."""
    legacy = (chain for family in _LEGACY for chain in _legacy(family))
    return (*_nftables(), *legacy)


def parse_chains(messages: Iterable[Message]) -> Iterator[Chain]:
    """Yield the forward chains among the answers of nf_tables (`NFT_MSG_NEWCHAIN`)."""
    for message in messages:
        family = _FAMILIES.get(message.body[0])
        values = dict(netlink.attributes(message.body[_GENERAL:])) if family else {}
        hook = dict(netlink.attributes(values.get(_HOOK, b"")))
        if family and hook and _number(hook[_HOOK_NUMBER]) == _FORWARD:
            yield Chain(
                family,
                _text(values[_TABLE]),
                _text(values[_NAME]),
                drops=_number(values[_POLICY]) == _DROP,
                rules=_number(values[_USE]),
            )


def _nftables() -> Iterator[Chain]:
    with netlink.connect(_NETLINK_NETFILTER) as kernel:
        yield from parse_chains(netlink.dump(kernel, _GET_CHAIN, bytes(_GENERAL)))


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _legacy(family: str) -> Iterator[Chain]:
    """Yield the FORWARD chain of the legacy filter table, if there is such a table."""
    address_family, level, names, target_at = _LEGACY[family]
    file = Path("/proc/net", names)
    if not file.exists() or "filter" not in file.read_text().split():
        return
    with socket.socket(address_family, socket.SOCK_DGRAM) as kernel:
        info = libc.socket_option(
            kernel.fileno(), level, _GET_INFO, b"filter".ljust(_INFO.size, b"\0")
        )
        _, _, *offsets, _, size = _INFO.unpack(info)
        head = _GET.pack(b"filter", size)
        entries = libc.socket_option(kernel.fileno(), level, _GET_ENTRIES, head + bytes(size))[
            _GET.size :
        ]
    at, policy_at = offsets[_FORWARD], offsets[5 + _FORWARD]
    rules = 0
    while at < policy_at:
        rules += 1
        at += struct.unpack_from("=H", entries, at + target_at + 2)[0]
    (target,) = struct.unpack_from("=H", entries, policy_at + target_at)
    (verdict,) = struct.unpack_from("=i", entries, policy_at + target + _TARGET_HEADER)
    yield Chain(family, "filter", "FORWARD", drops=verdict == _VERDICT_DROP, rules=rules)
