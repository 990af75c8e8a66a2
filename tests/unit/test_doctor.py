"""What the doctor prints, and when it looks no further; its checks are tested on real engines."""

from __future__ import annotations

import io
from dataclasses import replace
from ipaddress import ip_network
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from lib.doctor import checks, report
from lib.doctor.site import Case, Served
from lib.errors import CallError, EngineError, OldEngineError, StaleSocketError
from lib.kernel import netfilter, netlink
from lib.model import Client, Endpoint, Finding, Route
from lib.settings import Settings
from tests.fakes import CREATED, FACES, GATEWAY, OTHER, WG_NET

if TYPE_CHECKING:
    from collections.abc import Callable

    from lib.engine.client import Engine
    from lib.kernel.shells import Shells
    from lib.model import DockerNetwork

GONE = "the engine did not answer as it should"


def no_engine() -> Engine:
    raise EngineError(GONE)


def stale_engine() -> Engine:
    raise StaleSocketError(GONE, "restart")


def old_engine() -> Engine:
    reason = "the engine is too old"
    raise OldEngineError(reason, "update it")


def new_engine() -> Engine:
    found = SimpleNamespace(version="99.0", api_version="2.0", is_newer_than_tried=True)
    return cast("Engine", found)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(out: io.StringIO, settings: Settings | None = None) -> tuple[int, list[str]]:
    case = Case(settings or Settings(), cast("Shells", None), no_engine)
    code = report.report(case, out)
    return code, out.getvalue().splitlines()


def test_what_builds_on_a_failed_check_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    code, lines = told(io.StringIO())

    assert code == 1
    assert lines[0] == f"fail  engine        none at its usual socket: {GONE}"
    assert lines[1] == "      volumes: ['/var/run/docker.sock:/var/run/docker.sock:ro']"
    assert lines[2] == "skip  sidecar       cannot be told without the engine"
    done = {"engine", "capabilities", "namespaces"}
    skipped = {line.split()[1] for line in lines if line.startswith("skip")}
    assert skipped == set(report.CHECKS) - done - {"container", "route", "neighbour"}


@pytest.mark.parametrize(
    ("connect", "finding"),
    [
        (old_engine, Finding("fail", "the engine is too old", ("update it",))),
        (
            new_engine,
            Finding("warn", "Docker 99.0, API 2.0, at tcp://engine: tried up to API 1.56 only"),
        ),
    ],
)
def test_the_age_of_the_engine_is_judged(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[], Engine], finding: Finding
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine")
    case = Case(Settings(), cast("Shells", None), connect)

    assert list(checks.engine(case)) == [finding]


def test_one_client_has_checks_of_its_own() -> None:
    _, lines = told(io.StringIO(), Settings(container="dovecot"))
    checks = {line.split()[1] for line in lines[:-1] if line[0] != " "}

    assert checks == set(report.CHECKS) - {"clients"}
    assert lines[-1].endswith("; dovecot: its packet stops at: engine")


def test_colour_is_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert told(Terminal())[1][0].startswith("\033[31mfail\033[0m  engine")
    monkeypatch.setenv("NO_COLOR", "1")
    assert told(Terminal())[1][0].startswith("fail  engine")
    monkeypatch.delenv("NO_COLOR")
    assert told(io.StringIO())[1][0].startswith("fail  engine")


def test_an_error_with_a_hint_is_a_finding_with_its_mend() -> None:
    case = Case(Settings(), cast("Shells", None), stale_engine)
    name, finding = next(report.examine(case))

    assert (name, finding) == ("engine", Finding("fail", GONE, ("restart",)))


def test_a_finding_is_one_line_and_its_mend_below() -> None:
    finding = Finding("warn", "two\nlines", ("first", "second"))

    assert list(report.lines("mtu", finding)) == [
        "warn  mtu           two lines",
        "      first",
        "      second",
    ]


class WithoutNetworks:
    def networks(self) -> tuple[DockerNetwork, ...]:
        reason = "the engine refused: forbidden"
        raise CallError(reason)


def test_a_proxy_that_lists_no_networks_is_no_failure() -> None:
    client = Served(Client("dovecot", "0", "", ()), {}, frozenset())
    case = Case(Settings(), cast("Shells", None), no_engine, clients=(client,))
    case.engine = cast("Engine", WithoutNetworks())

    (finding,) = checks.overlaps(case)
    assert (finding.level, finding.mend) == ("warn", ("let the proxy pass GET /networks",))


def test_a_network_is_known_by_its_id_to_all_checks() -> None:
    point = Endpoint("wg-net", "n1", (FACES[0],))
    attached = replace(CREATED, running=True, endpoints=(point,))
    site = SimpleNamespace(
        network=WG_NET, sidecar=SimpleNamespace(gateway=attached), links=lambda _: (), place=""
    )
    (finding,) = checks.address(cast("Case", site))
    assert finding.seen == f"no interface of dovecot has the address {FACES[0].ip}"

    wide = Route(ip_network("192.0.0.0/16"), None, 0)
    client = Client("dovecot", "c1", "", (wide,))
    served = checks._served(client, attached, GATEWAY)
    assert served.addresses == {4: FACES[0].ip}
    assert list(checks._conflicts(served, [WG_NET, OTHER])) == []
    assert list(checks._conflicts(served, [replace(WG_NET, id="n3")])) != []


ANSWER = bytes.fromhex(
    "8c000000030a02000100000089590000020000040b00010066696c74657200000c000300464f525741524400"
    "0c0002000000000000000001140004000800010000000002080002000000000008000500000000000b000700"
    "66696c74657200001c0008000c00020000000000000000000c000100000000000000000008000a0000000001"
    "08000600000000018c000000030a020001000000895900000a0000040b00010066696c74657200000a000300"
    "494e5055540000000c0002000000000000000001140004000800010000000001080002000000000008000500"
    "000000000b00070066696c74657200001c0008000c00020000000000000000000c0001000000000000000000"
    "08000a00000000010800060000000000"
)
"""Of Linux 6.18, told to drop in FORWARD what its one rule does not accept, and in IPv6's INPUT."""


def test_forward_chains_are_read_from_the_kernels_answer() -> None:
    assert list(netfilter.parse_chains(netlink.messages(ANSWER))) == [
        netfilter.Chain("ip", "filter", "FORWARD", drops=True, rules=1)
    ]
