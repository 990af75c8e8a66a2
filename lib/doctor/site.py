"""What the doctor knows so far, and how it asks the kernel.

Runs commands that only read, in the namespaces of the gateway and of its clients. Judges nothing.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeVar

from lib.kernel import namespaces
from lib.model import Finding, Lookup
from lib.routing import iproute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lib.engine.client import Engine
    from lib.engine.sidecar import Sidecar
    from lib.kernel.shells import Outcome, Shells
    from lib.model import Address, Client, DockerNetwork, Gateway, Link, Network
    from lib.settings import Settings

T = TypeVar("T")

SHOWN = 5
"""Names, or remarks on one client, that are shown."""

_MAX_DESTINATIONS = 100


class SkippedError(Exception):
    """A check cannot be done, since what it builds on was not found."""


@dataclass(frozen=True, slots=True)
class Served:
    """A client as the checks see it."""

    client: Client
    addresses: Mapping[int, Address]
    """Its addresses on the served network, by IP version."""
    attached: frozenset[str]
    """Ids of its networks."""

    @property
    def name(self) -> str:
        """Its container's name."""
        return self.client.container


@dataclass(slots=True)
class Case:
    """What is known so far; None is what no check has found."""

    settings: Settings
    shell: Shells
    connect: Callable[[], Engine]
    engine: Engine | None = None
    sidecar: Sidecar | None = None
    network: DockerNetwork | None = None
    gateway: Gateway | None = None
    front: Link | None = None
    """The gateway's interface on the served network."""
    clients: tuple[Served, ...] | None = None
    forwards: set[int] = field(default_factory=set)
    """IP versions that the gateway forwards."""
    _looked_up: dict[tuple[str, ...], Lookup] = field(default_factory=dict)

    @property
    def container(self) -> str:
        """Name or id of the one client to follow; nothing where all are looked at."""
        return self.settings.container or ""

    @property
    def namespace(self) -> str:
        """The gateway's namespace file, which is there."""
        key = need(self.sidecar, "the gateway").gateway.sandbox_key
        return need(namespaces.identify(key), "the gateway's namespace file").path

    @property
    def place(self) -> str:
        """The gateway's namespace file, or nothing where we are in it ourselves."""
        return "" if namespaces.is_own(self.namespace) else self.namespace

    def run(self, place: str, *words: str) -> Outcome:
        """Run a reading command in a namespace, in ours if none is named."""
        entry = ("nsenter", f"--net={place}") if place else ()
        (outcome,) = self.shell.run([shlex.join((*entry, *words))])
        return outcome

    def look_up(
        self, place: str, dst: Address, source: Address | None = None, device: str = ""
    ) -> Lookup:
        """Ask the kernel where it would send a packet, each question once."""
        words = iproute.lookup_words(dst, source, device)
        if (key := (place, *words)) not in self._looked_up:
            outcome = self.run(place, *words)
            found = Lookup() if outcome.exit_code else iproute.parse_lookup(outcome.output)
            self._looked_up[key] = found
        return self._looked_up[key]

    def links(self, place: str) -> tuple[Link, ...]:
        """Return the interfaces of a namespace."""
        return iproute.parse_links(self.run(place, "ip", "address", "show").output)

    def sysctl(self, name: str) -> int | None:
        """Return a setting of the gateway's namespace; None if there is no such one."""
        outcome = self.run(self.place, "cat", f"/proc/sys/{name}")
        return int(outcome.output) if outcome.output.isdigit() else None

    def way_out(self, served: Served, dst: Network) -> Lookup:
        """Ask where the gateway sends what this client sends to there.

        Asked as for a packet that comes in, or, where that gives no answer, as for one of the
        gateway's own: what forwarding and rp_filter do is another check's.
        """
        target, front = host_of(dst), need(self.front, "the gateway's address")
        source = served.addresses.get(dst.version)
        asked = self.look_up(self.place, target, source, front.name)
        return asked if asked.device else self.look_up(self.place, target)

    def wishes(self) -> Iterator[tuple[Served, Network]]:
        """Yield every destination once, with a client that wants it."""
        seen: set[Network] = set()
        for served in need(self.clients or None, "a client"):
            for route in served.client.routes:
                if route.dst not in seen and len(seen) < _MAX_DESTINATIONS:
                    seen.add(route.dst)
                    yield served, route.dst


def need(found: T | None, what: str) -> T:
    """Return what an earlier check found; SkippedError if it found nothing."""
    if found is None:
        lacking(what)
    return found


def lacking(what: str) -> NoReturn:
    """Give a check up."""
    raise SkippedError(what)


def ok(seen: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", seen)


def warn(seen: str, *mend: str) -> Finding:
    """It may be meant so, or matter later."""
    return Finding("warn", seen, tuple(filter(None, mend)))


def fail(seen: str, *mend: str) -> Finding:
    """Traffic cannot flow, or nobody sees to it that it does."""
    return Finding("fail", seen, tuple(filter(None, mend)))


def host_of(dst: Network) -> Address:
    """Return an address in a network: its first host, as the network's own may be a broadcast."""
    return dst[min(1, dst.num_addresses - 1)]


def some(names: Iterable[str]) -> str:
    """Return names for a line, not more than fit."""
    known = sorted(set(names))
    more = len(known) - SHOWN
    return ", ".join(known[:SHOWN]) + (f" and {more} more" if more > 0 else "")
