"""The gateway as a task of a swarm's service: found, lost, not known, and what is asked."""

from __future__ import annotations

import math
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from lib.engine import sidecar
from lib.engine.asking import Running
from lib.kernel.names import Reply
from lib.model import (
    GATEWAY_LABEL,
    NETWORK_LABEL,
    ROLE_LABEL,
    SERVICE_LABEL,
    SIDECAR,
    Container,
    Endpoint,
    Gateway,
    Task,
)
from lib.reconcile.gateway import GatewayTracker
from lib.reconcile.report import Found, Lost, Unknown
from lib.reconcile.service import Question, Watch
from lib.routing.tasks import Told
from lib.settings import Settings
from tests.fakes import GWBRIDGE, WG_NET, StandInEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from lib.engine.client import Engine

SERVICE = "wg_wireguard"
OWN_ID = "0123456789abcdef" * 4
OVERLAY = WG_NET._replace(driver="overlay", interfaces={})
FACE = ip_interface("192.0.2.77/24")
AGENT = Container(
    id=OWN_ID,
    name="wg_wgroutemgr.n1.t1",
    running=True,
    labels={},
    network_mode="",
    sandbox_key="/run/other/netns/1f2e3d4c5b6a",
    endpoints=(Endpoint("wg-net", "n1", (FACE,)),),
)
A, B = (
    Task(f"{SERVICE}.1.{key}", ip_address(f"192.0.2.{number}"), f"10.77.0.{node}")
    for key, number, node in (("a", 5, 1), ("b", 9, 2))
)
HERE = AGENT._replace(
    id="gw",
    name=A.name,
    sandbox_key="/run/other/netns/aaaaaaaaaaaa",
    endpoints=(Endpoint("wg-net", "n1", (ip_interface("192.0.2.5/24"),)),),
    may_tunnel=False,
)
NO_NAME, SILENCE = Reply(3), Reply(None)


def gateway(task: Task, **more: Any) -> Gateway:  # noqa: ANN401
    found = Gateway(task.name, "", "wg-net", "n1", (task.address,), service=SERVICE, node=task.node)
    return found._replace(unlisted=GWBRIDGE.subnets, **more)


class Site:
    """A tracker on a node, over an engine and a name server that a test changes."""

    def __init__(self, *named: Task, **settings: Any) -> None:  # noqa: ANN401
        self.engine = StandInEngine((AGENT,), on=(OVERLAY, GWBRIDGE))
        self.names: dict[str, Reply] = {OWN_ID[:12]: Reply(0, (FACE.ip,))}
        self.asked: list[str] = []
        self.now = 100.0
        self.announced: list[tuple[Gateway | None, Path | None]] = []
        self.say(*named)
        chosen = {"gateway_service": SERVICE, "network": "wg-net"} | settings
        self.tracker = GatewayTracker(
            Settings(**chosen), lambda: self.now, lambda *said: self.announced.append(said)
        )

    def say(self, *named: Task, listed: tuple[Task, ...] | None = None) -> None:
        """Name these, and list them, unless others are given."""
        found = tuple(task.address for task in named)
        self.names[f"tasks.{SERVICE}"] = Reply(0, found) if named else NO_NAME
        self.engine.services = {SERVICE: named if listed is None else listed, "wg_other": ()}

    def ask(self, name: str) -> Reply:
        self.asked.append(name)
        return self.names.get(name, SILENCE)

    def update(self) -> Found | Lost | Unknown:
        engine: Engine = self.engine  # type: ignore[assignment]
        return self.tracker.update(engine, Running(engine))

    def calls(self) -> int:
        """Return how often the engine was asked for tasks."""
        return self.engine.calls.count("tasks n1")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Site]:
    """Return what makes a site, where our own container is known by its id."""
    (tmp_path / "cgroup").write_text(f"0::/docker/{OWN_ID}\n")
    monkeypatch.setattr(sidecar, "CGROUP", tmp_path / "cgroup")

    def make(*named: Task, **settings: Any) -> Site:  # noqa: ANN401
        found = Site(*named, **settings)
        monkeypatch.setattr("lib.kernel.names.ask", found.ask)
        return found

    return make


@pytest.fixture
def logged() -> Callable[[], list[str]]:
    """Return what tells the events that were logged."""
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[capture])
    return lambda: [f"{entry['log_level']} {entry['event']}" for entry in capture.entries]


def test_a_task_on_another_node_is_found(
    site: Callable[..., Site], logged: Callable[[], list[str]]
) -> None:
    here = site(A)

    assert here.update() == Found(gateway(A))
    assert here.announced == [(gateway(A), Path("/run/other/netns"))]
    assert gateway(A).is_elsewhere
    assert (here.tracker.netns, here.tracker.owner, here.tracker.ids) == ("", None, frozenset())
    assert logged() == ["info sidecar.found", "info gateway.ready"]


