"""A sidecar with a network of its own, or none, and a gateway that it is told by a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.look import await_event, await_routes, routes
from tests.lab import images
from tests.lab.site import PRIVILEGES

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"


def alone(lab: Lab, mode: str, network: str, *options: str) -> Container:
    """Run a sidecar that shares nobody's network."""
    words = (*PRIVILEGES, "--network", mode, "--label", f"wgroutemgr.network={network}")
    return lab.container("sidecar", images.product(lab.engine), *words, *options)


def test_without_a_network_it_serves_the_gateway_that_its_label_names(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = alone(lab, "none", network, "--label", f"wgroutemgr.gateway={gateway.name}")
    found = await_event(sidecar, "sidecar.found")
    assert (found["container"], found["network"]) == (sidecar.name, network)
    client = lab.client("client", network, networks=DST)

    await_routes(client, {DST: gateway.address(network)})
    gateway.restart()
    await_routes(client, {DST: gateway.address(network)})
    seen = sidecar.exec("sh", "-c", "wgroutemgr doctor; :")
    assert f"{gateway.name}, named by the label wgroutemgr.gateway" in seen
    assert f"we are {sidecar.name}, known by " in seen


@pytest.mark.usefixtures("gateway")
def test_in_a_network_of_its_own_it_does_not_take_itself_for_the_gateway(
    lab: Lab, network: str
) -> None:
    client = lab.client("client", network, networks=DST)
    sidecar = alone(lab, network, network)

    waits = await_event(sidecar, "gateway.missing")
    assert waits["reason"] == "this container has a network of its own: name the gateway"
    assert routes(client) == {}


def test_a_gateway_in_the_hosts_network_changes_nobodys_routes(lab: Lab, network: str) -> None:
    client = lab.client("client", network, networks=DST)
    gateway = lab.client("gateway", "host")
    sidecar = lab.sidecar("sidecar", gateway, network=network)

    waits = await_event(sidecar, "gateway.missing")
    assert waits["reason"] == (
        f"the gateway {gateway.name} uses the host's network: "
        "clients reach its tunnels by their default route"
    )
    assert routes(client) == {}
