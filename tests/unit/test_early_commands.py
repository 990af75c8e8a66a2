"""Commands of several namespaces beside each other."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, cast

from lib.early.commands import Commands
from lib.kernel.shells import Outcome
from lib.model import Route, Thing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lib.early.arrival import Grant


class Wish:
    """A grant with chains of commands, each of which sets the route that its text names."""

    def __init__(self, *chains: Sequence[str]) -> None:
        self._chains = chains

    def chains(self) -> list[list[tuple[Thing, str]]]:
        return [[(thing(text), text) for text in chain] for chain in self._chains]


def thing(text: str) -> Thing:
    return Route(ip_network(text), None, 0)


class StandInShells:
    """Runs nothing; a test says what has ended, and how."""

    rest = 5.0

    def __init__(self) -> None:
        self.begun: list[Sequence[str]] = []
        self.over: list[tuple[int, list[Outcome]]] = []

    def begin(self, chain: Sequence[str]) -> int:
        self.begun.append(chain)
        return len(self.begun)

    def answering(self) -> list[int]:
        return [7]

    def end(self, number: int, *codes: int) -> None:
        chain = self.begun[number - 1]
        ended = [Outcome(line, code, "", 1.0) for line, code in zip(chain, codes, strict=False)]
        self.over.append((number, ended))

    def ended(self, seconds: float = 0.0) -> Iterator[tuple[int, Sequence[Outcome]]]:
        assert seconds == 0.0
        over, self.over = self.over, []
        yield from over


def ended(commands: Commands) -> list[tuple[object, dict[str, int], bool]]:
    return [
        (grant, {str(cast("Route", one).dst): end.exit_code for one, end in how.items()}, again)
        for grant, how, again in commands.ended()
    ]


A, B, C, D = "192.0.2.0/26", "192.0.2.64/26", "192.0.2.128/26", "192.0.2.192/26"


def test_one_that_takes_long_keeps_no_other_waiting_and_is_told_when_all_of_it_ended() -> None:
    shells = StandInShells()
    commands = Commands(shells)
    slow, quick = Wish([A], [B, C]), Wish([D])
    for wish in (slow, quick):
        commands.begin(cast("Grant", wish))
    assert shells.begun == [[A], [B, C], [D]]
    assert (slow in commands, quick in commands, len(commands)) == (True, True, 2)

    shells.end(1, 0)
    shells.end(3, 2)
    assert ended(commands) == [(quick, {D: 2}, False)]
    assert (slow in commands, quick in commands, len(commands)) == (True, False, 1)

    shells.end(2, 1)  # What was to follow it did not run.
    assert ended(commands) == [(slow, {A: 0, B: 1}, False)]
    assert (slow in commands, len(commands)) == (False, 0)


def test_news_while_it_is_tried_has_it_tried_again_after_that_not_beside_it() -> None:
    shells = StandInShells()
    commands = Commands(shells)
    wish = Wish([A])
    for _ in range(3):
        commands.begin(cast("Grant", wish))
    assert shells.begun == [[A]]

    shells.end(1, 2)

    assert ended(commands) == [(wish, {A: 2}, True)]
    assert ended(commands) == []


def test_a_grant_with_nothing_due_is_not_waited_for() -> None:
    commands = Commands(StandInShells())
    commands.begin(cast("Grant", Wish()))
    assert len(commands) == 0
