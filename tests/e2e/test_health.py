"""The engine's verdict on the sidecar: healthy means that routes are being served."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.look import await_event, await_routes, routes
from tests.e2e.proxy import Proxy
from tests.lab.engine import poll
from tests.lab.errors import LabError

if TYPE_CHECKING:
    from tests.lab.engine import Engine
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
SOON = ("--health-interval", "0.5s", "--health-retries", "1", "--health-start-period", "1ms")
RESYNC = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=1")


def health(container: Container) -> tuple[str, str]:
    """Return the engine's verdict, and what the last check printed."""
    state = json.loads(container.inspect("{{json .State.Health}}"))
    return state["Status"], state["Log"][-1]["Output"].strip() if state["Log"] else ""


def last_check(container: Container) -> str:
    """Return when the last check began."""
    state = json.loads(container.inspect("{{json .State.Health}}"))
    began: str = state["Log"][-1]["Start"]
    return began


def await_health(container: Container, status: str, said: str = "", seconds: float = 20) -> None:
    def reached() -> bool:
        found = health(container)
        return found[0] == status and said in found[1]

    poll(reached, seconds, every=0.1)
    assert reached(), f"not {status} {said!r}, but {health(container)}"


def test_healthy_with_the_settings_of_the_image_means_that_the_route_is_there(
    lab: Lab, network: str, gateway: Container
) -> None:
    client = lab.client("client", network, networks=DST)
    sidecar = lab.sidecar("sidecar", gateway, network=network)

    # What `depends_on: {condition: service_healthy}` waits for.
    assert poll(lambda: health(sidecar)[0] != "starting", 20, every=0.05)
    assert routes(client) == {DST: gateway.address(network)}
    assert health(sidecar) == ("healthy", "ok")
    assert sidecar.exec("cat", "/proc/mounts").startswith("overlay / overlay ro,")


def test_healthy_without_any_client_and_for_any_user(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *SOON, network=network)
    await_health(sidecar, "healthy", "ok")

    check = ("sh", "/opt/wgroutemgr/lib/health.sh")
    assert lab.engine.docker("exec", "--user", "1000:1000", sidecar.name, *check) == "ok"
    assert sidecar.exec("wgroutemgr", "health") == "ok"
    with pytest.raises(LabError, match=r"there is no /dev/shm/wgroutemgr\.health"):
        lab.engine.docker("run", "--rm", sidecar.inspect("{{.Image}}"), "health")


def test_unhealthy_while_the_engine_is_away(
    lab: Lab, engine: Engine, network: str, gateway: Container
) -> None:
    name = f"proxy-{lab.token}.sock"
    with Proxy(engine.state / name, engine.socket) as proxy:
        sidecar = lab.sidecar(
            "sidecar",
            gateway,
            *SOON,
            *RESYNC,
            *("--volume", f"{engine.state}:/engine", "--env", f"DOCKER_HOST=unix:///engine/{name}"),
            network=network,
        )
        await_health(sidecar, "healthy")

        proxy.mode = "error"
        await_health(sidecar, "unhealthy", "the engine ")
        proxy.mode = "pass"
        await_health(sidecar, "healthy")


def test_unhealthy_while_it_hangs(lab: Lab, network: str, gateway: Container) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *SOON, *RESYNC, network=network)
    await_health(sidecar, "healthy")

    lab.engine.docker("kill", "--signal", "STOP", sidecar.name)
    await_health(sidecar, "unhealthy", "a pass is overdue", 30)
    lab.engine.docker("kill", "--signal", "CONT", sidecar.name)
    await_health(sidecar, "healthy")


def test_healthy_although_a_client_fails(lab: Lab, network: str, gateway: Container) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *SOON, *RESYNC, network=network)
    client = lab.client("client", network, networks=DST)
    await_routes(client, {DST: gateway.address(network)})
    await_health(sidecar, "healthy")

    client.enter("ip", "link", "set", "eth0", "down")
    await_event(sidecar, "route.failed", container=client.name)
    before = last_check(sidecar)
    assert poll(lambda: last_check(sidecar) > before, 20, every=0.1)
    assert health(sidecar) == ("healthy", "ok")


@pytest.mark.parametrize("loss", ["unreachable", "keep"])
def test_unhealthy_while_the_gateway_is_gone(
    lab: Lab, network: str, gateway: Container, loss: str
) -> None:
    policy = ("--env", f"WGROUTEMGR_ON_GATEWAY_LOSS={loss}")
    sidecar = lab.sidecar("sidecar", gateway, *SOON, *policy, network=network)
    await_health(sidecar, "healthy")

    gateway.stop()
    await_health(sidecar, "unhealthy", f"the gateway {gateway.name} is ")
    gateway.start()
    await_health(sidecar, "healthy")


def test_not_healthy_before_there_is_a_network_to_serve(lab: Lab, gateway: Container) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *SOON, network=lab.name("late"))
    await_event(sidecar, "gateway.missing")

    await_health(sidecar, "unhealthy", f"there is no network {lab.name('late')}")
