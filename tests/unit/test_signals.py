"""What is done after a signal: how long it may take, and what another signal does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys, time
from lib.kernel import signals

def deed():
    print("begun", flush=True)
    time.sleep(float(sys.argv[1]))
    print("done", flush=True)

signals.mind()
try:
    os.kill(os.getpid(), 15)
except signals.Stopped as first:
    try:
        signals.allow(float(sys.argv[2]), deed)
    except signals.Stopped as second:
        print("stopped by", second, flush=True)
    os.kill(os.getpid(), 15)
    time.sleep(0.1)
    print("ended after", first)
"""


def start(takes: float, may_take: float) -> subprocess.Popen[str]:
    """Start a program that gets a signal and then does something that takes so many seconds."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(takes), str(may_take)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> list[str]:
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return said.splitlines()


def test_it_is_done_and_no_other_signal_disturbs_what_comes_then() -> None:
    assert ended(start(0.1, 20)) == ["begun", "done", "ended after SIGTERM"]


def test_it_may_take_longer_than_until_a_swallowed_signal_is_raised_again() -> None:
    assert ended(start(3.5, 20)) == ["begun", "done", "ended after SIGTERM"]


def test_it_takes_no_longer_than_it_may() -> None:
    begun = time.monotonic()

    assert ended(start(15, 0.5)) == ["begun", "stopped by SIGTERM", "ended after SIGTERM"]
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_another_signal_ends_it(number: signal.Signals) -> None:
    process = start(15, 20)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, number)

    assert ended(process) == [f"stopped by {number.name}", "ended after SIGTERM"]
