"""What a test sees: the kernel's routes and the product's log, with deadlines instead of sleeps."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tests import logschema
from tests.lab.engine import poll

if TYPE_CHECKING:
    from tests.lab.site import Container

SECONDS = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")

Entry = dict[str, Any]


def routes(container: Container) -> dict[str, str]:
    """Return the routes that somebody added: destination to gateway, or to the route's type.

    What the engine and the kernel made, the default and the connected ones, is left out. A route
    with a metric of its own shows it: `198.51.100.0/24 metric 50`.
    """
    found: dict[str, str] = {}
    for family, usual in (("-4", 0), ("-6", 1024)):
        for route in json.loads(container.enter("ip", family, "-j", "route", "show") or "[]"):
            if route["dst"] == "default" or route.get("protocol") == "kernel":
                continue
            metric = route.get("metric", usual)
            key = route["dst"] if metric == usual else f"{route['dst']} metric {metric}"
            assert key not in found
            found[key] = route.get("gateway") or route.get("type") or "connected"
    return found


def await_routes(container: Container, wanted: dict[str, str], seconds: float = SECONDS) -> None:
    """Wait until the container has exactly these routes; fail with what it has instead."""
    poll(lambda: routes(container) == wanted, seconds)
    assert routes(container) == wanted


def entries(container: Container) -> list[Entry]:
    """Return a sidecar's log; every line must be as documented."""
    log = container.logs()
    logschema.check(log)
    return [json.loads(line) for line in log.splitlines()]


def events(container: Container, event: str, /, **values: object) -> list[Entry]:
    """Return the log's entries of that event with those values."""
    return [
        entry
        for entry in entries(container)
        if entry["event"] == event and values.items() <= entry.items()
    ]


def await_event(
    container: Container, event: str, seconds: float = SECONDS, /, **values: object
) -> Entry:
    """Wait for an entry of that event with those values and return the first."""
    poll(lambda: events(container, event, **values), seconds)
    found = events(container, event, **values)
    assert found, f"no {event} {values} in:\n{container.logs()}"
    return found[0]


def cpu_seconds(container: Container) -> float:
    """Return the CPU time that a container's processes took so far, with their ended children."""
    return sum(sum(map(int, fields[11:15])) for fields in _stats(container)) / _TICKS


def threads_and_files(container: Container) -> tuple[int, int]:
    """Return how many threads and open files a container's first process has."""
    pid = container.inspect("{{.State.Pid}}")
    look = f"ls /proc/{pid}/task | wc -l; ls /proc/{pid}/fd | wc -l"
    threads, files = container.engine.enter("sh", "-c", look).split()
    return int(threads), int(files)


def _stats(container: Container) -> list[list[str]]:
    """Return the fields of `/proc/PID/stat` after the name, of each process of a container."""
    pids = container.engine.docker("top", container.name, "-o", "pid").split()[1:]
    files = " ".join(f"/proc/{pid}/stat" for pid in pids)
    text = container.engine.enter("sh", "-c", f"cat {files} 2>&-; :")  # one may end meanwhile
    return [line.rpartition(")")[2].split() for line in text.splitlines()]
