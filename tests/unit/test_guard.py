"""The guard in the gateway's own namespace, which lets nothing out past its tunnel."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from lib.cli import tables
from lib.model import NETWORKS_LABEL, Published, Route, Rule
from lib.reconcile.look import look
from lib.reconcile.report import Scope
from lib.routing import policy, tunnels
from lib.settings import Settings
from tests.unit.test_reconciler import CLIENT, GATEWAY, RESYNC, ROOT, Site, container

if TYPE_CHECKING:
    from lib.model import Container
    from lib.reconcile.look import Findings

HERE = GATEWAY.sandbox_key
ENTER = f"nsenter --net={HERE} ip"
PARTS = (
    "rule add pref 32765 iif eth0 lookup main suppress_prefixlength 0",
    "rule add pref 32765 iif eth0 type unreachable",
)
SET = [f"{ip} {part}" for part in PARTS for ip in (ENTER, f"{ENTER} -6")]
RULES = {*policy.gateway_guard(4, "eth0"), *policy.gateway_guard(6, "eth0")}


def made(*clients: Container, choice: str = "on") -> Site:
    """Return a site whose gateway has no default route in its main table."""
    site = Site(*clients, gateway_guard=choice)
    for dst in tunnels.EVERYTHING:
        site.kernel.close_tunnel(HERE, str(dst))
    return site


def guarded(*clients: Container) -> Site:
    site = made(*clients)
    site.run()
    return site


def rules(site: Site, path: str = HERE) -> set[Rule]:
    return {*site.kernel.rules(path)}


def looked(site: Site, **values: Any) -> Findings:  # noqa: ANN401
    settings = Settings(gateway="wireguard", network="wg-net", **values)
    return look(site.engine, site.kernel, settings)[0]  # type: ignore[arg-type]


def test_it_is_set_before_any_route_and_stays() -> None:
    with structlog.testing.capture_logs() as logged:
        site = guarded(CLIENT)

    there = [line for line in site.kernel.commands if HERE in line]
    assert there == SET
    assert site.kernel.commands[0] == SET[0]
    assert rules(site) == RULES
    added = [one for one in logged if one["event"] == "rule.added"]
    assert {(one["container"], one["netns"]) for one in added} == {("wireguard", HERE)}
    assert [one["container"] for one in logged if one["event"] == "client.routed"] == ["dovecot"]
    for scope in (RESYNC, Scope("start", frozenset({CLIENT.id}))):
        assert site.run(scope).changed == 0
    assert rules(site) == RULES


def test_without_the_option_there_is_none() -> None:
    site = made(CLIENT, choice="off")
    site.run()

    assert rules(site) == set()


def test_a_gateway_that_restarts_gets_it_again() -> None:
    site = guarded(CLIENT)
    site.kernel.remove(HERE)
    again = GATEWAY._replace(sandbox_key=f"{ROOT}/again")
    site.change(again)
    site.add(again)
    site.on("start", again)

    assert rules(site, again.sandbox_key) == RULES


def test_what_somebody_takes_away_is_set_again() -> None:
    site = guarded(CLIENT)
    site.kernel.run(SET[2].replace("add", "del"))
    site.run(RESYNC)

    assert site.kernel.commands[-1] == SET[2]
    assert rules(site) == RULES


@pytest.mark.parametrize(("withdraws", "left"), [(True, set()), (False, RULES)])
def test_it_is_taken_back_at_the_end_if_all_is(*, withdraws: bool, left: set[Rule]) -> None:
    site = guarded(CLIENT)
    site.reconciler.leave(withdraws=withdraws)

    assert rules(site) == left


def test_withdraw_takes_it_back_with_the_option_or_without() -> None:
    site = guarded(CLIENT)
    first, *_ = looked(site, command="withdraw").namespaces

    assert [task.command for task in first.returns()] == [
        line.replace("add", "del") for line in (*SET[2:], *SET[:2])
    ]


def test_withdraw_takes_it_back_where_there_could_be_none_any_more() -> None:
    site = guarded(CLIENT)
    site.kernel.give(HERE, LEADS)
    first, *_ = looked(site, command="withdraw").namespaces

    assert len(first.returns()) == len(SET)


def test_plan_prints_it() -> None:
    site = made(CLIENT, choice="off")
    first, *others = looked(site, gateway_guard="on").namespaces

    assert [task.command for task in first.tasks()] == SET
    assert len(others) == 1
    assert len(looked(site).namespaces) == 1


OPENS = Route(ip_network("0.0.0.0/0"), ip_address("10.9.9.9"), 0)
LEADS = Route(ip_network("0.0.0.0/0"), None, 0, "connected")
GUEST = GATEWAY._replace(network_mode="container:vpn-id", sandbox_key="", endpoints=())


@pytest.mark.parametrize("default", [OPENS, LEADS])
def test_a_default_route_into_the_tunnel_is_a_reason_for_none(default: Route) -> None:
    site = guarded(CLIENT)
    site.kernel.give(HERE, default)
    with structlog.testing.capture_logs() as logged:
        site.run(RESYNC)
        site.run(RESYNC)

    assert rules(site) == set()
    assert [one["reason"] for one in logged if one["event"] == "guard.refused"] == [
        "the default route of wireguard itself leads into a tunnel"
    ]
    (row, *_) = (one for one in tables.rows(looked(site, gateway_guard="on")) if not one.dst)
    assert (row.container, row.state) == ("wireguard", "refused")
    assert row.reason == "has no guard: the default route of wireguard itself leads into a tunnel"


def test_the_engines_own_default_route_is_none() -> None:
    site = made(CLIENT)
    site.kernel.give(HERE, replace_gateway(OPENS, "192.0.2.254"))
    site.run()

    assert rules(site) == RULES


def replace_gateway(route: Route, gateway: str) -> Route:
    return route._replace(gateway=ip_address(gateway))


def test_another_containers_network_is_a_reason_for_none() -> None:
    vpn = container("vpn", "192.0.2.1/24", "fd::1/64")
    site = made(CLIENT, vpn)
    site.change(GUEST)
    with structlog.testing.capture_logs() as logged:
        site.run()

    assert rules(site, vpn.sandbox_key) == set()
    (refused,) = (one for one in logged if one["event"] == "guard.refused")
    assert refused["reason"] == (
        "wireguard is in the network namespace of vpn, which it guards as well"
    )
    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]


def test_where_the_gateways_namespace_cannot_be_read_is_a_reason_for_none() -> None:
    site = made(CLIENT)
    site.kernel.fail_reading(HERE, "Operation not permitted")
    with structlog.testing.capture_logs() as logged:
        site.run()
    (refused,) = (one for one in logged if one["event"] == "guard.refused")
    assert refused["reason"].endswith("Operation not permitted")
    site.kernel.heal(HERE)
    site.run(RESYNC)

    assert rules(site) == RULES


def test_no_link_with_its_address_is_a_reason_for_none() -> None:
    site = made(CLIENT)
    site.kernel.remove(HERE)
    site.kernel.add(HERE)
    with structlog.testing.capture_logs() as logged:
        site.run()

    (refused,) = (one for one in logged if one["event"] == "guard.refused")
    assert refused["reason"] == "no link of wireguard has 192.0.2.1"


def test_what_fails_is_told_once_and_tried_again() -> None:
    site = made(CLIENT)
    site.kernel.fail(HERE, "RTNETLINK answers: Operation not permitted")
    with structlog.testing.capture_logs() as logged:
        site.run()
        site.drive(5)
        site.run(RESYNC)
    failed = [one for one in logged if one["event"] == "rule.failed"]
    assert len(failed) == 2  # One of each IP version: the second waits for the first.
    site.kernel.heal(HERE)
    site.drive(40)

    assert rules(site) == RULES


def test_a_gateway_that_is_lost_or_serves_nobody_gets_none() -> None:
    site = made(CLIENT)
    site.change(GATEWAY._replace(running=False))
    site.run()

    assert rules(site) == set()
    assert looked(site, gateway_guard="on", published=Published({}, {})).unguarded is None


def test_it_reads_in_no_clients_table() -> None:
    """What clients have is what they had without it."""
    everything = CLIENT._replace(labels={NETWORKS_LABEL: "0.0.0.0/0"})
    plain = made(everything, choice="off")
    plain.run()
    site = guarded(everything)

    assert site.kernel.read(CLIENT.sandbox_key) == plain.kernel.read(CLIENT.sandbox_key)
