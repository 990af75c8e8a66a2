"""Both `ip` dialects, and namespaces of the test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lib.kernel.shells import Shells
from tests.integration import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.kernel import Namespace


@pytest.fixture(autouse=True)
def _programs() -> None:
    for name, path in kernel.TOOLS.items():
        if path is None:
            pytest.skip(f"needs {name}: tests make and look at namespaces with it")


@pytest.fixture(scope="module", params=kernel.DIALECTS)
def dialect(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Put the programs of one dialect first on the path: `ip`, `nsenter` and the shell."""
    with kernel.dialect(request.param, tmp_path_factory.mktemp("bin")):
        yield str(request.param)


@pytest.fixture(scope="module")
def shell(dialect: str) -> Iterator[Shells]:
    """Start the product's shell with that dialect; one for many tests, as in the product."""
    shell = Shells()
    said = next(iter(shell.run(["ip -V 2>&1"]))).output
    assert {"iproute2": "iproute2", "busybox": "BusyBox"}[dialect] in said
    yield shell
    shell.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make what the engine keeps its namespaces in."""
    folder = tmp_path / "netns"
    folder.mkdir()
    return folder


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Namespace]:
    """Make an empty namespace."""
    with kernel.namespace(tmp_path / "0a1b2c3d4e5f") as space:
        yield space


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Namespace]:
    """Make a client's namespace with two networks, and everybody else on them."""
    with kernel.client(tmp_path) as client:
        yield client
