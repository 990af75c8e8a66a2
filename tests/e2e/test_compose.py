"""The examples, run by Compose as they stand. Only the images are our own.

And, as the documents say it, the directory of namespaces is the one that the engine has.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.doctor_site import ask
from tests.e2e.look import await_event, await_routes, routes
from tests.e2e.uplink import SENDER, Uplink
from tests.lab import images
from tests.lab.engine import Docker, poll
from tests.lab.engines import SETUPS
from tests.lab.rootfs import COMPOSE, rootfs
from tests.lab.site import Container, Lab
from tests.readme import ROOT, compose, example

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.engine import Engine


GATEWAY, CLIENT = example("two-sites/site1"), example("two-sites/site1/dovecot")
SHARED = "as-in-the-seed"
ROUTE = {"192.168.66.0/24": "192.168.67.129"}
MIRRORED = {"192.168.67.0/24": "192.168.66.129"}
APART = 2.5
"""Seconds between starts by which one tells itself from another."""
IMAGES = {
    "linuxserver/wireguard": images.CLIENT,
    "wgroutemgr": images.PRODUCT,
    "dovecot/dovecot": images.CLIENT,
}
PROXY = example("behind-a-socket-proxy")["services"]["socket-proxy"]["image"]
DOCKERFILE = f"""
FROM {images.BASE}
COPY proxy.py /
ENTRYPOINT ["python3", "/proxy.py"]
"""
"""Of a stand-in for the filtering proxy."""


class Project:
    """A folder with a Compose file."""

    def __init__(self, engine: Engine, folder: Path, content: object, suite: str) -> None:
        self.engine = engine
        self.folder = folder
        self.program = rootfs(suite) / COMPOSE
        folder.mkdir()
        text = json.dumps(content).replace(Docker.netns, engine.netns)
        (folder / "compose.yaml").write_text(text)

    def run(self, *words: str) -> str:
        """Run `docker compose` there and return what it printed on standard output."""
        done = subprocess.run(
            [str(self.program), *words],
            cwd=self.folder,
            env=self.engine.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout


@pytest.fixture
def suite(pytestconfig: pytest.Config) -> str:
    return SETUPS[pytestconfig.getoption("--engine")].suite


@pytest.fixture(autouse=True)
def named_as_in_the_examples(engine: Engine) -> Iterator[None]:
    for name, ours in IMAGES.items():
        engine.docker("tag", ours, name)
    yield
    engine.docker("rmi", *IMAGES)


@pytest.fixture
def proxy(engine: Engine, tmp_path: Path) -> Iterator[None]:
    """Have a proxy of the documented one's name, which takes its words."""
    folder = tmp_path / "proxy"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE)
    shutil.copy(Path(__file__).with_name("proxy.py"), folder)
    images.base(engine)
    engine.docker("build", "--quiet", "--force-rm", "--tag", PROXY, str(folder))
    yield
    engine.docker("rmi", PROXY)


def healthy(engine: Engine) -> bool:
    return Container(engine, "wgroutemgr").inspect("{{.State.Health.Status}}") == "healthy"


def await_age(container: Container) -> None:
    """Wait until a container has run for long enough to be told from later ones."""

    def is_old() -> bool:
        started = datetime.fromisoformat(container.inspect("{{.State.StartedAt}}"))
        return (datetime.now(UTC) - started).total_seconds() > APART

    assert poll(is_old, 10)


def states(engine: Engine) -> list[str]:
    status = Container(engine, "wgroutemgr").exec("wgroutemgr", "status", "--json")
    return [row["state"] for row in json.loads(status)["routes"]]


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(
    ("folders", "route"),
    [
        (["two-sites/site1", "two-sites/site1/dovecot"], ROUTE),
        (["two-sites/site2", "two-sites/site2/dovecot"], MIRRORED),
        ([SHARED], ROUTE),
        (["behind-a-socket-proxy"], ROUTE),
    ],
    ids=["site1", "site2", SHARED, "behind-a-socket-proxy"],
)
def test_an_example_works_as_it_is_written(
    engine: Engine, tmp_path: Path, suite: str, folders: list[str], route: dict[str, str]
) -> None:
    projects = [
        Project(engine, tmp_path / f"project{number}", example(folder), suite)
        for number, folder in enumerate(folders)
    ]
    gateway, dovecot = projects[0], Container(engine, "dovecot")
    try:
        for project in projects:
            project.run("up", "--detach")
        await_routes(dovecot, route)
        assert poll(lambda: healthy(engine), 30)

        gateway.run("restart", "wireguard")  # A sidecar in its network with it: `restart: true`.
        await_routes(dovecot, route)
        assert poll(lambda: healthy(engine), 30)
        assert states(engine) == ["ok"]

        # As an updater does it.
        gateway.run("up", "--detach", "--no-deps", "--force-recreate", "wireguard")
        await_routes(dovecot, route)
        assert states(engine) == ["ok"]
        if folders == [SHARED]:
            stranded = await_event(Container(engine, "wgroutemgr"), "sidecar.stranded")
            assert ask(Container(engine, "wgroutemgr")).one("gateway").mend == [stranded["hint"]]
            gateway.run(*stranded["hint"].split()[2:])
            await_routes(dovecot, route)
        assert ask(Container(engine, "wgroutemgr")).one("gateway").level == "ok"

        gateway.run("stop", "wgroutemgr")
        withdrawn = gateway.run("run", "--rm", "wgroutemgr", "withdraw")
        ((dst, via),) = route.items()
        assert withdrawn.rstrip().endswith(f" ip route del {dst} via {via}")
        assert routes(dovecot) == {}
    finally:
        for project in reversed(projects):
            project.run("down", "--volumes", "--timeout", "1")


