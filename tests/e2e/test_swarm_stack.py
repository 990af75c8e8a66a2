"""The example of a stack, deployed as it stands but for its images, and with a tunnel that is one.

dovecot -- wg-net -- gateway ==(tunnel, by the way of its node)== far host
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.e2e.doctor_site import ask
from tests.e2e.look import await_event, await_routes
from tests.e2e.swarm_site import SECONDS
from tests.e2e.test_tunnel import BYTES, received
from tests.lab import images
from tests.lab.engine import poll
from tests.lab.site import Container
from tests.lab.swarm import AGENT, GATEWAY, NETWORK, Swarm
from tests.lab.tunnel import PORT, key_pair
from tests.readme import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lab.engine import Engine
    from tests.lab.swarm import Node

IMAGES = {
    "linuxserver/wireguard": images.WIREGUARD,
    "wgroutemgr": images.PRODUCT,
    "dovecot/dovecot": images.CLIENT,
}
FAR_NETWORK, FAR, FAR_OUTSIDE = "192.168.66.0/24", "192.168.66.2", "10.77.0.9"
CLIENT = "wg_dovecot"
SMALL = "1280"


@pytest.fixture(scope="module")
def swarm(
    make_node: Callable[[], Engine], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Swarm]:
    """Deploy it, and the far side of its tunnel."""
    with Swarm(make_node) as swarm:
        for node in swarm.nodes:
            for name, ours in IMAGES.items():
                node.engine.docker("tag", ours, name)
        deploy(swarm, tmp_path_factory.mktemp("stack"))
        yield swarm


@pytest.fixture(scope="module")
def far(swarm: Swarm) -> Container:
    return Container(swarm.manager.engine, "far")


def deploy(swarm: Swarm, folder: Path) -> None:
    engine = swarm.manager.engine
    (ours, our_public), (theirs, their_public) = key_pair(engine), key_pair(engine)
    far = (
        f"[Interface]\nPrivateKey = {theirs}\nListenPort = {PORT}\nAddress = {FAR}/32\n"
        f"[Peer]\nPublicKey = {our_public}\nAllowedIPs = 192.168.67.0/24\n"
    )
    words = ("run", "--detach", "--pull", "never", "--network", "none", "--cap-add", "NET_ADMIN")
    engine.docker(*words, "--name", "far", "--env", f"WG_CONF={far}", images.WIREGUARD)
    swarm.plug_in(Container(engine, "far"), FAR_OUTSIDE)
    (folder / "wg0.conf").write_text(
        f"[Interface]\nPrivateKey = {ours}\nAddress = 10.255.255.1/30\n"
        f"[Peer]\nPublicKey = {their_public}\nAllowedIPs = {FAR_NETWORK}\n"
        f"Endpoint = {FAR_OUTSIDE}:{PORT}\nPersistentKeepalive = 1\n"
    )
    shutil.copy(ROOT / "examples/swarm/stack.yaml", folder)
    file = str(folder / "stack.yaml")
    engine.docker("stack", "deploy", "--resolve-image", "never", "--compose-file", file, "wg")


def node_of(swarm: Swarm, service: str) -> Node:
    """Return where the task of a service is, once it runs."""
    found: list[Node] = []

    def runs() -> bool:
        found[:] = [node for node in swarm.nodes if node.container(service)]
        return bool(found)

    assert poll(runs, SECONDS, every=0.2)
    return found[0]


def reaches(client: Container) -> bool:
    return client.exec("sh", "-c", f"ping -c 1 -w 1 {FAR} >&2 && echo yes; :") == "yes"


def led(swarm: Swarm) -> tuple[Container, dict[str, str]]:
    """Return the example's client, and the route that it is to have."""
    client = node_of(swarm, CLIENT).await_container(CLIENT)
    task = node_of(swarm, GATEWAY).await_container(GATEWAY)
    return client, {FAR_NETWORK: task.address(NETWORK)}


def test_the_example_works_as_it_is_written(swarm: Swarm) -> None:
    for node in swarm.nodes:
        agent = node.await_container(AGENT)
        await_event(agent, "gateway.ready", SECONDS, service=GATEWAY)
        status = json.loads(agent.exec("wgroutemgr", "status", "--json"))
        assert {row["state"] for row in status["routes"]} <= {"ok"}
    client, wanted = led(swarm)
    await_routes(client, wanted, SECONDS)
    assert poll(lambda: reaches(client), SECONDS)
    said = ask(node_of(swarm, GATEWAY).await_container(AGENT))
    assert said.levels("fail") == []
    assert {finding.level for finding in said.of("mtu")} <= {"ok", "skip"}


def test_the_tunnel_comes_along_to_another_node_and_takes_large_packets(
    swarm: Swarm, far: Container
) -> None:
    old = node_of(swarm, GATEWAY)
    new = next(node for node in swarm.nodes if node is not old)
    before = led(swarm)[1]
    swarm.move(None, new)
    assert poll(lambda: new.container(GATEWAY), SECONDS)
    client = old.client("other", FAR_NETWORK)
    wanted = {FAR_NETWORK: new.await_container(GATEWAY).address(NETWORK)}
    assert wanted != before
    await_routes(client, wanted, SECONDS)
    assert poll(lambda: reaches(client), SECONDS)
    for size in ("1420", SMALL):
        gateway = new.await_container(GATEWAY)
        gateway.enter("ip", "link", "set", "wg0", "mtu", size)
        for up in (True, False):
            assert received(client, far, FAR, up=up) == BYTES, (size, up)
    assert f"mtu {SMALL}" in client.enter("ip", "route", "get", FAR)
    assert " mtu 1420 " in client.exec("ip", "link", "show", "eth0")
