"""The bill of materials tells of exactly what the image holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lib.settings import VERSION
from tests.lab import images
from tests.readme import block, plain, table

if TYPE_CHECKING:
    from tests.lab.engine import Engine

ROOT = Path(__file__).parents[2]
FOUND = """
import importlib.metadata, json
found = importlib.metadata.distributions(path=["/opt/site-packages"])
print(json.dumps({each.name: each.version for each in found}))
"""


def test_the_bill_of_materials_is_that_of_the_image(engine: Engine) -> None:
    words = ("run", "--rm", "--network", "none", "--entrypoint")
    path = block("materials").split()[-1]
    bill = json.loads(engine.docker(*words, "cat", images.product(engine), path))
    held = json.loads(engine.docker(*words, "python3", images.product(engine), "-c", FOUND))

    assert bill["bomFormat"] == "CycloneDX"
    program = bill["metadata"]["component"]
    assert (program["name"], program["version"]) == ("wgroutemgr", VERSION)
    assert {each["name"]: each["version"] for each in bill["components"]} == held
    licences = {plain(name): text for name, text in table("dependencies", "package", "licence")}
    for each in bill["components"]:
        said = each["licenses"][0]
        assert licences[each["name"]] == (said.get("expression") or said["license"]["id"])
    pinned = re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert dict(pinned) == held


@pytest.mark.parametrize("machine", ["armv7l", "armv6l", "i686", "riscv64"])
def test_small_machines_can_build_it(tmp_path: Path, machine: str) -> None:
    """There is nothing to compile with in the base image: a Raspberry Pi must find wheels."""
    words = ("--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:")
    target = ("--platform", f"musllinux_1_2_{machine}", "--python-version", "3.14")
    pins = (word for file in images.PINS for word in ("--requirement", str(file)))
    pip = (sys.executable, "-m", "pip", "download", *words, *target, *pins)
    done = subprocess.run(
        (*pip, "--dest", str(tmp_path)), capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
