"""How long a client is without its routes after each fault, measured in its own namespace.

    python -m tests.lab.faults --times 20

Every fault is done so many times on an engine of its own. One thread reads the kernel's routes in
the client's namespace every few milliseconds, by a netlink socket that was opened in there, so
what is measured is neither slowed by commands nor smoothed by them. The time counts from the end of
the fault, as the kernel or the engine dates it, until the routes are right and stay so.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import socket
import statistics
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.lab import images
from tests.lab.engine import Engine, poll
from tests.lab.rootfs import rootfs
from tests.lab.site import PRIVILEGES, Container, Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SUBNET, SUBNET6 = "192.168.67.0/24", "fd00:67::/64"
DST, DST6 = "198.51.100.0/24", "2001:db8:51::/48"
SHUT = {DST: "unreachable", DST6: "unreachable"}
EVERY = 0.003
"""Seconds between two looks at the routes."""

STEADY = 0.3
"""Seconds for which routes must be right to be believed."""

SECONDS = 90.0
HANG = 3.0

_CLONE_NEWNET = 0x40000000
_RTM_NEWROUTE, _RTM_GETROUTE, _NLMSG_DONE = 24, 26, 3
_NLM_F_REQUEST_DUMP = 0x301
_MAIN_TABLE = 254
_RTM_F_CLONED = 0x200
_RTA_DST, _RTA_GATEWAY = 1, 5
_TYPES = {1: "connected", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")

Routes = dict[str, str]


# --- the kernel ---------------------------------------------------------------------------------


def open_in(path: Path) -> socket.socket:
    """Return a netlink socket of that network namespace; only this thread visits it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home, path.open() as there:
        if libc.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns", str(path))
        try:
            return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        finally:
            libc.setns(home.fileno(), _CLONE_NEWNET)


def read_routes(netlink: socket.socket) -> Routes:
    """Return the main table: destination to gateway or type."""
    request = _ROUTE.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)
    size = _HEADER.size + len(request)
    netlink.send(_HEADER.pack(size, _RTM_GETROUTE, _NLM_F_REQUEST_DUMP, 1, 0) + request)
    found: Routes = {}
    while True:
        for kind, body in _messages(netlink.recv(1 << 17)):
            if kind == _NLMSG_DONE:
                return found
            if kind == _RTM_NEWROUTE and (route := _route(body)):
                found.setdefault(*route)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _route(body: bytes) -> tuple[str, str] | None:
    family, bits, _, _, table, _, _, kind, flags = _ROUTE.unpack_from(body)
    if table != _MAIN_TABLE or flags & _RTM_F_CLONED:
        return None
    values: dict[int, bytes] = {}
    rest = body[_ROUTE.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, key = _ATTRIBUTE.unpack_from(rest)
        values[key] = rest[_ATTRIBUTE.size : length]
        rest = rest[(length + 3) & ~3 :]
    nothing = bytes(4 if family == socket.AF_INET else 16)
    dst = f"{ip_address(values.get(_RTA_DST, nothing))}/{bits}"
    gateway = values.get(_RTA_GATEWAY)
    return dst, str(ip_address(gateway)) if gateway else _TYPES.get(kind, str(kind))


class Watch(threading.Thread):
    """Writes down when the routes of a namespace changed, and to what.

    Args:
        engine: where the namespace is.
        key: the namespace's file, as the engine names it; empty to wait for a new one.
    """

    def __init__(self, engine: Engine, key: str = "") -> None:
        super().__init__(daemon=True)
        # The engine's own /run, seen from here: its /var/run is a link that would lead to ours.
        self._folder = Path(f"/proc/{engine.pid}/root/run/docker/netns")
        self._known = {path.name for path in self._folder.iterdir()}
        self._socket = open_in(self._folder / Path(key).name) if key else None
        self._ended = threading.Event()
        self.history: list[tuple[float, Routes]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Look until it is ended."""
        while not self._ended.wait(EVERY):
            if self._socket is None:
                self._find()
                continue
            routes = read_routes(self._socket)
            if not self.history or self.history[-1][1] != routes:
                self.history.append((time.time(), routes))

    def right_since(self, wanted: Routes) -> float | None:
        """Return since when these routes are there without a break; None if they are not."""
        since = None
        for moment, routes in reversed(self.history):
            if {dst: routes.get(dst, "") for dst in wanted} != wanted:
                break
            since = moment
        return since

    def first(self, condition: Callable[[Routes], bool]) -> float:
        """Return when a condition was first seen to hold."""
        return next(moment for moment, routes in self.history if condition(routes))

    def await_right(self, wanted: Routes) -> float:
        """Wait until these routes are there and stay; return since when."""

        def right() -> bool:
            since = self.right_since(wanted)
            return since is not None and time.time() - since > STEADY

        assert poll(right, SECONDS), f"expected {wanted}, actual {self.history[-5:]}"
        return self.right_since(wanted) or 0.0

    def _find(self) -> None:
        for path in self._folder.iterdir():
            if path.name not in self._known:
                try:
                    self._socket = open_in(path)
                except OSError:
                    continue  # it is just being made


# --- the site -----------------------------------------------------------------------------------


@dataclass
class Site:
    """A gateway, its sidecar and a client, made anew for each fault."""

    lab: Lab
    resync: int
    engine: Engine
    number: int = 129
    network: str = field(init=False)
    gateway: Container = field(init=False)
    sidecar: Container = field(init=False)
    client: Container = field(init=False)

    def __post_init__(self) -> None:
        self.network = self.lab.network("wg-net", SUBNET, SUBNET6)
        self.make_gateway()
        self.sidecar = self.lab.container(
            "sidecar",
            images.PRODUCT,
            *PRIVILEGES,
            *("--network", f"container:{self.gateway.name}"),
            *("--label", f"wgroutemgr.network={self.network}"),
            *("--env", f"WGROUTEMGR_RESYNC_INTERVAL={self.resync}"),
        )
        self.client = self.make_client("client")
        with self.watch() as watch:
            watch.await_right(self.through())

    def make_gateway(self) -> None:
        self.number += 1
        options = ("--ip", f"192.168.67.{self.number}", "--ip6", f"fd00:67::{self.number}")
        self.gateway = self.lab.gateway("gateway", self.network, *options)

    def make_client(self, name: str, network: str | None = None) -> Container:
        return self.lab.client(name, network or self.network, networks=f"{DST},{DST6}")

    def through(self) -> Routes:
        """Return what the client is to have while the gateway is up."""
        return {DST: f"192.168.67.{self.number}", DST6: f"fd00:67::{self.number}"}

    def watch(self, client: Container | None = None) -> Watch:
        """Look at a container's namespace."""
        return Watch(
            self.engine, (client or self.client).inspect("{{.NetworkSettings.SandboxKey}}")
        )

    def moment(self, container: Container, what: str) -> float:
        """Return when the engine says that a container started or finished."""
        text = container.inspect(f"{{{{.State.{what}}}}}")
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text)).timestamp()

    def in_client(self, script: str) -> None:
        """Run a shell script in the client's namespace."""
        self.client.enter("sh", "-c", script)

    def commands(self) -> int:
        """Return how many commands the sidecar has run that changed something."""
        return sum("command" in json.loads(line) for line in self.sidecar.logs().splitlines())


