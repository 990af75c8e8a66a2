"""What `ip` prints, in the words of BusyBox and of iproute2, as the doctor reads it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.doctor import ip_output
from lib.doctor.ip_output import Link, Lookup


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue qlen 1000\n"
            "    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00\n"
            "    inet 127.0.0.1/8 scope host lo\n"
            "       valid_lft forever preferred_lft forever\n"
            "7: eth0@if8: <BROADCAST,MULTICAST,UP> mtu 1500 qdisc noqueue \n"
            "    inet 192.0.2.7/24 brd 192.0.2.255 scope global eth0\n"
            "    inet6 2001:db8::7/64 scope global flags 02 \n",
            id="BusyBox",
        ),
        pytest.param(
            "    inet 127.0.0.1/8 scope host lo\n"
            "    inet 192.0.2.7/24 brd 192.0.2.255 scope global eth0\n"
            "    inet6 2001:db8::7/64 scope global nodad\n"
            "    inet6 nonsense\n    inet\n",
            id="iproute2",
        ),
    ],
)
def test_addresses_are_read_from_either_program(text: str) -> None:
    assert ip_output.parse_addresses(text) == {
        ip_address("127.0.0.1"),
        ip_address("192.0.2.7"),
        ip_address("2001:db8::7"),
    }


@pytest.mark.parametrize(
    ("text", "device", "gateway"),
    [
        ("192.168.66.1 via 192.168.67.129 dev eth0  src 192.168.67.2", "eth0", "192.168.67.129"),
        ("192.168.66.1 dev wg0 src 10.255.255.1 uid 0 \n    cache ", "wg0", None),
        ("192.168.66.1 from 192.168.67.2 dev wg0  iif eth0", "wg0", None),
        ("local 192.168.67.129 dev lo src 192.168.67.129", "lo", None),
        (
            "fd00:66::1 from :: via fd00:67::2 dev eth0  src fd00:67::3  metric 1024",
            "eth0",
            "fd00:67::2",
        ),
        ("192.0.2.1 via inet6 fe80::1 dev eth0", "eth0", "fe80::1"),
        ("unreachable fd00:66::1 dev lo  metric 1024  error -113", "", None),
        ("", "", None),
    ],
)
def test_a_lookup_is_read_from_either_program(text: str, device: str, gateway: str | None) -> None:
    expected = Lookup(device, ip_address(gateway) if gateway else None)

    assert ip_output.parse_lookup(text) == expected


def test_a_lookup_is_of_the_address_family() -> None:
    v4, v6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")

    assert " ".join(ip_output.lookup_words(v4)) == "ip route get 192.0.2.1"
    assert " ".join(ip_output.lookup_words(v6, v6, "eth0")) == (
        "ip -6 route get 2001:db8::1 from 2001:db8::1 iif eth0"
    )


BUSYBOX_ADDRESSES = """\
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
    inet 127.0.0.1/8 scope host lo
3: eth0@if7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue qlen 1000
    link/ether c6:b6:f8:3e:3d:e1 brd ff:ff:ff:ff:ff:ff
    inet 192.168.67.129/24 scope global eth0
       valid_lft forever preferred_lft forever
4: wg0: <NO-CARRIER,POINTOPOINT,MULTICAST,NOARP,UP> mtu 1420 qdisc pfifo_fast qlen 500
    link/[65534]
    inet 10.255.255.1/30 scope global wg0
"""


def test_links_are_read_with_mtu_and_addresses() -> None:
    lo, eth0, wg0 = ip_output.parse_links(BUSYBOX_ADDRESSES)

    assert lo.name == "lo"
    assert eth0 == Link("eth0", 1500, "c6:b6:f8:3e:3d:e1", (ip_address("192.168.67.129"),))
    assert wg0 == Link("wg0", 1420, "", (ip_address("10.255.255.1"),))
    assert ip_output.parse_links("") == ()


def test_neighbours_are_read_from_either_program() -> None:
    text = (
        "192.168.67.3 dev eth0 lladdr 02:00:00:00:00:01 used 0/0/0 probes 0 PERMANENT\n"
        "fd00:67::5 dev eth0 lladdr 02:00:00:00:00:02 router REACHABLE\n"
        "192.168.67.4 dev eth0 FAILED\n\n"
    )

    assert ip_output.parse_neighbours(text) == {
        ip_address("192.168.67.3"): ("02:00:00:00:00:01", "PERMANENT"),
        ip_address("fd00:67::5"): ("02:00:00:00:00:02", "REACHABLE"),
        ip_address("192.168.67.4"): ("", "FAILED"),
    }


@given(st.text())
def test_any_text_of_the_doctors_commands_is_read(text: str) -> None:
    ip_output.parse_lookup(text)
    ip_output.parse_links(text)
    ip_output.parse_neighbours(text)
