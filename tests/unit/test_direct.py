"""What keeps off the gateway: what a label asks for, and by which way that goes."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from lib.model import (
    DIRECT,
    DIRECT_LABEL,
    MAIN,
    NETWORKS_LABEL,
    TABLE,
    Client,
    Container,
    Endpoint,
    Gateway,
    Inside,
    PublishedPort,
    Refusal,
    Route,
    Rule,
    Snapshot,
)
from lib.routing import desired, direct, labels
from lib.routing.plan import chain, plan

GATEWAY = Gateway("wireguard", "gw", "wg-net", "n1", tuple(map(ip_address, ("192.0.2.1", "fd::1"))))
ON_WG_NET = Endpoint("wg-net", "n1", (ip_interface("192.0.2.7/24"), ip_interface("fd::7/64")))
FRONT = Endpoint("front", "n2", (ip_interface("10.5.0.7/24"), ip_interface("fd05::7/64")))
ALL = "0.0.0.0/0,::/0"


def asking(
    networks: str,
    label: str,
    *others: Endpoint,
    gateway: Gateway = GATEWAY,
    **values: object,
) -> Client:
    """Return what a client with these labels gets, on wg-net and these networks."""
    one = Container(
        id="c1",
        name="web",
        running=True,
        labels={NETWORKS_LABEL: networks, DIRECT_LABEL: label},
        network_mode="wg-net",
        sandbox_key="/run/docker/netns/web",
        endpoints=(ON_WG_NET, *others),
    )
    whole = one._replace(**values)  # type: ignore[arg-type]
    (client,) = desired.compute(Snapshot(((whole, whole),)), gateway).clients
    return client


def unresolved(dst: str, table: int = MAIN) -> Route:
    network = ip_network(dst)
    return Route(network, None, {4: 0, 6: 1024}[network.version], DIRECT, table)


FROM4, FROM6 = (Rule(face.version, 669, MAIN, source=face.ip) for face in FRONT.interfaces)


@pytest.mark.parametrize(
    ("networks", "label", "things"),
    [
        pytest.param(ALL, "", (), id="nothing"),
        pytest.param(ALL, "198.51.100.0/24", (unresolved("198.51.100.0/24"),), id="IPv4"),
        pytest.param(ALL, "2001:db8::/32", (unresolved("2001:db8::/32"),), id="IPv6"),
        pytest.param(
            "10.8.0.0/16", "10.8.1.0/24", (unresolved("10.8.1.0/24"),), id="of a plain network"
        ),
        pytest.param(ALL, "128.0.0.0/1", (unresolved("128.0.0.0/1", TABLE),), id="a half"),
        pytest.param(
            ALL, "10.0.0.0/8", (unresolved("10.0.0.0/8", TABLE),), id="around an attached one"
        ),
        pytest.param(ALL, "front", (FROM4, FROM6), id="a name"),
        pytest.param(ALL, "n2", (FROM4, FROM6), id="an id"),
        pytest.param("0.0.0.0/0", "front", (FROM4,), id="of the IP versions that are served"),
        pytest.param(
            ALL,
            " front ,198.51.100.0/24,, front",
            (FROM4, FROM6, unresolved("198.51.100.0/24", TABLE)),
            id="both",
        ),
    ],
)
def test_a_label_asks_for(networks: str, label: str, things: tuple[Route | Rule, ...]) -> None:
    client = asking(networks, label, FRONT)

    assert client.direct == things
    assert [one for one in client.refusals if not one.served] == []


@pytest.mark.parametrize(
    ("networks", "label", "reason", "hint"),
    [
        pytest.param(
            ALL,
            "192.0.2.0/25",
            "is equal to or inside 192.0.2.0/24, to which the container is attached",
            "remove it: the container reaches that network directly",
            id="attached",
        ),
        pytest.param(
            "10.8.0.0/16",
            "10.9.0.0/16",
            "is inside no network of wgroutemgr.networks that is served",
            "remove it from wgroutemgr.direct: it goes past the gateway",
            id="outside",
        ),
        pytest.param(
            "10.8.0.0/16",
            "0.0.0.0/0",
            "is inside no network of wgroutemgr.networks that is served",
            "remove it from wgroutemgr.direct: it goes past the gateway",
            id="everything",
        ),
        pytest.param(
            "0.0.0.0/0",
            "fd09::/64",
            "is inside no network of wgroutemgr.networks that is served",
            "remove it from wgroutemgr.direct: it goes past the gateway",
            id="of an IP version that is not served",
        ),
        pytest.param(
            "10.8.0.0/16",
            "10.8.0.0/16",
            "stands in wgroutemgr.networks too, and goes through the gateway",
            "name it in wgroutemgr.networks or in wgroutemgr.direct, not in both",
            id="in both labels",
        ),
        *[
            pytest.param(
                ALL,
                name,
                "is the network of the gateway: all would go past it",
                "name another network, or those who call in CIDR notation",
                id=name,
            )
            for name in ("wg-net", "n1")
        ],
        pytest.param(
            ALL,
            "lan",
            "is the name of no network to which the container is attached",
            "write front",
            id="another",
        ),
        pytest.param(
            ALL,
            "docker_gwbridge",
            "is the engine's own network, which does not tell whose address is whose",
            "write the networks of those who call in CIDR notation",
            id="of an overlay",
        ),
        pytest.param(ALL, "10.8.0.0", "has no prefix length", "write 10.8.0.0/32", id="no length"),
        pytest.param(ALL, "10.8.0.1/24", "has host bits set", "write 10.8.0.0/24", id="host bits"),
        pytest.param(
            ALL,
            "224.0.0.0/4",
            "is not unicast: multicast, 224.0.0.0/4",
            "no gateway leads there",
            id="multicast",
        ),
        pytest.param(
            ALL,
            "a b",
            "is not a network in CIDR notation",
            "write it like 192.168.66.0/24",
            id="neither",
        ),
    ],
)
def test_what_is_refused(networks: str, label: str, reason: str, hint: str) -> None:
    client = asking(networks, f"{label},198.51.100.0/24", FRONT)

    refused = [one for one in client.refusals if not one.served]
    assert Refusal(label, reason, hint) in refused
    assert len(refused) == (1 if "/0" in networks else 2)  # The good one is outside of the others.


def test_who_is_on_no_other_network_is_told_how_to_get_there() -> None:
    (refused,) = (one for one in asking(ALL, "lan").refusals if not one.served)

    assert refused.hint == "docker network connect lan web"


def test_with_a_name_all_routes_are_in_our_table_else_they_are_where_they_were() -> None:
    """Of the main table, such a rule passes by the default route alone."""
    networks = "10.8.0.0/16,fd08::/64"

    assert {one.table for one in asking(networks, "front", FRONT).routes} == {TABLE}
    assert {one.table for one in asking(networks, "nowhere", FRONT).routes} == {TABLE}
    assert {one.table for one in asking(networks, "10.8.1.0/24", FRONT).routes} == {MAIN}


def test_while_the_gateway_is_lost_it_is_the_same() -> None:
    lost = GATEWAY._replace(addresses=(), lost=frozenset({4, 6}))
    label = "front,198.51.100.0/24"

    client = asking(ALL, label, FRONT, gateway=lost)

    assert client.direct == asking(ALL, label, FRONT).direct
    assert {one.kind for one in client.routes} == {"unreachable"}


def default(
    gateway: str | None, metric: int = 0, kind: str = "unicast", table: int = MAIN
) -> Route:
    address = ip_address(gateway) if gateway else None
    everything = "::/0" if address and address.version == 6 else "0.0.0.0/0"
    return Route(ip_network(everything), address, metric, kind, table)


@pytest.mark.parametrize(
    ("dst", "routes", "gateway"),
    [
        pytest.param("198.51.100.0/24", (default("192.0.2.254"),), "192.0.2.254", id="IPv4"),
        pytest.param("2001:db8::/32", (default("fd::fe", 1024),), "fd::fe", id="IPv6"),
        pytest.param(
            "198.51.100.0/24",
            (default("192.0.2.253", 100), default("192.0.2.254", 50)),
            "192.0.2.254",
            id="the one that wins",
        ),
        pytest.param("198.51.100.0/24", (), "", id="none, as on an internal network"),
        pytest.param("198.51.100.0/24", (default("fd::fe", 1024),), "", id="of the other version"),
        pytest.param("198.51.100.0/24", (default(None, 0, "connected"),), "", id="onto a device"),
        pytest.param("198.51.100.0/24", (default(None, 0, "unreachable"),), "", id="to nowhere"),
        pytest.param("198.51.100.0/24", (default("192.0.2.1", table=TABLE),), "", id="ours"),
        pytest.param("2001:db8::/32", (default("fe80::1", 1024),), "", id="of the link alone"),
    ],
)
def test_the_way_is_that_of_the_default_route(
    dst: str, routes: tuple[Route, ...], gateway: str
) -> None:
    wanted = unresolved(dst)
    version = wanted.version
    reason = f"has no other way: the engine gave the container no IPv{version} gateway"
    hint = "attach the container to a network that is not internal, or remove the entry"
    way = wanted._replace(gateway=ip_address(gateway), kind="unicast") if gateway else None

    assert direct.resolved([wanted, FROM4], Inside(routes)) == {
        wanted: way or Refusal(dst, reason, hint)
    }


@pytest.mark.parametrize("table", [MAIN, TABLE])
def test_what_another_container_in_the_namespace_wants_through_the_gateway_goes_there(
    table: int,
) -> None:
    wanted = unresolved("10.8.1.0/24", table)
    through = wanted._replace(gateway=ip_address("192.0.2.1"), kind="unicast")

    (remark,) = direct.resolved([through, wanted], Inside((default("192.0.2.254"),))).values()

    assert isinstance(remark, Refusal)
    assert remark.reason == (
        "is to go through the gateway for another container in this network namespace"
    )


def test_a_default_route_by_the_gateway_itself_is_no_other_way() -> None:
    wanted = unresolved("198.51.100.0/24")
    everything = default("192.0.2.1", table=TABLE)

    (remark,) = direct.resolved([everything, wanted], Inside((default("192.0.2.1"),))).values()

    assert isinstance(remark, Refusal)
    assert remark.reason == (
        "has no other way: the container's default route leads to the gateway, too"
    )


def test_its_failure_keeps_none_of_the_other_rules_waiting() -> None:
    first, table = plan([FROM4, Rule(4, 671, 671)], ())

    assert (first.thing, table.thing) == (FROM4, Rule(4, 671, 671))
    assert chain(first) != chain(table)


@pytest.mark.parametrize(
    ("label", "address", "told"),
    [
        ("", None, True),
        ("front", None, False),
        ("nowhere", None, True),
        ("198.51.100.0/24", None, True),
        ("198.51.100.0/24", "198.51.100.1", False),
        ("198.51.101.0/24", "198.51.100.1", True),
    ],
)
def test_callers_who_are_thought_of_are_no_surprise(
    label: str, address: str | None, *, told: bool
) -> None:
    port = PublishedPort("80/tcp", ip_address(address) if address else None, 4)

    client = asking(ALL, label, FRONT, published=(port,))

    assert any("callers" in one.reason for one in client.refusals) == told


def test_nor_is_a_name_server() -> None:
    servers = (ip_address("10.8.1.53"),)

    assert asking("10.8.0.0/16", "", dns=servers).refusals[0].served
    assert asking("10.8.0.0/16", "10.8.1.0/24", dns=servers).refusals == ()


def test_a_label_has_its_limit_too() -> None:
    label = ",".join(f"n{number}" for number in range(labels.MAX_ENTRIES + 2))

    names, refused = labels.parse_direct(label)

    assert len(names) == labels.MAX_ENTRIES
    assert [one.entry for one in refused] == [f"n{labels.MAX_ENTRIES}"]
