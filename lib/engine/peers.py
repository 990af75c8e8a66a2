"""The other sidecars of this engine: which gateway each serves on a network.

Read from their containers alone, in the order of precedence that each of them reads its own choices
by. No sidecar talks to another.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog

from lib.engine import gateways
from lib.engine.sharing import namespace_chain
from lib.errors import CallError, GoneError, NotReadyError
from lib.model import GATEWAY_LABEL, NETWORK_LABEL, ROLE_LABEL, SERVICE_LABEL, SIDECAR, Claim
from lib.named import RUN, named_command, named_options
from lib.settings import DEFAULT_NETWORK, VARIABLE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lib.engine.client import Engine
    from lib.model import Container

log = structlog.get_logger()


def sidecars(engine: Engine) -> tuple[Container, ...]:
    """List all sidecars that run, we among them; commands that end are listed too."""
    return engine.containers(f"{ROLE_LABEL}={SIDECAR}")


def claims(
    engine: Engine, listed: Iterable[Container], networks: Sequence[str], known: Iterable[Claim]
) -> Iterator[Claim]:
    """Yield what the sidecars claim that serve the network of one of those names (or its id).

    What is `known` of one is taken for granted while its gateway cannot be told.
    """
    before = {claim.sidecar_id: claim for claim in known}
    for one in listed:
        try:
            found = _claim(engine, engine.inspect(one.id), networks)
        except (CallError, GoneError, NotReadyError) as error:
            log.debug("answer.skipped", kind="container", reason=error.reason)
            found = before.get(one.id)
        if found:
            yield found


def _claim(engine: Engine, peer: Container, networks: Sequence[str]) -> Claim | None:
    """Return what a sidecar claims; None if it serves no clients, or those of another network."""
    network = _choice(peer, "network", NETWORK_LABEL) or DEFAULT_NETWORK
    if not peer.running or named_command(peer.arguments) != RUN or network not in networks:
        return None
    name, key, mode = _gateway(engine, peer)
    if key == peer.id or mode == "host":
        return None  # It waits, and touches no route.
    absent = peer.started_at - peer.finished_at if peer.finished_at else math.inf
    return Claim(name, key, peer.id, peer.started_at, absent)


def _gateway(engine: Engine, peer: Container) -> tuple[str, str, str]:
    """Return name, id and network mode of a sidecar's gateway.

    One that was removed is still what the sidecar waits for, by the name that it was given.
    """
    if service := _choice(peer, "gateway-service", SERVICE_LABEL):
        return service, service, ""
    if reference := _choice(peer, "gateway", GATEWAY_LABEL):
        try:
            found = gateways.named(engine, reference, "another sidecar", peer)
        except NotReadyError:
            return reference, reference, ""
    else:
        found = namespace_chain(engine, peer)[-1]
    return found.name, found.id, found.network_mode


def _choice(peer: Container, option: str, label: str) -> str:
    """Return what a sidecar chose: by its option, its variable or its label."""
    variable = peer.environment.get(VARIABLE_PREFIX + option.upper().replace("-", "_"))
    chosen = named_options(peer.arguments).get(option) or variable
    return chosen or peer.labels.get(label, "").strip()
