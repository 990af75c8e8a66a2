"""What becomes of clients' routes while the gateway does not send them into its tunnel."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from lib.cli import tables
from lib.model import (
    DIRECT_LABEL,
    NETWORKS_LABEL,
    TABLE,
    Client,
    EarlyClient,
    Gateway,
    Published,
    Route,
    Way,
)
from lib.reconcile.look import look
from lib.reconcile.tunnels import Tunnels, shown
from lib.routing import policy, tunnels
from lib.settings import Settings
from tests.unit.test_reconciler import (
    CLIENT,
    GATEWAY,
    REROUTE,
    RESYNC,
    ROOT,
    Site,
    container,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lib.model import Container, Network
    from lib.reconcile.report import Scope

PLAIN, PLAIN6, OTHER = "10.8.0.0/16", "fd00:8::/64", "10.9.0.0/16"
HERE = GATEWAY.sandbox_key
DOVECOT = f"nsenter --net={ROOT}/dovecot ip"
SHUT = [f"{PLAIN} unreachable"]
OPEN = [f"{PLAIN} 192.0.2.1"]
DEFAULTS = "0.0.0.0/0, ::/0"


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as entries:
        yield cast("list[dict[str, Any]]", entries)


def asks(label: str) -> Container:
    return CLIENT._replace(labels={NETWORKS_LABEL: label})


def with_tunnel(*clients: Container, to: str = PLAIN, **settings: Any) -> Site:  # noqa: ANN401
    """Return a site after its first pass, with a tunnel to these destinations."""
    site = Site(*clients, **settings)
    for dst in to.split(","):
        site.kernel.tunnel(HERE, dst)
    site.run()
    del site.kernel.commands[:]
    del site.news[:]
    return site


def said(logged: list[dict[str, Any]]) -> list[str]:
    return [one["event"] for one in logged if one["event"].startswith("tunnel.")]


# --- which are lost -----------------------------------------------------------------------------

A, B, ALL, HALF = map(ip_network, (PLAIN, OTHER, "0.0.0.0/0", "8000::/1"))
TUNNEL, BACK, NOWHERE = Way("wg0", is_tunnel=True, mtu=0), Way("eth0"), Way()


@pytest.mark.parametrize(
    ("ways", "through", "elsewhere", "expected"),
    [
        pytest.param({A: TUNNEL}, {A}, (), (), id="into the tunnel"),
        pytest.param({A: BACK}, {A}, (), {A}, id="back out, and into the tunnel before"),
        pytest.param({A: NOWHERE}, {A}, (), {A}, id="nowhere, and into the tunnel before"),
        pytest.param({}, {A}, (), {A}, id="nobody can tell"),
        pytest.param({A: Way("eth1", mtu=0)}, {A}, (), {A}, id="by another link"),
        pytest.param({A: BACK}, (), (), (), id="never seen in a tunnel"),
        pytest.param({A: BACK, B: BACK}, (), {A}, (), id="a gateway without a tunnel"),
        pytest.param({A: BACK, B: BACK}, {A}, {B}, {A}, id="another never was there"),
        pytest.param({A: BACK, B: BACK}, {A}, (), {A, B}, id="another that is new"),
        pytest.param({A: TUNNEL, B: BACK}, {A}, (), (), id="a new one, while none is lost"),
        pytest.param({ALL: BACK}, (), {ALL}, {ALL}, id="everything, in any case"),
        pytest.param({HALF: NOWHERE}, (), (), {HALF}, id="and half of it"),
        pytest.param({ALL: BACK, B: BACK}, (), (), {ALL}, id="but that says nothing of others"),
        pytest.param({ALL: TUNNEL, HALF: TUNNEL}, (), (), (), id="everything into the tunnel"),
    ],
)
def test_which_are_lost(
    ways: dict[Network, Way],
    through: Collection[Network],
    elsewhere: Collection[Network],
    expected: Collection[Network],
) -> None:
    known = {*ways, *through}

    assert tunnels.lost(known, ways, frozenset(through), frozenset(elsewhere)) == frozenset(
        expected
    )


VIA = ip_address("192.0.2.1")
FOUND = Gateway("wireguard", "gw", "wg-net", "n1", (VIA,))
CUT_OFF = FOUND._replace(cut_off=frozenset({A, ALL}))


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (Route(A, VIA, 0, mtu=1280), Route(A, None, 0, "unreachable")),
        (Route(A, None, 0, "unreachable"), Route(A, None, 0, "unreachable")),
        (Route(B, None, 0, "unreachable"), Route(B, VIA, 0)),
        (Route(ALL, VIA, 0, table=TABLE), Route(ALL, None, 0, "unreachable", TABLE)),
        (policy.guard(ALL), policy.guard(ALL)),
        (policy.guard(ip_network("::/0")), policy.guard(ip_network("::/0"))),
        (policy.rules(4)[0], policy.rules(4)[0]),
        (policy.proof(4), policy.proof(4)),
    ],
)
def test_where_what_stands_is_led(thing: Any, expected: object) -> None:  # noqa: ANN401
    assert tunnels.led(thing, CUT_OFF) == expected


def test_not_more_destinations_are_shown_than_fit() -> None:
    many = [ip_network(f"10.{number}.0.0/16") for number in range(7, 0, -1)]

    assert shown([ip_network("::/0"), A]) == "10.8.0.0/16, ::/0"
    assert shown(many) == ", ".join(f"10.{n}.0.0/16" for n in range(1, 6)) + " and 2 more"


# --- a tunnel that goes and comes ---------------------------------------------------------------


def test_a_tunnel_that_goes_makes_unreachable_at_once_and_asks_the_engine_nothing(
    logged: list[dict[str, Any]],
) -> None:
    site = with_tunnel(CLIENT)
    del site.engine.calls[:], logged[:]
    site.kernel.close_tunnel(HERE, PLAIN)
    assert site.news == [1000.0]
    report = site.run(REROUTE)

    assert site.kernel.commands == [f"{DOVECOT} route replace unreachable {PLAIN}"]
    assert site.engine.calls == []
    assert report.lost == {A: 1000.0}
    assert (report.changed, report.clients, report.is_rerouted) == (1, 1, True)
    assert [one["event"] for one in logged] == ["tunnel.lost", "route.replaced"]
    assert logged[0] == {
        "event": "tunnel.lost",
        "log_level": "warning",
        "container": "wireguard",
        "network": "wg-net",
        "reason": f"wireguard sends {PLAIN} nowhere",
        "hint": "docker restart wireguard   # if its tunnel does not come back by itself",
    }
    assert logged[1]["trigger"] == "tunnel"
    assert logged[1]["gateway"] == "unreachable"

    del logged[:], site.kernel.commands[:]
    for scope in (REROUTE, RESYNC):
        report = site.run(scope)
        assert (report.changed, report.is_rerouted, report.lost) == (0, False, {A: 1000.0})
    assert logged == []


def test_a_gateway_that_leaves_its_network_with_its_tunnel_up_is_lost_at_once() -> None:
    """The engine takes the links of who ends one by one, before it tells of the end."""
    site = with_tunnel(CLIENT)
    site.kernel.detach(HERE, "192.0.2.1/24")

    assert site.news == [1000.0]
    assert site.run(REROUTE).lost == {A: 1000.0}
    assert site.kernel.commands == [f"{DOVECOT} route replace unreachable {PLAIN}"]


def test_and_back_when_it_comes(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(CLIENT)
    site.kernel.close_tunnel(HERE, PLAIN)
    site.run(REROUTE)
    site.kernel.tunnel(HERE, PLAIN, 1280)
    del logged[:], site.kernel.commands[:]
    report = site.run(REROUTE)

    assert site.kernel.commands == [f"{DOVECOT} route replace {PLAIN} via 192.0.2.1 mtu 1280"]
    assert report.lost == {}
    assert logged[0] == {
        "event": "tunnel.found",
        "log_level": "info",
        "container": "wireguard",
        "network": "wg-net",
        "reason": f"wireguard sends {PLAIN} into wg0",
    }
    del logged[:]
    assert site.run(RESYNC).changed == 0
    assert logged == []


def test_a_full_pass_finds_it_too(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(CLIENT)
    site.kernel.close_tunnel(HERE, PLAIN)
    site.run(RESYNC)
    assert site.routes(CLIENT) == SHUT
    site.kernel.tunnel(HERE, PLAIN)
    site.run(RESYNC)

    assert site.routes(CLIENT) == OPEN
    assert said(logged) == ["tunnel.lost", "tunnel.found"]


def test_piece_by_piece_it_is_told_once(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(asks(DEFAULTS))
    for dst in ("0.0.0.0/0", "::/0"):
        site.kernel.close_tunnel(HERE, dst)
        site.run(REROUTE)
        site.now += 0.01
    for dst in ("::/0", "0.0.0.0/0"):
        site.kernel.tunnel(HERE, dst)
        site.run(REROUTE)
    assert said(logged) == ["tunnel.lost", "tunnel.found"]

    site.kernel.close_tunnel(HERE, "0.0.0.0/0")
    site.run(REROUTE)
    site.now += 2
    site.kernel.close_tunnel(HERE, "::/0")
    site.run(REROUTE)
    assert said(logged)[2:] == ["tunnel.lost"] * 2


def test_everything_is_lost_until_a_tunnel_was_seen(logged: list[dict[str, Any]]) -> None:
    site = Site(asks(DEFAULTS))
    for dst in tunnels.EVERYTHING:
        site.kernel.close_tunnel(HERE, str(dst))
    site.run()

    assert site.routes(CLIENT) == sorted(
        [*["0.0.0.0/0 unreachable"] * 2, *["::/0 unreachable"] * 2]
    )
    (lost,) = (one for one in logged if one["event"] == "tunnel.lost")
    assert lost["reason"] == "wireguard sends 0.0.0.0/0, ::/0 nowhere"
    assert lost["hint"].startswith("environment: {WGROUTEMGR_ON_TUNNEL_LOSS: warn}")
    assert len(site.kernel.rules(CLIENT.sandbox_key)) == 4
    site.kernel.tunnel(HERE, "0.0.0.0/0")
    site.kernel.tunnel(HERE, "::/0")
    site.run(REROUTE)
    assert "0.0.0.0/0 192.0.2.1" in site.routes(CLIENT)
    assert said(logged) == ["tunnel.lost", "tunnel.found"]


@pytest.mark.parametrize(
    ("through", "expected"), [((), ()), ({B}, {ALL})], ids=["never had one", "had one"]
)
def test_who_can_have_no_tunnel_is_not_judged_by_everything_either(
    through: Collection[Network], expected: Collection[Network]
) -> None:
    ways = {ALL: BACK, B: TUNNEL}
    found = tunnels.lost(ways, ways, frozenset(through), frozenset(), may_tunnel=False)

    assert found == frozenset(expected)


def test_a_gateway_that_can_have_no_tunnel_serves_everything() -> None:
    """Such as a proxy: it lacks the capability."""
    site = Site(asks(DEFAULTS), gateway=GATEWAY._replace(may_tunnel=False))
    for dst in tunnels.EVERYTHING:
        site.kernel.close_tunnel(HERE, str(dst))
    report = site.run()

    assert "0.0.0.0/0 192.0.2.1" in site.routes(CLIENT)
    assert report.lost == {}


@pytest.mark.parametrize("scope", [REROUTE, RESYNC])
def test_a_gateway_that_never_had_a_tunnel_is_not_judged(
    scope: Scope, logged: list[dict[str, Any]]
) -> None:
    site = Site(CLIENT)
    site.kernel.tunnel(HERE, PLAIN, is_ethernet=True)
    site.run()
    site.kernel.close_tunnel(HERE, PLAIN)
    for dst in tunnels.EVERYTHING:
        site.kernel.close_tunnel(HERE, str(dst))
    report = site.run(scope)

    assert site.routes(CLIENT) == OPEN
    assert report.lost == {}
    assert said(logged) == []


def test_who_is_only_to_be_warned_keeps_the_route(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(CLIENT, on_tunnel_loss="warn")
    site.kernel.close_tunnel(HERE, PLAIN)
    report = site.run(REROUTE)

    assert site.kernel.commands == []
    assert report.lost == {A: 1000.0}
    assert said(logged) == ["tunnel.lost"]
    assert site.announced[-1] == site.announced[0]


def test_what_nobody_asks_for_any_more_is_not_found(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(CLIENT)
    site.kernel.close_tunnel(HERE, PLAIN)
    site.run(REROUTE)
    site.remove(CLIENT)
    report = site.run(RESYNC)
    assert (report.lost, said(logged)) == ({}, ["tunnel.lost"])

    site.change(CLIENT)
    site.on("start", CLIENT)
    assert said(logged) == ["tunnel.lost"] * 2


def test_what_nobody_asks_for_is_not_told(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(CLIENT)
    for dst in ("0.0.0.0/0", "::/0"):
        site.kernel.close_tunnel(HERE, dst)
    report = site.run(REROUTE)

    assert (report.lost, said(logged)) == ({}, [])


def test_early_routes_know_what_is_lost_before_any_route_is_set() -> None:
    """Also of what nobody asks for yet."""
    site = with_tunnel(CLIENT)
    seen: list[object] = []
    site.kernel.before_command(lambda _: seen.append(site.announced[-1]))
    site.kernel.close_tunnel(HERE, PLAIN)
    site.kernel.close_tunnel(HERE, "::/0")
    site.run(REROUTE)

    (gateway,) = seen
    assert isinstance(gateway, Gateway)
    assert gateway.cut_off == {A, ip_network("::/0")}


def test_what_was_given_early_is_shut_too() -> None:
    site = with_tunnel(CLIENT)
    coming = container("late", "192.0.2.9/24")
    site.add(coming)
    early = Route(A, VIA, 0)
    site.kernel.give(coming.sandbox_key, early)
    client = Client("late", "late-id", coming.sandbox_key, (early,))
    site.reconciler.take_early(EarlyClient(client, complete=True))
    site.kernel.close_tunnel(HERE, PLAIN)
    site.run(REROUTE)

    assert site.routes(coming) == SHUT


def test_a_new_client_of_a_lost_tunnel_gets_no_way_past_it() -> None:
    """Even to what nobody asked for before; but to what never went into the tunnel."""
    here = asks(f"{PLAIN},172.20.0.0/16")
    site = with_tunnel(here)
    site.kernel.close_tunnel(HERE, PLAIN)
    site.run(REROUTE)
    new = container("new", "192.0.2.9/24", label=f"{PLAIN},{OTHER},172.20.0.0/16")
    site.add(new)
    site.change(new)
    site.on("start", new)

    never = "172.20.0.0/16 192.0.2.1"
    assert site.routes(new) == [f"{PLAIN} unreachable", f"{OTHER} unreachable", never]
    site.kernel.tunnel(HERE, PLAIN)
    site.run(REROUTE)
    assert site.routes(new) == [f"{PLAIN} 192.0.2.1", f"{OTHER} 192.0.2.1", never]


def test_a_route_that_somebody_took_away_is_a_passs_to_set() -> None:
    site = with_tunnel(CLIENT)
    site.kernel.run(f"{DOVECOT} route del {PLAIN} via 192.0.2.1")
    site.kernel.close_tunnel(HERE, PLAIN)
    site.run(REROUTE)
    assert site.routes(CLIENT) == []
    site.run(RESYNC)

    assert site.routes(CLIENT) == SHUT


def test_what_fails_is_tried_again_and_told_by_the_pass(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(CLIENT)
    site.kernel.fail(CLIENT.sandbox_key, "RTNETLINK answers: Operation not permitted")
    site.kernel.close_tunnel(HERE, PLAIN)
    report = site.run(REROUTE)
    assert (report.changed, report.is_rerouted) == (0, True)
    assert [one["event"] for one in logged[-2:]] == ["tunnel.lost", "route.missed"]
    site.run(RESYNC)
    assert logged[-1]["event"] == "route.failed"
    site.kernel.heal(CLIENT.sandbox_key)
    site.drive(10)

    assert site.routes(CLIENT) == SHUT


def test_a_client_that_has_just_ended_is_no_failure(logged: list[dict[str, Any]]) -> None:
    site = with_tunnel(CLIENT)
    site.kernel.remove(CLIENT.sandbox_key)
    site.kernel.close_tunnel(HERE, PLAIN)
    report = site.run(REROUTE)

    assert (report.changed, site.kernel.commands) == (0, [])
    assert [one["event"] for one in logged if one["log_level"] != "debug"][-1] == "tunnel.lost"


def test_another_namespace_in_the_same_place_is_not_written() -> None:
    site = with_tunnel(CLIENT)
    site.kernel.replace_with_other(CLIENT.sandbox_key)
    site.kernel.give(CLIENT.sandbox_key, Route(A, VIA, 0))
    site.kernel.close_tunnel(HERE, PLAIN)
    site.run(REROUTE)

    assert site.kernel.commands == []


def test_what_keeps_off_the_gateway_stays_where_it_leads() -> None:
    labels = {NETWORKS_LABEL: f"0.0.0.0/0,{PLAIN}", DIRECT_LABEL: "198.51.100.0/24"}
    one = CLIENT._replace(labels=labels)
    site = Site(one)
    site.kernel.give(one.sandbox_key, Route(ip_network("0.0.0.0/0"), ip_address("192.0.2.254"), 0))
    site.kernel.tunnel(HERE, PLAIN)
    site.kernel.tunnel(HERE, "0.0.0.0/0")
    site.run()
    assert "198.51.100.0/24 192.0.2.254" in site.routes(one)

    del site.kernel.commands[:]
    site.kernel.close_tunnel(HERE, "0.0.0.0/0")
    site.run(REROUTE)

    assert "198.51.100.0/24 192.0.2.254" in site.routes(one)
    assert [line for line in site.kernel.commands if "198.51.100.0/24" in line] == []


# --- the gateway beside it ----------------------------------------------------------------------


def test_a_gateway_that_restarts_while_its_tunnel_is_lost(logged: list[dict[str, Any]]) -> None:
    """Nor does one that is made again, and comes up without its tunnel at first, open anything."""
    site = with_tunnel(CLIENT)
    site.kernel.close_tunnel(HERE, PLAIN)
    site.run(REROUTE)
    site.change(GATEWAY._replace(running=False))
    site.kernel.remove(HERE)
    site.on("die", GATEWAY)
    del logged[:]
    again = GATEWAY._replace(id="again-id", sandbox_key=f"{ROOT}/again")
    site.engine.known = (CLIENT, again)
    site.add(again)
    site.on("start", again)
    assert site.routes(CLIENT) == SHUT
    assert site.kernel.listeners(again.sandbox_key) == 1

    site.kernel.tunnel(again.sandbox_key, PLAIN)
    site.run(REROUTE)
    assert site.routes(CLIENT) == OPEN
    assert said(logged) == ["tunnel.found"]


@pytest.mark.parametrize("key", [GATEWAY.id, "again-id"])
def test_what_cannot_be_read_of_a_new_namespace_leads_nowhere(key: str) -> None:
    site = with_tunnel(asks(f"{PLAIN}, 0.0.0.0/0"))
    again = GATEWAY._replace(id=key, sandbox_key=f"{ROOT}/again")
    site.engine.known = (asks(f"{PLAIN}, 0.0.0.0/0"), again)
    site.add(again)
    site.kernel.fail_reading(again.sandbox_key, "Interrupted system call")
    site.run(RESYNC)

    assert site.routes(CLIENT) == ["0.0.0.0/0 unreachable", "0.0.0.0/0 unreachable", *SHUT]


def test_it_is_listened_to_in_the_namespace_that_it_has() -> None:
    site = with_tunnel(CLIENT)
    assert site.kernel.listeners(HERE) == 1
    site.run(RESYNC)
    assert site.kernel.listeners(HERE) == 1
    site.kernel.replace_with_other(HERE)
    site.kernel.attach(HERE, "192.0.2.1/24")
    site.run(RESYNC)
    assert site.kernel.listeners(HERE) == 1
    site.change(GATEWAY._replace(running=False))
    site.on("die", GATEWAY)

    assert site.kernel.listeners(HERE) == 0
    assert site.run(REROUTE).changed == 0


def test_a_listener_that_failed_is_replaced_by_a_full_pass() -> None:
    site = with_tunnel(CLIENT)
    site.kernel.deafen(HERE)
    site.run(RESYNC)
    assert site.kernel.listeners(HERE) == 1
    site.kernel.close_tunnel(HERE, PLAIN)

    assert len(site.news) == 1


def test_where_it_cannot_be_listened_to_full_passes_try_again() -> None:
    site = Site(CLIENT)
    site.kernel.fail_reading(HERE, "Too many open files")
    site.run()
    assert site.kernel.listeners(HERE) == 0
    site.kernel.heal(HERE)
    site.run(RESYNC)

    assert site.kernel.listeners(HERE) == 1


def test_another_gateway_by_name_is_judged_anew() -> None:
    """As where the container that is named shares the network of another one from now on."""
    site = with_tunnel(CLIENT)
    site.kernel.close_tunnel(HERE, PLAIN)
    site.run(REROUTE)
    vpn = container("vpn", "192.0.2.1/24", "fd::1/64")
    site.add(vpn)
    guest = GATEWAY._replace(network_mode=f"container:{vpn.id}", sandbox_key="", endpoints=())
    site.engine.known = (CLIENT, vpn, guest)
    site.run(RESYNC)

    assert site.routes(CLIENT) == OPEN


def test_destinations_of_the_past_are_forgotten_once_they_are_many() -> None:
    site = with_tunnel(CLIENT)
    for number in range(3):
        label = ",".join(f"10.{16 + number}.{n >> 4}.{(n & 15) << 4}/28" for n in range(1000))
        site.change(asks(label))
        site.on("start", CLIENT)
    site.change(CLIENT)
    site.run(RESYNC)
    site.run(RESYNC)
    asked: list[int] = []
    real = site.kernel.ways

    def noted(path: str, front: Any, destinations: Any) -> dict[Network, Way]:  # noqa: ANN401
        asked.append(len(destinations))
        return real(path, front, destinations)

    site.kernel.ways = noted  # type: ignore[method-assign]
    site.run(REROUTE)

    assert asked == [len(tunnels.EVERYTHING) + 1]


# --- the commands that look once ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "choice", "state"),
    [
        ({}, "unreachable", ("ok", "")),
        ({A: 5.0}, "unreachable", ("unreachable", "the gateway sends it into no tunnel")),
        ({A: 5.0}, "warn", ("ok", "the gateway sends it into no tunnel")),
    ],
)
def test_who_looks_once_goes_by_what_the_daemon_told(
    lost: dict[Network, float], choice: str, state: tuple[str, str]
) -> None:
    site = with_tunnel(CLIENT, on_tunnel_loss=choice)
    site.kernel.tunnel(HERE, PLAIN, 1280)
    site.run(REROUTE)
    site.kernel.close_tunnel(HERE, PLAIN)
    if lost:
        site.run(REROUTE)
    settings = Settings(
        gateway="wireguard",
        network="wg-net",
        on_tunnel_loss=choice,
        published=Published({}, {}, None, lost),
    )
    (found,) = look(site.engine, site.kernel, settings)  # type: ignore[arg-type]

    (row,) = tables.rows(found)
    assert (row.state, row.reason) == state
    assert [task.command for space in found.namespaces for task in space.tasks()] == []


def test_what_is_unreachable_is_withdrawn_without_a_daemon_too() -> None:
    site = with_tunnel(CLIENT)
    site.kernel.close_tunnel(HERE, PLAIN)
    site.run(REROUTE)
    settings = Settings(gateway="wireguard", network="wg-net", command="withdraw")
    (found,) = look(site.engine, site.kernel, settings)  # type: ignore[arg-type]
    *_, space = found.namespaces

    assert [task.command for task in space.returns()] == [
        f"{DOVECOT} route del unreachable {PLAIN}"
    ]


# --- a gateway on another node ------------------------------------------------------------------


def test_of_a_gateway_elsewhere_nothing_is_lost_and_what_was_seen_here_is_remembered() -> None:
    """Its node's agent judges it; back here, it is expected to do what it did."""
    site = Site()
    site.kernel.tunnel(HERE, PLAIN)
    site.kernel.close_tunnel(HERE, "0.0.0.0/0")
    found = Tunnels(site.kernel, Settings(), lambda: 100.0)
    everything = {ip_network(text) for text in (PLAIN, "0.0.0.0/0")}
    found.learn(everything)
    task = Gateway(
        "s.1.a", "gw", "wg-net", "n1", (ip_address("192.0.2.1"),), service="s", node="10.77.0.1"
    )
    found.look(task, HERE)
    assert found.lost.keys() == {ip_network("0.0.0.0/0")}

    elsewhere = task._replace(container="s.1.b", container_id="", node="10.77.0.2")
    found.look(elsewhere, "")
    assert found.lost == {}
    assert found.applied(elsewhere).cut_off == frozenset()
    assert found.learn([ip_network("::/0")]) is False

    site.kernel.close_tunnel(HERE, PLAIN)
    found.look(task._replace(container="s.1.c"), HERE)
    assert ip_network(PLAIN) in found.lost
