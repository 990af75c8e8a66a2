"""What the doctor finds and prints, on stand-ins for engine and kernel; real ones are in e2e."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar, cast

import pytest

from lib.doctor import clients, network, path, report, setup
from lib.doctor.site import Fact, Site, SkippedError
from lib.errors import (
    CallError,
    EngineError,
    NotReadyError,
    OldEngineError,
    StaleSocketError,
)
from lib.kernel import netfilter, netlink, route_table
from lib.kernel.shells import Outcome
from lib.model import (
    DIRECT_LABEL,
    GATEWAY_LABEL,
    NETWORK_LABEL,
    NETWORKS_LABEL,
    ROLE_LABEL,
    TABLE,
    Container,
    DockerNetwork,
    Endpoint,
    Finding,
    PublishedPort,
    Route,
)
from lib.settings import Settings
from tests.fakes import StandInEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lib.engine.client import Engine

GONE = "the engine did not answer as it should"
DST, TARGET = "198.51.100.0/24", "198.51.100.1"
GATEWAY, CLIENT = "192.0.2.129", "192.0.2.7"
WG_NET = DockerNetwork("n1", "wg-net", (ip_network("192.0.2.0/24"),), {})


def no_engine() -> Engine:
    raise EngineError(GONE)


def stale_engine() -> Engine:
    raise StaleSocketError(GONE, "restart")


def old_engine() -> Engine:
    reason = "the engine is too old"
    raise OldEngineError(reason, "update it")


def new_engine() -> Engine:
    found = SimpleNamespace(version="99.0", api_version="2.0", is_newer_than_tried=True)
    return cast("Engine", found)


CONF = "/proc/sys/net/ipv4/conf"


@dataclass
class Kernel:
    """Answers the doctor's commands, each once; one that no test expects is an error."""

    answers: dict[str, str] = field(default_factory=dict)
    """Output by command line; of one that begins with `!` the command failed."""
    asked: list[str] = field(default_factory=list)

    def run(self, commands: Sequence[str]) -> Iterator[Outcome]:
        for command in commands:
            assert command not in self.asked
            self.asked.append(command)
            output = self.answers[command]
            yield Outcome(command, int(output.startswith("!")), output.lstrip("!"), 1.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(out: io.StringIO, settings: Settings | None = None) -> tuple[int, list[str]]:
    """Return exit code and output of a doctor that finds no engine."""
    code = report.report(Site(settings or Settings(), Kernel(), no_engine), out)
    return code, out.getvalue().splitlines()


# --- a site -------------------------------------------------------------------------------------


def container(name: str, address: str, netns: Path, **values: object) -> Container:
    netns.touch()
    found = Container(
        id=f"{name}-id",
        name=name,
        running=True,
        labels={},
        network_mode="wg-net",
        sandbox_key=str(netns),
        endpoints=(Endpoint("wg-net", "n1", (ip_interface(address),)),),
    )
    return found._replace(**values)  # type: ignore[arg-type]


def link(number: int, name: str, address: str, mtu: int = 1500) -> str:
    return (
        f"{number}: {name}: <UP> mtu {mtu}\n    link/ether 02:00:00:00:00:0{number}\n"
        f"    inet {address} scope global {name}\n"
    )


KERNELS_RULES = (
    "0: from all lookup local\n32766: from all lookup main\n32767: from all lookup default"
)


def counted(received: int, sent: int, receive_errors: int = 0, send_errors: int = 0) -> str:
    """Return the words of /proc/net/dev."""
    return (
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n"
        "  eth0: 1116 14 0 0 0 0 0 0 936 12 0 0 0 0 0 0\n"
        f"   wg0:    0 {received} {receive_errors} 0 0 0 0 0 936 {sent} {send_errors} 0 0 0 0 0\n"
    )


@dataclass
class Place:
    """A site in good health; what a test changes before it is examined is what it has."""

    gateway: Container
    client: Container
    kernel: Kernel
    networks: tuple[DockerNetwork, ...] = (WG_NET,)
    settings: Settings = field(
        default_factory=lambda: Settings(network="wg-net", gateway="wireguard")
    )
    others: tuple[Container, ...] = ()
    connections: int = 0

    def connect(self) -> Engine:
        self.connections += 1
        engine = WithNetworks((self.gateway, self.client, *self.others), on=self.networks)
        return cast("Engine", engine)

    def site(self, followed: str | None = None) -> Site:
        settings = self.settings._replace(container=followed)
        return Site(settings, self.kernel, self.connect)

    def gateway_says(self, command: str, output: str) -> None:
        self.kernel.answers[f"nsenter --net={self.gateway.sandbox_key} {command}"] = output

    def client_says(self, command: str, output: str) -> None:
        self.kernel.answers[f"nsenter --net={self.client.sandbox_key} {command}"] = output


class WithNetworks(StandInEngine):
    version, api_version, is_newer_than_tried = "28.5", "1.51", False
    backend = "iptables"
    on_service: ClassVar[dict[str, str] | None] = None

    def firewall(self) -> str:
        if not self.backend:
            reason = "the engine refused: forbidden"
            raise CallError(reason)
        return self.backend

    def service_labels(self, _: str) -> dict[str, str]:
        if self.on_service is None:
            reason = "the engine refused: this node is not a swarm manager"
            raise CallError(reason)
        return self.on_service

    def networks(self) -> tuple[DockerNetwork, ...]:
        return self.on


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return one whose namespaces are files: none is ours, so each is entered."""
    gateway = container("wireguard", f"{GATEWAY}/24", tmp_path / "gateway")
    labels = {NETWORKS_LABEL: DST}
    client = container("dovecot", f"{CLIENT}/24", tmp_path / "client", labels=labels)
    place = Place(gateway, client, Kernel())
    links = link(1, "eth0", f"{GATEWAY}/24") + link(2, "wg0", "10.255.255.1/30")
    place.gateway_says("ip route show", "default via 192.0.2.1 dev eth0")
    place.gateway_says("ip address show", links)
    for name in ("ip_forward", "conf/eth0/forwarding"):
        place.gateway_says(f"cat /proc/sys/net/ipv4/{name}", "1")
    for name in ("all", "eth0", "wg0"):
        place.gateway_says(f"cat /proc/sys/net/ipv4/conf/{name}/rp_filter", "0")
    place.gateway_says(f"ip route get {TARGET} from {CLIENT} iif eth0", f"{TARGET} dev wg0")
    place.gateway_says(f"ip route get {CLIENT}", f"{CLIENT} dev eth0 src {GATEWAY}")
    for program in ("ip", "ip -6"):
        place.gateway_says(f"{program} rule show", KERNELS_RULES)
    place.gateway_says("cat /proc/net/dev", counted(received=5, sent=7))
    place.gateway_says("cat /proc/net/dev_snmp6/wg0", "!cat: can't open")
    for name in ("all", "eth0"):
        place.gateway_says(f"cat {CONF}/{name}/send_redirects", "1")
    place.client_says("ip address show", link(1, "eth0", f"{CLIENT}/24", mtu=1420))
    redirected(place, forwards=1, everywhere=0, here=1)
    place.client_says(f"ip route get {TARGET}", f"{TARGET} via {GATEWAY} dev eth0")
    place.client_says("ip neigh show", f"{GATEWAY} dev eth0 lladdr 02:00:00:00:00:01 REACHABLE")
    return place


def redirected(place: Place, *, forwards: int, everywhere: int, here: int) -> None:
    """Let the client's kernel say what it does with redirects."""
    place.client_says(f"cat {CONF}/eth0/forwarding", str(forwards))
    place.client_says(f"cat {CONF}/all/accept_redirects", str(everywhere))
    place.client_says(f"cat {CONF}/eth0/accept_redirects", str(here))


WITHIN = {"firewall", "nat"}
"""Checks that need the gateway's own namespace."""
OF_THE_MACHINE = {"capabilities", "namespaces"}
"""Checks of what the process itself was given."""


def levels(site: Site) -> dict[str, str]:
    """Return the level of each check that can be told from here."""
    found = {name: finding.level for name, finding in report.examine(site)}
    return {name: level for name, level in found.items() if name not in WITHIN | OF_THE_MACHINE}


@pytest.mark.parametrize("followed", [None, "dovecot"])
def test_a_site_in_good_health(place: Place, followed: str | None) -> None:
    found = levels(place.site(followed))

    assert {name for name, level in found.items() if level != "ok"} <= {"sidecar"}
    assert ("route" in found) == (followed is not None)


@pytest.mark.parametrize("followed", [None, "dovecot"])
def test_the_order_of_the_checks_is_no_hidden_dependency(
    place: Place, followed: str | None
) -> None:
    """Asked of a fresh site as its only check, each one finds what it finds in its turn."""
    in_turn: dict[str, list[Finding]] = {name: [] for name in report.CHECKS}
    for name, finding in report.examine(place.site(followed)):
        in_turn[name].append(finding)

    for name, check in report.CHECKS.items():
        place.kernel.asked.clear()
        if in_turn[name]:
            assert list(check(place.site(followed))) == in_turn[name]


def test_each_thing_is_found_once(place: Place) -> None:
    """The kernel's stand-in refuses a command that it was asked before."""
    list(report.examine(place.site()))

    assert place.connections == 1


def test_what_cannot_be_found_is_looked_for_once() -> None:
    calls = []

    def find() -> int:
        calls.append(1)
        raise EngineError(GONE)

    fact = Fact("the engine", find)

    for _ in range(2):
        with pytest.raises(SkippedError, match=r"^the engine$"):
            fact()
        with pytest.raises(EngineError, match=GONE):
            fact.examine()
    assert len(calls) == 1


def seen(check: Callable[[Site], Iterator[Finding]], site: Site) -> tuple[str, str]:
    (finding,) = check(site)
    return finding.level, finding.seen


def test_a_route_elsewhere_comes_with_the_command_that_sets_it(place: Place) -> None:
    place.client_says(f"ip route get {TARGET}", f"{TARGET} via 192.0.2.1 dev eth0")

    (finding,) = path.route(place.site("dovecot"))

    assert finding.seen == (
        f"dovecot sends {DST} to 192.0.2.1 by eth0, not to the gateway {GATEWAY}"
    )
    enter = f"nsenter --net={place.client.sandbox_key}"
    assert finding.fix[1] == f"{enter} ip route replace {DST} via {GATEWAY}"


@pytest.mark.parametrize(
    ("neighbour", "level", "words"),
    [
        ("lladdr 02:00:00:00:00:01 STALE", "ok", "STALE"),
        ("lladdr 02:00:00:00:00:99 REACHABLE", "fail", "but wireguard is 02:00:00:00:00:01"),
        ("FAILED", "fail", "is nobody, FAILED: it does not answer"),
    ],
)
def test_who_answers_for_the_gateway(place: Place, neighbour: str, level: str, words: str) -> None:
    place.client_says("ip neigh show", f"{GATEWAY} dev eth0 {neighbour}")

    found, text = seen(path.neighbour, place.site("dovecot"))

    assert (found, words in text) == (level, True)


def test_forwarding_that_is_off_stops_what_builds_on_it(place: Place) -> None:
    place.gateway_says("cat /proc/sys/net/ipv4/ip_forward", "0")

    (finding,) = path.forwarding(place.site())
    assert (finding.level, finding.fix) == (
        "fail",
        ("sysctls: {net.ipv4.ip_forward: 1}   # in the service of wireguard",),
    )
    place.kernel.asked.clear()
    assert levels(place.site())["rp_filter"] == "skip"


def test_a_strict_filter_that_drops_is_told_from_one_that_does_not(place: Place) -> None:
    place.gateway_says("cat /proc/sys/net/ipv4/conf/all/rp_filter", "1")
    place.gateway_says(f"ip route get {TARGET}", f"{TARGET} dev wg0")
    back = f"ip route get {CLIENT} from {TARGET} iif wg0"
    place.gateway_says(back, f"{CLIENT} from {TARGET} dev eth0")
    assert seen(path.rp_filter, place.site()) == ("ok", "strict on eth0, wg0, but drops nothing")

    place.kernel.asked.clear()
    place.gateway_says(back, "!RTNETLINK answers: Invalid cross-device link")
    level, text = seen(path.rp_filter, place.site())
    assert (level, text.startswith("strict on wg0: it drops")) == ("fail", True)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("!RTNETLINK answers: Network unreachable", f"wireguard has no route to {DST}"),
        (f"{TARGET} via 192.0.2.1 dev eth0", "back out by eth0 via 192.0.2.1, into no tunnel"),
    ],
)
def test_a_destination_that_goes_into_no_tunnel(place: Place, answer: str, words: str) -> None:
    place.gateway_says(f"ip route get {TARGET} from {CLIENT} iif eth0", answer)
    place.gateway_says(f"ip route get {TARGET}", answer)

    (finding,) = path.tunnel(place.site())

    assert (finding.level, words in finding.seen) == ("fail", True)
    assert finding.fix[0].startswith(f"add {DST} to AllowedIPs")
    assert len(finding.fix) == 1


