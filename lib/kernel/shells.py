"""Runs command lines in long-lived shells; the only importer of `sh`.

A shell that lives on costs a command a sixth of what a start of its own would, and what the log
prints is what ran, to the letter. It knows nothing of routes.

Our own process forks once, when it starts, before it has threads: for a shell that starts the
others, also those that take the place of one that was killed.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import sh

from lib.errors import ShellError
from lib.kernel import libc, scheduling

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIMIT_SECONDS = 5.0
"""What one command may take before it is killed."""

TIMED_OUT = 124
"""Exit code of a command that was killed for taking too long, as `timeout(1)` has it."""

ENDED = 125
"""Exit code of a command whose shell ended under it."""

_SKIPPED = 256
"""Said for a command that did not run since the one before it failed; no exit code."""

MAX_OUTPUT = 1 << 24
"""Bytes that one command may print."""

_AHEAD = 1 << 15
"""Bytes sent to a shell before it answers: half of what a pipe takes."""

_START_SECONDS = 5.0
"""What the start of a shell may take."""

_END_SECONDS = 1.0
"""What a killed process gets to end."""

_SHOWN = 1000
"""Characters kept of what a killed command printed."""


class Outcome(NamedTuple):
    """How one command line ended."""

    command: str
    exit_code: int
    output: str
    """Standard output and standard error as they came, interleaved."""
    duration_ms: float


Start = Callable[[Sequence["_Process"]], None]
"""Starts shells; raises ShellError if one cannot be started, and then none is."""

Conversation = Generator[Sequence[str], Sequence[Outcome], None]
"""Yields command lines, is sent how all of them ended, and may yield more then."""


class Shells:
    """As many `sh` processes as are to work side by side. Not for use from several threads."""

    def __init__(
        self,
        limit: float = LIMIT_SECONDS,
        width: int = 1,
        start: Start | None = None,
        *,
        first: bool = False,
    ) -> None:
        """Start the processes; do so before other threads exist.

        A command gets `limit` seconds. `start` starts them, by a fork of ours if it is left out.
        `first` has them run before what else the host does, if we may (`scheduling.go_first`).
        Raises ShellError if no shell can be started.
        """
        try:
            libc.adopt_orphans()
        except OSError as error:
            reason = f"cannot become the parent of what shells leave behind: {error.strerror}"
            raise ShellError(reason) from error
        self._starter = _Process(_START_SECONDS, _start_by_fork)
        self._processes = [_Process(limit, self._start, first=first) for _ in range(width)]
        self._last = 0
        self._begun: dict[_Process, deque[_Chain]] = {one: deque() for one in self._processes}
        self._services = Services(self._processes, _progress)
        (start or _start_by_fork)([self._starter, *self._processes])

    def others(self, width: int) -> Shells:
        """Start others, for another thread that cannot wait, by the starter of these.

        A fork of ours costs more. They go first.
        """
        return Shells(width=width, start=self._start, first=True)

    def run(self, commands: Sequence[str]) -> Iterator[Outcome]:
        """Run command lines and yield how each ended, in their order, as it ends.

        Of those that run side by side none may need another to be over. One that takes longer than
        the limit or prints without end is killed with its shell, another is started, and the rest
        goes on.
        """
        return _run(self._processes, commands)

    def begin(self, chain: Sequence[str]) -> int:
        """Run command lines beside others that were begun, and return a number for that.

        They run in their order, and each only if the one before it succeeded: that is up to the
        shell, so that nobody has to wait for us. Not beside `run` or `serve`.
        """
        process = min(self._processes, key=lambda one: one.left)
        process.take_chain(chain)
        self._last += 1
        self._begun[process].append(_Chain(self._last, len(chain)))
        return self._last

    def answering(self) -> list[int]:
        """Return the descriptors that can be read when a command that was begun has ended."""
        return [process.answers for process in self._processes if process.is_speaking]

    @property
    def rest(self) -> float:
        """Seconds until one of these has taken too long, if none ends."""
        return min(process.rest for process in self._processes)

    def ended(self, seconds: float = 0.0) -> Iterator[tuple[int, Sequence[Outcome]]]:
        """Wait that long for an end at most, and yield what has ended by its number, each once.

        Of its commands those are told that ran.
        """
        _progress(self._processes, seconds)
        for process, chains in self._begun.items():
            while chains and len(process.done) >= chains[0].length:
                number, length = chains.popleft()
                ended = [process.done.popleft() for _ in range(length)]
                yield number, [one for one in ended if one.exit_code != _SKIPPED]

    def serve(self, conversations: Iterable[Conversation]) -> None:
        """Hold conversations, as many at a time as there are processes, each with one of them.

        A conversation begins when a process is free; only then is it asked for. Its commands run in
        one process, in their order, while those of other conversations go on.

        What a conversation raises ends it. None begins after that, and those that are open end with
        the outcomes of what they asked for last. Then the first error is raised; the others are
        notes of it.

        Whoever is asked for one, or speaks in one, may have others held meanwhile: `Services`.
        """
        self._services.serve(conversations)

    def close(self) -> None:
        """End the processes and whatever they still run."""
        for process in (*self._processes, self._starter):
            process.close()

    def _start(self, processes: Sequence[_Process]) -> None:
        _start(processes, lambda line: next(_run([self._starter], [line])).output)


class Worker(Protocol):
    """What runs commands one after the other."""

    @property
    def is_busy(self) -> bool:
        """Whether there are commands that did not end yet."""
        ...

    def take(self, commands: Sequence[str], /) -> None:
        """Start on commands."""
        ...

    def collect(self) -> list[Outcome]:
        """Return how the commands ended that did, once."""
        ...


class Service:
    """The conversations of one call of `Shells.serve`."""

    def __init__(self, conversations: Iterable[Conversation]) -> None:
        self._coming = iter(conversations)
        self._open: dict[Worker, Conversation] = {}
        self._errors: list[Exception] = []
        self._is_paused = False

    def occupy(self, process: Worker) -> bool:
        """Give a process the next commands if it has none; tell whether it has any now."""
        while not process.is_busy:
            try:
                if conversation := self._open.pop(process, None):
                    batch = conversation.send(process.collect())
                elif not (conversation := self._next()):
                    return False
                else:
                    batch = next(conversation)
                if self._errors:
                    conversation.close()
                    continue
            except StopIteration:
                continue
            except Exception as error:  # noqa: BLE001 - it is raised in the end
                self._errors.append(error)
                continue
            self._open[process] = conversation
            process.take(batch)
        return True

    def _next(self) -> Conversation | None:
        return None if self._errors or self._is_paused else next(self._coming, None)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Begin no conversation meanwhile."""
        before, self._is_paused = self._is_paused, True
        try:
            yield
        finally:
            self._is_paused = before

    def finish(self) -> None:
        """Raise the first error, if there was any."""
        if self._errors:
            first, *others = self._errors
            for other in others:
                first.add_note(f"Another conversation failed too: {other!r}")
            raise first


