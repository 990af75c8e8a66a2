"""Runs the parts of the tests one after another, with one summary; `tests/run` starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import install
from tests.lab.engines import NOT_INSTALLED, counts
from tests.lab.errors import LabError
from tests.lab.images import ROOT
from tests.lab.python import VERSION
from tests.lab.rootfs import CONTAINED

NO_TEST = "no test"
RESULTS = {0: "ok", 5: NO_TEST, NOT_INSTALLED: "not installed"}
"""By exit code, of which 5 is pytest's; all others are failures."""

COMMANDS = {
    "lint": ["git"],
    "integration": ["unshare", "nsenter", "ip", "busybox", "iptables"],
    "e2e": ["unshare", "nsenter", "ip", "jq"],
}
"""What the machine must have for a part; the lab sees to the rest by itself."""

NEWER = "sid-2"
"""A newer engine than the machine's own."""

PARTS = ("lint", "unit", "integration", "python", "e2e", "soak", NEWER)
REPEATS = {"python", NEWER}
PYTHON = f"python {VERSION}"
AGAIN = ("tests/unit", "tests/integration")
PYTEST = (sys.executable, "-m", "pytest")
COVERAGE = (sys.executable, "-m", "coverage")
COVERED = ("lib/routing/*", "lib/reconcile/*", "lib/schedule.py", "lib/early/arrival.py")
"""What unit tests must cover, by so many per cent of lines and branches together:"""

PER_CENT = 95
REQUIRE = () if os.geteuid() else ("--require=root,docker,iptables",)
CACHE = Path(".cache")
INTERRUPTED = 130


def shell_scripts() -> list[str]:
    """Return the files of the tree whose first line names a shell."""
    words = ("ls-files", "--cached", "--others", "--exclude-standard")
    listed = subprocess.check_output(("git", "-c", f"safe.directory={ROOT}", *words), text=True)
    files = [name for name in listed.splitlines() if Path(name).is_file()]
    return [f for f in files if re.match(rb"#!.*[/ ](ba|da)?sh", Path(f).read_bytes())]


