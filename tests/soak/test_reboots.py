"""Reboots of engines: `./tests/run soak tests/soak/test_reboots.py --reboots 50`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.lab import images
from tests.lab.engines import MACHINE, SETUPS
from tests.lab.errors import LabError
from tests.lab.reboots import CLIENTS, reboots


@pytest.mark.timeout(0)  # it has a deadline for everything that it awaits
@pytest.mark.parametrize("name", [MACHINE, "sid-2"])
def test_sidecar_and_routes_are_back_after_each_reboot(
    pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    count, chosen = pytestconfig.getoption("--reboots"), pytestconfig.getoption("--engine")
    setup = replace(SETUPS[name], live_restore=False)
    if chosen not in {None, name}:
        pytest.skip(f"another engine is chosen: {chosen}")
    try:
        setup.root()
    except LabError as error:
        pytest.skip(f"needs an engine: {error}")

    with capsys.disabled(), setup.start() as engine:
        images.client(engine)
        images.wireguard(engine)
        images.product(engine)
        run = reboots(engine, count, partial(print, flush=True))

    assert len(run.without) == count * CLIENTS
