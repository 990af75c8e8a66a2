"""The same for the kernel with both `ip` programs, and for its stand-in."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lib.errors import NetnsError, NetnsGoneError
from lib.kernel.access import Kernel
from lib.kernel.shells import Shells
from lib.model import GUARD_METRIC, TABLE, Rule, Step, Tunnelled, Way
from lib.routing import iproute, policy
from tests.fake_kernel import FakeKernel
from tests.integration import kernel
from tests.integration.kernel import route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from lib.kernel.shells import Conversation, Outcome
    from lib.model import Network, Route, Thing

ADDRESSES = ("192.0.2.7/24", "2001:db8::7/64")
NEIGHBOUR, OTHER = {4: "192.0.2.1", 6: "2001:db8::1"}, {4: "192.0.2.2", 6: "2001:db8::2"}
FAR = {4: "203.0.113.1", 6: "2001:db8:9::1"}
DST = {4: "198.51.100.0/24", 6: "2001:db8:1::/64"}
NETWORK = {4: "192.0.2.0/24", 6: "2001:db8::/64"}
OWN, FOREIGN = {4: "192.0.2.7", 6: "2001:db8::7"}, {4: "192.0.2.8", 6: "2001:db8::8"}
SECOND = {4: "10.9.0.7/16", 6: "2001:db8:2::7/64"}
CONNECTED_METRIC = {4: 0, 6: 256}
UNREACHABLE = {4: "Network is unreachable", 6: "No route to host"}
VERSIONS = pytest.mark.parametrize("version", [4, 6])

GONE = "No such file or directory"
NOT_THERE = "No such process"
INVALID = "Invalid argument"


class RealSite:
    """Makes namespaces as FakeKernel does; each has one link, whose other end is there too."""

    def __init__(self) -> None:
        self._spaces: dict[str, tuple[kernel.Namespace, ExitStack]] = {}

    def add(
        self,
        path: str,
        connected: Iterable[str] = (),
        addresses: Iterable[str] = (),
        *,
        link_up: bool = True,
    ) -> None:
        stack = ExitStack()
        space = stack.enter_context(kernel.namespace(Path(path)))
        self._spaces[path] = space, stack
        space.ip(
            "link set lo up",
            "link add eth0 type veth peer name w0",
            *(f"link set {name} addrgenmode none" for name in ("eth0", "w0")),
            "link set w0 up",
            *(["link set eth0 up"] if link_up else []),
        )
        for address in addresses:
            self.attach(path, address)
        for network in connected:
            metric = CONNECTED_METRIC[ip_network(network).version]
            space.ip(f"route add {network} dev eth0 metric {metric}")
        if link_up:
            assert kernel.poll(lambda: "linkdown" not in space.run(kernel.IP, "route"))

    def attach(self, path: str, address: str) -> None:
        nodad = "nodad" if ":" in address else ""
        self._spaces[path][0].ip(f"address add {address} dev eth0 {nodad}")

    def detach(self, path: str, address: str) -> None:
        self._spaces[path][0].ip(f"address del {address} dev eth0")

    def set_link(self, path: str, *, up: bool) -> None:
        space, state = self._spaces[path][0], "up" if up else "down"
        space.ip(f"link set eth0 {state}")
        shown = "state UP" if up else "state DOWN"
        assert kernel.poll(lambda: shown in space.run(kernel.IP, "link", "show", "eth0"))

    def set_mtu(self, path: str, size: int) -> None:
        self._spaces[path][0].ip(f"link set w0 mtu {size}", f"link set eth0 mtu {size}")

    def tunnel(self, path: str, dst: str, size: int = 1500, *, is_ethernet: bool = False) -> None:
        space = self._spaces[path][0]
        make = "link add wg0 type veth peer name far" if is_ethernet else "tuntap add wg0 mode tun"
        if "wg0" not in space.run(kernel.IP, "-br", "link"):
            space.ip(
                make,
                *(["link set far up"] if is_ethernet else []),
                "link set wg0 addrgenmode none",
                "link set wg0 up",
                f"route add {dst} dev wg0",
            )
        if is_ethernet:
            space.ip(f"link set far mtu {size}")
        space.ip(f"link set wg0 mtu {size}")

    def close_tunnel(self, path: str, dst: str) -> None:
        del dst
        self._spaces[path][0].ip("link del wg0")

    def forward(self, path: str) -> None:
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self._spaces[path][0].run(kernel.SH, "-c", f"echo 1 >/proc/sys/net/{name}")

    def disable_ipv6(self, path: str) -> None:
        command = "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"
        self._spaces[path][0].run(kernel.SH, "-c", command)

    def give(self, path: str, *things: Thing) -> None:
        for one in things:
            if isinstance(one, Rule):
                self._spaces[path][0].ip(f"rule add {iproute.text(one)}", version=one.version)
                continue
            kind = "" if one.kind in {"unicast", "connected"} else one.kind
            where = f"via {one.gateway}" if one.gateway else "" if kind else "dev eth0"
            line = f"route append {kind} {one.dst} {where} metric {one.metric} table {one.table}"
            self._spaces[path][0].ip(line, version=one.dst.version)

    def remove(self, path: str) -> None:
        self._spaces.pop(path)[1].close()

    def replace_with_other(self, path: str) -> None:
        self.remove(path)
        self.add(path)

    def close(self) -> None:
        for path in tuple(self._spaces):
            self.remove(path)


class Seam:
    """One way to the kernel, and the namespaces that a test makes for it."""

    def __init__(
        self, site: FakeKernel | RealSite, kernel: Kernel, folder: str, dialect: str
    ) -> None:
        self.site = site
        self.kernel = kernel
        self.path = f"{folder}/0a1b2c3d4e5f"
        self.other = f"{folder}/5f4e3d2c1b0a"
        self._dialect = dialect

    def step(self, verb: str, one: Thing, source: str | None = None) -> Outcome:
        """Run the command of one step."""
        assert verb in {"replace", "add", "del"}
        step = Step(verb, one)  # type: ignore[arg-type]
        held = ip_address(source) if source else None
        (outcome,) = self.outcomes([iproute.command(self.path, step, held)])
        return outcome

    def outcomes(self, commands: Sequence[str]) -> list[Outcome]:
        got: list[Outcome] = []

        def conversation() -> Conversation:
            got.extend((yield commands))

        self.kernel.serve([conversation()])
        return got

    def to(self, dst: str) -> list[Route]:
        """Return the routes to a destination, in the kernel's order, main table first."""
        found = self.kernel.read(self.path).routes
        return sorted(
            (one for one in found if one.dst == ip_network(dst)), key=lambda one: one.table
        )

    def assert_ended(self, outcome: Outcome, exit_code: int, text: str = "") -> None:
        """Look at the text where it is BusyBox's: iproute2 has other words for some errors."""
        assert outcome.exit_code == exit_code, outcome
        assert bool(outcome.output) == bool(text)
        if self._dialect != "iproute2":
            assert outcome.output.endswith(text)
            assert outcome.output.startswith("ip: RTNETLINK answers: " if exit_code == 2 else "")


