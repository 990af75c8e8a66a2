"""What the daemon publishes for the commands beside it, and what these make of it."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from lib import state
from lib.cli.commandline import parse
from lib.model import Container, Coverage, Sidecar
from lib.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE = {"com.docker.compose.service": "wireguard", "com.docker.compose.project": "home"}


def container(key: str, name: str, **values: Any) -> Container:  # noqa: ANN401
    defaults = {"running": True, "labels": {}, "network_mode": "wg-net", "sandbox_key": "/x"}
    return Container(key, name, **{**defaults, **values}, endpoints=())


GATEWAY = container("gw", "wireguard", labels=COMPOSE | {"secret": "x"})
PLACE = Sidecar(GATEWAY, container("we", "wgroutemgr"), "wg-net", "--gateway")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "wgroutemgr.state"


def write(file: Path, place: Sidecar | None, environ: dict[str, str], *words: str) -> None:
    state.State(parse(words, environ), environ, file).publish(place)


def test_what_was_published_is_read(file: Path) -> None:
    write(file, PLACE, {"WGROUTEMGR_NETWORK": "wg-net", "HOME": "/"}, "--gateway", "wireguard")
    found = state.read(file)

    assert found
    assert found.chosen == {
        "network": "wg-net",
        "gateway": "wireguard",
        "resync-interval": "60.0",
        "on-gateway-loss": "unreachable",
        "on-tunnel-loss": "unreachable",
        "gateway-guard": "off",
        "on-stop": "keep",
        "mtu": "auto",
    }
    assert found.variables == {"WGROUTEMGR_NETWORK": "wg-net"}
    assert found.sidecar
    assert (found.sidecar.own and found.sidecar.own.id, found.sidecar.network) == ("we", "wg-net")
    assert (found.sidecar.gateway.id, found.sidecar.gateway.name) == ("gw", "wireguard")
    assert found.sidecar.gateway.labels == COMPOSE
    assert found.sidecar.named_by == "--gateway"


def test_a_person_can_read_it_whoever_that_is(file: Path) -> None:
    write(file, PLACE, {})

    assert '\n    "gateway": "wireguard",\n' in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_it_is_written_only_when_it_changes(file: Path) -> None:
    published = state.State(Settings(), {}, file)
    published.publish(PLACE)
    file.unlink()
    published.publish(PLACE)
    assert not file.exists()

    published.publish(Sidecar(GATEWAY, None, "wg-net"))
    found = state.read(file)
    assert found
    assert found.sidecar
    assert found.sidecar.own is None


def test_before_the_gateway_is_known_the_settings_are(file: Path) -> None:
    write(file, None, {}, "--network", "other")
    found = state.read(file)

    assert found
    assert (found.chosen["network"], found.sidecar) == ("other", None)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"process_start": "1"}, id="another process has its number"),
        pytest.param({"process": 2**22 + 1}, id="its process has ended"),
        pytest.param({"version": "0.0.1"}, id="of another version"),
    ],
)
def test_what_a_daemon_left_that_is_gone_holds_no_more(
    file: Path, changes: dict[str, object]
) -> None:
    """Where `/dev/shm` is shared with others."""
    write(file, PLACE, {})
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    assert state.read(file) is None


def test_without_a_daemon_nothing_is_published(file: Path) -> None:
    assert state.read(file) is None


def test_a_file_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    published = state.State(Settings(), {}, tmp_path / "nowhere" / "state")

    with structlog.testing.capture_logs() as logged:
        published.publish(None)
        published.publish(PLACE)

    assert [entry["event"] for entry in logged] == ["state.failed"]


KEEP = "on-gateway-loss"


@pytest.mark.parametrize(
    ("daemon", "words", "variable", "expected"),
    [
        pytest.param((), (), None, "unreachable", id="the default"),
        pytest.param((f"--{KEEP}=keep",), (), None, "keep", id="what the daemon was given"),
        pytest.param(
            (f"--{KEEP}=keep",), (f"--{KEEP}=unreachable",), None, "unreachable", id="an option"
        ),
        pytest.param((), (), "keep", "keep", id="a variable"),
    ],
)
def test_precedence(
    file: Path, daemon: tuple[str, ...], words: tuple[str, ...], variable: str | None, expected: str
) -> None:
    write(file, None, {}, *daemon)
    environ = {"WGROUTEMGR_ON_GATEWAY_LOSS": variable} if variable else {}

    found = parse(("status", *words), environ, state.read(file))

    assert found.on_gateway_loss == expected


def test_a_variable_that_the_daemon_has_too_does_not_win_over_its_option(file: Path) -> None:
    variables = {"WGROUTEMGR_ON_GATEWAY_LOSS": "unreachable", "WGROUTEMGR_GATEWAY": "other"}
    write(file, None, variables, f"--{KEEP}=keep", "--gateway=wireguard")

    found = parse(["status"], variables, state.read(file))

    assert (found.on_gateway_loss, found.gateway) == ("keep", None)
    assert parse(["status"], {"WGROUTEMGR_GATEWAY": "x"}, state.read(file)).gateway == "x"


def test_all_networks_are_read_with_what_the_tunnels_cover_of_each(file: Path) -> None:
    place = PLACE.on(("lab-net", "wg-net"))
    dst = ip_network("10.8.0.0/16")
    covered = {"wg-net": Coverage(frozenset({dst})), "lab-net": Coverage(None, "who knows?")}
    state.State(Settings(), {}, file).publish(place, {dst: 5.0}, covered)
    found = state.read(file)

    assert found
    assert found.sidecar
    assert found.sidecar.networks == ("lab-net", "wg-net")
    assert found.coverage == {"wg-net": Coverage(frozenset({dst}))}
    assert found.lost == {dst: 5.0}


def test_the_service_that_is_followed_is_read(file: Path) -> None:
    state.State(Settings(gateway_service="wg_wireguard"), {}, file).publish(
        PLACE._replace(service="wg_wireguard")
    )
    found = state.read(file)

    assert found
    assert found.chosen["gateway-service"] == "wg_wireguard"
    assert found.sidecar
    assert found.sidecar.service == "wg_wireguard"
