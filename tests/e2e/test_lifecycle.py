"""Starting in any order, and ending at once."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from lib.settings import VERSION
from tests.e2e.look import await_event, await_routes, entries, events
from tests.lab import images
from tests.lab.engine import Engine, poll
from tests.lab.errors import LabError

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
SUBNET = "192.168.67.0/24"


def test_waits_for_the_network_and_for_the_gateway_on_it(lab: Lab) -> None:
    elsewhere = lab.network("elsewhere", "192.168.99.0/24")
    gateway = lab.gateway("wireguard", elsewhere)
    network = lab.name("late")
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    missing = await_event(sidecar, "gateway.missing")
    assert missing["reason"] == f"there is no network {network}"
    assert f"docker network create {network}" in missing["hint"]

    assert lab.network("late", SUBNET) == network
    client = lab.client("client", network, networks=DST)
    reason = f"the gateway {gateway.name} has no address on the network {network}"
    unattached = await_event(sidecar, "gateway.lost", reason=reason)
    await_routes(client, {DST: "unreachable"})
    assert unattached["hint"] == f"docker network connect {network} {gateway.name}"

    lab.engine.docker("network", "connect", network, gateway.name)
    await_routes(client, {DST: gateway.address(network)})
    assert len(events(sidecar, "gateway.missing")) == 1
    assert len(events(sidecar, "gateway.lost")) == 1


def test_waits_for_the_engine(lab: Lab, engine: Engine) -> None:
    network = lab.network("wg-net", SUBNET)
    gateway = lab.gateway("wireguard", network)
    late = engine.state / f"late-{lab.token}.sock"
    sidecar = lab.sidecar(
        "sidecar",
        gateway,
        *(
            "--volume",
            f"{engine.state}:/engine",
            "--env",
            f"DOCKER_HOST=unix:///engine/{late.name}",
        ),
        network=network,
    )
    client = lab.client("client", network, networks=DST)
    lost = await_event(sidecar, "engine.lost")
    assert "/var/run/docker.sock" in lost["hint"]

    late.hardlink_to(engine.socket)
    await_routes(client, {DST: gateway.address(network)})
    assert len(events(sidecar, "engine.lost")) == 1
    await_event(sidecar, "engine.connected")
    assert len(events(sidecar, "engine.connected")) == 1


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_ends_within_a_second_of_a_signal(lab: Lab, signal: str) -> None:
    network = lab.network("wg-net", SUBNET)
    sidecar = lab.sidecar("sidecar", lab.gateway("wireguard", network), network=network)
    await_event(sidecar, "pass.finished")

    begun = time.monotonic()
    lab.engine.docker("kill", "--signal", signal, sidecar.name)
    assert poll(lambda: not sidecar.running(), 10)

    assert time.monotonic() - begun < 1
    assert sidecar.exit_code() == 0
    assert entries(sidecar)[-1]["event"] == "daemon.stopped"
    assert entries(sidecar)[-1]["reason"] == f"SIG{signal}"


def test_ends_at_once_while_it_waits_for_the_engine(lab: Lab) -> None:
    network = lab.network("wg-net", SUBNET)
    gateway = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, "--env", "DOCKER_HOST=unix:///nowhere.sock")
    await_event(sidecar, "engine.lost")

    begun = time.monotonic()
    lab.engine.docker("kill", "--signal", "TERM", sidecar.name)
    assert poll(lambda: not sidecar.running(), 10)

    assert time.monotonic() - begun < 1
    assert sidecar.exit_code() == 0


def run_image(engine: Engine, *options: str, command: tuple[str, ...]) -> str:
    words = ("run", "--rm", "--network", "none", *options, images.product(engine), *command)
    return engine.docker(*words)


def test_image_takes_options_and_commands(engine: Engine) -> None:
    assert run_image(engine, command=("--version",)) == f"wgroutemgr {VERSION}"
    assert "--resync-interval" in run_image(engine, command=("run", "--help"))


@pytest.mark.parametrize(
    ("option", "command", "complaint"),
    [
        (("--env", "WGROUTEMGR_RESYNC_INTERVAL=soon"), (), "'soon' is not a number of seconds"),
        ((), ("--log-level", "loud"), "'loud' is none of debug, info, warning, error"),
        ((), ("dance",), "invalid choice: 'dance'"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    engine: Engine, option: tuple[str, ...], command: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(LabError, match="ended with 2:") as caught:
        run_image(engine, *option, command=command)
    assert complaint in str(caught.value)


def test_terminal_gets_the_console_form(lab: Lab) -> None:
    network = lab.network("wg-net", SUBNET)
    gateway: Container = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, "--tty", network=network)

    line = sidecar.await_log("pass.finished").splitlines()[0]
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)
    assert "daemon.started" in line


def test_image_is_labelled(engine: Engine) -> None:
    template = "{{json .Config.Labels}}"
    labels = json.loads(engine.docker("inspect", "--format", template, images.product(engine)))
    assert labels["org.opencontainers.image.title"] == "wgroutemgr"
    assert labels["org.opencontainers.image.licenses"] == "MIT"
