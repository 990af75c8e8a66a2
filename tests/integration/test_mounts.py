"""Namespaces that appear in the engine's directory."""

from __future__ import annotations

import errno
import os
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from lib.errors import NetnsError
from lib.kernel.addresses import AddressMonitor
from lib.kernel.mounts import MountWatch
from tests.integration import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = Path("/proc/self/ns/net")


@pytest.fixture
def watch(folder: Path) -> Iterator[MountWatch]:
    with closing(MountWatch(folder)) as watch:
        yield watch


def took(watch: MountWatch, *monitors: AddressMonitor, seconds: float = 5.0) -> float:
    begun = time.monotonic()
    watch.wait(monitors, seconds)
    return time.monotonic() - begun


def test_namespace_is_told_of_once_when_it_is_one(folder: Path) -> None:
    with kernel.namespace(folder / "before"), closing(MountWatch(folder)) as watch:
        assert watch.appeared() == set()

        (folder / "file").touch()
        with (
            kernel.bound(OWN, folder / "default"),
            kernel.namespace(folder / "0a1b2c3d4e5f") as space,
        ):
            watch.wait(seconds=kernel.SECONDS)
            assert watch.appeared() == {str(space.path)}
            assert watch.appeared() == set()

        assert watch.appeared() == set()


def test_wait_ends_with_a_mount_or_with_news_from_inside(folder: Path, watch: MountWatch) -> None:
    watch.wait(seconds=0.01)
    with (
        kernel.namespace(folder / "0a1b2c3d4e5f") as space,
        closing(AddressMonitor(str(space.path))) as monitor,
    ):
        assert took(watch) < 1  # It was mounted.
        kernel.poll(lambda: not monitor.read())
        space.ip("link set lo up")
        assert took(watch, monitor) < 1
        kernel.poll(lambda: not monitor.read())
        assert took(watch, monitor, seconds=0.2) >= 0.2
    assert took(watch) < 1  # It was unmounted.


def test_directory_that_is_removed_holds_no_namespaces(folder: Path, watch: MountWatch) -> None:
    folder.rmdir()

    assert watch.appeared() == set()
    with pytest.raises(NetnsError, match=f"cannot watch {folder}: No such file or directory"):
        MountWatch(folder)


def test_namespaces_are_told_of_after_a_look_that_failed(folder: Path, watch: MountWatch) -> None:
    with kernel.namespace(folder / "0a1b2c3d4e5f") as space:
        with (
            kernel.few_descriptors(),
            pytest.raises(NetnsError, match=f"cannot watch {folder}: Too many open files"),
        ):
            watch.appeared()

        assert watch.appeared() == {str(space.path)}


def refuse(*_: object) -> NoReturn:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_directory_that_cannot_be_read_is_told_of(
    folder: Path, watch: MountWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kernel.descriptors()

    for look in (watch.appeared, lambda: MountWatch(folder)):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "iterdir", refuse)
            with pytest.raises(NetnsError, match=f"cannot watch {folder}: Input/output error"):
                look()

    assert kernel.descriptors() == before


def test_more_to_wait_for_than_may_be_open_is_told_of(folder: Path, watch: MountWatch) -> None:
    with (
        kernel.namespace(folder / "0a1b2c3d4e5f") as space,
        closing(AddressMonitor(str(space.path))) as monitor,
        kernel.few_descriptors(spare=-1000),
        pytest.raises(NetnsError, match=f"cannot watch {folder}: Invalid argument"),
    ):
        watch.wait([monitor], 1)


def test_nothing_is_left_of_who_watched(folder: Path) -> None:
    before = kernel.descriptors()

    MountWatch(folder).close()

    assert kernel.descriptors() == before
