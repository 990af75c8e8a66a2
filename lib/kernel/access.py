"""The one way to the kernel for whoever reads and writes the routes of namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.kernel import namespaces, route_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.kernel.namespaces import NamespaceId
    from lib.kernel.shells import Conversation, Shells
    from lib.model import Route


class Reader:
    """Reads through sockets; starts no process."""

    def identify(self, path: str) -> NamespaceId | None:
        """Return which namespace a file is; None if it is none now."""
        return namespaces.identify(path)

    def check(self, path: str) -> None:
        """Raise NetnsError unless that file is a namespace other than ours and the host's.

        NetnsGoneError if it ended.
        """
        namespaces.check(path)

    def confirm(self, identity: NamespaceId) -> None:
        """Raise NetnsGoneError unless that namespace still is where it was found."""
        namespaces.confirm(identity)

    def routes(self, path: str) -> tuple[Route, ...]:
        """Return the routes of both IP versions in a namespace; raise NetnsError if that fails."""
        return route_table.read(path)


class Kernel(Reader):
    """Writes too, through commands. `tests/fake_kernel.py` has its stand-in."""

    def __init__(self, shells: Shells) -> None:
        """Write through those shells, which nobody else uses meanwhile."""
        self._shells = shells

    def serve(self, conversations: Iterable[Conversation]) -> None:
        """Hold conversations with shells: `Shells.serve`."""
        self._shells.serve(conversations)
