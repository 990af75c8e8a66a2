"""Which task of a swarm's service is the gateway, by what its node tells.

Pure. The name server of a node knows first who comes and goes, but names any container by an alias;
the engine lists who is a task, but is not to be asked each second: each time it writes errors into
its own log. So the name server says that something changed, and the engine whether to believe it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.model import Address, Network, Task

_AT_FIRST, _LONGEST_SECONDS = 2, 60.0
"""Tries after which it is no delay between two gossips any more; the longest to wait."""


class Kind(Enum):
    """What can be said of the gateway."""

    FOUND = "found"
    LOST = "lost"
    """The name server lives, we are attached, and no task runs."""
    UNKNOWN = "not known"
    """Nobody proves anything."""
    APART = "not attached"
    """We are on another network, where every service looks like one that is gone."""


class Told(NamedTuple):
    """What a node tells at one moment."""

    subnets: tuple[Network, ...]
    """Those of the served network."""
    named: tuple[Address, ...] | None
    """What the name server has for the service's tasks; None if it did not answer."""
    own: tuple[Address, ...] | None = None
    """What it has for our own id; None if it did not answer, or was not asked."""
    tasks: tuple[Task, ...] | None = None
    """The service's tasks as the engine lists them; None if it did not, or was not asked."""
    is_attached: bool = True
    """Whether we are on the served network, by the engine's word."""

    @property
    def inside(self) -> frozenset[Address]:
        """What was named in the served network: an answer from elsewhere is no task's."""
        return _inside(self.named or (), self.subnets)


class Choice(NamedTuple):
    """What is to be believed of the gateway."""

    kind: Kind
    task: Task | None = None
    """The one that is the gateway, if it was found."""
    others: tuple[Task, ...] = ()
    """Tasks beside it."""
    doubted: tuple[Address, ...] = ()
    """What the name server has for a task, and the engine does not list as one."""


def decide(told: Told, in_use: Task | None) -> Choice:
    """Return which task is the gateway: the one in use while it is there, else the lowest."""
    if not told.is_attached:
        return Choice(Kind.APART)
    inside = told.inside
    if not inside:
        return Choice(_unnamed(told))
    if told.tasks is None:
        kept = in_use and in_use.address in inside
        return Choice(Kind.FOUND, in_use) if kept else Choice(Kind.UNKNOWN)
    listed = sorted((one for one in told.tasks if one.address in inside), key=_rank)
    doubted = tuple(sorted(inside - {one.address for one in listed}, key=int))
    same = [one for one in listed if in_use and one.address == in_use.address]
    if not listed:
        return Choice(Kind.LOST, doubted=doubted)
    chosen = [*same, *listed][0]
    return Choice(Kind.FOUND, chosen, tuple(one for one in listed if one != chosen), doubted)


def is_news(told: Told, last: Told) -> bool:
    """Tell whether what the name server says asks for another look than the last one."""
    return _sign(told) != _sign(last)


def patience(tries: int) -> float:
    """Return seconds after which to ask again about who is doubted: soon at first, then doubled.

    The engine may learn of a task a second or two later than the name server.
    """
    return min(2.0 ** max(0, min(tries, 16) - _AT_FIRST), _LONGEST_SECONDS)


def _unnamed(told: Told) -> Kind:
    """Return what it means that no task is named.

    That may be a name server that forwards the question to a silent one. Whoever knows our own
    address in the served network lives, and would name a task there.
    """
    if not told.own:
        return Kind.UNKNOWN
    return Kind.LOST if _inside(told.own, told.subnets) else Kind.APART


def _sign(told: Told) -> object:
    return told.inside or _unnamed(told)


def _inside(addresses: Iterable[Address], subnets: Iterable[Network]) -> frozenset[Address]:
    networks = tuple(subnets)
    return frozenset(one for one in addresses if any(one in subnet for subnet in networks))


def _rank(task: Task) -> tuple[int, int, str]:
    return task.address.version, int(task.address), task.name
