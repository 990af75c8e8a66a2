"""The daemon on a clock of its own: it never gives up, and never in a hurry."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest
import structlog

from lib.daemon import Daemon
from lib.engine import sidecar
from lib.errors import CallError, EngineError, StreamEndedError
from lib.health import Health, verdict
from lib.kernel.names import Reply
from lib.model import (
    NETWORKS_LABEL,
    SERVICE_LABEL,
    Client,
    Container,
    DockerNetwork,
    EarlyClient,
    Endpoint,
    Event,
    Route,
    Sidecar,
    Task,
)
from lib.reconcile.service import Question, Watch
from lib.settings import Settings
from tests.fake_kernel import FakeKernel
from tests.fakes import WG_NET, StandInEngine

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from lib.engine.client import Engine as RealEngine
    from lib.model import Coverage, Gateway, Network

DAY = 86_400.0
SECONDS = 5.0
"""That a thread may take, by the machine's clock."""
GATEWAY_PATH, CLIENT_PATH = "/run/docker/netns/aaaa", "/run/docker/netns/bbbb"
GATEWAY = Container(
    id="gw",
    name="wireguard",
    running=True,
    labels={},
    network_mode="wg-net",
    sandbox_key=GATEWAY_PATH,
    endpoints=(Endpoint("wg-net", "n1", (ip_interface("192.0.2.1/24"),)),),
)
CLIENT = Container(
    id="c1",
    name="dovecot",
    running=True,
    labels={NETWORKS_LABEL: "10.8.0.0/16"},
    network_mode="wg-net",
    sandbox_key=CLIENT_PATH,
    endpoints=(Endpoint("wg-net", "n1", (ip_interface("192.0.2.7/24"),)),),
)


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.naps: list[float] = []

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.naps.append(seconds)
        self.now += seconds


class Over(Exception):  # noqa: N818 - it is no error
    """The test has seen enough."""


@dataclass
class Woken:
    """In a script: something that happens meanwhile, in a thread that wakes who reads."""

    happens: Callable[[], object]


@dataclass
class Stream:
    """An event stream that a test writes: batches, or what ends it, at seconds from its begin."""

    clock: Clock
    script: list[tuple[float, list[Event] | EngineError | Woken]]
    end: float
    """When the test is over, by the clock."""
    begun: float = 0.0
    waits: list[float] = field(default_factory=list)
    is_closed: bool = False
    is_woken: bool = False

    def __post_init__(self) -> None:
        self.begun = self.clock.now

    def read(self, seconds: float) -> list[Event]:
        assert not self.is_closed
        self.waits.append(seconds)
        until = self.clock.now + seconds
        if self.script and self.begun + self.script[0][0] <= until:
            at, found = self.script.pop(0)
            self.clock.now = max(self.clock.now, self.begun + at)
            if isinstance(found, EngineError):
                raise found
            if isinstance(found, Woken):
                found.happens()
                assert self.is_woken
                self.is_woken = False
                return []
            return found
        if until > self.end:
            raise Over
        self.clock.now = until
        return []

    def wake(self) -> None:
        self.is_woken = True

    def close(self) -> None:
        self.is_closed = True


class Engine(StandInEngine):
    """A stand-in that can be listened to."""

    version, api_version, is_newer_than_tried = "28.5.2", "1.51", False

    def __init__(self, clock: Clock, *known: Container) -> None:
        super().__init__(known, on=(WG_NET,))
        self.clock = clock
        self.scripts: list[list[tuple[float, list[Event] | EngineError | Woken]]] = []
        self.seconds = 10.0
        """After which the test is over."""
        self.streams: list[Stream] = []

    def listen(self, _since: int, _note: Callable[[Event], None]) -> Stream:
        script = self.scripts.pop(0) if self.scripts else []
        self.streams.append(Stream(self.clock, script, 1_000_000 + self.seconds))
        return self.streams[-1]

    def close(self) -> None:
        pass