@pytest.fixture(params=["fake", *kernel.DIALECTS])
def seam(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Seam]:
    if request.param == "fake":
        fake = FakeKernel(width=2)
        yield Seam(fake, fake, "/var/run/docker/netns", "fake")
        return
    (tmp_path / "bin").mkdir()
    with (
        kernel.dialect(request.param, tmp_path / "bin"),
        closing(Shells(width=2)) as shells,
        closing(RealSite()) as site,
    ):
        yield Seam(site, Kernel(shells), str(tmp_path), request.param)


@pytest.fixture
def attached(seam: Seam) -> Seam:
    """Give it a namespace that is attached to one network of each IP version."""
    seam.site.add(seam.path, addresses=ADDRESSES)
    return seam


def test_the_stand_in_has_all_that_the_real_one_has() -> None:
    public = {name for name in vars(Kernel) if not name.startswith("_")}

    assert public <= vars(FakeKernel).keys()


# --- namespaces ---------------------------------------------------------------------------------


def test_a_namespace_is_identified_and_confirmed_until_it_ends(seam: Seam) -> None:
    seam.site.add(seam.path)
    identity = seam.kernel.identify(seam.path)

    assert identity
    assert identity.path == seam.path
    assert seam.kernel.identify(seam.path) == identity
    seam.kernel.check(seam.path)
    seam.kernel.confirm(identity)
    seam.site.remove(seam.path)
    assert seam.kernel.identify(seam.path) is None
    with pytest.raises(NetnsGoneError, match="is gone"):
        seam.kernel.check(seam.path)
    with pytest.raises(NetnsGoneError, match="is not the namespace any more"):
        seam.kernel.confirm(identity)


def test_another_namespace_in_the_same_place_is_not_confirmed(seam: Seam) -> None:
    seam.site.add(seam.path)
    seam.site.add(seam.other)
    identity = seam.kernel.identify(seam.path)
    seam.site.replace_with_other(seam.path)

    assert identity
    assert seam.kernel.identify(seam.path) not in {None, identity}
    with pytest.raises(NetnsGoneError):
        seam.kernel.confirm(identity)


def test_routes_of_a_namespace_that_ended_cannot_be_read(seam: Seam) -> None:
    with pytest.raises(NetnsError) as caught:
        seam.kernel.read(seam.path)

    assert caught.value.reason == f"cannot read the routes in {seam.path}: {GONE}"


def test_a_command_for_a_namespace_that_ended_ends_with_1(seam: Seam) -> None:
    seam.assert_ended(seam.step("replace", route(DST[4], NEIGHBOUR[4])), 1, GONE)


# --- replace ------------------------------------------------------------------------------------


