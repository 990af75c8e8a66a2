"""Tells that something changed in a network namespace: its links, routes or rules.

The kernel does not say of every route that it goes with its link, so what changed is not looked at:
who hears of it looks at everything.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from lib.kernel import netlink
from lib.kernel.namespaces import explained

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()

_GROUPS = sum(1 << number - 1 for number in (1, 7, 8, 11, 19))
"""`RTNLGRP_LINK`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_ROUTE` and `_IPV6_RULE` of
linux/rtnetlink.h."""


class Listener:
    """A socket in the namespace, and the thread that reads it, until it is closed.

    The namespace lives for as long as the socket does, so whoever has it closes it.
    """

    def __init__(self, path: str, tell: Callable[[], None]) -> None:
        """Call `tell` at each change from now on; raise NetnsError if that cannot be."""
        self._path = path
        self._tell = tell
        with explained(f"listen in {path}"), ExitStack() as opened:
            self._socket = opened.enter_context(netlink.connect(socket.NETLINK_ROUTE, path))
            self._socket.setblocking(False)  # noqa: FBT003
            self._socket.bind((0, _GROUPS))
            self._end = os.eventfd(0, os.EFD_CLOEXEC)
            opened.callback(os.close, self._end)
            self._opened = opened.pop_all()
        self._thread = threading.Thread(target=self._run, name="gateway's routes", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it hears nothing any more, since the kernel refused."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """Let go of the namespace; the thread tells nothing after this."""
        os.eventfd_write(self._end, 1)
        self._thread.join()
        self._opened.close()

    def _run(self) -> None:
        poll = select.poll()
        for descriptor in (self._socket.fileno(), self._end):
            poll.register(descriptor, select.POLLIN)
        while self._end not in dict(poll.poll()):
            try:
                self._take()
            except OSError as error:
                log.debug("watch.failed", netns=self._path, reason=str(error))
                return
            self._tell()

    def _take(self) -> None:
        """Take in all that was said, also that something could not be."""
        while True:
            try:
                self._socket.recv(netlink.BUFFER)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
