"""A pass over several namespaces of which one is sick, with a stand-in for the engine."""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, cast

import pytest
import structlog

from lib.kernel.access import Kernel
from lib.kernel.shells import Shells
from lib.model import NETWORKS_LABEL, Container, DockerNetwork, Endpoint, Route
from lib.reconcile.reconciler import Reconciler
from lib.reconcile.report import Report, Scope
from lib.settings import Settings
from tests.fakes import StandInEngine
from tests.integration import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lib.engine.client import Engine
    from tests.integration.kernel import Namespace

DST = "203.0.113.0/24"
LIMIT = 1.0


def container(name: str, netns: str, address: str, label: str = DST) -> Container:
    point = Endpoint("wg-net", "n" * 64, (ip_interface(f"{address}/24"),))
    labels = {NETWORKS_LABEL: label} if label else {}
    return Container(
        id=f"{name:0<64}",
        name=name,
        running=True,
        labels=labels,
        network_mode="wg-net",
        sandbox_key=netns,
        endpoints=(point,),
    )


@pytest.fixture
def spaces(tmp_path: Path) -> Iterator[list[Namespace]]:
    """Make namespaces a, b and c, each with a link on which its gateway is."""
    with ExitStack() as stack:
        made = [stack.enter_context(kernel.namespace(tmp_path / name)) for name in "abc"]
        for number, space in enumerate(made):
            space.ip(
                "link set lo up",
                "link add eth0 type veth peer name peer0",
                "link set eth0 up",
                "link set peer0 up",
                f"address add 192.0.2.{number + 1}/24 dev eth0",
            )
        yield made


@pytest.fixture
def engine(spaces: list[Namespace]) -> StandInEngine:
    clients = [
        container(space.path.name, str(space.path), f"192.0.2.{number + 1}")
        for number, space in enumerate(spaces)
    ]
    gateway = container("gateway", "", "192.0.2.129", label="")
    network = DockerNetwork("n" * 64, "wg-net", (ip_network("192.0.2.0/24"),), {})
    return StandInEngine((gateway, *clients), on=(network,))


class Passes:
    """Passes over the real kernel, and what the last one left to do."""

    def __init__(self, kernel: Kernel) -> None:
        settings = Settings(network="wg-net", gateway="gateway")
        self.reconciler = Reconciler(kernel, settings, lambda _: 60.0)
        self.report: Report | None = None

    def run(self, engine: StandInEngine, only: frozenset[str] | None = None) -> int:
        """Run a pass, and return for how many containers something failed."""
        scope = Scope("test", only or frozenset(), is_full=not only)
        self.report = self.reconciler.run(cast("Engine", engine), scope)
        return len(self.report.failing)

    @property
    def unfinished(self) -> frozenset[str]:
        assert self.report
        return frozenset(work.container_id for work in self.report.unfinished)


@pytest.fixture
def reconciler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Passes]:
    """Make one whose `nsenter` hangs as long as a file says for which namespace."""
    script = tmp_path / "bin" / "nsenter"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = "--net=$(cat {tmp_path}/sick 2>/dev/null)" ] && sleep 1000\n'
        f'exec {kernel.NSENTER} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    shells = Shells(LIMIT)
    yield Passes(Kernel(shells))
    shells.close()


def wanted() -> list[Route]:
    return [Route(ip_network(DST), ip_address("192.0.2.129"), 0)]


def served(spaces: list[Namespace]) -> list[bool]:
    return [all(route in space.routes(4) for route in wanted()) for space in spaces]


def run(reconciler: Passes, engine: StandInEngine, only: frozenset[str] | None = None) -> int:
    return reconciler.run(engine, only)


def test_command_that_hangs_delays_the_others_once_and_is_tried_apart(
    reconciler: Passes, engine: StandInEngine, spaces: list[Namespace], tmp_path: Path
) -> None:
    sick = tmp_path / "sick"
    sick.write_text(str(spaces[0].path))

    with structlog.testing.capture_logs() as logged:
        assert run(reconciler, engine) == 1
        assert served(spaces) == [False, True, True]
        spaces[1].ip(f"route del {DST}")
        begun = time.monotonic()
        assert run(reconciler, engine) == 1
        assert time.monotonic() - begun < LIMIT
        assert served(spaces) == [False, True, True]
        assert run(reconciler, engine, reconciler.unfinished) == 1

    (failed,) = [entry for entry in logged if entry["event"] == "route.failed"]
    assert (failed["container"], failed["exit_code"], failed["log_level"]) == ("a", 124, "warning")
    sick.unlink()
    assert run(reconciler, engine, reconciler.unfinished) == 0
    assert served(spaces) == [True, True, True]


def test_engine_that_is_silent_about_one_container_serves_the_others(
    reconciler: Passes, engine: StandInEngine, spaces: list[Namespace]
) -> None:
    engine.silent_about = "b"

    assert run(reconciler, engine) == 1
    assert served(spaces) == [True, False, True]
    assert reconciler.report
    assert reconciler.report.failing == ("b",)
    engine.silent_about = ""
    assert run(reconciler, engine, reconciler.unfinished) == 0
    assert served(spaces) == [True, True, True]