W = TypeVar("W", bound=Worker)


class Services(Generic[W]):
    """Serves conversations by the same workers, also some while others are served.

    Those that are open then come to their end first, but for one that has them served itself: no
    command of theirs comes later.
    """

    def __init__(self, workers: Sequence[W], progress: Callable[[Sequence[W]], None]) -> None:
        """`progress` waits until one of those workers gets on, and takes note of that."""
        self._workers = workers
        self._progress = progress
        self._now: Service | None = None

    def serve(self, conversations: Iterable[Conversation]) -> None:
        """Hold conversations: `Shells.serve`."""
        before = self._now
        if before:
            with before.paused():
                self._hold(before)
        for worker in self._workers:
            worker.take([])
        self._now = service = Service(conversations)
        try:
            self._hold(service)
        finally:
            self._now = before
        service.finish()

    def _hold(self, service: Service) -> None:
        while [worker for worker in self._workers if service.occupy(worker)]:
            # Some of these may have come to an end since, while others were served.
            if busy := [worker for worker in self._workers if worker.is_busy]:
                self._progress(busy)


class _Task(NamedTuple):
    """A command line for a shell."""

    command: str
    follows: bool
    """Whether it is to run only if the one before it succeeded."""


class _Chain(NamedTuple):
    """Commands of one `begin`."""

    number: int
    length: int


