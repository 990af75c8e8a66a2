"""Routes before the first instruction, and in no namespace that did not ask for them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lib.early.arrival import PATIENCE_SECONDS
from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab import images
from tests.lab.engine import poll

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
DST6 = "2001:db8:51::/48"
# What the first process sees when it looks, as its first action; then it stays.
LOOK = ("sh", "-c", "ip route show; ip -6 route show; trap 'exit 0' TERM; sleep 1000 & wait")


def start(lab: Lab, what: str, network: str, *options: str, networks: str = "") -> Container:
    label = ("--label", f"wgroutemgr.networks={networks}") if networks else ()
    words = ("--network", network, *label, *options)
    return lab.container(what, images.client(lab.engine), *words, command=LOOK)


def test_routes_are_there_at_the_first_instruction(lab: Lab) -> None:
    network = lab.network("wg-net", "192.168.67.0/24", "fd00:67::/64")
    gateway = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    wanted = {DST: gateway.address(network), DST6: gateway.address(network, ipv6=True)}

    clients = [start(lab, f"client{n}", network, networks=f"{DST},{DST6}") for n in range(10)]
    for client in clients:
        await_routes(client, wanted)
    clients[0].restart()
    await_routes(clients[0], wanted)

    # Eleven starts; on a busy machine one may be late.
    logs = [client.logs() for client in clients]
    assert sum(min(log.count(DST), log.count(DST6)) for log in logs) >= 10
    assert len(events(sidecar, "route.replaced", trigger="early", dst=DST)) >= 10


def test_no_other_namespace_gets_a_route(lab: Lab) -> None:
    network = lab.network("wg-net", "192.168.67.0/24")
    other = lab.network("other", "192.168.99.0/24")
    gateway = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    wanted = {DST: gateway.address(network)}

    def mixed(n: int) -> tuple[Container, dict[str, str]]:
        kind = n % 3
        networks = DST if kind == 0 else ""
        where = other if kind == 1 else network
        return start(lab, f"client{n}", where, networks=networks), wanted if networks else {}

    with ThreadPoolExecutor(6) as pool:
        started = list(pool.map(mixed, range(18)))
    for client, expected in started:
        await_routes(client, expected)
    assert routes(gateway) == {}


def test_destination_inside_a_network_still_to_come_does_not_break_the_start(lab: Lab) -> None:
    network = lab.network("a-wg-net", "192.168.67.0/24")
    second = lab.network("b-second", "192.168.99.0/24")
    gateway = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    lab.engine.docker(
        *("create", "--pull", "never", "--name", lab.name("client"), "--network", network),
        *("--label", f"wgroutemgr-lab={lab.token}"),
        *("--label", f"wgroutemgr.networks=192.168.99.0/24,{DST}"),
        *(images.client(lab.engine), *LOOK),
    )
    lab.engine.docker("network", "connect", second, lab.name("client"))
    client = type(gateway)(lab.engine, lab.name("client"))
    client.start()

    await_routes(client, {DST: gateway.address(network)})
    assert await_event(sidecar, "entry.refused")["entry"] == "192.168.99.0/24"


def worked(sidecar: Container) -> float:
    """Return the milliseconds of CPU time that the sidecar's threads have taken so far."""
    pid = sidecar.inspect("{{.State.Pid}}")
    text = sidecar.engine.enter("sh", "-c", f"cat /proc/{pid}/task/*/schedstat")
    return sum(int(line.split()[0]) for line in text.splitlines()) / 1e6


def test_client_that_is_never_started_keeps_nothing_busy(lab: Lab) -> None:
    network = lab.network("wg-net", "192.168.67.0/24")
    gateway = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    lab.engine.docker(
        *("create", "--pull", "never", "--name", lab.name("never"), "--network", network),
        *("--label", f"wgroutemgr-lab={lab.token}", "--label", f"wgroutemgr.networks={DST}"),
        *(images.client(lab.engine), *LOOK),
    )

    def is_quiet() -> bool:
        before = worked(sidecar)
        time.sleep(1.5)
        return worked(sidecar) - before < 3

    before = worked(sidecar)
    start(lab, "other", network)

    assert poll(is_quiet, PATIENCE_SECONDS + 5)
    assert worked(sidecar) - before < 500
