"""What becomes of the clients' routes when the sidecar is stopped: `--on-stop`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.e2e.look import await_event, await_routes, entries, events, routes
from tests.lab.engine import poll, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.engine import Engine
    from tests.lab.site import Container, Lab

DST, DST6 = "198.51.100.0/24", "2001:db8:1::/48"
BOTH = f"{DST},{DST6}"
SHUT = {DST: "unreachable", DST6: "unreachable"}
GRACE_SECONDS = 10
"""What `docker stop` gives."""
KEEP = ("--env", "WGROUTEMGR_ON_GATEWAY_LOSS=keep")
VALUES = ["keep", "unreachable", "withdraw"]


@pytest.fixture
def network(lab: Lab) -> str:
    return lab.network("wg-net", "192.168.67.0/24", "fd00:67::/64")


def on_stop(value: str) -> tuple[str, str]:
    return ("--env", f"WGROUTEMGR_ON_STOP={value}")


def through(gateway: Container, network: str) -> dict[str, str]:
    return {DST: gateway.address(network), DST6: gateway.address(network, ipv6=True)}


def expected(value: str, before: dict[str, str]) -> dict[str, str]:
    return {"keep": before, "unreachable": SHUT, "withdraw": {}}[value]


@contextmanager
def ends_well(sidecar: Container) -> Iterator[None]:
    """Have it end by itself in time, and say so in its last line."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < GRACE_SECONDS / 2
    assert sidecar.exit_code() == 0
    assert entries(sidecar)[-1]["event"] == "daemon.stopped"
    assert events(sidecar, "routes.left") == [], sidecar.logs()[-4000:]


def stop(sidecar: Container) -> None:
    with ends_well(sidecar):
        sidecar.stop(GRACE_SECONDS)


@pytest.mark.parametrize("value", VALUES)
def test_docker_stop(lab: Lab, network: str, gateway: Container, value: str) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *on_stop(value), network=network)
    client = lab.client("client", network, networks=BOTH)
    wanted = through(gateway, network)
    await_routes(client, wanted)
    others = ("ip", "route", "replace", "203.0.113.0/24", "via", wanted[DST])
    client.enter(*others)
    stop(sidecar)

    assert routes(client) == expected(value, wanted) | {"203.0.113.0/24": wanted[DST]}
    event = {"keep": "none", "unreachable": "route.replaced", "withdraw": "route.deleted"}[value]
    said = [one for one in entries(sidecar) if one.get("trigger") == "stop"]
    assert [one["event"] for one in said] == [event] * (0 if value == "keep" else 2)

    sidecar.start()
    await_routes(client, wanted | {"203.0.113.0/24": wanted[DST]})


@pytest.mark.parametrize("loss", [(), KEEP], ids=["unreachable", "keep"])
@pytest.mark.parametrize("value", VALUES)
def test_the_gateway_goes_first(
    lab: Lab, network: str, gateway: Container, value: str, loss: tuple[str, ...]
) -> None:
    """As with `docker compose down`, where the sidecar does not depend on it."""
    sidecar = lab.lone_sidecar("sidecar", *on_stop(value), *loss, gateway=gateway, network=network)
    client = lab.client("client", network, networks=BOTH)
    wanted = through(gateway, network)
    await_routes(client, wanted)
    gateway.remove()
    stop(sidecar)

    assert routes(client) == expected(value, wanted if loss else SHUT)


def test_the_engine_is_away(lab: Lab, engine: Engine, network: str, gateway: Container) -> None:
    sidecar = lab.lone_sidecar("sidecar", *on_stop("withdraw"), gateway=gateway, network=network)
    client = lab.client("client", network, networks=BOTH)
    await_routes(client, through(gateway, network))
    pid = sidecar.inspect("{{.State.Pid}}")
    key = client.inspect("{{.NetworkSettings.SandboxKey}}")

    engine.pause()
    try:
        engine.enter("kill", "-TERM", pid)
        dead = f"! kill -0 {pid} 2>&- || grep -q '^State:.Z' /proc/{pid}/status"
        assert poll(lambda: engine.enter("sh", "-c", f"({dead}) && echo dead; :"), 5)
        left = engine.enter("nsenter", f"--net={key}", "ip", "route", "show", DST)
    finally:
        engine.resume()
    assert left == ""
    assert poll(lambda: not sidecar.running(), 10)
    with ends_well(sidecar):
        assert routes(client) == {}


def terminate_at(container: Container, event: str) -> None:
    """Send SIGTERM as soon as it logs that: who looks for it now and then comes too late."""
    script = 'docker logs --follow "$0" | grep -q "$1" && docker kill --signal TERM "$0"'
    run("sh", "-c", script, container.name, event, env=container.engine.environment())


def test_in_the_middle_of_a_pass(lab: Lab, network: str, gateway: Container) -> None:
    label = ",".join(f"10.{n // 250}.{n % 250}.0/24" for n in range(900))
    clients = [lab.client(f"client{number}", network, networks=label) for number in range(8)]
    sidecar = lab.sidecar("sidecar", gateway, *on_stop("withdraw"), network=network)
    terminate_at(sidecar, "route.replaced")
    with ends_well(sidecar):
        assert poll(lambda: not sidecar.running(), GRACE_SECONDS)

    assert events(sidecar, "route.replaced") != []
    assert events(sidecar, "pass.finished") == []
    assert [routes(client) for client in clients] == [{}] * 8


def test_while_clients_start(lab: Lab, network: str, gateway: Container) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *on_stop("withdraw"), network=network)
    await_event(sidecar, "pass.finished")
    clients = [lab.client(f"client{number}", network, networks=BOTH) for number in range(3)]

    def pids() -> list[str]:
        return [client.inspect("{{.State.Pid}}") for client in clients]

    before = pids()
    with ends_well(sidecar), ThreadPoolExecutor() as pool:
        restarts = [pool.submit(client.restart, 0) for client in clients]
        assert poll(lambda: pids() != before, 10, every=0.01)
        lab.engine.docker("kill", "--signal", "TERM", sidecar.name)
        assert poll(lambda: not sidecar.running(), GRACE_SECONDS)
        for restart in restarts:
            restart.result()

    assert [routes(client) for client in clients] == [{}] * 3


def test_another_gateways_clients_keep_theirs(lab: Lab, network: str, gateway: Container) -> None:
    other = lab.gateway("zero", network)
    sidecar = lab.sidecar("sidecar", gateway, *on_stop("withdraw"), network=network)
    idle = lab.sidecar("idle", other, *on_stop("withdraw"), network=network)
    await_event(idle, "gateway.contested")
    client = lab.client("client", network, networks=BOTH)
    wanted = through(gateway, network)
    await_routes(client, wanted)
    stop(idle)

    assert routes(client) == wanted
    assert events(idle, "route.deleted") == []
    assert len(events(sidecar, "route.replaced")) == 2


def test_before_there_is_an_engine(lab: Lab, network: str, gateway: Container) -> None:
    nowhere = ("--env", "DOCKER_HOST=unix:///nowhere.sock")
    sidecar = lab.sidecar("sidecar", gateway, *on_stop("withdraw"), *nowhere, network=network)
    await_event(sidecar, "engine.lost")
    stop(sidecar)
