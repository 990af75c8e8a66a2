"""What `auto` in a label stands for: all that the gateway's tunnels cover, as they change."""

from __future__ import annotations

import math
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from lib import state
from lib.early.arrival import grant
from lib.kernel.shells import Outcome
from lib.model import (
    NETWORKS_LABEL,
    TABLE,
    Candidate,
    Coverage,
    Endpoint,
    Gateway,
    Gateways,
    Published,
    Refusal,
    Route,
    Standing,
    Tunnelled,
)
from lib.reconcile.covered import Covered
from lib.reconcile.look import look
from lib.routing import coverage, labels, policy, tunnels
from lib.routing.coverage import HOLD_SECONDS, Last, remembered
from lib.routing.serving import Portion, shares
from lib.settings import Settings
from tests.fakes import CREATED
from tests.unit.test_early_arrival import BY_ID, Knowledge, arrival, description
from tests.unit.test_reconciler import GATEWAY, REROUTE, RESYNC, Site, container
from tests.unit.test_several_gateways import A, B, Both, asking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lib.model import Container, Desired, Network

HERE = GATEWAY.sandbox_key
X, Y, Z, X6 = "10.8.0.0/16", "10.9.0.0/16", "198.51.100.0/24", "fd00:8::/64"
VIA = "192.0.2.1"
SHUT = "unreachable"
CLIENT = container("dovecot", "192.0.2.7/24", "fd::7/64", label="auto")
FRONT = Endpoint("front", "n9", (ip_interface("10.8.5.7/24"),))


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as entries:
        yield cast("list[dict[str, Any]]", entries)


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


def remarks(logged: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["entry"], one["reason"]) for one in logged if one["event"] == "entry.refused"]


# --- what it adds to what a client names --------------------------------------------------------

GATE = Gateway("wireguard", "gw", "wg-net", "n1", (ip_address(VIA),))
NEAR = networks("192.0.2.0/24", "fd::/64")


def completed(
    *covered: str, portion: Portion | None = None, versions: tuple[int, ...] = (4, 6)
) -> tuple[list[str], list[Refusal]]:
    """Return what is asked for, and the remarks."""
    portion = portion or Portion((), (), {}, tells=True, is_auto=True)
    gateway = GATE._replace(coverage=Coverage(frozenset(networks(*covered))))
    found, _ = coverage.completed(portion, gateway, NEAR, versions)
    return [str(dst) for dst in found.destinations], list(found.refusals)


NAMED = Portion(networks(X), (), dict.fromkeys(networks(Y), "b"), tells=True, is_auto=True)


@pytest.mark.parametrize(
    ("covered", "expected"),
    [
        pytest.param([Y, X6, X], [X, Y, X6], id="all, in order"),
        pytest.param([X, "0.0.0.0/0", "::/0"], [X], id="not everything"),
        pytest.param([X, "0.0.0.0/1", "128.0.0.0/1", "8000::/1"], [X], id="nor its halves"),
        pytest.param(["0.0.0.0/2", "64.0.0.0/2"], ["0.0.0.0/2", "64.0.0.0/2"], id="but quarters"),
        pytest.param([X, "fe80::/64", "169.254.0.0/16", "ff00::/8"], [X], id="nor special ones"),
        pytest.param(["10.8.0.2/32", "10.8.0.3/32"], ["10.8.0.2/32", "10.8.0.3/32"], id="hosts"),
        pytest.param(
            ["10.8.0.2/32", X, "10.8.7.0/24", "10.9.0.1/32"], [X, "10.9.0.1/32"], id="inside others"
        ),
        pytest.param(["192.0.0.0/8"], ["192.0.0.0/8"], id="around an attached network"),
    ],
)
def test_what_it_stands_for(covered: list[str], expected: list[str]) -> None:
    assert completed(*covered) == (expected, [])


def test_what_is_named_is_not_added_whoever_serves_it() -> None:
    assert completed(X, Y, Z, "10.9.1.0/24", portion=NAMED) == ([X, "10.9.1.0/24", Z], [])


def test_an_ip_version_that_the_client_lacks_is_passed_over() -> None:
    assert completed(X, X6, versions=(4,)) == ([X], [])


