"""Runs command lines in long-lived shells; the only importer of `sh`.

A shell that lives on costs a command a sixth of what a start of its own would, nothing is forked
later from a process with threads, and what the log prints is what ran, to the letter. It knows
nothing of routes.
"""

from __future__ import annotations

import ctypes
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
    from collections.abc import Iterator, Sequence

LIMIT = 5.0
"""Seconds that one command may take before it is killed."""

TIMED_OUT = 124
"""Exit code of a command that was killed for taking too long, as `timeout(1)` has it."""

ENDED = 125
"""Exit code of a command whose shell ended under it."""

MAX_OUTPUT = 1 << 24
"""Bytes that one command may print."""

_AHEAD = 1 << 15
"""Bytes sent to a shell before it answers: half of what a pipe takes."""

_END = 1.0
"""Seconds that a killed process gets to end."""

_SET_CHILD_SUBREAPER = 36
"""For prctl(2), from Linux 3.4 on."""

_SHOWN = 1000
"""Characters kept of what a killed command printed."""


class Shell:
    """As many `sh` processes as are to work side by side. Not for use from several threads."""

    def __init__(self, limit: float = LIMIT, width: int = 1) -> None:
        """Start the processes; do so before other threads exist."""
        self._processes = [_Process(limit) for _ in range(width)]
        _adopt_orphans()
        _start(self._processes)

    def run(self, commands: Sequence[str]) -> Iterator[Outcome]:
        """Run command lines and yield how each ended, in their order, as it ends.

        Of those that run side by side none may need another to be over. One that takes longer than
        the limit or prints without end is killed with its shell, another is started, and the rest
        goes on.
        """
        width = len(self._processes)
        for place, process in enumerate(self._processes):
            process.take(commands[place::width])
        for place in range(len(commands)):
            process = self._processes[place % width]
            while not process.done:
                if process.is_speaking:
                    # Also when it is late: who reads the outcomes may have been away for long.
                    self._wait(max(0.0, process.rest))
                process.give_up()
            yield process.done.popleft()

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
    """One `sh` that reads commands from a pipe, and what it has to run."""

    def __init__(self, limit: float) -> None:
        """It is to be started yet."""
        self._limit = limit
        self._group = 0
        """The shell's process id, and that of its process group; 0 if there is none."""
        self._commands = self.answers = -1
        self._waiting: deque[str] = deque()
        self._sent: deque[str] = deque()
        """The first of these runs."""
        self._ahead = 0
        """Bytes of those."""
        self.done: deque[Outcome] = deque()

    @property
    def is_speaking(self) -> bool:
        """Whether an answer may come."""
        return not self._ended and len(self._buffer) <= MAX_OUTPUT

    @property
    def rest(self) -> float:
        """Seconds that the command that runs has left."""
        return self._since + self._limit - time.monotonic()

    def begin(self, group: int, commands: int, answers: int) -> None:
        """Take note of a new shell, and of where it takes commands and gives answers."""
        self._group, self._commands, self.answers = group, commands, answers
        self._marker = secrets.token_hex(8)
        self._end = re.compile(rb"%b (\d+)\n" % self._marker.encode())
        self._buffer, self._ended = b"", False

    def take(self, commands: Sequence[str]) -> None:
        """Start on commands."""
        if not self._group or self._waiting or self._sent or self.done:
            # Something interrupted us: what the shell answers would belong to other commands.
            self._renew()
            self._waiting.clear()
            self.done.clear()
        self._waiting.extend(commands)
        self._send()

    def take_in(self) -> None:
        """Read what there is, and note which commands have ended by now."""
        chunk, now = os.read(self.answers, 1 << 16), time.monotonic()
        self._ended = not chunk
        self._buffer += chunk
        while self._sent and (end := self._end.search(self._buffer)):
            output, self._buffer = self._buffer[: end.start()], self._buffer[end.end() :]
            self._note(int(end[1]), output, now)
        self._send()

    def give_up(self) -> None:
        """Kill a shell that will not answer, and have another run the rest."""
        if self.done:
            return
        if self._ended:
            exit_code, reason = ENDED, "the shell ended before the command did"
        elif len(self._buffer) > MAX_OUTPUT:
            exit_code, reason = TIMED_OUT, f"printed more than {MAX_OUTPUT} bytes, killed"
        elif self.rest <= 0:
            exit_code, reason = TIMED_OUT, f"no answer within {self._limit:g} s, killed"
        else:
            return
        self._note(exit_code, self._buffer[:_SHOWN], time.monotonic(), reason)
        self._waiting.extendleft(reversed(self._sent))
        self._renew()
        self._send()

    def close(self) -> None:
        """End the shell and whatever it still runs."""
        if self._group:
            os.close(self._commands)
            os.close(self.answers)
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGKILL)
            _reap(self._group)
            self._group = 0

    def _renew(self) -> None:
        self.close()
        self._sent.clear()
        self._ahead = 0
        _start([self])

    def _send(self) -> None:
        """Keep the shell busy, but send no more than fits into a pipe: that would block."""
        if not self._sent:
            self._since = time.monotonic()
        lines = ""
        while self._waiting:
            line = self._line(self._waiting[0])
            if self._sent and self._ahead + len(line) > _AHEAD:
                break
            self._sent.append(self._waiting.popleft())
            self._ahead += len(line)
            lines += line
        if lines:
            with suppress(BrokenPipeError):  # The answers end then too, which is noticed.
                os.write(self._commands, lines.encode())

    def _line(self, command: str) -> str:
        return f"{command}\necho {self._marker} $?\n"

    def _note(self, exit_code: int, output: bytes, now: float, remark: str = "") -> None:
        """Take note of how the command ended that ran."""
        text = f"{output.decode(errors='replace')}\n{remark}".strip()
        seconds, self._since = now - self._since, now
        command = self._sent.popleft()
        self._ahead -= len(self._line(command))
        self.done.append(Outcome(command, exit_code, text, seconds * 1000))


def _start(processes: Sequence[_Process]) -> None:
    """Start a shell for each, all with one call of `sh`: each takes milliseconds.

    Each is the first process of a session, to be killed with all that it runs. Who starts them ends
    at once, so they are orphans, which we adopt.
    """
    # `sh` hands down no file descriptors, and a shell knows those above 9 by no number.
    ours = f"/proc/{os.getpid()}/fd"
    lines, pipes = [], []
    for _ in processes:
        stdin, commands = os.pipe()
        answers, stdout = os.pipe()
        pipes.append((stdin, commands, answers, stdout))
        lines.append(f"setsid sh <{ours}/{stdin} >{ours}/{stdout} 2>&1 & echo $!")
    groups = sh.Command("sh")(
        "-c",
        "\n".join(lines),
        _tty_out=False,
        _env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
    )
    for process, group, (stdin, commands, answers, stdout) in zip(
        processes, str(groups).split(), pipes, strict=True
    ):
        os.close(stdin)
        os.close(stdout)
        process.begin(int(group), commands, answers)


def _adopt_orphans() -> None:
    """Be who waits for the shells' ends, as the first process of a container is anyway.

    No process id of theirs is given again before that, so what is killed is theirs.
    """
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap(group: int) -> None:
    """Wait for the ends of a killed group's processes; who does not end is left behind."""
    deadline = time.monotonic() + _END
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-group, os.WNOHANG) == (0, 0):
                time.sleep(_END / 100)
