"""One new namespace: what is known of it, and what becomes of it.

The kernel keeps it honest: a route with `src ADDRESS` is refused in a namespace that does not hold
that address. So when a namespace holds an address that the engine is giving to a client, that
client gets its routes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_interface
from typing import TYPE_CHECKING

import structlog

from lib.kernel.shells import Outcome
from lib.model import (
    DIRECT_LABEL,
    MAIN,
    TABLE,
    Client,
    EarlyClient,
    Endpoint,
    Route,
    Rule,
    Snapshot,
    Step,
)
from lib.reconcile import failures
from lib.reconcile.reporting import who
from lib.routing import desired, iproute, policy
from lib.routing.plan import Stage, stage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from lib.early.lookup import Answers, Reference
    from lib.model import Address, Container, Network, Thing

log = structlog.get_logger()

PATIENCE_SECONDS = 5.0
"""For which a new namespace is looked at."""

MOST_ROUTES = 32
"""That one client is given early; the pass gives the rest, so that others need not wait."""


class State(Enum):
    """What is known of a namespace."""

    NEW = "it holds no address that tells whose it is"
    HELD = "it holds the address of a container of which too little is known"
    READY = "it is a client's, which lacks routes"
    SERVED = "its client has them"
    FOREIGN = "it is nobody's who asks for routes"
    ENDED = "it is gone"
    EXPIRED = "it took too long"

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be expected any more."""
        return self not in {State.NEW, State.HELD, State.READY}


@dataclass
class Arrival:
    """What is known of a namespace; times are monotonic seconds."""

    path: str
    since: float
    """When it was seen first."""
    last_news: float
    """When the kernel told something of it last."""
    addresses: set[Address] = field(default_factory=set)
    """All that it has or had."""
    is_gone: bool = False
    state: State = State.NEW
    grant: Grant | None = None
    """What its client gets, once that is known."""


