"""What one look found, as rows, table, JSON and comments."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest

from lib.cli import tables
from lib.cli.tables import Row
from lib.model import (
    DIRECT,
    IPV4,
    IPV6,
    TABLE,
    Candidate,
    Client,
    Desired,
    Gateway,
    Gateways,
    Inside,
    Refusal,
    Route,
    Rule,
    Skipped,
    Standing,
    Thing,
)
from lib.reconcile.look import Findings
from lib.reconcile.namespace import Namespace, gather
from lib.reconcile.report import Failure
from lib.routing import policy

GATEWAY = Gateway("wireguard", "gw", "wg-net", "net", (ip_address("192.0.2.129"),))
NETNS = "/var/run/docker/netns/one"
DST = "198.51.100.0/24"


def route(dst: str = DST, via: str | None = "192.0.2.129", **values: object) -> Route:
    address = ip_address(via) if via else None
    return Route(ip_network(dst), address, **{"metric": 0, **values})  # type: ignore[arg-type]


def client(*routes: Route, name: str = "dovecot", refusals: tuple[Refusal, ...] = ()) -> Client:
    return Client(name, f"{name}-id", NETNS, routes, refusals)


def found(
    *clients: Client,
    actual: tuple[Thing, ...] = (),
    skipped: tuple[Skipped, ...] = (),
    failures: tuple[Failure, ...] = (),
    entered: bool = True,
) -> list[Row]:
    spaces = [Namespace(NETNS, actual=actual)] if entered else []
    desired = Desired(clients, skipped)
    return tables.rows(Findings(GATEWAY, None, desired, spaces, list(failures)))


def document(rows: list[Row], gateway: Gateway = GATEWAY) -> str:
    return tables.document(rows, [Findings(gateway, None, Desired((), ()), [], [])])


@pytest.mark.parametrize(
    ("actual", "state", "reason"),
    [
        pytest.param((route(),), "ok", "", id="there"),
        pytest.param((), "missing", "", id="not there"),
        pytest.param((route("203.0.113.0/24"),), "missing", "", id="another is there"),
        pytest.param(
            (route(via="192.0.2.7"),),
            "wrong",
            f"there is {DST} via 192.0.2.7",
            id="through another gateway",
        ),
        pytest.param(
            (route(), route(metric=50)),
            "wrong",
            f"there is {DST} via 192.0.2.129, {DST} via 192.0.2.129 metric 50",
            id="another beside it",
        ),
        pytest.param(
            (route(via=None, kind="unreachable"),),
            "wrong",
            f"there is unreachable {DST}",
            id="unreachable, but the gateway is not lost",
        ),
        pytest.param(
            (route(via=None, kind="connected"),),
            "refused",
            "is a network to which the container is connected by itself",
            id="connected",
        ),
    ],
)
def test_state_of_a_destination(actual: tuple[Route, ...], state: str, reason: str) -> None:
    (row,) = found(client(route()), actual=actual)

    assert (row.dst, row.gateway) == (DST, "192.0.2.129")
    assert (row.state, row.reason) == (state, reason)


def test_lost_gateway_is_never_ok() -> None:
    lost = route(via=None, kind="unreachable")

    (there,) = found(client(lost), actual=(lost,))
    (stale,) = found(client(lost), actual=(route(),))

    assert (there.gateway, there.state) == ("unreachable", "unreachable")
    assert (stale.gateway, stale.state) == ("unreachable", "wrong")
    assert there.state not in tables.FINE


def test_refused_entries_and_entries_with_a_warning() -> None:
    refusals = (
        Refusal("nonsense", "is no network", "write it"),
        Refusal(DST, "is served, but wide", "take care", served=True),
    )

    served, refused = found(client(route(), refusals=refusals), actual=(route(),))

    assert (served.dst, served.state, served.why) == (DST, "ok", "is served, but wide (take care)")
    assert (refused.dst, refused.gateway, refused.state) == ("nonsense", "", "refused")


def test_only_an_expected_skip_is_fine() -> None:
    skipped = (
        Skipped("b", "2", "is not attached to wg-net", expected=True),
        Skipped("a", "1", "uses the host's network namespace", "remove the label"),
    )

    first, second = found(skipped=skipped)

    assert (first.container, first.state, first.hint) == ("a", "refused", "remove the label")
    assert (second.container, second.state) == ("b", "skipped")
    assert {"ok", "skipped"} == tables.FINE


def test_what_cannot_be_looked_at_is_unknown() -> None:
    values = {"netns": NETNS, "stderr": "nsenter:\nnot permitted", "hint": "cap_add"}
    refused = Failure("route.failed", "dovecot", "d", "x", "exit code 1", values)
    silent = Failure("client.failed", "postfix", "p", "engine", "silent", {})

    clients = client(route(), route("203.0.113.0/24"))
    rows = found(clients, failures=(refused, silent), entered=False)

    assert [(row.container, row.state, row.reason) for row in rows] == [
        *[("dovecot", "unknown", "nsenter:\nnot permitted")] * 2,
        ("postfix", "unknown", "silent"),
    ]


def test_client_that_ended_meanwhile_is_left_out() -> None:
    assert found(client(route()), entered=False) == []


def test_client_with_an_empty_label_is_told_of() -> None:
    (row,) = found(client())

    assert (row.state, row.dst, row.reason) == ("skipped", "", "its label names no network")


HOSTILE = "a\nreboot\r\x1b[31m\u2028\u202e"


def test_no_text_breaks_a_line() -> None:
    rows = [Row(HOSTILE, "id", HOSTILE, HOSTILE, HOSTILE, HOSTILE, "ok", HOSTILE, HOSTILE)]

    lines = [*tables.comments(rows), *tables.table(rows, colour=False)]

    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith(r"# a\nreboot\r\x1b[31m\u2028\u202e: ")
    assert json.loads(document(rows))["routes"][0]["reason"] == HOSTILE


def test_the_document_has_all_gateways() -> None:
    (alone,) = json.loads(document([]))["networks"]
    there = (
        Candidate("another", frozenset({"work", "home"}), Standing.LOST),
        Candidate(GATEWAY.container),
    )
    gateway = GATEWAY._replace(among=Gateways(GATEWAY.container, "another", there))
    (found,) = json.loads(document([], gateway))["networks"]

    ours = {"gateway": GATEWAY.container, "names": [], "standing": "there", "unnamed": True}
    names = ["home", "work"]
    assert alone["gateways"] == [ours]
    assert found["gateways"] == [
        {"gateway": "another", "names": names, "standing": "lost", "unnamed": True},
        ours | {"unnamed": False},
    ]


def test_only_what_has_a_reason_is_commented_on() -> None:
    rows = [
        Row("a", "1", dst=DST, state="missing"),
        Row("b", "2", dst="x", state="refused", reason="is no network", hint="write it"),
        Row("c", "3", state="skipped", reason="is not attached to wg-net"),
    ]

    assert list(tables.comments(rows)) == [
        "# b: x is no network (write it)",
        "# c: is not attached to wg-net",
    ]


def test_columns_are_aligned_and_only_states_are_coloured() -> None:
    rows = [
        Row("dovecot", "1", "wg-net", NETNS, DST, "192.0.2.129", "ok"),
        Row("a-longer-name", "2", state="refused", reason="is odd"),
    ]

    plain = list(tables.table(rows, colour=False))
    coloured = list(tables.table(rows, colour=True))

    assert plain[0].split() == [
        *("CONTAINER", "NETWORK", "NAMESPACE", "DESTINATION", "GATEWAY", "STATE", "REASON")
    ]
    assert plain[0].index("STATE") == plain[1].index("ok") == plain[2].index("refused")
    assert plain[0].index("NETWORK") == plain[1].index("wg-net") == plain[2].index("-     ")
    assert coloured[0] == plain[0]
    assert "\x1b[32mok     \x1b[0m" in coloured[1]
    assert coloured[2].replace("\x1b[33m", "").replace("\x1b[0m", "") == plain[2]


def test_how_large_packets_may_be_is_shown_beside_the_gateway() -> None:
    space = Namespace(NETNS, actual=(route(mtu=1280),), mtus={ip_network(DST): 1280})
    findings = Findings(GATEWAY, None, Desired((client(route()),), ()), [space], [])
    (row,) = tables.rows(findings)

    assert (row.gateway, row.mtu, row.state) == ("192.0.2.129", 1280, "ok")
    head, line = tables.table([row], colour=False)
    assert line[head.index("GATEWAY") : head.index("STATE")].strip() == "192.0.2.129 mtu 1280"
    assert json.loads(document([row]))["routes"][0]["mtu"] == 1280


@pytest.mark.parametrize("mtu", [0, 1400])
def test_a_route_for_other_packets_is_a_wrong_one(mtu: int) -> None:
    space = Namespace(NETNS, actual=(route(mtu=mtu),), mtus={ip_network(DST): 1280})
    (row,) = tables.rows(Findings(GATEWAY, None, Desired((client(route()),), ()), [space], []))

    assert row.state == "wrong"
    assert row.reason == f"there is {DST} via 192.0.2.129" + f" mtu {mtu}" * bool(mtu)


# --- our own table ------------------------------------------------------------------------------

EVERYTHING = route("0.0.0.0/0", table=TABLE)
GUARD = policy.guard(EVERYTHING.dst)
RULES = policy.rules(IPV4)
ENGINES = route("0.0.0.0/0", "192.0.2.1")


@pytest.mark.parametrize(
    ("actual", "state", "reason"),
    [
        pytest.param((EVERYTHING, GUARD, *RULES), "ok", "", id="all four"),
        pytest.param((GUARD, *RULES), "missing", "not there: route", id="no route"),
        pytest.param((EVERYTHING, *RULES), "missing", "not there: guard", id="no guard"),
        pytest.param(
            (EVERYTHING, GUARD, RULES[1]), "missing", "not there: rule 670", id="no rule 670"
        ),
        pytest.param(
            (EVERYTHING, GUARD, RULES[0]), "missing", "not there: rule 671", id="no rule 671"
        ),
        pytest.param((), "missing", "not there: route, guard, rule 670, rule 671", id="nothing"),
        pytest.param(
            (route("0.0.0.0/0", "192.0.2.7", table=TABLE), GUARD, *RULES),
            "wrong",
            "there is default via 192.0.2.7 table 671, unreachable default metric 4000 table 671",
            id="through another gateway",
        ),
    ],
)
def test_state_of_everything(actual: tuple[Thing, ...], state: str, reason: str) -> None:
    (row,) = found(client(EVERYTHING), actual=(ENGINES, *actual))

    assert (row.dst, row.gateway) == ("0.0.0.0/0", "192.0.2.129")
    assert (row.state, row.reason) == (state, reason)


SOME = "rule 100 is not ours, and may send some packets elsewhere"


@pytest.mark.parametrize(
    ("rule", "state", "reason"),
    [
        (
            Rule(IPV4, 100, 51),
            "wrong",
            "rule 100 is not ours, and sends packets by table 51 before",
        ),
        (
            Rule(IPV4, 100, 0, is_unreachable=True),
            "wrong",
            "rule 100 is not ours, and sends packets nowhere before",
        ),
        (Rule(IPV4, 100, 51, is_foreign=True), "ok", SOME),
        (Rule(IPV4, 100, 51, device="eth0"), "ok", SOME),
        (Rule(IPV4, 100, 254, source=ip_address("192.0.2.7")), "ok", SOME),
        (Rule(IPV4, 100, 254, suppress=0), "ok", ""),
        (Rule(IPV6, 100, 51), "ok", ""),
        (Rule(IPV4, 669, 254, source=ip_address("192.0.2.7")), "ok", ""),
        (Rule(IPV4, 672, 51), "ok", ""),
    ],
    ids=["all", "nowhere", "some", "a link", "one address", "no default", "IPv6", "ours", "after"],
)
def test_a_rule_of_somebody_elses_is_asked_before(rule: Rule, state: str, reason: str) -> None:
    plain = route()
    there = (EVERYTHING, GUARD, *RULES, rule, plain)

    everything, other = found(client(EVERYTHING, plain), actual=there)

    assert (everything.state, everything.reason) == (state, reason)
    assert (other.state, other.reason) == ("ok", "")


@pytest.mark.parametrize(("mtu", "state"), [(1280, "ok"), (0, "wrong"), (1420, "wrong")])
def test_state_of_everything_with_a_size(mtu: int, state: str) -> None:
    there = (EVERYTHING._replace(mtu=mtu), GUARD, *RULES)
    space = Namespace(NETNS, actual=there, mtus={EVERYTHING.dst: 1280})
    findings = Findings(GATEWAY, None, Desired((client(EVERYTHING),), ()), [space], [])

    (row,) = tables.rows(findings)

    assert (row.state, row.mtu) == (state, 1280)


@pytest.mark.parametrize("mtu", [0, 1280])
def test_what_differs_in_size_alone_is_given_back_to_whom_it_was_given(mtu: int) -> None:
    other = client(route("203.0.113.0/24"), name="postfix")
    one = client(EVERYTHING)
    spaces = gather(Desired((other, one), ()))
    there = (EVERYTHING._replace(mtu=mtu), GUARD, *RULES, ENGINES)
    spaces[NETNS].actual = there
    spaces[NETNS].mtus = {EVERYTHING.dst: 1400}

    tasks = spaces[NETNS].returns()

    assert [(task.step.verb, task.step.thing, task.client) for task in tasks] == [
        ("del", thing, one) for thing in (RULES[1], RULES[0], there[0], GUARD)
    ]


def test_everything_of_a_lost_gateway_is_unreachable() -> None:
    lost = route("0.0.0.0/0", None, kind="unreachable", table=TABLE)

    (row,) = found(client(lost), actual=(lost, GUARD, *RULES))

    assert (row.state, row.reason) == ("unreachable", "the gateway is lost")


def test_what_the_gateway_cannot_carry_is_as_it_should_be_if_it_is_unreachable() -> None:
    remark = Refusal("0.0.0.0/0", "is unreachable: it has none", "give it one", served=True)

    (there,) = found(client(GUARD, refusals=(remark,)), actual=(ENGINES, GUARD, *RULES))
    (lacks,) = found(client(GUARD, refusals=(remark,)), actual=(ENGINES, *RULES))

    assert (there.gateway, there.state, there.reason) == ("unreachable", "ok", remark.reason)
    assert (lacks.state, lacks.reason) == ("missing", "not there: guard")


# --- what keeps off the gateway -----------------------------------------------------------------

PAST = Route(ip_network(DST), None, 0, DIRECT)
FROM = policy.past(ip_address("10.5.0.7"))
DEFAULT = route("0.0.0.0/0", "192.0.2.254")


def direct_rows(*actual: Thing, entered: bool = True) -> list[tuple[str, ...]]:
    """Return destination, way, state and reason of what keeps off the gateway."""
    whole = Client("dovecot", "c1", NETNS, (), (), direct=(PAST, FROM))
    (space,) = gather(Desired((whole,), ())).values()
    routes = tuple(one for one in actual if isinstance(one, Route))
    rules = tuple(one for one in actual if not isinstance(one, Route))
    space.take(Inside(routes, (), rules), "wg-net")
    values = {"netns": NETNS, "stderr": "not permitted"}
    failures = [] if entered else [Failure("client.failed", "dovecot", "c1", "netns", "", values)]
    desired = Desired((whole,), ())
    rows = tables.rows(Findings(GATEWAY, None, desired, [space] if entered else [], failures))
    assert all(row.direct for row in rows if row.dst)
    return [(row.dst, row.way, row.state, row.reason) for row in rows if row.dst]


def test_what_keeps_off_the_gateway_has_a_state_too() -> None:
    there = route(via="192.0.2.254")
    way, other = "192.0.2.254 direct", ("from 10.5.0.7", "direct", "ok", "")

    assert direct_rows(DEFAULT, there, FROM) == [(DST, way, "ok", ""), other]
    assert direct_rows(DEFAULT) == [
        (DST, way, "missing", ""),
        ("from 10.5.0.7", "direct", "missing", ""),
    ]
    assert direct_rows(DEFAULT, route(via="192.0.2.9"), FROM) == [
        (DST, way, "wrong", f"there is {DST} via 192.0.2.9"),
        other,
    ]
    assert direct_rows(FROM) == [
        (
            DST,
            "direct",
            "refused",
            "has no other way: the engine gave the container no IPv4 gateway",
        ),
        other,
    ]
    assert direct_rows(entered=False) == [
        (DST, "direct", "unknown", "not permitted"),
        ("from 10.5.0.7", "direct", "unknown", "not permitted"),
    ]


def test_what_keeps_off_the_gateway_is_taken_back_too() -> None:
    there = route(via="192.0.2.254")
    whole = Client("dovecot", "c1", NETNS, (), (), direct=(PAST, FROM))
    (space,) = gather(Desired((whole,), ())).values()
    space.take(Inside((DEFAULT, there), (), (FROM,)), "wg-net")

    assert [task.command.partition(" ip ")[2] for task in space.returns()] == [
        "rule del pref 669 from 10.5.0.7 lookup main",
        f"route del {DST} via 192.0.2.254",
    ]


# --- who has left the network -------------------------------------------------------------------


def left_findings(*actual: Thing) -> Findings:
    """Return what is found of who asked for everything and has left, with that in its namespace."""
    guard = policy.guard(ip_network("0.0.0.0/0"))
    remark = Refusal("0.0.0.0/0", "is unreachable: it has left", "connect it", served=True)
    left = Client("dovecot", "c1", NETNS, (guard,), (remark,), direct=(FROM,))
    desired = Desired((), (Skipped("dovecot", "c1", "is not attached", expected=True, left=left),))
    (space,) = gather(desired).values()
    routes = tuple(one for one in actual if isinstance(one, Route))
    rules = tuple(one for one in actual if not isinstance(one, Route))
    space.take(Inside(routes, (), rules), "wg-net")
    return Findings(GATEWAY, None, desired, [space], [])


def left_rows(*actual: Thing) -> list[tuple[str, ...]]:
    """Return destination, way, state and reason."""
    rows = tables.rows(left_findings(*actual))
    return [(row.dst, row.way, row.state, row.reason) for row in rows]


def test_what_is_kept_of_who_has_left_can_be_taken_back_if_it_is_ours() -> None:
    held = (policy.guard(ip_network("0.0.0.0/0")), FROM, *policy.rules(IPV4))
    others = route("0.0.0.0/0", "192.0.2.9")._replace(table=TABLE)
    (space,) = left_findings(*held).namespaces
    (foreign,) = left_findings(others, *held).namespaces

    assert {task.step.thing for task in space.returns()} == {*held}
    assert foreign.returns() == []


def test_who_has_left_the_network_is_unreachable_as_long_as_that_stands() -> None:
    guard, (first, second) = policy.guard(ip_network("0.0.0.0/0")), policy.rules(IPV4)
    reason, past = "is unreachable: it has left", ("from 10.5.0.7", "direct", "ok", "")
    skipped = [("", "-", "skipped", "is not attached")]

    assert left_rows(guard, FROM, first, second) == [
        ("0.0.0.0/0", "unreachable", "unreachable", reason),
        past,
    ]
    assert left_rows(guard, FROM, second) == [
        ("0.0.0.0/0", "unreachable", "missing", "not there: rule 670"),
        past,
    ]
    assert left_rows() == skipped
    others = route("0.0.0.0/0", "192.0.2.9")._replace(table=TABLE)
    assert left_rows(others, guard, first, second) == skipped


def test_a_task_on_another_node_is_told_with_its_service_and_node() -> None:
    task = GATEWAY._replace(container_id="", service="wg_wireguard", node="10.77.0.1")
    told = json.loads(document([], task))

    assert [told[key] for key in ("gateway_id", "service", "node")] == [
        "",
        "wg_wireguard",
        "10.77.0.1",
    ]
