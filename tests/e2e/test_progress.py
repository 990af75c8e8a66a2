"""Work that takes long says how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.look import await_event, events
from tests.e2e.proxy import Proxy
from tests.lab.engine import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.engine import Engine
    from tests.lab.site import Container, Lab

COUNT = 8


@pytest.fixture
def start(engine: Engine, lab: Lab) -> Iterator[Callable[..., Container]]:
    """Return what starts a sidecar for some clients on a slow engine."""
    network = lab.network("wg-net", "192.168.67.0/24")
    gateway = lab.gateway("wireguard", network)
    for number in range(COUNT):
        lab.client(f"client{number}", network, networks="198.51.100.0/24")
    name = f"proxy-{lab.token}.sock"
    host = ("--volume", f"{engine.state}:/engine", "--env", f"DOCKER_HOST=unix:///engine/{name}")
    with Proxy(engine.state / name, engine.socket) as proxy:
        proxy.delay = 0.4
        yield lambda *options: lab.sidecar("sidecar", gateway, *host, *options, network=network)


def test_a_long_pass_tells_how_far_it_is(start: Callable[..., Container]) -> None:
    sidecar = start()
    finished = await_event(sidecar, "pass.finished", trigger="startup")

    told = events(sidecar, "pass.progressed", level="info", work="clients looked at", total=COUNT)
    done = [entry["done"] for entry in told]
    assert done == sorted(set(done))
    assert 2 <= len(done) <= finished["duration_ms"] / 1000
    assert 0 < done[0] < done[-1] < COUNT


def test_on_a_terminal_it_is_a_line_that_updates(start: Callable[..., Container]) -> None:
    sidecar = start("--tty")

    again = f" of {COUNT} clients looked at\n\x1b[1A\x1b[2K"
    assert poll(lambda: sidecar.logs().count(again) >= 2, 20, every=0.2), sidecar.logs()