class NoEarlyRoutes:
    """Early routes that are never there in time, unless a test gives some."""

    def __init__(self) -> None:
        self.gateways: list[Gateway | None] = []
        self.clients: list[EarlyClient] = []
        self.listings: list[tuple[str, ...]] = []
        self.is_closed = False
        self.others: list[NoEarlyRoutes] = []
        """For other networks."""
        self.mtus: Mapping[Network, int] = {}

    def beside(self) -> NoEarlyRoutes:
        self.others.append(NoEarlyRoutes())
        return self.others[-1]

    def lead_to(self, gateway: Gateway | None, _directory: Path | None) -> None:
        self.gateways.append(gateway)

    def taken(self) -> Iterator[EarlyClient]:
        while self.clients:
            yield self.clients.pop()

    def learn(self, running: Iterable[Container]) -> None:
        self.listings.append(tuple(container.id for container in running))

    def size(self, mtus: Mapping[Network, int]) -> None:
        self.mtus = mtus

    def note(self, _event: Event) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


class Site:
    """A daemon with all that is around it."""

    def __init__(self, tmp_path: Path, interval: float = 60) -> None:
        self.clock = Clock()
        self.kernel = FakeKernel()
        self.kernel.add(GATEWAY_PATH, addresses=["192.0.2.1/24"])
        self.kernel.add(CLIENT_PATH, addresses=["192.0.2.7/24"])
        self.engine = Engine(self.clock, GATEWAY, CLIENT)
        self.early = NoEarlyRoutes()
        self.file = tmp_path / "health"
        self.published: list[Sidecar | None] = []
        self.covered: Mapping[str, frozenset[Network] | None] = {}
        """As published last."""
        self.lost: list[Mapping[Network, float]] = []
        self.meanwhile: list[tuple[float, Callable[[], object]]] = []
        """What happens while there is no engine, and when."""
        self.lacking = ""
        self.connect: Callable[[], object] = lambda: self.engine
        self.ask: Callable[[Callable[[], Any]], Any] = lambda question: question()
        """Has the engine asked, since a daemon has connected to it."""
        self.settings = Settings(gateway="wireguard", network="wg-net", resync_interval=interval)

    def publish(
        self,
        sidecar: Sidecar | None,
        lost: Mapping[Network, float],
        coverage: Mapping[str, Coverage],
    ) -> None:
        self.published.append(sidecar)
        self.covered = {name: one.networks for name, one in coverage.items()}
        self.lost.append(lost)

    def daemon(self) -> Daemon:
        """Return a daemon that was not run yet."""
        return Daemon(
            self.settings,
            self.kernel,
            self.early,
            Health(self.file),
            self._connect,
            publish=self.publish,
            lacking=self.lacking,
            clock=self.clock,
            wait=self.wait,
        )

    def _connect(self, ask: Callable[[Callable[[], Any]], Any]) -> RealEngine:
        self.ask = ask
        return cast("RealEngine", self.connect())

    def wait(self, changed: threading.Event, seconds: float) -> None:
        """Let something happen meanwhile, if it is to."""
        until = self.clock.now + seconds
        if self.meanwhile and self.meanwhile[0][0] <= until:
            self.clock.now, happens = self.meanwhile.pop(0)
            happens()
            assert changed.wait(SECONDS)
        else:
            self.clock.sleep(seconds)

    def run(
        self, until: type[Exception] = Over, daemon: Daemon | None = None
    ) -> list[dict[str, object]]:
        """Run a daemon until the test is over, and return what was logged."""
        with structlog.testing.capture_logs() as logged, pytest.raises(until):
            (daemon or self.daemon()).run()
        return cast("list[dict[str, object]]", logged)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def events(logged: list[dict[str, object]]) -> list[object]:
    return [entry["event"] for entry in logged if entry["log_level"] != "debug"]


def passes(logged: list[dict[str, object]]) -> list[object]:
    return [entry["trigger"] for entry in logged if entry["event"] == "pass.finished"]


def away_for(site: Site, seconds: float) -> list[dict[str, object]]:
    """Run a daemon whose engine is away for that long; return what was logged."""
    end = site.clock.now + seconds

    def connect() -> object:
        if site.clock.now >= end:
            raise Over
        reason = f"no engine answers, try {len(site.clock.naps)}"
        raise EngineError(reason, "start it")

    site.connect = connect
    return site.run()


def test_a_day_without_an_engine_ends_with_another_try(site: Site) -> None:
    logged = away_for(site, DAY)

    naps = site.clock.naps
    assert sum(naps) == pytest.approx(DAY, abs=30)
    assert naps[0] <= 0.5
    assert all(12 <= nap <= 30 for nap in naps[6:])
    assert DAY / 30 <= len(naps) <= DAY / 20
    assert events(logged) == ["engine.lost"]
    assert logged[0]["hint"] == "start it"