class Grant:
    """The routes that a client gets in a namespace that holds its addresses, once these are up."""

    def __init__(
        self,
        client: Client,
        sources: Mapping[int, Address],
        *,
        leaves_out: bool = False,
        lacks_networks: bool = False,
    ) -> None:
        """Take a client with the routes to set, and for each IP version the address that proves it.

        `leaves_out` if it asks for others beside; `lacks_networks` if whether it gets these too
        depends on what other networks it is to be on.
        """
        self._client = client._replace(routes=())
        self._asked = client.routes
        self._leaves_out = leaves_out
        self.lacks_networks = lacks_networks
        self._things: tuple[Thing, ...] = ()
        """What was set."""
        self.commands: dict[Thing, str] = {
            route: iproute.command(client.netns, _step(route), sources[route.version])
            for route in _proofs(client.routes, sources)
        }
        """Those that did not succeed yet and may be tried: at first what proves the namespace."""
        needed = policy.needs(client.routes)
        self._waiting = [thing for thing in needed if thing not in self.commands]
        """What may be tried when others have succeeded."""
        self.goes_on = False
        """Whether more may be tried since some have succeeded."""
        self._refusal: Outcome | None = None

    @property
    def given(self) -> EarlyClient:
        """The client with what it has by now."""
        lacks = self.commands or self._waiting or self._leaves_out
        beside = tuple(thing for thing in self._things if thing not in self._client.routes)
        return EarlyClient(self._client, complete=not lacks, beside=beside)

    def chains(self) -> list[list[tuple[Thing, str]]]:
        """Return what may be tried, and what may after that if it succeeds, with its commands."""
        return [
            [(one, self._command(one)) for one in (thing, *self._after(thing))]
            for thing in self.commands
        ]

    def follow(self, before: Grant) -> None:
        """Take the place of one that lacked the networks: what that has set is not set again."""
        given, done = before.given, Outcome("", 0, "", 0.0)
        there = {*given.client.routes, *given.beside}
        while known := [thing for thing in self.commands if thing in there]:
            self.take(dict.fromkeys(known, done))

    def take(self, ended: Mapping[Thing, Outcome]) -> dict[Thing, Outcome]:
        """Take note of how commands ended, and return those that succeeded."""
        new = {thing: outcome for thing, outcome in ended.items() if _is_done(thing, outcome)}
        self.commands = {one: line for one, line in self.commands.items() if one not in new}
        self._waiting = [one for one in self._waiting if one not in new]
        self._things = (*self._things, *new)
        routes = tuple(one for one in self._things if isinstance(one, Route) and one in self._asked)
        self._client = self._client._replace(routes=routes)
        refused = (one for thing, one in ended.items() if thing not in new)
        self._refusal = next(refused, self._refusal)
        due = [thing for thing in self._waiting if self._is_due(thing)]
        self._waiting = [thing for thing in self._waiting if thing not in due]
        self.commands |= {one: iproute.command(self._client.netns, _step(one)) for one in due}
        self.goes_on = bool(due)
        return new

    def _after(self, thing: Thing) -> list[Thing]:
        """Return what waits for a route of our table alone: its guard, and the rules if it is all.

        A shell goes on by itself: to hear of one and ask for the next takes as long as a command.
        """
        if not isinstance(thing, Route) or thing not in self._asked or thing.table != TABLE:
            return []
        same = [one for one in self._asked if one.table == TABLE and one.version == thing.version]
        after = [policy.guard(thing.dst), *(policy.rules(thing.version) if same == [thing] else ())]
        return after if all(one in self._waiting for one in after) else []

    def _command(self, thing: Thing) -> str:
        return self.commands.get(thing) or iproute.command(self._client.netns, _step(thing))

    def _is_due(self, thing: Thing) -> bool:
        """Tell whether what it takes is there: a proof, and what has to come before.

        In our table that is a route through the gateway, if it is to have one. The rule by which it
        is asked comes last.
        """
        if not self._things:
            return False
        if thing in self._asked and not _is_guard(thing):
            return True
        if stage(_step(thing)) is Stage.TABLE_RULE:
            before = {*policy.rules(thing.version)} - {thing}
            guards = {one for one in self.commands if one.version == thing.version}
            return before <= {*self._things} and not any(map(_is_guard, guards))
        same = [one for one in self._asked if one.table == TABLE and one.version == thing.version]
        if isinstance(thing, Route):
            same = [one for one in same if one.dst == thing.dst]
        return any(one in self._things or not one.gateway for one in same)

    def tell(self, new: Mapping[Thing, Outcome], network: str) -> None:
        """Log what was given now; the sum when nothing goes on."""
        for thing, outcome in new.items():
            values = {"network": network, "netns": self._client.netns, "command": outcome.command}
            event = "rule.added"
            if isinstance(thing, Route):
                event = "route.replaced"
                values |= {"dst": str(thing.dst), "gateway": str(thing.gateway or thing.kind)}
            log.info(
                event,
                **who(self._client),
                **values,
                trigger="early",
                duration_ms=round(outcome.duration_ms, 1),
            )
        if not self.goes_on:
            log.info("client.routed", **who(self._client), routes=len(self._client.routes))

    def tell_missed(self) -> None:
        """Log what was refused until it was too late: too early each time, or wrong for good."""
        if self.commands and self._refusal:
            values = {"command": self._refusal.command, "reason": self._refusal.output}
            log.debug("start.missed", **who(self._client), netns=self._client.netns, **values)


def _proofs(routes: Collection[Route], sources: Mapping[int, Address]) -> Collection[Route]:
    """Return what the kernel refuses in a namespace without the source address, if any is due.

    While the gateway is lost, nothing is that is asked for.
    """
    if not routes:
        return ()
    by_gateway = [route for route in routes if route.gateway]
    return by_gateway or [policy.proof(min(sources))]


def _step(thing: Thing) -> Step:
    return Step("add" if isinstance(thing, Rule) else "replace", thing)


def _is_done(thing: Thing, outcome: Outcome) -> bool:
    """Tell whether it is there now; the pass may have been faster."""
    return not outcome.exit_code or failures.is_found(_step(thing), outcome)


def _is_guard(thing: Thing) -> bool:
    return isinstance(thing, Route) and thing.is_guard


