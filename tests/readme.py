"""Reads the README: the tests hold the code against its tables and blocks."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the contents of the fenced code blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def prose() -> str:
    """Return the README without its code blocks."""
    return re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """Return what stands under a heading, up to the next one of any level."""
    _, found, rest = prose().partition(f"# {heading}\n")
    assert found, f"no section {heading}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table(heading: str, *columns: str) -> list[list[str]]:
    """Return the rows of the table with those columns in that section."""
    head = f"| {' | '.join(columns)} |\n"
    _, found, rest = section(heading).partition(head)
    assert found, f"no table {head}"
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {len(columns)}, "a row with another number of cells"
    return rows


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def plain(text: str) -> str:
    return text.replace("`", "")
