"""How long a client may send past a tunnel that is lost: from the link's end to `unreachable`.

One process takes the link of the gateway down and listens to the routes of the client; both are
namespaces of containers of a real engine. Beside that, in the same run, what a shell needs for the
same: `ip monitor`, and one command.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING

from tests.benchmark.listener import RouteListener, entered, is_led, is_unreachable, namespace_of
from tests.benchmark.stats import Figure, percentile
from tests.lab.engine import poll
from tests.lab.site import Lab

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.engine import Engine

PART = "tunnel lost"
ROUNDS, FEW_ROUNDS = 20, 3
SECONDS = 10.0
CALM_SECONDS = 0.7
"""Between two rounds: the pass that verifies the last one is over then."""

SUBNET, TUNNEL = "192.168.67.0/24", "tun0"
TUNNEL_ROUTE = ("route", "replace", "default", "dev", TUNNEL, "table", "100")
SHELL = """
nsenter --net="$1" ip monitor link | while read -r line; do
    nsenter --net="$2" ip route replace unreachable 198.18.0.0/15
done
"""
FORGET = ("route", "del", "unreachable", "198.18.0.0/15")

GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1


def run(engine: Engine, label: str, tell: Callable[[str], None], *, quick: bool) -> list[Figure]:
    """Measure both, the shell first, as long as there is no sidecar."""
    rounds = FEW_ROUNDS if quick else ROUNDS
    with Lab(engine) as lab:
        network = lab.network("loss", SUBNET)
        gateway = lab.gateway("gateway", network)
        gateway.enter("ip", "tuntap", "add", TUNNEL, "mode", "tun")
        gateway.enter("ip", "rule", "add", "pref", "100", "table", "100")
        client = lab.client("client", network, networks="0.0.0.0/0")
        spaces = [namespace_of(one) for one in (gateway, client)]
        _set_up(spaces[0])
        shell = _by_shell(spaces, rounds)
        tell(f"{rounds} times by a shell")
        lab.lone_sidecar("sidecar", gateway=gateway, network=network)
        shown = ("ip", "route", "show", "table", "all")
        wanted = f"default via {gateway.address(network)} dev eth0 table 671"
        assert poll(lambda: wanted in client.enter(*shown), SECONDS)
        lost, found = _by_sidecar(spaces, rounds)
        tell(f"{rounds} times by the sidecar")
    bare = percentile(shell, 50)
    return [
        Figure(f"{PART}, {label}", name, "ms", values, ratios=ratios)
        for name, values, ratios in (
            (
                "link down to unreachable",
                lost,
                {"ip monitor and one command": percentile(lost, 50) / bare},
            ),
            ("route set to default by the gateway", found, {}),
            ("link down to one command after ip monitor", shell, {}),
        )
    ]


def _by_shell(spaces: list[str], rounds: int) -> list[float]:
    with subprocess.Popen(
        ["sh", "-c", SHELL, "sh", *spaces], stdin=subprocess.DEVNULL, start_new_session=True
    ) as shell:
        time.sleep(CALM_SECONDS)
        values = []
        with RouteListener(spaces[1]) as listener:
            for _ in range(rounds):
                values.append(
                    listener.until(is_unreachable, lambda: _set_link(spaces[0], up=False))
                )
                _set_up(spaces[0])
                time.sleep(CALM_SECONDS)
                _ip(spaces[1], *FORGET)
        os.killpg(shell.pid, 15)
    return values


def _by_sidecar(spaces: list[str], rounds: int) -> tuple[list[float], list[float]]:
    lost, found = [], []
    with RouteListener(spaces[1]) as listener:
        for _ in range(rounds):
            time.sleep(CALM_SECONDS)
            lost.append(listener.until(is_unreachable, lambda: _set_link(spaces[0], up=False)))
            time.sleep(CALM_SECONDS)
            _set_link(spaces[0], up=True)
            found.append(listener.until(is_led, lambda: _ip(spaces[0], *TUNNEL_ROUTE)))
    return lost, found


def _ip(space: str, *words: str) -> None:
    subprocess.run(["nsenter", f"--net={space}", "ip", *words], check=True)


def _set_up(space: str) -> None:
    _set_link(space, up=True)
    _ip(space, *TUNNEL_ROUTE)


def _set_link(space: str, *, up: bool) -> None:
    """Take the tunnel's link up or down: by a call, as a program takes longer to start."""
    with entered(space), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        request = struct.pack("16sH14x", TUNNEL.encode(), 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(link, GET_FLAGS, request))
        flags = flags | UP if up else flags & ~UP
        fcntl.ioctl(link, SET_FLAGS, struct.pack("16sH14x", TUNNEL.encode(), flags))
