"""An engine that hangs in the middle of a pass, while the gateway's tunnel goes and comes."""

from __future__ import annotations

import threading
from functools import partial
from ipaddress import ip_interface
from typing import TYPE_CHECKING, TypeVar

import pytest

from lib.errors import EngineError
from lib.health import verdict
from lib.model import NETWORKS_LABEL, Endpoint, Event
from tests.fake_kernel import FakeKernel
from tests.unit.test_daemon import (
    CLIENT,
    CLIENT_PATH,
    GATEWAY,
    GATEWAY_PATH,
    SECONDS,
    Engine,
    Site,
    Woken,
    events,
    passes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from lib.model import Container

T = TypeVar("T")
Seen = list[tuple[list[str], list[str]]]

DST = "10.8.0.0/16"
NEW_PATH = "/run/docker/netns/cccc"
NEW = CLIENT._replace(
    id="c2",
    name="postfix",
    sandbox_key=NEW_PATH,
    endpoints=(Endpoint("wg-net", "n1", (ip_interface("192.0.2.8/24"),)),),
)
SHUT, OPEN = (
    f"nsenter --net={CLIENT_PATH} ip route replace {words}"
    for words in (f"unreachable {DST}", f"{DST} via 192.0.2.1")
)
NEW_SHUT, NEW_OPEN = (line.replace(CLIENT_PATH, NEW_PATH) for line in (SHUT, OPEN))


class Hanging(Engine):
    """An engine that once does not answer a question until a test lets it."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.clock, GATEWAY, CLIENT)
        self.site = site
        self.question = ""
        """The call that is not answered."""
        self.begin = 0.0
        """From when on, by the clock."""
        self.skipped = 0
        """How often it is answered from then on."""
        self.freed = threading.Event()
        self.error: EngineError | None = None
        """What comes of it in the end, if it is no answer."""

    def inspect(self, reference: str) -> Container:
        return self._answer(f"inspect {reference}", partial(super().inspect, reference))

    def containers(
        self, *labels: str, running: bool = True, ids: Iterable[str] | None = None
    ) -> tuple[Container, ...]:
        call = partial(super().containers, *labels, running=running, ids=ids)
        return self._answer("containers", call)

    def _answer(self, question: str, call: Callable[[], T]) -> T:
        is_held = question == self.question and self.clock.now >= self.begin
        if not is_held or self.freed.is_set():
            return call()
        if self.skipped:
            self.skipped -= 1
            return call()

        def answered() -> T:
            assert self.freed.wait(SECONDS)
            if self.error:
                raise self.error
            return call()

        found: T = self.site.ask(answered)
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return one whose gateway has a tunnel."""
    site = Site(tmp_path)
    site.kernel = FakeKernel(width=2)
    site.kernel.add(GATEWAY_PATH, addresses=["192.0.2.1/24"])
    for path, address in ((CLIENT_PATH, "192.0.2.7/24"), (NEW_PATH, "192.0.2.8/24")):
        site.kernel.add(path, addresses=[address])
    site.kernel.tunnel(GATEWAY_PATH, DST)
    return site


def hang(
    site: Site, question: str, at: float, error: EngineError | None = None, *, skipped: int = 0
) -> Seen:
    """Have the engine hang from then on for 9 s, and the tunnel go after one of them.

    What ran until the engine answers, and what is lost then, is put into what is returned.
    """
    site.engine = engine = Hanging(site)
    engine.question, engine.begin, engine.error = question, site.clock.now + at, error
    engine.skipped = skipped
    seen: Seen = []

    def free() -> None:
        seen.append(([*site.kernel.commands], [*map(str, site.lost[-1])]))
        engine.freed.set()

    site.meanwhile = [
        (engine.begin + 1, lambda: site.kernel.close_tunnel(GATEWAY_PATH, DST)),
        (engine.begin + 9, free),
    ]
    return seen


@pytest.mark.parametrize(
    ("question", "about"),
    [
        ("inspect gw", ["gw"]),
        ("containers", ["c1"]),
        ("inspect c1", ["c1"]),
        ("inspect c1", ["gw", "c1"]),
    ],
)
@pytest.mark.parametrize("error", [None, EngineError("the engine was silent for too long")])
def test_a_tunnel_that_goes_while_a_pass_waits_for_the_engine(
    site: Site, question: str, about: list[str], error: EngineError | None
) -> None:
    """It is acted on at once, told once, and verified when the engine is back."""
    seen = hang(site, question, 5.0, error)
    site.engine.scripts = [[(5.0, [Event("start", one) for one in about])]]
    site.engine.seconds = 40.0
    logged = site.run()

    assert seen == [([OPEN, SHUT], [DST])]
    assert site.kernel.commands == [OPEN, SHUT]
    assert events(logged).count("tunnel.lost") == 1
    assert "tunnel.found" not in events(logged)
    last = ["tunnel", "reconnect"] if error else ["start", "tunnel", "tunnel"]
    assert passes(logged) == ["startup", "tunnel", *last]
    assert verdict(site.file).endswith(f": {DST}")


def test_a_tunnel_that_comes_back_while_a_pass_waits_for_the_engine(site: Site) -> None:
    seen = hang(site, "inspect gw", 5.0)
    (goes, *then), comes = site.meanwhile, lambda: site.kernel.tunnel(GATEWAY_PATH, DST)
    site.meanwhile = [goes, (site.clock.now + 7, comes), *then]
    site.engine.scripts = [[(5.0, [Event("start", "gw")])]]
    site.run()

    assert seen == [([OPEN, SHUT, OPEN], [])]
    assert verdict(site.file) == "ok"


def test_a_gateway_in_anothers_namespace_is_looked_at_where_it_was(site: Site) -> None:
    """It is known by name again, and its namespace not yet."""
    seen = hang(site, "inspect vpn", 5.0)
    guest = GATEWAY._replace(network_mode="container:vpn", sandbox_key="", endpoints=())
    site.engine.known = (guest, GATEWAY._replace(id="vpn", name="vpn"), CLIENT)
    site.engine.scripts = [[(5.0, [Event("start", "gw")])]]
    site.run()

    assert seen == [([OPEN, SHUT], [DST])]


def test_who_is_being_visited_then_gets_its_routes_first(site: Site) -> None:
    """No command of a pass comes after those that make it unreachable."""
    seen = hang(site, "inspect c2", 0.0)
    site.engine.known = (GATEWAY, CLIENT, NEW)
    comes = Woken(lambda: site.kernel.tunnel(GATEWAY_PATH, DST))
    site.engine.scripts = [[(20.0, comes)]]
    site.engine.seconds = 40.0
    logged = site.run()

    assert seen == [([OPEN, SHUT], [DST])]
    assert site.kernel.commands == [OPEN, SHUT, NEW_SHUT, OPEN, NEW_OPEN]
    told = [event for event in events(logged) if str(event).startswith("tunnel.")]
    assert told == ["tunnel.lost", "tunnel.found"]


def test_who_asks_for_a_container_whose_command_failed_is_no_danger(site: Site) -> None:
    """The engine hangs where the pass is in a namespace, which is one of those to be changed."""
    other = "10.9.0.0/16"
    site.kernel.tunnel(GATEWAY_PATH, other)
    site.kernel.fail(CLIENT_PATH, "RTNETLINK answers: No such device", only=f"{other} via")
    seen = hang(site, "inspect c1", 0.0, skipped=1)
    site.engine.known = (GATEWAY, CLIENT._replace(labels={NETWORKS_LABEL: f"{DST}, {other}"}))
    site.engine.seconds = 3.0
    logged = site.run()

    assert seen[0][0][-1] == SHUT
    assert [entry for entry in logged if entry["log_level"] == "error"] == []


def test_where_no_tunnel_can_be_lost_nobody_else_asks(site: Site) -> None:
    """To hand a question over takes a fifth of what it takes to be answered."""
    askers: list[threading.Thread] = []
    site.kernel.close_tunnel(GATEWAY_PATH, DST)

    class Noting(Engine):
        def inspect(self, reference: str) -> Container:
            def question() -> Container:
                askers.append(threading.current_thread())
                return super(Noting, self).inspect(reference)

            found: Container = site.ask(question)
            return found

    site.engine = Noting(site.clock, GATEWAY, CLIENT)
    site.run()
    assert {*askers} == {threading.current_thread()}


class Bereaved(Engine):
    """An engine whose clients have lost what they were given when they are listed again."""

    def __init__(self, site: Site, paths: Iterable[str]) -> None:
        clients = (
            CLIENT._replace(id=f"c{path[-2:]}", name=f"c{path[-2:]}", sandbox_key=path)
            for path in paths
        )
        super().__init__(site.clock, GATEWAY, *clients)
        self.kernel = site.kernel
        self.paths = [*paths]
        for path in paths:
            site.kernel.add(path, addresses=["192.0.2.7/24"])

    def containers(
        self, *labels: str, running: bool = True, ids: Iterable[str] | None = None
    ) -> tuple[Container, ...]:
        if len(self.kernel.commands) == len(self.paths):
            for path in self.paths:
                self.kernel.set_link(path, up=False)
                self.kernel.set_link(path, up=True)
        return super().containers(*labels, running=running, ids=ids)


def test_a_pass_that_is_busy_goes_on_from_what_became_of_the_tunnel_meanwhile(site: Site) -> None:
    """Few still get what was decided before, and nobody does after others were cut off."""
    paths = [f"/run/docker/netns/00{number}" for number in range(10, 70)]
    site.engine = Bereaved(site, paths)
    site.engine.scripts = [[(5.0, [Event("start", "gw")])]]

    def lose_tunnel(_: str) -> None:
        if len(site.kernel.commands) == len(paths) + 4:
            site.kernel.close_tunnel(GATEWAY_PATH, DST)

    site.kernel.before_command(lose_tunnel)
    site.run()

    opened, shut = ([line.replace(CLIENT_PATH, path) for path in paths] for line in (OPEN, SHUT))
    first, again = site.kernel.commands[: len(paths)], site.kernel.commands[len(paths) :]
    assert first == opened
    assert again[:25] == opened[:25]
    assert sorted(again[25:]) == shut
