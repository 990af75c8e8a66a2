"""What is known of this place: each fact is found when it is first asked for, and once.

Finds and reads, by commands that change nothing, in the namespaces of the gateway and of its
clients. Judges nothing: that is the checks' part.
"""

from __future__ import annotations

import shlex
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, NamedTuple, NoReturn, Protocol, TypeVar

from lib.doctor import counters, ip_output
from lib.doctor.ip_output import Lookup
from lib.engine import gateways, outside, sidecar
from lib.engine.asking import Running
from lib.engine.sharing import netns_owner
from lib.errors import (
    CallError,
    GoneError,
    NamespaceLeftError,
    NetnsError,
    WgRouteMgrError,
)
from lib.kernel import namespaces
from lib.kernel.access import Reader
from lib.model import DIRECT_LABEL, Gateway, Skipped, Snapshot
from lib.reconcile import covered, tunnels
from lib.reconcile.contest import Contest
from lib.reconcile.service import ServiceGateway
from lib.routing import desired, policy, reach, serving
from lib.routing.hosts import host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from lib.doctor.counters import Counters
    from lib.doctor.ip_output import Link, Rule
    from lib.engine.client import Engine
    from lib.kernel.shells import Outcome
    from lib.model import (
        Address,
        Client,
        Container,
        DockerNetwork,
        Endpoint,
        Network,
        Route,
        Sidecar,
    )
    from lib.reconcile.contest import Judgement
    from lib.settings import Settings

T = TypeVar("T")

_MAX_DESTINATIONS = 100


class SkippedError(Exception):
    """A check cannot be done, since what it builds on was not found."""


class ElsewhereError(SkippedError):
    """A check cannot be done from here; the text says why, or where it can."""


class RunsCommands(Protocol):
    """The part of `lib.kernel.shells` that is used here."""

    def run(self, commands: Sequence[str], /) -> Iterable[Outcome]:
        """Run command lines and return how they ended."""
        ...


class Fact(Generic[T]):
    """Something that is found out at most once; that it cannot be found is remembered too."""

    def __init__(self, name: str, find: Callable[[], T]) -> None:
        """Call it `name` where it lacks."""
        self._name = name
        self._find = find
        self._found: list[T] = []
        self._error: SkippedError | WgRouteMgrError | None = None

    def __call__(self) -> T:
        """Return it to a check that builds on it; raise SkippedError if it was not found."""
        try:
            return self.examine()
        except ElsewhereError:
            raise
        except (SkippedError, WgRouteMgrError) as error:
            raise SkippedError(self._name) from error

    def examine(self) -> T:
        """Return it to the check that is about it; raise what kept it from being found."""
        if not self._found and not self._error:
            try:
                self._found.append(self._find())
            except (SkippedError, WgRouteMgrError) as error:
                self._error = error
        if self._error:
            raise self._error
        return self._found[0]


