"""The `ip` dialect: command lines to the letter, and routes as both `ip` programs print them."""

from __future__ import annotations

import shlex
from ipaddress import ip_address, ip_network
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import iproute
from lib.model import Link, Lookup, Route, Step

NETNS = "/var/run/docker/netns/0a1b2c3d4e5f"


def route(dst: str, gateway: str | None, metric: int, kind: str = "unicast") -> Route:
    return Route(ip_network(dst), ip_address(gateway) if gateway else None, metric, kind)


@pytest.mark.parametrize(
    ("verb", "subject", "expected"),
    [
        pytest.param(
            "replace",
            route("192.168.66.0/24", "192.168.67.129", 0),
            "ip route replace 192.168.66.0/24 via 192.168.67.129",
            id="the everyday one",
        ),
        pytest.param(
            "replace",
            route("2001:db8:1::/48", "2001:db8::1", 1024),
            "ip -6 route replace 2001:db8:1::/48 via 2001:db8::1",
            id="IPv6",
        ),
        pytest.param(
            "replace",
            route("192.0.2.7/32", "198.51.100.1", 0),
            "ip route replace 192.0.2.7/32 via 198.51.100.1",
            id="a single host",
        ),
        pytest.param(
            "replace",
            route("192.0.2.0/24", None, 0, "unreachable"),
            "ip route replace unreachable 192.0.2.0/24",
            id="unreachable",
        ),
        pytest.param(
            "del",
            route("192.0.2.0/24", "198.51.100.1", 50),
            "ip route del 192.0.2.0/24 via 198.51.100.1 metric 50",
            id="of another metric",
        ),
        pytest.param(
            "del",
            route("2001:db8:1::/48", "2001:db8::1", 0),
            "ip -6 route del 2001:db8:1::/48 via 2001:db8::1 metric 0",
            id="IPv6, metric 0 is not its default",
        ),
        pytest.param(
            "del",
            route("192.0.2.0/24", "198.51.100.1", 1024),
            "ip route del 192.0.2.0/24 via 198.51.100.1 metric 1024",
            id="IPv4, metric 1024 is not its default",
        ),
        pytest.param(
            "del",
            route("192.0.2.0/24", None, 0),
            "ip route del 192.0.2.0/24",
            id="without a gateway",
        ),
        pytest.param(
            "del",
            route("192.0.2.0/24", None, 50, "connected"),
            "ip route del 192.0.2.0/24 metric 50",
            id="of an interface",
        ),
        pytest.param(
            "del",
            route("192.0.2.0/24", None, 7, "blackhole"),
            "ip route del blackhole 192.0.2.0/24 metric 7",
            id="blackhole",
        ),
        pytest.param(
            "del",
            route("2001:db8:1::/48", "2001:db8::1", 1024),
            "ip -6 route del 2001:db8:1::/48 via 2001:db8::1 metric 1024",
            id="IPv6, not another of a lower metric",
        ),
    ],
)
def test_a_step_renders_to_exactly_this_line(
    verb: Literal["replace", "del"], subject: Route, expected: str
) -> None:
    assert iproute.command(NETNS, Step(verb, subject)) == f"nsenter --net={NETNS} {expected}"


@pytest.mark.parametrize(
    ("version", "expected"), [(4, "ip route show"), (6, "ip -6 route show")], ids=["IPv4", "IPv6"]
)
def test_the_main_table_of_a_version_is_shown_with_this_line(version: int, expected: str) -> None:
    assert iproute.show_command(NETNS, version) == f"nsenter --net={NETNS} {expected}"


@given(st.text(min_size=1))
def test_any_namespace_path_stays_one_word_of_the_shell(path: str) -> None:
    step = Step("replace", route("192.0.2.0/24", "198.51.100.1", 0))

    assert shlex.split(iproute.command(path, step)) == [
        "nsenter",
        f"--net={path}",
        *("ip", "route", "replace", "192.0.2.0/24", "via", "198.51.100.1"),
    ]