def back_out(place: Place) -> None:
    """Have the gateway send the destination back out."""
    for words in (f" from {CLIENT} iif eth0", ""):
        place.gateway_says(f"ip route get {TARGET}{words}", f"{TARGET} via 192.0.2.1 dev eth0")


@pytest.mark.parametrize(
    "others",
    ["", "3: sit0: <NOARP> mtu 1480\n    link/sit 0.0.0.0\n", link(3, "eth1", "10.9.0.2/24")],
)
def test_a_gateway_without_a_tunnel_is_told_so(place: Place, others: str) -> None:
    """Neither a fallback device, which is down, nor an interface of the engine's is a tunnel."""
    point = Endpoint("other", "n2", (ip_interface("10.9.0.2/24"),))
    place.gateway = place.gateway._replace(endpoints=(*place.gateway.endpoints, point))
    place.gateway_says("ip address show", link(1, "eth0", f"{GATEWAY}/24") + others)
    back_out(place)
    needs = "cap_add: [NET_ADMIN], devices: [/dev/net/tun]"

    (finding,) = path.tunnel(place.site())

    assert (finding.level, finding.fix) == (
        "fail",
        (f"give wireguard a tunnel device ({needs}): a VPN in userspace mode has none",),
    )


@pytest.mark.parametrize(
    ("table", "command"), [("main", "ip route show"), ("200", "ip route show table 200")]
)
def test_a_policy_rule_that_leads_past_the_tunnel(place: Place, table: str, command: str) -> None:
    rules = f"0: from all lookup local\n100: from {CLIENT} lookup 7\n101: from all lookup 200\n"
    place.gateway_says("ip rule show", rules + KERNELS_RULES)
    for name in ("ip route show", "ip route show table 7", "ip route show table 200"):
        place.gateway_says(name, "default via 192.0.2.1 dev eth0")
    tunnel = f"unreachable 198.51.0.0/16\ndefault via 192.0.2.1 dev eth0\n{DST} dev wg0 scope link"
    place.gateway_says(command, tunnel)
    back_out(place)

    (finding,) = path.tunnel(place.site())

    rule = f"docker exec wireguard ip rule add pref 99 to {DST} lookup {table}"
    assert finding.fix == (
        f"{rule}   # in its start script, to last",
        "docker exec wireguard ip rule show   # a policy rule sends it elsewhere",
    )


