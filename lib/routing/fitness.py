"""Whether a container can be a gateway on a network.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.model import DockerNetwork

TRIED = {"bridge", "macvlan", "overlay"}
"""Drivers of networks on which it works."""


def unfit(network: DockerNetwork) -> str:
    """Return why no container can be a gateway there; nothing if one can, as far as is known.

    The interfaces of an ipvlan share one MAC address: a frame goes to whose address the packet is
    for, and what is for a network behind a container finds nobody (Documentation/networking/
    ipvlan.rst).
    """
    if network.driver != "ipvlan":
        return ""
    name = network.name
    return f"{name} is an ipvlan: no container there gets what is for a network behind it"
