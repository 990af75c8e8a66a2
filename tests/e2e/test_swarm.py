"""A swarm of two nodes: the gateway is a service on one, clients are on both, an agent on each.

Each test leaves the swarm as it was; the last ones are without the agents.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.doctor_site import ask
from tests.e2e.look import await_event, await_routes, events, routes
from tests.e2e.proxy import Proxy
from tests.e2e.swarm_site import SECONDS, UNREACHABLE, last, started
from tests.e2e.test_access import allowed
from tests.lab import images
from tests.lab.engine import poll
from tests.lab.site import Container
from tests.lab.swarm import AGENT, GATEWAY, NETWORK, agent_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.swarm_site import Site
    from tests.lab.engine import Engine
    from tests.lab.swarm import Node


@pytest.fixture(scope="module")
def site(make_node: Callable[[], Engine]) -> Iterator[Site]:
    with started(make_node) as site:
        yield site


def health(agent: Container) -> str:
    return agent.exec("sh", "-c", "sh /opt/wgroutemgr/lib/health.sh; :")


def test_clients_of_both_nodes_follow_the_gateway(site: Site) -> None:
    worker = site.swarm.worker
    before = site.via(worker)
    # Its place is taken a second later, so nobody may be seen unreachable meanwhile.
    worker.engine.docker("kill", worker.await_container(GATEWAY).name)
    site.await_gateway(worker, other_than=before)

    for agent, node in zip(site.agents, site.swarm.nodes, strict=True):
        found = last(agent, "gateway.ready")
        assert (found["service"], found["node"]) == (GATEWAY, worker.address)
        told = json.loads(agent.exec("wgroutemgr", "status", "--json"))
        assert (told["service"], told["node"]) == (GATEWAY, worker.address)
        assert bool(told["gateway_id"]) == (node is worker)


def test_the_doctor_says_whom_to_ask(site: Site) -> None:
    elsewhere, here = map(ask, site.agents)

    assert elsewhere.one("tunnel").seen == (
        f"the gateway is on {site.swarm.worker.address}: ask the agent there"
    )
    assert here.one("forwarding").level == "ok"
    for said in (elsewhere, here):
        assert [said.one(name).level for name in ("names", "gateway", "network")] == ["ok"] * 3


def test_while_there_is_no_gateway_no_agent_is_killed(site: Site) -> None:
    before = [agent.name for agent in site.agents]
    for agent in site.agents:  # The name server knows it from then on.
        assert poll(lambda agent=agent: is_healthy(agent), SECONDS)  # type: ignore[misc]
    site.scale(0)
    site.await_everywhere(UNREACHABLE)
    assert [health(agent) for agent in site.agents] == ["ok"] * 2
    site.scale(1)
    site.await_gateway(site.swarm.worker)

    assert [agent.name for agent in site.agents] == before


def is_healthy(agent: Container) -> bool:
    return agent.inspect("{{.State.Health.Status}}") == "healthy"


def test_who_takes_the_tasks_name_is_not_followed(site: Site) -> None:
    site.scale(0)
    site.await_everywhere(UNREACHABLE)
    impostor = site.swarm.manager.client("impostor", "", "--network-alias", f"tasks.{GATEWAY}")
    for agent in site.agents:
        found = await_event(agent, "gateway.doubted")
        assert found["gateway"] == [impostor.address(NETWORK)]
    assert [routes(client) for client in site.clients] == [UNREACHABLE] * 2
    site.scale(1)
    site.await_gateway(site.swarm.worker)
    impostor.remove()


# --- without the agents -------------------------------------------------------------------------


def test_withdraw_as_a_job_takes_back_what_was_given(site: Site) -> None:
    site.swarm.manager.engine.docker("service", "rm", AGENT)
    assert poll(lambda: not any(node.container(AGENT) for node in site.swarm.nodes), SECONDS)
    words = ("--mode", "global-job", *agent_words(GATEWAY))
    site.swarm.service("withdraw", *words, image=images.PRODUCT, command=("withdraw",))

    site.await_everywhere({})


def alone(node: Node, *options: str, service: str = GATEWAY, network: str = NETWORK) -> Container:
    """Run an agent that is no task."""
    words = [word.replace("--container-label", "--label") for word in agent_words(service)]
    run = ("run", "--detach", "--pull", "never", "--network", network)
    return Container(node.engine, node.engine.docker(*run, *words, *options, images.PRODUCT))


def test_behind_the_documented_proxy_and_what_is_not_known_is_no_loss(site: Site) -> None:
    worker, client = site.swarm.worker, site.clients[1]
    folder = worker.engine.state / "proxy"
    folder.mkdir()
    ways = ("--volume", f"{folder}:/proxy:ro", "--env", "DOCKER_HOST=unix:///proxy/docker.sock")
    with Proxy(folder / "docker.sock", worker.engine.socket, allowed=allowed()) as proxy:
        agent = alone(worker, *ways)
        await_routes(client, site.via(worker))
        assert proxy.refused == []
        assert [line for line in proxy.asked if line.endswith("?verbose=True")]
        agent.remove()

    apart = alone(worker, network="bridge")
    found = await_event(apart, "gateway.missing")
    assert found["reason"].startswith(f"this container is not attached to {NETWORK}")
    apart.remove()
    assert routes(client) == site.via(worker)


def test_a_service_that_nobody_has_is_a_gateway_that_is_lost(site: Site) -> None:
    agent = alone(site.swarm.worker, service="wg_typing-error")
    found = await_event(agent, "gateway.lost")

    assert found["reason"] == "no task of the service wg_typing-error runs"
    assert "docker service ps wg_typing-error" in found["hint"]
    await_routes(site.clients[1], UNREACHABLE)
    assert events(agent, "gateway.ready") == []
    agent.remove()
