"""The examples are what the documents say: each is the quick start with the change that is told."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from lib.doctor import swarm
from lib.model import (
    GATEWAY_LABEL,
    NAMED_PREFIX,
    NETWORK_LABEL,
    PREFER_LABEL,
    SERVICE_LABEL,
    DockerNetwork,
)
from tests.readme import DOCUMENTS, ROOT, block, compose, example

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = ROOT / "examples"
FIRST, SECOND = EXAMPLES / "two-sites/site1", EXAMPLES / "two-sites/site2"
LONGEST_README = 18
OUTSIDE = swarm.outside(DockerNetwork("", "", (), {}, driver="overlay"))
OTHER = str.maketrans("1267", "2176")


def with_the_client(site: dict[str, Any]) -> dict[str, Any]:
    return site | {"services": site["services"] | compose("client")["services"]}


def files(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def test_the_quick_start_is_the_first_of_two_sites() -> None:
    assert files(FIRST) == {
        "compose.yaml": block("site"),
        "wireguard/wg_confs/wg0.conf": block("tunnel"),
        "dovecot/compose.yaml": block("client"),
    }


def test_the_second_site_is_the_mirror_image() -> None:
    place = re.compile(r"(?:192\.168\.6|10\.255\.255\.|gateway |site)[1267]\b")
    mirrored = {
        name: place.sub(lambda found: found[0][:-1] + found[0][-1].translate(OTHER), text)
        for name, text in files(FIRST).items()
    }

    assert files(SECOND) == mirrored


def test_as_in_the_seed_the_sidecar_is_in_its_gateways_network() -> None:
    wanted = with_the_client(compose("site"))
    sidecar = wanted["services"]["wgroutemgr"]
    sidecar |= compose("shared")["services"]["wgroutemgr"]
    del sidecar["labels"][GATEWAY_LABEL]

    assert example("as-in-the-seed") == wanted


def test_behind_a_socket_proxy_the_engines_socket_is_the_proxys() -> None:
    wanted, change = with_the_client(compose("site")), compose("socket-proxy")
    sidecar, changed = (each["services"]["wgroutemgr"] for each in (wanted, change))
    _, directory = sidecar["volumes"]
    sidecar |= changed | {"volumes": [*changed["volumes"], directory]}
    wanted["services"]["socket-proxy"] = change["services"]["socket-proxy"]
    wanted["volumes"] = change["volumes"]

    assert example("behind-a-socket-proxy") == wanted


def test_two_gateways_are_the_quick_start_and_another_one_beside_it() -> None:
    wanted = with_the_client(compose("site"))
    services = wanted["services"]
    home, sidecar = (deepcopy(services[name]) for name in ("wireguard", "wgroutemgr"))
    home |= {"container_name": "home", "volumes": ["./home:/config"], "ports": []}
    home["networks"]["wg-net"]["ipv4_address"] = "192.168.67.130"
    sidecar |= {"container_name": "wgroutemgr-home"}
    sidecar["labels"][GATEWAY_LABEL] = "home"
    services |= {"home": home, "wgroutemgr-home": sidecar}
    services["dovecot"]["labels"] = {
        f"{NAMED_PREFIX}wireguard": "192.168.66.0/24",
        f"{NAMED_PREFIX}home": "192.168.66.0/24, 192.168.77.0/24",
        PREFER_LABEL: "wireguard, home",
    }

    assert example("two-gateways") == wanted


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return what both say; where they differ, what the second says."""
    both = {key: merged(first[key], value) for key, value in second.items() if has(first, key)}
    return first | second | both


def has(content: dict[str, Any], key: str) -> bool:
    return isinstance(content.get(key), dict)


def test_the_whole_way_is_the_quick_start_with_what_is_told() -> None:
    wanted = merged(with_the_client(compose("site")), compose("whole"))
    del wanted["services"]["wireguard"]["ports"]

    assert example("whole-tunnel") == wanted


def test_in_a_swarm_the_agent_has_what_the_sidecar_has_but_for_what_no_service_can() -> None:
    stack = yaml.safe_load((EXAMPLES / "swarm/stack.yaml").read_text())
    agent, sidecar = stack["services"]["wgroutemgr"], compose("site")["services"]["wgroutemgr"]
    network, options = stack["networks"]["wg-net"], ("cap_add", "cap_drop", "read_only")

    assert {key: agent[key] for key in options} == {key: sidecar[key] for key in options}
    del sidecar["volumes"][1]["bind"]["create_host_path"]  # the engine itself makes it in a swarm
    assert agent["volumes"] == sidecar["volumes"]
    assert agent["labels"] == {SERVICE_LABEL: "wg_wireguard", NETWORK_LABEL: network["name"]}
    assert network["ipam"]["config"] == [{"subnet": "192.168.67.0/24"}]
    assert network["driver_opts"] == {"com.docker.network.driver.mtu": str(1420 + OUTSIDE)}


@pytest.mark.parametrize("name", [each.name for each in EXAMPLES.iterdir()])
def test_an_example_says_what_to_change_and_how_to_see_that_it_works(name: str) -> None:
    text = DOCUMENTS[f"examples/{name}/README.md"]

    assert "\nChange: " in text
    assert "\nSee that it works: " in text
    assert len(text.splitlines()) <= LONGEST_README
