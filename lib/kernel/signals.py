"""A signal asks us to end: that raises `Stopped` in the main thread, wherever that is.

Takes no other module than `signal`, as it is imported before all others: the kernel drops a signal
to PID 1 that has no handler.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SOON_SECONDS, _AGAIN_SECONDS = 0.01, 3.0
"""When a swallowed signal is raised again: if that is noticed, and if not (an end takes less)."""


class Stopped(BaseException):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number  # As a shell has it; for the daemon it is no failure.


def mind() -> None:
    """Raise Stopped at the next signal, and again until it arrives.

    A finalizer or a library may swallow it.
    """
    for each in _SIGNALS:
        signal.signal(each, _stop)


def ignore() -> None:
    """Raise nothing any more."""
    for each in (*_SIGNALS, signal.SIGALRM):
        signal.signal(each, signal.SIG_IGN)


def raise_soon() -> None:
    """Raise Stopped again: something has swallowed it."""
    signal.setitimer(signal.ITIMER_REAL, _SOON_SECONDS, _AGAIN_SECONDS)


def allow(seconds: float, deed: Callable[[], object]) -> None:
    """Do something after a signal, and raise nothing after that.

    Raises Stopped when that takes longer, and at another signal.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    mind()
    try:
        deed()
    finally:
        ignore()


def _stop(number: int, _: object) -> None:
    def again(*_: object) -> None:
        raise Stopped(number)

    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
    raise Stopped(number)
