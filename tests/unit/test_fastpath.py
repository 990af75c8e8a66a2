"""Which namespace is whose, what may be given before a client runs, and when to look no longer."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

import pytest

from lib.early import lookup, service
from lib.early.lookup import Known, Listing
from lib.early.service import CALM, CROWD, MOST, PATIENCE, _Arrival, _Look
from lib.model import (
    NETWORKS_LABEL,
    Container,
    DockerNetwork,
    Endpoint,
    Outcome,
)
from tests.fakes import CREATED, FACES, GATEWAY, OTHER, WG_NET, StandInEngine

if TYPE_CHECKING:
    from lib.engine.client import Engine
    from lib.kernel.addresses import AddressMonitor

NAMESPACE, ANOTHER = "/proc/self/ns/net", "/run/docker/netns/none"


class SilentEar:
    """What hears in a namespace, with addresses that a test gives; none is entered."""

    def __init__(self, *addresses: str, news: bool = True) -> None:
        self.addresses = {ip_address(address) for address in addresses}
        self.news = news
        self.is_up = True
        self.is_open = True

    def read(self) -> bool:
        news, self.news = self.news, False
        return news

    def close(self) -> None:
        self.is_open = False


def ask(*containers: Container, network: DockerNetwork = WG_NET) -> Known:
    """Return what the scout learns where these containers and networks are."""
    engine = cast("Engine", StandInEngine(containers or (CREATED,), on=(network, OTHER)))
    known = Known(lookup.list_clients(engine, GATEWAY), lookup.ask_addresses(engine, GATEWAY, {}))
    return replace(known, attached=lookup.ask_others(engine, GATEWAY, known))


def look(*addresses: str, path: str = NAMESPACE) -> tuple[_Look, _Arrival]:
    """Return a look at a namespace that appeared just now and has these addresses."""
    found = _Look(GATEWAY, {})
    ear = cast("AddressMonitor", SilentEar(*addresses))
    found.arrivals.append(_Arrival(path, ear))
    return found, found.arrivals[0]


def commands(*containers: Container, network: DockerNetwork = WG_NET) -> list[str]:
    """Return what is tried in the namespace with the client's address."""
    found, _ = look("192.0.2.7")
    (attempt,) = found.due(ask(*containers, network=network))
    return list(attempt.commands.values())


def test_every_command_proves_the_namespace_by_its_source() -> None:
    inside = f"nsenter --net={NAMESPACE}"

    assert commands() == [
        f"{inside} ip route replace 10.8.0.0/16 via 192.0.2.1 src 192.0.2.7",
        f"{inside} ip -6 route replace fd00:8::/64 via fd::1 src fd::7",
    ]


def test_route_for_which_there_is_no_source_has_to_wait() -> None:
    (command,) = commands(network=replace(WG_NET, interfaces={"dovecot": FACES[:1]}))

    assert " 10.8.0.0/16 " in command


def test_route_that_overlaps_a_network_still_to_come_has_to_wait() -> None:
    both = replace(CREATED, endpoints=(*CREATED.endpoints, Endpoint("other", "", ())))

    (command,) = commands(both)

    assert " fd00:8::/64 " in command


def test_client_whose_other_networks_are_not_known_yet_has_to_wait() -> None:
    both = replace(CREATED, endpoints=(*CREATED.endpoints, Endpoint("other", "", ())))
    found, arrival = look("192.0.2.7")
    arrival.hear()
    known = ask(both)
    too_early = replace(known, attached=replace(known.attached, others={}))

    assert found.due(too_early) == []
    found.let_go(too_early)
    assert found.arrivals == [arrival]
    assert found.lacks(too_early)
    assert len(found.due(known)) == 1


def test_long_list_does_not_keep_others_waiting() -> None:
    many = [f"10.8.{number}.0/24" for number in range(40)]

    tried = commands(replace(CREATED, labels={NETWORKS_LABEL: ",".join(many)}))

    assert [command.split()[5] for command in tried] == many[:MOST]


@pytest.mark.parametrize(
    ("held", "is_served", "stays"),
    [
        pytest.param(["127.0.0.1", "192.0.2.7"], True, True, id="a client's address"),
        pytest.param(["fd::7"], True, True, id="its IPv6 address"),
        pytest.param(["192.0.2.8"], False, False, id="somebody else's"),
        pytest.param(["127.0.0.1", "10.8.1.4"], False, True, id="none of this network yet"),
        pytest.param([], False, True, id="none yet"),
    ],
)
def test_namespace_is_told_by_the_address_that_it_holds(
    *, held: list[str], is_served: bool, stays: bool
) -> None:
    found, arrival = look(*held)

    assert bool(found.due(ask())) == is_served
    found.let_go(ask())
    assert (arrival in found.arrivals) == stays
    assert cast("SilentEar", arrival.ear).is_open == stays


