"""Asks the engine who is being started, in threads of its own.

While containers start, an answer may have to wait for what these have the engine write to disk.
Who serves them hears of every answer, and waits for none; nor does one question for the other.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from lib.errors import EngineError
from lib.model import NETWORKS_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lib.engine.client import Engine
    from lib.model import Address, Container, Gateway, Interface, Network

log = structlog.get_logger()

_SHORTEST, _OF_AGE = 0.005, 0.1
"""Seconds between two questions, at least, and as a part of the time since the last namespace
appeared: what takes the engine long in the beginning takes it long in the end."""


@dataclass(frozen=True)
class Listing:
    """Who may be starting."""

    asked: float = 0.0
    """When (monotonic seconds) the engine was."""
    candidates: Mapping[str, Container] = field(default_factory=dict)
    """Clients on the gateway's network that do not run (yet), by id."""


@dataclass(frozen=True)
class Attached:
    """Who has which address on the gateway's network."""

    asked: float = 0.0
    """When (monotonic seconds) the engine was."""
    subnets: tuple[Network, ...] = ()
    """Of that network."""
    interfaces: Mapping[str, tuple[Interface, ...]] = field(default_factory=dict)
    """As of a `DockerNetwork`."""
    others: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)
    """Subnets of other networks that those who are being started are to be on, by name."""


@dataclass(frozen=True)
class Known:
    """What the engine said. Containers go by their ids."""

    listing: Listing = Listing()
    attached: Attached = Attached()

    @property
    def asked(self) -> float:
        """When (monotonic seconds) it was asked for the older part of this."""
        return min(self.listing.asked, self.attached.asked)

    @property
    def candidates(self) -> Mapping[str, Container]:
        """Who may be starting."""
        return self.listing.candidates

    def faces(self, key: str) -> tuple[Interface, ...]:
        """Return a candidate's addresses on the network, if the engine is attaching it."""
        interfaces = self.attached.interfaces
        return interfaces.get(key, interfaces.get(self.candidates[key].name, ()))

    def starting(self) -> set[str]:
        """Return the ids of candidates that the engine is attaching, which are being started."""
        return {key for key in self.candidates if self.faces(key)}

    def other_networks(self, key: str, gateway: Gateway) -> set[str]:
        """Return the names of the other networks that a candidate is to be on."""
        return {point.network for point in self.candidates[key].endpoints} - {gateway.network}

    def holder(self, addresses: Iterable[Address]) -> str | None:
        """Return the id of the candidate that has one of those addresses."""
        held = set(addresses)
        faces = ((key, face) for key in self.candidates for face in self.faces(key))
        return next((key for key, face in faces if face.ip in held), None)

    def is_on_network(self, addresses: Iterable[Address]) -> bool:
        """Tell whether one of those addresses is of the gateway's network."""
        subnets = self.attached.subnets
        return any(address in subnet for address in addresses for subnet in subnets)


class Scout:
    """Asks again and again for as long as that is wanted, on two connections of its own."""

    def __init__(self, connect: Callable[[], Engine]) -> None:
        """Nothing is asked until the first `ask`; raise OSError without a descriptor to spare."""
        self.is_wanted = False
        self._connect = connect
        self._gateway: Gateway | None = None
        self._since = 0.0
        """When (monotonic seconds) it was wanted last."""
        self._listing, self._attached = Listing(), Attached()
        """The last answers."""
        self._list_now, self._ask_now = threading.Event(), threading.Event()
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self) -> None:
        """Start the threads."""
        for name, wanted, answer in (
            ("lister", self._list_now, self._list),
            ("scout", self._ask_now, self._ask_addresses),
        ):
            threading.Thread(
                target=self._run, args=(wanted, answer), name=name, daemon=True
            ).start()

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is another answer."""
        return self._news

    def ask(self, gateway: Gateway) -> None:
        """Ask who may be starting, and for addresses until it is enough."""
        self._gateway, self._since, self.is_wanted = gateway, time.monotonic(), True
        self._list_now.set()
        self._ask_now.set()

    def enough(self) -> None:
        """Ask no more."""
        self.is_wanted = False

    def hear(self) -> Known:
        """Return the last answers, which then are no news any more."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._news)
        return Known(self._listing, self._attached)

    def _run(self, wanted: threading.Event, answer: Callable[[Engine, Gateway], None]) -> None:
        engine = None
        while True:
            wanted.wait()
            wanted.clear()
            assert self._gateway  # noqa: S101 - it is set before anything is asked
            try:
                engine = engine or self._connect()
                answer(engine, self._gateway)
            except EngineError as error:
                log.debug("start.missed", reason=error.reason)
                engine = None

    def _list(self, engine: Engine, gateway: Gateway) -> None:
        self._listing = list_clients(engine, gateway)
        self._tell()

    def _ask_addresses(self, engine: Engine, gateway: Gateway) -> None:
        since, attached = self._since, Attached()
        while self.is_wanted:
            attached = ask_addresses(engine, gateway, attached.others)
            listing = self._listing if self._listing.asked >= since else Listing()
            self._attached = attached = ask_others(engine, gateway, Known(listing, attached))
            self._tell()
            is_nobody = listing.asked and not listing.candidates
            pause = max(_SHORTEST, _OF_AGE * (time.monotonic() - since))
            if is_nobody or self._ask_now.wait(pause):
                return

    def _tell(self) -> None:
        os.eventfd_write(self._news, 1)


def list_clients(engine: Engine, gateway: Gateway) -> Listing:
    """Ask who may be starting, afresh for each namespace: names are given again."""
    asked = time.monotonic()
    found = engine.containers(NETWORKS_LABEL, running=False)
    names = (gateway.network, gateway.network_id)
    return Listing(asked, {one.id: one for one in found if any(map(one.endpoint, names))})


def ask_addresses(
    engine: Engine, gateway: Gateway, others: Mapping[str, tuple[Network, ...]]
) -> Attached:
    """Ask for the addresses, afresh for each namespace: they are given again too."""
    asked = time.monotonic()
    network = engine.network(gateway.network_id)
    return Attached(asked, network.subnets, network.interfaces, others)


def ask_others(engine: Engine, gateway: Gateway, known: Known) -> Attached:
    """Ask for the other networks of those who are being started."""
    attached = known.attached
    wanted = {name for key in known.starting() for name in known.other_networks(key, gateway)}
    new = {name: engine.network(name).subnets for name in wanted - attached.others.keys()}
    return replace(attached, others={**attached.others, **new})
