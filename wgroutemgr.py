#!/usr/bin/env python3
"""The command line: wiring and exit codes; nothing else."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from lib.settings import Settings


class Stopped(SystemExit):
    """A signal asked us to end: raised in the main thread wherever it is."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)  # As a shell has it; for the daemon it is no failure.
        self.signal = signal.Signals(number).name


def _stop(number: int, _: FrameType | None) -> NoReturn:
    raise Stopped(number)


# Before the other imports, which take most of the start: the kernel drops a signal to PID 1 that
# has no handler.
signal.signal(signal.SIGTERM, _stop)
signal.signal(signal.SIGINT, _stop)

import os  # noqa: E402

import structlog  # noqa: E402

from lib import health, settings  # noqa: E402
from lib.daemon import Daemon  # noqa: E402
from lib.early.service import EarlyRoutes  # noqa: E402
from lib.engine.client import Engine  # noqa: E402
from lib.errors import WgRouteMgrError  # noqa: E402
from lib.kernel import prerequisites  # noqa: E402
from lib.kernel.access import Kernel  # noqa: E402
from lib.kernel.shells import Shells  # noqa: E402
from lib.logs.setup import configure  # noqa: E402

_SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread hands over: a container being started cannot wait for a pass."""

_WIDTH, _FAST_WIDTH = 2, 8
"""Commands that run side by side in a pass, and for containers being started: where the engine
keeps every CPU busy, who has more processes gets more of it."""

log = structlog.get_logger()


def main() -> int:
    """Run what the command line asks for and return the exit code."""
    chosen = settings.parse(sys.argv[1:], os.environ)
    if chosen.command == "run":
        return _run(chosen)
    return _once(chosen)


def _once(chosen: Settings) -> int:
    """Run a command that ends by itself: results to standard output, complaints to the other."""
    # Here, since the daemon needs none of it, and its start is not to wait for it.
    from lib.cli import commands  # noqa: PLC0415

    once: dict[str, Callable[[Settings], int]] = {
        "plan": commands.plan,
        "status": commands.status,
        "doctor": _doctor,
        "health": _health,
        "withdraw": commands.withdraw,
    }
    configure(chosen.log_format or "console", chosen.log_level, sys.stderr)
    try:
        code = once[chosen.command](chosen)
        sys.stdout.flush()
    except WgRouteMgrError as error:
        commands.complain(error.reason, error.hint)
        return 1
    except BrokenPipeError:
        # Who reads has enough, as in `plan | head`; what was not written has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _run(chosen: Settings) -> int:
    configure(chosen.log_format, chosen.log_level)
    log.info("daemon.started", version=settings.VERSION, resync_interval=chosen.resync_interval)
    for finding in prerequisites.missing():
        log.error("prerequisite.missing", reason=finding.seen, hint="; ".join(finding.mend))
    sys.setswitchinterval(_SWITCH_INTERVAL)
    shell, fast_shell, state = Shells(width=_WIDTH), Shells(width=_FAST_WIDTH), health.Health()
    try:
        Daemon(chosen, Kernel(shell), EarlyRoutes(fast_shell, Engine), state).run()
    except Stopped as stopped:
        log.info("daemon.stopped", reason=stopped.signal)
    except WgRouteMgrError as error:
        log.error("daemon.failed", reason=error.reason, hint=error.hint)  # noqa: TRY400
        return 1
    except Exception:
        # The last resort: nothing is known of this error but that the container's restart policy
        # may get past it.
        log.exception("daemon.failed", hint="please report this, with the lines above it")
        return 1
    finally:
        state.tell("has ended")
        shell.close()  # The other one may be in use by its thread, and ends with us.
    return 0


def _doctor(chosen: Settings) -> int:
    from lib.doctor import report  # noqa: PLC0415 - as in _once()
    from lib.doctor.site import Case  # noqa: PLC0415

    shell = Shells()
    try:
        return report.report(Case(chosen, shell, Engine), sys.stdout)
    finally:
        shell.close()


def _health(_: Settings) -> int:
    print(said := health.verdict())
    return 0 if said == health.OK else 1


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    # Not sys.exit(): an interpreter that tidies up while side threads write can trip over them.
    os._exit(exit_code)
