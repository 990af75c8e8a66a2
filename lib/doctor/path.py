"""The way of a client's packet: its own routes, through the gateway into the tunnel, and back.

Each function looks at one thing: it yields what it saw and what mends it. It may only read. The
kernel is asked where it would send a packet; none is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.doctor.site import fail, host_of, lacking, need, ok, some, warn
from lib.kernel import netfilter, prerequisites, route_table
from lib.model import IPV4, IPV6, Step
from lib.routing import iproute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.doctor.site import Case, Served
    from lib.model import Address, Finding, Gateway, Route

_STRICT = 1
_NO_ANSWER = {"FAILED", "INCOMPLETE"}
"""States of a neighbour that does not answer (ip-neighbour(8))."""


def route(case: Case) -> Iterator[Finding]:
    """The client's own kernel sends each destination to the gateway."""
    for served in need(case.clients, "the client"):
        for wanted in served.client.routes:
            yield _routed(case, served, wanted)


def _routed(case: Case, served: Served, wanted: Route) -> Finding:
    way = case.look_up(served.client.netns, host_of(wanted.dst))
    if way.gateway and way.gateway == wanted.gateway:
        return ok(f"{served.name} sends {wanted.dst} to {way.gateway} by {way.device}")
    to = f"to {way.gateway or 'nobody'} by {way.device}" if way.device else "nowhere"
    seen = f"{served.name} sends {wanted.dst} {to}, not to the gateway {wanted.gateway}"
    own = case.sidecar.own.name if case.sidecar and case.sidecar.own else "SIDECAR"
    return fail(
        seen,
        f"docker logs {own}   # why did it not set this:",
        iproute.command(served.client.netns, Step("replace", wanted)),
    )


def neighbour(case: Case) -> Iterator[Finding]:
    """The gateway answers the client on their link, and nobody else does in its name."""
    leads, front = need(case.gateway, "the gateway's address"), need(case.front, "the address")
    for served in need(case.clients, "the client"):
        output = case.run(served.client.netns, "ip", "neigh", "show").output
        known = iproute.parse_neighbours(output)
        for address in leads.addresses:
            if address not in known:
                lacking(f"a packet: {served.name} has not asked for {address} lately")
            mac, state = known[address]
            seen = f"{address} is {mac or 'nobody'}, {state}"
            if state in _NO_ANSWER:
                yield fail(f"{seen}: it does not answer", f"docker restart {leads.container}")
            elif mac != front.mac:
                mend = f"ipv4_address: {address}   # of {leads.container}, outside of ip_range"
                yield fail(f"{seen}, but {leads.container} is {front.mac}", mend)
            else:
                yield ok(seen)


def forwarding(case: Case) -> Iterator[Finding]:
    """The gateway forwards each IP version that it serves.

    For IPv4 the interface counts where the packet comes in, for IPv6 `all` (kernel,
    Documentation/networking/ip-sysctl.rst).
    """
    leads = need(case.gateway, "the gateway's address")
    front = need(case.front, "the gateway's address")
    wanted = {dst.version for _, dst in case.wishes()} if case.clients else set()
    names = {
        IPV4: ("net/ipv4/ip_forward", f"net/ipv4/conf/{front.name}/forwarding"),
        IPV6: ("net/ipv6/conf/all/forwarding",),
    }
    for version in sorted(face.version for face in leads.addresses):
        off = [name for name in names[version] if case.sysctl(name) == 0]
        key = (off or names[version])[0].replace("/", ".")
        if not off:
            case.forwards.add(version)
            yield ok(f"{key} is 1 in {leads.container}")
            continue
        judge = fail if version == IPV4 or version in wanted else warn
        yield judge(f"{key} is 0 in {leads.container}", _sysctls(f"{key}: 1", leads))


def _sysctls(setting: str, leads: Gateway) -> str:
    return f"sysctls: {{{setting}}}   # in the service of {leads.container}"


def rp_filter(case: Case) -> Iterator[Finding]:
    """No strict reverse path filter drops what the clients send or what comes back.

    Strict (1, the larger of `all` and the interface's own) drops a packet that comes in by another
    interface than the one by which its sender is reached (ip-sysctl.rst). The kernel is asked as
    for a real packet, as it also minds policy rules. IPv6 has no such filter.
    """
    leads, front = (
        need(case.gateway, "the gateway's address"),
        need(case.front, "the gateway's address"),
    )
    strict: dict[str, bool] = {}
    clean = True
    for served, dst in case.wishes():
        client, target = served.addresses.get(IPV4), host_of(dst)
        if dst.version != IPV4 or not client:
            continue
        if IPV4 not in case.forwards:
            lacking("forwarding")
        out = case.way_out(served, dst).device
        for name, sender, receiver in ((front.name, client, target), (out, target, client)):
            strict[name] = _rp_mode(case, name) == _STRICT
            if strict[name] and _is_dropped(case, name, sender, receiver):
                clean = False
                way = case.look_up(case.place, sender).device or "nothing"
                seen = f"strict on {name}: it drops what comes from {sender}, reached by {way}"
                yield fail(seen, _sysctls("net.ipv4.conf.all.rp_filter: 2", leads))
    if not strict:
        lacking("an IPv4 destination")
    if clean:
        names = ", ".join(name for name, is_strict in strict.items() if is_strict)
        yield ok(f"strict on {names}, but drops nothing" if names else "not strict")


def _rp_mode(case: Case, name: str) -> int:
    return max(case.sysctl(f"net/ipv4/conf/{which}/rp_filter") or 0 for which in ("all", name))


