"""The other sidecars of this engine: which gateway each serves on a network.

Read from their containers alone, in the order of precedence that each of them reads its own choices
by. No sidecar talks to another.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog

from lib.engine import gateways, outside
from lib.engine.sharing import namespace_chain
from lib.errors import CallError, GoneError, NotReadyError
from lib.model import (
    GATEWAY_LABEL,
    NETWORK_LABEL,
    SERVICE_LABEL,
    Claim,
    Gateway,
)
from lib.named import RUN, named_command, named_options
from lib.routing import labels
from lib.settings import DEFAULT_NETWORK, VARIABLE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lib.engine.client import Engine
    from lib.model import Container

log = structlog.get_logger()


def claims(
    engine: Engine, listed: Iterable[Container], networks: Sequence[str], known: Iterable[Claim]
) -> Iterator[Claim]:
    """Yield what the sidecars claim; `networks` are name and id of the one that is ours.

    What is `known` of one is taken for granted while the engine does not answer. One in the
    namespace of a gateway that was removed claims for one that has the sidecar's own name.
    """
    before = [*known]
    for one in listed:
        try:
            yield from _claims(engine, engine.inspect(one.id), networks)
        except GoneError:
            continue
        except CallError as error:
            log.debug("answer.skipped", kind="container", reason=error.reason)
            yield from (claim for claim in before if claim.sidecar_id == one.id)


def _claims(engine: Engine, peer: Container, networks: Sequence[str]) -> list[Claim]:
    """Return what a sidecar claims, for each network that it serves; nothing if no clients are."""
    if not peer.running or named_command(peer.arguments) != RUN:
        return []
    served = labels.names(_choice(peer, "network", NETWORK_LABEL)) or ("",)
    found = (_claim(engine, peer, network, networks) for network in served)
    return [claim for claim in found if claim]


def _claim(engine: Engine, peer: Container, network: str, networks: Sequence[str]) -> Claim | None:
    """Return what it claims on one of them; None if it waits."""
    absent = peer.started_at - peer.finished_at if peer.finished_at else math.inf
    try:
        found = _outside(engine, peer, network) or _gateway(engine, peer)
    except NotReadyError as error:
        log.debug("answer.skipped", kind="container", reason=error.reason)
        network = _other(network or DEFAULT_NETWORK, networks)
        claim = Claim(peer.name, peer.id, peer.id, peer.started_at, absent, network=network)
        return claim._replace(untold=peer.name)
    if isinstance(found, Gateway):
        network, found = found.network, outside.standing_for(found)
    network = _other(network or DEFAULT_NETWORK, networks)
    if isinstance(found, str):
        return Claim(found, found, peer.id, peer.started_at, absent, network=network)
    if found.id == peer.id or found.network_mode == "host":
        return None  # It waits, and touches no route.
    claim = Claim(found.name, found.id, peer.id, peer.started_at, absent, network=network)
    return described(claim, namespace_chain(engine, found), networks)


def _other(network: str, networks: Sequence[str]) -> str:
    """Return the name of a network if it is another than ours."""
    return "" if network in networks else network


def again(engine: Engine, claim: Claim, networks: Sequence[str]) -> Claim:
    """Return a claim with its gateway as it is now, of a sidecar that is not there any more."""
    if outside.addresses(claim.gateway, "another sidecar"):
        return claim
    try:
        chain = namespace_chain(engine, engine.inspect(claim.gateway_id))
    except (CallError, GoneError, NotReadyError) as error:
        log.debug("answer.skipped", kind="container", reason=error.reason)
        return claim._replace(up_since=None)
    return described(claim, chain, networks)


def described(claim: Claim, gateway: Sequence[Container], networks: Sequence[str]) -> Claim:
    """Return a claim with what its gateway answers to, where it is, and since when.

    `networks` are name and id of ours. `gateway` is its container, as inspected, and at the end who
    owns its namespace.
    """
    names_of = (claim.network,) if claim.network else networks
    points = [point for name in names_of if (point := gateway[-1].endpoint(name))]
    aliases = [alias for point in points for alias in point.aliases]
    services = [one.labels.get(key, "") for one in gateway for key in gateways.SERVICE_LABELS]
    if claim.network and points:
        claim = claim._replace(network=points[0].network)
    names = {*aliases, *services, *(one.name for one in gateway)}
    is_there = all(one.running for one in gateway) and any(one.interfaces for one in points)
    since = max(one.started_at for one in gateway) if is_there else None
    return claim._replace(
        names=frozenset(names - {claim.gateway, ""}),
        up_since=since,
        addresses=frozenset(face.ip for one in points for face in one.interfaces),
    )


def _outside(engine: Engine, peer: Container, network: str) -> Gateway | None:
    """Return a sidecar's gateway if that is no container."""
    by = "another sidecar"
    found = outside.addresses(_choice(peer, "gateway", GATEWAY_LABEL), by)
    if not found:
        return None
    return outside.gateway(engine, found, outside.network_of(engine, found, network))


def _gateway(engine: Engine, peer: Container) -> Container | str:
    """Return a sidecar's gateway; of a swarm's service the name alone.

    One that was removed is still what the sidecar waits for, by the name that it was given.
    """
    if service := _choice(peer, "gateway-service", SERVICE_LABEL):
        return service
    if reference := _choice(peer, "gateway", GATEWAY_LABEL):
        try:
            return gateways.named(engine, reference, "another sidecar", peer)
        except NotReadyError:
            return reference
    return namespace_chain(engine, peer)[-1]


def _choice(peer: Container, option: str, label: str) -> str:
    """Return what a sidecar chose: by its option, its variable or its label."""
    variable = peer.environment.get(VARIABLE_PREFIX + option.upper().replace("-", "_"))
    chosen = named_options(peer.arguments).get(option) or variable
    return chosen or peer.labels.get(label, "").strip()
