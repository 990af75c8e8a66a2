"""Conversations with shells, and how these start anew; with the `sh` that this machine has."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from lib.errors import ShellError
from lib.kernel import libc
from lib.kernel.shells import ENDED, TIMED_OUT, Shells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from lib.kernel.shells import Conversation, Outcome

pytestmark = pytest.mark.timeout(30)

LIMIT = 0.3
HANG = "sleep 1000"


@pytest.fixture
def one() -> Iterator[Shells]:
    with closing(Shells(LIMIT)) as shells:
        yield shells


@pytest.fixture
def two() -> Iterator[Shells]:
    with closing(Shells(2.0, width=2)) as shells:
        yield shells


class Notes(list[str]):
    """What conversations were sent, in the order in which they were."""

    def said(self, *batches: Sequence[str]) -> Conversation:
        """Ask for batches, one after the other."""
        for batch in batches:
            self.take((yield batch))
        self.append("end")

    def take(self, outcomes: Sequence[Outcome]) -> None:
        self.append(" ".join(outcome.output or str(outcome.exit_code) for outcome in outcomes))


class FirstError(Exception):
    pass


class SecondError(Exception):
    pass


class Interruption(BaseException):
    pass


def failing(notes: Notes, command: str, error: BaseException) -> Conversation:
    notes.take((yield [command]))
    raise error


def all_ended(shells: Shells, chains: Sequence[Sequence[str]]) -> list[Sequence[Outcome]]:
    """Begin chains, and return how each one's commands ended that ran."""
    numbers = [shells.begin(chain) for chain in chains]
    ended: dict[int, Sequence[Outcome]] = {}
    while len(ended) < len(numbers):
        assert shells.rest >= 0
        ended |= shells.ended(shells.rest)
    return [ended[number] for number in numbers]


def pids(shells: Shells, width: int) -> list[str]:
    return [outcome.output for outcome in shells.run(["echo $$"] * width)]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- what a conversation is sent ----------------------------------------------------------------


def test_a_batch_is_answered_as_a_whole_in_order_and_may_be_followed_by_another(
    one: Shells,
) -> None:
    notes = Notes()

    one.serve([notes.said(["echo 1", "false", "echo 2"], ["echo 3"])])

    assert notes == ["1 1 2", "3", "end"]


def test_an_empty_batch_is_answered_at_once(one: Shells) -> None:
    notes = Notes()

    one.serve([notes.said([], ["echo 1"], []), notes.said([])])

    assert notes == ["", "1", "", "end", "", "end"]


def test_no_conversations_are_served_at_once(two: Shells) -> None:
    two.serve([])
    two.serve([Notes().said()])


def test_a_command_that_hangs_costs_a_conversation_one_outcome(one: Shells) -> None:
    seen: list[int] = []

    def conversation() -> Conversation:
        outcomes = yield ["echo 1", HANG, "echo 2"]
        seen.extend(outcome.exit_code for outcome in outcomes)

    one.serve([conversation(), conversation()])

    assert seen == [0, TIMED_OUT, 0] * 2


def test_a_batch_longer_than_a_pipe_is_answered_too(two: Shells) -> None:
    notes = Notes()
    long = [f"echo {number}; : {'x' * 1000}" for number in range(500)]

    two.serve(notes.said(long) for _ in range(4))

    assert sorted(notes) == [" ".join(map(str, range(500)))] * 4 + ["end"] * 4


# --- who is served when -------------------------------------------------------------------------


def test_who_is_served_meanwhile_waits_for_those_that_are_open_only(two: Shells) -> None:
    """They come to their end first, and what was to begin after them begins later."""
    notes = Notes()

    def conversations() -> Iterator[Conversation]:
        yield notes.said(["sleep 0.2; echo old"], ["echo older"])
        two.serve([notes.said(["echo new"], ["echo newer"]) for _ in range(2)])
        yield notes.said(["echo last"])

    begun = time.monotonic()
    two.serve(conversations())

    first, news = notes[:3], notes[3:9]
    assert first == ["old", "older", "end"]
    assert sorted(news) == ["end"] * 2 + ["new"] * 2 + ["newer"] * 2
    assert notes[9:] == ["last", "end"]
    assert time.monotonic() < begun + 1.0


def test_who_speaks_may_have_others_served(two: Shells) -> None:
    notes = Notes()

    def conversation() -> Conversation:
        notes.take((yield ["echo 1"]))
        two.serve([notes.said(["echo 2"])])
        notes.take((yield ["echo 4"]))

    two.serve([conversation(), notes.said(["sleep 0.2; echo 3"])])

    assert notes[0] == "1"
    assert notes.index("3") < notes.index("2") < notes.index("4")


def test_an_error_of_who_is_open_is_raised_where_it_was_served(two: Shells) -> None:
    notes = Notes()

    def conversations() -> Iterator[Conversation]:
        yield failing(notes, "sleep 0.1; echo old", FirstError())
        two.serve([notes.said(["echo new"])])
        yield notes.said(["echo never"])

    with pytest.raises(FirstError):
        two.serve(conversations())

    assert notes == ["old", "new", "end"]


