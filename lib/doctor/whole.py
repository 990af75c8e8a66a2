"""What leaves past the gateway, as it should or not, and who gets no answer.

Each check only reads the site and yields what it saw and what fixes it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from lib import advice
from lib.doctor.findings import fail, ok, some, warn
from lib.doctor.site import SkippedError
from lib.model import DIRECT_LABEL, IPV4, Rule
from lib.routing.hosts import host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lib.doctor.site import AttachedClient, Site
    from lib.model import Address, Finding, Thing


def dns(site: Site) -> Iterator[Finding]:
    """Each asks DNS servers through the gateway.

    Where `dns:` names none, the engine asks the host's: on Docker 28.5 always from the host (moby,
    `HostLoopback` in libnetwork/internal/resolvconf), on older ones those on its loopback.
    """
    clients = site.whole_clients()
    found = [finding for client in clients for finding in _asked(site, client)]
    yield from found
    if not found:
        yield ok(f"asked through the gateway by {_names(clients)}")


def _asked(site: Site, client: AttachedClient) -> Iterator[Finding]:
    fix = advice.dns_server(client.owner.name)
    if not client.owner.dns:
        network = site.network()
        seen = f"{client.name} has no DNS server of its own (dns:)"
        if network.internal and client.networks == {network.id}:
            yield warn(f"{seen}: newer engines ask none of the host's for who has no way out", fix)
        else:
            yield warn(f"{seen}: the engine may ask the host's, past the gateway", fix)
    for server in client.owner.dns:
        if server.is_loopback:
            yield warn(f"{client.name} has the DNS server {server}, its own loopback", fix)
        elif past := _past(site, client, server):
            yield warn(f"{client.name} asks the DNS server {server} {past}, past the gateway", fix)


def _past(site: Site, client: AttachedClient, server: Address) -> str:
    """Return by which way a client leaves for a server, if that is not the gateway's.

    One that is a neighbour is no way out.
    """
    found = site.look_up(client.netns, server)
    if not found.gateway or found.gateway in site.gateway().addresses:
        return ""
    return f"by {found.device} via {found.gateway}"


def ports(site: Site) -> Iterator[Finding]:
    """Who calls a published port gets an answer: it leaves by the route to the caller."""
    called = [client for client in site.clients() if client.called]
    for client in called:
        yield _answered(site, client)
    if not called:
        yield ok("none is called from where a route leads")


def _answered(site: Site, client: AttachedClient) -> Finding:
    seen = f"callers of {client.name}'s published {', '.join(client.called)} are answered"
    if client.direct:
        return ok(f"{seen} past the gateway as far as {', '.join(client.direct)} say")
    return warn(
        f"{seen} through the gateway, with an address that they did not call",
        advice.publish_elsewhere(site.network().name),
        *map(advice.direct_network, client.elsewhere[:1]),
        advice.DIRECT_CALLERS,
    )


def ipv6(site: Site) -> Iterator[Finding]:
    """No IP version of theirs is left out: it would go by the engine's default route."""
    clients = site.whole_clients()
    clean = True
    for client in clients:
        for version in sorted({one.version for one in client.owner.attached} - client.whole):
            clean = False
            seen = f"IPv{version} of {client.name} goes past the gateway"
            yield warn(f"{seen}, by the engine's default route", advice.both_versions(version))
    if clean:
        yield ok(f"no IP version is left out by {_names(clients)}")


def direct(site: Site) -> Iterator[Finding]:
    """What is to keep off the gateway is sent another way."""
    nobody = True
    for client in site.clients():
        for thing in client.client.direct:
            nobody = False
            yield _kept_off(site, client, thing)
    if nobody:
        yield ok(f"nothing is kept off the gateway by {DIRECT_LABEL}")


def _kept_off(site: Site, client: AttachedClient, thing: Thing) -> Finding:
    if isinstance(thing, Rule):
        through = next(route.dst for route in client.routes if route.version == thing.version)
        seen = f"what {client.name} answers from {thing.source}"
        found = site.look_up(client.netns, host(through), thing.source)
    else:
        seen = f"{thing.dst} of {client.name}"
        found = site.look_up(client.netns, host(thing.dst))
    if found.device and found.gateway not in site.gateway().addresses:
        via = f" via {found.gateway}" if found.gateway else ""
        return ok(f"{seen} leaves past the gateway, by {found.device}{via}")
    where = "through the gateway all the same" if found.device else "nowhere"
    return fail(f"{seen} goes {where}", f"docker logs {site.own_name}   # why was it not set?")


def redirects(site: Site) -> Iterator[Finding]:
    """No client takes the gateway's word for another way.

    A kernel that sends a packet back out by the link of its sender tells that of the next hop (ICMP
    redirect), and who believes it goes there for 300 s (`ip_rt_gc_timeout`), by whatever table. In
    IPv6 only a gateway's link-local address is believed (RFC 4861, 8.1), which none of ours has.
    """
    gateway = site.gateway().container
    if not _redirects(site):
        yield ok(f"{gateway} sends no ICMP redirects")
        return
    believers = [client for client in site.clients() if _believes(site, client)]
    for client in believers:
        seen = f"{client.name} believes ICMP redirects: what {gateway} sends back out once"
        fix = advice.sysctls("net.ipv4.ip_forward: 1", client.owner.name)
        yield warn(f"{seen} goes past it for 5 minutes", fix)
    if not believers:
        yield ok("no client goes where an ICMP redirect sends it")


def _redirects(site: Site) -> bool:
    """Tell whether the gateway may send any; it may as far as nobody can look into it."""
    names = ["all"]
    with suppress(SkippedError):
        names.append(site.gateway_link().name)
        return any(site.sysctl(f"net/ipv4/conf/{one}/send_redirects") != 0 for one in names)
    return True


def _believes(site: Site, client: AttachedClient) -> bool:
    """Tell whether a client does, as far as it can be seen (`IN_DEV_RX_REDIRECTS`, inetdevice.h).

    Who forwards has to be told to twice, so mostly it does not.
    """
    held = {client.addresses.get(IPV4)}
    for link in site.links(client.netns):
        if held & {*link.addresses}:
            names = ("all/accept_redirects", f"{link.name}/accept_redirects")
            said = [site.sysctl(f"net/ipv4/conf/{name}", client.netns) == 1 for name in names]
            forwards = site.sysctl(f"net/ipv4/conf/{link.name}/forwarding", client.netns)
            return all(said) if forwards else any(said)
    return False


def _names(clients: Sequence[AttachedClient]) -> str:
    everybody = "all who ask for everything"
    return f"{everybody}: {some(one.name for one in clients)}" if clients else f"{everybody} (none)"
