"""Whose network namespace a container uses, by the engine's word."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from lib import advice
from lib.errors import CallError, GoneError, NamespaceLeftError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lib.engine.client import Engine
    from lib.model import Container


def netns_owner(engine: Engine, container: Container) -> Container:
    """Return whose network namespace a container uses: its own, or another container's.

    Raises CallError if they lead back to one of them (the engine takes names of containers that are
    yet to be made, and so such a ring; it starts none of them), NamespaceLeftError if the owner is
    in another namespace by now, or gone. That takes a container that was inspected: a listing does
    not tell when it started.
    """
    chain = namespace_chain(engine, container)
    _check_times(chain)
    return chain[-1]


def namespace_chain(engine: Engine, container: Container) -> list[Container]:
    """Return a container, the one whose namespace it joined, and so on; the last has its own.

    Raises what `netns_owner` does, but does not mind who has left it since.
    """
    chain, passed = [container], {container.id: container.name}
    while reference := chain[-1].shares_netns_of:
        owner = _owner(engine, chain, reference)
        if owner.id in passed:
            names = ", ".join(passed.values())
            reason = f"has the network namespace of another, which leads back to it: {names}"
            raise CallError(reason, f"give {owner.name} a network of its own")
        passed[owner.id] = owner.name
        chain.append(owner)
    return chain


def _owner(engine: Engine, chain: Sequence[Container], reference: str) -> Container:
    try:
        return engine.inspect(reference)
    except GoneError as error:
        reason = "runs in the network namespace of a container that was removed"
        raise NamespaceLeftError(reason, advice.recreate(chain[-1])) from error


def _check_times(chain: Sequence[Container]) -> None:
    """Raise NamespaceLeftError if one started before the next, whose namespace it joined then.

    Who joins a container joins the namespace that its process is in (moby, `WithNamespaces` in
    daemon/oci_linux.go), so one that was left is left with all that joined it later.
    """
    for place, (guest, owner) in reversed(list(enumerate(pairwise(chain)))):
        is_known = guest.running and owner.running and guest.started_at
        if is_known and guest.started_at < owner.started_at:
            reason = f"runs in a namespace that {owner.name} has left"
            left = reversed(chain[: place + 1])
            raise NamespaceLeftError(reason, advice.restart(*(one.name for one in left)))
