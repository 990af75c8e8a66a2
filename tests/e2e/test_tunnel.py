"""Traffic between two sites through a real WireGuard tunnel, because of the routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.look import await_routes
from tests.lab.tunnel import two_sites

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab


def transferred(gateway: Container) -> int:
    """Return the bytes that the tunnel has sent and received so far."""
    return sum(int(number) for number in gateway.exec("wg", "show", "wg0", "transfer").split()[1:])


def test_clients_of_two_sites_reach_each_other(lab: Lab) -> None:
    sites = two_sites(lab)
    for site in (sites.first, sites.second):
        sites.start_sidecar(site)
        sites.start_client(site)
    for here, there in ((sites.first, sites.second), (sites.second, sites.first)):
        assert here.client
        assert there.client
        wanted = {
            there.subnets[0]: here.gateway.address(here.network),
            there.subnets[1]: here.gateway.address(here.network, ipv6=True),
        }
        await_routes(here.client, wanted)
        for ipv6 in (False, True):
            before = transferred(here.gateway)
            target = there.client.address(there.network, ipv6=ipv6)
            answer = here.client.exec("ping", "-c", "3", "-s", "1000", "-w", "20", target)
            assert "3 packets received, 0% packet loss" in answer
            assert transferred(here.gateway) - before > 6 * 1000