def test_tries_are_no_further_apart_than_the_resync_interval(tmp_path: Path) -> None:
    site = Site(tmp_path, interval=5)
    away_for(site, 600)

    assert max(site.clock.naps) <= 5


def test_an_error_that_is_not_ours_ends_the_daemon(site: Site) -> None:
    def connect() -> NoReturn:
        raise ZeroDivisionError

    site.connect = connect
    site.run(until=ZeroDivisionError)


def test_the_first_pass_sets_the_routes_and_tells_that_all_is_well(site: Site) -> None:
    logged = site.run()

    assert site.kernel.commands == [
        f"nsenter --net={CLIENT_PATH} ip route replace 10.8.0.0/16 via 192.0.2.1"
    ]
    assert events(logged) == [
        "engine.connected",
        "gateway.found",
        "gateway.ready",
        "route.replaced",
        "client.routed",
        "pass.finished",
    ]
    assert verdict(site.file) == "ok"


def test_without_events_there_is_a_pass_each_interval_on_a_stream_of_its_own(site: Site) -> None:
    site.engine.seconds = 200
    logged = site.run()

    assert passes(logged)[:3] == ["startup", "resync", "resync"]
    assert [stream.is_closed for stream in site.engine.streams] == [True] * len(site.engine.streams)
    assert len(site.engine.streams) == len(passes(logged))


def test_a_steady_state_asks_for_nothing_between_passes(site: Site) -> None:
    site.engine.seconds = 59
    site.run()

    assert len(site.engine.streams[0].waits) == 1


def test_an_event_makes_a_pass_for_its_container_only(site: Site) -> None:
    site.engine.scripts = [[(5.0, [Event("start", "c1", "dovecot")])]]
    site.run()

    assert site.engine.calls.count("inspect gw") == 1  # In the first pass.
    assert site.engine.calls[-2:] == ["containers", "inspect c1"]


@pytest.mark.parametrize(
    ("event", "urgent"),
    [
        pytest.param(Event("start", "c1"), True, id="a start"),
        pytest.param(Event("connect", "c1"), False, id="of a network"),
        pytest.param(Event("disconnect", "gw"), True, id="of the gateway"),
    ],
)
def test_only_what_cannot_wait_is_looked_at_at_once(site: Site, event: Event, urgent: bool) -> None:  # noqa: FBT001
    site.engine.scripts = [[(5.0, [event])]]
    logged = site.run()
    stream = site.engine.streams[0]

    assert passes(logged) == ["startup", event.action]
    assert (pytest.approx(0.3) in stream.waits) is not urgent


@pytest.mark.parametrize(
    ("complete", "waits"),
    [pytest.param(True, True, id="all routes"), pytest.param(False, False, id="some of them")],
)
def test_a_start_can_wait_only_if_all_routes_are_there(
    site: Site,
    complete: bool,  # noqa: FBT001
    waits: bool,  # noqa: FBT001
) -> None:
    site.early.clients = [EarlyClient(Client("dovecot", "c2", CLIENT_PATH, ()), complete)]
    site.engine.scripts = [[(5.0, [Event("start", "c2")])]]
    site.engine.known = (GATEWAY,)
    site.run()

    assert (pytest.approx(0.3) in site.engine.streams[0].waits) is waits


@pytest.mark.parametrize("action", ["die", "destroy", "create"])
def test_what_changes_nothing_makes_no_pass(site: Site, action: str) -> None:
    site.engine.scripts = [[(5.0, [Event(action, "c1")])]]

    assert passes(site.run()) == ["startup"]


def test_the_gateway_is_announced_before_routes_are_set(site: Site) -> None:
    seen: list[int] = []
    site.kernel.before_command(lambda _: seen.append(len(site.early.gateways)))
    site.run()

    assert seen == [1]


def test_it_publishes_whom_it_follows_after_each_pass(site: Site) -> None:
    site.run()

    assert site.published == [None, Sidecar(GATEWAY, None, "wg-net", "--gateway")]


def test_early_routes_learn_who_runs_from_full_passes(site: Site) -> None:
    site.engine.scripts = [[(5.0, [Event("start", "c1")])]]
    site.run()

    assert site.early.listings == [("c1",)]


