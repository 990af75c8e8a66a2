"""A gateway that is no container of this engine: never lost, and nobody looks into it."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from lib import state
from lib.doctor import network, path, report, setup
from lib.engine import gateways, outside, peers, sidecar
from lib.errors import CallError, NotReadyError
from lib.model import (
    GATEWAY_LABEL,
    NETWORK_LABEL,
    NETWORKS_LABEL,
    Claim,
    DockerNetwork,
    Finding,
    Gateway,
    Sidecar,
)
from lib.reconcile.look import look
from lib.reconcile.reconciler import Reconciler
from lib.reconcile.report import Found, Unknown
from lib.settings import Settings
from tests.fakes import OTHER, WG_NET, StandInEngine
from tests.unit.test_doctor import DST, Place, container, place
from tests.unit.test_reconciler import RESYNC, Kernel, peer
from tests.unit.test_reconciler import container as client_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lib.engine.client import Engine
    from lib.model import Address, Container

__all__ = ["place"]

ROUTER, ROUTER6 = "192.0.2.200", "fd::200"
BOTH = f"{ROUTER}, {ROUTER6}"
HINT = "write one, such as 192.0.2.1 or 192.0.2.1,2001:db8::1"
NAME_IT = "name the network with --network if it is another one"


def addresses(*texts: str) -> tuple[Address, ...]:
    return tuple(map(ip_address, texts))


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as entries:
        yield cast("list[dict[str, Any]]", entries)


# --- how it is named ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ROUTER, [ROUTER]),
        (ROUTER6, [ROUTER6]),
        (BOTH, [ROUTER, ROUTER6]),
        (f"{ROUTER6},{ROUTER}", [ROUTER, ROUTER6]),
        (f" {ROUTER} ,", [ROUTER]),
        ("wireguard", []),
        ("192.0.2", []),
        ("", []),
    ],
)
def test_addresses_are_told_from_names(text: str, expected: list[str]) -> None:
    assert outside.addresses(text, "--gateway") == addresses(*expected)


@pytest.mark.parametrize(
    "text", [f"{ROUTER}, wireguard", f"{ROUTER}, 192.0.2.201", f"{BOTH}, fd::1", f"{ROUTER}, fd:"]
)
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(NotReadyError) as caught:
        outside.addresses(text, "--gateway")

    reason = f"{text}, named by --gateway, is not one address of each IP version"
    assert (caught.value.reason, caught.value.hint) == (reason, HINT)


LAN = DockerNetwork("n3", "lan", (ip_network("192.0.2.128/25"),), {})


def engine(*on: DockerNetwork, known: Sequence[Container] = ()) -> Engine:
    return cast("Engine", StandInEngine(tuple(known), on=on))


@pytest.mark.parametrize(
    ("on", "found", "chosen", "expected"),
    [
        pytest.param([WG_NET], [ROUTER], "lan", "lan", id="chosen, be it there or not"),
        pytest.param([OTHER, LAN], [ROUTER], "", "lan", id="the one that holds it"),
        pytest.param([LAN, WG_NET], [ROUTER], "", "wg-net", id="the usual one of several"),
        pytest.param([LAN, WG_NET], [ROUTER, ROUTER6], "", "wg-net", id="that which holds both"),
    ],
)
def test_which_network_it_is_on(
    on: list[DockerNetwork], found: list[str], chosen: str, expected: str
) -> None:
    assert outside.network_of(engine(*on), addresses(*found), chosen) == expected


@pytest.mark.parametrize(
    ("on", "reason"),
    [
        ([OTHER], f"no network of this engine holds the gateway {ROUTER}"),
        (
            [LAN, LAN._replace(id="n4", name="also")],
            f"several networks hold the gateway {ROUTER}: also, lan",
        ),
    ],
)
def test_where_that_is_not_clear_it_is_refused(on: list[DockerNetwork], reason: str) -> None:
    with pytest.raises(NotReadyError) as caught:
        outside.network_of(engine(*on), addresses(ROUTER), "")

    assert (caught.value.reason, caught.value.hint) == (reason, NAME_IT)


def test_where_networks_are_not_listed_one_has_to_be_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object) -> None:
        reason = "the engine refused: forbidden"
        raise CallError(reason)

    monkeypatch.setattr(StandInEngine, "networks", refuse)
    with pytest.raises(NotReadyError, match="is not known: the engine refused: forbidden"):
        outside.network_of(engine(WG_NET), addresses(ROUTER), "")


FOUND = Gateway(
    ROUTER, "", "wg-net", "n1", addresses(ROUTER, ROUTER6), may_tunnel=False, is_outside=True
)


def test_what_is_known_of_it() -> None:
    assert outside.gateway(engine(WG_NET), addresses(ROUTER, ROUTER6), "wg-net") == FOUND


def test_it_must_be_inside_the_network() -> None:
    with pytest.raises(NotReadyError) as caught:
        outside.gateway(engine(WG_NET), addresses("198.51.100.1", ROUTER6), "wg-net")

    reason = "the gateway 198.51.100.1 is in no subnet of wg-net (192.0.2.0/24, fd::/64)"
    assert (caught.value.reason, caught.value.hint) == (reason, NAME_IT)
    with pytest.raises(NotReadyError, match="there is no network gone"):
        outside.gateway(engine(WG_NET), addresses(ROUTER), "gone")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Return the id of our own container, which has a network of its own."""
    own = "0123456789abcdef" * 4
    (tmp_path / "cgroup").write_text(f"0::/docker/{own}\n")
    (tmp_path / "mountinfo").write_text("")
    monkeypatch.setattr(sidecar, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(sidecar, "MOUNTINFO", tmp_path / "mountinfo")
    return own


@pytest.mark.parametrize(
    ("labels", "settings", "by", "expected"),
    [
        pytest.param({}, {"gateway": BOTH}, "--gateway", "wg-net", id="by option or variable"),
        pytest.param(
            {GATEWAY_LABEL: BOTH}, {}, f"the label {GATEWAY_LABEL}", "wg-net", id="by label"
        ),
        pytest.param(
            {NETWORK_LABEL: "lan6"}, {"gateway": BOTH}, "--gateway", "lan6", id="on another network"
        ),
    ],
)
def test_the_sidecar_knows_it(
    nowhere: str, labels: dict[str, str], settings: dict[str, str], by: str, expected: str
) -> None:
    own = client_of("sidecar", id=nowhere, labels=labels, network_mode="none", endpoints=())
    lan6 = WG_NET._replace(id="n6", name="lan6")
    there = engine(WG_NET, lan6, OTHER, known=(own,))
    for found in (
        sidecar.find(there, Settings(**settings)),  # type: ignore[arg-type]
        sidecar.locate(there, Settings(**settings)),  # type: ignore[arg-type]
    ):
        assert (found.gateway.name, found.named_by, found.network) == (ROUTER, by, expected)
        assert found.addresses == addresses(ROUTER, ROUTER6)


@pytest.mark.parametrize("names", ["other, wg-net", "wg-net, other", "gone, wg-net"])
def test_of_several_networks_the_others_wait(nowhere: str, names: str) -> None:
    own = client_of("sidecar", id=nowhere, network_mode="none", endpoints=())
    found = sidecar.find(engine(WG_NET, OTHER, known=(own,)), Settings(gateway=BOTH, network=names))

    assert found.networks == tuple(names.split(", "))
    assert (found.gateway.name, found.addresses) == (ROUTER, addresses(ROUTER, ROUTER6))
    with pytest.raises(NotReadyError, match="there is no network gone"):
        sidecar.find(engine(OTHER, known=(own,)), Settings(gateway=BOTH, network="gone,other"))


def test_the_commands_beside_a_daemon_know_it_too(nowhere: str, tmp_path: Path) -> None:
    own = client_of("sidecar", id=nowhere, network_mode="none", endpoints=())
    there = engine(WG_NET, known=(own,))
    place = sidecar.locate(there, Settings(gateway=BOTH))
    state.State(Settings(), {}, tmp_path / "state").publish(place)
    published = state.read(tmp_path / "state")

    found = sidecar.find(there, Settings(published=published))
    assert (found.gateway.name, found.addresses) == (ROUTER, addresses(ROUTER, ROUTER6))
    other = Settings(published=published, gateway="192.0.2.201")
    with structlog.testing.capture_logs() as logged:
        assert sidecar.find(there, other).addresses == addresses("192.0.2.201")
    assert [one["reason"] for one in logged] == [f"the daemon of this container follows {ROUTER}"]


def test_a_command_may_follow_it_beside_the_daemon_of_a_service(
    nowhere: str, tmp_path: Path
) -> None:
    own = client_of("sidecar", id=nowhere, network_mode="none", endpoints=())
    task = Sidecar(gateways.standing_for("vpn"), own, "wg-net", "--gateway-service", "vpn")
    state.State(Settings(), {}, tmp_path / "state").publish(task)
    settings = Settings(published=state.read(tmp_path / "state"), gateway=ROUTER)
    with structlog.testing.capture_logs() as logged:
        found = sidecar.find(engine(WG_NET, known=(own,)), settings)

    assert (found.addresses, found.service) == (addresses(ROUTER), "")
    assert [one["reason"] for one in logged] == ["the daemon of this container follows vpn"]


# --- what is done with it -----------------------------------------------------------------------

HERE = client_of("dovecot", "192.0.2.7/24", "fd::7/64", label="10.8.0.0/16, fd00:8::/64")


class World:
    """A reconciler whose gateway is named by addresses."""

    def __init__(self, *known: Container, gateway: str = BOTH, **settings: Any) -> None:  # noqa: ANN401
        self.engine = StandInEngine(known, on=(WG_NET, OTHER))
        self.kernel = Kernel(width=1)
        for one in known:
            if one.sandbox_key:
                faces = [str(face) for point in one.endpoints for face in point.interfaces]
                self.kernel.add(one.sandbox_key, addresses=faces)
        self.announced: list[Gateway | None] = []
        self.settings = Settings(gateway=gateway, **settings)
        self.reconciler = Reconciler(
            self.kernel,
            self.settings,
            lambda _: 0.5,
            announce=lambda gateway, _: self.announced.append(gateway),
            news=lambda: None,
        )

    def run(self) -> Any:  # noqa: ANN401
        return self.reconciler.run(cast("Engine", self.engine), RESYNC)

    def routes(self, one: Container) -> list[str]:
        found = self.kernel.routes(one.sandbox_key)
        return sorted(f"{r.dst} {r.gateway or r.kind}" for r in found if r.kind != "connected")


LED = [f"10.8.0.0/16 {ROUTER}", f"fd00:8::/64 {ROUTER6}"]


@pytest.mark.usefixtures("nowhere")
def test_clients_are_led_there(logged: list[dict[str, Any]]) -> None:
    world = World(HERE)
    report = world.run()

    assert isinstance(report.gateway, Found)
    assert world.routes(HERE) == LED
    assert report.lost == {}
    told = [one for one in logged if one["event"] == "gateway.outside"]
    assert [(one["container"], one["network"]) for one in told] == [(ROUTER, "wg-net")]
    seen = world.announced[-1]
    assert seen
    assert (seen.addresses, seen.network_id) == (addresses(ROUTER, ROUTER6), "n1")
    del logged[:]
    assert world.run().changed == 0
    assert [one for one in logged if one["log_level"] != "debug"] == []


@pytest.mark.usefixtures("nowhere")
def test_everything_goes_there_without_a_look_at_a_tunnel() -> None:
    world = World(HERE._replace(labels={NETWORKS_LABEL: "0.0.0.0/0, ::/0"}))
    report = world.run()

    assert {f"0.0.0.0/0 {ROUTER}", f"::/0 {ROUTER6}"} <= {*world.routes(HERE)}
    assert report.lost == {}


@pytest.mark.usefixtures("nowhere")
def test_a_size_that_is_chosen_is_set() -> None:
    world = World(HERE, mtu="1400")
    world.run()

    assert {one.mtu for one in world.kernel.routes(HERE.sandbox_key) if one.gateway} == {1400}


@pytest.mark.usefixtures("nowhere")
def test_what_takes_a_look_at_it_is_refused_with_that_reason(logged: list[dict[str, Any]]) -> None:
    world = World(HERE._replace(labels={NETWORKS_LABEL: "auto, 10.8.0.0/16"}), gateway_guard="on")
    world.run()
    world.run()

    assert world.routes(HERE) == LED[:1]
    said = [
        (one["event"], one["reason"], one["hint"]) for one in logged if "refused" in one["event"]
    ]
    no_container = f"{ROUTER} is no container of this engine"
    firewall = "let its own firewall keep what is not for the tunnel from leaving"
    assert sorted(said) == [
        ("entry.refused", f"is not known: {no_container}", "name the networks instead of auto"),
        ("guard.refused", no_container, firewall),
    ]


@pytest.mark.usefixtures("nowhere")
def test_an_ip_version_of_which_it_has_no_address_is_refused(logged: list[dict[str, Any]]) -> None:
    world = World(HERE, gateway=ROUTER)
    world.run()

    assert world.routes(HERE) == LED[:1]
    (refused,) = (one for one in logged if one["event"] == "entry.refused")
    assert (refused["entry"], refused["hint"]) == (
        "fd00:8::/64",
        "name its IPv6 address too, after a comma, or remove the entry",
    )


@pytest.mark.usefixtures("nowhere")
def test_a_container_with_its_address_is_no_client() -> None:
    itself = client_of("router", f"{ROUTER}/24", label="10.8.0.0/16")
    world = World(HERE, itself)
    world.run()

    assert (world.routes(itself), world.routes(HERE)) == ([], LED)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("loss", ["unreachable", "keep"])
def test_it_is_never_lost(loss: str) -> None:
    world = World(HERE, on_gateway_loss=loss)
    world.run()
    world.engine.on = ()
    report = world.run()

    assert isinstance(report.gateway, Unknown)
    assert report.gateway.reason == "there is no network wg-net"
    assert world.routes(HERE) == LED


@pytest.mark.usefixtures("nowhere")
def test_until_its_network_is_known_nothing_is_done() -> None:
    world = World(HERE, gateway="198.51.100.1")
    report = world.run()

    assert isinstance(report.gateway, Unknown)
    assert report.gateway.reason == "no network of this engine holds the gateway 198.51.100.1"
    assert world.routes(HERE) == []


@pytest.mark.usefixtures("nowhere")
def test_an_ipvlan_is_a_network_like_any_other(logged: list[dict[str, Any]]) -> None:
    world = World(HERE)
    world.engine.on = (WG_NET._replace(driver="ipvlan"),)
    world.run()

    assert "network.warned" not in [one["event"] for one in logged]


@pytest.mark.usefixtures("nowhere")
def test_status_shows_it() -> None:
    world = World(HERE, gateway_guard="on")
    world.run()
    (found,) = look(cast("Engine", world.engine), world.kernel, world.settings)

    assert (found.gateway.container, found.lost, found.failures) == (ROUTER, None, [])
    assert [task for space in found.namespaces for task in space.tasks()] == []
    assert found.unguarded
    assert found.unguarded.reason == f"has no guard: {ROUTER} is no container of this engine"


# --- beside others ------------------------------------------------------------------------------

PEER = peer("its-sidecar", BOTH, network_mode="none")


def claims(*on: DockerNetwork, known: Sequence[Claim] = (), **values: Any) -> list[Claim]:  # noqa: ANN401
    one = PEER._replace(**values)
    there = engine(*on, known=(one,))
    return [*peers.claims(there, (one,), ("wg-net", "n1"), known)]


def test_another_sidecar_knows_that_it_is_there() -> None:
    (found,) = claims(WG_NET)

    assert (found.gateway, found.gateway_id, found.network) == (ROUTER, ROUTER, "")
    assert (found.names, found.up_since) == (frozenset({ROUTER6}), 0.0)
    assert found.addresses == frozenset(addresses(ROUTER, ROUTER6))
    assert peers.again(engine(), found, ("wg-net", "n1")) == found


def test_and_on_which_network() -> None:
    lan = WG_NET._replace(id="n6", name="lan")
    (found,) = claims(lan, labels={**PEER.labels, NETWORK_LABEL: ""})

    assert found.network == "lan"
    (unclear,) = claims()
    assert (unclear.gateway, unclear.untold, unclear.up_since) == (PEER.name, PEER.name, None)


@pytest.mark.usefixtures("nowhere")
def test_a_client_names_it_by_its_address() -> None:
    named = HERE._replace(labels={f"{NETWORKS_LABEL}.{ROUTER}": "10.8.0.0/16"})
    gateway = client_of("another", "192.0.2.2/24")
    world = World(named, gateway, peer("a-sidecar", "another"), PEER)
    world.run()

    assert world.routes(named) == LED[:1]


# --- the doctor ---------------------------------------------------------------------------------

NOBODY_SEES = f"{ROUTER} is no container of this engine: look at it there"


@pytest.fixture
def router(place: Place, nowhere: str) -> Place:
    """Return a site whose gateway is named by an address."""
    del nowhere
    place.settings = Settings(network="wg-net", gateway=ROUTER)
    place.client_says("ip neigh show", f"{ROUTER} dev eth0 lladdr 02:00:00:00:00:09 REACHABLE")
    place.client_says("ip route get 198.51.100.1", f"198.51.100.1 via {ROUTER} dev eth0")
    return place


def findings(place: Place, followed: str | None = None) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for name, finding in report.examine(place.site(followed)):
        found.setdefault(name, []).append(finding)
    return found


OF_NAMESPACE = ["forwarding", "rp_filter", "firewall", "tunnel", "nat", "back", "mtu", "commands"]


@pytest.mark.parametrize("followed", [None, "dovecot"])
def test_what_needs_its_namespace_is_skipped_with_that_reason(
    router: Place, followed: str | None
) -> None:
    found = findings(router, followed)

    for name in OF_NAMESPACE:
        assert found[name] == [Finding("skip", NOBODY_SEES)], name
    assert (
        found["gateway"][0].seen == f"{ROUTER}, named by --gateway, is no container of this engine"
    )
    assert {one.level for name in ("address", "network", "gateways") for one in found[name]} == {
        "ok"
    }
    of_the_machine = {"capabilities", "namespaces"}
    here = [each for name, each in found.items() if name not in of_the_machine]
    assert "fail" not in {one.level for each in here for one in each}


@pytest.mark.parametrize(
    ("said", "level", "words", "fixes"),
    [
        ("lladdr 02:00:00:00:00:09 STALE", "ok", "is 02:00:00:00:00:09, seen by dovecot", 0),
        ("FAILED", "fail", "does not answer dovecot", 2),
        ("INCOMPLETE", "fail", "does not answer dovecot", 2),
        ("", "ok", "nobody has asked for", 1),
    ],
)
def test_what_its_neighbours_know_of_it(
    router: Place, said: str, level: str, words: str, fixes: int
) -> None:
    router.client_says("ip neigh show", f"{ROUTER} dev eth0 {said}" if said else "")
    found = [*network.address(router.site())][-1]
    assert (found.level, words in found.seen, len(found.fix)) == (level, True, fixes)

    router.kernel.asked.clear()
    assert [*path.neighbour(router.site("dovecot"))] == [found]


def test_two_that_answer_for_it(router: Place, tmp_path: Path) -> None:
    other = container("postfix", "192.0.2.8/24", tmp_path / "other", labels={NETWORKS_LABEL: DST})
    router.others = (other,)
    say = f"nsenter --net={other.sandbox_key} ip neigh show"
    router.kernel.answers[say] = f"{ROUTER} dev eth0 lladdr 02:00:00:00:00:08 REACHABLE"
    found = [*network.address(router.site())][-1]

    assert (found.level, found.seen) == (
        "warn",
        f"{ROUTER} is 02:00:00:00:00:08, 02:00:00:00:00:09: more than one answers",
    )


def test_what_it_covers_nobody_knows(router: Place) -> None:
    router.client = router.client._replace(labels={NETWORKS_LABEL: f"auto, {DST}"})
    remarks = [one.seen for one in findings(router)["clients"] if one.level == "warn"]

    assert remarks == [
        f"dovecot: auto is not known: {ROUTER} is no container of this engine",
    ]


def test_a_container_is_better_named(router: Place) -> None:
    faces = {router.gateway.id: (ip_interface(f"{ROUTER}/24"),)}
    router.networks = (router.networks[0]._replace(interfaces=faces),)
    (found,) = setup.gateway(router.site())

    assert found == Finding(
        "warn",
        f"{ROUTER}, named by --gateway, is the container wireguard now",
        ("labels: {wgroutemgr.gateway: wireguard}",),
    )


def test_it_may_be_on_an_ipvlan(router: Place) -> None:
    router.networks = (router.networks[0]._replace(driver="ipvlan"),)
    (found,) = network.network(router.site())

    assert found.level == "warn"
    assert found.seen == "wg-net has the driver ipvlan, which nobody has tried"
