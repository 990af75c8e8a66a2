"""How long clients in a swarm are led to nobody, and what it costs to know who the gateway is.

Two engines of this machine are the nodes. The client that is looked at is on the other node than
the gateway, which has no tunnel; its task is made anew after 5 s, the swarm's own delay, so that it
is seen to be away.
"""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.benchmark import world
from tests.benchmark.stats import Figure, percentile
from tests.lab.engine import poll
from tests.lab.site import Container
from tests.lab.swarm import AGENT, GATEWAY, NETWORK, Swarm

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.engine import Engine
    from tests.lab.swarm import Node

PART = "swarm"
SCENARIOS = ("task killed", "node drained", "node dies", "polling", "in time")
ROUNDS, FEW_ROUNDS = 10, 2
STARTS, FEW_STARTS = 100, 4
STEADY_SECONDS, FEW_SECONDS = 60.0, 5.0
SECONDS = 60.0
CALM_SECONDS = 2.0
DST = "198.51.100.0/24"
DELAY = ("--restart-delay", "5s")
MOST_LOST_SECONDS, MOST_BACK_SECONDS, LEAST_SHARE = 2.0, 1.0, 98.0
ANOTHER_ROUTE = ("blackhole", "203.0.113.9")


class Monitor:
    """Notes when a client's routes are set."""

    def __init__(self, client: Container) -> None:
        key = client.inspect("{{.NetworkSettings.SandboxKey}}")
        words = (*client.engine.entry(), "nsenter", f"--net={key}", "ip", "-4", "monitor", "route")
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self._seen: list[tuple[float, str]] = []
        threading.Thread(target=self._read, daemon=True).start()
        assert poll(lambda: self._is_ready(client), SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def first(self, word: str, since: float) -> float:
        """Return when (Unix time) a route was first set that begins so, after that time."""

        def found() -> list[float]:
            return [at for at, line in self._seen if at > since and line.startswith(word)]

        assert poll(found, SECONDS), (word, self._seen)
        return found()[0]

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._seen.append((time.time(), line))

    def _is_ready(self, client: Container) -> bool:
        client.enter("ip", "route", "add", *ANOTHER_ROUTE)
        client.enter("ip", "route", "del", *ANOTHER_ROUTE)
        return bool(self._seen)


@dataclass
class Site:
    """A swarm with the gateway on the worker, an agent on each node and a client on the manager."""

    swarm: Swarm
    tell: Callable[[str], None]
    clients: dict[str, Container] = field(default_factory=dict)
    """By the id of their node."""

    def begin(self) -> None:
        """Start what runs in the swarm."""
        self.swarm.network()
        self.swarm.gateway(self.swarm.worker, *DELAY)
        self.swarm.worker.await_container(GATEWAY)
        self.swarm.agents("--no-healthcheck")
        self.swarm.move(self.swarm.worker, None)
        self.settle()

    def settle(self) -> None:
        """Wait until each node has a client that is led to the gateway."""
        for node in self.swarm.nodes:
            node.await_container(AGENT).await_log('"trigger": "startup"')
            if node.id not in self.clients:
                self.clients[node.id] = node.client(f"client-{node.port}", DST)
        wanted = self.address()
        for client in self.clients.values():
            assert poll(lambda: f"{DST} via {wanted} " in _routes(client), SECONDS)  # noqa: B023 - called at once
        time.sleep(CALM_SECONDS)

    def gateway(self) -> Node:
        """Return the node of the gateway's task."""
        assert poll(lambda: any(node.container(GATEWAY) for node in self.swarm.nodes), SECONDS)
        return next(node for node in self.swarm.nodes if node.container(GATEWAY))

    def address(self) -> str:
        """Return the gateway's."""
        return self.gateway().await_container(GATEWAY).address(NETWORK)

    def bring(self, node: Node) -> None:
        """Have the gateway's task on that node."""
        if not node.container(GATEWAY):
            self.swarm.move(None, node)
            assert poll(lambda: node.container(GATEWAY), SECONDS)
            self.swarm.move(node, None)
        self.settle()


@dataclass(frozen=True)
class Times:
    """Of one round, in seconds."""

    lost: float
    """From the deed to unreachable."""
    back: float
    """From the deed to the next route."""
    after_end: float
    """From the task's end to unreachable; below 0 if that came first."""
    after_start: float
    """From the start of the next task to the route to it."""


def run(
    make: Callable[[], Engine],
    tell: Callable[[str], None],
    wanted: Callable[[str], bool],
    *,
    rounds: int,
    quick: bool,
) -> list[Figure]:
    """Measure the scenarios that are wanted, in so many rounds each."""
    with Swarm(make) as swarm:
        site = Site(swarm, tell)
        site.begin()
        label = f"{PART}, Docker {swarm.manager.engine.version}"
        figures: list[Figure] = []
        if wanted("polling"):
            figures += _polling(site, label, FEW_SECONDS if quick else STEADY_SECONDS)
        if wanted("in time"):
            figures.append(_in_time(site, label, FEW_STARTS if quick else STARTS))
        for name, deed in (("task killed", _kill), ("node drained", _drain), ("node dies", _die)):
            if wanted(name):
                figures += _figures(label, name, [_round(site, name, deed) for _ in range(rounds)])
        return figures


def _round(site: Site, name: str, deed: Callable[[Site], Times]) -> Times:
    found = deed(site)
    site.tell(f"{name}: {found}")
    return found


def _kill(site: Site) -> Times:
    node = site.gateway()
    task = node.await_container(GATEWAY)
    times = _times(site, node, lambda: node.engine.docker("kill", task.name))
    site.settle()
    return times


def _drain(site: Site) -> Times:
    node, update = site.gateway(), ("node", "update", "--availability")
    manager = site.swarm.manager.engine
    times = _times(site, node, lambda: manager.docker(*update, "drain", node.id))
    manager.docker(*update, "active", node.id)
    assert poll(lambda: node.container(AGENT), SECONDS)
    site.settle()
    return times


def _die(site: Site) -> Times:
    swarm, node = site.swarm, site.swarm.worker
    site.bring(node)
    times = _times(site, node, lambda: swarm.kill(node))
    del site.clients[node.id]
    swarm.replace(node)
    site.settle()
    return times


def _times(site: Site, node: Node, deed: Callable[[], object]) -> Times:
    """Do what ends the gateway's task on a node, and look at the client of the other one."""
    old = node.await_container(GATEWAY)
    other = next(one for one in site.swarm.nodes if one is not node)
    with Monitor(site.clients[other.id]) as monitor:
        # Agents ask each second: not always at the same time before that.
        time.sleep(random.uniform(0, 1))  # noqa: S311 - no secret
        begun = time.time()
        deed()
        lost = monitor.first("unreachable", begun)
        back = monitor.first(DST, lost)
    dies = not Path(f"/proc/{node.engine.pid}").exists()
    ended = begun if dies else _moment(old, "FinishedAt")
    there = other.container(GATEWAY) or node.await_container(GATEWAY)
    started = _moment(there, "StartedAt")
    return Times(lost - begun, back - begun, lost - ended, back - started)


def _moment(container: Container, what: str) -> float:
    return datetime.fromisoformat(container.inspect(f"{{{{.State.{what}}}}}")).timestamp()


def _figures(label: str, name: str, rounds: list[Times]) -> list[Figure]:
    found = [
        Figure(label, f"{name}: to unreachable", "s", [one.lost for one in rounds]),
        Figure(label, f"{name}: to the next gateway", "s", [one.back for one in rounds]),
        _held(
            Figure(label, f"{name}: its start to back", "s", [one.after_start for one in rounds]),
            MOST_BACK_SECONDS,
        ),
    ]
    ends = Figure(label, f"{name}: its end to unreachable", "s", [one.after_end for one in rounds])
    return found if name == "node dies" else [*found, _held(ends, MOST_LOST_SECONDS)]


def _held(figure: Figure, most: float) -> Figure:
    met = percentile(figure.values, 50) <= most
    return Figure(
        figure.part, figure.name, figure.unit, figure.values, f"median <= {most:g}", met=met
    )


def _polling(site: Site, label: str, seconds: float) -> list[Figure]:
    """Return what a minute in which nothing happens costs a node without the gateway."""
    node = site.swarm.manager
    root = Path(f"/proc/{node.engine.pid}/root/proc")
    engine = [root / node.engine.enter("cat", "/run/docker.pid")]
    pid = node.await_container(AGENT).inspect("{{.State.Pid}}")
    agent, with_agent = _spent([root / pid], engine, seconds=seconds)
    site.swarm.manager.engine.docker("service", "rm", AGENT)
    assert poll(lambda: not any(one.container(AGENT) for one in site.swarm.nodes), SECONDS)
    time.sleep(CALM_SECONDS)
    (without,) = _spent(engine, seconds=seconds)
    site.swarm.agents("--no-healthcheck")
    site.settle()
    site.tell(f"agent {agent}, engine {with_agent}, without {without} ms in a minute")
    return [
        Figure(label, "agent, CPU in a minute", "ms", [agent]),
        Figure(label, "engine, CPU in a minute", "ms", [with_agent]),
        Figure(label, "engine without agents, CPU in a minute", "ms", [without]),
    ]


def _spent(*processes: list[Path], seconds: float) -> list[float]:
    """Return the milliseconds of CPU time in a minute of each of these."""
    before = [world.cpu_seconds(one) for one in processes]
    time.sleep(seconds)
    after = [world.cpu_seconds(one) for one in processes]
    return [(b - a) * 60_000 / seconds for a, b in zip(before, after, strict=True)]


def _in_time(site: Site, label: str, starts: int) -> Figure:
    """Return how many starts on the node without the gateway find the route there."""
    site.bring(site.swarm.worker)
    engine, address = site.swarm.manager.engine, site.address()
    world.probe(engine)
    # As `probe.c` has them: gateway, how many routes by it, the same of IPv6, how long to look.
    words = (_in_table(address), "1", "0" * 32, "0", str(world.LIMIT_MS), "0")
    asks = ("--label", f"wgroutemgr.networks={DST}")
    run = ("run", "--detach", "--pull", "never", "--network", NETWORK, *asks, world.PROBE, *words)
    looks = [_look(Container(engine, engine.docker(*run))) for _ in range(starts)]
    late = [look["present_at_ns"] for look in looks if not look["in_time"]]
    share = 100 * sum(look["in_time"] for look in looks) / starts
    values = [(look["present_at_ns"] or 0) - look["first_look_ns"] for look in looks]
    site.tell(f"in time: {share:.1f} % of {starts}, late: {late}")
    return Figure(
        label,
        "one after the other on the other node, 1 dst",
        "ms",
        [value / 1e6 for value in values],
        f">= {LEAST_SHARE:g} %",
        met=share >= LEAST_SHARE,
        share=share,
    )


def _look(client: Container) -> dict[str, int]:
    """Return what a client's first process saw, and remove it."""
    assert poll(client.logs, SECONDS, every=0.1)
    found: dict[str, int] = json.loads(client.logs())
    client.remove()
    return found


def _in_table(address: str) -> str:
    return ip_address(address).packed[::-1].hex().upper()


def _routes(client: Container) -> str:
    return client.enter("ip", "route", "show") + " "
