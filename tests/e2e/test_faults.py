"""Never lost: whatever happens to engine, gateway, client or sidecar, the routes come right."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import docker
import pytest

from tests.e2e.look import (
    await_event,
    await_routes,
    cpu_seconds,
    entries,
    events,
    routes,
    threads_and_files,
)
from tests.lab import images
from tests.lab.engine import LABEL, Engine, poll
from tests.lab.site import Container, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator


DST = "198.51.100.0/24"
DST6 = "2001:db8:51::/48"
BOTH = f"{DST},{DST6}"
SUBNET = "192.168.67.0/24"
SUBNET6 = "fd00:67::/64"
RESYNC = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=1")
NO_RESYNC = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=3600")
DEBUG = ("--env", "WGROUTEMGR_LOG_LEVEL=debug")
SHUT = {DST: "unreachable", DST6: "unreachable"}


@pytest.fixture
def network(lab: Lab) -> str:
    return lab.network("wg-net", SUBNET, SUBNET6)


def through(gateway: Container, network: str) -> dict[str, str]:
    """Return the routes of a client that asks for both destinations."""
    return {DST: gateway.address(network), DST6: gateway.address(network, ipv6=True)}


def connect(lab: Lab, network: str, container: Container, *options: str) -> None:
    lab.engine.docker("network", "connect", *options, network, container.name)


def disconnect(lab: Lab, network: str, container: Container) -> None:
    lab.engine.docker("network", "disconnect", network, container.name)


def create(lab: Lab, name: str, network: str) -> None:
    """Make a client that does not run yet."""
    words = ("create", "--pull", "never", "--name", name, "--network", network)
    marks = ("--label", f"{LABEL}={lab.token}", "--label", f"wgroutemgr.networks={DST}")
    lab.engine.docker(*words, *marks, images.client(lab.engine))


def many(count: int) -> list[str]:
    """Return so many destinations."""
    return [f"10.9.{n}.0/24" for n in range(count)]


def crowd(lab: Lab, network: str, count: int) -> list[Container]:
    """Start clients with as many destinations as a pass sets at most: a pass takes a while."""
    label = ",".join(many(100))
    with ThreadPoolExecutor(4) as pool:
        names = (f"crowd{n}" for n in range(count))
        return list(pool.map(lambda name: lab.client(name, network, networks=label), names))


def ready(sidecar: Container) -> Container:
    await_event(sidecar, "pass.finished", trigger="startup")
    return sidecar


def await_passes(sidecar: Container, count: int) -> None:
    """Wait for the end of so many regular passes, which are logged at debug."""
    assert poll(lambda: len(events(sidecar, "pass.finished", trigger="resync")) >= count, 20)


# --- 1. late attachment --------------------------------------------------------------------------


def test_late_attachment_and_reattachment(lab: Lab, network: str, gateway: Container) -> None:
    ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    elsewhere = lab.network("elsewhere", "192.168.99.0/24")
    client = lab.client("client", elsewhere, networks=BOTH)
    assert routes(client) == {}

    connect(lab, network, client)
    await_routes(client, through(gateway, network))
    disconnect(lab, network, client)
    await_routes(client, {})
    connect(lab, lab.network("third", "192.168.98.0/24"), client)
    connect(lab, network, client, "--ip", "192.168.67.77")
    await_routes(client, through(gateway, network))


# --- 2. drift ------------------------------------------------------------------------------------


def test_routes_lost_or_changed_by_hand_come_back(
    lab: Lab, network: str, gateway: Container
) -> None:
    lab.sidecar("sidecar", gateway, *RESYNC, network=network)
    client = lab.client("client", network, networks=BOTH)
    wanted = through(gateway, network)
    await_routes(client, wanted)

    client.enter("ip", "route", "del", DST)
    await_routes(client, wanted, 3)
    client.enter("ip", "route", "replace", DST, "via", "192.168.67.200")
    client.enter("ip", "-6", "route", "replace", "unreachable", DST6)
    await_routes(client, wanted, 3)
    client.enter("sh", "-c", "ip link set eth0 down && ip link set eth0 up")
    # The kernel drops the global IPv6 address with the link, and only the engine would restore it.
    await_routes(client, {DST: wanted[DST]}, 3)


# --- 3. the gateway moves ------------------------------------------------------------------------


def test_gateway_with_another_address_is_followed(
    lab: Lab, network: str, gateway: Container
) -> None:
    ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    client = lab.client("client", network, networks=BOTH)
    await_routes(client, through(gateway, network))

    disconnect(lab, network, gateway)
    await_routes(client, SHUT, 5)
    connect(lab, network, gateway, "--ip", "192.168.67.99", "--ip6", "fd00:67::99")
    await_routes(client, {DST: "192.168.67.99", DST6: "fd00:67::99"}, 5)


def test_restarted_gateway_is_followed(lab: Lab, network: str, gateway: Container) -> None:
    ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    client = lab.client("client", network, networks=BOTH)
    await_routes(client, through(gateway, network))

    gateway.stop()
    await_routes(client, SHUT, 5)
    taker = lab.client("taker", network)  # takes the address that the gateway had
    gateway.start()
    assert taker.address(network) != gateway.address(network)
    await_routes(client, through(gateway, network), 5)


@pytest.mark.parametrize("compose", [False, True], ids=["same name", "same Compose service"])
def test_recreated_gateway_is_followed(lab: Lab, network: str, *, compose: bool) -> None:
    labels = [
        word
        for key, value in (("project", lab.token), ("service", "wg"), ("container-number", "1"))
        for word in ("--label", f"com.docker.compose.{key}={value}")
        if compose
    ]
    gateway = lab.gateway("wireguard", network, *labels)
    sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    client = lab.client("client", network, networks=BOTH)
    await_routes(client, through(gateway, network))

    gateway.remove()
    await_routes(client, SHUT, 5)
    name = "wireguard-other" if compose else "wireguard"
    again = lab.gateway(name, network, *labels, "--ip", "192.168.67.50", "--ip6", "fd00:67::50")
    await_routes(client, {DST: "192.168.67.50", DST6: "fd00:67::50"}, 5)
    late = lab.client("late", network, networks=DST)
    await_routes(late, {DST: "192.168.67.50"}, 5)
    found = events(sidecar, "gateway.found")
    assert [entry["container_id"] for entry in found][1:] == [again.inspect("{{.Id}}")[:12]]


def test_no_start_leads_to_the_old_gateway_while_a_long_pass_leads_away_from_it(
    lab: Lab, network: str, gateway: Container
) -> None:
    old = gateway.address(network)
    clients = crowd(lab, network, 32)  # So many that the pass outlasts a start.
    sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    for client in clients:
        await_routes(client, dict.fromkeys(many(100), old))
    names = [lab.name(f"late{n}") for n in range(4)]
    for name in names:
        create(lab, name, network)

    disconnect(lab, network, gateway)
    lost = await_event(sidecar, "gateway.lost")
    lab.engine.docker("start", *names)
    for client in (Container(lab.engine, name) for name in names):
        await_routes(client, {DST: "unreachable"})
    connect(lab, network, gateway, "--ip", "192.168.67.99")

    for client in clients:
        await_routes(client, dict.fromkeys(many(100), "192.168.67.99"))
    begun = min(Container(lab.engine, name).inspect("{{.State.StartedAt}}") for name in names)
    passes = [entry["timestamp"] for entry in events(sidecar, "pass.finished")]
    assert begun < next(moment for moment in passes if moment > lost["timestamp"])
    seen = entries(sidecar)
    assert [entry for entry in seen[seen.index(lost) :] if entry.get("gateway") == old] == []


# --- 4. the gateway is gone ----------------------------------------------------------------------


def test_without_gateway_nothing_leaves_by_the_default_route(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *RESYNC, network=network))
    client = lab.client("client", network, networks=BOTH)
    await_routes(client, through(gateway, network))

    gateway.stop()
    await_routes(client, SHUT, 5)
    started_meanwhile = lab.client("second", network, networks=DST)
    await_routes(started_meanwhile, {DST: "unreachable"})
    lost = events(sidecar, "gateway.lost")
    assert [entry["hint"] for entry in lost] == [f"docker start {gateway.name}"]

    disconnect(lab, network, started_meanwhile)
    await_routes(started_meanwhile, {})
    gateway.start()
    await_routes(client, through(gateway, network), 5)


def test_routes_are_kept_without_gateway_if_asked_for(
    lab: Lab, network: str, gateway: Container
) -> None:
    keep = ("--env", "WGROUTEMGR_ON_GATEWAY_LOSS=keep")
    sidecar = ready(lab.sidecar("sidecar", gateway, *RESYNC, *keep, network=network))
    client = lab.client("client", network, networks=BOTH)
    wanted = through(gateway, network)
    await_routes(client, wanted)

    gateway.stop()
    await_event(sidecar, "gateway.missing", reason=f"the gateway {gateway.name} is not running")
    assert routes(client) == wanted


def test_family_that_the_gateway_lost_is_shut(lab: Lab, network: str) -> None:
    gateway = lab.gateway("wireguard", network)
    ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    client = lab.client("client", network, networks=BOTH)
    await_routes(client, through(gateway, network))
    # A host that hands out no IPv6 address is rare; a client cannot tell it from any other loss.
    disconnect(lab, network, gateway)
    await_routes(client, SHUT, 5)


# --- 5. the engine goes away ---------------------------------------------------------------------


@contextmanager
def down(engine: Engine, *, killed: bool = False) -> Iterator[None]:
    """Have no engine for a while; containers run on (live restore)."""
    (engine.kill if killed else engine.stop)()
    try:
        yield
    finally:
        engine.start()


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_engine_that_goes_away_and_returns(
    lab: Lab, engine: Engine, network: str, gateway: Container, *, killed: bool
) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    client = lab.client("client", network, networks=BOTH)
    dying = lab.client("dying", network, networks=BOTH)
    wanted = through(gateway, network)
    await_routes(client, wanted)
    netns = client.inspect("{{.NetworkSettings.SandboxKey}}")
    pid = dying.inspect("{{.State.Pid}}")

    with down(engine, killed=killed):
        engine.enter("nsenter", f"--net={netns}", "ip", "route", "del", DST)
        engine.enter("sh", "-c", f"kill -9 {pid}")
    await_routes(client, wanted)
    second = lab.client("second", network, networks=BOTH)
    await_routes(second, wanted)
    assert poll(lambda: len(events(sidecar, "engine.connected")) == 2, 10)
    assert len(events(sidecar, "engine.lost")) == 1


def test_engine_that_makes_its_socket_anew() -> None:
    with Engine(live_restore=True, socket_activation=False) as engine, Lab(engine) as lab:
        network = lab.network("wg-net", SUBNET, SUBNET6)
        gateway = lab.gateway("wireguard", network)
        policy = ("--restart", "unless-stopped")
        sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, *policy, network=network))
        client = lab.client("client", network, networks=BOTH)
        await_routes(client, through(gateway, network))

        engine.restart()
        client.enter("ip", "route", "del", DST)
        await_routes(client, through(gateway, network))
        failed = await_event(sidecar, "daemon.failed")
        assert "restart: unless-stopped" in failed["hint"]


def test_engine_that_hangs(lab: Lab, engine: Engine, network: str, gateway: Container) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *RESYNC, network=network))
    client = lab.client("client", network, networks=DST)
    await_routes(client, {DST: gateway.address(network)})
    netns = client.inspect("{{.NetworkSettings.SandboxKey}}")
    before = threads_and_files(sidecar)

    engine.pause()
    try:
        engine.enter("nsenter", f"--net={netns}", "ip", "route", "del", DST)
        time.sleep(13)  # longer than a call may take
    finally:
        engine.resume()
    await_routes(client, {DST: gateway.address(network)})
    assert poll(lambda: len(events(sidecar, "engine.connected")) == 2, 40)
    assert len(events(sidecar, "engine.lost")) == 1
    assert poll(lambda: threads_and_files(sidecar) == before, 10)


# --- 6. shared namespaces ------------------------------------------------------------------------


def test_labels_of_one_namespace_add_up(lab: Lab, network: str, gateway: Container) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *RESYNC, network=network))
    owner = lab.client("owner", network, networks=DST)
    lodger = lab.client("lodger", f"container:{owner.name}", networks=BOTH)

    await_routes(owner, through(gateway, network))
    assert await_event(sidecar, "client.routed", container=lodger.name)["shared_with"] == owner.name

    lodger.remove()
    await_routes(owner, {DST: gateway.address(network)}, 5)
    owner.restart()
    await_routes(owner, {DST: gateway.address(network)})


# --- 7. never the wrong namespace ----------------------------------------------------------------


def test_short_lived_containers_leave_nothing_above_debug(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, *DEBUG, network=network))
    command = ("sh", "-c", "usleep 50000")
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda n: lab.client(f"brief{n}", network, networks=BOTH, command=command),
                range(12),
            )
        )
    lasting = lab.client("lasting", network, networks=BOTH)
    await_routes(lasting, through(gateway, network))
    assert [entry for entry in entries(sidecar) if entry["level"] not in {"debug", "info"}] == []


def test_namespace_of_the_gateway_is_never_written(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    lab.client("lodger", f"container:{gateway.name}", networks=BOTH)

    skipped = await_event(sidecar, "client.skipped", level="warning")
    assert skipped["reason"] == "is in the gateway's own network namespace"
    assert routes(gateway) == {}


# --- 8. never cut off ----------------------------------------------------------------------------


def test_huge_labels_stall_nobody_and_flood_nothing(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    many = ",".join(f"10.{n // 250}.{n % 250}.0/24{' ' * 90}" for n in range(10_000))  # 1 MB
    junk = ",".join(f"junk-{n}" for n in range(9_000))
    # The command line takes no argument this long.
    api = docker.APIClient(f"unix://{lab.engine.socket}")
    made = api.create_container(
        images.client(lab.engine),
        name=lab.name("huge"),
        labels={LABEL: lab.token, "wgroutemgr.networks": many},
        host_config=api.create_host_config(network_mode=network),
    )
    api.close()
    huge = Container(lab.engine, lab.name("huge"))
    huge.start()
    assert made["Id"] == huge.inspect("{{.Id}}")
    lab.client("junk", network, networks=junk)
    client = lab.client("client", network, networks=DST)

    await_routes(client, {DST: gateway.address(network)}, 5)
    assert poll(lambda: len(routes(huge)) == 1000, 30, every=0.2)
    assert len(events(sidecar, "entry.refused")) < 50
    assert max(len(line.encode()) for line in sidecar.logs().splitlines()) < 8192


def test_network_that_is_connected_during_a_pass_stays(
    lab: Lab, network: str, gateway: Container
) -> None:
    inner = "192.168.99.0/24"
    other = lab.network("other", inner)
    client = lab.client("last", network, networks=inner)  # by name, and the oldest
    crowd(lab, network, 12)
    sidecar = lab.sidecar("sidecar", gateway, *RESYNC, *DEBUG, network=network)
    await_event(sidecar, "route.replaced")
    connect(lab, other, client)

    ready(sidecar)

    connected = f"{inner} dev eth1 proto kernel scope link src {client.address(other)}"
    for passes in (2, 4):
        await_passes(sidecar, passes)
        assert client.enter("ip", "route", "show", inner) == connected
    # The kernel told of it before the engine did.
    assert {entry["entry"] for entry in events(sidecar, "entry.refused")} == {inner}


def test_connected_network_that_the_engine_does_not_know_is_left_alone(
    lab: Lab, network: str, gateway: Container
) -> None:
    client = lab.client("client", network, networks=f"{DST},{DST6}")
    client.enter("ip", "link", "add", "inner", "type", "bridge")
    client.enter("ip", "address", "add", "198.51.100.1/24", "dev", "inner")
    client.enter("ip", "link", "set", "inner", "up")
    sidecar = lab.sidecar("sidecar", gateway, *RESYNC, network=network)

    await_routes(client, {DST6: gateway.address(network, ipv6=True)})
    refused = await_event(sidecar, "entry.refused", container=client.name)
    assert refused["entry"] == DST
    assert "dev inner" in client.enter("ip", "route", "show", DST)
    assert len(events(sidecar, "entry.refused")) == 1


# --- 9. isolation --------------------------------------------------------------------------------


def test_failing_client_delays_no_other_and_is_reported_once(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *RESYNC, network=network))
    broken = lab.client("broken", network)  # its link goes down before it is labelled, see below
    broken.remove()
    broken = lab.client("broken", network, networks=DST)
    await_routes(broken, {DST: gateway.address(network)})
    broken.enter("ip", "link", "set", "eth0", "down")
    failed = await_event(sidecar, "route.failed", container=broken.name)
    assert failed["level"] == "warning"
    assert failed["exit_code"] == 2
    assert "unreachable" in failed["stderr"]
    assert "link" in failed["hint"]

    client = lab.client("client", network, networks=DST)
    await_routes(client, {DST: gateway.address(network)}, 2)
    assert len(events(sidecar, "route.failed")) == 1
    broken.enter("ip", "link", "set", "eth0", "up")
    await_routes(broken, {DST: gateway.address(network)}, 5)


def cpu_of(sidecar: Container) -> float:
    """Return the CPU time that a sidecar takes in five seconds; a busy loop takes two."""
    before = cpu_seconds(sidecar)
    time.sleep(5)
    return cpu_seconds(sidecar) - before


def test_entries_that_cannot_be_served_keep_none_that_works_waiting(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    without = ("--sysctl", "net.ipv6.conf.all.disable_ipv6=1")
    bad = ",".join(f"2001:db8:{n:x}::/48" for n in range(130))
    client = lab.client("client", network, *without, networks=f"{bad},{DST}")

    await_routes(client, {DST: gateway.address(network)}, 5)
    refused = await_event(sidecar, "entry.refused", container=client.name)
    assert refused["reason"] == f"is IPv6, and the container has no IPv6 address on {network}"
    assert cpu_of(sidecar) < 1
    assert events(sidecar, "route.failed") == []


def test_client_without_a_link_keeps_nothing_busy(
    lab: Lab, network: str, gateway: Container
) -> None:
    client = lab.client("client", network, networks=",".join(many(130)))
    client.enter("ip", "link", "set", "eth0", "down")
    sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    assert poll(lambda: len(events(sidecar, "route.failed", container=client.name)) == 130, 10)

    assert cpu_of(sidecar) < 1
    other = lab.client("other", network, networks=DST)
    await_routes(other, {DST: gateway.address(network)}, 5)
    client.enter("ip", "link", "set", "eth0", "up")
    await_routes(client, dict.fromkeys(many(130), gateway.address(network)), 40)


def test_clients_that_end_in_their_first_pass_keep_nothing_busy(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    label = ",".join(many(150))
    lives = [
        lab.client(f"client{n}", network, networks=label, command=("usleep", f"{n}00000"))
        for n in range(1, 7)
    ]
    for client in lives:
        assert poll(lambda: not client.running(), 10)  # noqa: B023 - called at once
    lasting = lab.client("lasting", network, networks=DST)
    await_routes(lasting, {DST: gateway.address(network)}, 5)

    assert cpu_of(sidecar) < 0.5
    assert [entry for entry in entries(sidecar) if entry["level"] not in {"debug", "info"}] == []


# --- 10. killed ----------------------------------------------------------------------------------


def test_killed_sidecar_converges_without_a_needless_write(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *NO_RESYNC, network=network))
    clients = [lab.client(f"client{n}", network, networks=BOTH) for n in range(3)]
    for client in clients:
        await_routes(client, through(gateway, network))
    lab.engine.docker("kill", sidecar.name)
    clients[0].enter("ip", "route", "del", DST)
    sidecar.start()

    await_routes(clients[0], through(gateway, network))
    assert poll(lambda: len(events(sidecar, "pass.finished", trigger="startup")) == 2, 10)
    last = events(sidecar, "pass.finished", trigger="startup")[-1]
    assert (last["changed"], last["routes"]) == (1, 6)


def test_sixty_short_lived_containers_leave_no_process_file_or_memory(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = ready(lab.sidecar("sidecar", gateway, *RESYNC, network=network))
    run = ("run", "--rm", "--pull", "never", "--label", f"{LABEL}={lab.token}")
    client = (*run, "--network", network, "--label", f"wgroutemgr.networks={BOTH}")

    def storm(count: int) -> tuple[int, int, int]:
        with ThreadPoolExecutor(6) as pool:
            words = (*client, "wgroutemgr-lab/client", "true")
            list(pool.map(lambda _: lab.engine.docker(*words), range(count)))
        lasting = lab.client(f"lasting{count}", network, networks=BOTH)
        await_routes(lasting, through(gateway, network))
        pid = sidecar.inspect("{{.State.Pid}}")
        files = lab.engine.enter("sh", "-c", f"ls /proc/{pid}/fd | wc -l")
        resident = lab.engine.enter("sh", "-c", f"grep VmRSS /proc/{pid}/status | tr -dc 0-9")
        states = lab.engine.enter("sh", "-c", f"cat /proc/{pid}/task/*/children | wc -w")
        return int(files), int(resident), int(states)

    files, resident, children = storm(12)
    more_files, more_resident, more_children = storm(60)
    assert more_files <= files + 2
    assert more_children == children == 13  # the long-lived shells and who starts them, no zombie
    # The allocator takes memory by the MiB, and for each thread that works at the same time.
    assert more_resident <= resident + 4096
