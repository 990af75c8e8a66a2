"""Facts that stand in several files of the tree and must agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

from lib import settings

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["version"] == settings.VERSION
