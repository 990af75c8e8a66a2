#!/usr/bin/env python3
"""Signals, dispatch, exit codes, and the last resort for whatever goes wrong.

Signals are minded before anything large is imported: imports take most of a start, and the kernel
drops a signal to PID 1 that has no handler.
"""

from __future__ import annotations

import gc
import os
import sys
from signal import SIGINT

from lib.kernel import signals
from lib.kernel.signals import Stopped


def main() -> int:
    """Do what the command line asks for; return the exit code, whatever happens."""
    try:
        sys.unraisablehook = _take_ignored
        signals.mind()
        code = _attempt()
        signals.ignore()
    except (Stopped, KeyboardInterrupt) as error:  # The latter is Python's, before it is ours.
        stopped = error if isinstance(error, Stopped) else Stopped(SIGINT)
        signals.ignore()
        if not _is_daemon():
            return stopped.exit_code
        from lib.logs import last_resort

        last_resort.log("info", "daemon.stopped", reason=str(stopped))
        return 0
    return code


def _attempt() -> int:
    try:
        code = _dispatch()
        sys.stdout.flush()
    except Exception as error:  # noqa: BLE001 - the last resort: a restart may get past it
        # Who reads what a command prints may have enough, as in `plan | head`.
        if _is_daemon() or not isinstance(error, BrokenPipeError):
            _report("daemon.failed", error)
        return 1
    return code


def _dispatch() -> int:
    from lib import state
    from lib.cli import commandline, registry
    from lib.logs.setup import configure

    published = None if _is_daemon() else state.read()
    try:
        settings = commandline.parse(sys.argv[1:], os.environ, published)
    except SystemExit as end:  # Wrong usage, --help, --version.
        return int(end.code or 0)
    if _is_daemon():
        configure(settings.log_format, settings.log_level)
    else:  # Standard output is for results.
        configure(settings.log_format or "console", settings.log_level, sys.stderr)
    command = registry.COMMANDS[settings.command].load()
    gc.freeze()
    gc.enable()
    return command(settings)


def _take_ignored(failure: sys.UnraisableHookArgs) -> None:
    """Take an error that Python has nowhere to raise, as in a finalizer."""
    if isinstance(failure.exc_value, Stopped):
        signals.raise_soon()
    elif failure.exc_value:
        _report("error.ignored", failure.exc_value)


def _report(event: str, error: BaseException) -> None:
    from lib.cli import output
    from lib.logs import last_resort

    reason, hint, unforeseen = last_resort.explained(error)
    if _is_daemon():
        last_resort.log("error", event, unforeseen, reason=reason, hint=hint)
    else:
        output.complain(reason, hint)


def _is_daemon() -> bool:
    from lib.named import RUN, named_command

    return named_command(sys.argv[1:]) == RUN


if __name__ == "__main__":
    # What is imported stays, so nobody looks for garbage in it: neither now, for a tenth of the
    # start, nor later, for five milliseconds each time that a starting container may have to wait.
    gc.disable()
    # Not sys.exit(): an interpreter that tidies up while side threads write can trip over them.
    os._exit(main())
