"""A real engine for the session, a lab of its own for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab import images
from tests.lab.engine import Engine
from tests.lab.site import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Start a private engine that holds all images of the lab."""
    with Engine(live_restore=True) as engine:
        images.client(engine)
        images.wireguard(engine)
        images.product(engine)
        yield engine


@pytest.fixture
def lab(engine: Engine) -> Iterator[Lab]:
    """Everything that the test makes through it is removed after the test."""
    with Lab(engine) as lab:
        yield lab