# --- the faults ---------------------------------------------------------------------------------

FAULT: list[tuple[str, int, Callable[[Site], float]]] = []
"""What it is called, the resync interval with which it is measured, and what does it."""


def fault(name: str, resync: int = 60) -> Callable[[Callable[[Site], float]], None]:
    """Register a fault, which does and undoes itself and returns the seconds until it was mended.

    The resync interval is the default, so that it does not help, wherever an event tells.
    """

    def register(function: Callable[[Site], float]) -> None:
        FAULT.append((name, resync, function))

    return register


@fault("route deleted by hand (resync 1 s)", resync=1)
def _(site: Site) -> float:
    with site.watch() as watch:
        site.in_client(f"ip route del {DST}")
        right = watch.await_right(site.through())
        return right - watch.first(lambda routes: DST not in routes)


@fault("link down and up (resync 1 s)", resync=1)
def _(site: Site) -> float:
    v6 = site.client.address(site.network, ipv6=True)
    with site.watch() as watch:
        # The kernel forgets the IPv6 address of a link that goes down.
        up = f"ip link set eth0 up; ip -6 addr add {v6}/64 dev eth0 nodad"
        site.in_client(f"ip link set eth0 down; {up}")
        end = time.time()
        return watch.await_right(site.through()) - end


@fault("client restarted")
def _(site: Site) -> float:
    with Watch(site.engine) as watch:
        site.client.restart()
        return watch.await_right(site.through()) - site.moment(site.client, "StartedAt")


@fault("client killed and started")
def _(site: Site) -> float:
    site.engine.docker("kill", site.client.name)
    with Watch(site.engine) as watch:
        site.client.start()
        return watch.await_right(site.through()) - site.moment(site.client, "StartedAt")


@fault("network connected late")
def _(site: Site) -> float:
    site.engine.docker("network", "disconnect", site.network, site.client.name)
    with site.watch() as watch:
        site.engine.docker("network", "connect", site.network, site.client.name)
        right = watch.await_right(site.through())
        return right - watch.first(lambda routes: SUBNET in routes and SUBNET6 in routes)


