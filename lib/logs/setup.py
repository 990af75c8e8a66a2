"""structlog, configured in one place: what a log line looks like and where it goes.

Every line of the process takes this way, those of libraries and of errors that end a thread too;
what ends the program may take that of `lib.logs.last_resort`. Nothing here decides what is logged.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import structlog

from lib.logs import ecs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

    from structlog.typing import EventDict, Processor, WrappedLogger

MAX_LINE = 8192
"""Bytes of the longest line; the engine would split one of more than 16 KiB."""


def configure(log_format: str | None, level: str, stream: TextIO | None = None) -> None:
    """Send all logging to the stream (standard output if None), as JSON or for a terminal.

    Without a format it is `console` where the stream is a terminal, else `json`; `ecs` is JSON with
    other names.
    """
    stream = stream or sys.stdout
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # A label may hold what has no UTF-8 form.
    console = log_format == "console" or (log_format is None and stream.isatty())
    shared: Sequence[Processor] = (
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    )
    render: Processor = _render_ecs if log_format == "ecs" else _render_json
    if console:
        render = structlog.dev.ConsoleRenderer(colors=stream.isatty())
        if stream.isatty():
            render = _Updating(render)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _name_foreign, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    threading.excepthook = _tell_thread_failed
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )


class _Updating:
    """On a terminal, progress is one short line, which gives way to whatever comes after it."""

    _UP_AND_CLEAR = "\x1b[1A\x1b[2K"

    def __init__(self, render: Processor) -> None:
        self._render = render
        self._prefix = ""

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        prefix, self._prefix = self._prefix, ""
        if event["event"] == "pass.progressed":
            self._prefix = self._UP_AND_CLEAR
            return f"{prefix}{event['done']} of {event['total']} {event['work']}"
        return f"{prefix}{self._render(logger, name, event)!s}"


def _tell_thread_failed(failure: threading.ExceptHookArgs) -> None:
    name = failure.thread.name if failure.thread else "unknown"
    error = failure.exc_value or failure.exc_type()
    structlog.get_logger().error("thread.failed", reason=f"thread {name}", exc_info=error)


def _name_foreign(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keep `event` a constant also for lines of libraries: their text is a value."""
    return {
        "event": "library.logged",
        "reason": event.pop("event"),
        "logger": event["_record"].name,
        **event,
    }


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return _line({**first, **event})


def _render_ecs(_: WrappedLogger, __: str, event: EventDict) -> str:
    return _line(ecs.renamed(event))


def _line(ordered: Mapping[str, Any]) -> str:
    line = json.dumps(ordered, default=str, ensure_ascii=False)
    limit = MAX_LINE // 2
    while len(line.encode(errors="replace")) >= MAX_LINE:
        line = json.dumps(
            {key: _clip(value, limit) for key, value in ordered.items()}, ensure_ascii=False
        )
        limit //= 2
    return line


def _clip(value: Any, limit: int) -> Any:  # noqa: ANN401 - a log value is anything
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return value if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
