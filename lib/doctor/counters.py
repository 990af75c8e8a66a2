"""What a device has counted, by the text of files in `/proc/net`.

Pure. Each kind of tunnel counts, as every device does.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_COLUMNS = re.compile(r"\s*(\S+):\s*\d+\s+(\d+)\s+(\d+)(?:\s+\d+){6}\s+(\d+)\s+(\d+)\s")
"""A device's line: bytes, packets, errors and five more of what came in, then of what went out."""

DEVICES = "/proc/net/dev"
"""`proc_pid_net(5)`."""


class Counters(NamedTuple):
    """Packets since a device was made."""

    received: int
    sent: int
    receive_errors: int
    """For WireGuard: what came from an address that is none of its peer's (`rx_frame_errors` in
    drivers/net/wireguard/receive.c)."""
    send_errors: int
    """For WireGuard: what was for no peer, or for one without endpoint (`wg_xmit` in device.c)."""


def ipv6_file(device: str) -> str:
    """Return the file with what a device has counted of IPv6."""
    return f"/proc/net/dev_snmp6/{device}"


def parse_devices(text: str) -> dict[str, Counters]:
    """Return what each device has counted, by its name."""
    found = {}
    for match in filter(None, map(_COLUMNS.match, text.splitlines())):
        received, receive_errors, sent, send_errors = map(int, match.groups()[1:])
        found[match[1]] = Counters(received, sent, receive_errors, send_errors)
    return found


def parse_multicast(text: str) -> int:
    """Return how many multicasts of IPv6 were sent: the kernel's own, of which no peer hears."""
    match = re.search(r"^Ip6OutMcastPkts\s+(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else 0
