"""Runs for ever: events, the timer and lost connections, each of which only triggers a pass.

A second thread reads the event stream and enqueues; everything else happens in the main thread,
which a signal ends by an exception. Nothing here knows what a pass does.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

import structlog

from lib.engine import Engine
from lib.errors import EngineError, NotReadyError
from lib.reconciler import Reconciler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.model import Event
    from lib.settings import Settings
    from lib.shell import Shell

log = structlog.get_logger()

_OVERLAP = 2
"""Seconds before now from which on events are asked for, so that none is lost between listing and
listening."""

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0


def delays(longest: float = _LONGEST_DELAY) -> Iterator[float]:
    """Yield seconds to wait before each further try: doubled up to a limit, with jitter."""
    delay = _FIRST_DELAY
    while True:
        yield delay * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        delay = min(delay * 2, longest)


class Daemon:
    """Keeps the routes as the labels want them until something raises in the main thread."""

    def __init__(self, settings: Settings, shell: Shell) -> None:
        """Remember the means; nothing is connected yet."""
        self._settings = settings
        self._shell = shell
        self._retries = delays(settings.resync_interval)
        self._lost = False
        self._awaited = ""

    def run(self) -> NoReturn:
        """Serve, and connect again whenever the engine goes away."""
        waits = delays()
        while True:
            begun = time.monotonic()
            try:
                self._connect()
            except EngineError as error:
                self._tell_lost(error)
            if time.monotonic() - begun > _LONGEST_DELAY:
                waits = delays()
            time.sleep(next(waits))

    def _connect(self) -> NoReturn:
        engine = Engine()
        try:
            if not self._lost:
                _tell_connected(engine)
            self._serve(engine)
        finally:
            engine.close()

    def _serve(self, engine: Engine) -> NoReturn:
        reconciler = Reconciler(engine, self._shell, self._settings)
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        since = int(time.time()) - _OVERLAP
        threading.Thread(
            target=_listen, args=(engine, since, events), name="events", daemon=True
        ).start()
        trigger, only = "startup", None
        due = 0.0
        while True:
            settled = self._pass(reconciler, trigger, only)
            if self._lost:
                self._lost = False
                _tell_connected(engine)
            if settled:
                self._retries = delays(self._settings.resync_interval)
            if only is None or not settled:
                due = time.monotonic() + (
                    self._settings.resync_interval if settled else next(self._retries)
                )
            trigger, only = _next_trigger(events, max(0.0, due - time.monotonic()))

    def _pass(self, reconciler: Reconciler, trigger: str, only: frozenset[str] | None) -> bool:
        """Do a pass and tell whether it left nothing to be tried again soon."""
        begun = time.monotonic()
        try:
            report = reconciler.run(trigger, only)
        except NotReadyError as error:
            if error.reason != self._awaited:
                log.warning("gateway.awaited", reason=error.reason, hint=error.hint)
            self._awaited = error.reason
            return False
        self._awaited = ""
        tell = log.info if report.changed or trigger == "startup" else log.debug
        duration = round((time.monotonic() - begun) * 1000, 1)
        tell("pass.finished", trigger=trigger, **asdict(report), duration_ms=duration)
        return not report.failed

    def _tell_lost(self, error: EngineError) -> None:
        if not self._lost:
            log.warning(
                "engine.lost", reason=error.reason, **({"hint": error.hint} if error.hint else {})
            )
        self._lost = True


def _tell_connected(engine: Engine) -> None:
    log.info("engine.connected", version=engine.version, api_version=engine.api_version)


def _listen(engine: Engine, since: int, events: queue.SimpleQueue[Event | None]) -> None:
    """Enqueue events, then None at their end; nothing else: a slow reader slows the engine."""
    try:
        for event in engine.events(since):
            events.put(event)
    except EngineError as error:
        log.debug("stream.ended", reason=error.reason)
    finally:
        events.put(None)


def _next_trigger(
    events: queue.SimpleQueue[Event | None], seconds: float
) -> tuple[str, frozenset[str] | None]:
    """Wait for events, at most that long; return what triggers a pass and for whom (None: all)."""
    try:
        batch = [events.get(timeout=seconds)]
    except queue.Empty:
        return "resync", None
    while not events.empty():
        batch.append(events.get())
    seen = [event for event in batch if event]
    if len(seen) < len(batch):
        reason = "the engine ended the event stream"
        raise EngineError(reason)
    return seen[0].action, frozenset(event.container_id for event in seen)
