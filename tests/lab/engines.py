"""The engines that the tests can run on; `./tests/engines` runs them on one after another.

Every engine is installed first, from the machine's own package mirror; one that cannot be is told
as such and counts neither as passed nor as failed. It must not know what the tests look at.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab import images, install
from tests.lab.engine import Engine, run
from tests.lab.errors import LabError
from tests.lab.podman import Podman
from tests.lab.rootfs import PACKAGES, podman, rootfs

ALL = "tests/e2e"
SHORT = tuple(f"{ALL}/test_{what}.py" for what in ("routes", "early", "lifecycle"))
IN_SWARM = ("test_swarm.py", *(LONG_IN_SWARM := ("test_swarm_faults.py", "test_swarm_stack.py")))
NO_ENGINE = ("bad_entry", "wrong_usage", "signal", "image", "terminal")
# Overlay networks have no IPv6, and where one was, a bridge network finds its addresses taken.
NO_OVERLAY = ("several_destinations", "wrong_routes", "first_instruction", "network_is_wg_net")
# Podman's clients have their routes soon after their start, not before their first instruction.
NO_PODMAN = ("first_instruction",)
NOT_INSTALLED = os.EX_UNAVAILABLE
MACHINE_CGROUP = 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1


@dataclass(frozen=True)
class Setup:
    """An engine and how it is set up.

    Attributes:
        suite: Debian release that it comes from; without one it is the machine's own package.
        cgroup: version of the hierarchy, 1 or 2.
        cgroupns: cgroup namespace of containers that ask for none.
        storage: `overlay2`, or `containerd` for the containerd image store.
        data_root: where its data is, see `Engine`.
        exec_root: where its run-time files are.
        swarm: networks are overlay networks of a swarm of this one engine, which have no IPv6.
        podman: it is Podman, not Docker, with that runtime; it has its own `storage`, `overlay`.
        live_restore: containers survive a stop of the daemon; a swarm refuses that.
        nodes: of two, the tests run in a swarm of as many such engines, which they start.
    """

    suite: str = ""
    cgroup: int = 2
    cgroupns: str = "private"
    storage: str = "overlay2"
    data_root: str = "docker"
    exec_root: str = "/var/run/docker"
    swarm: bool = False
    podman: str = ""
    live_restore: bool = True
    nodes: int = 1

    def root(self) -> Path | None:
        """Its root file system, made if need be; LabError if it cannot be had on this machine."""
        if self.cgroup == 1 and MACHINE_CGROUP == 2:
            raise LabError(seen="this machine has no cgroup v1", hint="boot it with one")
        if self.suite:
            return rootfs(self.suite, podman(self.podman) if self.podman else PACKAGES)
        install.ensure()
        return None

    def tests(self, *, short: bool) -> tuple[str, ...]:
        """What to run on it, as words for pytest; in short without what no engine changes."""
        if self.nodes > 1:
            return tuple(f"{ALL}/{name}" for name in IN_SWARM)
        if not (short or self.swarm or self.podman):
            return (ALL,)
        left_out = NO_ENGINE + NO_OVERLAY * self.swarm + NO_PODMAN * bool(self.podman)
        # The examples have a bridge network, and Docker's directory of namespaces.
        as_in_examples = self.suite and not (self.swarm or self.podman)
        compose = (f"{ALL}/test_compose.py",) if as_in_examples else ()
        return (*SHORT, *compose, "-k", " and ".join(f"not {name}" for name in left_out))

    @contextmanager
    def start(self) -> Iterator[Engine]:
        """Start it, and see that it is set up so."""
        with self.engine() as engine:
            driver = "overlayfs" if self.storage == "containerd" else self.storage
            wanted = f"{driver} {self.cgroup}"
            found = engine.docker("info", "--format", "{{.Driver}} {{.CgroupVersion}}")
            if found != wanted:
                raise LabError(seen=f"it has {found}", hint=f"it was to have {wanted}")
            if self.swarm:
                engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
                engine.network_options = ("--driver", "overlay", "--attachable")
            yield engine

    def node(self) -> Engine:
        """Return one for a swarm, which refuses live restore."""
        return replace(self, live_restore=False).engine()

    def engine(self) -> Engine:
        """Return one that is not started yet."""
        root = self.root()
        if self.podman and root:
            return Podman(root, self.podman)
        config: dict[str, object] = {"default-cgroupns-mode": self.cgroupns}
        if self.storage == "containerd":
            config["features"] = {"containerd-snapshotter": True}
        return Engine(
            live_restore=self.live_restore and not self.swarm,
            data_root=self.data_root,
            exec_root=self.exec_root,
            cgroup_v2=self.cgroup != MACHINE_CGROUP,
            rootfs=root,
            config=config,
        )


MACHINE = "machine"
SETUPS = {
    MACHINE: Setup(cgroup=MACHINE_CGROUP, cgroupns="host" if MACHINE_CGROUP == 1 else "private"),
    "machine-private": Setup(cgroup=1),
    "machine-2": Setup(),
    "trixie-1": Setup("trixie", cgroup=1, cgroupns="host"),
    "trixie-2": Setup("trixie"),
    "sid-1": Setup("sid", cgroup=1, cgroupns="host"),
    "sid-2": Setup("sid"),
    "sid-host": Setup("sid", cgroupns="host"),
    "sid-containerd": Setup("sid", storage="containerd"),
    "sid-roots": Setup("sid", data_root="elsewhere/data", exec_root="/run/elsewhere"),
    "sid-swarm": Setup("sid", swarm=True),
    "swarm-2": Setup("sid", nodes=2),
    # Bookworm's crun fails where the machine does not let it raise a limit (RLIM_MEMLOCK).
    "podman-4": Setup("bookworm", storage="overlay", podman="runc"),
    "podman": Setup("trixie", storage="overlay", podman="crun"),
    "podman-sid": Setup("sid", storage="overlay", podman="crun"),
}
"""By the name that `--engine` takes."""


@dataclass
class Row:
    """What came of one engine."""

    name: str
    setup: Setup
    version: str = "-"
    result: str = "not installed"
    counts: tuple[int, int, int] = (0, 0, 0)
    seconds: float = 0

    def __str__(self) -> str:
        """One line of the table."""
        setup = self.setup
        first = f"{self.name:<16} {self.version:<8} {setup.cgroup:>6}  {setup.storage:<10}"
        counts = " ".join(f"{count:>7}" for count in self.counts)
        return f"{first} {setup.cgroupns:<8} {self.result:<13} {counts} {self.seconds:>8.1f}"


HEAD = (
    f"{'engine':<16} {'version':<8} {'cgroup':>6}  {'storage':<10} {'cgroupns':<8} {'result':<13}"
    f" {'passed':>7} {'failed':>7} {'skipped':>7} {'seconds':>8}"
)


def main() -> int:
    """Run the tests on the engines asked for; returns 0, 1 or NOT_INSTALLED."""
    parser = argparse.ArgumentParser(prog="tests/engines", description="Run tests on many engines.")
    parser.add_argument("names", nargs="*", metavar="ENGINE", help=f"of {', '.join(SETUPS)}")
    parser.add_argument("--short", action="store_true", help="routes, early and lifecycle only")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - SETUPS.keys():
        parser.error(f"no engine called {', '.join(sorted(unknown))}: {', '.join(SETUPS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    rows: list[Row] = []
    try:
        for name in arguments.names or SETUPS:
            rows.append(Row(name, SETUPS[name]))
            _fill(rows[-1], rows[-1].setup.tests(short=arguments.short))
    except KeyboardInterrupt:
        rows[-1].result = "interrupted"
    print(f"\n{HEAD}", *rows, sep="\n", flush=True)
    results = {row.result for row in rows}
    if results <= {"ok"}:
        return 0
    return NOT_INSTALLED if results <= {"ok", "not installed"} else 1


def _fill(row: Row, tests: tuple[str, ...]) -> None:
    print(f"\n== {row.name}", flush=True)
    try:
        root = row.setup.root()
        program = Podman.program if row.setup.podman else Engine.program
        row.version = _version(program, root)
    except (LabError, OSError) as error:
        print(f"not installed: {error}", flush=True)
        return
    report = images.ROOT / f".cache/engine-{row.name}.xml"
    report.unlink(missing_ok=True)
    begun = time.monotonic()
    code = _pytest("--engine", row.name, f"--junitxml={report}", *tests)
    row.seconds = time.monotonic() - begun
    row.counts = counts(report)
    row.result = "ok" if code == 0 and row.counts[0] else "FAILED"


def _version(program: str, root: Path | None) -> str:
    # Podman does not even tell its version without a `/proc`.
    chroot = ("unshare", f"--mount-proc={root}/proc", "chroot", str(root)) if root else ()
    return run(*chroot, program, "--version").split()[2].partition("+")[0]


def _pytest(*words: str) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "--require=root,docker", *words]
    with subprocess.Popen(command, cwd=images.ROOT) as tests:
        try:
            return tests.wait()
        except KeyboardInterrupt:
            tests.wait()  # it has heard the same, removes its engine and ends
            raise
        except SystemExit:
            tests.send_signal(signal.SIGINT)
            tests.wait()
            raise


def counts(report: Path) -> tuple[int, int, int]:
    """Tests that passed, failed and were skipped; one failed if there is no report."""
    if not report.exists():
        return 0, 1, 0
    total = failed = skipped = 0
    for suite in ET.parse(report).getroot().iter("testsuite"):  # noqa: S314 - written by pytest
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return total - failed - skipped, failed, skipped


if __name__ == "__main__":
    sys.exit(main())
