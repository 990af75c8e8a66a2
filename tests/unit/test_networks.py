"""Several networks of one gateway: whose a client is, and that each network is for itself."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
import structlog

from lib.cli import tables
from lib.errors import NotReadyError
from lib.model import (
    DIRECT_LABEL,
    NETWORK_LABEL,
    NETWORKS_LABEL,
    Client,
    Container,
    Coverage,
    DockerNetwork,
    EarlyClient,
    Endpoint,
    Event,
    Gateway,
    Published,
    Route,
    Rule,
    Sidecar,
    Skipped,
    Snapshot,
)
from lib.reconcile.look import Findings, look
from lib.reconcile.networks import Networks
from lib.reconcile.reconciler import Reconciler
from lib.reconcile.report import Found, Lost, Report, Scope, Unfinished, Unknown, Why, joined
from lib.routing import desired, policy, tunnels
from lib.settings import Settings
from tests.fake_kernel import FakeKernel
from tests.fakes import WG_NET, StandInEngine
from tests.unit.test_daemon import NoEarlyRoutes
from tests.unit.test_reconciler import GATEWAY as ON_WG_NET
from tests.unit.test_reconciler import RESYNC, ROOT, STARTUP, container, peer

LAB_NET = DockerNetwork("n7", "lab-net", (ip_network("10.7.0.0/24"),), {})
X, ALL = "10.8.0.0/16", "0.0.0.0/0"
IN_LAB = Endpoint("lab-net", "n7", (ip_interface("10.7.0.1/24"),))
GATEWAY = ON_WG_NET._replace(endpoints=(*ON_WG_NET.endpoints, IN_LAB))
VIA_WG, VIA_LAB, NOWHERE = f"{X} 192.0.2.1", f"{X} 10.7.0.1", f"{X} unreachable"


def client(name: str, *faces: str, asks: str = X, **labels: str) -> Container:
    """Return one with that address on wg-net, on lab-net, or both."""
    made = container(name, labels={NETWORKS_LABEL: asks} | labels)
    points = (
        IN_LAB._replace(interfaces=(ip_interface(face),))
        if face.startswith("10.7.")
        else ON_WG_NET.endpoints[0]._replace(interfaces=(ip_interface(face),))
        for face in faces
    )
    return made._replace(endpoints=tuple(points))


ONE, OTHER = client("one", "192.0.2.7/24"), client("other", "10.7.0.8/24")
BOTH = client("both", "192.0.2.9/24", "10.7.0.9/24")
WHOLE = client("whole", "192.0.2.9/24", "10.7.0.9/24", asks=ALL)


class Site:
    """What a sidecar does on both networks."""

    def __init__(
        self,
        *clients: Container,
        gateway: Container = GATEWAY,
        sidecars: tuple[Container, ...] = (),
        own: Container | None = None,
        networks: str = "wg-net, lab-net",
        **settings: Any,  # noqa: ANN401
    ) -> None:
        self.now = 1000.0
        self.kernel = FakeKernel(2)
        self.engine = StandInEngine((gateway, *sidecars, *clients), on=(WG_NET, LAB_NET))
        for one in (gateway, *clients):
            self.kernel.add(one.sandbox_key)
            for point in one.endpoints:
                self.attach(one, point)
        for dst in tunnels.EVERYTHING if settings.get("gateway_guard") != "on" else ():
            self.kernel.tunnel(gateway.sandbox_key, str(dst))
        self.early = NoEarlyRoutes()
        first = Reconciler(
            self.kernel,
            Settings(gateway="wireguard", network=networks, **settings),
            lambda _: 0.5,
            announce=self.early.lead_to,
            clock=lambda: self.now,
            time_of_day=lambda: self.now,
            place=Sidecar(gateway, own, "").on(networks.split(",")) if own else None,
        )
        self.networks = Networks(first, self.early)
        self.reports: list[Report] = []
        self.run(STARTUP)

    @property
    def report(self) -> Report:
        """Return the last one."""
        return self.reports[-1]

    @property
    def state(self) -> str:
        """Return how the gateway is where that is worst."""
        state = self.report.gateway
        where = "" if isinstance(state, Unknown) else state.gateway.network
        return f"{type(state).__name__} on {where}"

    def run(self, scope: Scope = RESYNC) -> Report:
        self.reports.append(self.networks.run(self.engine, scope))  # type: ignore[arg-type]
        return self.report

    def on(self, action: str, one: Container) -> Report:
        assert self.networks.concerns(Event(action, one.id))
        return self.run(Scope(action, frozenset({one.id})))

    def attach(self, one: Container, point: Endpoint) -> None:
        for face in point.interfaces:
            self.kernel.attach(one.sandbox_key, str(face))

    def change(self, one: Container) -> None:
        """Let this take the place of the container of that name."""
        known = (each for each in self.engine.known if each.id != one.id)
        self.engine.known = (*known, one)

    def connect(self, one: Container, point: Endpoint) -> Container:
        self.attach(one, point)
        self.change(now := one._replace(endpoints=(*one.endpoints, point)))
        self.on("connect", now)
        return now

    def disconnect(self, one: Container, network: str) -> Container:
        """Let one leave a network, and a pass be run for that."""
        point = one.endpoint(network)
        assert point
        self.kernel.disconnect(one.sandbox_key, *map(str, point.interfaces))
        points = tuple(each for each in one.endpoints if each != point)
        self.change(now := one._replace(endpoints=points))
        self.on("disconnect", now)
        return now

    def routes(self, one: Container) -> list[str]:
        """Return what is in its main table and leads anywhere."""
        found = self.kernel.routes(one.sandbox_key)
        return sorted(f"{r.dst} {r.gateway or r.kind}" for r in found if r.kind != "connected")

    def is_guarded(self, one: Container) -> bool:
        """Tell whether nothing of it leaves but by our table, and by that only as it says."""
        here = self.kernel.read(one.sandbox_key, rules=True)
        guard = policy.guard(ip_network(ALL))
        return guard in here.routes and {*policy.rules(4)} <= {*here.rules}


# --- whose a client is --------------------------------------------------------------------------

A, B, C = (Sidecar(GATEWAY, None, "").on(("a", "b", "c"), index) for index in range(3))


@pytest.mark.parametrize(
    ("on", "serves"),
    [
        pytest.param("a", "a", id="one"),
        pytest.param("b", "b", id="another"),
        pytest.param("ca", "a", id="the first that is named, in whatever order it is on them"),
        pytest.param("cb", "b", id="the first of those that it is on"),
        pytest.param("abc", "a", id="all"),
        pytest.param("xb", "b", id="one, and one that is not served"),
        pytest.param("x", "a", id="none: it may have left one, which is the first's to see to"),
        pytest.param("", "a", id="no network at all"),
    ],
)
def test_one_network_serves_a_client(on: str, serves: str) -> None:
    points = (Endpoint(name, f"{name}-id", (ip_interface("192.0.2.7/24"),)) for name in on)
    asking = ONE._replace(endpoints=tuple(points))
    found = {place.network: verdict(place, asking) for place in (A, B, C)}

    own = found.pop(serves)
    assert isinstance(own, Client if serves in on else Skipped)
    for one in found.values():
        assert isinstance(one, Skipped)
        assert (one.reason, one.expected) == (f"is for the network {serves}", True)
        assert one.elsewhere
        assert (one.elsewhere.routes, one.left) == ((), None)
        assert one.elsewhere.others == {ip_network(X)}


def verdict(place: Sidecar, asking: Container) -> Client | Skipped:
    gateway = Gateway(
        "wireguard",
        "wireguard-id",
        place.network,
        f"{place.network}-id",
        (ip_address("192.0.2.1"),),
        before=place.before,
        after=place.after,
    )
    found = desired.compute(Snapshot(((asking, asking),)), gateway)
    said: list[Client | Skipped] = [*found.clients, *found.skipped]
    (one,) = said
    return one


def test_a_network_that_is_named_twice_by_name_and_id_serves_once() -> None:
    """By two names of the same, which only the engine knows to be one."""
    site = Site(ONE, networks="wg-net,n1")

    assert (site.report.clients, site.report.changed) == (1, 1)
    assert site.routes(ONE) == [VIA_WG]
    assert site.run().changed == 0


def test_all_that_the_tunnel_covers_is_left_to_the_other_network_too() -> None:
    """Also in our own table, where what nobody wants is taken back: as here, by `direct`."""
    asking = client("other", "10.7.0.8/24", asks="auto", **{DIRECT_LABEL: "front"})
    front = Endpoint("front", "n9", (ip_interface("10.5.0.8/24"),))
    asking = asking._replace(endpoints=(*asking.endpoints, front))
    site = Site(asking)
    site.kernel.tunnel(GATEWAY.sandbox_key, X)
    site.run()
    before = {*site.kernel.routes(asking.sandbox_key)}
    assert site.routes(asking) == [VIA_LAB, NOWHERE]

    now = site.connect(asking, BOTH.endpoints[0])
    assert site.routes(now) == [VIA_WG, NOWHERE]
    assert len({*site.kernel.routes(now.sandbox_key)} - before) == len([VIA_WG, "connected"])
    assert site.run().changed == 0
    site.disconnect(now, "wg-net")
    assert site.routes(now) == [VIA_LAB, NOWHERE]
    assert site.run().changed == 0


# --- each network is for itself -----------------------------------------------------------------


def test_each_client_gets_one_route_by_its_network() -> None:
    with structlog.testing.capture_logs() as logged:
        site = Site(ONE, OTHER, BOTH)

    assert [site.routes(one) for one in (ONE, OTHER, BOTH)] == [[VIA_WG], [VIA_LAB], [VIA_WG]]
    assert (site.report.clients, site.report.routes, site.report.changed) == (3, 3, 3)
    assert site.run().changed == 0
    assert len(site.kernel.commands) == 3
    said = [one for one in logged if one["log_level"] != "debug"]
    assert [one["event"] for one in said].count("gateway.found") == 1
    ready = [(one["network"], one["gateway"]) for one in said if one["event"] == "gateway.ready"]
    assert ready == [("wg-net", ["192.0.2.1", "fd::1"]), ("lab-net", ["10.7.0.1"])]
    set_by = {one["container"]: one["network"] for one in said if one["event"] == "route.replaced"}
    assert set_by == {"one": "wg-net", "other": "lab-net", "both": "wg-net"}


def test_the_place_that_is_told_is_that_of_all() -> None:
    site = Site(OTHER)
    place = site.networks.sidecar

    assert place
    assert (place.gateway, place.network, place.networks) == (
        GATEWAY,
        "wg-net",
        ("wg-net", "lab-net"),
    )
    assert site.networks.coverage == {
        "wg-net": Coverage(frozenset(tunnels.EVERYTHING)),
        "lab-net": Coverage(frozenset(one for one in tunnels.EVERYTHING if one.version == 4)),
    }


def test_who_is_on_several_is_served_on_the_next_when_it_leaves_one() -> None:
    site = Site(BOTH)
    left = site.disconnect(BOTH, "wg-net")
    assert site.routes(left) == [VIA_LAB]

    site.connect(left, BOTH.endpoints[0])
    assert site.routes(left) == [VIA_WG]
    assert site.run().changed == 0


def test_nothing_of_it_is_open_meanwhile() -> None:
    site = Site(WHOLE)
    open_at: list[str] = []
    site.kernel.before_command(lambda line: open_at.extend([line] * (not site.is_guarded(WHOLE))))

    left = site.disconnect(WHOLE, "wg-net")
    assert {f"{ALL} 10.7.0.1"} < {*site.routes(left)}
    left = site.disconnect(left, "lab-net")
    assert site.is_guarded(left)
    for _ in range(2):
        assert site.run().changed == 0
    left = site.connect(left, WHOLE.endpoints[1])
    assert {f"{ALL} 10.7.0.1"} < {*site.routes(left)}
    left = site.connect(left, WHOLE.endpoints[0])
    assert {f"{ALL} 192.0.2.1"} < {*site.routes(left)}
    assert site.run().changed == 0
    assert open_at == []


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        pytest.param("wg-net", [[NOWHERE], [VIA_LAB], [NOWHERE]], id="the first"),
        pytest.param("lab-net", [[VIA_WG], [NOWHERE], [VIA_WG]], id="the second"),
    ],
)
def test_a_gateway_that_leaves_one_network_is_lost_there_alone(
    network: str, expected: list[list[str]]
) -> None:
    clients = (ONE, OTHER, BOTH)
    site = Site(*clients)
    with structlog.testing.capture_logs() as logged:
        site.disconnect(GATEWAY, network)

    assert [site.routes(one) for one in clients] == expected
    assert site.state == f"Lost on {network}"
    (lost,) = (one for one in logged if one["event"] == "gateway.lost")
    assert lost["network"] == network
    site.change(GATEWAY)
    point = GATEWAY.endpoint(network)
    assert point
    site.attach(GATEWAY, point)
    site.on("connect", GATEWAY)
    assert [site.routes(one) for one in clients] == [[VIA_WG], [VIA_LAB], [VIA_WG]]
    assert site.state == "Found on wg-net"


def test_a_gateway_that_ends_is_lost_on_both() -> None:
    """And before the engine is asked, which may not answer while it starts that again."""
    site = Site(ONE, OTHER)
    site.change(GATEWAY._replace(running=False, started_at=0.0))
    asked: list[list[str]] = []
    site.engine.calls.clear()
    site.kernel.before_command(lambda _: asked.append([*site.engine.calls]))
    report = site.run(Scope("die", frozenset({GATEWAY.id}), ended={GATEWAY.id: 1.0}))

    assert [site.routes(one) for one in (ONE, OTHER)] == [[NOWHERE], [NOWHERE]]
    assert asked == [[], []]
    assert report.changed == len(asked)


@pytest.mark.parametrize("names", ["nowhere, wg-net", "wg-net, nowhere", ",wg-net ,, nowhere,"])
def test_a_network_that_is_not_there_keeps_nobody_else_waiting(names: str) -> None:
    with structlog.testing.capture_logs() as logged:
        site = Site(ONE, OTHER, networks=names)
        site.run()

    assert [site.routes(one) for one in (ONE, OTHER)] == [[VIA_WG], []]
    assert site.report.gateway == Unknown(
        "there is no network nowhere",
        "docker network create nowhere, or name another by label or --network",
    )
    assert site.report.is_done
    assert [one["reason"] for one in logged if one["event"] == "gateway.missing"] == [
        "there is no network nowhere"
    ]
    site.engine.on = (*site.engine.on, LAB_NET._replace(id="n9", name="nowhere"))
    site.run()
    assert site.state == "Lost on nowhere"
    assert site.routes(ONE) == [VIA_WG]


def test_a_network_that_the_gateway_is_not_on_is_lost_and_the_others_are_served() -> None:
    site = Site(ONE, OTHER, gateway=ON_WG_NET)

    assert [site.routes(one) for one in (ONE, OTHER)] == [[VIA_WG], [NOWHERE]]
    assert isinstance(site.report.gateway, Lost)


def test_without_a_gateway_it_is_not_known_which_networks_there_are() -> None:
    site = Site(ONE, gateway=GATEWAY._replace(name="vpn"))
    assert (site.networks.sidecar, site.networks.coverage) == (None, {})
    assert isinstance(site.report.gateway, Unknown)
    assert not site.report.is_done

    site.change(GATEWAY)
    site.run()
    assert site.routes(ONE) == [VIA_WG]


def test_who_is_on_none_is_told_of_once() -> None:
    host = client("host")._replace(network_mode="host")
    silent = ONE._replace(id="silent-id", name="silent", sandbox_key=f"{ROOT}/silent")
    with structlog.testing.capture_logs() as logged:
        site = Site(ONE, host)
        site.change(silent)
        site.engine.silent_about = "silent"
        site.run()
        site.run()

    said = [(one["event"], one["container"]) for one in logged if one["log_level"] == "warning"]
    assert said == [("client.skipped", "host"), ("client.failed", "silent")]
    assert site.report.failing == ("silent",)


# --- what both have in common -------------------------------------------------------------------


def rules_of_both() -> set[Rule]:
    links = {*policy.gateway_guard(4, "eth0"), *policy.gateway_guard(6, "eth0")}
    return links | {*policy.gateway_guard(4, "eth1")}


def rules(site: Site) -> set[Rule]:
    return {*site.kernel.rules(GATEWAY.sandbox_key)}


def test_each_link_of_the_gateway_has_its_guard() -> None:
    links, both = rules_of_both() - {*policy.gateway_guard(4, "eth1")}, rules_of_both()
    site = Site(ONE, gateway_guard="on")
    assert rules(site) == both
    assert site.run().changed == 0
    open_at: list[str] = []
    site.kernel.before_command(lambda line: open_at.extend([line] * (not links <= rules(site))))

    site.disconnect(GATEWAY, "lab-net")
    assert rules(site) == links
    assert site.run().changed == 0
    assert open_at == []
    site.connect(GATEWAY._replace(endpoints=GATEWAY.endpoints[:1]), IN_LAB)
    assert rules(site) == both
    site.networks.leave(withdraws=True)
    assert rules(site) == set()


def test_a_guard_that_cannot_be_is_told_of_once_for_each() -> None:
    with structlog.testing.capture_logs() as logged:
        site = Site(ONE, gateway_guard="on")
        site.kernel.give(GATEWAY.sandbox_key, Route(ip_network(ALL), None, 0, "connected"))
        site.run()
        site.run()

    refused = [one["network"] for one in logged if one["event"] == "guard.refused"]
    assert refused == ["wg-net", "lab-net"]
    assert rules(site) == set()


def test_a_link_that_is_still_to_come_leaves_the_others_guarded() -> None:
    site = Site(ONE, gateway=ON_WG_NET, gateway_guard="on")
    there = rules(site)
    site.change(GATEWAY)
    site.on("connect", GATEWAY)

    assert rules(site) == there != set()


def test_a_tunnel_that_is_lost_is_lost_on_both() -> None:
    clients = (ONE._replace(labels={NETWORKS_LABEL: ALL}), OTHER._replace(labels=WHOLE.labels))
    site = Site(*clients)
    site.kernel.close_tunnel(GATEWAY.sandbox_key, ALL)
    report = site.networks.reroute(Scope("tunnel"))

    assert (report.changed, report.is_rerouted, {*report.lost}) == (2, True, {ip_network(ALL)})
    for one in clients:
        assert f"{ALL} unreachable" in site.routes(one)


def test_each_takes_back_what_it_gave() -> None:
    clients = (ONE, OTHER, BOTH)
    site = Site(*clients)
    site.networks.leave(withdraws=True)

    assert [site.routes(one) for one in clients] == [[], [], []]
    assert [one.is_closed for one in (site.early, *site.early.others)] == [True, True]


def test_each_has_early_routes_of_its_own_and_they_learn_from_one_listing() -> None:
    site = Site(ONE, OTHER)
    (other,) = site.early.others
    led = [one.gateways[-1] for one in (site.early, other)]
    site.networks.learn(site.report)

    assert [one and (one.network, one.before, one.after) for one in led] == [
        ("wg-net", (), ("lab-net",)),
        ("lab-net", ("wg-net",), ()),
    ]
    assert site.early.listings == [(ONE.id, OTHER.id)]
    assert other.listings == []
    early = OTHER._replace(id="new-id", name="new", sandbox_key=f"{ROOT}/new")
    site.kernel.add(early.sandbox_key, addresses=["10.7.0.8/24"])
    route = Route(ip_network(X), ip_address("10.7.0.1"), 0)
    site.kernel.give(early.sandbox_key, route)
    given = Client(early.name, early.id, early.sandbox_key, (route,))
    other.clients.append(EarlyClient(given, complete=True))
    site.networks.take_early()
    assert not site.networks.is_urgent(Event("start", early.id))
    assert site.networks.is_urgent(Event("start", "another"))
    assert site.networks.is_urgent(Event("disconnect", GATEWAY.id))
    assert not site.networks.is_urgent(Event("connect", ONE.id))
    site.networks.leave(withdraws=True)
    assert site.routes(early) == []


# --- other sidecars -----------------------------------------------------------------------------


def on_networks(name: str, gateway: str, networks: str) -> Container:
    made = peer(name, gateway)
    return made._replace(labels={**made.labels, NETWORK_LABEL: networks})


@pytest.mark.parametrize(
    ("names", "is_known"),
    [
        pytest.param("wg-net,lab-net", True, id="we are known"),
        pytest.param("wg-net,lab-net", False, id="we are not known"),
        pytest.param("n1,n7", True, id="named by their ids"),
    ],
)
def test_our_own_networks_are_no_other_sidecars(names: str, *, is_known: bool) -> None:
    """Whatever their names: the order in which they are named holds."""
    we, it = on_networks("we", "wireguard", names), on_networks("it", "another", "far-net")
    clients = (ONE, OTHER, BOTH)
    site = Site(*clients, sidecars=(we, it), own=we if is_known else None, networks=names)

    assert [site.routes(one) for one in clients] == [[VIA_WG], [VIA_LAB], [VIA_WG]]


OTHER_GATEWAY = container("another", "192.0.2.2/24", "fd::2/64", started_at=100.0)
"""On wg-net, and first by name."""


def test_another_gateway_on_one_of_them_serves_its_own_there() -> None:
    site = Site(ONE, OTHER, BOTH, client("its", "192.0.2.10/24"))
    in_lab = IN_LAB._replace(interfaces=(ip_interface("10.7.0.2/24"),))
    site.change(OTHER_GATEWAY._replace(endpoints=(*OTHER_GATEWAY.endpoints, in_lab)))
    site.change(on_networks("its-sidecar", "another", "lab-net, far-net"))
    named = client(
        "named", "192.0.2.11/24", "10.7.0.11/24", asks="", **{f"{NETWORKS_LABEL}.another": X}
    )
    site.kernel.add(named.sandbox_key, addresses=["192.0.2.11/24", "10.7.0.11/24"])
    site.change(named)
    with structlog.testing.capture_logs() as logged:
        site.run()
        site.run()

    assert site.routes(ONE) == [VIA_WG]
    assert site.routes(named) == []
    assert [
        (one["network"], one["reason"]) for one in logged if one["event"] == "gateway.contested"
    ] == [
        (
            "lab-net",
            "clients are served by the gateway another, by name the first of those on this network",
        )
    ]
    assert not [one for one in logged if one["event"] == "entry.refused"]


# --- what a command sees ------------------------------------------------------------------------


def looked(site: Site, networks: str = "wg-net, lab-net", **values: Any) -> list[Findings]:  # noqa: ANN401
    settings = Settings(gateway="wireguard", network=networks, **values)
    return look(site.engine, site.kernel, settings)  # type: ignore[arg-type]


def rows(found: list[Findings]) -> list[tuple[str, ...]]:
    told = tables.joined(found)
    return [(row.container, row.network, row.gateway, row.state, row.reason) for row in told]


AWAY = client("away")
HOST = client("host")._replace(network_mode="host")


def test_each_client_has_its_row_by_the_network_that_serves_it() -> None:
    site = Site(ONE, OTHER, BOTH, AWAY)
    site.change(HOST)

    assert rows(looked(site)) == [
        ("away", "", "", "skipped", "is not attached to wg-net"),
        ("both", "wg-net", "192.0.2.1", "ok", ""),
        ("host", "", "", "refused", "uses the host's network namespace, which is never written"),
        ("one", "wg-net", "192.0.2.1", "ok", ""),
        ("other", "lab-net", "10.7.0.1", "ok", ""),
    ]


def test_a_network_that_is_not_there_is_told_of_beside_the_others() -> None:
    site = Site(ONE, OTHER, BOTH)
    found = looked(site, "nowhere, lab-net")

    assert [one.is_known for one in found] == [False, True]
    assert [row[:2] + row[3:4] for row in rows(found)] == [
        ("both", "lab-net", "wrong"),
        ("one", "", "skipped"),
        ("other", "lab-net", "ok"),
    ]
    told = json.loads(tables.document([], found))
    assert (told["gateway"], told["gateway_id"]) == ("wireguard", "wireguard-id")
    ours = {"gateway": "wireguard", "names": [], "standing": "there", "unnamed": True}
    assert told["networks"] == [
        {
            "network": "nowhere",
            "addresses": [],
            "gateways": [],
            "reason": "there is no network nowhere",
        },
        {"network": "lab-net", "addresses": ["10.7.0.1"], "gateways": [ours], "reason": ""},
    ]
    with pytest.raises(NotReadyError, match="there is no network nowhere"):
        looked(site, "nowhere, nothing")


def test_what_a_plan_prints_it_prints_once() -> None:
    site = Site(gateway_guard="on")
    clients = (ONE, OTHER, BOTH, ONE._replace(id="sick-id", name="sick", sandbox_key=""))
    for one in clients[:3]:
        site.change(one)
        site.kernel.add(one.sandbox_key)
        for point in one.endpoints:
            site.attach(one, point)
    site.change(clients[3])
    site.engine.silent_about = "sick"
    site.networks.leave(withdraws=True)
    found = looked(site, gateway_guard="on")

    planned = [task.command for one in found for each in one.namespaces for task in each.tasks()]
    assert len(planned) == len({*planned}) == len(rules_of_both()) + 3
    assert [one.container for each in found for one in each.failures] == ["sick"]
    assert [row[0] for row in rows(found)].count("sick") == 1


def test_withdraw_takes_back_what_each_network_gave() -> None:
    site = Site(ONE, OTHER, BOTH)
    found = looked(site, command="withdraw")
    back = [task.command for one in found for each in one.namespaces for task in each.returns()]

    enter = f"nsenter --net={ROOT}"
    assert sorted(back) == [
        f"{enter}/both ip route del {X} via 192.0.2.1",
        f"{enter}/one ip route del {X} via 192.0.2.1",
        f"{enter}/other ip route del {X} via 10.7.0.1",
    ]


def test_a_command_knows_what_the_daemon_knows_of_each_network() -> None:
    asking = [one._replace(labels={NETWORKS_LABEL: "auto"}) for one in (ONE, OTHER)]
    site = Site(*asking)
    place = site.networks.sidecar
    covered = {"lab-net": Coverage(frozenset({ip_network(X)}))}
    told = Published({}, {}, place, coverage=covered)

    found = looked(site, published=told)
    assert [row[:2] + row[3:4] for row in rows(found)] == [
        ("one", "wg-net", "refused"),
        ("other", "lab-net", "missing"),
    ]


# --- reports ------------------------------------------------------------------------------------

HERE = Gateway("wireguard", "wireguard-id", "wg-net", "n1", ())
FOUND, LOST, NOT_KNOWN = Found(HERE), Lost(HERE, "it is gone", "", 0.0), Unknown("who?")


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        ((FOUND,), FOUND),
        ((FOUND, LOST), LOST),
        ((NOT_KNOWN, LOST), NOT_KNOWN),
        ((LOST, LOST._replace(reason="another")), LOST),
    ],
)
def test_the_gateway_of_a_joined_report_is_the_worst(
    states: tuple[Found | Lost | Unknown, ...], worst: Found | Lost | Unknown
) -> None:
    assert joined([Report(RESYNC, state) for state in states]).gateway == worst


def test_what_a_joined_report_has() -> None:
    work = Unfinished("c1", "one", Why.MORE, 5.0)
    narrow = Report(
        Scope("start", frozenset({"c1"})),
        FOUND,
        clients=1,
        routes=2,
        changed=3,
        refused=4,
        unfinished=(work,),
        again_at=7.0,
        mtus={ip_network(X): 1280},
        lost={ip_network(X): 9.0},
    )
    wide = Report(RESYNC, LOST, 1, 1, 1, 1, again_at=8.0, listed=(ONE,), is_rerouted=True)
    unknown = Report(STARTUP, NOT_KNOWN, is_done=False)

    assert joined([narrow]) == narrow
    found = joined([unknown, narrow, wide])
    assert (found.scope, found.gateway, found.listed) == (RESYNC, NOT_KNOWN, (ONE,))
    assert (found.clients, found.routes, found.changed, found.refused) == (2, 3, 4, 5)
    assert (found.unfinished, found.again_at) == ((work,), 7.0)
    assert (found.mtus, found.lost) == (narrow.mtus, narrow.lost)
    assert (found.is_rerouted, found.is_done) == (True, True)
    assert not joined([unknown]).is_done
