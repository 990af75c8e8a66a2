"""The long-lived shell, with both shells that it may be: dash (or bash), and BusyBox's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from lib.kernel.shells import ENDED, TIMED_OUT, Shells
from tests.integration.kernel import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lib.kernel.shells import Outcome

pytestmark = [pytest.mark.usefixtures("dialect"), pytest.mark.timeout(30)]

ROOT = Path(__file__).parents[2]
LIMIT = 0.2
HANG = "sleep 1000"


@pytest.fixture
def shell(dialect: str) -> Iterator[Shells]:
    """Start a shell for one test alone."""
    assert dialect
    shell = Shells()
    yield shell
    shell.close()


@pytest.fixture
def hasty(dialect: str) -> Iterator[Shells]:
    """Start a shell that gives a command a fifth of a second."""
    assert dialect
    shell = Shells(LIMIT)
    yield shell
    shell.close()


@pytest.fixture
def pair(dialect: str) -> Iterator[Shells]:
    """Start a shell that runs two commands side by side and gives each half a second."""
    assert dialect
    shell = Shells(0.5, width=2)
    yield shell
    shell.close()


def brief(outcomes: list[Outcome]) -> list[tuple[int, str]]:
    return [(outcome.exit_code, outcome.output) for outcome in outcomes]


def state(pid: int) -> str:
    """Return the letter that stands for a process's state; nothing if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]


def runs(pid: int) -> bool:
    """Tell whether there is such a process that is not yet dead."""
    return state(pid) not in {"", "Z"}


def group_runs(pid: int) -> bool:
    """Tell whether anything of a shell's process group is left."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def read_pid(file: Path) -> int:
    """Wait until a command has written its process id to a file."""
    assert poll(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


def shell_pid(shell: Shells) -> int:
    return int(next(shell.run(["echo $$"])).output)


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Do something in another thread while the body waits for a command."""
    thread = threading.Thread(target=action)
    thread.start()
    try:
        yield
    finally:
        thread.join()


# --- what comes back ----------------------------------------------------------------------------


def test_outcomes_come_in_the_order_of_the_commands(shell: Shells) -> None:
    commands = [f"echo {number}" for number in range(100)]

    outcomes = list(shell.run(commands))

    assert [outcome.command for outcome in outcomes] == commands
    assert brief(outcomes) == [(0, str(number)) for number in range(100)]


def test_each_command_has_its_own_exit_code(shell: Shells) -> None:
    codes = [0, 1, 2, 124, 125, 127, 255, 0]

    outcomes = list(shell.run([f"(exit {code})" for code in codes]))

    assert brief(outcomes) == [(code, "") for code in codes]


def test_no_commands_are_no_outcomes(shell: Shells) -> None:
    assert list(shell.run([])) == []
    assert brief(list(shell.run(["echo on"]))) == [(0, "on")]


def test_duration_is_that_of_the_command(shell: Shells) -> None:
    quick, slow = shell.run(["true", "sleep 0.3"])

    assert 0 < quick.duration_ms < 200
    assert 250 <= slow.duration_ms < 1500


def test_duration_of_commands_side_by_side_is_that_of_each(pair: Shells) -> None:
    slow, quick, second, last = pair.run(["sleep 0.4", "sleep 0.1", "true", "sleep 0.2"])

    assert 350 <= slow.duration_ms < 1500
    assert 80 <= quick.duration_ms < 350
    assert 0 <= second.duration_ms < 150
    assert 180 <= last.duration_ms < 1300


@pytest.mark.parametrize(
    ("command", "code", "output"),
    [
        pytest.param("echo out; echo err >&2; false", 1, "out\nerr", id="both streams, in order"),
        pytest.param("printf 'no newline'; exit_with() { return 3; }; exit_with", 3, "no newline"),
        pytest.param("printf 'first\\n\\nlast\\n'", 0, "first\n\nlast", id="empty lines"),
        pytest.param(r"printf 'a\377\376b'", 0, "a\ufffd\ufffdb", id="not UTF-8"),
        pytest.param(r"printf '\342\202\254'", 0, "€", id="UTF-8"),
        pytest.param(r"printf 'a\0b'", 0, "a\0b", id="NUL"),
        pytest.param(":", 0, "", id="nothing"),
        pytest.param("kill -9 $(sh -c 'echo $PPID') || true", ENDED, None, id="kills its shell"),
        pytest.param("exit 3", ENDED, None, id="ends its shell"),
        pytest.param("fi", ENDED, None, id="no shell grammar"),
    ],
)
def test_one_strange_command_among_others_has_its_outcome_and_only_its_own(
    shell: Shells, command: str, code: int, output: str | None
) -> None:
    before, strange, after = shell.run(["echo before", command, "echo after"])

    assert (before.exit_code, before.output) == (0, "before")
    assert strange.exit_code == code
    if output is None:
        assert strange.output.endswith("the shell ended before the command did")
    else:
        assert strange.output == output
    assert (after.exit_code, after.output) == (0, "after")


