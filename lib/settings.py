"""The command line and the environment to one frozen `Settings`.

Pure but for what argparse does with wrong usage: it prints to standard error and exits with code 2,
as `--help` prints and exits with 0. Precedence: option, variable, the sidecar's label (which
`lib.engine.sidecar` reads), default.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VERSION = "0.1.0"
DEFAULT_NETWORK = "wg-net"
_PROGRAM = "wgroutemgr"
_PREFIX = "WGROUTEMGR_"
_MAX_INTERVAL = 86_400.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose; None where the choice is left to us."""

    command: str = "run"
    network: str | None = None
    gateway: str | None = None
    resync_interval: float = 60.0
    """Seconds between full passes."""
    on_gateway_loss: str = "unreachable"
    log_format: str | None = None
    log_level: str = "info"
    json: bool = False
    """`status`: JSON instead of a table."""
    container: str | None = None
    """`doctor`: the client whose packet is followed."""


def _seconds(text: str) -> float:
    message = f"{text!r} is not a number of seconds between 1 and {_MAX_INTERVAL:.0f}"
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(message) from error
    if not 1 <= value <= _MAX_INTERVAL:
        raise argparse.ArgumentTypeError(message)
    return value


def _one_of(*choices: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in choices:
            message = f"{text!r} is none of {', '.join(choices)}"
            raise argparse.ArgumentTypeError(message)
        return text

    return convert


@dataclass(frozen=True, slots=True)
class Option:
    """One option, which is also a variable: `--log-level` and `WGROUTEMGR_LOG_LEVEL`."""

    name: str
    help: str
    default: str | None = None
    shown_default: str = ""
    convert: Callable[[str], object] = str

    @property
    def flag(self) -> str:
        """The option as it is written on the command line."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable of the same meaning."""
        return _PREFIX + self.name.replace("-", "_").upper()


OPTIONS = (
    Option(
        "network",
        "Docker network to serve",
        shown_default=f"the sidecar's label, then {DEFAULT_NETWORK}",
    ),
    Option(
        "gateway",
        "name or id of the gateway container, for running outside its network namespace",
        shown_default="the owner of our own network namespace",
    ),
    Option("resync-interval", "seconds between full passes", "60", convert=_seconds),
    Option(
        "on-gateway-loss",
        "what becomes of its clients' routes while the gateway is gone: unreachable or keep",
        "unreachable",
        convert=_one_of("unreachable", "keep"),
    ),
    Option(
        "log-format",
        "json, ecs (JSON with the names of Elastic's common schema) or console",
        shown_default="json; console on a terminal",
        convert=_one_of("json", "ecs", "console"),
    ),
    Option(
        "log-level",
        "debug, info, warning or error",
        shown_default="info; warning for other commands than run",
        convert=_one_of("debug", "info", "warning", "error"),
    ),
)


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand and what its `--help` says."""

    name: str
    summary: str
    description: str
    exit_codes: tuple[tuple[int, str], ...]
    example: str
    synopsis: str = ""
    """What it takes beside the options that all commands take."""

    @property
    def epilog(self) -> str:
        """The end of its help."""
        codes = "".join(f"  {code}  {meaning}\n" for code, meaning in self.exit_codes)
        example = "".join(f"  {line}\n" for line in self.example.splitlines())
        return f"exit codes:\n{codes}\nexample:\n{example}\n{_VARIABLES}"


_VARIABLES = (
    "Every option is also an environment variable; an option wins over its variable:\n"
    + "".join(f"  {option.flag:18} {option.variable}\n" for option in OPTIONS)
    + "DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH work as for the docker command."
)
_USAGE = (2, "wrong usage")

RUN = Command(
    "run",
    "serve the routes until SIGTERM (what is done without a command)",
    """\
Gives every container on the served network that carries the label
wgroutemgr.networks its routes through the gateway, and keeps them right: at
start-up, on engine events, and in a full pass every --resync-interval
seconds. The log goes to standard output, one JSON object per line.

A missing engine, gateway or network is no reason to exit: it waits.""",
    ((0, "SIGTERM or SIGINT"), (1, "it cannot go on; the last line of the log says why"), _USAGE),
    "wgroutemgr run --network wg-net --resync-interval 30",
)
PLAN = Command(
    "plan",
    "print every command that run would run now, and change nothing",
    """\
Prints the commands, one line each, ready to be pasted in the sidecar or as
root on the host. What is left out stands between them as a comment (# ...)
with its reason, so the output can go to a shell.

It looks afresh and needs no daemon. What a running daemon gave before and
would take back only that daemon knows; see withdraw.""",
    ((0, "nothing to do"), (3, "something to do"), (1, "an error, on standard error"), _USAGE),
    "docker exec wgroutemgr wgroutemgr plan",
)
STATUS = Command(
    "status",
    "show all clients and destinations, and whether the route is there",
    """\
Prints a table with a line for every destination of every container that
carries the label wgroutemgr.networks: CONTAINER NETWORK NAMESPACE DESTINATION
GATEWAY STATE REASON. States:

  ok           the route is there, and leads through the gateway
  missing      no route to the destination is there
  wrong        a route leads elsewhere; the reason says where
  unreachable  the gateway is lost, and the route says so
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
    "[--json]",
)
DOCTOR = Command(
    "doctor",
    "check all that it takes for traffic to flow, and name the mend",
    """\
Checks every prerequisite in the order in which a packet meets it, one line
each: ok, warn or fail, what was seen, and the mend. With the name or id of a
client it follows one packet of that client. Changes nothing and needs no
daemon.""",
    ((0, "no check failed"), (1, "a check failed"), _USAGE),
    """\
docker exec wgroutemgr wgroutemgr doctor
docker exec wgroutemgr wgroutemgr doctor dovecot""",
    "[CONTAINER]",
)
HEALTH = Command(
    "health",
    "tell whether the daemon is alive and connected and nothing is overdue or failing",
    """\
Reads what the daemon of the same container says of itself; asks the engine
nothing. For a health check. A daemon that has nothing to do is healthy.""",
    ((0, "healthy"), (1, "not healthy; the reason is printed"), _USAGE),
    "docker exec wgroutemgr wgroutemgr health",
)
WITHDRAW = Command(
    "withdraw",
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
)

# A command is taken once it stands here and in the table of wgroutemgr.py.
COMMANDS = {command.name: command for command in (RUN, PLAN, STATUS, DOCTOR, HEALTH, WITHDRAW)}


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings, or print what is wrong and raise SystemExit(2)."""
    chosen = vars(_parser(environ).parse_args(arguments))
    chosen["log_level"] = chosen["log_level"] or (
        "info" if chosen["command"] == RUN.name else "warning"
    )
    return Settings(**chosen)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        usage="%(prog)s [OPTION ...] [COMMAND] [OPTION ...]",
        description="Give containers their routes through a WireGuard container.",
        epilog=f"`{_PROGRAM} COMMAND --help` tells more of a command, with its exit codes.\n\n"
        + _VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    # argparse converts a default that is a string, so a wrong variable is refused like a wrong
    # option.
    defaults = {o.name: environ.get(o.variable) or o.default for o in OPTIONS}
    _add_options(parser, defaults)
    commands = parser.add_subparsers(
        dest="command", title="commands", metavar="COMMAND", prog=_PROGRAM
    )
    for command in COMMANDS.values():
        sub = commands.add_parser(
            command.name,
            usage=" ".join(f"%(prog)s [OPTION ...] {command.synopsis}".split()),
            help=command.summary,
            description=command.description,
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if command is STATUS:
            sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
        if command is DOCTOR:
            what = "name or id of the client whose packet to follow"
            sub.add_argument("container", nargs="?", metavar="CONTAINER", help=what)
        _add_options(sub, {})
    parser.set_defaults(command=RUN.name)
    return parser


def _add_options(parser: argparse.ArgumentParser, defaults: Mapping[str, str | None]) -> None:
    """Let a parser take the options; without a default it leaves alone what another one found."""
    for option in OPTIONS:
        shown = option.default or option.shown_default
        parser.add_argument(
            option.flag,
            default=defaults.get(option.name, argparse.SUPPRESS),
            type=option.convert,
            metavar=option.name.rpartition("-")[2].upper(),
            help=f"{option.help} (default: {shown})",
        )
