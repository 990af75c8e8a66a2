"""Asks the engine who is being started, in a thread of its own.

While containers start, an answer may have to wait for what these have the engine write to disk.
Who serves them hears of every answer, and waits for none.
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

    from lib.engine import Engine
    from lib.model import Address, Container, Gateway, Interface, Network

log = structlog.get_logger()

_SHORTEST, _OF_AGE = 0.005, 0.1
"""Seconds between two questions, at least, and as a part of the time since the last namespace
appeared: what takes the engine long in the beginning takes it long in the end."""


@dataclass(frozen=True)
class Known:
    """What the engine said. Containers go by their ids."""

    listed: float
    """When (monotonic seconds) it was asked who may be starting."""
    candidates: Mapping[str, Container]
    """Clients on the gateway's network that do not run (yet)."""
    asked: float = 0.0
    """When (monotonic seconds) it was asked for what follows."""
    subnets: tuple[Network, ...] = ()
    """Of the gateway's network."""
    interfaces: Mapping[str, tuple[Interface, ...]] = field(default_factory=dict)
    """As of a `DockerNetwork`."""
    others: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)
    """Subnets of the other networks that those who are being started are to be on, by name."""

    def faces(self, key: str) -> tuple[Interface, ...]:
        """Return a candidate's addresses on the network, if the engine is attaching it."""
        by_name = self.interfaces.get(self.candidates[key].name, ())
        return self.interfaces.get(key, by_name)

    def starting(self) -> set[str]:
        """Return the ids of candidates that the engine is attaching, which are being started."""
        return {key for key in self.candidates if self.faces(key)}

    def holder(self, addresses: Iterable[Address]) -> str | None:
        """Return the id of the candidate that has one of those addresses."""
        held = set(addresses)
        faces = ((key, face) for key in self.candidates for face in self.faces(key))
        return next((key for key, face in faces if face.ip in held), None)

    def is_on_network(self, addresses: Iterable[Address]) -> bool:
        """Tell whether one of those addresses is of the gateway's network."""
        return any(address in subnet for address in addresses for subnet in self.subnets)


NOTHING = Known(0.0, {})


class Scout:
    """Asks again and again for as long as that is wanted, on a connection of its own."""

    def __init__(self, connect: Callable[[], Engine]) -> None:
        """Nothing is asked until the first `ask`; raise OSError without a descriptor to spare."""
        self.known = NOTHING
        """The last answer."""
        self.is_wanted = False
        self._connect = connect
        self._engine: Engine | None = None
        self._gateway: Gateway | None = None
        self._asked = threading.Event()
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="scout", daemon=True).start()

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is another answer."""
        return self._news

    def ask(self, gateway: Gateway) -> None:
        """Ask who may be starting, then for addresses until it is enough."""
        self._gateway, self.is_wanted = gateway, True
        self._asked.set()

    def enough(self) -> None:
        """Ask no more."""
        self.is_wanted = False

    def hear(self) -> Known:
        """Return the last answer, which then is no news any more."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._news)
        return self.known

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            try:
                self._engine = self._engine or self._connect()
                self._answer(self._engine)
            except EngineError as error:
                log.debug("start.missed", reason=error.reason)
                self._engine = None

    def _answer(self, engine: Engine) -> None:
        assert self._gateway  # noqa: S101 - it is set before anything is asked
        gateway = self._gateway
        known = list_clients(engine, gateway)
        self._tell(known)
        while known.candidates and self.is_wanted:
            known = ask_addresses(engine, gateway, known)
            self._tell(known)
            if self._asked.wait(max(_SHORTEST, _OF_AGE * (time.monotonic() - known.listed))):
                return

    def _tell(self, known: Known) -> None:
        self.known = known
        os.eventfd_write(self._news, 1)


def list_clients(engine: Engine, gateway: Gateway) -> Known:
    """Ask who may be starting, afresh for each namespace: names are given again."""
    listed = time.monotonic()
    found = engine.containers(NETWORKS_LABEL, running=False)
    names = (gateway.network, gateway.network_id)
    return Known(listed, {one.id: one for one in found if any(map(one.endpoint, names))})


def ask_addresses(engine: Engine, gateway: Gateway, known: Known) -> Known:
    """Ask for the addresses, afresh for each namespace: they are given again too."""
    asked = time.monotonic()
    network = engine.network(gateway.network_id)
    told = replace(known, asked=asked, subnets=network.subnets, interfaces=network.interfaces)
    points = (point for key in told.starting() for point in told.candidates[key].endpoints)
    names = {point.network for point in points} - {gateway.network} - known.others.keys()
    others = {name: engine.network(name).subnets for name in names}
    return replace(told, others={**known.others, **others})
