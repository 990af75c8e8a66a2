"""What becomes of packets through a change: a client sends all the time, and nothing may go round.

On an ordinary network, where there is another way: the host's uplink, on which packets are counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.benchmark.stats import Figure
from tests.e2e.doctor_site import lead, make_gateway
from tests.e2e.uplink import FAR, Uplink
from tests.lab.site import Lab

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.engine import Engine
    from tests.lab.site import Container

PART = "changes"
SUBNETS = ("192.168.67.0/24", "fd00:67::/64")
SENDERS = 4
FLOOD = f"while :; do ping -q -i 0.002 -W 1 {FAR[4]}; sleep 0.002; done >/dev/null 2>&1"
SECONDS = 20.0
AFTER_SECONDS = 0.5


class Changing:
    """A gateway with a tunnel, a client that sends through it, a sidecar, and an uplink."""

    def __init__(self, lab: Lab, uplink: Uplink) -> None:
        """Start all of it, and wait until packets go through the tunnel."""
        self._lab, self._uplink = lab, uplink
        self._network = lab.network("wg", *SUBNETS)
        self._gateway = self._started()
        script = f"{f'({FLOOD}) & ' * SENDERS}wait"
        # As where the engine is in no namespace of its own: who forwards believes no redirects.
        options = ("--sysctl", "net.ipv4.ip_forward=1")
        command = ("sh", "-c", script)
        lab.client("client", self._network, *options, networks="0.0.0.0/0", command=command)
        self._sidecar = lab.lone_sidecar("sidecar", gateway=self._gateway, network=self._network)
        assert uplink.flows(SECONDS)

    def _started(self) -> Container:
        gateway = make_gateway(self._lab, self._network, "gateway")
        self._lead(gateway)
        return gateway

    def _lead(self, gateway: Container) -> None:
        """Send everything into a tunnel."""
        self._uplink.tunnel(gateway)
        lead(gateway, self._uplink.far, SUBNETS)
        gateway.enter("ip", "route", "replace", "default", "via", "10.255.255.2")

    def recreate_gateway(self) -> None:
        """Do what an updater does."""
        self._gateway.remove()
        self._gateway = self._started()

    def restart_gateway(self) -> None:
        """Lose the tunnel with the gateway, and make it again."""
        self._gateway.restart()
        self._lead(self._gateway)

    def restart_sidecar(self) -> None:
        """Let it begin anew."""
        self._sidecar.restart()

    def through(self, change: Callable[[], None]) -> tuple[float, int, float]:
        """Return ms without packets, packets that went another way, and packets a second before."""
        rate = self._rate()
        left, begun, before = sum(self._uplink.left()), time.monotonic(), self._uplink.through()
        change()
        # A new tunnel counts from nothing.
        before = min(before, self._uplink.through())
        assert self._uplink.flows(SECONDS)
        time.sleep(AFTER_SECONDS)
        passed, took = self._uplink.through() - before, time.monotonic() - begun
        return max(0.0, took - passed / rate) * 1000, sum(self._uplink.left()) - left, rate

    def _rate(self) -> float:
        before, begun = self._uplink.through(), time.monotonic()
        time.sleep(1)
        return (self._uplink.through() - before) / (time.monotonic() - begun)


def run(engine: Engine, label: str, tell: Callable[[str], None], *, quick: bool) -> list[Figure]:
    """Measure each change."""
    with Lab(engine) as lab, Uplink(lab.client("far", "none")) as uplink:
        place = Changing(lab, uplink)
        changes = {
            "sidecar restarted": place.restart_sidecar,
            "gateway restarted": place.restart_gateway,
            "gateway made anew": place.recreate_gateway,
        }
        return [
            _figure(label, name, [place.through(act) for _ in range(2 if quick else 10)], tell)
            for name, act in changes.items()
        ]


def _figure(
    label: str,
    name: str,
    measured: list[tuple[float, int, float]],
    tell: Callable[[str], None],
) -> Figure:
    gaps, past, rates = ([*column] for column in zip(*measured, strict=True))
    note = f"{sum(past)} packets another way, {sum(rates) / len(rates):.0f} a second through"
    tell(f"{name}: {note}")
    return Figure(
        part=f"{PART}, {label}",
        name=f"{name}: ms without packets",
        unit="ms",
        values=gaps,
        target="no packet another way",
        met=not sum(past),
        note=note,
        details={"past": past, "packets_per_second": [round(rate) for rate in rates]},
    )
