"""The vocabulary: frozen values that the other modules hand to each other.

Raw engine answers end in `lib.engine`; from there on there are only these. No behaviour beyond
reading a value. They are named tuples: such a class is made seven times as fast as a frozen
dataclass, which each start would wait for, and a value in a third of the time.
"""

from __future__ import annotations

from enum import IntEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface

NETWORK_LABEL = "wgroutemgr.network"
"""On the sidecar: the Docker network that it serves."""

GATEWAY_LABEL = "wgroutemgr.gateway"
"""On the sidecar: name or id of the gateway, its Compose service, or its addresses."""

SERVICE_LABEL = "wgroutemgr.gateway-service"
"""On the sidecar: the service of a swarm whose task is the gateway."""

ROLE_LABEL, SIDECAR = "wgroutemgr.role", "sidecar"
"""On the image, and so on every sidecar: by it they find each other."""

NETWORKS_LABEL = "wgroutemgr.networks"
"""On a client: the destinations that it wants to reach through the gateway."""

NAMED_PREFIX = f"{NETWORKS_LABEL}."
"""Before the name of a gateway, on a client: those that it wants to reach through that one."""

PREFER_LABEL = "wgroutemgr.prefer"
"""On a client: names of such gateways, in the order in which they stand in for each other."""

DIRECT_LABEL = "wgroutemgr.direct"
"""On a client: what of these it is to reach without the gateway."""

GWBRIDGE = "docker_gwbridge"
"""The engine's network that gives who is on an overlay a way out."""

IPV4, IPV6 = 4, 6
"""The IP versions, as `ipaddress` names them."""

DEFAULT_METRIC = {IPV4: 0, IPV6: 1024}
"""The metric that the kernel gives a route without one, by IP version (1024 is
IP6_RT_PRIO_USER)."""

MAIN, TABLE = 254, 671
"""Routing tables: the kernel's main one, which the engine works with, and our own, for what it
would stumble over there."""

GUARD_METRIC = 4000
"""Of the route in our table that holds where the one through the gateway has gone with its link."""

OPEN = "open"
"""Among the places that are others': any may be, as it is not known here all that is asked for."""

DIRECT = "direct"
"""Kind of a wanted route by the engine's own gateway: only a look into the namespace tells which
that is."""


class Endpoint(NamedTuple):
    """A container's attachment to one Docker network."""

    network: str
    network_id: str
    interfaces: tuple[Interface, ...]
    """The container's addresses there with their prefix lengths, at most one of each IP version."""
    aliases: tuple[str, ...] = ()
    """What it is called there beside its name; empty in a listing of some engines."""


class PublishedPort(NamedTuple):
    """A port that the host takes calls for."""

    port: str
    """The container's, with the protocol: `80/tcp`."""
    address: Address | None
    """The host's that is called; None for any of that IP version."""
    version: int
    """The IP version of those who call."""


class Container(NamedTuple):
    """What an inspection of one container told."""

    id: str
    name: str
    running: bool
    labels: Mapping[str, str]
    network_mode: str
    sandbox_key: str
    """Path of its network namespace as the engine names it; empty where it has none of its own,
    and in a listing, which does not tell it."""
    endpoints: tuple[Endpoint, ...]
    upper_dir: str = ""
    """Writable layer of its root file system on the host; empty where the image store does not
    tell."""
    started_at: float = 0.0
    """When its first process ran (seconds of Unix time), as the engine noted it; 0 where that is
    not known, as in a listing."""
    finished_at: float = 0.0
    """When that of its start before ended, or its last one did; likewise."""
    arguments: tuple[str, ...] = ()
    """What its program is given; likewise."""
    environment: Mapping[str, str] = MappingProxyType({})
    """Those of its variables that are options of ours; likewise."""

    dns: tuple[Address, ...] = ()
    """The DNS servers that it was given; empty where it has the engine's, and in a listing."""
    published: tuple[PublishedPort, ...] = ()
    """Empty in a listing."""
    runtime: str = ""
    """What runs it, as the engine calls it; empty in a listing."""
    may_tunnel: bool = True
    """Whether it may make a tunnel (`NET_ADMIN`), as far as is known."""

    @property
    def shares_netns_of(self) -> str | None:
        """Id or name of the container whose network namespace it uses; None if it has its own."""
        kind, _, owner = self.network_mode.partition(":")
        return owner if kind == "container" and owner else None

    @property
    def attached(self) -> tuple[Network, ...]:
        """The networks in which it has an address, each once, in the engine's order."""
        networks = (face.network for point in self.endpoints for face in point.interfaces)
        return tuple(dict.fromkeys(networks))

    def endpoint(self, network: str) -> Endpoint | None:
        """Return its attachment to the network of that name or id, or None."""
        names = ((point, {point.network, point.network_id}) for point in self.endpoints)
        return next((point for point, both in names if network in both), None)


