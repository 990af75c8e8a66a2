"""The `ip` dialect: steps to command lines.

Pure. Only what BusyBox and iproute2 both understand is used. Failures are told by the exit code;
texts differ and are for people.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from lib.model import DEFAULT_METRIC, IPV4, IPV6, MAIN, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.model import Address, Route, Step, Thing

_REJECTING = {"unreachable", "blackhole", "prohibit", "throw"}
_IP = {IPV4: ("ip",), IPV6: ("ip", "-6")}


def command(netns: str, step: Step, source: Address | None = None) -> str:
    """Return the command line of a step, as it runs and as a person can paste it.

    With a source address the kernel refuses it in any namespace that does not hold that address.
    """
    thing, verb = step.thing, step.verb
    ip = _IP[thing.version]
    if isinstance(thing, Rule):
        return shlex.join((*_enter(netns), *ip, "rule", verb, *_rule(thing)))
    # IPv6's kernel deletes the first route that is like it in what is said.
    is_exact = verb == "del" and thing.version == IPV6
    words = [*_enter(netns), *ip, "route", verb, *_route(thing, with_metric=is_exact)]
    if source:
        words += ["src", str(source)]
    if verb == "replace" and thing.kind == "connected":
        words += ["dev", "lo"]
    if step.exact or (verb == "replace" and thing.mtu):
        words += ["mtu", str(thing.mtu)]
    if is_exact and thing.kind in _REJECTING:  # It does not compare the type.
        words += ["dev", "lo"]
    return shlex.join(words)


def text(thing: Thing) -> str:
    """Return a route or a rule in the words of a command."""
    if isinstance(thing, Rule):
        return " ".join(_rule(thing))
    size = ("mtu", str(thing.mtu)) if thing.mtu else ()
    return " ".join((*_route(thing), *size))


def _enter(netns: str) -> tuple[str, str]:
    return "nsenter", f"--net={netns}"


def _rule(rule: Rule) -> Iterator[str]:
    yield from ("pref", str(rule.pref))
    if rule.source:
        yield from ("from", str(rule.source))
    if rule.device:
        yield from ("iif", rule.device)
    if rule.is_unreachable:
        yield from ("type", "unreachable")
        return
    yield from ("lookup", "main" if rule.table == MAIN else str(rule.table))
    if rule.suppress is not None:
        yield from ("suppress_prefixlength", str(rule.suppress))


def _route(route: Route, *, with_metric: bool = False) -> Iterator[str]:
    if route.kind not in {"unicast", "connected"}:
        yield route.kind
    yield str(route.dst) if route.dst.prefixlen else "default"
    # iproute2 takes no gateway of the other IP version without a keyword that BusyBox lacks.
    if route.gateway and route.gateway.version == route.dst.version:
        yield from ("via", str(route.gateway))
    if with_metric or route.metric != DEFAULT_METRIC[route.dst.version]:
        yield from ("metric", str(route.metric))
    if route.table != MAIN:
        yield from ("table", str(route.table))
