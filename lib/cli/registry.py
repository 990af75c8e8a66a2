"""The commands: what each is called, does, takes and returns, and the function that does it.

Nothing of a command is imported before it is asked for: the start of the daemon is not to wait for
what the others need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple, cast

from lib.named import RUN

if TYPE_CHECKING:
    from collections.abc import Callable

    from lib.settings import Settings


class Argument(NamedTuple):
    """What one command takes beside the options that all of them take; it may be left out."""

    name: str
    """A field of `Settings`, as an option (`--json`) or as a word that takes its place."""
    help: str
    is_flag: bool = False


class Command(NamedTuple):
    """One subcommand."""

    name: str
    function: str
    """Where it is done, as `module:function`; it takes the settings and returns the exit code."""
    help: str
    description: str
    exit_codes: tuple[tuple[int, str], ...]
    example: str
    arguments: tuple[Argument, ...] = ()

    @property
    def synopsis(self) -> str:
        """Its own arguments, as a usage line has them."""
        words = (each.name if each.is_flag else each.name.upper() for each in self.arguments)
        return " ".join(f"[{word}]" for word in words)

    def load(self) -> Callable[[Settings], int]:
        """Import its function."""
        module, _, name = self.function.partition(":")
        return cast("Callable[[Settings], int]", getattr(importlib.import_module(module), name))


_USAGE = (2, "wrong usage")

_ALL = (
    Command(
        RUN,
        "lib.daemon:run",
        "serve the routes until SIGTERM (what is done without a command)",
        """\
Gives every container on the served network that carries the label
wgroutemgr.networks its routes through the gateway, and keeps them right: at
start-up, on engine events, and in a full pass every --resync-interval
seconds. The log goes to standard output, one JSON object per line.

A missing engine, gateway or network is no reason to exit: it waits.""",
        (
            (0, "SIGTERM or SIGINT"),
            (1, "it cannot go on; the last line of the log says why"),
            _USAGE,
        ),
        "wgroutemgr run --network wg-net --resync-interval 30",
    ),
    Command(
        "plan",
        "lib.cli.commands:plan",
        "print every command that run would run now, and change nothing",
        """\
Prints the commands, one line each, ready to be pasted in the sidecar or as
root on the host. What is left out stands between them as a comment (# ...)
with its reason, so the output can go to a shell.

It looks afresh and needs no daemon. What a running daemon gave before and
would take back only that daemon knows; see withdraw.""",
        ((0, "nothing to do"), (3, "something to do"), (1, "an error, on standard error"), _USAGE),
        "docker exec wgroutemgr wgroutemgr plan",
    ),
    Command(
        "status",
        "lib.cli.commands:status",
        "show all clients and destinations, and whether the route is there",
        """\
Prints a table with a line for every destination of every container that
carries the label wgroutemgr.networks: CONTAINER NETWORK NAMESPACE DESTINATION
GATEWAY STATE REASON. States:

  ok           the route is there, and leads through the gateway
  missing      no route to the destination is there, or not all that it takes
  wrong        a route or another's rule leads elsewhere; the reason says where
  unreachable  gateway or tunnel is lost, or the container left the network
  refused      the entry or the container is not served; the reason says why
  unknown      could not be looked at; the reason says why
  skipped      not ours to serve, and nothing is wrong with that

It looks afresh and needs no daemon. Colour is for terminals only; NO_COLOR
turns it off.""",
        (
            (0, "every state is ok or skipped"),
            (3, "some state is another"),
            (1, "an error, on standard error"),
            _USAGE,
        ),
        """\
docker exec wgroutemgr wgroutemgr status
docker exec wgroutemgr wgroutemgr status --json | jq '.routes[] | select(.state != "ok")'""",
        (Argument("--json", "print JSON instead of a table", is_flag=True),),
    ),
    Command(
        "doctor",
        "lib.doctor.report:run",
        "check all that it takes for traffic to flow, and name the fix",
        """\
Checks every prerequisite in the order in which a packet meets it, one line
each: ok, warn or fail, what was seen, and the fix. With the name or id of a
client it follows one packet of that client. Changes nothing and needs no
daemon.""",
        ((0, "no check failed"), (1, "a check failed"), _USAGE),
        """\
docker exec wgroutemgr wgroutemgr doctor
docker exec wgroutemgr wgroutemgr doctor dovecot""",
        (Argument("container", "name or id of the client whose packet to follow"),),
    ),
    Command(
        "health",
        "lib.cli.commands:health",
        "tell whether the daemon is alive and connected and nothing is overdue or failing",
        """\
Reads what the daemon of the same container says of itself; asks the engine
nothing. For a health check. A daemon that has nothing to do is healthy.""",
        ((0, "healthy"), (1, "not healthy; the reason is printed"), _USAGE),
        "docker exec wgroutemgr wgroutemgr health",
    ),
    Command(
        "withdraw",
        "lib.cli.commands:withdraw",
        "remove the routes that this gateway's clients were given",
        """\
Removes from every client exactly the routes that its label asks for and that
lead through this gateway, and prints each command as it ran. No other route
is touched.

A running daemon would give them back, so stop the sidecar first and run this
in a container of its own.""",
        ((0, "none of them is there any more"), (1, "an error, on standard error"), _USAGE),
        """\
docker compose stop wgroutemgr
docker compose run --rm wgroutemgr withdraw""",
    ),
)

COMMANDS = {command.name: command for command in _ALL}