def test_where_no_table_leads_into_the_tunnel_the_rules_are_named_too(place: Place) -> None:
    place.gateway_says("ip rule show", "100: not from all fwmark 0xca6c lookup 51820")
    place.gateway_says("ip route show table 51820", "!ip: invalid argument '51820'")
    back_out(place)

    (finding,) = path.tunnel(place.site())

    assert finding.fix[0].startswith(f"add {DST} to AllowedIPs")
    assert finding.fix[1].startswith("docker exec wireguard ip rule show")


def test_a_policy_rule_that_sends_answers_elsewhere(place: Place) -> None:
    place.gateway_says("ip rule show", "98: from all lookup 51")
    main = f"default via 192.0.2.1 dev eth0\n192.0.2.0/24 dev eth0 scope link src {GATEWAY}"
    place.gateway_says("ip route show", main)
    place.gateway_says(f"ip route get {CLIENT}", f"{CLIENT} dev wg0 table 51")

    (finding,) = path.back(place.site())

    assert finding.level == "fail"
    assert finding.fix[0].startswith(
        "docker exec wireguard ip rule add pref 97 to 192.0.2.0/24 lookup main"
    )


NOT_AMONG = "not among its peers' AllowedIPs?"


@pytest.mark.parametrize(
    ("counters", "findings"),
    [
        (counted(received=0, sent=0), []),
        (counted(received=1, sent=14), []),
        (
            counted(received=0, sent=14),
            [("fail", "wg0 has sent 14 packets and received none: no handshake?")],
        ),
        (
            counted(received=0, sent=1),
            [("fail", "wg0 has sent 1 packet and received none: no handshake?")],
        ),
        (
            counted(received=3, sent=3, receive_errors=2, send_errors=5),
            [
                ("warn", f"wg0 has counted 5 errors in sending: destinations {NOT_AMONG}"),
                ("warn", f"wg0 has counted 2 errors in receiving: senders {NOT_AMONG}"),
            ],
        ),
        ("", []),
    ],
)
def test_what_a_tunnel_has_counted(
    place: Place, counters: str, findings: list[tuple[str, str]]
) -> None:
    place.gateway_says("cat /proc/net/dev", counters)

    first, *found = path.tunnel(place.site())

    assert first.level == "ok"
    assert [(finding.level, finding.seen) for finding in found] == findings
    assert all(finding.fix[0].startswith("docker exec wireguard wg show") for finding in found)


def test_what_the_kernel_itself_sends_into_a_tunnel_is_not_counted(place: Place) -> None:
    """Of an idle peer, a fresh tunnel has heard nothing, but it has sent multicasts of IPv6."""
    place.gateway_says("cat /proc/net/dev", counted(received=0, sent=4))
    place.gateway_says(
        "cat /proc/net/dev_snmp6/wg0", "ifIndex\t7\nIp6OutMcastPkts                 \t4\n"
    )

    assert [finding.level for finding in path.tunnel(place.site())] == ["ok"]


def in_place(family: str, out: str) -> tuple[netfilter.SourceNat, ...]:
    return (netfilter.SourceNat(family, "nat", "POSTROUTING", out),)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ((), "clients keep their addresses: the far side must know 192.0.2.0/24"),
        (in_place("ip", "eth*"), "clients keep their addresses"),
        (in_place("ip6", "wg0"), "clients keep their addresses"),
        (in_place("ip", "!wg0"), "clients keep their addresses"),
        (in_place("ip", "wg0"), "what leaves by wg0 gets another source address (ip nat"),
        (in_place("inet", ""), "what leaves by wg0 gets another source address (inet nat"),
        (in_place("ip", "wg*"), "what leaves by wg0 gets another source address"),
        (in_place("ip", "!eth0"), "what leaves by wg0 gets another source address"),
    ],
)
def test_whose_address_the_far_side_sees(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    rules: tuple[netfilter.SourceNat, ...],
    words: str,
) -> None:
    monkeypatch.setattr(netfilter, "source_nat", lambda _: rules)

    (finding,) = path.nat(place.site())

    assert finding.level == "ok"
    assert finding.seen.startswith(words)
    line = "PostUp = iptables -t nat -A POSTROUTING -o wg0 -j MASQUERADE"
    assert [fix.partition("   #")[0] for fix in finding.fix] == [line] * ("keep" in words)


def test_packets_that_are_larger_than_the_tunnel_takes(place: Place) -> None:
    links = link(1, "eth0", f"{GATEWAY}/24") + link(2, "wg0", "10.255.255.1/30", mtu=1400)
    place.gateway_says("ip address show", links)

    assert seen(path.mtu, place.site()) == (
        "warn",
        "up to 1420 bytes from dovecot, but 1400 through wg0",
    )


@pytest.mark.parametrize(("said", "level"), [(1401, "warn"), (1400, "ok")])
def test_packets_are_as_large_as_the_route_says(
    place: Place, monkeypatch: pytest.MonkeyPatch, said: int, level: str
) -> None:
    links = link(1, "eth0", f"{GATEWAY}/24") + link(2, "wg0", "10.255.255.1/30", mtu=1400)
    place.gateway_says("ip address show", links)
    route = Route(ip_network(DST), ip_address(GATEWAY), 0, mtu=said)
    monkeypatch.setattr(route_table, "read", lambda _: (route,))

    assert seen(path.mtu, place.site())[0] == level


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_the_fix_begins_with_what_the_sidecar_can_do(place: Place, choice: str) -> None:
    links = link(1, "eth0", f"{GATEWAY}/24") + link(2, "wg0", "10.255.255.1/30", mtu=1400)
    place.gateway_says("ip address show", links)
    place.settings = place.settings._replace(mtu=choice)

    (finding,) = path.mtu(place.site())
    firsts = [line.partition(":")[0] for line in finding.fix]
    assert firsts == ["environment"] * (choice == "off") + ["driver_opts"]


