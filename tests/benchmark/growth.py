"""How cost grows with the number of clients, up to more than containers would fit.

The namespaces are made here, the engine is a stand-in (`standin.py`) behind a real socket, and the
sidecar runs as a process with BusyBox's programs, all in a mount, network and process namespace of
its own, which takes everything with it when it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from tests.benchmark.standin import (
    GATEWAY,
    GATEWAY_ADDRESS,
    NETWORK,
    PREFIX,
    WANTED,
    client_address,
)
from tests.benchmark.stats import Figure, percentile
from tests.lab.engine import poll, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

PART = "growth"
SECONDS = 120.0
LINEAR = 1.2
"""What one more client may cost among the most, against what it costs among fewer."""

LEAK_MIB = 1.0

# Keeps the namespaces that everything here lives in: mounts, network, processes.
HOLDER = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")

MAKE = """
touch "$1" && unshare --net="$1" sh -c "
    ip link add eth0 type veth peer name eth1 && ip link set eth1 up && ip link set eth0 up &&
    ip address add $2/{prefix} dev eth0"
"""

LOOK = """
for file in "$1"/client*; do
    nsenter --net="$file" ip route show
done | grep -c " via {gateway} "
"""


class Field:
    """Namespaces and a stand-in engine for so many clients.

    Args:
        source: the tree whose sidecar runs.
        clients: how many.
    """

    def __init__(self, source: Path, clients: int) -> None:
        self._source = source
        self.clients = clients

    def __enter__(self) -> Self:
        """Make all of it."""
        with ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="wgroutemgr-bench-"))
            stack.callback(shutil.rmtree, self._folder)
            (self._folder / "netns").mkdir()
            self._link_programs()
            self._pid = self._hold(stack)
            self._make_namespaces()
            self._server = self._spawn(
                sys.executable,
                str(Path(__file__).with_name("standin.py")),
                str(self._folder / "docker.sock"),
                str(self._folder / "netns"),
                str(self.clients),
            )
            stack.callback(self._server.communicate)
            assert self._answer() == "ready"
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _link_programs(self) -> None:
        busybox = shutil.which("busybox")
        assert busybox, "needs busybox"
        (self._folder / "bin").mkdir()
        for name in ("ip", "nsenter", "sh"):
            (self._folder / "bin" / name).symlink_to(busybox)

    def _hold(self, stack: ExitStack) -> str:
        """Start the process that the namespaces live by; returns its id."""
        holder = subprocess.Popen(
            [*HOLDER, "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        stack.callback(holder.communicate)
        stack.callback(holder.kill)
        assert holder.stdout
        holder.stdout.readline()
        return _child(holder.pid)

    def ask(self, line: str) -> str:
        """Have the stand-in do something."""
        assert self._server.stdin
        self._server.stdin.write(f"{line}\n".encode())
        self._server.stdin.flush()
        return self._answer()

    def sidecar(self, *options: str) -> Sidecar:
        """Start the program."""
        program = str(self._source / "wgroutemgr.py")
        command = ("run", "--network", NETWORK, "--gateway", GATEWAY, "--log-format", "json")
        return Sidecar(self._spawn(sys.executable, "-B", program, *command, *options))

    def complete(self) -> bool:
        """Whether every client has its routes."""
        look = LOOK.format(gateway=GATEWAY_ADDRESS)
        found = run(*self._entry(), "sh", "-c", look, "sh", str(self._folder / "netns"))
        return int(found) == self.clients * len(WANTED)

    def _make_namespaces(self) -> None:
        script = MAKE.format(prefix=PREFIX)
        folder = self._folder / "netns"
        # A file that is bound to a namespace must lie on a mount that does not propagate.
        run(*self._entry(), "mount", "--bind", str(folder), str(folder))
        run(*self._entry(), "mount", "--make-private", str(folder))
        places = {f"{folder}/client{one}": client_address(one) for one in range(self.clients)}
        places[f"{folder}/gateway"] = GATEWAY_ADDRESS
        with ThreadPoolExecutor(4) as pool:
            made = pool.map(
                lambda place: run(*self._entry(), "sh", "-euc", script, "sh", *place),
                places.items(),
            )
            list(made)

    def _entry(self) -> tuple[str, ...]:
        return ("nsenter", "--target", self._pid, "--mount", "--net", "--pid", "--")

    def _spawn(self, *argv: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._entry(), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ
            | {
                "PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}",
                "DOCKER_HOST": f"unix://{self._folder / 'docker.sock'}",
            },
        )

    def _answer(self) -> str:
        assert self._server.stdout
        return self._server.stdout.readline().decode().strip()


class Sidecar:
    """The program, started just now, and the lines that it writes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._start = time.monotonic()
        self._process = process
        assert process.stdout
        self._output: IO[bytes] = process.stdout

    def passes(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield each pass as it ends, and how many seconds after the start that was."""
        for line in self._output:
            entry = json.loads(line)
            if entry["event"] == "pass.finished":
                yield time.monotonic() - self._start, entry

    def resident(self) -> float:
        """MiB of memory that it takes."""
        status = Path(f"/proc/{_child(self._process.pid)}/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if "VmRSS:" in line).split()[1]) / 1024

    def end(self) -> None:
        """Stop it."""
        os.kill(int(_child(self._process.pid)), signal.SIGTERM)
        self._process.communicate()


def growth(source: Path, tell: Callable[[str], None], *, quick: bool) -> list[Figure]:
    """Measure the start and passes with nothing to do for several numbers of clients."""
    sizes, times = ((10, 30), 2) if quick else ((100, 300, 1000), 5)
    starts: dict[int, list[float]] = {}
    passes: dict[int, list[float]] = {}
    for size in sizes:
        with Field(source, size) as field:
            tell(f"{size} namespaces made")
            starts[size], passes[size] = [], []
            # From here on all routes are missing only before the first start.
            for _ in range(times):
                _withdraw(field)
                start, idle = _one_start(field)
                starts[size].append(start)
                passes[size] += idle
    return [*_grown("start to all routes", starts), *_grown("pass with nothing to do", passes)]


def _grown(name: str, measured: dict[int, list[float]]) -> list[Figure]:
    """One figure for each number of clients; linear is what costs the same for each further one."""
    medians = {size: percentile(values, 50) for size, values in measured.items()}
    further: list[float] = []
    figures: list[Figure] = []
    for size, values in measured.items():
        ratios: dict[str, float] = {}
        target, met = "", None
        if figures:
            less = max(other for other in measured if other < size)
            further.append((medians[size] - medians[less]) / (size - less))
            ratios[f"{less} clients"] = medians[size] / medians[less]
        if len(further) > 1:
            growth = further[-1] / further[-2]
            target = f"each further client costs <= {LINEAR:g} x (is {growth:.2f} x)"
            met = growth <= LINEAR
        details: dict[str, object] = {"ms_for_each_further_client": further[-1:]}
        figures.append(
            Figure(
                PART,
                f"{name}, {size} clients",
                "ms",
                values,
                target,
                met,
                ratios=ratios,
                details=details,
            )
        )
    return figures


def _one_start(field: Field) -> tuple[float, list[float]]:
    """Milliseconds from the start of the program to all routes, and of the passes after it."""
    sidecar = field.sidecar("--resync-interval", "1", "--log-level", "debug")
    passes = sidecar.passes()
    seconds, first = next(passes)
    expected = field.clients * len(WANTED)
    changed = int(first["changed"])
    while changed < expected:
        seconds, entry = next(passes)
        changed += int(entry["changed"])
    idle: list[float] = []
    while len(idle) < 3:
        _, entry = next(passes)
        if entry["trigger"] == "resync" and not entry["changed"]:
            idle.append(float(entry["duration_ms"]))
    sidecar.end()
    assert field.complete(), "not all routes are there"
    return seconds * 1000, idle


def _withdraw(field: Field) -> None:
    """Take all routes from all clients."""
    script = 'for file in "$1"/client*; do nsenter --net="$file" ip route flush via "$2"; done'
    folder = str(field._folder / "netns")
    run(*field._entry(), "sh", "-c", script, "sh", folder, GATEWAY_ADDRESS)


def events(source: Path, tell: Callable[[str], None], *, quick: bool) -> list[Figure]:
    """Measure what the memory of the program grows by over many events.

    As many come before: what it takes once, for the largest batch of them, is no growth.
    """
    clients, count = (10, 200) if quick else (100, 10_000)
    figures = []
    with Field(source, clients) as field:
        sidecar = field.sidecar("--resync-interval", "3600", "--log-level", "warning")
        assert poll(lambda: _settled(field), SECONDS)
        for command, what in (
            ("events", f"{count} events"),
            ("created", f"{count} containers that were created and removed"),
        ):
            _have_told(field, command, count)
            before, start = sidecar.resident(), time.monotonic()
            _have_told(field, command, count)
            after = sidecar.resident()
            tell(f"{what} in {time.monotonic() - start:.0f} s")
            figures.append(
                Figure(
                    "memory and idle, stand-in engine",
                    f"growth over {what}, {clients} clients",
                    "MiB",
                    [after - before],
                    target=f"< {LEAK_MIB:g} MiB",
                    met=after - before < LEAK_MIB,
                    ratios={"resident before": after / before},
                    details={"before_mib": before, "after_mib": after},
                )
            )
        sidecar.end()
    return figures


def _have_told(field: Field, command: str, count: int) -> None:
    """Have the engine tell, and wait until that is over for the sidecar too."""
    field.ask(f"{command} {count}")
    field.ask("events 2")  # After what causes no question, this does.
    assert poll(lambda: _settled(field), SECONDS)


def _settled(field: Field) -> bool:
    """Whether it asked for something, and stopped asking."""
    before = field.ask("asked")
    time.sleep(0.5)
    return int(before) > 0 and field.ask("asked") == before


def _child(pid: int) -> str:
    """Entering a process namespace, `unshare` and `nsenter` start a child; returns its id."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()[0]
