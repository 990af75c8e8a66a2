"""Which container we are, where several share the gateway's namespace, and whom we follow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from lib.engine import sidecar
from lib.errors import NotReadyError
from lib.model import Container
from lib.settings import DEFAULT_NETWORK, Settings
from tests.fakes import StandInEngine

if TYPE_CHECKING:
    from pathlib import Path

    from lib.engine.client import Engine

GATEWAY, OURS = "fedcba9876543210" * 4, "0123456789abcdef" * 4


def container(name: str, network_mode: str, sandbox_key: str) -> Container:
    return Container(
        id=name,
        name=name,
        running=True,
        labels={},
        network_mode=network_mode,
        sandbox_key=sandbox_key,
        endpoints=(),
    )


def sharing(name: str, label: str, layer: str = "") -> Container:
    other = container(name, f"container:{GATEWAY}", "")
    return replace(other, labels={"wgroutemgr.network": label}, upper_dir=layer)


def served(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    layer: str,
    *others: Container,
    listing: tuple[Container, ...] | None = None,
) -> sidecar.Sidecar:
    """Find our place where only the writable layer tells us from the others."""
    cgroup, mountinfo = tmp_path / "cgroup", tmp_path / "mountinfo"
    cgroup.write_text("0::/\n")
    files = ((one.id, "hostname") for one in others if one.id == OURS)
    containers = "/var/lib/docker/containers"
    mountinfo.write_text(
        f"610 520 0:52 / / rw - overlay overlay rw,upperdir={layer},workdir=/w\n"
        + "".join(
            f"620 610 8:1 {containers}/{key}/{name} /etc/{name} rw - ext4 /dev/sda rw\n"
            for key, name in (*files, (GATEWAY, "hosts"))
        )
    )
    monkeypatch.setattr(sidecar, "CGROUP", cgroup)
    monkeypatch.setattr(sidecar, "MOUNTINFO", mountinfo)
    gateway = container(GATEWAY, "wg-net", "/proc/self/ns/net")
    engine = cast("Engine", StandInEngine((gateway, *others), listing=listing))
    return sidecar.find(engine, Settings())


def test_writable_layer_tells_us_from_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = sharing("other", "wg-net", "/layers/1"), sharing("we", "second", "/layers/2")

    assert served(monkeypatch, tmp_path, "/layers/2", *both).network == "second"


def test_without_a_layer_no_label_is_guessed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = sharing("other", "third"), sharing("we", "second")
    found = served(monkeypatch, tmp_path, "/snapshots/2/fs", *both)

    assert (found.own, found.network) == (None, DEFAULT_NETWORK)


@pytest.mark.parametrize("label", ["second", "third"])
def test_without_a_layer_a_label_that_all_have_is_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, label: str
) -> None:
    both = sharing("other", label), sharing("we", label)

    assert served(monkeypatch, tmp_path, "/snapshots/2/fs", *both).network == label


def test_gateway_is_not_we_where_our_own_file_and_its_namespace_are_told_of_us_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As by Podman 4."""
    we = replace(sharing(OURS, "second"), sandbox_key="/proc/self/ns/net")

    found = served(monkeypatch, tmp_path, "/layers/2", we)

    assert found.gateway.id == GATEWAY
    assert (found.own, found.network) == (we, "second")


