"""Runs for ever: waits for the next event or deadline, runs a pass, tells the health.

A thread of the event stream enqueues; everything else happens in the main thread, which a signal
ends by an exception. Nothing here knows what a pass does, or when one is due.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

import structlog

from lib.early.service import EarlyRoutes
from lib.engine.client import NEWEST_API, Engines
from lib.engine.questions import Questions
from lib.errors import EngineError, StreamEndedError
from lib.health import Health
from lib.kernel import prerequisites, signals
from lib.kernel.access import Kernel
from lib.kernel.shells import Shells
from lib.reconcile.networks import Networks
from lib.reconcile.reconciler import Reconciler
from lib.reconcile.report import Lost, Unknown, Why
from lib.reconcile.reporting import hint
from lib.reconcile.tunnels import shown
from lib.schedule import Schedule, delay, delays
from lib.settings import VERSION
from lib.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lib.engine.client import Engine
    from lib.engine.events import EventStream
    from lib.engine.sdk import Ask
    from lib.model import Coverage, Network, Sidecar
    from lib.reconcile.networks import Early
    from lib.reconcile.report import Report, Scope
    from lib.settings import Settings

    Publish = Callable[[Sidecar | None, Mapping[Network, float], Mapping[str, Coverage]], None]

T = TypeVar("T")

log = structlog.get_logger()

_OVERLAP_SECONDS = 2
"""Before now, from which on events are asked for, so that none is lost between listing and
listening."""

_PROBATION_SECONDS = 1.0
"""That a new connection must last until it is believed: one that ends at once would be tried too
often."""

_CALM_SECONDS = 60.0
"""Without an end of the stream, after which the next one is worth a warning: a proxy may cut every
idle stream."""


_SWITCH_INTERVAL_SECONDS = 0.0005
"""After which a thread hands over: a container that is being started cannot wait for a pass."""

_WIDTH, _EARLY_WIDTH = 3, 8
"""Shells that work side by side in a pass, and for containers that are being started: where the
engine keeps every CPU busy, who has more processes gets more of it."""

_ATTENDING_SECONDS = 60.0
"""Longer than the engine may take to answer: until then, something wakes who waits."""

_LEAVING_SECONDS = 5.0
"""For what is to be done after a signal: an engine that stops a container kills it after 10 s."""


def run(settings: Settings) -> NoReturn:
    """Serve until something raises in the main thread, as a signal does."""
    log.info("daemon.started", version=VERSION, resync_interval=settings.resync_interval)
    missing = prerequisites.missing()
    for finding in missing:
        log.error("prerequisite.missing", reason=finding.seen, hint="; ".join(finding.fix))
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    health, state = Health(), State(settings, os.environ)
    # Those for early routes may be in use by their thread, and end with us.
    with closing(Shells(width=_WIDTH)) as shells:
        engines = Engines()
        early = EarlyRoutes(lambda: shells.others(_EARLY_WIDTH), engines.another)
        try:
            lacking = "; ".join(finding.seen for finding in missing)
            kernel = Kernel(shells)
            daemon = Daemon(
                settings,
                kernel,
                early,
                health,
                engines.connect,
                publish=state.publish,
                lacking=lacking,
            )
            try:
                daemon.run()
            except signals.Stopped:
                signals.allow(_LEAVING_SECONDS, daemon.leave)
                raise
        finally:
            health.tell("has ended")


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


class Connection:
    """Whether the engine is there, and what was logged of that."""

    def __init__(self, interval: float, clock: Clock) -> None:
        self._interval = interval
        self._clock = clock
        self._delays = delays(interval)
        self._logged: bool | None = None
        """What was said last."""
        self._since = self._ended_at = -math.inf
        self.trouble = ""
        """Why there is none; kept until a new one has lasted for a while."""

    @property
    def probation(self) -> float:
        """Seconds until this connection is believed; infinite if it is already."""
        if not self.trouble:
            return math.inf
        return max(0.0, self._since + _PROBATION_SECONDS - self._clock.monotonic())

    def begin(self, engine: Engine) -> None:
        """Take note of a new connection."""
        self._since = self._clock.monotonic()
        if not self.trouble:
            self._log_connected(engine)

    def believe(self, engine: Engine) -> None:
        """Take note that this one lasts."""
        self.trouble = ""
        self._delays = delays(self._interval)
        self._log_connected(engine)

    def end(self, error: EngineError) -> None:
        """Take note that it ended, or that there was none."""
        now = self._clock.monotonic()
        if not isinstance(error, StreamEndedError):
            self.trouble = error.reason
            self._log_lost(error)
            return
        if now - self._ended_at > _CALM_SECONDS:
            self._log_lost(error)
        if now - self._since >= _PROBATION_SECONDS:
            self.trouble = ""
            self._delays = delays(self._interval)
        self._ended_at = now

    def next_delay(self) -> float:
        """Return seconds to wait before the next try."""
        return next(self._delays)

    def _log_lost(self, error: EngineError) -> None:
        if self._logged is not False:
            log.warning("engine.lost", reason=error.reason, **hint(error.hint))
        self._logged = False

    def _log_connected(self, engine: Engine) -> None:
        if not self._logged:
            log.info(
                "engine.connected",
                version=engine.version,
                api_version=engine.api_version,
                **hint(f"tried up to API {NEWEST_API} only" * engine.is_newer_than_tried),
            )
        self._logged = True


class Daemon:
    """Keeps the routes as the labels want them until something raises in the main thread."""

    def __init__(  # noqa: PLR0913 - the last two are for tests
        self,
        settings: Settings,
        kernel: Kernel,
        early: Early,
        health: Health,
        connect: Callable[[Ask], Engine],
        *,
        publish: Publish = lambda *_: None,
        lacking: str = "",
        clock: Clock = time,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        """Serve with what the sidecar was given; `lacking` is what it cannot do without, if any.

        Tell `publish` of our place, of what the gateway's tunnel is lost for, and of what its
        tunnels cover, when any of it may have changed.
        """
        self._publish = publish
        self._on_stop = settings.on_stop
        self._service = settings.gateway_service
        self._cuts_off = settings.on_tunnel_loss == "unreachable"
        self._lacking = lacking
        self._health = health
        self._connect = connect
        self._clock = clock
        self._wait_for = wait
        self._connection = Connection(settings.resync_interval, clock)
        self._schedule = Schedule(settings.resync_interval)
        self._networks = Networks(self._new_reconciler(settings, kernel, early), early)
        self._stream: EventStream | None = None
        self._changed = threading.Event()
        """Set if the gateway's links, routes or rules have since they were looked at."""
        self._moved = threading.Event()
        """Set if the gateway may be another one."""
        self._woken = threading.Event()
        """Set if either is, or an answer of the engine's is there."""
        self._questions = Questions(self._woken.set)
        self._is_rerouted = False
        """Whether the gateway's tunnel was looked at since the last pass began."""
        self._trigger = "startup"
        self._trouble = ""
        """What the last pass found to keep clients from their routes."""

    def _new_reconciler(self, settings: Settings, kernel: Kernel, early: Early) -> Reconciler:
        return Reconciler(
            kernel,
            settings,
            lambda tries: delay(tries, settings.resync_interval),
            announce=early.lead_to,
            news=self._note_change,
            moved=self._note_move,
            attend=self._attend_meanwhile,
            clock=self._clock.monotonic,
            time_of_day=self._clock.time,
        )

    def run(self) -> NoReturn:
        """Serve, and connect again whenever the engine goes away."""
        self._health.tell("has just been started")
        self._publish(None, {}, {})
        while True:
            try:
                with closing(self._connect(self._ask)) as engine:
                    self._serve(engine)
            except EngineError as error:
                self._connection.end(error)
                self._tell_health()
            self._pause(self._connection.next_delay())

    def leave(self) -> None:
        """Do with the clients' routes what is to be done before the end, as the option says."""
        if self._on_stop != "keep":
            self._networks.leave(withdraws=self._on_stop == "withdraw")

    def _serve(self, engine: Engine) -> NoReturn:
        """Run passes when they are due, for as long as the engine and its stream are there."""
        self._connection.begin(engine)
        self._schedule.begin(self._trigger)
        stream = self._listen(engine)
        try:
            while True:
                if scope := self._schedule.take(self._clock.monotonic()):
                    if scope.trigger == "resync":
                        # A stream can hang without ending, so it is believed for no longer.
                        stream.close()
                        stream = self._listen(engine)
                    self._pass(engine, scope)
                self._wait(engine, stream)
        finally:
            stream.close()

    def _listen(self, engine: Engine) -> EventStream:
        since = int(self._clock.time()) - _OVERLAP_SECONDS
        self._stream = engine.listen(since, self._networks.note)
        return self._stream

    def _note_change(self) -> None:
        """Take in, in any thread, that the gateway's links, routes or rules changed."""
        self._note(self._changed)

    def _note_move(self) -> None:
        """Take in, in any thread, that the gateway may be another task of its service."""
        self._note(self._moved)

    def _note(self, news: threading.Event) -> None:
        news.set()  # First: the stream may just be replaced by another.
        self._woken.set()
        if self._stream:
            self._stream.wake()

    def _wait(self, engine: Engine, stream: EventStream) -> None:
        """Wait until events come or something is due."""
        now = self._clock.monotonic()
        pause = min(self._schedule.next_at() - now, self._connection.probation)
        is_news = self._changed.is_set() or self._moved.is_set()
        events = stream.read(0.0 if is_news else max(0.0, pause))
        self._take_change()
        self._networks.take_early()
        if self._connection.probation <= 0:
            self._connection.believe(engine)
            self._tell_health()
        concerned = [event for event in events if self._networks.concerns(event)]
        urgent = any(map(self._networks.is_urgent, concerned))
        self._schedule.add(concerned, self._clock.monotonic(), urgent=urgent)

    def _take_change(self) -> None:
        if self._changed.is_set():
            self._changed.clear()
            self._schedule.note_change(self._clock.monotonic())
        if self._moved.is_set():
            self._moved.clear()
            self._schedule.note_move()

    def _pause(self, seconds: float) -> None:
        """Wait without an engine."""
        until = self._clock.monotonic() + seconds
        while self._clock.monotonic() < until:
            self._attend(until)

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the engine, which may be silent for long: then nothing else waits for it.

        Also within a pass: that goes on from what it was about to do.
        """
        if not self._networks.has_tunnel:  # Then there is nothing to see to meanwhile.
            return question()
        answer = self._questions.begin(question)
        while not answer.done():
            self._attend(self._clock.monotonic() + _ATTENDING_SECONDS)
        return answer.result()

    def _attend_meanwhile(self) -> None:
        """See to the gateway's tunnel, if it has one, in the middle of a pass."""
        if self._networks.has_tunnel:
            self._attend(self._clock.monotonic())

    def _attend(self, until: float) -> None:
        """Wait for news, and see to what needs no engine: the gateway's tunnel."""
        now = self._clock.monotonic()
        self._wait_for(self._woken, max(0.0, min(until, self._schedule.reroute_at) - now))
        self._woken.clear()  # First: what comes from here on is for the next time.
        self._take_change()
        now = self._clock.monotonic()
        if scope := self._schedule.take_reroute(now):
            self._finish(self._networks.reroute(scope), now)
            self._is_rerouted = True

    def _pass(self, engine: Engine, scope: Scope) -> None:
        begun = self._clock.monotonic()
        self._is_rerouted = False
        try:
            self._finish(self._networks.run(engine, scope), begun)
        finally:
            if self._is_rerouted:  # What was done after that may have been decided before.
                self._schedule.note_change(self._clock.monotonic())
        self._trigger = "reconnect"

    def _finish(self, report: Report, begun: float) -> None:
        """Take in what a pass found."""
        now = self._clock.monotonic()
        self._schedule.finish(report, now)
        self._publish(self._networks.sidecar, report.lost, self._networks.coverage)
        if report.is_done:
            self._networks.learn(report)
            _log_pass(report, now - begun)
        self._trouble = _trouble(report) or (self._cuts_off and _tunnel_trouble(report)) or ""
        self._tell_health()

    @property
    def _is_task(self) -> bool:
        """Whether the gateway is a service's, and so are we most likely."""
        place = self._networks.sidecar
        return bool(self._service or (place and place.service))

    def _tell_health(self) -> None:
        # A swarm makes a task anew that is not healthy: then only what that mends counts.
        others = "" if self._is_task else self._trouble or self._lacking
        if trouble := self._connection.trouble or others:
            self._health.tell(trouble)
        else:
            now = self._clock.monotonic()
            self._health.tell("", self._schedule.full_due(now), now)


