"""Two gateways on one network, each with a sidecar, do not fight over a client."""

from __future__ import annotations

import json
import time
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from lib.model import DIRECT_LABEL, GUARD_METRIC, NETWORKS_LABEL, PREFER_LABEL, TABLE
from tests.e2e.doctor_site import FAR, reaches
from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab.engine import poll

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.lab.site import Container, Lab

DST, OTHER_DST, ALL = "198.51.100.0/24", "203.0.113.0/24", "0.0.0.0/0"
UNANSWERED = "wgroutemgr.networks.nobody"
TAKE_OVER_SECONDS = 3.0
RESYNC = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=2")
NO_TUNNEL = ("--env", "WGROUTEMGR_ON_TUNNEL_LOSS=warn")
"""A default route leads through these gateways although they have none."""
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
        lab.sidecar(f"sidecar-{number}", gateway, *NO_TUNNEL, network=network)
        for number, gateway in enumerate(gateways)
    ]
    for sidecar in sidecars:
        await_event(sidecar, "gateway.ready")
    for gateway in gateways:
        answer(gateway)
    first, second = (one.address(network) for one in gateways)
    one, other = (f"wgroutemgr.networks.{each.name}" for each in gateways)

    def client(what: str, labels: dict[str, str]) -> Container:
        words = (word for key, value in labels.items() for word in ("--label", f"{key}={value}"))
        return lab.client(what, network, *words)

    named = client("named", {NETWORKS_LABEL: DST, other: OTHER_DST})
    both = client("both", {one: DST, other: f"{DST},{OTHER_DST}", UNANSWERED: "10.99.0.0/16"})
    wide, wider = (str(ip_network(f"{first}/{size}", strict=False)) for size in (12, 8))
    whole = client("whole", {one: wider, other: wide})
    beside = client("beside", {one: DST, other: ALL, DIRECT_LABEL: OTHER_DST})
    twice = client("twice", {one: ALL, other: ALL})
    prefers = client("prefers", {one: ALL, other: ALL, PREFER_LABEL: ", ".join(names(gateways))})
    past = json.loads(beside.enter("ip", "-j", "route", "show", "default"))[0]["gateway"]
    there = {
        named: {DST: first, OTHER_DST: second},
        both: {DST: first, OTHER_DST: second},
        whole: {wider: first, wide: second},
        beside: {"default": second, DST: first, OTHER_DST: past},
        twice: {"default": first},
        prefers: {"default": first},
    }
    while_lost = {
        named: {DST: "unreachable", OTHER_DST: second},
        both: {DST: second, OTHER_DST: second},
        whole: {wider: "unreachable", wide: second},
        beside: {"default": second, DST: "unreachable", OTHER_DST: past},
        twice: {"default": "unreachable"},
        prefers: {"default": second},
    }
    await_led(there)
    refused = [entry["entry"] for entry in events(sidecars[0], "entry.refused")]
    assert refused == [UNANSWERED]
    (second_default,) = events(sidecars[1], "entry.refused")
    assert (second_default["container"], second_default["entry"]) == (twice.name, ALL)
    assert f"stands in {other}, but goes through {gateways[0].name}" in second_default["reason"]
    assert reaches(both)

    time.sleep(HOLD_SECONDS)  # Else all came together, as after a boot, and nobody waits.
    lost = time.monotonic()
    lab.engine.docker("kill", gateways[0].name)
    assert poll(lambda: led(both) == while_lost[both], 5)
    assert time.monotonic() - lost < TAKE_OVER_SECONDS
    assert reaches(both)
    await_led(while_lost)

    back = time.monotonic()
    gateways[0].start()
    answer(gateways[0])
    await_led(there | {each: while_lost[each] for each in (both, prefers)})
    await_led(there)
    assert time.monotonic() - back > HOLD_SECONDS - 1
    assert reaches(both)
    changes = replaced(*sidecars)
    time.sleep(STEADY_SECONDS)
    assert replaced(*sidecars) == changes


def names(containers: Iterable[Container]) -> list[str]:
    return [each.name for each in containers]


def answer(gateway: Container) -> None:
    """Have a gateway answer in the place of what is behind it."""
    gateway.enter("ip", "address", "add", FAR, "dev", "lo")


def led(client: Container) -> dict[str, str]:
    """Return the routes of the main table and of ours, but guards: where to, or of which type."""
    found = json.loads(client.enter("ip", "-j", "route", "show", "table", "all"))
    ours = (route for route in found if route.get("table") == str(TABLE))
    own = (route for route in ours if route.get("metric") != GUARD_METRIC)
    kinds = {route["dst"]: route.get("gateway") or route.get("type") for route in own}
    return routes(client) | {dst: kind for dst, kind in kinds.items() if kind}


def await_led(wanted: dict[Container, dict[str, str]]) -> None:
    poll(lambda: {client: led(client) for client in wanted} == wanted, 20)
    assert {client: led(client) for client in wanted} == wanted