def test_a_new_namespace_has_the_routes_of_its_networks(seam: Seam) -> None:
    seam.site.add(seam.path, connected=["10.1.0.0/16", "fd00::/64"], addresses=ADDRESSES)

    assert set(seam.kernel.read(seam.path).routes) == {
        route("10.1.0.0/16", kind="connected"),
        route("fd00::/64", metric=256, kind="connected"),
        route(NETWORK[4], kind="connected"),
        route(NETWORK[6], metric=256, kind="connected"),
    }


@VERSIONS
def test_replace_makes_a_route_and_changes_its_gateway(attached: Seam, version: int) -> None:
    for gateway in (NEIGHBOUR[version], NEIGHBOUR[version], OTHER[version]):
        wanted = route(DST[version], gateway)

        attached.assert_ended(attached.step("replace", wanted, OWN[version]), 0)
        assert attached.to(DST[version]) == [wanted]


@VERSIONS
def test_replace_makes_a_destination_unreachable_and_back(attached: Seam, version: int) -> None:
    for wanted in (
        route(DST[version], kind="unreachable"),
        route(DST[version], NEIGHBOUR[version]),
        route(DST[version], kind="unreachable"),
    ):
        attached.assert_ended(attached.step("replace", wanted), 0)
        assert attached.to(DST[version]) == [wanted]


@VERSIONS
def test_replace_leaves_a_route_of_another_metric(attached: Seam, version: int) -> None:
    lower = route(DST[version], OTHER[version], 50)
    higher = route(DST[version], OTHER[version], 5000)
    attached.site.give(attached.path, higher, lower)
    wanted = route(DST[version], NEIGHBOUR[version])

    attached.assert_ended(attached.step("replace", wanted), 0)

    assert attached.to(DST[version]) == sorted([lower, wanted, higher], key=lambda r: r.metric)


@pytest.mark.parametrize("wanted", ["gateway", "unreachable"])
@pytest.mark.parametrize("first", ["gateway", "unreachable"])
@VERSIONS
def test_replace_of_two_replaces_the_first_or_in_ipv6_one_of_its_kind(
    attached: Seam, version: int, first: str, wanted: str
) -> None:
    kinds = {
        "gateway": route(DST[version], OTHER[version], 7),
        "unreachable": route(DST[version], None, 7, "unreachable"),
    }
    second = next(kind for kind in kinds if kind != first)
    attached.site.give(attached.path, kinds[first], kinds[second])
    assert attached.to(DST[version]) == [kinds[first], kinds[second]]
    new = route(DST[version], NEIGHBOUR[version], 7) if wanted == "gateway" else kinds[wanted]

    outcome = attached.step("replace", new)

    if version == 4 and new == kinds[second]:
        attached.assert_ended(outcome, 2, "File exists")
        expected = [kinds[first], kinds[second]]
    else:
        attached.assert_ended(outcome, 0)
        gone = first if version == 4 else wanted
        expected = [new if kind == gone else kinds[kind] for kind in (first, second)]
    assert attached.to(DST[version]) == expected


def test_replace_of_a_connected_network_cuts_it_off_in_ipv4(attached: Seam) -> None:
    ours = route(NETWORK[4], NEIGHBOUR[4])

    attached.assert_ended(attached.step("replace", ours), 0)

    assert attached.to(NETWORK[4]) == [ours]
    outcome = attached.step("replace", route(DST[4], NEIGHBOUR[4]))
    attached.assert_ended(outcome, 2, UNREACHABLE[4])


def test_replace_of_a_connected_network_stands_beside_it_in_ipv6(attached: Seam) -> None:
    ours = route(NETWORK[6], NEIGHBOUR[6])

    attached.assert_ended(attached.step("replace", ours), 0)

    assert attached.to(NETWORK[6]) == [route(NETWORK[6], metric=256, kind="connected"), ours]


@VERSIONS
def test_network_that_is_connected_later_comes_beside_a_route_of_ours(
    attached: Seam, version: int
) -> None:
    network = str(ip_network(SECOND[version], strict=False))
    ours = route(network, NEIGHBOUR[version])
    attached.assert_ended(attached.step("replace", ours), 0)

    attached.site.attach(attached.path, SECOND[version])

    connected = route(network, metric=CONNECTED_METRIC[version], kind="connected")
    assert attached.to(network) == ([ours, connected] if version == 4 else [connected, ours])


# --- what is refused ----------------------------------------------------------------------------


@VERSIONS
def test_gateway_that_is_no_neighbour_is_refused(attached: Seam, version: int) -> None:
    wanted = route(DST[version], FAR[version])

    for source in (None, FOREIGN[version]):
        outcome = attached.step("replace", wanted, source)
        attached.assert_ended(outcome, 2, UNREACHABLE[version])
    assert attached.to(DST[version]) == []


@VERSIONS
def test_gateway_behind_a_gateway_is_refused(attached: Seam, version: int) -> None:
    default = {4: "0.0.0.0/0", 6: "::/0"}[version]
    attached.site.give(attached.path, route(default, NEIGHBOUR[version]))

    outcome = attached.step("replace", route(DST[version], FAR[version]))

    attached.assert_ended(outcome, 2, UNREACHABLE[version])


