"""Everything, and wide networks, through the gateway: the far host says by which way it was called.

Packets that leave past the gateway come out of an uplink of the engine's machine, where they are
counted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e.doctor_site import beside, make_gateway, make_tunnel, reaches
from tests.e2e.look import await_event, entries, events
from tests.lab import images
from tests.lab.engine import LABEL, poll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.site import Container, Lab

SUBNET, SUBNET6 = "192.168.67.0/24", "fd00:67::/64"
FAR = {4: "203.0.113.80", 6: "2001:db8:80::80"}
UPLINK = {4: ("203.0.113.1", "203.0.113.2"), 6: ("2001:db8:80::1", "2001:db8:80::2")}
LENGTH = {4: 24, 6: 64}
MAC = {"here": "02:00:00:00:00:01", "there": "02:00:00:00:00:02"}
COUNTERS = {"iptables": "0.0.0.0/0", "ip6tables": "2000::/3"}
"""What counts, and to which addresses: the link's own reports go to multicast ones."""
EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}
PATIENCE_SECONDS = 10.0
WARN = "WGROUTEMGR_ON_TUNNEL_LOSS=warn"
NO_TUNNEL = "the gateway sends it into no tunnel"


@dataclass
class World:
    """A gateway with a tunnel to a far host, and the way past it."""

    lab: Lab
    network: str
    gateway: Container
    far: Container
    uplink: str

    def client(self, networks: str, *options: str, what: str = "client") -> Container:
        return self.lab.client(what, self.network, *options, networks=networks)

    def sidecar(self) -> Container:
        # What stands for a tunnel here is a pair of Ethernet links.
        resync = (*("--env", "WGROUTEMGR_RESYNC_INTERVAL=3600"), "--env", WARN)
        found = self.lab.lone_sidecar(
            "sidecar", *resync, gateway=self.gateway, network=self.network
        )
        await_event(found, "pass.finished", trigger="startup")
        return found

    def past(self) -> int:
        """Return how many packets have left past the gateway so far."""
        count = 0
        for program in COUNTERS:
            shown = self.lab.engine.enter(program, "-w", *["-t", "mangle", "-vnxL", "POSTROUTING"])
            count += sum(int(line.split()[0]) for line in shown.splitlines() if self.uplink in line)
        return count

    def way(self, client: Container, version: int) -> str:
        """Return how the far host is reached: `tunnel`, `past`, or nothing if it is not."""
        before = self.past()
        answered = reaches(client, FAR[version], seconds=3)  # The first may wait for a neighbour.
        return "past" if self.past() != before else "tunnel" if answered else ""


@pytest.fixture
def world(lab: Lab) -> Iterator[World]:
    network = lab.network("wg-net", SUBNET, SUBNET6)
    gateway = make_gateway(lab, network, "wireguard")
    far = lab.client("far", "none")
    make_tunnel(lab, gateway, far, (SUBNET, SUBNET6), 1500)
    uplink = f"up{lab.token}"
    pid = far.inspect("{{.State.Pid}}")
    peer = f"peer name up0 address {MAC['there']} netns {pid}"
    lines = [
        f"ip link add {uplink} address {MAC['here']} type veth {peer}",
        f"ip link set {uplink} addrgenmode none",
        f"ip link set {uplink} up",
    ]
    inside = ["ip link set up0 addrgenmode none", "ip link set up0 up"]
    for version in (4, 6):
        here, there = UPLINK[version]
        ip, length = f"ip -{version}", LENGTH[version]
        nodad = "nodad" if version == 6 else ""
        far_host = f"{FAR[version]}/{ {4: 32, 6: 128}[version] }"
        lines += [
            f"{ip} address add {here}/{length} dev {uplink} {nodad}",
            f"{ip} neighbour replace {there} lladdr {MAC['there']} dev {uplink}",
            f"{ip} route replace {far_host} via {there}",
        ]
        inside += [
            f"{ip} address add {there}/{length} dev up0 {nodad}",
            f"{ip} neighbour replace {here} lladdr {MAC['here']} dev up0",
            f"{ip} address replace {far_host} dev lo",
        ]
    lab.engine.enter("sh", "-ec", "\n".join(lines))
    # What came past the gateway is answered past it, too: the host puts its own address in.
    far.enter("sh", "-ec", "\n".join(inside))
    gateway.enter("ip", "route", "replace", "default", "via", "10.255.255.2")
    gateway.enter("ip", "-6", "route", "replace", "default", "via", "fd00:ffff::2")
    rules = {name: f"POSTROUTING -o {uplink} -d {dst}".split() for name, dst in COUNTERS.items()}
    for program, rule in rules.items():
        lab.engine.enter(program, "-w", "-t", "mangle", "-A", *rule)
    yield World(lab, network, gateway, far, uplink)
    for program, rule in rules.items():
        lab.engine.enter(program, "-w", "-t", "mangle", "-D", *rule)


