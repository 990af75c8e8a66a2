"""Which files are namespaces that may be written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lib.errors import NetnsError, NetnsGoneError
from lib.kernel import namespaces
from lib.kernel.addresses import AddressMonitor
from lib.kernel.mounts import MountWatch
from tests.integration import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = Path("/proc/self/ns/net")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make what the engine keeps its namespaces in."""
    folder = tmp_path / "netns"
    folder.mkdir()
    return folder


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    """Show a namespace under a second name, as the engine does the host's."""
    target.touch()
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


def refusal(path: Path) -> NetnsError:
    with pytest.raises(NetnsError) as caught:
        namespaces.check(str(path))
    assert str(path.parent) in caught.value.reason + caught.value.hint
    return caught.value


def test_namespace_of_another_is_accepted(folder: Path) -> None:
    with kernel.namespace(folder / "0a1b2c3d4e5f"):
        namespaces.check(str(folder / "0a1b2c3d4e5f"))

        assert not namespaces.is_own(str(folder / "0a1b2c3d4e5f"))


def test_namespace_beside_those_of_others_is_accepted(folder: Path) -> None:
    with (
        kernel.namespace(folder / "0a1b2c3d4e5f"),
        kernel.namespace(folder / "5f4e3d2c1b0a"),
        bound(OWN, folder / "default"),
    ):
        namespaces.check(str(folder / "0a1b2c3d4e5f"))
        namespaces.check(str(folder / "5f4e3d2c1b0a"))


def test_our_own_namespace_is_refused_under_any_name(folder: Path) -> None:
    with bound(OWN, folder / "0a1b2c3d4e5f"):
        error = refusal(folder / "0a1b2c3d4e5f")

        assert type(error) is NetnsError
        assert error.reason.endswith("is our own network namespace")
        assert namespaces.is_own(str(folder / "0a1b2c3d4e5f"))
        assert namespaces.is_own(str(OWN))


def test_namespace_of_the_host_is_refused_under_any_name(folder: Path) -> None:
    with kernel.namespace(folder / "default"):
        assert refusal(folder / "default").reason.endswith("is the host's network namespace")
        with bound(folder / "default", folder / "0a1b2c3d4e5f"):
            error = refusal(folder / "0a1b2c3d4e5f")

    assert type(error) is NetnsError
    assert error.reason.endswith("is the host's network namespace")
    assert error.hint == "attach the container to a network of its own"


def test_namespace_that_ended_is_gone(folder: Path) -> None:
    with kernel.namespace(folder / "0a1b2c3d4e5f"):
        pass

    error = refusal(folder / "0a1b2c3d4e5f")

    assert type(error) is NetnsGoneError
    assert error.reason == f"the namespace file {folder}/0a1b2c3d4e5f is gone"


def test_missing_directory_is_no_namespace_that_ended(folder: Path) -> None:
    error = refusal(folder / "elsewhere" / "0a1b2c3d4e5f")

    assert type(error) is NetnsError
    assert error.reason.startswith(f"there is no directory {folder}/elsewhere")
    assert f"-v {folder}/elsewhere:{folder}/elsewhere:ro,rslave" in error.hint


def test_file_without_its_mount_wants_slave_propagation(folder: Path) -> None:
    (folder / "0a1b2c3d4e5f").touch()

    error = refusal(folder / "0a1b2c3d4e5f")

    assert type(error) is NetnsError
    assert "is no namespace" in error.reason
    assert f"-v {folder}:{folder}:ro,rslave" in error.hint
    assert not namespaces.is_own(str(folder / "0a1b2c3d4e5f"))


def test_mount_that_does_not_follow_later_ones_is_told_apart(folder: Path, tmp_path: Path) -> None:
    """What a sidecar sees that mounts the engine's directory without `rslave`."""
    view = tmp_path / "view"
    view.mkdir()
    subprocess.run(["mount", "--bind", folder, view], check=True)
    try:
        subprocess.run(["mount", "--make-private", view], check=True)
        with kernel.namespace(folder / "0a1b2c3d4e5f"):
            namespaces.check(str(folder / "0a1b2c3d4e5f"))
            error = refusal(view / "0a1b2c3d4e5f")
    finally:
        subprocess.run(["umount", view], check=True)

    assert type(error) is NetnsError
    assert "ro,rslave" in error.hint


@pytest.mark.parametrize("path", ["", "/", "/dev/null", "/proc/self/status", "/etc/passwd/x"])
def test_anything_else_is_refused(path: str) -> None:
    with pytest.raises(NetnsError):
        namespaces.check(path)

    assert not namespaces.is_own(path)


