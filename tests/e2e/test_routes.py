"""The main job: who asked for routes has them, through the gateway, and nobody else has any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.look import await_event, await_routes, entries, events, routes
from tests.lab.engine import LABEL, poll

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
OTHER_DST = "203.0.113.0/24"
DST6 = "2001:db8:51::/48"
SUBNET = "192.168.67.0/24"
SUBNET6 = "fd00:67::/64"


@pytest.fixture
def network(lab: Lab) -> str:
    return lab.network("wg-net", SUBNET, SUBNET6)


def ready(sidecar: Container) -> None:
    await_event(sidecar, "pass.finished", trigger="startup")


def test_client_that_runs_before_the_sidecar(lab: Lab, network: str, gateway: Container) -> None:
    client = lab.client("client", network, networks=DST)
    lab.sidecar("sidecar", gateway, network=network)

    await_routes(client, {DST: gateway.address(network)})


def test_client_that_starts_after_the_sidecar(lab: Lab, network: str, gateway: Container) -> None:
    ready(lab.sidecar("sidecar", gateway, network=network))
    client = lab.client("client", network, networks=DST)

    await_routes(client, {DST: gateway.address(network)})


def test_restarted_client_has_its_routes_again(lab: Lab, network: str, gateway: Container) -> None:
    lab.sidecar("sidecar", gateway, network=network)
    client = lab.client("client", network, networks=DST)
    await_routes(client, {DST: gateway.address(network)})

    client.restart()

    await_routes(client, {DST: gateway.address(network)})


def test_several_destinations_of_both_ip_versions(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    client = lab.client("client", network, networks=f" {DST}, {OTHER_DST} ,\t{DST6},,{DST}")

    v4, v6 = gateway.address(network), gateway.address(network, ipv6=True)
    await_routes(client, {DST: v4, OTHER_DST: v4, DST6: v6})
    assert await_event(sidecar, "gateway.ready")["gateway"] == [v4, v6]


def test_wrong_routes_are_replaced(lab: Lab, network: str, gateway: Container) -> None:
    client = lab.client("client", network, networks=f"{DST},{DST6}")
    client.enter("ip", "route", "add", DST, "via", "192.168.67.200")
    client.enter("ip", "route", "add", DST, "via", "192.168.67.201", "metric", "50")
    client.enter("ip", "route", "add", "unreachable", OTHER_DST)
    client.enter("ip", "-6", "route", "add", DST6, "via", "fd00:67::ff", "metric", "7")

    lab.sidecar("sidecar", gateway, network=network)

    await_routes(
        client,
        {
            DST: gateway.address(network),
            DST6: gateway.address(network, ipv6=True),
            OTHER_DST: "unreachable",  # asked for by nobody, so it stays
        },
    )


def test_network_is_wg_net_without_a_label(lab: Lab) -> None:
    mark = ("--label", f"{LABEL}={lab.token}")
    lab.engine.docker("network", "create", *mark, "--subnet", SUBNET, "wg-net")
    gateway = lab.gateway("wireguard", "wg-net")
    sidecar = lab.sidecar("sidecar", gateway)
    client = lab.client("client", "wg-net", networks=DST)

    await_routes(client, {DST: gateway.address("wg-net")})
    assert await_event(sidecar, "sidecar.found")["network"] == "wg-net"


def test_unlabelled_containers_and_other_networks_are_left_alone(
    lab: Lab, network: str, gateway: Container
) -> None:
    other = lab.network("other", "192.168.99.0/24")
    unlabelled = lab.client("unlabelled", network)
    elsewhere = lab.client("elsewhere", other, networks=DST)
    empty = lab.client("empty", network, networks="")
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    served = lab.client("served", network, networks=DST)

    await_routes(served, {DST: gateway.address(network)})
    assert [routes(container) for container in (unlabelled, elsewhere, empty)] == [{}, {}, {}]
    assert {entry["container"] for entry in events(sidecar, "route.replaced")} == {served.name}


def test_two_sidecars_on_two_networks(lab: Lab, network: str, gateway: Container) -> None:
    second_network = lab.network("second", "192.168.68.0/24")
    second_gateway = lab.gateway("second-wireguard", second_network)
    ready(lab.sidecar("sidecar", gateway, network=network))
    ready(lab.sidecar("second-sidecar", second_gateway, network=second_network))
    first = lab.client("client", network, networks=DST)
    second = lab.client("second-client", second_network, networks=DST)

    await_routes(first, {DST: gateway.address(network)})
    await_routes(second, {DST: second_gateway.address(second_network)})


@pytest.mark.parametrize("cgroupns", ["private", "host"])
def test_own_label_is_read_in_either_cgroup_namespace(
    lab: Lab, network: str, gateway: Container, cgroupns: str
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, "--cgroupns", cgroupns, network=network)
    client = lab.client("client", network, networks=DST)

    await_routes(client, {DST: gateway.address(network)})
    assert await_event(sidecar, "sidecar.found") | {"timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "event": "sidecar.found",
        "container": sidecar.name,
        "container_id": sidecar.inspect("{{.Id}}")[:12],
        "network": network,
    }


def test_own_container_is_told_from_another_in_the_same_namespace(
    lab: Lab, network: str, gateway: Container
) -> None:
    other = lab.network("other", "192.168.99.0/24")
    lab.container(
        "neighbour",
        "wgroutemgr-lab/client",
        *("--network", f"container:{gateway.name}", "--label", f"wgroutemgr.network={other}"),
    )
    sidecar = lab.sidecar("sidecar", gateway, "--cgroupns", "private", network=network)

    if lab.engine.docker("info", "--format", "{{.Driver}}") == "overlayfs":
        # The containerd image store does not tell a container's writable layer.
        assert await_event(sidecar, "sidecar.unknown")["network"] == "wg-net"
    else:
        assert await_event(sidecar, "sidecar.found")["container"] == sidecar.name


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("nonsense", id="not a CIDR"),
        pytest.param("198.51.100.7/24", id="host bits"),
        pytest.param("fe80::%eth0/64", id="scope id"),
        pytest.param("224.0.0.0/24", id="multicast"),
        pytest.param(SUBNET, id="own subnet"),
        pytest.param("192.168.67.128/25", id="inside own subnet"),
        pytest.param("$(reboot)", id="shell text"),
    ],
)
def test_bad_entry_is_refused_by_itself(
    lab: Lab, network: str, gateway: Container, bad: str
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    client = lab.client("client", network, networks=f"{OTHER_DST},{bad},{DST}")

    v4 = gateway.address(network)
    await_routes(client, {DST: v4, OTHER_DST: v4})
    refused = await_event(sidecar, "entry.refused", container=client.name)
    assert (refused["level"], refused["entry"]) == ("warning", bad)
    assert refused["reason"]
    assert client.exec("ping", "-c", "1", "-w", "5", v4)


def test_wider_network_is_served_beside_the_main_table(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    client = lab.client("client", network, networks=f"192.168.0.0/16,{DST}")

    await_routes(client, {DST: gateway.address(network)})
    await_event(sidecar, "rule.added")
    table = client.enter("ip", "route", "show", "table", "671").split()
    assert table[:3] == ["192.168.0.0/16", "via", gateway.address(network)]
    assert events(sidecar, "entry.warned") == []


def test_family_that_the_gateway_lacks_is_refused(lab: Lab) -> None:
    network = lab.network("v4-only", SUBNET)
    gateway = lab.gateway("wireguard", network)
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    client = lab.client("client", network, networks=f"{DST6},{DST}")

    await_routes(client, {DST: gateway.address(network)})
    assert await_event(sidecar, "entry.refused")["entry"] == DST6


def test_logged_route_change_is_complete_and_its_command_can_be_pasted(
    lab: Lab, network: str, gateway: Container
) -> None:
    client = lab.client("client", network, networks=DST)  # It runs: a pass sets its route.
    sidecar = lab.sidecar(
        "sidecar", gateway, "--env", "WGROUTEMGR_RESYNC_INTERVAL=3600", network=network
    )
    v4 = gateway.address(network)
    await_routes(client, {DST: v4})
    entry = await_event(sidecar, "route.replaced")
    netns = client.inspect("{{.NetworkSettings.SandboxKey}}")

    assert {key: entry[key] for key in ("container", "dst", "gateway", "netns", "command")} == {
        "container": client.name,
        "dst": DST,
        "gateway": v4,
        "netns": netns,
        "command": f"nsenter --net={netns} ip route replace {DST} via {v4}",
    }
    for paste in (sidecar.exec, lab.engine.enter):
        client.enter("ip", "route", "del", DST)
        paste("sh", "-c", entry["command"])
        assert routes(client) == {DST: v4}


def test_shared_namespace_is_served_through_its_owner(
    lab: Lab, network: str, gateway: Container
) -> None:
    owner = lab.client("owner", network)
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    ready(sidecar)
    lab.client("lodger", f"container:{owner.name}", networks=DST)

    await_routes(owner, {DST: gateway.address(network)})
    assert await_event(sidecar, "client.routed")["shared_with"] == owner.name


def test_host_network_is_refused(lab: Lab, network: str, gateway: Container) -> None:
    before = lab.engine.enter("ip", "route")
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    lab.client("hostly", "host", networks=DST)

    skipped = await_event(sidecar, "client.skipped", level="warning")
    assert "host's network namespace" in skipped["reason"]
    assert [line for line in lab.engine.enter("ip", "route").splitlines() if DST in line] == []
    assert before in lab.engine.enter("ip", "route")


def test_log_is_silent_while_nothing_changes(lab: Lab, network: str, gateway: Container) -> None:
    sidecar = lab.sidecar(
        "sidecar",
        gateway,
        "--env",
        "WGROUTEMGR_RESYNC_INTERVAL=1",
        "--env",
        "WGROUTEMGR_LOG_LEVEL=debug",
        network=network,
    )
    client = lab.client("client", network, networks=f"{DST},nonsense")
    await_routes(client, {DST: gateway.address(network)})

    def silent_passes() -> int:
        log = entries(sidecar)
        last_told = max(index for index, entry in enumerate(log) if entry["level"] != "debug")
        return sum(entry["event"] == "pass.finished" for entry in log[last_told + 1 :])

    assert poll(lambda: silent_passes() >= 3, 15)
    assert len(events(sidecar, "entry.refused")) == 1
