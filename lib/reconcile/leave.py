"""The end: what becomes of the routes that stand because of us when we are stopped.

The engine may be gone by then, so it is asked nothing: what was put where is remembered, and the
kernel says what of it is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from lib import advice
from lib.errors import NetnsError, NetnsGoneError
from lib.model import Step
from lib.reconcile import failures
from lib.reconcile.namespace import MAX_STEPS, Namespace, log_done, values_of
from lib.routing.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lib.kernel.access import Kernel
    from lib.kernel.namespaces import NamespaceId
    from lib.kernel.shells import Conversation, Outcome
    from lib.model import Client, Inside, Network, Route
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
        given: Iterable[tuple[NamespaceId, Mapping[Route, Client]]],
        *,
        network: str,
        withdraws: bool,
    ) -> None:
        """Take what may stand where; without `withdraws` it becomes unreachable."""
        self._kernel = kernel
        self._given = dict(given)
        self._network = network
        self._withdraws = withdraws
        self._left: dict[NamespaceId, dict[Network, Client]] = {
            place: {route.dst: client for route, client in there.items()}
            for place, there in self._given.items()
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
            routes=sum(map(len, self._left.values())),
            clients=len(names),
            reason=f"still as they were: those of {', '.join(names[:_SHOWN])}{more}",
            hint=advice.WITHDRAW,
        )

    def _visit(self, place: NamespaceId) -> Conversation:
        namespace = Namespace(place.path, place, given=dict(self._given[place]))
        try:
            self._kernel.confirm(place)  # While the engine removes it, there still is a file.
            self._kernel.check(place.path)
            tasks = self._tasks(namespace, place, self._kernel.read(place.path))
            for start in range(0, len(tasks), MAX_STEPS):
                part = tasks[start : start + MAX_STEPS]
                self._kernel.confirm(place)
                outcomes = yield [task.command for task in part]
                self._record(namespace, place, list(zip(part, outcomes, strict=True)))
        except NetnsGoneError:
            del self._left[place]
        except NetnsError as error:
            for client in namespace.clients:
                failures.log_failure(failures.of_entry(client, place.path, error))

    def _tasks(self, namespace: Namespace, place: NamespaceId, here: Inside) -> list[Task]:
        """Return what is to be done with that of the given routes that is there.

        Without the one to a network of its own the container would have no way there: it stays.
        """
        connected = {address.network for address in here.addresses}
        there = {route: who for route, who in namespace.given.items() if route in here.routes}
        if not self._withdraws:
            there = {route: who for route, who in there.items() if route.kind != "unreachable"}
        whose = {route.dst: client for route, client in there.items()}
        self._left[place] = dict(whose)
        due = [route for route in there if route.dst not in connected]
        steps: Sequence[Step] = [Step("del", route, _REASON) for route in due]
        if not self._withdraws:
            lost = [route.plain._replace(gateway=None, kind="unreachable") for route in due]
            steps = plan(lost, here.routes)
        return [namespace.task(step, whose[step.route.dst]) for step in steps]

    def _record(
        self, namespace: Namespace, place: NamespaceId, ended: Iterable[tuple[Task, Outcome]]
    ) -> None:
        """Log how commands ended, and remember what is left."""
        for task, outcome in ended:
            if not outcome.exit_code:
                log_done(namespace, task, outcome, network=self._network, trigger=TRIGGER)
            elif task.step.verb == "del" and failures.is_vanished(outcome):
                log.debug("route.vanished", **values_of(namespace, task))
            else:
                self._kernel.confirm(place)  # Else it ended under the command.
                failures.log_failure(
                    failures.of_command(task.client, place.path, task.step.route, outcome)
                )
                continue
            self._left[place].pop(task.step.route.dst, None)
