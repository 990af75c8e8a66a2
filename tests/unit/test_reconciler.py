"""A pass over a stand-in for the engine and a strict fake of the kernel, on a clock of its own."""

from __future__ import annotations

import itertools
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from lib.errors import EngineError, NetnsError
from lib.model import (
    DIRECT_LABEL,
    GATEWAY_LABEL,
    NETWORK_LABEL,
    NETWORKS_LABEL,
    ROLE_LABEL,
    SERVICE_LABEL,
    TABLE,
    Client,
    Container,
    EarlyClient,
    Endpoint,
    Event,
    Inside,
    PublishedPort,
    Route,
)
from lib.reconcile.namespace import MAX_STEPS
from lib.reconcile.reconciler import Reconciler
from lib.reconcile.report import TUNNEL, Found, Lost, Report, Scope, Unknown, Why
from lib.routing import iproute, policy, tunnels
from lib.schedule import Schedule
from lib.settings import Settings
from tests.fake_kernel import FakeKernel
from tests.fakes import WG_NET, StandInEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from lib.kernel.shells import Conversation, Outcome
    from lib.model import Address, Gateway, Network, Way

ROOT = "/run/docker/netns"
DENIED = "RTNETLINK answers: Operation not permitted"
V4 = ip_interface("192.0.2.1/24")


def container(name: str, *faces: str, label: str = "", **values: Any) -> Container:  # noqa: ANN401
    """Return a running container on wg-net, whose namespace file is named like it."""
    points = (Endpoint("wg-net", "n1", tuple(map(ip_interface, faces))),)
    labels = {NETWORKS_LABEL: label} if label else {}
    whole = Container(f"{name}-id", name, True, labels, "wg-net", f"{ROOT}/{name}", points)  # noqa: FBT003
    return whole._replace(**values)


GATEWAY = container("wireguard", "192.0.2.1/24", "fd::1/64")
CLIENT = container("dovecot", "192.0.2.7/24", "fd::7/64", label="10.8.0.0/16")
STARTUP, RESYNC = Scope("startup", is_full=True), Scope("resync", is_full=True)
REROUTE = Scope(TUNNEL)
BOTH = "10.8.0.0/16,fd00:8::/64"


