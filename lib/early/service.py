"""Routes before the first instruction: the thread and its loop.

The engine tells of a start when it is over. But the file of a new namespace appears before, and its
addresses are up before the client's process runs. So when a namespace appears, it is listened to;
when it gets an address that the engine is giving to a client, the client gets its routes.

Nothing here waits for the engine's lock on a starting container, and nothing at all happens while
no namespace appears.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import structlog

from lib.early.arrivals import Arrivals
from lib.early.commands import Commands
from lib.early.known import KnownContainers
from lib.early.lookup import Connections, Lookup
from lib.early.watch import NamespaceWatch
from lib.engine.asking import idle
from lib.errors import WgRouteMgrError
from lib.kernel import scheduling
from lib.kernel.addresses import AddressMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from _typeshed import FileDescriptorLike

    from lib.early.arrival import Grant
    from lib.early.arrivals import Monitor
    from lib.early.commands import CommandRunner
    from lib.engine.client import Engine
    from lib.model import Container, EarlyClient, Event, Gateway, Network

log = structlog.get_logger()

HAND_OVER_SECONDS = 1.0
"""For which a change of the gateway waits for commands that lead to the old one."""

_RETRY_SECONDS = 5.0
"""After which a listing that failed is asked for again."""


class Signal:
    """Wakes who waits for its descriptor; any thread may set it."""

    def __init__(self) -> None:
        """Raise OSError without a descriptor to spare."""
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor that is readable while it is set."""
        return self._descriptor

    def set(self) -> None:
        """Wake who waits, or who will."""
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Take note of it."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)


