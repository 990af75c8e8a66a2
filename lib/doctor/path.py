"""The way of a client's packet: its own routes, through the gateway into the tunnel, and back.

Each check only reads the site and yields what it saw and what fixes it. The kernel is asked where
it would send a packet; none is sent.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING

from lib import advice
from lib.doctor import outside, swarm
from lib.doctor.findings import fail, ok, some, warn
from lib.doctor.site import SkippedError, lacking
from lib.errors import NetnsError
from lib.kernel import netfilter, prerequisites, route_table
from lib.model import IPV4, IPV6, MAIN
from lib.reconcile.tunnels import AUTO
from lib.routing import iproute, policy
from lib.routing.hosts import host
from lib.routing.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lib.doctor.ip_output import Link, Lookup, Rule
    from lib.doctor.site import AttachedClient, Site
    from lib.model import Address, Finding, Network, Route

_STRICT = 1
_EVERYTHING = {IPV4: ip_network("0.0.0.0/0"), IPV6: ip_network("::/0")}


# --- from the client to the gateway -------------------------------------------------------------


def route(site: Site) -> Iterator[Finding]:
    """The client's own kernel sends each destination to the gateway."""
    client = site.client()
    for wanted in client.routes:
        yield _routed(site, client, wanted)


def _routed(site: Site, client: AttachedClient, wanted: Route) -> Finding:
    found = site.look_up(client.netns, host(wanted.dst))
    if wanted.is_guard and not found.gateway:
        return ok(f"{client.name} sends {wanted.dst} nowhere: the gateway has no such address")
    if found.gateway and found.gateway == wanted.gateway:
        return ok(f"{client.name} sends {wanted.dst} to {found.gateway} by {found.device}")
    if wanted.kind == "unreachable" and not found.device:
        return warn(f"{client.name} sends {wanted.dst} nowhere, as the gateway's tunnel is lost")
    to = f"to {found.gateway or 'nobody'} by {found.device}" if found.device else "nowhere"
    where = f"to the gateway {wanted.gateway}" if wanted.gateway else "nowhere"
    return fail(
        f"{client.name} sends {wanted.dst} {to}, not {where}",
        f"docker logs {site.own_name}   # why did it not set this:",
        *(iproute.command(client.netns, step) for step in plan(policy.needs([wanted]), ())),
    )


def neighbour(site: Site) -> Iterator[Finding]:
    """The gateway answers the client on their link, and nobody else does in its name."""
    if site.sidecar().addresses:
        yield from outside.neighbours(site, [site.client()])
        return
    gateway, link, client = site.gateway(), site.gateway_link(), site.client()
    known = site.neighbours(client.netns)
    for address in gateway.addresses:
        if address not in known:
            lacking(f"a packet: {client.name} has not asked for {address} lately")
        mac, state = known[address]
        seen = f"{address} is {mac or 'nobody'}, {state}"
        if state in outside.NO_ANSWER:
            yield fail(f"{seen}: it does not answer", advice.restart(gateway.container))
        elif mac != link.mac:
            fix = advice.fixed_address(address, gateway.container)
            yield fail(f"{seen}, but {gateway.container} is {link.mac}", fix)
        else:
            yield ok(seen)


# --- through the gateway ------------------------------------------------------------------------


def forwarding(site: Site) -> Iterator[Finding]:
    """The gateway forwards each IP version that it serves."""
    gateway, link = site.gateway(), site.gateway_link()
    wanted = set()
    with suppress(SkippedError):  # It forwards even where nobody asks yet.
        wanted = {dst.version for _, dst in site.destinations()}
    for version in sorted(address.version for address in gateway.addresses):
        names = _forwarding_settings(link, version)
        off = [name for name in names if site.sysctl(name) == 0]
        setting = (off or names)[0].replace("/", ".")
        if not off:
            yield ok(f"{setting} is 1 in {gateway.container}")
            continue
        judge = fail if version == IPV4 or version in wanted else warn
        fix = advice.sysctls(f"{setting}: 1", gateway.container)
        yield judge(f"{setting} is 0 in {gateway.container}", fix)


def _forwarding_settings(link: Link, version: int) -> tuple[str, ...]:
    """Return what must be on for packets that come in from the clients.

    For IPv4 the interface counts where the packet comes in, for IPv6 `all` (kernel,
    Documentation/networking/ip-sysctl.rst).
    """
    if version == IPV6:
        return ("net/ipv6/conf/all/forwarding",)
    return ("net/ipv4/ip_forward", f"net/ipv4/conf/{link.name}/forwarding")


def _forwards(site: Site, version: int) -> bool:
    names = _forwarding_settings(site.gateway_link(), version)
    is_served = site.gateway().address(version) is not None
    return is_served and all(site.sysctl(name) != 0 for name in names)