class Kernel(FakeKernel):
    """One that remembers which namespaces were looked into."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.checked: list[str] = []
        self.after_read: Callable[[str], None] = lambda _: None

    def check(self, path: str, *, own: bool = False) -> None:
        self.checked.append(path)
        super().check(path, own=own)

    def read(self, path: str, *, rules: bool = False, sizes: bool = True) -> Inside:
        found = super().read(path, rules=rules, sizes=sizes)
        self.after_read(path)
        return found

    def run(self, line: str) -> None:
        """Run a line as somebody else does."""

        def conversation() -> Conversation:
            yield [line]

        self.serve([conversation()])

    def put(self, one: Container, gateway: str | None, metric: int = 0) -> None:
        """Put a route to what the client asks for into its namespace, as somebody else."""
        dst, via = ip_network("10.8.0.0/16"), ip_address(gateway) if gateway else None
        self.give(one.sandbox_key, Route(dst, via, metric, "unicast" if via else "unreachable"))


class Site:
    """A reconciler and what is around it."""

    def __init__(
        self,
        *clients: Container,
        gateway: Container = GATEWAY,
        width: int = 2,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        self.now = 1000.0
        self.kernel = Kernel(width=width)
        self.engine = StandInEngine((gateway, *clients), on=(WG_NET,))
        for one in (gateway, *clients):
            if one.sandbox_key and not one.shares_netns_of:
                self.add(one)
        for dst in tunnels.EVERYTHING if gateway.sandbox_key else ():
            self.kernel.tunnel(gateway.sandbox_key, str(dst))
        self.announced: list[Gateway | None] = []
        self.news: list[float] = []
        self.reconciler = Reconciler(
            self.kernel,
            Settings(gateway="wireguard", network="wg-net", **settings),
            lambda tries: 0.5 * 2 ** (tries - 1),
            announce=lambda gateway, _: self.announced.append(gateway),
            news=lambda: self.news.append(self.now),
            clock=lambda: self.now,
            time_of_day=lambda: self.now,
        )
        self.reports: list[Report] = []

    def add(self, one: Container) -> None:
        faces = [str(face) for point in one.endpoints for face in point.interfaces]
        self.kernel.add(one.sandbox_key, addresses=faces)

    def run(self, scope: Scope = STARTUP) -> Report:
        self.reports.append(self.reconciler.run(self.engine, scope))  # type: ignore[arg-type]
        return self.reports[-1]

    def on(self, action: str, *containers: Container) -> Report:
        ids = [one.id for one in containers]
        ended = dict.fromkeys(ids, self.now) if action == "die" else {}
        return self.run(Scope(action, frozenset(ids), ended=ended))

    def change(self, *known: Container) -> None:
        """Let these take the place of the containers of their names."""
        names = {one.name for one in known}
        self.engine.known = (*(one for one in self.engine.known if one.name not in names), *known)

    def remove(self, one: Container) -> None:
        self.engine.known = tuple(each for each in self.engine.known if each.id != one.id)

    def routes(self, one: Container) -> list[str]:
        """Return the routes there that are not connected ones, in the words of `ip`."""
        found = self.kernel.routes(one.sandbox_key)
        return sorted(f"{r.dst} {r.gateway or r.kind}" for r in found if r.kind != "connected")

    def drive(self, seconds: float) -> int:
        """Run what is due, as the daemon does, for that long; return the number of passes."""
        schedule, until = Schedule(60), self.now + seconds
        schedule.finish(self.reports[-1], self.now)
        count = 0
        while (at := schedule.next_at()) <= until and count < 10_000:
            self.now = max(self.now, at)
            scope = schedule.take(self.now)
            assert scope
            schedule.finish(self.run(scope), self.now)
            count += 1
        self.now = until
        return count


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as entries:
        yield cast("list[dict[str, Any]]", entries)


def names(logged: list[dict[str, Any]], *leave_out: str) -> list[str]:
    return [
        entry["event"]
        for entry in logged
        if entry["log_level"] != "debug" and entry["event"] not in {"gateway.found", *leave_out}
    ]


# --- what a pass does ---------------------------------------------------------------------------


def test_a_client_gets_its_routes(logged: list[dict[str, Any]]) -> None:
    site = Site(CLIENT)
    report = site.run()

    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]
    assert (report.clients, report.routes, report.changed) == (1, 1, 1)
    assert report.unfinished == ()
    assert names(logged) == ["gateway.ready", "route.replaced", "client.routed"]
    assert logged[2] == {
        "event": "route.replaced",
        "log_level": "info",
        "container": "dovecot",
        "container_id": "dovecot-id",
        "dst": "10.8.0.0/16",
        "netns": f"{ROOT}/dovecot",
        "command": f"nsenter --net={ROOT}/dovecot ip route replace 10.8.0.0/16 via 192.0.2.1",
        "network": "wg-net",
        "gateway": "192.0.2.1",
        "trigger": "startup",
        "duration_ms": logged[2]["duration_ms"],
    }


def test_a_steady_state_runs_nothing_and_says_nothing(logged: list[dict[str, Any]]) -> None:
    site = Site(CLIENT)
    site.run()
    del logged[:]
    report = site.run(Scope("resync", is_full=True))

    assert report.changed == 0
    assert len(site.kernel.commands) == 1
    assert logged == []


def test_what_only_an_inspection_tells_is_known_in_later_passes(
    logged: list[dict[str, Any]],
) -> None:
    """A listing tells neither name servers nor ports nor the runtime: no remark may come and go."""
    published = (PublishedPort("80/tcp", None, 4),)
    site = Site(
        CLIENT._replace(dns=(ip_address("10.8.0.53"),), published=published, runtime="runsc")
    )
    site.run()
    warned = [entry["reason"] for entry in logged if entry["event"] == "entry.warned"]
    del logged[:]
    site.run(Scope("resync", is_full=True))
    site.on("connect", CLIENT)

    assert warned == [
        "is served, but holds its DNS server 10.8.0.53",
        "is served, but callers of the published 80/tcp in it are answered through the gateway",
        "is served, but the runtime runsc does not see routes of its namespace",
    ]
    assert [entry for entry in logged if entry["log_level"] != "debug"] == []


def test_an_idle_full_pass_asks_the_engine_for_the_gateway_and_who_runs() -> None:
    site = Site(
        CLIENT, *(container(f"c{n}", f"192.0.2.{n}/24", label="10.8.0.0/16") for n in range(10, 20))
    )
    site.run()
    del site.engine.calls[:]
    site.run(Scope("resync", is_full=True))

    assert site.engine.calls == ["inspect wireguard-id", "containers"]


def test_a_pass_for_one_container_asks_for_no_other() -> None:
    other = container("postfix", "192.0.2.8/24", label="10.8.0.0/16")
    site = Site(CLIENT, other)
    site.run()
    del site.engine.calls[:]
    site.on("start", CLIENT)

    assert site.engine.calls == ["containers", "inspect dovecot-id"]


def test_routes_that_went_with_a_link_are_set_again() -> None:
    site = Site(CLIENT)
    site.run()
    site.kernel.set_link(CLIENT.sandbox_key, up=False)
    site.kernel.set_link(CLIENT.sandbox_key, up=True)
    site.run(Scope("resync", is_full=True))

    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]


def test_client_routed_counts_the_routes_that_are_there(logged: list[dict[str, Any]]) -> None:
    """Of three one is refused by the kernel, and one was there."""
    one = CLIENT._replace(labels={NETWORKS_LABEL: "10.8.0.0/16,10.9.0.0/16,10.7.0.0/16"})
    site = Site(one)
    site.kernel.put(one, "192.0.2.1")
    site.kernel.fail(one.sandbox_key, DENIED, only="10.9.0.0/16")
    site.run()

    (entry,) = (entry for entry in logged if entry["event"] == "client.routed")
    assert entry["routes"] == 2


@pytest.mark.parametrize("width", [1, 3])
def test_what_fails_in_one_namespace_keeps_no_other_from_its_routes(width: int) -> None:
    others = [container(f"c{n}", f"192.0.2.{n}/24", label="10.8.0.0/16") for n in range(10, 15)]
    site = Site(CLIENT, *others, width=width)
    site.kernel.fail(CLIENT.sandbox_key, DENIED)
    report = site.run()

    assert [site.routes(one) for one in others] == [["10.8.0.0/16 192.0.2.1"]] * 5
    assert report.failing == ("dovecot",)


def test_who_shares_a_namespace_is_served_in_that_of_its_owner() -> None:
    owner = container("web", "192.0.2.8/24")
    sharing = CLIENT._replace(network_mode="container:web-id", sandbox_key="", endpoints=())
    site = Site(owner, sharing)
    site.run()

    assert site.routes(owner) == ["10.8.0.0/16 192.0.2.1"]
    assert site.on("die", owner).scope.is_full


def sharing(owner: Container, started_at: float) -> Container:
    mode = f"container:{owner.name}"
    return CLIENT._replace(network_mode=mode, sandbox_key="", endpoints=(), started_at=started_at)


def test_who_is_in_a_namespace_that_was_left_is_named_once_and_gets_nothing(
    logged: list[dict[str, Any]],
) -> None:
    owner = container("web", "192.0.2.8/24", started_at=10.0)
    one = sharing(owner, started_at=20.0)
    site = Site(owner, one)
    site.run()
    assert site.routes(owner) == ["10.8.0.0/16 192.0.2.1"]

    restarted = owner._replace(started_at=30.0)
    site.change(restarted)
    report = site.on("start", restarted)
    site.run(Scope("resync", is_full=True))

    assert site.routes(owner) == []  # Nothing stays in the owner's on behalf of who is not there.
    assert (report.clients, site.reports[-1].unfinished) == (0, ())
    (entry,) = (entry for entry in logged if entry["event"] == "client.skipped")
    assert (entry["log_level"], entry["container"]) == ("warning", "dovecot")
    assert entry["reason"] == "runs in a namespace that web has left"
    assert entry["hint"] == "docker restart dovecot"

    site.change(one._replace(started_at=40.0))
    site.on("start", one)
    assert site.routes(owner) == ["10.8.0.0/16 192.0.2.1"]


def test_whose_namespace_belongs_to_nobody_any_more_is_named(logged: list[dict[str, Any]]) -> None:
    owner = container("web", "192.0.2.8/24", started_at=10.0)
    site = Site(owner, sharing(owner, started_at=20.0))
    site.run()
    site.remove(owner)
    site.run(Scope("resync", is_full=True))

    (entry,) = (entry for entry in logged if entry["event"] == "client.skipped")
    assert entry["reason"] == "runs in the network namespace of a container that was removed"


def test_a_route_that_leads_elsewhere_is_replaced_and_one_beside_it_deleted(
    logged: list[dict[str, Any]],
) -> None:
    site = Site(CLIENT)
    site.kernel.put(CLIENT, "192.0.2.9")
    site.kernel.put(CLIENT, "192.0.2.9", metric=5)
    site.run()

    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]
    (entry,) = (entry for entry in logged if entry["event"] == "route.deleted")
    assert entry["reason"] == "another way to the same destination"


# --- the gateway --------------------------------------------------------------------------------


def test_a_lost_gateway_makes_unreachable_what_it_led_to() -> None:
    site = Site(CLIENT)
    site.run()
    site.change(GATEWAY._replace(running=False))
    report = site.on("die", GATEWAY)

    assert isinstance(report.gateway, Lost)
    assert report.scope.is_full
    assert site.routes(CLIENT) == ["10.8.0.0/16 unreachable"]


def test_a_gateway_that_ended_is_led_to_no_more_before_the_engine_is_asked(
    logged: list[dict[str, Any]],
) -> None:
    """It does not answer while it starts that again, which may forward before its tunnel is up."""
    site = Site(CLIENT)
    site.run()
    del site.engine.calls[:], site.kernel.commands[:], logged[:], site.announced[:]
    asked: list[int] = []
    site.kernel.before_command(lambda *_: asked.append(len(site.engine.calls)))
    report = site.on("die", GATEWAY)

    dovecot = f"nsenter --net={CLIENT.sandbox_key} ip route replace"
    shut, led = f"{dovecot} unreachable 10.8.0.0/16", f"{dovecot} 10.8.0.0/16 via 192.0.2.1"
    assert site.kernel.commands == [shut, led]
    assert (asked[0], asked[1] > 0, report.changed) == (0, True, 2)
    assert [one.lost for one in site.announced if one] == [{4, 6}, set()]
    assert [(one["event"], one.get("trigger", "")) for one in logged] == [
        ("gateway.lost", ""),
        ("route.replaced", "die"),
        ("gateway.ready", ""),
        ("route.replaced", "die"),
        ("client.routed", ""),
    ]
    assert logged[0]["reason"] == "the gateway wireguard is not running"


def test_the_end_of_an_earlier_run_of_the_gateway_is_no_news(
    logged: list[dict[str, Any]],
) -> None:
    """The engine tells it again to who listens anew."""
    site = Site(CLIENT, gateway=GATEWAY._replace(started_at=1000.1))
    site.run()
    del logged[:], site.kernel.commands[:]

    assert site.on("die", GATEWAY).changed == 0
    assert (logged, site.kernel.commands) == ([], [])
    site.now = 1000.2
    assert site.on("die", GATEWAY).changed == 2


def test_an_end_that_the_engine_confirms_is_told_once(logged: list[dict[str, Any]]) -> None:
    site = Site(CLIENT)
    site.run()
    site.change(GATEWAY._replace(running=False))
    report = site.on("die", GATEWAY)

    assert [one["event"] for one in logged].count("gateway.lost") == 1
    assert report.changed == 1
    assert site.on("die", GATEWAY).changed == 0


@pytest.mark.parametrize(
    ("ended", "settings"), [(GATEWAY, {"on_gateway_loss": "keep"}), (CLIENT, {})]
)
def test_whose_end_shuts_nothing(ended: Container, settings: dict[str, Any]) -> None:
    site = Site(CLIENT, **settings)
    site.run()

    assert site.on("die", ended).changed == 0


def test_the_gateway_is_announced_before_any_route_is_set() -> None:
    site = Site(CLIENT)
    site.run()
    moved = container("wireguard", "192.0.2.2/24")
    site.change(moved)
    site.kernel.attach(moved.sandbox_key, "192.0.2.2")
    announced: list[object] = []
    site.kernel.before_command(lambda *_: announced.append(site.announced[-1]))
    report = site.on("start", GATEWAY)

    assert isinstance(report.gateway, Found)
    assert announced == [report.gateway.gateway._replace(coverage=site.reconciler.coverage)]
    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.2"]


def test_without_a_gateway_no_client_is_touched() -> None:
    site = Site(CLIENT)
    site.engine.known = (CLIENT,)
    report = site.run()

    assert isinstance(report.gateway, Unknown)
    assert site.kernel.commands == []
    assert site.engine.calls == ["inspect wireguard"]


def test_with_one_ip_version_lost_an_event_is_a_pass_for_its_container_only() -> None:
    site = Site(CLIENT)
    site.run()
    site.change(container("wireguard", "192.0.2.1/24"))
    assert isinstance(site.on("start", GATEWAY).gateway, Found)

    assert not site.on("start", CLIENT).scope.is_full


# --- unfinished work ----------------------------------------------------------------------------

MANY = [f"fd00:{n:x}::/64" for n in range(130)]


def test_failing_entries_wait_for_their_time_and_the_good_one_after_them_works() -> None:
    one = container("dovecot", "192.0.2.7/24", "fd::7/64", label=",".join([*MANY, "10.8.0.0/16"]))
    site = Site(one)
    site.kernel.fail(one.sandbox_key, DENIED, only="ip -6")
    site.run()
    passes = site.drive(5)

    assert site.routes(one) == ["10.8.0.0/16 192.0.2.1"]
    assert passes <= 5
    assert len(site.kernel.commands) <= 131 + 5 * MAX_STEPS


@pytest.mark.parametrize("count", [MAX_STEPS, MAX_STEPS + 1, 10 * MAX_STEPS - 1])
def test_all_entries_are_tried_before_one_is_tried_again(count: int) -> None:
    entries = [f"fd00:{n:x}::/64" for n in range(count)]
    one = container(
        "dovecot", "192.0.2.7/24", "fd::7/64", label=",".join([*entries, "10.8.0.0/16"])
    )
    site = Site(one)
    site.kernel.fail(one.sandbox_key, DENIED, only="ip -6")
    site.run()
    site.drive(0)

    assert len(set(site.kernel.commands)) == len(site.kernel.commands) == count + 1
    assert site.routes(one) == ["10.8.0.0/16 192.0.2.1"]


def test_who_fails_costs_one_question_for_each_pass() -> None:
    one = container("dovecot", "192.0.2.7/24", "fd::7/64", label=",".join(MANY))
    site = Site(one)
    site.kernel.fail(one.sandbox_key, DENIED, only="ip -6")
    site.run()
    del site.engine.calls[:]
    passes = site.drive(20)

    # Each pass lists, inspects whom it is for, and asks once whether it is still there.
    assert site.engine.calls.count("inspect dovecot-id") <= 2 * passes


def test_all_that_fails_has_its_turn_again(logged: list[dict[str, Any]]) -> None:
    one = container("dovecot", "192.0.2.7/24", "fd::7/64", label=",".join(MANY))
    site = Site(one)
    site.kernel.fail(one.sandbox_key, DENIED, only="ip -6")
    site.run()
    site.drive(0)
    del site.kernel.commands[:]
    site.drive(4)

    assert len(set(site.kernel.commands)) == 130
    assert names(logged).count("route.failed") == 130


def test_failing_work_is_tried_with_growing_delays() -> None:
    site = Site(CLIENT)
    site.kernel.fail(CLIENT.sandbox_key, DENIED)
    site.run()

    assert [work.why for work in site.reports[-1].unfinished] == [Why.FAILED]
    assert site.drive(60) <= 8


def test_a_failure_that_ends_is_forgotten(logged: list[dict[str, Any]]) -> None:
    site = Site(CLIENT)
    site.kernel.fail(CLIENT.sandbox_key, DENIED)
    site.run()
    site.kernel.heal(CLIENT.sandbox_key)
    site.drive(1)

    assert site.reports[-1].unfinished == ()
    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]
    assert names(logged).count("route.failed") == 1


def test_a_container_that_fails_is_left_out_of_full_passes_until_it_is_due() -> None:
    site = Site(CLIENT)
    site.kernel.fail(CLIENT.sandbox_key, DENIED)
    site.run()
    site.run(Scope("resync", is_full=True))
    assert len(site.kernel.commands) == 1

    site.change(container("wireguard", "192.0.2.2/24"))
    site.on("start", GATEWAY)
    assert len(site.kernel.commands) == 2  # A new gateway may be what mends it.


def test_who_ends_in_the_middle_of_its_work_is_forgotten() -> None:
    label = ",".join(f"10.8.{n}.0/24" for n in range(150))
    one = container("dovecot", "192.0.2.7/24", label=label)
    site = Site(one)

    def end(_: str) -> None:
        if one in site.engine.known:
            site.remove(one)
            site.kernel.remove(one.sandbox_key)

    site.kernel.before_command(end)
    site.run()

    assert site.drive(59) <= 1
    assert site.reports[-1].unfinished == ()


def test_more_work_goes_on_at_once() -> None:
    label = ",".join(f"10.8.{n}.0/24" for n in range(250))
    one = container("dovecot", "192.0.2.7/24", label=label)
    site = Site(one)
    site.run()

    assert len(site.routes(one)) == MAX_STEPS
    assert site.drive(0) == 2
    assert len(site.routes(one)) == 250


def test_a_deletion_waits_for_its_replacement() -> None:
    """What stands beside is not deleted while the replacement fails, in no further pass either."""
    site = Site(CLIENT)
    site.kernel.put(CLIENT, "192.0.2.9", metric=5)
    site.kernel.fail(CLIENT.sandbox_key, DENIED, only="replace")
    site.run()
    site.drive(60)

    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.9"]


def test_a_label_that_names_nothing_any_more_ends_its_failures() -> None:
    site = Site(CLIENT)
    site.engine.silent_about = "dovecot"
    site.run()
    assert site.reports[-1].failing == ("dovecot",)

    site.engine.silent_about = ""
    site.change(CLIENT._replace(labels={NETWORKS_LABEL: ""}))
    site.drive(1)
    assert site.reports[-1].unfinished == ()


# --- what a client's own addresses cannot reach -------------------------------------------------

V6_LABEL = "10.8.0.0/16,fd00:8::/64"
V6_ROUTES = ["10.8.0.0/16 192.0.2.1", "fd00:8::/64 fd::1"]
NO_IPV6 = "is IPv6, and the container has no IPv6 address on wg-net"


def without_ipv6(*others: Container) -> tuple[Site, Container]:
    """Return a site with a client to which the engine gave an IPv6 address that is not there."""
    one = CLIENT._replace(labels={NETWORKS_LABEL: V6_LABEL})
    site = Site(one, *others)
    site.kernel.disable_ipv6(one.sandbox_key)
    return site, one


def test_what_a_client_has_no_address_for_is_refused_once_and_nothing_fails(
    logged: list[dict[str, Any]],
) -> None:
    site, one = without_ipv6()
    report = site.run()
    site.drive(120)

    assert site.routes(one) == V6_ROUTES[:1]
    assert len(site.kernel.commands) == 1
    assert (report.failing, site.reports[-1].unfinished) == ((), ())
    assert names(logged) == ["gateway.ready", "entry.refused", "route.replaced", "client.routed"]
    assert (logged[2]["entry"], logged[2]["reason"]) == ("fd00:8::/64", NO_IPV6)


def test_it_is_served_once_the_address_is_there(logged: list[dict[str, Any]]) -> None:
    site, one = without_ipv6()
    site.run()
    site.kernel.attach(one.sandbox_key, "fd::7/64")
    site.run(Scope("resync", is_full=True))
    assert site.routes(one) == V6_ROUTES

    site.kernel.disable_ipv6(one.sandbox_key)
    site.run(Scope("resync", is_full=True))
    assert site.routes(one) == V6_ROUTES[:1]
    assert names(logged).count("entry.refused") == 2


def test_an_address_that_is_on_its_way_is_looked_for_again_soon() -> None:
    """A container that is being connected is told of before its link has the address."""
    site, one = without_ipv6()
    report = site.run()
    assert [(work.why, work.due) for work in report.unfinished] == [(Why.LOOK_AGAIN, site.now + 3)]

    site.kernel.attach(one.sandbox_key, "fd::7/64")
    assert site.drive(10) == 1
    assert site.routes(one) == V6_ROUTES


def test_at_most_twenty_of_them_are_logged_one_by_one(logged: list[dict[str, Any]]) -> None:
    site = Site(container("dovecot", "192.0.2.7/24", label=",".join(MANY)))
    site.run()

    assert names(logged) == ["gateway.ready"] + ["entry.refused"] * 21
    assert logged[-1]["reason"] == "and 110 more entries of this label"


def test_what_became_unreachable_with_the_gateway_stays_so_without_an_address() -> None:
    site, one = without_ipv6()
    site.change(GATEWAY._replace(running=False))
    site.run()
    site.change(GATEWAY)
    site.on("start", GATEWAY)

    assert site.routes(one) == ["10.8.0.0/16 192.0.2.1", "fd00:8::/64 unreachable"]


# --- what ran is remembered ---------------------------------------------------------------------


def test_what_ran_is_logged_and_remembered_although_the_engine_goes_away(
    logged: list[dict[str, Any]],
) -> None:
    one = CLIENT._replace(labels={NETWORKS_LABEL: "10.8.0.0/16,10.9.0.0/16"})
    site = Site(one)
    site.kernel.fail(one.sandbox_key, DENIED, only="10.9.0.0/16")

    def away(reference: str) -> Container:
        raise EngineError(reference)

    site.kernel.before_command(lambda *_: setattr(site.engine, "inspect", away))
    site.run()

    assert names(logged)[1:] == ["route.replaced", "route.failed", "client.routed"]
    del site.engine.inspect
    site.change(one._replace(labels={NETWORKS_LABEL: "10.9.0.0/16"}))
    site.drive(1)
    assert site.routes(one) == []


def take_back(site: Site, one: Container) -> list[str]:
    """Let a client ask for nothing any more; return its routes after that."""
    site.change(one._replace(labels={NETWORKS_LABEL: "10.99.0.0/16"}))
    site.run(Scope("resync", is_full=True))
    return site.routes(one)


def test_what_is_not_asked_for_any_more_is_taken_back(logged: list[dict[str, Any]]) -> None:
    site = Site(CLIENT)
    site.run()

    assert take_back(site, CLIENT) == ["10.99.0.0/16 192.0.2.1"]
    (entry,) = (entry for entry in logged if entry["event"] == "route.deleted")
    assert entry["reason"] == "nobody asks for it any more"


def test_a_passing_error_does_not_make_it_forget_what_it_put_there() -> None:
    site = Site(CLIENT)
    site.run()
    site.kernel.fail_reading(CLIENT.sandbox_key, "Interrupted system call")
    site.run(Scope("resync", is_full=True))
    site.kernel.heal(CLIENT.sandbox_key)
    site.now += 60

    assert take_back(site, CLIENT) == ["10.99.0.0/16 192.0.2.1"]


def test_somebody_elses_route_is_never_taken_back() -> None:
    site = Site(CLIENT)
    site.kernel.give(CLIENT.sandbox_key, Route(ip_network("10.5.0.0/16"), V4.ip, 0))
    site.run()

    assert take_back(site, CLIENT) == ["10.5.0.0/16 192.0.2.1", "10.99.0.0/16 192.0.2.1"]


def test_a_network_that_is_connected_meanwhile_is_not_deleted(
    logged: list[dict[str, Any]],
) -> None:
    """The engine connects the client between our read and our write; replace overwrites it."""
    site = Site(CLIENT)
    point = Endpoint("late", "n9", (ip_interface("10.8.0.7/16"),))
    connected = CLIENT._replace(endpoints=(*CLIENT.endpoints, point))

    def connect(_: str) -> None:
        if connected not in site.engine.known:
            site.kernel.attach(CLIENT.sandbox_key, "10.8.0.7/16")
            site.change(connected)

    site.kernel.before_command(connect)
    site.run()
    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]

    del logged[:]
    site.on("connect", CLIENT)
    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]
    assert [entry["reason"] for entry in logged if entry["event"] == "entry.warned"] == [
        "still leads through the gateway: the container was connected to it meanwhile"
    ]

    site.change(CLIENT)
    site.change(CLIENT._replace(labels={NETWORKS_LABEL: "10.99.0.0/16"}))
    site.on("disconnect", CLIENT)
    assert site.routes(CLIENT) == ["10.99.0.0/16 192.0.2.1"]


def test_memory_of_namespaces_ends_with_them() -> None:
    """Fifty clients that end without a single success, and fifty that had their routes."""
    for fails in (True, False):
        site = Site()
        for number in range(50):
            one = container(f"c{number}", f"192.0.2.{number + 10}/24", label="10.8.0.0/16")
            site.change(one)
            site.add(one)
            if fails:
                site.kernel.fail(one.sandbox_key, DENIED)
            site.on("start", one)
            site.remove(one)
            site.kernel.remove(one.sandbox_key)
        site.run(Scope("resync", is_full=True))
        del site.kernel.checked[:]
        site.run(Scope("resync", is_full=True))

        assert site.kernel.checked == []
        assert site.reports[-1].unfinished == ()


def test_a_path_that_is_another_namespace_now_is_not_written() -> None:
    """As at /proc/PID/ns/net, where a number is given again."""
    site = Site(CLIENT)
    site.run()
    del site.kernel.commands[:]
    site.kernel.replace_with_other(CLIENT.sandbox_key)
    site.engine.known = (GATEWAY,)
    site.run(Scope("resync", is_full=True))

    assert site.kernel.commands == []


def test_a_namespace_that_is_replaced_between_proof_and_use_is_not_written() -> None:
    site = Site(CLIENT)
    site.kernel.after_read = site.kernel.replace_with_other
    site.run()

    assert site.kernel.commands == []


# --- routes that were there already -------------------------------------------------------------


def test_unreachable_that_was_there_is_looked_at_again() -> None:
    site = Site(CLIENT, gateway=GATEWAY._replace(running=False, sandbox_key=""))
    site.kernel.put(CLIENT, None)
    report = site.run()

    assert [(work.why, work.due) for work in report.unfinished] == [(Why.LOOK_AGAIN, site.now + 3)]
    assert site.drive(10) == 1


# --- early routes -------------------------------------------------------------------------------


def early(site: Site, one: Container, *, complete: bool = True) -> None:
    """Give a client its route before it runs."""
    site.kernel.put(one, "192.0.2.1")
    route = Route(ip_network("10.8.0.0/16"), V4.ip, 0)
    client = Client(one.name, one.id, one.sandbox_key, (route,))
    site.reconciler.take_early(EarlyClient(client, complete))


def starting(site: Site) -> Container:
    one = CLIENT._replace(running=False)
    site.change(one)
    site.add(one)
    return one


def test_early_routes_are_not_taken_back_while_the_client_starts() -> None:
    site = Site()
    site.run()
    one = starting(site)
    early(site, one)
    site.run(Scope("resync", is_full=True))

    assert site.routes(one) == ["10.8.0.0/16 192.0.2.1"]
    assert site.drive(25) == 0


def test_early_routes_of_a_client_that_never_ran_are_taken_back() -> None:
    site = Site()
    site.run()
    one = starting(site)
    early(site, one)
    site.run(Scope("resync", is_full=True))
    site.drive(35)

    assert site.routes(one) == []
    assert site.reports[-1].unfinished == ()


def test_early_routes_are_verified_once_the_client_runs() -> None:
    site = Site()
    site.run()
    one = starting(site)
    early(site, one)
    site.change(CLIENT._replace(labels={NETWORKS_LABEL: "10.9.0.0/16"}))
    site.on("start", CLIENT)

    assert site.routes(CLIENT) == ["10.9.0.0/16 192.0.2.1"]


@pytest.mark.parametrize("complete", [True, False])
def test_only_a_client_with_all_its_routes_may_wait(complete: bool) -> None:  # noqa: FBT001
    site = Site()
    site.run()
    early(site, starting(site), complete=complete)

    assert site.reconciler.is_urgent(Event("start", CLIENT.id)) is not complete
    site.on("start", CLIENT)
    assert site.reconciler.is_urgent(Event("start", CLIENT.id))


def test_early_routes_in_a_namespace_that_has_ended_are_not_remembered() -> None:
    site = Site()
    site.run()
    client = Client("dovecot", CLIENT.id, f"{ROOT}/gone", ())
    site.reconciler.take_early(EarlyClient(client, complete=True))

    assert site.reconciler.is_urgent(Event("start", CLIENT.id))


# --- how large packets may be -------------------------------------------------------------------

DOVECOT = f"nsenter --net={ROOT}/dovecot ip route replace"
"""What each command for it begins with."""


def tunnelled(*clients: Container, size: int = 1280, **settings: Any) -> Site:  # noqa: ANN401
    """Return a site whose gateway has a tunnel to what is asked for."""
    site = Site(*clients, **settings)
    for dst in BOTH.split(","):
        site.kernel.tunnel(GATEWAY.sandbox_key, dst, size)
    return site


def test_a_route_into_a_smaller_tunnel_says_how_large_packets_may_be(
    logged: list[dict[str, Any]],
) -> None:
    site = tunnelled(CLIENT._replace(labels={NETWORKS_LABEL: f"{BOTH},10.9.0.0/16"}))
    report = site.run()

    assert site.kernel.commands == [
        f"{DOVECOT} 10.8.0.0/16 via 192.0.2.1 mtu 1280",
        f"nsenter --net={ROOT}/dovecot ip -6 route replace fd00:8::/64 via fd::1 mtu 1280",
        f"{DOVECOT} 10.9.0.0/16 via 192.0.2.1",
    ]
    assert report.mtus == {ip_network(dst): 1280 for dst in BOTH.split(",")}
    assert logged[-1]["event"] == "client.routed"
    assert logged[-1]["routes"] == 3

    del logged[:]
    assert site.run(RESYNC).changed == 0
    assert logged == []


@pytest.mark.parametrize(
    ("size", "own", "said"),
    [
        pytest.param(1500, 1500, "", id="the tunnel takes what the client sends"),
        pytest.param(1420, 1420, "", id="so does one that is as large"),
        pytest.param(1420, 1400, "", id="the client sends less by itself"),
        pytest.param(1420, 1421, " mtu 1420", id="a byte too much"),
    ],
)
def test_only_a_size_below_the_clients_own_is_said(size: int, own: int, said: str) -> None:
    site = tunnelled(CLIENT, size=size)
    site.kernel.set_mtu(CLIENT.sandbox_key, own)
    site.run()

    assert site.kernel.commands == [f"{DOVECOT} 10.8.0.0/16 via 192.0.2.1{said}"]


def test_another_size_is_another_route() -> None:
    site = tunnelled(CLIENT)
    site.run()
    del site.kernel.commands[:]
    site.kernel.tunnel(GATEWAY.sandbox_key, "10.8.0.0/16", 1420)
    site.run(REROUTE)
    site.kernel.tunnel(GATEWAY.sandbox_key, "10.8.0.0/16", 1500)
    site.run(RESYNC)

    assert site.kernel.commands == [
        f"{DOVECOT} 10.8.0.0/16 via 192.0.2.1 mtu 1420",
        f"{DOVECOT} 10.8.0.0/16 via 192.0.2.1",
    ]
    leave(site)
    assert site.routes(CLIENT) == []


@pytest.mark.parametrize("scope", [RESYNC, REROUTE])
def test_while_the_tunnel_is_away_the_size_stays(scope: Scope) -> None:
    site = tunnelled(CLIENT, on_tunnel_loss="warn")
    site.run()
    site.kernel.close_tunnel(GATEWAY.sandbox_key, "10.8.0.0/16")
    assert [site.run(scope).changed for _ in range(2)] == [0, 0]

    site.kernel.fail_reading(GATEWAY.sandbox_key, "Interrupted system call")
    with structlog.testing.capture_logs() as logged:
        assert [site.run(scope).changed for _ in range(2)] == [0, 0]
    assert [(one["event"], one["netns"]) for one in logged] == [
        ("tunnel.unknown", GATEWAY.sandbox_key)
    ] * 2


def test_but_not_that_of_another_gateway() -> None:
    site = tunnelled(CLIENT, on_tunnel_loss="warn")
    site.run()
    moved = GATEWAY._replace(id="another-id", sandbox_key=f"{ROOT}/new")
    site.engine.known = (CLIENT, moved)
    site.add(moved)
    site.run(RESYNC)

    assert site.kernel.commands[-1] == f"{DOVECOT} 10.8.0.0/16 via 192.0.2.1"


def test_a_pass_for_one_container_forgets_no_size_and_a_full_one_what_nobody_asks_for() -> None:
    other = container("postfix", "192.0.2.8/24", "fd::8/64", label="fd00:8::/64")
    site = tunnelled(CLIENT, other)
    both = {ip_network(dst): 1280 for dst in BOTH.split(",")}
    assert site.run().mtus == both
    site.remove(other)
    assert site.on("start", CLIENT).mtus == both

    assert site.run(RESYNC).mtus == {ip_network("10.8.0.0/16"): 1280}


def test_each_destination_is_asked_for_once_in_a_pass() -> None:
    others = [container(f"c{n}", f"192.0.2.{n}/24", label=BOTH) for n in range(10, 15)]
    site = tunnelled(CLIENT._replace(labels={NETWORKS_LABEL: BOTH}), *others)
    asked: list[set[Network]] = []
    real = site.kernel.ways

    def noted(
        path: str, front: Collection[Address], destinations: Iterable[Network]
    ) -> dict[Network, Way]:
        asked.append({*destinations})
        return real(path, front, destinations)

    site.kernel.ways = noted  # type: ignore[method-assign]
    site.run()
    site.run(RESYNC)

    dsts, everything = {*map(ip_network, BOTH.split(","))}, {*tunnels.EVERYTHING}
    assert asked == [everything, dsts, everything | dsts]


def test_a_lost_gateway_is_asked_nothing() -> None:
    site = tunnelled(CLIENT, on_tunnel_loss="warn")
    site.run()
    site.change(GATEWAY._replace(running=False))
    site.kernel.remove(GATEWAY.sandbox_key)
    site.on("die", GATEWAY)
    assert site.kernel.commands[-1] == f"{DOVECOT} unreachable 10.8.0.0/16"

    site.change(GATEWAY)
    site.add(GATEWAY)
    site.on("start", GATEWAY)
    assert site.kernel.commands[-1] == f"{DOVECOT} 10.8.0.0/16 via 192.0.2.1 mtu 1280"


@pytest.mark.parametrize(
    ("choice", "said", "said6"),
    [("off", "", ""), ("1000", " mtu 1000", " mtu 1280"), ("1499", " mtu 1499", " mtu 1499")],
)
def test_the_size_can_be_chosen(choice: str, said: str, said6: str) -> None:
    site = tunnelled(CLIENT._replace(labels={NETWORKS_LABEL: BOTH}), mtu=choice)
    site.run()

    assert site.kernel.commands == [
        f"{DOVECOT} 10.8.0.0/16 via 192.0.2.1{said}",
        f"nsenter --net={ROOT}/dovecot ip -6 route replace fd00:8::/64 via fd::1{said6}",
    ]


@pytest.mark.parametrize("withdraws", [True, False])
def test_a_route_with_a_size_can_be_left_too(*, withdraws: bool) -> None:
    site = tunnelled(CLIENT._replace(labels={NETWORKS_LABEL: BOTH}))
    site.run()
    assert (
        names(leave(site, withdraws=withdraws))
        == ["route.deleted" if withdraws else "route.replaced"] * 2
    )

    assert len(site.routes(CLIENT)) == (0 if withdraws else 2)


# --- the end ------------------------------------------------------------------------------------

MANY_V4 = [f"10.{n}.0.0/16" for n in range(1, 131)]


class Interrupted(BaseException):
    """What a signal raises, wherever the program is."""


def leave(site: Site, *, withdraws: bool = True) -> list[dict[str, Any]]:
    """Let it end, without an engine; return what was logged."""
    del site.engine
    with structlog.testing.capture_logs() as logged:
        site.reconciler.leave(withdraws=withdraws)
    return cast("list[dict[str, Any]]", logged)


def interrupt_at(site: Site, *numbers: int) -> None:
    """Raise right before these commands, counted from now on."""
    ran = itertools.count(1)

    def interrupt(_: str) -> None:
        if next(ran) in numbers:
            raise Interrupted

    site.kernel.before_command(interrupt)


def test_exactly_what_was_given_is_withdrawn() -> None:
    site = Site(CLIENT._replace(labels={NETWORKS_LABEL: BOTH}))
    site.kernel.give(CLIENT.sandbox_key, Route(ip_network("10.5.0.0/16"), V4.ip, 0))
    site.run()
    del site.kernel.commands[:]
    logged = leave(site)

    assert site.routes(CLIENT) == ["10.5.0.0/16 192.0.2.1"]
    enter = f"nsenter --net={ROOT}/dovecot"
    assert site.kernel.commands == [
        f"{enter} ip route del 10.8.0.0/16 via 192.0.2.1",
        f"{enter} ip -6 route del fd00:8::/64 via fd::1 metric 1024",
    ]
    assert logged == [
        {
            "event": "route.deleted",
            "log_level": "info",
            "container": "dovecot",
            "container_id": "dovecot-id",
            "dst": dst,
            "netns": f"{ROOT}/dovecot",
            "command": command,
            "network": "wg-net",
            "gateway": gateway,
            "reason": "the sidecar is stopped",
            "trigger": "stop",
            "duration_ms": 1.0,
        }
        for dst, gateway, command in zip(
            BOTH.split(","), ("192.0.2.1", "fd::1"), site.kernel.commands, strict=True
        )
    ]


def test_or_it_becomes_unreachable() -> None:
    site = Site(CLIENT._replace(labels={NETWORKS_LABEL: BOTH}))
    site.kernel.give(CLIENT.sandbox_key, Route(ip_network("10.5.0.0/16"), V4.ip, 0))
    site.run()
    logged = leave(site, withdraws=False)

    assert site.routes(CLIENT) == [
        "10.5.0.0/16 192.0.2.1",
        "10.8.0.0/16 unreachable",
        "fd00:8::/64 unreachable",
    ]
    said = [(one["event"], one["gateway"], one["trigger"]) for one in logged]
    assert said == [("route.replaced", "unreachable", "stop")] * 2


@pytest.mark.parametrize(
    ("withdraws", "expected"), [(True, []), (False, ["10.8.0.0/16 unreachable"])]
)
def test_what_became_unreachable_with_the_gateway_is_given_too(
    withdraws: bool,  # noqa: FBT001
    expected: list[str],
) -> None:
    site = Site(CLIENT)
    site.run()
    site.change(GATEWAY._replace(running=False))
    site.on("die", GATEWAY)
    del site.kernel.commands[:]
    logged = leave(site, withdraws=withdraws)

    assert site.routes(CLIENT) == expected
    assert names(logged) == ["route.deleted"] * withdraws


def test_what_is_not_there_any_more_is_not_made_unreachable() -> None:
    site = Site(CLIENT)
    site.run()
    site.kernel.set_link(CLIENT.sandbox_key, up=False)
    logged = leave(site, withdraws=False)

    assert site.routes(CLIENT) == []
    assert logged == []


@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("withdraws", [True, False])
def test_an_end_in_the_middle_of_a_pass_leaves_nothing(at: int, *, withdraws: bool) -> None:
    """Of the commands that ran, nobody was told how they ended."""
    label = ",".join(MANY_V4[:3])
    other = container("postfix", "192.0.2.8/24", label=label)
    site = Site(CLIENT._replace(labels={NETWORKS_LABEL: label}), other)
    interrupt_at(site, at)
    with pytest.raises(Interrupted):
        site.run()
    assert len(site.routes(CLIENT) + site.routes(other)) == at - 1
    leave(site, withdraws=withdraws)

    left = site.routes(CLIENT) + site.routes(other)
    assert len(left) == (0 if withdraws else at - 1)
    assert all(route.endswith("unreachable") for route in left)


@pytest.mark.parametrize("at", [1, 2])
def test_an_end_while_routes_are_led_elsewhere_leaves_none_of_both(at: int) -> None:
    one = CLIENT._replace(labels={NETWORKS_LABEL: ",".join(MANY_V4[:2])})
    site = Site(one)
    site.run()
    site.change(container("wireguard", "192.0.2.2/24"))
    interrupt_at(site, at)
    with pytest.raises(Interrupted):
        site.on("start", GATEWAY)
    assert len(site.routes(one)) == 2
    leave(site)

    assert site.routes(one) == []


def test_before_the_first_pass_there_is_nothing_to_do() -> None:
    site = Site(CLIENT)
    site.kernel.put(CLIENT, "192.0.2.1")

    assert leave(site) == []
    assert site.kernel.commands == []


def test_early_routes_of_a_client_that_does_not_run_yet_are_withdrawn() -> None:
    site = Site()
    site.run()
    one = starting(site)
    early(site, one)
    leave(site)

    assert site.routes(one) == []


def test_while_the_gateway_is_unknown_its_routes_are_withdrawn_too() -> None:
    site = Site(CLIENT)
    site.run()
    site.change(GATEWAY._replace(network_mode="host"))
    assert isinstance(site.on("start", GATEWAY).gateway, Unknown)
    (entry,) = leave(site)

    assert site.routes(CLIENT) == []
    assert (entry["event"], entry["network"]) == ("route.deleted", "wg-net")


def test_whom_another_gateway_serves_nothing_is_taken_from() -> None:
    site = contested(PEER)
    site.kernel.put(CLIENT, "192.0.2.2")
    site.run()

    assert leave(site) == []
    assert site.kernel.commands == []


def test_nor_what_it_gave_after_us() -> None:
    site = Site(CLIENT, OTHER)
    site.run()
    site.change(PEER)
    site.reconciler.concerns(Event("start", PEER.id, labels=PEER.labels))
    site.on("start", PEER)
    del site.kernel.commands[:]

    assert leave(site) == []
    assert site.kernel.commands == []


@pytest.mark.parametrize("ends", [True, False])
def test_a_namespace_that_is_not_there_any_more_is_not_written(*, ends: bool) -> None:
    site = Site(CLIENT)
    site.run()
    del site.kernel.commands[:]
    if ends:
        site.kernel.remove(CLIENT.sandbox_key)
    else:
        site.kernel.replace_with_other(CLIENT.sandbox_key)

    assert leave(site) == []
    assert site.kernel.commands == []


def test_a_file_without_its_namespace_is_no_failure() -> None:
    """As while the engine removes it."""
    site = Site(CLIENT)
    site.run()
    site.kernel.forbid(CLIENT.sandbox_key, NetnsError("it is no namespace"))
    site.kernel.remove(CLIENT.sandbox_key)

    assert leave(site) == []


def test_all_of_many_routes_are_withdrawn_a_part_at_a_time() -> None:
    one = CLIENT._replace(labels={NETWORKS_LABEL: ",".join(MANY_V4)})
    site = Site(one)
    site.run()
    site.drive(1)
    assert len(site.routes(one)) == 130

    assert names(leave(site)) == ["route.deleted"] * 130
    assert site.routes(one) == []


def test_a_namespace_that_is_replaced_between_two_parts_is_not_written() -> None:
    one = CLIENT._replace(labels={NETWORKS_LABEL: ",".join(MANY_V4)})
    site = Site(one)
    site.run()
    site.drive(1)
    del site.kernel.commands[:]
    ran = itertools.count(1)

    def replace_after_part(_: str) -> None:
        if next(ran) == MAX_STEPS:
            site.kernel.replace_with_other(one.sandbox_key)

    site.kernel.before_command(replace_after_part)
    logged = leave(site)

    assert len(site.kernel.commands) == MAX_STEPS
    assert set(names(logged)) == {"route.deleted"}


def test_what_could_not_be_done_is_told() -> None:
    others = [container(f"c{n}", f"192.0.2.{n}/24", label=BOTH) for n in range(10, 22)]
    site = Site(CLIENT, *others)
    site.run()
    site.kernel.fail(CLIENT.sandbox_key, DENIED)
    for one in others:
        site.kernel.fail_reading(one.sandbox_key, "Interrupted system call")
    logged = leave(site)

    assert sorted(names(logged)) == ["client.failed"] * 12 + ["route.failed", "routes.left"]
    (failed,) = (entry for entry in logged if entry["event"] == "route.failed")
    assert (failed["dst"], failed["stderr"]) == ("10.8.0.0/16", DENIED)
    shown = ", ".join(f"c{n}" for n in range(10, 20))
    assert logged[-1] == {
        "event": "routes.left",
        "log_level": "warning",
        "routes": 13,
        "clients": 13,
        "reason": f"still as they were: those of {shown} and 3 more",
        "hint": "docker compose run --rm wgroutemgr withdraw   # takes back what is left",
    }


def test_a_client_that_ends_meanwhile_is_no_failure() -> None:
    site = Site(CLIENT._replace(labels={NETWORKS_LABEL: BOTH}))
    site.run()
    interrupted = iter([True])

    def remove(_: str) -> None:
        if next(interrupted, False):
            site.kernel.remove(CLIENT.sandbox_key)

    site.kernel.before_command(remove)

    assert leave(site) == []


def test_a_route_that_is_gone_by_itself_meanwhile_is_no_failure() -> None:
    site = Site(CLIENT)
    site.run()
    site.kernel.before_command(lambda _: site.kernel.set_link(CLIENT.sandbox_key, up=False))

    assert names(leave(site)) == []


def test_the_way_to_a_network_that_was_connected_meanwhile_stays_and_is_told() -> None:
    site = Site(CLIENT)
    site.kernel.before_command(lambda _: site.kernel.attach(CLIENT.sandbox_key, "10.8.0.7/16"))
    site.run()
    logged = leave(site)

    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]
    assert [(entry["event"], entry["routes"], entry["reason"]) for entry in logged] == [
        ("routes.left", 1, "still as they were: those of dovecot")
    ]


def test_when_it_takes_too_long_the_rest_is_told() -> None:
    label = ",".join(MANY_V4[:3])
    other = container("postfix", "192.0.2.8/24", label=label)
    site = Site(CLIENT._replace(labels={NETWORKS_LABEL: label}), other, width=1)
    site.run()
    interrupt_at(site, 6)
    with structlog.testing.capture_logs() as logged, pytest.raises(Interrupted):
        site.reconciler.leave(withdraws=True)

    assert [entry["event"] for entry in logged] == ["route.deleted"] * 3 + ["routes.left"]
    # How those ended that ran is not known.
    assert (logged[-1]["routes"], logged[-1]["clients"]) == (3, 1)
    assert logged[-1]["reason"] == "still as they were: those of postfix"


# --- who concerns us ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "container_id", "concerns"),
    [
        ("start", "dovecot-id", True),
        ("connect", "dovecot-id", True),
        ("die", "dovecot-id", False),
        ("die", "wireguard-id", True),
        ("destroy", "wireguard-id", True),
        ("create", "dovecot-id", False),
    ],
)
def test_an_event_concerns_us(action: str, container_id: str, concerns: bool) -> None:  # noqa: FBT001
    site = Site(CLIENT)
    site.run()

    assert site.reconciler.concerns(Event(action, container_id)) is concerns


# --- another gateway on the network -------------------------------------------------------------

OTHER = container("another", "192.0.2.2/24")
"""A gateway whose name comes first."""


def peer(name: str, gateway: str, **values: Any) -> Container:  # noqa: ANN401
    """Return a sidecar beside a gateway, as the engine tells it."""
    labels = {ROLE_LABEL: "sidecar", GATEWAY_LABEL: gateway, NETWORK_LABEL: "wg-net"}
    one = container(name, sandbox_key="", started_at=100.0, network_mode="none", endpoints=())
    return one._replace(**{"labels": labels, **values})


PEER = peer("its-sidecar", "another")


def contested(*others: Container) -> Site:
    """Return a site with another gateway, a client and other sidecars; ours bears no label."""
    site = Site(CLIENT, OTHER)
    site.change(*others)
    return site


@pytest.mark.parametrize(
    ("labelled", "environment"),
    [
        ({SERVICE_LABEL: "a_service"}, {}),
        ({GATEWAY_LABEL: "wireguard"}, {"WGROUTEMGR_GATEWAY_SERVICE": "a_service"}),
    ],
)
def test_an_agent_that_follows_a_service_claims_its_clients_by_the_services_name(
    logged: list[dict[str, Any]], labelled: dict[str, str], environment: dict[str, str]
) -> None:
    labels = {ROLE_LABEL: "sidecar", NETWORK_LABEL: "wg-net"} | labelled
    site = contested(PEER._replace(labels=labels, environment=environment))
    site.run()

    assert site.kernel.commands == []
    assert [entry["reason"] for entry in logged if entry["event"] == "gateway.contested"] == [
        "clients are served by the gateway a_service, by name the first of those on this network"
    ]


def test_another_gateways_clients_are_left_alone_which_is_told_once(
    logged: list[dict[str, Any]],
) -> None:
    site = contested(PEER)
    site.kernel.put(CLIENT, "192.0.2.2")
    for _ in range(3):
        site.run(RESYNC)

    assert site.kernel.commands == []
    among = [one.among for one in site.announced if one]
    assert [one.unnamed for one in among if one] == ["another"] * 3  # Nor is anybody early.
    assert names(logged) == ["gateway.ready", "gateway.contested"]
    assert logged[2]["reason"] == (
        "clients are served by the gateway another, by name the first of those on this network"
    )
    (skipped,) = (entry for entry in logged if entry["event"] == "client.skipped")
    assert (skipped["log_level"], skipped["reason"]) == (
        "debug",
        "is served by the gateway another",
    )


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(peer("s", "zero"), id="last by name"),
        pytest.param(peer("s", "another", arguments=("doctor",)), id="a command that ends"),
        pytest.param(peer("s", "another", arguments=("--network", "n2")), id="another network"),
        pytest.param(
            peer("s", "another", environment={"WGROUTEMGR_NETWORK": "n2"}), id="by its variable"
        ),
        pytest.param(peer("s", "wireguard"), id="the same gateway"),
        pytest.param(peer("s", "nearby"), id="a gateway on the host's network"),
        pytest.param(peer("s", "", network_mode="wg-net"), id="not told its gateway"),
        pytest.param(peer("s", "", network_mode="container:gone"), id="whose gateway is gone"),
    ],
)
def test_no_other_sidecar_keeps_us_from_serving(other: Container) -> None:
    zero, nearby = container("zero"), container("nearby", network_mode="host", sandbox_key="")
    site = contested(zero, nearby, other)
    site.run()

    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(peer("s", "another", labels={ROLE_LABEL: "sidecar"}), id="no label but ours"),
        pytest.param(peer("s", "removed-a"), id="a gateway that was removed, and is waited for"),
        pytest.param(
            peer("s", "zero", arguments=("run", "--gateway=another")), id="an option wins"
        ),
        pytest.param(
            peer("s", "zero", environment={"WGROUTEMGR_GATEWAY": "another"}), id="a variable wins"
        ),
        pytest.param(
            peer("s", "", network_mode="container:another"), id="in its gateway's namespace"
        ),
    ],
)
def test_another_sidecar_is_seen_however_it_knows_its_gateway(other: Container) -> None:
    if other.labels == {ROLE_LABEL: "sidecar"}:
        other = other._replace(network_mode="container:another")
    site = contested(other)
    site.run()

    assert site.kernel.commands == []


def test_it_takes_over_once_after_a_while_and_gives_back(logged: list[dict[str, Any]]) -> None:
    site = contested(PEER)
    site.kernel.put(CLIENT, "192.0.2.2")
    site.run()
    site.remove(PEER)
    report = site.on("die", PEER)
    assert report.scope.is_full
    assert report.again_at == site.now + 10
    assert site.kernel.commands == []

    assert site.drive(59) == 1
    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]
    assert names(logged)[2:] == ["gateway.chosen", "route.replaced", "client.routed"]

    back = PEER._replace(started_at=site.now, finished_at=site.now - 60)
    site.change(back)
    assert site.reconciler.concerns(Event("start", back.id, labels=back.labels))
    assert site.on("start", back).again_at == site.now + 10
    assert site.drive(59) == 2  # The second one looks what came of it.
    # What stands is the other's to replace: without it there would be none for a moment.
    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.1"]
    site.kernel.give(CLIENT.sandbox_key, Route(ip_network("10.9.0.0/16"), V4.ip, 0))
    site.run(RESYNC)
    assert len(site.kernel.commands) == 1
    assert names(logged)[5:] == ["gateway.contested"]


def test_a_lost_gateway_changes_nothing_for_whom_another_serves() -> None:
    site = contested(PEER)
    site.kernel.put(CLIENT, "192.0.2.2")
    site.change(GATEWAY._replace(running=False))
    report = site.run()

    assert isinstance(report.gateway, Lost)
    assert site.routes(CLIENT) == ["10.8.0.0/16 192.0.2.2"]


def test_while_the_engine_is_silent_about_another_sidecar_nothing_changes() -> None:
    site = contested(PEER)
    site.run()
    site.engine.silent_about = PEER.id
    site.run(RESYNC)

    assert site.kernel.commands == []


def test_an_event_of_another_sidecar_is_known_by_its_label() -> None:
    site = Site(CLIENT, OTHER)
    site.run()
    site.change(PEER)
    event = Event("start", PEER.id, labels=PEER.labels)

    assert site.reconciler.concerns(event)
    assert site.on("start", PEER).scope.is_full
    assert site.reconciler.concerns(event._replace(action="die", labels={}))


# --- our own table ------------------------------------------------------------------------------

EVERYTHING = CLIENT._replace(labels={NETWORKS_LABEL: "0.0.0.0/0"})
VIA = "default via 192.0.2.1 table 671"
GUARD = "unreachable default metric 4000 table 671"
MAIN_RULE, TABLE_RULE = "pref 670 lookup main suppress_prefixlength 0", "pref 671 lookup 671"
ALL = [VIA, GUARD, MAIN_RULE, TABLE_RULE]


def ours(site: Site, one: Container = EVERYTHING) -> list[str]:
    """Return what is in our own table, and the rules."""
    there = site.kernel.read(one.sandbox_key, rules=True)
    routes = [iproute.text(route) for route in there.routes if route.table == TABLE]
    return routes + [iproute.text(rule) for rule in there.rules]


def set_up(*clients: Container, label: str = "0.0.0.0/0") -> Site:
    one = EVERYTHING._replace(labels={NETWORKS_LABEL: label})
    site = Site(*(clients or (one,)))
    site.kernel.give(EVERYTHING.sandbox_key, ENGINES_DEFAULT)
    return site


ENGINES_DEFAULT = Route(ip_network("0.0.0.0/0"), ip_address("192.0.2.254"), 0)


def ran(site: Site) -> list[str]:
    return [line.partition(" ip ")[2] for line in site.kernel.commands]


def test_everything_is_set_in_its_order_and_beside_the_engines_default(
    logged: list[dict[str, Any]],
) -> None:
    site = set_up(label="0.0.0.0/0,::/0,10.8.0.0/16")
    report = site.run()

    assert ran(site) == [
        f"route replace {VIA}",
        f"route replace {GUARD}",
        "-6 route replace default via fd::1 table 671",
        f"-6 route replace {GUARD}",
        "route replace 10.8.0.0/16 via 192.0.2.1",
        f"rule add {MAIN_RULE}",
        f"-6 rule add {MAIN_RULE}",
        f"rule add {TABLE_RULE}",
        f"-6 rule add {TABLE_RULE}",
    ]
    assert ENGINES_DEFAULT in site.kernel.routes(EVERYTHING.sandbox_key)
    assert (report.routes, report.changed, report.unfinished) == (3, 9, ())
    rule = next(entry for entry in logged if entry["event"] == "rule.added")
    assert rule == {
        "event": "rule.added",
        "log_level": "info",
        "container": "dovecot",
        "container_id": "dovecot-id",
        "network": "wg-net",
        "netns": f"{ROOT}/dovecot",
        "command": f"nsenter --net={ROOT}/dovecot ip rule add {MAIN_RULE}",
        "trigger": "startup",
        "duration_ms": rule["duration_ms"],
    }
    assert [entry["routes"] for entry in logged if entry["event"] == "client.routed"] == [3]


def test_a_steady_state_of_everything_runs_nothing_either(logged: list[dict[str, Any]]) -> None:
    site = set_up()
    site.run()
    del site.kernel.commands[:], logged[:]
    report = site.run(Scope("resync", is_full=True))

    assert (site.kernel.commands, logged, report.changed) == ([], [], 0)


def test_a_new_daemon_finds_everything_as_it_is(logged: list[dict[str, Any]]) -> None:
    site = set_up()
    site.run()
    del site.kernel.commands[:], logged[:]
    other = Site()
    other.kernel, other.engine = site.kernel, site.engine
    reconciler = Reconciler(
        site.kernel, Settings(gateway="wireguard", network="wg-net"), lambda _: 0.5
    )
    report = reconciler.run(site.engine, STARTUP)  # type: ignore[arg-type]

    assert (site.kernel.commands, report.unfinished) == ([], ())


def test_without_anything_in_our_table_rules_are_not_read() -> None:
    site = Site(CLIENT)
    for rule in policy.rules(4):
        site.kernel.give(CLIENT.sandbox_key, rule)
    seen: list[Inside] = []
    site.kernel.after_read = lambda path: seen.append(FakeKernel.read(site.kernel, path))
    site.run()

    assert [one.rules for one in seen] == [()]


@pytest.mark.parametrize("lost", ALL)
def test_what_somebody_deletes_is_set_again_alone(lost: str) -> None:
    site = set_up()
    site.run()
    about, verb = ("rule", "add") if lost.startswith("pref") else ("route", "replace")
    site.kernel.run(f"nsenter --net={EVERYTHING.sandbox_key} ip {about} del {lost}")
    del site.kernel.commands[:]
    site.run(Scope("resync", is_full=True))

    assert ran(site) == [f"{about} {verb} {lost}"]
    assert sorted(ours(site)) == sorted(ALL)


def test_a_lost_gateway_makes_everything_unreachable_and_rules_stay() -> None:
    site = set_up()
    site.run()
    del site.kernel.commands[:]
    site.change(GATEWAY._replace(running=False))
    site.on("die", GATEWAY)

    assert ran(site) == ["route replace unreachable default table 671"]
    assert sorted(ours(site)) == sorted(["unreachable default table 671", *ALL[1:]])
    site.change(GATEWAY)
    site.on("start", GATEWAY)
    assert sorted(ours(site)) == sorted(ALL)


def test_a_link_that_went_leaves_the_guard_and_the_route_is_set_again() -> None:
    site = set_up()
    site.run()
    site.kernel.set_link(EVERYTHING.sandbox_key, up=False)
    assert sorted(ours(site)) == sorted(ALL[1:])
    site.kernel.set_link(EVERYTHING.sandbox_key, up=True)
    del site.kernel.commands[:]
    site.run(Scope("resync", is_full=True))

    assert ran(site) == [f"route replace {VIA}"]


def test_our_table_is_not_asked_where_the_rule_before_is_refused() -> None:
    site = set_up()
    site.kernel.fail(EVERYTHING.sandbox_key, DENIED, only="pref 670")
    report = site.run()

    assert sorted(ours(site)) == sorted([VIA, GUARD])
    assert report.failing == ("dovecot",)
    site.kernel.heal(EVERYTHING.sandbox_key)
    site.drive(5)
    assert sorted(ours(site)) == sorted(ALL)
    assert site.reports[-1].unfinished == ()


def test_a_rule_that_fails_is_told_without_a_destination(logged: list[dict[str, Any]]) -> None:
    site = set_up()
    site.kernel.fail(EVERYTHING.sandbox_key, DENIED, only="pref 670")
    site.run()

    (entry,) = (entry for entry in logged if entry["event"] == "rule.failed")
    assert (entry["stderr"], entry["exit_code"]) == (DENIED, 2)
    assert entry["command"].endswith(f"rule add {MAIN_RULE}")
    assert "dst" not in entry


def test_a_route_that_fails_leaves_everything_unreachable() -> None:
    site = set_up()
    site.kernel.fail(EVERYTHING.sandbox_key, DENIED, only="via")
    site.run()

    assert sorted(ours(site)) == sorted(ALL[1:])


def test_a_rule_that_came_meanwhile_is_an_answer(logged: list[dict[str, Any]]) -> None:
    site = set_up()
    first = policy.rules(4)[0]
    site.kernel.before_command(
        lambda line: (
            site.kernel.give(EVERYTHING.sandbox_key, first)
            if line.endswith(f"add {MAIN_RULE}")
            else None
        )
    )
    report = site.run()

    assert sorted(ours(site)) == sorted(ALL)
    assert (report.failing, report.changed) == ((), 3)
    assert "rule.found" in [entry["event"] for entry in logged]


NOTHING = EVERYTHING._replace(labels={NETWORKS_LABEL: ""})


def test_who_asks_for_nothing_any_more_gives_all_back_in_reverse(
    logged: list[dict[str, Any]],
) -> None:
    site = set_up()
    site.run()
    del site.kernel.commands[:], logged[:]
    site.change(NOTHING)
    site.on("connect", EVERYTHING)

    assert ran(site) == [
        f"rule del {TABLE_RULE}",
        f"rule del {MAIN_RULE}",
        f"route del {VIA}",
        f"route del {GUARD}",
    ]
    assert ours(site) == []
    (entry, _) = (entry for entry in logged if entry["event"] == "rule.deleted")
    assert entry["reason"] == "nobody asks for it any more"


def test_what_is_asked_by_rules_that_cannot_be_deleted_stays() -> None:
    site = set_up()
    site.run()
    site.kernel.fail(EVERYTHING.sandbox_key, DENIED, only="rule del")
    site.change(NOTHING)
    site.on("connect", EVERYTHING)

    assert sorted(ours(site)) == sorted(ALL)
    site.kernel.heal(EVERYTHING.sandbox_key)
    site.drive(5)
    assert ours(site) == []


def test_rules_that_went_meanwhile_are_an_answer() -> None:
    site = set_up()
    site.run()
    site.kernel.fail(
        EVERYTHING.sandbox_key, "ip: RTNETLINK answers: No such file or directory", only="rule del"
    )
    site.change(NOTHING)
    report = site.on("connect", EVERYTHING)

    assert report.failing == ()


def test_what_an_earlier_daemon_left_in_our_table_is_taken_back() -> None:
    """It was for a wide network, which contained another one then."""
    site = set_up(label="10.0.0.0/8")
    wide = Route(ip_network("10.0.0.0/8"), ip_address("192.0.2.1"), 0, table=671)
    site.kernel.give(EVERYTHING.sandbox_key, *policy.needs([wide]))
    site.run()

    assert ran(site) == [
        "route replace 10.0.0.0/8 via 192.0.2.1",
        f"rule del {TABLE_RULE}",
        f"rule del {MAIN_RULE}",
        "route del 10.0.0.0/8 via 192.0.2.1 table 671",
        "route del unreachable 10.0.0.0/8 metric 4000 table 671",
    ]


def test_a_wide_network_changes_its_table_with_what_the_client_is_attached_to() -> None:
    site = set_up(label="10.0.0.0/8")
    one = site.engine.known[1]
    site.run()
    assert site.routes(one)[1:] == ["10.0.0.0/8 192.0.2.1"]
    inner = Endpoint("inner", "n9", (ip_interface("10.9.0.7/24"),))
    site.change(one._replace(endpoints=(*one.endpoints, inner)))
    del site.kernel.commands[:]
    site.on("connect", one)

    assert ran(site) == [
        "route replace 10.0.0.0/8 via 192.0.2.1 table 671",
        "route replace unreachable 10.0.0.0/8 metric 4000 table 671",
        f"rule add {MAIN_RULE}",
        f"rule add {TABLE_RULE}",
        "route del 10.0.0.0/8 via 192.0.2.1",
    ]


def test_two_clients_in_one_namespace_share_what_goes_with_their_routes() -> None:
    guest = EVERYTHING._replace(
        id="guest-id",
        name="guest",
        network_mode="container:dovecot",
        sandbox_key="",
        endpoints=(),
    )
    site = set_up(EVERYTHING._replace(labels={NETWORKS_LABEL: "128.0.0.0/1"}), guest)
    site.run()
    assert len(ran(site)) == 6
    del site.kernel.commands[:]
    site.remove(guest)
    site.on("die", guest)

    assert ran(site) == [f"route del {VIA}", f"route del {GUARD}"]


def test_who_has_no_ipv6_address_gets_guard_and_rules_for_it() -> None:
    one = container("dovecot", "192.0.2.7/24", label="::/0")
    site = Site(one)
    site.run()

    assert ran(site) == [
        f"-6 route replace {GUARD}",
        f"-6 rule add {MAIN_RULE}",
        f"-6 rule add {TABLE_RULE}",
    ]


def sized_set_up() -> Site:
    """Return a site with everything through a tunnel that takes smaller packets."""
    site = set_up(label="0.0.0.0/0,::/0")
    for dst in ("0.0.0.0/0", "::/0"):
        site.kernel.tunnel(GATEWAY.sandbox_key, dst, 1280)
    site.run()
    return site


def test_everything_says_how_large_packets_may_be_and_what_stands_beside_it_does_not() -> None:
    site = sized_set_up()

    assert ran(site) == [
        f"route replace {VIA} mtu 1280",
        f"route replace {GUARD}",
        "-6 route replace default via fd::1 table 671 mtu 1280",
        f"-6 route replace {GUARD}",
        f"rule add {MAIN_RULE}",
        f"-6 rule add {MAIN_RULE}",
        f"rule add {TABLE_RULE}",
        f"-6 rule add {TABLE_RULE}",
    ]
    del site.kernel.commands[:]
    assert site.run(RESYNC).changed == 0
    site.kernel.tunnel(GATEWAY.sandbox_key, "0.0.0.0/0", 1420)
    site.run(RESYNC)

    assert ran(site) == [f"route replace {VIA} mtu 1420"]
    assert ENGINES_DEFAULT in site.kernel.routes(EVERYTHING.sandbox_key)


@pytest.mark.parametrize("withdraws", [True, False])
def test_everything_with_a_size_can_be_left_too(*, withdraws: bool) -> None:
    site = sized_set_up()
    del site.kernel.commands[:]
    leave(site, withdraws=withdraws)

    assert ran(site) == (
        [
            *(f"{ip}rule del {TABLE_RULE}" for ip in ("", "-6 ")),
            *(f"{ip}rule del {MAIN_RULE}" for ip in ("", "-6 ")),
            f"route del {VIA}",
            "-6 route del default via fd::1 metric 1024 table 671",
            f"route del {GUARD}",
            f"-6 route del {GUARD} dev lo",
        ]
        if withdraws
        else [f"{ip}route replace unreachable default table 671" for ip in ("", "-6 ")]
    )


def test_early_guards_and_rules_are_taken_back_from_who_never_ran() -> None:
    site = Site()
    site.run()
    one = starting(site)
    via = Route(ip_network("0.0.0.0/0"), ip_address("192.0.2.1"), 0, table=671)
    client = Client(one.name, one.id, one.sandbox_key, (via,))
    site.kernel.give(one.sandbox_key, *policy.needs([via]))
    beside = tuple(thing for thing in policy.needs([via]) if thing != via)
    site.reconciler.take_early(EarlyClient(client, complete=True, beside=beside))
    site.run(Scope("resync", is_full=True))
    assert len(ours(site, one)) == 4
    site.drive(35)

    assert ours(site, one) == []


# --- what keeps off the gateway -----------------------------------------------------------------

FRONT = Endpoint("front", "n2", (ip_interface("10.5.0.7/24"),))
PAST = "198.51.100.0/24 via 192.0.2.254"
FROM = "pref 669 from 10.5.0.7 lookup main"


def past_set_up(label: str = "198.51.100.0/24,front", *clients: Container) -> Site:
    labels = {NETWORKS_LABEL: "0.0.0.0/0", DIRECT_LABEL: label}
    one = EVERYTHING._replace(labels=labels, endpoints=(*EVERYTHING.endpoints, FRONT))
    site = Site(one, *clients)
    site.kernel.give(one.sandbox_key, ENGINES_DEFAULT)
    return site


def move_default(site: Site, gateway: str | None) -> None:
    """Let the engine move the default route, or take it away."""
    path = EVERYTHING.sandbox_key
    before = [
        one for one in site.kernel.routes(path) if one.dst.prefixlen == 0 and one.table != 671
    ]
    for one in before:
        site.kernel.run(f"nsenter --net={path} ip route del {iproute.text(one)}")
    if gateway:
        site.kernel.give(path, ENGINES_DEFAULT._replace(gateway=ip_address(gateway)))
    del site.kernel.commands[:]


def test_what_keeps_off_the_gateway_is_set_beside_it(logged: list[dict[str, Any]]) -> None:
    site = past_set_up("198.51.100.0/24")
    report = site.run()

    assert ran(site) == [
        f"route replace {VIA}",
        f"route replace {GUARD}",
        f"route replace {PAST}",
        f"rule add {MAIN_RULE}",
        f"rule add {TABLE_RULE}",
    ]
    assert (report.routes, report.changed, report.unfinished) == (1, 5, ())
    del site.kernel.commands[:], logged[:]
    assert site.run(RESYNC).changed == 0
    assert logged == []


def test_a_name_sets_a_rule_before_ours_and_all_in_our_table() -> None:
    site = past_set_up()
    site.run()

    assert ran(site) == [
        f"route replace {VIA}",
        f"route replace {GUARD}",
        f"route replace {PAST} table 671",
        f"rule add {MAIN_RULE}",
        f"rule add {FROM}",
        f"rule add {TABLE_RULE}",
    ]
    assert ours(site)[-3:] == [FROM, MAIN_RULE, TABLE_RULE]


def test_a_default_route_that_the_engine_moves_is_followed(logged: list[dict[str, Any]]) -> None:
    site = past_set_up("198.51.100.0/24")
    site.run()
    move_default(site, "10.5.0.1")
    site.on("connect", EVERYTHING)

    assert ran(site) == ["route replace 198.51.100.0/24 via 10.5.0.1"]

    move_default(site, None)
    del logged[:]
    for _ in range(2):
        site.on("disconnect", EVERYTHING)
    assert ran(site) == ["route del 198.51.100.0/24 via 10.5.0.1"]
    (refused,) = (entry for entry in logged if entry["event"] == "entry.refused")
    assert (refused["entry"], refused["reason"]) == (
        "198.51.100.0/24",
        "has no other way: the engine gave the container no IPv4 gateway",
    )

    move_default(site, "192.0.2.254")
    site.on("connect", EVERYTHING)
    assert ran(site) == [f"route replace {PAST}"]


def test_it_stays_while_the_gateway_is_lost() -> None:
    site = past_set_up()
    site.run()
    del site.kernel.commands[:]
    site.change(GATEWAY._replace(running=False))
    site.on("die", GATEWAY)

    assert ran(site) == ["route replace unreachable default table 671"]
    assert {f"{PAST} table 671", FROM} <= {*ours(site)}


def test_a_rule_for_one_address_that_fails_leaves_nothing_open() -> None:
    site = past_set_up()
    site.kernel.fail(EVERYTHING.sandbox_key, DENIED, only="pref 669")
    report = site.run()

    assert ours(site)[-2:] == [MAIN_RULE, TABLE_RULE]
    assert report.failing == ("dovecot",)


def test_a_rule_for_one_address_that_the_container_added_is_its_own() -> None:
    site = set_up()
    theirs = policy.past(ip_address("10.5.0.7"))
    site.kernel.give(EVERYTHING.sandbox_key, theirs)
    site.run()
    site.run(RESYNC)

    assert theirs in site.kernel.rules(EVERYTHING.sandbox_key)


def test_who_leaves_the_network_of_a_name_loses_its_rule() -> None:
    site = past_set_up("front")
    one = site.engine.known[1]
    site.run()
    del site.kernel.commands[:]
    site.change(one._replace(endpoints=EVERYTHING.endpoints))
    site.on("disconnect", one)

    assert ran(site) == [f"rule del {FROM}"]


@pytest.mark.parametrize("withdraws", [True, False])
def test_what_keeps_off_the_gateway_at_the_end(*, withdraws: bool) -> None:
    site = past_set_up()
    site.run()
    del site.kernel.commands[:]
    leave(site, withdraws=withdraws)

    assert ran(site) == (
        [
            f"rule del {TABLE_RULE}",
            f"rule del {MAIN_RULE}",
            f"rule del {FROM}",
            f"route del {VIA}",
            f"route del {PAST} table 671",
            f"route del {GUARD}",
        ]
        if withdraws
        else ["route replace unreachable default table 671"]
    )


def test_of_two_containers_in_one_namespace_the_gateways_wins(
    logged: list[dict[str, Any]],
) -> None:
    guest = EVERYTHING._replace(
        id="guest-id",
        name="guest",
        network_mode="container:dovecot",
        sandbox_key="",
        endpoints=(),
        labels={NETWORKS_LABEL: "198.51.100.0/24"},
    )
    site = past_set_up("198.51.100.0/24", guest)
    site.run()
    assert "198.51.100.0/24 192.0.2.1" in site.routes(EVERYTHING)
    del site.kernel.commands[:]
    site.run(RESYNC)

    assert ran(site) == []
    assert [entry["container"] for entry in logged if entry["event"] == "entry.refused"] == [
        "dovecot"
    ]


def test_no_size_is_said_of_what_keeps_off_the_gateway() -> None:
    other = container("postfix", "192.0.2.8/24", label="198.51.100.0/24")
    site = past_set_up("198.51.100.0/24", other)
    site.kernel.tunnel(GATEWAY.sandbox_key, "198.51.100.0/24", 1280)
    site.run()

    assert f"route replace {PAST}" in ran(site)
    assert "route replace 198.51.100.0/24 via 192.0.2.1 mtu 1280" in ran(site)


# --- who has left the network -------------------------------------------------------------------

LEFT = EVERYTHING._replace(endpoints=(FRONT,))


def leave_network(site: Site, one: Container = LEFT) -> Report:
    """Let the engine take a client's link to the network away."""
    for up in (False, True):  # By that one, routes are gone; others are on another one.
        site.kernel.set_link(one.sandbox_key, up=up)
    site.kernel.give(one.sandbox_key, ENGINES_DEFAULT)
    site.change(one)
    del site.kernel.commands[:]
    return site.on("disconnect", one)