def next_state(arrival: Arrival, known: Answers, now: float) -> State:
    """Return what is known of a namespace at a moment, after what the engine said."""
    if arrival.state.is_over:
        return arrival.state
    if arrival.is_gone:
        return State.ENDED
    if now - arrival.since > PATIENCE_SECONDS:
        return State.EXPIRED
    if arrival.grant:
        if arrival.grant.commands:
            return State.READY
        return State.HELD if arrival.grant.lacks_networks else State.SERVED
    return _whose(arrival, known)


def _whose(arrival: Arrival, known: Answers) -> State:
    """Return what is known of a namespace for whose client nothing was tried yet."""
    if not known.known.may_start():
        return State.FOREIGN
    if known.asked < arrival.since:
        return State.NEW
    owner = known.owner_of(arrival.addresses)
    if not owner:
        is_nobodys = known.is_on_network(arrival.addresses) and known.asked > arrival.last_news
        return State.FOREIGN if is_nobodys else State.NEW
    description = known.description(owner, arrival.since)
    if description and not description.client:
        return State.FOREIGN
    return State.READY if grant(arrival, known) else State.HELD


def grant(arrival: Arrival, known: Answers) -> Grant | None:
    """Return what the client gets that holds a namespace; None if too little is known of it.

    From Docker 28 on networks are attached one by one, and a route that overlaps one still to come
    makes the start itself fail. Without an address of its IP version there is no proof. What is to
    keep off the gateway waits for the pass: the engine's own gateway is the last to be known. Where
    another network of a client may come first, all has to wait until its networks are known.
    """
    owner = known.owner_of(arrival.addresses)
    description = owner and known.description(owner, arrival.since)
    if not owner or not description or not description.client:
        return None
    if known.subnets_asked < arrival.since:
        return None
    subnets = description.subnets
    if subnets is None and known.gateway.earlier:
        return None
    wanted = _wanted(arrival.path, description.client, owner, known, subnets or ())
    avoid = known.subnets if subnets is None else subnets
    if avoid is None:
        return None
    in_the_way = {route for route in wanted.routes if _overlaps(route, avoid)}
    # Then it will have to be asked of which networks the client is to be on.
    lacks_networks = subnets is None and bool(in_the_way)
    sources: dict[int, Address] = {one.version: one.ip for one in known.addresses_of(owner)}
    mtus = known.known.mtus
    early = tuple(
        route._replace(mtu=mtus.get(route.dst, 0)) if route.gateway else route
        for route in wanted.routes
        if (route.version in sources or not route.gateway) and route not in in_the_way
    )[:MOST_ROUTES]
    if lacks_networks and not early:
        return None
    return Grant(
        wanted._replace(routes=early),
        sources,
        leaves_out=len(early) < len(wanted.routes) or DIRECT_LABEL in description.client.labels,
        lacks_networks=lacks_networks,
    )


def _wanted(
    netns: str,
    container: Container,
    owner: Reference,
    known: Answers,
    subnets: Iterable[Network],
) -> Client:
    """Return what a container asks for, as if it ran already and were on its networks.

    Those are the gateway's, and others with these subnets, by the names that are known.
    """
    gateway = known.gateway
    point = Endpoint(gateway.network, gateway.network_id, known.addresses_of(owner))
    others = Endpoint("", "", tuple(ip_interface(str(subnet)) for subnet in subnets))
    names = (one._replace(interfaces=()) for one in container.endpoints)
    endpoints = (point, others, *names)
    as_if = container._replace(running=True, sandbox_key=netns, endpoints=endpoints)
    found = desired.compute(Snapshot(((as_if, as_if),)), gateway)
    nothing = Client(container.name, container.id, netns, ())
    return found.clients[0] if found.clients else nothing


def _overlaps(route: Route, networks: Iterable[Network]) -> bool:
    """Tell whether the engine would stumble over a route: it looks at the main table alone."""
    return route.table == MAIN and any(
        network.version == route.dst.version and network.overlaps(route.dst) for network in networks
    )
