"""What the tests in a swarm share: two nodes, the gateway's service, an agent and a client on each.

The gateway has no tunnel. Its task is on the worker, so that what is asked of the manager is asked
on the other node.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab.engine import poll
from tests.lab.swarm import AGENT, GATEWAY, NETWORK, Swarm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.engine import Engine
    from tests.lab.site import Container
    from tests.lab.swarm import Node

DST = "198.51.100.0/24"
UNREACHABLE = {DST: "unreachable"}
SECONDS = 40.0
"""For what a swarm does: it tells of a node's end after some 15 s."""


@dataclass
class Site:
    """A swarm, and a client on each of its nodes."""

    swarm: Swarm
    clients: list[Container]

    @property
    def agents(self) -> list[Container]:
        """The agents as they are now, one for each client."""
        return [node.await_container(AGENT) for node in self.swarm.nodes]

    def via(self, node: Node) -> dict[str, str]:
        """Return the route by way of the gateway's task on that node, once it runs there."""
        return {DST: node.await_container(GATEWAY).address(NETWORK)}

    def await_everywhere(self, wanted: dict[str, str]) -> float:
        """Wait until all clients have that route; return the seconds that it took."""
        begun = time.monotonic()
        for client in self.clients:
            await_routes(client, wanted, SECONDS)
        return time.monotonic() - begun

    def await_gateway(self, node: Node, *, other_than: dict[str, str] | None = None) -> None:
        """Wait until all clients are led to a task on that node, and not the one that was.

        It is not told of any more some seconds before it ends: who runs there is looked at anew.
        """

        def are_led() -> bool:
            wanted = self.via(node)
            return wanted != other_than and self._have(wanted)

        poll(are_led, SECONDS, every=0.1)
        wanted = self.via(node)
        assert [routes(client) for client in self.clients] == [wanted] * len(self.clients)
        assert wanted != other_than

    def _have(self, wanted: dict[str, str]) -> bool:
        return all(routes(client) == wanted for client in self.clients)

    def await_agents(self) -> None:
        """Wait until each agent has looked at all."""
        for agent in self.agents:
            await_event(agent, "pass.finished", SECONDS, trigger="startup")

    def scale(self, count: int) -> None:
        """Have so many tasks of the gateway's service."""
        words = ("service", "scale", "--detach", f"{GATEWAY}={count}")
        self.swarm.manager.engine.docker(*words)


@contextmanager
def started(make: Callable[[], Engine]) -> Iterator[Site]:
    """Start all of it, and end it."""
    with Swarm(make) as swarm:
        swarm.network()
        swarm.gateway(swarm.worker)
        swarm.worker.await_container(GATEWAY)
        swarm.agents()
        site = Site(swarm, [])
        site.await_agents()
        site.clients = [node.client(f"client{n}", DST) for n, node in enumerate(swarm.nodes)]
        site.await_gateway(swarm.worker)
        yield site


def last(agent: Container, event: str) -> dict[str, object]:
    """Return the last entry of that event in an agent's log."""
    return events(agent, event)[-1]