def test_who_has_left_the_network_keeps_its_guard_which_is_told_once(
    logged: list[dict[str, Any]],
) -> None:
    site = set_up()
    site.run()
    del logged[:]
    leave_network(site)
    site.run(RESYNC)
    site.drive(10)

    assert (ran(site), ours(site)) == ([], ALL[1:])
    (said,) = (entry for entry in logged if entry["event"] == "entry.warned")
    reason = "is unreachable: the container has left wg-net"
    assert (said["container"], said["entry"], said["reason"]) == ("dovecot", "0.0.0.0/0", reason)
    assert said["hint"] == "docker network connect wg-net dovecot"

    site.change(EVERYTHING)
    site.on("connect", EVERYTHING)
    assert ran(site) == [f"route replace {VIA}"]
    leave_network(site)
    assert [entry.get("reason") for entry in logged].count(reason) == 2


def test_what_led_there_is_taken_back_if_it_is_still_there() -> None:
    site = set_up()
    site.run()
    site.change(LEFT)
    del site.kernel.commands[:]
    site.on("disconnect", LEFT)

    assert (ran(site), ours(site)) == ([f"route del {VIA}"], ALL[1:])


def test_who_has_left_is_known_to_a_new_daemon_too() -> None:
    site = Site(LEFT)
    site.kernel.give(LEFT.sandbox_key, *policy.needs([policy.guard(ip_network("0.0.0.0/0"))])[:2])
    site.run()
    site.run(RESYNC)

    assert ran(site) == [f"rule add {TABLE_RULE}"]
    assert ours(site) == ALL[1:]
    site.change(LEFT._replace(labels={NETWORKS_LABEL: ""}))
    site.on("die", LEFT)
    assert ours(site) == []


