"""Who goes first, by what the kernel says of it."""

from __future__ import annotations

import os
from contextlib import closing
from threading import Thread
from typing import TYPE_CHECKING

from lib.kernel import scheduling
from lib.kernel.shells import Shells

if TYPE_CHECKING:
    import pytest

POLICY = "cut -d' ' -f41 /proc/self/stat"
"""proc(5): the scheduling policy of who runs it."""


def test_shells_for_who_cannot_wait_go_first_and_the_others_as_before() -> None:
    with closing(Shells()) as shells, closing(shells.others(1)) as first:
        (before,) = shells.run([POLICY])
        (ended,) = first.run([POLICY])

    assert int(ended.output) == os.SCHED_RR
    assert int(before.output) == os.SCHED_OTHER


def test_a_thread_goes_first_and_no_other() -> None:
    found: list[int] = []

    def run() -> None:
        assert scheduling.go_first()
        found.append(os.sched_getscheduler(0))

    thread = Thread(target=run)
    thread.start()
    thread.join()

    assert found == [os.SCHED_RR]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_without_the_capability_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)

    assert not scheduling.go_first()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
