"""Reboots, one after another: all that ran must come back, and be right, each time.

    ./tests/run soak --reboots 50

A site as the README recommends it, all `unless-stopped`, on an engine without live restore: the
sidecar has no network of its own, and a label names the gateway. At each boot the gateway takes ten
seconds to get ready, or fails once. What is measured is how long a client ran without its route.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass, field
from datetime import datetime
from itertools import cycle, islice
from typing import TYPE_CHECKING

from tests.lab.engine import poll
from tests.lab.errors import LabError
from tests.lab.site import Lab

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.engine import Engine
    from tests.lab.site import Container

DST = "192.168.66.0/24"
CLIENTS = 3
BACK_SECONDS = 90
"""Until all must be right again, on a machine with other things to do."""

ALWAYS = ("--restart", "unless-stopped")
GATEWAY = """
trap 'exit 0' TERM INT
case $(cat /boot/mode) in
slow) sleep 10 & wait $! ;;
failing) [ -e /boot/failed ] || { touch /boot/failed; exit 1; } ;;
esac
touch /boot/ready
while :; do sleep 3600 & wait $!; done
"""
MODES = ("slow", "failing")


@dataclass
class Reboots:
    """What came of them."""

    engine: Engine
    lab: Lab
    without: list[float] = field(default_factory=list)
    """For how many seconds each client ran without its route, at each boot."""

    def __post_init__(self) -> None:
        self.boot = self.engine.state / "boot"
        self.boot.mkdir()
        (self.boot / "mode").write_text("")
        options = ("--ip-range", "192.168.67.0/25")
        self.network = self.lab.network("wg-net", "192.168.67.0/24", options=options)
        words = ("--ip", "192.168.67.129", *ALWAYS, "--volume", f"{self.boot}:/boot")
        command = ("sh", "-c", GATEWAY)
        self.gateway = self.lab.gateway("wireguard", self.network, *words, command=command)
        self.sidecar = self.lab.lone_sidecar(
            "sidecar", *ALWAYS, gateway=self.gateway, network=self.network
        )
        self.clients = [
            self.lab.client(f"client{number}", self.network, *ALWAYS, networks=DST)
            for number in range(CLIENTS)
        ]
        self._await_all("the first start")

    def reboot(self, mode: str) -> None:
        """Do it once, with a gateway that starts in this mode."""
        (self.boot / "mode").write_text(mode)
        for name in ("ready", "failed"):
            (self.boot / name).unlink(missing_ok=True)
        self.engine.reboot()
        self._await_all(f"a reboot with a {mode} gateway")
        self.without += [self._without(client) for client in self.clients]

    def _await_all(self, what: str) -> None:
        if not poll(self._is_right, BACK_SECONDS, every=0.5):
            states = self.engine.docker("ps", "--all", "--format", "{{.Names}}: {{.Status}}")
            raise LabError(
                seen=f"{BACK_SECONDS} s after {what}:\n{states}\n{self.sidecar.logs()[-4000:]}",
                hint="the sidecar's log above says how far it came",
            )

    def _is_right(self) -> bool:
        try:
            address = self.gateway.address(self.network)
            return (
                (self.boot / "ready").exists()
                and all(f"via {address} " in self._route(client) for client in self.clients)
                and self.sidecar.exec("sh", "/opt/wgroutemgr/lib/health.sh") == "ok"
            )
        except LabError:  # One of them does not run yet.
            return False

    @staticmethod
    def _route(client: Container) -> str:
        return client.enter("ip", "route", "show", DST)

    def _without(self, client: Container) -> float:
        """Return the seconds from a client's start until its route was there for good.

        Less than 0 if it was there before.
        """
        started = _seconds(client.inspect("{{.State.StartedAt}}"))
        entries = map(json.loads, self.sidecar.logs().splitlines())
        set_at = [
            _seconds(entry["timestamp"])
            for entry in entries
            if entry["event"] == "route.replaced"
            and entry["container"] == client.name
            and entry["gateway"] != "unreachable"
        ]
        return set_at[-1] - started


def _seconds(timestamp: str) -> float:
    """Return the seconds of Unix time of a timestamp in UTC, of which nanoseconds are left out."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def reboots(engine: Engine, count: int, tell: Callable[[str], None]) -> Reboots:
    """Reboot that often; LabError as soon as something is not right afterwards."""
    with Lab(engine) as lab:
        run = Reboots(engine, lab)
        for number, mode in enumerate(islice(cycle(MODES), count), 1):
            begun = time.monotonic()
            run.reboot(mode)
            took = time.monotonic() - begun
            latest = " ".join(f"{seconds:.2f}" for seconds in run.without[-CLIENTS:])
            tell(f"reboot {number}, {mode} gateway: {took:.0f} s; without a route: {latest} s")
    median, worst = statistics.median(run.without), max(run.without)
    tell(
        f"{count} reboots of Docker {engine.version}, all back: from a client's start to its route "
        f"{median:.2f} s (median), {worst:.2f} s (worst)"
    )
    return run
