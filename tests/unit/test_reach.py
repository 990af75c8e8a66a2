"""What a client's own addresses can reach, as a table."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from lib.model import TABLE, Client, Inside, LocalAddress, Route
from lib.routing import policy, reach

V4 = Route(ip_network("198.51.100.0/24"), ip_address("192.0.2.1"), 0)
V6 = Route(ip_network("2001:db8:1::/48"), ip_address("fd::1"), 1024)
LOST = Route(V6.dst, None, 1024, "unreachable")
CONNECTED = Route(ip_network("fd::/64"), None, 256, "connected")
NO_IPV6 = "is IPv6, and the container has no IPv6 address on wg-net"


def here(*addresses: str, routes: tuple[Route, ...] = (), duplicate: str = "") -> Inside:
    found = (ip_interface(text) for text in addresses)
    return Inside(
        routes,
        tuple(
            LocalAddress(one.ip, one.network, is_duplicate=str(one.ip) == duplicate)
            for one in found
        ),
    )


@pytest.mark.parametrize(
    ("route", "inside", "reason"),
    [
        pytest.param(V6, here("fd::7/64"), "", id="neighbour"),
        pytest.param(V6, here("192.0.2.7/24"), NO_IPV6, id="no address of that version"),
        pytest.param(
            V4,
            here("fd::7/64"),
            "is IPv4, and the container has no IPv4 address on wg-net",
            id="nor of the other one",
        ),
        pytest.param(
            V6,
            here("fd:9::7/64"),
            f"{NO_IPV6} next to the gateway fd::1, but fd:9::7",
            id="detached from that network",
        ),
        pytest.param(
            V4,
            here("192.0.2.7/32"),
            "is IPv4, and the container has no IPv4 address on wg-net"
            " next to the gateway 192.0.2.1, but 192.0.2.7",
            id="a prefix without the gateway",
        ),
        pytest.param(V6, here(routes=(CONNECTED,)), "", id="connected without an address"),
        pytest.param(V6, here(routes=(V6,)), "", id="there already"),
        pytest.param(LOST, here(), "", id="unreachable needs no address"),
        pytest.param(
            V6,
            here("fd::7/64", duplicate="fd::7"),
            "is served, but somebody else on wg-net has the container's fd::7",
            id="a duplicate address",
        ),
        pytest.param(V6, here("fd::7/64", "fd::8/64", duplicate="fd::7"), "", id="another is well"),
    ],
)
def test_a_route_by_the_addresses_that_are_there(route: Route, inside: Inside, reason: str) -> None:
    client = reach.limited(Client("dovecot", "c1", "/netns", (route,)), inside, "wg-net")

    assert [refusal.reason for refusal in client.refusals] == [reason] * bool(reason)
    assert all(refusal.hint for refusal in client.refusals)
    is_refused = bool(reason) and not client.refusals[0].served
    assert client.routes == ((route,) if not is_refused else ())
    assert all(refusal.entry == str(route.dst) for refusal in client.refusals)


UNRULED = "is IPv6, and this kernel has no policy rules for IPv6"


@pytest.mark.parametrize(
    ("route", "routes", "reason"),
    [
        pytest.param(V6._replace(table=TABLE), (), UNRULED, id="in our table"),
        pytest.param(policy.guard(V6.dst), (), UNRULED, id="a guard"),
        pytest.param(policy.guard(V6.dst), (CONNECTED,), UNRULED, id="even with other routes"),
        pytest.param(LOST, (), UNRULED, id="unreachable, with no IPv6 at all"),
        pytest.param(LOST, (CONNECTED,), "", id="unreachable, with IPv6"),
        pytest.param(V6, (CONNECTED,), "", id="in the main table"),
        pytest.param(V4._replace(table=TABLE), (), "", id="of the other version"),
    ],
)
def test_what_takes_rules_is_refused_where_there_are_none(
    route: Route, routes: tuple[Route, ...], reason: str
) -> None:
    inside = here("192.0.2.7/24", "fd::7/64", routes=routes)._replace(ruled=frozenset({4}))

    found = reach.refusals([route], inside, "wg-net")

    assert [one.reason for one in found.values()] == [reason] * bool(reason)
    assert reach.refusals([route], inside._replace(ruled=frozenset({4, 6})), "wg-net") == {}