def rp_filter(site: Site) -> Iterator[Finding]:
    """No strict reverse path filter drops what the clients send or what comes back.

    Strict (1, the larger of `all` and the interface's own) drops a packet that comes in by another
    interface than the one by which its sender is reached (ip-sysctl.rst). The kernel is asked as
    for a real packet, as it also minds policy rules. IPv6 has no such filter.
    """
    gateway = site.gateway()
    strict: dict[str, bool] = {}
    clean = True
    for name, sender, receiver in _ipv4_packets(site):
        strict[name] = _rp_mode(site, name) == _STRICT
        if strict[name] and _is_dropped(site, name, sender, receiver):
            clean = False
            device = site.look_up(site.gateway_netns, sender).device or "nothing"
            seen = f"strict on {name}: it drops what comes from {sender}, reached by {device}"
            yield fail(seen, advice.sysctls("net.ipv4.conf.all.rp_filter: 2", gateway.container))
    if not strict:
        lacking("an IPv4 destination")
    if clean:
        names = ", ".join(name for name, is_strict in strict.items() if is_strict)
        yield ok(f"strict on {names}, but drops nothing" if names else "not strict")


def _ipv4_packets(site: Site) -> Iterator[tuple[str, Address, Address]]:
    """Yield interface, sender and receiver of what comes in at the gateway, and of its answer."""
    link = site.gateway_link()
    for client, dst in site.destinations():
        address, target = client.addresses.get(IPV4), host(dst)
        if dst.version != IPV4 or not address:
            continue
        if not _forwards(site, IPV4):
            lacking("forwarding")
        yield link.name, address, target
        yield site.route_to(dst, client).device, target, address


def _rp_mode(site: Site, name: str) -> int:
    return max(site.sysctl(f"net/ipv4/conf/{which}/rp_filter") or 0 for which in ("all", name))


def _is_dropped(site: Site, name: str, sender: Address, receiver: Address) -> bool:
    """Tell whether the kernel knows the way, but not for a packet that comes in there."""
    known = site.look_up(site.gateway_netns, receiver).device
    return bool(known) and not site.look_up(site.gateway_netns, receiver, sender, name).device


def firewall(site: Site) -> Iterator[Finding]:
    """No FORWARD policy of the gateway's drops everything. Single rules are not judged."""
    link = site.gateway_link()
    try:
        chains = netfilter.forward_chains(site.gateway_netns)
    except OSError as error:
        yield _unreadable(error)
        return
    for chain in chains:
        name = f"{chain.family} {chain.table} {chain.name}"
        if chain.drops and chain.rules:
            seen = f"{name} drops what none of its rules accepts (not judged: {chain.rules})"
            yield warn(seen, f"see that they accept what comes in and goes out by {link.name}")
        elif chain.drops:
            yield fail(f"{name} drops everything", *_accept(site, chain))
    if not any(chain.drops for chain in chains):
        # Nor would one stop what goes past the tunnel while that is away.
        guards = () if site.settings.gateway_guard == "on" else _guards(link.name)
        seen = f"no policy drops forwarded packets (chains: {len(chains)}, rules not judged)"
        yield ok(seen, *guards)


def _guards(front: str) -> tuple[str, str]:
    return advice.GUARD, advice.forward_reject(front)


def _unreadable(error: OSError) -> Finding:
    """Say so; with both capabilities it is that the gateway's root is none of ours (userns)."""
    return warn(f"could not be read: {error.strerror}", *prerequisites.capabilities().fix)


def _accept(site: Site, chain: netfilter.Chain) -> Iterator[str]:
    """Yield what lets the clients' packets pass: all, or into the tunnel if all are to go there."""
    gateway, link = site.gateway().container, site.gateway_link()
    version = {"ip": IPV4, "ip6": IPV6}.get(chain.family)
    if not version or (chain.table, chain.name) != ("filter", "FORWARD"):
        words = f"nft chain {chain.family} {chain.table} {chain.name} '{{ policy accept ; }}'"
        yield f"docker exec {gateway} {words}"
        return
    asked: frozenset[int] = frozenset()
    with suppress(SkippedError):  # Its policy is what it is, also where nobody asks yet.
        asked = _whole(site)
    if version in asked:
        tunnels = sorted(site.tunnels())
        yield from (advice.accept(gateway, link.name, device, version) for device in tunnels)
    else:
        yield advice.accept_all(gateway, version)


def tunnel(site: Site) -> Iterator[Finding]:
    """The gateway sends each destination into a tunnel, and something comes back out of it."""
    site.gateway_link()
    used = set()
    for client, dst in site.destinations():
        found = site.route_to(dst, client)
        used.add(found.device)
        yield _sent(site, dst, found)
    if not used:
        lacking("a destination")
    for device in sorted(used & site.tunnels()):
        yield from _counted(site, device)
    for version in sorted(_whole(site)):
        yield from _without_tunnel(site, version)


