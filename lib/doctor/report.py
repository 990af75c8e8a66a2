"""Every prerequisite in the order in which a packet meets it: `ok`, `warn` or `fail`, and the fix.

Brings the checks into the order in which they are printed (no check needs another one to have run
before it), and prints what they find. Nothing is changed.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

from lib.doctor import clients, network, path, setup, swarm, whole
from lib.doctor.site import ElsewhereError, Site, SkippedError
from lib.engine.client import Engine
from lib.errors import WgRouteMgrError
from lib.kernel.shells import Shells
from lib.model import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TextIO

    from lib.settings import Settings

    Check = Callable[[Site], Iterator[Finding]]

_SIDECAR: Mapping[str, Check] = {
    "engine": setup.engine,
    "sidecar": setup.own_container,
    "names": swarm.names,
    "gateway": setup.gateway,
    "reboot": setup.reboot,
    "capabilities": setup.capabilities,
    "namespaces": setup.netns_directory,
    "commands": setup.commands,
}
_NETWORK: Mapping[str, Check] = {
    "network": network.network,
    "address": network.address,
    "gateways": network.gateways,
}
_ALL_CLIENTS: Mapping[str, Check] = {"clients": clients.clients}
_ONE_CLIENT: Mapping[str, Check] = {
    "container": clients.container,
    "route": path.route,
    "neighbour": path.neighbour,
}
_GATEWAY: Mapping[str, Check] = {
    "overlaps": network.overlaps,
    "dns": whole.dns,
    "ports": whole.ports,
    "ipv6": whole.ipv6,
    "direct": whole.direct,
    "redirects": whole.redirects,
    "forwarding": path.forwarding,
    "rp_filter": path.rp_filter,
    "firewall": path.firewall,
    "tunnel": path.tunnel,
    "nat": path.nat,
    "back": path.back,
    "mtu": path.mtu,
}
CHECKS: Mapping[str, Check] = {
    **_SIDECAR,
    **_NETWORK,
    **_ALL_CLIENTS,
    **_ONE_CLIENT,
    **_GATEWAY,
}
"""All checks by the names under which they report."""

_COLOURS = {"ok": 32, "warn": 33, "fail": 31, "skip": 2}
_WIDTH = max(map(len, CHECKS))


def run(settings: Settings) -> int:
    """Examine the place where we run; return the exit code."""
    with closing(Shells()) as shell:
        return report(Site(settings, shell, Engine), sys.stdout)


def examine(site: Site) -> Iterator[tuple[str, Finding]]:
    """Yield what each check finds, with its name; with a container, follow that one's packet.

    What several networks have in common is said once.
    """
    about_clients = _ONE_CLIENT if site.settings.container else _ALL_CLIENTS
    said: set[tuple[str, Finding]] = set()
    yield from _checked(site, _SIDECAR)
    for each in site.networks():
        for found in _checked(each, {**_NETWORK, **about_clients, **_GATEWAY}):
            if found not in said:
                said.add(found)
                yield found


def _checked(site: Site, checks: Mapping[str, Check]) -> Iterator[tuple[str, Finding]]:
    for name, check in checks.items():
        try:
            for finding in check(site):
                yield name, finding
        except ElsewhereError as where:
            yield name, Finding("skip", str(where))
        except SkippedError as lacking:
            yield name, Finding("skip", f"cannot be told without {lacking}")
        except WgRouteMgrError as error:
            yield name, Finding("fail", error.reason, (error.hint,) if error.hint else ())


def report(site: Site, out: TextIO) -> int:
    """Print all findings as they come, and a last line; return the exit code."""
    colour = out.isatty() and not os.environ.get("NO_COLOR")
    count: Counter[str] = Counter()
    stop = ""
    for name, finding in examine(site):
        count[finding.level] += 1
        if finding.level == "fail" and not stop:
            stop = name
        for line in lines(name, finding, colour=colour):
            print(line, file=out, flush=True)
    print(_summary(site.settings.container or "", count, stop), file=out)
    return 1 if stop else 0


def lines(name: str, finding: Finding, *, colour: bool = False) -> Iterator[str]:
    """Yield a finding as it is printed: what was seen, and below it what fixes it."""
    level = f"{finding.level:<4}"
    if colour:
        level = f"\033[{_COLOURS[finding.level]}m{level}\033[0m"
    yield f"{level}  {name:<{_WIDTH}}  {' '.join(finding.seen.split())}"
    yield from (f"      {fix}" for fix in finding.fix)


def _summary(container: str, count: Mapping[str, int], stop: str) -> str:
    numbers = ", ".join(f"{count[level]} {level}" for level in _COLOURS if count[level])
    if not container:
        return numbers
    verdict = f"its packet stops at: {stop}" if stop else "nothing here stops its packet"
    return f"{numbers}; {container}: {verdict}"
