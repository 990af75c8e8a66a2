"""Asks the engine who is being started, in threads of its own.

While containers start, an answer may have to wait for what these have the engine write to disk.
Who serves them hears of every answer, and waits for none; nor does one question for the other.
"""

from __future__ import annotations

import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import structlog

from lib.engine.gwbridge import with_unlisted
from lib.errors import CallError, GoneError, WgRouteMgrError
from lib.model import DockerNetwork
from lib.routing.serving import asks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lib.early.known import KnownContainers
    from lib.engine.client import Engine
    from lib.model import Address, Container, Gateway, Interface, Network

log = structlog.get_logger()

_SHORTEST_SECONDS = 0.005
"""Between two questions for the same."""

_PART_OF_AGE = 0.1
"""The same as a part of the time since the last namespace appeared: what takes the engine long in
the beginning takes it long in the end."""

_RETRY_SECONDS = 0.1
"""After which a question that failed is asked again."""

_KEPT_SECONDS = 10.0
"""For which it is kept who a container is: longer than a namespace is looked at."""


class Reference(NamedTuple):
    """How the engine names a container on a network."""

    text: str
    is_name: bool = False
    """As while it attaches it; else it is the id."""


class Description(NamedTuple):
    """What is known of a container."""

    asked: float
    """When (monotonic seconds) the engine was asked; 0 if it is remembered."""
    container: Container | None
    """None if there is none."""
    subnets: tuple[Network, ...] | None = None
    """Of the other networks that it is to be on; None if that was not asked."""

    @property
    def client(self) -> Container | None:
        """The container if it asks for routes and does not run (yet)."""
        found = self.container
        return found if found and not found.running and asks(found.labels) else None


NO_NETWORK = DockerNetwork("", "", (), {})


class Answers(NamedTuple):
    """What the engine answered in one lookup.

    Names and addresses are given again: what was asked before a namespace appeared tells nothing of
    it.
    """

    gateway: Gateway
    known: KnownContainers
    asked: float = 0.0
    """When (monotonic seconds) it was asked who is on the gateway's network."""
    network: DockerNetwork = NO_NETWORK
    """That network."""
    subnets_asked: float = 0.0
    """When (monotonic seconds) it was asked for its networks."""
    subnets: tuple[Network, ...] | None = None
    """Of all others; None if it does not list them, as behind a proxy."""
    described: Mapping[Reference, Description] = MappingProxyType({})

    def with_network(self, asked: float, network: DockerNetwork) -> Answers:
        """Return these with who is on the network, unless a later question was answered before."""
        return self._replace(asked=asked, network=network) if asked > self.asked else self

    def with_description(self, who: Reference, found: Description) -> Answers:
        """Return these with who that is, without those that were asked for long before."""
        before = self.described.items()
        kept = {one: old for one, old in before if old.asked > found.asked - _KEPT_SECONDS}
        return self._replace(described={**kept, who: found})

    def attached(self) -> Iterable[tuple[Reference, tuple[Interface, ...]]]:
        """Yield who is on the gateway's network with which addresses."""
        for key, interfaces in self.network.interfaces.items():
            yield Reference(key), interfaces
        for name, interfaces in self.network.attaching.items():
            yield Reference(name, is_name=True), interfaces

    def owner_of(self, addresses: Iterable[Address]) -> Reference | None:
        """Return who has one of those addresses."""
        held = set(addresses)
        return next(
            (
                who
                for who, interfaces in self.attached()
                if held & {interface.ip for interface in interfaces}
            ),
            None,
        )

    def addresses_of(self, owner: Reference) -> tuple[Interface, ...]:
        """Return the addresses that a container has on the gateway's network."""
        network = self.network
        return (network.attaching if owner.is_name else network.interfaces).get(owner.text, ())

    def description(self, owner: Reference, since: float) -> Description | None:
        """Return what is known of a container, if that holds after a moment; else None.

        What is remembered does, but for a client that is said to run: it may have been restarted.
        Nor does it say to whom a client's name belongs now; that others ask for nothing is believed
        of their name too: at worst a client is served late.
        """
        fresh = self.described.get(owner)
        if fresh and fresh.asked >= since:
            return fresh
        known = self.known.named(owner.text) if owner.is_name else self.known.get(owner.text)
        if known and asks(known.labels) and (owner.is_name or known.running):
            return None
        return Description(0.0, known) if known else None

    def starts(self, owner: Reference) -> bool:
        """Tell whether a container on the network is known not to run, so that it is started."""
        known = None if owner.is_name else self.known.get(owner.text)
        return owner.is_name or bool(known and not known.running)

    def is_on_network(self, addresses: Iterable[Address]) -> bool:
        """Tell whether one of those addresses is of the gateway's network."""
        return any(address in subnet for address in addresses for subnet in self.network.subnets)