def rules(client: Container) -> list[str]:
    """Return the rules that somebody added, of both IP versions."""
    return [
        f"{version} {rule['priority']} {rule['table']}"
        for version in ("-4", "-6")
        for rule in json.loads(client.enter("ip", version, "-j", "rule", "show"))
        if rule["priority"] not in {0, 32766, 32767}
    ]


def table(client: Container) -> list[str]:
    """Return the routes of our own table."""
    return [
        f"{version} {route['dst']} {route.get('gateway') or route.get('type')}"
        for version in ("-4", "-6")
        for route in json.loads(client.enter("ip", version, "-j", "route", "show", "table", "all"))
        if route.get("table") == "671"
    ]


RULES = {version: [f"-{version} 670 main", f"-{version} 671 671"] for version in (4, 6)}


def await_rules(client: Container, *versions: int) -> None:
    wanted = [rule for version in versions for rule in RULES[version]]
    assert poll(lambda: rules(client) == wanted, PATIENCE_SECONDS), rules(client)


@pytest.mark.parametrize("versions", [(4,), (6,), (4, 6)], ids=["IPv4", "IPv6", "both"])
def test_everything_goes_by_the_gateway_and_what_was_not_asked_for_does_not(
    world: World, versions: tuple[int, ...]
) -> None:
    client = world.client(",".join(EVERYTHING[version] for version in versions))
    main = client.enter("ip", "route"), client.enter("ip", "-6", "route")
    assert poll(lambda: world.way(client, 6) == "past", PATIENCE_SECONDS)
    assert world.way(client, 4) == "past"

    sidecar = world.sidecar()
    await_rules(client, *versions)

    assert {version: world.way(client, version) for version in (4, 6)} == {
        version: "tunnel" if version in versions else "past" for version in (4, 6)
    }
    assert (client.enter("ip", "route"), client.enter("ip", "-6", "route")) == main
    assert reaches(client, world.gateway.address(world.network), seconds=0)
    warned = [entry["entry"] for entry in events(sidecar, "entry.warned")]
    assert warned == ([EVERYTHING[versions[0]]] if len(versions) == 1 else [])
    rows = json.loads(sidecar.exec("wgroutemgr", "status", "--json"))["routes"]
    assert [row["state"] for row in rows] == ["ok"] * len(versions)


def test_nothing_goes_past_a_gateway_that_is_stopped_and_it_is_found_again(world: World) -> None:
    client = world.client("0.0.0.0/0, ::/0")
    sidecar = world.sidecar()
    await_rules(client, 4, 6)
    before = world.past()

    world.gateway.stop()
    await_event(sidecar, "gateway.lost")
    lost = ["default unreachable"] * 2
    wanted = [f"-{version} {route}" for version in (4, 6) for route in lost]
    assert poll(lambda: table(client) == wanted, PATIENCE_SECONDS), table(client)
    assert [world.way(client, version) for version in (4, 6)] == ["", ""]
    await_rules(client, 4, 6)
    world.gateway.start()
    via = [world.gateway.address(world.network, ipv6=ipv6) for ipv6 in (False, True)]
    wanted = [
        *(f"-4 default {way}" for way in (via[0], "unreachable")),
        *(f"-6 default {way}" for way in (via[1], "unreachable")),
    ]
    assert poll(lambda: table(client) == wanted, PATIENCE_SECONDS), table(client)

    assert world.past() == before


def test_the_guard_holds_when_the_client_loses_its_link(world: World) -> None:
    """As long as the sidecar did not see it."""
    client = world.client("0.0.0.0/0")
    other = world.lab.network("other", "10.9.0.0/24")
    world.lab.engine.docker("network", "connect", other, client.name)
    sidecar = world.sidecar()
    await_rules(client, 4)
    sidecar.engine.docker("pause", sidecar.name)
    world.lab.engine.docker("network", "disconnect", world.network, client.name)

    assert table(client) == ["-4 default unreachable"]
    assert world.way(client, 4) == ""
    sidecar.engine.docker("unpause", sidecar.name)


