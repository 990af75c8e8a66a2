"""Which hosts of a destination the kernel is asked for."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from lib.routing.hosts import host, hosts


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
