"""The one way to the kernel for whoever reads and writes the routes of namespaces."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from lib.kernel import addresses, covered, links, namespaces, netlink, route_table, ways
from lib.kernel.changes import Listener
from lib.model import MAIN, Inside

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from lib.kernel.namespaces import NamespaceId
    from lib.kernel.shells import Conversation, Shells
    from lib.model import Address, Network, Tunnelled, Way


class Reader:
    """Reads through sockets; starts no process."""

    def identify(self, path: str) -> NamespaceId | None:
        """Return which namespace a file is; None if it is none now."""
        return namespaces.identify(path)

    def check(self, path: str, *, own: bool = False) -> None:
        """Raise NetnsError unless that file is a namespace other than ours and the host's.

        Ours may do too (`own`). NetnsGoneError if it ended.
        """
        namespaces.check(path, own=own)

    def confirm(self, identity: NamespaceId) -> None:
        """Raise NetnsGoneError unless that namespace still is where it was found."""
        namespaces.confirm(identity)

    def read(self, path: str, *, rules: bool = False, sizes: bool = True) -> Inside:
        """Return routes and addresses of a namespace, and its rules if they are to be looked at.

        So they are where our own table has routes. Without `sizes` it is not told how large
        packets may be. Raises NetnsError if that fails.
        """
        with (
            namespaces.explained(f"read the routes in {path}"),
            netlink.connect(socket.NETLINK_ROUTE, path) as kernel,
        ):
            routes = route_table.listed(kernel)
            rules = rules or any(route.table != MAIN for route in routes)
            told = route_table.rules(kernel) if rules else ()
            return Inside(routes, addresses.listed(kernel, sizes=sizes), *told)

    def ways(
        self, path: str, front: Collection[Address], destinations: Iterable[Network]
    ) -> dict[Network, Way]:
        """Return where a gateway's kernel sends what is for a destination: `ways.ways`.

        Raises NetnsError if that fails.
        """
        with (
            namespaces.explained(f"read the links in {path}"),
            netlink.connect(socket.NETLINK_ROUTE, path) as kernel,
        ):
            return ways.ways(kernel, front, destinations)

    def covered(self, path: str, front: Collection[Address]) -> Tunnelled:
        """Return what a gateway's kernel sends into its tunnels: `covered.covered`.

        Raises NetnsError if that fails.
        """
        with (
            namespaces.explained(f"read the routes in {path}"),
            netlink.connect(socket.NETLINK_ROUTE, path) as kernel,
        ):
            return covered.covered(kernel, front)

    def link_of(self, path: str, held: Collection[Address]) -> str:
        """Return the name of the link that has one of the addresses; empty if none has.

        Raises NetnsError if that fails.
        """
        with (
            namespaces.explained(f"read the links in {path}"),
            netlink.connect(socket.NETLINK_ROUTE, path) as kernel,
        ):
            known = links.listed(kernel)
            found = addresses.held(kernel, {})
            return next((known[link].name for link, one in found if one.address in held), "")

    def listen(self, path: str, tell: Callable[[], None]) -> Listener:
        """Call `tell`, in a thread, whenever links, routes or rules of a namespace change.

        Raises NetnsError if that cannot be.
        """
        return Listener(path, tell)


class Kernel(Reader):
    """Writes too, through commands. `tests/fake_kernel.py` has its stand-in."""

    def __init__(self, shells: Shells) -> None:
        """Write through those shells, which nobody else uses meanwhile."""
        self._shells = shells

    def serve(self, conversations: Iterable[Conversation]) -> None:
        """Hold conversations with shells: `Shells.serve`."""
        self._shells.serve(conversations)
