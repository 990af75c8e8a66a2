"""How large packets to a destination may be: asks the gateway's kernel, remembers its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from lib.errors import NetnsError
from lib.model import IPV6

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lib.kernel.access import Reader
    from lib.model import Gateway, Network

log = structlog.get_logger()

AUTO, OFF = "auto", "off"
_SMALLEST_IPV6 = 1280
"""What each link has to take (RFC 8200)."""


class Mtus:
    """What the tunnels take."""

    def __init__(self, kernel: Reader, choice: str) -> None:
        """Ask the kernel (`auto`), say nothing (`off`), or take a number of bytes."""
        self._kernel = kernel
        self._choice = choice
        self._gateway: Gateway | None = None
        self._netns = ""
        self._before: Mapping[Network, int] = {}
        """What was found before this pass: a tunnel that is away will not be another one."""
        self._asked: set[Network] = set()
        self.known: dict[Network, int] = {}
        """Sizes in bytes, by destination."""

    def begin(self, gateway: Gateway, netns: str, *, is_full: bool) -> None:
        """Begin a pass: all is asked again, in the namespace of a file."""
        is_other = not self._gateway or self._gateway.container_id != gateway.container_id
        self._gateway, self._netns = gateway, netns
        self._before = {} if is_other else self.known
        self.known = {} if is_full else dict(self._before)
        self._asked = set()

    def learn(self, destinations: Iterable[Network]) -> Mapping[Network, int]:
        """Return the sizes of these destinations, maybe with others; each is asked for once."""
        if new := {*destinations} - self._asked:
            self._asked |= new
            found = self._sizes(new)
            self.known |= {dst: size for dst in new if (size := found.get(dst, 0))}
        return self.known

    def _sizes(self, destinations: Iterable[Network]) -> Mapping[Network, int]:
        if self._choice == OFF:
            return {}
        if self._choice != AUTO:
            size = int(self._choice)
            smallest = {IPV6: _SMALLEST_IPV6}
            return {dst: max(size, smallest.get(dst.version, size)) for dst in destinations}
        if not self._gateway or not self._gateway.addresses or not self._netns:
            return self._before
        try:
            front = self._gateway.addresses
            found = self._kernel.tunnel_mtus(self._netns, front, destinations)
        except NetnsError as error:
            log.debug("mtu.unknown", netns=self._netns, reason=error.reason)
            return self._before
        return {**self._before, **found}
