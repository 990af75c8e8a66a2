"""What can fail for one client, in the words of its log line. Nothing is decided here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from lib.errors import EngineError, GoneError
from lib.kernel import prerequisites
from lib.reconcile.report import Failure
from lib.reconcile.reporting import hint

if TYPE_CHECKING:
    from lib.engine.client import Engine
    from lib.errors import NetnsError
    from lib.kernel.shells import Outcome
    from lib.model import Client, Route

log = structlog.get_logger()

_VANISHED = "No such process"
"""What the kernel says to the deletion of a route that is gone already (ESRCH)."""


def is_vanished(outcome: Outcome) -> bool:
    """Tell whether a deletion failed because the route was gone already."""
    return _VANISHED in outcome.output


def is_there(engine: Engine, client: Client) -> bool:
    """Tell whether a client still runs in the namespace that it had a moment ago.

    It does as far as anybody knows if the engine does not answer.
    """
    try:
        container = engine.inspect(client.container_id)
    except GoneError:
        return False
    except EngineError:
        return True
    # Who shares a namespace has none of its own to compare.
    return container.running and container.sandbox_key in {"", client.netns}


def of_command(client: Client, netns: str, route: Route, outcome: Outcome) -> Failure:
    """Return the failure of a command."""
    values: dict[str, str | int] = {
        "dst": str(route.dst),
        "netns": netns,
        "command": outcome.command,
        "exit_code": outcome.exit_code,
        "stderr": outcome.output,
        **hint(prerequisites.on_output(outcome.output)),
    }
    reason = f"the command ended with exit code {outcome.exit_code}"
    return _failure("route.failed", client, outcome.command, reason, values)


def of_entry(client: Client, netns: str, error: NetnsError) -> Failure:
    """Return the failure to enter the client's namespace, or to read it."""
    values: dict[str, str | int] = {
        "netns": netns,
        **hint(error.hint or prerequisites.on_output(error.reason)),
    }
    return _failure("client.failed", client, "netns", error.reason, values)


def log_failure(failure: Failure) -> None:
    """Log a failure."""
    who = {"container": failure.container, "container_id": failure.container_id[:12]}
    log.warning(failure.event, **who, **failure.values, reason=failure.reason)


def _failure(
    event: str, client: Client, about: str, reason: str, values: dict[str, str | int]
) -> Failure:
    return Failure(event, client.container, client.container_id, about, reason, values)
