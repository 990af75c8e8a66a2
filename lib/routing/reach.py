"""What a client's own addresses can never reach: the kernel takes no route there.

Pure. A route needs a gateway in a network to which the client is connected. Where that is not so,
the entry is refused, once and by name, until it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.model import TABLE, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lib.model import Address, Client, Inside, Route

_HINTS = {
    4: "attach the container to that network again, or remove the entry from its label",
    6: "see disable_ipv6 among the container's sysctls, or remove the entry from its label",
}


def refusals(routes: Iterable[Route], here: Inside, network: str) -> Mapping[Route, Refusal]:
    """Return, of the routes that are to be in a namespace, those with a remark.

    What is there already is left alone. A link that is down keeps its IPv4 addresses and comes up
    again, so that is for the kernel to say. A duplicate address keeps its network: the route can be
    there, and nothing answers.
    """
    found = {}
    for route in routes:
        remark = _unruled(route, here)
        if route.gateway and not remark:
            remark = _remark(route, route.gateway, here, network)
        if remark:
            found[route] = remark
    return found


def limited(client: Client, here: Inside, network: str) -> Client:
    """Return a client with the routes that it can have, and remarks on the others."""
    found = refusals(client.routes, here, network)
    routes = tuple(one for one in client.routes if one not in found or found[one].served)
    return client._replace(routes=routes, refusals=(*client.refusals, *found.values()))


def _unruled(route: Route, here: Inside) -> Refusal | None:
    """Refuse what goes to our table where the kernel has no rules by which it would be asked.

    Without any route either it does not know that IP version: then nothing can be unreachable.
    """
    version = route.version
    is_known = route.gateway or any(one.version == version for one in here.routes)
    if version in here.ruled or (route.table != TABLE and is_known):
        return None
    family = f"IPv{version}"
    reason = f"is {family}, and this kernel has no policy rules for {family}"
    hint = "remove the entry from its label, or boot the host without ipv6.disable=1"
    return Refusal(str(route.dst), reason, hint)


def _remark(route: Route, gateway: Address, here: Inside, network: str) -> Refusal | None:
    family = f"IPv{gateway.version}"
    same = [one for one in here.addresses if one.address.version == gateway.version]
    near = [one for one in same if gateway in one.network]
    if near and all(one.is_duplicate for one in near):
        reason = f"is served, but somebody else on {network} has the container's {near[0].address}"
        return Refusal(str(route.dst), reason, "give the container another address", served=True)
    is_connected = any(one.kind == "connected" and gateway in one.dst for one in here.routes)
    if near or is_connected or route.plain in {one.plain for one in here.routes}:
        return None
    held = sorted(str(one.address) for one in same)
    reason = f"is {family}, and the container has no {family} address on {network}"
    if held:
        reason += f" next to the gateway {gateway}, but {', '.join(held)}"
    return Refusal(str(route.dst), reason, _HINTS[gateway.version])
