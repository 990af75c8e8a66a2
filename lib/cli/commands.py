"""The commands that look once and end: plan, status, withdraw and health.

Each writes its result to standard output and returns the exit code. None of them tells the daemon
anything, and only health needs it.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from lib.cli import tables
from lib.cli.output import complain
from lib.engine.client import Engine
from lib.health import OK, verdict
from lib.kernel.access import Reader
from lib.kernel.shells import Shells
from lib.model import NETWORKS_LABEL
from lib.reconcile import failures
from lib.reconcile.look import look
from lib.reconcile.namespace import by_stage
from lib.routing.plan import chain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lib.reconcile.look import Findings
    from lib.reconcile.namespace import Namespace
    from lib.settings import Settings

_DONE, _ERROR, _SOMETHING = 0, 1, 3

_NO_CLIENT = (
    f"no running container carries the label {NETWORKS_LABEL}",
    "give it to the containers that want a route, as the README has it under Labels",
)
_GIVEN_BACK = (
    "a sidecar that runs gives these routes back with its next pass",
    "stop it first: docker compose stop wgroutemgr; docker compose run --rm wgroutemgr withdraw",
)


def plan(settings: Settings) -> int:
    """Print the commands of a pass, and as comments what there is to say beside them."""
    found = _look(settings)
    for comment in tables.comments(tables.joined(found)):
        print(comment)
    spaces = [namespace for one in found for namespace in one.namespaces]
    tasks = [task for namespace in spaces for task in namespace.tasks()]
    for task in tasks:
        print(task.command)
    if _complain_of(found):
        return _ERROR
    return _SOMETHING if tasks else _DONE


def status(settings: Settings) -> int:
    """Print the state of every destination."""
    found = _look(settings)
    rows = tables.joined(found)
    if not rows:
        complain(*_NO_CLIENT)
    if settings.json:
        print(tables.document(rows, found))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(*tables.table(rows, colour=colour), sep="\n")
    is_fine = {row.state for row in rows} <= tables.FINE and all(one.is_known for one in found)
    return _DONE if is_fine else _SOMETHING


def withdraw(settings: Settings) -> int:
    """Delete the routes that are there as this gateway's clients are given them."""
    with closing(Engine()) as engine, closing(Shells()) as shells:
        found = look(engine, Reader(), settings)
        given_back = [
            _give_back(engine, shells, each, one) for one in found for each in one.namespaces
        ]
    _complain_of_loss(one for one in found if not one.is_known)
    if any(given_back):
        complain(*_GIVEN_BACK)
    return _ERROR if _complain_of(found) else _DONE


def _give_back(engine: Engine, shells: Shells, namespace: Namespace, findings: Findings) -> bool:
    """Delete what stands in a namespace because of us, and tell whether there was anything."""
    tasks, failed = namespace.returns(), set[object]()
    for due in by_stage(tasks, failed):
        outcomes = shells.run([task.command for task in due])
        for task, outcome in zip(due, outcomes, strict=True):
            if not outcome.exit_code or failures.is_vanished(task.step, outcome):
                print(task.command)
                continue
            failed.add(chain(task.step))
            if failures.is_there(engine, task.client):
                failure = failures.of_command(task.client, namespace.path, task.step.thing, outcome)
                findings.failures.append(failure)
    return bool(tasks)


def health(_: Settings) -> int:
    """Print what the daemon in this container says of itself."""
    print(said := verdict())
    return _DONE if said == OK else _ERROR


def _look(settings: Settings) -> list[Findings]:
    with closing(Engine()) as engine:
        found = look(engine, Reader(), settings)
    _complain_of_loss(found)
    return found


def _complain_of_loss(found: Iterable[Findings]) -> None:
    """Tell of each network where the gateway is not there."""
    for lost in dict.fromkeys((one.lost.reason, one.lost.hint) for one in found if one.lost):
        complain(*lost)


def _complain_of(found: Sequence[Findings]) -> bool:
    """Tell what failed for clients, and whether anything did, or nobody could be looked for."""
    failures = [failure for one in found for failure in one.failures]
    for failure in failures:
        cause = tables.cause(failure)
        complain(f"{failure.container}: {cause['reason']}", cause["hint"])
    return bool(failures) or not all(one.is_known for one in found)
