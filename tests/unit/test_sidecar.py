"""Which container we are, where several share the gateway's namespace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from lib.engine import sidecar
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
