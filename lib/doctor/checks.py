"""What it takes: the sidecar, the network, and clients that ask for something.

Each function looks at one thing: it yields what it saw and what mends it, and notes in the case
what later checks build on. It may only read. Facts about Docker stand beside the check that uses
them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lib.doctor.site import SHOWN, Served, fail, lacking, need, ok, some, warn
from lib.engine import identity, sidecar
from lib.engine.client import NEWEST_API
from lib.engine.sharing import netns_owner
from lib.errors import CallError, EngineError, GoneError, OldEngineError, StaleSocketError
from lib.kernel import namespaces, prerequisites
from lib.model import IPV6, NETWORKS_LABEL, Client, Gateway, Snapshot
from lib.routing import desired

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.doctor.site import Case
    from lib.model import Container, DockerNetwork, Finding, Network

_BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_SERVICE = "com.docker.compose.service"
_ICC = "com.docker.network.bridge.enable_icc"


# --- the sidecar --------------------------------------------------------------------------------


def engine(case: Case) -> Iterator[Finding]:
    """Docker answers, and in which version."""
    host = os.environ.get("DOCKER_HOST")
    where = host or "its usual socket"
    try:
        case.engine = case.connect()
    except StaleSocketError:
        raise
    except OldEngineError as error:
        yield fail(error.reason, error.hint)
    except EngineError as error:
        socket = "volumes: ['/var/run/docker.sock:/var/run/docker.sock:ro']"
        unset = f"remove DOCKER_HOST, or correct it: {host}" if host else ""
        yield fail(f"none at {where}: {error.reason}", unset, socket)
    else:
        seen = f"Docker {case.engine.version}, API {case.engine.api_version}, at {where}"
        newer = case.engine.is_newer_than_tried
        yield warn(f"{seen}: tried up to API {NEWEST_API} only") if newer else ok(seen)


def own_container(case: Case) -> Iterator[Finding]:
    """Gateway and own container are found; `sidecar.find` says when they are not."""
    found = sidecar.find(need(case.engine, "the engine"), case.settings)
    case.sidecar = found
    cgroup, mountinfo = sidecar.CGROUP.read_text(), sidecar.MOUNTINFO.read_text()
    if found.own:
        how = "its place in the gateway's namespace"
        if found.own.id in identity.netns_owner_ids(mountinfo):
            how = "mountinfo"
        if found.own.upper_dir and found.own.upper_dir == identity.upper_dir(mountinfo):
            how = "its writable layer"
        if found.own.id in identity.own_ids(cgroup):
            how = "cgroup"
        yield ok(f"we are {found.own.name}, known by {how}; it serves {found.network}")
    elif case.settings.network:
        yield ok(f"our own container is not known, but the network is given: {found.network}")
    else:
        seen = f"our own container is not known, nor any label of it: serving {found.network}"
        yield warn(seen, f"--network {found.network}, or another one")


def gateway(case: Case) -> Iterator[Finding]:
    """The gateway runs, and we are in its namespace, not in one that it has left."""
    found = need(case.sidecar, "the sidecar")
    container = found.gateway
    if not container.running:
        yield fail(f"{container.name} is not running", f"docker start {container.name}")
        return
    if found.named_by:
        yield ok(f"{container.name}, named by {found.named_by}")
        return
    owners = identity.netns_owner_ids(sidecar.MOUNTINFO.read_text())
    how = "mountinfo" if container.id in owners else "the engine's list"
    if namespaces.is_own(case.namespace):
        yield ok(f"{container.name}, known by {how}; its network namespace is ours")
    else:
        name = found.own.name if found.own else "SIDECAR"
        seen = f"{container.name}, known by {how}, has a new network namespace since it restarted"
        service = container.labels.get(_SERVICE, container.name)
        mend = f"depends_on: {{{service}: {{condition: service_started, restart: true}}}}"
        yield warn(seen, f"docker restart {name}", f"{mend}   # so that it joins again by itself")


def capabilities(_: Case) -> Iterator[Finding]:
    """Both are in effect."""
    yield prerequisites.capabilities()


def netns_directory(case: Case) -> Iterator[Finding]:
    """The directory is mounted, follows the host, and holds namespaces.

    A namespace's file is on another device than plain files (namespaces(7), nsfs). Up to Docker 27
    the plain file of a container that ended stays for a minute (libnetwork, osl/namespace_linux.go,
    gpmCleanupPeriod).
    """
    found = case.sidecar.gateway.sandbox_key if case.sidecar else ""
    is_there = found and not namespaces.is_at_process(found)
    path = Path(found).parent if is_there else prerequisites.NETNS_DIRECTORY
    verdict = prerequisites.directory(path)
    if verdict.level != "ok" or not path.is_dir():
        yield verdict
        return
    device = namespaces.OWN.stat().st_dev
    files = [file.stat().st_dev == device for file in path.iterdir() if file.exists()]
    seen = f"{verdict.seen}; namespaces in it: {sum(files)}"
    if found and not namespaces.Proof.of(found):
        yield fail(f"{path} lacks the gateway's namespace", *prerequisites.mount_lines(path))
    elif files and not any(files):
        yield fail(seen, *prerequisites.mount_lines(path))
    else:
        yield ok(seen)


def commands(case: Case) -> Iterator[Finding]:
    """`nsenter` and `ip` are there and work: they are run in the gateway's namespace."""
    outcome = case.run(case.namespace, "ip", "route", "show")
    if not outcome.exit_code:
        yield ok("nsenter and ip work: the gateway's namespace was entered")
        return
    mend = prerequisites.CAP_ADD
    if "not found" in outcome.output or "can't execute" in outcome.output:
        mend = "use an image with ip and nsenter"
    elif "denied" in outcome.output:
        mend = "security_opt: [label=disable]   # SELinux or AppArmor stands in the way"
    yield fail(f"{outcome.command}: {outcome.output}", mend)


