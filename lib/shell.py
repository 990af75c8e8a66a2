"""Runs command lines in one long-lived shell; the only importer of `sh`.

A shell that lives on costs a command a sixth of what a start of its own would, nothing is forked
later from a process with threads, and what the log prints is what ran, to the letter. It knows
nothing of routes.
"""

from __future__ import annotations

import os
import re
import secrets
import select
import time
from typing import TYPE_CHECKING

import sh

from lib.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LIMIT = 5.0
"""Seconds that one command may take before it is killed."""

TIMED_OUT = 124
"""Exit code of a command that was killed for taking too long, as `timeout(1)` has it."""

ENDED = 125
"""Exit code of a command whose shell ended under it."""

_BATCH = 32
"""Commands sent at once: few enough to fit into a pipe, so that sending never blocks."""


class Shell:
    """One `sh` process that reads commands from a pipe. Not for use from several threads."""

    def __init__(self, limit: float = LIMIT) -> None:
        """Start the shell; do so before other threads exist."""
        self._limit = limit
        self._start()

    def run(self, commands: Sequence[str]) -> Iterator[Outcome]:
        """Run command lines one after the other and yield how each ended, as it ends.

        One that takes longer than the limit is killed, the shell is started anew and the rest goes
        on.
        """
        for start in range(0, len(commands), _BATCH):
            yield from self._run_batch(commands[start : start + _BATCH])

    def close(self) -> None:
        """End the shell and whatever it still runs."""
        self._alive = False
        os.close(self._commands)
        os.close(self._answers)
        try:
            self._process.kill_group()
        except OSError:
            return  # It had ended by itself.

    def _start(self) -> None:
        self._marker = secrets.token_hex(8)
        self._ends = re.compile(rf"{self._marker} (\d+)\n")
        self._buffer = ""
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        with open(commands, "rb") as stdin, open(answers, "wb") as stdout:  # noqa: PTH123 - these are descriptors
            self._process = sh.Command("sh")(
                _in=stdin,
                _out=stdout,
                _err_to_out=True,
                _bg=True,
                _bg_exc=False,
                _tty_out=False,
                _new_session=True,
                _env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            )
        self._alive = True

    def _run_batch(self, commands: Sequence[str]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while rest := commands[len(outcomes) :]:
            self._send(rest)
            for command in rest:
                outcomes.append(self._receive(command))
                if not self._alive:
                    self._restart()
                    break
        return outcomes

    def _restart(self) -> None:
        self.close()
        self._start()

    def _send(self, commands: Sequence[str]) -> None:
        lines = "".join(f"{command}\necho {self._marker} $?\n" for command in commands)
        try:
            os.write(self._commands, lines.encode())
        except BrokenPipeError:
            self._alive = False

    def _receive(self, command: str) -> Outcome:
        start = time.monotonic()

        def outcome(exit_code: int, output: str) -> Outcome:
            return Outcome(command, exit_code, output.strip(), (time.monotonic() - start) * 1000)

        while not (end := self._ends.search(self._buffer)):
            left = start + self._limit - time.monotonic()
            readable, _, _ = select.select([self._answers], [], [], max(0.0, left))
            chunk = os.read(self._answers, 1 << 16) if readable else b""
            if not chunk:
                self._alive = False
                if readable:
                    return outcome(ENDED, f"{self._buffer}\nthe shell ended before the command did")
                return outcome(
                    TIMED_OUT, f"{self._buffer}\nno answer within {self._limit:g} s, killed"
                )
            self._buffer += chunk.decode(errors="replace")
        output, self._buffer = self._buffer[: end.start()], self._buffer[end.end() :]
        return outcome(int(end[1]), output)
