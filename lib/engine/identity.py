"""Who are we: text of `/proc/self/cgroup` and `/proc/self/mountinfo` to candidate container ids.

Pure parsers. They only propose; whoever calls them has the engine confirm the container and, for
the gateway, the kernel confirm the namespace. Shapes that were seen are kept in `tests/data/proc/`.
"""

from __future__ import annotations

import re

_ID = r"([0-9a-f]{64})"
_CGROUP_ID = re.compile(rf"(?:^|[/:-]){_ID}(?:\.scope)?(?=$|/)")
_OWNER_FILES = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
_OWN_FILES = {"/run/.containerenv"}
_CONTAINER_DIRECTORY = re.compile(rf"/(?:overlay-)?containers/{_ID}/")
_ROOT, _MOUNT_POINT = 3, 4
_UPPER_DIR = re.compile(r"[ ,]upperdir=([^, ]+)")


def own_ids(cgroup: str, mountinfo: str = "") -> tuple[str, ...]:
    """Return the container ids that `/proc/self/cgroup` names for us, the innermost first.

    Empty with a private cgroup namespace (`0::/`), the engine's default on cgroup v2. Both cgroup
    drivers are read: `/docker/<id>` and `/system.slice/docker-<id>.scope`. In nested engines the
    last id of a path is ours. Podman mounts a file of ours, which tells it too (podman,
    `libpod/container_internal_common.go`).
    """
    found = (_CGROUP_ID.findall(line.partition(":")[2]) for line in cgroup.splitlines())
    named = [ids[-1] for ids in found if ids]
    return tuple(dict.fromkeys([*named, *_mounted_ids(mountinfo, _OWN_FILES)]))


def netns_owner_ids(mountinfo: str) -> tuple[str, ...]:
    """Return the ids of the containers whose files are mounted as ours: the gateway's, mostly.

    With `network_mode: container:X` the engine mounts X's `hosts`, `hostname` and `resolv.conf`,
    under any data root (moby, `daemon/container_operations_unix.go`, `initializeNetworkingPaths`).
    Podman leaves us our own `hostname`, which does not count.
    """
    own = _mounted_ids(mountinfo, _OWN_FILES)
    found = _mounted_ids(mountinfo, _OWNER_FILES)
    return tuple(dict.fromkeys(found_id for found_id in found if found_id not in own))


def _mounted_ids(mountinfo: str, points: set[str]) -> list[str]:
    """Return the ids of the containers of whose directories something is mounted there."""
    fields = (line.split(" ") for line in mountinfo.splitlines())
    roots = (
        row[_ROOT] for row in fields if len(row) > _MOUNT_POINT and row[_MOUNT_POINT] in points
    )
    found = (_CONTAINER_DIRECTORY.findall(f"{root}/") for root in roots)
    return [ids[-1] for ids in found if ids]


def upper_dir(mountinfo: str) -> str:
    """Return the host path of our writable layer, or nothing where the root is not an overlay."""
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if (
            len(fields) > _MOUNT_POINT
            and fields[_MOUNT_POINT] == "/"
            and (match := _UPPER_DIR.search(line))
        ):
            return match[1]
    return ""
