"""Commands that run for new namespaces, beside each other: none waits for another one's end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lib.early.arrival import Grant
    from lib.kernel.shells import Outcome
    from lib.model import Thing


class CommandRunner(Protocol):
    """What runs command lines: the part of `Shells` that is used here."""

    def begin(self, chain: Sequence[str]) -> int:
        """Run them in their order, to the first that fails, and return a number for that."""
        ...

    def answering(self) -> list[int]:
        """Return the descriptors that can be read when one has ended."""
        ...

    @property
    def rest(self) -> float:
        """Seconds until one has taken too long."""
        ...

    def ended(self, seconds: float = 0.0) -> Iterator[tuple[int, Sequence[Outcome]]]:
        """Wait that long at most, and yield how those ended that ran, by that number."""
        ...


@dataclass
class _Attempt:
    """To set what a grant has due."""

    chains: int = 0
    """That did not end yet."""
    ended: dict[Thing, Outcome] = field(default_factory=dict)
    is_due_again: bool = False
    """Whether there was news meanwhile: what was refused may succeed now."""


class Commands:
    """Attempts that are under way, one for each grant."""

    def __init__(self, shells: CommandRunner) -> None:
        """Take shells that nobody else uses."""
        self._shells = shells
        self._attempts: dict[Grant, _Attempt] = {}
        self._chains: dict[int, tuple[Grant, list[Thing]]] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    def __contains__(self, grant: object) -> bool:
        return grant in self._attempts

    def answering(self) -> list[int]:
        """Return the descriptors that can be read when one has ended."""
        return self._shells.answering()

    @property
    def rest(self) -> float:
        """Seconds until one has taken too long."""
        return self._shells.rest

    def begin(self, grant: Grant) -> None:
        """Try what a grant has due, when what it had due before was tried."""
        if attempt := self._attempts.get(grant):
            attempt.is_due_again = True
            return
        for chain in grant.chains():
            self._attempts.setdefault(grant, _Attempt()).chains += 1
            number = self._shells.begin([line for _, line in chain])
            self._chains[number] = grant, [thing for thing, _ in chain]

    def ended(self, seconds: float = 0.0) -> Iterator[tuple[Grant, Mapping[Thing, Outcome], bool]]:
        """Wait that long at most, and yield the grants of which all ended, and how.

        And whether to try again, since there was news meanwhile.
        """
        for number, outcomes in self._shells.ended(seconds):
            grant, things = self._chains.pop(number)
            attempt = self._attempts[grant]
            attempt.ended |= zip(things, outcomes, strict=False)
            attempt.chains -= 1
            if not attempt.chains:
                del self._attempts[grant]
                yield grant, attempt.ended, attempt.is_due_again
