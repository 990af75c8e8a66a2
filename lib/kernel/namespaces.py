"""What the kernel says of namespace files: where one is, and whose it is.

A namespace is told by device and inode number of its file: equal numbers, the same namespace
(`namespaces(7)`).
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lib import advice
from lib.errors import NetnsError, NetnsGoneError
from lib.kernel import libc, prerequisites

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = Path("/proc/thread-self/ns/net")
"""The namespace that this thread is in. Another may just be in that of a container."""
HOST = "default"
"""The engine's name for the host's own namespace, beside those of the containers."""

_PROC, _FIRST = "/proc/", "/proc/1/ns/net"
"""Where processes are, and the namespace of the host's first one, where the host's are seen."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an OSError into a NetnsError that says what cannot be done."""
    try:
        yield
    except OSError as error:
        reason = f"cannot {what}: {error.strerror or error}"
        raise NetnsError(reason) from error


class NamespaceId(NamedTuple):
    """A network namespace, and where it was found.

    An equal one found there later is the same: the engine never names two namespaces alike (the
    name is random), and the kernel gives a living one's number to no other.
    """

    path: str
    device: int
    inode: int
    born: str = ""
    """When its process began, if it is found at one: process ids are given again."""


def identify(path: str) -> NamespaceId | None:
    """Return which namespace a file is; None if it is none now, as before the engine mounts it."""
    try:
        found = _stat(path)
        born = process_start(Path(path).parents[1]) if is_at_process(path) else ""
    except OSError:
        return None
    is_namespace = found.st_dev == _own().st_dev
    return NamespaceId(path, found.st_dev, found.st_ino, born) if is_namespace else None


@cache
def _own() -> os.stat_result:
    """Return what our own is, as long as we run; on its device all are, until the next boot."""
    return OWN.stat()


def confirm(identity: NamespaceId) -> None:
    """Raise NetnsGoneError unless that namespace still is where it was found.

    For the moment before it is entered by its path: it takes some hundredths of a millisecond.
    """
    if identify(identity.path) != identity:
        reason = f"{identity.path} is not the namespace any more that it was"
        raise NetnsGoneError(reason)


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


def exists(path: str) -> bool:
    """Tell whether there is such a file that we may look at."""
    try:
        Path(path).stat()
    except OSError:
        return False
    return True


def is_at_process(path: str) -> bool:
    """Tell whether a namespace is found at a process of it, not in the engine's directory."""
    return path.startswith(_PROC)


def process_start(process: Path) -> str:
    """Return when a process began: clock ticks since the boot, of its directory in `/proc`.

    The name, second of the fields, may hold spaces and parentheses (`proc_pid_stat(5)`). Raises
    OSError if there is no such process.
    """
    return (process / "stat").read_text().rpartition(")")[2].split()[19]


@contextmanager
def entered(path: str) -> Iterator[None]:
    """Have the calling thread in the namespace of a file meanwhile, in ours if none is named.

    Raises OSError if that cannot be.
    """
    if not path:
        yield
        return
    home = _home()
    with _opened(path) as there:
        try:
            libc.enter_network_namespace(there)
            yield
        finally:
            libc.enter_network_namespace(home)


@cache
def _home() -> int:
    """Return the way back, which is kept open: who may not come back must not go."""
    with _opened(str(OWN)) as here:
        libc.enter_network_namespace(here)
        return os.dup(here)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_own(path: str) -> bool:
    """Tell whether that file is the network namespace that we are in; False without such a file."""
    return _is_same(path, _own())


def _is_same(path: str, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(_stat(path), found)
    except OSError:
        return False


def _stat(path: str) -> os.stat_result:
    return os.stat(path)  # noqa: PTH116 - each pass looks at all namespaces, and this is quicker


def check(path: str, *, own: bool = False) -> None:
    """Raise NetnsError unless that file is a network namespace other than ours and the host's.

    Ours may do too (`own`). NetnsGoneError if the file is not there while its directory is, or its
    process is gone: the container just ended.
    """
    try:
        found = _stat(path)
    except PermissionError as error:
        reason = f"may not look at {path}: {error.strerror}"
        raise NetnsError(reason, advice.ENTER_THROUGH_PROCESSES) from error
    except OSError as error:
        directory = Path(path).parent
        if directory.is_dir() or is_at_process(path):
            reason = f"the namespace file {path} is gone"
            raise NetnsGoneError(reason) from error
        reason = f"there is no directory {directory}, where the engine keeps network namespaces"
        raise NetnsError(reason, advice.mount(directory)) from error
    if found.st_dev != _own().st_dev:
        # Seen with a mount that does not follow the host's, and for a moment while the engine makes
        # or removes one.
        reason = f"{path} is no namespace: the directory's mount does not follow the host's"
        raise NetnsError(reason, "; ".join(prerequisites.mount_advice(Path(path).parent)))
    if os.path.samestat(_own(), found) and not own:
        reason = f"{path} is our own network namespace"
        raise NetnsError(reason, advice.NOT_THE_GATEWAY)
    host = _FIRST if is_at_process(path) else f"{path.rpartition('/')[0]}/{HOST}"
    if _is_same(host, found):
        reason = f"{path} is the host's network namespace"
        raise NetnsError(reason, advice.NETWORK_OF_ITS_OWN)
