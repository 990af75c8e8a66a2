"""The daemon's state in a file, and its two readers, which must agree."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from lib.health import MARGIN, OK, Health, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = Path(__file__).parents[2] / "lib" / "health.sh"


def script_verdict(file: Path) -> str:
    done = subprocess.run(["sh", SCRIPT, file], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == (0 if done.stdout == "ok\n" else 1)
    return done.stdout.removesuffix("\n")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "wgroutemgr.health"


@pytest.fixture(params=[verdict, script_verdict], ids=["Python", "shell"])
def read(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    reader: Callable[[Path], str] = request.param
    return reader


def test_no_file_is_no_daemon(file: Path, read: Callable[[Path], str]) -> None:
    said = f"there is no {file}: no daemon runs here, or it cannot write that file"
    assert read(file) == said


def test_ok_until_a_pass_is_overdue(file: Path, read: Callable[[Path], str]) -> None:
    now = 5000.0
    Health(file).tell("", now + 60, now)
    assert read(file) == OK

    Health(file).tell("", now - MARGIN - 1, now)
    assert read(file) == "a pass is overdue: the daemon hangs, or the machine is too busy for it"


def test_trouble_has_no_end(file: Path, read: Callable[[Path], str]) -> None:
    health = Health(file)
    health.tell("the engine\n  is -e 'away' $HOME \\n \udcff")
    assert read(file) == "the engine is -e 'away' $HOME \\n \\udcff"

    file.write_text("1 the engine is away\n")
    assert read(file) == "the engine is away"
    health.tell("", 60, 0)
    assert read(file) == OK


def test_it_is_written_only_when_it_changes_or_is_prolonged(file: Path) -> None:
    health = Health(file)
    health.tell("", 60, 0)
    file.unlink()
    health.tell("", 60, 30)
    assert not file.exists()

    health.tell("", 120, 60)
    assert verdict(file) == OK
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_file_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    health = Health(tmp_path / "nowhere" / "health")

    with structlog.testing.capture_logs() as logged:
        health.tell("has just been started")
        health.tell("", 60, 0)

    assert [entry["event"] for entry in logged] == ["health.failed"]


def test_others_may_read_it_whoever_they_are(file: Path) -> None:
    Health(file).tell("")

    assert file.stat().st_mode & 0o777 == 0o644
