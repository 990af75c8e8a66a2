"""Whose network namespace a container uses, by the engine's word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.errors import CallError

if TYPE_CHECKING:
    from lib.engine.client import Engine
    from lib.model import Container


def netns_owner(engine: Engine, container: Container) -> Container:
    """Return whose network namespace a container uses: its own, or another container's.

    Raises GoneError if one on the way is gone, CallError if they lead back to one of them. The
    engine takes names of containers that are yet to be made, and so such a ring; it starts none of
    them.
    """
    owner, passed = container, {container.id: container.name}
    while reference := owner.shares_netns_of:
        owner = engine.inspect(reference)
        if owner.id in passed:
            names = ", ".join(passed.values())
            reason = f"has the network namespace of another, which leads back to it: {names}"
            raise CallError(reason, f"give {owner.name} a network of its own")
        passed[owner.id] = owner.name
    return owner