def test_an_answer_that_leaves_elsewhere(place: Place) -> None:
    place.gateway_says(f"ip route get {CLIENT}", f"{CLIENT} via 10.255.255.2 dev wg0")

    level, text = seen(path.back, place.site())

    assert level == "fail"
    assert text == (
        f"what comes back for dovecot ({CLIENT}) leaves the gateway by wg0 via 10.255.255.2"
    )


def test_a_gateway_that_is_not_attached(place: Place) -> None:
    place.gateway = place.gateway._replace(endpoints=())

    (finding,) = network.address(place.site())

    assert finding == Finding(
        "fail",
        "wireguard is not attached to wg-net",
        ("docker network connect wg-net wireguard",),
    )
    assert levels(place.site())["tunnel"] == "skip"


@pytest.mark.parametrize(
    ("followed", "change", "text"),
    [
        ("nobody", {}, "the engine has no container nobody"),
        ("dovecot", {"running": False}, "dovecot is not running"),
        ("dovecot", {"labels": {}}, f"dovecot has no label {NETWORKS_LABEL}"),
        ("dovecot", {"endpoints": ()}, "dovecot is not attached to wg-net"),
    ],
)
def test_a_container_whose_packet_goes_nowhere(
    place: Place, followed: str, change: dict[str, object], text: str
) -> None:
    place.client = place.client._replace(**change)  # type: ignore[arg-type]
    out = io.StringIO()

    assert report.report(place.site(followed), out) == 1
    lines = out.getvalue().splitlines()
    (line,) = (line for line in lines if line.split()[1] == "container")
    assert line == f"fail  container     {text}"
    assert "skip  route         cannot be told without the client" in lines


@pytest.mark.parametrize(
    ("driver", "level"),
    [("bridge", "ok"), ("macvlan", "ok"), ("overlay", "ok"), ("ipvlan", "fail"), ("weave", "warn")],
)
def test_the_driver_of_the_network(place: Place, driver: str, level: str) -> None:
    place.networks = (WG_NET._replace(driver=driver),)

    (finding,) = network.network(place.site())

    assert finding.level == level
    if driver == "ipvlan":
        assert finding.seen == (
            "wg-net is an ipvlan: no container there gets what is for a network behind it"
        )
        assert finding.fix == ("make wg-net anew with the driver bridge or macvlan",)


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("iptables", ("warn", "which drops routed ones")),
        ("nftables", ("ok", "192.0.2.0/24")),
        ("", ("warn", "if its backend is iptables (GET /info was refused)")),
    ],
)
def test_an_internal_network_by_what_the_engine_filters_with(
    place: Place, monkeypatch: pytest.MonkeyPatch, backend: str, expected: tuple[str, str]
) -> None:
    level, end = expected
    monkeypatch.setattr(network, "BRIDGE_FILTER", Path("/"))
    monkeypatch.setattr(WithNetworks, "backend", backend)
    place.networks = (WG_NET._replace(internal=True),)

    (finding,) = network.network(place.site())

    assert (finding.level, finding.seen.endswith(end)) == (level, True)


@pytest.mark.parametrize(
    ("on_service", "words", "fixes"),
    [
        ({NETWORKS_LABEL: DST}, ": its service web has it", 2),
        ({}, "", 1),
        (None, "", 2),
    ],
)
def test_a_task_whose_service_has_the_label(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    on_service: dict[str, str] | None,
    words: str,
    fixes: int,
) -> None:
    monkeypatch.setattr(WithNetworks, "on_service", on_service)
    place.client = place.client._replace(labels={"com.docker.swarm.service.name": "web"})

    (finding,) = clients.container(place.site("dovecot"))

    assert finding.seen == f"dovecot has no label {NETWORKS_LABEL}{words}"
    assert len(finding.fix) == fixes
    assert ("not under `deploy:`" in finding.fix[-1]) == (fixes == 2)


def test_a_gateway_that_does_not_see_its_namespace(place: Place) -> None:
    place.gateway = place.gateway._replace(runtime="runsc")

    warned, _ = setup.gateway(place.site())

    assert (warned.level, warned.fix) == (
        "warn",
        ("runtime: runc   # in the service of wireguard",),
    )


def test_what_may_surprise_a_client_is_a_warning(place: Place) -> None:
    published = (PublishedPort("80/tcp", None, 4), PublishedPort("80/tcp", None, 6))
    place.client = place.client._replace(dns=(ip_address(TARGET),), published=published)

    first, found = clients.container(place.site("dovecot"))

    assert (first.level, found.level) == ("ok", "warn")
    assert f"holds its DNS server {TARGET}" in found.seen
    assert [finding.level for finding in said(place.site("dovecot"), "ports")] == ["warn"]


# --- what is printed ----------------------------------------------------------------------------


def test_what_builds_on_a_failed_check_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    code, lines = printed(io.StringIO())

    assert code == 1
    assert lines[0] == f"fail  engine        none at its usual socket: {GONE}"
    assert lines[1] == "      volumes: ['/var/run/docker.sock:/var/run/docker.sock:ro']"
    done = {"engine", "capabilities", "namespaces"}
    skipped = dict(line.split(maxsplit=2)[1:] for line in lines if line.startswith("skip"))
    assert skipped.keys() == set(report.CHECKS) - done - {"container", "route", "neighbour"}
    assert {name: text.rpartition("without ")[2] for name, text in skipped.items()} == {
        "sidecar": "the engine",
        "names": "the sidecar",
        "gateway": "the sidecar",
        "reboot": "the sidecar",
        "commands": "the gateway",
        "network": "the sidecar",
        "address": "the network",
        "clients": "the engine",
        **dict.fromkeys(("overlaps", "dns", "ports", "ipv6", "direct"), "a client"),
        "mtu": "the network",
        **dict.fromkeys(
            ("gateways", "redirects", "forwarding", "rp_filter", "firewall", "tunnel", "back"),
            "the gateway's address",
        ),
        "nat": "the network",
    }


@pytest.mark.parametrize(
    ("connect", "finding"),
    [
        (old_engine, Finding("fail", "the engine is too old", ("update it",))),
        (
            new_engine,
            Finding("warn", "Docker 99.0, API 2.0, at tcp://engine: tried up to API 1.56 only"),
        ),
    ],
)
def test_the_age_of_the_engine_is_judged(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[], Engine], finding: Finding
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine")

    assert list(setup.engine(Site(Settings(), Kernel(), connect))) == [finding]


def test_one_client_has_checks_of_its_own() -> None:
    _, lines = printed(io.StringIO(), Settings(container="dovecot"))
    checks = {line.split()[1] for line in lines[:-1] if line[0] != " "}

    assert checks == set(report.CHECKS) - {"clients"}
    assert lines[-1].endswith("; dovecot: its packet stops at: engine")


def test_colour_is_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert printed(Terminal())[1][0].startswith("\033[31mfail\033[0m  engine")
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed(Terminal())[1][0].startswith("fail  engine")
    monkeypatch.delenv("NO_COLOR")
    assert printed(io.StringIO())[1][0].startswith("fail  engine")