def test_early_routes_learn_how_large_packets_may_be(site: Site) -> None:
    site.kernel.tunnel(GATEWAY_PATH, "10.8.0.0/16", 1280)
    site.run()

    assert site.early.mtus == {ip_network("10.8.0.0/16"): 1280}


@pytest.mark.parametrize(
    ("choice", "health"),
    [
        ("unreachable", "the tunnel of wireguard is lost since 1970-01-12T13:46:45Z: 10.8.0.0/16"),
        ("warn", "ok"),
    ],
)
def test_a_tunnel_that_goes_is_looked_at_at_once_and_verified_a_little_later(
    site: Site, choice: str, health: str
) -> None:
    site.settings = site.settings._replace(on_tunnel_loss=choice)
    site.kernel.tunnel(GATEWAY_PATH, "10.8.0.0/16")
    goes = Woken(lambda: site.kernel.close_tunnel(GATEWAY_PATH, "10.8.0.0/16"))
    site.engine.scripts = [[(5.0, goes)]]
    logged = site.run()

    assert (
        events(logged)[-3:]
        == {
            "unreachable": ["tunnel.lost", "route.replaced", "pass.finished"],
            "warn": ["client.routed", "pass.finished", "tunnel.lost"],
        }[choice]
    )
    assert passes(logged) == ["startup", "tunnel", "tunnel"]
    assert verdict(site.file) == health
    assert site.engine.streams[0].waits[1] == pytest.approx(0.3)
    assert [*site.lost[-1].values()] == [1_000_005.0]
    assert len(site.early.gateways) == 3


def test_a_change_that_is_none_for_us_makes_no_pass(site: Site) -> None:
    site.engine.scripts = [[(5.0, Woken(lambda: site.kernel.tunnel(GATEWAY_PATH, "10.99.0.0/16")))]]
    calls = len(site.engine.calls)
    logged = site.run()

    assert calls == 0
    assert events(logged)[-1] == "pass.finished"
    assert passes(logged) == ["startup", "tunnel"]
    assert verdict(site.file) == "ok"


def test_a_tunnel_that_goes_while_there_is_no_engine(site: Site) -> None:
    site.kernel.tunnel(GATEWAY_PATH, "10.8.0.0/16")
    daemon = site.daemon()
    site.run(daemon=daemon)
    del site.kernel.commands[:]
    at = site.clock.now + 20

    def connect() -> NoReturn:
        if site.clock.now > at + 30:
            raise Over
        reason = "no engine answers"
        raise EngineError(reason)

    site.connect = connect
    late = "/run/docker/netns/cccc"
    site.kernel.add(late, addresses=["192.0.2.9/24"])
    given = Route(ip_network("10.8.0.0/16"), ip_address("192.0.2.1"), 0)
    site.kernel.give(late, given)

    def happens() -> None:
        site.early.clients = [EarlyClient(Client("late", "c9", late, (given,)), complete=True)]
        site.kernel.close_tunnel(GATEWAY_PATH, "10.8.0.0/16")

    site.meanwhile = [(at, happens)]
    logged = site.run(daemon=daemon)

    assert site.kernel.commands == [
        f"nsenter --net={path} ip route replace unreachable 10.8.0.0/16"
        for path in (CLIENT_PATH, late)
    ]
    routed = ["route.replaced"] * 2
    assert events(logged) == ["engine.lost", "tunnel.lost", *routed, "pass.finished"]
    assert site.meanwhile == []
    assert verdict(site.file) == "no engine answers"


def test_a_lost_engine_is_told_and_listened_to_again(site: Site) -> None:
    end = StreamEndedError("the engine ended the event stream")
    site.engine.scripts = [[(5.0, end)]]
    logged = site.run()

    assert [stream.is_closed for stream in site.engine.streams] == [True, True]
    assert [event for event in events(logged) if str(event).startswith("engine")] == [
        "engine.connected",
        "engine.lost",
        "engine.connected",
    ]
    assert passes(logged) == ["startup", "reconnect"]


def test_a_stream_that_a_proxy_refuses_is_trouble_until_one_lasts(site: Site) -> None:
    site.engine.scripts = [[(0.0, CallError("the engine refused: no events here"))]]
    logged = site.run()

    assert events(logged).count("engine.connected") == 2
    assert verdict(site.file) == "ok"


def test_streams_that_are_cut_now_and_then_are_no_news_but_the_first(site: Site) -> None:
    end = StreamEndedError("the engine ended the event stream")
    site.engine.scripts = [[(20.0, end)] for _ in range(5)]
    logged = site.run()

    assert events(logged).count("engine.lost") == 1


