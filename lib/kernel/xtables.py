"""Tables of legacy iptables and ip6tables, as the kernel hands them out.

Changes nothing; a table that does not exist is not asked for, as the kernel would make it. In the
namespace that the calling thread is in.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lib.kernel import libc

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/netfilter_ipv4/ip_tables.h and ip6_tables.h; the numbers are the same in both.
_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")
_GET = struct.Struct("=32sI4x")
_TARGET = struct.Struct("=H29sB")
"""`xt_entry_target`: size, name and revision. What follows is the target's own."""
_LABEL = 32
_NAME = 16
"""Bytes of an interface's name."""
_ALL_HOOKS = 5
_ERROR, _INVERTED_OUT = "ERROR", 0x02
"""The target that names a chain, and `IPT_INV_VIA_OUT`."""


class _Layout(NamedTuple):
    """Where things are in an entry of one IP version (`ipt_ip`, `ip6t_ip6`)."""

    family: int
    level: int
    names: str
    """File of table names."""
    target: int
    """Where the offset of the target is, and after it that of the next entry."""
    out: int
    inversions: int


FAMILIES = {
    "ip": _Layout(socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names", 88, 32, 83),
    "ip6": _Layout(socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names", 140, 80, 132),
}


class Rule(NamedTuple):
    """One rule of a chain."""

    out: str
    """The interface by which a packet leaves, with `+` for any rest of it, and `!` for all
    others; empty for any."""
    target: str
    """Empty for a verdict or a jump."""
    verdict: int
    """Of these: below zero the verdict, else where the chain is that it jumps to."""
    next: int


class Table(NamedTuple):
    """One table."""

    layout: _Layout
    hooks: tuple[int, ...]
    policies: tuple[int, ...]
    entries: bytes

    def rules(self, hook: int) -> list[Rule]:
        """Return the rules of the chain at a hook, without its policy."""
        return list(self._between(self.hooks[hook], self.policies[hook]))

    def policy(self, hook: int) -> int:
        """Return the verdict where no rule decided."""
        return self._rule(self.policies[hook]).verdict

    def jumped_to(self, rule: Rule) -> tuple[str, list[Rule]]:
        """Return name and rules of the chain that a rule jumps to; nothing if it does not."""
        if rule.target or rule.verdict < 0 or rule.verdict == rule.next:
            return "", []
        return self._chains()[rule.verdict], list(self._between(rule.verdict, len(self.entries)))

    def _chains(self) -> dict[int, str]:
        """Return names by where the rules begin."""
        names, at = {}, 0
        while at < len(self.entries):
            rule = self._rule(at)
            if rule.target == _ERROR:
                (offset,) = struct.unpack_from("=H", self.entries, at + self.layout.target)
                names[rule.next] = _text(self.entries[at + offset + _LABEL :][:_LABEL])
            at = rule.next
        return names

    def _between(self, at: int, end: int) -> Iterator[Rule]:
        while at < end:
            rule = self._rule(at)
            if rule.target == _ERROR:
                return
            yield rule
            at = rule.next

    def _rule(self, at: int) -> Rule:
        layout = self.layout
        target, size = struct.unpack_from("=HH", self.entries, at + layout.target)
        _, name, _ = _TARGET.unpack_from(self.entries, at + target)
        (verdict,) = struct.unpack_from("=i", self.entries, at + target + _TARGET.size)
        out = _text(self.entries[at + layout.out :][:_NAME])
        if self.entries[at + layout.inversions] & _INVERTED_OUT:
            out = f"!{out}"
        return Rule(out, _text(name), verdict, at + size)


def read(family: str, name: str) -> Table | None:
    """Return a table; None if there is none. Raises OSError if the kernel does not tell."""
    layout = FAMILIES[family]
    file = Path("/proc/thread-self/net", layout.names)
    if not file.exists() or name not in file.read_text().split():
        return None
    wanted = name.encode()
    with socket.socket(layout.family, socket.SOCK_DGRAM) as kernel:
        empty = wanted.ljust(_INFO.size, b"\0")
        info = libc.socket_option(kernel.fileno(), layout.level, _GET_INFO, empty)
        _, _, *offsets, _, size = _INFO.unpack(info)
        head = _GET.pack(wanted, size) + bytes(size)
        found = libc.socket_option(kernel.fileno(), layout.level, _GET_ENTRIES, head)
    hooks, policies = tuple(offsets[:_ALL_HOOKS]), tuple(offsets[_ALL_HOOKS:])
    return Table(layout, hooks, policies, found[_GET.size :])


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace")
