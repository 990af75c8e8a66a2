"""Options and environment to one frozen `Settings`.

Pure but for what argparse does with wrong usage: it prints to standard error and exits with code 2,
as `--help` prints and exits with 0. Precedence: option, variable, the sidecar's label (which
`lib.reconciler` reads), default.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VERSION = "0.1.0"
DEFAULT_NETWORK = "wg-net"
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
        "json or console",
        shown_default="json; console on a terminal",
        convert=_one_of("json", "console"),
    ),
    Option(
        "log-level",
        "debug, info, warning or error",
        "info",
        convert=_one_of("debug", "info", "warning", "error"),
    ),
)

COMMANDS = {"run": "serve the routes until SIGTERM (what is done without a command)"}


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings, or print what is wrong and raise SystemExit(2)."""
    parser = argparse.ArgumentParser(
        prog="wgroutemgr",
        description="Give containers their routes through a WireGuard container.",
        epilog="Every option is also an environment variable: "
        + ", ".join(f"{option.flag} is {option.variable}" for option in OPTIONS),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.add_argument(
        "command", nargs="?", default="run", choices=COMMANDS, help=_commands_help()
    )
    for option in OPTIONS:
        shown = option.default or option.shown_default
        parser.add_argument(
            option.flag,
            # argparse converts a default that is a string, so a wrong variable is refused like a
            # wrong option.
            default=environ.get(option.variable) or option.default,
            type=option.convert,
            metavar=option.name.rpartition("-")[2].upper(),
            help=f"{option.help} (default: {shown})",
        )
    return Settings(**vars(parser.parse_args(arguments)))


def _commands_help() -> str:
    return "; ".join(f"{name}: {text}" for name, text in COMMANDS.items())
