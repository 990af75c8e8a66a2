"""What becomes of clients in a swarm when tasks, nodes, engines and the way between them fail.

Each test leaves the swarm as it was, with the gateway's task on any node; the last one does not.
Times go into the report (`--junitxml`).
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.e2e.look import await_event, await_routes, events, routes
from tests.e2e.swarm_site import DST, SECONDS, UNREACHABLE, started
from tests.lab import images
from tests.lab.engine import poll
from tests.lab.errors import LabError
from tests.lab.site import Container
from tests.lab.swarm import AGENT, GATEWAY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.swarm_site import Site
    from tests.lab.engine import Engine
    from tests.lab.swarm import Node

STARTS, IN_TIME = 20, 12
HEALED_SECONDS = 100.0
"""For nodes to tell each other what they missed."""

AWHILE_SECONDS = 8.0
"""Longer than it takes to tell of a node that is gone."""


@pytest.fixture(scope="module")
def site(make_node: Callable[[], Engine]) -> Iterator[Site]:
    with started(make_node) as site:
        site.swarm.move(site.swarm.worker, None)
        site.await_gateway(site.swarm.worker)
        yield site


@pytest.fixture
def clock(
    request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]
) -> Clock:
    name = request.node.name
    return Clock(lambda what, seconds: record_testsuite_property(f"{name}: {what}", seconds))


class Clock:
    """Puts times into the report."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._begun = time.monotonic()

    def note(self, what: str) -> None:
        """Write down the seconds since then."""
        self._record(what, round(time.monotonic() - self._begun, 1))


def bring(site: Site, node: Node) -> None:
    """Have the gateway's task on that node, where it may stay."""
    if not node.container(GATEWAY):
        site.swarm.move(None, node)
        assert poll(lambda: node.container(GATEWAY), SECONDS)
        site.swarm.move(node, None)
    site.await_gateway(node)


def keeps(client: Container, wanted: dict[str, str], seconds: float = AWHILE_SECONDS) -> None:
    """See that a client has these routes all the time."""
    assert not poll(lambda: routes(client) != wanted, seconds, every=0.2), routes(client)


def losses(site: Site) -> list[int]:
    """Return how often each agent has told of a loss."""
    return [len(events(agent, "gateway.lost")) for agent in site.agents]


def revive(client: Container) -> None:
    """Start a client again that its engine has ended, once its network is there."""

    def runs() -> bool:
        with suppress(LabError):
            client.start()
        return client.running()

    assert poll(runs, SECONDS, every=0.5)


# --- tasks --------------------------------------------------------------------------------------


def test_an_update_of_the_gateway(site: Site, clock: Clock) -> None:
    worker = site.swarm.worker
    bring(site, worker)
    before, lost = site.via(worker), losses(site)
    clock.begin()
    site.swarm.move(None, worker)
    site.swarm.update("--force")
    # For a second or two, which may be over on one node when it is seen on the other.
    assert poll(
        lambda: all(now > then for now, then in zip(losses(site), lost, strict=True)), SECONDS
    )
    clock.note("unreachable")
    site.await_gateway(worker, other_than=before)
    clock.note("back")
    site.swarm.move(worker, None)


def test_of_two_tasks_the_one_in_use_is_kept(site: Site) -> None:
    worker = site.swarm.worker
    bring(site, worker)
    site.swarm.move(None, worker)
    site.await_gateway(worker)
    before = site.via(worker)
    site.scale(2)
    for agent in site.agents:
        await_event(agent, "gateway.several")
    assert [routes(client) for client in site.clients] == [before] * 2
    site.scale(1)
    assert poll(lambda: len(tasks(worker)) == 1, SECONDS)
    site.await_everywhere(site.via(worker))
    site.swarm.move(worker, None)


def tasks(node: Node) -> list[str]:
    mark = f"label=com.docker.swarm.service.name={GATEWAY}"
    words = ("ps", "--quiet", "--filter", mark, "--filter", "status=running")
    return node.engine.docker(*words).split()


def test_tasks_that_start_beside_docker_gwbridge(site: Site) -> None:
    """It is joined last and not listed: a wide route before it would make the start fail."""
    look = ("sh", "-c", "ip route show; sleep 3")
    words = ("--mode", "replicated-job", "--replicas", str(STARTS), "--max-concurrent", "2")
    label = ("--container-label", f"wgroutemgr.networks=172.16.0.0/12,{DST}")
    site.swarm.service("job", *words, *label, image=images.CLIENT, command=look)

    def ended() -> list[Container]:
        mark = ("--filter", "label=com.docker.swarm.service.name=job", "--filter", "exited=0")
        return [
            Container(node.engine, name)
            for node in site.swarm.nodes
            for name in node.engine.docker("ps", "--all", "--quiet", *mark).split()
        ]

    assert poll(lambda: len(ended()) == STARTS, 120, every=0.5)
    failed = "desired-state=shutdown"
    said = ("service", "ps", "--format", "{{.CurrentState}} {{.Error}}", "job")
    tasks_ = site.swarm.manager.engine.docker(*said, "--filter", failed).splitlines()
    assert len(tasks_) <= STARTS
    assert not [line for line in tasks_ if not line.startswith("Complete")]
    in_time = [f"{DST} via " in container.logs() for container in ended()]
    wide = {
        entry["container"]
        for agent in site.agents
        for entry in events(agent, "route.replaced", dst="172.16.0.0/12")
        if " table 671 " in entry["command"]
    }
    site.swarm.manager.engine.docker("service", "rm", "job")
    assert sum(in_time) >= IN_TIME
    assert len(wide) == STARTS