@pytest.mark.parametrize(
    "things",
    [
        pytest.param((), id="who was never there"),
        pytest.param(
            policy.needs([Route(ip_network("0.0.0.0/0"), ip_address("10.5.0.1"), 0, table=TABLE)]),
            id="whom another gateway serves",
        ),
    ],
)
def test_nothing_is_touched_of(things: tuple[Any, ...], logged: list[dict[str, Any]]) -> None:
    site = Site(LEFT)
    site.kernel.give(LEFT.sandbox_key, *things)
    site.run()

    assert (ran(site), set(ours(site))) == ([], {iproute.text(thing) for thing in things})
    assert "entry.warned" not in names(logged)


@pytest.mark.parametrize("withdraws", [True, False])
def test_who_comes_to_another_gateway_is_left_to_that(*, withdraws: bool) -> None:
    """Guard and rules are that one's by now, and like ours."""
    site = set_up()
    site.run()
    other = Route(ip_network("0.0.0.0/0"), ip_address("10.5.0.1"), 0, table=TABLE)
    site.kernel.set_link(LEFT.sandbox_key, up=False)
    site.kernel.give(LEFT.sandbox_key, other)
    site.change(LEFT)
    del site.kernel.commands[:]
    report = site.on("disconnect", LEFT)
    site.run(RESYNC)
    leave(site, withdraws=withdraws)

    assert (ran(site), report.unfinished) == ([], ())
    assert set(ours(site)) == {iproute.text(other), *ALL[1:]}


