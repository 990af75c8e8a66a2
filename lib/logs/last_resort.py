"""What is said where logging is not set up yet, or is what fails: by hand.

Takes little but the standard library, and of it imports what is needed when it is needed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from lib.errors import WgRouteMgrError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_TRACE, _MAX_REASON = 4000, 1000
"""Characters of a stack trace, of its end, and of a text: a line is to be no longer than 8 KiB."""

_STDOUT, _STDERR = 1, 2


def log(level: str, event: str, error: BaseException | None = None, **values: str) -> None:
    """Write a line of the log; by hand if logging is not set up, or fails."""
    structlog = sys.modules.get("structlog")
    if structlog and getattr(structlog, "is_configured", bool)():
        with suppress(Exception):
            getattr(structlog.get_logger(), level)(event, **values, exc_info=error)
            return
    _write(_line(level, event, error, values), _STDOUT, _STDERR)


def explained(error: BaseException) -> tuple[str, str, BaseException | None]:
    """Return reason and hint of an error, and itself if nobody foresaw it."""
    if isinstance(error, WgRouteMgrError):
        return error.reason, error.hint, None
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    place = "".join(f" ({frame.filename}, line {frame.lineno})" for frame in frames[-1:])
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON]
    return f"{text}{place}", "please report this, with the lines above it", error


def _line(level: str, event: str, error: BaseException | None, values: Mapping[str, str]) -> str:
    """Return what `lib.logs.setup` would write."""
    import json
    import traceback
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    content = {"timestamp": now, "level": level, "event": event, **values}
    if error:
        content["exception"] = "".join(traceback.format_exception(error))[-_MAX_TRACE:]
    return json.dumps(content)


def _write(line: str, *descriptors: int) -> None:
    """Write to the first of the descriptors that takes it: who has closed all reads nothing."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.write(descriptor, f"{line}\n".encode(errors="backslashreplace"))
            return