def test_an_agent_that_is_killed_while_the_gateway_moves(site: Site, clock: Clock) -> None:
    manager, worker = site.swarm.nodes
    bring(site, worker)
    before = site.via(worker)
    clock.begin()
    site.swarm.move(None, worker)
    site.swarm.update("--force")
    manager.engine.docker("kill", manager.await_container(AGENT).name)
    site.await_gateway(worker, other_than=before)
    clock.note("back")
    site.swarm.move(worker, None)


def test_a_drained_node(site: Site, clock: Clock) -> None:
    manager, worker = site.swarm.nodes
    bring(site, worker)
    here, there = site.clients
    old = site.via(worker)
    clock.begin()
    manager.engine.docker("node", "update", "--availability", "drain", worker.id)
    await_routes(here, UNREACHABLE, SECONDS)
    clock.note("unreachable")
    await_routes(here, site.via(manager), SECONDS)
    clock.note("back")
    assert poll(lambda: not worker.container(AGENT), SECONDS)
    assert routes(there) in (old, UNREACHABLE)
    manager.engine.docker("node", "update", "--availability", "active", worker.id)
    site.await_gateway(manager)


# --- the way between nodes ----------------------------------------------------------------------


def test_a_clients_node_that_is_cut_off(site: Site, clock: Clock) -> None:
    manager, worker = site.swarm.nodes
    bring(site, manager)
    wanted = site.via(manager)
    clock.begin()
    site.swarm.cut_off(worker)
    await_routes(site.clients[1], UNREACHABLE, SECONDS)
    clock.note("unreachable")
    assert routes(site.clients[0]) == wanted
    clock.begin()
    site.swarm.reconnect(worker)
    named = f"tasks.{GATEWAY}"
    assert poll(lambda: is_named(site.clients[1], named), HEALED_SECONDS, every=0.2)
    clock.note("named after the link")
    await_routes(site.clients[1], site.via(manager))
    clock.note("back after the link")
    site.await_gateway(manager)


def is_named(client: Container, name: str) -> bool:
    """Tell whether a node's name server has an address for a name."""
    return client.exec("sh", "-c", f"nslookup {name} >/dev/null 2>&1 && echo yes; :") == "yes"


def test_the_gateways_node_that_is_cut_off(site: Site, clock: Clock) -> None:
    manager, worker = site.swarm.nodes
    bring(site, worker)
    old = site.via(worker)
    clock.begin()
    site.swarm.cut_off(worker)
    await_routes(site.clients[0], UNREACHABLE, SECONDS)
    clock.note("unreachable")
    assert poll(lambda: manager.container(GATEWAY), SECONDS)
    await_routes(site.clients[0], site.via(manager), SECONDS)
    clock.note("back")
    assert routes(site.clients[1]) == old
    clock.begin()
    site.swarm.reconnect(worker)
    assert poll(lambda: not tasks(worker), SECONDS)
    site.await_gateway(manager)
    clock.note("one gateway after the link")


# --- engines ------------------------------------------------------------------------------------


def test_the_engine_of_a_clients_node_that_is_killed(site: Site) -> None:
    manager, worker = site.swarm.nodes
    bring(site, manager)
    wanted = site.via(manager)
    client, (address,) = site.clients[1], wanted.values()
    look = inside(client)
    agent = worker.await_container(AGENT)
    with away(worker):
        # A few seconds later other nodes take this one for dead, and send it nothing any more.
        assert "1 packets received" in look("busybox", "ping", "-c", "1", "-w", "2", address)
        gone = poll(lambda: f"{DST} via {address}" not in look("ip", "route"), AWHILE_SECONDS, 0.5)
        assert not gone
        assert routes(site.clients[0]) == wanted
    assert agent.name not in worker.engine.docker("ps", "--quiet", "--no-trunc").split()
    revive(client)
    site.await_gateway(manager)


@contextmanager
def away(node: Node) -> Iterator[None]:
    """Have a node without its engine, whose containers go on."""
    node.engine.kill()
    try:
        yield
    finally:
        node.engine.start()


def inside(client: Container) -> Callable[..., str]:
    """Return what runs a command in a client's network namespace, without its engine."""
    key = client.inspect("{{.NetworkSettings.SandboxKey}}")
    return lambda *words: client.engine.enter("nsenter", f"--net={key}", *words)


def test_a_manager_that_is_away_while_the_gateway_ends(site: Site, clock: Clock) -> None:
    manager, worker = site.swarm.nodes
    bring(site, worker)
    with away(manager):
        keeps(site.clients[1], site.via(worker))
        clock.begin()
        worker.engine.docker("kill", worker.await_container(GATEWAY).name)
        await_routes(site.clients[1], UNREACHABLE, SECONDS)
        clock.note("unreachable")
        keeps(site.clients[1], UNREACHABLE)
        clock.begin()
    revive(site.clients[0])
    found = [node for node in site.swarm.nodes if poll(lambda: node.container(GATEWAY), 20)]  # noqa: B023 - called at once
    site.await_gateway(found[0])
    clock.note("back with the manager")


# --- the end of a node --------------------------------------------------------------------------


def test_the_gateways_node_dies(site: Site, clock: Clock) -> None:
    manager, worker = site.swarm.nodes
    bring(site, worker)
    clock.begin()
    site.swarm.kill(worker)
    await_routes(site.clients[0], UNREACHABLE, SECONDS)
    clock.note("unreachable")
    assert poll(lambda: manager.container(GATEWAY), SECONDS)
    await_routes(site.clients[0], site.via(manager), SECONDS)
    clock.note("back")
