"""What engines of each version answer, recorded, and what of it is understood.

`tests/data/engine` has one file for each: a container on two networks as it was inspected and
listed, its network, and its events from start to removal. Each stands for itself and for the same
answers in the shape of API 1.55 (moby, `api/docs/CHANGELOG.md`), on the containerd image store.
"""

from __future__ import annotations

import json
from copy import deepcopy
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
import structlog

from lib.engine.answers import (
    parse_container,
    parse_event,
    parse_listing,
    parse_network,
    parse_networks,
    parse_services,
)
from lib.engine.client import OLDEST_API
from lib.engine.events import FILTERS
from lib.model import Event, PublishedPort, Task

RECORDED = sorted((Path(__file__).parents[1] / "data/engine").glob("*.json"))
Answers = dict[str, Any]


def modern(answers: Answers) -> Answers:
    """Return recorded answers as API 1.55 has them."""
    inspect = {key: value for key, value in answers["inspect"].items() if key != "GraphDriver"}
    settings = inspect["NetworkSettings"]
    kept = {"SandboxID", "SandboxKey", "Ports", "Networks"}
    events = answers["events"]
    return answers | {
        "inspect": inspect
        | {
            "NetworkSettings": {key: settings[key] for key in kept & settings.keys()},
            "Storage": {"RootFS": {"Snapshot": {"Name": "overlayfs"}}},
        },
        "network": answers["network"] | {"Status": {"IPAM": {"Subnets": {}}}},
        "events": [{key: event[key] for key in event.keys() - LEGACY} for event in events],
    }


LEGACY = {"status", "id", "from"}


@pytest.fixture(params=[False, True], ids=["as recorded", "API 1.55"])
def is_modern(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=RECORDED, ids=lambda path: path.stem)
def answers(request: pytest.FixtureRequest, *, is_modern: bool) -> Answers:
    found: Answers = json.loads(request.param.read_text())
    return modern(found) if is_modern else found


def test_what_was_recorded_begins_with_the_oldest_version() -> None:
    versions = [json.loads(path.read_text())["version"]["ApiVersion"] for path in RECORDED]

    assert versions == [OLDEST_API, "1.45", "1.51"]


def test_a_container_is_the_same_from_every_version(answers: Answers, *, is_modern: bool) -> None:
    found, (listed,) = parse_container(answers["inspect"]), parse_listing([answers["list"]])

    assert (found.name, found.running, found.network_mode) == ("client", True, "wg-net")
    assert found.labels == {"wgroutemgr.networks": "10.9.0.0/16,2001:db8:51::/48"}
    assert {point.network: point.interfaces for point in found.endpoints} == {
        "other": (ip_interface("192.168.99.2/24"),),
        "wg-net": (ip_interface("192.168.67.2/24"), ip_interface("fd00:67::2/64")),
    }
    assert found.sandbox_key.startswith("/var/run/docker/netns/")
    assert found.upper_dir.startswith("" if is_modern else "/var/lib/docker/")
    assert bool(found.upper_dir) != is_modern
    assert (listed.id, listed.name, listed.labels) == (found.id, found.name, found.labels)
    assert {*listed.endpoints} == {*found.endpoints}


def test_name_servers_ports_and_runtime_are_told_by_an_inspection(answers: Answers) -> None:
    inspect = answers["inspect"]
    inspect["HostConfig"] |= {"Dns": ["192.0.2.53", "?", "fd::53"], "Runtime": "runsc"}
    inspect["NetworkSettings"]["Ports"] = {
        "80/tcp": [{"HostIp": anyone, "HostPort": "8080"} for anyone in ("0.0.0.0", "::")],  # noqa: S104
        "53/udp": [{"HostIp": "192.0.2.1", "HostPort": "53"}, {"HostIp": "?", "HostPort": "53"}],
        "81/tcp": [{"HostIp": "", "HostPort": "81"}],
        "9000/tcp": None,
    }
    found = parse_container(inspect)

    assert found.dns == (ip_address("192.0.2.53"), ip_address("fd::53"))
    assert found.runtime == "runsc"
    assert found.published == (
        PublishedPort("80/tcp", None, 4),
        PublishedPort("80/tcp", None, 6),
        PublishedPort("53/udp", ip_address("192.0.2.1"), 4),
        PublishedPort("81/tcp", None, 4),
    )


@pytest.mark.parametrize(
    ("host", "may_tunnel"),
    [
        ({"CapAdd": None, "Privileged": False}, False),
        ({"CapAdd": ["SYS_TIME"]}, False),
        ({"CapAdd": ["NET_ADMIN"]}, True),
        ({"CapAdd": ["CAP_NET_ADMIN"]}, True),
        ({"CapAdd": ["all"]}, True),
        ({"Privileged": True}, True),
    ],
)
def test_who_may_make_a_tunnel_is_told_by_an_inspection(
    answers: Answers, host: dict[str, object], *, may_tunnel: bool
) -> None:
    inspect = answers["inspect"]
    inspect["HostConfig"] |= {"CapAdd": None, "Privileged": False} | host

    assert parse_container(inspect).may_tunnel is may_tunnel


