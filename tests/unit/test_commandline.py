"""The program as a process, as far as that takes no engine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "wgroutemgr.py"


@pytest.mark.parametrize("command", ["plan", "status", "withdraw"])
def test_without_an_engine_reason_and_hint_are_told_and_no_traceback(command: str) -> None:
    answer = subprocess.run(
        [sys.executable, PROGRAM, command],
        env=os.environ | {"DOCKER_HOST": "unix:///nowhere/docker.sock"},
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
