"""What the doctor says where the gateway is a task of a swarm's service, here or elsewhere."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from lib.doctor import network, path, report, setup
from lib.doctor.site import Site
from lib.engine import sidecar
from lib.kernel.names import Reply
from lib.model import Finding, Task
from tests.unit import test_doctor
from tests.unit.test_doctor import CLIENT, GATEWAY, WG_NET, Place, WithNetworks, link

if TYPE_CHECKING:
    from lib.engine.client import Engine

SERVICE = "wg_wireguard"
OWN_ID = "0123456789abcdef" * 4
HERE = Task("wireguard", ip_address(GATEWAY), "10.77.0.1")
THERE = Task(f"{SERVICE}.1.b", ip_address("192.0.2.140"), "10.77.0.2")
SECOND = Task(f"{SERVICE}.2.c", ip_address("192.0.2.150"), "10.77.0.2")
ELSEWHERE = "the gateway is on 10.77.0.2: ask the agent there"
OF_ITS_NODE = ("forwarding", "rp_filter", "firewall", "tunnel", "nat", "back", "mtu")

place = test_doctor.place


class Node:
    """A node of a swarm, over a place in good health."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "cgroup").write_text(f"0::/docker/{OWN_ID}\n")
        monkeypatch.setattr(sidecar, "CGROUP", tmp_path / "cgroup")
        monkeypatch.setattr("lib.kernel.names.ask", self.ask)
        self.place = place
        self.agent = place.client._replace(id=OWN_ID, name="agent", labels={})
        self.names = {OWN_ID[:12]: Reply(0, (ip_address(CLIENT),))}
        self.services: dict[str, tuple[Task, ...]] = {}
        interfaces = {place.gateway.id: (ip_interface(f"{GATEWAY}/24"),)}
        nodes = ("10.77.0.1", "10.77.0.2")
        self.network = WG_NET._replace(driver="overlay", interfaces=interfaces, nodes=nodes)

    def ask(self, name: str) -> Reply:
        return self.names.get(name, Reply(2))

    def run(self, *tasks: Task, listed: tuple[Task, ...] | None = None) -> None:
        """Let these run, or be named so."""
        self.names[f"tasks.{SERVICE}"] = Reply(0, tuple(task.address for task in tasks))
        self.services = {SERVICE: tasks if listed is None else listed}

    def site(self) -> Site:
        self.place.kernel.asked.clear()
        known = (self.place.gateway, self.place.client, self.agent)
        engine = WithNetworks(known, on=(self.network,), services=self.services)
        settings = self.place.settings._replace(gateway=None, gateway_service=SERVICE)
        return Site(settings, self.place.kernel, lambda: cast("Engine", engine))

    def say(self, check: str) -> list[Finding]:
        return [finding for name, finding in report.examine(self.site()) if name == check]


