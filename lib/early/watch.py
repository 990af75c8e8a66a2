"""Follows the directory in which namespaces appear, to another one and past failures."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import structlog

from lib.errors import NetnsError
from lib.kernel.mounts import MountWatch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from _typeshed import FileDescriptorLike

log = structlog.get_logger()

_RETRY_SECONDS = 5.0
"""After which a directory that could not be watched is tried again."""


class NamespaceWatch:
    """Tells of namespaces that appear in a directory, which may be none yet, or another later."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._mounts: MountWatch | None = None
        self._failure = ""
        """What was said last of it."""

    def follow(self, directory: Path | None) -> None:
        """Watch that directory from now on; try again if that failed before."""
        if directory == self._directory and self._mounts:
            return
        self.close()
        self._directory = directory
        if directory:
            try:
                self._mounts = MountWatch(directory)
                self._failure = ""
            except (NetnsError, OSError) as error:
                self._fail(error)

    def wait(self, others: Iterable[FileDescriptorLike], seconds: float | None = None) -> None:
        """Wait at most that long for a mount, or until one of the others can be read."""
        if self._mounts:
            self._mounts.wait(others, seconds)
            return
        longest = _RETRY_SECONDS if self._directory else None
        limits = [limit for limit in (seconds, longest) if limit is not None]
        poll = select.poll()
        for other in others:
            poll.register(other, select.POLLIN)
        poll.poll(min(limits) * 1000 if limits else None)

    def appeared(self) -> set[str]:
        """Return the paths of the namespaces that appeared since the last time."""
        if not self._mounts:
            return set()
        try:
            return self._mounts.appeared()
        except OSError as error:
            self._fail(error)
            self.close()
            return set()

    def close(self) -> None:
        """Watch nothing."""
        if self._mounts:
            self._mounts.close()
        self._mounts = None

    def _fail(self, error: Exception) -> None:
        if str(error) != self._failure:
            log.debug("watch.failed", reason=str(error))
        self._failure = str(error)
