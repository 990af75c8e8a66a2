"""Which task is the gateway, as a table; and what that comes to on a thousand nodes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import pytest

from lib.model import Address, Task
from lib.routing.tasks import Choice, Kind, Told, decide, is_news, patience


def address(text: str) -> Address:
    return ip_address(text)


def addresses(*texts: str) -> tuple[Address, ...]:
    return tuple(map(ip_address, texts))


SUBNETS = (ip_network("192.168.67.0/24"),)
A, B, C = (
    Task(f"wg_wireguard.1.{key}", address(f"192.168.67.{number}"), f"10.77.0.{node}")
    for key, number, node in (("a", 5, 1), ("b", 9, 2), ("c", 20, 1))
)
OWN = addresses("192.168.67.77")
FOREIGN = addresses("198.51.100.1")


def told(*named: Task, **more: object) -> Told:
    """Return that these are named, and listed, unless it is said otherwise."""
    whole = Told(SUBNETS, tuple(task.address for task in named), OWN, named)
    return whole._replace(**more)  # type: ignore[arg-type]


LOST, UNKNOWN, APART = Choice(Kind.LOST), Choice(Kind.UNKNOWN), Choice(Kind.APART)


@pytest.mark.parametrize(
    ("seen", "in_use", "choice"),
    [
        pytest.param(told(A), None, Choice(Kind.FOUND, A), id="one"),
        pytest.param(told(B, A), None, Choice(Kind.FOUND, A, (B,)), id="two: the lowest"),
        pytest.param(told(A, B), B, Choice(Kind.FOUND, B, (A,)), id="two: the one in use"),
        pytest.param(told(A), B, Choice(Kind.FOUND, A), id="the one in use is gone"),
        pytest.param(
            told(A),
            A._replace(name="wg_wireguard.1.before"),
            Choice(Kind.FOUND, A),
            id="an address was given again",
        ),
        pytest.param(
            told(A, named=(*FOREIGN, A.address)), None, Choice(Kind.FOUND, A), id="foreign beside"
        ),
        pytest.param(told(A, tasks=None), A, Choice(Kind.FOUND, A), id="kept without the engine"),
        pytest.param(told(A, tasks=None), B, UNKNOWN, id="changed, and the engine is silent"),
        pytest.param(told(A, tasks=None), None, UNKNOWN, id="new, and the engine is silent"),
        pytest.param(told(A, tasks=(A, B)), B, Choice(Kind.FOUND, A), id="it is being stopped"),
        pytest.param(
            told(A, tasks=()), None, Choice(Kind.LOST, doubted=(A.address,)), id="an alias"
        ),
        pytest.param(
            told(A, tasks=()),
            A,
            Choice(Kind.LOST, doubted=(A.address,)),
            id="an alias at the address in use",
        ),
        pytest.param(
            told(B, A, tasks=(B,)),
            None,
            Choice(Kind.FOUND, B, doubted=(A.address,)),
            id="an alias beside",
        ),
        pytest.param(
            told(C, A, tasks=(B,)),
            B,
            Choice(Kind.LOST, doubted=(A.address, C.address)),
            id="aliases, and the task is being stopped",
        ),
        pytest.param(told(), A, LOST, id="no task"),
        pytest.param(told(), None, LOST, id="no task from the start"),
        pytest.param(told(named=None), A, LOST, id="forwarded to a silent server"),
        pytest.param(told(named=FOREIGN), A, LOST, id="forwarded to a wildcard"),
        pytest.param(told(named=FOREIGN, own=None), A, UNKNOWN, id="only a stranger answers"),
        pytest.param(told(named=None, own=None), A, UNKNOWN, id="silence"),
        pytest.param(told(own=()), A, UNKNOWN, id="a server that does not know us"),
        pytest.param(told(own=FOREIGN), A, APART, id="known, but elsewhere"),
        pytest.param(told(A, is_attached=False), A, APART, id="not attached"),
        pytest.param(told(is_attached=False), A, APART, id="not attached, and no task"),
    ],
)
def test_what_is_to_be_believed(seen: Told, in_use: Task | None, choice: Choice) -> None:
    assert decide(seen, in_use) == choice


@pytest.mark.parametrize(
    ("now", "last", "news"),
    [
        pytest.param(told(A), told(A), False, id="the same"),
        pytest.param(told(B, A), told(A), True, id="another one beside"),
        pytest.param(told(A), told(A, B), True, id="no longer another one beside"),
        pytest.param(told(B), told(A), True, id="another one"),
        pytest.param(told(), told(A), True, id="none"),
        pytest.param(told(named=None, own=None), told(A), True, id="silence"),
        pytest.param(told(), told(), False, id="still none"),
        pytest.param(told(named=FOREIGN), told(), False, id="none, told otherwise"),
        pytest.param(told(named=None, own=None), told(), True, id="none, then silence"),
        pytest.param(told(A), told(A, tasks=()), False, id="still the same alias"),
        pytest.param(told(A, B), told(A, tasks=()), True, id="an alias, then a task"),
        pytest.param(told(own=FOREIGN), told(own=OWN), True, id="taken off the network"),
    ],
)
def test_what_is_news(now: Told, last: Told, *, news: bool) -> None:
    assert is_news(now, last) is news


def test_who_is_doubted_is_asked_about_less_and_less() -> None:
    assert [patience(tries) for tries in (0, 1, 2, 3, 4, 7, 8, 10_000)] == [
        *(1, 1, 1, 2, 4, 32, 60, 60)
    ]


# --- a thousand nodes ---------------------------------------------------------------------------


@dataclass
class Node:
    """An agent that decides each second, by what has come to its node so far."""

    phase: float
    names: list[tuple[float, frozenset[Task]]]
    """What its name server has, from when on (seconds)."""
    lists: list[tuple[float, frozenset[Task]]]
    """The same for its engine."""
    last: Told | None = None
    in_use: Task | None = None
    calls: list[float] = field(default_factory=list)
    """When it asked its engine."""
    history: list[tuple[float, Choice]] = field(default_factory=list)
    again_at: float = 0.0
    tries: int = 0

    def look(self, now: float) -> None:
        """Ask the name server, and the engine if there is news."""
        seen = told(*_at(self.names, now), tasks=None)
        is_due = self.tries and now >= self.again_at - 0.001
        if self.last and not is_due and not is_news(seen, self.last):
            return
        self.last = seen._replace(tasks=tuple(_at(self.lists, now)))
        choice = decide(self.last, self.in_use)
        self.calls.append(now)
        self.history.append((now, choice))
        self.in_use = choice.task
        self.again_at = now + patience(self.tries)
        self.tries = self.tries + 1 if choice.doubted else 0


def _at(told_at: list[tuple[float, frozenset[Task]]], now: float) -> frozenset[Task]:
    return [tasks for since, tasks in told_at if since <= now][-1]


def swarm(*steps: tuple[float, frozenset[Task]], late: float, seed: int = 1) -> list[Node]:
    """Return 1,000 nodes to which each step comes at a time of its own, after `late` s at most.

    Of an engine and its name server, either may be the first.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret

    def arrivals() -> list[tuple[float, frozenset[Task]]]:
        return [(since + chance.uniform(0, late) * bool(since), tasks) for since, tasks in steps]

    return [Node(chance.uniform(0, 1), arrivals(), arrivals()) for _ in range(1000)]


