"""What a soak sees of the sidecars: every line of their logs, and what their processes take."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tests.lab.soak_model import GATEWAYS, destination

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.lab.engine import Engine
    from tests.lab.soak_model import Box

LIMITS = {"fds": 8, "threads": 7, "rss_kib": 12_288}
"""What a sidecar's process may grow by, from its first samples on: six threads are there while
somebody is started, and one once the engine was asked beside a tunnel."""

GROWN_UP = 15.0
"""Seconds of a process's life after which it is measured."""

MAX_LINE = 8192


class SoakError(AssertionError):
    """What was found, with all that is needed to see it again."""


PROOFS = {"192.0.2.255/32", "2001:db8::ffff/128"}
"""What proves whose a namespace is while the gateway is lost; the next pass takes it back."""


def fail(*lines: str) -> NoReturn:
    """Say what was found."""
    raise SoakError("\n".join(lines))


@dataclass
class Growth:
    """What one sidecar process took over its life."""

    what: str
    born: float
    first: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    age: float = 0.0

    def add(self, now: dict[str, int]) -> None:
        """Add a sample; young processes still grow."""
        self.age = time.monotonic() - self.born
        if self.age < GROWN_UP:
            return
        self.first = self.first or now
        self.last = now
        self.peak = {key: max(value, self.peak.get(key, 0)) for key, value in now.items()}

    def excess(self) -> list[str]:
        """Return what grew by more than it may."""
        return [
            f"{self.what}: {key} grew from {self.first[key]} to {value} in {self.age:.0f} s"
            for key, value in self.last.items()
            if value > self.first[key] + LIMITS[key]
        ]


class Watch:
    """Reads on in the sidecars' logs and raises SoakError for a line that must not be."""

    def __init__(self) -> None:
        self.events: Counter[tuple[str, str]] = Counter()
        self.lines: dict[str, list[str]] = {net: [] for net in GATEWAYS}
        """What they wrote since this was last cleared."""
        self.fresh: set[str] = set()
        """Gateways whose sidecar has not finished a pass since it started."""
        self.growth: dict[tuple[str, int], Growth] = {}
        self.gateways: dict[str, set[str]] = {net: {"unreachable"} for net in GATEWAYS}
        """All that ever was a gateway."""
        self._asks: dict[str, set[str]] = {}
        self._hosts: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        self._offsets: dict[str, int] = {}

    def know(self, boxes: Iterable[Box]) -> None:
        """Remember who asks for what, and whose namespace is whose."""
        for box in boxes:
            self._asks[box.id[:12]] = {destination(ask) for ask in box.asks}
            self._hosts[box.id[:12]] = box.host_of
            if box.running and box.key:
                self._keys[box.key] = box.id

    def read(self, net: str, box: Box | None) -> None:
        """Read on in the log of a gateway's sidecar and check every line."""
        if box is None or not Path(box.log).exists():
            return
        with Path(box.log).open("rb") as file:
            file.seek(self._offsets.get(box.id, 0))
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offsets[box.id] = self._offsets.get(box.id, 0) + len(whole)
        fresh = [json.loads(record)["log"] for record in whole.splitlines()]
        self.lines[net] += [line.rstrip("\n") for line in fresh]
        for line in fresh:
            if problem := self._check_line(net, line):
                fail(f"sc-{net} wrote {problem}:", line)

    def _check_line(self, net: str, line: str) -> str:
        """Return what is wrong with a line of the log, or nothing."""
        try:
            entry = json.loads(line)
        except ValueError:
            return "a line that is no JSON"
        if list(entry)[:3] != ["timestamp", "level", "event"]:
            return "a line with other first keys"
        if len(line.encode()) >= MAX_LINE or not line.endswith("\n"):
            return "a line that is too long"
        self.events[entry["level"], entry["event"]] += 1
        if entry["event"] == "daemon.started":
            self.fresh.add(net)
        if entry["event"] == "pass.finished":
            self.fresh.discard(net)
        if entry["level"] not in {"debug", "info", "warning"}:
            return "a line above `warning`"
        return self._check_route(net, entry) if entry["event"].startswith("route.") else ""

    def _check_route(self, net: str, entry: dict[str, Any]) -> str:
        """Return what is wrong with a line that tells of a command."""
        short, netns, command = entry["container_id"], entry["netns"], entry["command"]
        owner = self._keys.get(netns)
        host = self._hosts.get(short)
        if owner and not owner.startswith(short) and owner != host:
            return f"of a namespace that is {owner[:12]}'s"
        if netns.endswith("/default"):
            return "of the host's namespace"
        known = re.escape(f"nsenter --net={netns} ip ")
        if entry["event"] == "route.failed":
            return "" if re.match(known, command) else "another command"
        if not re.fullmatch(rf"{known}(-6 )?route (replace|del) [a-z0-9.:/ ]+", command):
            return "another command"
        if entry["event"] == "route.replaced" and entry["dst"] not in PROOFS:
            if short in self._asks and entry["dst"] not in self._asks[short]:
                return "a destination that was not asked for"
            if entry["gateway"] not in self.gateways[net]:
                return "a gateway that never was one"
        return ""

    def measure(self, engine: Engine, box: Box) -> None:
        """See that a sidecar's process does not grow."""
        script = 'ls "/proc/$1/fd" | wc -l; grep -E "^(Threads|VmRSS)" "/proc/$1/status"'
        text = engine.enter("sh", "-c", script, "sh", str(box.pid))
        fds, rss, threads = (int(number) for number in re.findall(r"\d+", text))
        grown = self.growth.setdefault((box.id, box.pid), Growth(box.what, time.monotonic()))
        grown.add({"fds": fds, "rss_kib": rss, "threads": threads})
        if excess := grown.excess():
            fail(*excess)

    def growths(self) -> list[str]:
        """Return a line for each of the processes that lived longest."""
        oldest = sorted(self.growth.values(), key=lambda grown: -grown.age)
        return [
            f"{grown.what} over {grown.age:.0f} s: "
            + "; ".join(
                f"{k} {v} to {grown.last[k]}, at most {grown.peak[k]}"
                for k, v in grown.first.items()
            )
            for grown in oldest[:4]
            if grown.first
        ]


def zombies(engine: Engine, box: Box) -> list[str]:
    """Return the dead whom nobody mourned among a container's processes."""
    table = engine.enter("ps", "-e", "-o", "pid=,ppid=,stat=,comm=").splitlines()
    rows = [line.split(None, 3) for line in table]
    family = {str(box.pid)}
    for _ in range(3):
        family |= {pid for pid, parent, *_ in rows if parent in family}
    return [" ".join(row) for row in rows if row[0] in family and row[2].startswith("Z")]
