"""What a network namespace does to the packets that it forwards, as the kernel has it.

Whose policy drops, and who puts another source address in. Asks the kernel itself, since the image
has no firewall program. Changes no rule.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from lib.kernel import netlink, xtables
from lib.kernel.namespaces import entered

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from lib.kernel.netlink import Message

_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
"""Families whose chains see forwarded packets: `NFPROTO_*` of linux/netfilter.h."""
_FORWARD, _POSTROUTING, _DROP = 2, 4, 0
"""`NF_INET_FORWARD`, `NF_INET_POST_ROUTING` and `NF_DROP` (linux/netfilter.h)."""

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.
_NETLINK_NETFILTER = 12
_GET_CHAIN, _GET_RULE = 10 << 8 | 4, 10 << 8 | 7
"""Of the subsystem nf_tables."""
_GENERAL = 4
"""Size of `nfgenmsg`, which begins with the family."""
_TABLE, _NAME, _HOOK, _POLICY, _USE, _HOOK_NUMBER = 1, 3, 4, 5, 6, 1
"""Of a chain."""
_CHAIN, _EXPRESSIONS = 2, 4
"""Of a rule, beside its table."""
_EXPRESSION, _DATA = 1, 2
"""Of an expression: its name, and what belongs to it."""
_META_KEY, _BY_INDEX, _BY_NAME = 2, 5, 7
"""`NFTA_META_KEY`; `NFT_META_OIF` and `NFT_META_OIFNAME`."""
_COMPARE_HOW, _COMPARE_WITH, _VALUE, _UNEQUAL = 2, 3, 1, 1
_NAT_TYPE, _SOURCE = 1, 0
_VERDICT, _VERDICT_CHAIN = 2, 2
_TARGET_NAME = 1
"""Of an expression `target`: one of xtables in the clothes of nf_tables, by `iptables-nft`."""

_REWRITES = {"MASQUERADE", "SNAT", "NETMAP"}
_ENGINE = "DOCKER_POSTROUTING"
"""The engine's own chain in a container's namespace, for its DNS server at 127.0.0.11."""
_VERDICT_DROP = -_DROP - 1


class Chain(NamedTuple):
    """A chain through which forwarded packets pass."""

    family: str
    table: str
    name: str
    drops: bool
    """Its policy drops what no rule decides."""
    rules: int


class SourceNat(NamedTuple):
    """A rule that puts another source address in. What else it asks of a packet is not told."""

    family: str
    table: str
    chain: str
    out: str
    """The interface by which a packet leaves: its name, `*` in it for anything, or `#` and its
    number; `!` before it for all others; empty for any."""

    def concerns(self, device: str, version: int) -> bool:
        """Tell whether it may apply to what leaves by a device in an IP version."""
        if self.family not in {"inet", "ip6" if version == 6 else "ip"}:  # noqa: PLR2004
            return False
        name = self.out.removeprefix("!")
        return not name or fnmatchcase(device, name) != self.out.startswith("!")


def forward_chains(path: str = "") -> tuple[Chain, ...]:
    """Return those of the namespace of a file, of ours if none is named.

    Raises OSError if the kernel does not tell, as without NET_ADMIN.
    """
    with entered(path):
        legacy = (chain for family in xtables.FAMILIES for chain in _legacy_chain(family))
        return (*parse_chains(_dump(_GET_CHAIN)), *legacy)


def source_nat(path: str = "") -> tuple[SourceNat, ...]:
    """Return the rules of that namespace; raise OSError as `forward_chains` does."""
    with entered(path):
        legacy = (rule for family in xtables.FAMILIES for rule in _legacy_nat(family))
        found = parse_source_nat(_dump(_GET_CHAIN), _dump(_GET_RULE))
        return (*(rule._replace(out=_named(rule.out)) for rule in found), *legacy)


def _named(out: str) -> str:
    """Return an interface by its name where there is one of that number."""
    sign, is_number, number = out.partition("#")
    if is_number:
        with suppress(OSError):  # Such a rule concerns none that is there.
            return sign + socket.if_indextoname(int(number))
    return out


# --- nf_tables ----------------------------------------------------------------------------------


def parse_chains(messages: Iterable[Message]) -> Iterator[Chain]:
    """Yield the forward chains among the answers of nf_tables (`NFT_MSG_NEWCHAIN`)."""
    for family, values in _hooked(messages, _FORWARD):
        yield Chain(
            family,
            _text(values[_TABLE]),
            _text(values[_NAME]),
            drops=_number(values[_POLICY]) == _DROP,
            rules=_number(values[_USE]),
        )


def parse_source_nat(chains: Iterable[Message], rules: Iterable[Message]) -> Iterator[SourceNat]:
    """Yield the rules of the chains where packets leave, and of those that these jump to."""
    by_chain: dict[tuple[str, str, str], list[_Rule]] = {}
    for family, values in _values(rules):
        key = family, _text(values[_TABLE]), _text(values[_CHAIN])
        by_chain.setdefault(key, []).append(_Rule.of(values.get(_EXPRESSIONS, b"")))
    waiting = [
        (family, _text(values[_TABLE]), _text(values[_NAME]))
        for family, values in _hooked(chains, _POSTROUTING)
    ]
    seen = set(waiting)
    while waiting:
        family, table, chain = waiting.pop(0)
        for rule in by_chain.get((family, table, chain), ()):
            if rule.rewrites:
                yield SourceNat(family, table, chain, rule.out)
            there = family, table, rule.jump
            if rule.jump not in {"", _ENGINE} and there not in seen:
                seen.add(there)
                waiting.append(there)


@dataclass(slots=True)
class _Rule:
    """What of a rule's expressions matters here."""

    out: str = ""
    rewrites: bool = False
    jump: str = ""

    @classmethod
    def of(cls, expressions: bytes) -> _Rule:
        """Read them in their order: a comparison is with what was loaded last."""
        rule, loaded = cls(), 0
        for _, data in netlink.attributes(expressions):
            parts = dict(netlink.attributes(data))
            name, values = _text(parts[_EXPRESSION]), _nested(parts, _DATA)
            if name == "meta":
                loaded = _number(values.get(_META_KEY, b""))
            elif name == "cmp" and loaded in {_BY_INDEX, _BY_NAME}:
                rule.out = _compared(values, is_name=loaded == _BY_NAME)
                loaded = 0
            elif name == "immediate":
                verdict = _nested(_nested(values, _DATA), _VERDICT)
                rule.jump = _text(verdict.get(_VERDICT_CHAIN, b""))
            rule.rewrites |= name == "masq" or _is_source_nat(name, values)
        return rule


