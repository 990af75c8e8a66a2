"""The few questions that a value answers."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from lib.model import Container, Endpoint, Gateway

WG_NET = Endpoint("wg-net", "n1", (ip_interface("192.0.2.10/24"),))
OTHER = Endpoint("other", "n2", ())


def container(network_mode: str = "wg-net") -> Container:
    return Container("c1", "dovecot", True, {}, network_mode, "", (WG_NET, OTHER))  # noqa: FBT003 - the field's value


@pytest.mark.parametrize(
    ("network_mode", "owner"),
    [
        ("container:c0ffee", "c0ffee"),
        ("container:wireguard", "wireguard"),
        ("container:", None),
        ("wg-net", None),
        ("bridge", None),
        ("host", None),
        ("none", None),
        ("ns:/run/netns/x", None),
        ("", None),
    ],
)
def test_only_a_container_mode_shares_the_namespace_of_another(
    network_mode: str, owner: str | None
) -> None:
    assert container(network_mode).shares_netns_of == owner


def test_an_endpoint_is_found_by_the_id_or_the_name_of_its_network() -> None:
    assert container().endpoint("n2") is OTHER
    assert container().endpoint("wg-net") is WG_NET
    assert container().endpoint("n3") is None


@pytest.mark.parametrize(
    ("version", "expected"), [(4, ip_address("192.0.2.1")), (6, None)], ids=["IPv4", "IPv6"]
)
def test_a_gateway_tells_its_address_of_a_family_or_that_it_has_none(
    version: int, expected: object
) -> None:
    gateway = Gateway("wireguard", "gw", "wg-net", "n1", (ip_address("192.0.2.1"),))

    assert gateway.address(version) == expected