def test_program_is_found_on_our_path(shell: Shells) -> None:
    program = Path(os.environ["PATH"].partition(":")[0], "only-here")
    program.write_text("#!/bin/sh\necho found $1\n")
    program.chmod(0o755)

    assert brief(list(shell.run(["only-here it"]))) == [(0, "found it")]


def test_missing_program_is_told_by_exit_code_and_text(shell: Shells) -> None:
    (outcome,) = shell.run(["no-such-program-here 1 2"])

    assert outcome.exit_code == 127
    assert "no-such-program-here" in outcome.output
    assert "not found" in outcome.output


def test_a_thousand_commands_with_big_outputs_do_not_lock_up(shell: Shells) -> None:
    big = "0" * 100_000

    # As long as a real one: not even all the commands together fit into a pipe.
    command = f"printf '%0100000d' 0; (exit 7) # {'x' * 100}"

    outcomes = shell.run([command] * 1000)

    assert sum(brief([outcome]) == [(7, big)] for outcome in outcomes) == 1000


@pytest.mark.timeout(6)
def test_commands_longer_than_a_pipe_with_big_outputs_do_not_lock_up(shell: Shells) -> None:
    long = "x" * 10_000

    outcomes = list(shell.run([f"printf '%0100000d' 0; : {long}"] * 32))

    assert brief(outcomes) == [(0, "0" * 100_000)] * 32


def test_characters_of_several_bytes_survive_in_a_big_output(shell: Shells) -> None:
    line = r"x\342\202\254\303\244\360\237\220\213"  # 1, 3, 2 and 4 bytes
    loop = f"n=0; while [ $n -lt 9000 ]; do n=$((n + 1)); printf '{line}%03d' $n; done"

    (outcome,) = shell.run([loop])

    assert outcome.output == "".join(f"x€ä🐋{n:03d}" for n in range(1, 9001))


def test_two_shells_do_not_disturb_each_other(shell: Shells) -> None:
    other = Shells()
    try:
        ours, theirs = shell.run(["echo 1", "echo 2"]), other.run(["echo 3", "echo 4"])
        outcomes = [next(ours), next(theirs), next(theirs), next(ours)]
    finally:
        other.close()

    assert brief(outcomes) == [(0, "1"), (0, "3"), (0, "4"), (0, "2")]


# --- time limit ---------------------------------------------------------------------------------


def test_command_that_hangs_is_killed_at_the_limit_and_the_rest_goes_on(
    hasty: Shells, tmp_path: Path
) -> None:
    child, first = tmp_path / "child", shell_pid(hasty)
    hang = f"printf partial; sh -c 'echo $$ >{child}; exec {HANG}'; echo never"

    before, hung, after = hasty.run(["echo before", hang, "echo after"])

    assert (before.exit_code, before.output) == (0, "before")
    assert (hung.command, hung.exit_code) == (hang, TIMED_OUT)
    assert hung.output == "partial\nno answer within 0.2 s, killed"
    assert LIMIT * 1000 <= hung.duration_ms < LIMIT * 1000 + 500
    assert (after.exit_code, after.output) == (0, "after")
    assert poll(lambda: not runs(read_pid(child)))
    assert poll(lambda: not group_runs(first))


def test_last_command_of_a_run_is_killed_at_the_limit_without_another_run(
    hasty: Shells, tmp_path: Path
) -> None:
    child, first = tmp_path / "child", shell_pid(hasty)

    (hung,) = hasty.run([f"sh -c 'echo $$ >{child}; exec {HANG}'"])

    assert hung.exit_code == TIMED_OUT
    assert poll(lambda: not runs(read_pid(child)), 1)
    assert poll(lambda: not group_runs(first), 1)


