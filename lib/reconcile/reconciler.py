"""One pass: where the gateway is, who asks for what, and a visit to each namespace.

Idempotent, and the only way in which routes come about after a start: whatever happens merely
triggers a pass.
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from lib.engine.asking import Running
from lib.logs.progress import with_progress
from lib.reconcile import failures
from lib.reconcile.clients import Clients
from lib.reconcile.covered import Covered
from lib.reconcile.gateway import GatewayTracker
from lib.reconcile.guard import Guard
from lib.reconcile.leave import Leaving
from lib.reconcile.ledger import Ledger
from lib.reconcile.namespace import Namespace, Visitor, gather, others_in
from lib.reconcile.report import Found, Lost, Report, Scope, Unknown
from lib.reconcile.reporting import Reporting
from lib.reconcile.rerouting import Rerouting
from lib.reconcile.tunnels import Tunnels
from lib.routing import desired, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from lib.engine.client import Engine
    from lib.kernel.access import Kernel
    from lib.kernel.namespaces import NamespaceId
    from lib.model import Container, Coverage, Desired, EarlyClient, Event, Gateway, Sidecar
    from lib.reconcile.clients import Located
    from lib.reconcile.ledger import Given
    from lib.settings import Settings


class Reconciler:
    """Makes what is be what the labels ask for."""

    def __init__(  # noqa: PLR0913 - the last two are for tests
        self,
        kernel: Kernel,
        settings: Settings,
        delay: Callable[[int], float],
        *,
        announce: Callable[[Gateway | None, Path | None], None] = lambda *_: None,
        news: Callable[[], None] | None = None,
        moved: Callable[[], None] | None = None,
        attend: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
        place: Sidecar | None = None,
    ) -> None:
        """Wait `delay(tries)` seconds after failed tries; `announce` tells of the gateway.

        `news` is called, in a thread, when a reroute is due, `moved` when a full pass is, as the
        gateway may be another one. `attend` is called again and again within a pass, and may
        reroute. Without a `place`, that is found out.
        """
        self._another = partial(
            Reconciler,
            kernel,
            settings,
            delay,
            news=news,
            moved=moved,
            attend=attend,
            clock=clock,
            time_of_day=time_of_day,
        )
        self._kernel = kernel
        self._clock = clock
        self._attend = attend
        self._announce = announce
        self._announced: tuple[Gateway | None, Path | None, str] = (None, None, "")
        """The gateway, the directory of namespaces, and the file of its own."""
        self._gateway = GatewayTracker(
            settings, clock, self._lead, time_of_day, moved=moved, place=place
        )
        self._tunnels = Tunnels(kernel, settings, time_of_day, tell=news)
        self._covered = Covered(kernel, settings, clock)
        self._guard = Guard(kernel) if settings.gateway_guard == "on" else None
        self._clients = Clients(kernel)
        self._ledger = Ledger(delay)
        self._reporting = Reporting()
        self._complete: set[str] = set()
        """Ids of containers that were given all their routes early, and have not started yet."""

    def beside(
        self, place: Sidecar, announce: Callable[[Gateway | None, Path | None], None]
    ) -> Reconciler:
        """Return one for another network of the same gateway."""
        return self._another(announce=announce, place=place)

    @property
    def place(self) -> Sidecar | None:
        """Our place, with the gateway as it was when that was found out; None until then."""
        return self._gateway.place

    @property
    def sidecar(self) -> Sidecar | None:
        """Our place, with the gateway as it was last found; None until it is known."""
        return self._gateway.sidecar

    @property
    def coverage(self) -> Coverage:
        """What the gateway's tunnels cover."""
        return self._covered.now

    def run(self, engine: Engine, scope: Scope) -> Report:
        """Do a pass; raise EngineError if the engine does not answer."""
        if scope.is_reroute:
            return self.reroute(scope)
        shut = self.shut(scope)
        before = self._gateway.state
        state, running = before, Running(engine)
        if scope.is_full or self._concerns_all(scope):
            state = self._gateway.update(engine, running)
            scope = scope._replace(is_full=True)
        if isinstance(state, Unknown):
            return Report(scope, state, unfinished=self._ledger.unfinished, is_done=False)
        listed = self._list(running, scope)
        chosen = self._choose(listed, scope, is_news=state != before)
        served: list[Desired] = []
        network = state.gateway.network
        visitor = Visitor(
            engine, self._kernel, self._ledger, self._reporting, network, scope.trigger
        )
        found = self._namespaces(engine, scope, chosen, served)
        visits = with_progress(found, len(chosen), "clients looked at")
        self._kernel.serve(visitor.visit(namespace) for namespace in visits)
        names = _names(chosen) | {state.gateway.container_id: state.gateway.container}
        self._ledger.finish(names, self._clock())
        if scope.is_full:
            self._tunnels.end()
        self._tunnels.tell()
        clients = [client for wanted in served for client in wanted.clients]
        return Report(
            scope,
            state,
            clients=len(clients),
            routes=sum(len(client.routes) for client in clients),
            changed=visitor.changed + shut,
            refused=sum(not one.served for client in clients for one in client.refusals),
            unfinished=self._ledger.unfinished,
            again_at=min(self._gateway.again_at, self._covered.again_at),
            listed=listed,
            mtus=self._tunnels.mtus,
            lost=self._tunnels.lost,
        )

    @property
    def has_tunnel(self) -> bool:
        """Whether the gateway has a tunnel, which may be lost at any moment, or had one."""
        return self._tunnels.is_any

    def reroute(self, scope: Scope) -> Report:
        """Look where the gateway sends what, and lead what stands by that; ask the engine nothing.

        What is not there yet is a pass's to set. A pass may be under way, and wait for the engine.
        """
        gateway, *_ = self._announced
        if not gateway or not gateway.addresses:
            state = self._gateway.state
            is_done = not isinstance(state, Unknown)
            return Report(scope, state, unfinished=self._ledger.unfinished, is_done=is_done)
        lost, mtus, covered = self._tunnels.lost, self._tunnels.mtus, self._covered.now
        self._look()
        resized = {dst for dst, _ in mtus.items() ^ self._tunnels.mtus.items()}
        applied = self._applied(gateway)
        work = Rerouting(self._kernel, self._ledger, applied, self._tunnels.mtus, resized)
        self._kernel.serve(work.visits())
        is_other = self._covered.is_asked and covered != self._covered.now
        return Report(
            scope,
            self._gateway.state,
            clients=len(work.clients),
            routes=work.changed,
            changed=work.changed,
            unfinished=self._ledger.unfinished,
            mtus=self._tunnels.mtus,
            lost=self._tunnels.lost,
            is_rerouted=bool(resized) or is_other or lost != self._tunnels.lost,
        )

    def shut(self, scope: Scope) -> int:
        """Lead nobody to a gateway that ended; return how many routes changed.

        Until the engine tells of it, which it does not while it starts that again, packets may
        leave by it another way.
        """
        gateway = self._gateway.end(scope.ended)
        if not gateway:
            return 0
        work = Rerouting(self._kernel, self._ledger, gateway, {})
        self._kernel.serve(work.visits(scope.trigger))
        return work.changed

    def leave(self, *, withdraws: bool) -> None:
        """Take back what stands because of us, or make it unreachable; ask the engine nothing.

        Whatever ends that, tell what is left.
        """
        leaving = Leaving(
            self._kernel,
            self._ledger.may_stand(),
            network=self._gateway.network,
            withdraws=withdraws,
        )
        try:
            self._kernel.serve(leaving.visits())
        finally:
            leaving.tell()

    def take_early(self, early: EarlyClient) -> None:
        """Take in what a client was given before it ran."""
        if place := self._kernel.identify(early.client.netns):
            self._ledger.put_early(place, early, self._clock())
            if early.complete:
                self._complete.add(early.client.container_id)

    def concerns(self, event: Event) -> bool:
        """Tell whether an event can change what should be; the end of most containers cannot."""
        if event.action == "create":
            return False
        ends = event.action in {"die", "destroy"}
        if self._gateway.depends_on(event):
            return True
        return not ends or event.container_id in self._clients.sharing

    def depends_on(self, event: Event) -> bool:
        """Tell whether an event is about the gateway, or about another sidecar."""
        return event.container_id in self._gateway.ids

    def is_urgent(self, event: Event) -> bool:
        """Tell whether an event cannot wait for more of its kind.

        Events of networks can: mostly, the container is starting. So can the start of a container
        that has its routes already.
        """
        if self.depends_on(event):
            return True
        is_attaching = event.action in {"connect", "disconnect"}
        return not is_attaching and event.container_id not in self._complete

    def _lead(self, gateway: Gateway | None, directory: Path | None) -> None:
        """Take the gateway for what it is now, and announce it with where it sends what."""
        self._announced = gateway, directory, self._gateway.netns
        self._look()

    def _look(self) -> None:
        gateway, directory, netns = self._announced
        there = gateway if gateway and gateway.addresses else None
        self._tunnels.look(there, netns)
        self._covered.look(there, netns)
        self._tunnels.tell()
        self._announce(self._applied(gateway) if gateway else None, directory)

    def _applied(self, gateway: Gateway) -> Gateway:
        return self._covered.applied(self._tunnels.applied(gateway))

    def _concerns_all(self, scope: Scope) -> bool:
        is_found = isinstance(self._gateway.state, Found)
        return not is_found or bool(scope.ids & {*self._gateway.ids, *self._clients.sharing})

    def _list(self, running: Running, scope: Scope) -> tuple[Container, ...]:
        """List the containers in scope, and forget in one place those that are gone."""
        asked = None if scope.is_full else scope.ids
        listed = self._clients.list(running, asked)
        now = self._clock()
        # What failed in the gateway's own namespace is not to be forgotten.
        there = [*self._gateway.ids, *(container.id for container in listed)]
        present = self._ledger.keep(there, asked, now)
        self._reporting.keep(present)
        self._complete -= scope.ids | present
        is_auto = any(serving.asks_auto(one.labels) for one in listed)
        self._covered.is_asked = is_auto or (self._covered.is_asked and asked is not None)
        if asked is None:
            self._tunnels.begin()
            self._ledger.keep_namespaces(lambda place: self._kernel.identify(place.path) == place)
        return listed

    def _choose(
        self, listed: Sequence[Container], scope: Scope, *, is_news: bool
    ) -> list[Container]:
        """Return whom a pass is for, by name: of those that failed, who is due or has changed.

        A gateway that has changed is news for all.
        """
        now = self._clock()
        chosen = [
            container
            for container in listed
            if is_news
            or container.id in scope.ids
            or not self._ledger.is_put_off(container.id, now)
        ]
        return sorted(chosen, key=lambda one: (one.name, one.id))

    def _namespaces(
        self, engine: Engine, scope: Scope, chosen: Sequence[Container], served: list[Desired]
    ) -> Iterator[Namespace]:
        """Yield the namespaces where something is wanted, or was put for these and may not be.

        Each once, and as soon as it is known: while commands run in one, the engine is asked for
        the next. What is wanted is added to `served` meanwhile.
        """
        state = self._gateway.state
        assert isinstance(state, Found | Lost)  # noqa: S101 - else nobody is visited
        before: dict[str, list[tuple[NamespaceId, Given]]] = defaultdict(list)
        for place, given in self._ledger.put_before({*_names(chosen), state.gateway.container_id}):
            before[place.path].append((place, given))
        if guarded := self._guarded(state):
            guarded.take_before(before.pop(guarded.path, ()))
            yield guarded
        gateway = state.gateway
        self._tunnels.expect(dst for one in chosen for dst in desired.asked(one, gateway))
        for batch in self._clients.batches(chosen):
            self._attend()
            located = self._clients.locate(engine, batch, scope.ids)
            wanted = self._wanted(located, state)
            asked = (one.dst for each in wanted.clients for one in each.routes)
            if self._tunnels.learn(asked, through=self._covered.now.networks or ()):
                wanted = self._wanted(located, state)
            served.append(wanted)
            self._reporting.remarks(wanted)
            self._note_located(wanted, located, batch)
            namespaces = gather(wanted)
            for _, owner in located.snapshot.clients:
                path = owner.sandbox_key
                if path in before:
                    namespaces.setdefault(path, Namespace(path, others=others_in(wanted, path)))
                if path in namespaces:
                    namespaces[path].identity = located.identities.get(path)
                    namespaces[path].attached = owner.attached
            for path, namespace in namespaces.items():
                namespace.mtus = self._tunnels.mtus_of(namespace.destinations)
                namespace.take_before(before.pop(path, ()))
                yield namespace
        for path, entries in before.items():
            namespace = Namespace(path, identity=entries[0][0])
            namespace.take_before(entries)
            yield namespace

    def _wanted(self, located: Located, state: Found | Lost) -> Desired:
        return desired.compute(located.snapshot, self._applied(state.gateway))

    def _guarded(self, state: Found | Lost) -> Namespace | None:
        """Return the gateway's namespace, if it is to have a guard and can have one."""
        place, owner = self._gateway.sidecar, self._gateway.owner
        if not self._guard or isinstance(state, Lost) or not place or not owner:
            return None
        return self._guard.namespace(state.gateway, place.gateway, owner)

    def _note_located(self, wanted: Desired, located: Located, batch: Sequence[Container]) -> None:
        """Remember who could not be located, and that nothing can fail for who wants nothing."""
        left = (one.left for one in wanted.skipped if one.left)
        served = (client for client in wanted.clients if client.routes)
        visited = {client.container_id for client in (*served, *left)}
        failed = {failure.container_id for failure in located.failures}
        for key in _names(batch).keys() - visited - failed:
            self._ledger.keep_failures(key, ())
        place = self._gateway.place
        tells = place and not place.before  # Of several networks, the first.
        for failure in located.failures:
            if self._ledger.fail(failure) and tells:
                failures.log_failure(failure)


def _names(containers: Iterable[Container]) -> dict[str, str]:
    return {container.id: container.name for container in containers}
