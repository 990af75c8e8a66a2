"""What the gateway sends into its tunnels, which clients may ask for as a whole.

Asks the gateway's kernel, and remembers what it said. Nothing is changed.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from lib.errors import NetnsError
from lib.model import NOT_SEEN, Coverage
from lib.routing import coverage

if TYPE_CHECKING:
    from collections.abc import Callable

    from lib.kernel.access import Reader
    from lib.model import Gateway
    from lib.settings import Settings


class Covered:
    """What is known of it."""

    def __init__(
        self,
        kernel: Reader,
        settings: Settings,
        clock: Callable[[], float],
        told: Coverage | None = None,
    ) -> None:
        """Measure by that clock (monotonic seconds). What a daemon has `told` is not looked for."""
        self._kernel = kernel
        self._warns = settings.on_tunnel_loss == "warn"
        self._clock = clock
        self._told = told
        self._gateway = ""
        """Its name."""
        self._memory: coverage.Memory = {}
        self._is_known = False
        self._reason = ""
        self._last = NOT_SEEN
        self.is_asked = False
        """Whether some client asks for all of it."""

    def look(self, gateway: Gateway | None, netns: str) -> None:
        """Look in the namespace of a file; None of a gateway if it is not there.

        Another gateway by name starts from nothing; another container by that name succeeds it.
        """
        if gateway and gateway.container != self._gateway:
            self._gateway, self._memory, self._is_known = gateway.container, {}, False
        if not gateway or self._told:
            self._memory = coverage.unseen(self._memory)
            return
        if not netns:  # That would be our own.
            where = "on another node" if gateway.is_elsewhere else "in no namespace yet"
            where = "no container of this engine" if gateway.is_outside else where
            self._reason = f"{gateway.container} is {where}"
            return
        try:
            found = self._kernel.covered(netns, gateway.addresses)
        except NetnsError as error:
            self._memory, self._reason = coverage.unseen(self._memory), error.reason
            return
        self._memory = coverage.remembered(self._memory, found, self._clock())
        self._is_known = self._is_known or bool(self._memory)
        self._reason = ""

    @property
    def now(self) -> Coverage:
        """What is known."""
        if self._told:
            return self._told
        found = Coverage(frozenset(self._memory) if self._is_known else None, self._reason)
        if found != self._last:  # Else the one whose hash is known: it takes long.
            self._last = found
        return self._last

    @property
    def again_at(self) -> float:
        """When it is less although nothing happens, if that matters (monotonic seconds)."""
        return coverage.ends(self._memory) if self.is_asked else math.inf

    def applied(self, gateway: Gateway) -> Gateway:
        """Return the gateway with what it covers, cut off from what does not go there now."""
        away = {dst for dst, last in self._memory.items() if not last.is_there}
        cut_off = gateway.cut_off if self._warns else gateway.cut_off | away
        return gateway._replace(coverage=self.now, cut_off=cut_off)


def once(kernel: Reader, settings: Settings, network: str) -> Covered:
    """Return what is known to who looks once: what a daemon has told, if there is one."""
    told = settings.published.coverage if settings.published else {}
    return Covered(kernel, settings, time.monotonic, told.get(network))
