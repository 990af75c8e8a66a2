"""Whether a client reaches a destination directly, as one of the networks that it is attached to.

Pure. A route there would cut it off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.model import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.model import Network


def refusal(dst: Network, attached: Iterable[Network]) -> Refusal | None:
    """Return why there can be no route to a destination, if it is attached there."""
    for network in attached:
        if network.version == dst.version and dst.subnet_of(network):  # type: ignore[arg-type]
            reason = f"is equal to or inside {network}, to which the container is attached"
            hint = "remove it: the container reaches that network directly"
            return Refusal(str(dst), reason, hint)
    return None
