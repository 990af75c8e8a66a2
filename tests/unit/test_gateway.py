"""Where the gateway is: found, lost or unknown, told before anybody acts, and logged once."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from lib.advice import NETNS_DIRECTORY
from lib.engine import sidecar
from lib.engine.asking import Running
from lib.model import Container, DockerNetwork, Endpoint, Gateway, Network, Sidecar
from lib.reconcile.gateway import GatewayTracker
from lib.reconcile.report import Found, Lost, Unknown
from lib.settings import Settings
from tests.fakes import GATEWAY, GWBRIDGE, OTHER, WG_NET, StandInEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from lib.engine.client import Engine

HERE = "/run/docker/netns/1f2e3d4c5b6a"
POINT = Endpoint("wg-net", "n1", (ip_interface("192.0.2.1/24"), ip_interface("fd::1/64")))
RUNNING = Container(
    id="gw",
    name="wireguard",
    running=True,
    labels={},
    network_mode="wg-net",
    sandbox_key=HERE,
    endpoints=(POINT,),
)
STOPPED = RUNNING._replace(running=False, sandbox_key="", endpoints=())
LOST = GATEWAY._replace(addresses=(), lost=frozenset({4, 6}))


class Site:
    """A tracker over an engine that a test changes, and what it announced and logged."""

    def __init__(self, *known: Container, **settings: Any) -> None:  # noqa: ANN401
        self.engine = StandInEngine(known, on=(WG_NET, OTHER))
        self.announced: list[tuple[Gateway | None, Path | None]] = []
        self.now = 100.0
        self.tracker = GatewayTracker(
            Settings(gateway="wireguard", network="wg-net", **settings),
            lambda: self.now,
            lambda *said: self.announced.append(said),
        )

    def update(self, *known: Container) -> Found | Lost | Unknown:
        if known:
            self.engine.known = known
        engine: Engine = self.engine  # type: ignore[assignment]
        return self.tracker.update(engine, Running(engine))


@pytest.fixture
def logged() -> Callable[[], list[str]]:
    """Return what tells the events that were logged."""
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[capture])
    return lambda: [f"{entry['log_level']} {entry['event']}" for entry in capture.entries]


def test_a_gateway_that_runs_is_found_and_announced(logged: Callable[[], list[str]]) -> None:
    site = Site(RUNNING)

    assert site.update() == site.tracker.state == Found(GATEWAY)
    assert site.announced == [(GATEWAY, Path(HERE).parent)]
    assert logged() == ["info gateway.found", "info gateway.ready"]
    assert site.update() == Found(GATEWAY)
    assert logged() == ["info gateway.found", "info gateway.ready"]


def test_a_gateway_found_stopped_is_announced_with_its_directory_once_it_runs() -> None:
    site = Site(STOPPED)

    assert isinstance(site.update(), Lost)
    assert site.announced == [(LOST, NETNS_DIRECTORY)]
    assert site.update(RUNNING) == Found(GATEWAY)
    assert site.announced[1:] == [(GATEWAY, Path(HERE).parent)]


def test_a_lost_gateway_keeps_the_time_of_its_loss(logged: Callable[[], list[str]]) -> None:
    site = Site(RUNNING)
    site.update()
    lost = site.update(STOPPED)
    site.now = 200.0

    assert lost == Lost(
        LOST, "the gateway wireguard is not running", "docker start wireguard", since=100.0
    )
    assert site.update() == lost
    assert site.announced[1:] == [(LOST, Path(HERE).parent)] * 2
    assert logged()[2:] == ["warning gateway.lost"]


def test_a_gateway_that_was_never_there_is_lost_in_the_versions_of_its_network() -> None:
    assert Site(STOPPED).update() == Lost(
        LOST, "the gateway wireguard is not running", "docker start wireguard", since=100.0
    )


def test_without_its_network_it_is_unknown() -> None:
    site = Site(STOPPED)
    site.engine.on = ()
    state = site.update()

    assert isinstance(state, Unknown)
    assert state.reason == "there is no network wg-net"


def test_if_routes_are_to_be_kept_a_lost_gateway_is_unknown(
    logged: Callable[[], list[str]],
) -> None:
    site = Site(RUNNING, on_gateway_loss="keep")
    site.update()

    assert site.update(STOPPED) == Unknown(
        "the gateway wireguard is not running", "docker start wireguard"
    )
    assert site.announced[1:] == [(None, Path(HERE).parent)]
    assert logged()[2:] == ["warning gateway.missing"]


def test_a_reason_that_changes_is_told_again(logged: Callable[[], list[str]]) -> None:
    site = Site(RUNNING)
    site.engine.known = ()
    for known, reason in (
        ((), "the engine has no container wireguard, named by --gateway"),
        ((), "the engine has no container wireguard, named by --gateway"),
    ):
        site.engine.known = known
        state = site.update()
        assert isinstance(state, Unknown)
        assert state.reason == reason

    assert logged() == ["warning gateway.missing"]


def test_while_the_engine_is_silent_about_it_the_state_stays() -> None:
    site = Site(RUNNING)
    site.update()
    site.engine.silent_about = "gw"

    assert site.update() == Found(GATEWAY)


def test_while_the_engine_is_silent_from_the_start_it_is_unknown() -> None:
    site = Site(RUNNING._replace(id="wireguard-id"))
    site.update()
    fresh = Site(RUNNING)
    fresh.engine.silent_about = "gw"

    state = fresh.update()

    assert isinstance(state, Unknown)
    assert state.reason == "the engine was silent for too long"


@pytest.mark.parametrize(
    ("network_id", "lost"),
    [pytest.param("n1", {6}, id="same network"), pytest.param("n2", set(), id="another network")],
)
def test_an_address_that_did_not_come_back_stays_lost(
    network_id: str, lost: set[int], logged: Callable[[], list[str]]
) -> None:
    site = Site(RUNNING)
    site.update()
    point = POINT._replace(network_id=network_id, interfaces=POINT.interfaces[:1])
    state = site.update(RUNNING._replace(endpoints=(point,)))

    assert isinstance(state, Found)
    assert state.gateway.lost == lost
    assert site.announced[-1][0] == state.gateway
    assert logged()[2:] == ["info gateway.ready"] + ["warning gateway.lost"] * len(lost)
    assert site.update() == state
    assert len(logged()) == 3 + len(lost)


def test_a_lost_version_that_comes_back_is_lost_no_more(logged: Callable[[], list[str]]) -> None:
    site = Site(RUNNING)
    site.update()
    site.update(RUNNING._replace(endpoints=(POINT._replace(interfaces=POINT.interfaces[:1]),)))

    assert site.update(RUNNING) == Found(GATEWAY)
    assert logged()[4:] == ["info gateway.ready"]


def test_a_gateway_made_anew_is_followed_by_its_name(logged: Callable[[], list[str]]) -> None:
    site = Site(RUNNING)
    site.update()
    state = site.update(RUNNING._replace(id="gw2"))

    assert state == Found(GATEWAY._replace(container_id="gw2"))
    assert logged()[2:] == ["info gateway.found", "info gateway.ready"]


def test_who_joined_a_gateway_that_was_made_anew_is_told_once_that_it_will_not_start_again(
    logged: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    we = RUNNING._replace(id="0" * 64, name="we", network_mode="container:gw", sandbox_key="")
    (tmp_path / "cgroup").write_text(f"0::/docker/{we.id}\n")
    monkeypatch.setattr(sidecar, "CGROUP", tmp_path / "cgroup")
    site = Site(RUNNING, we)
    site.update()
    assert site.tracker.sidecar == Sidecar(RUNNING, we, "wg-net", "--gateway")
    anew = RUNNING._replace(id="gw2")
    for _ in range(2):
        site.update(anew, we)

    assert site.tracker.sidecar == Sidecar(anew, we, "wg-net", "--gateway")
    assert logged()[3:] == ["info gateway.found", "warning sidecar.stranded", "info gateway.ready"]


def test_a_gateway_made_anew_in_the_hosts_network_makes_nothing_unreachable() -> None:
    site = Site(RUNNING)
    site.update()
    state = site.update(RUNNING._replace(network_mode="host", endpoints=()))

    assert isinstance(state, Unknown)
    assert state.reason.endswith("clients reach its tunnels by their default route")


PAUSE = RUNNING._replace(id="pause", name="pause", started_at=10.0)
TUNNEL = RUNNING._replace(
    network_mode="container:pause", sandbox_key="", endpoints=(), started_at=20.0
)


def test_a_gateway_in_anothers_namespace_has_the_addresses_of_that() -> None:
    site = Site(TUNNEL, PAUSE)

    assert site.update() == Found(GATEWAY._replace(container="pause", container_id="pause"))
    assert site.announced[-1][1] == Path(HERE).parent
    assert site.tracker.ids == {"gw", "pause"}


@pytest.mark.parametrize(
    ("tunnel", "pause", "reason", "fix"),
    [
        pytest.param(
            TUNNEL,
            PAUSE._replace(started_at=30.0),
            "the gateway wireguard cannot be reached: it runs in a namespace that pause has left",
            "docker restart wireguard",
            id="left",
        ),
        pytest.param(
            TUNNEL,
            PAUSE._replace(running=False),
            "pause, whose network the gateway wireguard uses, does not run",
            "docker start pause && docker restart wireguard",
            id="the owner stopped",
        ),
        pytest.param(
            TUNNEL._replace(running=False),
            PAUSE,
            "the gateway wireguard is not running",
            "docker start wireguard",
            id="stopped",
        ),
        pytest.param(
            TUNNEL,
            PAUSE._replace(endpoints=()),
            "the gateway pause has no address on the network wg-net",
            "docker network connect wg-net pause",
            id="the owner is on another network",
        ),
    ],
)
def test_a_gateway_in_anothers_namespace_is_lost_with_it(
    tunnel: Container, pause: Container, reason: str, fix: str
) -> None:
    site = Site(TUNNEL, PAUSE)
    site.update()
    state = site.update(tunnel, pause)

    assert isinstance(state, Lost)
    assert (state.reason, state.hint) == (reason, fix)
    assert site.tracker.ids >= {"gw"}


def test_a_gateway_that_shares_the_hosts_network_gets_nobody_a_route() -> None:
    state = Site(TUNNEL, PAUSE._replace(network_mode="host")).update()

    assert isinstance(state, Unknown)
    assert state.reason.startswith("the gateway pause uses the host's network")


def test_the_network_need_not_be_there_for_a_gateway_that_was_found() -> None:
    site = Site(RUNNING)
    site.update()
    site.engine.on = (DockerNetwork("n3", "other", (), {}),)

    assert isinstance(site.update(STOPPED), Lost)


def test_a_network_without_gateways_is_told_once(logged: Callable[[], list[str]]) -> None:
    """Whose driver delivers by destination address: the engine is asked for it once."""
    site = Site(RUNNING)
    site.engine.on = (WG_NET._replace(driver="ipvlan"),)

    site.update()
    site.update(RUNNING._replace(running=False))
    site.update(RUNNING)

    assert logged().count("warning network.warned") == 1
    assert site.engine.calls.count("network n1") == 1


@pytest.mark.parametrize(
    ("driver", "internal", "networks", "unlisted"),
    [
        pytest.param("overlay", False, [GWBRIDGE], GWBRIDGE.subnets, id="an overlay"),
        pytest.param("overlay", True, [GWBRIDGE], (), id="an internal overlay"),
        pytest.param("overlay", False, [], (), id="an overlay, and there is no such network"),
        pytest.param("bridge", False, [GWBRIDGE], (), id="a bridge"),
    ],
)
def test_what_the_engine_attaches_to_without_a_word(
    driver: str, networks: list[DockerNetwork], unlisted: tuple[Network, ...], *, internal: bool
) -> None:
    site = Site(RUNNING)
    site.engine.on = (WG_NET._replace(driver=driver, internal=internal), *networks)

    assert site.update() == Found(GATEWAY._replace(unlisted=unlisted))
    assert site.announced[-1][0] == GATEWAY._replace(unlisted=unlisted)
    del site.engine.calls[:]
    assert site.update() == Found(GATEWAY._replace(unlisted=unlisted))
    assert not [call for call in site.engine.calls if call.startswith("network")]


def test_a_network_that_cannot_be_asked_about_is_asked_about_again(
    logged: Callable[[], list[str]],
) -> None:
    site = Site(RUNNING)
    site.engine.on = ()
    site.update()
    assert site.tracker.state == Found(GATEWAY)
    site.engine.on = (WG_NET._replace(driver="ipvlan"),)
    site.update()

    assert logged()[-3:] == [
        "debug answer.skipped",
        "info gateway.ready",
        "warning network.warned",
    ]
