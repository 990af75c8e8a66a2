"""The gateway's own guard: two rules there that let nothing of its clients out past the tunnel.

It says what is to be there; what sets it and takes it back is the same as for a client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from lib import advice
from lib.errors import NetnsError
from lib.model import MAIN, Client
from lib.reconcile.namespace import Namespace
from lib.reconcile.reporting import hint
from lib.routing import policy

if TYPE_CHECKING:
    from collections.abc import Collection

    from lib.kernel.access import Reader
    from lib.model import Container, Gateway, Network, Route

log = structlog.get_logger()


class RefusedError(Exception):
    """There can be no guard; `reason` is why, `hint` what to do about it."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class Guard:
    """The memory of why there is none."""

    def __init__(self, kernel: Reader) -> None:
        self._kernel = kernel
        self._refused = ""

    def namespace(self, gateway: Gateway, named: Container, owner: Container) -> Namespace | None:
        """Return the gateway's namespace with what is to be there; log why there is none, once.

        `named` is the gateway's container, `owner` the one whose namespace that uses.
        """
        try:
            found = guarded(self._kernel, gateway, named, owner)
        except RefusedError as error:
            if error.reason != self._refused:
                values = {"container": gateway.container, "network": gateway.network}
                log.warning("guard.refused", **values, reason=error.reason, **hint(error.hint))
            self._refused = error.reason
            return None
        self._refused = ""
        return found


def guarded(
    kernel: Reader, gateway: Gateway, named: Container, owner: Container, *, is_over: bool = False
) -> Namespace:
    """Return the gateway's namespace with what is to be there, or was (`is_over`).

    Raises RefusedError if there can be none.
    """
    path = owner.sandbox_key
    if gateway.is_outside:
        reason = f"{gateway.container} is no container of this engine"
        raise RefusedError(reason, advice.GUARD_THERE)
    if named.id != owner.id:
        reason = (
            f"{named.name} is in the network namespace of {owner.name}, which it guards as well"
        )
        raise RefusedError(reason, advice.forward_reject("eth0"))
    try:
        kernel.check(path, own=True)
        device = kernel.link_of(path, gateway.addresses)
        routes = kernel.read(path).routes
        identity = kernel.identify(path)
    except NetnsError as error:
        raise RefusedError(error.reason, error.hint) from error
    if not device:
        reason = f"no link of {gateway.container} has {gateway.addresses[0]}"
        raise RefusedError(reason, advice.restart(gateway.container))
    if not is_over:
        _check_default(routes, gateway, owner.attached, device)
    whose = Client(gateway.container, gateway.container_id, path, ())
    versions = [address.version for address in gateway.addresses]
    rules = [rule for version in versions for rule in policy.gateway_guard(version, device)]
    return Namespace(path, identity, wanted=dict.fromkeys(rules, whose))


def _check_default(
    routes: Collection[Route], gateway: Gateway, attached: Collection[Network], device: str
) -> None:
    """Raise RefusedError where a default route of main leads elsewhere than the engine's.

    The guard passes over it as over the engine's own.
    """
    for route in routes:
        if route.table != MAIN or route.dst.prefixlen or route.kind not in {"unicast", "connected"}:
            continue
        if not route.gateway or not any(route.gateway in network for network in attached):
            reason = f"the default route of {gateway.container} itself leads into a tunnel"
            raise RefusedError(reason, advice.forward_reject(device))
