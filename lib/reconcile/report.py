"""What a pass is asked for and what it answers: values, no behaviour."""

from __future__ import annotations

import math
from collections import ChainMap
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lib.model import Container, Gateway, Network


TUNNEL = "tunnel"
"""Why a pass runs: links, routes or rules of the gateway changed."""


GATEWAY = "gateway"
"""Why a pass runs: the gateway may be another task of its service."""


class Scope(NamedTuple):
    """Which containers a pass is for, and why it runs."""

    trigger: str
    """As the log has it: an action of the engine's, `startup`, `reconnect`, `resync`, `retry`,
    `tunnel`, `gateway`."""
    ids: frozenset[str] = frozenset()
    """Containers that have just changed, or whose unfinished work is due."""
    is_full: bool = False
    """Whether it is for all containers."""
    ended: Mapping[str, float] = MappingProxyType({})
    """When those of them ended that did (Unix seconds), though they may run again."""

    @property
    def is_reroute(self) -> bool:
        """Whether only what stands is to be led by what the gateway's kernel says now."""
        return self.trigger == TUNNEL and not self.is_full


class Found(NamedTuple):
    """The gateway has an address on the network, though maybe not in each IP version."""

    gateway: Gateway
    served_by: str = ""
    """Name of another gateway, if clients that name none are served by that one."""


class Lost(NamedTuple):
    """The gateway is gone, stopped or off the network: what led to it is unreachable."""

    gateway: Gateway
    """As it was, without addresses."""
    reason: str
    hint: str
    since: float
    """Monotonic seconds."""
    served_by: str = ""
    """As in `Found`."""


class Unknown(NamedTuple):
    """It cannot be told yet who the gateway is; no client is touched."""

    reason: str
    hint: str = ""


GatewayState = Found | Lost | Unknown


class Why(Enum):
    """Why a container needs another pass."""

    EARLY = "given routes early"
    """A pass after its start will verify them; until then they are not taken back."""
    MORE = "more"
    """It wants more commands than one pass runs for a namespace."""
    FAILED = "failed"
    LOOK_AGAIN = "look again"
    """`unreachable` was found and left: it may be that of another sidecar, whose network the
    container has just left, and about to be taken back. Or it lacks an address, which may just be
    on its way."""


class Unfinished(NamedTuple):
    """Work that one container still needs, and when it is due."""

    container_id: str
    container: str
    """Its name."""
    why: Why
    due: float
    """Monotonic seconds."""
    tries: int = 0
    """How often it has failed in a row."""


class Failure(NamedTuple):
    """Something that did not work for one container."""

    event: str
    """Under what name the log has it."""
    container: str
    container_id: str
    about: str
    """What failed, to tell it from other failures of that container: a command, or `engine`,
    `netns`."""
    reason: str
    values: Mapping[str, str | int]
    """What the log says beside that: `hint` where there is one, `netns` where it was reached."""


class Report(NamedTuple):
    """What one pass found and did, and what is left to do."""

    scope: Scope
    """What it was for in the end, which may be more than it was asked for."""
    gateway: GatewayState
    clients: int = 0
    routes: int = 0
    changed: int = 0
    refused: int = 0
    unfinished: tuple[Unfinished, ...] = ()
    again_at: float = math.inf
    """When the gateway is to be looked at again although nothing happens (monotonic seconds)."""
    listed: tuple[Container, ...] = ()
    """The containers with the label that ran when it listed them: all, if it was a full pass."""
    mtus: Mapping[Network, int] = MappingProxyType({})
    """How large packets to a destination may be behind the gateway (bytes), if smaller there."""
    lost: Mapping[Network, float] = MappingProxyType({})
    """What should go into the gateway's tunnel and does not, and since when (Unix time)."""
    is_rerouted: bool = False
    """Whether a full pass is to verify what was done about a tunnel."""
    is_done: bool = True
    """Whether it is known who the gateway is, of several networks on one at least."""

    @property
    def failing(self) -> tuple[str, ...]:
        """Names of the containers for which something failed when last tried, in order."""
        return tuple(sorted({one.container for one in self.unfinished if one.why is Why.FAILED}))


def joined(reports: Sequence[Report]) -> Report:
    """Return the reports of one pass on several networks as one.

    The gateway is as it is where that is worst, the first of several.
    """
    done = [one for one in reports if one.is_done]
    widest = max(done or reports, key=lambda one: one.scope.is_full)
    return Report(
        widest.scope,
        max((one.gateway for one in reports), key=lambda state: _WORSE.index(type(state))),
        clients=sum(one.clients for one in reports),
        routes=sum(one.routes for one in reports),
        changed=sum(one.changed for one in reports),
        refused=sum(one.refused for one in reports),
        unfinished=tuple(work for one in reports for work in one.unfinished),
        again_at=min(one.again_at for one in reports),
        listed=widest.listed,
        mtus=dict(ChainMap(*(dict(one.mtus) for one in reports))),
        lost=dict(ChainMap(*(dict(one.lost) for one in reports))),
        is_rerouted=any(one.is_rerouted for one in reports),
        is_done=bool(done),
    )


_WORSE = (Found, Lost, Unknown)
