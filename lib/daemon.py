"""Runs for ever: events, the timer and lost connections, each of which only triggers a pass.

A second thread reads the event stream and enqueues; everything else happens in the main thread,
which a signal ends by an exception. Nothing here knows what a pass does.
"""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn, Protocol

import structlog

from lib.engine.client import NEWEST_API, Engine
from lib.errors import CallError, EngineError, NotReadyError, StreamEndedError
from lib.reconcile.reconciler import Reconciler
from lib.reconcile.reporting import hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lib.early.service import EarlyRoutes
    from lib.health import Health
    from lib.kernel.shells import Shell
    from lib.model import Event
    from lib.settings import Settings

log = structlog.get_logger()

_OVERLAP = 2
"""Seconds before now from which on events are asked for, so that none is lost between listing and
listening."""

_PROBATION = 1.0
"""Seconds that a new connection must last until it is believed."""

_CALM = 60.0
"""Seconds without an end of the stream after which the next one is worth a warning: a proxy may cut
every idle stream."""

_ATTACHING = {"connect", "disconnect"}
_SETTLING = 0.3
"""Seconds to wait for more events after one of a network (mostly, the container is starting) or
the start of a container that has its routes already: others may be starting, and need the time."""

_LONGEST_SETTLING = 1.0
"""Seconds after which they have waited enough, whatever else happens."""

_SECOND_LOOK = 3.0
"""Seconds after which a route that was there already is looked at once more: longer than another
sidecar settles."""

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0


class Clock(Protocol):
    """The part of the module `time` that is used here; seconds all over."""

    def time(self) -> float:
        """Return the time of day."""
        ...

    def monotonic(self) -> float:
        """Return a time that only grows."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Do nothing for a while."""
        ...


def delays(interval: float) -> Iterator[float]:
    """Yield seconds to wait before each further try: doubled up to that limit, with jitter.

    Never longer than half a minute either.
    """
    longest = min(interval, _LONGEST_DELAY)
    delay = _FIRST_DELAY
    while True:
        yield min(delay, longest) * random.uniform(0.8, 1.0)  # noqa: S311 - no secret
        delay = min(delay * 2, longest)