@pytest.mark.parametrize(
    "container",
    [
        pytest.param(replace(CREATED, running=True), id="runs"),
        pytest.param(replace(CREATED, labels={}), id="asks for nothing"),
        pytest.param(replace(CREATED, endpoints=(Endpoint("other", "", ()),)), id="elsewhere"),
    ],
)
def test_nothing_is_looked_at_where_no_client_may_be_starting(container: Container) -> None:
    found, _ = look("192.0.2.7")

    assert found.due(ask(container)) == []
    found.let_go(ask(container))
    assert found.arrivals == []


def test_entry_by_id_is_nobody_elses_whatever_his_name_was() -> None:
    """After a rename, a client that runs can have the name of one that was listed."""
    assert ask(network=replace(WG_NET, interfaces={"c2": FACES})).starting() == set()
    assert ask(network=replace(WG_NET, interfaces={"c1": FACES})).starting() == {"c1"}


def test_what_was_asked_before_a_namespace_appeared_says_nothing_of_it() -> None:
    """Names and addresses may have been given to others since."""
    before = ask()
    found, arrival = look("192.0.2.7")

    assert found.due(before) == []
    found.let_go(replace(before, listing=Listing(before.asked)))
    assert found.arrivals == [arrival]
    assert found.lacks(before)
    assert len(found.due(ask())) == 1


def test_addresses_asked_for_before_the_kernel_told_of_one_do_not_make_it_a_strangers() -> None:
    found, arrival = look("192.0.2.8")
    before = ask()
    found.due(before)

    found.let_go(before)
    assert found.arrivals == [arrival]
    assert found.lacks(before)
    found.let_go(ask())
    assert found.arrivals == []


def test_engine_is_asked_until_it_is_known_who_comes() -> None:
    found, arrival = look()
    nobody = replace(WG_NET, interfaces={})

    assert found.lacks(ask(network=nobody))
    assert not found.lacks(ask())  # To whom the namespace belongs, its address will tell.
    arrival.ear.addresses.add(ip_address("192.0.2.7"))
    assert len(found.due(ask())) == 1
    assert not found.lacks(ask(network=nobody))


def test_nothing_is_tried_before_the_link_is_up() -> None:
    found, arrival = look("192.0.2.7")
    arrival.ear.is_up = False
    assert found.due(ask()) == []

    arrival.ear.is_up = cast("SilentEar", arrival.ear).news = True

    assert len(found.due(ask())) == 1


def test_who_was_found_is_not_waited_for_in_another_namespace() -> None:
    found, _ = look("192.0.2.7")
    found.due(ask())
    found.arrivals.append(_Arrival(NAMESPACE, cast("AddressMonitor", SilentEar())))

    assert found.lacks(ask())


def test_engine_is_asked_no_more_for_a_namespace_in_which_nothing_happens() -> None:
    found, arrival = look()
    nobody = replace(WG_NET, interfaces={})
    assert found.lacks(ask(network=nobody))

    arrival.heard -= CALM

    assert not found.lacks(ask(network=nobody))


@pytest.mark.parametrize(
    ("path", "age"), [pytest.param(ANOTHER, 0, id="ended"), pytest.param(NAMESPACE, PATIENCE)]
)
def test_namespace_is_let_go_when_it_ends_or_takes_too_long(path: str, age: float) -> None:
    found, arrival = look(path=path)
    arrival.since -= age

    found.let_go(Known())

    assert found.arrivals == []


def test_a_crowd_is_left_to_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "AddressMonitor", lambda _: SilentEar())
    found = _Look(GATEWAY, {})

    found.take_up(f"{NAMESPACE}{n}" for n in range(CROWD - 1))
    found.take_up(["one", "more", "many"])
    found.take_up(["late"])

    assert len(found.arrivals) == CROWD
    assert found.arrivals[-1].path == "one"


def outcome(code: int) -> Outcome:
    return Outcome("", code, "", 1.0)


def test_what_was_refused_is_tried_again_at_the_next_news_and_no_more_once_it_worked() -> None:
    found, arrival = look("192.0.2.7")
    (attempt,) = found.due(ask())
    four, six = attempt.commands

    assert attempt.take({four: outcome(2), six: outcome(2)}) == {}
    assert found.due(ask()) == []  # Nothing has happened there since.
    cast("SilentEar", arrival.ear).news = True
    assert found.due(ask()) == [attempt]
    assert [*attempt.take({four: outcome(2), six: outcome(0)})] == [six]
    assert [*attempt.commands] == [four]
    found.let_go(ask())
    assert found.arrivals == [arrival]
    assert [*attempt.take({four: outcome(0)})] == [four]
    assert attempt.given.routes == (six, four)
    found.let_go(ask())
    assert found.arrivals == []
