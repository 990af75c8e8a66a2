"""What the kernel says of namespace files: that one appears, whether it is one, and whose.

Reads file status only and enters nothing. A namespace is told by device and inode number of its
file: equal numbers, the same namespace (`namespaces(7)`).
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from dataclasses import dataclass
from pathlib import Path

from lib.errors import NetnsError, NetnsGoneError

OWN = Path("/proc/self/ns/net")
_LIBC = ctypes.CDLL(None, use_errno=True)
_IN_CREATE = 0x100
_INOTIFY_EVENT = struct.Struct("iIII")
"""`struct inotify_event` without the name: watch, mask, cookie, length of the name."""

_HOST = "default"
"""The engine's name for the host's own namespace, beside those of the containers."""


@dataclass(frozen=True, slots=True)
class Proof:
    """That a file was a certain namespace; while it still is, it is the same one."""

    path: str
    device: int
    inode: int

    @classmethod
    def of(cls, path: str) -> Proof | None:
        """Look at a file; None if there is none."""
        try:
            found = Path(path).stat()
        except OSError:
            return None
        return cls(path, found.st_dev, found.st_ino)

    def holds(self) -> bool:
        """Tell whether the file is still that namespace.

        The engine never names two namespaces alike (the name is random), and the kernel gives a
        living one's number to no other.
        """
        return self.device == OWN.stat().st_dev and Proof.of(self.path) == self


def is_own(path: str) -> bool:
    """Tell whether that file is the network namespace that we are in; False without such a file."""
    try:
        return os.path.samestat(Path(path).stat(), OWN.stat())
    except OSError:
        return False


def check(path: str) -> None:
    """Raise NetnsError unless that file is a network namespace other than ours and the host's.

    NetnsGoneError if the file is not there while its directory is: the container just ended.
    """
    file = Path(path)
    try:
        found = file.stat()
    except OSError as error:
        if file.parent.is_dir():
            reason = f"the namespace file {path} is gone"
            raise NetnsGoneError(reason) from error
        reason = f"there is no directory {file.parent}, where the engine keeps network namespaces"
        raise NetnsError(reason, _mount(file.parent)) from error
    own = OWN.stat()
    if found.st_dev != own.st_dev:
        # Seen with a mount that does not follow the host's, and for a moment while the engine makes
        # or removes one.
        reason = f"{path} is no namespace: the directory's mount does not follow the host's"
        raise NetnsError(reason, _mount(file.parent))
    if os.path.samestat(found, own):
        reason = f"{path} is our own network namespace"
        raise NetnsError(
            reason, "remove the label from the container: the gateway has these routes itself"
        )
    host = file.with_name(_HOST)
    if host.exists() and os.path.samestat(found, host.stat()):
        reason = f"{path} is the host's network namespace"
        raise NetnsError(reason, "attach the container to a network of its own")


def _mount(directory: Path) -> str:
    return f"mount it into the sidecar with slave propagation: -v {directory}:{directory}:ro,rslave"


class Watch:
    """Tells of files that appear in a directory, without looking there: inotify(7)."""

    def __init__(self, directory: Path) -> None:
        """Watch from now on; raise NetnsError if that cannot be."""
        self._directory = directory
        self._descriptor = _LIBC.inotify_init1(os.O_CLOEXEC)
        if self._descriptor < 0 or (
            _LIBC.inotify_add_watch(self._descriptor, os.fsencode(directory), _IN_CREATE) < 0
        ):
            reason = f"cannot watch {directory}: {os.strerror(ctypes.get_errno())}"
            raise NetnsError(reason)

    def read(self, seconds: float | None = None) -> list[str]:
        """Return the paths of files that appeared, after waiting for one at most that long."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        data, paths = os.read(self._descriptor, 1 << 16), []
        while data:
            *_, length = _INOTIFY_EVENT.unpack_from(data)
            name = data[_INOTIFY_EVENT.size : _INOTIFY_EVENT.size + length].rstrip(b"\0")
            paths += [str(self._directory / os.fsdecode(name))] if name else []
            data = data[_INOTIFY_EVENT.size + length :]
        return paths