def _log_pass(report: Report, seconds: float) -> None:
    trigger = report.scope.trigger
    tell = log.info if report.changed or trigger == "startup" else log.debug
    tell(
        "pass.finished",
        trigger=trigger,
        clients=report.clients,
        routes=report.routes,
        changed=report.changed,
        refused=report.refused,
        failed=len(report.failing),
        duration_ms=round(seconds * 1000, 1),
    )


def _trouble(report: Report) -> str:
    """Return what keeps all clients from their routes.

    What one client cannot have is told in the log and by `status`; others wait for our health.
    """
    if isinstance(report.gateway, Unknown):
        return report.gateway.reason
    if isinstance(report.gateway, Lost):
        name = report.gateway.gateway.container
        return f"the gateway {name} is lost, see gateway.lost in the log"
    more = any(work.why is Why.MORE for work in report.unfinished)
    return "routes are still to be set" if more else ""


def _tunnel_trouble(report: Report) -> str:
    """Return since when the gateway's tunnel is lost, and for what."""
    if not report.lost or isinstance(report.gateway, Unknown):
        return ""
    since = datetime.fromtimestamp(min(report.lost.values()), UTC)
    name = report.gateway.gateway.container
    return f"the tunnel of {name} is lost since {since:%Y-%m-%dT%H:%M:%SZ}: {shown(report.lost)}"