class AttachedClient(NamedTuple):
    """A client, and what it is attached to."""

    client: Client
    owner: Container
    """Whose network namespace it uses, mostly its own."""
    addresses: Mapping[int, Address]
    """Its addresses on the served network, by IP version."""
    networks: frozenset[str]
    """Ids of its networks."""
    served: str
    """Name of the served one."""
    direct: tuple[str, ...] = ()
    """What its label says is to go past the gateway."""

    @property
    def name(self) -> str:
        """Its container's name."""
        return self.client.container

    @property
    def netns(self) -> str:
        """Its namespace file."""
        return self.client.netns

    @property
    def routes(self) -> tuple[Route, ...]:
        """What it is to have."""
        return self.client.routes

    @property
    def whole(self) -> frozenset[int]:
        """The IP versions of which it asks for everything."""
        return policy.whole(route.dst for route in self.routes)

    @property
    def called(self) -> tuple[str, ...]:
        """Its published ports that are called from where its routes lead."""
        found = (
            one.port
            for one in self.owner.published
            for route in self.routes
            if one.version == route.version and (one.address is None or one.address in route.dst)
        )
        return tuple(dict.fromkeys(found))

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Names of its other networks."""
        names = (endpoint.network for endpoint in self.owner.endpoints)
        return tuple(name for name in names if name != self.served)


class Asking(NamedTuple):
    """What became of the containers that ask for routes."""

    clients: tuple[AttachedClient, ...]
    skipped: tuple[Skipped, ...]


class Site:
    """The sidecar, its gateway, the network, the clients: all of them, or the one to follow."""

    def __init__(
        self,
        settings: Settings,
        shell: RunsCommands,
        connect: Callable[[], Engine],
        place: Sidecar | None = None,
        outcomes: dict[str, Outcome] | None = None,
    ) -> None:
        """Nothing is found yet, but for our place and how commands ended, if these are given."""
        self.settings = settings
        self._shell = shell
        self._outcomes = {} if outcomes is None else outcomes
        self.engine = Fact("the engine", connect)
        self.sidecar = Fact("the sidecar", lambda: place or self._find_sidecar())
        self.task = Fact("the gateway", self._find_task)
        """The gateway as a swarm's service, found."""
        self.gateway_container = Fact("the gateway", self._find_gateway_container)
        """The one whose network namespace the gateway uses, mostly its own."""
        self.network = Fact("the network", self._find_network)
        self.gateway = Fact("the gateway's address", self._find_gateway)
        self.gateway_link = Fact("the gateway's address", self._find_gateway_link)
        self.judgement = Fact("the gateway's address", self._find_judgement)
        """Whose gateway serves the clients of the network."""
        self.container = Fact("the container", self._find_container)
        """The one to follow, `settings.container`."""
        self.container_owner = Fact("the container", self._find_container_owner)
        """Whose network namespace that one uses."""
        self.asking = Fact("a client", self._find_asking)
        self.client = Fact("the client", self._find_client)
        """The one to follow."""
        self.clients = Fact("a client", self._find_clients)
        """At least one."""
        self.whole_clients = Fact("a client", self._find_whole_clients)
        """Those that ask for everything, if any does."""

    # --- facts ----------------------------------------------------------------------------------

    def _find_sidecar(self) -> Sidecar:
        return sidecar.find(self.engine(), self.settings)

    def _find_task(self) -> tuple[Gateway, ServiceGateway]:
        finder = ServiceGateway(time.monotonic)
        return finder.find(self.engine(), self.sidecar()), finder

    def _find_gateway_container(self) -> Container:
        if self.sidecar().addresses:
            nobody_sees(self.sidecar().gateway.name)
        if self.sidecar().service:
            gateway, finder = self.task()
            return finder.container or elsewhere(gateway)
        return gateways.netns_owner_of(self.engine(), self.sidecar().gateway)

    def _find_network(self) -> DockerNetwork:
        name = self.sidecar().network
        return self.engine().network(name)

    def _find_gateway(self) -> Gateway:
        place = self.sidecar()
        return self._reach_gateway(place)._replace(before=place.before, after=place.after)

    def _reach_gateway(self, place: Sidecar) -> Gateway:
        if place.addresses:
            return outside.gateway(self.engine(), place.addresses, place.network)
        if place.service:
            return self.task()[0]
        network, container = self.network(), self.gateway_container()
        endpoint = self.gateway_endpoint
        if not container.running or not endpoint:
            lacking("a running gateway there")
        addresses = tuple(interface.ip for interface in endpoint.interfaces)
        found = Gateway(container.name, container.id, network.name, network.id, addresses)
        may_tunnel = container.may_tunnel or self.sidecar().gateway.may_tunnel
        return found._replace(may_tunnel=may_tunnel)

    def _find_gateway_link(self) -> Link:
        links = self.gateway_links(self.gateway().addresses)
        return links[0] if links else lacking("an interface")

    def _find_judgement(self) -> Judgement:
        place = self.sidecar()
        ours = [gateways.standing_for(place.service)] if place.service else []
        ours = ours or [place.gateway, *([] if place.addresses else [self.gateway_container()])]
        engine = self.engine()
        return Contest(time.time).judge(engine, Running(engine), self.gateway(), ours, place.own)

    def _find_container(self) -> Container:
        return self.engine().inspect(self.settings.container or "")

    def _find_container_owner(self) -> Container:
        return netns_owner(self.engine(), self.container())

    def _find_asking(self) -> Asking:
        engine, gateway = self.engine(), self.gateway()
        if self.settings.container:
            snapshot = Snapshot(((self.container(), self.container_owner()),))
        else:
            snapshot = _all_clients(engine)
        among = self.judgement().among
        wanted = desired.compute(snapshot, self._applied(gateway)._replace(among=among))
        pairs = {container.id: (container, owner) for container, owner in snapshot.clients}
        clients = (
            _attached(client, *pairs[client.container_id], gateway) for client in wanted.clients
        )
        return Asking(tuple(clients), wanted.skipped)

    def _applied(self, gateway: Gateway) -> Gateway:
        """Return the gateway with what is unreachable through it, as its tunnel is lost."""
        found = tunnels.once(Reader(), self.settings)
        covers = covered.once(Reader(), self.settings, self.sidecar().network)
        with suppress(SkippedError):
            found.look(gateway, self.gateway_netns_file)
            covers.look(gateway, self.gateway_netns_file)
        if gateway.is_outside:
            covers.look(gateway, "")
        return covers.applied(found.applied(gateway))

    def _find_client(self) -> AttachedClient:
        asks = serving.asks(self.container().labels)
        found = [client for client in self.asking().clients if asks and client.routes]
        return found[0] if found else lacking("a destination")

    def _find_clients(self) -> tuple[AttachedClient, ...]:
        clients = (self.client(),) if self.settings.container else self.asking().clients
        return clients or lacking("a label")

    def _find_whole_clients(self) -> tuple[AttachedClient, ...]:
        return tuple(client for client in self.clients() if client.whole)

    # --- what follows from them -----------------------------------------------------------------

    def networks(self) -> list[Site]:
        """Return this place as it is on each network; to follow one client, on that which has it.

        While it is not known who we are, that is nothing but this one.
        """
        try:
            own = self.sidecar()
        except SkippedError:
            return [self]
        places = own.each
        if self.settings.container:
            places = (next(filter(self._has_container, places), own),)
        return [self if place == own else self._on(place) for place in places]

    def _on(self, place: Sidecar) -> Site:
        return Site(self.settings, self._shell, self.engine, place, self._outcomes)

    def _has_container(self, place: Sidecar) -> bool:
        with suppress(SkippedError):
            return self.container_owner().endpoint(place.network) is not None
        return False

    @property
    def served_by(self) -> str:
        """Name of the gateway by which the clients are served; nothing if it is ours."""
        winner = self.judgement().verdict.winner
        place = self.sidecar()
        return winner.gateway * (winner.gateway_id != (place.service or place.gateway.id))

    @property
    def own_name(self) -> str:
        """Name of our own container, or a word that stands for it."""
        own = self.sidecar().own
        return own.name if own else "SIDECAR"

    @property
    def is_beside_daemon(self) -> bool:
        """Whether a daemon of this container told who we are."""
        published = self.settings.published
        return bool(published and published.sidecar)

    @property
    def gateway_endpoint(self) -> Endpoint | None:
        """Its attachment to the served network, if it is attached and has an address there."""
        network = self.network()
        endpoint = self.gateway_container().endpoint(network.id)
        return endpoint if endpoint and endpoint.interfaces else None

    @property
    def gateway_netns_file(self) -> str:
        """The gateway's namespace file, which is there."""
        path = self.gateway_container().sandbox_key
        return path if path and namespaces.exists(path) else lacking("the gateway's namespace file")

    @property
    def gateway_netns(self) -> str:
        """The gateway's namespace file, or nothing where we are in it ourselves."""
        path = self.gateway_netns_file
        return "" if namespaces.is_own(path) else path

    def gateway_links(self, addresses: Iterable[Address]) -> tuple[Link, ...]:
        """Return its interfaces that have one of those addresses."""
        links = self.links(self.gateway_netns)
        return tuple(link for link in links if {*addresses} & {*link.addresses})

    def destinations(self) -> Iterator[tuple[AttachedClient, Network]]:
        """Yield every destination once, with a client that asks for it."""
        seen: set[Network] = set()
        for client in self.clients():
            for route in client.routes:
                if route.dst not in seen and len(seen) < _MAX_DESTINATIONS:
                    seen.add(route.dst)
                    yield client, route.dst

    # --- what the kernel says -------------------------------------------------------------------

    def run(self, netns: str, *words: str) -> Outcome:
        """Run a reading command in a namespace, in ours if none is named; each one once."""
        entry = ("nsenter", f"--net={netns}") if netns else ()
        command = shlex.join((*entry, *words))
        if command not in self._outcomes:
            (self._outcomes[command],) = self._shell.run([command])
        return self._outcomes[command]

    def look_up(
        self, netns: str, dst: Address, source: Address | None = None, device: str = ""
    ) -> Lookup:
        """Ask the kernel where it would send a packet."""
        outcome = self.run(netns, *ip_output.lookup_words(dst, source, device))
        return Lookup() if outcome.exit_code else ip_output.parse_lookup(outcome.output)

    def links(self, netns: str) -> tuple[Link, ...]:
        """Return the interfaces of a namespace."""
        return ip_output.parse_links(self.run(netns, "ip", "address", "show").output)

    def neighbours(self, netns: str) -> dict[Address, tuple[str, str]]:
        """Return MAC address and state of a namespace's neighbours."""
        return ip_output.parse_neighbours(self.run(netns, "ip", "neigh", "show").output)

    def rules(self, version: int) -> tuple[Rule, ...]:
        """Return the gateway's policy rules that are none of the kernel's own."""
        outcome = self.run(self.gateway_netns, *ip_output.program(version), "rule", "show")
        return ip_output.parse_rules(outcome.output)

    def by_table(self, dst: Address, table: str) -> Lookup:
        """Tell where a routing table of the gateway's leads, whatever its policy rules say."""
        where = () if table == "main" else ("table", table)
        words = (*ip_output.program(dst.version), "route", "show", *where)
        return ip_output.parse_route(self.run(self.gateway_netns, *words).output, dst)

    def counters(self, device: str) -> Counters | None:
        """Return what a device of the gateway's has counted, without the kernel's multicasts."""
        outcome = self.run(self.gateway_netns, "cat", counters.DEVICES)
        found = counters.parse_devices(outcome.output).get(device)
        if not found:
            return None
        outcome = self.run(self.gateway_netns, "cat", counters.ipv6_file(device))
        sent = found.sent - counters.parse_multicast(outcome.output)
        return found._replace(sent=max(0, sent))

    def links_by_engine(self) -> set[str]:
        """Return the gateway's interfaces that the engine made."""
        endpoints = self.gateway_container().endpoints
        given = {interface.ip for endpoint in endpoints for interface in endpoint.interfaces}
        return {link.name for link in self.gateway_links(given)}

    def tunnels(self) -> set[str]:
        """Return its interfaces that are up and that the engine did not make, but `lo`.

        Some kernels put fallback devices such as `sit0` into each namespace, which stay down.
        """
        names = {link.name for link in self.links(self.gateway_netns) if link.is_up}
        return names - self.links_by_engine() - {"lo"}

    def sysctl(self, name: str, netns: str | None = None) -> int | None:
        """Return a setting of a namespace, the gateway's if none is named; None if none is seen."""
        where = self.gateway_netns if netns is None else netns
        outcome = self.run(where, "cat", f"/proc/sys/{name}")
        return int(outcome.output) if outcome.output.isdigit() else None

    def route_to(self, dst: Network, client: AttachedClient) -> Lookup:
        """Ask where the gateway sends what a client sends to a destination.

        Asked as for a packet that comes in, or, where that gives no answer, as for one of the
        gateway's own: what forwarding and rp_filter do is another check's.
        """
        target, source = host(dst), client.addresses.get(dst.version)
        found = self.look_up(self.gateway_netns, target, source, self.gateway_link().name)
        return found if found.device else self.look_up(self.gateway_netns, target)


