"""Two sites joined by a real WireGuard tunnel: the two-site picture of the README.

    client 1 -- network 1 -- gateway 1 ==(tunnel over the `internet` network)== gateway 2 -- ...

It builds the path, not the routes of the clients; the sidecars are started on request.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network

from tests.lab import images
from tests.lab.engine import Docker, poll
from tests.lab.errors import LabError
from tests.lab.site import Container, Lab

PORT = 51820
HANDSHAKE_SECONDS = 30
THIRD_BYTES = range(66, 250)


@dataclass
class Site:
    """One side: its network with its subnets, and what stands on it."""

    number: int
    network: str
    subnets: tuple[str, str]
    gateway: Container
    sidecar: Container | None = None
    client: Container | None = None

    @property
    def wanted(self) -> str:
        """Its subnets as the other side's clients ask for them in their label."""
        return ",".join(self.subnets)


@dataclass
class TwoSites:
    """Two sites and the lab that they belong to."""

    lab: Lab
    first: Site
    second: Site

    def other(self, site: Site) -> Site:
        """The site at the far end of the tunnel."""
        return self.second if site is self.first else self.first

    def start_sidecar(self, site: Site, *options: str) -> Container:
        """Start the product beside a site's gateway."""
        name = f"sidecar{site.number}"
        site.sidecar = self.lab.sidecar(name, site.gateway, *options, network=site.network)
        return site.sidecar

    def start_client(self, site: Site, *options: str) -> Container:
        """Start a client that asks for the other site's networks."""
        name = f"client{site.number}"
        wanted = self.other(site).wanted
        site.client = self.lab.client(name, site.network, *options, networks=wanted)
        return site.client

    def await_handshake(self) -> None:
        """Wait until the tunnel stands."""
        shake = ("wg", "show", "wg0", "latest-handshakes")
        if not poll(
            lambda: self.first.gateway.exec(*shake).split()[-1:] not in ([], ["0"]),
            HANDSHAKE_SECONDS,
            every=0.1,
        ):
            raise LabError(
                seen=f"no WireGuard handshake within {HANDSHAKE_SECONDS} s:\n"
                f"{self.first.gateway.exec('wg', 'show')}\n{self.first.gateway.logs()}",
                hint="the gateways must reach each other over UDP on the `internet` network",
            )


def two_sites(lab: Lab) -> TwoSites:
    """Make two networks, two gateways and the tunnel between them; wait until it stands."""
    networks = [_free_network(lab, f"site{number}") for number in (1, 2)]
    internet, _ = _free_network(lab, "internet")
    keys = [key_pair(lab.engine) for _ in networks]
    gateways: list[Container] = []
    for here, there in ((0, 1), (1, 0)):
        # Only the second one knows where its peer is, and calls: where both call at once, the
        # first handshakes can collide and the tunnel stalls.
        call = ""
        if gateways:
            call = f"Endpoint = {gateways[0].address(internet)}:{PORT}\nPersistentKeepalive = 5\n"
        config = (
            f"[Interface]\nPrivateKey = {keys[here][0]}\nListenPort = {PORT}\n"
            f"Address = 10.255.255.{here + 1}/30, fd00:ffff::{here + 1}/126\n"
            f"[Peer]\nPublicKey = {keys[there][1]}\n"
            f"AllowedIPs = {', '.join(networks[there][1])}\n"
            # Its own address too, so that a traceroute shows the far gateway.
            f"AllowedIPs = 10.255.255.{there + 1}/32, fd00:ffff::{there + 1}/128\n{call}"
        )
        gateway = lab.gateway(f"wireguard{here + 1}", internet, config=config)
        gateways.append(gateway)
        lab.engine.docker("network", "connect", networks[here][0], gateway.name)
    first, second = (
        Site(number, network, subnets, gateway)
        for number, (network, subnets), gateway in zip((1, 2), networks, gateways, strict=True)
    )
    joined = TwoSites(lab, first, second)
    joined.await_handshake()
    return joined


def _free_network(lab: Lab, what: str) -> tuple[str, tuple[str, str]]:
    """Make a network on the first addresses that neither the engine nor its machine uses."""
    routes = (line.split()[0] for line in lab.engine.enter("ip", "-4", "route").splitlines())
    used = [IPv4Network(route) for route in routes if route[0].isdigit()]
    for third in THIRD_BYTES:
        subnets = (f"192.168.{third}.0/24", f"fd00:192:168:{third}::/64")
        if any(IPv4Network(subnets[0]).overlaps(network) for network in used):
            continue
        try:
            return lab.network(what, *subnets), subnets
        except LabError as error:
            if "overlap" not in str(error):
                raise
    raise LabError(
        seen="every network of 192.168.66.0/24 to 192.168.249.0/24 is in use",
        hint="remove Docker networks that are not needed: docker network prune",
    )


def key_pair(engine: Docker) -> tuple[str, str]:
    """Make a private and a public key."""
    words = ("run", "--rm", "--pull", "never", "--network", "none", images.wireguard(engine))
    made = engine.docker(*words, "sh", "-c", "k=$(wg genkey); echo $k; echo $k | wg pubkey")
    private, public = made.split()
    return private, public
