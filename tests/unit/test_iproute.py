"""The `ip` dialect: command lines to the letter, and routes as both `ip` programs print them."""

from __future__ import annotations

import shlex
from ipaddress import ip_address, ip_network
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model import TABLE, Route, Rule, Step
from lib.routing import iproute, policy

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
            "replace",
            route("192.0.2.0/24", "198.51.100.1", 0)._replace(mtu=1280),
            "ip route replace 192.0.2.0/24 via 198.51.100.1 mtu 1280",
            id="IPv4, how large packets may be",
        ),
        pytest.param(
            "replace",
            route("2001:db8:1::/48", "2001:db8::1", 7)._replace(mtu=1280),
            "ip -6 route replace 2001:db8:1::/48 via 2001:db8::1 metric 7 mtu 1280",
            id="IPv6, how large packets may be",
        ),
        pytest.param(
            "del",
            route("192.0.2.0/24", "198.51.100.1", 0)._replace(mtu=1280),
            "ip route del 192.0.2.0/24 via 198.51.100.1",
            id="how large packets may be tells no route from another",
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
    ("step", "expected"),
    [
        (
            Step("replace", route("0.0.0.0/0", "198.51.100.1", 0)._replace(table=TABLE)),
            "ip route replace default via 198.51.100.1 table 671",
        ),
        (
            Step("replace", route("::/0", None, 1024, "unreachable")._replace(table=TABLE)),
            "ip -6 route replace unreachable default table 671",
        ),
        (
            Step("replace", policy.guard(ip_network("10.0.0.0/8"))),
            "ip route replace unreachable 10.0.0.0/8 metric 4000 table 671",
        ),
        (
            Step("add", policy.rules(4)[0]),
            "ip rule add pref 670 lookup main suppress_prefixlength 0",
        ),
        (Step("add", policy.rules(6)[1]), "ip -6 rule add pref 671 lookup 671"),
        (
            Step("add", Rule(4, 669, 254, source=ip_address("192.0.2.7"))),
            "ip rule add pref 669 from 192.0.2.7 lookup main",
        ),
        (
            Step("del", policy.rules(6)[0]),
            "ip -6 rule del pref 670 lookup main suppress_prefixlength 0",
        ),
        (Step("del", policy.rules(4)[1]), "ip rule del pref 671 lookup 671"),
        (
            Step("del", route("0.0.0.0/0", "198.51.100.1", 0)._replace(table=TABLE)),
            "ip route del default via 198.51.100.1 table 671",
        ),
        (
            Step("del", route("::/0", "2001:db8::1", 1024)._replace(table=TABLE)),
            "ip -6 route del default via 2001:db8::1 metric 1024 table 671",
        ),
        (
            Step("del", policy.guard(ip_network("0.0.0.0/0"))),
            "ip route del unreachable default metric 4000 table 671",
        ),
        (
            Step("del", policy.guard(ip_network("::/0"))),
            "ip -6 route del unreachable default metric 4000 table 671 dev lo",
        ),
    ],
)
def test_a_step_in_our_own_table_renders_to_exactly_this_line(step: Step, expected: str) -> None:
    assert iproute.command(NETNS, step) == f"nsenter --net={NETNS} {expected}"


@given(st.text(min_size=1))
def test_any_namespace_path_stays_one_word_of_the_shell(path: str) -> None:
    step = Step("replace", route("192.0.2.0/24", "198.51.100.1", 0))

    assert shlex.split(iproute.command(path, step)) == [
        "nsenter",
        f"--net={path}",
        *("ip", "route", "replace", "192.0.2.0/24", "via", "198.51.100.1"),
    ]


def test_a_source_address_is_the_last_word_of_a_command() -> None:
    step = Step("replace", route("198.51.100.0/24", "192.0.2.129", 0))

    assert iproute.command("/n", step, ip_address("192.0.2.7")) == (
        "nsenter --net=/n ip route replace 198.51.100.0/24 via 192.0.2.129 src 192.0.2.7"
    )
    step = Step("replace", route("0.0.0.0/0", "192.0.2.129", 0)._replace(table=TABLE))

    assert iproute.command("/n", step, ip_address("192.0.2.7")) == (
        "nsenter --net=/n ip route replace default via 192.0.2.129 table 671 src 192.0.2.7"
    )


def test_what_proves_a_namespace_is_on_the_loopback() -> None:
    step = Step("replace", policy.proof(6))

    assert iproute.command("/n", step, ip_address("fd::7")) == (
        "nsenter --net=/n ip -6 route replace 2001:db8::ffff/128 table 671 src fd::7 dev lo"
    )


def test_a_route_in_words_says_how_large_packets_may_be() -> None:
    sized = route("192.0.2.0/24", "198.51.100.1", 7)._replace(mtu=1280)

    assert iproute.text(sized) == "192.0.2.0/24 via 198.51.100.1 metric 7 mtu 1280"


@pytest.mark.parametrize("mtu", [0, 1280])
def test_of_two_that_differ_in_that_alone_exactly_one_is_deleted(mtu: int) -> None:
    sized = route("192.0.2.0/24", "198.51.100.1", 0)._replace(mtu=mtu)

    assert iproute.command("/n", Step("del", sized, exact=True)) == (
        f"nsenter --net=/n ip route del 192.0.2.0/24 via 198.51.100.1 mtu {mtu}"
    )
