"""What `lib.engine.Engine` promises, shown of a real engine and of the stand-in for it."""

from __future__ import annotations

import time
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from lib.engine.client import Engine
from lib.errors import CallError, GoneError
from tests.fakes import StandInEngine
from tests.lab.engine import poll
from tests.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.model import Event
    from tests.lab.site import Container, Lab

LABEL = "wgroutemgr.networks"
SECONDS = 5.0


@pytest.fixture
def labelled(lab: Lab) -> Container:
    return lab.client("client", lab.network("wg-net", "192.168.67.0/24"), networks="10.9.0.0/16")


@pytest.fixture
def stopped(lab: Lab, labelled: Container) -> Container:
    network = labelled.inspect("{{.HostConfig.NetworkMode}}")
    container = lab.client("stopped", network, networks="10.9.0.0/16")
    container.stop()
    running = ("ps", "--quiet", "--filter", f"name={container.name}")
    assert poll(lambda: not lab.engine.docker(*running), SECONDS)  # 26.1 lists it for a moment.
    return container


@pytest.fixture
def real(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{lab.engine.socket}")
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture(params=["real", "stand-in"])
def asked(
    request: pytest.FixtureRequest, real: Engine, labelled: Container, stopped: Container
) -> Engine | StandInEngine:
    if request.param == "real":
        return real
    known = (real.inspect(labelled.name), real.inspect(stopped.name))
    return StandInEngine(known, on=(real.network(known[0].endpoints[0].network),))


def test_inspection_tells_the_namespace_and_knows_nobody_else(
    asked: Engine | StandInEngine, labelled: Container
) -> None:
    found = asked.inspect(labelled.name)

    assert found == asked.inspect(found.id)
    assert found.name == labelled.name
    assert found.sandbox_key == labelled.inspect("{{.NetworkSettings.SandboxKey}}")
    with pytest.raises(GoneError):
        asked.inspect("nobody")


def test_listing_is_the_inspection_without_the_namespace(
    asked: Engine | StandInEngine, labelled: Container, stopped: Container
) -> None:
    (listed,) = asked.containers(LABEL)
    inspected = asked.inspect(labelled.name)

    assert listed.sandbox_key == ""
    assert (listed.id, listed.name, listed.running) == (inspected.id, labelled.name, True)
    assert listed.labels == inspected.labels
    # Podman 4.3 tells it in an inspection only.
    assert listed.network_mode in {inspected.network_mode, ""}
    assert listed.endpoints == inspected.endpoints
    assert [container.name for container in asked.containers(LABEL, running=False)] == [
        stopped.name
    ]
    assert asked.containers("no-such-label") == ()
    assert asked.containers(LABEL, ids=[listed.id]) == (listed,)
    assert asked.containers(f"{LABEL}={listed.labels[LABEL]}") == (listed,)
    assert asked.containers(f"{LABEL}=10.9.0.0/17") == ()
    assert asked.containers(LABEL, ids=["0" * 64]) == ()
    assert asked.containers(LABEL, ids=[]) == ()
    many = [f"{number:064x}" for number in range(220)]
    assert asked.containers(LABEL, ids=[*many, listed.id]) == (listed,)


def test_one_is_found_by_id_or_name_whatever_its_state(
    asked: Engine | StandInEngine, labelled: Container, stopped: Container
) -> None:
    (listed,) = asked.containers(LABEL)

    assert asked.find(container_id=listed.id) == asked.find(name=labelled.name) == listed
    (idle,) = asked.containers(LABEL, running=False)
    assert asked.find(name=stopped.name) == idle
    assert asked.find(name=labelled.name[1:]) is None
    assert asked.find(container_id="0" * 64) is None


def test_name_is_of_one_container_only(
    asked: Engine | StandInEngine, labelled: Container, stopped: Container
) -> None:
    (older,), (newer,) = asked.containers(LABEL), asked.containers(LABEL, running=False)

    assert asked.is_named(older.id, labelled.name)
    assert asked.is_named(newer.id, stopped.name)
    assert not asked.is_named(older.id, stopped.name)
    assert not asked.is_named(newer.id, labelled.name)
    with pytest.raises((GoneError, CallError)):
        asked.is_named("0" * 64, labelled.name)


def test_network_tells_the_addresses_of_who_is_attached(
    asked: Engine | StandInEngine, labelled: Container
) -> None:
    container = asked.inspect(labelled.name)
    network = asked.network(container.endpoints[0].network)

    assert network == asked.network(network.id)
    assert network.interfaces == {container.id: container.endpoints[0].interfaces}
    with pytest.raises(GoneError):
        asked.network("no-such-network")


def test_networks_are_listed_without_who_is_attached(
    asked: Engine | StandInEngine, labelled: Container
) -> None:
    network = asked.network(asked.inspect(labelled.name).endpoints[0].network)

    (listed,) = (other for other in asked.networks() if other.id == network.id)
    assert listed == network._replace(interfaces={})


def test_networks_of_a_container_are_known_by_their_ids(
    asked: Engine | StandInEngine, labelled: Container
) -> None:
    container = asked.inspect(labelled.name)
    network = asked.network(container.endpoints[0].network)

    (listed,) = asked.containers(LABEL, ids=[container.id])
    for found in (container, listed):
        assert found.endpoint(network.id) == found.endpoint(network.name) == found.endpoints[0]


def test_a_subnet_with_host_bits_is_read(lab: Lab, real: Engine) -> None:
    """Docker up to 24 takes it, and tells it as it was typed."""
    try:
        name = lab.network("typed", "203.0.113.1/24")
    except LabError as error:
        pytest.skip(f"needs an engine that takes it: {error}")

    (listed,) = (network for network in real.networks() if network.name == name)
    assert listed.subnets == real.network(name).subnets == (ip_network("203.0.113.0/24"),)


def test_events_tell_of_a_creation_and_of_a_start_with_labels(lab: Lab, real: Engine) -> None:
    stream = real.listen(int(time.time()) - 1)
    client = lab.client("new", lab.network("wg-net", "192.168.67.0/24"), networks="10.9.0.0/16")
    container = real.inspect(client.name)
    found: list[Event] = []
    deadline = time.monotonic() + 10
    while "start" not in {event.action for event in found} and time.monotonic() < deadline:
        found += (event for event in stream.read(1) if event.container_id == container.id)
    stream.close()

    created, *others = (event for event in found if event.action in {"create", "start"})
    assert (created.action, created.container) == ("create", container.name)
    assert created.labels.items() >= container.labels.items()
    assert [event.action for event in others] == ["start"]
    assert others[0].labels.items() >= container.labels.items()
