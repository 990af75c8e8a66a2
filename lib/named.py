"""What the words of a command line name, known before what knows the options is imported.

Also those of another sidecar, as the engine tells them: whatever is wrong with them is passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def named_options(arguments: Sequence[str]) -> Mapping[str, str]:
    """Return the value of each option, by its name without dashes; the last one counts."""
    found = {}
    words = iter(arguments)
    for word in words:
        if word.startswith("--"):
            name, has_value, value = word.removeprefix("--").partition("=")
            found[name] = value if has_value else next(words, "")
    return found