@VERSIONS
def test_route_to_the_gateway_itself_counts_in_ipv6_only(attached: Seam, version: int) -> None:
    host = {4: "192.0.2.1/32", 6: "2001:db8::1/128"}[version]
    attached.site.give(attached.path, route(host, OTHER[version]))

    outcome = attached.step("replace", route(DST[version], NEIGHBOUR[version]))

    attached.assert_ended(outcome, *((0, "") if version == 4 else (2, UNREACHABLE[6])))


@VERSIONS
def test_source_address_that_is_not_held_is_refused(attached: Seam, version: int) -> None:
    wanted = route(DST[version], NEIGHBOUR[version])

    attached.assert_ended(attached.step("replace", wanted, FOREIGN[version]), 2, INVALID)

    assert attached.to(DST[version]) == []


def given(seam: Seam) -> set[str]:
    """Return the addresses that a test gave, each with the network that it connects."""
    found = seam.kernel.read(seam.path).addresses
    assert not any(one.is_duplicate for one in found)
    return {f"{one.address} in {one.network}" for one in found}


def test_addresses_are_read_with_their_networks(attached: Seam) -> None:
    both = {f"{OWN[version]} in {NETWORK[version]}" for version in (4, 6)}
    assert given(attached) == both

    attached.site.attach(attached.path, "10.9.0.7/32")
    attached.site.disable_ipv6(attached.path)
    assert given(attached) == {f"{OWN[4]} in {NETWORK[4]}", "10.9.0.7 in 10.9.0.7/32"}


def test_ipv4_addresses_stay_while_the_link_is_down(attached: Seam) -> None:
    attached.site.set_link(attached.path, up=False)

    assert given(attached) == {f"{OWN[4]} in {NETWORK[4]}"}


@VERSIONS
def test_nothing_leads_anywhere_while_the_link_is_down(seam: Seam, version: int) -> None:
    seam.site.add(seam.path, addresses=ADDRESSES, link_up=False)
    assert seam.kernel.read(seam.path).routes == ()

    outcome = seam.step("replace", route(DST[version], NEIGHBOUR[version]))

    seam.assert_ended(outcome, 2, UNREACHABLE[version])
    seam.assert_ended(seam.step("replace", route(DST[version], kind="unreachable")), 0)


@VERSIONS
def test_link_that_goes_down_takes_routes_with_it(attached: Seam, version: int) -> None:
    lost = route("192.0.0.0/16" if version == 4 else "fd01::/64", kind="unreachable")
    attached.step("replace", route(DST[version], NEIGHBOUR[version]))
    attached.step("replace", lost)

    attached.site.set_link(attached.path, up=False)

    assert attached.kernel.read(attached.path).routes == (lost,)
    attached.site.set_link(attached.path, up=True)
    back = {route(NETWORK[4], kind="connected"), lost}  # An IPv6 address does not come back.
    assert set(attached.kernel.read(attached.path).routes) == back


def test_nothing_leads_anywhere_by_ipv6_while_that_is_disabled(attached: Seam) -> None:
    attached.site.disable_ipv6(attached.path)

    for address in (NEIGHBOUR[6], FAR[6]):
        outcome = attached.step("replace", route(DST[6], address))
        attached.assert_ended(outcome, 2, UNREACHABLE[6])
    attached.assert_ended(attached.step("replace", route(DST[4], NEIGHBOUR[4])), 0)
    attached.assert_ended(attached.step("replace", route(DST[6], kind="unreachable")), 0)


# --- del ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unicast", "unreachable", "blackhole", "prohibit", "throw"])
@VERSIONS
def test_del_deletes_a_route_once(attached: Seam, version: int, kind: str) -> None:
    gateway = NEIGHBOUR[version] if kind == "unicast" else None
    there = route(DST[version], gateway, kind=kind)
    attached.site.give(attached.path, there)

    attached.assert_ended(attached.step("del", there), 0)
    assert attached.to(DST[version]) == []
    attached.assert_ended(attached.step("del", there), 2, NOT_THERE)


@VERSIONS
def test_del_deletes_the_one_of_that_metric_and_gateway(attached: Seam, version: int) -> None:
    near, other = (route(DST[version], address[version], 9) for address in (NEIGHBOUR, OTHER))
    higher = route(DST[version], NEIGHBOUR[version], 10)
    attached.site.give(attached.path, near, higher)

    unlike = route(DST[version], NEIGHBOUR[version], 11)

    attached.assert_ended(attached.step("del", other), 2, NOT_THERE)
    attached.assert_ended(attached.step("del", unlike), 2, NOT_THERE)
    attached.assert_ended(attached.step("del", higher), 0)

    assert attached.to(DST[version]) == [near]