def test_a_missing_gateway_is_told_once_and_looked_for(site: Site) -> None:
    site.engine.known = (CLIENT,)
    site.engine.seconds = 50
    logged = site.run()

    assert events(logged) == ["engine.connected", "gateway.missing"]
    assert 4 <= site.engine.calls.count("inspect wireguard") <= 12
    assert verdict(site.file) == "the engine has no container wireguard, named by --gateway"


def test_a_lost_gateway_is_unhealthy_and_a_lost_version_is_not(site: Site) -> None:
    site.engine.known = (GATEWAY._replace(running=False), CLIENT)
    site.run()

    assert verdict(site.file) == "the gateway wireguard is lost, see gateway.lost in the log"


def test_one_client_that_fails_does_not_make_the_sidecar_unhealthy(site: Site) -> None:
    site.kernel.fail(CLIENT_PATH, "RTNETLINK answers: Operation not permitted")
    site.run()

    assert verdict(site.file) == "ok"


def test_a_sidecar_that_lacks_something_is_unhealthy(site: Site) -> None:
    site.lacking = "NET_ADMIN not in effect"
    site.run()

    assert verdict(site.file) == "NET_ADMIN not in effect"


@pytest.mark.parametrize(
    ("on_stop", "expected"),
    [
        ("keep", ["10.8.0.0/16 192.0.2.1", "10.9.0.0/16 192.0.2.1"]),
        ("unreachable", ["10.8.0.0/16 unreachable", "10.9.0.0/16 unreachable"]),
        ("withdraw", []),
    ],
)
def test_an_end_does_with_all_routes_what_is_chosen(
    site: Site, on_stop: str, expected: list[str]
) -> None:
    """Also with those that were given early, just before it."""
    site.settings = site.settings._replace(on_stop=on_stop)
    daemon = site.daemon()
    site.run(daemon=daemon)
    early = Route(ip_network("10.9.0.0/16"), ip_address("192.0.2.1"), 0)
    site.kernel.give(CLIENT_PATH, early)
    client = Client("dovecot", "c1", CLIENT_PATH, (early,))
    site.early.clients = [EarlyClient(client, complete=True)]
    del site.kernel.commands[:]
    daemon.leave()

    found = site.kernel.routes(CLIENT_PATH)
    there = [f"{one.dst} {one.gateway or one.kind}" for one in found if one.kind != "connected"]
    assert sorted(there) == expected
    assert site.early.is_closed is (on_stop != "keep")


def test_nobody_is_given_a_route_early_after_the_others_were_taken_back(site: Site) -> None:
    site.settings = site.settings._replace(on_stop="withdraw")
    daemon = site.daemon()
    site.run(daemon=daemon)
    seen: list[bool] = []
    site.kernel.before_command(lambda _: seen.append(site.early.is_closed))
    daemon.leave()

    assert seen == [True]


# --- a swarm's service as the gateway -----------------------------------------------------------

AGENT = CLIENT._replace(id="0123456789abcdef" * 4, name="wg_wgroutemgr.n1.t1", labels={})
TASK = Task("wg_wireguard.1.a", ip_address("192.0.2.1"), "10.77.0.1")


