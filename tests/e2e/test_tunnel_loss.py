"""A gateway that runs on without its tunnel: what its clients send must not leave past that.

The tunnel is a `tun` that nobody reads, with the rules of `wg-quick`: what goes into it is gone.
What the gateway sends back out of its front is counted there.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.e2e.doctor_site import ask, beside, make_gateway
from tests.e2e.look import await_event, await_routes, entries, events, routes
from tests.e2e.test_whole import table
from tests.lab import images
from tests.lab.engine import poll
from tests.lab.errors import LabError
from tests.lab.site import Container
from tests.lab.tunnel import two_sites

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tests.lab.engine import Engine
    from tests.lab.site import Lab

SUBNETS = ("192.168.67.0/24", "fd00:67::/64")
PLAIN, PLAIN6 = "198.51.100.0/24", "2001:db8:51::/64"
LABEL = f"0.0.0.0/0, ::/0, {PLAIN}, {PLAIN6}"
FAR = {4: "203.0.113.80", 6: "2001:db8:80::80"}
SHUT = ["-4 default unreachable"] * 2 + ["-6 default unreachable"] * 2
ASTRAY = "the gateway sends it into no tunnel"
SECONDS = 10.0
SOON_SECONDS = 2.0
"""Half of what a pass waits for an engine that does not answer."""
SENDER = """
import errno, socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
begun, before = time.monotonic(), None
with socket.socket(family, socket.SOCK_DGRAM) as sender:
    while time.monotonic() < begun + float(sys.argv[2]):
        now = 0
        try:
            sender.sendto(b"x", (sys.argv[1], 9))
        except OSError as error:
            now = error.errno
        if now != before:
            print(time.monotonic(), errno.errorcode.get(now, "sent"), flush=True)
            before = now
        time.sleep(0.0005)
