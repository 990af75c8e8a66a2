"""Work that takes long says how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.look import await_event, events
from tests.lab.engine import Engine, poll

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

COUNT = 90


@pytest.fixture
def slow(lab: Lab) -> tuple[str, ...]:
    """Return options that give the sidecar an `nsenter` which takes its time."""
    engine = lab.engine
    assert isinstance(engine, Engine)
    folder = engine.state / f"slow-{lab.token}"
    folder.mkdir()
    script = folder / "nsenter"
    script.write_text('#!/bin/sh\nusleep 300000\nexec /usr/local/bin/nsenter "$@"\n')
    script.chmod(0o755)
    path = "/slow:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin"
    return ("--volume", f"{folder}:/slow:ro", "--env", f"PATH={path}")


@pytest.fixture
def gateway(lab: Lab) -> Container:
    network = lab.network("wg-net", "192.168.67.0/24")
    networks = ",".join(f"10.8.{n}.0/24" for n in range(COUNT))
    lab.client("client", network, networks=networks)
    return lab.gateway("wireguard", network)


def test_a_long_pass_tells_how_far_it_is(
    lab: Lab, gateway: Container, slow: tuple[str, ...]
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *slow, network=lab.name("wg-net"))
    await_event(sidecar, "pass.finished", 60, trigger="startup")

    told = events(sidecar, "pass.progressed", level="info", work="routes set", total=COUNT)
    done = [entry["done"] for entry in told]
    assert done == sorted(set(done))
    assert 0 < done[0] < done[-1] < COUNT


def test_on_a_terminal_it_is_a_line_that_updates(
    lab: Lab, gateway: Container, slow: tuple[str, ...]
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, *slow, "--tty", network=lab.name("wg-net"))

    assert poll(
        lambda: f" of {COUNT} routes set\r\n\x1b[1A\x1b[2K" in sidecar.logs(), 60, every=0.5
    )