class Sidecar(NamedTuple):
    """Our place among the containers."""

    gateway: Container
    own: Container | None
    """Our own container; None where it could not be told, as outside of any."""
    network: str
    """Name of the network to serve; of several the one that is meant here."""
    named_by: str = ""
    """What named the gateway; nothing where it is the owner of our network namespace."""
    service: str = ""
    """The service of a swarm whose task is the gateway, where that was named. Then the gateway is
    one of that name and id, until its task is found on this node."""
    addresses: tuple[Address, ...] = ()
    """The gateway's, where it was named by these, as it is no container of this engine."""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Names of the other networks that we serve: those named before that one, and after it."""

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of all networks to serve, in their order."""
        return (*self.before, self.network, *self.after)

    def on(self, networks: Sequence[str], index: int = 0) -> Sidecar:
        """Return our place on one of these networks."""
        before, after = tuple(networks[:index]), tuple(networks[index + 1 :])
        return self._replace(network=networks[index], before=before, after=after)

    @property
    def each(self) -> tuple[Sidecar, ...]:
        """Our place on each network."""
        return tuple(self.on(self.networks, index) for index in range(len(self.networks)))


class Coverage(NamedTuple):
    """What a gateway sends into its tunnels, as it was last seen: what `auto` stands for."""

    networks: frozenset[Network] | None = None
    """None if it was never seen to send anything."""
    reason: str = ""
    """Why that could not be seen, if it could not."""


NOT_SEEN = Coverage()


class Published(NamedTuple):
    """What a daemon tells the commands beside it."""

    chosen: Mapping[str, str]
    """Settings in force, by the names of their options, but for what is left to us."""
    variables: Mapping[str, str]
    """The daemon's own, of these options: in the same container they are no news."""
    sidecar: Sidecar | None = None
    """Whom it serves and follows; of its containers only id and name, and labels of the gateway's
    by which its successor is known. None until it has found out."""
    lost: Mapping[Network, float] = MappingProxyType({})
    """Destinations that the gateway should send into a tunnel, and does not, and since when
    (seconds of Unix time)."""
    coverage: Mapping[str, Coverage] = MappingProxyType({})
    """What the gateway sends into tunnels of what comes from a network, by the name of that; not of
    one where the daemon has never seen any of it."""


class DockerNetwork(NamedTuple):
    """A network of the engine."""

    id: str
    name: str
    subnets: tuple[Network, ...]
    interfaces: Mapping[str, tuple[Interface, ...]]
    """Addresses by container id."""
    attaching: Mapping[str, tuple[Interface, ...]] = MappingProxyType({})
    """Addresses by name, of containers that are just being attached: from Docker 28 on the engine
    tells the id only when that is done (`sbJoin` in libnetwork/endpoint.go)."""
    driver: str = "bridge"
    internal: bool = False
    options: Mapping[str, str] = MappingProxyType({})
    """What its driver was told."""
    nodes: tuple[str, ...] = ()
    """Addresses of the machines on which it is, of a swarm's."""


class Task(NamedTuple):
    """One container of a swarm's service, on whichever node."""

    name: str
    """As the engine calls its container: SERVICE.SLOT.ID."""
    address: Address
    """On the network that was asked about."""
    node: str
    """Address of its machine, by which the others reach it."""


class Claim(NamedTuple):
    """That a sidecar serves the clients of a network through a gateway, as the engine tells it."""

    gateway: str
    """Name of the gateway's container."""
    gateway_id: str
    sidecar_id: str = ""
    since: float = 0.0
    """When the sidecar started; all times are seconds of Unix time."""
    absent: float = 0.0
    """Seconds that it was away before; infinite if it never was there."""
    ended: float = 0.0
    """When it was missed; 0 while it runs."""
    names: frozenset[str] = frozenset()
    """What the gateway answers to on that network beside its container's name."""
    up_since: float | None = None
    """Since when the gateway itself is there; None while it is lost."""
    addresses: frozenset[Address] = frozenset()
    """The gateway's, on that network."""
    network: str = ""
    """Name or id of the network, if it is another than that which our sidecar serves."""
    untold: str = ""
    """Name of the sidecar, if nobody else can tell which gateway it has: that was removed."""


class Standing(IntEnum):
    """How far a gateway can serve: of several that may, the first of the lowest does."""

    THERE = 0
    WAITING = 1
    """It has just come back, and another one served meanwhile."""
    LOST = 2


class Candidate(NamedTuple):
    """A gateway with a sidecar of its own."""

    gateway: str
    """Name of its container."""
    names: frozenset[str] = frozenset()
    """What it answers to beside that."""
    standing: Standing = Standing.THERE
    network: str = ""
    """As in `Claim`: only who is on that, too, can be served by it."""
    addresses: frozenset[Address] = frozenset()