@VERSIONS
def test_del_without_a_gateway_deletes_the_first(attached: Seam, version: int) -> None:
    gateways = [route(DST[version], OTHER[version], 5), route(DST[version], OTHER[version], 9)]
    attached.site.give(attached.path, *gateways)

    attached.assert_ended(attached.step("del", route(DST[version], None, 9, "connected")), 0)
    assert attached.to(DST[version]) == gateways[:1]


def test_del_of_an_unreachable_one_spares_a_gateway(attached: Seam) -> None:
    for version in (4, 6):
        there = route(DST[version], OTHER[version], 9)
        attached.site.give(attached.path, there)

        outcome = attached.step("del", route(DST[version], None, 9, "unreachable"))

        attached.assert_ended(outcome, 2, NOT_THERE)
        assert attached.to(DST[version]) == [there]


# --- our own table ------------------------------------------------------------------------------

DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}


def in_table(version: int, gateway: str | None = None, **values: object) -> Route:
    """Return the default route in our table."""
    kind = "unicast" if gateway else "unreachable"
    return route(DEFAULT[version], gateway, kind=kind)._replace(table=TABLE, **values)  # type: ignore[arg-type]


@VERSIONS
def test_routes_of_our_table_are_read_and_those_of_others_are_not(
    attached: Seam, version: int
) -> None:
    guard = policy.guard(ip_network(DEFAULT[version]))
    main, ours = route(DST[version], NEIGHBOUR[version]), in_table(version, NEIGHBOUR[version])
    same = main._replace(table=TABLE)
    for one in (guard, main, ours, same):
        attached.assert_ended(attached.step("replace", one), 0)

    assert attached.to(DEFAULT[version]) == [ours, guard]
    assert attached.to(DST[version]) == [main, same]
    if isinstance(attached.site, RealSite):
        attached.site.give(attached.path, ours._replace(table=670), ours._replace(table=1000))
        assert attached.to(DEFAULT[version]) == [ours, guard]


@VERSIONS
def test_replace_in_our_table_with_a_guard_and_both_rules(attached: Seam, version: int) -> None:
    guard = policy.guard(ip_network(DEFAULT[version]))
    first, other = in_table(version, NEIGHBOUR[version]), in_table(version, OTHER[version])
    attached.assert_ended(attached.step("replace", first, OWN[version]), 0)
    for one in (guard, *policy.rules(version)):
        verb = "add" if isinstance(one, Rule) else "replace"
        attached.assert_ended(attached.step(verb, one), 0)

    for wanted in (first, first, other, in_table(version), first):
        attached.assert_ended(attached.step("replace", wanted), 0)
        assert attached.to(DEFAULT[version]) == [wanted, guard]
    attached.assert_ended(attached.step("replace", first, FOREIGN[version]), 2, INVALID)


@VERSIONS
def test_guard_outlives_the_link(attached: Seam, version: int) -> None:
    guard = policy.guard(ip_network(DEFAULT[version]))
    attached.step("replace", in_table(version, NEIGHBOUR[version]))
    attached.step("replace", guard)

    attached.site.set_link(attached.path, up=False)

    assert attached.to(DEFAULT[version]) == [guard]


@VERSIONS
def test_del_in_our_table_deletes_exactly_that(attached: Seam, version: int) -> None:
    guard, ours = policy.guard(ip_network(DEFAULT[version])), in_table(version, NEIGHBOUR[version])
    for one in (ours, guard):
        attached.step("replace", one)
    assert guard.metric == GUARD_METRIC

    attached.assert_ended(attached.step("del", ours._replace(table=254)), 2, NOT_THERE)
    attached.assert_ended(attached.step("del", ours), 0)
    assert attached.to(DEFAULT[version]) == [guard]
    attached.assert_ended(attached.step("del", ours), 2, NOT_THERE)
    attached.assert_ended(attached.step("del", guard), 0)
    assert attached.to(DEFAULT[version]) == []
    attached.assert_ended(attached.step("del", guard), 2, NOT_THERE)


@VERSIONS
def test_rules_are_added_read_and_deleted_once(attached: Seam, version: int) -> None:
    of_source = Rule(version, 669, 254, source=ip_address(OWN[version]))
    wanted = (of_source, *policy.rules(version))
    assert attached.kernel.read(attached.path, rules=True).rules == ()
    for one in reversed(wanted):
        attached.assert_ended(attached.step("add", one), 0)
        attached.assert_ended(attached.step("add", one), 2, "File exists")

    assert attached.kernel.read(attached.path, rules=True).rules == wanted
    for number, one in enumerate(wanted, 1):
        attached.assert_ended(attached.step("del", one), 0)
        attached.assert_ended(attached.step("del", one), 2, GONE)
        assert attached.kernel.read(attached.path, rules=True).rules == wanted[number:]