def _is_dropped(case: Case, name: str, sender: Address, receiver: Address) -> bool:
    """Tell whether the kernel knows the way, but not for a packet that comes in there."""
    known = case.look_up(case.place, receiver).device
    return bool(known) and not case.look_up(case.place, receiver, sender, name).device


def firewall(case: Case) -> Iterator[Finding]:
    """No FORWARD policy of the gateway's drops everything. Single rules are not judged."""
    leads, front = (
        need(case.gateway, "the gateway's address"),
        need(case.front, "the gateway's address"),
    )
    if case.place:
        yield warn("can be read only from within the gateway's network namespace")
        return
    try:
        chains = netfilter.forward_chains()
    except OSError as error:
        yield warn(f"could not be read: {error.strerror}", prerequisites.CAP_ADD)
        return
    for chain in chains:
        name = f"{chain.family} {chain.table} {chain.name}"
        if chain.drops and chain.rules:
            seen = f"{name} drops what none of its rules accepts (not judged: {chain.rules})"
            yield warn(seen, f"see that they accept what comes in and goes out by {front.name}")
        elif chain.drops:
            yield fail(f"{name} drops everything", *_accept(chain, leads))
    if not any(chain.drops for chain in chains):
        yield ok(f"no policy drops forwarded packets (chains: {len(chains)}, rules not judged)")


def _accept(chain: netfilter.Chain, leads: Gateway) -> Iterator[str]:
    tool = {"ip": "iptables", "ip6": "ip6tables"}.get(chain.family)
    if tool and (chain.table, chain.name) == ("filter", "FORWARD"):
        yield f"docker exec {leads.container} {tool} -P FORWARD ACCEPT"
        return
    policy = "'{ policy accept ; }'"
    words = f"nft chain {chain.family} {chain.table} {chain.name} {policy}"
    yield f"docker exec {leads.container} {words}"


def tunnel(case: Case) -> Iterator[Finding]:
    """The gateway sends each destination into a tunnel.

    That is an interface which the engine did not give it. `wg-quick` makes the routes to them from
    AllowedIPs (wg-quick(8)). By one of the engine's it may go to a further gateway, if that is
    meant, but never by the default route.
    """
    leads, front = (
        need(case.gateway, "the gateway's address"),
        need(case.front, "the gateway's address"),
    )
    given = _given_by_engine(case)
    for served, dst in case.wishes():
        way = case.way_out(served, dst)
        out = f"by {way.device}" + (f" via {way.gateway}" if way.gateway else "")
        add = f"add {dst} to AllowedIPs of the peer in the tunnel's configuration"
        mend = f"{add}, then: docker restart {leads.container}"
        if not way.device:
            yield fail(f"{leads.container} has no route to {dst}", mend)
        elif way.device in {front.name, "lo"}:
            yield fail(f"{leads.container} sends {dst} back out {out}, into no tunnel", mend)
        elif way.device in given and way.gateway in _default_gateways(case):
            yield fail(f"{leads.container} sends {dst} out {out}, into no tunnel", mend)
        elif way.device in given:
            yield warn(f"{leads.container} sends {dst} out {out}, into no tunnel", mend)
        else:
            yield ok(f"{leads.container} sends {dst} into {way.device}")
    if not any(True for _ in case.wishes()):
        lacking("a destination")


def _given_by_engine(case: Case) -> set[str]:
    container = need(case.sidecar, "the gateway").gateway
    given = {face.ip for point in container.endpoints for face in point.interfaces}
    return {link.name for link in case.links(case.place) if given & {*link.addresses}}


def _default_gateways(case: Case) -> set[Address | None]:
    return {route.gateway for route in route_table.read(case.place) if route.dst.prefixlen == 0}


def back(case: Case) -> Iterator[Finding]:
    """The gateway reaches its clients straight by its interface on their network."""
    front, found = need(case.front, "the gateway's address"), need(case.clients or None, "a client")
    clean = True
    for served in found:
        for client in served.addresses.values():
            way = case.look_up(case.place, client)
            if (way.device, way.gateway) != (front.name, None):
                clean = False
                leads = f"by {way.device or 'nothing'}" + f" via {way.gateway}" * bool(way.gateway)
                seen = f"what comes back for {served.name} ({client}) leaves the gateway {leads}"
                yield fail(seen, f"remove that route, see: ip route get {client}")
    if clean:
        yield ok(f"by {front.name}, straight to {some(served.name for served in found)}")


def mtu(case: Case) -> Iterator[Finding]:
    """No client's packets are larger than the tunnel takes.

    If they are, all hangs on "fragmentation needed" messages, which firewalls like to drop.
    """
    served_network = need(case.network, "the network")
    outs = {
        served.client.netns: case.way_out(served, route.dst).device
        for served in need(case.clients or None, "a client")
        for route in served.client.routes[:1]
    }
    sizes = {link.name: link.mtu for link in case.links(case.place)}
    large = [
        (served.name, link.mtu, out)
        for served in case.clients or ()
        if (out := outs.get(served.client.netns))
        for link in case.links(served.client.netns)
        if {*served.addresses.values()} & {*link.addresses} and link.mtu > sizes.get(out, link.mtu)
    ]
    if large:
        _, size, out = large[0]
        names = some(each for each, *_ in large)
        mend = f'driver_opts: {{com.docker.network.driver.mtu: "{sizes[out]}"}}'
        seen = f"up to {size} bytes from {names}, but {sizes[out]} through {out}"
        yield warn(seen, f"{mend}   # for {served_network.name}, which must be made anew")
    elif any(outs.values()):
        yield ok("no client sends larger packets than the tunnel takes")
    else:
        lacking("a way out")
