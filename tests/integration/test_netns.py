"""Which files are namespaces that may be written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lib.errors import NetnsError, NetnsGoneError
from lib.kernel import namespaces
from tests.integration import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = Path("/proc/self/ns/net")


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
        kernel.bound(OWN, folder / "default"),
    ):
        namespaces.check(str(folder / "0a1b2c3d4e5f"))
        namespaces.check(str(folder / "5f4e3d2c1b0a"))


def test_our_own_namespace_is_refused_under_any_name(folder: Path) -> None:
    with kernel.bound(OWN, folder / "0a1b2c3d4e5f"):
        error = refusal(folder / "0a1b2c3d4e5f")

        assert type(error) is NetnsError
        assert error.reason.endswith("is our own network namespace")
        assert namespaces.is_own(str(folder / "0a1b2c3d4e5f"))
        assert namespaces.is_own(str(OWN))


def test_namespace_of_the_host_is_refused_under_any_name(folder: Path) -> None:
    with kernel.namespace(folder / "default"):
        assert refusal(folder / "default").reason.endswith("is the host's network namespace")
        with kernel.bound(folder / "default", folder / "0a1b2c3d4e5f"):
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
        before = kernel.descriptors()
        for _ in range(100):
            namespaces.check(str(folder / "0a1b2c3d4e5f"))

        assert kernel.descriptors() == before


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
            identity = namespaces.identify(path)
            namespaces.check(path)

            assert identity
            namespaces.confirm(identity)
            with pytest.raises(NetnsGoneError):  # Another process has that number.
                namespaces.confirm(identity._replace(born="0"))
            assert namespaces.is_at_process(path)
            assert not namespaces.is_at_process(str(space.path))

        with pytest.raises(NetnsGoneError):
            namespaces.confirm(identity)
        with pytest.raises(NetnsGoneError):
            namespaces.check(path)


def test_namespace_whose_file_is_made_anew_is_another(folder: Path) -> None:
    path = folder / "0a1b2c3d4e5f"
    with kernel.namespace(path):
        identity = namespaces.identify(str(path))
        assert identity
        namespaces.confirm(identity)
    path.touch()
    assert namespaces.identify(str(path)) is None  # The engine makes the file first.
    with kernel.namespace(path):
        other = namespaces.identify(str(path))

        assert other
        with pytest.raises(NetnsGoneError, match=f"{path} is not the namespace any more"):
            namespaces.confirm(identity)


def test_process_that_went_elsewhere_is_no_way_to_the_namespace(folder: Path) -> None:
    """`pid: host`: nothing keeps a process where it was."""
    script = "read line; exec unshare --net sleep 1000"
    with kernel.namespace(folder / "0a1b2c3d4e5f") as space:
        words = [kernel.NSENTER, f"--net={space.path}", kernel.SH, "-c", script]
        process = subprocess.Popen(words, stdin=subprocess.PIPE)
        try:
            path, there = f"/proc/{process.pid}/ns/net", space.path.stat().st_ino
            assert kernel.poll(lambda: Path(path).stat().st_ino == there)
            identity = namespaces.identify(path)
            assert identity
            assert process.stdin
            process.stdin.write(b"go\n")
            process.stdin.close()
            assert kernel.poll(lambda: Path(path).stat().st_ino != there)

            with pytest.raises(NetnsGoneError):
                namespaces.confirm(identity)
        finally:
            process.kill()
            process.wait()


def test_confirming_is_cheap(folder: Path) -> None:
    with kernel.namespace(folder / "0a1b2c3d4e5f") as space, resident(space) as pid:
        identity = namespaces.identify(f"/proc/{pid}/ns/net")
        assert identity
        begun = time.process_time()
        for _ in range(1000):
            namespaces.confirm(identity)

    assert time.process_time() - begun < 0.5


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