@VERSIONS
def test_rules_of_a_guard_are_added_read_and_deleted_once(attached: Seam, version: int) -> None:
    """Both have the same preference: they are asked in the order in which they came."""
    device = attached.kernel.link_of(attached.path, [ip_address(OWN[version])])
    assert device == "eth0"
    assert attached.kernel.link_of(attached.path, [ip_address(FOREIGN[version])]) == ""
    wanted = policy.gateway_guard(version, device)
    for one in wanted:
        attached.assert_ended(attached.step("add", one), 0)
        attached.assert_ended(attached.step("add", one), 2, "File exists")

    assert attached.kernel.read(attached.path, rules=True).rules == wanted
    attached.assert_ended(attached.step("del", wanted[1]), 0)
    attached.assert_ended(attached.step("del", wanted[1]), 2, GONE)
    assert attached.kernel.read(attached.path, rules=True).rules == wanted[:1]
    attached.assert_ended(attached.step("del", wanted[0]), 0)
    assert attached.kernel.read(attached.path, rules=True).rules == ()


def test_rules_are_looked_at_if_wanted_or_if_our_table_has_routes(attached: Seam) -> None:
    for one in policy.rules(4):
        attached.step("add", one)
    assert attached.kernel.read(attached.path).rules == ()

    attached.step("replace", in_table(6))

    assert attached.kernel.read(attached.path).rules == policy.rules(4)


@VERSIONS
def test_rule_of_the_same_preference_for_another_table_is_another(
    attached: Seam, version: int
) -> None:
    theirs = Rule(version, 671, 100)
    attached.site.give(attached.path, theirs)
    ours = policy.rules(version)[1]

    attached.assert_ended(attached.step("add", ours), 0)
    assert attached.kernel.read(attached.path, rules=True).rules == (theirs, ours)
    attached.assert_ended(attached.step("del", ours), 0)

    assert attached.kernel.read(attached.path, rules=True).rules == (theirs,)


def test_rules_that_select_packets_are_not_taken_for_ours(tmp_path: Path) -> None:
    with kernel.namespace(tmp_path / "n") as space:
        space.ip(
            "rule add pref 671 fwmark 1 lookup 671",
            "rule add pref 671 iif lo lookup 671",
            "rule add pref 671 to 10.0.0.0/8 lookup 671",
            "rule add pref 671 from 10.0.0.0/8 lookup 671",
            "rule add pref 671 not from 10.0.0.1 lookup 671",
            "rule add pref 671 ipproto tcp lookup 671",
            "rule add pref 671 unreachable",
            "rule add pref 671 goto 32766",
        )
        found = Kernel.read(Kernel.__new__(Kernel), str(space.path), rules=True).rules
    by_link_or_nowhere = {1: "lo", 6: ""}
    assert [(one.pref, one.is_foreign) for one in found] == [
        (671, place not in by_link_or_nowhere) for place in range(8)
    ]
    assert {place: found[place].device for place in by_link_or_nowhere} == by_link_or_nowhere
    assert not any(policy.is_ours(rule) for rule in found)


# --- conversations ------------------------------------------------------------------------------


def test_conversations_are_answered_in_order_and_side_by_side(attached: Seam) -> None:
    attached.site.add(attached.other, addresses=ADDRESSES)
    order: list[str] = []

    def conversations() -> Iterator[Conversation]:
        for path in (attached.path, attached.other, attached.path):
            order.append("asked for")
            yield conversation(path)

    def conversation(path: str) -> Conversation:
        steps = [Step("replace", route(DST[v], NEIGHBOUR[v])) for v in (4, 6)]
        first = [iproute.command(path, step) for step in steps]
        outcomes = yield first
        assert [(outcome.command, outcome.exit_code) for outcome in outcomes] == [
            (command, 0) for command in first
        ]
        assert (yield []) == []
        order.append("answered")

    attached.kernel.serve(conversations())

    assert order[:2] == ["asked for"] * 2
    assert sorted(order) == ["answered"] * 3 + ["asked for"] * 3


def test_an_error_in_a_conversation_comes_after_what_ran(attached: Seam) -> None:
    answered: list[int] = []

    def failing() -> Conversation:
        yield []
        raise KeyError

    def other() -> Conversation:
        command = iproute.command(attached.path, Step("replace", route(DST[4], NEIGHBOUR[4])))
        answered.extend(outcome.exit_code for outcome in (yield [command]))

    def conversations() -> Iterator[Conversation]:
        yield other()
        yield failing()
        pytest.fail("no other begins")

    with pytest.raises(KeyError):
        attached.kernel.serve(conversations())

    assert answered == [0]
    assert attached.to(DST[4]) == [route(DST[4], NEIGHBOUR[4])]


# --- how large packets may be -------------------------------------------------------------------


@VERSIONS
def test_mtu_of_a_route_is_set_replaced_and_read(attached: Seam, version: int) -> None:
    plain = route(DST[version], NEIGHBOUR[version])
    for wanted in (plain._replace(mtu=1280), plain._replace(mtu=1400), plain):
        attached.assert_ended(attached.step("replace", wanted), 0)
        assert attached.to(DST[version]) == [wanted]


