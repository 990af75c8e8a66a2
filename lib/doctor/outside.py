"""What is special where the gateway is no container of this engine: only its neighbours know of it.

Each check only reads the site and yields what it saw and what fixes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib import advice
from lib.doctor.findings import fail, ok, some, warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lib.doctor.site import AttachedClient, Site
    from lib.model import Address, Finding

NO_ANSWER = {"FAILED", "INCOMPLETE"}
"""States of a neighbour that does not answer (ip-neighbour(8))."""


def gateway(site: Site) -> Finding:
    """It is no container: one could be followed by its name, whatever its address."""
    place, network = site.sidecar.examine(), site.network()
    shown = " and ".join(map(str, place.addresses))
    for key, faces in network.interfaces.items():
        if {face.ip for face in faces} & {*place.addresses}:
            name = site.engine().inspect(key).name
            seen = f"{shown}, named by {place.named_by}, is the container {name} now"
            return warn(seen, advice.name_gateway(name))
    return ok(f"{shown}, named by {place.named_by}, is no container of this engine")


def address(site: Site) -> Iterator[Finding]:
    """It is on the network, by the network's subnets and by what the clients see of it."""
    found = site.gateway()
    shown = " and ".join(map(str, found.addresses))
    yield ok(f"{shown} is in {', '.join(map(str, site.network().subnets))} of {found.network}")
    yield from neighbours(site, site.asking().clients)


def neighbours(site: Site, clients: Sequence[AttachedClient]) -> Iterator[Finding]:
    """The gateway answers on the clients' link, and only one there does."""
    for one in site.gateway().addresses:
        states = {
            client.name: entry
            for client in clients
            if (entry := site.neighbours(client.netns).get(one))
        }
        if clients:
            yield _neighbour(one, states, clients[0].name)


def _neighbour(address: Address, states: dict[str, tuple[str, str]], anybody: str) -> Finding:
    silent = [name for name, (_, state) in states.items() if state in NO_ANSWER]
    macs = {mac for mac, state in states.values() if state not in NO_ANSWER}
    if silent:
        seen = f"{address} does not answer {some(silent)}"
        return fail(seen, advice.outside_silent(silent[0], address), advice.CORRECT_GATEWAY)
    if len(macs) > 1:
        seen = f"{address} is {some(macs)}: more than one answers"
        return warn(seen, "give each of them an address of its own")
    if not macs:
        seen = f"nobody has asked for {address} lately"
        return ok(seen, advice.outside_silent(anybody, address))
    return ok(f"{address} is {macs.pop()}, seen by {some(states)}")
