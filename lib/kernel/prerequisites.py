"""What the sidecar itself must have been given: capabilities, and the namespace directory.

Cheap: reads a few files of `/proc/self`, asks neither the engine nor a process. The parsers are
pure. What it finds is told by whoever asks.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lib import advice
from lib.advice import (
    CAP_ADD,
    CAP_ADD_PTRACE,
    NETNS_DIRECTORY,
    ROOTLESS_MOUNTS,
    SECURITY_OPT,
    SOCKET,
    USER,
    USERNS,
    mount_lines,
)
from lib.model import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping

_CAPABILITIES, _PTRACE = {"NET_ADMIN": 12, "SYS_ADMIN": 21}, {"SYS_PTRACE": 19}
"""Numbers of the bits in `CapEff` (linux/capability.h). setns(2) wants SYS_ADMIN, a change of a
namespace's routes NET_ADMIN, a look at the namespace of another's process SYS_PTRACE."""

STATUS = Path("/proc/self/status")
MOUNTINFO = Path("/proc/self/mountinfo")
UID_MAP, NOBODY = Path("/proc/self/uid_map"), Path("/proc/sys/kernel/overflowuid")
_ALL_USERS = 2**32 - 1
CGROUP, FIRST_CGROUP = Path("/proc/self/cgroup"), Path("/proc/1/cgroup")
_ROOT = 0


class Mount(NamedTuple):
    """One line of mountinfo."""

    point: Path
    follows: bool
    """What is mounted on the host later appears here too: it is a slave or a peer
    (`master:N`, `shared:N` among the optional fields, proc_pid_mountinfo(5))."""


def missing() -> list[Finding]:
    """Return what a run cannot do without, as far as it is missing."""
    found = (capabilities(), directory(_likely_directory()))
    return [finding for finding in found if finding.level == "fail"]


def _likely_directory() -> Path:
    others = [mount.point for mount in parse_mounts(MOUNTINFO.read_text())]
    others = [point for point in others if point.name == NETNS_DIRECTORY.name]
    return NETNS_DIRECTORY if NETNS_DIRECTORY.is_dir() or not others else others[0]


def capabilities(status: str | None = None) -> Finding:
    """Tell whether both capabilities are in effect by the text of `/proc/self/status`."""
    found = _capabilities(_CAPABILITIES, CAP_ADD, status or STATUS.read_text())
    if found.level == "ok" and is_remapped():
        seen = f"{found.seen}, but only in a user namespace of our own"
        return Finding("fail", seen, (USERNS,))
    return found


def on_output(output: str) -> str:
    """Return what to do about a command that failed with that output; nothing if not known.

    Capabilities only where they are missing; else a security module stands in the way.
    """
    if "not permitted" in output:
        return "; ".join(capabilities().fix) or SECURITY_OPT
    return SECURITY_OPT if "denied" in output else advice.on_output(output)


def _host_user(uid_map: str | None) -> int | None:
    """Return which user of the host our root is; None if we are in the host's user namespace."""
    (inside, outside, count), *_ = (
        map(int, row.split()) for row in (uid_map or UID_MAP.read_text()).splitlines()
    )
    return None if (inside, outside, count) == (0, 0, _ALL_USERS) else outside


def rootless_user(uid_map: str | None = None, owner: int | None = None) -> int | None:
    """Return whose rootless engine it is that we run on; None if it is none."""
    return None if is_remapped(uid_map, owner) else _host_user(uid_map)


def mount_advice(directory: Path) -> tuple[str, ...]:
    """Return what has the mount of that directory follow the engine's."""
    if rootless_user() is not None and any(
        mount.point == directory and mount.follows for mount in parse_mounts(MOUNTINFO.read_text())
    ):
        return (ROOTLESS_MOUNTS,)
    return mount_lines(directory)


def is_remapped(uid_map: str | None = None, owner: int | None = None) -> bool:
    """Tell whether we are in a user namespace in which the engine's user is nobody.

    By the text of `/proc/self/uid_map`, and by whose the engine's files are. With `userns-remap`
    each container has a user namespace of its own; those of a rootless engine share that of the
    engine, whose files are root's there (user_namespaces(7)).
    """
    if _host_user(uid_map) is None:
        return False
    if owner is None:
        files = [path for path in (_likely_directory(), Path(SOCKET)) if path.exists()]
        owner = files[0].stat().st_uid if files else None
    return owner == int(NOBODY.read_text())


def _capabilities(needed: Mapping[str, int], fix: str, status: str) -> Finding:
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    effective = int(fields["CapEff"], 16)
    lacking = [name for name, bit in needed.items() if not effective >> bit & 1]
    if not lacking:
        return Finding("ok", f"{' and '.join(needed)} are in effect")
    seen = f"{' and '.join(lacking)} not in effect (CapEff {fields['CapEff']})"
    user = int(fields["Uid"].split()[1])
    if user != _ROOT:
        return Finding("fail", f"{seen}: runs as user {user}", (USER, fix))
    return Finding("fail", seen, (fix,))


def directory(path: Path, mountinfo: str | None = None) -> Finding:
    """Tell whether the namespace directory is there and follows the host's mounts.

    If it is not, namespaces can be entered through the host's processes, where these are seen.
    """
    real = path.resolve()
    mount = mount_of(real, parse_mounts(mountinfo or MOUNTINFO.read_text()))
    if not real.is_dir():
        if sees_host_processes():
            return through_processes(path)
        return Finding("fail", f"there is no directory {path}", mount_lines(path))
    if mount and not mount.follows:
        seen = f"{path} is mounted, but privately: namespaces of later containers are missing in it"
        return Finding("fail", seen, mount_lines(path))
    return Finding("ok", f"{path} follows the host's mounts")


def sees_host_processes(own: str | None = None, first: str | None = None) -> bool:
    """Tell whether the first process is none of our container's, by the texts of `cgroup` files."""
    return (own or CGROUP.read_text()) != (first or FIRST_CGROUP.read_text())


def through_processes(path: Path, status: str | None = None) -> Finding:
    """Tell whether namespaces can be entered through processes, without that directory."""
    found = _capabilities(_PTRACE, CAP_ADD_PTRACE, status or STATUS.read_text())
    seen = f"there is no directory {path}"
    if found.level == "ok":
        return Finding("ok", f"{seen}: namespaces are entered through processes (pid: host)")
    fix = (*mount_lines(path), f"or, where that cannot be: {CAP_ADD_PTRACE}")
    return Finding("fail", f"{seen}, and {found.seen}", fix)


def parse_mounts(mountinfo: str) -> list[Mount]:
    """Return the mounts that a `/proc/PID/mountinfo` lists, in its order."""
    rows = (line.split(" ") for line in mountinfo.splitlines())
    return [
        Mount(
            Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), row[4])),
            any(re.match("(master|shared):", word) for word in row[6 : row.index("-")]),
        )
        for row in rows
        if "-" in row
    ]


def mount_of(path: Path, mounts: list[Mount]) -> Mount | None:
    """Return the mount that a path lies in: the one with the longest mount point, the last such."""
    holding = [mount for mount in mounts if path.is_relative_to(mount.point)]
    return max(reversed(holding), key=lambda mount: len(mount.point.parts), default=None)