def test_namespace_file_that_is_none_fails_only_its_container(
    reconciler: Passes, engine: StandInEngine, spaces: list[Namespace], tmp_path: Path
) -> None:
    (tmp_path / "plain").touch()
    gateway, first, *others = engine.known
    engine.known = (gateway, first._replace(sandbox_key=str(tmp_path / "plain")), *others)

    with structlog.testing.capture_logs() as logged:
        assert run(reconciler, engine) == 1
    (failed,) = [entry for entry in logged if entry["event"] == "client.failed"]
    assert "rslave" in failed["hint"]
    assert served(spaces) == [False, True, True]


def test_routes_that_cannot_be_read_are_told_of_and_read_later(
    reconciler: Passes, engine: StandInEngine, spaces: list[Namespace]
) -> None:
    with kernel.few_descriptors(spare=1), structlog.testing.capture_logs() as logged:
        assert run(reconciler, engine) == 3

    failed = [entry for entry in logged if entry["event"] == "client.failed"]
    assert [(entry["container"], entry["reason"]) for entry in failed] == [
        (space.path.name, f"cannot read the routes in {space.path}: {os.strerror(errno.EMFILE)}")
        for space in spaces
    ]
    assert run(reconciler, engine, reconciler.unfinished) == 0
    assert served(spaces) == [True, True, True]


def test_a_pass_with_nothing_to_do_says_and_changes_nothing(
    reconciler: Passes, engine: StandInEngine, spaces: list[Namespace]
) -> None:
    run(reconciler, engine)
    before = [space.entries() for space in spaces]

    with structlog.testing.capture_logs() as logged:
        assert run(reconciler, engine) == 0

    report = reconciler.report
    assert report
    assert (report.clients, report.routes, report.changed) == (3, 3, 0)
    assert logged == []
    assert [space.entries() for space in spaces] == before


def test_failed_container_is_tried_again_also_while_the_gateway_is_lost(
    reconciler: Passes, engine: StandInEngine, spaces: list[Namespace], tmp_path: Path
) -> None:
    sick = tmp_path / "sick"
    sick.write_text(str(spaces[0].path))
    assert run(reconciler, engine) == 1
    gateway, *clients = engine.known
    engine.known = (gateway._replace(running=False), *clients)

    assert run(reconciler, engine, frozenset({gateway.id})) == 1
    assert reconciler.unfinished == {clients[0].id}
    sick.unlink()
    assert run(reconciler, engine, reconciler.unfinished) == 0
    assert reconciler.unfinished == frozenset()

    shut = [Route(ip_network(DST), None, 0, "unreachable")]
    assert [space.routes(4)[-1:] for space in spaces] == [shut, shut, shut]


def test_silence_about_the_gateway_leaves_everything_as_it_is(
    reconciler: Passes, engine: StandInEngine, spaces: list[Namespace]
) -> None:
    assert run(reconciler, engine) == 0
    engine.silent_about = "gateway"
    spaces[0].ip(f"route del {DST}")

    assert run(reconciler, engine) == 0
    assert served(spaces) == [True, True, True]


def test_container_in_anothers_namespace_that_ended_loses_its_routes_though_still_listed(
    reconciler: Passes, engine: StandInEngine, spaces: list[Namespace]
) -> None:
    """As of Docker 20.10, which tells of the end a moment before its listing shows it."""
    lodger = engine.known[1]._replace(id="d" * 64, name="d", network_mode="container:a")
    host = engine.known[1]._replace(labels={})
    engine.known = (engine.known[0], host, lodger)
    assert run(reconciler, engine) == 0
    assert served(spaces)[0]

    engine.listing = engine.known
    engine.known = (engine.known[0], host, lodger._replace(running=False))
    assert run(reconciler, engine, frozenset({lodger.id})) == 0

    assert not served(spaces)[0]


def test_route_that_was_gone_when_it_was_to_be_taken_back_is_not_ours_any_more(
    reconciler: Passes, engine: StandInEngine, spaces: list[Namespace]
) -> None:
    """Such as that of another sidecar, on whose network the container is now."""
    assert run(reconciler, engine) == 0
    spaces[0].ip(f"route del {DST}")
    gateway, left, *others = engine.known
    elsewhere = Endpoint("other", "o" * 64, left.endpoints[0].interfaces)
    engine.known = (gateway, left._replace(endpoints=(elsewhere,)), *others)
    assert run(reconciler, engine) == 0

    spaces[0].ip(f"route add {DST} via 192.0.2.129")

    assert run(reconciler, engine) == 0
    assert served(spaces)[0]


def test_unreachable_that_was_there_already_is_looked_at_once_more(
    reconciler: Passes, engine: StandInEngine, spaces: list[Namespace]
) -> None:
    """Another sidecar may take it back, whose network the container has just left."""
    gateway, client, *_ = engine.known
    assert run(reconciler, engine) == 0
    engine.known = (gateway._replace(running=False), client)
    spaces[0].ip(f"route replace unreachable {DST}")

    assert run(reconciler, engine) == 0
    assert reconciler.unfinished == {client.id}
    spaces[0].ip(f"route del unreachable {DST}")
    assert run(reconciler, engine, reconciler.unfinished) == 0

    assert reconciler.unfinished == frozenset()
    assert Route(ip_network(DST), None, 0, "unreachable") in spaces[0].routes(4)
