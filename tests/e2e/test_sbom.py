"""The bill of materials tells of exactly what the image holds."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import images
from tests.readme import plain, table

if TYPE_CHECKING:
    from tests.lab.engine import Engine

ROOT = Path(__file__).parents[2]
FOUND = """
import importlib.metadata, json
found = importlib.metadata.distributions(path=["/opt/site-packages"])
print(json.dumps({each.name: each.version for each in found}))
"""


def test_the_bill_of_materials_is_that_of_the_image(engine: Engine) -> None:
    done = subprocess.run([ROOT / "tests/sbom"], stdout=subprocess.PIPE, check=True)
    bill = json.loads(done.stdout)
    words = ("run", "--rm", "--network", "none", "--entrypoint", "python3")
    held = json.loads(engine.docker(*words, images.product(engine), "-c", FOUND))

    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "wgroutemgr"
    assert {each["name"]: each["version"] for each in bill["components"]} == held
    licences = {plain(name): text for name, text in table("Dependencies", "package", "licence")}
    for each in bill["components"]:
        said = each["licenses"][0]
        assert licences[each["name"]] == (said.get("expression") or said["license"]["id"])
    pinned = re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert dict(pinned) == held
