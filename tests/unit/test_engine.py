"""The calls to an engine, against a server of the test's own: what is asked, and what is taken."""

from __future__ import annotations

import errno
import json
import os
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from lib.advice import SOCKET_DENIED, USERNS
from lib.engine import sdk
from lib.engine.client import MOST_IDS, NEWEST_API, OLDEST_API, Engine, Engines
from lib.engine.sharing import netns_owner
from lib.errors import CallError, DeniedError, EngineError, GoneError, NamespaceLeftError
from lib.kernel import prerequisites
from lib.model import Container
from tests.fakes import CREATED, StandInEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from requests import Response


class Server(HTTPServer):
    """An engine that knows its version and what a test gives it, by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.version: dict[str, object] = {"Version": "99.0", "ApiVersion": NEWEST_API}
        self.answers: dict[str, object] = {}
        self.asked: list[str] = []
        """Path and query of each request, without the version."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        _, _, asked = self.path.lstrip("/").partition("/")
        self.server.asked.append(asked)
        known = {"": self.server.version, "version": self.server.version} | self.server.answers
        answer = known.get(asked.partition("?")[0], {"message": "No such thing"})
        body = json.dumps(answer).encode()
        self.send_response(200 if asked.partition("?")[0] in known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    engine = Engine()
    server.asked.clear()
    yield engine
    engine.close()


# --- versions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spoken", ["1.24", "1.40"])
def test_an_engine_that_is_too_old_is_refused_with_what_to_do(server: Server, spoken: str) -> None:
    server.version["ApiVersion"] = spoken

    with pytest.raises(EngineError) as refused:
        Engine()

    assert refused.value.reason == f"the engine is too old: API {spoken}, and 1.41 is needed"
    assert refused.value.hint == "update it to Docker 20.10 or newer"


@pytest.mark.parametrize(
    ("spoken", "newer"),
    [(OLDEST_API, False), (NEWEST_API, False), ("1.57", True), ("1.100", True), ("2.0", True)],
)
def test_an_engine_of_any_other_age_is_taken(server: Server, spoken: str, *, newer: bool) -> None:
    server.version["ApiVersion"] = spoken
    found = Engine()
    found.close()

    assert (found.version, found.api_version) == ("99.0", spoken)
    assert found.is_newer_than_tried == newer


def test_an_engine_without_a_version_is_an_error_of_ours(server: Server) -> None:
    server.version["ApiVersion"] = "nonsense"

    with pytest.raises(EngineError):
        Engine()


def test_only_the_first_connection_asks_what_the_engine_is_until_it_may_be_another(
    server: Server,
) -> None:
    """For that, the engine runs two programs."""
    engines = Engines()
    first = engines.connect()
    server.asked.clear()
    beside = [engines.another(), engines.another()]
    assert [one.version for one in beside] == [first.version] * 2
    assert server.asked == []

    server.version["Version"] = "99.1"
    engines.connect()

    assert engines.another().version == "99.1"


def test_each_question_is_asked_as_one_is_told(server: Server) -> None:
    asked: list[int] = []

    def ask(question: Callable[[], Response]) -> Response:
        answer = question()
        asked.append(answer.status_code)
        return answer

    server.answers["containers/json"] = []
    with closing(Engine(ask)) as engine:
        assert engine.containers() == ()
        with pytest.raises(GoneError):
            engine.inspect("nobody")

    assert asked == [200, 200, 404]


# --- containers ---------------------------------------------------------------------------------


def listed(number: int, **points: str) -> dict[str, Any]:
    """Return a container of a listing, on networks with those ids."""
    networks = {name: {"NetworkID": network_id} for name, network_id in points.items()}
    return {
        "Id": f"{number:064x}",
        "Names": [f"/web{number}"],
        "State": "running",
        "NetworkSettings": {"Networks": networks},
    }


def inspected(**points: str) -> dict[str, Any]:
    return listed(1, **points) | {
        "Name": "/web1",
        "State": {"Running": True},
        "Config": {},
        "HostConfig": {},
    }


def filters(server: Server) -> dict[str, list[str]]:
    (asked,) = server.asked
    found: dict[str, list[str]] = json.loads(parse_qs(urlsplit(asked).query)["filters"][0])
    return found


@pytest.mark.parametrize("count", [1, MOST_IDS])
def test_some_containers_are_asked_for_by_their_ids(
    server: Server, engine: Engine, count: int
) -> None:
    server.answers["containers/json"] = [listed(number) for number in range(count)]
    ids = [f"{number:064x}" for number in range(count)]

    assert [container.id for container in engine.containers("label", ids=ids)] == ids
    assert filters(server)["id"] == ids


def test_many_containers_are_listed_with_all_others_as_a_proxy_refuses_a_long_url(
    server: Server, engine: Engine
) -> None:
    server.answers["containers/json"] = [listed(number) for number in range(300)]
    ids = [f"{number:064x}" for number in range(220)]

    assert [container.id for container in engine.containers("label", ids=ids)] == ids
    assert "id" not in filters(server)
    assert filters(server)["label"] == ["label"]
    assert max(map(len, server.asked)) < 8192


def test_nobody_is_asked_for_without_a_call(server: Server, engine: Engine) -> None:
    server.answers["containers/json"] = [listed(1)]

    assert engine.containers("label", ids=[]) == ()
    assert server.asked == []


def test_podman_is_asked_only_for_states_that_it_knows(server: Server) -> None:
    """It refuses `restarting` (libpod, `define.StringToContainerStatus`)."""
    server.version["Components"] = [{"Name": "Podman Engine"}, {"Name": "Conmon"}]
    server.answers["containers/json"] = []
    engine = Engine()
    server.asked.clear()

    assert engine.containers(running=False) == ()
    engine.close()

    assert filters(server)["status"] == ["created", "initialized", "stopped", "exited"]


def test_docker_is_asked_for_containers_that_are_about_to_start_again(
    server: Server, engine: Engine
) -> None:
    server.answers["containers/json"] = []
    engine.containers(running=False)

    assert "restarting" in filters(server)["status"]


N1, N2, SWARM = "a" * 64, "b" * 64, "kzp3hx7y7dsv2z1jvlzl4dg6y"
NETWORK: dict[str, object] = {"Driver": "bridge", "IPAM": {"Config": None}}


def test_names_told_for_ids_are_resolved_by_one_call_each(server: Server, engine: Engine) -> None:
    """As by Podman 4.3."""
    many = [listed(1, **{"wg-net": "wg-net", "other": N2}), listed(2, other="other", gone="gone")]
    server.answers |= {
        "containers/json": many,
        f"containers/{1:064x}/json": inspected(**{"wg-net": "wg-net"}),
        "networks/wg-net": NETWORK | {"Id": N1, "Name": "wg-net"},
        "networks/other": NETWORK | {"Id": N2, "Name": "other"},
    }

    found = engine.containers()
    assert [[point.network_id for point in one.endpoints] for one in found] == [[N1, N2], [N2, ""]]
    asked = sorted(line.partition("?")[0] for line in server.asked)
    assert asked == ["containers/json", "networks/gone", "networks/other", "networks/wg-net"]
    one = engine.inspect(found[0].id)
    assert one.endpoint(N1) == one.endpoint("wg-net") == one.endpoints[0]


def test_where_ids_are_told_nothing_more_is_asked(server: Server, engine: Engine) -> None:
    # An id of a swarm's network is shorter, and before its first start a container has none.
    server.answers["containers/json"] = [listed(1, other=N2, swarm=SWARM, new="")]

    (found,) = engine.containers()
    assert [point.network_id for point in found.endpoints] == [N2, SWARM, ""]
    assert len(server.asked) == 1


@pytest.mark.parametrize("answer", [{}, [], {"Id": "c1"}, inspected() | {"Name": None}], ids=str)
def test_an_inspection_that_cannot_be_read_is_an_error_about_that_container(
    server: Server, engine: Engine, answer: object
) -> None:
    server.answers["containers/c1/json"] = answer

    with pytest.raises(CallError):
        engine.inspect("c1")


def test_a_network_that_cannot_be_read_is_an_error_about_that_network(
    server: Server, engine: Engine
) -> None:
    server.answers["networks/wg-net"] = {"Name": "wg-net"}

    with pytest.raises(CallError):
        engine.network("wg-net")
    with pytest.raises(GoneError):
        engine.network("other")


def test_a_listing_that_is_none_is_an_error_of_the_engine(server: Server, engine: Engine) -> None:
    server.answers |= {"containers/json": {"message": "?"}, "networks": None}

    for ask in (engine.containers, engine.networks):
        with pytest.raises(EngineError):
            ask()


# --- what the doctor asks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "backend"),
    [
        ({}, "iptables"),
        ({"FirewallBackend": None}, "iptables"),
        ({"FirewallBackend": {"Driver": "iptables+firewalld"}}, "iptables"),
        ({"FirewallBackend": {"Driver": "nftables"}}, "nftables"),
    ],
)
def test_what_the_engine_filters_with(
    server: Server, engine: Engine, info: dict[str, object], backend: str
) -> None:
    server.answers["info"] = info

    assert engine.firewall() == backend


