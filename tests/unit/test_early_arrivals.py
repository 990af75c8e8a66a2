"""When a new namespace is looked at, when something is tried there, and what has to be asked."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
import structlog

from lib.early.arrival import PATIENCE_SECONDS
from lib.early.arrivals import CALM_SECONDS, MOST_ARRIVALS, Arrivals
from lib.early.known import KnownContainers
from lib.early.lookup import Answers, Description, Need, Questions, Reference
from lib.errors import NetnsError
from lib.kernel.shells import Outcome
from lib.model import Endpoint
from tests.fakes import CREATED, FACES, GATEWAY, OTHER, WG_NET

if TYPE_CHECKING:
    from lib.early.arrival import Grant

NAMESPACE, ANOTHER = "/proc/self/ns/net", "/run/docker/netns/none"
APPEARED, ASKED, NOW = 10.0, 11.0, 12.0
BY_ID = Reference("c1")
NOBODY = WG_NET._replace(interfaces={})


class StandInMonitor:
    """What the kernel says of a namespace, as a test has it; none is entered."""

    def __init__(self, path: str, *addresses: str) -> None:
        self.path = path
        self.addresses = {ip_address(address) for address in addresses}
        self.news = True
        self.is_up = True
        self.is_open = True
        self.error: OSError | None = None

    def fileno(self) -> int:
        return -1

    def read(self) -> bool:
        assert self.is_open
        if self.error:
            raise self.error
        news, self.news = self.news, False
        return news

    def close(self) -> None:
        self.is_open = False


class Place:
    """Arrivals, and the monitors that they opened."""

    def __init__(self, *addresses: str, path: str = NAMESPACE) -> None:
        self.addresses = addresses
        self.monitors: list[StandInMonitor] = []
        self.arrivals = Arrivals(self._open)
        self.arrivals.take_up([path], APPEARED)

    def _open(self, path: str) -> StandInMonitor:
        monitor = StandInMonitor(path, *self.addresses)
        self.monitors.append(monitor)
        return monitor

    def due(self, known: Answers, now: float = NOW) -> list[Grant]:
        found = self.arrivals.advance(known, now)
        self.arrivals.let_go(known, now)
        return found


def answers(**values: object) -> Answers:
    """Return all that there is to know, but for what a test knows otherwise."""
    everything = Answers(GATEWAY, KnownContainers(), ASKED, WG_NET, ASKED, subnets=())
    described = {BY_ID: Description(ASKED, CREATED)}
    return everything._replace(**({"described": described} | values))  # type: ignore[arg-type]


def outcome(code: int) -> Outcome:
    return Outcome("", code, "", 1.0)


def test_what_was_refused_is_tried_at_the_next_news_and_no_more_once_it_worked() -> None:
    place = Place("192.0.2.7")
    (grant,) = place.due(answers())
    four, six = grant.commands

    grant.take({four: outcome(2), six: outcome(2)})
    assert place.due(answers()) == []  # Nothing has happened there since.
    place.monitors[0].news = True
    assert place.due(answers()) == [grant]
    grant.take({four: outcome(2), six: outcome(0)})
    place.arrivals.let_go(answers(), NOW)
    assert len(place.arrivals) == 1
    grant.take({four: outcome(0)})
    place.arrivals.let_go(answers(), NOW)
    assert len(place.arrivals) == 0
    assert not place.monitors[0].is_open


def test_nothing_is_tried_before_the_link_is_up() -> None:
    place = Place("192.0.2.7")
    place.monitors[0].is_up = False
    assert place.due(answers()) == []

    place.monitors[0].is_up = place.monitors[0].news = True

    assert len(place.due(answers())) == 1


def test_an_answer_without_news_is_enough_to_begin() -> None:
    place = Place("192.0.2.7")
    assert place.due(answers(described={})) == []

    assert len(place.due(answers())) == 1


@pytest.mark.parametrize(
    ("path", "now"),
    [
        pytest.param(ANOTHER, NOW, id="ended"),
        pytest.param(NAMESPACE, APPEARED + PATIENCE_SECONDS + 0.1, id="late"),
    ],
)
def test_namespace_is_let_go_when_it_ends_or_takes_too_long(path: str, now: float) -> None:
    place = Place(path=path)

    assert place.due(answers(), now) == []
    assert len(place.arrivals) == 0


def test_who_waits_is_woken_when_the_oldest_takes_too_long() -> None:
    place = Place()
    place.arrivals.take_up([NAMESPACE], NOW)

    assert place.arrivals.patience(NOW) == PATIENCE_SECONDS - (NOW - APPEARED)
    assert place.arrivals.patience(APPEARED + 60) == 0


def test_a_crowd_is_left_to_the_pass() -> None:
    place = Place()

    place.arrivals.take_up([f"{NAMESPACE}{n}" for n in range(MOST_ARRIVALS)], NOW)

    assert len(place.arrivals) == MOST_ARRIVALS


@pytest.mark.parametrize("error", [NetnsError("it is gone"), OSError("too many open files")])
def test_namespace_that_cannot_be_entered_keeps_no_other_from_being_served(
    error: Exception,
) -> None:
    def enter(path: str) -> StandInMonitor:
        if path == ANOTHER:
            raise error
        return StandInMonitor(path)

    arrivals = Arrivals(enter)
    with structlog.testing.capture_logs() as logged:
        arrivals.take_up([ANOTHER, NAMESPACE], NOW)

    assert len(arrivals) == 1
    assert [entry["event"] for entry in logged] == ["watch.failed"]


def test_namespace_that_cannot_be_listened_to_is_let_go() -> None:
    place = Place("192.0.2.7")
    place.monitors[0].error = OSError("no buffer space")

    assert place.due(answers()) == []
    assert len(place.arrivals) == 0
    assert not place.monitors[0].is_open


def test_all_is_asked_anew_for_another_gateway() -> None:
    place = Place("192.0.2.7")
    (old,) = place.due(answers())
    other = GATEWAY._replace(container_id="gw2", addresses=(ip_address("192.0.2.3"),))

    place.arrivals.begin_anew()
    (new,) = place.due(answers(gateway=other))

    assert new is not old
    assert [" via 192.0.2.3 " in command for command in new.commands.values()] == [True]


def test_what_was_refused_for_good_is_told() -> None:
    place = Place("192.0.2.7")
    (grant,) = place.due(answers())
    grant.take({route: outcome(2) for route in grant.commands})

    with structlog.testing.capture_logs() as logged:
        place.arrivals.close()

    assert [entry["event"] for entry in logged] == ["start.missed"]
    assert not place.monitors[0].is_open


def questions(place: Place, *, now: float = NOW, **values: object) -> Questions:
    """Return what is to be asked after all of this was told."""
    known = answers(**values)
    place.due(known, now)
    return place.arrivals.questions(known, now)


def test_addresses_are_asked_for_until_the_one_that_comes_is_known() -> None:
    known = KnownContainers()
    assert questions(Place(), network=NOBODY).addresses
    assert questions(Place()).addresses  # Whether that one runs already is not known.

    known.learn(CREATED)

    assert not questions(Place(), known=known).addresses
    attaching = NOBODY._replace(attaching={"dovecot": FACES})
    assert not questions(Place(), network=attaching).addresses
    assert questions(Place("192.0.2.7"), network=attaching).addresses  # Who that is, is asked.


def test_who_was_served_is_not_waited_for_in_another_namespace() -> None:
    known = KnownContainers()
    known.learn(CREATED)
    place = Place("192.0.2.7")
    place.due(answers(known=known))

    place.addresses = ()
    place.arrivals.take_up([NAMESPACE], NOW)

    assert questions(place, known=known, asked=NOW + 1).addresses


def test_what_was_asked_before_a_namespace_appeared_is_asked_again() -> None:
    asked = questions(Place(), asked=APPEARED - 1)

    assert asked.addresses
    assert asked.subnets_since == APPEARED


def test_nothing_is_asked_for_a_namespace_in_which_nothing_happens() -> None:
    place = Place()
    assert questions(place) != Questions()

    assert questions(place, now=NOW + CALM_SECONDS) == Questions()


def test_nothing_is_asked_for_one_that_is_being_served() -> None:
    assert questions(Place("192.0.2.7")) == Questions()


def test_who_is_attached_under_a_name_is_asked_for_at_once() -> None:
    attaching = NOBODY._replace(attaching={"dovecot": FACES})

    asked = questions(Place(), network=attaching)

    assert asked.containers == {Reference("dovecot", is_name=True): Need(APPEARED)}


def test_who_is_known_to_ask_for_nothing_is_not_asked_for() -> None:
    known = KnownContainers()
    known.learn(CREATED._replace(labels={}))
    attaching = NOBODY._replace(attaching={"dovecot": FACES})

    assert questions(Place(), known=known, network=attaching).containers == {}


def test_who_is_attached_under_an_id_is_asked_for_when_it_holds_a_namespace() -> None:
    assert questions(Place(), described={}).containers == {}
    assert questions(Place("192.0.2.7"), described={}).containers == {BY_ID: Need(APPEARED)}


def test_who_is_remembered_is_asked_for_only_if_its_networks_matter() -> None:
    known = KnownContainers()
    known.learn(CREATED)
    overlapped = (ip_network("10.8.1.0/24"),)

    def asked(subnets_asked: float) -> Questions:
        return questions(
            Place("192.0.2.7"),
            known=known,
            described={},
            subnets=overlapped,
            subnets_asked=subnets_asked,
        )

    assert asked(APPEARED - 1).containers == {}
    assert asked(ASKED).containers == {BY_ID: Need(APPEARED, subnets=True)}


def test_what_depends_on_the_networks_is_asked_for_and_follows_when_they_are_known() -> None:
    place, inside = Place("192.0.2.7"), {"subnets": OTHER.subnets}
    some = answers(**inside)  # Its networks were not asked for.

    (first,) = place.due(some)
    assert [str(one) for one in first.commands.values()] == [
        f"nsenter --net={NAMESPACE} ip -6 route replace fd00:8::/64 via fd::1 src fd::7"
    ]
    asked = place.arrivals.questions(some, NOW)
    assert asked.containers == {BY_ID: Need(APPEARED, subnets=True)}
    assert not asked.addresses
    first.take({one: outcome(0) for one in first.commands})
    assert place.due(some) == []
    assert len(place.arrivals) == 1

    both = CREATED._replace(endpoints=(*CREATED.endpoints, Endpoint("other", "", ())))
    known = answers(described={BY_ID: Description(ASKED, both, OTHER.subnets)}, **inside)
    assert place.arrivals.advance(known, NOW, {first}) == []  # Commands of it still run.
    (wider,) = place.due(known)

    assert wider is not first
    (line,) = wider.commands.values()
    assert line.endswith("ip route replace 10.8.0.0/16 via 192.0.2.1 table 671 src 192.0.2.7")
    while wider.commands:
        wider.take({one: outcome(0) for one in wider.commands})
    assert wider.given.complete
    place.arrivals.let_go(known, NOW)
    assert len(place.arrivals) == 0
