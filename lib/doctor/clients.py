"""The clients: who asks for what, and the one whose packet is followed.

Each check only reads the site and yields what it saw and what fixes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib import advice
from lib.doctor.findings import SHOWN, fail, ok, some, warn
from lib.errors import EngineError, GoneError, NamespaceLeftError
from lib.model import IPV4, IPV6, NETWORKS_LABEL
from lib.routing import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.doctor.site import AttachedClient, Site
    from lib.model import Container, Finding, Skipped

_SWARM_SERVICE = "com.docker.swarm.service.name"


def clients(site: Site) -> Iterator[Finding]:
    """Somebody asks, and what is asked for can be served."""
    asking, network = site.asking.examine(), site.gateway().network
    if asking.clients:
        destinations = {route.dst for client in asking.clients for route in client.routes}
        names = some(client.name for client in asking.clients)
        count = f"{len(asking.clients)} on {network}, asking for {len(destinations)}"
        yield ok(f"{count} destinations: {names}")
    else:
        yield _nobody(next(iter(asking.skipped), None), network)
    for skipped in asking.skipped:
        if not skipped.expected:
            yield warn(f"{skipped.container} {skipped.reason}", skipped.hint)
    for client in asking.clients:
        yield from _remarks(client)


def _nobody(labelled: Skipped | None, network: str) -> Finding:
    seen = f"no running container on {network} has the label {NETWORKS_LABEL}"
    if labelled:
        return warn(f"{seen}; {labelled.container} has it, but {labelled.reason}", labelled.hint)
    return warn(seen, advice.LABEL, f"networks: [{network}]")


def container(site: Site) -> Iterator[Finding]:
    """The one container to follow runs, is attached, and asks for something."""
    site.engine()
    network = site.gateway().network
    try:
        found = site.container.examine()
    except GoneError:
        yield fail(f"the engine has no container {site.settings.container}", "docker ps --all")
        return
    try:
        owner = site.container_owner.examine()
    except NamespaceLeftError as error:
        yield fail(f"{found.name} {error.reason}", error.hint)
        return
    if not owner.running and owner.id == found.id:
        yield fail(f"{owner.name} is not running", advice.start(owner.name))
        return
    asking = site.asking.examine()
    for skipped in asking.skipped:
        yield fail(f"{found.name} {skipped.reason}", skipped.hint)
    for client in asking.clients:
        if not serving.asks(found.labels):
            yield _unlabelled(site, found)
        elif not client.routes:
            yield fail(f"{found.name} asks for nothing that can be served", advice.LABEL)
        else:
            asked = ", ".join(str(route.dst) for route in client.routes[:SHOWN])
            yield ok(f"{found.name} is on {network} and asks for {asked}")
        yield from _remarks(client)


def _unlabelled(site: Site, container: Container) -> Finding:
    """Say so; under `deploy:` labels are those of a swarm's service, not of its containers."""
    seen = f"{container.name} has no label {NETWORKS_LABEL}"
    service = container.labels.get(_SWARM_SERVICE)
    if not service:
        return fail(seen, advice.LABEL)
    try:
        has_it = serving.asks(site.engine().service_labels(service))
    except EngineError:  # A proxy refuses, or this engine is no manager of the swarm.
        return fail(seen, advice.LABEL, advice.NOT_UNDER_DEPLOY)
    if not has_it:
        return fail(seen, advice.LABEL)
    return fail(f"{seen}: its service {service} has it", advice.LABEL, advice.NOT_UNDER_DEPLOY)


_OTHERS = {advice.PORTS, advice.both_versions(IPV4), advice.both_versions(IPV6)}
"""Hints of what other checks tell: `ports` and `ipv6`."""


def _remarks(client: AttachedClient) -> Iterator[Finding]:
    remarks = [one for one in client.client.refusals if one.hint not in _OTHERS]
    for refusal in remarks[:SHOWN]:
        yield warn(f"{client.name}: {refusal.entry} {refusal.reason}", refusal.hint)