def test_a_network_is_the_same_from_every_version(answers: Answers) -> None:
    found = parse_network(answers["network"])

    assert (found.name, found.driver, found.internal) == ("wg-net", "bridge", False)
    assert found.subnets == (ip_network("192.168.67.0/24"), ip_network("fd00:67::/64"))
    addresses = ip_interface("192.168.67.2/24"), ip_interface("fd00:67::2/64")
    (identifier,) = answers["network"]["Containers"]
    assert found.interfaces == {identifier: addresses}
    answers["network"]["Containers"] = {"ep-1": answers["network"]["Containers"][identifier]}
    found = parse_network(answers["network"])
    assert (found.interfaces, found.attaching) == ({}, {"client": addresses})


def event_of(answer: object) -> Event | None:
    return parse_event(json.dumps(answer))


def untimed(answer: object) -> Event | None:
    event = event_of(answer)
    return event and event._replace(moment=0.0)


def test_events_are_the_same_from_every_version(answers: Answers, *, is_modern: bool) -> None:
    network, container = answers["network"]["Id"], answers["inspect"]["Id"]
    found = [untimed(event) for event in answers["events"]]

    assert any("status" in event for event in answers["events"]) != is_modern
    labels = {"wgroutemgr.networks": "10.9.0.0/16,2001:db8:51::/48"}
    assert Event("start", container, "client", labels=labels) in found
    assert Event("connect", container, network_id=network) in found
    assert ("destroy", "renamed") in {(event.action, event.container) for event in found if event}
    assert {event.action for event in found if event} == {*FILTERS["event"]}
    assert {event.container_id for event in found if event} == {container}


def test_an_event_tells_when_it_was(answers: Answers) -> None:
    """By the clock by which the engine tells when a container started."""
    start = next(event for event in answers["events"] if event["Action"] == "start")
    found = event_of(start | {"timeNano": 1700000000000000000})
    assert found
    assert found.moment == 1700000000.0

    event = event_of({key: value for key, value in start.items() if key != "timeNano"})
    assert event
    assert event.moment == 0.0


def test_an_event_tells_the_labels(answers: Answers) -> None:
    start = next(event for event in answers["events"] if event["Action"] == "start")
    container = answers["inspect"]
    labels = container["Config"]["Labels"]

    assert untimed(start | {"Action": "create"}) == Event(
        "create", container["Id"], "client", labels=labels
    )


@pytest.mark.parametrize(
    ("told", "moment"),
    [
        pytest.param("1970-01-02T00:00:00.123456789Z", 86400.123456, id="Docker"),
        pytest.param("1970-01-02T02:00:00.5+02:00", 86400.5, id="Podman"),
        pytest.param("0001-01-01T00:00:00Z", 0.0, id="it never started"),
        pytest.param("soon", 0.0, id="nonsense"),
        pytest.param(None, 0.0, id="not told"),
    ],
)
def test_the_start_of_a_container_is_known_where_it_is_told(told: object, moment: float) -> None:
    inspect = json.loads(RECORDED[-1].read_text())["inspect"]
    inspect["State"]["StartedAt"] = told

    assert parse_container(inspect).started_at == moment


def test_of_what_a_container_was_started_with_our_options_are_told_and_no_secret() -> None:
    inspect = json.loads(RECORDED[-1].read_text())["inspect"]
    inspect["State"]["FinishedAt"] = "1970-01-02T00:00:00Z"
    inspect["Config"] |= {"Cmd": ["run"], "Env": ["TOKEN=x", "WGROUTEMGR_NETWORK=a=b", "PATH"]}
    found = parse_container(inspect)

    assert found.finished_at == 86400.0
    assert (found.arguments, found.environment) == (("run",), {"WGROUTEMGR_NETWORK": "a=b"})
    inspect["Config"] |= {"Cmd": None, "Env": None}
    assert parse_container(inspect).arguments == ()


