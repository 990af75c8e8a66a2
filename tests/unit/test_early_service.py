"""The thread that serves clients: towards which gateway, where, and past which failures."""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import structlog

from lib.early.service import EarlyRoutes
from lib.early.watch import NamespaceWatch
from lib.errors import EngineError, NetnsError, StaleSocketError
from lib.kernel.mounts import MountWatch
from lib.kernel.shells import Outcome
from lib.model import NETWORKS_LABEL, Event
from tests.fakes import CREATED, GATEWAY, WG_NET, StandInEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from _typeshed import FileDescriptorLike

    from lib.engine.client import Engine
    from lib.errors import WgRouteMgrError
    from lib.model import Address, EarlyClient, Gateway

SECONDS = 5.0
OTHER_GATEWAY = GATEWAY._replace(container_id="gw2", addresses=(ip_address("192.0.2.3"),))
CLIENT = CREATED._replace(labels={NETWORKS_LABEL: "10.8.0.0/16"})
NAMESPACE = "/proc/self/ns/net"
WATCHED = "tests/unit"
"""A directory that is there, in which a test's namespaces appear."""


class StandInMonitor:
    """A namespace that holds these addresses as soon as it is there."""

    def __init__(self, *addresses: Address) -> None:
        self.addresses = set(addresses)
        self.is_up = True
        self._news = os.eventfd(1)

    def fileno(self) -> int:
        return self._news

    def read(self) -> bool:
        os.set_blocking(self._news, False)
        try:
            return bool(os.eventfd_read(self._news))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._news)


class StandInWatch(NamespaceWatch):
    """Tells of namespaces that a test has appear."""

    def __init__(self) -> None:
        super().__init__()
        self._mounts_changed = os.eventfd(0, os.EFD_NONBLOCK)
        self._new: set[str] = set()
        self.followed: list[Path | None] = []

    def appear(self, path: str = NAMESPACE) -> None:
        self._new.add(path)
        os.eventfd_write(self._mounts_changed, 1)

    def follow(self, directory: Path | None) -> None:
        if [directory] != self.followed[-1:]:
            self.followed.append(directory)

    def wait(self, others: Iterable[FileDescriptorLike], seconds: float | None = None) -> None:
        poll = select.poll()
        poll.register(self._mounts_changed, select.POLLIN)
        for one in others:
            poll.register(one, select.POLLIN)
        if any(fd == self._mounts_changed for fd, _ in poll.poll(seconds and seconds * 1000)):
            os.eventfd_read(self._mounts_changed)

    def appeared(self) -> set[str]:
        found, self._new = self._new, set()
        return found


class Gate(threading.Event):
    """While it is closed, a command takes its time; who waits for commands sees it open."""

    def __init__(self) -> None:
        super().__init__()
        self._opened = os.eventfd(0, os.EFD_NONBLOCK)
        self.set()

    def set(self) -> None:
        super().set()
        os.eventfd_write(self._opened, 1)

    def clear(self) -> None:
        super().clear()
        os.eventfd_read(self._opened)

    def fileno(self) -> int:
        return self._opened


@dataclass
class Runner:
    """Notes what is run, and says how that ends."""

    ran: list[str] = field(default_factory=list)
    held: Gate = field(default_factory=Gate)
    begun: threading.Event = field(default_factory=threading.Event)
    exit_codes: list[int] = field(default_factory=list)
    """Of the first commands; all others succeed."""
    _chains: list[list[Outcome]] = field(default_factory=list)
    _told: int = 0
    rest: float = SECONDS

    def begin(self, chain: Sequence[str]) -> int:
        ended = []
        for command in chain:
            self.ran.append(command)
            code = self.exit_codes.pop(0) if self.exit_codes else 0
            ended.append(Outcome(command, code, "", 1.0))
            if code:
                break
        self._chains.append(ended)
        self.begun.set()
        return len(self._chains) - 1

    def answering(self) -> list[int]:
        return [self.held.fileno()] if self._told < len(self._chains) else []

    def ended(self, seconds: float = 0.0) -> Iterator[tuple[int, Sequence[Outcome]]]:
        if self.held.wait(seconds):
            new = list(enumerate(self._chains))[self._told :]
            self._told += len(new)
            yield from new


