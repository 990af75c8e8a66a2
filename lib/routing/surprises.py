"""What a client's routes bring about that nobody may have thought of.

Pure. All of it is served: it may be meant so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib import advice
from lib.model import Refusal, Route, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lib.model import Address, Container, Network, Thing

_STACKS_OF_THEIR_OWN = ("runsc", "gvisor", "kata")
"""Parts of the names of runtimes that take the routes of a namespace once, at its start, if at all:
gVisor (runsc/sandbox/network.go) and Kata Containers."""


def has_own_stack(container: Container) -> bool:
    """Tell whether a container's runtime does not see what is set in its namespace."""
    return any(name in container.runtime.lower() for name in _STACKS_OF_THEIR_OWN)


def surprises(
    owner: Container, destinations: Sequence[Network], direct: Sequence[Thing] = ()
) -> Iterator[Refusal]:
    """Yield remarks on destinations of a namespace's owner, which are served all the same.

    Not on what keeps off the gateway by what is `direct`.
    """
    for dst in destinations:
        # With everything, names are to go through the gateway too.
        if not dst.prefixlen:
            continue
        inside = (one for one in owner.dns if one in dst and not _is_past(one, direct))
        if servers := [str(server) for server in inside]:
            reason = f"is served, but holds its DNS server {', '.join(servers)}"
            yield Refusal(str(dst), reason, advice.DNS, served=True)
    yield from _callers(owner, destinations, direct)
    if destinations and has_own_stack(owner):
        reason = f"is served, but the runtime {owner.runtime} does not see routes of its namespace"
        yield Refusal(str(destinations[0]), reason, advice.runtime(owner.name), served=True)


def _is_past(address: Address, direct: Sequence[Thing]) -> bool:
    return any(isinstance(one, Route) and address in one.dst for one in direct)


def _callers(
    owner: Container, destinations: Sequence[Network], direct: Sequence[Thing]
) -> Iterator[Refusal]:
    """Yield one remark on the callers of published ports: all are answered through the gateway.

    Who calls an address of the host is in its network mostly; for any other port a caller may be
    anywhere. Who calls the host's loopback comes from the engine's own address. Who has a network
    for them beside has thought of them.
    """
    answered = {one.version for one in direct if isinstance(one, Rule)}
    held = {
        dst: ports
        for dst in destinations
        if (
            ports := {
                one.port: None
                for one in owner.published
                if one.version == dst.version
                and one.version not in answered
                and (
                    one.address is None
                    or (one.address in dst and not _is_past(one.address, direct))
                )
            }
        )
    }
    if held:
        first, ports = next(iter(held.items()))
        more = f" (so are those in {len(held) - 1} more)" if len(held) > 1 else ""
        callers = f"callers of the published {', '.join(ports)} in it"
        reason = f"is served, but {callers} are answered through the gateway{more}"
        yield Refusal(str(first), reason, advice.PORTS, served=True)
