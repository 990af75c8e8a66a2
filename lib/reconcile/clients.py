"""Who asks for routes, and in whose namespace: asks the engine, remembers namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import structlog

from lib.engine.sharing import netns_owner
from lib.errors import CallError, GoneError, NamespaceLeftError, NotReadyError
from lib.logs.progress import with_progress
from lib.model import Skipped, Snapshot
from lib.reconcile.report import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lib.engine.asking import Running
    from lib.engine.client import Engine
    from lib.kernel.access import Reader
    from lib.kernel.namespaces import NamespaceId
    from lib.model import Container

log = structlog.get_logger()

_AT_A_TIME = 25
"""Clients for which is decided together."""


class _Known(NamedTuple):
    """What only an inspection tells of a container, and never changes while it runs."""

    identity: NamespaceId
    container: Container

    def complete(self, listed: Container) -> Container:
        """Return a listed container with it."""
        found = self.container
        return listed._replace(
            sandbox_key=self.identity.path,
            dns=found.dns,
            published=found.published,
            runtime=found.runtime,
        )


class Located(NamedTuple):
    """Labelled containers with the owners of their namespaces, and those that cannot be told."""

    snapshot: Snapshot
    identities: Mapping[str, NamespaceId]
    """Of their namespaces, by path."""
    failures: tuple[Failure, ...]


class Clients:
    """Lists and locates the labelled containers."""

    def __init__(self, kernel: Reader) -> None:
        self._kernel = kernel
        self._known: dict[str, _Known] = {}
        """By the id of namespaces' owners: spares an inspection of each in each pass."""
        self.sharing: set[str] = set()
        """Ids of containers that share a namespace, and of those whose namespace it is."""

    def list(self, running: Running, ids: frozenset[str] | None = None) -> tuple[Container, ...]:
        """List the running containers with the label: all, or those of the ids."""
        listed = running.asking(ids)
        if ids is None:
            present = {container.id for container in listed} | self.sharing
            self._known = {key: self._known[key] for key in present & self._known.keys()}
            self.sharing = set()
        self.sharing |= {container.id for container in listed if container.shares_netns_of}
        return listed

    def batches(self, listed: Sequence[Container]) -> Iterator[Sequence[Container]]:
        """Yield all of them, those together whose namespaces may be the same.

        Each that is known to have one of its own, and is to be inspected yet, comes alone: what is
        found for one can be put to work while the engine is asked for the next. Of the others few
        come at a time: what was decided before the gateway's tunnel went is done for these alone.
        """
        joined = {one.shares_netns_of for one in listed} | self.sharing

        def has_its_own(one: Container) -> bool:
            return not (one.shares_netns_of or joined & {one.id, one.name})

        # Podman 4.3 does not tell in a listing who shares a namespace.
        is_told = all(one.network_mode for one in listed)
        own = {one.id: one for one in listed if is_told and has_its_own(one)}
        known = [one for one in own.values() if one.id in self._known]
        unknown = [one for one in own.values() if one.id not in self._known]
        if together := [one for one in listed if one.id not in own]:
            yield together
        yield from (known[at : at + _AT_A_TIME] for at in range(0, len(known), _AT_A_TIME))
        yield from ([one] for one in unknown)

    def locate(
        self, engine: Engine, listed: Sequence[Container], fresh: frozenset[str] = frozenset()
    ) -> Located:
        """Pair each container with the owner of its namespace, whose path is known then.

        Those in `fresh` have just changed, which a listing may not show yet. A container that ends
        meanwhile is left out.
        """
        pairs: list[tuple[Container, Container]] = []
        identities: dict[str, NamespaceId] = {}
        failures: list[Failure] = []
        skipped: list[Skipped] = []
        for one in with_progress(listed, len(listed), "clients looked at"):
            try:
                container = engine.inspect(one.id) if one.id in fresh else one
                owner = self._owner(engine, container)
                pairs.append((container, owner))
                if known := self._known.get(owner.id):
                    identities[owner.sandbox_key] = known.identity
            except GoneError as error:
                log.debug("client.gone", container=one.name, reason=error.reason)
            except NamespaceLeftError as error:
                skipped.append(Skipped(one.name, one.id, error.reason, error.hint))
            except (CallError, NotReadyError) as error:
                failures.append(
                    Failure("client.failed", one.name, one.id, "engine", error.reason, {})
                )
        return Located(Snapshot(tuple(pairs), tuple(skipped)), identities, tuple(failures))

    def _owner(self, engine: Engine, container: Container) -> Container:
        if container.shares_netns_of and not container.started_at:
            container = engine.inspect(container.id)
        owner = netns_owner(engine, container)
        if owner.id == container.id and not container.sandbox_key:
            known = self._known.get(container.id)
            if known and self._kernel.identify(known.identity.path) == known.identity:
                # A listing tells all that changes, and costs no call for each container.
                return known.complete(container)
            # That it shares a namespace, Podman 4.3 tells in an inspection only.
            owner = netns_owner(engine, engine.inspect(container.id))
        if owner.id != container.id:
            self.sharing |= {container.id, owner.id}
        if identity := self._kernel.identify(owner.sandbox_key):
            self._known[owner.id] = _Known(identity, owner)
        return owner