@pytest.mark.timeout(6)
@pytest.mark.parametrize("command", ["yes more", "while :; do echo more; sleep 0.01; done"])
def test_command_that_prints_for_ever_is_killed_at_the_limit_too(
    hasty: Shells, command: str
) -> None:
    hung, after = hasty.run([command, "echo after"])

    assert hung.exit_code == TIMED_OUT
    assert hung.output.startswith("more\nmore\n")
    assert LIMIT * 1000 <= hung.duration_ms < LIMIT * 1000 + 1000
    assert (after.exit_code, after.output) == (0, "after")


def test_limit_is_for_each_command_not_for_all_of_them(hasty: Shells) -> None:
    assert brief(list(hasty.run(["sleep 0.1; echo on"] * 4))) == [(0, "on")] * 4


def test_command_that_was_in_time_is_not_killed_because_its_outcome_is_read_late(
    pair: Shells,
) -> None:
    outcomes = pair.run(["echo 1", "sleep 0.1; echo 2"])
    assert next(outcomes).output == "1"
    time.sleep(0.7)

    assert brief(list(outcomes)) == [(0, "2")]


def test_two_that_hang_side_by_side_cost_one_limit(pair: Shells) -> None:
    start = time.monotonic()

    outcomes = list(pair.run([HANG, HANG, "echo 1", "echo 2"]))

    assert time.monotonic() - start < 0.9
    assert [outcome.exit_code for outcome in outcomes] == [TIMED_OUT, TIMED_OUT, 0, 0]


def test_every_command_hanging_costs_each_its_limit_and_no_more(hasty: Shells) -> None:
    outcomes = list(hasty.run([HANG, "echo 1", HANG, HANG, "echo 2", HANG]))

    codes = [outcome.exit_code for outcome in outcomes]
    assert codes == [TIMED_OUT, 0, TIMED_OUT, TIMED_OUT, 0, TIMED_OUT]
    assert all(outcome.duration_ms < LIMIT * 1000 + 500 for outcome in outcomes)


def test_command_that_reads_what_is_meant_for_the_shell_costs_no_other_its_outcome(
    hasty: Shells,
) -> None:
    _, after = hasty.run(["cat", "echo after"])

    assert (after.exit_code, after.output) == (0, "after")


# --- a shell or a caller that fails in the middle -----------------------------------------------


def test_shell_killed_in_mid_command_ends_that_command_and_the_rest_goes_on(
    hasty: Shells, tmp_path: Path
) -> None:
    child, first = tmp_path / "child", shell_pid(hasty)
    hang = f"sh -c 'echo $$ >{child}; exec {HANG}'"

    def kill_shell() -> None:
        read_pid(child)
        os.kill(first, signal.SIGKILL)

    with meanwhile(kill_shell):
        hung, after = hasty.run([hang, "echo after"])

    assert hung.exit_code in {ENDED, TIMED_OUT}
    assert (after.exit_code, after.output) == (0, "after")
    assert shell_pid(hasty) != first
    assert poll(lambda: not runs(read_pid(child)))


def test_shell_killed_between_commands_costs_one_command_at_most(shell: Shells) -> None:
    first = shell_pid(shell)
    os.kill(first, signal.SIGKILL)
    assert poll(lambda: not runs(first))

    outcomes = list(shell.run([f"echo {number}" for number in range(4)]))

    assert outcomes[0].exit_code in {0, ENDED}
    assert brief(outcomes[1:]) == [(0, "1"), (0, "2"), (0, "3")]


def test_consumer_that_stops_early_and_runs_again_gets_the_new_answers(shell: Shells) -> None:
    abandoned = shell.run([f"echo old {number}" for number in range(100)])
    assert next(abandoned).output == "old 0"

    outcomes = list(shell.run(["echo new 0", "echo new 1"]))
    abandoned.close()  # type: ignore[attr-defined]
    last = list(shell.run(["echo newest"]))

    assert brief(outcomes) == [(0, "new 0"), (0, "new 1")]
    assert brief(last) == [(0, "newest")]


def test_exception_in_mid_command_leaves_no_old_answer_for_the_next_run(shell: Shells) -> None:
    class InterruptedForTestError(Exception):
        pass

    def interrupt(*_: object) -> NoReturn:
        raise InterruptedForTestError

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(InterruptedForTestError):
            list(shell.run([f"echo old; kill -USR1 {os.getpid()}; sleep 0.1", "echo old"]))
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert brief(list(shell.run(["echo new 0", "echo new 1"]))) == [(0, "new 0"), (0, "new 1")]


# --- nothing is left ----------------------------------------------------------------------------

