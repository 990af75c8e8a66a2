"""What was put where, and what is unfinished: the one memory of the reconciler.

What is gone drops out in one place, `keep`, in every pass. Nothing here is logged or executed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lib.reconcile.report import Unfinished, Why

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from lib.kernel.namespaces import NamespaceId
    from lib.model import Client, EarlyClient, Thing
    from lib.reconcile.report import Failure

_LOOK_AGAIN_SECONDS = 3.0
"""Longer than another sidecar waits before it takes its routes back."""

_EARLY_SECONDS = 30.0
"""After which a client that was given routes early should run."""


class Given(NamedTuple):
    """A route or rule that stands in a namespace because of us, and for whom."""

    thing: Thing
    client: Client


class Ledger:
    """Remembers by namespace what was put there, and by container what is unfinished."""

    def __init__(self, delay: Callable[[int], float]) -> None:
        """`delay` returns the seconds to wait after so many failed tries in a row."""
        self._delay = delay
        self._given: dict[NamespaceId, dict[object, Given]] = {}
        self._under_way: dict[NamespaceId, tuple[Given, ...]] = {}
        """What is just being put there: an end may come before the commands tell how they ended."""
        self._unfinished: dict[str, Unfinished] = {}
        self._failures: dict[str, dict[str, str]] = {}
        """Reasons by container and by what failed, the oldest first."""
        self._present: set[str] = set()
        """Containers that were there when last listed."""
        self._found: dict[str, Why] = {}
        """What this pass found to be unfinished."""

    @property
    def unfinished(self) -> tuple[Unfinished, ...]:
        """All that is to be done yet."""
        return tuple(self._unfinished.values())

    def keep(self, listed: Iterable[str], asked: frozenset[str] | None, now: float) -> set[str]:
        """Forget the containers that are gone, and return the ids of those that are there.

        `listed` are there, of those `asked` for, or of all if that is None. One that was given
        routes early may not run yet.
        """
        there = set(listed)
        known = self._present | self._unfinished.keys() | self._failures.keys()
        gone = (known if asked is None else asked) - there
        self._present = (self._present | there) - gone
        for key in gone:
            self._failures.pop(key, None)
            work = self._unfinished.get(key)
            if work and not (work.why is Why.EARLY and now < work.due):
                del self._unfinished[key]
        return self._present

    def keep_namespaces(self, is_there: Callable[[NamespaceId], bool]) -> None:
        """Forget what was put into namespaces that have ended."""
        self._given = {place: given for place, given in self._given.items() if is_there(place)}

    def forget_namespace(self, place: NamespaceId) -> None:
        """Forget what was put into a namespace that has ended."""
        self._given.pop(place, None)

    # --- what stands where ----------------------------------------------------------------------

    def put(self, place: NamespaceId, thing: Thing, client: Client) -> None:
        """Remember that something stands in a namespace because of us."""
        self._given.setdefault(place, {})[thing.place] = Given(thing, client)

    def is_ours(self, place: NamespaceId, thing: Thing) -> bool:
        """Tell whether that very thing stands there because of us."""
        given = self._given.get(place, {}).get(thing.place)
        return bool(given and given.thing == thing)

    def drop(self, place: NamespaceId, thing: Thing) -> None:
        """Remember that it does not any more; a like one would be somebody else's."""
        if self.is_ours(place, thing):
            del self._given[place][thing.place]
            if not self._given[place]:
                del self._given[place]

    def put_before(self, scope: Container[str]) -> Iterator[tuple[NamespaceId, Given]]:
        """Yield what was put where for containers in scope, or for such that are gone.

        What these do not ask for any more is to be taken back.
        """
        for place, entries in self._given.items():
            for given in entries.values():
                key = given.client.container_id
                if key in scope or not (key in self._present or self._is_early(key)):
                    yield place, given

    def begin(self, place: NamespaceId, things: Iterable[Given]) -> None:
        """Remember, until `end`, that these may stand there soon."""
        self._under_way[place] = tuple(things)

    def end(self, place: NamespaceId) -> None:
        """Take note that it is known how all commands ended."""
        del self._under_way[place]

    def may_stand(self) -> Iterator[tuple[NamespaceId, Mapping[Thing, Client]]]:
        """Yield, for each namespace, what may stand there because of us."""
        for place in dict.fromkeys((*self._given, *self._under_way)):
            put = self._given.get(place, {}).values()
            yield place, dict((*put, *self._under_way.get(place, ())))

    def put_early(self, place: NamespaceId, early: EarlyClient, now: float) -> None:
        """Take in what a client was given before it ran; a pass after its start verifies it."""
        client = early.client
        for thing in (*client.routes, *early.beside):
            self.put(place, thing, client)
        self._unfinished[client.container_id] = Unfinished(
            client.container_id, client.container, Why.EARLY, now + _EARLY_SECONDS
        )

    def _is_early(self, container_id: str) -> bool:
        work = self._unfinished.get(container_id)
        return bool(work and work.why is Why.EARLY)

    # --- what is unfinished ---------------------------------------------------------------------

    def is_put_off(self, container_id: str, now: float) -> bool:
        """Tell whether a container failed, and is not to be tried again yet."""
        work = self._unfinished.get(container_id)
        return bool(work and work.why is Why.FAILED and now < work.due)

    def continues(self, container_id: str) -> bool:
        """Tell whether the last pass left commands of that container that it did not try."""
        work = self._unfinished.get(container_id)
        return bool(work and work.why is Why.MORE)

    def failures(self, container_id: str) -> Mapping[str, str]:
        """Return reasons by what failed when last tried, the oldest first."""
        return self._failures.get(container_id, {})

    def fail(self, failure: Failure) -> bool:
        """Remember a failure, and tell whether it is news."""
        failures = self._failures.setdefault(failure.container_id, {})
        known = failures.pop(failure.about, None)
        failures[failure.about] = failure.reason
        return known != failure.reason

    def keep_failures(self, container_id: str, possible: Iterable[str]) -> None:
        """Forget all failures of a container but these, which it may still meet."""
        possible = set(possible)
        left = {key: text for key, text in self.failures(container_id).items() if key in possible}
        self._failures.pop(container_id, None)
        if left:
            self._failures[container_id] = left

    def succeed(self, container_id: str, about: str) -> None:
        """Forget a failure."""
        self.keep_failures(container_id, self.failures(container_id).keys() - {about})

    def note(self, container_id: str, why: Why) -> None:
        """Note, within a pass, that a container needs another one."""
        self._found[container_id] = why

    def finish(self, containers: Mapping[str, str], now: float) -> None:
        """End a pass over these containers (names by id): what they still need gets its time."""
        for key, name in containers.items():
            before = self._unfinished.pop(key, None)
            why = self._found.pop(key, None)
            tries = before.tries if before else 0
            if why is Why.MORE:
                self._unfinished[key] = Unfinished(key, name, why, now, tries)
            elif self._failures.get(key):
                due = now + self._delay(tries + 1)
                self._unfinished[key] = Unfinished(key, name, Why.FAILED, due, tries + 1)
            elif why is Why.LOOK_AGAIN:
                self._unfinished[key] = Unfinished(key, name, why, now + _LOOK_AGAIN_SECONDS)
        self._found.clear()