def _without_tunnel(site: Site, version: int) -> Iterator[Finding]:
    """Judge where the gateway would send everything if its tunnel went: not by the engine's way.

    Somebody has to be there who takes it, and no policy may drop what is not for the tunnel.
    """
    name, front = site.gateway().container, site.gateway_link().name
    dst, tunnels = _EVERYTHING[version], sorted(site.tunnels())
    found = site.by_table(host(dst), "main")
    takes = {one for one, (mac, _) in site.neighbours(site.gateway_netns).items() if mac}
    if not tunnels or found.gateway not in takes or found.device not in site.links_by_engine():
        return
    if any(not rule.table and f" iif {front} " in f"{rule.text} " for rule in site.rules(version)):
        return
    with suppress(OSError):  # The check of the firewall says so.
        if _drops(netfilter.forward_chains(site.gateway_netns), version):
            return
    seen = f"without its tunnel, {name} sends {dst} out by {found.device} via {found.gateway}"
    accepted = (advice.accept(name, front, device, version) for device in tunnels)
    yield warn(f"{seen}, unprotected", *accepted, advice.drop(name, version))


def _drops(chains: Sequence[netfilter.Chain], version: int) -> bool:
    families = {"inet", "ip6" if version == IPV6 else "ip"}
    return any(chain.drops for chain in chains if chain.family in families)


def _sent(site: Site, dst: Network, found: Lookup) -> Finding:
    """Judge where the gateway sends a destination: into an interface that the engine did not make?

    `wg-quick` makes the routes to them from AllowedIPs (wg-quick(8)). By one of the engine's it may
    go to a further gateway, if that is meant, but never by the default route.
    """
    name = site.gateway().container
    out = f"by {found.device}" + (f" via {found.gateway}" if found.gateway else "")
    if not found.device:
        return fail(f"{name} has no route to {dst}", *_into_tunnel(site, dst))
    if found.device in {site.gateway_link().name, "lo"}:
        seen = f"{name} sends {dst} back out {out}, into no tunnel"
        return fail(seen, *_into_tunnel(site, dst))
    if found.device in site.links_by_engine():
        judge = fail if found.gateway in _default_gateways(site) else warn
        return judge(f"{name} sends {dst} out {out}, into no tunnel", *_into_tunnel(site, dst))
    return ok(f"{name} sends {dst} into {found.device}")


def _into_tunnel(site: Site, dst: Network) -> tuple[str, ...]:
    """Return what leads a destination into a tunnel: one to lead to, a policy rule, or a route."""
    name, tunnels, rules = site.gateway().container, site.tunnels(), site.rules(dst.version)
    if not tunnels:
        return (advice.tunnel_device(name),)
    for table in ("main", *(rule.table for rule in rules if rule.table not in {"", "main"})):
        if rules and site.by_table(host(dst), table).device in tunnels:
            return _past_rules(name, rules, dst, table)
    return (advice.allowed_ips(dst, name), advice.see_rules(name, dst.version) * bool(rules))


def _past_rules(
    gateway: str, rules: Sequence[Rule], dst: Network, table: str = "main"
) -> tuple[str, ...]:
    """Return the rule that comes before all others."""
    first = min(rules, key=lambda rule: rule.preference)
    return (
        advice.policy_rule(gateway, dst, table, max(1, first.preference - 1)),
        advice.see_rules(gateway, dst.version),
    )


def _counted(site: Site, device: str) -> Iterator[Finding]:
    """Judge what a tunnel has counted since it was made."""
    name, found = site.gateway().container, site.counters(device)
    if not found:
        return
    if found.sent and not found.received:
        packets = "1 packet" if found.sent == 1 else f"{found.sent} packets"
        seen = f"{device} has sent {packets} and received none: no handshake?"
        yield fail(seen, advice.handshake(name))
    for errors, way, whose in (
        (found.send_errors, "sending", "destinations"),
        (found.receive_errors, "receiving", "senders"),
    ):
        if errors:
            seen = f"{device} has counted {errors} errors in {way}: {whose}"
            yield warn(f"{seen} not among its peers' AllowedIPs?", advice.peers(name))


