"""Prints what the changelog says of a release, if the tag is that of this program's version.

    python3 -m tests.release v0.2.0

Needs Python alone. What is not as it must be for a release is an error.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lib.settings import VERSION

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def notes(tag: str, changelog: str, version: str = VERSION) -> str:
    """Return what stands under the version's heading; raise ValueError where it is not ready."""
    if tag != f"v{version}":
        message = f"the tag is {tag}, the version in lib/settings.py is {version}"
        raise ValueError(message)
    head, *sections = re.split(r"^## ", changelog, flags=re.MULTILINE)
    heading, _, text = sections[0].partition("\n") if sections else (head, "", "")
    if not re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", heading):
        message = f"the changelog begins with {heading!r}, not with [{version}] and a date"
        raise ValueError(message)
    return text.strip()


def main() -> int:
    """Print the notes of the tag that is named."""
    try:
        print(notes(sys.argv[1], CHANGELOG.read_text(encoding="utf-8")))
    except ValueError as error:
        print(f"not to be released: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
