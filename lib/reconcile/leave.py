"""The end: what becomes of the routes that stand because of us when we are stopped.

The engine may be gone by then, so it is asked nothing: what was put where is remembered, and the
kernel says what of it is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from lib import advice
from lib.errors import NetnsError, NetnsGoneError
from lib.model import Route
from lib.reconcile import failures
from lib.reconcile.namespace import (
    MAX_STEPS,
    VANISHED,
    Namespace,
    by_stage,
    is_in,
    log_done,
    values_of,
)
from lib.routing.plan import chain, plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import TypeGuard

    from lib.kernel.access import Kernel
    from lib.kernel.namespaces import NamespaceId
    from lib.kernel.shells import Conversation, Outcome
    from lib.model import Client, Inside, Thing
    from lib.reconcile.namespace import Task

log = structlog.get_logger()

TRIGGER = "stop"
_REASON = "the sidecar is stopped"
_SHOWN = 10
"""Clients that are named of those whose routes are left."""


class Leaving:
    """What is still to be done before the end, and the doing of it."""

    def __init__(
        self,
        kernel: Kernel,
        given: Iterable[tuple[NamespaceId, Mapping[Thing, Client]]],
        *,
        network: str,
        withdraws: bool,
    ) -> None:
        """Take what may stand where; without `withdraws` it becomes unreachable."""
        self._kernel = kernel
        self._given = dict(given)
        self._network = network
        self._withdraws = withdraws
        self._left: dict[NamespaceId, dict[Thing, Client]] = {
            place: dict(there) for place, there in self._given.items()
        }

    def visits(self) -> Iterator[Conversation]:
        """Yield the visit to each namespace."""
        return (self._visit(place) for place in self._given)

    def tell(self) -> None:
        """Tell what is left, if anything is."""
        clients = {one.container_id: one for left in self._left.values() for one in left.values()}
        if not clients:
            return
        names = sorted(client.container for client in clients.values())
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        log.warning(
            "routes.left",
            routes=sum(isinstance(thing, Route) for left in self._left.values() for thing in left),
            clients=len(names),
            reason=f"still as they were: those of {', '.join(names[:_SHOWN])}{more}",
            hint=advice.WITHDRAW,
        )

    def _visit(self, place: NamespaceId) -> Conversation:
        namespace = Namespace(place.path, place, given=dict(self._given[place]))
        try:
            self._kernel.confirm(place)  # While the engine removes it, there still is a file.
            self._kernel.check(place.path, own=namespace.is_gateways)
            here = self._kernel.read(place.path, rules=namespace.has_rules)
            failed: set[object] = set()
            for due in by_stage(self._tasks(namespace, place, here), failed):
                for start in range(0, len(due), MAX_STEPS):
                    part = due[start : start + MAX_STEPS]
                    self._kernel.confirm(place)
                    outcomes = yield [task.command for task in part]
                    failed |= self._record(namespace, place, list(zip(part, outcomes, strict=True)))
        except NetnsGoneError:
            del self._left[place]
        except NetnsError as error:
            for client in namespace.clients:
                failures.log_failure(failures.of_entry(client, place.path, error))

    def _tasks(self, namespace: Namespace, place: NamespaceId, here: Inside) -> list[Task]:
        """Return what is to be done with that of the given things that is there.

        Without the route to a network of its own the container would have no way there: it stays.
        """
        actual: tuple[Thing, ...] = (*here.routes, *here.rules)
        connected = {address.network for address in here.addresses}
        there = {
            thing: who
            for thing, who in namespace.given.items()
            if thing in actual and thing.place not in who.others
        }
        if not self._withdraws:
            there = {
                thing: who
                for thing, who in there.items()
                if _leads(thing) and not who.leads_past(thing)
            }
        self._left[place] = dict(there)
        due = [thing for thing in there if not is_in(thing, connected)]
        if self._withdraws:
            steps = [step._replace(reason=_REASON) for step in plan((), actual, due)]
            return [namespace.task(step, there[step.thing]) for step in steps]
        whose = {thing.place: client for thing, client in there.items()}
        shut = [one.plain._replace(gateway=None, kind="unreachable") for one in due if _leads(one)]
        return [namespace.task(step, whose[step.thing.place]) for step in plan(shut, actual)]

    def _record(
        self, namespace: Namespace, place: NamespaceId, ended: Iterable[tuple[Task, Outcome]]
    ) -> set[object]:
        """Log how commands ended, remember what is left, and return the chains where one failed."""
        failed: set[object] = set()
        for task, outcome in ended:
            step = task.step
            if not outcome.exit_code:
                log_done(namespace, task, outcome, network=self._network, trigger=TRIGGER)
            elif failures.is_vanished(step, outcome):
                log.debug(VANISHED[type(step.thing)], **values_of(namespace, task))
            else:
                self._kernel.confirm(place)  # Else it ended under the command.
                failures.log_failure(
                    failures.of_command(task.client, place.path, step.thing, outcome)
                )
                failed.add(chain(step))
                continue
            left = self._left[place]
            self._left[place] = {
                one: who for one, who in left.items() if one.place != step.thing.place
            }
        return failed


def _leads(thing: Thing) -> TypeGuard[Route]:
    """Tell whether it is a route that leads anywhere."""
    return isinstance(thing, Route) and thing.kind != "unreachable"
