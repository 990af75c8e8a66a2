"""What `lib.engine.Engine` promises, shown of a real engine and of the stand-in for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lib.engine.client import Engine
from lib.errors import CallError, GoneError
from tests.fakes import StandInEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.site import Container, Lab

LABEL = "wgroutemgr.networks"


@pytest.fixture
def labelled(lab: Lab) -> Container:
    return lab.client("client", lab.network("wg-net", "192.168.67.0/24"), networks="10.9.0.0/16")


@pytest.fixture
def stopped(lab: Lab, labelled: Container) -> Container:
    network = labelled.inspect("{{.HostConfig.NetworkMode}}")
    container = lab.client("stopped", network, networks="10.9.0.0/16")
    container.stop()
    return container


@pytest.fixture(params=["real", "stand-in"])
def engine(
    request: pytest.FixtureRequest,
    lab: Lab,
    labelled: Container,
    stopped: Container,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Engine | StandInEngine]:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{lab.engine.socket}")
    real = Engine()
    if request.param == "real":
        yield real
    else:
        known = (real.inspect(labelled.name), real.inspect(stopped.name))
        yield StandInEngine(known, on=(real.network(known[0].network_mode),))
    real.close()


def test_inspection_tells_the_namespace_and_knows_nobody_else(
    engine: Engine | StandInEngine, labelled: Container
) -> None:
    found = engine.inspect(labelled.name)

    assert found == engine.inspect(found.id)
    assert found.name == labelled.name
    assert found.sandbox_key == labelled.inspect("{{.NetworkSettings.SandboxKey}}")
    with pytest.raises(GoneError):
        engine.inspect("nobody")


def test_listing_is_the_inspection_without_the_namespace(
    engine: Engine | StandInEngine, labelled: Container, stopped: Container
) -> None:
    (listed,) = engine.containers(LABEL)
    inspected = engine.inspect(labelled.name)

    assert listed.sandbox_key == ""
    assert (listed.id, listed.name, listed.running) == (inspected.id, labelled.name, True)
    assert (listed.labels, listed.network_mode) == (inspected.labels, inspected.network_mode)
    assert listed.endpoints == inspected.endpoints
    assert [container.name for container in engine.containers(LABEL, running=False)] == [
        stopped.name
    ]
    assert engine.containers("no-such-label") == ()
    assert engine.containers(LABEL, ids=[listed.id]) == (listed,)
    assert engine.containers(LABEL, ids=["0" * 64]) == ()


def test_one_is_found_by_id_or_name_whatever_its_state(
    engine: Engine | StandInEngine, labelled: Container, stopped: Container
) -> None:
    (listed,) = engine.containers(LABEL)

    assert engine.find(container_id=listed.id) == engine.find(name=labelled.name) == listed
    (idle,) = engine.containers(LABEL, running=False)
    assert engine.find(name=stopped.name) == idle
    assert engine.find(name=labelled.name[1:]) is None
    assert engine.find(container_id="0" * 64) is None


def test_name_is_of_one_container_only(
    engine: Engine | StandInEngine, labelled: Container, stopped: Container
) -> None:
    (older,), (newer,) = engine.containers(LABEL), engine.containers(LABEL, running=False)

    assert engine.is_named(older.id, labelled.name)
    assert engine.is_named(newer.id, stopped.name)
    assert not engine.is_named(older.id, stopped.name)
    assert not engine.is_named(newer.id, labelled.name)
    with pytest.raises((GoneError, CallError)):
        engine.is_named("0" * 64, labelled.name)


def test_network_tells_the_addresses_of_who_is_attached(
    engine: Engine | StandInEngine, labelled: Container
) -> None:
    container = engine.inspect(labelled.name)
    network = engine.network(container.network_mode)

    assert network == engine.network(network.id)
    assert network.interfaces == {container.id: container.endpoints[0].interfaces}
    with pytest.raises(GoneError):
        engine.network("no-such-network")
