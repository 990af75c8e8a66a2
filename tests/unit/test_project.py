"""Facts that stand in several files of the tree and must agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from lib.settings import VERSION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_stands_in_one_place() -> None:
    (latest, *_) = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert "version" not in PROJECT
    assert latest == VERSION
