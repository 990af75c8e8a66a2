"""What the kernel says of namespace files: where one is, that one appears, and whose it is.

A namespace is told by device and inode number of its file: equal numbers, the same namespace
(`namespaces(7)`).
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lib import advice
from lib.errors import NetnsError, NetnsGoneError

if TYPE_CHECKING:
    from collections.abc import Iterable

OWN = Path("/proc/thread-self/ns/net")
"""The namespace that this thread is in. Another may just be in that of a container."""
_HOST = "default"
"""The engine's name for the host's own namespace, beside those of the containers."""

_PROC, _FIRST = "/proc/", Path("/proc/1/ns/net")
"""Where processes are, and the namespace of the host's first one, where the host's are seen."""


@dataclass(frozen=True, slots=True)
class Proof:
    """That a file was a certain namespace; while it still is, it is the same one."""

    path: str
    device: int
    inode: int
    born: str = ""
    """When its process began, if it is found at one: process ids are given again."""

    @classmethod
    def of(cls, path: str) -> Proof | None:
        """Look at a file; None if there is none."""
        try:
            found = Path(path).stat()
            born = _born(Path(path).parents[1]) if is_at_process(path) else ""
        except OSError:
            return None
        return cls(path, found.st_dev, found.st_ino, born)

    def holds(self) -> bool:
        """Tell whether the file is still that namespace.

        The engine never names two namespaces alike (the name is random), and the kernel gives a
        living one's number to no other.
        """
        return self.device == OWN.stat().st_dev and Proof.of(self.path) == self


def locate(key: str, pid: int, container_id: str) -> str:
    """Return the path of a container's namespace: what the engine says, else that of its process.

    The latter where the engine's directory is not mounted, but the host's processes are seen
    (`pid: host`). That the process is the container's still, its cgroup tells.
    """
    if not key or Path(key).parent.is_dir():
        return key
    with suppress(OSError):
        if container_id in Path(f"{_PROC}{pid}/cgroup").read_text():
            return f"{_PROC}{pid}/ns/net"
    return key


def is_at_process(path: str) -> bool:
    """Tell whether a namespace is found at a process of it, not in the engine's directory."""
    return path.startswith(_PROC)


def _born(process: Path) -> str:
    """Return when a process began (clock ticks since the boot, `proc_pid_stat(5)`)."""
    return (process / "stat").read_text().rpartition(")")[2].split()[19]


def is_namespace(path: str) -> bool:
    """Tell whether that file is one now: the engine makes it before it mounts that on it."""
    proof = Proof.of(path)
    return bool(proof and proof.holds())


def is_own(path: str) -> bool:
    """Tell whether that file is the network namespace that we are in; False without such a file."""
    return _is_same(Path(path), OWN.stat())


def _is_same(file: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(file.stat(), found)
    except OSError:
        return False


def check(path: str) -> None:
    """Raise NetnsError unless that file is a network namespace other than ours and the host's.

    NetnsGoneError if the file is not there while its directory is, or its process is gone: the
    container just ended.
    """
    file = Path(path)
    try:
        found = file.stat()
    except PermissionError as error:
        reason = f"may not look at {path}: {error.strerror}"
        raise NetnsError(reason, advice.ENTER_THROUGH_PROCESSES) from error
    except OSError as error:
        if file.parent.is_dir() or is_at_process(path):
            reason = f"the namespace file {path} is gone"
            raise NetnsGoneError(reason) from error
        reason = f"there is no directory {file.parent}, where the engine keeps network namespaces"
        raise NetnsError(reason, advice.mount(file.parent)) from error
    if found.st_dev != OWN.stat().st_dev:
        # Seen with a mount that does not follow the host's, and for a moment while the engine makes
        # or removes one.
        reason = f"{path} is no namespace: the directory's mount does not follow the host's"
        raise NetnsError(reason, advice.mount(file.parent))
    if _is_same(OWN, found):
        reason = f"{path} is our own network namespace"
        raise NetnsError(reason, advice.NOT_THE_GATEWAY)
    if _is_same(_FIRST if is_at_process(path) else file.with_name(_HOST), found):
        reason = f"{path} is the host's network namespace"
        raise NetnsError(reason, advice.NETWORK_OF_ITS_OWN)


class HasFileno(Protocol):
    """What can be waited for."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Watch:
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
            self._poll.register(os.open("/proc/self/mountinfo", os.O_CLOEXEC), select.POLLPRI)
        except OSError as error:
            reason = f"cannot watch {directory}: {error.strerror}"
            raise NetnsError(reason) from error
        self.appeared()

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
            names = {path.name for path in self._directory.iterdir()} - {_HOST}
        except FileNotFoundError:  # The engine removed it, as it may at its own end.
            names = set()
        paths = (str(self._directory / name) for name in names)
        self._known = {path for path in paths if path in before or is_namespace(path)}
        return self._known - before
