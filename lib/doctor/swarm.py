"""What is special where the gateway is a task of a swarm's service.

Each check only reads the site and yields what it saw and what fixes it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from lib import advice
from lib.doctor.findings import fail, ok, some, warn
from lib.doctor.site import SkippedError, lacking
from lib.kernel import names as name_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.doctor.site import Site
    from lib.model import DockerNetwork, Finding

_NOBODY = "nobody-has-this-name"
"""What no container is called, nor anybody outside: the first level of names has none such."""

_NOT_YET = "not named before we are healthy"
_VXLAN_BYTES = 50
"""That an overlay puts around each packet: its option `mtu` counts them (moby, `vxlanEncap` in
drivers/overlay/overlay.go)."""


def names(site: Site) -> Iterator[Finding]:
    """The node's name server knows us and the gateway, and asks nobody else about it."""
    place = site.sidecar()
    if not place.service:
        return
    if not place.own:
        lacking("our own container")
    us, tasks = (
        some(map(str, name_server.ask(name).addresses))
        for name in (name_server.of_container(place.own.id), name_server.of_tasks(place.service))
    )
    if not (us or tasks):
        seen = f"the name server of {place.network} does not know us"
        yield fail(seen, advice.attach_agent(place.network), advice.NAME_SERVER)
        return
    yield ok(f"we are {us or _NOT_YET}, tasks.{place.service} is {tasks or 'nobody'}")
    if name_server.ask(_NOBODY).left:
        yield warn("while no task runs, the host's name servers are asked", advice.DNS_NOWHERE)


def task(site: Site) -> Iterator[Finding]:
    """One task of the service runs, by the word of name server and engine."""
    found, finder = site.task.examine()
    service, choice = site.sidecar().service, finder.choice
    where = "on this node" if finder.container else f"on {found.node}"
    seen = f"{found.container} {where}, a task of {service}"
    if choice.others:
        seen = f"{seen}, and {some(one.name for one in choice.others)} beside it"
        yield warn(seen, advice.one_task(service))
    else:
        yield ok(seen)
    if choice.doubted:
        seen = f"{some(map(str, choice.doubted))} is named so, and no task of {service}"
        yield warn(seen, advice.full_name(service))


def unlinked(site: Site, network: DockerNetwork) -> Finding | None:
    """Return what may keep packets of an overlay from the gateway's node; None if nothing is seen.

    A machine that has nothing on a network is not among its nodes.
    """
    if network.driver != "overlay":
        return None
    if "encrypted" in network.options:
        return warn(f"{network.name} is encrypted, which nobody has tried")
    with suppress(SkippedError):
        gateway = site.gateway()
        if gateway.node and network.nodes and gateway.node not in network.nodes:
            known = some(network.nodes)
            seen = f"{gateway.node}, where the gateway is, is no node of {network.name} ({known})"
            return fail(seen, advice.node_ports(gateway.node))
    return None


def outside(network: DockerNetwork) -> int:
    """Return the bytes that a network's option `mtu` counts beside those of a packet."""
    return _VXLAN_BYTES if network.driver == "overlay" else 0
