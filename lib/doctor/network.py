"""The served network, the gateway's place on it, and the engine's other networks.

Each check only reads the site and yields what it saw and what fixes it. Facts about Docker stand
beside the check that uses them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lib import advice
from lib.doctor import swarm
from lib.doctor.findings import fail, ok, warn
from lib.doctor.site import lacking
from lib.errors import CallError, GoneError
from lib.model import IPV6, MAIN, Standing
from lib.routing.fitness import TRIED, unfit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.doctor.site import AttachedClient, Site
    from lib.model import DockerNetwork, Finding, Network, Sidecar

BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_ICC = "com.docker.network.bridge.enable_icc"


def network(site: Site) -> Iterator[Finding]:
    """The served network exists, and lets its containers talk and route.

    Between containers of an `enable_icc=false` network everything is dropped (moby, setIcc in
    drivers/bridge/setup_ip_tables.go). Of an internal one, what is not of its subnet is dropped
    (setupInternalNetworkRules), but only where the host's bridges pass the firewall, that is with
    br_netfilter loaded and `bridge-nf-call-iptables` on; each namespace has a switch of its own,
    so the host's cannot be seen from here. With nftables as its backend the engine lets pass what
    stays on the bridge (nftabler/network.go).
    """
    try:
        found = site.network.examine()
    except GoneError:
        yield _missing(site.sidecar())
        return
    if reason := unfit(found):
        yield fail(reason, advice.driver(found.name))
    elif found.options.get(_ICC, "true").lower() in {"false", "f", "0"}:
        fix = f"docker network rm {found.name}, and create it without that option"
        yield fail(f"{found.name} has enable_icc=false: its containers cannot talk", fix)
    elif (backend := _filters(site, found)) is not None:
        known = "" if backend else ", if its backend is iptables (GET /info was refused)"
        seen = f"{found.name} is internal, and bridged packets may pass the host's firewall"
        fixes = (advice.BRIDGE_FILTER, advice.let_bridge(found), "or make it without `internal`")
        yield warn(f"{seen}, which drops routed ones{known}", *fixes)
    elif unlinked := swarm.unlinked(site, found):
        yield unlinked
    elif found.driver not in TRIED:
        yield warn(f"{found.name} has the driver {found.driver}, which nobody has tried")
    else:
        subnets = ", ".join(map(str, found.subnets))
        yield ok(f"{found.name}, {found.driver}{' (internal)' * found.internal}, {subnets}")


def _filters(site: Site, network: DockerNetwork) -> str | None:
    """Return what may filter what is routed inside an internal network; None if nothing does.

    The bridges of an overlay are in namespaces of their own, where nobody filters.
    """
    if not network.internal or network.driver == "overlay" or not BRIDGE_FILTER.exists():
        return None
    backend = _backend(site)
    return None if backend == "nftables" else backend


def _backend(site: Site) -> str:
    """Return what the engine makes firewall rules with; nothing where a proxy refuses to tell."""
    try:
        return site.engine().firewall()
    except CallError:
        return ""


def _missing(found: Sidecar) -> Finding:
    """Say so; Compose puts the project's name before that of a network without `name`."""
    names = (endpoint.network for endpoint in found.gateway.endpoints)
    likely = next((name for name in names if name.endswith(f"_{found.network}")), "")
    fix = advice.create_network(found.network)
    if likely:
        fix = f"{advice.name_network(found.network)}   # else it is {likely}"
    return fail(f"there is no network {found.network}", fix)


def address(site: Site) -> Iterator[Finding]:
    """The gateway is attached, by the engine's word and by the kernel's."""
    network, container = site.network(), site.gateway_container()
    if not container.running:
        lacking("a running gateway")
    if not site.gateway_endpoint:
        fix = advice.attach(network.name, container)
        yield fail(f"{container.name} is not attached to {network.name}", fix)
        return
    addresses = site.gateway().addresses
    shown = " and ".join(map(str, addresses))
    links = site.gateway_links(addresses)
    if not links:
        seen = f"no interface of {container.name} has the address {shown}"
        yield fail(seen, advice.restart(container.name))
        return
    yield ok(f"{container.name} is {shown} on {network.name}, by {links[0].name}")
    versions = {subnet.version for subnet in network.subnets}
    if IPV6 in versions - {address.version for address in addresses}:
        yield warn(f"{network.name} has IPv6, but {container.name} has no IPv6 address there")


def gateways(site: Site) -> Iterator[Finding]:
    """No other sidecar of this engine serves its clients by another gateway, nor is one lost."""
    verdict, among, _ = site.judgement()
    if site.served_by:
        yield warn(f"{verdict.reason}, not by {site.gateway().container}", advice.ONE_GATEWAY)
    else:
        yield ok(verdict.reason)
    there = among or site.gateway().gateways
    for one in (each for each in there.candidates if not each.network):
        if one.standing is Standing.LOST and one.gateway != there.ours:
            yield warn(f"the gateway {one.gateway} is lost", advice.start(one.gateway))
        elif one.names:
            yield ok(f"{one.gateway} also answers to {', '.join(sorted(one.names))}")


def overlaps(site: Site) -> Iterator[Finding]:
    """No destination keeps the engine from attaching a client to another network later.

    It refuses to where a route of the main table overlaps the new subnet: "cannot program address
    ... conflicts with existing route" (moby, checkRouteConflict in osl/interface_linux.go).
    """
    clients = site.clients()
    try:
        networks = site.engine().networks()
    except CallError as error:
        yield warn(f"not known: {error.reason}", advice.PROXY)
        return
    clean = True
    for client in clients:
        for dst, other in _conflicts(client, networks):
            clean = False
            seen = f"{client.name}: {dst} overlaps the network {other.name}; with that route"
            yield warn(f"{seen} the engine cannot attach it there", advice.narrower(dst))
    if clean:
        yield ok("no destination overlaps another network of this engine")


def _conflicts(
    client: AttachedClient, networks: Iterable[DockerNetwork]
) -> Iterator[tuple[Network, DockerNetwork]]:
    for other in networks:
        for route in (one for one in client.routes if one.table == MAIN):
            if client.networks.isdisjoint({other.id, other.name}) and any(
                subnet.version == route.dst.version and subnet.overlaps(route.dst)
                for subnet in other.subnets
            ):
                yield route.dst, other
