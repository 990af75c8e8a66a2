"""What the kernel does to addresses and routes of all containers, and when, told by the kernel.

One process listens, in the engine's network namespace, to the messages of every namespace that has
an id there, as each has that shares a veth pair with it; nothing is entered. So routes that stand
for a moment only are seen too, in whatever namespace. It runs with real-time priority, since it
writes down when.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from tests.lab.engine import Docker

OWN = -1
"""The namespace in which the watch listens: the engine's."""

SOL_NETLINK, LISTEN_ALL_NSID = 270, 8
IPV4_ADDRESSES, IPV4_ROUTES, IPV6_ADDRESSES, IPV6_ROUTES, NAMESPACES = 5, 7, 9, 11, 28
IPV4_RULES, IPV6_RULES = 8, 19
GROUPS = (
    *(IPV4_ADDRESSES, IPV4_ROUTES, IPV4_RULES),
    *(IPV6_ADDRESSES, IPV6_ROUTES, IPV6_RULES),
    NAMESPACES,
)
NEWADDR, NEWROUTE, DELROUTE, NEWRULE, NEWNSID = 20, 24, 25, 32, 88
LOCAL_ADDRESS, ADDRESS = 2, 1
DESTINATION, GATEWAY = 1, 5
PREFERENCE = 6
NSID = 1
NAMES = {
    NEWADDR: "address",
    NEWROUTE: "route",
    DELROUTE: "withdrawn",
    NEWRULE: "rule",
    NEWNSID: "namespace",
}
EVERYTHING: dict[int, object] = {socket.AF_INET: ip_address(0), socket.AF_INET6: ip_address("::")}
RECEIVE_BUFFER = 1 << 24
LOST = "lost"


@dataclass(frozen=True, slots=True)
class Seen:
    """One message of the kernel."""

    time_ns: int
    kind: str
    nsid: int
    address: str
    """The address itself, the route's destination, or when a rule is asked."""
    gateway: str = ""

    def __str__(self) -> str:
        """As one line between the two processes."""
        return f"{self.time_ns} {self.kind} {self.nsid} {self.address} {self.gateway}"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read such a line."""
        time_ns, kind, nsid, address, *gateway = line.split()
        return cls(int(time_ns), kind, int(nsid), address, *gateway)


@dataclass(frozen=True, slots=True)
class Incarnation:
    """A namespace from the moment on in which it got its id: an id is given again after its end."""

    nsid: int
    since_ns: int
    addresses: dict[str, int] = field(default_factory=dict)
    """Address, and when it came."""
    routes: list[Seen] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from all others."""
        return self.nsid, self.since_ns


class Watch:
    """The listening process, and what it said so far."""

    def __init__(self, engine: Docker) -> None:
        self._process = subprocess.Popen(
            [*engine.entry()[:3], "--net", "--", sys.executable, __file__],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        ready = self._output.readline()
        assert ready == b"ready\n", ready
        os.set_blocking(self._output.fileno(), False)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()

    def read(self, seconds: float = 0.0) -> list[Seen]:
        """Return what came since the last call, after waiting for something at most that long."""
        if not select.select([self._output], [], [], seconds)[0]:
            return []
        with suppress(BlockingIOError):
            while chunk := os.read(self._output.fileno(), 1 << 16):
                self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        seen = [Seen.parse(line.decode()) for line in lines]
        if any(one.kind == LOST for one in seen):
            reason = "the kernel had more to say than the watch could take in"
            raise OverflowError(reason)
        return seen

    def await_routes(self, gateways: set[str], count: int, seconds: float) -> list[Seen]:
        """Collect until that many routes through those gateways were made."""
        deadline = time.monotonic() + seconds
        seen: list[Seen] = []
        while (left := deadline - time.monotonic()) > 0:
            new = self.read(left)
            seen += new
            count -= sum(one.kind == "route" and one.gateway in gateways for one in new)
            if count <= 0:
                return seen
        reason = f"{count} routes were not made within {seconds:g} s"
        raise TimeoutError(reason)


def incarnations(seen: list[Seen]) -> list[Incarnation]:
    """Gather addresses and routes by the namespace in which they were made."""
    current: dict[int, Incarnation] = {}
    found: list[Incarnation] = []
    for one in seen:
        known = current.get(one.nsid)
        if known is None or one.kind == NAMES[NEWNSID]:
            known = current[one.nsid] = Incarnation(one.nsid, one.time_ns)
            found.append(known)
        if one.kind == NAMES[NEWADDR]:
            known.addresses.setdefault(one.address, one.time_ns)
        elif one.kind != NAMES[NEWNSID]:
            known.routes.append(one)
    return found


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        if length < 4:
            return
        yield kind, data[4:length]
        data = data[(length + 3) & ~3 :]


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 16:
        length, kind = struct.unpack_from("IH", data)
        yield kind, data[16:length]
        data = data[(length + 3) & ~3 :]


def _seen(kind: int, body: bytes, nsid: int, now: int) -> Seen | None:
    if kind == NEWADDR:
        found = dict(_attributes(body[8:]))
        address = ip_address(found.get(LOCAL_ADDRESS) or found[ADDRESS])
        if address.is_link_local or address.is_loopback:
            return None
        return Seen(now, NAMES[kind], nsid, str(address))
    if kind == NEWNSID:
        found = dict(_attributes(body[4:]))
        return Seen(now, NAMES[kind], int.from_bytes(found[NSID], sys.byteorder), "-")
    if kind == NEWRULE:
        found = dict(_attributes(body[12:]))
        preference = int.from_bytes(found.get(PREFERENCE, b""), sys.byteorder)
        return Seen(now, NAMES[kind], nsid, f"{EVERYTHING[body[0]]}/{preference}")
    if kind in (NEWROUTE, DELROUTE):
        found = dict(_attributes(body[12:]))
        if GATEWAY not in found:
            return None
        dst = ip_address(found[DESTINATION]) if DESTINATION in found else EVERYTHING[body[0]]
        return Seen(now, NAMES[kind], nsid, f"{dst}/{body[1]}", str(ip_address(found[GATEWAY])))
    return None


def listen() -> None:
    """Print messages until killed."""
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BUFFER)  # SO_RCVBUFFORCE
        listener.setsockopt(SOL_NETLINK, LISTEN_ALL_NSID, 1)
        listener.bind((0, sum(1 << (group - 1) for group in GROUPS)))
        print("ready", flush=True)
        while True:
            try:
                data, ancillary, _, _ = listener.recvmsg(1 << 16, 64)
            except OSError:
                print(f"{time.time_ns()} {LOST} {OWN} -", flush=True)
                continue
            now = time.time_ns()
            nsid = OWN
            for level, kind, value in ancillary:
                if (level, kind) == (SOL_NETLINK, LISTEN_ALL_NSID):
                    (nsid,) = struct.unpack("i", value)
            for kind, body in _messages(data):
                if one := _seen(kind, body, nsid, now):
                    print(one, flush=True)


if __name__ == "__main__":
    listen()
