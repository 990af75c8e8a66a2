"""One pass: a survey (snapshot -> desired -> actual -> plan), then apply -> report.

Idempotent, and the only way in which routes come about: whatever happens merely triggers a pass.
Each namespace stands for itself: what fails in one is reported and keeps no other from its routes.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from lib.logs.progress import with_progress
from lib.model import Client, Gateway, Report, Route
from lib.reconcile.reporting import Reporting, who
from lib.reconcile.survey import VANISHED, Namespace, Survey, Task, gather

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lib.engine.client import Engine
    from lib.kernel.shells import Outcome, Shells
    from lib.model import Container, Event, Network
    from lib.settings import Settings

log = structlog.get_logger()

MAX_STEPS = 100
"""Steps in one namespace in one pass; the next pass goes on where this one ended."""

_EARLY = 30.0
"""Seconds after which a client that was given routes early should run."""

_DONE = {"replace": "route.replaced", "del": "route.deleted"}


class Reconciler:
    """Makes what is be what the labels ask for; remembers what it gave, to take it back."""

    def __init__(self, shell: Shells, settings: Settings) -> None:
        self._shell = shell
        self._reporting = Reporting()
        self.survey = Survey(settings, self._reporting.failure)
        self._given: dict[str, dict[Network, tuple[Route, Client]]] = {}
        self._early: dict[str, tuple[Client, float]] = {}
        self.pending: frozenset[str] = frozenset()
        """Ids of containers that want more steps than one pass does."""
        self.adopted: frozenset[str] = frozenset()
        """Ids of containers where `unreachable` was found and left: it may be another sidecar's,
        whose network they have just left, and about to be taken back."""

    @property
    def failing(self) -> frozenset[str]:
        """Ids of containers for which something failed; only a pass of their own tries again."""
        return self._reporting.failing

    @property
    def unfinished(self) -> frozenset[str]:
        """Ids of containers that want a pass soon."""
        return self.failing | self.pending | self.adopted

    def run(self, engine: Engine, trigger: str, only: frozenset[str] | None = None) -> Report:
        """Do a pass and return what it came to; `only` limits it to those containers.

        Raises NotReadyError while there was no gateway yet, EngineError if the engine does not
        answer.
        """
        asked_for = only or frozenset()
        survey = self.survey
        before = gateway = survey.gateway
        if not gateway or gateway.lost or not only or only & {gateway.container_id, *survey.tied}:
            gateway, only = survey.find_gateway(engine), None
        scope = self._scope(engine, only, asked_for)
        ids = {container.id for container in scope}
        self._reporting.begin(ids)
        self.pending -= ids
        self.adopted -= ids
        self._own_up(ids)
        wanted = survey.wanted(engine, scope, asked_for)
        self._reporting.remarks(wanted)
        spaces = self._add_given(gather(wanted.clients), ids)
        tasks = self._plan(survey.read(engine, self._enter(engine, spaces)))
        changed = self._apply(engine, tasks, gateway, trigger)
        if gateway != before:
            self.pending |= self.failing  # They must not wait until their next try is due.
        return Report(
            clients=len(wanted.clients),
            routes=sum(len(client.routes) for client in wanted.clients),
            changed=changed,
            refused=sum(not entry.served for client in wanted.clients for entry in client.refusals),
            failed=len(self.failing),
        )

    def gave(self, client: Client) -> None:
        """Take note of routes that a client was given before it ran; passes verify them after."""
        self._early[client.container_id] = client, time.monotonic() + _EARLY

    def was_early(self, container_id: str) -> bool:
        """Tell whether a container was given routes before it ran, so that its pass can wait."""
        return container_id in self._early

    def concerns(self, event: Event) -> bool:
        """Tell whether an event can change what should be; the end of most containers cannot."""
        ends, gateway = event.action in {"die", "destroy"}, self.survey.gateway
        many = {gateway.container_id if gateway else "", *self.survey.tied}
        return not ends or event.container_id in many

    def _scope(
        self, engine: Engine, only: frozenset[str] | None, asked_for: frozenset[str]
    ) -> list[Container]:
        """List the containers that a pass is for: of those that failed, only who is asked for."""
        listed = self.survey.containers(engine, only)
        present = {container.id for container in listed}
        if only is None:
            self._reporting.forget_all_but(present)
            self.pending &= present
            self.adopted &= present
        self._reporting.present(present)
        left_out = self.failing - asked_for
        return [container for container in listed if container.id not in left_out]

    def _own_up(self, running: set[str]) -> None:
        """Count as given what was given early to those that run by now, or never came to run."""
        now = time.monotonic()
        for key, (client, until) in tuple(self._early.items()):
            if key in running or now > until:
                given = self._given.setdefault(client.netns, {})
                given.update({route.dst: (route, client) for route in client.routes})
                del self._early[key]

    def _add_given(self, spaces: dict[str, Namespace], scope: set[str]) -> Iterable[Namespace]:
        """Add what was given to clients that may not want it any more."""
        for path, given in self._given.items():
            space = spaces.setdefault(path, Namespace(path))
            for route, client in given.values():
                if client.container_id in scope or not self._reporting.knows(client.container_id):
                    space.given[route] = client
        return [space for space in spaces.values() if space.wanted or space.given]

    def _enter(self, engine: Engine, spaces: Iterable[Namespace]) -> Iterator[Namespace]:
        for space in spaces:
            if self.survey.can_enter(engine, space):
                yield space
            else:
                self._given.pop(space.path, None)

    def _plan(self, spaces: Iterable[Namespace]) -> list[Task]:
        tasks: list[Task] = []
        pending: set[str] = set()
        for space in spaces:
            due = list(space.tasks())
            tasks += due[:MAX_STEPS]
            pending.update(task.client.container_id for task in due[MAX_STEPS:])
            self._tell_direct(space)
            given = self._given.setdefault(space.path, {})
            for route in space.given.keys() - set(space.actual):
                given.pop(route.dst, None)  # It is gone; a like one would be somebody else's.
            for route, client in space.wanted.items():
                if route in space.actual:
                    if route.kind == "unreachable" and given.get(route.dst, (None,))[0] != route:
                        self.adopted |= {client.container_id}
                    given[route.dst] = (route, client)
        self.pending |= pending
        return tasks

    def _tell_direct(self, space: Namespace) -> None:
        for client in space.clients():
            wanted = [route for route, whose in space.wanted.items() if whose is client]
            self._reporting.direct(client, space.direct(wanted))

    def _apply(self, engine: Engine, tasks: Sequence[Task], gateway: Gateway, trigger: str) -> int:
        done: Counter[Client] = Counter()
        for task, outcome in with_progress(self._run(tasks), len(tasks), "routes set"):
            client, route = task.client, task.step.route
            values = {"dst": str(route.dst), "netns": task.netns}
            if task.step.verb == "del" and VANISHED in outcome.output:
                log.debug("route.vanished", **who(client), **values, command=task.command)
                continue
            if outcome.exit_code:
                self.survey.fail_command(engine, client, outcome, **values)
                continue
            done[client] += 1
            self._note(task)
            log.info(
                _DONE[task.step.verb],
                **who(client),
                network=gateway.network,
                **values,
                gateway=str(route.gateway or route.kind),
                command=task.command,
                trigger=trigger,
                duration_ms=round(outcome.duration_ms, 1),
            )
        for client in done:
            shared = {"shared_with": client.shared_with} if client.shared_with else {}
            log.info("client.routed", **who(client), **shared, routes=len(client.routes))
        return done.total()

    def _run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Outcome]]:
        """Run replacements first, then deletions, but none where the replacement failed."""
        failed = set()
        for verb in ("replace", "del"):
            due = [task for task in tasks if task.step.verb == verb and task.target not in failed]
            outcomes = self._shell.run([task.command for task in due])
            for task, outcome in zip(due, outcomes, strict=True):
                if outcome.exit_code:
                    failed.add(task.target)
                yield task, outcome

    def _note(self, task: Task) -> None:
        """Remember what stands in a namespace because of us."""
        given, route = self._given[task.netns], task.step.route
        if task.step.verb == "replace":
            given[route.dst] = (route, task.client)
        elif given.get(route.dst, (None,))[0] == route:
            del given[route.dst]
