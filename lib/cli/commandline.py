"""The command line and the environment to one frozen `Settings`.

Pure but for what argparse does with wrong usage: it prints to standard error and exits with code 2,
as `--help` prints and exits with 0.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lib.cli.registry import COMMANDS
from lib.named import RUN
from lib.settings import OPTIONS, VERSION, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lib.cli.registry import Argument, Command
    from lib.model import Published
    from lib.settings import Option

_PROGRAM = "wgroutemgr"
_VARIABLES = (
    "Every option is also an environment variable; an option wins over its variable:\n"
    + "".join(f"  {option.flag:18} {option.variable}\n" for option in OPTIONS)
    + "DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH work as for the docker command."
)


def parse(
    arguments: Sequence[str], environ: Mapping[str, str], published: Published | None = None
) -> Settings:
    """Return the settings, or print what is wrong and raise SystemExit(2)."""
    parser = _parser(environ, published)
    chosen = vars(parser.parse_args(arguments))
    if chosen["gateway"] and chosen["gateway_service"]:
        parser.error("--gateway and --gateway-service (or their variables): give one of them")
    if not chosen["log_level"]:
        chosen["log_level"] = "info" if chosen["command"] == RUN else "warning"
    return Settings(**chosen, published=published)


def _default(option: Option, environ: Mapping[str, str], published: Published | None) -> str | None:
    """Return what holds without the option.

    A variable that the daemon has too is no news: it has an option that wins, or goes by it.
    """
    given = environ.get(option.variable)
    if published:
        given = None if given == published.variables.get(option.variable) else given
        # Where we choose ourselves, `lib.engine.sidecar` knows what comes before the choice.
        given = given or (published.chosen.get(option.name) if option.default else None)
    return given or option.default


def _parser(environ: Mapping[str, str], published: Published | None) -> argparse.ArgumentParser:
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
    defaults = {option.name: _default(option, environ, published) for option in OPTIONS}
    _add_options(parser, defaults)
    commands = parser.add_subparsers(
        dest="command", title="commands", metavar="COMMAND", prog=_PROGRAM
    )
    for command in COMMANDS.values():
        sub = commands.add_parser(
            command.name,
            usage=" ".join(f"%(prog)s [OPTION ...] {command.synopsis}".split()),
            help=command.help,
            description=command.description,
            epilog=_epilog(command),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for argument in command.arguments:
            _add_argument(sub, argument)
        _add_options(sub, {})
    parser.set_defaults(command=RUN)
    return parser


def _epilog(command: Command) -> str:
    codes = "".join(f"  {code}  {meaning}\n" for code, meaning in command.exit_codes)
    example = "".join(f"  {line}\n" for line in command.example.splitlines())
    return f"exit codes:\n{codes}\nexample:\n{example}\n{_VARIABLES}"


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    if argument.is_flag:
        parser.add_argument(argument.name, action="store_true", help=argument.help)
    else:
        metavar = argument.name.upper()
        parser.add_argument(argument.name, nargs="?", metavar=metavar, help=argument.help)


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