def test_it_adds_nothing_to_who_does_not_ask_for_it() -> None:
    portion = NAMED._replace(is_auto=False)

    assert completed(Z, portion=portion) == ([X], [])


def test_an_attached_network_is_refused_by_name_and_the_rest_goes_on() -> None:
    reason = "is equal to or inside 192.0.2.0/24, to which the container is attached"
    hint = "give the container's own network another subnet, or name what it wants instead of auto"

    assert completed(X, "192.0.2.0/25") == ([X], [Refusal("192.0.2.0/25", reason, hint)])


def test_not_more_than_a_label_may_have() -> None:
    many = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1003)]
    asked, (refused,) = completed(*many)

    assert asked == many[:1000]
    assert refused == Refusal(
        "auto",
        "is more than 1000 networks; 3 of them are left out",
        "join neighbouring networks of the tunnel (AllowedIPs) into wider ones",
    )


SHOW = "docker exec wireguard ip route show table all   # what goes into its tunnel"
YET = "is nothing yet: wireguard was not seen to send anything into a tunnel"


@pytest.mark.parametrize(
    ("known", "reason", "hint"),
    [
        (Coverage(), YET, SHOW),
        (Coverage(frozenset()), YET, SHOW),
        (
            Coverage(frozenset(networks("0.0.0.0/0", "::/0"))),
            "is nothing: wireguard sends only everything into its tunnel",
            "write auto, 0.0.0.0/0, ::/0",
        ),
        (
            Coverage(reason="cannot read the routes in /x: no"),
            "is not known: cannot read the routes in /x: no",
            "docker exec wgroutemgr wgroutemgr doctor   # says what is lacking",
        ),
    ],
)
def test_what_stands_for_nothing_is_refused(known: Coverage, reason: str, hint: str) -> None:
    portion = Portion((), (), {}, tells=True, is_auto=True)
    found, _ = coverage.completed(portion, GATE._replace(coverage=known), NEAR, (4,))

    assert found.refusals == (Refusal("auto", reason, hint),)


def test_who_names_everything_beside_it_is_not_told_to() -> None:
    portion = Portion(networks("0.0.0.0/0"), (), {}, tells=True, is_auto=True)

    assert completed("0.0.0.0/0", "::/0", portion=portion) == (["0.0.0.0/0"], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("auto", True), (f"{X} , auto", True), ("", False), ("automatic", False), ("AUTO", False)],
)
def test_who_asks_for_it(text: str, expected: bool) -> None:  # noqa: FBT001 - a table
    assert labels.asks_auto(text) is expected
    assert labels.parse(f"{text}, {Z}")[0][-1:] == networks(Z)


# --- what is remembered -------------------------------------------------------------------------

DST, DST6 = networks(X, X6)
INTO, AWAY = Last("wg0"), Last("wg0", is_there=False)


def missing(since: float) -> Last:
    return Last("wg0", since, is_there=False)


@pytest.mark.parametrize(
    ("before", "found", "up", "expected"),
    [
        pytest.param(None, "wg0", {"wg0"}, INTO, id="new"),
        pytest.param(INTO, "wg0", {"wg0"}, INTO, id="still there"),
        pytest.param(INTO, "", {"wg0"}, missing(100), id="taken away"),
        pytest.param(missing(95), "", {"wg0"}, missing(95), id="still taken away"),
        pytest.param(missing(90), "", {"wg0"}, None, id="for long enough"),
        pytest.param(missing(95), "wg0", {"wg0"}, INTO, id="there again"),
        pytest.param(INTO, "", (), AWAY, id="its tunnel is away"),
        pytest.param(missing(50), "", {"wg1"}, AWAY, id="its tunnel is away, and another is there"),
        pytest.param(AWAY, "", {"wg0"}, missing(100), id="its tunnel is back, without it"),
        pytest.param(AWAY, "wg0", {"wg0"}, INTO, id="and with it"),
        pytest.param(AWAY, "wg1", {"wg1"}, Last("wg1"), id="by another tunnel"),
    ],
)
def test_what_is_remembered(
    before: Last | None, found: str, up: set[str], expected: Last | None
) -> None:
    known = {DST: before} if before else {}
    told = Tunnelled({DST: found} if found else {}, frozenset(up), frozenset({4}))

    assert remembered(known, told, 100.0) == ({DST: expected} if expected else {})


