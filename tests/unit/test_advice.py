"""No fix is printed that the engine refuses, or that is in place already."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from lib import advice
from lib.model import Container, Endpoint

POINT = Endpoint("wg-net", "n1", (ip_interface("192.0.2.7/24"),))


def container(mode: str = "bridge", *points: Endpoint, running: bool = True) -> Container:
    return Container("id", "web", running, {}, mode, "", points)


@pytest.mark.parametrize(
    ("found", "fix"),
    [
        pytest.param(container(), "docker network connect wg-net web", id="elsewhere"),
        pytest.param(
            container(running=False), "docker network connect wg-net web", id="stopped elsewhere"
        ),
        pytest.param(
            container("none"),
            "networks: [wg-net]   # in the service of web, instead of network_mode: none",
            id="no network",
        ),
        pytest.param(
            container("host"),
            "networks: [wg-net]   # in the service of web, instead of network_mode: host",
            id="the host's",
        ),
        pytest.param(
            container("slirp4netns:mtu=1500"),
            "networks: [wg-net]   # in the service of web, "
            "instead of network_mode: slirp4netns:mtu=1500",
            id="rootless Podman's",
        ),
        pytest.param(container("wg-net", POINT), "docker restart web", id="without an address"),
        pytest.param(
            container("wg-net", POINT, running=False), "docker start web", id="stopped there"
        ),
    ],
)
def test_how_to_attach_a_container(found: Container, fix: str) -> None:
    assert advice.attach("wg-net", found) == fix


def test_several_are_restarted_one_after_the_other() -> None:
    assert advice.restart("a", "b") == "docker restart a && docker restart b"