# What both programs print for the same two tables (a veth link that was down for the first).
IPROUTE2_IPV4 = """\
default via 192.0.2.1 dev d0 linkdown \n\
192.0.2.0/24 dev d0 proto kernel scope link src 192.0.2.2 linkdown \n\
198.51.100.0/24 via 192.0.2.1 dev d0 linkdown \n\
198.51.100.7 via 192.0.2.1 dev d0 linkdown \n\
198.51.100.64/26 via inet6 2001:db8::1 dev d0 linkdown \n\
198.51.100.128/25 linkdown \n\
\tnexthop via 192.0.2.1 dev d0 weight 1 linkdown \n\
\tnexthop via 192.0.2.3 dev d0 weight 1 linkdown \n\
203.0.113.0/24 via 192.0.2.1 dev d0 metric 3000000000 linkdown \n\
blackhole 203.0.113.64/26 metric 5 \n\
unreachable 203.0.113.128/25 \n\
"""
BUSYBOX_IPV4 = """\
default via 192.0.2.1 dev d0 \n\
192.0.2.0/24 dev d0 scope link  src 192.0.2.2 \n\
198.51.100.0/24 via 192.0.2.1 dev d0 \n\
198.51.100.7 via 192.0.2.1 dev d0 \n\
198.51.100.64/26 dev d0 \n\
198.51.100.128/25 \n\
203.0.113.0/24 via 192.0.2.1 dev d0  metric -1294967296 \n\
blackhole 203.0.113.64/26  metric 5 \n\
unreachable 203.0.113.128/25 \n\
"""
IPROUTE2_IPV6 = """\
2001:db8::/64 dev d0 proto kernel metric 256 linkdown pref medium
2001:db8:1::/48 via 2001:db8::1 dev d0 metric 1024 linkdown pref medium
unreachable 2001:db8:2::/48 dev lo metric 1024 pref medium
2001:db8:3::1 via 2001:db8::1 dev d0 metric 5 linkdown pref medium
2001:db8:4::/48 metric 1024 pref medium
\tnexthop via 2001:db8::1 dev d0 weight 1 linkdown \n\
\tnexthop via 2001:db8::3 dev d0 weight 1 linkdown \n\
fe80::/64 dev d0 proto kernel metric 256 linkdown pref medium
default via 2001:db8::1 dev d0 metric 1024 linkdown pref medium
"""
BUSYBOX_IPV6 = """\
2001:db8::/64 dev d0  metric 256 \n\
2001:db8:1::/48 via 2001:db8::1 dev d0  metric 1024 \n\
unreachable 2001:db8:2::/48 dev lo  metric 1024 \n\
2001:db8:3::1 via 2001:db8::1 dev d0  metric 5 \n\
2001:db8:4::/48  metric 1024 \n\
fe80::/64 dev d0  metric 256 \n\
default via 2001:db8::1 dev d0  metric 1024 \n\
"""

IPV4 = (
    route("0.0.0.0/0", "192.0.2.1", 0),
    route("192.0.2.0/24", None, 0, "connected"),
    route("198.51.100.0/24", "192.0.2.1", 0),
    route("198.51.100.7/32", "192.0.2.1", 0),
    route("198.51.100.64/26", "2001:db8::1", 0),
    route("198.51.100.128/25", None, 0),
    route("203.0.113.0/24", "192.0.2.1", 3_000_000_000),
    route("203.0.113.64/26", None, 5, "blackhole"),
    route("203.0.113.128/25", None, 0, "unreachable"),
)
IPV6 = (
    route("2001:db8::/64", None, 256, "connected"),
    route("2001:db8:1::/48", "2001:db8::1", 1024),
    route("2001:db8:2::/48", None, 1024, "unreachable"),
    route("2001:db8:3::1/128", "2001:db8::1", 5),
    route("2001:db8:4::/48", None, 1024),
    route("fe80::/64", None, 256, "connected"),
    route("::/0", "2001:db8::1", 1024),
)
# BusyBox does not show a gateway of the other family.
BUSYBOX_ONLY = {ip_network("198.51.100.64/26"): route("198.51.100.64/26", None, 0, "connected")}


@pytest.mark.parametrize(
    ("text", "version", "expected"),
    [
        pytest.param(IPROUTE2_IPV4, 4, IPV4, id="iproute2, IPv4"),
        pytest.param(
            BUSYBOX_IPV4,
            4,
            tuple(BUSYBOX_ONLY.get(known.dst, known) for known in IPV4),
            id="BusyBox, IPv4",
        ),
        pytest.param(IPROUTE2_IPV6, 6, IPV6, id="iproute2, IPv6"),
        pytest.param(BUSYBOX_IPV6, 6, IPV6, id="BusyBox, IPv6"),
        pytest.param("", 4, (), id="an empty table"),
        pytest.param("\n\n", 4, (), id="empty lines"),
    ],
)
def test_a_table_is_read_the_same_from_either_program(
    text: str, version: int, expected: tuple[Route, ...]
) -> None:
    assert iproute.parse(text, version) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            "192.0.2.0/24 nhid 7 via 198.51.100.1 dev eth0 proto static",
            route("192.0.2.0/24", "198.51.100.1", 0),
            id="next hop object",
        ),
        pytest.param(
            "192.0.2.0/24 via 198.51.100.1 dev eth0 proto static src 198.51.100.2 mtu 1400",
            route("192.0.2.0/24", "198.51.100.1", 0),
            id="further attributes",
        ),
        pytest.param(
            "multicast ff00::/8 dev d0  metric 256",
            route("ff00::/8", None, 256, "multicast"),
            id="a kind of its own",
        ),
        pytest.param(
            "192.0.2.0/24 via 198.51.100.1 dev metric",
            route("192.0.2.0/24", "198.51.100.1", 0),
            id="an interface called like a keyword",
        ),
    ],
)
def test_a_line_with_more_than_we_use_is_still_a_route(line: str, expected: Route) -> None:
    assert iproute.parse(line, expected.dst.version) == (expected,)


