"""How long a substitute takes to take over from a gateway that is killed, and that to come back.

A client asks both for the same and sends all the time; both answer at the address that it sends to.
Besides, how often routes are set while both are up: never.
"""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from tests.benchmark.listener import RouteListener, entered, namespace_of
from tests.benchmark.stats import Figure
from tests.lab.engine import poll
from tests.lab.site import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.lab.engine import Engine
    from tests.lab.site import Container

PART = "take-over"
ROUNDS, FEW_ROUNDS = 20, 2
CALM_SECONDS, FEW_CALM_SECONDS = 60.0, 6.0
RESYNC = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=2")
SUBNET, DST, FAR = "192.168.67.0/24", "198.51.100.0/24", "198.51.100.1"
SECONDS = 20.0
AFTER_SECONDS = 0.5
EVERY_SECONDS = 0.002
ECHO_REQUEST, ECHO_REPLY = 8, 0


def run(
    engine: Engine, label: str, tell: Callable[[str], None], *, quick: bool, calm: float | None
) -> list[Figure]:
    """Measure all; both are up and nothing happens for `calm` seconds."""
    rounds = FEW_ROUNDS if quick else ROUNDS
    seconds = calm or (FEW_CALM_SECONDS if quick else CALM_SECONDS)
    with Lab(engine) as lab:
        site = Site(lab)
        with RouteListener(site.space) as listener, Sender(site.space) as sender:
            losses, returns, silences, switches = zip(
                *(site.round(listener, sender) for _ in range(rounds)), strict=True
            )
        tell(f"{rounds} times over and back")
        time.sleep(AFTER_SECONDS)
        in_rounds = site.replaced()
        time.sleep(seconds)
        calm_ones = site.replaced() - in_rounds
    part = f"{PART}, {label}"
    counted = f"{in_rounds} routes set in {rounds} rounds, {calm_ones} in {seconds:.0f} s after"
    tell(counted)
    return [
        Figure(part, "gateway killed to the substitute's route", "ms", losses),
        Figure(part, "without an answer then", "ms", silences),
        Figure(part, "gateway started to its own route", "ms", returns, note="10 s are waited"),
        Figure(part, "without an answer then, at the return", "ms", switches),
        Figure(
            part,
            f"routes set in {seconds:.0f} s of both up",
            "",
            [calm_ones],
            target="none",
            met=calm_ones == 0,
            note=counted,
        ),
    ]


class Site:
    """Two gateways with a sidecar each, and a client that asks both for the same."""

    def __init__(self, lab: Lab) -> None:
        """Start all of it, and wait until the client is led."""
        self._network = lab.network("two", SUBNET)
        self._first, self._second = (lab.gateway(name, self._network) for name in ("a", "b"))
        both = (self._first, self._second)
        self._sidecars: Sequence[Container] = [
            lab.lone_sidecar(f"sidecar-{one.name}", *RESYNC, gateway=one, network=self._network)
            for one in both
        ]
        labels = (f"wgroutemgr.networks.{one.name}={DST}" for one in both)
        words = (word for label in labels for word in ("--label", label))
        self._vias = [one.address(self._network) for one in both]
        for one in both:
            _answer(one)
        for sidecar in self._sidecars:
            sidecar.await_log('"gateway.ready"')
        client = lab.client("client", self._network, *words)
        wanted = f"{DST} via {self._vias[0]}"
        assert poll(lambda: wanted in client.enter("ip", "route", "show"), SECONDS)
        self.space = namespace_of(client)
        time.sleep(10)  # From here on, who comes back has been away.

    def round(self, listener: RouteListener, sender: Sender) -> tuple[float, float, float, float]:
        """Kill one, start it again, and return what each took (milliseconds).

        That is until the route leads to the other one, until it leads back, and how long there was
        no answer, each time.
        """
        first, second = self._vias
        pid = self._first.inspect("{{.State.Pid}}")

        def kill() -> None:
            self._first.engine.enter("kill", "-9", pid)

        begun = time.monotonic()
        lost = listener.until(lambda route: route.gateway == second, kill)
        time.sleep(AFTER_SECONDS)
        silent = sender.silence(begun)
        begun = time.monotonic()
        back = listener.until(lambda route: route.gateway == first, self._start)
        time.sleep(AFTER_SECONDS)
        return lost, back, silent, sender.silence(begun)

    def _start(self) -> None:
        self._first.start()
        _answer(self._first)

    def replaced(self) -> int:
        """Return how many routes were set so far."""
        return sum(one.logs().count('"route.replaced"') for one in self._sidecars)


def _answer(gateway: Container) -> None:
    """Have a gateway answer in the place of what is behind it."""
    gateway.enter("ip", "address", "add", FAR, "dev", "lo")


class Sender:
    """Sends echo requests from a namespace all the time, and hears the answers."""

    def __init__(self, space: str) -> None:
        """Make the socket in there."""
        with entered(space):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.settimeout(EVERY_SECONDS)
        self._heard: list[float] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Self:
        """Begin to send."""
        self._thread.start()
        assert poll(lambda: bool(self._heard), SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        """Send no more."""
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    def silence(self, since: float) -> float:
        """Return the longest time without an answer since then (milliseconds)."""
        heard = [since, *(at for at in self._heard if at >= since)]
        assert len(heard) > 1, "nobody answered"
        return max((after - before for before, after in pairwise(heard)), default=math.inf) * 1000

    def _send(self) -> None:
        head = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, 1, 1)
        request = head[:2] + struct.pack("!H", _checksum(head)) + head[4:]
        while not self._is_over.is_set():
            with suppress(OSError):  # No way, for a while.
                self._socket.sendto(request, (FAR, 0))
            with suppress(TimeoutError):
                answer = self._socket.recv(1 << 16)
                if answer[20] == ECHO_REPLY:
                    self._heard.append(time.monotonic())
            time.sleep(EVERY_SECONDS)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack("!4H", data))
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