def test_labels_of_a_swarms_service(server: Server, engine: Engine) -> None:
    server.answers["services/web"] = {"Spec": {"Labels": {"a": "b"}}}
    server.answers["services/bare"] = {"Spec": {}}
    server.answers["services/odd"] = {}

    assert engine.service_labels("web") == {"a": "b"}
    assert engine.service_labels("bare") == {}
    with pytest.raises(CallError):
        engine.service_labels("odd")
    with pytest.raises(GoneError):
        engine.service_labels("other")


@pytest.mark.parametrize(("is_remapped", "hint"), [(True, USERNS), (False, SOCKET_DENIED)])
def test_a_socket_that_is_there_but_not_for_us(
    monkeypatch: pytest.MonkeyPatch, hint: str, *, is_remapped: bool
) -> None:
    monkeypatch.setattr(prerequisites, "is_remapped", lambda *_: is_remapped)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(sdk, "new_client", denied)

    with pytest.raises(DeniedError) as refused:
        Engine()
    assert refused.value.hint == hint


# --- whose namespace ----------------------------------------------------------------------------


def sharing(name: str, owner: str) -> Container:
    mode = f"container:{owner}" if owner else "bridge"
    return Container(name * 64, name, True, {}, mode, "", ())  # noqa: FBT003 - the field's value


