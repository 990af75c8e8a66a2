"""Which command is asked for, known before what knows the options is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

RUN = "run"
"""The daemon: what is done without a command."""


def named_command(arguments: Sequence[str]) -> str:
    """Return the command that a command line names; of wrong usage any one.

    Each option that may stand before it takes a value, or ends the program at once.
    """
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            return word
        if "=" not in word:
            next(words, None)
    return RUN
