"""Does something to the program at a chosen moment: at an import, a call, or an audit event.

Python imports this before the program, whose environment names the moment and the deed.
"""

import os
import signal
import sys
from typing import Any

AT, DO = os.environ["AT"], os.environ["DO"]


class Finalized:
    """Fails, or gets a signal, where Python can raise nothing."""

    def __del__(self) -> None:
        if DO == "leak":
            raise RuntimeError(AT)
        os.kill(os.getpid(), signal.SIGTERM)


def do() -> None:
    """Fail, or send a signal."""
    if DO == "fail":
        raise RuntimeError(AT)
    if DO in {"drop", "leak"}:
        Finalized()
    else:
        os.kill(os.getpid(), int(DO))


class Finder:
    """Is asked for every module that is not loaded yet."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == AT:
            do()


class Calls:
    """Is told of every call, and counts those after signals are minded."""

    count = -1

    def __call__(self, frame: Any, event: str, _: object) -> None:  # noqa: ANN401
        if event != "call":
            return
        if self.count >= 0 or callable(signal.getsignal(signal.SIGTERM)):
            self.count += 1
        if self.count >= 0 and AT in {frame.f_code.co_name, str(self.count)}:
            sys.setprofile(None)
            do()


def take_event(event: str, _: object) -> None:
    """Look at one of the audit events (PEP 578), of which a fork is one."""
    if event == AT:
        do()


if AT:
    sys.addaudithook(take_event)
    sys.meta_path.insert(0, Finder)
    sys.setprofile(Calls())
