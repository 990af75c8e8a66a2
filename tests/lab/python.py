"""Runs tests on the Python that the image runs, in the root file system of a Debian that has it.

    python -m tests.lab.python tests/unit tests/integration

The words are pytest's. The file system can only be read, the tree is at `/mnt`.
"""

import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

from tests.lab import install
from tests.lab.engine import run
from tests.lab.engines import NOT_INSTALLED
from tests.lab.errors import LabError
from tests.lab.images import ROOT, cache
from tests.lab.rootfs import CONTAINED, rootfs

SUITE = "sid"
VERSION = re.findall(r"BASE=python:(3\.\d+)", (ROOT / "Dockerfile").read_text())[0]

# Its arguments: the root file system, the tree, and the command that it ends as.
ENTER = r"""
set -eu
root=$1 tree=$2
shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$tree" "$root/mnt"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
cd "$root"
pivot_root . .
umount --lazy .
cd /mnt
exec "$@"
"""


def packages() -> Path:
    """Install what tests need for that Python into a folder, with the machine's own pip."""
    pins = (ROOT / "requirements.txt", ROOT / "tests/requirements.txt")
    key = hashlib.sha256(b"".join(each.read_bytes() for each in pins)).hexdigest()[:8]
    place = cache() / f"python-{VERSION}-{key}"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            fresh = Path(folder) / "packages"
            run(
                *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
                *("--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"),
                *("--python-version", VERSION, "--target", str(fresh)),
                *(word for each in pins for word in ("--requirement", str(each))),
            )
            fresh.rename(place)
    return place


def main() -> None:
    """End as pytest in there, or say why not."""
    try:
        root, modules = rootfs(SUITE), packages()
        run("chroot", str(root), f"python{VERSION}", "-V")  # the suite goes on, the image waits
    except (LabError, OSError) as error:
        print(f"not installed: {error}", flush=True)
        sys.exit(NOT_INSTALLED)
    os.environ |= {
        "PATH": install.PATH,
        "PYTHONPATH": f"/mnt/{modules.relative_to(ROOT)}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    words = (f"/usr/bin/python{VERSION}", "-m", "pytest", *sys.argv[1:])
    enter = ("sh", "-c", ENTER, "sh", str(root), str(ROOT), *words)
    os.execvp(CONTAINED[0], (*CONTAINED, *enter))  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