class First(NamedTuple):
    """The gateway that serves what names none, of those on a network; the least of several does."""

    untold: str
    gateway: str
    network: str = ""
    """All three as in `Claim`."""


class Gateways(NamedTuple):
    """Those that have a sidecar each, ours among them."""

    ours: str
    """By the name of its container, as in `Candidate`."""
    unnamed: str
    """The one that serves what names no gateway."""
    candidates: tuple[Candidate, ...]
    untold: bool = False
    """Whether there are others beside them whose names nobody else can tell."""
    firsts: tuple[First, ...] = ()
    """Of our network and of the others, where there are others."""
    before: frozenset[str] = frozenset()
    """Names of networks on which ours has another sidecar, which comes before our own."""


class Gateway(NamedTuple):
    """The container that leads to the far networks, as seen on the network that is served."""

    container: str
    container_id: str
    network: str
    network_id: str
    addresses: tuple[Address, ...]
    lost: frozenset[int] = frozenset()
    """IP versions in which it has no address now, but had one or could have one."""
    unlisted: tuple[Network, ...] = ()
    """Subnets to which the engine attaches who is on that network without listing it among a
    container's networks: `docker_gwbridge`'s, on an overlay."""

    is_outside: bool = False
    """Whether it is no container of this engine: nobody here can look into it."""
    service: str = ""
    """The service of a swarm of which it is a task; else empty."""
    node: str = ""
    """Address of the machine on which that runs."""
    may_tunnel: bool = True
    """Whether it may have a tunnel one day, as far as is known."""
    cut_off: frozenset[Network] = frozenset()
    """Destinations that should go into a tunnel there, and do not now."""
    among: Gateways | None = None
    """All gateways; None if it is the only one."""
    coverage: Coverage = NOT_SEEN
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Names of the other networks that its sidecar serves, as in `Sidecar`."""

    @property
    def earlier(self) -> tuple[str, ...]:
        """Names of networks whose clients it serves there, though they are on this one too."""
        return (*self.before, *sorted(self.gateways.before))

    @property
    def gateways(self) -> Gateways:
        """All of them."""
        alone = self.container
        return self.among or Gateways(alone, alone, (Candidate(alone),))

    @property
    def known_as(self) -> str:
        """The name that it keeps when its container is made anew."""
        return self.service or self.container

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs on another node, whose agent alone can look into it."""
        return bool(self.service) and not self.container_id

    def address(self, version: int) -> Address | None:
        """Return its address of that IP version on the network, or None."""
        return next((address for address in self.addresses if address.version == version), None)


class Way(NamedTuple):
    """Where a gateway's kernel sends on what its clients send to a destination."""

    device: str = ""
    """Name of the link by which it leaves; empty if it does not."""
    is_tunnel: bool = False
    """Whether that link leads into a tunnel."""
    mtu: int | None = None
    """How large packets may be there (bytes), 0 if as large as they come in; None where they leave
    by the link by which they came, or not at all."""


class Tunnelled(NamedTuple):
    """What a gateway's kernel sends into tunnels."""

    devices: Mapping[Network, str] = MappingProxyType({})
    """By destination, the name of the link by which it leaves."""
    up: frozenset[str] = frozenset()
    """Names of its tunnels that are up."""
    versions: frozenset[int] = frozenset()
    """IP versions for which it was asked: of others nothing is known."""


class Route(NamedTuple):
    """One route: its identity in the kernel (`dst`, `metric`) and where it leads."""

    dst: Network
    gateway: Address | None
    metric: int
    kind: str = "unicast"
    """The kernel's route type (`unicast`, `unreachable`, `blackhole` and so on), or `connected`
    for a unicast route that leads straight onto a device."""
    table: int = MAIN
    mtu: int = 0
    """How large packets may be (bytes), if that is said."""

    @property
    def plain(self) -> Route:
        """The same without that."""
        return self._replace(mtu=0)

    def __hash__(self) -> int:
        """Few routes have the same destination, and an address takes long to hash."""
        return hash(self.dst)

    @property
    def version(self) -> int:
        """Its IP version."""
        return self.dst.version

    @property
    def is_guard(self) -> bool:
        """Whether it keeps a destination of our table from the main one."""
        return self.table == TABLE and self.metric == GUARD_METRIC and self.kind == "unreachable"

    @property
    def place(self) -> object:
        """What no two routes of ours share: the destination; a guard has a place beside it."""
        return self.dst if self.table == MAIN else (self.dst, self.table, self.is_guard)