def run(nodes: list[Node], seconds: int, since: int = 0) -> None:
    for node in nodes:
        for second in range(since, seconds):
            node.look(second + node.phase)


ALONE, NOBODY, MOVED = frozenset({A}), frozenset[Task](), frozenset({B})


def test_a_thousand_nodes_follow_a_move_with_few_calls() -> None:
    """From node to node with a gap, as a drain: gossip comes within 1.5 s, in any order."""
    nodes = swarm((0, ALONE), (10, NOBODY), (14, MOVED), late=1.5)
    run(nodes, 60)

    assert {node.in_use for node in nodes} == {B}
    kinds = {tuple(choice.kind for _, choice in node.history)[:2] for node in nodes}
    assert kinds == {(Kind.FOUND, Kind.LOST)}
    found = [node.history[-1][0] - 14 for node in nodes]
    assert 0 < min(found) < 1
    assert max(found) <= 1.5 + 1  # gossip, and the next question
    assert {len(node.calls) for node in nodes} <= {3, 4, 5}  # one of them at the start
    assert all(choice.task in {A, None, B} for node in nodes for _, choice in node.history)


def test_a_thousand_nodes_ask_nothing_while_nothing_changes() -> None:
    nodes = swarm((0, ALONE), late=0)
    run(nodes, 60)

    assert {len(node.calls) for node in nodes} == {1}


def test_with_two_tasks_nobody_changes_who_has_one_and_all_agree_once_one_ends() -> None:
    nodes = swarm((0, MOVED), (10, frozenset({A, B})), (30, ALONE), late=1.5)
    run(nodes, 25)
    assert {node.in_use for node in nodes} == {B}
    run(nodes, 60, since=25)
    assert {node.in_use for node in nodes} == {A}
    assert max(len(node.calls) for node in nodes) <= 5


def test_an_alias_costs_a_node_a_call_a_minute_in_the_end() -> None:
    """Where its name stays for ten minutes, and is never a task's."""
    nodes = swarm((0, ALONE), late=0)[:50]
    for node in nodes:
        node.names = [(0, ALONE), (10, frozenset({C}))]
        node.lists = [(0, ALONE), (10, NOBODY)]
    run(nodes, 600)

    assert {node.in_use for node in nodes} == {None}
    assert {len(node.calls) for node in nodes} <= {18, 19}