# --- the network --------------------------------------------------------------------------------


def network(case: Case) -> Iterator[Finding]:
    """The served network exists, and lets its containers talk and route.

    Between containers of an `enable_icc=false` network everything is dropped (moby, setIcc in
    drivers/bridge/setup_ip_tables.go). Of an internal one, what is not of its subnet is dropped
    (setupInternalNetworkRules), but only where the host's bridges pass the firewall, that is with
    br_netfilter loaded and `bridge-nf-call-iptables` on; each namespace has a switch of its own,
    so the host's cannot be seen from here.
    """
    found = need(case.sidecar, "the sidecar")
    try:
        case.network = served = need(case.engine, "the engine").network(found.network)
    except GoneError:
        alike = [point.network for point in found.gateway.endpoints]
        near = [name for name in alike if name.endswith(f"_{found.network}")]
        hint = f"networks: {{{found.network}: {{name: {found.network}}}}}"
        advice = [f"{hint}   # else it is {name}" for name in near[:1]]
        advice = advice or [f"docker network create {found.network}"]
        yield fail(f"there is no network {found.network}", *advice)
        return
    icc = served.options.get(_ICC, "true").lower()
    if icc in {"false", "f", "0"}:
        mend = f"docker network rm {served.name}, and create it without that option"
        yield fail(f"{served.name} has enable_icc=false: its containers cannot talk", mend)
    elif served.internal and _BRIDGE_FILTER.exists():
        seen = f"{served.name} is internal, and bridged packets may pass the host's firewall"
        on_host = "sysctl -w net.bridge.bridge-nf-call-iptables=0   # on the host"
        yield warn(f"{seen}, which drops routed ones", on_host, "or make it without `internal`")
    elif served.driver != "bridge":
        yield warn(f"{served.name} has the driver {served.driver}, which nobody has tried")
    else:
        subnets = ", ".join(map(str, served.subnets))
        yield ok(f"{served.name}, {served.driver}{' (internal)' * served.internal}, {subnets}")


def address(case: Case) -> Iterator[Finding]:
    """The gateway is attached, by the engine's word and by the kernel's."""
    served = need(case.network, "the network")
    container = need(case.sidecar, "the gateway").gateway
    if not container.running:
        lacking("a running gateway")
    endpoint = container.endpoint(served.id)
    if not endpoint or not endpoint.interfaces:
        mend = f"docker network connect {served.name} {container.name}"
        yield fail(f"{container.name} is not attached to {served.name}", mend)
        return
    addresses = tuple(face.ip for face in endpoint.interfaces)
    case.gateway = Gateway(container.name, container.id, served.name, served.id, addresses)
    held = (link for link in case.links(case.place) if {*addresses} & {*link.addresses})
    case.front = next(held, None)
    shown = " and ".join(map(str, addresses))
    if not case.front:
        seen = f"no interface of {container.name} has the address {shown}"
        yield fail(seen, f"docker restart {container.name}")
        return
    yield ok(f"{container.name} is {shown} on {served.name}, by {case.front.name}")
    if IPV6 in {subnet.version for subnet in served.subnets} - {face.version for face in addresses}:
        yield warn(f"{served.name} has IPv6, but {container.name} has no IPv6 address there")


# --- the clients --------------------------------------------------------------------------------