class Rule(NamedTuple):
    """One policy rule: which table is asked, and when."""

    version: int
    pref: int
    """When: lower ones are asked before."""
    table: int
    suppress: int | None = None
    """Routes with a prefix of that length or a shorter one are passed over there."""
    source: Address | None = None
    """Whose packets it is for; None for all."""
    device: str = ""
    """Name of the link by which these come in; empty for all."""
    is_unreachable: bool = False
    """Whether they go nowhere instead: then there is no table (0)."""
    is_foreign: bool = False
    """Whether it asks something else of a packet, or leads to no table: none of ours does."""

    @property
    def plain(self) -> Rule:
        """The same: packets of any size go by it."""
        return self

    @property
    def place(self) -> object:
        """What no two rules of ours share."""
        return self


Thing = Route | Rule
"""What can be set in a namespace."""


class LocalAddress(NamedTuple):
    """An address of a network namespace."""

    address: Address
    network: Network
    """Where it makes neighbours."""
    is_duplicate: bool = False
    """Whether somebody else has it on that link, so that the kernel does not use it."""
    mtu: int = 0
    """How large packets may be on that link (bytes)."""


class Inside(NamedTuple):
    """What the kernel has in one network namespace, of both IP versions."""

    routes: tuple[Route, ...] = ()
    """The main table, and our own."""
    addresses: tuple[LocalAddress, ...] = ()
    """Those that make neighbours beyond a link of its own."""
    rules: tuple[Rule, ...] = ()
    """Those that somebody added, if they were looked at."""
    ruled: frozenset[int] = frozenset({IPV4, IPV6})
    """IP versions in which the kernel knows rules, as far as was looked."""


class Step(NamedTuple):
    """One change to one namespace."""

    verb: Literal["replace", "add", "del"]
    """A route is replaced, a rule is added, which the kernel refuses if an equal one is there."""
    thing: Thing
    reason: str = ""
    """Why it is deleted."""
    exact: bool = False
    """Whether to delete none but that of its `mtu`: another differs from it in nothing else."""


class Refusal(NamedTuple):
    """One label entry with a remark: left out, or (`served`) applied although it may surprise."""

    entry: str
    reason: str
    hint: str = ""
    served: bool = False


class Client(NamedTuple):
    """A container that asked for routes, and the namespace in which it gets them."""

    container: str
    container_id: str
    netns: str
    routes: tuple[Route, ...]
    refusals: tuple[Refusal, ...] = ()
    shared_with: str = ""
    """Name of the container that owns the namespace, where that is another one."""
    direct: tuple[Thing, ...] = ()
    """What keeps packets off the gateway: routes of the kind `DIRECT`, and rules."""
    others: frozenset[object] = frozenset()
    """Places in that namespace that are another gateway's for this container, and `OPEN`."""
    unserved: frozenset[object] = frozenset()
    """Those of them that are of a gateway to which none answers."""
    auto: frozenset[Network] = frozenset()
    """What of it was not asked for by name, but is what the gateway's tunnels cover."""
    yields_to: frozenset[Address] = frozenset()
    """Of that, where one of these other gateways leads to already, it is left to that one."""

    def leads_past(self, thing: Thing) -> bool:
        """Tell whether what stands there is what keeps its packets off the gateway."""
        return any(one.place == thing.place for one in self.direct)


class EarlyClient(NamedTuple):
    """A client that got routes before it ran."""

    client: Client
    """With the routes that it got."""
    complete: bool
    """Whether these are all that it asks for: there is nothing left to do but to verify them."""
    beside: tuple[Thing, ...] = ()
    """What was set beside the routes: guards and rules."""


class Skipped(NamedTuple):
    """A labelled container that is not served at all, and why."""

    container: str
    container_id: str
    reason: str
    hint: str = ""
    expected: bool = False
    """True where nothing is wrong, such as a container of another gateway."""
    left: Client | None = None
    """What it keeps if it stands in its namespace, where it may have left the network: guards."""
    elsewhere: Client | None = None
    """With the places that other gateways have in its namespace, if all is theirs."""


class Desired(NamedTuple):
    """What the labels ask for."""

    clients: tuple[Client, ...]
    skipped: tuple[Skipped, ...]


class Snapshot(NamedTuple):
    """What the engine said: labelled containers, each with the owner of its network namespace."""

    clients: tuple[tuple[Container, Container], ...]
    """Container and owner, the same one twice where it has a namespace of its own."""
    skipped: tuple[Skipped, ...] = ()
    """Those that have none in which anything can be done for them."""


class Event(NamedTuple):
    """A hint from the engine that something changed; never data to act on."""

    action: str
    container_id: str
    """The container concerned, also for network events."""
    container: str = ""
    network_id: str = ""
    labels: Mapping[str, str] = MappingProxyType({})
    """The container's, among other attributes of the event; empty for network events."""
    moment: float = 0.0
    """When that was (Unix seconds, by the engine's clock); 0 if it is not told."""


class Finding(NamedTuple):
    """What one check saw, and what to do about it: lines to paste or to put into a file."""

    level: Literal["ok", "warn", "fail", "skip"]
    seen: str
    fix: tuple[str, ...] = ()