@fault("gateway restarted")
def _(site: Site) -> float:
    with site.watch() as watch:
        site.gateway.restart()
        end = site.moment(site.gateway, "StartedAt")
        time.sleep(1)  # the events of both the end and the start are through by then
        # With the same address again nothing need have changed, if it was quick.
        return max(0.0, watch.await_right(site.through()) - end)


@fault("gateway stopped, until unreachable")
def _(site: Site) -> float:
    with site.watch() as watch:
        site.gateway.stop()
        right = watch.await_right(SHUT)
        end = site.moment(site.gateway, "FinishedAt")
        site.gateway.start()
        watch.await_right(site.through())
        return right - end


@fault("gateway off the network, until unreachable")
def _(site: Site) -> float:
    with site.watch() as watch:
        begin = time.time()
        site.engine.docker("network", "disconnect", site.network, site.gateway.name)
        right = watch.await_right(SHUT)
        site.number += 1
        v4, v6 = site.through().values()
        address = ("--ip", v4, "--ip6", v6)
        site.engine.docker("network", "connect", *address, site.network, site.gateway.name)
        watch.await_right(site.through())
        return right - begin


@fault("gateway created anew, other address")
def _(site: Site) -> float:
    site.gateway.remove()
    with site.watch() as watch:
        site.make_gateway()
        right = watch.await_right(site.through())
        return right - site.moment(site.gateway, "StartedAt")


@fault("engine restarted (live restore), client started at once")
def _(site: Site) -> float:
    site.client.stop()
    with Watch(site.engine) as watch:
        site.engine.restart()
        site.client.start()
        return watch.await_right(site.through()) - site.moment(site.client, "StartedAt")


@fault("engine killed and started, gateway restarted meanwhile")
def _(site: Site) -> float:
    pid = site.gateway.inspect("{{.State.Pid}}")
    with site.watch() as watch:
        site.engine.kill()
        site.engine.enter("kill", "-9", pid)
        site.engine.start()
        end = time.time()
        right = watch.await_right(SHUT)
        site.gateway.start()
        watch.await_right(site.through())
        return right - end


@fault(f"engine frozen for {HANG:.0f} s, route deleted meanwhile (resync 1 s)", resync=1)
def _(site: Site) -> float:
    pid = site.client.inspect("{{.State.Pid}}")
    with site.watch() as watch:
        site.engine.pause()
        time.sleep(HANG / 2)
        site.engine.enter("nsenter", "--target", pid, "--net", "ip", "route", "del", DST)
        deleted = time.time()
        time.sleep(HANG / 2)
        site.engine.resume()
        end = time.time()
        right = watch.await_right(site.through())
        return (right if right > deleted else end) - end


@fault("sidecar killed and started, route deleted meanwhile")
def _(site: Site) -> float:
    with site.watch() as watch:
        site.engine.docker("kill", site.sidecar.name)
        before = site.commands()
        site.in_client(f"ip route del {DST}")
        site.sidecar.start()
        end = site.moment(site.sidecar, "StartedAt")
        right = watch.await_right(site.through())
    assert site.commands() == before + 1, "it wrote what was right already"
    return right - end


@fault("sidecar killed and started, until its first pass")
def _(site: Site) -> float:
    site.engine.docker("kill", site.sidecar.name)
    before, lines = site.commands(), site.sidecar.logs().count("pass.finished")
    site.sidecar.start()
    assert poll(lambda: site.sidecar.logs().count("pass.finished") > lines, SECONDS)
    last = json.loads(site.sidecar.logs().splitlines()[-1])
    assert site.commands() == before, "it wrote although all was right"
    ended = datetime.fromisoformat(last["timestamp"]).timestamp()
    return ended - site.moment(site.sidecar, "StartedAt")


# --- the table ----------------------------------------------------------------------------------


def measure(engine: Engine, times: int, name: str, tell: Callable[[str], None]) -> None:
    """Do each fault that many times and print its times as soon as they are there."""
    tell(f"Docker {engine.version}, {times} times each, milliseconds from the end of the fault")
    tell(f"{'fault':<62} {'n':>3} {'median':>8} {'worst':>8}")
    for title, resync, function in FAULT:
        if name in title:
            with Lab(engine) as lab:
                site = Site(lab, resync, engine)
                took = [function(site) * 1000 for _ in range(times)]
            tell(f"{title:<62} {times:>3} {statistics.median(took):>8.0f} {max(took):>8.0f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure on an engine of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.faults", description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--suite", choices=("trixie", "sid"), help="the engine of that Debian")
    parser.add_argument("--source", type=Path, default=images.ROOT, help="tree of the product")
    chosen = parser.parse_args(arguments)
    root = rootfs(chosen.suite) if chosen.suite else None
    with Engine(live_restore=True, rootfs=root) as engine:
        images.client(engine)
        images.wireguard(engine)
        images.product(engine, source=chosen.source)
        measure(engine, chosen.times, chosen.only, partial(print, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
