"""The network that the engine attaches containers to without listing it among theirs.

Who is on an overlay that is not internal gets a way out by `docker_gwbridge`, after the overlay: a
route that overlaps its subnet makes the start fail as for any other network.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from lib.errors import GoneError
from lib.model import GWBRIDGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lib.engine.client import Engine
    from lib.model import DockerNetwork


def with_unlisted(engine: Engine, networks: Sequence[DockerNetwork]) -> tuple[DockerNetwork, ...]:
    """Return a container's networks with the one that is not listed, if it is on that too."""
    found = list(networks)
    if any(one.driver == "overlay" and not one.internal for one in networks):
        with suppress(GoneError):
            found.append(engine.network(GWBRIDGE))
    return tuple(found)