def test_a_task_on_this_node_is_found_with_its_container(site: Callable[..., Site]) -> None:
    here = site(A)
    here.engine.known = (AGENT, HERE)
    faces = {"gw": (ip_interface("192.0.2.5/24"),), OWN_ID: (FACE,)}
    here.engine.on = (OVERLAY._replace(interfaces=faces), GWBRIDGE)

    assert here.update() == Found(gateway(A, container_id="gw", may_tunnel=False))
    assert (here.tracker.netns, here.tracker.owner) == (HERE.sandbox_key, HERE)
    assert here.tracker.ids == {"gw"}
    assert not here.tracker.end({"gw": 1e9})  # The name server tells of that.
    assert here.tracker.sidecar
    assert (here.tracker.sidecar.gateway, here.tracker.sidecar.service) == (HERE, SERVICE)

    here.engine.known = (AGENT,)
    assert here.update() == Found(gateway(A))


def test_while_nothing_changes_the_engine_is_not_asked_for_tasks(
    site: Callable[..., Site],
) -> None:
    here = site(A)
    for _ in range(3):
        here.update()

    assert here.update() == Found(gateway(A))
    assert here.calls() == 1
    assert here.asked == [f"tasks.{SERVICE}"] * 4


def test_a_task_that_takes_its_place_is_followed(
    site: Callable[..., Site], logged: Callable[[], list[str]]
) -> None:
    here = site(A)
    here.update()
    here.say()
    lost = here.update()
    here.now = 104.0
    here.say(B)

    assert lost == Lost(
        gateway(A)._replace(addresses=(), lost=frozenset({4})),
        "no task of the service wg_wireguard runs",
        "docker service ps wg_wireguard   # on a manager; the name in full is STACK_SERVICE",
        since=100.0,
    )
    assert here.update() == Found(gateway(B))
    assert logged()[1:] == ["info gateway.ready", "warning gateway.lost", "info gateway.ready"]
    assert here.calls() == 2


def test_without_a_task_from_the_start_it_is_lost(site: Callable[..., Site]) -> None:
    here = site()
    state = here.update()

    assert isinstance(state, Lost)
    assert (state.gateway.container, state.gateway.container_id) == (SERVICE, "")
    assert here.calls() == 0
    assert here.tracker.sidecar
    assert here.tracker.sidecar.service == SERVICE


def test_if_routes_are_to_be_kept_it_is_unknown_instead(site: Callable[..., Site]) -> None:
    here = site(on_gateway_loss="keep")

    assert here.update() == Unknown(
        "no task of the service wg_wireguard runs",
        "docker service ps wg_wireguard   # on a manager; the name in full is STACK_SERVICE",
    )


ELSEWHERE = (ip_address("203.0.113.5"),)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        pytest.param(
            {f"tasks.{SERVICE}": SILENCE, OWN_ID[:12]: SILENCE},
            "the name server of wg-net names neither us nor a task of wg_wireguard",
            id="silence",
        ),
        pytest.param(
            {f"tasks.{SERVICE}": Reply(0, ELSEWHERE), OWN_ID[:12]: Reply(2)},
            "the name server of wg-net names neither us nor a task of wg_wireguard",
            id="only somebody outside answers",
        ),
        pytest.param(
            {f"tasks.{SERVICE}": NO_NAME, OWN_ID[:12]: Reply(0, ELSEWHERE)},
            "this container is not attached to wg-net: nothing is known of the tasks of"
            " wg_wireguard",
            id="we are elsewhere by the name server's word",
        ),
    ],
)
def test_what_proves_nothing_touches_nobody(
    site: Callable[..., Site], names: dict[str, Reply], reason: str
) -> None:
    here = site(A)
    here.update()
    before = dict(here.names)
    here.names |= names
    state = here.update()

    assert isinstance(state, Unknown)
    assert state.reason == reason
    here.names = before
    assert here.update() == Found(gateway(A))
    assert here.calls() == 1


@pytest.mark.parametrize("points", [(), (Endpoint("wg-net", "n1", ()),)], ids=["no", "half"])
def test_an_agent_that_is_not_attached_asks_nobody(
    site: Callable[..., Site], points: tuple[Endpoint, ...]
) -> None:
    here = site(A)
    here.engine.known = (AGENT._replace(endpoints=points),)

    assert here.update() == Unknown(
        "this container is not attached to wg-net: nothing is known of the tasks of wg_wireguard",
        "networks: [wg-net]   # in the service of the agent",
    )
    assert here.asked == []