def test_checking_leaves_no_descriptor(folder: Path) -> None:
    with kernel.namespace(folder / "0a1b2c3d4e5f"):
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(100):
            namespaces.check(str(folder / "0a1b2c3d4e5f"))

        assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- found at a process -------------------------------------------------------------------------

KEY = "/no/such/directory/0a1b2c3d4e5f"


@contextmanager
def resident(space: kernel.Namespace) -> Iterator[int]:
    """Start a process in a namespace and give its id."""
    process = subprocess.Popen([kernel.NSENTER, f"--net={space.path}", "sleep", "1000"])
    try:
        assert kernel.poll(
            lambda: Path(f"/proc/{process.pid}/ns/net").stat().st_ino == space.path.stat().st_ino
        )
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_namespace_is_where_the_engine_says_while_that_is_mounted(folder: Path) -> None:
    key = str(folder / "0a1b2c3d4e5f")

    assert namespaces.locate(key, os.getpid(), "") == key
    assert namespaces.locate("", os.getpid(), "") == ""


def test_namespace_is_at_its_process_if_that_is_the_containers() -> None:
    cgroup = Path("/proc/self/cgroup").read_text().strip()
    pid = os.getpid()

    assert namespaces.locate(KEY, pid, cgroup) == f"/proc/{pid}/ns/net"
    assert namespaces.locate(KEY, pid, "0" * 64) == KEY  # The number was given again.
    assert namespaces.locate(KEY, 0, cgroup) == KEY


def test_namespace_at_a_process_is_accepted_until_that_ends(folder: Path) -> None:
    with kernel.namespace(folder / "0a1b2c3d4e5f") as space:
        with resident(space) as pid:
            path = f"/proc/{pid}/ns/net"
            proof = namespaces.Proof.of(path)
            namespaces.check(path)

            assert proof
            assert proof.holds()
            assert not replace(proof, born="0").holds()  # Another process has that number.
            assert namespaces.is_at_process(path)
            assert not namespaces.is_at_process(str(space.path))

        assert not proof.holds()
        with pytest.raises(NetnsGoneError):
            namespaces.check(path)


def test_namespace_of_the_host_is_refused_at_a_process_too(folder: Path) -> None:
    """Of a process in the host's namespace, while we are in another."""
    script = "from lib.kernel import namespaces; namespaces.check('/proc/1/ns/net')"
    with kernel.namespace(folder / "0a1b2c3d4e5f") as space:
        done = subprocess.run(
            [kernel.NSENTER, f"--net={space.path}", sys.executable, "-c", script],
            capture_output=True,
            check=False,
            text=True,
        )

    assert "NetnsError: /proc/1/ns/net is the host's network namespace" in done.stderr


# --- one that appears ---------------------------------------------------------------------------


def test_namespace_is_told_of_once_when_it_is_one(folder: Path) -> None:
    with kernel.namespace(folder / "before"):
        watch = MountWatch(folder)
        assert watch.appeared() == set()

        (folder / "file").touch()
        (folder / "default").touch()
        with bound(OWN, folder / "default"), kernel.namespace(folder / "0a1b2c3d4e5f") as space:
            watch.wait(seconds=kernel.SECONDS)
            assert watch.appeared() == {str(space.path)}
            assert watch.appeared() == set()

    assert watch.appeared() == set()


def test_wait_ends_with_a_mount_or_with_news_from_inside(folder: Path) -> None:
    watch = MountWatch(folder)
    watch.wait(seconds=0.01)
    with (
        kernel.namespace(folder / "0a1b2c3d4e5f") as space,
        closing(AddressMonitor(str(space.path))) as ear,
    ):
        assert took(watch) < 1  # It was mounted.
        kernel.poll(lambda: not ear.read())
        space.ip("link set lo up")
        assert took(watch, ear) < 1
        kernel.poll(lambda: not ear.read())
        assert took(watch, ear, seconds=0.2) >= 0.2
    assert took(watch) < 1  # It was unmounted.


def took(watch: MountWatch, *ears: AddressMonitor, seconds: float = 5.0) -> float:
    begun = time.monotonic()
    watch.wait(ears, seconds)
    return time.monotonic() - begun


def test_directory_that_is_removed_holds_no_namespaces(folder: Path) -> None:
    watch = MountWatch(folder)
    folder.rmdir()

    assert watch.appeared() == set()
    with pytest.raises(NetnsError, match=f"cannot watch {folder}"):
        MountWatch(folder)