class Need(NamedTuple):
    """What has to be known of a container."""

    since: float
    """It has to hold after that moment (monotonic seconds)."""
    subnets: bool = False
    """Also those of the other networks that it is to be on."""


class Questions(NamedTuple):
    """What has to be asked."""

    addresses: bool = False
    """Who has which address, until that is enough."""
    news: float = 0.0
    """When (monotonic seconds) there was news of one that nobody is known to have."""
    subnets_since: float = 0.0
    """For all networks, if that was not done since."""
    containers: Mapping[Reference, Need] = MappingProxyType({})
    """Who they are."""


class Connections:
    """Connections to the engine for lookups."""

    def __init__(self, connect: Callable[[], Engine]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._idle: list[Engine] = []

    def take(self) -> Engine:
        """Return one that nobody else uses; raise WgRouteMgrError if the engine does not answer."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def give_back(self, engine: Engine) -> None:
        """Keep one for later: to make one for each look costs memory."""
        with self._lock:
            self._idle.append(engine)

    def forget(self) -> None:
        """Connect anew: one failed, and there may be another engine by now."""
        with self._lock:
            idle, self._idle = self._idle, []
        for engine in idle:
            engine.close()


class Lookup:
    """What is asked while new namespaces are watched, until it is closed."""

    def __init__(
        self,
        gateway: Gateway,
        known: KnownContainers,
        connections: Connections,
        tell: Callable[[], None],
    ) -> None:
        """Ask nothing yet; call `tell`, in other threads, when there is another answer."""
        self._connections = connections
        self._tell = tell
        self._changed = threading.Condition()
        self._is_open = True
        self._questions = Questions()
        self._expected_since = self._addresses_asked = 0.0
        self._asked_for: set[Reference] = set()
        self._answers = Answers(gateway, known)
        for name, ask in (
            *[("addresses", self._ask_addresses)] * 2,
            *[("clients", self._ask_clients)] * 3,
            ("networks", self._ask_networks),
        ):
            threading.Thread(
                target=self._run, args=(ask,), name=f"lookup of {name}", daemon=True
            ).start()

    @property
    def answers(self) -> Answers:
        """What the engine said so far."""
        return self._answers

    def expect(self, now: float) -> None:
        """Ask at once: a namespace appeared at that time (monotonic seconds)."""
        with self._changed:
            self._expected_since = now
            self._questions = self._questions._replace(addresses=True, subnets_since=now)
            self._changed.notify_all()

    def ask(self, questions: Questions) -> None:
        """Ask that from now on, until told otherwise."""
        with self._changed:
            if questions != self._questions:
                self._questions = questions
                self._changed.notify_all()

    def close(self) -> None:
        """Ask nothing more; the threads end when they have their last answers."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def _run(self, ask: Callable[[Engine], None]) -> None:
        engine = None
        while self._is_open:
            try:
                engine = engine or self._connections.take()
                ask(engine)
            except WgRouteMgrError as error:
                log.debug("lookup.failed", reason=error.reason)
                self._connections.forget()
                if engine:
                    engine.close()
                engine = None
                self._wait_to_retry()
        if engine:
            self._connections.give_back(engine)

    def _wait_to_retry(self) -> None:
        """Wait that long, or until a namespace appears."""
        with self._changed:
            since = self._expected_since
            self._changed.wait_for(
                lambda: not self._is_open or self._expected_since > since, _RETRY_SECONDS
            )

    def _ask_addresses(self, engine: Engine) -> None:
        """Ask who has which address, when that is due."""
        with self._changed:
            while self._is_open and (rest := self._rest_to_addresses()) != 0.0:
                self._changed.wait(rest)
            asked = self._addresses_asked = time.monotonic()
        if self._is_open:
            network = engine.network(self._answers.gateway.network_id)
            self._take(lambda known: known.with_network(asked, network))

    def _rest_to_addresses(self) -> float | None:
        """Return for how long not to ask for them; None if nobody wants to know."""
        if not self._questions.addresses:
            return None
        news = max(self._expected_since, self._questions.news)
        if self._addresses_asked <= news:
            return 0.0
        now = time.monotonic()
        pause = max(_SHORTEST_SECONDS, _PART_OF_AGE * (now - self._expected_since))
        return max(0.0, self._addresses_asked + pause - now)

    def _ask_clients(self, engine: Engine) -> None:
        """Ask who one container is, when one is to be asked for."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or self._next_unknown())
            if not (self._is_open and (unknown := self._next_unknown())):
                return
            who, need = unknown
            self._asked_for.add(who)
        try:
            description = self._describe(engine, who, need)
        finally:
            with self._changed:
                self._asked_for.remove(who)
        self._take(lambda known: known.with_description(who, description))

    def _ask_networks(self, engine: Engine) -> None:
        """Ask for all networks, when they are to be asked for."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or self._lacks_subnets())
        asked = time.monotonic()
        if self._is_open:
            subnets = self._all_subnets(engine)
            self._take(lambda known: known._replace(subnets_asked=asked, subnets=subnets))

    def _lacks_subnets(self) -> bool:
        return self._questions.subnets_since > self._answers.subnets_asked

    def _next_unknown(self) -> tuple[Reference, Need] | None:
        """Return one that is to be asked for."""
        for who, need in self._questions.containers.items():
            if who in self._asked_for:
                continue
            known = self._answers.described.get(who)
            lacks_subnets = need.subnets and known and known.container and known.subnets is None
            if not known or known.asked < need.since or lacks_subnets:
                return who, need
        return None

    def _describe(self, engine: Engine, who: Reference, need: Need) -> Description:
        known = self._answers.known
        asked = time.monotonic()
        if who.is_name and not need.subnets:
            remembered = known.named(who.text)
            if remembered and _is_named(engine, remembered):
                return Description(asked, remembered._replace(running=False))
        found = engine.find(name=who.text) if who.is_name else engine.find(container_id=who.text)
        if not found:
            return Description(asked, None)
        known.learn(found)
        if not need.subnets:
            return Description(asked, found)
        networks = [engine.network(point.network) for point in found.endpoints]
        return Description(asked, found, self._others(with_unlisted(engine, networks)))

    def _all_subnets(self, engine: Engine) -> tuple[Network, ...] | None:
        try:
            return self._others(engine.networks())
        except CallError as error:  # As by a proxy: who it matters to is asked for its networks.
            log.debug("lookup.failed", reason=error.reason)
            return None

    def _others(self, networks: Iterable[DockerNetwork]) -> tuple[Network, ...]:
        """Return the subnets of all but the gateway's network."""
        own = self._answers.gateway.network_id
        return tuple(subnet for one in networks if one.id != own for subnet in one.subnets)

    def _take(self, change: Callable[[Answers], Answers]) -> None:
        """Take in an answer, whatever others came meanwhile."""
        with self._changed:
            self._answers = change(self._answers)
        self._tell()


def _is_named(engine: Engine, container: Container) -> bool:
    """Tell whether a container that is remembered still has its name."""
    try:
        return engine.is_named(container.id, container.name)
    except (CallError, GoneError):
        return False
