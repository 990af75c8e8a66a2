"""Routes before the first instruction, and in no namespace that did not ask for them."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from lib.early.arrival import PATIENCE_SECONDS
from tests.e2e.doctor_site import ask
from tests.e2e.look import await_event, await_routes, entries, events, routes
from tests.lab import images
from tests.lab.engine import LABEL, poll
from tests.lab.errors import LabError
from tests.lab.site import PRIVILEGES, Container

if TYPE_CHECKING:
    from tests.lab.site import Lab

WARN = ("--env", "WGROUTEMGR_ON_TUNNEL_LOSS=warn")  # These gateways have no tunnel.
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


def test_gateway_that_starts_for_the_first_time_after_the_sidecar(lab: Lab) -> None:
    network = lab.network("wg-net", "192.168.67.0/24")
    gateway = Container(lab.engine, lab.name("wireguard"))
    lab.engine.docker(
        *("create", "--pull", "never", "--name", gateway.name, "--network", network),
        *("--label", f"{LABEL}={lab.token}", images.wireguard(lab.engine), *images.WAIT),
    )
    options = ("--network", network, "--gateway", gateway.name)
    sidecar = lab.container(
        "sidecar",
        images.product(lab.engine),
        *(*PRIVILEGES, "--network", "none"),
        command=("run", *options),
    )
    lost = await_event(sidecar, "gateway.lost")
    assert lost["reason"] == f"the gateway {gateway.name} is not running"
    gateway.start()
    await_event(sidecar, "gateway.ready")

    assert_early(lab, network, gateway)


def assert_early(lab: Lab, network: str, gateway: Container) -> None:
    """Start five clients, whose routes come early; on a busy machine some may be late."""
    clients = [start(lab, f"client{n}", network, networks=DST) for n in range(5)]
    for client in clients:
        await_routes(client, {DST: gateway.address(network)})
    assert sum(DST in client.logs() for client in clients) >= 3


def test_what_cannot_be_early_follows_the_start_at_once(lab: Lab) -> None:
    """More than are given early."""
    network = lab.network("a-wg-net", "192.168.67.0/24")
    gateway = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    late = "10.99.0.0/16"
    few = 32
    wanted = [*(f"198.51.{n}.0/24" for n in range(few)), late]

    def delay(number: int) -> float:
        """Return seconds from a start to the last route; infinite if the others were not early."""
        name = lab.name(f"client{number}")
        label = ("--label", f"wgroutemgr.networks={','.join(wanted)}")
        lab.engine.docker(
            *("create", "--pull", "never", "--name", name, "--network", network),
            *("--label", f"{LABEL}={lab.token}", *label, images.client(lab.engine), *LOOK),
        )
        client = Container(lab.engine, name)
        client.start()
        await_routes(client, dict.fromkeys(wanted, gateway.address(network)))
        given = events(sidecar, "route.replaced", container=name)
        last = next(entry for entry in given if entry["dst"] == late)
        assert last["trigger"] != "early"
        if sum(entry["trigger"] == "early" for entry in given) != few:
            return math.inf
        begun = datetime.fromisoformat(client.inspect("{{.State.StartedAt}}"))
        return (datetime.fromisoformat(last["timestamp"]) - begun).total_seconds()

    # Who waits for more events does so for 0.3 s each time; a busy machine is late now and then.
    assert any(delay(number) < 0.25 for number in range(20))


def odd_network(lab: Lab) -> str:
    """Make a network whose subnet has host bits."""
    try:
        network = lab.network("odd", "203.0.113.1/24")
    except LabError as error:
        pytest.skip(f"needs leniency: an engine that takes a subnet with host bits: {error}")
    template = "{{(index .IPAM.Config 0).Subnet}}"
    told = lab.engine.docker("network", "inspect", "--format", template, network)
    assert told == "203.0.113.1/24"
    return network


@pytest.mark.parametrize("is_served", [False, True], ids=["foreign", "served"])
def test_subnet_with_host_bits(lab: Lab, *, is_served: bool) -> None:
    odd = odd_network(lab)
    network = odd if is_served else lab.network("wg-net", "192.168.67.0/24")
    gateway = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")

    assert_early(lab, network, gateway)
    assert [entry["level"] for entry in entries(sidecar) if entry["level"] != "info"] == []
    # The lab's gateway has no tunnel, the sidecar is in its network, and no client forwards.
    found = [check for check, _ in ask(sidecar).levels("warn", "skip", "fail")]
    assert list(dict.fromkeys(found)) == ["reboot", "redirects", "tunnel", "nat"]


LOOK_UP = """
ip route get 203.0.113.80; ip -6 route get 2001:db8:80::80; ip rule show; ip -6 rule show
trap 'exit 0' TERM; sleep 1000 & wait
"""


def ready(lab: Lab) -> tuple[str, Container, Container]:
    """Make a network, its gateway and a sidecar that serves it."""
    network = lab.network("m-wg-net", "192.168.67.0/24", "fd00:67::/64")
    gateway = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, *WARN, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    return network, gateway, sidecar


def created(lab: Lab, what: str, label: str, *networks: str) -> Container:
    """Create a container on these networks; its first act is to look where it would send."""
    name = lab.name(what)
    lab.engine.docker(
        *("create", "--pull", "never", "--name", name, "--network", networks[0]),
        *("--label", f"{LABEL}={lab.token}", "--label", f"wgroutemgr.networks={label}"),
        *(images.client(lab.engine), "sh", "-c", LOOK_UP),
    )
    for network in networks[1:]:
        lab.engine.docker("network", "connect", network, name)
    return Container(lab.engine, name)


@pytest.mark.parametrize("several", [False, True], ids=["one network", "three networks"])
def test_everything_goes_by_the_gateway_at_the_first_instruction(
    lab: Lab, *, several: bool
) -> None:
    network, gateway, sidecar = ready(lab)
    others = (
        [
            lab.network("z-other", "10.9.0.0/24"),
            lab.network("a-first", "10.8.0.0/24", "fd00:8::/64"),
        ]
        if several
        else []
    )
    via = [f"via {gateway.address(network, ipv6=ipv6)}" for ipv6 in (False, True)]

    clients = [
        created(lab, f"client{n}", "0.0.0.0/0, ::/0, 10.0.0.0/8", network, *others)
        for n in range(20)
    ]
    for client in clients:
        client.start()  # Not one start fails.

    # On a busy machine some may be late.
    in_time = [client.logs() for client in clients]
    assert sum(all(way in log for way in via) for log in in_time) >= 12
    for client in clients:
        assert poll(partial(ruled, client), PATIENCE_SECONDS)
    early = events(sidecar, "route.replaced", trigger="early", dst="0.0.0.0/0")
    assert len(early) >= 2 * 12  # The route and its guard.
    assert events(sidecar, "rule.failed") == events(sidecar, "route.failed") == []


def ruled(client: Container) -> bool:
    """Tell whether both rules are there for both IP versions."""
    shown = client.enter("ip", "rule") + client.enter("ip", "-6", "rule")
    return (shown.count("670:"), shown.count("671:")) == (2, 2)


def test_no_start_fails_beside_the_network_that_the_engine_does_not_list(lab: Lab) -> None:
    """On an overlay, the engine attaches a container to `docker_gwbridge` last."""
    if not lab.engine.network_options:
        pytest.skip("needs a swarm: only there is docker_gwbridge")
    network = lab.network("wg-net", "192.168.67.0/24")
    gateway = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, *WARN, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    template = "{{(index .IPAM.Config 0).Subnet}}"
    subnet = ip_network(
        lab.engine.docker("network", "inspect", "--format", template, "docker_gwbridge")
    )
    wide, part = subnet.supernet(new_prefix=10), next(subnet.subnets(new_prefix=24))
    label = f"0.0.0.0/0,{wide},{subnet},{part},{DST}"

    clients = [created(lab, f"client{n}", label, network) for n in range(20)]
    for client in clients:
        client.start()  # Not one start fails.

    via = f"via {gateway.address(network)}"
    assert sum(via in client.logs() for client in clients) >= 10
    for client in clients:
        await_routes(client, {DST: gateway.address(network)})
        table = client.enter("ip", "route", "show", "table", "671")
        assert f"{wide} {via}" in table
        assert f"default {via}" in table
        refused = events(sidecar, "entry.refused", container=client.name)
        assert [entry["entry"] for entry in refused] == [str(subnet), str(part)]