def test_an_error_with_a_hint_is_a_finding_with_its_fix() -> None:
    name, finding = next(report.examine(Site(Settings(), Kernel(), stale_engine)))

    assert (name, finding) == ("engine", Finding("fail", GONE, ("restart",)))


def test_a_finding_is_one_line_and_its_fix_below() -> None:
    finding = Finding("warn", "two\nlines", ("first", "second"))

    assert list(report.lines("mtu", finding)) == [
        "warn  mtu           two lines",
        "      first",
        "      second",
    ]


# --- the engine's oddities ----------------------------------------------------------------------


class WithoutNetworks(WithNetworks):
    def networks(self) -> tuple[DockerNetwork, ...]:
        reason = "the engine refused: forbidden"
        raise CallError(reason)


def test_a_proxy_that_lists_no_networks_is_no_failure(place: Place) -> None:
    engine = WithoutNetworks((place.gateway, place.client), on=place.networks)
    site = Site(place.settings, place.kernel, lambda: cast("Engine", engine))

    (finding,) = network.overlaps(site)
    assert (finding.level, finding.fix) == ("warn", ("let the proxy pass GET /networks",))


# --- the firewall -------------------------------------------------------------------------------


ANSWER = bytes.fromhex(
    "8c000000030a02000100000089590000020000040b00010066696c74657200000c000300464f525741524400"
    "0c0002000000000000000001140004000800010000000002080002000000000008000500000000000b000700"
    "66696c74657200001c0008000c00020000000000000000000c000100000000000000000008000a0000000001"
    "08000600000000018c000000030a020001000000895900000a0000040b00010066696c74657200000a000300"
    "494e5055540000000c0002000000000000000001140004000800010000000001080002000000000008000500"
    "000000000b00070066696c74657200001c0008000c00020000000000000000000c0001000000000000000000"
    "08000a00000000010800060000000000"
)
"""Of Linux 6.18, told to drop in FORWARD what its one rule does not accept, and in IPv6's INPUT."""


def test_forward_chains_are_read_from_the_kernels_answer() -> None:
    assert list(netfilter.parse_chains(netlink.messages(ANSWER))) == [
        netfilter.Chain("ip", "filter", "FORWARD", drops=True, rules=1)
    ]


# --- who shares a namespace, and other gateways -------------------------------------------------


def said(site: Site, check: str) -> list[Finding]:
    return list(report.CHECKS[check](site))


def test_who_is_in_a_namespace_that_was_left_is_named_with_its_fix(place: Place) -> None:
    web = place.client._replace(id="web-id", name="web", labels={}, started_at=2.0)
    place.client = place.client._replace(network_mode="container:web", endpoints=(), started_at=1.0)
    place.others = (web,)
    reason, fix = "dovecot runs in a namespace that web has left", ("docker restart dovecot",)

    assert Finding("warn", reason, fix) in said(place.site(), "clients")
    assert said(place.site("dovecot"), "container") == [Finding("fail", reason, fix)]


@pytest.mark.parametrize(
    ("values", "seen", "fix"),
    [
        pytest.param({"running": False}, "is not running", "docker start dovecot", id="stopped"),
        pytest.param(
            {"endpoints": (), "network_mode": "none"},
            "is not attached to wg-net",
            "networks: [wg-net]   # in the service of dovecot, instead of network_mode: none",
            id="without any network",
        ),
        pytest.param(
            {"endpoints": ()},
            "is not attached to wg-net",
            "docker network connect wg-net dovecot",
            id="elsewhere",
        ),
    ],
)
def test_the_fix_of_a_client_that_is_not_served(
    place: Place, values: dict[str, object], seen: str, fix: str
) -> None:
    place.client = place.client._replace(**values)  # type: ignore[arg-type]

    assert said(place.site("dovecot"), "container") == [Finding("fail", f"dovecot {seen}", (fix,))]
    if "running" not in values:
        (found,) = said(place.site(), "clients")
        assert (found.seen.partition("; ")[2], found.fix) == (f"dovecot has it, but {seen}", (fix,))


def test_a_gateway_that_serves_nobody_is_told_of_the_one_that_does(place: Place) -> None:
    labels = {ROLE_LABEL: "sidecar", NETWORK_LABEL: "wg-net", GATEWAY_LABEL: "another"}
    another = place.gateway._replace(id="another-id", name="another")
    sidecar = place.client._replace(id="s", name="s", labels=labels)
    (alone,) = said(place.site(), "gateways")
    place.others = (another, sidecar)
    (found,) = said(place.site(), "gateways")

    assert alone.level == "ok"
    assert found == Finding(
        "warn",
        "clients are served by the gateway another, by name the first of those on this network, "
        "not by wireguard",
        ("let clients name the gateway that they mean: wgroutemgr.networks.NAME",),
    )


def test_the_other_gateways_are_named(place: Place) -> None:
    labels = {ROLE_LABEL: "sidecar", NETWORK_LABEL: "wg-net", GATEWAY_LABEL: "zero"}
    point = place.gateway.endpoints[0]._replace(aliases=("home",))
    zero = place.gateway._replace(id="zero-id", name="zero", endpoints=(point,))
    place.others = (zero, place.client._replace(id="s", name="s", labels=labels))
    assert said(place.site(), "gateways")[1:] == [Finding("ok", "zero also answers to home")]

    place.others = (zero._replace(running=False), *place.others[1:])
    assert said(place.site(), "gateways")[1:] == [
        Finding("warn", "the gateway zero is lost", ("docker start zero",))
    ]


def test_a_gateway_in_anothers_namespace_is_told_with_it(place: Place) -> None:
    pause = place.gateway._replace(id="pause-id", name="pause", started_at=1.0)
    place.others = (pause,)
    place.gateway = place.gateway._replace(
        network_mode="container:pause", endpoints=(), started_at=2.0
    )
    (found,) = said(place.site(), "gateway")
    assert found.seen == "wireguard, named by --gateway, in the network namespace of pause"

    place.others = (pause._replace(started_at=3.0),)
    with pytest.raises(NotReadyError, match="it runs in a namespace that pause has left"):
        said(place.site(), "gateway")


# --- everything through the gateway -------------------------------------------------------------


def asks_for_everything(place: Place, v4: str, v6: str) -> Site:
    """Return the site of a client that asks for everything, and whose kernel says where that goes.

    Nobody is asked for the first address of all, which is the kernel's own.
    """
    place.client = place.client._replace(labels={NETWORKS_LABEL: "0.0.0.0/0, ::/0"})
    place.settings = place.settings._replace(on_tunnel_loss="warn")
    place.client_says("ip route get 192.0.2.1", v4)
    place.client_says("ip -6 route get 2001:db8::1", v6)
    return place.site("dovecot")


