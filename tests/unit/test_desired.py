"""A snapshot to wanted routes, and a reason for everything that is left out."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model import (
    MAIN,
    TABLE,
    Candidate,
    Client,
    Container,
    Desired,
    DockerNetwork,
    Endpoint,
    Gateway,
    Gateways,
    PublishedPort,
    Refusal,
    Route,
    Skipped,
    Snapshot,
)
from lib.routing import desired
from lib.routing.fitness import unfit

WG_NET = "net-wg"
GATEWAY = Gateway(
    container="wireguard",
    container_id="gw",
    network="wg-net",
    network_id=WG_NET,
    addresses=(ip_address("192.0.2.129"), ip_address("2001:db8::129")),
)
IPV4_GATEWAY = GATEWAY._replace(addresses=(ip_address("192.0.2.129"),))


def endpoint(*addresses: str, network: str = "wg-net", network_id: str = WG_NET) -> Endpoint:
    return Endpoint(network, network_id, tuple(ip_interface(address) for address in addresses))


ON_WG_NET = endpoint("192.0.2.10/24", "2001:db8::10/64")
CLIENT = Container(
    id="c1",
    name="dovecot",
    running=True,
    labels={"wgroutemgr.networks": "198.51.100.0/24"},
    network_mode="wg-net",
    sandbox_key="/var/run/docker/netns/c1",
    endpoints=(ON_WG_NET,),
)
V4 = Route(ip_network("198.51.100.0/24"), ip_address("192.0.2.129"), 0)
V6 = Route(ip_network("2001:db8:1::/48"), ip_address("2001:db8::129"), 1024)
NOT_ATTACHED = Skipped(
    "dovecot",
    "c1",
    "is not attached to wg-net",
    "docker network connect wg-net dovecot",
    expected=True,
)


def compute(
    *containers: Container, gateway: Gateway = GATEWAY, owner: Container | None = None
) -> Desired:
    """Compute for containers in their own namespaces, or else in that of the owner."""
    pairs = tuple((container, owner or container) for container in containers)
    return desired.compute(Snapshot(pairs), gateway)


def asking(label: str, *endpoints: Endpoint, gateway: Gateway = GATEWAY) -> Client:
    """Return what a client with that label, attached like that, gets."""
    labels = {"wgroutemgr.networks": label}
    wanted = compute(
        CLIENT._replace(labels=labels, endpoints=endpoints or (ON_WG_NET,)), gateway=gateway
    )
    assert wanted.skipped == ()
    (client,) = wanted.clients
    return client


def test_a_labelled_container_on_the_network_gets_its_routes_in_its_namespace() -> None:
    assert compute(CLIENT) == Desired(
        (Client("dovecot", "c1", "/var/run/docker/netns/c1", (V4,)),), ()
    )


def test_each_family_leads_to_the_gateway_address_of_that_family() -> None:
    assert asking("198.51.100.0/24, 2001:db8:1::/48").routes == (V4, V6)


def test_clients_come_in_the_order_of_their_names() -> None:
    b, a = CLIENT._replace(id="1", name="b"), CLIENT._replace(id="2", name="a")

    assert [client.container for client in compute(b, a).clients] == ["a", "b"]


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        pytest.param(
            CLIENT._replace(running=False),
            Skipped(
                "dovecot", "c1", "dovecot is not running", "docker start dovecot", expected=True
            ),
            id="stopped",
        ),
        pytest.param(
            CLIENT._replace(network_mode="host", sandbox_key="/var/run/docker/netns/default"),
            Skipped(
                "dovecot",
                "c1",
                "uses the host's network namespace, which is never written",
                "attach it to wg-net instead, or remove the label",
            ),
            id="on the host's network",
        ),
        pytest.param(
            CLIENT._replace(id="gw"),
            Skipped(
                "dovecot",
                "gw",
                "is in the gateway's own network namespace",
                "remove the label wgroutemgr.networks: the gateway has these routes itself",
            ),
            id="the gateway itself",
        ),
        pytest.param(
            CLIENT._replace(endpoints=(endpoint("192.0.2.10/24", network_id="net-other"),)),
            NOT_ATTACHED._replace(hint="docker restart dovecot"),
            id="on another network of the same name",
        ),
        pytest.param(CLIENT._replace(endpoints=()), NOT_ATTACHED, id="on no network"),
        pytest.param(
            CLIENT._replace(sandbox_key=""),
            Skipped("dovecot", "c1", "has no network namespace yet", expected=True),
            id="not yet started",
        ),
    ],
)
def test_a_container_is_left_out_with_this_reason(container: Container, expected: Skipped) -> None:
    assert compute(container) == Desired((), (expected,))


def test_who_is_not_on_the_network_may_have_left_it() -> None:
    """What of everything and wide networks stands in its namespace holds on."""
    elsewhere = (endpoint("10.5.0.9/24", network="other", network_id="net-other"),)
    label = "0.0.0.0/0,198.51.100.0/24,192.0.0.0/16,10.0.0.0/8,2001:db8::/32"
    one = CLIENT._replace(endpoints=elsewhere, labels={"wgroutemgr.networks": label})

    (skipped,) = compute(one).skipped
    assert skipped.left
    assert {str(guard.dst) for guard in skipped.left.routes} == {*label.split(",")} - {
        "198.51.100.0/24"
    }
    assert all(guard.is_guard for guard in skipped.left.routes)
    plain = one._replace(labels={"wgroutemgr.networks": "198.51.100.0/24"})
    assert compute(plain).skipped[0].left is None
    assert compute(one._replace(sandbox_key="")).skipped[0].left is None
    other = Gateways("wireguard", "another", (Candidate("another"), Candidate("wireguard")))
    served = compute(one, gateway=GATEWAY._replace(among=other))
    assert served.skipped[0].left is None


def test_a_container_that_is_left_out_costs_the_others_nothing() -> None:
    wanted = compute(CLIENT._replace(id="c0", name="a", running=False), CLIENT)

    assert [client.container for client in wanted.clients] == ["dovecot"]
    assert [skipped.container for skipped in wanted.skipped] == ["a"]


SHARING = CLIENT._replace(
    id="c2", name="filter", network_mode="container:c1", sandbox_key="", endpoints=()
)


def test_a_container_in_the_namespace_of_another_gets_its_routes_there() -> None:
    owner = CLIENT._replace(labels={})

    assert compute(SHARING, owner=owner) == Desired(
        (Client("filter", "c2", "/var/run/docker/netns/c1", (V4,), shared_with="dovecot"),), ()
    )


def test_who_shared_a_namespace_and_ended_is_left_out() -> None:
    ended = SHARING._replace(running=False)

    (skipped,) = compute(ended, owner=CLIENT).skipped

    assert (skipped.reason, skipped.expected) == (f"{ended.name} is not running", True)


def test_who_shares_a_namespace_cannot_hide_a_network_that_its_owner_is_attached_to() -> None:
    sharing = SHARING._replace(labels={"wgroutemgr.networks": "192.0.2.0/25"})

    (client,) = compute(sharing, owner=CLIENT).clients

    assert client.routes == ()
    assert [refusal.reason for refusal in client.refusals] == [
        "is equal to or inside 192.0.2.0/24, to which the container is attached"
    ]


@pytest.mark.parametrize(
    ("owner", "reason", "expected"),
    [
        pytest.param(
            CLIENT._replace(running=False), "dovecot is not running", True, id="the owner stopped"
        ),
        pytest.param(
            CLIENT._replace(network_mode="host"),
            "uses the host's network namespace, which is never written",
            False,
            id="the owner is on the host's network",
        ),
        pytest.param(
            CLIENT._replace(id="gw"),
            "is in the gateway's own network namespace",
            False,
            id="the owner is the gateway",
        ),
        pytest.param(
            CLIENT._replace(endpoints=()),
            "is not attached to wg-net",
            True,
            id="the owner is on another network",
        ),
    ],
)
def test_what_holds_for_the_owner_of_a_namespace_holds_for_who_shares_it(
    owner: Container, reason: str, *, expected: bool
) -> None:
    wanted = compute(SHARING, owner=owner)

    assert wanted.clients == ()
    assert [(skip.container, skip.reason, skip.expected) for skip in wanted.skipped] == [
        ("filter", reason, expected)
    ]


def test_the_sidecars_own_label_makes_no_client_of_it() -> None:
    sidecar = SHARING._replace(network_mode="container:gw")
    owner = CLIENT._replace(id="gw", name="wireguard")

    wanted = compute(sidecar, owner=owner)

    assert wanted.clients == ()
    assert wanted.skipped[0].reason == "is in the gateway's own network namespace"


@pytest.mark.parametrize(
    "label", ["", " , ", "office"], ids=["empty", "only separators", "nothing but a mistake"]
)
def test_a_label_without_a_good_entry_gives_a_client_without_routes(label: str) -> None:
    assert asking(label).routes == ()


def test_a_bad_entry_costs_the_good_ones_nothing() -> None:
    client = asking("office,198.51.100.0/24")

    assert client.routes == (V4,)
    assert [refusal.entry for refusal in client.refusals] == ["office"]


@pytest.mark.parametrize(
    ("entry", "network"),
    [
        pytest.param("192.0.2.0/24", "192.0.2.0/24", id="the network itself"),
        pytest.param("192.0.2.128/25", "192.0.2.0/24", id="half of it"),
        pytest.param("192.0.2.129/32", "192.0.2.0/24", id="the gateway"),
        pytest.param("2001:db8::/64", "2001:db8::/64", id="the IPv6 network"),
        pytest.param("2001:db8::8/125", "2001:db8::/64", id="a part of the IPv6 network"),
        pytest.param("203.0.113.64/26", "203.0.113.0/25", id="a part of another network"),
    ],
)
def test_what_the_client_is_attached_to_is_refused(entry: str, network: str) -> None:
    other = endpoint("203.0.113.5/25", network="other", network_id="net-other")

    client = asking(f"{entry},198.51.100.0/24", ON_WG_NET, other)

    assert client.routes == (V4,)
    assert client.refusals == (
        Refusal(
            entry,
            f"is equal to or inside {network}, to which the container is attached",
            "remove it: the container reaches that network directly",
        ),
    )


@pytest.mark.parametrize(
    ("entry", "gateway", "table"),
    [
        pytest.param("192.0.0.0/16", "192.0.2.129", TABLE, id="around the network"),
        pytest.param("203.0.112.0/20", "192.0.2.129", TABLE, id="around another"),
        pytest.param("2001:db8::/32", "2001:db8::129", TABLE, id="IPv6"),
        pytest.param("10.0.0.0/8", "192.0.2.129", TABLE, id="around what is not listed"),
        pytest.param("0.0.0.0/1", "192.0.2.129", TABLE, id="a half, in which there is none"),
        pytest.param("128.0.0.0/1", "192.0.2.129", TABLE, id="a half"),
        pytest.param("8000::/1", "2001:db8::129", TABLE, id="an IPv6 half"),
        pytest.param("172.16.0.0/12", "192.0.2.129", MAIN, id="in which there is none"),
        pytest.param("192.0.3.0/24", "192.0.2.129", MAIN, id="beside it"),
    ],
)
def test_what_contains_an_attached_network_goes_to_our_own_table(
    entry: str, gateway: str, table: int
) -> None:
    other = endpoint("203.0.113.5/25", network="other", network_id="net-other")
    served = GATEWAY._replace(unlisted=(ip_network("10.255.0.0/16"),))

    client = asking(entry, ON_WG_NET, other, gateway=served)

    assert client.refusals == ()
    assert [(str(one.dst), str(one.gateway), one.table) for one in client.routes] == [
        (entry, gateway, table)
    ]


def test_what_is_inside_a_network_that_is_not_listed_is_refused() -> None:
    gateway = GATEWAY._replace(unlisted=(ip_network("10.255.0.0/16"),))

    assert asking("10.255.3.0/24", gateway=gateway).routes == ()


# --- everything ---------------------------------------------------------------------------------

EVERYTHING4 = Route(ip_network("0.0.0.0/0"), ip_address("192.0.2.129"), 0, table=TABLE)
EVERYTHING6 = Route(ip_network("::/0"), ip_address("2001:db8::129"), 1024, table=TABLE)
GUARD4 = Route(ip_network("0.0.0.0/0"), None, 4000, "unreachable", TABLE)
GUARD6 = Route(ip_network("::/0"), None, 4000, "unreachable", TABLE)


def test_everything_goes_to_our_own_table() -> None:
    client = asking("0.0.0.0/0, ::/0, 198.51.100.0/24")

    assert client.routes == (EVERYTHING4, EVERYTHING6, V4)
    assert client.refusals == ()


def test_everything_is_unreachable_there_while_the_gateway_is_lost() -> None:
    client = asking(
        "0.0.0.0/0,::/0", gateway=GATEWAY._replace(addresses=(), lost=frozenset({4, 6}))
    )

    assert client.routes == tuple(
        one._replace(gateway=None, kind="unreachable") for one in (EVERYTHING4, EVERYTHING6)
    )


@pytest.mark.parametrize(
    ("label", "other"),
    [
        pytest.param("0.0.0.0/0", 6, id="IPv4 alone"),
        pytest.param("::/0", 4, id="IPv6 alone"),
        pytest.param("0.0.0.0/0,2001:db8:1::/48", 6, id="IPv4, and some of IPv6"),
    ],
)
def test_one_ip_version_alone_is_told(label: str, other: int) -> None:
    client = asking(label)

    assert client.refusals == (
        Refusal(
            label.partition(",")[0],
            f"is served, but IPv{other} goes on by the engine's default route",
            "labels: {wgroutemgr.networks: '0.0.0.0/0, ::/0'}   "
            f"# IPv{other} goes by the gateway too then, or nowhere",
            served=True,
        ),
    )


def test_one_ip_version_is_all_where_there_is_no_other() -> None:
    client = asking("0.0.0.0/0", endpoint("192.0.2.10/24"))

    assert (client.routes, client.refusals) == ((EVERYTHING4,), ())


def test_all_of_an_ip_version_that_the_gateway_lacks_is_unreachable() -> None:
    client = asking("0.0.0.0/0,::/0", gateway=IPV4_GATEWAY)

    assert client.routes == (EVERYTHING4, GUARD6)
    assert client.refusals == (
        Refusal(
            "::/0",
            "is unreachable: the gateway has no IPv6 address on wg-net",
            "the network has IPv6: see the sysctls of wireguard",
            served=True,
        ),
    )


def test_that_is_no_news_for_who_lacks_it_too() -> None:
    client = asking("0.0.0.0/0,::/0", endpoint("192.0.2.10/24"), gateway=IPV4_GATEWAY)

    assert (client.routes, client.refusals) == ((EVERYTHING4, GUARD6), ())


def test_a_part_of_an_ip_version_that_the_gateway_lacks_is_refused_however_wide() -> None:
    assert asking("2001:db8::/32,8000::/1", gateway=IPV4_GATEWAY).routes == ()


def test_what_is_inside_one_network_and_around_another_is_refused() -> None:
    narrow = endpoint("10.5.0.9/24", network="narrow", network_id="net-narrow")
    wide = endpoint("10.0.0.9/8", network="wide", network_id="net-wide")

    client = asking("10.5.0.0/16", ON_WG_NET, narrow, wide)

    assert client.routes == ()


def test_a_neighbouring_network_is_not_attached() -> None:
    assert asking("192.0.3.0/24").refusals == ()


@pytest.mark.parametrize(
    ("entry", "gateway", "family"),
    [
        pytest.param("2001:db8:1::/48", IPV4_GATEWAY, "IPv6", id="IPv6"),
        pytest.param(
            "203.0.113.0/24",
            GATEWAY._replace(addresses=(ip_address("2001:db8::129"),)),
            "IPv4",
            id="IPv4",
        ),
    ],
)
def test_a_family_that_the_gateway_has_no_address_of_is_refused(
    entry: str, gateway: Gateway, family: str
) -> None:
    other = "192.0.2.10/24" if family == "IPv6" else "2001:db8::10/64"
    reason = f"is {family}, and the gateway has no {family} address on wg-net"
    for point, hint in (
        (endpoint(other), f"give the network wg-net an {family} subnet"),
        (ON_WG_NET, f"the network has {family}: see the sysctls of wireguard"),
    ):
        client = asking(entry, point, gateway=gateway)

        assert client.routes == ()
        assert client.refusals == (Refusal(entry, reason, hint),)


@pytest.mark.parametrize(
    ("lost", "label", "routes"),
    [
        pytest.param(
            {4}, "198.51.100.0/24", [V4._replace(gateway=None, kind="unreachable")], id="IPv4"
        ),
        pytest.param(
            {6}, "2001:db8:1::/48", [V6._replace(gateway=None, kind="unreachable")], id="IPv6"
        ),
        pytest.param(
            {6},
            "198.51.100.0/24,2001:db8:1::/48",
            [V4, V6._replace(gateway=None, kind="unreachable")],
            id="one of two",
        ),
    ],
)
def test_what_led_to_a_gateway_address_that_is_lost_is_unreachable(
    lost: set[int], label: str, routes: list[Route]
) -> None:
    left = tuple(address for address in GATEWAY.addresses if address.version not in lost)

    client = asking(label, gateway=GATEWAY._replace(addresses=left, lost=frozenset(lost)))

    assert client.routes == tuple(routes)
    assert client.refusals == ()


ATTACHED = st.lists(
    st.one_of(
        st.tuples(st.ip_addresses(v=4, network="10.0.0.0/14"), st.integers(8, 30)),
        st.tuples(st.ip_addresses(v=6, network="2001:db8::/44"), st.integers(32, 126)),
    ).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    max_size=3,
)
ENTRIES = st.lists(
    st.one_of(
        st.tuples(st.ip_addresses(v=4, network="10.0.0.0/14"), st.integers(6, 32)),
        st.tuples(st.ip_addresses(v=6, network="2001:db8::/44"), st.integers(30, 128)),
    ).map(lambda pair: str(ip_network(f"{pair[0]}/{pair[1]}", strict=False))),
    max_size=6,
)


@given(ATTACHED, ENTRIES)
def test_no_label_can_hide_a_network_that_its_client_is_attached_to(
    attached: list[str], entries: list[str]
) -> None:
    others = (endpoint(address, network_id=f"net-{address}") for address in attached)
    points = (endpoint("192.0.2.10/24"), *others)

    client = asking(",".join(entries), *points)

    connected = {interface.network for point in points for interface in point.interfaces}
    for route in client.routes:
        assert route.gateway == GATEWAY.address(route.dst.version)
        for network in connected:
            if network.version == route.dst.version:
                assert network.prefixlen > route.dst.prefixlen or not network.overlaps(route.dst)
    served = {str(route.dst) for route in client.routes}
    left_out = {remark.entry for remark in client.refusals if not remark.served}
    assert served | left_out == set(entries)
    assert not served & left_out


# --- what may surprise --------------------------------------------------------------------------


def port(name: str, address: str = "", version: int = 4) -> PublishedPort:
    return PublishedPort(name, ip_address(address) if address else None, version)


def remarks(label: str, **values: object) -> list[tuple[str, str]]:
    """Return entry and reason of what is served although it may surprise."""
    labels = {"wgroutemgr.networks": label}
    (client,) = compute(CLIENT._replace(labels=labels, **values)).clients  # type: ignore[arg-type]
    assert all(remark.served and remark.hint for remark in client.refusals)
    assert len(client.routes) == label.count(",") + 1
    return [(remark.entry, remark.reason) for remark in client.refusals]


@pytest.mark.parametrize(
    ("servers", "held"),
    [
        ((), ""),
        (("192.0.2.53",), ""),
        (("198.51.100.53",), "198.51.100.53"),
        (("198.51.100.53", "192.0.2.53", "198.51.100.54"), "198.51.100.53, 198.51.100.54"),
        (("2001:db8:1::53",), ""),
    ],
)
def test_a_name_server_in_a_destination_is_told(servers: tuple[str, ...], held: str) -> None:
    reason = f"is served, but holds its DNS server {held}"

    assert remarks("198.51.100.0/24", dns=tuple(map(ip_address, servers))) == (
        [("198.51.100.0/24", reason)] if held else []
    )


def test_a_name_server_is_to_be_reached_through_the_gateway_where_everything_is() -> None:
    assert remarks("0.0.0.0/0,::/0", dns=(ip_address("203.0.113.53"),)) == []


CALLERS = "is served, but callers of the published {} in it are answered through the gateway"


@pytest.mark.parametrize(
    ("label", "ports", "told"),
    [
        ("198.51.100.0/24", [port("80/tcp"), port("80/tcp", version=6)], ["80/tcp"]),
        ("198.51.100.0/24", [port("80/tcp", "127.0.0.1")], []),
        ("198.51.100.0/24", [port("80/tcp", "192.0.2.1")], []),
        ("198.51.100.0/24", [port("80/tcp", "198.51.100.1"), port("53/udp")], ["80/tcp, 53/udp"]),
        ("2001:db8:1::/48", [port("80/tcp")], []),
        ("2001:db8:1::/48", [port("80/tcp", version=6)], ["80/tcp"]),
    ],
)
def test_callers_of_published_ports_in_a_destination_are_told(
    label: str, ports: list[PublishedPort], told: list[str]
) -> None:
    assert remarks(label, published=tuple(ports)) == [
        (label, CALLERS.format(names)) for names in told
    ]


def test_callers_are_told_once_for_all_destinations() -> None:
    found = remarks("198.51.100.0/24,203.0.113.0/24,10.0.0.0/8", published=(port("80/tcp"),))

    assert found == [("198.51.100.0/24", f"{CALLERS.format('80/tcp')} (so are those in 2 more)")]


@pytest.mark.parametrize(
    ("runtime", "told"),
    [
        *[(name, True) for name in ("runsc", "io.containerd.runsc.v1", "kata-runtime", "gVisor")],
        *[(name, False) for name in ("", "runc", "crun", "io.containerd.runc.v2", "nvidia")],
    ],
)
def test_a_runtime_that_does_not_see_the_routes_is_told(runtime: str, *, told: bool) -> None:
    reason = f"is served, but the runtime {runtime} does not see routes of its namespace"

    assert remarks("198.51.100.0/24", runtime=runtime) == [("198.51.100.0/24", reason)] * told


@pytest.mark.parametrize(("driver", "is_unfit"), [("ipvlan", True), ("bridge", False), ("", False)])
def test_on_which_networks_no_container_can_be_a_gateway(driver: str, *, is_unfit: bool) -> None:
    assert bool(unfit(DockerNetwork("n1", "wg-net", (), {}, driver=driver))) == is_unfit