def test_an_agent_that_does_not_know_itself_knows_of_nobody(
    site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text("0::/\n")
    monkeypatch.setattr(sidecar, "MOUNTINFO", tmp_path / "cgroup")
    state = site(A).update()

    assert isinstance(state, Unknown)
    assert state.reason.startswith("our own container was not found")


def test_an_engine_that_lists_nobody_is_told_of(site: Callable[..., Site]) -> None:
    here = site(A)
    here.engine.silent_about = "tasks"

    assert here.update() == Unknown(
        "the engine does not list the tasks of wg_wireguard: the engine refused: Forbidden",
        "let the proxy pass GET /networks",
    )


def test_who_takes_the_name_of_a_task_is_doubted_once_and_asked_about_less_and_less(
    site: Callable[..., Site], logged: Callable[[], list[str]]
) -> None:
    here = site(A)
    here.update()
    here.say(B, listed=())
    waits = []
    for _ in range(5):
        assert isinstance(here.update(), Lost)
        waits.append(here.tracker.again_at - here.now)

    assert waits == [1, 1, 1, 2, 4]
    assert logged()[2:] == ["warning gateway.doubted", "warning gateway.lost"]
    here.say(B)
    assert here.update() == Found(gateway(B))
    assert here.tracker.again_at == math.inf


def test_several_tasks_are_told_of_once(
    site: Callable[..., Site], logged: Callable[[], list[str]]
) -> None:
    here = site(B, A)

    assert here.update() == here.update() == Found(gateway(A))
    assert logged().count("warning gateway.several") == 1


def test_a_second_task_is_told_of_and_the_engine_is_asked_once_that_it_knows_it(
    site: Callable[..., Site], logged: Callable[[], list[str]]
) -> None:
    here = site(B)
    here.update()
    here.say(A, B, listed=(B,))
    assert here.update() == Found(gateway(B))
    assert here.tracker.again_at == here.now + 1
    here.say(A, B)
    assert here.update() == here.update() == Found(gateway(B))

    assert here.calls() == 3
    assert here.tracker.again_at == math.inf
    assert logged()[2:] == ["warning gateway.doubted", "warning gateway.several"]


def test_who_was_doubted_beside_the_gateway_is_not_told_of_again_when_that_is_lost(
    site: Callable[..., Site], logged: Callable[[], list[str]]
) -> None:
    here = site()
    here.say(A, B, listed=(A,))
    here.update()
    here.update()
    here.say(B, listed=())
    here.update()

    assert logged()[1:] == ["warning gateway.doubted", "info gateway.ready", "warning gateway.lost"]


def test_beside_another_sidecar_it_goes_by_the_services_name_on_each_node(
    site: Callable[..., Site],
) -> None:
    """The task's own name is another one each time, and known as a container on one node only."""
    here = site(A)
    labels = {ROLE_LABEL: SIDECAR, NETWORK_LABEL: "wg-net", GATEWAY_LABEL: f"{SERVICE}.0"}
    rival = HERE._replace(id="rival", name=f"{SERVICE}.0")
    peer = HERE._replace(id="peer", name="peer", labels=labels, started_at=100.0)
    us = AGENT._replace(labels={ROLE_LABEL: SIDECAR, SERVICE_LABEL: SERVICE}, started_at=100.0)
    here.engine.known = (us, rival, peer, HERE)
    faces = {"gw": (ip_interface("192.0.2.5/24"),)}
    for interfaces in ({}, faces):
        here.engine.on = (OVERLAY._replace(interfaces=interfaces), GWBRIDGE)
        state = here.update()

        assert isinstance(state, Found)
        assert state.served_by == ""


# --- the thread that asks -----------------------------------------------------------------------

TOLD = Told(OVERLAY.subnets, (A.address,), tasks=(A,))


@pytest.mark.parametrize(
    ("named", "news"), [((A,), 0), ((A, B), 1), ((B,), 1), ((), 1)], ids=["A", "AB", "B", "none"]
)
def test_each_second_it_is_told_whether_there_is_news(
    site: Callable[..., Site], named: tuple[Task, ...], news: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threading.Thread.start", lambda _: None)
    here = site(*named)
    told: list[None] = []
    watch = Watch(lambda: told.append(None))
    watch.look()
    assert here.asked == []

    watch.begin(Question(SERVICE, OWN_ID, TOLD))
    watch.look()

    assert len(told) == news
    assert watch.interval == 1.0
    watch.begin(Question(SERVICE, OWN_ID, TOLD._replace(named=())))
    assert watch.interval == 0.5
    assert here.asked[0] == f"tasks.{SERVICE}"


def test_the_tracker_sets_the_watch_by_what_it_found(
    site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site(A)
    questions: list[Question] = []
    monkeypatch.setattr(Watch, "begin", lambda _, question: questions.append(question))
    here.tracker = GatewayTracker(
        Settings(gateway_service=SERVICE, network="wg-net"), lambda: 0.0, moved=lambda: None
    )
    here.update()
    here.say()
    here.update()

    assert [question.last.inside for question in questions] == [{A.address}, set()]
    here.say(B)
    assert questions[1].is_news(questions[1].ask())
    here.say()
    assert not questions[1].is_news(questions[1].ask())
