"""The networks that are served: what is done on each for who starts, and for who runs.

The first one finds out who we are, and so which others there are. Of who is on several each knows
by their order whose that is (`lib.routing.desired`), so none asks what another does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from lib.reconcile.report import joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from lib.engine.client import Engine
    from lib.model import Container, Coverage, EarlyClient, Event, Gateway, Network, Sidecar
    from lib.reconcile.reconciler import Reconciler
    from lib.reconcile.report import Report, Scope


class Early(Protocol):
    """Routes before the first instruction, as far as is known of them here."""

    def beside(self) -> Early:
        """Return what does the same towards another gateway, from the same memory."""
        ...

    def lead_to(self, gateway: Gateway | None, directory: Path | None) -> None:
        """Take the gateway and the directory of namespaces as they are now."""
        ...

    def taken(self) -> Iterator[EarlyClient]:
        """Yield, once each, what clients were given."""
        ...

    def learn(self, running: Iterable[Container]) -> None:
        """Take in a listing of all clients that run."""
        ...

    def size(self, mtus: Mapping[Network, int]) -> None:
        """Take in how large packets to a destination may be (bytes)."""
        ...

    def note(self, event: Event) -> None:
        """Take in an event, in any thread."""
        ...

    def close(self) -> None:
        """Give nobody anything any more."""
        ...


class _Served(NamedTuple):
    """What is done on one network."""

    reconciler: Reconciler
    early: Early

    def take_early(self) -> None:
        for client in self.early.taken():
            self.reconciler.take_early(client)

    def run(self, engine: Engine, scope: Scope) -> Report:
        self.take_early()
        return self.reconciler.run(engine, scope)

    def reroute(self, scope: Scope) -> Report:
        self.take_early()
        return self.reconciler.reroute(scope)

    def leave(self, *, withdraws: bool) -> None:
        self.early.close()
        self.take_early()
        self.reconciler.leave(withdraws=withdraws)


class Networks:
    """All of them, in their order."""

    def __init__(self, first: Reconciler, early: Early) -> None:
        """Begin with the first, which does not know yet who we are."""
        self._each = [_Served(first, early)]

    @property
    def sidecar(self) -> Sidecar | None:
        """Our place on the first, with the gateway as it was last found; None until it is known."""
        places = (one.reconciler.sidecar for one in self._each)
        return next((place.each[0] for place in places if place), None)

    @property
    def coverage(self) -> Mapping[str, Coverage]:
        """What the gateway's tunnels cover, by the name of the network."""
        known = (one.reconciler for one in self._each)
        return {one.place.network: one.coverage for one in known if one.place}

    def run(self, engine: Engine, scope: Scope) -> Report:
        """Do a pass on each; raise EngineError if the engine does not answer.

        If the gateway ended, nobody waits for what the engine is asked for another network.
        """
        self.take_early()
        shut = sum(one.reconciler.shut(scope) for one in self._each)
        reports = [one.run(engine, scope) for one in self._each]
        self._each += (others := [*self._others()])
        found = joined([*reports, *(one.run(engine, scope) for one in others)])
        return found._replace(changed=found.changed + shut)

    def _others(self) -> Iterator[_Served]:
        """Yield what is to be done on the other networks, once it is known which there are."""
        reconciler, early = self._each[0]
        for place in reconciler.place.each[len(self._each) :] if reconciler.place else ():
            another = early.beside()
            yield _Served(reconciler.beside(place, another.lead_to), another)

    @property
    def has_tunnel(self) -> bool:
        """Whether the gateway has a tunnel, which may be lost at any moment, or had one."""
        return any(one.reconciler.has_tunnel for one in self._each)

    def reroute(self, scope: Scope) -> Report:
        """Lead what stands by what the gateway's kernel says now; ask the engine nothing."""
        return joined([one.reroute(scope) for one in self._each])

    def leave(self, *, withdraws: bool) -> None:
        """Take back what stands because of us, or make it unreachable; ask the engine nothing."""
        for one in self._each:
            one.leave(withdraws=withdraws)

    def take_early(self) -> None:
        """Take in what clients were given before they ran."""
        for one in self._each:
            one.take_early()

    def learn(self, report: Report) -> None:
        """Let the next starts profit by what a pass found."""
        early = self._each[0].early
        if report.scope.is_full:
            early.learn(report.listed)
        early.size(report.mtus)

    def note(self, event: Event) -> None:
        """Take in an event, in any thread, as soon as it comes."""
        self._each[0].early.note(event)

    def concerns(self, event: Event) -> bool:
        """Tell whether an event can change what should be."""
        return any(one.reconciler.concerns(event) for one in self._each)

    def is_urgent(self, event: Event) -> bool:
        """Tell whether it cannot wait for more of its kind.

        A client's cannot, unless it has its routes already on one of the networks.
        """
        known = [one.reconciler for one in self._each]
        is_gateways = any(one.depends_on(event) for one in known)
        return is_gateways or all(one.is_urgent(event) for one in known)