def test_an_ip_version_of_which_the_gateway_has_no_address_is_not_judged() -> None:
    told = Tunnelled({}, frozenset({"wg0"}), frozenset({4}))
    wide6 = ip_network("fd00::/16")

    assert remembered({DST: INTO, DST6: missing(1), wide6: INTO}, told, 100.0) == {
        DST: missing(100),
        DST6: AWAY,
        wide6: INTO,
    }


def test_when_something_ends() -> None:
    assert coverage.ends({DST: INTO, DST6: AWAY}) == math.inf
    assert coverage.ends({DST: missing(7), DST6: missing(5)}) == 5 + HOLD_SECONDS
    assert coverage.unseen({DST: INTO, DST6: missing(5)}) == {DST: INTO, DST6: AWAY}


# --- a gateway and its client -------------------------------------------------------------------


def with_tunnel(*clients: Container, to: str = f"{X},{X6}", **values: Any) -> Site:  # noqa: ANN401
    """Return a site whose gateway has a tunnel to these destinations alone, after a pass."""
    site = Site(*clients, **values)
    for wide in tunnels.EVERYTHING:
        site.kernel.close_tunnel(HERE, str(wide))
    for dst in filter(None, to.split(",")):
        site.kernel.tunnel(HERE, dst)
    site.run()
    del site.kernel.commands[:], site.news[:]
    return site


def changed(site: Site) -> None:
    """Do what the daemon does when it hears of a change: look, and a pass if that is to be."""
    assert site.news
    del site.news[:]
    if site.run(REROUTE).is_rerouted:
        site.run(RESYNC)


