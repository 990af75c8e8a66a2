"""The containers that run or do not, and which of them ask for networks.

Several labels ask. The engine's filter knows no beginnings of labels, so all are listed.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from lib.model import ROLE_LABEL, SIDECAR
from lib.routing.serving import asks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.engine.client import Engine
    from lib.model import Container


class Running:
    """The containers that run, listed when they are first asked for: once in a full pass."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @cached_property
    def _listed(self) -> tuple[Container, ...]:
        return self._engine.containers()

    def asking(self, ids: Iterable[str] | None = None) -> tuple[Container, ...]:
        """Return those that ask for networks; if ids are given, of these alone, as of now."""
        listed = self._listed if ids is None else self._engine.containers(ids=ids)
        return tuple(one for one in listed if asks(one.labels))

    def sidecars(self) -> tuple[Container, ...]:
        """Return all sidecars, we among them; commands that end are listed too."""
        return tuple(one for one in self._listed if one.labels.get(ROLE_LABEL) == SIDECAR)


def idle(engine: Engine) -> tuple[Container, ...]:
    """List those that ask for networks and do not run."""
    return tuple(one for one in engine.containers(running=False) if asks(one.labels))
