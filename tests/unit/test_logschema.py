"""The check of log lines finds what is not documented."""

from __future__ import annotations

import json

import pytest

from tests.logschema import violations
from tests.readme import block

LINE = json.loads(block("line"))


def test_the_line_of_the_documents_is_as_documented() -> None:
    assert violations(json.dumps(LINE)) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"event": "route.dreamt"}, "unknown event route.dreamt"),
        ({"level": "error"}, "route.replaced at level error"),
        ({"colour": "red"}, "unknown key colour"),
        ({"exit_code": 0}, "unknown key exit_code"),
        ({"duration_ms": "2.1"}, "duration_ms is '2.1'"),
        ({"timestamp": "now"}, "timestamp is 'now'"),
        ({"container_id": "dovecot"}, "container_id is 'dovecot'"),
        ({"command": "rm -rf /"}, "command is 'rm -rf /'"),
    ],
)
def test_a_changed_line_is_not(change: dict[str, object], found: str) -> None:
    assert violations(json.dumps(LINE | change)) == [found]


def test_neither_is_a_line_that_lacks_a_key_or_is_no_json_or_too_long() -> None:
    short = {key: value for key, value in LINE.items() if key != "dst"}
    assert violations(json.dumps(short)) == ["no key dst"]
    assert violations("Traceback (most recent call last):") == ["not JSON"]
    assert violations(json.dumps({"level": "info"})) != []
    assert violations(json.dumps(LINE | {"container": "x" * 9000})) == ["too long"]