def test_the_engine_attaches_a_client_to_networks_inside_a_wide_one(world: World) -> None:
    inner = world.lab.network("inner", "10.5.0.0/24")
    later = world.lab.network("later", "10.9.0.0/24")
    neighbour = world.lab.client("neighbour", later)
    world.far.enter("ip", "address", "add", "10.200.0.80/32", "dev", "lo")
    sidecar = world.sidecar()
    world.lab.engine.docker(
        *("create", "--pull", "never", "--name", world.lab.name("client")),
        *("--network", world.network, "--label", f"{LABEL}={world.lab.token}"),
        *("--label", "wgroutemgr.networks=10.0.0.0/8"),
        images.client(world.lab.engine),
    )
    client = type(neighbour)(world.lab.engine, world.lab.name("client"))
    world.lab.engine.docker("network", "connect", inner, client.name)
    client.start()
    await_rules(client, 4)
    assert poll(lambda: len(table(client)) == 2, PATIENCE_SECONDS)
    via = world.gateway.address(world.network)
    assert table(client) == [f"-4 10.0.0.0/8 {via}", "-4 10.0.0.0/8 unreachable"]
    assert reaches(client, "10.200.0.80")
    assert world.way(client, 4) == "past"

    world.lab.engine.docker("network", "connect", later, client.name)

    assert reaches(client, neighbour.address(later))
    assert reaches(client, "10.200.0.80")
    assert [entry for entry in entries(sidecar) if entry["level"] in {"warning", "error"}] == []


def test_withdraw_leaves_neither_routes_nor_rules(world: World) -> None:
    client = world.client("0.0.0.0/0, ::/0, 198.51.100.0/24, 128.0.0.0/1")
    sidecar = world.sidecar()
    await_rules(client, 4, 6)
    sidecar.stop()
    netns = client.inspect("{{.NetworkSettings.SandboxKey}}")

    withdrawn = world.lab.container(
        "withdrawn",
        images.product(world.lab.engine),
        *(*beside(world.gateway, world.network), "--env", WARN),
        command=("withdraw",),
    )
    assert poll(lambda: not withdrawn.running(), PATIENCE_SECONDS)

    assert withdrawn.exit_code() == 0
    assert (rules(client), table(client)) == ([], [])
    assert "198.51.100.0/24" not in client.enter("ip", "route")
    assert world.way(client, 4) == "past"
    via, via6 = (world.gateway.address(world.network, ipv6=ipv6) for ipv6 in (False, True))
    enter = f"nsenter --net={netns} ip"
    said = [line for line in withdrawn.logs().splitlines() if line.startswith("nsenter")]
    assert said == [
        f"{enter} rule del pref 671 lookup 671",
        f"{enter} -6 rule del pref 671 lookup 671",
        f"{enter} rule del pref 670 lookup main suppress_prefixlength 0",
        f"{enter} -6 rule del pref 670 lookup main suppress_prefixlength 0",
        f"{enter} route del default via {via} table 671",
        f"{enter} -6 route del default via {via6} metric 1024 table 671",
        f"{enter} route del 198.51.100.0/24 via {via}",
        f"{enter} route del 128.0.0.0/1 via {via} table 671",
        f"{enter} route del unreachable default metric 4000 table 671",
        f"{enter} -6 route del unreachable default metric 4000 table 671 dev lo",
        f"{enter} route del unreachable 128.0.0.0/1 metric 4000 table 671",
    ]


def test_plan_prints_what_sets_it_all_and_status_names_what_is_not_there(world: World) -> None:
    client = world.client("0.0.0.0/0, ::/0")
    sidecar = world.lab.container(
        "idle",
        images.product(world.lab.engine),
        *(*beside(world.gateway, world.network), "--entrypoint", "sleep", "--env", WARN),
        command=("1000",),
    )

    def states() -> list[tuple[str, str]]:
        shown = sidecar.exec("sh", "-c", "wgroutemgr status --json; :")
        return [(row["state"], row["reason"]) for row in json.loads(shown)["routes"]]

    assert states() == [("missing", "not there: route, guard, rule 670, rule 671")] * 2
    sidecar.exec("sh", "-c", "wgroutemgr plan | sh")
    assert rules(client) == [*RULES[4], *RULES[6]]
    assert states() == [("ok", NO_TUNNEL)] * 2
    planned = sidecar.exec("wgroutemgr", "plan").splitlines()
    assert [line for line in planned if not line.startswith("#")] == []

    client.enter("ip", "rule", "del", "pref", "670")
    client.enter("sh", "-c", "ip -6 route del unreachable default metric 4000 table 671")
    assert states() == [("missing", "not there: rule 670"), ("missing", "not there: guard")]
    planned = sidecar.exec("sh", "-c", "wgroutemgr plan; :").splitlines()
    assert [line.partition(" ip ")[2] for line in planned if line.startswith("nsenter")] == [
        "-6 route replace unreachable default metric 4000 table 671",
        "rule add pref 670 lookup main suppress_prefixlength 0",
    ]