def _all_clients(engine: Engine) -> Snapshot:
    pairs, skipped = [], []
    for one in Running(engine).asking():
        try:
            pairs.append((one, netns_owner(engine, engine.inspect(one.id))))
        except NamespaceLeftError as error:
            skipped.append(Skipped(one.name, one.id, error.reason, error.hint))
        except (GoneError, CallError):
            continue
    return Snapshot(tuple(pairs), tuple(skipped))


def _attached(
    client: Client, container: Container, owner: Container, gateway: Gateway
) -> AttachedClient:
    with suppress(NetnsError):  # That it cannot be entered, the checks of its route say.
        client = reach.limited(client, Reader().read(client.netns), gateway.network)
    endpoint = owner.endpoint(gateway.network_id)
    interfaces = endpoint.interfaces if endpoint else ()
    networks = frozenset(each.network_id for each in owner.endpoints)
    addresses: dict[int, Address] = {one.version: one.ip for one in interfaces}
    entries = (entry.strip() for entry in container.labels.get(DIRECT_LABEL, "").split(","))
    direct = tuple(filter(None, entries))
    return AttachedClient(client, owner, addresses, networks, gateway.network, direct)


def nobody_sees(gateway: str) -> NoReturn:
    """Give a check up that takes a look into the gateway's namespace, which nobody here has."""
    reason = f"{gateway} is no container of this engine: look at it there"
    raise ElsewhereError(reason)


def elsewhere(gateway: Gateway) -> NoReturn:
    """Give a check up that another node's agent can do."""
    reason = f"the gateway is on {gateway.node}: ask the agent there"
    raise ElsewhereError(reason)


def lacking(what: str) -> NoReturn:
    """Give a check up."""
    raise SkippedError(what)