"""
"""Sends without a pause, and prints when that begins to work and to fail."""


def up(gateway: Container, mtu: int = 1420) -> None:
    """Bring the tunnel up as `wg-quick` does."""
    rules = ["not fwmark 51820 table 51820", "table main suppress_prefixlength 0"]
    lines = [f"ip tuntap add dev wg0 mode tun; ip link set wg0 mtu {mtu} up"]
    for ip, plain in (("ip -6", PLAIN6), ("ip", PLAIN)):
        lines += [f"{ip} route add default dev wg0 table 51820"]
        lines += [f"{ip} rule add {rule}" for rule in rules]
        lines += [f"{ip} route add {plain} dev wg0"]
    gateway.enter("sh", "-ec", "\n".join(lines))


def down(gateway: Container) -> None:
    """Take it down likewise."""
    rules = ["table 51820", "table main suppress_prefixlength 0"]
    lines = [f"{ip} rule del {rule}" for ip in ("ip", "ip -6") for rule in rules]
    gateway.enter("sh", "-ec", "\n".join([*lines, "ip link del wg0"]))


@dataclass
class World:
    """A gateway, and a client that asks for everything and for two networks more."""

    lab: Lab
    network: str
    gateway: Container
    client: Container
    sidecar: Container

    def expected(self) -> list[str]:
        """Return what is in our table while there is a tunnel."""
        via, via6 = (self.gateway.address(self.network, ipv6=ipv6) for ipv6 in (False, True))
        guards = ("-4 default unreachable", "-6 default unreachable")
        return [f"-4 default {via}", guards[0], f"-6 default {via6}", guards[1]]

    def plain(self) -> dict[str, str]:
        via, via6 = (self.gateway.address(self.network, ipv6=ipv6) for ipv6 in (False, True))
        return {PLAIN: via, PLAIN6: via6}

    def is_open(self) -> bool:
        return table(self.client) == self.expected() and routes(self.client) == self.plain()

    def is_shut(self) -> bool:
        plain = dict.fromkeys(self.plain(), "unreachable")
        return table(self.client) == SHUT and routes(self.client) == plain

    def await_open(self) -> None:
        assert poll(self.is_open, SECONDS, every=0.02), (table(self.client), self.sidecar.logs())

    def await_shut(self) -> None:
        assert poll(self.is_shut, SECONDS, every=0.02), (table(self.client), self.sidecar.logs())

    def say(self, *words: str) -> str:
        return self.sidecar.exec("sh", "-c", f"wgroutemgr {' '.join(words)}; :")

    def states(self) -> list[tuple[str, str]]:
        return [
            (row["state"], row["reason"])
            for row in json.loads(self.say("status", "--json"))["routes"]
        ]

    def told(self) -> list[str]:
        return [one["event"] for one in entries(self.sidecar) if one["event"].startswith("tunnel.")]

    def past(self) -> int:
        """Return how many packets of the clients left the gateway by its front so far."""
        return sum(self.counted("POSTROUTING"))

    def counted(self, chain: str) -> list[int]:
        """Return how many of them a chain has counted so far, for each IP version."""
        counts = []
        for program in ("iptables", "ip6tables"):
            shown = self.gateway.enter(program, "-w", "-t", "mangle", "-vnxL", chain)
            (line,) = [line for line in shown.splitlines() if "dpt:9" in line]
            counts.append(int(line.split()[0]))
        return counts


def count_packets(gateway: Container) -> None:
    """Count what is forwarded, and of that what leaves by the front."""
    for program in ("iptables", "ip6tables"):
        for where in (("FORWARD",), ("POSTROUTING", "-o", "eth0")):
            packets = ("-p", "udp", "--dport", "9")
            gateway.enter(program, "-w", "-t", "mangle", "-A", *where, *packets)


def make_world(lab: Lab, *options: str) -> World:
    network = lab.network("wg-net", *SUBNETS)
    gateway = make_gateway(lab, network, "wireguard")
    client = lab.client("client", network, networks=LABEL)
    resync = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=3600", *options)
    sidecar = lab.lone_sidecar("sidecar", *resync, gateway=gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    return World(lab, network, gateway, client, sidecar)


def send(pool: ThreadPoolExecutor, client: Container, version: int, seconds: float) -> Future[str]:
    """Send from a client meanwhile."""
    return pool.submit(client.enter, "python3", "-c", SENDER, FAR[version], str(seconds))


def test_nothing_leaves_past_a_tunnel_that_is_lost(lab: Lab, engine: Engine) -> None:
    world = make_world(lab)
    count_packets(world.gateway)
    before_any_tunnel(world)
    up(world.gateway)
    world.await_open()
    assert world.told() == ["tunnel.lost", "tunnel.found"]
    assert poll(lambda: world.say("health").strip() == "ok", SECONDS)
    assert world.states() == [("ok", "")] * 4
    under_traffic(world)
    up(world.gateway, mtu=1380)
    world.await_open()
    assert world.told()[2:] == ["tunnel.lost", "tunnel.found"]
    another_size(world)
    a_route_alone(world)
    down(world.gateway)
    world.await_shut()
    assert world.told()[4:] == ["tunnel.lost", "tunnel.found", "tunnel.lost"]
    a_restart_meanwhile(world)
    while_the_engine_hangs(world, engine)
    world.gateway.stop()
    assert poll(lambda: len(events(world.sidecar, "gateway.lost")) == 2, SECONDS)
    world.await_shut()


def before_any_tunnel(world: World) -> None:
    """Everything is lost, other networks are not judged."""
    assert table(world.client) == SHUT
    assert routes(world.client) == world.plain()
    assert world.states() == [*[("unreachable", ASTRAY)] * 2, *[("ok", "")] * 2]
    health = world.say("health").strip()
    assert health.startswith(f"the tunnel of {world.gateway.name} is lost since 20")
    assert health.endswith(": 0.0.0.0/0, ::/0")


def under_traffic(world: World) -> None:
    """The link goes down while the client sends, in both IP versions."""
    with ThreadPoolExecutor() as pool:
        senders = {version: send(pool, world.client, version, 4) for version in FAR}
        assert poll(lambda: all(world.counted("FORWARD")), SECONDS)
        before = time.monotonic()
        world.gateway.enter("ip", "link", "set", "wg0", "down")
        after = time.monotonic()
        world.await_shut()
        leaked = world.past()
        said = {version: sender.result().split() for version, sender in senders.items()}
    assert world.past() == leaked
    for version, words in said.items():
        assert words[1::2] == ["sent", "EHOSTUNREACH"], (version, words)
        assert before < float(words[2]) < after + 0.5, (version, words, before, after)
    assert world.states() == [("unreachable", ASTRAY)] * 4
    assert world.say("plan").splitlines() == [
        f"# {world.client.name}: {dst} {ASTRAY}" for dst in ("0.0.0.0/0", "::/0", PLAIN, PLAIN6)
    ]
    assert world.told()[2:] == ["tunnel.lost"]
    down(world.gateway)


def another_size(world: World) -> None:
    """It is followed at once."""
    world.gateway.enter("ip", "link", "set", "wg0", "mtu", "1300")

    def shown() -> int:
        v4 = world.client.enter("ip", "route", "show", "table", "671")
        return (v4 + world.client.enter("ip", "-6", "route", "show")).count("mtu 1300")

    assert poll(lambda: shown() == 2, SECONDS, every=0.02)


def a_route_alone(world: World) -> None:
    """What is lost with it is unreachable alone."""
    route = ("default", "dev", "wg0", "table", "51820")
    world.gateway.enter("ip", "route", "del", *route)
    wanted = ["unreachable", "ok", "ok", "ok"]
    assert poll(lambda: [state for state, _ in world.states()] == wanted, SECONDS)
    world.gateway.enter("ip", "route", "add", *route)
    world.await_open()


def a_restart_meanwhile(world: World) -> None:
    """A gateway that restarts while its tunnel is lost opens nothing, nor to a new client."""
    told = world.told()
    world.gateway.stop()
    await_event(world.sidecar, "gateway.lost")
    world.gateway.start()
    assert poll(lambda: len(events(world.sidecar, "gateway.ready")) == 2, SECONDS)
    new = world.lab.client("new", world.network, networks=PLAIN)
    await_routes(new, {PLAIN: "unreachable"})
    assert world.is_shut()
    found = ask(world.sidecar, world.client.name)
    assert {one.level for one in found.of("route")} == {"warn"}
    assert {one.level for one in found.of("tunnel")} == {"fail"}
    up(world.gateway)
    world.await_open()
    await_routes(new, {PLAIN: world.plain()[PLAIN]})
    assert world.told() == [*told, "tunnel.found"]


@dataclass(frozen=True)
class Known(Container):
    """A container that is entered without a word to its engine."""

    netns: str

    def enter(self, *argv: str) -> str:
        return self.engine.enter("nsenter", f"--net={self.netns}", *argv)


def known(container: Container) -> Known:
    netns = container.inspect("{{.NetworkSettings.SandboxKey}}")
    return Known(container.engine, container.name, netns)


def while_the_engine_hangs(world: World, engine: Engine) -> None:
    """A pass that waits for it, as the one that verifies what became of the tunnel, is no bar."""
    gateway, client = known(world.gateway), known(world.client)
    there = {True: (world.expected(), world.plain())}
    there[False] = SHUT, dict.fromkeys(world.plain(), "unreachable")

    def is_seen(*, is_open: bool) -> bool:
        now = lambda: (table(client), routes(client)) == there[is_open]  # noqa: E731
        return poll(now, SOON_SECONDS, every=0.02)

    engine.pause()
    try:
        down(gateway)
        assert is_seen(is_open=False)
        time.sleep(1)  # It verifies after 0.3 s.
        up(gateway)
        assert is_seen(is_open=True)
        down(gateway)
        assert is_seen(is_open=False)
        up(gateway)
        assert is_seen(is_open=True)
    finally:
        engine.resume()


def test_who_is_only_to_be_warned_keeps_the_routes(lab: Lab) -> None:
    world = make_world(lab, "--env", "WGROUTEMGR_ON_TUNNEL_LOSS=warn")
    assert world.is_open()
    up(world.gateway)
    await_event(world.sidecar, "tunnel.found")
    down(world.gateway)
    assert poll(lambda: world.told() == ["tunnel.lost", "tunnel.found", "tunnel.lost"], SECONDS)
    assert poll(lambda: world.states() == [("ok", ASTRAY)] * 4, SECONDS)
    assert world.is_open()
    assert world.say("health").strip() == "ok"


def way(world: World, version: int) -> str:
    """Return by which link the gateway sends on what the client sends to a far host."""
    client = world.client.address(world.network, ipv6=version == 6)
    words = f"route get {FAR[version]} from {client} iif eth0"
    try:
        shown = world.gateway.enter("ip", f"-{version}", *words.split())
    except LabError:
        return ""
    return shown.partition(" dev ")[2].split()[0]


def test_a_guarded_gateway_sends_nothing_past_its_tunnel(lab: Lab) -> None:
    """Whatever its clients' routes say, whoever was first, and whether a sidecar runs or not."""
    world = make_world(
        lab, "--env", "WGROUTEMGR_GATEWAY_GUARD=on", "--env", "WGROUTEMGR_ON_TUNNEL_LOSS=warn"
    )
    gateway, sidecar = world.gateway, world.sidecar
    count_packets(gateway)

    def ways() -> list[str]:
        return [way(world, version) for version in FAR]

    def send_some() -> None:
        for host in FAR.values():
            world.client.enter("python3", "-c", SENDER, host, "0.3")

    added = [one["command"] for one in events(sidecar, "rule.added", container=gateway.name)]
    assert len(added) == 4
    assert ways() == ["", ""]
    up(gateway)
    assert ways() == ["wg0", "wg0"]
    gateway.enter("ip", "link", "set", "wg0", "down")
    assert ways() == ["", ""]
    send_some()
    down(gateway)
    sidecar.engine.docker("kill", sidecar.name)
    send_some()
    assert (ways(), world.past()) == (["", ""], 0)

    # A gateway that is up already when it gets its guard.
    gateway.restart()
    up(gateway)
    count_packets(gateway)
    assert ways() == ["wg0", "wg0"]
    sidecar.start()
    assert poll(lambda: len(events(sidecar, "rule.added", container=gateway.name)) == 8, SECONDS)
    assert ways() == ["wg0", "wg0"]
    assert world.say("plan") == ""
    down(gateway)
    send_some()
    assert (ways(), world.past()) == (["", ""], 0)

    sidecar.stop()
    withdrawn = lab.container(
        "withdrawn",
        images.product(lab.engine),
        *beside(gateway, world.network),
        command=("withdraw",),
    )
    assert poll(lambda: not withdrawn.running(), SECONDS)
    assert withdrawn.exit_code() == 0
    assert ways() == ["eth0", "eth0"]
    assert table(world.client) == []


