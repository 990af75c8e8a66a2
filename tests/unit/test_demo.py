"""The recording of the demo is of this program; `./tests/demo --record docs/demo.txt` renews it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lib.settings import VERSION
from tests import logschema
from tests.lab import demo

SOURCE = Path(demo.__file__).read_text()
RECORDING = (Path(__file__).parents[2] / "docs/demo.txt").read_text()
LOG = [line for line in RECORDING.splitlines() if line.startswith("{")]


def test_the_recording_has_every_step_and_heading() -> None:
    texts = re.findall(r'with _step\("(.*)"\)', SOURCE)
    steps = re.findall(r"^  (\w.*) \.\.\. [\d.]+ s$", RECORDING, re.MULTILINE)
    headings = re.findall(r' _heading\(f?"(.*)"\)', SOURCE)
    wanted = [re.sub(r"\\\{.*?\\\}", ".*", re.escape(heading)) for heading in headings]
    shown = re.findall(r"^(.+)\n-+$", RECORDING, re.MULTILINE)

    assert {*steps} == {*texts}
    assert all(any(re.fullmatch(each, heading) for each in wanted) for heading in shown)
    assert all(any(re.fullmatch(each, heading) for heading in shown) for each in wanted)


def test_the_recording_has_the_picture() -> None:
    drawn = re.sub(r"\{.*?\}", "", demo.PICTURE).split()

    assert drawn
    assert all(each in RECORDING for each in drawn)


def test_what_the_program_wrote_is_as_it_writes_now() -> None:
    entries = [json.loads(line) for line in LOG]
    events = {entry["event"] for entry in entries}

    assert [(line, wrong) for line in LOG if (wrong := logschema.violations(line))] == []
    assert {"daemon.started", "gateway.ready", "route.replaced", "pass.finished"} <= events
    versions = [entry["version"] for entry in entries if entry["event"] == "daemon.started"]
    assert versions == [VERSION, VERSION]


def test_the_recording_ends_well_and_tells_of_no_earlier_run() -> None:
    assert "Both clients reach each other through the tunnel." in RECORDING
    assert "earlier run" not in RECORDING
    assert RECORDING.startswith("$ ./tests/demo\n")
