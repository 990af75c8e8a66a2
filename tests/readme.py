"""Reads the documents: the tests hold the code against their tables and blocks.

What a test reads has a name in a comment before it, as `<!-- table: events -->`, and can move to
another place or document without a change to the test.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for pattern in ("*.md", "docs/*.md", "examples/*/*.md")
    for path in sorted(ROOT.glob(pattern))
}
README = DOCUMENTS["README.md"]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """Return the contents of the fenced code blocks of that language, of all documents."""
    found = (block for text in DOCUMENTS.values() for block in FENCED.findall(text))
    return [content for marked, content in found if marked == language]


def prose(document: str) -> str:
    """Return the text of a document without its code blocks."""
    return FENCED.sub("", DOCUMENTS[document])


def block(name: str) -> str:
    """Return the content of the fenced code block of that name."""
    found = FENCED.match(_marked("block", name))
    assert found, f"no block after the marker {name}"
    return found[2]


def paragraph(name: str) -> str:
    """Return the paragraph of that name."""
    return _marked("text", name).partition("\n\n")[0]


def table(name: str, *columns: str) -> list[list[str]]:
    """Return the rows of the table of that name, which has those columns."""
    head, _, *lines = _marked("table", name).partition("\n\n")[0].splitlines()
    assert head == f"| {' | '.join(columns)} |"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {len(columns)}, "a row with another number of cells"
    return rows


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def plain(text: str) -> str:
    return text.replace("`", "")


def _marked(kind: str, name: str) -> str:
    """Return what follows a marker, which stands in one place only."""
    _, *found = "\n".join(DOCUMENTS.values()).split(f"<!-- {kind}: {name} -->\n")
    assert len(found) == 1, f"{len(found)} markers of {kind} {name}"
    return found[0]
