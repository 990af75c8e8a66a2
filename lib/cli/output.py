"""What the commands write for a person: complaints, and any text so that it breaks no line."""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    """Return the text with whatever could break a line or a terminal escaped."""
    return text if text.isprintable() else ascii(text)[1:-1]


def complain(reason: str, hint: str) -> None:
    """Tell on standard error what is wrong and what to do about it."""
    print(f"wgroutemgr: {printable(reason)}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint)}", file=sys.stderr)
