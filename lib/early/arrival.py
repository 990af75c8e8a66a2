"""One new namespace: what is known of it, and what becomes of it.

The kernel keeps it honest: a route with `src ADDRESS` is refused in a namespace that does not hold
that address. So when a namespace holds an address that the engine is giving to a client, that
client gets its routes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

import structlog

from lib.model import Client, EarlyClient, Endpoint, Snapshot, Step
from lib.reconcile.reporting import who
from lib.routing import desired, iproute

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lib.early.lookup import Answers, Reference
    from lib.kernel.shells import Outcome
    from lib.model import Address, Container, Network, Route

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
        self, client: Client, sources: Mapping[int, Address], *, leaves_out: bool = False
    ) -> None:
        """Take a client with the routes to set, and for each IP version the address that proves it.

        `leaves_out` if it asks for others beside.
        """
        self._client = replace(client, routes=())
        self._leaves_out = leaves_out
        self.commands = {
            route: iproute.command(client.netns, Step("replace", route), sources[route.dst.version])
            for route in client.routes
        }
        """Those that did not succeed yet."""
        self._refusal: Outcome | None = None

    @property
    def given(self) -> EarlyClient:
        """The client with the routes that it has by now."""
        return EarlyClient(self._client, complete=not self.commands and not self._leaves_out)

    def take(self, ended: Mapping[Route, Outcome]) -> dict[Route, Outcome]:
        """Take note of how commands ended, and return those that succeeded."""
        new = {route: outcome for route, outcome in ended.items() if not outcome.exit_code}
        for route in new:
            del self.commands[route]
        self._client = replace(self._client, routes=(*self._client.routes, *new))
        self._refusal = next((one for one in ended.values() if one.exit_code), self._refusal)
        return new

    def tell(self, new: Mapping[Route, Outcome], network: str) -> None:
        """Log what was given now."""
        for route, outcome in new.items():
            log.info(
                "route.replaced",
                **who(self._client),
                network=network,
                dst=str(route.dst),
                netns=self._client.netns,
                command=outcome.command,
                gateway=str(route.gateway),
                trigger="early",
                duration_ms=round(outcome.duration_ms, 1),
            )
        log.info("client.routed", **who(self._client), routes=len(self._client.routes))

    def tell_missed(self) -> None:
        """Log what was refused until it was too late: too early each time, or wrong for good."""
        if self.commands and self._refusal:
            values = {"command": self._refusal.command, "reason": self._refusal.output}
            log.debug("start.missed", **who(self._client), netns=self._client.netns, **values)


def next_state(arrival: Arrival, known: Answers, now: float) -> State:
    """Return what is known of a namespace at a moment, after what the engine said."""
    if arrival.state.is_over:
        return arrival.state
    if arrival.is_gone:
        return State.ENDED
    if now - arrival.since > PATIENCE_SECONDS:
        return State.EXPIRED
    if arrival.grant:
        return State.READY if arrival.grant.commands else State.SERVED
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
    makes the start itself fail. Without an address of its IP version there is no proof.
    """
    owner = known.owner_of(arrival.addresses)
    description = owner and known.description(owner, arrival.since)
    if not owner or not description or not description.client:
        return None
    if known.subnets_asked < arrival.since:
        return None
    wanted = _wanted(arrival.path, description.client, owner, known)
    avoid = known.subnets if description.subnets is None else description.subnets
    if avoid is None:
        return None
    if description.subnets is None and any(_overlaps(route, avoid) for route in wanted.routes):
        return None  # Of which networks the client is to be on, it will have to be asked.
    sources: dict[int, Address] = {one.version: one.ip for one in known.addresses_of(owner)}
    mtus = known.known.mtus
    early = tuple(
        route._replace(mtu=mtus.get(route.dst, 0))
        for route in wanted.routes
        if route.gateway and route.dst.version in sources and not _overlaps(route, avoid)
    )[:MOST_ROUTES]
    return Grant(replace(wanted, routes=early), sources, leaves_out=len(early) < len(wanted.routes))


def _wanted(netns: str, container: Container, owner: Reference, known: Answers) -> Client:
    """Return what a container asks for, as if it ran already and were on one network only."""
    gateway = known.gateway
    point = Endpoint(gateway.network, gateway.network_id, known.addresses_of(owner))
    as_if = replace(container, running=True, sandbox_key=netns, endpoints=(point,))
    found = desired.compute(Snapshot(((as_if, as_if),)), gateway)
    nothing = Client(container.name, container.id, netns, ())
    return found.clients[0] if found.clients else nothing


def _overlaps(route: Route, networks: Iterable[Network]) -> bool:
    return any(
        network.version == route.dst.version and network.overlaps(route.dst) for network in networks
    )
