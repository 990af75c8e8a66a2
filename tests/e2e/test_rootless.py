"""Engines of a user who is not root: which mounts they need, and that it works with these."""

from __future__ import annotations

import pytest

from lib import advice
from tests.e2e.doctor_site import ask
from tests.e2e.look import await_event
from tests.lab import images
from tests.lab.engine import Docker, poll
from tests.lab.rootless import USER, Rootless, RootlessPodman
from tests.lab.site import PRIVILEGES, Container, Lab

DST = "198.51.100.0/24"


def privileges(engine: Rootless, socket: str) -> list[str]:
    """Return the documented privileges, with the mounts that a rootless engine needs."""
    words = (word.replace(Docker.netns, engine.netns) for word in PRIVILEGES)
    return [word.replace("/var/run/docker.sock", socket, 1) for word in words]


def sidecar(lab: Lab, gateway: Container, network: str, engine: Rootless) -> Container:
    label = f"wgroutemgr.network={network}"
    words = ("--network", f"container:{gateway.name}", "--label", label)
    image = images.product(engine)
    return lab.container("sidecar", image, *privileges(engine, engine.own_socket), *words)


@pytest.mark.usefixtures("engine")  # It makes the images, where they are not made yet.
def test_docker_of_a_user() -> None:
    with Rootless() as rootless, Lab(rootless) as lab:
        network = lab.network("wg-net", "192.168.67.0/24")
        gateway = lab.gateway("wireguard", network)
        wanted = f"{DST} via {gateway.address(network)}"
        box = sidecar(lab, gateway, network, rootless)
        late = lab.client("late", network, networks=DST)

        failed = await_event(box, "client.failed", container=late.name)
        assert failed["hint"] == advice.ROOTLESS_MOUNTS
        assert advice.ROOTLESS_MOUNTS in ask(box).one("namespaces").mend
        options = privileges(rootless, "/var/run/docker.sock")
        lost = lab.container("lost", images.product(rootless), *options)
        assert (await_event(lost, "engine.lost"))["hint"] == advice.rootless_socket(USER)
        assert ask(lost).one("engine").mend == [advice.rootless_socket(USER)]

        for container in (box, late, gateway):
            container.stop()
        rootless.share_mounts()
        for container in (gateway, box, late):
            container.start()
        assert poll(lambda: wanted in late.exec("ip", "route"), 20, every=0.2)
        early = lab.client("early", network, networks=DST)
        await_event(box, "route.replaced", container=early.name, trigger="early")
        found = ask(box)
        assert [found.one(check).level for check in ("capabilities", "namespaces")] == ["ok", "ok"]


@pytest.mark.usefixtures("engine")
def test_podman_of_a_user() -> None:
    with RootlessPodman() as rootless, Lab(rootless) as lab:
        network = lab.network("wg-net", "192.168.67.0/24")
        gateway = lab.gateway("wireguard", network)
        box = sidecar(lab, gateway, network, rootless)
        late = lab.client("late", network, networks=DST)

        wanted = f"{DST} via {gateway.address(network)}"
        assert poll(lambda: wanted in late.exec("ip", "route"), 20, every=0.2)
        found = ask(box)
        checks = ("engine", "capabilities", "namespaces", "commands")
        assert [found.one(check).level for check in checks] == ["ok"] * len(checks)
