"""A stand-in for the kernel and its shells, strict and with a state of its own; it needs no root.

It answers as BusyBox's `nsenter` and `ip` do (glibc's texts), and understands the command lines
that `lib.routing.iproute` makes, nothing else. What holds it to the truth is
`tests/integration/test_kernel_contract.py`.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections import deque
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from itertools import count
from typing import TYPE_CHECKING

from lib.errors import NetnsError, NetnsGoneError
from lib.kernel.access import Kernel
from lib.kernel.changes import Listener
from lib.kernel.namespaces import NamespaceId
from lib.kernel.shells import TIMED_OUT, Outcome, Services
from lib.model import (
    DEFAULT_METRIC,
    IPV4,
    IPV6,
    MAIN,
    Address,
    Inside,
    LocalAddress,
    Route,
    Rule,
    Thing,
    Tunnelled,
    Way,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from lib.kernel.shells import Conversation
    from lib.model import Interface, Network

CONNECTED_METRIC = {IPV4: 0, IPV6: 256}
"""Of the route to an address's own network, as the kernel makes it."""

_KINDS = {"unreachable", "blackhole", "prohibit", "throw"}
_MILLISECONDS, _LIMIT_MILLISECONDS = 1.0, 5000.0

Done = tuple[int, str]
"""Exit code and output."""
_OK: Done = (0, "")


def refused(number: int) -> Done:
    """Return how a command ends that the kernel refuses with that error."""
    return 2, f"ip: RTNETLINK answers: {os.strerror(number)}"


