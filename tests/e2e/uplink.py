"""The way by which packets leave the engine's machine past a tunnel, and a count of those that do.

    engine's machine -- uplink ... up0 -- a far host, without a network of Docker's

The machine's default route leads there, so that nothing that leaves is missed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.lab.engine import poll
from tests.lab.tun import Tun

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tests.lab.site import Container

FAR = {4: "203.0.113.80", 6: "2001:db8:80::80"}
_HERE = {4: "203.0.113.1", 6: "2001:db8:80::1"}
_THERE = {4: "203.0.113.2", 6: "2001:db8:80::2"}
_LENGTH = {4: 24, 6: 64}
_WHOLE = {4: 32, 6: 128}
_MAC = {"here": "02:00:00:00:00:01", "there": "02:00:00:00:00:02"}
_COUNTED = {"iptables": "0.0.0.0/0", "ip6tables": "2000::/3"}
"""What counts, and to which addresses: the link's own reports go to multicast ones."""

SENDER = f"""
trap 'exit 0' TERM
(while :; do nslookup x.example.org; sleep 0.1; done) &
(while :; do ping -6 -q -i 0.02 -W 1 {FAR[6]}; sleep 0.02; done) &
while :; do ping -q -i 0.01 -W 1 {FAR[4]} & wait $!; sleep 0.01; done >/dev/null 2>&1
"""
"""A shell's script that sends from its first instruction on, and asks for names."""
_SECONDS = 20.0
_STEP_SECONDS = 1.0
_MANY = 20


class Left(NamedTuple):
    """How many packets left."""

    ipv4: int
    ipv6: int


@dataclass
class Uplink:
    """The uplink of the machine of a far host's engine; leaving the context removes it."""

    far: Container
    """It has the other end of the tunnel."""
    counted: dict[str, Left] = field(default_factory=dict)
    """How many packets left in each step."""
    _tun: Tun | None = None

    def __enter__(self) -> Self:
        """Make it; the far host has the addresses of `FAR`."""
        engine, pid = self.far.engine, self.far.inspect("{{.State.Pid}}")
        peer = f"peer name up0 address {_MAC['there']} netns {pid}"
        here = [
            f"ip link add uplink address {_MAC['here']} type veth {peer}",
            "ip link set uplink addrgenmode none",
            "ip link set uplink up",
        ]
        there = [
            "echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6",
            "ip link set up0 addrgenmode none",
            "ip link set up0 up",
        ]
        for version in (4, 6):
            ip, nodad = f"ip -{version}", "nodad" * (version == 6)
            here += [
                f"{ip} address add {_HERE[version]}/{_LENGTH[version]} dev uplink {nodad}",
                f"{ip} neighbour replace {_THERE[version]} lladdr {_MAC['there']} dev uplink",
                f"{ip} route replace {FAR[version]}/{_WHOLE[version]} via {_THERE[version]}",
                f"{ip} route replace default via {_THERE[version]}",
            ]
            there += [
                f"{ip} address add {_THERE[version]}/{_LENGTH[version]} dev up0 {nodad}",
                f"{ip} neighbour replace {_HERE[version]} lladdr {_MAC['here']} dev up0",
                f"{ip} address replace {FAR[version]}/{_WHOLE[version]} dev lo",
            ]
        engine.enter("sh", "-ec", "\n".join(here))
        self.far.enter("sh", "-ec", "\n".join(there))
        self._count("-A")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close_tunnel()
        self._count("-D")
        self.far.engine.enter("ip", "link", "del", "uplink")

    def tunnel(self, gateway: Container) -> None:
        """Make one from there to the far host, `wg0` on both ends; there is one at a time."""
        self.close_tunnel()
        self._tun = Tun(gateway, self.far)

    def close_tunnel(self) -> None:
        """Remove it, if there is one."""
        if self._tun:
            self._tun.close()
        self._tun = None

    def left(self) -> Left:
        """Return how many packets have left the machine so far."""
        counts = []
        for program in _COUNTED:
            words = (program, "-w", "-t", "mangle", "-vnxL", "POSTROUTING")
            shown = self.far.engine.enter(*words).splitlines()
            counts.append(sum(int(line.split()[0]) for line in shown if " uplink " in line))
        return Left(*counts)

    def through(self) -> int:
        """Return how many packets the far host has received by the tunnel that is there."""
        lines = self.far.enter("cat", "/proc/net/dev").splitlines()
        return next((int(line.split()[2]) for line in lines if line.strip()[:4] == "wg0:"), 0)

    def flows(self, seconds: float = _SECONDS) -> bool:
        """Tell whether packets go through the tunnel and none leave, or it is so soon."""

        def flows() -> bool:
            left, before = self.left(), self.through()
            passed = poll(lambda: self.through() > before + _MANY, seconds)
            return passed and self.left() == left

        return poll(flows, seconds)

    def step(self, name: str, *acts: Callable[[], object]) -> None:
        """Do something, give packets some time, and note how many left."""
        before = self.left()
        for act in acts:
            act()
        time.sleep(_STEP_SECONDS)
        now = self.left()
        self.counted[name] = Left(now.ipv4 - before.ipv4, now.ipv6 - before.ipv6)

    def leaky(self) -> dict[str, Left]:
        """Return the steps in which packets left."""
        return {name: count for name, count in self.counted.items() if any(count)}

    def _count(self, how: str) -> None:
        for program, dst in _COUNTED.items():
            rule = ("POSTROUTING", "-o", "uplink", "-d", dst)
            self.far.engine.enter(program, "-w", "-t", "mangle", how, *rule)
