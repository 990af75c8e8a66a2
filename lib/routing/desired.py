"""A snapshot to the routes that its labels ask for, with a reason for all that is left out.

Pure. This is where a request is held against what the client is attached to, so that no label can
cut a client off or reach a namespace that is not its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.model import DEFAULT_METRIC, NETWORKS_LABEL, Client, Desired, Refusal, Route, Skipped
from lib.routing import labels
from lib.routing.surprises import surprises

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.model import Container, Gateway, Network, Snapshot


def compute(snapshot: Snapshot, gateway: Gateway) -> Desired:
    """Return what every labelled container gets through that gateway, ordered by name.

    While the gateway is lost, what it led to is unreachable: its address may go to a stranger.
    """
    clients, skipped = [], []
    for container, owner in sorted(snapshot.clients, key=lambda pair: (pair[0].name, pair[0].id)):
        verdict = _client(container, owner, gateway)
        if isinstance(verdict, Client):
            clients.append(verdict)
        else:
            skipped.append(verdict)
    return Desired(tuple(clients), tuple(skipped))


def _client(container: Container, owner: Container, gateway: Gateway) -> Client | Skipped:
    def skip(reason: str, hint: str = "", *, expected: bool = False) -> Skipped:
        return Skipped(container.name, container.id, reason, hint, expected)

    if stopped := next((one for one in (container, owner) if not one.running), None):
        return skip(f"{stopped.name} is not running", expected=True)
    if owner.network_mode == "host":
        hint = f"attach it to {gateway.network} instead, or remove the label"
        return skip("uses the host's network namespace, which is never written", hint)
    if owner.id == gateway.container_id:
        hint = f"remove the label {NETWORKS_LABEL}: the gateway has these routes itself"
        return skip("is in the gateway's own network namespace", hint)
    if not owner.endpoint(gateway.network_id):
        return skip(f"is not attached to {gateway.network}", expected=True)
    if not owner.sandbox_key:
        return skip("has no network namespace yet", expected=True)
    routes, refusals = _routes(container.labels.get(NETWORKS_LABEL, ""), gateway, owner)
    shared_with = owner.name if owner.id != container.id else ""
    return Client(
        container.name, container.id, owner.sandbox_key, routes, refusals, shared_with=shared_with
    )


def _routes(
    label: str, gateway: Gateway, owner: Container
) -> tuple[tuple[Route, ...], tuple[Refusal, ...]]:
    destinations, refusals = labels.parse(label)
    attached = [face.network for point in owner.endpoints for face in point.interfaces]
    routes = []
    remarks = list(refusals)
    for dst in destinations:
        remark = _remark(dst, gateway, attached)
        if remark:
            remarks.append(remark)
        if not remark or remark.served:
            kind = "unreachable" if dst.version in gateway.lost else "unicast"
            address = gateway.address(dst.version)
            routes.append(Route(dst, address, DEFAULT_METRIC[dst.version], kind))
    remarks += surprises(owner, [route.dst for route in routes])
    return tuple(routes), tuple(remarks)


def _remark(dst: Network, gateway: Gateway, attached: Iterable[Network]) -> Refusal | None:
    if gateway.address(dst.version) is None and dst.version not in gateway.lost:
        family = f"IPv{dst.version}"
        reason = f"is {family}, and the gateway has no {family} address on {gateway.network}"
        return Refusal(str(dst), reason, f"give the network {gateway.network} an {family} subnet")
    same_version = [network for network in attached if network.version == dst.version]
    for network in same_version:
        if dst.subnet_of(network):  # type: ignore[arg-type]
            reason = f"is equal to or inside {network}, to which the container is attached"
            hint = "remove it: the container reaches that network directly"
            return Refusal(str(dst), reason, hint)
    for network in same_version:
        if network.subnet_of(dst):  # type: ignore[arg-type]
            reason = f"is served, but contains {network}, to which the container is attached"
            hint = "while it stands, the engine attaches the container to no other network inside"
            return Refusal(str(dst), reason, hint, served=True)
    return None
