"""Which hosts of a destination the kernel is asked for."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.routing.hosts import host, hosts

if TYPE_CHECKING:
    from lib.model import Network


@pytest.mark.parametrize(
    ("dst", "wanted"),
    [
        ("198.51.100.0/24", ["198.51.100.1", "198.51.100.2"]),
        ("198.51.100.8/31", ["198.51.100.9"]),
        ("198.51.100.8/32", ["198.51.100.8"]),
        ("2001:db8:1::/48", ["2001:db8:1::1", "2001:db8:1::2"]),
        ("2001:db8::8/128", ["2001:db8::8"]),
        ("128.0.0.0/1", ["128.0.0.1", "128.0.0.2"]),
        # These begin with what is the kernel's own.
        ("0.0.0.0/0", ["192.0.2.1", "192.0.2.2"]),
        ("::/0", ["2001:db8::1", "2001:db8::2"]),
        ("0.0.0.0/1", ["64.0.0.1", "64.0.0.2"]),
        ("0.0.0.0/7", ["1.0.0.1", "1.0.0.2"]),
        ("::/1", ["2001:db8::1", "2001:db8::2"]),
        ("::/3", ["1000::1", "1000::2"]),
    ],
)
def test_two_hosts_of_a_network(dst: str, wanted: list[str]) -> None:
    found = hosts(ip_network(dst))

    assert found == tuple(map(ip_address, wanted))
    assert host(ip_network(dst)) == found[0]
    assert all(one in ip_network(dst) for one in found)


@pytest.mark.parametrize(
    ("dst", "near", "wanted"),
    [
        pytest.param("198.51.100.0/24", "", "198.51.100.1 198.51.100.2", id="the first two"),
        pytest.param("198.51.100.0/31", "", "198.51.100.1", id="one"),
        pytest.param("198.51.100.7/32", "", "198.51.100.7", id="itself"),
        pytest.param("2001:db8:1::/48", "", "2001:db8:1::1 2001:db8:1::2", id="IPv6"),
        pytest.param("0.0.0.0/0", "", "192.0.2.1 192.0.2.2", id="everything"),
        pytest.param("0.0.0.0/1", "", "64.0.0.1 64.0.0.2", id="a half"),
        pytest.param("128.0.0.0/1", "", "128.0.0.1 128.0.0.2", id="the other half"),
        pytest.param("::/0", "", "2001:db8::1 2001:db8::2", id="all of IPv6"),
        pytest.param("::/2", "", "2001:db8::1 2001:db8::2", id="a quarter of IPv6"),
        pytest.param(
            "192.168.0.0/16",
            "192.168.0.0/24",
            "192.168.1.1 192.168.1.2",
            id="after the network of the gateway",
        ),
        pytest.param(
            "192.168.0.0/16",
            "192.168.1.0/24 192.168.0.0/24 192.168.7.0/24",
            "192.168.2.1 192.168.2.2",
            id="after several",
        ),
        pytest.param(
            "192.168.0.0/16",
            "192.168.0.0/17 10.0.0.0/8 fd00::/8 192.168.128.0/32",
            "192.168.128.1 192.168.128.2",
            id="after a half of it",
        ),
        pytest.param("fd00::/16", "fd00::/64", "fd00:0:0:1::1 fd00:0:0:1::2", id="in IPv6 as well"),
        pytest.param(
            "10.8.0.0/24", "10.8.0.0/16", "10.8.0.1 10.8.0.2", id="in that of the tunnel itself"
        ),
        pytest.param(
            "255.255.255.0/24", "255.255.255.0/24", "255.255.255.1 255.255.255.2", id="the last"
        ),
    ],
)
def test_not_such_as_are_near(dst: str, near: str, wanted: str) -> None:
    found = hosts(ip_network(dst), [ip_network(one) for one in near.split()])

    assert found == tuple(ip_address(one) for one in wanted.split())


NETWORKS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)),
).map(lambda pair: ip_network(f"{pair[0]}/{pair[1]}", strict=False))


@given(NETWORKS, st.lists(NETWORKS, max_size=4))
def test_there_is_one_for_any_destination(dst: Network, near: list[Network]) -> None:
    found = hosts(dst, near)

    assert found
    assert all(host in dst for host in found)