def test_we_are_found_although_the_listing_does_not_tell_whose_namespace_is_shared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As by Podman 4.3."""
    both = container("client", "wg-net", "/run/netns/1"), sharing("we", "second", "/layers/2")
    listing = tuple(replace(one, network_mode="") for one in both)

    found = served(monkeypatch, tmp_path, "/layers/2", *both, listing=listing)

    assert (found.own, found.network) == (both[1], "second")


# --- the gateway's successor --------------------------------------------------------------------

COMPOSE = {
    "com.docker.compose.project": "home",
    "com.docker.compose.service": "wireguard",
    "com.docker.compose.container-number": "1",
    "com.docker.compose.oneoff": "False",
}
ONE_OFF = COMPOSE | {"com.docker.compose.oneoff": "True"}


def task(name: str) -> dict[str, str]:
    service = name.partition(".")[0]
    return {"com.docker.swarm.service.name": service, "com.docker.swarm.task.name": name}


def made(
    key: str, labels: dict[str, str] | None = None, *, name: str = "wireguard", running: bool = True
) -> Container:
    return Container(key, name, running, labels or {}, "wg-net", "", ())


def followed(last: Container, *there: Container) -> str:
    """Return the id of the one that is followed, and nothing if nobody is."""
    try:
        return sidecar.follow(cast("Engine", StandInEngine(there)), last).id
    except NotReadyError:
        return ""


RUNS, ENDED = made("old"), made("old", running=False)
IN_COMPOSE = made("old", COMPOSE, name="home-wireguard-1")
BY_HAND = made("old", ONE_OFF, name="mine")
TASK = made("old", task("wg.1.abc"), name="wg.1.abc")


@pytest.mark.parametrize(
    ("last", "there", "expected"),
    [
        pytest.param(RUNS, [RUNS, made("new", name="other")], "old", id="it runs"),
        pytest.param(RUNS, [replace(RUNS, name="before")], "old", id="it was renamed"),
        pytest.param(RUNS, [ENDED], "old", id="it ended"),
        pytest.param(RUNS, [], "", id="it is gone"),
        pytest.param(RUNS, [made("new")], "new", id="it was made anew"),
        pytest.param(RUNS, [made("wireguard", name="other")], "", id="another's id is its name"),
        pytest.param(
            RUNS,
            [replace(RUNS, name="before"), made("new")],
            "old",
            id="an updater has renamed it and started the next",
        ),
        pytest.param(
            RUNS,
            [replace(ENDED, name="before"), made("new")],
            "new",
            id="an updater has ended it, too",
        ),
        pytest.param(
            RUNS,
            [replace(ENDED, name="before"), made("new", running=False)],
            "new",
            id="an updater is about to start the next",
        ),
        pytest.param(
            IN_COMPOSE,
            [made("new", COMPOSE, name="f00_home-wireguard-1")],
            "new",
            id="the same of its service",
        ),
        pytest.param(
            IN_COMPOSE,
            [
                made("kept", COMPOSE, name="before"),
                made("new", COMPOSE, name="home-wireguard-1"),
            ],
            "new",
            id="two of its service run, one has its name",
        ),
        *(
            pytest.param(IN_COMPOSE, [made("new", COMPOSE | {key: "2"}, name="x")], "", id=key)
            for key in COMPOSE
            if key != "com.docker.compose.oneoff"
        ),
        pytest.param(
            IN_COMPOSE,
            [made("new", ONE_OFF, name="home-wireguard-run-1")],
            "",
            id="a one-off of its service",
        ),
        pytest.param(
            IN_COMPOSE,
            [replace(IN_COMPOSE, running=False), made("new", ONE_OFF, name="run-1")],
            "old",
            id="a one-off beside it, ended",
        ),
        pytest.param(
            IN_COMPOSE,
            [made("new", ONE_OFF, name="home-wireguard-1")],
            "",
            id="a one-off that has its name",
        ),
        pytest.param(BY_HAND, [made("new", ONE_OFF, name="mine")], "new", id="a one-off again"),
        pytest.param(BY_HAND, [made("new", ONE_OFF, name="x")], "", id="another one-off"),
        pytest.param(BY_HAND, [made("new", COMPOSE, name="x")], "", id="a one-off's service"),
        pytest.param(
            TASK,
            [replace(TASK, running=False), made("new", task("wg.1.def"), name="wg.1.def")],
            "new",
            id="the next task, beside the one that ended",
        ),
        pytest.param(
            TASK, [made("new", task("wg.2.def"), name="wg.2.def")], "", id="a task in another slot"
        ),
        pytest.param(
            TASK, [made("new", task("vpn.1.def"), name="vpn.1.def")], "", id="of another service"
        ),
        pytest.param(
            made("old"), [made("new", name="other")], "", id="no label makes nobody alike"
        ),
    ],
)
def test_who_is_followed(last: Container, there: list[Container], expected: str) -> None:
    assert followed(last, *there) == expected


def test_a_gateway_that_runs_is_followed_by_one_question() -> None:
    engine = StandInEngine((IN_COMPOSE,))
    sidecar.follow(cast("Engine", engine), IN_COMPOSE)

    assert engine.calls == ["inspect old"]