def test_one_of_two_gateways_stands_in_for_the_other(
    engine: Engine, tmp_path: Path, suite: str
) -> None:
    project = Project(engine, tmp_path / "site", example("two-gateways"), suite)
    both, dovecot = ("192.168.66.0/24", "192.168.77.0/24"), Container(engine, "dovecot")
    ours, theirs = "192.168.67.129", "192.168.67.130"
    try:
        project.run("up", "--detach")
        await_routes(dovecot, dict(zip(both, (ours, theirs), strict=True)))
        for name, dst in zip(("wgroutemgr", "wgroutemgr-home"), both, strict=True):
            shown = Container(engine, name).exec("wgroutemgr", "status", "--json")
            rows = json.loads(shown)["routes"]
            assert [(row["dst"], row["state"]) for row in rows] == [(dst, "ok")]

        project.run("stop", "wireguard")
        await_routes(dovecot, dict.fromkeys(both, theirs))

        project.run("start", "wireguard")
        await_routes(dovecot, dict(zip(both, (ours, theirs), strict=True)))
    finally:
        project.run("down", "--timeout", "1")


def test_a_command_of_its_own_beside_the_daemon_knows_its_label(
    engine: Engine, tmp_path: Path, suite: str
) -> None:
    """All are in one namespace, and containerd's image store tells of no writable layer."""
    content = json.loads(json.dumps(example(SHARED)).replace('"wg-net"', '"vpn"'))
    other = {"container_name": "other", "labels": {"wgroutemgr.network": "lab"}}
    content["services"]["other"] = content["services"]["wgroutemgr"] | other
    project = Project(engine, tmp_path / "site", content, suite)
    try:
        for service in ("dovecot", "wgroutemgr", "other"):
            project.run("up", "--detach", service)
            await_age(Container(engine, service))
        await_routes(Container(engine, "dovecot"), ROUTE)

        (row,) = json.loads(project.run("run", "--rm", "wgroutemgr", "status", "--json"))["routes"]

        assert (row["network"], row["state"]) == ("vpn", "ok")
    finally:
        project.run("down", "--timeout", "1")


def test_who_waits_for_a_healthy_sidecar_has_its_route_when_it_is_up(
    engine: Engine, tmp_path: Path, suite: str
) -> None:
    waits = compose("waits")["services"]["dovecot"]
    dovecot = CLIENT["services"]["dovecot"] | waits
    together = GATEWAY | {"services": GATEWAY["services"] | {"dovecot": dovecot}}
    project = Project(engine, tmp_path / "site", together, suite)
    try:
        project.run("up", "--detach")

        assert healthy(engine)
        await_routes(Container(engine, "dovecot"), ROUTE)
    finally:
        project.run("down", "--timeout", "1")


def test_one_off_container_of_the_gateways_service_is_no_gateway(
    engine: Engine, tmp_path: Path, suite: str
) -> None:
    gateway = Project(engine, tmp_path / "site", GATEWAY, suite)
    client = Project(engine, tmp_path / "mail", CLIENT, suite)
    shut = dict.fromkeys(ROUTE, "unreachable")
    try:
        gateway.run("up", "--detach")
        client.run("up", "--detach")
        await_routes(Container(engine, "dovecot"), ROUTE)
        gateway.run("stop", "wireguard")
        await_routes(Container(engine, "dovecot"), shut)

        once = ("--detach", "--rm", "--no-deps", "--name", "once")
        gateway.run("run", *once, "wireguard", "sleep", "1000")
        oneoff = Container(engine, "once").inspect(
            '{{index .Config.Labels "com.docker.compose.oneoff"}}'
        )
        assert oneoff == "True"
        # Who starts after it is served after it.
        client.run("run", *once[:-1], "late", "dovecot", "sleep", "1000")
        await_routes(Container(engine, "late"), shut)
        assert routes(Container(engine, "dovecot")) == shut
    finally:
        engine.docker("rm", "--force", "once", "late")
        client.run("down", "--timeout", "1")
        gateway.run("down", "--timeout", "1")


# --- the whole way ------------------------------------------------------------------------------