def nat(site: Site) -> Iterator[Finding]:
    """Which addresses the far side sees: the clients' own, or one that the gateway puts in."""
    network, by_version = site.network(), _tunnels_by_version(site)
    try:
        rules = netfilter.source_nat(site.gateway_netns)
    except OSError as error:
        yield _unreadable(error)
        return
    kept: dict[int, str] = {}
    for version, devices in by_version.items():
        for device in sorted(devices):
            if found := [rule for rule in rules if rule.concerns(device, version)]:
                where = f"{found[0].family} {found[0].table} {found[0].chain}"
                seen = f"what leaves by {device} gets another source address ({where}"
                yield ok(f"{seen}, other conditions not judged): the far side answers that one")
            else:
                kept[version] = device
    whole = _whole(site)
    for judge, versions, when in (
        (ok, kept.keys() - whole, advice.FAR_SIDE_KNOWS),
        (warn, kept.keys() & whole, advice.FAR_SIDE_IS_ANYBODY),
    ):
        if versions:
            subnets = [str(subnet) for subnet in network.subnets if subnet.version in versions]
            seen = f"clients keep their addresses: the far side must know {' and '.join(subnets)}"
            fix = (advice.masquerade(kept[one], one, when) for one in sorted(versions))
            yield judge(seen + ", and all behind it" * (judge is warn), *fix)


def _whole(site: Site) -> frozenset[int]:
    """Return the IP versions of which somebody asks for everything."""
    return frozenset().union(*(client.whole for client in site.whole_clients()))


def _tunnels_by_version(site: Site) -> dict[int, set[str]]:
    """Return by IP version the tunnels that lead to a destination."""
    found: dict[int, set[str]] = {}
    tunnels = site.tunnels()
    for client, dst in site.destinations():
        if (device := site.route_to(dst, client).device) in tunnels:
            found.setdefault(dst.version, set()).add(device)
    return found or lacking("a tunnel")


def _default_gateways(site: Site) -> set[Address | None]:
    routes = route_table.read(site.gateway_netns)
    return {route.gateway for route in routes if route.dst.prefixlen == 0 and route.table == MAIN}


# --- and back -----------------------------------------------------------------------------------


def back(site: Site) -> Iterator[Finding]:
    """The gateway reaches its clients straight by its interface on their network."""
    link, clients = site.gateway_link(), site.clients()
    clean = True
    for client in clients:
        for address in client.addresses.values():
            found = site.look_up(site.gateway_netns, address)
            if (found.device, found.gateway) != (link.name, None):
                clean = False
                by = f"by {found.device or 'nothing'}" + f" via {found.gateway}" * bool(
                    found.gateway
                )
                seen = f"what comes back for {client.name} ({address}) leaves the gateway {by}"
                yield fail(seen, *_straight(site, address))
    if clean:
        yield ok(f"by {link.name}, straight to {some(client.name for client in clients)}")


def _straight(site: Site, address: Address) -> tuple[str, ...]:
    """Return what has answers go to a client: past a policy rule, or without a route."""
    gateway, link = site.gateway().container, site.gateway_link()
    rules, main = site.rules(address.version), site.by_table(address, "main")
    if rules and (main.device, main.gateway) == (link.name, None):
        subnets = (subnet for subnet in site.network().subnets if address in subnet)
        return _past_rules(gateway, rules, next(subnets, ip_network(address)))
    return (f"remove that route, see: ip route get {address}",)


def mtu(site: Site) -> Iterator[Finding]:
    """No client's packets are larger than the tunnel takes.

    If they are, all hangs on "fragmentation needed" messages, which firewalls like to drop.
    """
    network, clients = site.network(), site.clients()
    outs = {
        client.netns: site.route_to(client.routes[0].dst, client).device
        for client in clients
        if client.routes
    }
    sizes = {link.name: link.mtu for link in site.links(site.gateway_netns)}
    large = [
        (client.name, size, out)
        for client in clients
        if (out := outs.get(client.netns))
        and (size := _mtu_of(site, client)) > sizes.get(out, size)
    ]
    if large:
        _, size, out = large[0]
        seen = f"up to {size} bytes from {some(name for name, *_ in large)}, but {sizes[out]}"
        fix = [] if site.settings.mtu == AUTO else [advice.MTU_AUTO]
        size = sizes[out] + swarm.outside(network)
        yield warn(f"{seen} through {out}", *fix, advice.mtu(size, network.name))
    elif any(outs.values()):
        yield ok("no client sends larger packets than the tunnel takes")
    else:
        lacking("a way out")


def _mtu_of(site: Site, client: AttachedClient) -> int:
    """Return how large a client's packets to its first destination may be (bytes).

    By what the route there says, else by its link.
    """
    addresses = {*client.addresses.values()}
    links = (link for link in site.links(client.netns) if addresses & {*link.addresses})
    sizes = [max((link.mtu for link in links), default=0)]
    with suppress(NetnsError):  # That it cannot be entered, the checks of its route say.
        there = route_table.read(client.netns)
        sizes += [one.mtu for one in there if one.dst == client.routes[0].dst and one.mtu]
    return min(sizes)
