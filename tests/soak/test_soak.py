"""Random faults from a seed for a while: `./tests/run soak --seconds 3600 --seed 7`."""

from __future__ import annotations

import random
from functools import partial

import pytest

from tests.lab import images
from tests.lab.engine import Engine
from tests.lab.engines import SETUPS
from tests.lab.soak import soak
from tests.lab.soak_model import GOOD, Box, differences, parse, wanted


@pytest.mark.timeout(0)  # it has a time of its own, and a deadline for everything that it awaits
def test_all_settles_as_the_labels_ask_whatever_happens(
    pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    name, seconds = pytestconfig.getoption("--engine"), pytestconfig.getoption("--seconds")
    seed = pytestconfig.getoption("--seed")
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed

    # It is restarted, killed and frozen; without live restore, as for even seeds, more ends then.
    own = Engine(live_restore=seed % 2 == 1)
    with capsys.disabled(), SETUPS[name].start() if name else own as engine:
        images.client(engine)
        images.wireguard(engine)
        images.product(engine)
        run = soak(engine, seed, seconds, partial(print, flush=True))

    assert len(run.settled) > 2


def box(name: str, *networks: str, asks: tuple[str, ...] = (), mode: str = "") -> Box:
    attached = dict.fromkeys(networks, ("an IPv4 address", "an IPv6 address"))
    return Box(name, f"{name}-token", "client", True, 1, mode, "", attached, asks, "")  # noqa: FBT003


def test_model_leads_what_is_asked_for_through_the_gateway_of_the_network() -> None:
    gateways = {"wg-a": ("192.168.67.129", "fd00:67::129"), "wg-b": None, "wg-z": None}
    client = box("c", "wg-a", "aside", asks=GOOD)
    lodger = box("d", asks=("198.18.0.0/15",), mode="container:c")

    routes = wanted(client, [client, lodger], gateways)

    inside = {"192.168.67.0/24", "172.31.99.0/24"}
    beside = {"192.168.0.0/16", "0.0.0.0/0", "::/0"}
    assert routes.keys() == {*GOOD, "198.18.0.0/15"} - inside - beside
    assert {via for dst, via in routes.items() if ":" in dst} == {"fd00:67::129"}
    assert {via for dst, via in routes.items() if ":" not in dst} == {"192.168.67.129"}
    assert set(wanted(box("c", "wg-b", asks=GOOD), [], gateways).values()) == {"unreachable"}
    assert wanted(box("c", "aside", asks=GOOD), [], gateways) == {}


def test_model_leads_through_the_gateway_that_is_named_or_its_substitute() -> None:
    one, other, dst = "192.168.67.129", "192.168.67.189", "198.51.100.0/24"
    both = {"wg-a": (one, ""), "wg-z": (other, ""), "wg-b": None}
    without = both | {"wg-a": None}
    for asks, there, lost in (
        ((dst,), one, "unreachable"),
        ((f"wg-a={dst}",), one, "unreachable"),
        ((f"wg-z={dst}",), other, other),
        ((f"wg-z={dst}", f"wg-a={dst}"), one, other),
        ((dst, f"wg-z={dst}"), other, other),
    ):
        client = box("c", "wg-a", asks=asks)
        assert wanted(client, [client], both) == {dst: there}
        assert wanted(client, [client], without) == {dst: lost}
    client = box("c", "wg-a", asks=(f"wg-b={dst}",))
    lodger = box("d", asks=(f"wg-z={dst}",), mode="container:c")
    assert wanted(client, [client], both) == {}
    assert wanted(client, [client, lodger], both) == {dst: other}


def test_every_deviation_is_a_difference() -> None:
    actual = parse(
        '[{"dst": "default", "gateway": "192.168.67.1", "dev": "eth0"},'
        ' {"dst": "192.168.67.0/24", "dev": "eth0", "protocol": "kernel"},'
        ' {"dst": "192.0.2.7", "gateway": "192.168.67.129", "dev": "eth0"},'
        ' {"dst": "10.8.0.0/16", "gateway": "192.168.67.7", "dev": "eth0"},'
        ' {"dst": "10.8.0.0/16", "gateway": "192.168.67.129", "dev": "eth0", "metric": 50},'
        ' {"type": "unreachable", "dst": "198.51.100.0/24"}]',
        "-4",
    )
    asked = dict.fromkeys(("192.0.2.7/32", "10.8.0.0/16", "203.0.113.0/24"), "192.168.67.129")

    assert list(differences("c", asked, actual)) == [
        "c: 10.8.0.0/16: expected 192.168.67.129, actual 192.168.67.7",
        "c: 10.8.0.0/16 metric 50: expected no route, actual 192.168.67.129",
        "c: 198.51.100.0/24: expected no route, actual unreachable",
        "c: 203.0.113.0/24: expected 192.168.67.129, actual no route",
    ]
