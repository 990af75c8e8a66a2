"""Clients that ask for `auto`: what the gateway's tunnel covers, as it changes."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab.engine import poll

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

X, Y, Z, X6 = "198.51.100.0/24", "203.0.113.0/24", "10.99.0.0/16", "2001:db8:1::/64"
AT_ONCE_SECONDS = 2.0
"""The passes on a timer are much further apart."""
HOLD_SECONDS = 10.0
UP = (
    "ip tuntap add wg0 mode tun",
    "ip link set wg0 up",
    "ip address add 10.7.0.1/24 dev wg0",
)


def up(gateway: Container, *dsts: str) -> None:
    """Make a tunnel and its routes, one after the other, as `wg-quick` does."""
    lines = [f"ip {'-6' * (':' in dst)} route add {dst} dev wg0" for dst in dsts]
    gateway.enter("sh", "-ec", "\n".join([*UP, *lines]))


def down(gateway: Container) -> None:
    gateway.enter("ip", "link", "del", "wg0")


def route(gateway: Container, verb: str, dst: str) -> None:
    gateway.enter("ip", "route", verb, dst, "dev", "wg0")


def test_a_client_follows_what_the_tunnel_covers(lab: Lab, network: str) -> None:
    gateway = lab.gateway("gateway", network)
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    via, via6 = gateway.address(network), gateway.address(network, ipv6=True)
    first = lab.client("first", network, networks="auto")
    refused = await_event(sidecar, "entry.refused", container=first.name)
    assert (refused["entry"], refused["reason"][:14]) == ("auto", "is nothing yet")

    up(gateway, X, X6)
    both = {X: via} | ({X6: via6} if via6 else {})
    assert poll(lambda: routes(first) == both, AT_ONCE_SECONDS)
    late = lab.client("late", network, networks=f"auto, {Z}")
    await_routes(late, both | {Z: via})
    early = {one["trigger"] for one in events(sidecar, "route.replaced", container=late.name)}
    assert early <= {"early", "connect", "start"}

    route(gateway, "add", Y)
    assert poll(lambda: routes(first) == both | {Y: via}, AT_ONCE_SECONDS)
    assert poll(lambda: routes(late) == both | {Y: via, Z: via}, AT_ONCE_SECONDS)
    removed = time.monotonic()
    route(gateway, "del", Y)
    assert poll(lambda: routes(first) == both | {Y: "unreachable"}, AT_ONCE_SECONDS)
    assert poll(lambda: routes(first) == both, HOLD_SECONDS + 3)
    assert time.monotonic() - removed > HOLD_SECONDS - 1

    shut = dict.fromkeys(both, "unreachable")
    down(gateway)
    assert poll(lambda: routes(first) == shut, AT_ONCE_SECONDS)
    status = json.loads(sidecar.exec("sh", "-c", "wgroutemgr status --json; :"))
    seen = {
        (one["dst"], one["gateway"]) for one in status["routes"] if one["container"] == first.name
    }
    assert seen == {(dst, "unreachable") for dst in both}
    while_lost = lab.client("while-lost", network, networks="auto")
    await_routes(while_lost, shut)
    up(gateway, X, X6)
    for client in (first, while_lost):
        assert poll(lambda: routes(client) == both, AT_ONCE_SECONDS)  # noqa: B023 - called at once

    lab.engine.docker("kill", gateway.name)
    assert poll(lambda: routes(first) == shut, AT_ONCE_SECONDS)
    gateway.start()
    assert poll(lambda: events(sidecar, "gateway.ready")[1:], 10)
    assert routes(first) == shut
    up(gateway, X, X6)
    await_routes(first, both)
    assert "nsenter" not in sidecar.exec("wgroutemgr", "plan")
    sidecar.exec("wgroutemgr", "withdraw")
    sidecar.remove()


def test_of_two_gateways_each_adds_its_own(lab: Lab, network: str) -> None:
    gateways = [lab.gateway(name, network) for name in ("first", "second")]
    for gateway, own in zip(gateways, (X, Y), strict=True):
        up(gateway, own, Z)
    sidecars = [
        lab.sidecar(f"sidecar-{number}", gateway, network=network)
        for number, gateway in enumerate(gateways)
    ]
    for sidecar in sidecars:
        await_event(sidecar, "gateway.ready")
    labels = [("--label", f"wgroutemgr.networks.{one.name}=auto") for one in gateways]
    client = lab.client("client", network, *(word for label in labels for word in label))
    first, second = (one.address(network) for one in gateways)
    assert poll(lambda: set(routes(client)) == {X, Y, Z}, 20)
    assert poll(lambda: any(events(one, "entry.refused") for one in sidecars), 20)
    led = routes(client)
    assert (led[X], led[Y]) == (first, second)
    held = [first, second].index(led[Z])
    (refused,) = (one for sidecar in sidecars for one in events(sidecar, "entry.refused"))
    assert (refused["entry"], refused["reason"]) == (
        Z,
        f"leads through {led[Z]} already, whose tunnels cover it too",
    )
    lab.engine.docker("kill", gateways[held].name)
    other = (first, second)[1 - held]
    assert poll(lambda: routes(client)[Z] == other, 10)
    assert poll(lambda: routes(client)[(X, Y)[held]] == "unreachable", 10)