COUNT = """
import json, os, sys, threading
from lib.kernel.shells import Shells
from tests.integration.kernel import poll

def children():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = open(f"/proc/{name}/stat").read()
        except OSError:
            continue
        state, parent = text.rpartition(")")[2].split()[:2]
        if int(parent) == os.getpid():
            yield text.split()[1] + " zombie" * (state == "Z")

def count():
    return [len(os.listdir("/proc/self/fd")), threading.active_count(), sorted(children())]

limit, command, runs = json.loads(sys.argv[1])
shell = Shells(limit)
list(shell.run(["true"]))
poll(lambda: threading.active_count() == 1)  # a thread of `sh` ends a little after its command
before = count()
*codes, last = [outcome.exit_code for outcome in shell.run([command] * runs + ["true"])]
poll(lambda: count() == before, 3)
print(json.dumps([sorted(set(codes)), before, count()]))
shell.close()
"""


@pytest.mark.parametrize(
    ("limit", "command", "runs", "code"),
    [
        pytest.param(5.0, "sh -c 'exit 3'", 200, 3, id="200 commands"),
        pytest.param(0.03, f"{HANG}; :", 20, TIMED_OUT, id="20 time-outs"),
    ],
)
def test_nothing_is_left_after(limit: float, command: str, runs: int, code: int) -> None:
    """No process, neither a shell's nor one that lost its parent; no descriptor, no thread."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, json.dumps([limit, command, runs])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    codes, before, after = json.loads(done.stdout)
    assert codes == [code]
    assert after == before


def test_close_ends_the_shell_and_what_it_still_runs(tmp_path: Path) -> None:
    child = tmp_path / "child"
    shell = Shells()
    pid = shell_pid(shell)
    list(shell.run([f"sh -c 'echo $$ >{child}; exec {HANG}' &"]))
    assert runs(read_pid(child))

    shell.close()

    assert poll(lambda: not runs(pid) and not runs(read_pid(child)))


def test_close_after_the_shell_was_killed_ends_what_it_still_ran(tmp_path: Path) -> None:
    child = tmp_path / "child"
    shell = Shells()
    pid = shell_pid(shell)
    list(shell.run([f"sh -c 'echo $$ >{child}; exec {HANG}' &"]))
    left = read_pid(child)
    os.kill(pid, signal.SIGKILL)
    # Not reaped: else the id could be somebody else's by the time the group is killed.
    assert poll(lambda: state(pid) == "Z")

    shell.close()

    try:
        assert not state(pid)
        assert poll(lambda: not runs(left), 1)
    finally:
        if runs(left):
            os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize("command", ["true", "sleep 0.3"], ids=["idle", "in mid-command"])
def test_the_shell_ends_when_its_owner_is_killed(command: str) -> None:
    script = (
        "from lib.kernel.shells import Shells; shell = Shells();"
        "print(next(shell.run(['echo $$'])).output, flush=True);"
        f"list(shell.run([{command!r}])); input()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout
        pid = int(owner.stdout.readline())
        assert runs(pid)

        owner.kill()

    assert poll(lambda: not runs(pid))


def test_several_work_side_by_side_and_answer_in_order() -> None:
    shell = Shells(width=3)
    begun = time.monotonic()

    outcomes = list(shell.run([f"sleep 0.3; echo {number}" for number in range(6)]))

    took = time.monotonic() - begun
    assert [outcome.output for outcome in outcomes] == [str(number) for number in range(6)]
    assert len({outcome.output for outcome in shell.run(["echo $$"] * 3)}) == 3
    assert 0.6 <= took < 1.2
    shell.close()


def test_all_work_to_the_end_of_a_long_run(pair: Shells, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    meet = "touch {}; until [ -e {} ]; do sleep 0.01; done"
    last = [meet.format(one, other), meet.format(other, one)]

    outcomes = list(pair.run([*["true"] * 1000, *last]))

    assert [outcome.exit_code for outcome in outcomes] == [0] * 1002


def test_one_that_hangs_delays_only_what_its_shell_has_left(tmp_path: Path) -> None:
    shell = Shells(LIMIT, width=2)
    other = tmp_path / "other"

    outcomes = shell.run([HANG, f"touch {other}", "echo third", "echo fourth"])

    assert next(outcomes).exit_code == TIMED_OUT
    assert other.exists()
    assert [outcome.output for outcome in outcomes] == ["", "third", "fourth"]
    shell.close()
