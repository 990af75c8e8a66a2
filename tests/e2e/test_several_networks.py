"""One sidecar, several networks of its gateway: each client has one route, by its own network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lib.model import NETWORKS_LABEL
from tests.e2e.doctor_site import ask
from tests.e2e.look import await_event, await_routes, events, routes
from tests.e2e.test_early import LOOK
from tests.lab import images
from tests.lab.engine import LABEL, poll
from tests.lab.site import Container

if TYPE_CHECKING:
    from tests.lab.site import Lab

DST, ALL = "198.51.100.0/24", "0.0.0.0/0"
SETTINGS = (
    *("--env", "WGROUTEMGR_ON_TUNNEL_LOSS=warn"),  # The gateway has no tunnel.
    *("--env", "WGROUTEMGR_GATEWAY_GUARD=on"),
)
FEW = 3
"""Starts of each kind of client."""


def start(lab: Lab, what: str, *networks: str, asks: str = DST) -> Container:
    """Start a client that is on all of these networks from its first instruction on."""
    docker, name, (first, *others) = lab.engine.docker, lab.name(what), networks
    docker(
        *("create", "--pull", "never", "--name", name, "--network", first),
        *("--label", f"{LABEL}={lab.token}", "--label", f"{NETWORKS_LABEL}={asks}"),
        *(images.client(lab.engine), *LOOK),
    )
    for other in others:
        docker("network", "connect", other, name)
    docker("start", name)
    return Container(lab.engine, name)


def default(client: Container) -> list[str]:
    """Return where the default routes of table 671 lead, but its guard."""
    found = json.loads(client.enter("ip", "-j", "route", "show", "table", "671") or "[]")
    return [one["gateway"] for one in found if "gateway" in one]


def guards(gateway: Container) -> list[str]:
    """Return the rules in the gateway that are its guard."""
    found = gateway.enter("ip", "rule", "show").splitlines()
    return [line for line in found if line.startswith("32765:")]


def await_all(wanted: dict[Container, str]) -> None:
    for client, way in wanted.items():
        await_routes(client, {DST: way})


def commands_agree(sidecar: Container, ways: dict[str, str], serving: dict[str, str]) -> None:
    """See what the commands say of the gateway's addresses, and of each client's network."""
    found: dict[str, Any] = json.loads(sidecar.exec("wgroutemgr", "status", "--json"))
    told = [(one["network"], one["addresses"], one["reason"]) for one in found["networks"]]
    assert told == [(network, [way], "") for network, way in ways.items()]
    rows = [(row["container"], row["network"], row["state"]) for row in found["routes"]]
    assert rows == sorted((name, network, "ok") for name, network in serving.items())
    planned = sidecar.exec("wgroutemgr", "plan").splitlines()
    assert [line for line in planned if not line.startswith("#")] == []
    said = ask(sidecar)
    assert [one.seen.partition(",")[0] for one in said.of("network")] == list(ways)
    assert sidecar.exec("wgroutemgr", "health") == "ok"


def test_each_client_has_one_route_by_its_network(lab: Lab) -> None:
    first = lab.network("work-net", "192.168.67.0/24")
    second = lab.network("lab-net", "192.168.68.0/24")
    gateway = lab.gateway("wireguard", first)
    lab.engine.docker("network", "connect", second, gateway.name)
    served = f"{first}, {second}"
    sidecar = lab.lone_sidecar("sidecar", *SETTINGS, gateway=gateway, network=served)
    await_event(sidecar, "pass.finished", trigger="startup")
    assert await_event(sidecar, "sidecar.found")["network"] == served
    by_first, by_second = (gateway.address(each) for each in (first, second))

    ones = [start(lab, f"one{n}", first) for n in range(FEW)]
    others = [start(lab, f"other{n}", second) for n in range(FEW)]
    both = [start(lab, f"both{n}", second, first) for n in range(FEW)]
    whole = start(lab, "whole", second, first, asks=ALL)
    there = dict.fromkeys((*ones, *both), by_first) | dict.fromkeys(others, by_second)
    await_all(there)
    assert poll(lambda: default(whole) == [by_first], 20)
    # On a busy machine one of each may be late.
    for kind in (ones, others, both):
        assert sum(client.logs().count(DST) for client in kind) >= FEW - 1
    set_by = {(one["container"], one["gateway"]) for one in events(sidecar, "route.replaced")}
    ways = {(client.name, way) for client, way in there.items()}
    assert set_by == ways | {(whole.name, by_first), (whole.name, "unreachable")}
    assert len(events(sidecar, "route.replaced")) == len(there) + 2

    assert len(guards(gateway)) == 2 * len((first, second))
    serving = {client.name: second if client in others else first for client in (*there, whole)}
    commands_agree(sidecar, {first: by_first, second: by_second}, serving)

    # The gateway leaves one network, then the other: only those are hit that are served there.
    for network, hit in ((second, others), (first, (*ones, *both))):
        lab.engine.docker("network", "disconnect", network, gateway.name)
        await_all(there | dict.fromkeys(hit, "unreachable"))
        lost = await_event(sidecar, "gateway.lost", network=network)
        assert lost["container"] == gateway.name
        lab.engine.docker("network", "connect", network, gateway.name)
        way = gateway.address(network)
        there |= dict.fromkeys(hit, way)
        await_all(there)
        assert poll(lambda: len(guards(gateway)) == 2 * len((first, second)), 20)
    assert len(events(sidecar, "gateway.lost")) == len((first, second))

    # A client on both leaves the first, and comes back.
    by_first, by_second = (gateway.address(each) for each in (first, second))
    for verb, way in (("disconnect", by_second), ("connect", by_first)):
        for client in (both[0], whole):
            lab.engine.docker("network", verb, first, client.name)
        await_routes(both[0], {DST: way})
        assert poll(lambda way=way: default(whole) == [way], 20)  # type: ignore[misc]

    sidecar.stop()
    taken = lab.lone_sidecar(
        "withdraw", *SETTINGS, gateway=gateway, network=served, command=("withdraw",)
    )
    assert poll(lambda: not taken.running(), 20)
    assert taken.exit_code() == 0
    assert [routes(client) for client in there] == [{}] * len(there)
    assert default(whole) == guards(gateway) == []


def test_a_network_that_is_not_there_keeps_nobody_else_waiting(lab: Lab) -> None:
    network = lab.network("wg-net", "192.168.67.0/24")
    gateway = lab.gateway("wireguard", network)
    missing = lab.name("nowhere")
    client = lab.client("client", network, networks=DST)
    sidecar = lab.lone_sidecar("sidecar", gateway=gateway, network=f"{missing},{network}")

    await_routes(client, {DST: gateway.address(network)})
    reason = f"there is no network {missing}"
    assert await_event(sidecar, "gateway.missing")["reason"] == reason
    told = sidecar.exec("sh", "-c", "wgroutemgr status 2>&1; echo $?; wgroutemgr health; :")
    assert reason in told
    assert f" {DST} " in told
    assert told.splitlines()[-2:] == ["3", reason]

    late = lab.network("nowhere", "192.168.68.0/24")
    lab.engine.docker("network", "connect", late, gateway.name)
    other = lab.client("other", late, networks=DST)
    await_routes(other, {DST: gateway.address(late)}, 40)
    assert poll(lambda: sidecar.exec("wgroutemgr", "health") == "ok", 40)