class FakeKernel(Kernel):
    """Namespaces, their routes and what runs in them."""

    def __init__(self, width: int = 1) -> None:
        """Run commands of as many conversations by turns."""
        self.commands: list[str] = []
        """All that ran, in that order."""
        workers = [_Worker(self._execute) for _ in range(width)]
        self._services = Services(workers, _step)
        self._inodes = count(4026532000)
        self._spaces: dict[str, _Space] = {}
        self._hooks: list[Callable[[str], None]] = []
        self._sick: dict[str, tuple[str, Outcome]] = {}
        """By namespace: what a command holds, and how it ends then."""
        self._unreadable: dict[str, str] = {}
        self._forbidden: dict[str, NetnsError] = {}

    # What a test does to it.

    def add(
        self,
        path: str,
        connected: Iterable[str] = (),
        addresses: Iterable[str] = (),
        *,
        link_up: bool = True,
    ) -> None:
        """Make a namespace with one link.

        An address with a prefix length connects its network; `connected` are others. The kernel
        answers for IPv6 only as far as it is not disabled: `disable_ipv6`.
        """
        assert path not in self._spaces, f"{path} is there already"
        identity = NamespaceId(path, 4, next(self._inodes))
        self._spaces[path] = _Space(identity, is_up=link_up)
        for address in addresses:
            self.attach(path, address)
        for network in connected:
            self._spaces[path].connect(ip_network(network))

    def attach(self, path: str, address: str) -> None:
        """Add an address, as `docker network connect` does, and its network if it has a length."""
        space, interface = self._spaces[path], ip_interface(address)
        space.addresses.append(interface)
        if "/" in address:
            space.connect(interface.network)

    def detach(self, path: str, address: str) -> None:
        """Take away an address of that length, and its network."""
        space, interface = self._spaces[path], ip_interface(address)
        space.addresses.remove(interface)
        connected = CONNECTED_METRIC[interface.version]
        space.routes.remove(Route(interface.network, None, connected, "connected"))
        space.tell()

    def disconnect(self, path: str, *addresses: str) -> None:
        """Take away a link with these addresses, and what leads by it."""
        for address in addresses:
            self.detach(path, address)
            network, space = ip_interface(address).network, self._spaces[path]
            space.routes = [
                one for one in space.routes if not one.gateway or one.gateway not in network
            ]

    def set_link(self, path: str, *, up: bool) -> None:
        """Set the link up or down; down, it takes its routes and its IPv6 addresses with it."""
        self._spaces[path].set_link(up=up)

    def disable_ipv6(self, path: str) -> None:
        """Take away IPv6 addresses and routes, as `net.ipv6.conf.all.disable_ipv6=1` does."""
        self._spaces[path].drop_ipv6()

    def boot_without_ipv6(self, path: str) -> None:
        """Let the kernel be one that was booted with `ipv6.disable=1`."""
        self._spaces[path].drop_ipv6()
        self._spaces[path].has_ipv6 = False

    def duplicate(self, path: str, address: str) -> None:
        """Let an IPv6 address be one that somebody else has on the link."""
        self._spaces[path].duplicates.add(ip_address(address))

    def give(self, path: str, *things: Thing) -> None:
        """Append routes and rules, as somebody else does who appends (`ip route append`)."""
        for thing in things:
            if isinstance(thing, Rule):
                self._spaces[path].insert_rule(thing)
            else:
                self._spaces[path].insert(thing)

    def remove(self, path: str) -> None:
        """End a namespace."""
        del self._spaces[path]

    def replace_with_other(self, path: str) -> None:
        """Let another, empty namespace be found there."""
        self.remove(path)
        self.add(path)

    def before_command(self, hook: Callable[[str], None]) -> None:
        """Call that with each command line right before it runs."""
        self._hooks.append(hook)

    def set_mtu(self, path: str, size: int) -> None:
        """Let the link take packets of that size; it is 1500 before."""
        self._spaces[path].mtu = size

    def tunnel(self, path: str, dst: str, size: int = 1500, *, is_ethernet: bool = False) -> None:
        """Route a destination into a link that takes packets of that size, or of another now."""
        space, network = self._spaces[path], ip_network(dst)
        if network not in space.tunnels:
            metric = DEFAULT_METRIC[network.version]
            space.insert(Route(network, None, metric, "connected"))
        space.tunnels[network] = size
        space.has_tunnel = True
        space.is_ethernet = is_ethernet
        space.tell()

    def close_tunnel(self, path: str, dst: str) -> None:
        """Take that link away, as far as that destination is concerned."""
        self.unroute(path, dst)
        self._spaces[path].has_tunnel = False

    def unroute(self, path: str, dst: str) -> None:
        """Take away a route into that link, which stays."""
        space, network = self._spaces[path], ip_network(dst)
        del space.tunnels[network]
        space.routes = [route for route in space.routes if route.dst != network]
        space.tell()

    def fail(self, path: str, text: str, exit_code: int = 2, *, only: str = "") -> None:
        """Let the commands in a namespace fail, all or those that hold a text."""
        self._sick[path] = only, Outcome("", exit_code, text, _MILLISECONDS)

    def hang(self, path: str, *, only: str = "") -> None:
        """Let them hang until they are killed."""
        text = f"no answer within {_LIMIT_MILLISECONDS / 1000:g} s, killed"
        self._sick[path] = only, Outcome("", TIMED_OUT, text, _LIMIT_MILLISECONDS)

    def fail_reading(self, path: str, reason: str) -> None:
        """Let its routes be read in vain."""
        self._unreadable[path] = reason

    def forbid(self, path: str, error: NetnsError) -> None:
        """Let `check` raise that, as for the host's namespace."""
        self._forbidden[path] = error

    def heal(self, path: str) -> None:
        """Let a namespace be well again."""
        self._sick.pop(path, None)
        self._unreadable.pop(path, None)
        self._forbidden.pop(path, None)

    # What it is asked.

    def identify(self, path: str) -> NamespaceId | None:
        space = self._spaces.get(path)
        return space.identity if space else None

    def check(self, path: str, *, own: bool = False) -> None:
        del own
        if error := self._forbidden.get(path):
            raise error
        if path not in self._spaces:
            reason = f"the namespace file {path} is gone"
            raise NetnsGoneError(reason)

    def confirm(self, identity: NamespaceId) -> None:
        if self.identify(identity.path) != identity:
            reason = f"{identity.path} is not the namespace any more that it was"
            raise NetnsGoneError(reason)

    def routes(self, path: str) -> tuple[Route, ...]:
        """Return the routes alone, for tests."""
        return self.read(path).routes

    def rules(self, path: str) -> tuple[Rule, ...]:
        """Return the rules alone, for tests."""
        return self.read(path, rules=True).rules

    def read(self, path: str, *, rules: bool = False, sizes: bool = True) -> Inside:
        space = self._readable(path)
        mtu = space.mtu if sizes else 0
        addresses = (
            LocalAddress(one.ip, one.network, is_duplicate=one.ip in space.duplicates, mtu=mtu)
            for one in space.addresses
        )
        rules = rules or any(route.table != MAIN for route in space.routes)
        if not rules:
            return Inside(tuple(space.routes), tuple(addresses))
        ruled = frozenset({IPV4, IPV6} if space.has_ipv6 else {IPV4})
        return Inside(tuple(space.routes), tuple(addresses), tuple(space.rules), ruled)

    def ways(
        self, path: str, front: Collection[Address], destinations: Iterable[Network]
    ) -> dict[Network, Way]:
        space = self._readable(path)
        held = {one.version for one in space.addresses if one.ip in front}
        return {dst: space.way(dst) if dst.version in held else Way() for dst in destinations}

    def covered(self, path: str, front: Collection[Address]) -> Tunnelled:
        space = self._readable(path)
        versions = frozenset(one.version for one in space.addresses if one.ip in front)
        if space.is_ethernet:
            return Tunnelled({}, frozenset(), versions)
        found = {*space.tunnels} - {one.network for one in space.addresses}
        return Tunnelled(
            {dst: "wg0" for dst in found if dst.version in versions},
            frozenset({"wg0"} if space.has_tunnel else ()),
            versions,
        )

    def link_of(self, path: str, held: Collection[Address]) -> str:
        links = -1
        for one in self._readable(path).addresses:
            links += one.version == IPV4  # Each link has one, before one of IPv6 if it has that.
            if one.ip in held:
                return f"eth{links}"
        return ""

    def listen(self, path: str, tell: Callable[[], None]) -> Listener:
        self._readable(path)
        listener = _Listener(tell)
        self._spaces[path].listeners.append(listener)
        return listener

    def deafen(self, path: str) -> None:
        """Let who listens there hear nothing any more."""
        for listener in self._spaces[path].listeners:
            listener.has_failed = True

    def listeners(self, path: str) -> int:
        """Return how many listen there, for tests."""
        return sum(one.is_open for one in self._spaces[path].listeners)

    def serve(self, conversations: Iterable[Conversation]) -> None:
        self._services.serve(conversations)

    def _readable(self, path: str) -> _Space:
        missing = "" if path in self._spaces else "No such file or directory"
        if why := self._unreadable.get(path, missing):
            reason = f"cannot read the routes in {path}: {why}"
            raise NetnsError(reason)
        return self._spaces[path]

    def _execute(self, line: str) -> Outcome:
        command = _parse(line)
        for hook in self._hooks:
            hook(line)
        self.commands.append(line)
        only, ends = self._sick.get(command.path, ("", None))
        if ends and only in line:
            return Outcome(line, ends.exit_code, ends.output, ends.duration_ms)
        space = self._spaces.get(command.path)
        if not space:
            text = f"nsenter: can't open '{command.path}': No such file or directory"
            return Outcome(line, 1, text, _MILLISECONDS)
        code, text = space.change(command)
        return Outcome(line, code, text, _MILLISECONDS)


