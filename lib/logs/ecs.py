"""A log line with the field names of the Elastic Common Schema.

Pure. The first fields and their order are those of the ECS logging specification
(https://github.com/elastic/ecs-logging/tree/main/spec), the others those of the field reference
(https://www.elastic.co/docs/reference/ecs/ecs-field-reference). What has no field there stands
under `wgroutemgr.`. `container` is the one that a line is about, mostly a client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = "8.11.0"
FIELDS = {
    "command": "process.command_line",
    "container": "container.name",
    "container_id": "container.id",
    "duration_ms": "event.duration",
    "event": "event.action",
    "exception": "error.stack_trace",
    "exit_code": "process.exit_code",
    "level": "log.level",
    "logger": "log.logger",
    "network": "network.name",
    "reason": "event.reason",
    "stderr": "error.message",
    "timestamp": "@timestamp",
}
_NANOSECONDS = 1_000_000
"""In a millisecond; the unit of `event.duration`, a whole number."""
_LONGEST = 1e12
"""Milliseconds; more than a sensible duration, less than its field can hold."""


def renamed(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain fields of a line under their names in ECS."""
    said = (line["event"], line.get("reason"))
    first = {
        FIELDS["timestamp"]: line["timestamp"],
        FIELDS["level"]: line["level"],
        "message": ": ".join(str(text) for text in said if text),
        "ecs.version": VERSION,
        "service.name": "wgroutemgr",
        "event.dataset": "wgroutemgr.log",
    }
    fields = first | {FIELDS.get(key, f"wgroutemgr.{key}"): line[key] for key in line}
    duration = line.get("duration_ms")
    if isinstance(duration, int | float) and abs(duration) < _LONGEST:
        fields[FIELDS["duration_ms"]] = round(duration * _NANOSECONDS)
    return fields
