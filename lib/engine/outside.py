"""A gateway that is no container of this engine: a router, a virtual machine, another host.

It is named by its addresses on the network that is served, and nothing but these is known of it: it
is never lost, and its namespace is nobody's here.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING

from lib import advice
from lib.errors import CallError, GoneError, NotReadyError
from lib.model import Container, Endpoint, Gateway
from lib.routing.labels import names
from lib.settings import DEFAULT_NETWORK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lib.engine.client import Engine
    from lib.model import Address, DockerNetwork


def addresses(reference: str, by: str) -> tuple[Address, ...]:
    """Return the addresses by which a gateway is named; none if it has a name.

    `by` says what named it. Raises NotReadyError for anything but one of each IP version.
    """
    entries = names(reference)
    found = [address for entry in entries if (address := _address(entry))]
    versions = {address.version for address in found}
    if found and not len(found) == len(versions) == len(entries):
        reason = f"{reference}, named by {by}, is not one address of each IP version"
        raise NotReadyError(reason, "write one, such as 192.0.2.1 or 192.0.2.1,2001:db8::1")
    return tuple(sorted(found, key=lambda address: address.version))


def network_of(engine: Engine, found: Sequence[Address], chosen: str) -> str:
    """Return the name of the network on which these are, if none was chosen.

    Raises NotReadyError if it is not the usual one, and not clear which it is.
    """
    if chosen:
        return chosen
    shown = " and ".join(map(str, found))
    try:
        held = [one.name for one in engine.networks() if not _strangers(one, found)]
    except CallError as error:
        reason = f"which network holds the gateway {shown} is not known: {error.reason}"
        raise NotReadyError(reason, advice.NETWORK_OPTION) from error
    if DEFAULT_NETWORK in held:
        return DEFAULT_NETWORK
    if len(held) != 1:
        several = f"several networks hold the gateway {shown}: {', '.join(sorted(held))}"
        reason = several if held else f"no network of this engine holds the gateway {shown}"
        raise NotReadyError(reason, advice.NETWORK_OPTION)
    return held[0]


def gateway(engine: Engine, found: Sequence[Address], name: str) -> Gateway:
    """Return the gateway on a network; NotReadyError if its addresses are not inside that."""
    try:
        network = engine.network(name)
    except GoneError as error:
        create = advice.create_network(name)
        reason = f"there is no network {name}"
        raise NotReadyError(reason, f"{create}, or name another by label or --network") from error
    if strangers := _strangers(network, found):
        subnets = ", ".join(map(str, network.subnets))
        reason = f"the gateway {strangers[0]} is in no subnet of {network.name} ({subnets})"
        raise NotReadyError(reason, advice.NETWORK_OPTION)
    return Gateway(
        str(found[0]),
        "",
        network.name,
        network.id,
        tuple(found),
        may_tunnel=False,
        is_outside=True,
    )


def standing_for(found: Gateway) -> Container:
    """Return what stands for it among containers."""
    faces = tuple(map(ip_interface, found.addresses))
    others = tuple(map(str, found.addresses[1:]))
    return Container(
        id=found.container,
        name=found.container,
        running=True,
        labels={},
        network_mode="",
        sandbox_key="",
        endpoints=(Endpoint(found.network, found.network_id, faces, others),),
    )


def _address(entry: str) -> Address | None:
    try:
        return ip_address(entry)
    except ValueError:
        return None


def _strangers(network: DockerNetwork, found: Sequence[Address]) -> list[Address]:
    """Return those of the addresses that are in no subnet of a network."""
    return [one for one in found if not any(one in subnet for subnet in network.subnets)]