class EarlyRoutes:
    """Serves clients in new namespaces, in a thread of its own."""

    def __init__(
        self,
        shells: Callable[[], CommandRunner],
        connect: Callable[[], Engine],
        *,
        known: KnownContainers | None = None,
        monitor: Callable[[str], Monitor] = AddressMonitor,
        watch: NamespaceWatch | None = None,
    ) -> None:
        """Do nothing until the first `lead_to`; start shells that no other thread uses.

        The last two are for tests.
        """
        self._commands = Commands(shells())
        self._connections = Connections(connect)
        self._known = KnownContainers() if known is None else known
        self._another = partial(EarlyRoutes, shells, connect, known=self._known, monitor=monitor)
        self._arrivals = Arrivals(monitor)
        self._watch = watch or NamespaceWatch()
        self._gateway: Gateway | None = None
        self._directory: Path | None = None
        self._signal = Signal()
        self._is_closed = False
        self._nothing_runs = threading.Event()
        self._nothing_runs.set()
        self._thread: threading.Thread | None = None
        self._listing: threading.Thread | None = None
        self._given: deque[EarlyClient] = deque()

    def beside(self) -> EarlyRoutes:
        """Return what serves clients on another network, and knows the same of them."""
        return self._another()

    def lead_to(self, gateway: Gateway | None, directory: Path | None) -> None:
        """Lead clients there from now on, whose namespaces appear in that directory.

        Nothing is set towards another gateway after this returned, but for what takes longer than a
        second. To one that is lost, what they ask for is unreachable. None of a gateway: clients
        wait for the pass.
        """
        usable = gateway if gateway and (gateway.addresses or gateway.lost) else None
        if self._is_closed:
            return
        if (usable, directory) == (self._gateway, self._directory):
            return
        is_other_gateway = usable != self._gateway
        self._gateway, self._directory = usable, directory
        self._signal.set()
        if not self._thread and usable and directory:
            self._thread = threading.Thread(target=self._serve, name="early routes", daemon=True)
            self._thread.start()
        if is_other_gateway:
            self._nothing_runs.wait(HAND_OVER_SECONDS)

    def taken(self) -> Iterator[EarlyClient]:
        """Yield, once each, what clients were given; the last word on a client holds."""
        while self._given:
            yield self._given[0]
            self._given.popleft()  # Not before it was taken in: a signal may end that.

    def learn(self, running: Iterable[Container]) -> None:
        """Take in a listing of all clients that run, so that nothing need be asked at a start.

        After the first one the others are listed too: the first pass has enough to do.
        """
        self._known.learn_running(running)
        if not self._listing:
            self._listing = threading.Thread(
                target=self._list_idle, name="early listing", daemon=True
            )
            self._listing.start()

    def size(self, mtus: Mapping[Network, int]) -> None:
        """Take in how large packets to a destination may be (bytes), as the last pass found it."""
        self._known.mtus = mtus

    def note(self, event: Event) -> None:
        """Take in an event, for the same reason; from any thread, and as soon as it comes."""
        self._known.note(event)

    def close(self) -> None:
        """Set nothing any more after this returned, but for what takes longer than a second."""
        self._is_closed, self._gateway = True, None
        self._nothing_runs.wait(HAND_OVER_SECONDS)

    def _serve(self) -> NoReturn:
        # What asks the engine does too, as it is started here, and so do the shells.
        if not scheduling.go_first():
            log.debug("priority.refused", reason="SYS_NICE not in effect")
        while True:
            self._wait()
            while self._arrivals and (gateway := self._gateway):
                self._look(gateway)
            self._arrivals.close()

    def _list_idle(self) -> None:
        """Learn once who does not run, so that their starts need no listing."""
        while True:
            try:
                engine = self._connections.take()
                self._known.learn_idle(idle(engine))
            except WgRouteMgrError as error:
                log.debug("lookup.failed", reason=error.reason)
                time.sleep(_RETRY_SECONDS)
            else:
                self._connections.give_back(engine)
                return

    def _wait(self) -> bool:
        """Wait for something to do, and tell whether namespaces appeared."""
        self._watch.follow(self._directory)
        now = time.monotonic()
        limits = [self._arrivals.patience(now)] if self._arrivals else []
        limits += [self._commands.rest] if self._commands else []
        others: list[FileDescriptorLike] = [
            self._signal,
            *self._arrivals.monitors(),
            *self._commands.answering(),
        ]
        self._watch.wait(others, min(limits, default=None))
        self._signal.clear()
        paths = self._watch.appeared()
        if paths and self._gateway:
            self._arrivals.take_up(paths, time.monotonic())
        return bool(paths)

    def _look(self, gateway: Gateway) -> None:
        """Look at namespaces until nothing is to come in any, or the gateway is another."""
        self._arrivals.begin_anew()
        lookup = Lookup(gateway, self._known, self._connections, self._signal.set)
        with closing(lookup):
            lookup.expect(time.monotonic())
            while (self._arrivals or self._commands) and self._gateway == gateway:
                if self._wait():
                    lookup.expect(time.monotonic())
                self._take_ended(gateway)
                known, now = lookup.answers, time.monotonic()
                for grant in self._arrivals.advance(known, now, self._commands):
                    self._begin(grant, gateway)
                self._arrivals.let_go(known, time.monotonic())
                lookup.ask(self._arrivals.questions(known, time.monotonic()))
        while self._commands:
            self._take_ended(gateway, self._commands.rest)

    def _begin(self, grant: Grant, gateway: Gateway) -> None:
        """Try what a grant has due, unless the gateway is another by now."""
        self._nothing_runs.clear()  # Before the look: who changes the gateway waits for it.
        if self._gateway == gateway:
            self._commands.begin(grant)
        if not self._commands:
            self._nothing_runs.set()

    def _take_ended(self, gateway: Gateway, seconds: float = 0.0) -> None:
        """Take note of what has ended, after waiting that long for it at most, and go on."""
        for grant, ended, is_due_again in self._commands.ended(seconds):
            if new := grant.take(ended):
                self._given.append(grant.given)
                grant.tell(new, gateway.network)
            if grant.goes_on or is_due_again:
                self._begin(grant, gateway)
        if not self._commands:
            self._nothing_runs.set()