def test_everything_goes_to_the_gateway_or_nowhere(place: Place) -> None:
    unreachable = "!ip: RTNETLINK answers: Network is unreachable"
    site = asks_for_everything(place, f"192.0.2.1 via {GATEWAY} dev eth0", unreachable)

    assert said(site, "route") == [
        Finding("ok", f"dovecot sends 0.0.0.0/0 to {GATEWAY} by eth0"),
        Finding("ok", "dovecot sends ::/0 nowhere: the gateway has no such address"),
    ]


def test_what_sets_everything_is_named_in_its_order(place: Place) -> None:
    past = "192.0.2.1 via 192.0.2.254 dev eth0"
    site = asks_for_everything(place, past, "2001:db8::1 via fd::1 dev eth0")

    v4, v6 = said(site, "route")
    inside = f"nsenter --net={place.client.sandbox_key}"
    assert (v4.level, v6.level) == ("fail", "fail")
    assert v6.seen == "dovecot sends ::/0 to fd::1 by eth0, not nowhere"
    assert v4.fix[1:] == (
        f"{inside} ip route replace default via {GATEWAY} table 671",
        f"{inside} ip route replace unreachable default metric 4000 table 671",
        f"{inside} ip rule add pref 670 lookup main suppress_prefixlength 0",
        f"{inside} ip rule add pref 671 lookup 671",
    )
    assert v6.fix[1].endswith("ip -6 route replace unreachable default metric 4000 table 671")


def test_everything_keeps_no_network_from_being_attached(place: Place) -> None:
    other = DockerNetwork("n2", "other", (ip_network("10.9.0.0/24"),), {})
    place.networks = (WG_NET, other)
    place.client = place.client._replace(labels={NETWORKS_LABEL: "0.0.0.0/0"})
    assert [one.level for one in said(place.site(), "overlaps")] == ["ok"]

    place.client = place.client._replace(labels={NETWORKS_LABEL: "10.0.0.0/8"})
    assert [one.level for one in said(place.site(), "overlaps")] == ["warn"]


ANY, ANY6 = "192.0.2.1", "2001:db8::1"
EVERYTHING = "0.0.0.0/0, ::/0"
DNS_FIX = "dns: [10.64.0.1]   # in the service of dovecot: a server behind the tunnel"


def whole(place: Place, asked: str = EVERYTHING, **values: object) -> Place:
    """Have the client ask for everything, and the gateway send that into its tunnel."""
    labels = {NETWORKS_LABEL: asked, **cast("dict[str, str]", values.pop("labels", {}))}
    place.client = place.client._replace(labels=labels, **values)  # type: ignore[arg-type]
    for words in (f"{ANY} from {CLIENT} iif eth0", ANY):
        place.gateway_says(f"ip route get {words}", f"{ANY} dev wg0")
    place.gateway_says(f"ip -6 route get {ANY6}", "!RTNETLINK answers: Network unreachable")
    place.gateway_says("ip -6 route show", "")
    place.gateway_says("ip neigh show", "192.0.2.1 dev eth0 lladdr 02:00:00:00:00:07 STALE")
    return place


def test_who_asks_for_less_is_not_asked_for_its_servers(place: Place) -> None:
    assert [said(place.site(), check) for check in ("dns", "ports", "ipv6")] == [
        [Finding("ok", "asked through the gateway by all who ask for everything (none)")],
        [Finding("ok", "none is called from where a route leads")],
        [Finding("ok", "no IP version is left out by all who ask for everything (none)")],
    ]


@pytest.mark.parametrize(
    ("servers", "way", "seen"),
    [
        ((), "", "has no DNS server of its own (dns:): the engine may ask the host's, past the"),
        (("127.0.0.53",), "", "has the DNS server 127.0.0.53, its own loopback"),
        (
            ("198.51.100.53",),
            "via 192.0.2.254 dev eth0",
            "asks the DNS server 198.51.100.53 by eth0 via 192.0.2.254, past the gateway",
        ),
        (("198.51.100.53",), f"via {GATEWAY} dev eth0", ""),
        (("198.51.100.53",), "dev eth0", ""),
    ],
    ids=["none", "loopback", "another way", "by the gateway", "a neighbour"],
)
def test_whom_it_asks_for_names(
    place: Place, servers: tuple[str, ...], way: str, seen: str
) -> None:
    whole(place, dns=tuple(map(ip_address, servers)))
    place.client_says("ip route get 198.51.100.53", f"198.51.100.53 {way}")

    (found,) = said(place.site(), "dns")

    if seen:
        assert (found.level, found.fix) == ("warn", (DNS_FIX,))
        assert found.seen.startswith(f"dovecot {seen}")
    else:
        assert found == Finding(
            "ok", "asked through the gateway by all who ask for everything: dovecot"
        )


def test_on_an_internal_network_nobody_is_asked_past_the_gateway(place: Place) -> None:
    place.networks = (WG_NET._replace(internal=True),)

    (found,) = said(whole(place).site(), "dns")

    assert (found.level, found.fix) == ("warn", (DNS_FIX,))
    assert found.seen.endswith("newer engines ask none of the host's for who has no way out")


WEB = (PublishedPort("80/tcp", None, 4), PublishedPort("80/tcp", None, 6))
FRONT = Endpoint("front", "n2", (ip_interface("10.9.0.2/24"),))
PROXY_FIX = "publish on a reverse proxy without the label, which reaches it over wg-net"
CALLERS_FIX = "labels: {wgroutemgr.direct: 198.51.100.0/24}   # the network of those who call"


@pytest.mark.parametrize(
    ("more", "fixes"),
    [
        ((), (PROXY_FIX, CALLERS_FIX)),
        (
            (FRONT,),
            (
                PROXY_FIX,
                (
                    "labels: {wgroutemgr.direct: front}   # if its default route is there "
                    "(gw_priority: 1)"
                ),
                CALLERS_FIX,
            ),
        ),
    ],
)
def test_callers_of_a_published_port(
    place: Place, more: tuple[Endpoint, ...], fixes: tuple[str, ...]
) -> None:
    whole(place, published=WEB, endpoints=(*place.client.endpoints, *more))

    (found,) = said(place.site(), "ports")

    assert found == Finding(
        "warn",
        "callers of dovecot's published 80/tcp are answered through the gateway, "
        "with an address that they did not call",
        fixes,
    )


def test_no_fix_of_published_ports_that_is_in_place(place: Place) -> None:
    whole(place, published=WEB, labels={DIRECT_LABEL: "front, 198.51.100.0/24"})

    (found,) = said(place.site(), "ports")

    assert (found.level, found.fix) == ("ok", ())
    assert found.seen.endswith("are answered past the gateway as far as front, 198.51.100.0/24 say")


def test_nothing_is_published(place: Place) -> None:
    assert said(whole(place).site(), "ports") == [
        Finding("ok", "none is called from where a route leads")
    ]


DIRECT = "203.0.113.0/24"