def test_all_commands_of_a_conversation_run_in_one_process(two: Shells) -> None:
    notes = Notes()

    two.serve(notes.said(["echo $$"] * 3, ["echo $$"] * 3) for _ in range(6))

    said = [set(note.split()) for note in notes if note != "end"]
    assert all(len(pid) == 1 for pid in said)
    assert set.union(*said) == set(pids(two, 2))


def test_a_conversation_is_asked_for_in_this_thread_when_a_process_is_free(two: Shells) -> None:
    notes = Notes()

    def conversations() -> Iterator[Conversation]:
        for name in "abcd":
            assert threading.current_thread() is threading.main_thread()
            notes.append(f"next {name}")
            yield notes.said([f"sleep {0.3 if name == 'a' else 0.05}; echo {name}"])

    two.serve(conversations())

    assert notes == [
        *("next a", "next b", "b", "end"),
        *("next c", "c", "end"),
        *("next d", "d", "end"),
        *("a", "end"),
    ]


def test_other_processes_go_on_while_a_conversation_is_busy(two: Shells, tmp_path: Path) -> None:
    """With all that they were sent: the last command of the other batch is what is waited for."""
    reached, last = tmp_path / "reached", ["true"] * 50

    def busy() -> Conversation:
        yield ["true"]
        deadline = time.monotonic() + 5
        while not reached.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert reached.exists()

    two.serve([busy(), Notes().said([*last, f"touch {reached}"])])


def test_two_conversations_take_the_time_of_one(two: Shells) -> None:
    begun = time.monotonic()

    two.serve([Notes().said(["sleep 0.4"]), Notes().said(["sleep 0.4"])])

    assert time.monotonic() - begun < 0.75


# --- what goes wrong ----------------------------------------------------------------------------


def test_an_error_starts_no_other_conversation_and_loses_no_outcome(two: Shells) -> None:
    notes = Notes()
    begun: list[str] = []

    def conversations() -> Iterator[Conversation]:
        begun.append("failing")
        yield failing(notes, "echo failing", FirstError())
        begun.append("other")
        yield notes.said(["sleep 0.2; echo 1", "echo 2"], ["echo never"])
        begun.append("too late")
        yield notes.said(["echo never"])

    with pytest.raises(FirstError):
        two.serve(conversations())

    assert begun == ["failing", "other"]
    assert notes == ["failing", "1 2"]
    assert pids(two, 2) == pids(two, 2)


def test_what_comes_after_an_error_is_closed(two: Shells) -> None:
    steps: list[str] = []

    def conversation() -> Conversation:
        try:
            yield ["sleep 0.1"]
            steps.append("answered")
            yield ["echo never"]
            steps.append("never")
        finally:
            steps.append("closed")

    with pytest.raises(FirstError):
        two.serve([failing(Notes(), "true", FirstError()), conversation()])

    assert steps == ["answered", "closed"]


def test_an_error_where_conversations_come_from_is_one_of_theirs(two: Shells) -> None:
    notes = Notes()

    def conversations() -> Iterator[Conversation]:
        yield notes.said(["sleep 0.1; echo 1"])
        raise FirstError

    with pytest.raises(FirstError):
        two.serve(conversations())

    assert notes == ["1", "end"]


def test_the_first_error_names_the_others(two: Shells) -> None:
    slow = failing(Notes(), "sleep 0.2", SecondError("too"))

    with pytest.raises(FirstError) as caught:
        two.serve([slow, failing(Notes(), "true", FirstError())])

    assert caught.value.__notes__ == ["Another conversation failed too: SecondError('too')"]


def test_a_conversation_that_fails_at_its_beginning_is_no_other_ones_error(two: Shells) -> None:
    def conversation() -> Conversation:
        yield [list[str]().pop()]

    with pytest.raises(IndexError) as caught:
        two.serve([conversation(), Notes().said(["true"])])

    assert not hasattr(caught.value, "__notes__")


def interrupt_in_conversation(shells: Shells) -> None:
    shells.serve([Notes().said(["echo old", "sleep 0.2; echo old"]), interrupting()])


def interrupting() -> Conversation:
    yield ["true"]
    raise Interruption


def interrupt_by_signal(shells: Shells) -> None:
    command = f"echo old; kill -USR1 {os.getpid()}; sleep 0.2; echo old"
    shells.serve([Notes().said([command]), Notes().said(["echo old; sleep 0.3; echo old"])])


def interrupt_where_they_come_from(shells: Shells) -> None:
    def conversations() -> Iterator[Conversation]:
        yield Notes().said(["echo old", "sleep 0.1; echo old"])
        raise Interruption

    shells.serve(conversations())