class Stream:
    """The engine's events, read by a thread that only enqueues: a slow reader slows the engine."""

    def __init__(self, engine: Engine, since: int, note: Callable[[Event], None]) -> None:
        """Listen from a moment on, in seconds of Unix time; have each event noted as it comes."""
        self._note = note
        self._queue: queue.SimpleQueue[Event | EngineError] = queue.SimpleQueue()
        self._events = engine.events(since)
        threading.Thread(target=self._listen, name="events", daemon=True).start()

    def read(self, seconds: float) -> list[Event]:
        """Return the events that came, after waiting for one at most that long.

        Raises StreamEndedError when there will be no more, CallError if there never were any.
        """
        try:
            batch = [self._queue.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._queue.empty():
            batch.append(self._queue.get())
        for event in batch:
            if isinstance(event, EngineError):
                raise event
        return [event for event in batch if not isinstance(event, EngineError)]

    def _listen(self) -> None:
        end: EngineError = StreamEndedError("the engine ended the event stream")
        try:
            for event in self._events:
                self._note(event)
                if event.action != "create":  # It changes nothing yet.
                    self._queue.put(event)
        except CallError as error:
            end = error  # Refused, as by a proxy.
        except EngineError as error:
            log.debug("stream.ended", reason=error.reason)
        finally:
            self._queue.put(end)


class Daemon:
    """Keeps the routes as the labels want them until something raises in the main thread."""

    def __init__(  # noqa: PLR0913 - the last two are for tests
        self,
        settings: Settings,
        shell: Shell,
        early: EarlyRoutes,
        health: Health,
        *,
        connect: Callable[[], Engine] = Engine,
        clock: Clock = time,
    ) -> None:
        self._interval = settings.resync_interval
        self._reconciler = Reconciler(shell, settings)
        self._early = early
        self._health = health
        self._connect = connect
        self._clock = clock
        self._retries = delays(self._interval)
        self._reconnects = delays(self._interval)
        self._retry_at = math.inf
        self._trigger = "startup"
        self._lost = ""
        self._awaited = ""
        self._connected: bool | None = None
        """What was said last of the engine."""
        self._ended_at = -math.inf
        self._listening_since = math.inf

    def run(self) -> NoReturn:
        """Serve, and connect again whenever the engine goes away."""
        self._health.tell("has just been started")
        while True:
            try:
                engine = self._connect()
                try:
                    self._serve(engine)
                finally:
                    engine.close()
            except StreamEndedError as error:
                self._take_end(error)
            except EngineError as error:
                self._lost = error.reason
                self._health.tell(self._lost)
                self._tell_lost(error)
            self._clock.sleep(next(self._reconnects))

    def _serve(self, engine: Engine) -> NoReturn:
        if not self._lost:
            self._tell_connected(engine)
        stream = self._listen(engine)
        self._pass(engine, self._trigger, None)
        self._trigger = "reconnect"
        resync_at = self._clock.monotonic() + self._interval
        while True:
            now = self._clock.monotonic()
            self._health.tell(self._trouble(), resync_at, now)
            pause = max(0.0, min(resync_at, self._retry_at) - now)
            events = stream.read(min(pause, _PROBATION) if self._lost else pause)
            self._take_note()
            events = self._settled(stream, events)
            events = [event for event in events if self._reconciler.concerns(event)]
            if self._lost:
                # The connection has lasted; before, one that ends at once would be tried too often.
                self._lost = ""
                self._reconnects = delays(self._interval)
                self._tell_connected(engine)
            if events:
                concerned = frozenset(event.container_id for event in events)
                self._pass(engine, events[0].action, concerned)
            elif self._clock.monotonic() >= resync_at:
                # A stream can hang without ending, so it is believed for no longer than this.
                stream = self._listen(engine)
                self._pass(engine, "resync", None)
                resync_at = self._clock.monotonic() + self._interval
            elif self._clock.monotonic() >= self._retry_at:
                self._pass(engine, "retry", self._reconciler.unfinished or None)

    def _settled(self, stream: Stream, events: list[Event]) -> list[Event]:
        """Add what comes until nothing does, as long as all of it can wait."""
        until = self._clock.monotonic() + _LONGEST_SETTLING
        more = events
        while more and not any(map(self._is_urgent, more)) and self._clock.monotonic() < until:
            more = stream.read(_SETTLING)
            self._take_note()
            events = events + more
        return events

    def _listen(self, engine: Engine) -> Stream:
        self._listening_since = self._clock.monotonic()
        return Stream(engine, int(self._clock.time()) - _OVERLAP, self._early.note)

    def _pass(self, engine: Engine, trigger: str, only: frozenset[str] | None) -> None:
        begun = self._clock.monotonic()
        self._take_note()
        try:
            report = self._reconciler.run(engine, trigger, only)
            survey = self._reconciler.survey
            self._early.lead_to(survey.gateway, survey.netns_directory)
        except NotReadyError as error:
            if error.reason != self._awaited:
                log.warning("gateway.awaited", reason=error.reason, **hint(error.hint))
            self._awaited = error.reason
            self._early.lead_to(None, None)
            self._schedule_retry(trigger)
            return
        self._awaited = ""
        tell = log.info if report.changed or trigger == "startup" else log.debug
        duration = round((self._clock.monotonic() - begun) * 1000, 1)
        tell("pass.finished", trigger=trigger, **asdict(report), duration_ms=duration)
        if self._reconciler.pending:
            self._retry_at = self._clock.monotonic()
        elif self._reconciler.failing:
            self._schedule_retry(trigger)
        elif self._reconciler.adopted:
            self._retry_at = min(self._retry_at, self._clock.monotonic() + _SECOND_LOOK)
        else:
            self._retry_at = math.inf
            self._retries = delays(self._interval)

    def _take_note(self) -> None:
        for early in self._early.taken():
            self._reconciler.gave(early)

    def _is_urgent(self, event: Event) -> bool:
        gateway = self._reconciler.survey.gateway
        if gateway and event.container_id == gateway.container_id:
            return True
        return event.action not in _ATTACHING and not self._reconciler.was_early(event.container_id)

    def _schedule_retry(self, trigger: str) -> None:
        """Set the time of the next try, unless one is due already: events must not put it off."""
        if trigger == "retry" or self._retry_at == math.inf:
            self._retry_at = self._clock.monotonic() + next(self._retries)

    def _take_end(self, error: StreamEndedError) -> None:
        """Tell of a stream that ended, unless another did shortly before: then it is no news."""
        now = self._clock.monotonic()
        if now - self._ended_at > _CALM:
            self._tell_lost(error)
        if now - self._listening_since >= _PROBATION:
            self._lost = ""
            self._reconnects = delays(self._interval)
        self._ended_at = now

    def _tell_lost(self, error: EngineError) -> None:
        if self._connected is not False:
            log.warning("engine.lost", reason=error.reason, **hint(error.hint))
        self._connected = False

    def _tell_connected(self, engine: Engine) -> None:
        if not self._connected:
            log.info(
                "engine.connected",
                version=engine.version,
                api_version=engine.api_version,
                **hint(f"tried up to API {NEWEST_API} only" * engine.is_newer_than_tried),
            )
        self._connected = True

    def _trouble(self) -> str:
        """Return what keeps clients from their routes; nothing if they have them."""
        reconciler, gateway = self._reconciler, self._reconciler.survey.gateway
        if self._lost or self._awaited:
            return self._lost or self._awaited
        if gateway and gateway.lost:
            return f"the gateway {gateway.container} is lost, see gateway.lost in the log"
        if failing := sorted(reconciler.failing):
            return f"{len(failing)} of the clients fail, such as {failing[0][:12]}, see the log"
        return "routes are still to be set" if reconciler.pending else ""