@VERSIONS
def test_mtu_beside_a_source_address(attached: Seam, version: int) -> None:
    wanted = route(DST[version], NEIGHBOUR[version])._replace(mtu=1280)

    attached.assert_ended(attached.step("replace", wanted, OWN[version]), 0)
    assert attached.to(DST[version]) == [wanted]


@VERSIONS
def test_route_with_an_mtu_is_deleted(attached: Seam, version: int) -> None:
    there = route(DST[version], NEIGHBOUR[version])._replace(mtu=1280)
    attached.assert_ended(attached.step("replace", there), 0)

    attached.assert_ended(attached.step("del", there), 0)
    assert attached.to(DST[version]) == []


@pytest.mark.parametrize("size", [0, 1280])
def test_of_two_that_differ_in_mtu_alone_one_is_deleted_exactly(attached: Seam, size: int) -> None:
    """As they can in IPv4."""
    first, second = (route(DST[4], NEIGHBOUR[4])._replace(mtu=mtu) for mtu in (1280, 0))
    attached.step("replace", first)
    attached.site.give(attached.path, second)
    assert attached.to(DST[4]) == [first, second]

    gone = first._replace(mtu=size)
    command = iproute.command(attached.path, Step("del", gone, exact=True))
    (outcome,) = attached.outcomes([command])
    attached.assert_ended(outcome, 0)
    assert attached.to(DST[4]) == [one for one in (first, second) if one != gone]


@VERSIONS
def test_route_with_an_mtu_becomes_unreachable(attached: Seam, version: int) -> None:
    attached.step("replace", route(DST[version], NEIGHBOUR[version])._replace(mtu=1280))
    lost = route(DST[version], kind="unreachable")

    attached.assert_ended(attached.step("replace", lost), 0)
    assert attached.to(DST[version]) == [lost]


def test_mtu_of_an_addresss_link_is_read(attached: Seam) -> None:
    assert {one.mtu for one in attached.kernel.read(attached.path).addresses} == {1500}

    attached.site.set_mtu(attached.path, 1400)
    assert {one.mtu for one in attached.kernel.read(attached.path).addresses} == {1400}
    unsized = attached.kernel.read(attached.path, sizes=False).addresses
    assert {one.mtu for one in unsized} == {0}


@pytest.mark.parametrize("is_ethernet", [True, False])
@pytest.mark.parametrize("forwards", [True, False])
@VERSIONS
def test_where_a_gateway_sends_a_destination_is_found(
    attached: Seam, version: int, *, forwards: bool, is_ethernet: bool
) -> None:
    """How large packets may be, as long as that is less than what it takes from its clients."""
    if forwards and isinstance(attached.site, RealSite):
        attached.site.forward(attached.path)
    dst, other = ip_network(DST[version]), ip_network(FAR[version])
    front, nowhere = [ip_address(OWN[version])], Way("")

    def found() -> dict[Network, Way]:
        return attached.kernel.ways(attached.path, front, [dst, other])

    assert found() == {dst: nowhere, other: nowhere}
    for size, expected in ((1420, 1420), (1280, 1280), (1500, 0), (9000, 0)):
        attached.site.tunnel(attached.path, DST[version], size, is_ethernet=is_ethernet)
        assert found() == {dst: Way("wg0", not is_ethernet, expected), other: nowhere}
    attached.site.set_mtu(attached.path, 9001)
    assert found()[dst] == Way("wg0", not is_ethernet, 9000)
    attached.site.close_tunnel(attached.path, DST[version])
    assert found() == {dst: nowhere, other: nowhere}


@pytest.mark.parametrize("is_ethernet", [True, False])
@VERSIONS
def test_what_it_sends_into_a_tunnel_is_found(
    attached: Seam, version: int, *, is_ethernet: bool
) -> None:
    front, versions = [ip_address(OWN[version])], frozenset({version})

    def found() -> Tunnelled:
        return attached.kernel.covered(attached.path, front)

    assert found() == Tunnelled({}, frozenset(), versions)
    attached.site.tunnel(attached.path, DST[version], is_ethernet=is_ethernet)
    assert found() == Tunnelled(
        {} if is_ethernet else {ip_network(DST[version]): "wg0"},
        frozenset() if is_ethernet else frozenset({"wg0"}),
        versions,
    )
    foreign = [ip_address(FOREIGN[version])]
    assert attached.kernel.covered(attached.path, foreign).devices == {}
    attached.site.close_tunnel(attached.path, DST[version])
    assert found() == Tunnelled({}, frozenset(), versions)


@pytest.mark.parametrize("length", [0, 1, 2, 7])
@VERSIONS
def test_where_it_sends_everything_is_found(seam: Seam, version: int, length: int) -> None:
    own = {4: "198.51.100.7", 6: "2001:db8:9::7"}
    seam.site.add(seam.path, addresses=[f"{own[4]}/24", f"{own[6]}/64"])
    dst = f"{DEFAULT[version].partition('/')[0]}/{length}"
    seam.site.tunnel(seam.path, dst, 1420)

    found = seam.kernel.ways(seam.path, [ip_address(own[version])], [ip_network(dst)])

    assert found == {ip_network(dst): Way("wg0", is_tunnel=True, mtu=1420)}


