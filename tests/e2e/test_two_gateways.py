"""Two gateways on one network, each with a sidecar, do not fight over a client."""

from __future__ import annotations

import json
import time
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from lib.model import GUARD_METRIC
from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab.engine import poll

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST, OTHER_DST = "198.51.100.0/24", "203.0.113.0/24"
TAKE_OVER_SECONDS = 3.0
RESYNC = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=2")
HOLD_SECONDS = 10.0
STEADY_SECONDS = 8.0
"""To look at what should not change: four passes of each sidecar."""


@pytest.fixture
def gateways(lab: Lab, network: str) -> tuple[Container, Container]:
    """Return the first by name and the other one."""
    return lab.gateway("first", network), lab.gateway("second", network)


def replaced(*sidecars: Container) -> int:
    return sum(len(events(one, "route.replaced")) for one in sidecars)


def test_one_of_two_serves_the_other_takes_over_and_gives_back(
    lab: Lab, network: str, gateways: tuple[Container, Container]
) -> None:
    sidecars = [
        lab.sidecar(f"sidecar-{number}", gateway, *RESYNC, network=network)
        for number, gateway in enumerate(gateways)
    ]
    ours, theirs = sidecars
    first, second = (one.address(network) for one in gateways)
    contested = await_event(theirs, "gateway.contested")
    assert f"by the gateway {gateways[0].name}, by name the first" in contested["reason"]
    client = lab.client("client", network, networks=DST)
    await_routes(client, {DST: first})

    time.sleep(STEADY_SECONDS)
    assert routes(client) == {DST: first}
    assert replaced(*sidecars) == 1
    assert len(events(theirs, "gateway.contested")) == 1
    assert events(ours, "gateway.contested") == []
    for one, words in ((ours, " ok"), (theirs, "is served by the gateway")):
        assert words in one.exec("wgroutemgr", "status")
        doctor = one.exec("sh", "-c", "wgroutemgr doctor; :")
        assert f"clients are served by the gateway {gateways[0].name}" in doctor
        assert one.exec("wgroutemgr", "health") == "ok"

    ours.restart()
    time.sleep(STEADY_SECONDS)
    assert replaced(*sidecars) == 1

    stopped = time.monotonic()
    ours.stop()
    await_routes(client, {DST: second}, HOLD_SECONDS + 10)
    assert time.monotonic() - stopped > HOLD_SECONDS - 1
    time.sleep(STEADY_SECONDS)
    assert replaced(*sidecars) == 2
    assert len(events(theirs, "gateway.chosen")) == 1

    started = time.monotonic()
    ours.start()
    assert poll(lambda: routes(client) == {DST: first}, HOLD_SECONDS + 10)
    assert time.monotonic() - started > HOLD_SECONDS - 1
    time.sleep(STEADY_SECONDS)
    assert replaced(*sidecars) == 3
    assert len(events(theirs, "gateway.contested")) == 2
    assert routes(client) == {DST: first}


def test_a_second_gateway_that_is_first_by_name_takes_the_clients_once(
    lab: Lab, network: str, gateways: tuple[Container, Container]
) -> None:
    second = lab.sidecar("sidecar-2", gateways[1], *RESYNC, network=network)
    client = lab.client("client", network, networks=DST)
    await_routes(client, {DST: gateways[1].address(network)})
    time.sleep(HOLD_SECONDS)

    first = lab.sidecar("sidecar-1", gateways[0], *RESYNC, network=network)
    waits = await_event(first, "gateway.contested")
    assert "has run for 10 s" in waits["reason"]
    await_event(first, "gateway.chosen")
    await_routes(client, {DST: gateways[0].address(network)})
    time.sleep(STEADY_SECONDS)
    assert replaced(first, second) == 2
    assert len(events(second, "gateway.contested")) == 1


def test_a_client_names_its_gateway_and_a_substitute(
    lab: Lab, network: str, gateways: tuple[Container, Container]
) -> None:
    sidecars = [
        lab.sidecar(f"sidecar-{number}", gateway, network=network)
        for number, gateway in enumerate(gateways)
    ]
    for sidecar in sidecars:
        await_event(sidecar, "gateway.ready")
    first, second = (one.address(network) for one in gateways)
    one, other = (f"wgroutemgr.networks.{each.name}" for each in gateways)
    named = lab.client("named", network, "--label", f"{other}={OTHER_DST}", networks=DST)
    both = (f"{one}={DST}", f"{other}={DST},{OTHER_DST}", "wgroutemgr.networks.nobody=10.99.0.0/16")
    both_labels = [word for text in both for word in ("--label", text)]
    client = lab.client("both", network, *both_labels)
    wide, wider = (str(ip_network(f"{first}/{size}", strict=False)) for size in (12, 8))
    wides = (word for text in (f"{one}={wider}", f"{other}={wide}") for word in ("--label", text))
    whole = lab.client("whole", network, *wides)
    for each in (named, client):
        await_routes(each, {DST: first, OTHER_DST: second})
    assert poll(lambda: ours(whole) == {wider: first, wide: second}, 20)
    refused = await_event(sidecars[0], "entry.refused")
    assert refused["entry"] == "wgroutemgr.networks.nobody"
    assert events(sidecars[1], "entry.refused") == []

    time.sleep(HOLD_SECONDS)  # Else all came together, as after a boot, and nobody waits.
    lost = time.monotonic()
    lab.engine.docker("kill", gateways[0].name)
    assert poll(lambda: routes(client) == {DST: second, OTHER_DST: second}, 5)
    assert time.monotonic() - lost < TAKE_OVER_SECONDS
    assert poll(lambda: routes(named) == {DST: "unreachable", OTHER_DST: second}, 5)
    assert poll(lambda: ours(whole) == {wider: "unreachable", wide: second}, 5)

    back = time.monotonic()
    gateways[0].start()
    assert poll(lambda: routes(named) == {DST: first, OTHER_DST: second}, 5)
    assert routes(client) == {DST: second, OTHER_DST: second}
    await_routes(client, {DST: first, OTHER_DST: second}, HOLD_SECONDS + 5)
    assert time.monotonic() - back > HOLD_SECONDS - 1
    changes = replaced(*sidecars)
    time.sleep(STEADY_SECONDS)
    assert replaced(*sidecars) == changes


def ours(client: Container) -> dict[str, str]:
    """Return the routes of our own table but its guards: destination to gateway, or to its type."""
    found = json.loads(client.enter("ip", "-j", "route", "show", "table", "671") or "[]")
    led = (route for route in found if route.get("metric") != GUARD_METRIC)
    return {route["dst"]: route.get("gateway") or route["type"] for route in led}