def checks(scripts: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the commands of the part `lint` by their names, for those shell scripts."""
    schema = ("check-jsonschema", "--quiet", "--builtin-schema")
    workflows = tuple(map(str, sorted(Path(".github/workflows").glob("*.yml"))))
    templates = Path(".github/ISSUE_TEMPLATE")
    config = str(templates / "config.yml")
    forms = sorted({*map(str, templates.glob("*.yml"))} - {config})
    return {
        "ruff": ("ruff", "check", "--quiet", "."),
        "format": ("ruff", "format", "--check", "--quiet", "--diff", "."),
        "mypy": ("mypy", "--no-error-summary"),
        "imports": ("lint-imports", "--no-logo", "--cache-dir", f"{CACHE}/imports"),
        "shellcheck": ("shellcheck", "-x", *scripts),
        "codespell": ("codespell",),
        "workflows": (*schema, "vendor.github-workflows", *workflows),
        "timeouts": (*schema, "custom.github-workflows-require-timeout", *workflows),
        "issue-forms": (*schema, "vendor.github-issue-forms", *forms),
        "issue-config": (*schema, "vendor.github-issue-config", config),
        "renovate": (*schema, "vendor.renovate", ".github/renovate.json"),
        "zizmor": ("zizmor", "--offline", "--quiet", "--pedantic", "."),
    }


@dataclass
class Runner:
    """What the caller gave to pytest, what runs, and what came of each part so far."""

    words: list[str]
    rows: list[tuple[str, str, tuple[int, int, int], float]] = field(default_factory=list)
    job: subprocess.Popen[bytes] | None = None
    is_interrupted: bool = False

    def interrupt(self, *_: object) -> None:
        """Have what runs tidy up, or kill it when told once more."""
        if self.job:
            with suppress(ProcessLookupError):
                os.killpg(self.job.pid, signal.SIGKILL if self.is_interrupted else signal.SIGINT)
        if self.is_interrupted:
            sys.exit(INTERRUPTED)
        self.is_interrupted = True
        print("tests/run: interrupted, cleaning up (once more: kill)", file=sys.stderr, flush=True)

    def run(self, command: tuple[str, ...]) -> int:
        """Run a command as a process group of its own, which an interrupt reaches as a whole."""
        self.job = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        if self.is_interrupted:  # while it started
            os.killpg(self.job.pid, signal.SIGINT)
        code = self.job.wait()
        self.job = None
        return code

    def part(self, name: str, *command: str, report: Path | None = None) -> None:
        """Run a part and note what came of it: one test, or those of its report."""
        if self.is_interrupted:
            return
        print(f"\n== {name}", flush=True)
        begun = time.monotonic()
        if report:
            report.unlink(missing_ok=True)
        code = self.run(command)
        result = RESULTS.get(code, "FAILED")
        passed, failed, skipped = counts(report) if report else (int(not code), 0, 0)
        numbers = {"ok": (passed, failed, skipped), "FAILED": (passed, failed or 1, skipped)}
        row = (name, result, numbers.get(result, (0, 0, 0)), time.monotonic() - begun)
        self.rows.append(row)

    def suite(self, name: str, *words: str, program: tuple[str, ...] = PYTEST) -> None:
        """Run pytest on a folder, unless the caller names files of it."""
        folders = AGAIN if name == PYTHON else (f"tests/{name}",)
        named = any(word.startswith(tuple(f"{each}/" for each in folders)) for word in self.words)
        report = CACHE / f"{name.replace(' ', '-')}.xml"
        common = ("-q", "--continue-on-collection-errors", f"--junitxml={report}", *REQUIRE)
        where = () if named else folders
        self.part(name, *program, *where, *common, *words, *self.words, report=report)

    def lint(self, names: list[str]) -> None:
        """Run the checks of those names, or all."""
        commands = checks(shell_scripts())
        for name in names or commands:
            self.part(name, *commands[name])

    def start(self, part: str) -> None:
        """Run a part, or all of them; what only repeats others is left out of a selection."""
        wanted = {part} if part != "all" else {*PARTS} - (REPEATS if self.words else set())
        if "lint" in wanted:
            self.lint(self.words if part == "lint" else [])
        if "unit" in wanted:
            self.suite("unit", program=(*COVERAGE, "run", "-m", "pytest"))
            if not self.words:
                self.part("coverage", *COVERAGE, "report")
                for path in COVERED:
                    total = ("--format=total", f"--fail-under={PER_CENT}", f"--include={path}")
                    self.part(path, *COVERAGE, "report", *total)
        if "integration" in wanted:
            self.suite("integration", program=PYTEST if os.geteuid() else (*CONTAINED, *PYTEST))
        if "python" in wanted:
            self.suite(PYTHON, program=(sys.executable, "-m", "tests.lab.python"))
        if "e2e" in wanted:
            self.suite("e2e")
        if "soak" in wanted:
            short = ("--seconds=90", "--seed=7", "--reboots=4")
            self.suite("soak", *(short if part == "all" else ()))
        if NEWER in wanted:
            engines = (sys.executable, "-m", "tests.lab.engines", "--short", NEWER)
            self.part(f"e2e on {NEWER}", *engines, report=CACHE / f"engine-{NEWER}.xml")

    def summary(self, seconds: float) -> int:
        """Print it, return the exit code."""
        passed, failed, skipped = (sum(row[2][i] for row in self.rows) for i in range(3))
        form = "{:<20} {:<13} {:>7} {:>7} {:>8} {:>9}"
        print(f"\n{form.format('part', 'result', 'passed', 'failed', 'skipped', 'seconds')}")
        total = ("total", "", (passed, failed, skipped), seconds)
        for name, result, numbers, took in (*self.rows, total):
            print(form.format(name, result, *numbers, f"{took:.1f}"))
        print(f"\n{passed} passed, {failed} failed, {skipped} skipped", flush=True)
        if self.is_interrupted:
            return INTERRUPTED
        # Nothing selected by the caller's own -k or path is no failure, an empty suite is one.
        empty = any(result == NO_TEST for _, result, *_ in self.rows)
        return int(bool(failed) or (empty and not (self.words and passed)))


def main() -> int:
    """Run what is asked for."""
    begun = time.monotonic()
    part, *words = sys.argv[1:]
    os.chdir(ROOT)
    runner = Runner(words)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, runner.interrupt)
    needed = [name for key, names in COMMANDS.items() if part in {"all", key} for name in names]
    try:
        if installed := install.ensure(needed):
            print(f"installed {' '.join(installed)}", flush=True)
    except LabError as error:
        print(f"tests/run: could not be prepared: {error}", file=sys.stderr)
        return 1
    if part == "lint" and (unknown := {*words} - {*checks([])}):
        print(f"tests/run: {', '.join(unknown)}: lint has {', '.join(checks([]))}", file=sys.stderr)
        return 2
    runner.start(part)
    return runner.summary(time.monotonic() - begun)


if __name__ == "__main__":
    sys.exit(main())
