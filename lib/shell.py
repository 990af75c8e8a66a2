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
import signal
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import sh

from lib.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LIMIT = 5.0
"""Seconds that one command may take before it is killed."""

TIMED_OUT = 124
"""Exit code of a command that was killed for taking too long, as `timeout(1)` has it."""

ENDED = 125
"""Exit code of a command whose shell ended under it."""

MAX_OUTPUT = 1 << 24
"""Bytes that one command may print."""

_BATCH, _PIPE, _OVERHEAD = 32, 1 << 15, 64
"""What is sent at once: commands, characters in all, characters added to each command."""

_END = 1.0
"""Seconds that a killed process gets to end."""

_SHOWN = 1000
"""Characters kept of what a killed command printed."""


class _BrokenError(Exception):
    """The shell is of no use any more; the outcome is that of the command that it ran."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.output)
        self.outcome = outcome


class Shell:
    """As many `sh` processes as are to work side by side. Not for use from several threads."""

    def __init__(self, limit: float = LIMIT, width: int = 1) -> None:
        """Start the processes; do so before other threads exist."""
        self._processes = [_Process(limit) for _ in range(width)]

    def run(self, commands: Sequence[str]) -> Iterator[Outcome]:
        """Run command lines and yield how each ended, in their order, as it ends.

        Of those that run side by side none may need another to be over. One that takes longer than
        the limit or prints without end is killed with its shell, another is started, and the rest
        goes on.
        """
        width = len(self._processes)
        outcomes = [
            process.run(commands[place::width], self._wait)
            for place, process in enumerate(self._processes)
        ]
        for place in range(len(commands)):
            yield next(outcomes[place % width])

    def close(self) -> None:
        """End the processes and whatever they still run."""
        for process in self._processes:
            process.close()

    def _wait(self, seconds: float) -> None:
        """Wait for what any of them prints, and take it in when it comes."""
        speaking = {one.answers: one for one in self._processes if one.is_speaking}
        poll = select.poll()  # select() cannot take a descriptor over 1023.
        for descriptor in speaking:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(seconds * 1000):
            speaking[descriptor].take_in()


class _Process:
    """One `sh` that reads commands from a pipe."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._group = 0
        self.answers = self._commands = -1
        self._buffer = b""
        self._since = 0.0
        """When (monotonic seconds) the command began that runs."""
        self._done: deque[tuple[int, bytes, float]] = deque()
        """Exit code, output and seconds of commands that ended."""
        self._start()

    @property
    def is_speaking(self) -> bool:
        """Whether an answer may come."""
        return self._group != 0 and not self._ended and len(self._buffer) <= MAX_OUTPUT

    def run(self, commands: Sequence[str], wait: Callable[[float], None]) -> Iterator[Outcome]:
        """Start on the commands at once; what is returned yields how each ended.

        `wait` waits at most that many seconds for any process, and has it take its answers in.
        """
        self._wait = wait
        batches = list(_batches(commands))
        if batches:
            self._begin(batches[0])
        return self._outcomes(batches)

    def take_in(self) -> None:
        """Read what there is, and note which commands have ended by now."""
        chunk, now = os.read(self.answers, 1 << 16), time.monotonic()
        self._ended = not chunk
        self._buffer += chunk
        while end := self._ends.search(self._buffer):
            output, self._buffer = self._buffer[: end.start()], self._buffer[end.end() :]
            self._done.append((int(end[1]), output, now - self._since))
            self._since = now

    def close(self) -> None:
        self._usable = False
        if self._group:
            os.close(self._commands)
            os.close(self.answers)
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGKILL)
            self._reap()
            self._group = 0

    def _start(self) -> None:
        self._usable = True
        self._marker = secrets.token_hex(8)
        self._ends = re.compile(rb"%b (\d+)\n" % self._marker.encode())
        self._buffer, self._ended = b"", False
        self._done.clear()
        commands, self._commands = os.pipe()
        self.answers, answers = os.pipe()
        with open(commands, "rb") as stdin, open(answers, "wb") as stdout:  # noqa: PTH123 - no paths
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
        self._group = self._process.pid

    def _reap(self) -> None:
        """Take leave of the shell and, as the first process of a container, of its orphans."""
        with suppress(sh.ErrorReturnCode, sh.TimeoutException):
            self._process.wait(timeout=_END)
        deadline = time.monotonic() + _END
        with suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(-self._group, os.WNOHANG) == (0, 0):
                    time.sleep(_END / 100)

    def _outcomes(self, batches: Sequence[Sequence[str]]) -> Iterator[Outcome]:
        for number, batch in enumerate(batches):
            if number:
                self._begin(batch)
            yield from self._finish(batch)

    def _begin(self, commands: Sequence[str]) -> None:
        if not self._usable:
            self.close()  # Something interrupted us in mid-command.
            self._start()
        # Whatever interrupts us from here on leaves answers that belong to no later command.
        self._usable = False
        self._since = time.monotonic()
        self._send(commands)

    def _finish(self, commands: Sequence[str]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while True:
            try:
                outcomes.extend(self._receive(command) for command in commands[len(outcomes) :])
            except _BrokenError as broken:
                outcomes.append(broken.outcome)
                self.close()
            else:
                self._usable = True
            if len(outcomes) == len(commands):
                return outcomes
            self._begin(commands[len(outcomes) :])

    def _send(self, commands: Sequence[str]) -> None:
        lines = "".join(f"{command}\necho {self._marker} $?\n" for command in commands)
        with suppress(BrokenPipeError):  # The answers end then too, which is noticed.
            os.write(self._commands, lines.encode())

    def _receive(self, command: str) -> Outcome:
        def outcome(exit_code: int, output: bytes, seconds: float, remark: str = "") -> Outcome:
            text = f"{output.decode(errors='replace')}\n{remark}".strip()
            return Outcome(command, exit_code, text, seconds * 1000)

        while not self._done:
            took = time.monotonic() - self._since
            if self.is_speaking:
                # Also when it is late: who reads the outcomes may have been away for long.
                self._wait(max(0.0, self._limit - took))
            if self._ended:
                exit_code, reason = ENDED, "the shell ended before the command did"
            elif len(self._buffer) > MAX_OUTPUT:
                exit_code, reason = TIMED_OUT, f"printed more than {MAX_OUTPUT} bytes, killed"
            elif took >= self._limit:
                exit_code, reason = TIMED_OUT, f"no answer within {self._limit:g} s, killed"
            else:
                continue
            if not self._done:
                raise _BrokenError(outcome(exit_code, self._buffer[:_SHOWN], took, reason))
        return outcome(*self._done.popleft())


def _batches(commands: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split commands into what fits into a pipe, so that sending never blocks for an answer."""
    start, size = 0, 0
    for position, command in enumerate(commands):
        size += len(command) + _OVERHEAD
        if position > start and (size > _PIPE or position - start >= _BATCH):
            yield commands[start:position]
            start, size = position, len(command) + _OVERHEAD
    if start < len(commands):
        yield commands[start:]
