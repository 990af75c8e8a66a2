"""Tells of namespaces that appear in a directory."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Protocol

from lib.errors import NetnsError
from lib.kernel.namespaces import HOST, is_namespace

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class HasFileno(Protocol):
    """What can be waited for."""

    def fileno(self) -> int:
        """Return the descriptor."""


class MountWatch:
    """Tells of namespaces that appear in a directory: mounts, of which the kernel tells.

    `poll(2)` of `mountinfo` tells of each change since the last time (`proc_pid_mountinfo(5)`).
    """

    def __init__(self, directory: Path) -> None:
        """Watch from now on; raise NetnsError if that cannot be."""
        self._directory = directory
        self._known: set[str] = set()
        self._poll = select.poll()
        try:
            directory.stat()
            self._mounts = os.open("/proc/self/mountinfo", os.O_CLOEXEC)
        except OSError as error:
            reason = f"cannot watch {directory}: {error.strerror}"
            raise NetnsError(reason) from error
        self._poll.register(self._mounts, select.POLLPRI)
        self.appeared()

    def close(self) -> None:
        """Watch no longer."""
        os.close(self._mounts)

    def wait(self, others: Iterable[HasFileno] = (), seconds: float | None = None) -> None:
        """Wait at most that long for a mount, or until one of the others can be read."""
        for other in others:
            self._poll.register(other, select.POLLIN)
        self._poll.poll(None if seconds is None else seconds * 1000)
        for other in others:
            self._poll.unregister(other)

    def appeared(self) -> set[str]:
        """Return the paths of the namespaces that appeared since the last time."""
        before = self._known
        try:
            names = {path.name for path in self._directory.iterdir()} - {HOST}
        except FileNotFoundError:  # The engine removed it, as it may at its own end.
            names = set()
        paths = (str(self._directory / name) for name in names)
        self._known = {path for path in paths if path in before or is_namespace(path)}
        return self._known - before
