"""What a log line looks like, whoever wrote it."""

from __future__ import annotations

import io
import json
import logging
import threading
import warnings
from collections import UserDict
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.logs.line import MAX_LINE
from lib.logs.setup import configure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROUTE = {
    "container": "dovecot",
    "container_id": "9b1f6c3d2e70",
    "network": "wg-net",
    "dst": "192.168.66.0/24",
    "command": "nsenter --net=/n ip route replace 192.168.66.0/24 via 192.168.67.129",
    "exit_code": 2,
    "stderr": "ip: RTNETLINK answers: Network is unreachable",
    "reason": "the command ended with exit code 2",
    "duration_ms": 2.1,
}

RESERVED = {"event", "level", "timestamp", "exc_info", "stack_info", "self"}
"""Names that mean something to structlog."""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was: it belongs to the whole process."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], threading.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture(params=["json", "ecs"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    text = stream.getvalue()
    assert text.endswith("\n")
    assert all(len(line.encode()) < MAX_LINE for line in text.splitlines())
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_the_fields_of_ecs() -> None:
    stream = io.StringIO()
    configure("ecs", "info", stream)
    structlog.get_logger().warning("route.failed", **ROUTE)

    (line,) = lines(stream)
    assert list(line)[:4] == ["@timestamp", "log.level", "message", "ecs.version"]
    assert line.pop("@timestamp").endswith("Z")
    assert line == {
        "log.level": "warning",
        "message": "route.failed: the command ended with exit code 2",
        "ecs.version": "8.11.0",
        "service.name": "wgroutemgr",
        "event.dataset": "wgroutemgr.log",
        "event.action": "route.failed",
        "event.reason": "the command ended with exit code 2",
        "event.duration": 2_100_000,
        "container.name": "dovecot",
        "container.id": "9b1f6c3d2e70",
        "network.name": "wg-net",
        "process.command_line": ROUTE["command"],
        "process.exit_code": 2,
        "error.message": ROUTE["stderr"],
        "wgroutemgr.dst": "192.168.66.0/24",
    }


def test_no_field_of_ecs_is_a_field_and_a_parent_of_others() -> None:
    stream = io.StringIO()
    configure("ecs", "info", stream)
    try:
        raise ValueError("line 1\nline 2")  # noqa: EM101, TRY003, TRY301
    except ValueError:
        structlog.get_logger().exception("daemon.failed", **ROUTE, hint="report it", trigger="x")

    (line,) = lines(stream)
    names = set(line)
    assert [name for name in names if any(other.startswith(f"{name}.") for other in names)] == []
    assert "line 1\nline 2" in line["error.stack_trace"]


def test_lines_of_libraries_threads_and_warnings_have_the_same_form(form: str) -> None:
    stream = io.StringIO()
    configure(form, "info", stream)
    logging.getLogger("urllib3").warning("connection\n%s", "lost")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old\nway", DeprecationWarning, stacklevel=1)
    thread = threading.Thread(target=lambda: 1 // 0, name="events")
    thread.start()
    thread.join()

    event, reason = {"json": ("event", "reason"), "ecs": ("event.action", "event.reason")}[form]
    found = lines(stream)
    named = [line[event] for line in found]
    assert named == ["library.logged", "library.logged", "thread.failed"]
    assert found[0][reason] == "connection\nlost"
    assert found[2][reason] == "thread events"


def test_no_line_is_too_long_whatever_it_holds(form: str) -> None:
    stream = io.StringIO()
    configure(form, "info", stream)
    log = structlog.get_logger()
    log.info("entry.refused", entry="ä\n" * 1_000_000, container="c", reason='"\\' * 5000)
    log.info("entry.refused", entry=["x" * 100] * 1000)
    logging.getLogger("urllib3").warning("y" * 100_000)

    found = lines(stream)
    assert len(found) == 3
    assert "(2000000 characters)" in json.dumps(found[0])


class Broken:
    """What has no text."""

    def __str__(self) -> str:
        raise LookupError


class BrokenMapping(UserDict[str, str]):
    def items(self) -> NoReturn:
        raise KeyError


class BrokenText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError


ODD: dict[str, tuple[object, object]] = {
    "bytes": (b"\xff", "b'\\xff'"),
    "set": ({"b", "a"}, ["a", "b"]),
    "keys": ({1: ip_network("192.0.2.0/24")}, {"1": "192.0.2.0/24"}),
    "not a number": (float("nan"), "nan"),
    "too big": (10**5000, "int that cannot be shown: ValueError"),
    "surrogate": ("a\udc80b", "a\\udc80b"),
    "other scripts": ("ä€", "ä€"),
    "broken": (Broken(), "Broken that cannot be shown: LookupError"),
    "broken inside": (BrokenMapping(), "BrokenMapping that cannot be shown: KeyError"),
    "parts": ((1, None, True, 0.5), [1, None, True, 0.5]),
}

ENDLESS: list[object] = []
ENDLESS.append(ENDLESS)

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.decimals()
    | st.sampled_from(list(ODD)).map(lambda name: ODD[name][0])
    | st.builds(lambda: ENDLESS)
    | st.builds(BrokenText)
    | st.builds(lambda size: "ä\0" * size, st.integers(0, 10_000))
)
HASHABLE = st.text() | st.integers() | st.binary() | st.tuples(st.floats(), st.booleans())
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(HASHABLE, inner)
        | st.frozensets(HASHABLE)
        | st.lists(inner).map(tuple)
    ),
    max_leaves=5,
)
NAMES = st.text(st.characters(exclude_categories=()), min_size=1, max_size=20) | st.sampled_from(
    ["reason", "duration_ms", "container", "exit_code", "command", "k" * 9000]
)


