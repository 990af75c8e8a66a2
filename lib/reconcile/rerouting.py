"""Routes that stand because of us, changed at once where the gateway or its tunnel comes or goes.

What was put where is remembered, so the engine is asked nothing: it takes some milliseconds. The
full pass that follows verifies it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from lib.errors import NetnsError
from lib.model import Route
from lib.reconcile.ledger import Given
from lib.reconcile.namespace import MAX_STEPS, Namespace, log_done, values_of
from lib.reconcile.report import TUNNEL
from lib.routing import tunnels
from lib.routing.plan import plan
from lib.routing.size import sized

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from lib.kernel.access import Kernel
    from lib.kernel.namespaces import NamespaceId
    from lib.kernel.shells import Conversation, Outcome
    from lib.model import Client, Gateway, Inside, Network, Thing
    from lib.reconcile.ledger import Ledger
    from lib.reconcile.namespace import Task

log = structlog.get_logger()


class Rerouting:
    """What is to be changed because of the gateway or its tunnel, and the doing of it."""

    def __init__(
        self,
        kernel: Kernel,
        ledger: Ledger,
        gateway: Gateway,
        mtus: Mapping[Network, int],
        resized: Collection[Network] = (),
    ) -> None:
        """Lead there, with these sizes (bytes); `resized` had others before."""
        self._kernel = kernel
        self._ledger = ledger
        self._gateway = gateway
        self._mtus = mtus
        self._resized = resized
        self._trigger = TUNNEL
        self.changed = 0
        self.clients: set[str] = set()
        """Ids of those whose routes changed."""

    def visits(self, trigger: str = TUNNEL) -> Iterator[Conversation]:
        """Yield the visit to each namespace where anything is to be changed, for that reason."""
        self._trigger = trigger
        for place, given in [*self._ledger.may_stand()]:
            through = {one: who for one, who in given.items() if not who.leads_past(one)}
            due = {thing: who for thing, who in through.items() if self._is_due(thing)}
            if due:
                yield self._visit(place, due)

    def _is_due(self, thing: Thing) -> bool:
        now = tunnels.led(thing, self._gateway)
        is_resized = isinstance(thing, Route) and thing.dst in self._resized
        return is_resized or now.plain != thing.plain

    def _visit(self, place: NamespaceId, given: Mapping[Thing, Client]) -> Conversation:
        namespace = Namespace(place.path, place)
        try:
            self._kernel.check(place.path)
            here = self._kernel.read(place.path)
            tasks = self._tasks(namespace, given, here)
            for start in range(0, len(tasks), MAX_STEPS):
                part = tasks[start : start + MAX_STEPS]
                self._kernel.confirm(place)
                coming = (task for task in part if task.step.verb != "del")
                self._ledger.begin(place, (Given(one.step.thing, one.client) for one in coming))
                outcomes = yield [task.command for task in part]
                for task, outcome in zip(part, outcomes, strict=True):
                    self._record(namespace, place, task, outcome)
                self._ledger.end(place)
        except NetnsError as error:
            log.debug("client.gone", container=_names(given), reason=error.reason)

    def _tasks(
        self, namespace: Namespace, given: Mapping[Thing, Client], here: Inside
    ) -> list[Task]:
        """Return what is to be done with that of the given things that is there."""
        whose: dict[Thing, Client] = {}
        for thing, client in given.items():
            new = tunnels.led(thing, self._gateway)
            if isinstance(new, Route) and thing in here.routes:
                whose[sized(new, here, self._mtus)] = client
        steps = plan(whose, here.routes)
        return [namespace.task(one, whose[one.thing]) for one in steps if one.thing in whose]

    def _record(
        self, namespace: Namespace, place: NamespaceId, task: Task, outcome: Outcome
    ) -> None:
        if outcome.exit_code:  # The pass tells of it, if it fails there too.
            log.debug("route.missed", **values_of(namespace, task), reason=outcome.output)
            return
        self._ledger.put(place, task.step.thing, task.client)
        self.changed += 1
        self.clients.add(task.client.container_id)
        log_done(namespace, task, outcome, network=self._gateway.network, trigger=self._trigger)


def _names(given: Mapping[Thing, Client]) -> str:
    return ", ".join(sorted({client.container for client in given.values()}))
