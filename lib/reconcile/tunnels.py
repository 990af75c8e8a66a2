"""Where the gateway sends what its clients send: into a tunnel or not, and how large it may be.

Asks the gateway's kernel, listens to it, and remembers what it said. Nothing is changed.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import structlog

from lib import advice
from lib.errors import NetnsError
from lib.model import IPV6
from lib.routing import tunnels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lib.kernel.access import Reader
    from lib.kernel.changes import Listener
    from lib.kernel.namespaces import NamespaceId
    from lib.model import Gateway, Network, Way
    from lib.settings import Settings

log = structlog.get_logger()

AUTO, OFF = "auto", "off"
_SMALLEST_IPV6 = 1280
"""What each link has to take (RFC 8200)."""

_MOST = 2000
"""Destinations that are remembered although nobody asks for them now."""

_SHOWN = 5
"""Destinations that are named."""

_CALM_SECONDS = 1.0
"""After a loss, for which what is lost beside it is no news: a tunnel goes piece by piece."""


class Tunnels:
    """What is known of them."""

    def __init__(
        self,
        kernel: Reader,
        settings: Settings,
        time_of_day: Callable[[], float],
        *,
        tell: Callable[[], None] | None = None,
        through: Iterable[Network] = (),
    ) -> None:
        """Have `tell` called, in a thread, when something changed there; None to listen to nothing.

        What is said to have gone `through` a tunnel before is taken for granted.
        """
        self._kernel = kernel
        self._choice = settings.mtu
        self._warns = settings.on_tunnel_loss == "warn"
        self._time = time_of_day
        self._tell = tell
        self._listener: Listener | None = None
        self._place: NamespaceId | None = None
        """The namespace in which that listens."""
        self._gateway: Gateway | None = None
        self._netns = ""
        self._known: set[Network] = {*tunnels.EVERYTHING, *through}
        """Destinations of which the kernel is asked, also for clients that are still to come."""
        self._wanted: set[Network] = set()
        """Those that clients ask for."""
        self._learnt: set[Network] = set()
        """Those of which that was said since the last pass over all clients began."""
        self._through: set[Network] = {*through}
        self._elsewhere: set[Network] = set()
        self._ways: dict[Network, Way] = {}
        self._sizes: dict[Network, int] = {}
        """As last found: a tunnel that is away will not be another one."""
        self._lost: dict[Network, float] = {}
        self._told: set[Network] = set()

    # --- looking --------------------------------------------------------------------------------

    def look(self, gateway: Gateway | None, netns: str) -> None:
        """Ask of all destinations in the namespace of a file; None of a gateway if it is not there.

        Another gateway by name starts from nothing; another container by that name succeeds it.
        """
        before = self._gateway
        if gateway and before and gateway.known_as != before.known_as:
            self._through.clear()
            self._elsewhere.clear()
        if gateway and before and gateway.container_id != before.container_id:
            self._sizes.clear()
        if gateway and netns != self._netns:
            self._ways.clear()  # What is known of another namespace says nothing of this one.
        self._gateway = gateway or before
        self._netns = netns if gateway else ""
        self._listen()  # Before it is asked, so that nothing is missed in between.
        if gateway:
            self._ask(self._known)
            self._judge(self._known)

    def _listen(self) -> None:
        """Listen in the gateway's namespace, in that which it has now, if any."""
        place = self._kernel.identify(self._netns) if self._netns else None
        is_over = bool(self._listener and self._listener.is_over)
        if (place == self._place and not is_over) or not self._tell:
            return
        if self._listener:
            self._listener.close()
        self._listener = self._place = None
        if not place:
            return
        try:
            self._listener = self._kernel.listen(place.path, self._tell)
            self._place = place
        except NetnsError as error:
            log.debug("watch.failed", netns=place.path, reason=error.reason)

    @property
    def is_any(self) -> bool:
        """Whether the gateway sends anything into a tunnel, or did."""
        return bool(self._through)

    def begin(self) -> None:
        """Begin a pass over all clients: who asks for what is to be learnt anew."""
        if len(self._known) > _MOST:
            self._known = {*tunnels.EVERYTHING, *self._wanted}
            self._through &= self._known
            self._elsewhere &= self._known
        self._learnt = set()

    def end(self) -> None:
        """End it: what nobody has asked for since it began is not asked for any more."""
        self._wanted = {*self._learnt}

    def expect(self, destinations: Iterable[Network]) -> frozenset[Network]:
        """Ask of these too, all at a time, as clients may ask for them; return which are new."""
        new = frozenset(destinations) - self._known
        if new:
            self._known |= new
            self._ask(new)
            self._judge(new)
        return new

    def learn(self, destinations: Iterable[Network], *, through: Iterable[Network] = ()) -> bool:
        """Take note that a client asks for these, and tell whether any is lost that was not.

        Those that went `through` a tunnel before, as somebody else has seen, should do so.
        """
        asked = {*destinations}
        self._wanted |= asked
        self._learnt |= asked
        self._through |= asked.intersection(through)
        return not self.expect(asked).isdisjoint(self._lost)

    def _ask(self, destinations: Iterable[Network]) -> None:
        if not self._gateway or not self._netns:
            return
        try:
            found = self._kernel.ways(self._netns, self._gateway.addresses, destinations)
        except NetnsError as error:
            log.debug("tunnel.unknown", netns=self._netns, reason=error.reason)
            return
        self._ways |= found
        self._sizes |= {dst: way.mtu for dst, way in found.items() if way.mtu is not None}
        self._through |= {dst for dst, way in found.items() if way.is_tunnel}

    def _judge(self, destinations: Iterable[Network]) -> None:
        """Compare where these go with where they should; others go where they went."""
        if not self._gateway:
            return
        if self._gateway.is_elsewhere:
            self._lost = {}
            return
        versions = {address.version for address in self._gateway.addresses}
        judged = {dst for dst in destinations if dst.version in versions}
        gone = self._lost.keys() & self._through
        # Who looks once has not seen what went elsewhere before, and leaves it at that.
        elsewhere = self._elsewhere if self._tell else judged - self._through
        may_tunnel = self._gateway.may_tunnel
        lost = tunnels.lost(
            judged | gone, self._ways, self._through, elsewhere, may_tunnel=may_tunnel
        )
        now = self._time()
        others = {dst: since for dst, since in self._lost.items() if dst not in judged}
        self._lost = others | {dst: self._lost.get(dst, now) for dst in lost}
        if self._through.isdisjoint(self._lost):
            self._elsewhere |= (judged & self._ways.keys()) - self._through

    # --- what is known --------------------------------------------------------------------------

    @property
    def lost(self) -> Mapping[Network, float]:
        """What clients ask for and does not go into a tunnel as it should; since when (Unix)."""
        return {dst: since for dst, since in self._lost.items() if dst in self._wanted}

    def applied(self, gateway: Gateway) -> Gateway:
        """Return the gateway with what is to be unreachable through it."""
        return gateway._replace(cut_off=frozenset() if self._warns else frozenset(self._lost))

    @property
    def mtus(self) -> Mapping[Network, int]:
        """How large packets to what clients ask for may be (bytes), if that is to be said."""
        return self.mtus_of(self._wanted)

    def mtus_of(self, destinations: Iterable[Network]) -> Mapping[Network, int]:
        """Return the same of some destinations."""
        if self._choice == AUTO:
            return {dst: size for dst in destinations if (size := self._sizes.get(dst, 0))}
        if self._choice == OFF:
            return {}
        size = int(self._choice)
        smallest = {IPV6: _SMALLEST_IPV6}
        return {dst: max(size, smallest.get(dst.version, size)) for dst in destinations}

    @property
    def unsized(self) -> frozenset[Network]:
        """What clients ask for of which that is not known, as the tunnel is away."""
        return frozenset(self._wanted - self._sizes.keys() if self._choice == AUTO else ())

    # --- telling --------------------------------------------------------------------------------

    def tell(self) -> None:
        """Log what is lost, once, and that all is found again."""
        if not self._gateway or not self._netns:
            return
        lost, told = self.lost, self._told
        new = lost.keys() - told
        latest = max((lost[dst] for dst in told & lost.keys()), default=-math.inf)
        if any(lost[dst] > latest + _CALM_SECONDS for dst in new):
            log.warning("tunnel.lost", **self._values(lost), hint=self._hint(lost))
        elif told and not (lost or told & self._lost.keys()):  # Else nobody asks for it any more.
            log.info("tunnel.found", **self._values(told))
        self._told = {*lost}

    def _values(self, destinations: Iterable[Network]) -> dict[str, str]:
        """Return what a line says of where these go."""
        assert self._gateway  # noqa: S101 - else nothing is told
        name, dsts = self._gateway.container, [*destinations]
        way = self._ways.get(dsts[0], tunnels.NOWHERE)
        where = f"out by {way.device}, into no tunnel" if way.device else "nowhere"
        where = f"into {way.device}" if way.is_tunnel else where
        reason = f"{name} sends {shown(dsts)} {where}"
        return {"container": name, "network": self._gateway.network, "reason": reason}

    def _hint(self, lost: Iterable[Network]) -> str:
        assert self._gateway  # noqa: S101 - else nothing is told
        had_any = self._through & {*lost}
        if had_any or self._warns:
            return advice.tunnel_back(self._gateway.container)
        return advice.no_tunnel(self._gateway.container)


def once(kernel: Reader, settings: Settings) -> Tunnels:
    """Return what is known to who looks once: what went into a tunnel before, a daemon has told."""
    published = settings.published
    return Tunnels(kernel, settings, time.time, through=published.lost if published else ())


def shown(destinations: Iterable[Network]) -> str:
    """Return destinations for a line, in order, not more than fit."""
    names = [str(dst) for dst in sorted(destinations, key=lambda dst: (dst.version, dst))]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