def clients(case: Case) -> Iterator[Finding]:
    """Somebody asks, and what is asked for can be served."""
    docker, leads = need(case.engine, "the engine"), need(case.gateway, "the gateway's address")
    pairs = []
    for container in docker.containers(NETWORKS_LABEL):
        with suppress(GoneError, CallError):
            pairs.append((container, netns_owner(docker, docker.inspect(container.id))))
    wanted = desired.compute(Snapshot(tuple(pairs)), leads)
    owners = {container.id: owner for container, owner in pairs}
    case.clients = tuple(
        _served(client, owners[client.container_id], leads) for client in wanted.clients
    )
    if case.clients:
        destinations = {route.dst for served in case.clients for route in served.client.routes}
        names = some(served.name for served in case.clients)
        count = f"{len(case.clients)} on {leads.network}, asking for {len(destinations)}"
        yield ok(f"{count} destinations: {names}")
    else:
        labelled = next((skipped.container for skipped in wanted.skipped), "")
        yield _nobody(labelled, leads.network)
    for skipped in wanted.skipped:
        if not skipped.expected:
            yield warn(f"{skipped.container} {skipped.reason}", skipped.hint)
    for client in wanted.clients:
        yield from _remarks(client)


def _nobody(labelled: str, name: str) -> Finding:
    seen = f"no running container on {name} has the label {NETWORKS_LABEL}"
    if labelled:
        return warn(f"{seen}; {labelled} has it", f"docker network connect {name} {labelled}")
    return warn(seen, label_line(), f"networks: [{name}]")


def label_line() -> str:
    """Return the line that makes a container a client."""
    return f"labels: {{{NETWORKS_LABEL}: 192.168.66.0/24}}   # what it wants to reach"


def _served(client: Client, owner: Container, leads: Gateway) -> Served:
    point = owner.endpoint(leads.network_id)
    faces = point.interfaces if point else ()
    attached = frozenset(end.network_id for end in owner.endpoints)
    return Served(client, {face.version: face.ip for face in faces}, attached)


def _remarks(client: Client) -> Iterator[Finding]:
    for refusal in client.refusals[:SHOWN]:
        yield warn(f"{client.container}: {refusal.entry} {refusal.reason}", refusal.hint)


def overlaps(case: Case) -> Iterator[Finding]:
    """No destination keeps the engine from attaching a client to another network later.

    It refuses to where a route of the main table overlaps the new subnet: "cannot program address
    ... conflicts with existing route" (moby, checkRouteConflict in osl/interface_linux.go).
    """
    found = need(case.clients or None, "a client")
    try:
        networks = need(case.engine, "the engine").networks()
    except CallError as error:
        yield warn(f"not known: {error.reason}", "let the proxy pass GET /networks")
        return
    clean = True
    for served in found:
        for dst, other in _conflicts(served, networks):
            clean = False
            seen = f"{served.name}: {dst} overlaps the network {other.name}; with that route"
            mend = f"name narrower networks than {dst} in the label {NETWORKS_LABEL}"
            yield warn(f"{seen} the engine cannot attach it there", mend)
    if clean:
        yield ok("no destination overlaps another network of this engine")


def _conflicts(
    served: Served, networks: Iterable[DockerNetwork]
) -> Iterator[tuple[Network, DockerNetwork]]:
    for other in networks:
        for route in served.client.routes:
            if other.id not in served.attached and any(
                subnet.version == route.dst.version and subnet.overlaps(route.dst)
                for subnet in other.subnets
            ):
                yield route.dst, other


def container(case: Case) -> Iterator[Finding]:
    """The one container to follow runs, is attached, and asks for something."""
    docker, leads = need(case.engine, "the engine"), need(case.gateway, "the gateway's address")
    try:
        found = docker.inspect(case.container)
    except GoneError:
        yield fail(f"the engine has no container {case.container}", "docker ps --all")
        return
    owner = netns_owner(docker, found)
    if not owner.running:
        yield fail(f"{owner.name} is not running", f"docker start {owner.name}")
        return
    wanted = desired.compute(Snapshot(((found, owner),)), leads)
    for skipped in wanted.skipped:
        attach = f"docker network connect {leads.network} {owner.name}" * skipped.expected
        yield fail(f"{found.name} {skipped.reason}", skipped.hint, attach)
    for client in wanted.clients:
        if NETWORKS_LABEL not in found.labels:
            yield fail(f"{found.name} has no label {NETWORKS_LABEL}", label_line())
        elif not client.routes:
            yield fail(f"{found.name} asks for nothing that can be served", label_line())
        else:
            case.clients = (_served(client, owner, leads),)
            asked = ", ".join(str(route.dst) for route in client.routes[:SHOWN])
            yield ok(f"{found.name} is on {leads.network} and asks for {asked}")
        yield from _remarks(client)
