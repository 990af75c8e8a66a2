"""An engine that answers nonsense for a while, or whose event stream falls silent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.look import await_event, await_routes, events, routes, threads_and_files
from tests.e2e.proxy import Mode, Proxy
from tests.lab.engine import poll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.engine import Engine
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"


@pytest.fixture
def proxy(engine: Engine, lab: Lab) -> Iterator[Proxy]:
    with Proxy(engine.state / f"proxy-{lab.token}.sock", engine.socket) as proxy:
        yield proxy


def sidecar_behind_proxy(lab: Lab, gateway: Container, network: str) -> Container:
    engine: Engine = lab.engine  # type: ignore[assignment]
    name = f"proxy-{lab.token}.sock"
    return lab.sidecar(
        "sidecar",
        gateway,
        *("--volume", f"{engine.state}:/engine", "--env", f"DOCKER_HOST=unix:///engine/{name}"),
        *("--env", "WGROUTEMGR_RESYNC_INTERVAL=2"),
        network=network,
    )


@pytest.mark.parametrize("mode", ["error", "truncate"])
def test_engine_that_answers_nonsense_for_a_while(
    proxy: Proxy, lab: Lab, network: str, gateway: Container, mode: Mode
) -> None:
    sidecar = sidecar_behind_proxy(lab, gateway, network)
    client = lab.client("client", network, networks=DST)
    wanted = {DST: gateway.address(network)}
    await_routes(client, wanted)

    proxy.mode = mode
    lost = await_event(sidecar, "engine.lost")
    assert lost["reason"].startswith("the engine ")
    client.enter("ip", "route", "del", DST)
    before = proxy.requests
    assert poll(lambda: proxy.requests >= before + 3, 20)
    proxy.mode = "pass"

    await_routes(client, wanted)
    assert poll(lambda: len(events(sidecar, "engine.connected")) == 2, 10)
    assert len(events(sidecar, "engine.lost")) == 1
    assert proxy.requests < before + 60  # no busy loop


def test_silent_event_stream_costs_one_resync_at_most(
    proxy: Proxy, lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = sidecar_behind_proxy(lab, gateway, network)
    await_event(sidecar, "pass.finished", trigger="startup")

    proxy.mode = "stall"
    client = lab.client("client", network)  # wants nothing, so that only events could tell of it
    assert routes(client) == {}
    late = lab.client("late", lab.network("elsewhere", "192.168.99.0/24"), networks=DST)
    lab.engine.docker("network", "connect", network, late.name)
    await_routes(late, {DST: gateway.address(network)}, 5)
    proxy.mode = "pass"
    assert events(sidecar, "engine.lost") == []


def test_engine_that_holds_back_its_headers_costs_no_thread_and_no_file(
    proxy: Proxy, lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = sidecar_behind_proxy(lab, gateway, network)
    await_event(sidecar, "pass.finished", trigger="startup")
    client = lab.client("client", network, networks=DST)
    await_routes(client, {DST: gateway.address(network)})

    def await_streams(count: int) -> None:
        wanted = proxy.seen.count("GET /events") + count
        assert poll(lambda: proxy.seen.count("GET /events") >= wanted, 20)

    await_streams(1)
    before = threads_and_files(sidecar)
    proxy.mode = "stall"
    await_streams(5)
    assert poll(lambda: threads_and_files(sidecar) == before, 5)
    proxy.mode = "pass"
    await_streams(1)
    assert poll(lambda: threads_and_files(sidecar) == before, 5)
    assert events(sidecar, "engine.lost") == []
