"""The program as a process, as far as that takes no engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lib.errors import EngineError
from lib.logs import last_resort
from tests import logschema

PROGRAM = Path(__file__).parents[2] / "wgroutemgr.py"
HOOKS = Path(__file__).parent / "hooks"
NOWHERE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


@pytest.mark.parametrize("command", ["plan", "status", "withdraw"])
def test_without_an_engine_reason_and_hint_are_told_and_no_traceback(command: str) -> None:
    answer = subprocess.run(
        [sys.executable, PROGRAM, command],
        env=os.environ | NOWHERE,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (answer.returncode, answer.stdout) == (1, "")
    told, hint = answer.stderr.splitlines()
    assert told.startswith("wgroutemgr: the engine did not answer as it should: ")
    assert hint.startswith("hint: mount the engine's socket")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_quietly(tmp_path: Path, number: signal.Signals) -> None:
    """Send it while an engine, ours, is silent."""
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "sock"))
        engine.listen()
        process = subprocess.Popen(
            [sys.executable, PROGRAM, "plan"],
            env=os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/sock"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        connection, _ = engine.accept()
        process.send_signal(number)
        said = process.communicate(timeout=5)
        connection.close()

    assert (process.returncode, *said) == (128 + number, b"", b"")


@pytest.mark.parametrize("buffered", [False, True])
def test_nobody_reads(*, buffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    answer = subprocess.run(
        [sys.executable, PROGRAM, "health"],
        env=os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)

    assert (answer.returncode, answer.stderr) == (1, b"")


# --- signals and errors, at any moment ----------------------------------------------------------


def at(
    moment: str, deed: object, *words: str, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run the program, to which the hooks do something at that import or call."""
    modules = [str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    hooks = {"AT": moment, "DO": str(deed), "PYTHONPATH": os.pathsep.join(modules)}
    return subprocess.run(
        [sys.executable, PROGRAM, *words],
        env=os.environ | NOWHERE | hooks,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=20,
    )


IMPORTS = ["lib.cli", "argparse", "lib.settings", "structlog", "lib.daemon", "docker", "sh"]
CALLS = ["parse_args", "configure", "os.fork", "__enter__", "tell"]
NUMBERS = ["0", "1", "10", "100", "1000", "3000", "6000", "9000"]


@pytest.mark.parametrize("moment", [*IMPORTS, *CALLS, *NUMBERS])
def test_a_signal_ends_the_daemon_well_whenever_it_comes(moment: str) -> None:
    answer = at(moment, int(signal.SIGTERM))

    assert (answer.returncode, answer.stderr) == (0, "")
    logschema.check(answer.stdout)
    last = json.loads(answer.stdout.splitlines()[-1])
    assert (last["event"], last["reason"]) == ("daemon.stopped", "SIGTERM")


@pytest.mark.parametrize("moment", ["argparse", "docker", "parse_args"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_as_a_shell_has_it_whenever_it_comes(
    moment: str, number: signal.Signals
) -> None:
    answer = at(moment, int(number), "--network", "run", "plan")

    assert (answer.returncode, answer.stdout, answer.stderr) == (128 + number, "", "")


@pytest.mark.parametrize("moment", ["0", "1"])
def test_an_interrupt_that_python_takes_before_us_is_one_too(moment: str) -> None:
    answer = at(moment, int(signal.SIGINT))

    assert (answer.returncode, answer.stderr) == (0, "")
    assert json.loads(answer.stdout)["reason"] == "SIGINT"


def test_a_signal_that_is_swallowed_is_raised_again() -> None:
    """In a finalizer, whose errors Python drops."""
    answer = at("argparse", "drop", "run")

    assert (answer.returncode, answer.stderr) == (0, "")
    assert json.loads(answer.stdout.splitlines()[-1])["event"] == "daemon.stopped"


@pytest.mark.parametrize(
    "moment",
    [
        "lib.cli.commandline",
        "argparse",
        "structlog",
        "sh",
        "parse_args",
        "missing",
        "os.fork",
        "tell",
    ],
)
def test_an_error_of_the_start_is_one_line_of_the_log(moment: str) -> None:
    answer = at(moment, "fail")

    assert (answer.returncode, answer.stderr) == (1, "")
    logschema.check(answer.stdout)
    last = json.loads(answer.stdout.splitlines()[-1])
    assert (last["level"], last["event"]) == ("error", "daemon.failed")
    assert last["reason"].startswith(f"RuntimeError: {moment} (")
    assert "RuntimeError" in last["exception"]


@pytest.mark.parametrize(
    ("command", "moment"),
    [
        ("plan", "argparse"),
        ("status", "structlog"),
        ("withdraw", "parse_args"),
        ("doctor", "import_module"),
        ("health", "verdict"),
    ],
)
def test_an_error_of_another_command_is_told_without_a_traceback(command: str, moment: str) -> None:
    answer = at(moment, "fail", command)

    assert (answer.returncode, answer.stdout) == (1, "")
    told, hint = answer.stderr.splitlines()
    assert told.startswith(f"wgroutemgr: RuntimeError: {moment} (")
    assert hint.startswith("hint: please report this")


def test_a_log_that_nobody_reads_ends_the_daemon_with_a_line_elsewhere() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    answer = at("", "", "run", stdout=writing)
    os.close(writing)

    assert answer.returncode == 1
    logschema.check(answer.stderr)
    assert json.loads(answer.stderr)["reason"].startswith("BrokenPipeError: ")


def test_a_daemon_without_a_shell_says_so(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, PROGRAM],
        env=os.environ | NOWHERE | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )

    assert (answer.returncode, answer.stderr) == (1, "")
    logschema.check(answer.stdout)
    assert json.loads(answer.stdout.splitlines()[-1])["event"] == "daemon.failed"


@pytest.mark.parametrize(
    ("error", "reason", "hint"),
    [
        (EngineError("it is away", "start it"), "it is away", "start it"),
        (ValueError("two\n lines"), "ValueError: two lines", "please report this, with the lines"),
        (KeyError("x" * 9000), "KeyError: 'xxxxxx", "please report this, with the lines"),
    ],
)
def test_an_error_without_a_traceback_is_explained_too(
    error: Exception, reason: str, hint: str
) -> None:
    text, advice, unforeseen = last_resort.explained(error)

    assert (text.startswith(reason), advice.startswith(hint)) == (True, True)
    assert (unforeseen is None) == isinstance(error, EngineError)
    assert len(text) <= 1000


def test_an_error_in_a_finalizer_is_one_line_of_the_log_and_ends_nothing() -> None:
    answer = at("argparse", "leak", "run", "--network")

    line, *_ = answer.stdout.splitlines()
    logschema.check(line)
    assert json.loads(line)["event"] == "error.ignored"
    assert answer.returncode == 2


def test_the_daemons_start_imports_nothing_of_the_other_commands() -> None:
    code = "import sys, lib.daemon; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=PROGRAM.parent, capture_output=True, text=True, check=True
    )

    ours = {name for name in answer.stdout.split() if name.startswith("lib.")}
    assert not [name for name in ours if name.startswith(("lib.cli", "lib.doctor"))]