WHOLE = "whole-tunnel"
TUNNEL = ROOT / "examples" / WHOLE / "wireguard/wg_confs/wg0.conf"
DOCKERFILE_OF_A_SENDER = f"""
FROM {images.CLIENT}
CMD {json.dumps(["sh", "-c", SENDER])}
"""


@dataclass
class Whole:
    """The example, with a tunnel of the lab in the place of WireGuard, and what leaves past it."""

    project: Project
    uplink: Uplink

    @property
    def gateway(self) -> Container:
        return Container(self.project.engine, "wireguard")

    def tunnel(self) -> None:
        """Do what `wg-quick up` does with the example's file."""
        self.uplink.tunnel(self.gateway)
        script = [
            *hooks("PreUp"),
            f"ip address add {setting('Address')[0]} dev wg0",
            "ip link set wg0 up",
            f"ip route add {setting('AllowedIPs')[0]} dev wg0 table {setting('FwMark')[0]}",
            f"ip rule add not fwmark {setting('FwMark')[0]} table {setting('FwMark')[0]}",
            "ip rule add table main suppress_prefixlength 0",
            *hooks("PostUp"),
        ]
        here = setting("Address")[0]
        there = [
            "ip link set wg0 up",
            "ip address replace 10.64.0.1/32 dev lo",
            f"ip route replace {here} dev wg0",
        ]
        self.gateway.enter("sh", "-ec", "\n".join(script))
        self.uplink.far.enter("sh", "-ec", "\n".join(there))

    def no_tunnel(self) -> None:
        """Do what `wg-quick down` does with it."""
        script = [
            f"ip rule del not fwmark {setting('FwMark')[0]} table {setting('FwMark')[0]}",
            "ip rule del table main suppress_prefixlength 0",
            "ip link del wg0",
            *hooks("PostDown"),
        ]
        self.gateway.enter("sh", "-ec", "\n".join(script))


def setting(name: str) -> list[str]:
    """Return what the example's tunnel says under that name."""
    lines = (line.partition(" = ") for line in TUNNEL.read_text().splitlines())
    return [value.partition(",")[0] for key, _, value in lines if key == name]


def hooks(name: str) -> list[str]:
    return [line.replace("%i", "wg0") for line in setting(name)]


@pytest.fixture
def whole(engine: Engine, tmp_path: Path, suite: str) -> Iterator[Whole]:
    folder = tmp_path / "sender"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE_OF_A_SENDER)
    engine.docker("build", "--quiet", "--force-rm", "--tag", "dovecot/dovecot", str(folder))
    project = Project(engine, tmp_path / WHOLE, example(WHOLE), suite)
    with Lab(engine) as lab:
        far = lab.client("far", "none")
        with Uplink(far) as uplink:
            try:
                yield Whole(project, uplink)
            finally:
                project.run("down", "--volumes", "--timeout", "1")


def test_not_one_packet_leaves_past_the_tunnel_whoever_is_away(whole: Whole) -> None:
    """The client sends all the time, from its first instruction on."""
    run, docker = whole.project.run, whole.project.engine.docker
    step, flows = whole.uplink.step, whole.uplink.flows
    step("client alone", lambda: run("up", "--detach", "dovecot"))
    step("with the gateway", lambda: run("up", "--detach", "wireguard"))
    step("with the sidecar", lambda: run("up", "--detach"))
    step("with the tunnel", whole.tunnel)
    assert flows()
    mark = setting("FwMark")[0]
    tunnels_own = whole.gateway.enter("ip", "route", "get", "203.0.113.2", "mark", mark)
    assert " via 172.31.67.1 dev " in tunnels_own

    step("tunnel down", whole.no_tunnel)
    step("tunnel up", whole.tunnel)
    assert flows()
    for part in ("dovecot", "wgroutemgr", "wireguard"):
        acts = {
            "restarted": ("restart", "--timeout", "1"),
            "killed": ("kill",),
            "made anew": ("up", "--detach", "--no-deps", "--force-recreate"),
        }
        for what, words in acts.items():
            step(f"{part} {what}", lambda: run(*words, part))  # noqa: B023 - called at once
            is_away = what == "killed" and part != "wgroutemgr"
            if part == "wireguard" and not is_away:
                step(f"{part} {what}, tunnel up", whole.tunnel)
            assert is_away or flows(), (part, what)
    step("engine restarted", whole.project.engine.restart)
    step("client disconnected", lambda: docker("network", "disconnect", "wg-net", "dovecot"))
    step("client connected", lambda: docker("network", "connect", "wg-net", "dovecot"))
    assert flows()

    step("sidecar stopped", lambda: run("stop", "--timeout", "1", "wgroutemgr"))
    step("then gateway restarted", lambda: run("restart", "--timeout", "1", "wireguard"))
    step("then client restarted", lambda: run("restart", "--timeout", "1", "dovecot"))
    step("then gateway removed", lambda: run("rm", "--force", "--stop", "wireguard"))

    assert whole.uplink.leaky() == {}