@pytest.mark.parametrize(
    "interrupted",
    [interrupt_in_conversation, interrupt_by_signal, interrupt_where_they_come_from],
)
def test_after_an_interruption_shells_serve_and_run_as_ever(
    two: Shells, interrupted: Callable[[Shells], None]
) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        if frame and "coverage" in frame.f_code.co_filename:  # It may hold a lock there.
            signal.raise_signal(number)
            return
        raise Interruption

    before, notes = signal.signal(signal.SIGUSR1, interrupt), Notes()
    try:
        for _ in range(2):
            with pytest.raises(Interruption):
                interrupted(two)
            two.serve([notes.said(["echo new"], ["echo newer"])])
            assert [outcome.output for outcome in two.run(["echo 1", "echo 2"])] == ["1", "2"]
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert notes == ["new", "newer", "end"] * 2


# --- shells that start later --------------------------------------------------------------------


@pytest.fixture
def forks() -> list[int]:
    """Count what our own process forks from now on."""
    counted: list[int] = []
    os.register_at_fork(before=lambda: counted.append(1))
    return counted


def parent(pid: str) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_shell_in_place_of_another_is_not_forked_by_us(one: Shells, forks: list[int]) -> None:
    (first,) = pids(one, 1)

    assert [outcome.exit_code for outcome in one.run([HANG, "exit 3"])] == [TIMED_OUT, ENDED]
    (second,) = pids(one, 1)

    assert first != second
    assert parent(second) == os.getpid()  # Nobody else waits for it, so its id stays its own.
    assert forks == []


def test_a_shell_that_ends_while_it_is_idle_costs_nothing(one: Shells) -> None:
    (first,) = pids(one, 1)
    os.kill(int(first), signal.SIGKILL)
    while Path(f"/proc/{first}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)

    assert [outcome.exit_code for outcome in one.run(["true", "false"])] == [0, 1]


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def test_when_the_starter_was_killed_shells_start_all_the_same(forks: list[int]) -> None:
    before = children()
    with closing(Shells(LIMIT)) as shells:
        (starter,) = children() - before - set(map(int, pids(shells, 1)))
        at_start, held = len(forks), descriptors()
        os.kill(starter, signal.SIGKILL)

        codes = [outcome.exit_code for outcome in shells.run([HANG, "true", HANG, "true"])]

        assert codes == [TIMED_OUT, 0, TIMED_OUT, 0]
        assert len(forks) == at_start + 1
        assert descriptors() == held
    assert children() == before


def test_what_runs_where_no_shell_can_be_started_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until one can be; the program that makes a session is missing for a while."""
    setsid = tmp_path / "setsid"
    setsid.write_text(f'#!/bin/sh\nexec {shutil.which("setsid")} "$@"\n')
    setsid.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with closing(Shells(LIMIT)) as shells:
        held = descriptors()
        setsid.write_text("#!/bin/sh\necho no session; exit 1\n")

        hung, second, third = shells.run([HANG, "echo 2", "echo 3"])

        assert hung.exit_code == TIMED_OUT
        assert second.exit_code == third.exit_code == ENDED
        assert second.output == "no shell can be started: no session"
        assert descriptors() == held - 2
        setsid.unlink()
        assert [outcome.output for outcome in shells.run(["echo 4"])] == ["4"]


def test_what_follows_a_failure_in_a_chain_does_not_run(two: Shells, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    chains = [
        ["echo 1", "echo 2; exit 0 | false", f"touch {touched}", "echo 4"],
        ["echo 5", "echo 6"],
        [],
        [f"test -e {touched}"],
        ["false"],
    ]

    ended = [[(one.exit_code, one.output) for one in chain] for chain in all_ended(two, chains)]

    assert ended == [[(0, "1"), (1, "2")], [(0, "5"), (0, "6")], [], [(1, "")], [(1, "")]]
    assert [one.output for one in two.run(["echo 7", "echo 8"])] == ["7", "8"]


def test_what_takes_long_keeps_nothing_waiting_as_long_as_another_process_is_free(
    two: Shells,
) -> None:
    slow = two.begin([HANG])
    for word in ("1", "2", "3"):
        number = two.begin([f"echo {word}"])
        ended: dict[int, Sequence[Outcome]] = {}
        while not ended:
            ended |= two.ended(two.rest)
        assert {one: ends[0].output for one, ends in ended.items()} == {number: word}

    ended = {}
    while not ended:
        ended |= two.ended(two.rest)
    assert {one: ends[0].exit_code for one, ends in ended.items()} == {slow: TIMED_OUT}


def test_nothing_follows_what_was_killed(one: Shells) -> None:
    chains = [[HANG, "echo 2"], ["echo 3", "echo 4"]]

    ended = [[(end.exit_code, end.command) for end in chain] for chain in all_ended(one, chains)]

    assert ended == [[(TIMED_OUT, HANG)], [(0, "echo 3"), (0, "echo 4")]]


def test_shells_that_cannot_be_started_at_all_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = descriptors()
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ShellError, match="no shell can be started"):
        Shells()

    assert descriptors() == held


def test_a_kernel_that_lets_us_adopt_nobody_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> NoReturn:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(libc, "adopt_orphans", refuse)

    with pytest.raises(ShellError, match="Operation not permitted"):
        Shells()