@pytest.fixture
def node(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Node:
    return Node(place, monkeypatch, tmp_path)


def test_on_its_node_all_is_told(node: Node) -> None:
    node.run(HERE)

    assert node.say("names") == [Finding("ok", f"we are {CLIENT}, tasks.{SERVICE} is {GATEWAY}")]
    assert node.say("gateway") == [Finding("ok", f"wireguard on this node, a task of {SERVICE}")]
    assert node.say("network") == [Finding("ok", "wg-net, overlay, 192.0.2.0/24")]
    assert node.say("reboot") == [Finding("ok", "we start whether the gateway runs or not")]
    assert [one.level for one in node.say("tunnel") + node.say("back")] == ["ok", "ok"]
    assert [one.seen for one in node.say("gateways")] == [
        f"clients are served by the gateway {SERVICE}, by name the first of those on this network"
    ]


def test_on_another_node_it_is_said_whom_to_ask(node: Node) -> None:
    node.run(THERE)

    assert node.say("gateway") == [Finding("ok", f"{THERE.name} on 10.77.0.2, a task of {SERVICE}")]
    found = dict(report.examine(node.site()))
    assert {name: found[name] for name in OF_ITS_NODE} == dict.fromkeys(
        OF_ITS_NODE, Finding("skip", ELSEWHERE)
    )
    assert found["clients"].level == "ok"
    failed = {name for name, finding in found.items() if finding.level == "fail"}
    assert failed <= test_doctor.OF_THE_MACHINE


def test_a_name_server_that_asks_others_is_warned_of(node: Node) -> None:
    node.run()
    node.names["nobody-has-this-name"] = Reply(3)

    assert node.say("names") == [
        Finding("ok", f"we are {CLIENT}, tasks.{SERVICE} is nobody"),
        Finding(
            "warn",
            "while no task runs, the host's name servers are asked",
            ("dns: [127.0.0.1]   # in the agent's service: it asks for nothing but its gateway",),
        ),
    ]
    assert node.say("gateway") == [
        Finding(
            "fail",
            f"no task of the service {SERVICE} runs",
            (f"docker service ps {SERVICE}   # on a manager; the name in full is STACK_SERVICE",),
        )
    ]


def test_a_name_server_that_does_not_know_us_is_a_failure(node: Node) -> None:
    node.names = {}

    (found,) = node.say("names")

    seen = "the name server of wg-net does not know us"
    assert (found.level, found.seen) == ("fail", seen)
    assert found.fix[0] == "networks: [wg-net]   # in the service of the agent"


def test_before_we_are_healthy_the_gateway_is_named_and_we_are_not(node: Node) -> None:
    node.names = {}
    node.run(HERE)

    seen = f"we are not named before we are healthy, tasks.{SERVICE} is {GATEWAY}"
    assert node.say("names") == [Finding("ok", seen)]


def test_several_tasks_and_who_is_none(node: Node) -> None:
    node.run(THERE, SECOND, HERE, listed=(THERE, SECOND))

    several, doubted = node.say("gateway")

    assert (several.level, several.fix) == (
        "warn",
        (f"docker service scale {SERVICE}=1   # on a manager",),
    )
    assert several.seen.endswith(f", and {SECOND.name} beside it")
    assert (doubted.level, doubted.seen) == (
        "warn",
        f"{GATEWAY} is named so, and no task of {SERVICE}",
    )


@pytest.mark.parametrize(
    ("change", "level", "seen"),
    [
        ({"internal": True}, "ok", "wg-net, overlay (internal), 192.0.2.0/24"),
        ({"options": {"encrypted": ""}}, "warn", "wg-net is encrypted, which nobody has tried"),
        (
            {"nodes": ("10.77.0.1",)},
            "fail",
            "10.77.0.2, where the gateway is, is no node of wg-net (10.77.0.1)",
        ),
        ({"nodes": ()}, "ok", "wg-net, overlay, 192.0.2.0/24"),
    ],
)
def test_what_is_seen_of_an_overlay(
    node: Node, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], level: str, seen: str
) -> None:
    monkeypatch.setattr(network, "BRIDGE_FILTER", Path("/"))
    node.run(THERE)
    node.network = node.network._replace(**change)  # type: ignore[arg-type]

    (found,) = network.network(node.site())

    assert (found.level, found.seen) == (level, seen)


def test_an_overlays_option_counts_what_is_around_a_packet(node: Node) -> None:
    links = link(1, "eth0", f"{GATEWAY}/24") + link(2, "wg0", "10.255.255.1/30", mtu=1400)
    node.place.gateway_says("ip address show", links)
    node.run(HERE)

    (found,) = path.mtu(node.site())

    assert found.seen == "up to 1420 bytes from dovecot, but 1400 through wg0"
    assert found.fix[-1].startswith('driver_opts: {com.docker.network.driver.mtu: "1450"}')


def test_without_a_service_there_is_no_word_of_names(place: Place) -> None:
    assert [name for name, _ in report.examine(place.site()) if name == "names"] == []
    assert [one.level for one in setup.gateway(place.site())] == ["ok"]
