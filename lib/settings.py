"""What can be chosen: the options, which are also variables, and the `Settings` they make.

Pure. Precedence: option, variable, what the daemon of the same container has published, the
sidecar's label (which `lib.engine.sidecar` reads), default.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from lib.model import Published

VERSION = "0.2.0"
"""It stands here only: the Dockerfile takes it into the bill of materials, and a release's tag must
be it."""

DEFAULT_NETWORK = "wg-net"
VARIABLE_PREFIX = "WGROUTEMGR_"
_MAX_INTERVAL = 86_400.0
_MIN_MTU, _MAX_MTU = 576, 65_535


class Settings(NamedTuple):
    """What the user chose; None where the choice is left to us."""

    command: str = "run"
    network: str | None = None
    gateway: str | None = None
    gateway_service: str | None = None
    resync_interval: float = 60.0
    """Seconds between full passes."""
    on_gateway_loss: str = "unreachable"
    on_tunnel_loss: str = "unreachable"
    gateway_guard: str = "off"
    on_stop: str = "keep"
    mtu: str = "auto"
    """Or `off`, or a number of bytes."""
    log_format: str | None = None
    log_level: str = "info"
    json: bool = False
    """`status`: JSON instead of a table."""
    container: str | None = None
    """`doctor`: the client whose packet is followed."""
    published: Published | None = None
    """What the daemon of this container has published, for all other commands."""


def _seconds(text: str) -> float:
    message = f"{text!r} is not a number of seconds between 1 and {_MAX_INTERVAL:.0f}"
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(message) from error
    if not 1 <= value <= _MAX_INTERVAL:
        raise argparse.ArgumentTypeError(message)
    return value


def _mtu(text: str) -> str:
    is_size = text.isascii() and text.isdigit() and _MIN_MTU <= int(text) <= _MAX_MTU
    if text not in {"auto", "off"} and not is_size:
        message = f"{text!r} is none of auto, off, a number from {_MIN_MTU} to {_MAX_MTU}"
        raise argparse.ArgumentTypeError(message)
    return text


def _one_of(*choices: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in choices:
            message = f"{text!r} is none of {', '.join(choices)}"
            raise argparse.ArgumentTypeError(message)
        return text

    return convert


class Option(NamedTuple):
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
        return VARIABLE_PREFIX + self.field.upper()

    @property
    def field(self) -> str:
        """The field of `Settings`."""
        return self.name.replace("-", "_")


OPTIONS = (
    Option(
        "network",
        "Docker network to serve, or several with commas",
        shown_default=f"the sidecar's label, then {DEFAULT_NETWORK}",
    ),
    Option(
        "gateway",
        "name or id of the gateway's container, its service in our own Compose project, or the "
        "addresses of one that is no container",
        shown_default="the sidecar's label, then the owner of our own network namespace",
    ),
    Option(
        "gateway-service",
        "full name of the swarm service whose task is the gateway, on whichever node",
        shown_default="the sidecar's label, then none",
    ),
    Option("resync-interval", "seconds between full passes", "60", convert=_seconds),
    Option(
        "on-gateway-loss",
        "what becomes of its clients' routes while the gateway is gone: unreachable or keep",
        "unreachable",
        convert=_one_of("unreachable", "keep"),
    ),
    Option(
        "on-tunnel-loss",
        "the same while the gateway does not send them into its tunnel: unreachable or warn",
        "unreachable",
        convert=_one_of("unreachable", "warn"),
    ),
    Option(
        "gateway-guard",
        "let the gateway send nothing of its clients out past the tunnel: on or off",
        "off",
        convert=_one_of("on", "off"),
    ),
    Option(
        "on-stop",
        "what becomes of its clients' routes when the sidecar stops: keep, unreachable or withdraw",
        "keep",
        convert=_one_of("keep", "unreachable", "withdraw"),
    ),
    Option(
        "mtu",
        "the mtu of routes where the client's own is larger: auto (the tunnel's), off or a number",
        "auto",
        convert=_mtu,
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

PUBLISHED = tuple(option for option in OPTIONS if not option.name.startswith("log-"))
"""Those that a daemon publishes: its log is its own business."""