class _Process:
    """One `sh` that reads commands from a pipe, and what it has to run."""

    def __init__(self, limit: float, start: Start, *, first: bool = False) -> None:
        """`start` starts shells, also the one that comes after this one's end."""
        self._limit, self._goes_first = limit, first
        self._start = start
        self._group = 0
        """The shell's process id, and that of its process group; 0 if there is none."""
        self._commands = self.answers = -1
        self._waiting: deque[_Task] = deque()
        self._sent: deque[_Task] = deque()
        """The first of these runs."""
        self._ahead = 0
        """Bytes of those."""
        self._buffer, self._ended = b"", True
        self._why_none = ""
        """Why there is no shell, if none could be started."""
        self.done: deque[Outcome] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether there are commands that did not end yet."""
        return self.left > 0

    @property
    def left(self) -> int:
        """How many commands did not end yet."""
        return len(self._waiting) + len(self._sent)

    @property
    def is_speaking(self) -> bool:
        """Whether an answer may come."""
        return self.is_busy and not self._ended and len(self._buffer) <= MAX_OUTPUT

    @property
    def rest(self) -> float:
        """Seconds until this process is given up, unless it answers."""
        if not self.is_busy:
            return self._limit
        return self._since + self._limit - time.monotonic() if self.is_speaking else 0.0

    def begin(self, group: int, commands: int, answers: int) -> None:
        """Take note of a new shell, and of where it takes commands and gives answers."""
        self._group, self._commands, self.answers = group, commands, answers
        self._marker = secrets.token_hex(8)
        self._end = re.compile(rb"%b (\d+)\n" % self._marker.encode())
        self._buffer, self._ended, self._why_none = b"", False, ""
        if self._goes_first:
            scheduling.go_first(group)

    def take(self, commands: Sequence[str]) -> None:
        """Start on commands."""
        if self.is_busy or self.done:
            # Something interrupted us: what the shell answers would belong to other commands.
            self._renew()
            self._waiting.clear()
            self.done.clear()
        self._add(_Task(command, follows=False) for command in commands)

    def take_chain(self, chain: Sequence[str]) -> None:
        """Run commands after all others, each only if the one before it succeeded."""
        self._add(_Task(command, follows=place > 0) for place, command in enumerate(chain))

    def take_in(self) -> None:
        """Read what there is, and note which commands have ended by now."""
        chunk, now = os.read(self.answers, 1 << 16), time.monotonic()
        self._ended = not chunk
        self._buffer += chunk
        while self._sent and (end := self._end.search(self._buffer)):
            output, self._buffer = self._buffer[: end.start()], self._buffer[end.end() :]
            self._note(int(end[1]), output, now)
        self._send()

    def collect(self) -> list[Outcome]:
        """Return how the commands ended that did, once."""
        outcomes = list(self.done)
        self.done.clear()
        return outcomes

    def give_up(self) -> None:
        """Kill a shell that will not answer, and have another run the rest."""
        if self.rest > 0:
            return
        exit_code, reason = TIMED_OUT, f"no answer within {self._limit:g} s, killed"
        if self._ended:
            exit_code, reason = ENDED, self._why_none or "the shell ended before the command did"
        elif len(self._buffer) > MAX_OUTPUT:
            reason = f"printed more than {MAX_OUTPUT} bytes, killed"
        self._note(exit_code, self._buffer[:_SHOWN], time.monotonic(), reason)
        self._waiting.extendleft(reversed(self._sent))
        self._renew()
        self._send()

    def close(self) -> None:
        """End the shell and whatever it still runs."""
        group, self._group = self._group, 0
        if group:
            os.close(self._commands)
            os.close(self.answers)
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            _reap(group)

    def _add(self, tasks: Iterable[_Task]) -> None:
        if not self.is_busy and not self._is_well():
            self._renew()  # It ended while it had nothing to do.
        self._waiting.extend(tasks)
        self._send()

    def _is_well(self) -> bool:
        """Tell whether there is a shell, and it says nothing as long as it has nothing to do."""
        if not self._group:
            return False
        poll = select.poll()
        poll.register(self.answers, select.POLLIN)
        return not poll.poll(0)

    def _renew(self) -> None:
        self.close()
        self._sent.clear()
        self._ahead = 0
        self._buffer, self._ended = b"", True
        try:
            self._start([self])
        except ShellError as error:  # Each command that it costs ends with that for a reason.
            self._why_none = error.reason

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
        if lines and self._group:
            with suppress(BrokenPipeError):  # The answers end then too, which is noticed.
                os.write(self._commands, lines.encode())

    def _line(self, task: _Task) -> str:
        line = f"{task.command}\ns=$?\n"
        if task.follows:
            line = f'if [ "$s" = 0 ]; then\n{line}else s={_SKIPPED}; fi\n'
        return f"{line}echo {self._marker} $s\n"

    def _note(self, exit_code: int, output: bytes, now: float, remark: str = "") -> None:
        """Take note of how the command ended that ran."""
        text = f"{output.decode(errors='replace')}\n{remark}".strip()
        seconds, self._since = now - self._since, now
        task = self._sent.popleft()
        self._ahead -= len(self._line(task))
        self.done.append(Outcome(task.command, exit_code, text, seconds * 1000))


def _run(processes: Sequence[_Process], commands: Sequence[str]) -> Iterator[Outcome]:
    """Run commands in processes by turns, and yield how each ended in their order."""
    width = len(processes)
    for place, process in enumerate(processes):
        process.take(commands[place::width])
    for place, _ in enumerate(commands):
        process = processes[place % width]
        while not process.done:
            _progress(processes)
        yield process.done.popleft()


def _progress(processes: Sequence[_Process], seconds: float = math.inf) -> None:
    """Wait until one of them answers or is to be given up, or that long; take note of that."""
    speaking = {one.answers: one for one in processes if one.is_speaking}
    poll = select.poll()  # select() cannot take a descriptor over 1023.
    for descriptor in speaking:
        poll.register(descriptor, select.POLLIN)
    # Also when one is late, an answer may be there: who reads them may have been away for long.
    rest = min(seconds, *(one.rest for one in processes))
    for descriptor, _ in poll.poll(max(0.0, rest * 1000)):
        speaking[descriptor].take_in()
    for process in processes:
        process.give_up()


def _start(processes: Sequence[_Process], ask: Callable[[str], str]) -> None:
    """Start a shell for each by one line that `ask` has a shell run, whose output it returns.

    Each shell is the first process of a session, to be killed with all that it runs. What stands
    between it and who runs the line ends at once, so it is an orphan, which we adopt. Raises
    ShellError if one of them cannot be started.
    """
    with ExitStack() as ours:
        with ExitStack() as theirs:
            try:
                pipes = [(_pipe(theirs, ours), _pipe(ours, theirs)) for _ in processes]
            except OSError as error:
                raise _no_shell(error.strerror) from error
            # `sh` hands down no file descriptors, and a shell knows those above 9 by no number.
            files = f"/proc/{os.getpid()}/fd"
            lines = [
                f"exec 3<{files}/{stdin} 4>{files}/{stdout}; setsid sh <&3 >&4 2>&1 3<&- 4>&- & "
                for (stdin, _), (_, stdout) in pipes
            ]
            # `$()` ends when every shell has its files.
            if said := ask(f"echo $(exec 2>&1; {' '.join(lines)})").strip():
                raise _no_shell(said)
        ends = [(commands, answers) for (_, commands), (answers, _) in pipes]
        groups = [_process_id(*two) for two in ends]
        ours.pop_all()
    for process, group, two in zip(processes, groups, ends, strict=True):
        process.begin(group, *two)


def _process_id(commands: int, answers: int) -> int:
    """Return the process id of a shell that has just been started, by its own word."""
    with suppress(BrokenPipeError):  # The answers end then too, which is noticed.
        os.write(commands, b"echo $$\n")
    said = b""
    poll, deadline = select.poll(), time.monotonic() + _START_SECONDS
    poll.register(answers, select.POLLIN)
    while not re.fullmatch(rb"\d+\n", said):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            why = f"no answer within {_START_SECONDS:g} s"
            raise _no_shell(why)
        if not (chunk := os.read(answers, 1 << 16)):
            raise _no_shell(said.decode(errors="replace").strip())
        said += chunk
    return int(said)


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """Make a pipe whose ends are closed with whom they belong to."""
    ends = os.pipe()
    for stack, end in zip((reader, writer), ends, strict=True):
        stack.callback(os.close, end)
    return ends


def _no_shell(why: object) -> ShellError:
    return ShellError(f"no shell can be started: {why}")


def _start_by_fork(processes: Sequence[_Process]) -> None:
    """Start shells as children of ours.

    For the first one, before there are threads, and for one in its place should somebody kill it:
    a fork from a process with threads, with the small risk of that, is better than no shell.
    """
    _start(processes, _ask_new_shell)


def _ask_new_shell(line: str) -> str:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        return str(sh.Command("sh")("-c", line, _tty_out=False, _env=environment))
    except (OSError, sh.CommandNotFound, sh.ErrorReturnCode, sh.ForkException) as error:
        raise _no_shell(error) from error


def _reap(group: int) -> None:
    """Wait for the ends of a killed group's processes; who does not end is left behind."""
    deadline = time.monotonic() + _END_SECONDS
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-group, os.WNOHANG) == (0, 0):
                time.sleep(_END_SECONDS / 100)