def refuse_constant(name: str) -> NoReturn:
    pytest.fail(f"{name} is no JSON")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(NAMES, VALUES, max_size=4))
def test_whatever_is_logged_makes_one_line_of_json(form: str, fields: dict[str, object]) -> None:
    fields = {name: value for name, value in fields.items() if name not in RESERVED}
    stream = io.StringIO()
    configure(form, "info", stream)

    structlog.get_logger().info("entry.refused", **fields)

    (text,) = stream.getvalue().split("\n")[:-1]
    assert len(text.encode()) < MAX_LINE
    found = json.loads(text, parse_constant=refuse_constant)
    assert found[{"json": "event", "ecs": "event.action"}[form]] == "entry.refused"


@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_shown_as_well_as_can_be(form: str, name: str) -> None:
    value, shown = ODD[name]
    stream = io.StringIO()
    configure(form, "info", stream)
    structlog.get_logger().info("entry.refused", entry=value)

    (line,) = lines(stream)
    assert line[{"json": "entry", "ecs": "wgroutemgr.entry"}[form]] == shown


def test_a_long_line_with_a_value_that_is_no_json_is_clipped(form: str) -> None:
    stream = io.StringIO()
    configure(form, "info", stream)
    many = {f"value{number}": "x" * 100 for number in range(300)}
    structlog.get_logger().info("entry.refused", reason="y" * 10_000, entry={b"\xff": {1}})
    structlog.get_logger().info("entry.refused", **many)

    assert len(lines(stream)) == 2


def test_json_is_utf8_wherever_it_goes(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as stream:
        configure("json", "info", stream)
        structlog.get_logger().info("entry.refused", entry="ä\udc80")

    assert '"entry": "ä\\\\udc80"' in (tmp_path / "log").read_text(encoding="utf-8")


def test_on_a_terminal_progress_is_a_line_that_updates() -> None:
    stream = Terminal()
    configure(None, "info", stream)
    log = structlog.get_logger()
    for done in (10, 20):
        log.info("pass.progressed", work="routes set", done=done, total=30)
    log.info("pass.finished")
    log.info("daemon.stopped")

    first, second, third, last = stream.getvalue().splitlines()
    again = "\x1b[1A\x1b[2K"
    assert (first, second) == ("10 of 30 routes set", f"{again}20 of 30 routes set")
    assert third.startswith(again)
    assert "pass.finished" in third
    assert again not in last


def test_elsewhere_the_console_form_has_no_escapes() -> None:
    stream = io.StringIO()
    configure("console", "info", stream)
    for done in (10, 20):
        structlog.get_logger().info("pass.progressed", work="routes set", done=done, total=30)

    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("pass.progressed") == 2