def test_a_wide_network_that_held_the_one_that_was_left_is_kept_too() -> None:
    labels = {NETWORKS_LABEL: "192.0.0.0/16,10.8.0.0/16"}
    site = set_up(EVERYTHING._replace(labels=labels))
    site.run()
    leave_network(site, LEFT._replace(labels=labels))

    assert ran(site) == []
    assert ours(site) == [
        "unreachable 192.0.0.0/16 metric 4000 table 671",
        MAIN_RULE,
        TABLE_RULE,
    ]


def test_who_has_left_while_the_gateway_is_lost_keeps_its_guard() -> None:
    labels = {NETWORKS_LABEL: "192.0.0.0/16"}
    one = EVERYTHING._replace(labels=labels)
    site = set_up(one)
    site.run()
    site.change(GATEWAY._replace(running=False))
    site.on("die", GATEWAY)
    leave_network(site, LEFT._replace(labels=labels))

    assert ours(site) == [
        "unreachable 192.0.0.0/16 metric 4000 table 671",
        MAIN_RULE,
        TABLE_RULE,
    ]


def test_what_keeps_off_the_gateway_stays_for_who_has_left() -> None:
    site = past_set_up()
    site.run()
    leave_network(site, site.engine.known[1]._replace(endpoints=(FRONT,)))

    assert set(ours(site)) == {GUARD, f"{PAST} table 671", FROM, MAIN_RULE, TABLE_RULE}


