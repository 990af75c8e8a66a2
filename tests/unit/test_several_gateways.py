"""Several gateways on one network: what each sidecar sets, and leaves, in one client."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from lib.model import (
    DIRECT_LABEL,
    NETWORK_LABEL,
    NETWORKS_LABEL,
    PREFER_LABEL,
    ROLE_LABEL,
    TABLE,
    Container,
    DockerNetwork,
    Endpoint,
    Event,
    Published,
    Route,
    Rule,
    Sidecar,
)
from lib.reconcile.reconciler import Reconciler
from lib.reconcile.report import Scope
from lib.routing import policy, tunnels
from lib.routing.contest import HOLD_SECONDS
from lib.schedule import Schedule
from lib.settings import Settings
from tests.unit.test_reconciler import GATEWAY, OTHER, RESYNC, Site, container, names, peer

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B = "another", "wireguard"
"""The gateways at .2 and .1: what names none is for the first by name."""

X, Y = "10.8.0.0/16", "10.9.0.0/16"
ROLE = {ROLE_LABEL: "sidecar", NETWORK_LABEL: "wg-net"}
LAB = Endpoint("lab", "n7", (ip_interface("10.7.0.7/24"),))
FRONT = Endpoint("front", "n9", (ip_interface("10.5.0.7/24"),))


def asking(name: str = "dovecot", address: str = "192.0.2.7/24", **texts: str) -> Container:
    """Return a client that asks gateways by name, and by `any` without one."""
    labels = {"any": NETWORKS_LABEL, "prefer": PREFER_LABEL, "direct": DIRECT_LABEL}
    keys = {key: labels.get(key, f"{NETWORKS_LABEL}.{key}") for key in texts}
    return container(name, address, labels={keys[key]: text for key, text in texts.items()})


def on_both(client: Container) -> Container:
    """Return it on the other network, too."""
    return client._replace(endpoints=(*client.endpoints, LAB))


class Both(Site):
    """Two sidecars on one engine, each of which does what is due as its daemon would."""

    def __init__(self, *clients: Container) -> None:
        service = GATEWAY._replace(labels={"com.docker.compose.service": "home"}, started_at=100.0)
        alias = OTHER.endpoints[0]._replace(aliases=("work",))
        other = OTHER._replace(endpoints=(alias,), started_at=100.0)
        super().__init__(*clients, other, gateway=service)
        self.gateways = {A: other, B: service}
        for dst in tunnels.EVERYTHING:
            self.kernel.tunnel(other.sandbox_key, str(dst))
        self.change(peer("a-sidecar", A), peer("b-sidecar", B))
        self.sides = {A: self.started(Settings(gateway=A, network="wg-net")), B: self.reconciler}
        self.schedules = {name: Schedule(60) for name in self.sides}
        self.both(Scope("startup", is_full=True))

    def started(self, settings: Settings) -> Reconciler:
        """Return one that knows nothing yet."""
        return Reconciler(
            self.kernel,
            settings,
            lambda _: 0.5,
            clock=lambda: self.now,
            time_of_day=lambda: self.now,
        )

    def restart(self, name: str) -> None:
        """Have one forget all."""
        self.sides[name] = self.started(Settings(gateway=name, network="wg-net"))
        self.run_side(name, Scope("startup", is_full=True))

    def both(self, scope: Scope) -> None:
        """Let both run a pass, and again what each has left to do."""
        for name in self.sides:
            self.run_side(name, scope)

    def run_side(self, name: str, scope: Scope) -> None:
        """Let one run a pass."""
        report = self.sides[name].run(self.engine, scope)  # type: ignore[arg-type]
        self.schedules[name].finish(report, self.now)

    def heard(self, action: str, one: Container) -> None:
        """Let both hear of a gateway."""
        event = Event(action, one.id, labels=one.labels)
        for name, side in self.sides.items():
            assert side.concerns(event)
            assert side.is_urgent(event)
            ended = {one.id: one.started_at + 1} if action == "die" else {}
            self.run_side(name, Scope(action, frozenset({one.id}), ended=ended))

    def lose(self, name: str) -> None:
        self.gateways[name] = self.gateways[name]._replace(running=False)
        self.change(self.gateways[name])
        self.heard("die", self.gateways[name])

    def come_back(self, name: str) -> None:
        self.gateways[name] = self.gateways[name]._replace(running=True, started_at=self.now)
        self.change(self.gateways[name])
        self.heard("start", self.gateways[name])

    def pass_on(self, seconds: float) -> None:
        """Let each do what is due."""
        until = self.now + seconds
        while (at := min(one.next_at() for one in self.schedules.values())) <= until:
            self.now = max(self.now, at)
            for name, schedule in self.schedules.items():
                if scope := schedule.take(self.now):
                    self.run_side(name, scope)
        self.now = until

    def rules(self, one: Container) -> list[Rule]:
        found = self.kernel.read(one.sandbox_key, rules=True).rules
        return sorted(found, key=lambda rule: rule.pref)

    @property
    def lines(self) -> list[str]:
        """Return what ran since this was asked last."""
        lines = [line.partition(" ip ")[2] for line in self.kernel.commands]
        del self.kernel.commands[:]
        return lines


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as entries:
        yield cast("list[dict[str, Any]]", entries)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param({"any": X}, [f"{X} 192.0.2.2"], id="no name: the first by name"),
        pytest.param({B: X}, [f"{X} 192.0.2.1"], id="a name"),
        pytest.param({"home": X}, [f"{X} 192.0.2.1"], id="a service"),
        pytest.param({"work": X}, [f"{X} 192.0.2.2"], id="an alias"),
        pytest.param({"any": X, B: Y}, [f"{X} 192.0.2.2", f"{Y} 192.0.2.1"], id="each its own"),
        pytest.param(
            {A: X, B: f"{X}, {Y}"}, [f"{X} 192.0.2.2", f"{Y} 192.0.2.1"], id="a substitute"
        ),
        pytest.param({A: X, B: X, "prefer": f"{B}, {A}"}, [f"{X} 192.0.2.1"], id="preferred"),
        pytest.param({"nobody": X}, [], id="nobody"),
    ],
)
def test_each_sets_its_own_and_nothing_of_the_other(
    labels: dict[str, str], expected: list[str]
) -> None:
    client = asking(**labels)
    site = Both(client)
    assert site.routes(client) == expected
    assert len(site.lines) == len(expected)

    for _ in range(3):
        site.both(RESYNC)
    assert site.lines == []


def test_what_concerns_both_is_told_once(logged: list[dict[str, Any]]) -> None:
    site = Both(asking(nobody=X))
    site.both(RESYNC)

    (refused,) = (entry for entry in logged if entry["event"] == "entry.refused")
    assert (refused["entry"], refused["reason"]) == (
        "wgroutemgr.networks.nobody",
        "names a gateway to which none with a sidecar on this engine answers",
    )
    assert refused["hint"] == "write one of another, wireguard, or start that one's sidecar"


def test_what_is_wrong_about_what_keeps_off_is_told_once(logged: list[dict[str, Any]]) -> None:
    Both(asking(**{A: X, B: Y, "direct": "203.0.113.0/24"}))

    refused = [entry["entry"] for entry in logged if entry["event"] == "entry.refused"]
    assert refused == ["203.0.113.0/24"]


def test_two_defaults_are_refused_by_name(logged: list[dict[str, Any]]) -> None:
    client = asking(**{A: "0.0.0.0/0", B: "0.0.0.0/0"})
    site = Both(client)

    assert "0.0.0.0/0 192.0.2.2" in site.routes(client)
    refused = [entry for entry in logged if entry["event"] == "entry.refused"]
    reason = "stands in wgroutemgr.networks.wireguard, but goes through another"
    assert [(one["entry"], one["reason"]) for one in refused] == [
        ("0.0.0.0/0", f"{reason}: there is one default route")
    ]


def test_our_table_belongs_to_both() -> None:
    wide = "10.0.0.0/8"
    client = asking(**{A: "0.0.0.0/0", B: wide})
    client = client._replace(endpoints=(*client.endpoints, FRONT))
    site = Both(client)
    site.both(RESYNC)
    there = [one for one in site.kernel.routes(client.sandbox_key) if one.table == TABLE]

    assert {str(one.dst): str(one.gateway) for one in there if one.gateway} == {
        "0.0.0.0/0": "192.0.2.2",
        wide: "192.0.2.1",
    }
    assert {str(one.dst) for one in there if one.is_guard} == {"0.0.0.0/0", wide}
    assert site.rules(client) == [*policy.rules(4)]
    del site.kernel.commands[:]
    site.both(RESYNC)
    assert site.lines == []


def test_who_stops_takes_back_its_own() -> None:
    wide = "10.0.0.0/8"
    client = asking(**{A: "0.0.0.0/0", B: wide})
    client = client._replace(endpoints=(*client.endpoints, FRONT))
    site = Both(client)
    site.both(RESYNC)
    site.sides[A].leave(withdraws=True)
    there = [one for one in site.kernel.routes(client.sandbox_key) if one.table == TABLE]

    assert {str(one.dst) for one in there} == {wide}
    assert site.rules(client) == [*policy.rules(4)]


def test_what_keeps_off_the_gateway_is_set_by_that_which_is_around_it() -> None:
    client = asking(**{A: "0.0.0.0/0", B: "10.0.0.0/8", "direct": "10.7.0.0/16, 198.51.100.0/24"})
    client = client._replace(endpoints=(*client.endpoints, FRONT))
    site = Both(client)
    default = Route(ip_network("0.0.0.0/0"), ip_address("192.0.2.254"), 0)
    site.kernel.give(client.sandbox_key, default)
    del site.kernel.commands[:]
    site.both(RESYNC)

    assert site.lines == [
        "route replace 198.51.100.0/24 via 192.0.2.254",
        "route replace 10.7.0.0/16 via 192.0.2.254",
    ]
    site.both(RESYNC)
    assert site.lines == []


def test_a_network_that_keeps_off_is_so_for_both() -> None:
    client = asking(**{A: X, B: Y, "direct": "front"})
    client = client._replace(endpoints=(*client.endpoints, FRONT))
    site = Both(client)
    past = policy.past(ip_address("10.5.0.7"))

    assert site.rules(client) == [past, *policy.rules(4)]
    site.sides[A].leave(withdraws=True)
    assert site.rules(client) == [past, *policy.rules(4)]
    assert f"{X} 192.0.2.2" not in site.routes(client)
    assert f"{Y} 192.0.2.1" in site.routes(client)


def test_a_substitute_takes_over_and_gives_back_after_a_while(
    logged: list[dict[str, Any]],
) -> None:
    client = asking(**{A: X, B: X})
    site = Both(client)
    assert site.lines == [f"route replace {X} via 192.0.2.2"]
    site.pass_on(100)

    site.lose(A)
    assert site.routes(client) == [f"{X} 192.0.2.1"]
    shut = f"route replace unreachable {X}"  # Before the engine tells of it.
    assert site.lines == [shut, f"route replace {X} via 192.0.2.1"]
    site.pass_on(100)
    assert site.lines == []

    del logged[:]
    site.come_back(A)
    site.pass_on(9)
    assert site.routes(client) == [f"{X} 192.0.2.1"]
    site.pass_on(2)
    assert site.routes(client) == [f"{X} 192.0.2.2"]
    assert site.lines == [f"route replace {X} via 192.0.2.2"]
    site.pass_on(3600)
    assert site.lines == []
    assert names(logged) == ["gateway.ready", "route.replaced", "client.routed"]


def test_one_that_hears_of_a_loss_too_late_is_corrected() -> None:
    client = asking(**{A: X, B: X})
    site = Both(client)
    lost = site.gateways[A]._replace(running=False)
    site.change(lost)
    event, start = (
        Scope(what, frozenset({one.id})) for what, one in (("die", lost), ("start", client))
    )
    site.run_side(B, event)
    assert site.routes(client) == [f"{X} 192.0.2.1"]
    site.run_side(A, start)
    assert site.routes(client) == [f"{X} 192.0.2.2"]

    site.run_side(A, event)
    site.pass_on(2)
    assert site.routes(client) == [f"{X} 192.0.2.1"]
    del site.kernel.commands[:]
    site.pass_on(100)
    assert site.lines == []


def test_one_whose_substitute_was_faster_leaves_what_that_has_set() -> None:
    client = asking(**{A: X, B: X})
    site = Both(client)
    site.sides = dict(reversed(site.sides.items()))
    del site.kernel.commands[:]
    site.lose(A)

    assert site.lines == [f"route replace {X} via 192.0.2.1"]


def test_one_that_crashes_again_and_again_moves_it_once() -> None:
    client = asking(**{A: X, B: X})
    site = Both(client)
    for _ in range(20):
        site.lose(A)
        site.pass_on(2)
        site.come_back(A)
        site.pass_on(8)

    ways = (f"{X} via 192.0.2.2", f"unreachable {X}", f"{X} via 192.0.2.1")
    assert site.lines == [f"route replace {way}" for way in ways]


def test_without_a_substitute_what_is_lost_is_unreachable() -> None:
    client = asking(**{"any": X, B: Y})
    site = Both(client)
    site.lose(A)
    assert site.routes(client) == [f"{X} unreachable", f"{Y} 192.0.2.1"]

    site.lose(B)
    assert site.routes(client) == [f"{X} unreachable", f"{Y} unreachable"]
    site.come_back(A)
    assert site.routes(client) == [f"{X} 192.0.2.2", f"{Y} unreachable"]


def test_while_all_are_lost_it_is_the_firsts_to_say_so() -> None:
    client = asking(**{A: X, B: X})
    site = Both(client)
    site.lose(A)
    site.lose(B)
    assert site.routes(client) == [f"{X} unreachable"]

    site.come_back(B)
    assert site.routes(client) == [f"{X} 192.0.2.1"]


def test_a_substitute_serves_also_if_the_first_is_gone_with_its_sidecar() -> None:
    client = asking(**{A: X, B: X})
    site = Both(client)
    del site.sides[A], site.schedules[A]
    sidecar = next(one for one in site.engine.known if one.name == "a-sidecar")
    site.remove(sidecar)
    site.heard("die", sidecar)
    assert site.routes(client) == [f"{X} 192.0.2.2"]

    site.remove(site.gateways[A])
    site.heard("destroy", site.gateways[A])
    assert site.routes(client) == [f"{X} 192.0.2.1"]


class Joined(Both):
    """Each sidecar joined its gateway, whose id is all that the engine tells of that."""

    def __init__(self, *clients: Container) -> None:
        super().__init__(*clients)
        for name, what in ((A, "a-sidecar"), (B, "b-sidecar")):
            gateway = self.gateways[name]
            sidecar = peer(what, "", network_mode=f"container:{gateway.id}", labels=ROLE)
            self.change(sidecar)
            place = Sidecar(gateway, sidecar, "wg-net")
            self.sides[name] = self.started(Settings(published=Published({}, {}, place)))
        self.both(RESYNC)
        self.pass_on(100)

    def renew(self, name: str) -> None:
        """Make a gateway anew, as an updater does."""
        old = self.gateways[name]
        self.remove(old)
        self.heard("destroy", old)
        self.gateways[name] = old._replace(id=f"{name}-new-id", started_at=self.now)
        self.change(self.gateways[name])
        self.both(RESYNC)


Z = "10.11.0.0/16"


def test_a_sidecar_whose_gateway_was_made_anew_serves_what_no_other_does(
    logged: list[dict[str, Any]],
) -> None:
    client = asking(**{A: f"{X}, {Y}", B: X, "any": Z})
    site = Joined(client)
    del logged[:]
    site.remove(site.gateways[A])
    site.heard("destroy", site.gateways[A])
    assert site.routes(client) == [f"{Z} unreachable", f"{X} 192.0.2.1", f"{Y} unreachable"]

    site.renew(A)
    assert site.routes(client) == [f"{Z} 192.0.2.2", f"{X} 192.0.2.1", f"{Y} 192.0.2.2"]
    site.pass_on(20)
    served = [f"{Z} 192.0.2.1", f"{X} 192.0.2.1", f"{Y} 192.0.2.2"]
    assert site.routes(client) == served
    contested = [one["reason"] for one in logged if one["event"] == "gateway.contested"]
    reason = f"clients are served by the gateway {B}, by name the first of those on this network"
    assert contested == [reason]
    assert "entry.refused" not in names(logged)
    del site.kernel.commands[:]
    site.restart(B)
    site.pass_on(100)
    assert site.routes(client) == served
    assert site.lines == []


def test_sidecars_whose_gateways_were_all_made_anew_are_not_at_odds(
    logged: list[dict[str, Any]],
) -> None:
    client = asking(**{A: f"{X}, {Y}", B: f"{X}, 10.12.0.0/16", "any": Z})
    site = Joined(client)
    site.renew(A)
    site.renew(B)
    site.pass_on(20)
    assert site.routes(client) == [
        f"{Z} 192.0.2.2",
        "10.12.0.0/16 192.0.2.1",
        f"{X} 192.0.2.2",
        f"{Y} 192.0.2.2",
    ]
    contested = [one["reason"] for one in logged if one["event"] == "gateway.contested"]
    served = "clients are served by that of the sidecar a-sidecar"
    assert contested[-1] == f"{served}, by name the first of those on this network"
    assert "entry.refused" not in names(logged)
    del site.kernel.commands[:]
    site.pass_on(300)
    assert site.lines == []


def test_two_in_one_namespace_that_ask_different_gateways_for_the_same() -> None:
    first = asking("dovecot", **{A: X})
    second = asking("postfix", **{B: f"{X}, {Y}"})
    second = second._replace(network_mode="container:dovecot-id", endpoints=(), sandbox_key="")
    site = Both(first, second)
    site.both(RESYNC)

    assert site.routes(first) == [f"{X} 192.0.2.2", f"{Y} 192.0.2.1"]
    del site.kernel.commands[:]
    site.both(RESYNC)
    assert site.lines == []


@pytest.mark.parametrize("dst", [X, "10.0.0.0/8"])
def test_one_that_asks_nobody_keeps_nothing_from_who_shares_its_namespace(dst: str) -> None:
    first = asking("dovecot", nobody=dst)._replace(endpoints=(*asking().endpoints, FRONT))
    second = asking("postfix", **{B: dst})
    second = second._replace(network_mode="container:dovecot-id", endpoints=(), sandbox_key="")
    site = Both(first, second)
    site.both(RESYNC)

    assert f"{dst} 192.0.2.1" in site.routes(first)
    del site.kernel.commands[:]
    site.both(RESYNC)
    assert site.lines == []


class Apart(Both):
    """The first gateway is on a network of its own, which its sidecar serves."""

    def __init__(self, *clients: Container) -> None:
        super().__init__()
        point = LAB._replace(interfaces=(ip_interface("10.7.0.2/24"),))
        self.gateways[A] = OTHER._replace(endpoints=(point,), started_at=100.0)
        sidecar = peer("a-sidecar", A, arguments=("--network", "lab"))
        self.change(self.gateways[A], sidecar, *clients)
        for one in clients:
            self.add(one)
        lab = DockerNetwork("n7", "lab", (ip_network("10.7.0.0/24"),), {})
        self.engine.on = (*self.engine.on, lab)
        self.sides[A] = self.started(Settings(gateway=A, network="lab"))
        for _ in range(2):
            self.now += HOLD_SECONDS  # For which its former place is held.
            self.both(RESYNC)


def test_gateways_on_two_networks_are_at_odds_over_nothing(logged: list[dict[str, Any]]) -> None:
    client = on_both(asking(**{A: X, B: f"{X}, {Y}"}))
    site = Apart(client)
    assert site.routes(client) == [f"{X} 10.7.0.2", f"{Y} 192.0.2.1"]
    del site.kernel.commands[:]
    site.both(RESYNC)
    assert site.lines == []

    site.lose(A)
    assert site.routes(client) == [f"{X} 192.0.2.1", f"{Y} 192.0.2.1"]
    site.come_back(A)
    site.pass_on(11)
    assert site.routes(client) == [f"{X} 10.7.0.2", f"{Y} 192.0.2.1"]
    assert not [entry for entry in logged if entry["event"] == "entry.refused"]


def test_who_names_none_of_two_on_two_networks_is_for_the_first_by_name() -> None:
    both, one = on_both(asking("both", any=X)), asking("one", "192.0.2.8/24", any=X)
    site = Apart(both, one)
    assert site.routes(both) == [f"{X} 10.7.0.2"]
    assert site.routes(one) == [f"{X} 192.0.2.1"]
    del site.kernel.commands[:]
    site.both(RESYNC)
    assert site.lines == []

    site.lose(A)
    assert site.routes(both) == [f"{X} unreachable"]
    assert site.routes(one) == [f"{X} 192.0.2.1"]
    del site.kernel.commands[:]
    site.pass_on(100)
    assert site.lines == []


def test_a_gateway_on_a_network_that_the_client_is_not_on_answers_to_nothing(
    logged: list[dict[str, Any]],
) -> None:
    client = asking(**{A: X, B: f"{X}, {Y}"})
    site = Apart(client)

    assert site.routes(client) == [f"{X} 192.0.2.1", f"{Y} 192.0.2.1"]
    refused = [entry["entry"] for entry in logged if entry["event"] == "entry.refused"]
    assert refused == [f"{NETWORKS_LABEL}.{A}"]


class Twice(Both):
    """One gateway on two networks, with a sidecar for each."""

    def __init__(self, *clients: Container) -> None:
        super().__init__()
        lab = LAB._replace(interfaces=(ip_interface("10.7.0.2/24"),))
        gateway = self.gateways[B]
        self.gateways[B] = gateway._replace(endpoints=(*gateway.endpoints, lab))
        self.remove(self.gateways.pop(A))
        sidecars = [peer("a-sidecar", B, arguments=("--network", "n7")), peer("b-sidecar", B)]
        self.change(self.gateways[B], *sidecars, *clients)
        self.kernel.attach(gateway.sandbox_key, "10.7.0.2/24")
        for one in clients:
            self.add(one)
        networks = DockerNetwork("n7", "lab", (ip_network("10.7.0.0/24"),), {})
        self.engine.on = (*self.engine.on, networks)
        for side, network in ((A, "n7"), (B, "wg-net")):
            self.sides[side] = self.started(Settings(gateway=B, network=network))
        self.both(RESYNC)


def test_who_is_on_two_networks_of_one_gateway_is_served_on_the_first_by_name() -> None:
    client, other = on_both(asking(any=X, **{B: Y})), asking("other", "192.0.2.8/24", any=X)
    site = Twice(client, other)
    assert site.routes(client) == [f"{X} 10.7.0.2", f"{Y} 10.7.0.2"]
    assert site.routes(other) == [f"{X} 192.0.2.1"]
    del site.kernel.commands[:]
    site.pass_on(100)
    assert site.lines == []

    sidecar = next(one for one in site.engine.known if one.name == "a-sidecar")
    del site.sides[A], site.schedules[A]
    site.remove(sidecar)
    site.both(RESYNC)
    site.pass_on(9)
    assert site.lines == []
    site.pass_on(2)
    assert site.routes(client) == [f"{X} 192.0.2.1", f"{Y} 192.0.2.1"]
