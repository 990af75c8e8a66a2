"""Traffic between two sites through a real WireGuard tunnel, because of the routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab.engine import poll
from tests.lab.site import Lab
from tests.lab.tunnel import two_sites

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.engine import Engine
    from tests.lab.site import Container
    from tests.lab.tunnel import TwoSites


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


# --- how large packets may be -------------------------------------------------------------------

SIZE = 1280
BYTES = 300_000
TAKEN_BACK = ("--env", "WGROUTEMGR_ON_STOP=withdraw")
TOO_BIG = {
    "iptables": ("icmp", "--icmp-type", "fragmentation-needed"),
    "ip6tables": ("icmpv6", "--icmpv6-type", "packet-too-big"),
}
STARTS = 5


@pytest.fixture(scope="module")
def narrow(engine: Engine) -> Iterator[TwoSites]:
    """Return two sites with a tunnel for small packets only, whose gateways never tell of that."""
    with Lab(engine) as lab:
        sites = two_sites(lab)
        for site in (sites.first, sites.second):
            site.gateway.enter("ip", "link", "set", "wg0", "mtu", str(SIZE))
            for program, (protocol, *kind) in TOO_BIG.items():
                site.gateway.enter(program, "-I", "OUTPUT", "-p", protocol, *kind, "-j", "DROP")
        sites.start_client(sites.first)
        sites.start_client(sites.second)
        sites.start_sidecar(sites.second, "--env", "WGROUTEMGR_MTU=off")
        yield sites


def test_a_client_that_starts_has_it_from_the_beginning(narrow: TwoSites) -> None:
    """Of a few starts one is early on any machine; the size is right in each."""
    here, lab = narrow.first, narrow.lab
    sidecar = narrow.start_sidecar(here, *TAKEN_BACK)
    said: list[set[tuple[str, str]]] = []
    try:
        await_event(sidecar, "pass.finished", trigger="startup")
        while len(said) < STARTS and ("early", str(SIZE)) not in (said or [set()])[-1]:
            late = lab.client(f"late{len(said)}", here.network, networks=narrow.second.wanted)
            assert poll(lambda: len(routes(late)) == 2, 10)  # noqa: B023 - called at once
            set_ = events(sidecar, "route.replaced", container=late.name)
            said.append({(one["trigger"], one["command"].rpartition(" mtu ")[2]) for one in set_})
            late.remove()
    finally:
        sidecar.stop(10)
        sidecar.remove()
    assert {size for one in said for _, size in one} == {str(SIZE)}
    assert said[-1] == {("early", str(SIZE))}


def received(near: Container, far: Container, target: str, *, up: bool) -> int:
    """Return how many bytes come through, up from a client to the far one, or down to it."""
    send, take = f"head -c {BYTES} /dev/zero", "wc -c"
    # BusyBox's nc tells the other one that its input has ended, and that one ends.
    serve = f"sleep 5 | nc -l -p 9000 | {take} >/tmp/got" if up else f"{send} | nc -l -p 9000"
    call = f"{send} | nc {target} 9000" if up else f"sleep 5 | nc {target} 9000 | {take}"
    far.exec("sh", "-c", f"rm -f /tmp/got; (timeout 8 sh -c '{serve}') >/dev/null 2>&1 &")
    listens = "cat /proc/net/tcp /proc/net/tcp6 | grep -qi ':2328 .* 0A '; echo $?"
    assert poll(lambda: far.exec("sh", "-c", listens) == "0", 5)
    said = near.exec("sh", "-c", f"timeout 6 sh -c '{call}'; :")
    if not up:
        return int(said or 0)
    poll(lambda: far.exec("sh", "-c", "cat /tmp/got 2>/dev/null; :"), 10)
    return int(far.exec("sh", "-c", "cat /tmp/got") or 0)


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("choice", ["off", "auto"])
def test_tcp_passes_a_narrow_tunnel_only_if_the_route_says_so(
    narrow: TwoSites, choice: str, *, ipv6: bool
) -> None:
    """Also what comes from the far side, whose own routes do not say it."""
    here, there = narrow.first, narrow.second
    assert here.client
    assert there.client
    sidecar = narrow.start_sidecar(here, "--env", f"WGROUTEMGR_MTU={choice}", *TAKEN_BACK)
    try:
        await_event(sidecar, "pass.finished", trigger="startup")
        set_ = events(sidecar, "route.replaced")
        assert [entry["command"].endswith(f" mtu {SIZE}") for entry in set_] == [
            choice == "auto"
        ] * 2
        target = there.client.address(there.network, ipv6=ipv6)
        here.client.exec("ping", "-c", "1", "-w", "20", target)
        for up in (True, False):
            passed = received(here.client, there.client, target, up=up)
            assert (passed == BYTES) is (choice == "auto"), (up, passed)
        status = sidecar.exec("wgroutemgr", "status")
        assert (f" mtu {SIZE} " in status) is (choice == "auto")
        assert "nsenter" not in sidecar.exec("wgroutemgr", "plan")
        if ipv6:  # Whatever they say of it, they are taken back.
            sidecar.exec("wgroutemgr", "withdraw", "--mtu", "1300")
            assert routes(here.client) == {}
    finally:
        sidecar.stop(10)
        sidecar.remove()