def test_what_fails_for_who_has_left_is_told_once(logged: list[dict[str, Any]]) -> None:
    site = Site(LEFT)
    site.kernel.give(LEFT.sandbox_key, policy.guard(ip_network("0.0.0.0/0")))
    site.kernel.fail(LEFT.sandbox_key, DENIED, only="rule add")
    site.run()
    site.drive(30)

    assert len([entry for entry in logged if entry["event"] == "rule.failed"]) == 1


# --- who starts while the gateway is lost -------------------------------------------------------


def test_what_proved_the_namespace_is_taken_back_and_the_rest_is_as_it_should_be() -> None:
    site = Site()
    site.run()
    site.change(GATEWAY._replace(running=False))
    site.on("die", GATEWAY)
    one = starting(site)
    everything = EVERYTHING._replace(id=one.id)
    lost = Route(ip_network("0.0.0.0/0"), None, 0, "unreachable", TABLE)
    beside = (policy.proof(4), *policy.needs([lost])[1:])
    site.kernel.give(one.sandbox_key, lost, *beside)
    client = Client(one.name, one.id, one.sandbox_key, (lost,))
    site.reconciler.take_early(EarlyClient(client, complete=True, beside=beside))
    site.change(everything)
    del site.kernel.commands[:]
    report = site.on("start", everything)

    assert ran(site) == ["route del 192.0.2.255/32 table 671"]
    assert report.unfinished == ()
    assert ours(site, one) == ["unreachable default table 671", *ALL[1:]]


