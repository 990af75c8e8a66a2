"""The sidecar's own needs: an engine, its gateway, capabilities, namespaces, commands.

Each check only reads the site and yields what it saw and what fixes it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lib import advice
from lib.doctor import outside, swarm
from lib.doctor.findings import fail, ok, some, warn
from lib.doctor.site import SkippedError, lacking
from lib.engine import identity, sidecar
from lib.engine.client import NEWEST_API
from lib.errors import DeniedError, EngineError, OldEngineError, StaleSocketError
from lib.kernel import namespaces, prerequisites
from lib.model import GATEWAY_LABEL
from lib.routing.surprises import has_own_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.doctor.site import Site
    from lib.model import Finding, Sidecar

_SERVICE = "com.docker.compose.service"


def engine(site: Site) -> Iterator[Finding]:
    """Docker answers, and in which version."""
    host = os.environ.get("DOCKER_HOST")
    where = host or "its usual socket"
    try:
        found = site.engine.examine()
    except StaleSocketError:
        raise
    except (DeniedError, OldEngineError) as error:
        yield fail(error.reason, error.hint)
    except EngineError as error:
        unset = f"remove DOCKER_HOST, or correct it: {host}" if host else ""
        user = prerequisites.rootless_user()
        volume = advice.SOCKET_VOLUME if user is None else advice.rootless_socket(user)
        yield fail(f"none at {where}: {error.reason}", unset, volume)
    else:
        seen = f"Docker {found.version}, API {found.api_version}, at {where}"
        newer = found.is_newer_than_tried
        yield warn(f"{seen}: tried up to API {NEWEST_API} only") if newer else ok(seen)


def own_container(site: Site) -> Iterator[Finding]:
    """Gateway and own container are found; `sidecar.find` says when they are not."""
    found = site.sidecar.examine()
    served = ", ".join(found.networks)
    if found.own:
        how = "its daemon" if site.is_beside_daemon else _known_by(found)
        seen = f"we are {found.own.name}, known by {how}; it serves {served}"
        yield ok(seen)
    elif site.settings.network:
        yield ok(f"our own container is not known, but the network is given: {served}")
    else:
        seen = f"our own container is not known, nor any label of it: serving {served}"
        yield warn(seen, f"--network {','.join(found.networks)}, or another one")


def _known_by(found: Sidecar) -> str:
    cgroup, mountinfo = sidecar.CGROUP.read_text(), sidecar.MOUNTINFO.read_text()
    if found.own and found.own.id in identity.own_ids(cgroup):
        return "cgroup"
    if found.own and found.own.upper_dir and found.own.upper_dir == identity.upper_dir(mountinfo):
        return "its writable layer"
    if found.own and found.own.id in identity.netns_owner_ids(mountinfo):
        return "mountinfo"
    return "its place in the gateway's namespace"


def gateway(site: Site) -> Iterator[Finding]:
    """The gateway runs, and we are in its namespace, not in one that it has left."""
    if site.sidecar().addresses:
        yield outside.gateway(site)
        return
    if site.sidecar().service:
        yield from swarm.task(site)
        return
    container = site.sidecar().gateway
    if not container.running:
        yield fail(f"{container.name} is not running", advice.start(container.name))
        return
    if sidecar.is_stranded(site.engine(), site.sidecar(), container):
        yield _stranded(site)
        return
    if has_own_stack(container):
        seen = f"{container.name} is run by {container.runtime}, which has a network stack of its"
        yield warn(f"{seen} own: it does not see its namespace", advice.runtime(container.name))
    owner = site.gateway_container.examine()
    if named_by := site.sidecar().named_by:
        whose = f", in the network namespace of {owner.name}" * (owner.id != container.id)
        yield ok(f"{container.name}, named by {named_by}{whose}")
        return
    owners = identity.netns_owner_ids(sidecar.MOUNTINFO.read_text())
    how = "mountinfo" if container.id in owners else "the engine's list"
    if not site.gateway_netns:
        yield ok(f"{container.name}, known by {how}; its network namespace is ours")
    else:
        seen = f"{container.name}, known by {how}, has a new network namespace since it restarted"
        service = container.labels.get(_SERVICE, container.name)
        yield warn(seen, advice.restart(site.own_name), advice.follow_gateway(service))


def _stranded(site: Site) -> Finding:
    own = site.sidecar().own
    return warn(advice.STRANDED, advice.recreate(own)) if own else lacking("our own container")


def reboot(site: Site) -> Iterator[Finding]:
    """Nothing that we need at our start is another container's.

    The engine starts containers in any order after a boot. A start fails that is to join a network
    which is not there yet, and is not tried again (moby, `daemon/daemon.go`, `restore`).
    """
    found = site.sidecar()
    is_found = not (found.addresses or found.service)
    own, gateway = found.own, site.gateway_container() if is_found else None
    if own and not own.shares_netns_of:
        yield ok("we start whether the gateway runs or not")
    elif gateway and (own or not found.named_by):
        seen = f"after a reboot we do not start if the engine tries before {gateway.name} runs"
        is_named = own and GATEWAY_LABEL in own.labels
        label = "" if is_named else advice.name_gateway(gateway.name)
        yield warn(f"{seen}, whose network we join", advice.NO_NETWORK, label)


def capabilities(_: Site) -> Iterator[Finding]:
    """Both are in effect."""
    yield prerequisites.capabilities()


def netns_directory(site: Site) -> Iterator[Finding]:
    """The directory is mounted, follows the host, and holds namespaces.

    A namespace's file is on another device than plain files (namespaces(7), nsfs). Up to Docker 27
    the plain file of a container that ended stays for a minute (libnetwork, osl/namespace_linux.go,
    gpmCleanupPeriod).
    """
    found = _sandbox_key(site)
    is_in_directory = found and not namespaces.is_at_process(found)
    path = Path(found).parent if is_in_directory else advice.NETNS_DIRECTORY
    verdict = prerequisites.directory(path)
    if verdict.level != "ok" or not path.is_dir():
        yield verdict
        return
    device = namespaces.OWN.stat().st_dev
    files = [file.stat().st_dev == device for file in path.iterdir() if file.exists()]
    seen = f"{verdict.seen}; namespaces in it: {sum(files)}"
    if found and not namespaces.exists(found):
        yield fail(f"{path} lacks the gateway's namespace", *advice.mount_lines(path))
    elif files and not any(files):
        yield fail(seen, *prerequisites.mount_advice(path))
    elif missing := _clients_without(site, device):
        seen = f"{seen}; the mount does not follow the engine's: {some(missing)} not among them"
        yield fail(seen, *prerequisites.mount_advice(path))
    else:
        yield ok(seen)


def _clients_without(site: Site, device: int) -> list[str]:
    """Return the clients whose namespace files are there, but are no namespaces."""
    with suppress(SkippedError):
        files = {client.name: Path(client.netns) for client in site.asking().clients}
        return [
            name for name, file in files.items() if file.exists() and file.stat().st_dev != device
        ]
    return []


def _sandbox_key(site: Site) -> str:
    """Return where the engine says that the gateway's namespace is; nothing where it is silent."""
    try:
        return site.gateway_container().sandbox_key
    except SkippedError:
        return ""


def commands(site: Site) -> Iterator[Finding]:
    """`nsenter` and `ip` are there and work: they are run in the gateway's namespace."""
    outcome = site.run(site.gateway_netns_file, "ip", "route", "show")
    if not outcome.exit_code:
        yield ok("nsenter and ip work: the gateway's namespace was entered")
        return
    fix = prerequisites.on_output(outcome.output)
    yield fail(f"{outcome.command}: {outcome.output}", fix)