class Swarm:
    """A name server and a cgroup file, so that an agent knows itself and its gateway."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.names = {AGENT.id[:12]: Reply(0, (ip_address("192.0.2.7"),))}
        (tmp_path / "cgroup").write_text(f"0::/docker/{AGENT.id}\n")
        monkeypatch.setattr(sidecar, "CGROUP", tmp_path / "cgroup")
        monkeypatch.setattr("lib.kernel.names.ask", lambda name: self.names.get(name, Reply(3)))
        monkeypatch.setattr("threading.Thread.start", lambda _: None)
        site.engine.known = (AGENT, CLIENT)
        site.engine.services = {"wg_wireguard": (TASK,)}

    def name(self, *addresses: str) -> None:
        self.names["tasks.wg_wireguard"] = Reply(0, tuple(map(ip_address, addresses)))


@pytest.mark.parametrize("by_label", [False, True])
def test_in_a_swarm_only_what_a_restart_mends_makes_it_unhealthy(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, by_label: bool
) -> None:
    Swarm(site, monkeypatch, tmp_path)
    site.lacking = "NET_ADMIN not in effect"
    site.settings = site.settings._replace(gateway=None, gateway_service="wg_wireguard")
    if by_label:
        site.settings = site.settings._replace(gateway_service=None)
        labelled = AGENT._replace(labels={SERVICE_LABEL: "wg_wireguard"})
        site.engine.known = (labelled, CLIENT)
    logged = site.run()

    assert "gateway.lost" in events(logged)
    assert verdict(site.file) == "ok"


def test_in_a_swarm_an_engine_that_is_away_makes_it_unhealthy(site: Site) -> None:
    site.settings = site.settings._replace(gateway=None, gateway_service="wg_wireguard")
    away_for(site, 5)

    assert verdict(site.file).startswith("no engine answers")


def test_a_gateway_that_moves_is_followed_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    swarm = Swarm(site, monkeypatch, tmp_path)
    site.settings = site.settings._replace(gateway=None, gateway_service="wg_wireguard")
    watches: list[Watch] = []
    begin = Watch.begin

    def note(watch: Watch, question: Question) -> None:
        watches.append(watch)
        begin(watch, question)

    monkeypatch.setattr(Watch, "begin", note)

    def come() -> None:
        swarm.name("192.0.2.1")
        watches[-1].look()

    site.engine.scripts = [[(3.0, Woken(come))]]
    logged = site.run()

    assert [gateway and gateway.addresses for gateway in site.early.gateways] == [
        (),
        (TASK.address,),
    ]
    assert passes(logged)[:2] == ["startup", "gateway"]
    there = {str(route.dst): route.gateway for route in site.kernel.routes(CLIENT_PATH)}
    assert there["10.8.0.0/16"] == TASK.address


# --- several networks ---------------------------------------------------------------------------

LAB_NET = DockerNetwork("n7", "lab-net", (ip_network("10.7.0.0/24"),), {})
LAB_CLIENT = CLIENT._replace(
    id="c2",
    name="postfix",
    sandbox_key="/run/docker/netns/cccc",
    endpoints=(Endpoint("lab-net", "n7", (ip_interface("10.7.0.8/24"),)),),
)


@pytest.fixture
def two(site: Site) -> Site:
    """Return a site with a client on another network, which the gateway serves too."""
    point = Endpoint("lab-net", "n7", (ip_interface("10.7.0.1/24"),))
    both = GATEWAY._replace(endpoints=(*GATEWAY.endpoints, point))
    site.kernel.attach(GATEWAY_PATH, "10.7.0.1/24")
    site.kernel.add(LAB_CLIENT.sandbox_key, addresses=["10.7.0.8/24"])
    site.engine.known = (both, CLIENT, LAB_CLIENT)
    site.engine.on = (WG_NET, LAB_NET)
    site.settings = site.settings._replace(network="wg-net, lab-net")
    return site


def test_one_pass_serves_all_networks_on_one_stream(two: Site) -> None:
    two.engine.scripts = [[(2.0, [Event("start", LAB_CLIENT.id)])]]
    two.engine.seconds = 70
    logged = two.run()

    assert passes(logged) == ["startup", "start", "resync"]
    assert len(two.engine.streams) == len(["startup", "resync"])
    assert two.kernel.commands == [
        f"nsenter --net={CLIENT_PATH} ip route replace 10.8.0.0/16 via 192.0.2.1",
        f"nsenter --net={LAB_CLIENT.sandbox_key} ip route replace 10.8.0.0/16 via 10.7.0.1",
    ]
    assert two.published[-1]
    assert two.published[-1].networks == ("wg-net", "lab-net")
    assert {*two.covered} == {"wg-net", "lab-net"}
    assert verdict(two.file) == "ok"


def test_a_network_that_is_not_there_is_looked_for_while_the_other_is_served(two: Site) -> None:
    two.engine.on = (WG_NET,)
    two.settings = two.settings._replace(network="lab-net, wg-net")
    two.engine.known = (GATEWAY, CLIENT)
    logged = two.run()

    assert two.kernel.commands == [
        f"nsenter --net={CLIENT_PATH} ip route replace 10.8.0.0/16 via 192.0.2.1"
    ]
    assert passes(logged)[:2] == ["startup", "retry"]
    assert events(logged).count("gateway.missing") == 1
    assert verdict(two.file) == "there is no network lab-net"
    assert two.early.listings