class Site:
    """Early routes that run, on an engine, a kernel and shells of the test's own."""

    def __init__(self, *refusals: WgRouteMgrError) -> None:
        self.engine = StandInEngine((CLIENT,), on=(WG_NET,))
        self.refusals = list(refusals)
        self.runner = Runner()
        self.watch = StandInWatch()
        self.addresses: tuple[Address, ...] = (ip_address("192.0.2.7"),)
        self.early = EarlyRoutes(
            lambda: self.runner, self._connect, monitor=self._enter, watch=self.watch
        )

    def _connect(self) -> Engine:
        if self.refusals:
            raise self.refusals.pop()
        return cast("Engine", self.engine)

    def _enter(self, path: str) -> StandInMonitor:
        if path != NAMESPACE:
            reason = f"{path} cannot be entered"
            raise NetnsError(reason)
        return StandInMonitor(*self.addresses)

    def taken(self) -> list[EarlyClient]:
        found: list[EarlyClient] = []

        def is_any() -> bool:
            found.extend(self.early.taken())
            return bool(found)

        await_that(is_any)
        return found


def await_that(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_client_gets_its_routes_once(tmp_path: Path) -> None:
    site = Site()
    site.early.lead_to(GATEWAY, tmp_path)

    site.watch.appear()

    (found,) = site.taken()
    assert found.complete
    assert (found.client.container_id, found.client.netns) == ("c1", NAMESPACE)
    assert site.runner.ran == [
        f"nsenter --net={NAMESPACE} ip route replace 10.8.0.0/16 via 192.0.2.1 src 192.0.2.7"
    ]
    assert list(site.early.taken()) == []


def test_everything_goes_on_at_once_until_our_table_is_asked(tmp_path: Path) -> None:
    site = Site()
    site.engine.known = (CLIENT._replace(labels={NETWORKS_LABEL: "0.0.0.0/0"}),)
    site.early.size({ip_network("0.0.0.0/0"): 1280})
    site.early.lead_to(GATEWAY, tmp_path)

    site.watch.appear()

    found = site.taken()
    while not found[-1].complete:
        found += site.taken()
    assert [str(route.dst) for route in found[-1].client.routes] == ["0.0.0.0/0"]
    assert [line.partition(" ip ")[2] for line in site.runner.ran] == [
        "route replace default via 192.0.2.1 table 671 src 192.0.2.7 mtu 1280",
        "route replace unreachable default metric 4000 table 671",
        "rule add pref 670 lookup main suppress_prefixlength 0",
        "rule add pref 671 lookup 671",
    ]


@pytest.mark.parametrize(
    "error", [EngineError("it went away"), StaleSocketError("its socket was deleted")]
)
def test_no_failure_of_the_engine_ends_early_routes(error: WgRouteMgrError, tmp_path: Path) -> None:
    site = Site(*[error] * 3)
    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear()
    assert site.taken()

    site.refusals = [error] * 3
    site.watch.appear()

    assert site.taken()


def test_a_namespace_that_cannot_be_entered_does_not_end_them_either(tmp_path: Path) -> None:
    site = Site()
    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear("/proc/self/ns/net-of-another")

    site.watch.appear()

    assert site.taken()


def test_a_directory_that_becomes_known_later_is_followed_and_another_after_it(
    tmp_path: Path,
) -> None:
    site = Site()
    site.early.lead_to(GATEWAY, None)
    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear()
    assert site.taken()

    other = tmp_path / "other"
    site.early.lead_to(GATEWAY, other)
    await_that(lambda: site.watch.followed == [tmp_path, other])
    site.watch.appear()

    assert site.taken()


def test_while_the_gateway_is_lost_all_that_led_to_it_is_unreachable(tmp_path: Path) -> None:
    site = Site()
    site.early.lead_to(GATEWAY, tmp_path)
    site.early.lead_to(GATEWAY._replace(addresses=(), lost=frozenset({4, 6})), tmp_path)
    site.watch.appear()

    found = site.taken()
    while not found[-1].complete:
        found += site.taken()
    assert [line.partition(" ip ")[2] for line in site.runner.ran] == [
        "route replace 192.0.2.255/32 table 671 src 192.0.2.7 dev lo",
        "route replace unreachable 10.8.0.0/16",
    ]


@pytest.mark.parametrize("gateway", [None, GATEWAY._replace(addresses=())])
def test_nobody_is_led_to_a_gateway_that_is_not_known(
    gateway: Gateway | None, tmp_path: Path
) -> None:
    site = Site()
    site.early.lead_to(GATEWAY, tmp_path)
    site.early.lead_to(gateway, tmp_path)

    site.watch.appear()
    time.sleep(0.2)
    assert site.runner.ran == []

    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear()
    assert site.taken()


def test_a_look_under_way_changes_to_the_new_gateway_at_once(tmp_path: Path) -> None:
    site = Site()
    site.engine.on = ()  # Who is on the network is not told yet.
    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear()
    time.sleep(0.1)

    site.early.lead_to(OTHER_GATEWAY, tmp_path)
    site.engine.on = (WG_NET,)

    assert site.taken()
    assert [" via 192.0.2.3 " in command for command in site.runner.ran] == [True]


def test_a_look_under_way_ends_when_the_gateway_is_lost(tmp_path: Path) -> None:
    site = Site()
    site.engine.on = ()
    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear()
    time.sleep(0.1)

    site.early.lead_to(None, tmp_path)
    site.engine.on = (WG_NET,)
    time.sleep(0.3)

    assert site.runner.ran == []


def test_nothing_is_set_towards_the_old_gateway_after_the_new_one_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.early.service.HAND_OVER_SECONDS", SECONDS)
    site = Site()
    many = ",".join(f"10.8.{number}.0/24" for number in range(20))
    site.engine.known = (CREATED._replace(labels={NETWORKS_LABEL: many}),)
    site.runner.held.clear()
    site.runner.exit_codes = [2] * 20
    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear()
    assert site.runner.begun.wait(SECONDS)

    threading.Timer(0.2, site.runner.held.set).start()
    site.early.lead_to(OTHER_GATEWAY, tmp_path)
    assert len(site.runner.ran) >= 20
    await_that(lambda: len(site.runner.ran) > 20)
    time.sleep(0.1)

    is_new = [" via 192.0.2.3 " in command for command in site.runner.ran]
    assert is_new == [False] * 20 + [True] * (len(is_new) - 20)


def hanging(folder: Path) -> Site:
    """Return a site where a command runs until it is let go."""
    site = Site()
    site.runner.held.clear()
    site.early.lead_to(GATEWAY, folder)
    site.watch.appear()
    assert site.runner.begun.wait(SECONDS)
    return site


def test_commands_that_hang_do_not_keep_the_pass_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.early.service.HAND_OVER_SECONDS", 0.1)
    site = hanging(tmp_path)

    site.early.lead_to(OTHER_GATEWAY, tmp_path)

    assert not site.runner.held.is_set()
    site.runner.held.set()


def test_an_early_route_says_how_large_packets_may_be_as_the_last_pass_found(
    tmp_path: Path,
) -> None:
    site = Site()
    site.early.size({ip_network("10.8.0.0/16"): 1280, ip_network("10.9.0.0/16"): 1400})
    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear()

    (found,) = site.taken()
    assert found.complete
    assert [one.mtu for one in found.client.routes] == [1280]
    assert site.runner.ran == [
        f"nsenter --net={NAMESPACE} ip route replace {words}"
        for words in ("10.8.0.0/16 via 192.0.2.1 src 192.0.2.7 mtu 1280",)
    ]


def test_what_is_set_while_it_is_closed_is_told_and_nothing_is_set_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.early.service.HAND_OVER_SECONDS", SECONDS)
    site = hanging(tmp_path)

    threading.Timer(0.2, site.runner.held.set).start()
    site.early.close()
    (found,) = site.early.taken()
    assert len(found.client.routes) == 1

    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear()
    time.sleep(0.2)
    assert len(site.runner.ran) == 1


def test_commands_that_hang_do_not_keep_it_from_being_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.early.service.HAND_OVER_SECONDS", 0.1)
    site = hanging(tmp_path)

    site.early.close()
    assert not site.runner.held.is_set()
    site.runner.held.set()
    assert site.taken()
    site.watch.appear()
    time.sleep(0.2)
    assert len(site.runner.ran) == 1


def test_who_was_not_taken_in_is_told_of_again(tmp_path: Path) -> None:
    """A signal can come between."""
    site = Site()
    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear()
    await_that(lambda: next(site.early.taken(), None))

    (found,) = site.early.taken()
    assert found.client.container_id == "c1"


def test_who_is_known_from_an_event_or_a_listing_is_not_asked_for(tmp_path: Path) -> None:
    from_event, from_listing = Site(), Site()
    from_event.early.note(Event("create", "c1", "dovecot", labels=CLIENT.labels))
    from_listing.early.learn([CLIENT._replace(running=True)])
    from_listing.early.learn([])
    for site in (from_event, from_listing):
        site.engine.known = ()
        site.early.lead_to(GATEWAY, tmp_path)

        site.watch.appear()

        assert site.taken()


def appear(directory: Path, name: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).symlink_to(NAMESPACE)


def test_watch_follows_from_one_directory_to_another(tmp_path: Path) -> None:
    watch = NamespaceWatch()
    first, second = tmp_path / "first", tmp_path / "second"
    appear(first, "before")
    second.mkdir()
    watch.follow(None)
    assert watch.appeared() == set()

    watch.follow(first)
    appear(first, "a")
    assert watch.appeared() == {str(first / "a")}
    watch.follow(second)
    appear(first, "b")
    appear(second, "c")

    assert watch.appeared() == {str(second / "c")}
    watch.close()


def test_watch_takes_up_a_directory_that_is_there_later(tmp_path: Path) -> None:
    watch = NamespaceWatch()
    directory = tmp_path / "later"
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            watch.follow(directory)
    assert [entry["event"] for entry in logged] == ["watch.failed"]  # Not once more each time.

    directory.mkdir()
    watch.follow(directory)
    appear(directory, "a")

    assert watch.appeared() == {str(directory / "a")}
    watch.close()


def test_watch_waits_for_others_with_and_without_a_directory(tmp_path: Path) -> None:
    watch = NamespaceWatch()
    other = StandInMonitor()
    for directory in (None, tmp_path / "none", tmp_path):
        watch.follow(directory)
        begun = time.monotonic()
        watch.wait([other])
        watch.wait([], 0.01)
        assert time.monotonic() - begun < SECONDS
    watch.close()
    other.close()


@contextmanager
def descriptors_are_kept() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_watch_that_fails_is_opened_anew_and_leaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(MountWatch):
        def appeared(self) -> set[str]:
            if failures:
                raise failures.pop()
            return super().appeared()

    failures: list[OSError] = []
    monkeypatch.setattr("lib.early.watch.MountWatch", Failing)
    with descriptors_are_kept():
        watch = NamespaceWatch()
        for _ in range(5):
            watch.follow(tmp_path)
            failures.append(OSError("too many open files"))
            assert watch.appeared() == set()
        watch.follow(tmp_path)
        appear(tmp_path, "a")
        assert watch.appeared() == {str(tmp_path / "a")}
        watch.close()


def test_two_networks_know_the_same_by_one_listing(tmp_path: Path) -> None:
    site = Site()
    other = site.early.beside()
    in_lab = GATEWAY._replace(network="lab-net", network_id="n7", before=("wg-net",))
    other.lead_to(in_lab, tmp_path)
    site.early.learn([])
    await_that(lambda: "containers" in site.engine.calls)
    site.early.learn([])
    site.early.lead_to(GATEWAY, tmp_path)
    site.watch.appear()
    assert site.taken()

    assert site.engine.calls.count("containers") == 1
    assert list(other.taken()) == []
    other.close()
    site.early.close()
