"""Tells of network namespaces that appear in a directory: mounts, of which the kernel tells.

`poll(2)` of `mountinfo` tells of each change since the last time (`proc_pid_mountinfo(5)`).
"""

from __future__ import annotations

import os
import select
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lib.kernel.namespaces import HOST, explained, identify

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from _typeshed import FileDescriptorLike


class MountWatch:
    """Knows which namespaces are in a directory, and waits for others.

    Each call raises NetnsError if the kernel refuses it, and may be made again then.
    """

    def __init__(self, directory: Path) -> None:
        """Watch from now on."""
        self._directory = directory
        self._what = f"watch {directory}"
        self._known: set[str] = set()
        with explained(self._what), ExitStack() as opened:
            directory.stat()
            self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, self._mounts)
            self.appeared()
            self._opened = opened.pop_all()

    def wait(self, others: Iterable[FileDescriptorLike] = (), seconds: float | None = None) -> None:
        """Wait at most that long for a mount, or until one of the others can be read."""
        poll = select.poll()
        poll.register(self._mounts, select.POLLPRI)
        for other in others:
            poll.register(other, select.POLLIN)
        with explained(self._what):
            poll.poll(None if seconds is None else seconds * 1000)

    def appeared(self) -> set[str]:
        """Return the paths of the namespaces that appeared since the last time."""
        before = self._known
        with explained(self._what):
            paths = {str(path) for path in self._listed() if path.name != HOST}
        self._known = {path for path in paths if path in before or identify(path)}
        return self._known - before

    def close(self) -> None:
        """Watch no longer."""
        self._opened.close()

    def _listed(self) -> list[Path]:
        try:
            return list(self._directory.iterdir())
        except FileNotFoundError:  # The engine removed it, as it may at its own end.
            return []