def test_a_gateway_that_can_have_no_tunnel_serves_everything(lab: Lab) -> None:
    """Such as a proxy: it lacks the capability."""
    network = lab.network("wg-net", *SUBNETS)
    image = images.client(lab.engine)
    gateway = lab.container("proxy", image, "--network", network, command=images.WAIT)
    client = lab.client("client", network, networks="0.0.0.0/0")
    sidecar = lab.lone_sidecar("sidecar", gateway=gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")

    assert table(client) == [f"-4 default {gateway.address(network)}", "-4 default unreachable"]
    assert events(sidecar, "tunnel.lost") == []
    assert poll(lambda: sidecar.exec("wgroutemgr", "health").strip() == "ok", SECONDS)


def test_a_real_tunnel_that_goes_and_comes(lab: Lab) -> None:
    sites = two_sites(lab)
    here, there = sites.first, sites.second
    sidecar = sites.start_sidecar(here, "--env", "WGROUTEMGR_RESYNC_INTERVAL=3600")
    sites.start_sidecar(there)
    client, far = sites.start_client(here), sites.start_client(there)
    through = {
        subnet: here.gateway.address(here.network, ipv6=ipv6)
        for subnet, ipv6 in zip(there.subnets, (False, True), strict=True)
    }
    await_routes(client, through)
    answers = ("ping", "-c", "1", "-w", "20", far.address(there.network))
    assert "0% packet loss" in client.exec(*answers)

    here.gateway.enter("ip", "link", "set", "wg0", "down")
    await_routes(client, dict.fromkeys(through, "unreachable"))
    lines = ["ip link set wg0 up"]
    lines += [f"ip route replace {subnet} dev wg0" for subnet in there.subnets]
    here.gateway.enter("sh", "-ec", "\n".join(lines))

    await_routes(client, through)
    assert "0% packet loss" in client.exec(*answers)
    assert [one["event"] for one in entries(sidecar) if one["event"].startswith("tunnel")] == [
        "tunnel.lost",
        "tunnel.found",
    ]
