"""What becomes of a new namespace, and what its client may be given before it runs."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import pytest
import structlog

from lib.early.arrival import (
    MOST_ROUTES,
    PATIENCE_SECONDS,
    Arrival,
    Grant,
    State,
    grant,
    next_state,
)
from lib.early.known import KnownContainers
from lib.early.lookup import Answers, Description, Reference
from lib.kernel.shells import Outcome
from lib.model import (
    DIRECT_LABEL,
    NETWORKS_LABEL,
    Candidate,
    Client,
    Container,
    DockerNetwork,
    Endpoint,
    Event,
    Gateway,
    Gateways,
    Route,
    Rule,
)
from lib.routing import policy
from tests.fakes import CREATED, FACES, GATEWAY, OTHER, WG_NET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.model import Network, Thing

PATH = "/run/docker/netns/0a1b2c3d4e5f"
BEFORE, APPEARED, ASKED, NOW = 9.0, 10.0, 11.0, 12.0
BY_ID, BY_NAME = Reference("c1"), Reference("dovecot", is_name=True)
ATTACHING = WG_NET._replace(interfaces={}, attaching={"dovecot": FACES})
TWO_NETWORKS = CREATED._replace(endpoints=(*CREATED.endpoints, Endpoint("other", "", ())))
DESTINATION = Route(ip_network("10.8.0.0/16"), GATEWAY.addresses[0], 0)
INSIDE_OTHER = {NETWORKS_LABEL: "10.8.1.0/25,fd00:8::/64"}
OVERLAPPING = {NETWORKS_LABEL: "10.8.0.0/16"}
MIXED = "10.8.0.0/16,fd00:8::/64,0.0.0.0/0"
SOURCES = {4: ip_address("192.0.2.7"), 6: ip_address("fd::7")}


def arrival(*addresses: str, path: str = PATH, **values: object) -> Arrival:
    """Return a namespace that appeared a moment ago and has these addresses."""
    held = {ip_address(address) for address in addresses}
    found = Arrival(path, APPEARED, APPEARED, addresses=held)
    for name, value in values.items():
        setattr(found, name, value)
    return found


def description(container: Container | None = CREATED, asked: float = ASKED) -> Description:
    """Return what is known of a container that was asked for with all its networks."""
    points = container.endpoints if container else ()
    return Description(asked, container, OTHER.subnets if len(points) > 1 else ())


class Knowledge(NamedTuple):
    """What the engine said; by default, all that there is to know."""

    network: DockerNetwork = WG_NET
    asked: float = ASKED
    subnets_asked: float = ASKED
    described: Mapping[Reference, Description] = MappingProxyType({BY_ID: description()})
    remembered: Container | None = None
    subnets: tuple[Network, ...] | None = OTHER.subnets
    nobody_may_start: bool = False
    lost: frozenset[Network] = frozenset()

    def answers(self) -> Answers:
        known = KnownContainers()
        if self.remembered:
            known.learn(self.remembered)
        if self.nobody_may_start:
            known.learn_idle([])
            known.note(Event("start", "c9", "other"))
        return Answers(
            GATEWAY._replace(cut_off=self.lost),
            known,
            self.asked,
            self.network,
            self.subnets_asked,
            self.subnets,
            self.described,
        )


def granted(*, commands: bool) -> Grant:
    client = Client("dovecot", "c1", PATH, (DESTINATION,) if commands else ())
    return Grant(client, SOURCES)


CLIENT, STRANGER, ELSEWHERE = ("192.0.2.7",), ("192.0.2.8",), ("127.0.0.1", "10.99.0.4")
UNDESCRIBED = Knowledge(described={})
LISTED = Description(ASKED, CREATED)
"""Of which it was not asked on which networks it is."""
RUNS, IDLE = CREATED._replace(running=True), CREATED._replace(labels={})


@pytest.mark.parametrize(
    ("found", "known", "now", "state"),
    [
        pytest.param(arrival(), Knowledge(), NOW, State.NEW, id="no address yet"),
        pytest.param(
            arrival(*ELSEWHERE), Knowledge(), NOW, State.NEW, id="none of the network yet"
        ),
        pytest.param(
            arrival(*CLIENT), Knowledge(asked=BEFORE), NOW, State.NEW, id="asked too early"
        ),
        pytest.param(
            arrival(*STRANGER), Knowledge(), NOW, State.FOREIGN, id="an address of nobody"
        ),
        pytest.param(
            arrival(*STRANGER, last_news=NOW),
            Knowledge(),
            NOW,
            State.NEW,
            id="asked before it had that",
        ),
        pytest.param(arrival(*CLIENT), Knowledge(), NOW, State.READY, id="a client's address"),
        pytest.param(arrival("fd::7"), Knowledge(), NOW, State.READY, id="its IPv6 address"),
        pytest.param(
            arrival(*CLIENT), UNDESCRIBED, NOW, State.HELD, id="who that is, is not known"
        ),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(described={BY_ID: description(asked=BEFORE)}),
            NOW,
            State.HELD,
            id="it was known before, and may have changed",
        ),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(subnets_asked=BEFORE),
            NOW,
            State.HELD,
            id="the networks are not known",
        ),
        pytest.param(
            arrival(*CLIENT),
            UNDESCRIBED._replace(remembered=CREATED, subnets=()),
            NOW,
            State.READY,
            id="its labels are remembered",
        ),
        pytest.param(
            arrival(*CLIENT),
            UNDESCRIBED._replace(remembered=RUNS),
            NOW,
            State.HELD,
            id="it is remembered to run: asked again",
        ),
        pytest.param(
            arrival(*CLIENT),
            UNDESCRIBED._replace(remembered=IDLE),
            NOW,
            State.FOREIGN,
            id="it is remembered to ask for nothing",
        ),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(described={BY_ID: description(RUNS)}),
            NOW,
            State.FOREIGN,
            id="it runs",
        ),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(described={BY_ID: description(IDLE)}),
            NOW,
            State.FOREIGN,
            id="it asks for nothing",
        ),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(described={BY_ID: description(None)}),
            NOW,
            State.FOREIGN,
            id="it is gone already",
        ),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(ATTACHING, described={BY_NAME: description()}),
            NOW,
            State.READY,
            id="attached under its name",
        ),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(ATTACHING, described={}, remembered=CREATED),
            NOW,
            State.HELD,
            id="a remembered name proves nothing",
        ),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(ATTACHING, described={}, remembered=IDLE),
            NOW,
            State.FOREIGN,
            id="but that it asks for nothing is believed",
        ),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(ATTACHING, described={BY_NAME: Description(ASKED, CREATED)}, subnets=()),
            NOW,
            State.READY,
            id="the name was asked for, the networks do not matter",
        ),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(
                ATTACHING,
                described={BY_NAME: Description(ASKED, CREATED._replace(labels=OVERLAPPING))},
            ),
            NOW,
            State.HELD,
            id="the networks matter",
        ),
        pytest.param(
            arrival(),
            Knowledge(nobody_may_start=True),
            NOW,
            State.FOREIGN,
            id="no client can be starting",
        ),
        pytest.param(
            arrival(*CLIENT, grant=granted(commands=True)),
            Knowledge(asked=BEFORE),
            NOW,
            State.READY,
            id="routes are lacking still",
        ),
        pytest.param(
            arrival(*CLIENT, grant=granted(commands=False)),
            Knowledge(),
            NOW,
            State.SERVED,
            id="no route is lacking",
        ),
        pytest.param(arrival(*CLIENT, is_gone=True), Knowledge(), NOW, State.ENDED, id="ended"),
        pytest.param(
            arrival(*CLIENT),
            Knowledge(),
            APPEARED + PATIENCE_SECONDS + 0.1,
            State.EXPIRED,
            id="late",
        ),
        pytest.param(
            arrival(*CLIENT, state=State.FOREIGN),
            Knowledge(),
            NOW,
            State.FOREIGN,
            id="over is over",
        ),
    ],
)
def test_next_state(found: Arrival, known: Knowledge, now: float, state: State) -> None:
    assert next_state(found, known.answers(), now) is state


def given(known: Knowledge, *addresses: str) -> Grant:
    found = grant(arrival(*(addresses or CLIENT), path=PATH), known.answers())
    assert found
    return found


def test_every_command_proves_the_namespace_by_its_source() -> None:
    inside = f"nsenter --net={PATH}"

    assert list(given(Knowledge()).commands.values()) == [
        f"{inside} ip route replace 10.8.0.0/16 via 192.0.2.1 src 192.0.2.7",
        f"{inside} ip -6 route replace fd00:8::/64 via fd::1 src fd::7",
    ]


def done(found: Grant) -> Grant:
    """Return it as when all of its commands worked."""
    found.take({route: outcome(0) for route in found.commands})
    return found


def outcome(code: int) -> Outcome:
    return Outcome("", code, "", 1.0)


def destinations(found: Grant) -> list[str]:
    return [str(one.dst) for one in found.commands if isinstance(one, Route)]


@pytest.mark.parametrize(
    ("known", "early", "complete"),
    [
        pytest.param(Knowledge(), ["10.8.0.0/16", "fd00:8::/64"], True, id="all"),
        pytest.param(
            Knowledge(WG_NET._replace(interfaces={"c1": FACES[:1]})),
            ["10.8.0.0/16"],
            False,
            id="no address of the IP version",
        ),
        pytest.param(
            Knowledge(described={BY_ID: description(TWO_NETWORKS._replace(labels=INSIDE_OTHER))}),
            ["fd00:8::/64"],
            True,
            id="inside a network still to come",
        ),
        pytest.param(
            Knowledge(
                described={
                    BY_ID: description(CREATED._replace(labels={NETWORKS_LABEL: "10.9.0.0/33"}))
                }
            ),
            [],
            True,
            id="nothing good",
        ),
    ],
)
def test_complete_is_who_has_all_that_it_asks_for(
    known: Knowledge, early: list[str], *, complete: bool
) -> None:
    found = given(known)

    assert destinations(found) == early
    assert done(found).given.complete == complete


def test_only_what_is_ours_of_several_gateways_is_given() -> None:
    labels = {NETWORKS_LABEL: "10.8.0.0/16", f"{NETWORKS_LABEL}.another": "10.9.0.0/16"}
    known = Knowledge(described={BY_ID: description(CREATED._replace(labels=labels))}).answers()
    others = (Candidate("another"), Candidate(GATEWAY.container))
    given = {}
    for unnamed in ("another", GATEWAY.container):
        among = Gateways(GATEWAY.container, unnamed, others)
        answers = known._replace(gateway=GATEWAY._replace(among=among))
        found = grant(arrival(*CLIENT), answers)
        assert found
        given[unnamed] = [str(thing.dst) for thing in found.commands if isinstance(thing, Route)]

    assert given == {"another": [], GATEWAY.container: ["10.8.0.0/16"]}


def test_who_lacks_a_route_is_not_complete() -> None:
    found = given(Knowledge())

    found.take({next(iter(found.commands)): outcome(0)})

    assert len(found.given.client.routes) == 1
    assert not found.given.complete


def test_long_list_does_not_keep_others_waiting() -> None:
    many = [f"10.200.{number}.0/24" for number in range(MOST_ROUTES + 1)]
    container = CREATED._replace(labels={NETWORKS_LABEL: ",".join(many)})

    found = given(Knowledge(described={BY_ID: description(container)}))

    assert destinations(found) == many[:MOST_ROUTES]
    assert not done(found).given.complete


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(
            UNDESCRIBED._replace(remembered=CREATED._replace(labels=OVERLAPPING)),
            id="a destination overlaps a network, and whether it is to be on that is not known",
        ),
        pytest.param(
            Knowledge(described={BY_ID: Description(ASKED, CREATED)}, subnets=None),
            id="which networks there are is not known",
        ),
    ],
)
def test_who_may_come_to_an_overlapping_network_has_to_wait(known: Knowledge) -> None:
    assert grant(arrival(*CLIENT), known.answers()) is None


def test_what_overlaps_no_network_does_not_wait_for_what_does() -> None:
    labels = {NETWORKS_LABEL: MIXED}
    known = UNDESCRIBED._replace(remembered=CREATED._replace(labels=labels))
    first = given(known)

    assert destinations(first) == ["fd00:8::/64", "0.0.0.0/0"]
    assert first.lacks_networks
    done(first)
    assert not first.given.complete
    one = arrival(*CLIENT, grant=first, state=State.READY)
    assert next_state(one, known.answers(), NOW) is State.READY
    rounds(first)
    assert next_state(one, known.answers(), NOW) is State.HELD

    both = description(TWO_NETWORKS._replace(labels=labels))
    wider = given(Knowledge(described={BY_ID: both}))
    wider.follow(first)

    assert list(wider.commands.values()) == [
        f"{INSIDE} route replace 10.8.0.0/16 via 192.0.2.1 table 671 src 192.0.2.7"
    ]
    assert rounds(wider) == [
        [
            f"{INSIDE} route replace 10.8.0.0/16 via 192.0.2.1 table 671 src 192.0.2.7",
            f"{INSIDE} route replace unreachable 10.8.0.0/16 metric 4000 table 671",
        ]
    ]
    assert wider.given.complete
    assert [str(route.dst) for route in wider.given.client.routes] == [
        "fd00:8::/64",
        "0.0.0.0/0",
        "10.8.0.0/16",
    ]


def test_overlapping_network_of_others_keeps_nobody_waiting() -> None:
    assert destinations(given(Knowledge())) == ["10.8.0.0/16", "fd00:8::/64"]


def test_nothing_is_known_of_a_namespace_without_an_address() -> None:
    assert grant(arrival(), Knowledge().answers()) is None
    assert grant(arrival(*CLIENT), UNDESCRIBED.answers()) is None


def test_the_gateway_itself_gets_nothing() -> None:
    gateway = CREATED._replace(id=GATEWAY.container_id)
    network = WG_NET._replace(interfaces={gateway.id: FACES})

    assert (
        destinations(given(Knowledge(network, described={Reference("gw"): description(gateway)})))
        == []
    )


def test_what_was_refused_is_told_when_it_is_too_late() -> None:
    found = given(Knowledge())
    four, six = found.commands

    with structlog.testing.capture_logs() as logged:
        assert found.take({four: outcome(2), six: outcome(0)}) == {six: outcome(0)}
        found.tell_missed()
        assert list(found.commands) == [four]
        found.take({four: outcome(0)})
        found.tell_missed()

    assert [entry["event"] for entry in logged] == ["start.missed"]
    assert found.given.client.routes == (six, four)


def test_what_was_given_is_told() -> None:
    found = given(Knowledge())

    with structlog.testing.capture_logs() as logged:
        found.tell(found.take({route: outcome(0) for route in found.commands}), "wg-net")

    assert [entry["event"] for entry in logged] == ["route.replaced"] * 2 + ["client.routed"]
    assert {entry.get("trigger") for entry in logged} == {"early", None}


# --- our own table ------------------------------------------------------------------------------

INSIDE = f"nsenter --net={PATH} ip"


def asking(label: str, known: Knowledge | None = None, **values: object) -> Grant:
    """Return what a client with a label gets."""
    one = CREATED._replace(labels={NETWORKS_LABEL: label})
    whole = (known or Knowledge())._replace(described={BY_ID: description(one)})
    return given(whole._replace(**values))  # type: ignore[arg-type]


def rounds(found: Grant, *refused: str) -> list[list[str]]:
    """Try it until nothing goes on, and return what is tried each time; some is refused."""
    tried: list[list[str]] = []
    while True:
        ended: dict[Thing, Outcome] = {}
        tried.append([])
        for chain in found.chains():
            for thing, line in chain:
                tried[-1].append(line)
                ended[thing] = outcome(2 if any(text in line for text in refused) else 0)
                if ended[thing].exit_code:
                    break
        found.take(ended)
        if not found.goes_on:
            return tried


def test_the_kernels_proof_comes_before_what_has_no_source_address() -> None:
    found = asking("0.0.0.0/0, ::/0")

    assert rounds(found) == [
        [
            f"{INSIDE} route replace default via 192.0.2.1 table 671 src 192.0.2.7",
            f"{INSIDE} route replace unreachable default metric 4000 table 671",
            f"{INSIDE} rule add pref 670 lookup main suppress_prefixlength 0",
            f"{INSIDE} rule add pref 671 lookup 671",
            f"{INSIDE} -6 route replace default via fd::1 table 671 src fd::7",
            f"{INSIDE} -6 route replace unreachable default metric 4000 table 671",
            f"{INSIDE} -6 rule add pref 670 lookup main suppress_prefixlength 0",
            f"{INSIDE} -6 rule add pref 671 lookup 671",
        ],
    ]
    assert found.given.complete
    assert [str(route.dst) for route in found.given.client.routes] == ["0.0.0.0/0", "::/0"]
    assert set(found.given.beside) == set(policy.needs(found.given.client.routes)) - set(
        found.given.client.routes
    )


def test_what_the_tunnel_is_lost_for_is_shut_before_the_first_instruction() -> None:
    lost = frozenset({ip_network("0.0.0.0/0"), ip_network("10.9.0.0/16")})
    found = asking("0.0.0.0/0, ::/0, 10.9.0.0/16", lost=lost)

    assert rounds(found) == [
        [
            f"{INSIDE} -6 route replace default via fd::1 table 671 src fd::7",
            f"{INSIDE} -6 route replace unreachable default metric 4000 table 671",
            f"{INSIDE} -6 rule add pref 670 lookup main suppress_prefixlength 0",
            f"{INSIDE} -6 rule add pref 671 lookup 671",
        ],
        [
            f"{INSIDE} route replace unreachable default table 671",
            f"{INSIDE} route replace unreachable default metric 4000 table 671",
            f"{INSIDE} route replace unreachable 10.9.0.0/16",
            f"{INSIDE} rule add pref 670 lookup main suppress_prefixlength 0",
        ],
        [f"{INSIDE} rule add pref 671 lookup 671"],
    ]
    assert found.given.complete


def test_our_table_is_not_asked_before_that_is_shut() -> None:
    found = asking("0.0.0.0/0", lost=frozenset({ip_network("0.0.0.0/0")}))

    tried = rounds(found, "unreachable default metric 4000")

    assert not any("pref 671" in line for lines in tried for line in lines)
    assert rounds(found)[-1] == [f"{INSIDE} rule add pref 671 lookup 671"]


def test_nothing_follows_what_is_refused() -> None:
    found = asking("0.0.0.0/0, ::/0, 10.9.0.0/16")

    assert rounds(found, "src") == [list(found.commands.values())]
    assert len(found.commands) == 3
    assert (found.given.client.routes, found.given.beside) == ((), ())
    assert not found.given.complete


def test_what_is_refused_in_one_ip_version_does_not_keep_the_other_waiting() -> None:
    found = asking("0.0.0.0/0, ::/0")

    tried = rounds(found, "src fd::7")

    proof = f"{INSIDE} -6 route replace default via fd::1 table 671 src fd::7"
    assert [[line for line in lines if " -6 " in line] for lines in tried] == [[proof]]
    assert list(found.commands.values()) == [proof]
    assert not found.given.complete
    assert rounds(found) == [
        [
            proof,
            f"{INSIDE} -6 route replace unreachable default metric 4000 table 671",
            f"{INSIDE} -6 rule add pref 670 lookup main suppress_prefixlength 0",
            f"{INSIDE} -6 rule add pref 671 lookup 671",
        ]
    ]
    assert found.given.complete


def test_our_table_is_not_asked_before_all_of_it_stands() -> None:
    found = asking("0.0.0.0/1, 128.0.0.0/1")

    assert rounds(found) == [
        [
            f"{INSIDE} route replace 0.0.0.0/1 via 192.0.2.1 table 671 src 192.0.2.7",
            f"{INSIDE} route replace unreachable 0.0.0.0/1 metric 4000 table 671",
            f"{INSIDE} route replace 128.0.0.0/1 via 192.0.2.1 table 671 src 192.0.2.7",
            f"{INSIDE} route replace unreachable 128.0.0.0/1 metric 4000 table 671",
        ],
        [f"{INSIDE} rule add pref 670 lookup main suppress_prefixlength 0"],
        [f"{INSIDE} rule add pref 671 lookup 671"],
    ]


@pytest.mark.parametrize("refused", ["metric 4000", "pref 670"])
def test_our_table_is_not_asked_without_guard_and_the_rule_before(refused: str) -> None:
    found = asking("0.0.0.0/0")

    tried = rounds(found, refused)

    assert not any("pref 671" in line for lines in tried for line in lines)
    assert rounds(found)[-1] == [f"{INSIDE} rule add pref 671 lookup 671"]


def test_a_rule_that_is_there_already_is_no_refusal() -> None:
    found = asking("0.0.0.0/0")
    found.take({thing: outcome(0) for thing in found.commands})
    exists = Outcome("", 2, "ip: RTNETLINK answers: File exists", 1.0)
    new = found.take(
        {one: exists if isinstance(one, Rule) else outcome(0) for one in found.commands}
    )

    assert len(new) == 2
    assert list(found.commands.values()) == [f"{INSIDE} rule add pref 671 lookup 671"]


def test_what_the_gateway_cannot_carry_is_unreachable_once_anything_proves_the_namespace() -> None:
    one = CREATED._replace(labels={NETWORKS_LABEL: "::/0,10.9.0.0/16"})
    known = Knowledge(described={BY_ID: description(one)}).answers()
    known.known.mtus = {ip_network("::/0"): 1280, ip_network("10.9.0.0/16"): 1280}
    v4 = GATEWAY._replace(addresses=GATEWAY.addresses[:1])
    found = grant(arrival(*CLIENT), known._replace(gateway=v4))
    assert found

    assert rounds(found) == [
        [f"{INSIDE} route replace 10.9.0.0/16 via 192.0.2.1 src 192.0.2.7 mtu 1280"],
        [
            f"{INSIDE} -6 route replace unreachable default metric 4000 table 671",
            f"{INSIDE} -6 rule add pref 670 lookup main suppress_prefixlength 0",
        ],
        [f"{INSIDE} -6 rule add pref 671 lookup 671"],
    ]
    assert found.given.complete


PROOF = "route replace 192.0.2.255/32 table 671 src 192.0.2.7 dev lo"
PROOF6 = "-6 route replace 2001:db8::ffff/128 table 671 src fd::7 dev lo"
BLOCKED = [
    f"{INSIDE} route replace unreachable default table 671",
    f"{INSIDE} route replace unreachable default metric 4000 table 671",
    f"{INSIDE} rule add pref 670 lookup main suppress_prefixlength 0",
]
LOST = GATEWAY._replace(addresses=(), lost=frozenset({4, 6}))


def starting(label: str, gateway: Gateway, **values: object) -> Grant:
    """Return what a client with a label gets that starts with the gateway like that."""
    one = CREATED._replace(labels={NETWORKS_LABEL: label})
    known = Knowledge(**values)._replace(described={BY_ID: description(one)})  # type: ignore[arg-type]
    found = grant(arrival("fd::7", *CLIENT), known.answers()._replace(gateway=gateway))
    assert found
    return found


def test_what_the_gateway_cannot_carry_has_a_proof_of_its_own() -> None:
    v4 = GATEWAY._replace(addresses=GATEWAY.addresses[:1])

    assert rounds(starting("::/0", v4)) == [
        [f"{INSIDE} {PROOF}"],
        [
            f"{INSIDE} -6 route replace unreachable default metric 4000 table 671",
            f"{INSIDE} -6 rule add pref 670 lookup main suppress_prefixlength 0",
        ],
        [f"{INSIDE} -6 rule add pref 671 lookup 671"],
    ]


def test_while_the_gateway_is_lost_what_is_asked_for_is_unreachable_after_a_proof() -> None:
    found = starting("0.0.0.0/0,10.9.0.0/16", LOST)

    assert rounds(found) == [
        [f"{INSIDE} {PROOF}"],
        [*BLOCKED[:2], f"{INSIDE} route replace unreachable 10.9.0.0/16", BLOCKED[2]],
        [f"{INSIDE} rule add pref 671 lookup 671"],
    ]
    assert found.given.complete
    assert [str(route.dst) for route in found.given.client.routes] == ["0.0.0.0/0", "10.9.0.0/16"]
    assert policy.proof(4) in found.given.beside  # The pass takes it back.


def test_by_whatever_address_there_is() -> None:
    network = WG_NET._replace(interfaces={"c1": FACES[1:]})

    assert rounds(starting("0.0.0.0/0", LOST, network=network))[:2] == [
        [f"{INSIDE} {PROOF6}"],
        BLOCKED,
    ]


def test_nothing_follows_a_proof_that_is_refused() -> None:
    found = starting("0.0.0.0/0,10.9.0.0/16", LOST)

    assert rounds(found, "src") == [[f"{INSIDE} {PROOF}"]]
    assert (found.given.client.routes, found.given.beside) == ((), ())


def test_one_ip_version_that_is_lost_needs_no_proof_of_its_own() -> None:
    half = GATEWAY._replace(addresses=GATEWAY.addresses[:1], lost=frozenset({6}))

    assert rounds(starting("10.9.0.0/16,fd00:8::/64", half)) == [
        [f"{INSIDE} route replace 10.9.0.0/16 via 192.0.2.1 src 192.0.2.7"],
        [f"{INSIDE} -6 route replace unreachable fd00:8::/64"],
    ]


def test_what_is_unreachable_is_in_the_way_of_a_network_still_to_come_too() -> None:
    both = TWO_NETWORKS._replace(labels=INSIDE_OTHER)
    known = Knowledge(described={BY_ID: description(both)}).answers()
    found = grant(arrival(*CLIENT), known._replace(gateway=LOST))
    assert found

    assert rounds(found) == [
        [f"{INSIDE} {PROOF}"],
        [f"{INSIDE} -6 route replace unreachable fd00:8::/64"],
    ]


def test_a_gateway_that_is_found_meanwhile_is_led_to() -> None:
    """With all there already, a rule says so."""
    rounds(starting("0.0.0.0/0", LOST))
    found = starting("0.0.0.0/0", GATEWAY)

    assert rounds(found)[0][0] == (
        f"{INSIDE} route replace default via 192.0.2.1 table 671 src 192.0.2.7"
    )


def test_everything_may_be_early_whatever_networks_are_still_to_come() -> None:
    everything = CREATED._replace(labels={NETWORKS_LABEL: "0.0.0.0/0"})
    knowledge = UNDESCRIBED._replace(remembered=everything)

    assert destinations(given(knowledge)) == ["0.0.0.0/0"]


def test_what_contains_a_network_still_to_come_is_early_in_our_own_table() -> None:
    found = given(Knowledge(described={BY_ID: description(TWO_NETWORKS)}))

    assert list(found.commands.values()) == [
        f"{INSIDE} route replace 10.8.0.0/16 via 192.0.2.1 table 671 src 192.0.2.7",
        f"{INSIDE} -6 route replace fd00:8::/64 via fd::1 src fd::7",
    ]
    rounds(found)
    assert found.given.complete


def test_the_sum_is_told_when_nothing_goes_on() -> None:
    found = asking("0.0.0.0/0")
    told: list[list[str]] = []

    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            before = len(logged)
            found.tell(found.take({one: outcome(0) for one in found.commands}), "wg-net")
            told.append([entry["event"] for entry in logged[before:]])

    assert told == [
        ["route.replaced"],
        ["route.replaced", "rule.added"],
        ["rule.added", "client.routed"],
    ]
    assert logged[1]["gateway"] == "unreachable"
    assert logged[2] == {
        "event": "rule.added",
        "log_level": "info",
        "container": "dovecot",
        "container_id": "c1",
        "network": "wg-net",
        "netns": PATH,
        "command": "",
        "trigger": "early",
        "duration_ms": 1.0,
    }
    assert logged[-1]["routes"] == 1


@pytest.mark.parametrize(
    ("label", "where"), [("198.51.100.0/24", ""), ("front", " table 671"), ("10.8.0.0/17", "")]
)
def test_what_keeps_off_the_gateway_follows_the_start(label: str, where: str) -> None:
    """And what goes through it is where the pass will have it."""
    one = CREATED._replace(labels={NETWORKS_LABEL: "10.8.0.0/16", DIRECT_LABEL: label})
    found = given(Knowledge(described={BY_ID: description(one)}))

    assert list(found.commands.values()) == [
        f"{INSIDE} route replace 10.8.0.0/16 via 192.0.2.1{where} src 192.0.2.7"
    ]
    rounds(found)
    assert not found.given.complete


# --- several networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [False, True], ids=["our own", "another sidecar's"])
@pytest.mark.parametrize(
    ("described", "state", "routes"),
    [
        pytest.param(LISTED, State.HELD, None, id="it is not known which it is on"),
        pytest.param(description(CREATED), State.READY, 2, id="it is on this one alone"),
        pytest.param(description(TWO_NETWORKS), State.READY, 0, id="it is on the other, too"),
    ],
)
def test_where_another_network_may_come_first_its_clients_networks_are_asked_for(
    described: Description, state: State, routes: int | None, *, beside: bool
) -> None:
    first = frozenset({"other"})
    among = Gateways("wireguard", "wireguard", (Candidate("wireguard"),), before=first)
    gateway = GATEWAY._replace(among=among) if beside else GATEWAY._replace(before=("other",))
    known = Knowledge(described={BY_ID: described}).answers()._replace(gateway=gateway)
    here = arrival(*CLIENT, "fd::7")

    assert next_state(here, known, NOW) is state
    here.grant = grant(here, known)
    assert (here.grant and len(here.grant.commands)) == routes
    if here.grant:
        over = State.SERVED if routes == 0 else State.READY
        assert next_state(here, known, NOW) is over


def test_the_first_of_several_networks_asks_for_no_more_than_one() -> None:
    alone = Knowledge(described={BY_ID: LISTED}).answers()
    first = alone._replace(gateway=GATEWAY._replace(after=("other",)))
    here = arrival(*CLIENT, "fd::7")
    given = [grant(here, known) for known in (alone, first)]

    assert [one and list(one.commands) for one in given] == [
        [Route(ip_network("fd00:8::/64"), GATEWAY.addresses[1], 1024)]
    ] * 2
