"""A real engine for the session, a lab of its own for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e import look
from tests.lab import images
from tests.lab.engine import LABEL, Engine
from tests.lab.engines import LONG_IN_SWARM, SETUPS, Setup
from tests.lab.site import Container, Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what needs Compose, except on engines that come with a tree of their own.

    And what takes long in a swarm of two nodes, except where that is asked for.
    """
    setup = SETUPS.get(config.getoption("--engine") or "", Setup())
    left_out = {"test_compose.py": not setup.suite} | dict.fromkeys(LONG_IN_SWARM, setup.nodes < 2)
    return left_out.get(collection_path.name) or None


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Iterator[Engine]:
    """Start a private engine, the machine's or the one of `--engine`, with all images."""
    name = pytestconfig.getoption("--engine")
    with SETUPS[name].start() if name else Engine(live_restore=True) as engine:
        images.client(engine)
        images.wireguard(engine)
        images.product(engine)
        yield engine


@pytest.fixture(scope="session")
def make_node(pytestconfig: pytest.Config) -> Callable[[], Engine]:
    """Return what makes the engine of a swarm's node: the machine's or the one of `--engine`."""
    name = pytestconfig.getoption("--engine")
    return SETUPS[name].node if name else Engine


@pytest.fixture
def lab(engine: Engine) -> Iterator[Lab]:
    """Everything that the test makes through it is removed after the test.

    What its sidecars logged must be as documented, line by line, whatever the test looks at.
    """
    with Lab(engine) as lab:
        yield lab
        mark = ("--filter", f"label={LABEL}={lab.token}", "--filter", f"ancestor={images.PRODUCT}")
        for identifier in engine.docker("ps", "--all", "--quiet", *mark).split():
            sidecar = Container(engine, identifier)
            # Other commands than `run` print results, and some tests ask for another form.
            form = sidecar.inspect("{{.Config.Cmd}} {{.Config.Tty}} {{.Config.Env}}")
            if form.startswith("[] false ") and "LOG_FORMAT" not in form:
                look.entries(sidecar)


@pytest.fixture
def network(lab: Lab) -> str:
    """Make the network that is served; a file that needs IPv6 has one of its own."""
    return lab.network("wg-net", "192.168.67.0/24")


@pytest.fixture
def gateway(lab: Lab, network: str) -> Container:
    """Start the gateway on it."""
    return lab.gateway("wireguard", network)
