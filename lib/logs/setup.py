"""structlog, configured in one place: what a log line looks like and where it goes.

Every line of the process takes this way, those of libraries and of errors that end a thread too;
what ends the program may take that of `lib.logs.last_resort`. Nothing here decides what is logged.
"""

from __future__ import annotations

import logging
import sys
import threading
from io import TextIOWrapper
from typing import TYPE_CHECKING

import structlog

from lib.logs import ecs
from lib.logs.line import line, plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from structlog.typing import EventDict, Processor, WrappedLogger


def configure(log_format: str | None, level: str, stream: TextIO | None = None) -> None:
    """Send all logging to the stream (standard output if None), as JSON or for a terminal.

    Without a format it is `console` where the stream is a terminal, else `json`; `ecs` is JSON with
    other names.
    """
    stream = stream or sys.stdout
    console = log_format == "console" or (log_format is None and stream.isatty())
    if isinstance(stream, TextIOWrapper):
        # A terminal may have another encoding, JSON has none but UTF-8.
        stream.reconfigure(encoding=None if console else "utf-8", errors="backslashreplace")
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
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _make_plain,
                render,
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    threading.excepthook = _tell_thread_failed
    structlog.configure(
        processors=[*shared, _make_plain, render],
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


def _make_plain(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    fields: EventDict = plain(event)
    return fields


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return line({**first, **event})


def _render_ecs(_: WrappedLogger, __: str, event: EventDict) -> str:
    return line(ecs.renamed(event))
