"""The `ip` dialect: steps to command lines.

Pure. Only what BusyBox and iproute2 both understand is used. Failures are told by the exit code;
texts differ and are for people.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from lib.model import DEFAULT_METRIC, IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.model import Address, Route, Step

_REJECTING = {"unreachable", "blackhole", "prohibit", "throw"}
_IP = {IPV4: ("ip",), IPV6: ("ip", "-6")}


def command(netns: str, step: Step, source: Address | None = None) -> str:
    """Return the command line of a step, as it runs and as a person can paste it.

    With a source address the kernel refuses it in any namespace that does not hold that address.
    """
    version = step.route.dst.version
    words = [*_IP[version], "route", step.verb, *_route(step.route)]
    if source:
        words += ["src", str(source)]
    if step.exact or (step.route.mtu and step.verb == "replace"):
        words += ["mtu", str(step.route.mtu)]
    if step.verb == "del" and version == IPV6:
        # The kernel deletes the first route that is like it in what is said.
        if "metric" not in words:
            words += ["metric", str(step.route.metric)]
        if step.route.kind in _REJECTING:  # It does not compare the type.
            words += ["dev", "lo"]
    return shlex.join(("nsenter", f"--net={netns}", *words))


def text(route: Route) -> str:
    """Return a route in the words of a command."""
    return " ".join((*_route(route), *(("mtu", str(route.mtu)) if route.mtu else ())))


def _route(route: Route) -> Iterator[str]:
    if route.kind not in {"unicast", "connected"}:
        yield route.kind
    yield str(route.dst)
    # iproute2 takes no gateway of the other IP version without a keyword that BusyBox lacks.
    if route.gateway and route.gateway.version == route.dst.version:
        yield from ("via", str(route.gateway))
    if route.metric != DEFAULT_METRIC[route.dst.version]:
        yield from ("metric", str(route.metric))