def test_a_client_gets_what_the_tunnel_covers_and_follows_it(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(CLIENT)
    assert site.routes(CLIENT) == [f"{X} {VIA}", f"{X6} fd::1"]
    for _ in range(2):
        assert site.run(RESYNC).changed == 0

    site.kernel.tunnel(HERE, Y)
    changed(site)
    assert site.routes(CLIENT) == [f"{X} {VIA}", f"{Y} {VIA}", f"{X6} fd::1"]

    del logged[:]
    site.kernel.unroute(HERE, X)
    changed(site)
    assert site.routes(CLIENT) == [f"{X} {SHUT}", f"{Y} {VIA}", f"{X6} fd::1"]
    site.drive(HOLD_SECONDS - 1)
    assert f"{X} {SHUT}" in site.routes(CLIENT)
    site.drive(2)
    assert site.routes(CLIENT) == [f"{Y} {VIA}", f"{X6} fd::1"]
    (deleted,) = (one for one in logged if one["event"] == "route.deleted")
    assert (deleted["dst"], deleted["reason"]) == (X, "nobody asks for it any more")
    del site.kernel.commands[:]
    site.drive(200)
    assert site.kernel.commands == []


def test_one_that_is_taken_away_and_comes_back_is_never_let_go() -> None:
    """As when a tunnel is made anew: its link is up before its routes are there."""
    site = with_tunnel(CLIENT, to=X)
    for _ in range(5):
        site.kernel.unroute(HERE, X)
        changed(site)
        assert site.routes(CLIENT) == [f"{X} {SHUT}"]
        site.drive(HOLD_SECONDS - 1)
        site.kernel.tunnel(HERE, X)
        changed(site)
        assert site.routes(CLIENT) == [f"{X} {VIA}"]
        site.drive(HOLD_SECONDS + 1)
        assert site.routes(CLIENT) == [f"{X} {VIA}"]


def test_a_tunnel_that_is_away_takes_nothing_with_it(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(CLIENT, to=X)
    site.kernel.close_tunnel(HERE, X)
    changed(site)
    site.drive(300)
    assert site.routes(CLIENT) == [f"{X} {SHUT}"]
    assert [one["event"] for one in logged if one["event"] == "tunnel.lost"] == ["tunnel.lost"]

    new = container("new", "192.0.2.9/24", label="auto")
    site.add(new)
    site.change(new)
    site.on("start", new)
    assert site.routes(new) == [f"{X} {SHUT}"]
    site.kernel.tunnel(HERE, X)
    changed(site)
    assert site.routes(CLIENT) == site.routes(new) == [f"{X} {VIA}"]


def test_who_comes_first_while_it_is_away_is_cut_off_too(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(to=X)
    site.kernel.close_tunnel(HERE, X)
    assert not site.run(REROUTE).is_rerouted
    site.add(CLIENT)
    site.change(CLIENT)
    report = site.on("start", CLIENT)

    assert site.routes(CLIENT) == [f"{X} {SHUT}"]
    assert [*report.lost] == [DST]
    assert "tunnel.lost" in [one["event"] for one in logged]


def test_so_it_is_with_a_gateway_that_is_lost() -> None:
    site = with_tunnel(CLIENT)
    lost = GATEWAY._replace(running=False)
    site.change(lost)
    site.on("die", lost)
    site.drive(300)
    assert site.routes(CLIENT) == [f"{X} {SHUT}", f"{X6} {SHUT}"]

    site.kernel.unroute(HERE, X)
    site.kernel.unroute(HERE, X6)
    site.change(GATEWAY)
    site.on("start", GATEWAY)
    assert site.routes(CLIENT) == [f"{X} {SHUT}", f"{X6} {SHUT}"]
    site.kernel.tunnel(HERE, X)
    site.kernel.tunnel(HERE, X6)
    site.run(RESYNC)
    assert site.routes(CLIENT) == [f"{X} {VIA}", f"{X6} fd::1"]


def test_who_is_only_to_be_warned_keeps_it() -> None:
    site = with_tunnel(CLIENT, to=X, on_tunnel_loss="warn")
    site.kernel.close_tunnel(HERE, X)
    changed(site)

    assert site.routes(CLIENT) == [f"{X} {VIA}"]


def test_before_a_tunnel_was_seen_it_is_refused_by_name(logged: list[dict[str, Any]]) -> None:
    asks = CLIENT._replace(labels={NETWORKS_LABEL: f"auto, {Z}"})
    site = with_tunnel(asks, to="")
    assert site.routes(asks) == [f"{Z} {VIA}"]
    assert remarks(logged) == [("auto", YET)]

    site.kernel.tunnel(HERE, X)
    changed(site)
    assert site.routes(asks) == [f"{X} {VIA}", f"{Z} {VIA}"]


def test_a_namespace_that_cannot_be_read(logged: list[dict[str, Any]]) -> None:
    site = Site(CLIENT)
    site.kernel.fail_reading(HERE, "Operation not permitted")
    site.run()
    why = f"is not known: cannot read the routes in {HERE}: Operation not permitted"
    assert remarks(logged) == [("auto", why)]
    assert site.routes(CLIENT) == []

    site.kernel.heal(HERE)
    site.kernel.tunnel(HERE, X)
    site.run(RESYNC)
    assert site.routes(CLIENT) == [f"{X} {VIA}"]
    site.kernel.fail_reading(HERE, "Operation not permitted")
    del logged[:]
    site.drive(120)
    assert (site.routes(CLIENT), remarks(logged)) == ([f"{X} {VIA}"], [])


def test_everything_beside_it_is_served() -> None:
    asks = CLIENT._replace(labels={NETWORKS_LABEL: "auto, 0.0.0.0/0"})
    site = with_tunnel(asks, to=f"{X},0.0.0.0/0,::/0")

    led = [line for line in site.routes(asks) if SHUT not in line]
    assert led == [f"0.0.0.0/0 {VIA}", f"{X} {VIA}"]


def test_what_contains_an_attached_network_goes_into_our_own_table() -> None:
    on_both = CLIENT._replace(endpoints=(*CLIENT.endpoints, FRONT))
    site = with_tunnel(on_both, to=f"{X},{Z}")
    there = {str(one.dst): one.table for one in site.kernel.routes(on_both.sandbox_key)}
    assert (there[X], there[Z]) == (TABLE, 254)

    site.kernel.unroute(HERE, X)
    changed(site)
    site.drive(HOLD_SECONDS + 1)
    assert site.routes(on_both) == [f"{Z} {VIA}"]
    assert site.kernel.rules(on_both.sandbox_key) == ()


def test_a_sidecar_that_starts_while_the_tunnel_is_away_leaves_our_table_as_it_is() -> None:
    """It does not know what was in it; of one there is only the guard, as its link had gone."""
    asks = CLIENT._replace(labels={NETWORKS_LABEL: f"auto, {Z}"})
    asks = asks._replace(endpoints=(*asks.endpoints, FRONT))
    here, shut = asks.sandbox_key, Route(DST, None, 0, "unreachable", TABLE)
    site = Site(asks)
    for wide in tunnels.EVERYTHING:
        site.kernel.close_tunnel(HERE, str(wide))
    only_guard = policy.guard(ip_network("10.0.0.0/8"))
    stood = (shut, policy.guard(DST), only_guard, *policy.rules(4))
    site.kernel.give(here, *stood)
    for _ in range(2):
        site.run(RESYNC)
    found = site.kernel.read(here, rules=True)
    assert {one for one in found.routes if one.table == TABLE} == {*stood[:3]}
    assert found.rules == stood[3:]
    assert f"{Z} {VIA}" in site.routes(asks)

    site.kernel.tunnel(HERE, X)
    changed(site)
    assert f"{X} {VIA}" in site.routes(asks)
    assert only_guard not in site.kernel.routes(here)


def test_hundreds_of_them_come_and_go() -> None:
    many = [f"10.8.{number}.0/24" for number in range(250)]
    site = with_tunnel(CLIENT, to=",".join(many))
    site.drive(5)
    assert len(site.routes(CLIENT)) == 250
    for dst in many[1:]:
        site.kernel.unroute(HERE, dst)
    changed(site)
    site.drive(HOLD_SECONDS + 5)

    assert site.routes(CLIENT) == [f"{many[0]} {VIA}"]


def test_early_routes_know_it_from_the_last_look() -> None:
    site = with_tunnel(to=X)
    seen = site.announced[-1]
    assert seen
    assert seen.coverage == Coverage(frozenset(networks(X)))
    site.kernel.close_tunnel(HERE, X)
    site.run(REROUTE)

    seen = site.announced[-1]
    assert seen
    assert (seen.coverage.networks, seen.cut_off >= {DST}) == (frozenset({DST}), True)


def test_what_was_missing_when_the_gateway_was_lost_is_not_let_go_as_soon_as_it_is_back() -> None:
    site = with_tunnel(CLIENT, to=X)
    site.kernel.unroute(HERE, X)
    changed(site)
    lost = GATEWAY._replace(running=False)
    site.change(lost)
    site.on("die", lost)
    site.drive(60)
    site.change(GATEWAY)
    site.on("start", GATEWAY)
    site.drive(HOLD_SECONDS - 1)
    assert site.routes(CLIENT) == [f"{X} {SHUT}"]
    site.drive(2)
    assert site.routes(CLIENT) == []


def test_without_a_namespace_ours_is_not_taken_for_the_gateways() -> None:
    site = with_tunnel(to=X)
    found = Covered(site.kernel, Settings(), lambda: 0.0)
    for gateway, where in (
        (GATE, "in no namespace yet"),
        (GATE._replace(container_id="", service="vpn"), "on another node"),
        (GATE._replace(is_outside=True), "no container of this engine"),
    ):
        found.look(gateway, "")
        assert found.now == Coverage(None, f"wireguard is {where}")


def test_another_gateway_by_name_starts_from_nothing() -> None:
    site = with_tunnel(to=X)
    found = Covered(site.kernel, Settings(), lambda: 0.0)
    found.look(GATE, HERE)
    assert found.now.networks == frozenset({DST})
    site.kernel.close_tunnel(HERE, X)
    found.look(GATE._replace(container_id="its successor"), HERE)
    assert found.now.networks == frozenset({DST})
    found.look(GATE._replace(container="other"), HERE)
    assert found.now.networks is None


def test_who_starts_gets_early_what_it_covered_at_the_last_look() -> None:
    known = Knowledge(
        described={BY_ID: description(CREATED._replace(labels={NETWORKS_LABEL: "auto"}))}
    ).answers()
    covered = Coverage(frozenset(networks(X, "10.9.0.0/16", "0.0.0.0/0")))
    gateway = known.gateway._replace(coverage=covered, cut_off=frozenset(networks("10.9.0.0/16")))
    given = grant(arrival("192.0.2.7"), known._replace(gateway=gateway))

    assert given
    assert [line.partition(" ip ")[2] for line in given.commands.values()] == [
        f"route replace {X} via {VIA} src 192.0.2.7"
    ]
    given.take(dict.fromkeys(given.commands, Outcome("", 0, "", 0.0)))
    assert [line.partition(" ip ")[2] for line in given.commands.values()] == [
        "route replace unreachable 10.9.0.0/16"
    ]


# --- commands that look once --------------------------------------------------------------------


def wanted(site: Site, published: Published | None = None, gateway: str = B) -> Desired:
    settings = Settings(gateway=gateway, network="wg-net", published=published)
    return look(site.engine, site.kernel, settings)[0].desired  # type: ignore[arg-type]


def looked(site: Site, published: Published | None = None) -> list[str]:
    clients = wanted(site, published).clients
    return [str(route.dst) for client in clients for route in client.routes]


def test_a_command_sees_what_is_there_or_what_the_daemon_knows(tmp_path: Path) -> None:
    site = with_tunnel(CLIENT, to=X)
    assert looked(site) == [X]
    site.kernel.close_tunnel(HERE, X)
    assert looked(site) == []

    file = tmp_path / "state"
    report = site.run(REROUTE)
    state.State(Settings(), {}, file).publish(
        None, report.lost, {"wg-net": site.reconciler.coverage}
    )
    assert looked(site, state.read(file)) == [X]
    state.State(Settings(), {}, file).publish(None)
    assert looked(site, state.read(file)) == []


# --- several gateways ---------------------------------------------------------------------------


class Two(Both):
    """Each has a tunnel of its own; what is named is what each covers."""

    def __init__(self, *clients: Container, **covered: str) -> None:
        super().__init__(*clients)
        for name, gateway in self.gateways.items():
            for wide in tunnels.EVERYTHING:
                self.kernel.close_tunnel(gateway.sandbox_key, str(wide))
            for dst in covered.get(name, "").split(", "):
                self.kernel.tunnel(gateway.sandbox_key, dst)
        for _ in range(2):
            self.both(RESYNC)

    def steady(self) -> bool:
        del self.kernel.commands[:]
        for _ in range(3):
            self.both(RESYNC)
        return not self.kernel.commands


def test_each_gateway_adds_what_its_own_tunnels_cover() -> None:
    client = asking(**{A: "auto", B: f"auto, {Z}"})
    site = Two(client, **{A: X, B: Y})

    assert site.routes(client) == [f"{X} 192.0.2.2", f"{Y} {VIA}", f"{Z} {VIA}"]
    assert site.steady()
    site.lose(A)
    assert site.routes(client) == [f"{X} {SHUT}", f"{Y} {VIA}", f"{Z} {VIA}"]
    assert site.steady()


def test_without_a_name_it_is_that_ones_that_serves_these() -> None:
    client = asking(any="auto")
    site = Two(client, **{A: X, B: Y})

    assert site.routes(client) == [f"{X} 192.0.2.2"]
    assert site.steady()


def test_what_one_names_is_not_in_the_other_ones() -> None:
    client = asking(**{A: f"{X}, {Y}", B: "auto"})
    site = Two(client, **{A: X, B: f"{Y}, {Z}"})

    assert site.routes(client) == [f"{X} 192.0.2.2", f"{Y} 192.0.2.2", f"{Z} {VIA}"]
    assert site.steady()


def test_of_two_that_cover_the_same_it_is_the_firsts_until_that_is_lost(
    logged: list[dict[str, Any]],
) -> None:
    client = asking(**{A: "auto", B: "auto"})
    site = Two(client, **{A: X, B: X})
    first = site.routes(client)[0].split()[1]
    holder, substitute = {"192.0.2.2": (A, VIA), VIA: (B, "192.0.2.2")}[first]
    assert site.steady()
    said = (X, f"leads through {first} already, whose tunnels cover it too")
    assert said in remarks(logged)

    site.lose(holder)
    site.both(RESYNC)
    assert site.routes(client) == [f"{X} {substitute}"]
    assert site.steady()
    site.come_back(holder)
    site.pass_on(100)
    assert site.routes(client) == [f"{X} {substitute}"]
    assert site.steady()


def test_neither_takes_what_the_other_has_in_our_table() -> None:
    client = asking(**{A: "auto", B: "auto"})
    client = client._replace(endpoints=(*client.endpoints, FRONT))
    site = Two(client, **{A: X, B: "10.0.0.0/8"})
    there = [one for one in site.kernel.routes(client.sandbox_key) if one.table == TABLE]

    assert {str(one.dst): str(one.gateway) for one in there if one.gateway} == {
        X: "192.0.2.2",
        "10.0.0.0/8": VIA,
    }
    assert site.rules(client) == [*policy.rules(4)]
    assert site.steady()
    site.kernel.unroute(site.gateways[A].sandbox_key, X)
    site.both(RESYNC)
    site.now += HOLD_SECONDS
    assert site.lines
    site.both(RESYNC)
    assert [line for line in site.lines if " del " in line] == [
        f"route del unreachable {X} table 671",
        f"route del unreachable {X} metric 4000 table 671",
    ]
    there = [one for one in site.kernel.routes(client.sandbox_key) if one.table == TABLE]
    assert {str(one.dst) for one in there} == {"10.0.0.0/8"}
    assert site.rules(client) == [*policy.rules(4)]
    assert site.steady()


def test_one_that_nobody_answers_to_is_refused_and_nothing_is_taken_from_our_table(
    logged: list[dict[str, Any]],
) -> None:
    client = asking(nobody="auto", any="auto")
    site = Two(client, **{A: X, B: Y})

    assert site.routes(client) == [f"{X} 192.0.2.2"]
    assert "wgroutemgr.networks.nobody" in dict(remarks(logged))
    assert site.steady()


AB = (Candidate("a", frozenset({"vpn"})), Candidate("b", frozenset({"vpn"})))
LOST_AB = (AB[0]._replace(standing=Standing.LOST), AB[1])


@pytest.mark.parametrize(
    ("texts", "there", "expected"),
    [
        pytest.param({"networks": X}, AB, set(), id="not asked for"),
        pytest.param({"networks": "auto"}, AB, {"a"}, id="any"),
        pytest.param({"networks": f"auto, {X}"}, LOST_AB, {"a"}, id="any, and lost"),
        pytest.param({"networks.b": "auto"}, AB, {"b"}, id="by name"),
        pytest.param({"networks.vpn": "auto"}, AB, {"a"}, id="a name of both"),
        pytest.param({"networks.vpn": "auto"}, LOST_AB, {"b"}, id="of which one is lost"),
        pytest.param({"networks.a": "auto", "networks.b": "auto"}, LOST_AB, {"a", "b"}, id="each"),
        pytest.param({"networks.c": "auto"}, AB, {""}, id="nobody's"),
    ],
)
def test_whose_it_is(
    texts: dict[str, str], there: tuple[Candidate, ...], expected: set[str]
) -> None:
    labels = {f"wgroutemgr.{key}": text for key, text in texts.items()}
    found = shares(labels, Gateways("a", "a", there))

    assert found.autos == expected


def test_who_asks_for_another_ones_alone_is_that_ones() -> None:
    client = asking(**{B: "auto"})
    site = Two(client, **{A: X, B: Y})

    (skipped,) = wanted(site, gateway=A).skipped
    assert (skipped.reason, skipped.expected) == ("is served by the gateway wireguard", True)
    assert looked(site) == [Y]


def test_what_keeps_off_may_be_in_what_only_the_other_knows(logged: list[dict[str, Any]]) -> None:
    client = asking(**{A: "auto", B: "auto", "direct": "10.9.1.0/24"})
    site = Two(client, **{A: X, B: Y})

    site.kernel.give(client.sandbox_key, Route(ip_network("0.0.0.0/0"), ip_address("192.0.2.9"), 0))
    site.both(RESYNC)

    last = {entry: reason for entry, reason in remarks(logged) if "no other way" not in reason}
    assert "10.9.1.0/24" not in last
    led = [f"{X} 192.0.2.2", f"{Y} {VIA}", "10.9.1.0/24 192.0.2.9"]
    assert site.routes(client) == ["0.0.0.0/0 192.0.2.9", *led]
    assert site.steady()