@VERSIONS
def test_what_goes_back_out_of_the_front_is_told(tmp_path: Path, version: int) -> None:
    with closing(RealSite()) as site, closing(Shells()) as shells:
        seam = Seam(site, Kernel(shells), str(tmp_path), "busybox")
        site.add(seam.path, addresses=ADDRESSES)
        site.give(seam.path, route(DST[version], NEIGHBOUR[version]))
        dst = ip_network(DST[version])

        found = seam.kernel.ways(seam.path, [ip_address(OWN[version])], [dst])

        assert found == {dst: Way("eth0")}


def test_changes_of_links_routes_and_rules_are_told_until_the_listener_is_closed(
    tmp_path: Path,
) -> None:
    with closing(RealSite()) as site, closing(Shells()) as shells:
        seam = Seam(site, Kernel(shells), str(tmp_path), "busybox")
        site.add(seam.path, addresses=ADDRESSES)
        told: list[float] = []
        threads = threading.active_count()
        listener = seam.kernel.listen(seam.path, lambda: told.append(time.monotonic()))

        def tells(change: Callable[[], object]) -> bool:
            told.clear()
            change()
            return kernel.poll(lambda: told, 5)

        for version in (4, 6):
            dst, via = DST[version], NEIGHBOUR[version]
            assert tells(lambda: site.give(seam.path, route(dst, via)))  # noqa: B023
            assert tells(lambda: site.give(seam.path, *policy.rules(version)))  # noqa: B023
        assert tells(lambda: site.tunnel(seam.path, FAR[4]))
        assert tells(lambda: site.tunnel(seam.path, FAR[4], 1400))
        assert tells(lambda: site.close_tunnel(seam.path, FAR[4]))
        for address in ADDRESSES:
            assert tells(lambda: site.detach(seam.path, address))  # noqa: B023
        listener.close()
        assert threading.active_count() == threads
        told.clear()
        site.tunnel(seam.path, FAR[4])
        assert told == []


@VERSIONS
def test_of_a_wide_network_others_are_asked_than_neighbours(seam: Seam, version: int) -> None:
    own = {4: "198.18.0.7/24", 6: "2001:db8::7/64"}
    dst = {4: "198.18.0.0/15", 6: "2001:db8::/32"}[version]
    seam.site.add(seam.path, addresses=[*own.values()])
    seam.site.tunnel(seam.path, dst, 1420)
    front = [ip_interface(own[version]).ip]

    way = Way("wg0", is_tunnel=True, mtu=1420)
    assert seam.kernel.ways(seam.path, front, [ip_network(dst)]) == {ip_network(dst): way}


@VERSIONS
def test_mtu_in_our_table_is_set_replaced_read_and_deleted(attached: Seam, version: int) -> None:
    guard = policy.guard(ip_network(DEFAULT[version]))
    attached.assert_ended(attached.step("replace", guard), 0)
    for size in (1280, 1420, 0, 1280):
        wanted = in_table(version, NEIGHBOUR[version], mtu=size)
        attached.assert_ended(attached.step("replace", wanted, OWN[version]), 0)
        assert attached.to(DEFAULT[version]) == [wanted, guard]

    attached.assert_ended(attached.step("del", in_table(version, NEIGHBOUR[version])), 0)
    assert attached.to(DEFAULT[version]) == [guard]


@VERSIONS
def test_who_is_not_on_the_network_has_no_tunnel(attached: Seam, version: int) -> None:
    attached.site.tunnel(attached.path, DST[version], 1280)
    foreign, dst = [ip_address(FOREIGN[version]), ip_address(OWN[10 - version])], DST[version]

    assert attached.kernel.ways(attached.path, foreign, [ip_network(dst)]) == {
        ip_network(dst): Way()
    }


def test_links_of_a_namespace_that_is_gone_cannot_be_read(seam: Seam) -> None:
    with pytest.raises(NetnsError, match=GONE):
        seam.kernel.ways(seam.path, [], [])
    with pytest.raises(NetnsError, match=GONE):
        seam.kernel.listen(seam.path, lambda: None)
    with pytest.raises(NetnsError, match=GONE):
        seam.kernel.link_of(seam.path, [])


@VERSIONS
def test_a_namespace_is_proved_by_a_route_to_nowhere(attached: Seam, version: int) -> None:
    """Also where there is no gateway; what is unreachable, IPv4 takes with any address."""
    proof = policy.proof(version)

    attached.assert_ended(attached.step("replace", proof, FOREIGN[version]), 2, INVALID)
    assert attached.to(str(proof.dst)) == []
    attached.assert_ended(attached.step("replace", proof, OWN[version]), 0)
    (there,) = attached.to(str(proof.dst))
    assert there.place == proof.place
    attached.assert_ended(attached.step("del", there), 0)
    assert attached.to(str(proof.dst)) == []