def _is_source_nat(name: str, values: dict[int, bytes]) -> bool:
    if name == "target":
        return _text(values.get(_TARGET_NAME, b"")) in _REWRITES
    return name == "nat" and _number(values.get(_NAT_TYPE, b"\1")) == _SOURCE


def _compared(values: dict[int, bytes], *, is_name: bool) -> str:
    """Return the interface that a comparison wants."""
    wanted = _nested(values, _COMPARE_WITH).get(_VALUE, b"")
    sign = "!" * (_number(values.get(_COMPARE_HOW, b"")) == _UNEQUAL)
    if not is_name:
        return f"{sign}#{int.from_bytes(wanted, sys.byteorder)}"
    return sign + _text(wanted) + "*" * (not wanted.endswith(b"\0"))


def _hooked(messages: Iterable[Message], hook: int) -> Iterator[tuple[str, dict[int, bytes]]]:
    """Yield family and attributes of the chains at a hook."""
    for family, values in _values(messages):
        place = _nested(values, _HOOK)
        if place and _number(place[_HOOK_NUMBER]) == hook:
            yield family, values


def _values(messages: Iterable[Message]) -> Iterator[tuple[str, dict[int, bytes]]]:
    for message in messages:
        if family := _FAMILIES.get(message.body[0]):
            yield family, dict(netlink.attributes(message.body[_GENERAL:]))


def _dump(kind: int) -> list[Message]:
    with netlink.connect(_NETLINK_NETFILTER) as kernel:
        return list(netlink.dump(kernel, kind, bytes(_GENERAL)))


def _nested(values: dict[int, bytes], kind: int) -> dict[int, bytes]:
    return dict(netlink.attributes(values.get(kind, b"")))


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


# --- legacy iptables ----------------------------------------------------------------------------


def _legacy_chain(family: str) -> Iterator[Chain]:
    if table := xtables.read(family, "filter"):
        drops = table.policy(_FORWARD) == _VERDICT_DROP
        yield Chain(family, "filter", "FORWARD", drops=drops, rules=len(table.rules(_FORWARD)))


def _legacy_nat(family: str) -> Iterator[SourceNat]:
    if table := xtables.read(family, "nat"):
        yield from _legacy_rules(table, family, "POSTROUTING", table.rules(_POSTROUTING), ())


def _legacy_rules(
    table: xtables.Table,
    family: str,
    chain: str,
    rules: Iterable[xtables.Rule],
    passed: Collection[str],
) -> Iterator[SourceNat]:
    for rule in rules:
        if rule.target in _REWRITES:
            yield SourceNat(family, "nat", chain, rule.out.replace("+", "*"))
        name, there = table.jumped_to(rule)
        if name not in {"", _ENGINE, *passed}:
            yield from _legacy_rules(table, family, name, there, (*passed, name))