PODMAN_CONNECT = {
    "Type": "network",
    "Action": "connect",
    "Actor": {"ID": "c1", "Attributes": {"name": "web", "network": "wg-net"}},
}


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        pytest.param(PODMAN_CONNECT, Event("connect", "c1", "web"), id="Podman's way round"),
        pytest.param(PODMAN_CONNECT | {"Action": "destroy"}, None, id="of a network itself"),
        pytest.param(PODMAN_CONNECT | {"Actor": None}, None, id="about nobody"),
        pytest.param({"Type": "container", "Action": "start", "Actor": {}}, None, id="without id"),
        pytest.param({"message": "page not found"}, None, id="a refusal"),
        pytest.param([], None, id="a list"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_what_else_comes_as_an_event_is_read_or_left_out(
    answer: object, event: Event | None
) -> None:
    assert event_of(answer) == event


def without(answer: Answers, key: str) -> Answers:
    return {name: value for name, value in answer.items() if name != key}


LISTED: Answers = json.loads(RECORDED[-1].read_text())["list"]
NETWORK: Answers = json.loads(RECORDED[-1].read_text())["network"]
POINT = {"IPAddress": "192.168.67.2"}


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(LISTED | {"Names": []}, id="no names"),
        pytest.param(LISTED | {"Names": None}, id="names null"),
        pytest.param(LISTED | {"Names": [None]}, id="a name null"),
        pytest.param(LISTED | {"Names": ["/other/alias"]}, id="only a legacy link's name"),
        *(pytest.param(without(LISTED, key), id=f"no {key}") for key in ("Id", "Names", "State")),
        pytest.param(
            LISTED | {"NetworkSettings": {"Networks": {"wg-net": POINT}}}, id="no prefix length"
        ),
        pytest.param(
            LISTED | {"NetworkSettings": {"Networks": {"wg-net": None}}}, id="no endpoint"
        ),
        pytest.param(LISTED | {"Labels": None, "Id": None, "Names": 1}, id="of other types"),
        pytest.param(None, id="null"),
    ],
)
def test_an_odd_container_costs_itself_and_not_the_listing(odd: object) -> None:
    with structlog.testing.capture_logs() as logged:
        listed = parse_listing([odd, LISTED, odd])

    assert [container.name for container in listed] == ["client"]
    assert [(line["event"], line["kind"], line["log_level"]) for line in logged] == [
        ("answer.skipped", "container", "debug")
    ] * 2


@pytest.mark.parametrize("key", ["Labels", "HostConfig", "NetworkSettings"])
def test_a_container_without_what_it_need_not_have_is_listed(key: str) -> None:
    assert len(parse_listing([without(LISTED, key), LISTED | {key: None}])) == 2


@pytest.mark.parametrize("parse", [parse_listing, parse_networks])
@pytest.mark.parametrize("answer", [None, {}, {"message": "no"}, "[]"], ids=repr)
def test_what_is_no_listing_is_not_an_empty_one(parse: Any, answer: object) -> None:  # noqa: ANN401
    with pytest.raises(TypeError):
        parse(answer)


def test_an_odd_network_costs_itself_and_not_the_listing() -> None:
    odd = [without(NETWORK, "Id"), without(NETWORK, "Name"), with_subnets("nonsense"), None]

    assert [network.name for network in parse_networks([*odd, NETWORK])] == ["wg-net"]


@pytest.mark.parametrize("key", ["IPAM", "Containers", "Options", "Driver"])
def test_a_network_without_what_it_need_not_have_is_read(key: str) -> None:
    assert parse_network(without(NETWORK, key)).name == "wg-net"
    assert parse_network(NETWORK | {key: None}).name == "wg-net"


@pytest.mark.parametrize(
    ("key", "end"),
    [
        pytest.param("ep-1", {"IPv4Address": "192.168.67.3/24"}, id="no name"),
        pytest.param("c2", {"IPv4Address": "192.168.67.300/24"}, id="no address"),
        pytest.param("c2", None, id="null"),
    ],
)
def test_an_odd_endpoint_costs_itself_and_not_the_network(key: str, end: object) -> None:
    ends = {key: end} | deepcopy(NETWORK["Containers"])

    assert len(parse_network(NETWORK | {"Containers": ends}).interfaces) == 1


def with_subnets(*subnets: str) -> Answers:
    pools = [{"Subnet": subnet, "Gateway": "203.0.113.1/24"} for subnet in subnets]
    return NETWORK | {"IPAM": {"Config": pools}}


@pytest.mark.parametrize(
    ("typed", "subnet"),
    [
        ("203.0.113.1/24", "203.0.113.0/24"),
        ("2001:db8:0:0:0:0:0:1/64", "2001:db8::/64"),
        ("2001:0DB8:0000:0000::/64", "2001:db8::/64"),
    ],
)
def test_a_subnet_is_read_however_it_was_typed(typed: str, subnet: str) -> None:
    """As Docker up to 24 tells it."""
    assert parse_network(with_subnets(typed)).subnets == (ip_network(subnet),)


# --- tasks of a swarm ---------------------------------------------------------------------------

TASK = {
    "Name": "wg_wireguard.1.a",
    "EndpointID": "e1",
    "EndpointIP": "192.168.67.5",
    "Info": {"Host IP": "10.77.0.1"},
}


def test_tasks_are_told_by_service_and_an_odd_one_costs_itself() -> None:
    odd = [{}, TASK | {"EndpointIP": ""}, TASK | {"Name": "b", "Info": None}]
    services = {"wg_wireguard": {"VIP": "", "Tasks": [*odd, TASK]}, "": {"Tasks": [TASK]}, "x": {}}
    here = ip_address("192.168.67.5")

    assert parse_services(NETWORK | {"Services": services}) == {
        "wg_wireguard": (Task("b", here, ""), Task("wg_wireguard.1.a", here, "10.77.0.1")),
        "x": (),
    }


@pytest.mark.parametrize("answer", [NETWORK, NETWORK | {"Services": None}])
def test_a_network_of_no_swarm_has_no_tasks(answer: Answers) -> None:
    assert parse_services(answer) == {}
