"""What can fail for one client, in the words of its log line. Nothing is decided here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from lib.errors import EngineError, GoneError
from lib.kernel import prerequisites
from lib.model import Rule
from lib.reconcile.report import Failure
from lib.reconcile.reporting import hint

if TYPE_CHECKING:
    from lib.engine.client import Engine
    from lib.errors import NetnsError
    from lib.kernel.shells import Outcome
    from lib.model import Client, Step, Thing

log = structlog.get_logger()

_SAYS = "RTNETLINK answers: "
_NO_ROUTE = "No such process"
_NO_RULE = f"{_SAYS}No such file or directory"
_SAME_RULE = f"{_SAYS}File exists"
"""What the kernel says to the deletion of what is gone already (ESRCH, ENOENT), and to a rule that
is there already (EEXIST)."""


def is_vanished(step: Step, outcome: Outcome) -> bool:
    """Tell whether a deletion failed because that was gone already."""
    text = _NO_RULE if isinstance(step.thing, Rule) else _NO_ROUTE
    return step.verb == "del" and text in outcome.output


def is_found(step: Step, outcome: Outcome) -> bool:
    """Tell whether a rule could not be added because it is there already."""
    return step.verb == "add" and _SAME_RULE in outcome.output


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


def of_command(client: Client, netns: str, thing: Thing, outcome: Outcome) -> Failure:
    """Return the failure of a command."""
    dst = {} if isinstance(thing, Rule) else {"dst": str(thing.dst)}
    values: dict[str, str | int] = {
        **dst,
        "netns": netns,
        "command": outcome.command,
        "exit_code": outcome.exit_code,
        "stderr": outcome.output,
        **hint(prerequisites.on_output(outcome.output)),
    }
    reason = f"the command ended with exit code {outcome.exit_code}"
    event = "rule.failed" if isinstance(thing, Rule) else "route.failed"
    return _failure(event, client, outcome.command, reason, values)


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