@pytest.mark.parametrize(
    ("answer", "level", "seen"),
    [
        (
            "203.0.113.1 via 192.0.2.1 dev eth0",
            "ok",
            "leaves past the gateway, by eth0 via 192.0.2.1",
        ),
        ("203.0.113.1 dev eth1", "ok", "leaves past the gateway, by eth1"),
        (f"203.0.113.1 via {GATEWAY} dev eth0", "fail", "goes through the gateway all the same"),
        ("!RTNETLINK answers: Network unreachable", "fail", "goes nowhere"),
    ],
)
def test_a_network_that_is_to_keep_off_the_gateway(
    place: Place, answer: str, level: str, seen: str
) -> None:
    whole(place, labels={DIRECT_LABEL: DIRECT})
    place.client_says("ip route get 203.0.113.1", answer)

    fix = () if level == "ok" else ("docker logs SIDECAR   # why was it not set?",)
    (found,) = said(place.site(), "direct")
    assert (found.level, found.seen, found.fix) == (level, f"{DIRECT} of dovecot {seen}", fix)


def test_what_is_answered_from_another_network_is_to_keep_off_it(place: Place) -> None:
    endpoints = (*place.client.endpoints, FRONT)
    whole(place, labels={DIRECT_LABEL: "front"}, endpoints=endpoints)
    place.client_says(f"ip route get {ANY} from 10.9.0.2", f"{ANY} via 10.9.0.1 dev eth1")

    assert said(place.site(), "direct") == [
        Finding(
            "ok",
            "what dovecot answers from 10.9.0.2 leaves past the gateway, by eth1 via 10.9.0.1",
        )
    ]


def test_nothing_is_to_keep_off_the_gateway(place: Place) -> None:
    assert said(place.site(), "direct") == [
        Finding("ok", "nothing is kept off the gateway by wgroutemgr.direct")
    ]


@pytest.mark.parametrize(
    ("forwards", "everywhere", "here", "believes"),
    [
        (0, 1, 1, True),
        (0, 0, 1, True),
        (0, 1, 0, True),
        (0, 0, 0, False),
        (1, 0, 1, False),
        (1, 1, 0, False),
        (1, 1, 1, True),
    ],
)
def test_who_believes_a_redirect(
    place: Place, forwards: int, everywhere: int, here: int, *, believes: bool
) -> None:
    redirected(place, forwards=forwards, everywhere=everywhere, here=here)
    expected = Finding("ok", "no client goes where an ICMP redirect sends it")
    if believes:
        expected = Finding(
            "warn",
            "dovecot believes ICMP redirects: what wireguard sends back out once goes past it "
            "for 5 minutes",
            ("sysctls: {net.ipv4.ip_forward: 1}   # in the service of dovecot",),
        )

    assert said(place.site(), "redirects") == [expected]


@pytest.mark.parametrize(
    ("everywhere", "here", "sends"), [(1, 0, True), (0, 1, True), (0, 0, False)]
)
def test_a_gateway_that_sends_no_redirects(
    place: Place, everywhere: int, here: int, *, sends: bool
) -> None:
    redirected(place, forwards=0, everywhere=1, here=1)
    place.gateway_says(f"cat {CONF}/all/send_redirects", str(everywhere))
    place.gateway_says(f"cat {CONF}/eth0/send_redirects", str(here))
    (found,) = said(place.site(), "redirects")

    assert (found.level == "warn") is sends
    if not sends:
        assert found.seen == "wireguard sends no ICMP redirects"


def test_a_gateway_elsewhere_may_send_redirects(place: Place) -> None:
    redirected(place, forwards=0, everywhere=1, here=1)
    place.settings = place.settings._replace(gateway=GATEWAY)

    (found,) = said(place.site(), "redirects")

    assert found.level == "warn"


def test_settings_of_a_client_that_cannot_be_read_are_not_judged(place: Place) -> None:
    place.client_says("ip address show", "!nsenter: cannot open")

    (found,) = said(place.site(), "redirects")

    assert found.level == "ok"


DUAL = (ip_interface("192.0.2.7/24"), ip_interface("fd00:67::7/64"))


@pytest.mark.parametrize(
    ("asked", "left_out"),
    [
        ("0.0.0.0/0", [6]),
        ("0.0.0.0/1, 128.0.0.0/1", [6]),
        ("::/0", [4]),
        (EVERYTHING, []),
        ("0.0.0.0/0, ::/1, 8000::/1", []),
    ],
)
def test_an_ip_version_that_is_left_out(place: Place, asked: str, left_out: list[int]) -> None:
    gateway = (*place.gateway.endpoints[0].interfaces, ip_interface("fd00:67::129/64"))
    place.gateway = place.gateway._replace(endpoints=(Endpoint("wg-net", "n1", gateway),))
    whole(place, asked, endpoints=(Endpoint("wg-net", "n1", DUAL),))

    found = said(place.site(), "ipv6")

    assert [(one.level, one.seen, one.fix) for one in found if one.level != "ok"] == [
        (
            "warn",
            f"IPv{version} of dovecot goes past the gateway, by the engine's default route",
            (
                (
                    "labels: {wgroutemgr.networks: '0.0.0.0/0, ::/0'}"
                    f"   # IPv{version} goes by the gateway too then, or nowhere"
                ),
            ),
        )
        for version in left_out
    ]
    assert len(found) == 1


def test_addresses_of_clients_that_nobody_knows_behind_everything(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netfilter, "source_nat", lambda _: ())

    (found,) = said(whole(place).site(), "nat")

    assert found == Finding(
        "warn",
        "clients keep their addresses: the far side must know 192.0.2.0/24, and all behind it",
        (
            (
                "PostUp = iptables -t nat -A POSTROUTING -o wg0 -j MASQUERADE"
                "   # in the tunnel's configuration"
            ),
        ),
    )


TO_LAST = "to last: PostUp of its tunnel, or gluetun's post-rules.txt"
ACCEPT = (
    "docker exec wireguard sh -c 'iptables -A FORWARD -i eth0 -o wg0 -j ACCEPT && iptables -A "
    "FORWARD -i wg0 -o eth0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT'   # " + TO_LAST
)
DROP = f"docker exec wireguard iptables -P FORWARD DROP   # {TO_LAST}"


def chain(*, drops: bool, rules: int = 0, family: str = "ip") -> netfilter.Chain:
    return netfilter.Chain(family, "filter", "FORWARD", drops=drops, rules=rules)


@pytest.mark.parametrize(
    ("asked", "fix"),
    [(EVERYTHING, ACCEPT), (DST, "docker exec wireguard iptables -P FORWARD ACCEPT")],
)
def test_a_policy_that_drops_is_opened_for_the_tunnel_only(
    place: Place, monkeypatch: pytest.MonkeyPatch, asked: str, fix: str
) -> None:
    monkeypatch.setattr(netfilter, "forward_chains", lambda _: (chain(drops=True),))

    (found,) = said(whole(place, asked).site(), "firewall")

    assert (found.level, found.fix) == ("fail", (fix,))


NOBODY = {"ip neigh show": "192.0.2.1 dev eth0 FAILED"}
GUARD = {"ip rule show": f"32001: from all iif eth0 unreachable\n{KERNELS_RULES}"}


