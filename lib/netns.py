"""What the kernel says of namespaces: where one is, that one appears, and what becomes of it.

A namespace is told by device and inode number of its file: equal numbers, the same namespace
(`namespaces(7)`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from lib.errors import NetnsError, NetnsGoneError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.model import Address

OWN = Path("/proc/self/ns/net")
_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NET = 0x40000000
"""`CLONE_NEWNET`, for setns(2)."""

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""Of rtnetlink(7): links, addresses and routes of both IP versions."""

_HEADER, _ATTRIBUTE = struct.Struct("IHH"), struct.Struct("HH")
"""Size, kind and flags of a message; size and kind of an attribute of it."""

_BODY = 24
"""Where the attributes of a message on an address begin: `nlmsghdr`, `ifaddrmsg`."""

_NEW_ADDRESS, _ADDRESS, _NEW_ROUTE = 20, (1, 2), 24
"""`RTM_NEWADDR`; of its attributes, `IFA_ADDRESS` and `IFA_LOCAL`; `RTM_NEWROUTE`."""

_TABLE, _MAIN = 20, 254
"""Where the table of a message on a route is (`nlmsghdr`, `rtmsg`), and `RT_TABLE_MAIN`."""

_LIST_ADDRESSES = struct.pack("IHHII8x", _BODY, 22, 0x301, 0, 0)
"""`RTM_GETADDR` with `NLM_F_REQUEST` and `NLM_F_DUMP`."""

_LISTED = 0x2
"""`NLM_F_MULTI`: it was there when that was asked for, and so may be the routes."""

_HOST = "default"
"""The engine's name for the host's own namespace, beside those of the containers."""

_PROC, _FIRST = "/proc/", Path("/proc/1/ns/net")
"""Where processes are, and the namespace of the host's first one, where the host's are seen."""

PTRACE = "cap_add: [NET_ADMIN, SYS_ADMIN, SYS_PTRACE]"
"""What it takes to look at the namespaces of others' processes: `proc_pid_ns(5)`."""


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
        raise NetnsError(reason, f"{PTRACE}, which it takes to enter through processes") from error
    except OSError as error:
        if file.parent.is_dir() or is_at_process(path):
            reason = f"the namespace file {path} is gone"
            raise NetnsGoneError(reason) from error
        reason = f"there is no directory {file.parent}, where the engine keeps network namespaces"
        raise NetnsError(reason, _mount(file.parent)) from error
    if found.st_dev != OWN.stat().st_dev:
        # Seen with a mount that does not follow the host's, and for a moment while the engine makes
        # or removes one.
        reason = f"{path} is no namespace: the directory's mount does not follow the host's"
        raise NetnsError(reason, _mount(file.parent))
    if _is_same(OWN, found):
        reason = f"{path} is our own network namespace"
        raise NetnsError(
            reason, "remove the label from the container: the gateway has these routes itself"
        )
    if _is_same(_FIRST if is_at_process(path) else file.with_name(_HOST), found):
        reason = f"{path} is the host's network namespace"
        raise NetnsError(reason, "attach the container to a network of its own")


def _mount(directory: Path) -> str:
    return f"mount it into the sidecar with slave propagation: -v {directory}:{directory}:ro,rslave"


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


class Ear:
    """Hears, in a namespace, that addresses and routes come.

    The calling thread is in that namespace for as long as it takes to open a socket, which stays
    there. Of `rtnetlink(7)` only what tells of addresses is read.
    """

    def __init__(self, path: str) -> None:
        """Listen from now on; raise NetnsError if that cannot be."""
        self.addresses: set[Address] = set()
        """Those that it has or had."""
        self.is_up = False
        """Whether there may be a neighbour: the kernel puts an address's network into the main
        table once its link is up."""
        try:
            with Path(path).open("rb") as there, OWN.open("rb") as here:
                _enter(there)
                try:
                    self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
                finally:
                    _enter(here)
        except OSError as error:
            reason = f"cannot listen in {path}: {error.strerror}"
            raise NetnsError(reason) from error
        self._socket.setblocking(False)  # noqa: FBT003
        self._socket.bind((0, _GROUPS))
        self._socket.send(_LIST_ADDRESSES)

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is news."""
        return self._socket.fileno()

    def hear(self) -> bool:
        """Take in what there is, and tell whether that was anything."""
        anything = False
        while data := self._receive():
            anything = True
            while data:
                size, kind, flags = _HEADER.unpack_from(data)
                if kind == _NEW_ADDRESS:
                    self.addresses.update(_addresses(data[_BODY:size]))
                is_route = kind == _NEW_ROUTE and data[_TABLE] == _MAIN
                if is_route or flags & _LISTED:
                    self.is_up = any(not address.is_loopback for address in self.addresses)
                data = data[_aligned(size) :]
        return anything

    def close(self) -> None:
        """Leave nothing in the namespace: it could not end."""
        self._socket.close()

    def _receive(self) -> bytes:
        while True:
            try:
                return self._socket.recv(1 << 16)
            except BlockingIOError:
                return b""
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # Some was lost, others will come.
                    raise


def _addresses(attributes: bytes) -> Iterator[Address]:
    while attributes:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind in _ADDRESS:
            yield ip_address(attributes[_ATTRIBUTE.size : size])
        attributes = attributes[_aligned(size) :]


def _aligned(size: int) -> int:
    return (size + 3) & ~3


def _enter(namespace: BinaryIO) -> None:
    if _LIBC.setns(namespace.fileno(), _NEW_NET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