# --- a kernel without IPv6 ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "gateway", "commands"),
    [
        pytest.param("0.0.0.0/0,::/0", GATEWAY, 4, id="everything"),
        pytest.param("0.0.0.0/0,::/0", container("wireguard", "192.0.2.1/24"), 4, id="IPv4 alone"),
        pytest.param("::/0", GATEWAY, 0, id="nothing else"),
    ],
)
def test_without_ipv6_it_is_refused_once_and_nothing_fails(
    label: str, gateway: Container, commands: int, logged: list[dict[str, Any]]
) -> None:
    one = EVERYTHING._replace(labels={NETWORKS_LABEL: label})
    site = Site(one, gateway=gateway)
    site.kernel.boot_without_ipv6(one.sandbox_key)
    site.run()
    site.drive(120)
    site.run(RESYNC)

    assert (len(ran(site)), [line for line in ran(site) if "-6" in line]) == (commands, [])
    refused = [entry for entry in logged if entry["event"] == "entry.refused"]
    assert [(entry["entry"], entry["reason"]) for entry in refused] == [
        ("::/0", "is IPv6, and this kernel has no policy rules for IPv6")
    ]
    assert site.reports[-1].unfinished == ()


def test_nor_does_what_a_lost_gateway_makes_unreachable(logged: list[dict[str, Any]]) -> None:
    one = CLIENT._replace(labels={NETWORKS_LABEL: BOTH})
    site = Site(one)
    site.kernel.boot_without_ipv6(one.sandbox_key)
    site.change(GATEWAY._replace(running=False))
    site.run()
    site.drive(120)

    assert ran(site) == ["route replace unreachable 10.8.0.0/16"]
    refused = [entry["entry"] for entry in logged if entry["event"] == "entry.refused"]
    assert refused == ["fd00:8::/64"]


def test_the_fake_kernel_answers_as_such_a_kernel_does() -> None:
    site = Site(CLIENT)
    site.kernel.boot_without_ipv6(CLIENT.sandbox_key)
    enter = f"nsenter --net={CLIENT.sandbox_key} ip -6"
    outcomes: list[Outcome] = []

    def conversation() -> Conversation:
        outcomes.extend(
            (
                yield [
                    f"{enter} rule add {TABLE_RULE}",
                    f"{enter} route replace unreachable default metric 4000 table 671",
                ]
            )
        )

    site.kernel.serve([conversation()])

    assert [(one.exit_code, one.output.partition(": ")[2]) for one in outcomes] == [
        (2, "RTNETLINK answers: Address family not supported by protocol"),
        (2, "RTNETLINK answers: Operation not supported"),
    ]
