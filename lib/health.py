"""The daemon's state, in one line of a file, for the image's HEALTHCHECK and the command `health`.

The line is `DEADLINE STATE`. STATE is `ok` or says what is wrong; `ok` holds until DEADLINE, in
seconds of `/proc/uptime`, so that a daemon that hangs becomes unhealthy by doing nothing. The file
lies in memory, where it can be written although the root file system is read-only. HEALTHCHECK
reads it with `lib/health.sh`: starting Python costs more than the daemon does. Nothing here decides
what is wrong.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from lib import advice

FILE = Path("/dev/shm/wgroutemgr.health")  # noqa: S108 - a container has a /dev/shm of its own

OK = "ok"

MARGIN = 15
"""Seconds that a full pass may take, or come late."""

_LONGEST = 500
"""Characters of a state; the engine keeps no more than 4096 bytes of a check's output."""

_UPTIME = Path("/proc/uptime")
"""The clock: one that a shell can read too."""

log = structlog.get_logger()


class Health:
    """The state of one daemon, which writes it only when it changes or holds for longer."""

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        self._told: tuple[str, float] | None = None

    def tell(self, trouble: str, due: float = 0, now: float = 0) -> None:
        """Write what is wrong; an empty text is `ok`, which holds until a full pass is overdue.

        `due` is when the next full pass begins, `now` what the same clock shows, both in seconds.
        """
        if self._told == (trouble, due):
            return
        first, self._told = self._told is None, (trouble, due)
        deadline = _uptime() + int(due - now) + MARGIN
        try:
            replace(self._file, f"{deadline} {' '.join(trouble.split())[:_LONGEST] or OK}\n")
        except OSError as error:
            if first:
                log.warning("health.failed", reason=str(error), hint=advice.SHM)


def replace(file: Path, text: str) -> None:
    """Write a file in one step, so that nobody reads half of it, and anybody may read it.

    Raises OSError if that cannot be.
    """
    fresh = file.with_name(f"{file.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    descriptor = os.open(fresh, flags, 0o644)
    with open(descriptor, "w", errors="backslashreplace") as opened:  # noqa: PTH123 - no path
        opened.write(text)
    fresh.replace(file)


def verdict(file: Path = FILE) -> str:
    """Return `ok`, or what is wrong; `lib/health.sh` must say the same."""
    try:
        deadline, _, state = file.read_text().strip().partition(" ")
    except OSError:
        return f"there is no {file}: no daemon runs here, or it cannot write that file"
    if state == OK and _uptime() >= int(deadline):
        return "a pass is overdue: the daemon hangs, or the machine is too busy for it"
    return state


def _uptime() -> int:
    return int(_UPTIME.read_text().partition(".")[0])