@pytest.mark.parametrize(
    "line",
    ["Dump terminated", "Error: argument", "unreachable", "RTNETLINK answers: No such process"],
)
def test_a_line_that_is_no_route_is_passed_over(line: str) -> None:
    text = f"{line}\n192.0.2.0/24 via 198.51.100.1 dev eth0\n"

    assert iproute.parse(text, 4) == (route("192.0.2.0/24", "198.51.100.1", 0),)


WORDS = st.sampled_from(
    ["via", "metric", "dev", "default", "unreachable", "192.0.2.0/24", "2001:db8::1", "inet6", "-7"]
)


@given(st.one_of(st.text(), st.lists(WORDS).map(" ".join)), st.sampled_from([4, 6]))
def test_any_output_is_read_without_an_exception(text: str, version: int) -> None:
    for found in iproute.parse(text, version):
        assert 0 <= found.metric < 2**32


ROUTES = st.one_of(
    st.builds(
        Route,
        st.sampled_from([ip_network("192.0.2.0/24"), ip_network("198.51.100.7/32")]),
        st.one_of(st.none(), st.ip_addresses(v=4)),
        st.integers(0, 2**32 - 1),
        st.sampled_from(["unicast", "unreachable"]),
    ),
    st.builds(
        Route,
        st.sampled_from([ip_network("2001:db8:1::/48"), ip_network("2001:db8::7/128")]),
        st.one_of(st.none(), st.ip_addresses(v=6)),
        st.one_of(st.just(1024), st.integers(1, 2**32 - 1)),
        st.sampled_from(["unicast", "unreachable"]),
    ),
)


@given(ROUTES)
def test_what_is_set_is_read_back(wanted: Route) -> None:
    _, _, line = iproute.command(NETNS, Step("replace", wanted)).partition(" replace ")

    assert iproute.parse(line, wanted.dst.version) == (wanted,)


def test_a_source_address_is_the_last_word_of_a_command() -> None:
    step = Step("replace", route("198.51.100.0/24", "192.0.2.129", 0))

    assert iproute.command("/n", step, ip_address("192.0.2.7")) == (
        "nsenter --net=/n ip route replace 198.51.100.0/24 via 192.0.2.129 src 192.0.2.7"
    )


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
    assert iproute.parse_addresses(text) == {
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
        ("fd00:66::1 from :: via fd00:67::2 dev eth0  src fd00:67::3  metric 1024", "eth0", None),
        ("192.0.2.1 via inet6 fe80::1 dev eth0", "eth0", "fe80::1"),
        ("unreachable fd00:66::1 dev lo  metric 1024  error -113", "", None),
        ("", "", None),
    ],
)
def test_a_lookup_is_read_from_either_program(text: str, device: str, gateway: str | None) -> None:
    expected = "fd00:67::2" if "fd00:67::2" in text else gateway

    assert iproute.parse_lookup(text) == Lookup(device, ip_address(expected) if expected else None)


def test_a_lookup_is_of_the_address_family() -> None:
    v4, v6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")

    assert " ".join(iproute.lookup_words(v4)) == "ip route get 192.0.2.1"
    assert " ".join(iproute.lookup_words(v6, v6, "eth0")) == (
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
    lo, eth0, wg0 = iproute.parse_links(BUSYBOX_ADDRESSES)

    assert lo.name == "lo"
    assert eth0 == Link("eth0", 1500, "c6:b6:f8:3e:3d:e1", (ip_address("192.168.67.129"),))
    assert wg0 == Link("wg0", 1420, "", (ip_address("10.255.255.1"),))
    assert iproute.parse_links("") == ()


def test_neighbours_are_read_from_either_program() -> None:
    text = (
        "192.168.67.3 dev eth0 lladdr 02:00:00:00:00:01 used 0/0/0 probes 0 PERMANENT\n"
        "fd00:67::5 dev eth0 lladdr 02:00:00:00:00:02 router REACHABLE\n"
        "192.168.67.4 dev eth0 FAILED\n\n"
    )

    assert iproute.parse_neighbours(text) == {
        ip_address("192.168.67.3"): ("02:00:00:00:00:01", "PERMANENT"),
        ip_address("fd00:67::5"): ("02:00:00:00:00:02", "REACHABLE"),
        ip_address("192.168.67.4"): ("", "FAILED"),
    }


@given(st.text())
def test_any_text_of_the_doctors_commands_is_read(text: str) -> None:
    iproute.parse_lookup(text)
    iproute.parse_links(text)
    iproute.parse_neighbours(text)
