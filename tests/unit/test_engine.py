"""What engines of each version answer, recorded, and which versions are taken.

`tests/data/engine` has one file for each: a container on two networks as it was inspected and
listed, its network, and its events from start to removal.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lib.engine import client
from lib.engine.client import NEWEST_API, OLDEST_API, Engine
from lib.errors import EngineError
from lib.model import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED = sorted((Path(__file__).parents[1] / "data/engine").glob("*.json"))
Answers = dict[str, Any]


@pytest.fixture(params=RECORDED, ids=lambda path: path.stem)
def answers(request: pytest.FixtureRequest) -> Answers:
    found: Answers = json.loads(request.param.read_text())
    return found


def test_every_version_of_the_api_is_between_the_two_named() -> None:
    versions = [json.loads(path.read_text())["version"]["ApiVersion"] for path in RECORDED]

    assert (versions[0], versions[-1]) == (OLDEST_API, NEWEST_API)
    assert len(versions) == 3


def test_a_container_is_the_same_from_every_version(answers: Answers) -> None:
    found, listed = client._inspected(answers["inspect"]), client._listed(answers["list"])

    assert (found.name, found.running, found.network_mode) == ("client", True, "wg-net")
    assert found.labels == {"wgroutemgr.networks": "10.9.0.0/16,2001:db8:51::/48"}
    assert {point.network: point.interfaces for point in found.endpoints} == {
        "other": (ip_interface("192.168.99.2/24"),),
        "wg-net": (ip_interface("192.168.67.2/24"), ip_interface("fd00:67::2/64")),
    }
    assert found.sandbox_key.startswith("/var/run/docker/netns/")
    assert found.upper_dir.startswith("/var/lib/docker/")
    assert (listed.id, listed.name, listed.labels) == (found.id, found.name, found.labels)
    assert {*listed.endpoints} == {*found.endpoints}


def test_a_network_is_the_same_from_every_version(answers: Answers) -> None:
    found = client._network(answers["network"])

    assert (found.name, found.driver, found.internal) == ("wg-net", "bridge", False)
    assert found.subnets == (ip_network("192.168.67.0/24"), ip_network("fd00:67::/64"))
    addresses = ip_interface("192.168.67.2/24"), ip_interface("fd00:67::2/64")
    (identifier,) = answers["network"]["Containers"]
    assert found.interfaces == {identifier: addresses}
    answers["network"]["Containers"] = {"ep-1": answers["network"]["Containers"][identifier]}
    found = client._network(answers["network"])
    assert (found.interfaces, found.attaching) == ({}, {"client": addresses})


def modern(event: Answers) -> Answers:
    """Return an event as API 1.52 has it: without the fields that it dropped."""
    return {key: value for key, value in event.items() if key not in {"status", "id", "from"}}


def test_events_are_understood_without_the_fields_that_newer_versions_dropped(
    answers: Answers,
) -> None:
    network, container = answers["network"]["Id"], answers["inspect"]["Id"]
    found = [client._event(event) for event in answers["events"]]

    assert found == [client._event(modern(event)) for event in answers["events"]]
    assert any("status" in event for event in answers["events"])
    assert Event("create", container, "client") in found
    assert Event("start", container, "client") in found
    assert Event("destroy", container, "renamed") in found
    assert Event("connect", container, network_id=network) in found
    assert {event.action for event in found if event} == {*client._FILTERS["event"]}
    assert {event.container_id for event in found if event} == {container}
    labels = {tuple(event.labels.items()) for event in found if event and not event.network_id}
    assert all(("wgroutemgr.networks", "10.9.0.0/16,2001:db8:51::/48") in items for items in labels)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """Stand in for an engine that knows nothing but its version."""
    version: Answers = {"Version": "99.0", "MinAPIVersion": "1.12"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(version).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        yield version
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("spoken", ["1.24", "1.40"])
def test_an_engine_that_is_too_old_is_refused_with_the_mend(server: Answers, spoken: str) -> None:
    server["ApiVersion"] = spoken

    with pytest.raises(EngineError) as refused:
        Engine()

    assert refused.value.reason == f"the engine is too old: API {spoken}, and 1.41 is needed"
    assert refused.value.hint == "update it to Docker 20.10 or newer"


@pytest.mark.parametrize(
    ("spoken", "newer"),
    [(OLDEST_API, False), (NEWEST_API, False), ("1.52", True), ("1.100", True), ("2.0", True)],
)
def test_an_engine_of_any_other_age_is_taken(server: Answers, spoken: str, *, newer: bool) -> None:
    server["ApiVersion"] = spoken
    found = Engine()
    found.close()

    assert (found.version, found.api_version) == ("99.0", spoken)
    assert found.is_newer_than_tried == newer


def test_an_engine_without_a_version_is_an_error_of_ours(server: Answers) -> None:
    server["ApiVersion"] = "nonsense"

    with pytest.raises(EngineError):
        Engine()
