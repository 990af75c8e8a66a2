"""Which namespace is whose, and what may be given before a client runs."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, cast

import pytest

from lib.fastpath import MOST, _Look
from lib.model import NETWORKS_LABEL, Container, DockerNetwork, Endpoint, Gateway
from tests.fakes import StandInEngine

if TYPE_CHECKING:
    from lib.engine import Engine

NAMESPACE, ANOTHER = "/proc/self/ns/net", "/run/docker/netns/none"
GATEWAY = Gateway("wireguard", "gw", "wg-net", "n1", tuple(map(ip_address, ("192.0.2.1", "fd::1"))))
CREATED = Container(
    id="c1",
    name="dovecot",
    running=False,
    labels={NETWORKS_LABEL: "10.8.0.0/16,fd00:8::/64"},
    network_mode="wg-net",
    sandbox_key="",
    endpoints=(Endpoint("wg-net", "", ()),),
)
WG_NET = DockerNetwork(
    "n1",
    "wg-net",
    (ip_network("192.0.2.0/24"), ip_network("fd::/64")),
    {"dovecot": (ip_interface("192.0.2.7/24"), ip_interface("fd::7/64"))},
)
OTHER = DockerNetwork("n2", "other", (ip_network("10.8.1.0/24"),), {})


def look(
    *containers: Container, network: DockerNetwork = WG_NET, served: dict[str, str] | None = None
) -> _Look:
    """Return one that has seen these containers, and a namespace appear."""
    engine = StandInEngine(containers or (CREATED,), networks=(network, OTHER))
    found = _Look(cast("Engine", engine), GATEWAY, {} if served is None else served)
    found.goes_on([NAMESPACE])
    return found


def destinations(found: _Look) -> list[str]:
    return [str(route.dst) for route in found.attempt(NAMESPACE, "c1").client.routes]


def test_every_command_proves_the_namespace_by_its_source() -> None:
    inside = f"nsenter --net={NAMESPACE}"

    assert look().attempt(NAMESPACE, "c1").commands == [
        f"{inside} ip route replace 10.8.0.0/16 via 192.0.2.1 src 192.0.2.7",
        f"{inside} ip -6 route replace fd00:8::/64 via fd::1 src fd::7",
    ]


def test_route_for_which_there_is_no_source_has_to_wait() -> None:
    only_four = {"dovecot": (ip_interface("192.0.2.7/24"),)}

    assert destinations(look(network=replace(WG_NET, interfaces=only_four))) == ["10.8.0.0/16"]


def test_route_that_overlaps_a_network_still_to_come_has_to_wait() -> None:
    both = replace(CREATED, endpoints=(*CREATED.endpoints, Endpoint("other", "", ())))

    assert destinations(look(both)) == ["fd00:8::/64"]


def test_long_list_does_not_keep_others_waiting() -> None:
    many = ",".join(f"10.8.{number}.0/24" for number in range(40))

    found = destinations(look(replace(CREATED, labels={NETWORKS_LABEL: many})))

    assert found == many.split(",")[:MOST]


@pytest.mark.parametrize(
    ("held", "key", "pending"),
    [
        pytest.param(["127.0.0.1", "192.0.2.7"], "c1", [NAMESPACE], id="a client's address"),
        pytest.param(["fd::7"], "c1", [NAMESPACE], id="its IPv6 address"),
        pytest.param(["192.0.2.8"], None, [], id="somebody else's"),
        pytest.param(["127.0.0.1", "10.8.1.4"], None, [NAMESPACE], id="none of this network yet"),
    ],
)
def test_namespace_is_told_by_the_address_that_it_holds(
    held: list[str], key: str | None, pending: list[str]
) -> None:
    found = look()

    assert found.whose(NAMESPACE, map(ip_address, held)) == key
    assert [*found.pending] == pending


def test_nothing_is_looked_at_where_no_client_may_be_starting() -> None:
    assert not look(replace(CREATED, running=True)).goes_on([])
    assert not look(replace(CREATED, labels={})).goes_on([])
    assert not look(replace(CREATED, endpoints=(Endpoint("other", "", ()),))).goes_on([])


@pytest.mark.parametrize(
    ("path", "starting"),
    [
        pytest.param(NAMESPACE, [], id="it is about to run"),
        pytest.param(ANOTHER, ["c1"], id="it ended since"),
    ],
)
def test_client_that_was_served_is_no_candidate_while_its_namespace_stands(
    path: str, starting: list[str]
) -> None:
    assert look(served={"c1": path}).starting() == starting


def test_entry_by_id_is_nobody_elses_whatever_his_name_was() -> None:
    """After a rename, a client that runs can have the name of one that was listed."""
    renamed = replace(WG_NET, interfaces={"c2": WG_NET.interfaces["dovecot"]})
    ours = replace(WG_NET, interfaces={"c1": WG_NET.interfaces["dovecot"]})

    assert look(network=renamed).starting() == []
    assert look(network=ours).starting() == ["c1"]


def test_who_is_not_listed_any_more_when_a_namespace_appears_is_no_candidate() -> None:
    """Its name may be that of another container now, which asked for nothing."""
    engine = StandInEngine((CREATED,), networks=(WG_NET, OTHER))
    found = _Look(cast("Engine", engine), GATEWAY, {})
    found.goes_on([ANOTHER])
    assert found.starting() == ["c1"]

    engine.known = ()
    found.goes_on([NAMESPACE])

    assert found.starting() == []