@pytest.mark.parametrize(
    ("says", "chains", "is_open"),
    [
        ({}, (), True),
        ({}, (chain(drops=False),), True),
        ({}, (chain(drops=True, family="ip6"),), True),
        ({}, (chain(drops=True, rules=2),), False),
        (GUARD, (), False),
        (NOBODY, (), False),
        ({"ip route show": "default dev wg0"}, (), False),
    ],
    ids=["open", "accepts", "IPv6 only", "drops", "guard", "nobody there", "into the tunnel"],
)
def test_what_a_gateway_does_without_its_tunnel(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    says: dict[str, str],
    chains: tuple[netfilter.Chain, ...],
    *,
    is_open: bool,
) -> None:
    whole(place, "0.0.0.0/0")
    for command, output in says.items():
        place.gateway_says(command, output)
    monkeypatch.setattr(netfilter, "forward_chains", lambda _: chains)

    first, *found = said(place.site(), "tunnel")

    assert first == Finding("ok", "wireguard sends 0.0.0.0/0 into wg0")
    seen = "without its tunnel, wireguard sends 0.0.0.0/0 out by eth0 via 192.0.2.1, unprotected"
    assert found == ([Finding("warn", seen, (ACCEPT, DROP))] if is_open else [])


def test_everything_that_the_tunnel_does_not_take(place: Place) -> None:
    whole(place, "0.0.0.0/0")
    past = f"{ANY} via 192.0.2.254 dev eth0"
    place.gateway_says(f"ip route get {ANY} from {CLIENT} iif eth0", past)

    found = said(place.site(), "tunnel")[0]

    assert (found.level, found.fix[0]) == (
        "fail",
        (
            "add 0.0.0.0/0 to AllowedIPs of the peer in the tunnel's configuration, "
            "then: docker restart wireguard"
        ),
    )


def test_what_may_pass_an_internal_network_by_its_bridge(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "BRIDGE_FILTER", Path("/"))
    place.networks = (WG_NET._replace(internal=True),)

    (found,) = network.network(place.site())

    assert found.fix[1] == (
        "iptables -I DOCKER-USER -i br-n1 -o br-n1 -j ACCEPT   # on the host, instead"
    )


@pytest.mark.parametrize(("said_by_route", "level"), [(1400, "ok"), (0, "warn")])
def test_how_large_packets_to_everywhere_may_be(
    place: Place, monkeypatch: pytest.MonkeyPatch, said_by_route: int, level: str
) -> None:
    links = link(1, "eth0", f"{GATEWAY}/24") + link(2, "wg0", "10.255.255.1/30", mtu=1400)
    whole(place).gateway_says("ip address show", links)
    everything = ip_network("0.0.0.0/0")
    route = Route(everything, ip_address(GATEWAY), 0, table=TABLE, mtu=said_by_route)
    monkeypatch.setattr(route_table, "read", lambda _: (route,))

    assert seen(path.mtu, place.site())[0] == level


# --- several networks ---------------------------------------------------------------------------

IN_LAB, LAB_CLIENT = "10.7.0.1", "10.7.0.8"
LAB_NET = DockerNetwork("n7", "lab-net", (ip_network("10.7.0.0/24"),), {})


@pytest.fixture
def two(place: Place, tmp_path: Path) -> Place:
    """Return one whose gateway serves another network too, with a client on each."""
    point = Endpoint("lab-net", "n7", (ip_interface(f"{IN_LAB}/24"),))
    place.gateway = place.gateway._replace(endpoints=(*place.gateway.endpoints, point))
    labels = {NETWORKS_LABEL: DST}
    point = point._replace(interfaces=(ip_interface(f"{LAB_CLIENT}/24"),))
    there = container("other", "10.7.0.8/24", tmp_path / "other", labels=labels, endpoints=(point,))
    place.others = (there,)
    place.networks = (WG_NET, LAB_NET)
    place.settings = place.settings._replace(network="wg-net,lab-net")
    links = (
        link(1, "eth0", f"{GATEWAY}/24")
        + link(2, "wg0", "10.255.255.1/30")
        + link(3, "eth1", f"{IN_LAB}/24")
    )
    place.gateway_says("ip address show", links)
    place.gateway_says("cat /proc/sys/net/ipv4/conf/eth1/forwarding", "1")
    place.gateway_says("cat /proc/sys/net/ipv4/conf/eth1/rp_filter", "0")
    place.gateway_says(f"cat {CONF}/eth1/send_redirects", "1")
    place.gateway_says(f"ip route get {TARGET} from {LAB_CLIENT} iif eth1", f"{TARGET} dev wg0")
    place.gateway_says(f"ip route get {LAB_CLIENT}", f"{LAB_CLIENT} dev eth1 src {IN_LAB}")
    enter = f"nsenter --net={there.sandbox_key}"
    place.kernel.answers |= {
        f"{enter} ip address show": link(1, "eth0", f"{LAB_CLIENT}/24", mtu=1420),
        f"{enter} ip route get {TARGET}": f"{TARGET} via {IN_LAB} dev eth0",
        f"{enter} ip neigh show": f"{IN_LAB} dev eth0 lladdr 02:00:00:00:00:03 REACHABLE",
        f"{enter} cat {CONF}/eth0/forwarding": "0",
        **{f"{enter} cat {CONF}/{name}/accept_redirects": "0" for name in ("all", "eth0")},
    }
    return place


def test_each_network_is_looked_at_and_what_they_share_is_said_once(two: Place) -> None:
    found = [*report.examine(two.site())]

    assert two.connections == 1
    assert {one.level for name, one in found if name not in OF_THE_MACHINE | WITHIN} == {"ok"}
    assert len(found) == len({*found})
    for check, texts in {
        "gateway": ["wireguard, named by --gateway"],
        "network": ["wg-net, bridge, 192.0.2.0/24", "lab-net, bridge, 10.7.0.0/24"],
        "address": [
            f"wireguard is {GATEWAY} on wg-net, by eth0",
            f"wireguard is {IN_LAB} on lab-net, by eth1",
        ],
        "clients": [
            "1 on wg-net, asking for 1 destinations: dovecot",
            "1 on lab-net, asking for 1 destinations: other",
        ],
    }.items():
        assert [one.seen for name, one in found if name == check] == texts


@pytest.mark.parametrize(
    ("followed", "network", "address"),
    [("dovecot", "wg-net", GATEWAY), ("other", "lab-net", IN_LAB)],
)
def test_one_client_is_followed_by_its_network(
    two: Place, followed: str, network: str, address: str
) -> None:
    found = [*report.examine(two.site(followed))]

    (seen,) = (one.seen for name, one in found if name == "address")
    assert seen.startswith(f"wireguard is {address} on {network}")
    (seen,) = (one.seen for name, one in found if name == "container")
    assert seen == f"{followed} is on {network} and asks for {DST}"


def test_a_network_that_is_not_there_is_one_finding_among_the_others(two: Place) -> None:
    two.settings = two.settings._replace(network="wg-net,nowhere")
    found = [*report.examine(two.site())]

    assert [(one.level, one.seen) for name, one in found if name == "network"] == [
        ("ok", "wg-net, bridge, 192.0.2.0/24"),
        ("fail", "there is no network nowhere"),
    ]
    assert [one.level for name, one in found if name == "tunnel"] == ["ok", "skip"]
