"""The containers that ask for networks, by any of the labels that do.

The engine's filter knows no beginnings of labels, so all are listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.routing.serving import asks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.engine.client import Engine
    from lib.model import Container


def asking(
    engine: Engine, *, running: bool = True, ids: Iterable[str] | None = None
) -> tuple[Container, ...]:
    """List those that run, or do not; only those of the ids, if ids are given."""
    return tuple(one for one in engine.containers(running=running, ids=ids) if asks(one.labels))