class _Worker:
    """A shell that runs one command at each step."""

    def __init__(self, execute: Callable[[str], Outcome]) -> None:
        self._execute = execute
        self._waiting: deque[str] = deque()
        self._done: list[Outcome] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting)

    def take(self, commands: Sequence[str]) -> None:
        assert not isinstance(commands, str), "a batch is a list of command lines"
        self._waiting.clear()  # As a shell that was interrupted is killed.
        self._done.clear()
        self._waiting.extend(commands)

    def collect(self) -> list[Outcome]:
        done, self._done = self._done, []
        return done

    def step(self) -> None:
        self._done.append(self._execute(self._waiting.popleft()))


def _step(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.step()


@dataclass(frozen=True)
class _Command:
    """A command line about a route, taken apart."""

    path: str
    verb: str
    kind: str
    """Empty where none is said."""
    dst: Network
    gateway: Address | None
    metric: int | None
    table: int
    source: Address | None
    on_loopback: bool
    mtu: int | None


@dataclass(frozen=True)
class _RuleCommand:
    """One about a rule."""

    path: str
    verb: str
    rule: Rule


def _parse(line: str) -> _Command | _RuleCommand:
    """Take a line apart; fail the test if it is any other than ours are."""
    words = deque(shlex.split(line))
    strange = f"the fake kernel does not understand: {line}"
    assert shlex.join(words) == line, strange
    assert words.popleft() == "nsenter", strange
    enter = words.popleft()
    assert enter.startswith("--net=/"), strange
    assert words.popleft() == "ip", strange
    version = IPV6 if words[0] == "-6" and words.popleft() else IPV4
    about = words.popleft()
    assert about in {"route", "rule"}, strange
    path = enter.removeprefix("--net=")
    if about == "route":
        return _parse_route(path, version, words, strange)
    return _parse_rule(path, version, words, strange)


def _parse_route(path: str, version: int, words: deque[str], strange: str) -> _Command:
    verb = words.popleft()
    assert verb in {"replace", "del"}, strange
    kind = words.popleft() if words[0] in _KINDS else ""
    everything = {IPV4: "0.0.0.0/0", IPV6: "::/0"}[version]
    dst = words.popleft()
    assert dst != everything, strange
    network = ip_network(everything if dst == "default" else dst)
    said = _said(words, "via", "metric", "table", "src", "dev", "mtu")
    assert not words, strange
    assert network.version == version, strange
    assert said.get("dev", "lo") == "lo", strange
    assert verb == "replace" or not said.keys() & {"src"}, strange
    assert verb == "del" or ("via" in said) + ("dev" in said) + bool(kind) == 1, strange
    assert verb == "replace" or version == IPV4 or "metric" in said, strange
    assert said.get("table") != str(MAIN), strange
    assert said.get("mtu", "1").isdigit(), strange
    assert "mtu" not in said or not kind, strange
    return _Command(
        path=path,
        verb=verb,
        kind=kind,
        dst=network,
        gateway=ip_address(said["via"]) if "via" in said else None,
        metric=int(said["metric"]) if "metric" in said else None,
        table=int(said.get("table", MAIN)),
        source=ip_address(said["src"]) if "src" in said else None,
        on_loopback="dev" in said,
        mtu=int(said["mtu"]) if "mtu" in said else None,
    )


def _parse_rule(path: str, version: int, words: deque[str], strange: str) -> _RuleCommand:
    verb = words.popleft()
    assert verb in {"add", "del"}, strange
    said = _said(words, "pref", "from", "iif", "lookup", "suppress_prefixlength")
    is_unreachable = list(words) == ["type", "unreachable"]
    assert is_unreachable or not words, strange
    # What is left out of a deletion matches anything.
    assert "pref" in said, strange
    assert ("lookup" in said) != is_unreachable, strange
    table, suppress = said.get("lookup", "0"), said.get("suppress_prefixlength")
    rule = Rule(
        version,
        int(said["pref"]),
        MAIN if table == "main" else int(table),
        None if suppress is None else int(suppress),
        ip_address(said["from"]) if "from" in said else None,
        said.get("iif", ""),
        is_unreachable,
    )
    assert not rule.source or rule.source.version == version, strange
    return _RuleCommand(path, verb, rule)


def _said(words: deque[str], *names: str) -> dict[str, str]:
    """Take what is said in the order of these names."""
    said = {}
    for name in names:
        if words and words[0] == name:
            words.popleft()
            said[name] = words.popleft()
    return said


class _Listener(Listener):
    """One that is told by the fake itself."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell = tell
        self.is_open = True
        self.has_failed = False

    @property
    def is_over(self) -> bool:
        return self.has_failed

    def close(self) -> None:
        self.is_open = False


@dataclass
class _Space:
    """One namespace: its link, its addresses, and its tables and rules in the kernel's order."""

    identity: NamespaceId
    is_up: bool
    routes: list[Route] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    addresses: list[Interface] = field(default_factory=list)
    duplicates: set[Address] = field(default_factory=set)
    has_ipv6: bool = True
    mtu: int = 1500
    tunnels: dict[Network, int] = field(default_factory=dict)
    """By destination, how large packets may be on the link that it is routed into."""
    has_tunnel: bool = False
    """Whether that link is there."""
    is_ethernet: bool = False
    """Whether that link is no tunnel."""
    listeners: list[_Listener] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)
    """Those that are connected while the link is up."""

    def way(self, dst: Network) -> Way:
        if dst not in self.tunnels:
            return Way("")
        size = self.tunnels[dst]
        return Way("wg0", not self.is_ethernet, size if size < self.mtu else 0)

    def tell(self) -> None:
        for listener in self.listeners:
            if listener.is_open:
                listener.tell()

    def connect(self, network: Network) -> None:
        self.networks.append(network)
        if self.is_up:
            metric = CONNECTED_METRIC[network.version]
            self.insert(Route(network, None, metric, "connected"))

    def set_link(self, *, up: bool) -> None:
        if up == self.is_up:
            return
        self.is_up = up
        if up:
            networks, self.networks = self.networks, []
            for network in networks:
                self.connect(network)
        else:
            self.routes = [route for route in self.routes if route.kind in _KINDS]
            self._drop_ipv6_addresses()

    def drop_ipv6(self) -> None:
        self.routes = [
            route for route in self.routes if route.dst.version == IPV4 or route.kind in _KINDS
        ]
        self._drop_ipv6_addresses()

    def insert(self, route: Route) -> None:
        """Put a route behind those of its destination that have no higher metric."""
        places = [
            place
            for place, other in enumerate(self.routes)
            if _where(other) == _where(route) and other.metric <= route.metric
        ]
        self.routes.insert(places[-1] + 1 if places else 0, route)

    def insert_rule(self, rule: Rule) -> None:
        """Put a rule behind those that are asked before it, or at the same time."""
        self.rules.append(rule)
        self.rules.sort(key=lambda one: (one.version, one.pref))

    def change(self, command: _Command | _RuleCommand) -> Done:
        """Do what a command says."""
        if isinstance(command, _RuleCommand):
            is_known = self.has_ipv6 or command.rule.version == IPV4
            return self._change_rules(command) if is_known else refused(errno.EAFNOSUPPORT)
        if command.dst.version == IPV6 and not self.has_ipv6:
            return refused(errno.EOPNOTSUPP)
        return self.replace(command) if command.verb == "replace" else self.delete(command)

    def _change_rules(self, command: _RuleCommand) -> Done:
        is_there = command.rule in self.rules
        if is_there == (command.verb == "add"):
            return refused(17 if is_there else 2)
        if is_there:
            self.rules.remove(command.rule)
        else:
            self.insert_rule(command.rule)
        return _OK

    def replace(self, command: _Command) -> Done:
        if error := self._refusal(command):
            return error
        version = command.dst.version
        metric = DEFAULT_METRIC[version] if command.metric is None else command.metric
        kind = command.kind or ("connected" if command.on_loopback else "unicast")
        new = Route(command.dst, command.gateway, metric, kind, command.table, command.mtu or 0)
        same = [one for one in self.routes if _where(one) == _where(new)]
        same = [one for one in same if one.metric == new.metric]
        if version == IPV6:
            # `fib6_add_rt2node`: of those with a gateway one with a gateway, if there is any.
            same = [one for one in same if bool(one.gateway) == bool(new.gateway)] or same
        elif new in same[1:]:  # `fib_table_insert`
            return refused(17)
        if same:
            self.routes[self.routes.index(same[0])] = new
        else:
            self.insert(new)
        return _OK

    def delete(self, command: _Command) -> Done:
        for route in self.routes:
            if self._is_meant(command, route):
                self.routes.remove(route)
                return _OK
        return refused(3)

    def _refusal(self, command: _Command) -> Done | None:
        gateway, source = command.gateway, command.source
        if gateway and not self._reaches(gateway):
            return refused(101 if gateway.version == IPV4 else 113)
        held = {interface.ip for interface in self.addresses}
        assert gateway not in held, "a gateway that is an own address is beyond this fake"
        return refused(22) if source and source not in held else None

    def _reaches(self, gateway: Address) -> bool:
        """Tell whether it is a neighbour; IPv6 looks at the closest route alone."""
        main = (route for route in self.routes if route.table == MAIN)
        around = [route for route in main if gateway in route.dst]
        if gateway.version == IPV6:
            closest = max(around, key=lambda route: route.dst.prefixlen, default=None)
            around = [closest] if closest else []
        return any(route.kind == "connected" for route in around)

    @staticmethod
    def _is_meant(command: _Command, route: Route) -> bool:
        """Tell whether a route is like what is said; IPv6 compares no type, but the device."""
        alike = _where(route) == (command.dst, command.table)
        alike &= command.gateway in {None, route.gateway}
        alike &= command.metric in {None, route.metric}
        if route.dst.version == IPV6:
            return alike and not (command.on_loopback and route.kind not in _KINDS)
        alike &= command.mtu in {None, route.mtu}
        return alike and command.kind in {"", route.kind}

    def _drop_ipv6_addresses(self) -> None:
        self.addresses = [address for address in self.addresses if address.version == IPV4]
        self.networks = [network for network in self.networks if network.version == IPV4]


def _where(route: Route) -> tuple[Network, int]:
    return route.dst, route.table