def owner(engine: StandInEngine, name: str) -> Container:
    return netns_owner(cast("Engine", engine), engine.inspect(name))


@pytest.mark.parametrize("first", ["a", "b", "c"])
def test_whose_namespace_is_used_is_found_however_far_away(first: str) -> None:
    engine = StandInEngine((sharing("a", "b"), sharing("b", "c" * 64), sharing("c", "")))

    assert owner(engine, first).name == "c"


@pytest.mark.parametrize(
    ("ring", "names"), [([("a", "a")], "a"), ([("a", "b"), ("b", "c"), ("c", "b")], "a, b, c")]
)
def test_a_namespace_that_leads_back_is_an_error_which_names_them(
    ring: list[tuple[str, str]], names: str
) -> None:
    engine = StandInEngine(tuple(sharing(*pair) for pair in ring))

    with pytest.raises(CallError, match=f"leads back to it: {names}$") as refused:
        owner(engine, "a")
    assert refused.value.hint
    assert len(engine.calls) <= 4


@pytest.mark.parametrize(
    ("labels", "fix"),
    [
        ({}, "docker rm -f a, and run it again with a network that is there"),
        ({"com.docker.compose.service": "web"}, "docker compose up -d --force-recreate web"),
    ],
)
def test_whose_owner_is_gone_can_only_be_made_anew(labels: dict[str, str], fix: str) -> None:
    engine = StandInEngine((sharing("a", "b")._replace(labels=labels), CREATED))

    with pytest.raises(NamespaceLeftError, match="of a container that was removed") as left:
        owner(engine, "a")
    assert left.value.hint == fix


@pytest.mark.parametrize(
    ("starts", "reason", "fix"),
    [
        pytest.param((3, 2, 1), "", "", id="each after its owner"),
        pytest.param((2, 2, 2), "", "", id="at the same time"),
        pytest.param((0, 2, 1), "", "", id="not known"),
        pytest.param((2, 3, 1), "b has left", "docker restart a", id="the last one was left"),
        pytest.param(
            (4, 2, 3), "c has left", "docker restart b && docker restart a", id="all that joined it"
        ),
        pytest.param(
            (1, 2, 3), "c has left", "docker restart b && docker restart a", id="the first counts"
        ),
    ],
)
def test_who_started_before_its_owner_is_in_a_namespace_that_was_left(
    starts: tuple[int, ...], reason: str, fix: str
) -> None:
    chain = (sharing("a", "b"), sharing("b", "c"), sharing("c", ""))
    known = (one._replace(started_at=at) for one, at in zip(chain, starts, strict=True))
    engine = StandInEngine(tuple(known))
    if not reason:
        assert owner(engine, "a").name == "c"
        return
    with pytest.raises(NamespaceLeftError) as left:
        owner(engine, "a")
    assert (left.value.reason, left.value.hint) == (f"runs in a namespace that {reason}", fix)


def test_who_does_not_run_is_in_no_namespace_that_could_be_left() -> None:
    for stopped in ("a", "b"):
        both = (sharing("a", "b")._replace(started_at=1), sharing("b", "")._replace(started_at=2))
        known = (one._replace(running=one.name != stopped) for one in both)

        assert owner(StandInEngine(tuple(known)), "a").name == "b"


def test_tasks_are_asked_for_by_one_call(server: Server, engine: Engine) -> None:
    task = {"Name": "wg_wireguard.1.a", "EndpointIP": "192.168.67.5", "Info": {"Host IP": "x"}}
    server.answers["networks/n1"] = {"Services": {"wg_wireguard": {"Tasks": [task]}}}

    found = engine.tasks("n1")["wg_wireguard"]

    assert [(one.name, str(one.address), one.node) for one in found] == [
        ("wg_wireguard.1.a", "192.168.67.5", "x")
    ]
    assert server.asked == ["networks/n1?verbose=True"]
    with pytest.raises(GoneError):
        engine.tasks("n2")
