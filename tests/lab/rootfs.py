"""Root file systems of other Debian releases, whose engines the lab can start.

Each is made once with `debootstrap` from the machine's own mirror and kept in the tree's `.cache`.
Engines lay their changes over it, so nothing may write into one after it was made.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab import install
from tests.lab.engine import run
from tests.lab.errors import LabError
from tests.lab.images import cache

BASE = ("iproute2", "iptables", "mount", "procps")
PACKAGES = ("busybox-static", "docker-compose", "docker.io", "python3", *BASE)
COMPOSE = "usr/libexec/docker/cli-plugins/docker-compose"
"""Where the package has Compose; it runs outside of that tree too (Go, no libraries but libc)."""
CONTAINED = (
    *("unshare", "--mount", "--propagation", "slave"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
)
"""A process namespace takes every process with it when it ends, a mount namespace every mount; what
the machine mounts meanwhile is still seen inside."""
SECONDS = 900


def podman(runtime: str) -> tuple[str, ...]:
    """Podman's packages, with what runs its containers: `crun` or `runc`."""
    return "aardvark-dns", runtime, "netavark", "nftables", "podman", *BASE


def rootfs(suite: str, packages: Sequence[str] = PACKAGES) -> Path:
    """The root file system of a suite with its engine, made if it is not there yet.

    Args:
        suite: Debian release.
        packages: what it has besides the least; there is one root file system for each list.
    """
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:8]
    place = cache() / f"rootfs-{suite}-{key}"
    if place.exists():
        return place
    if install.os_release()["ID"] != "debian":
        raise LabError(
            seen=f"engines of Debian {suite} can be made on Debian only",
            hint="their packages come from the machine's own mirror, which must be Debian's",
        )
    install.ensure(["debootstrap"])
    uri, keyring = install.mirror()
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        fresh = Path(folder) / "root"
        run(
            *CONTAINED,
            *("debootstrap", "--variant=minbase", f"--keyring={keyring}"),
            *(f"--include={','.join(packages)}", suite, str(fresh), uri),
            seconds=SECONDS,
        )
        shutil.rmtree(fresh / "var/cache/apt/archives", ignore_errors=True)
        fresh.rename(place)
    return place
