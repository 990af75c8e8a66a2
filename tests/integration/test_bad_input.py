"""No label cuts a client off or runs anything else, shown on the kernel with both `ip` programs."""

from __future__ import annotations

import shlex
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.kernel.access import Reader
from lib.kernel.shells import Shells
from lib.model import NETWORKS_LABEL, Client, Container, Endpoint, Gateway, Snapshot
from lib.routing import desired, iproute, policy
from lib.routing.plan import plan
from tests.integration.kernel import (
    CLIENT,
    CLIENT6,
    DST,
    DST6,
    GATEWAY,
    GATEWAY6,
    IP,
    NEIGHBOUR,
    NEIGHBOUR6,
    OTHER,
    OTHER6,
    ROUTER,
    ROUTER6,
    SECOND,
    SECOND6,
    SH,
    Entry,
    Namespace,
    route,
)

if TYPE_CHECKING:
    from lib.model import Route

NETWORK = "wg-net"
BOTH = (GATEWAY, GATEWAY6)
GOOD = Entry("main", "unicast", DST, GATEWAY, "eth0", 0)
GOOD6 = Entry("main", "unicast", DST6, GATEWAY6, "eth0", 1024)
ATTACHED = tuple(address.network for address in (CLIENT, CLIENT6, SECOND, SECOND6))


def served(dst: str) -> Entry:
    version = ip_network(dst).version
    return GOOD._replace(dst=dst) if version == 4 else GOOD6._replace(dst=dst)


def in_our_table(dst: str) -> list[Entry]:
    """Return the route to a wide destination, and its guard."""
    found = served(dst)._replace(table="671")
    lo = "lo" if ip_network(dst).version == 6 else ""
    return [found, Entry("671", "unreachable", dst, "", lo, 4000)]


def gateway(addresses: tuple[str, ...] = BOTH) -> Gateway:
    return Gateway("wireguard", "9" * 64, NETWORK, "a" * 64, tuple(map(ip_address, addresses)))


def wanted(netns: Path, label: str, addresses: tuple[str, ...] = BOTH) -> Client:
    """Return what a client with that label gets, which is attached as the test's namespace is."""
    container = Container(
        id="c" * 64,
        name="client",
        running=True,
        labels={NETWORKS_LABEL: label},
        network_mode=NETWORK,
        sandbox_key=str(netns),
        endpoints=(
            Endpoint(NETWORK, "a" * 64, (CLIENT, CLIENT6)),
            Endpoint("second", "b" * 64, (SECOND, SECOND6)),
        ),
    )
    result = desired.compute(Snapshot(((container, container),)), gateway(addresses))
    assert result.skipped == ()
    (client,) = result.clients
    return client


def serve(
    shell: Shells, client: Namespace, label: str, addresses: tuple[str, ...] = BOTH
) -> Client:
    """Do what a pass does for one client: read, plan, run."""
    decided = wanted(client.path, label, addresses)
    here = Reader().read(decided.netns, rules=True)
    steps = plan(policy.needs(decided.routes), (*here.routes, *here.rules))
    for outcome in shell.run([iproute.command(decided.netns, step) for step in steps]):
        assert (outcome.exit_code, outcome.output) == (0, ""), outcome.command
    return decided


def assert_connected(client: Namespace) -> None:
    addresses = (GATEWAY, GATEWAY6, ROUTER, ROUTER6, NEIGHBOUR, NEIGHBOUR6)
    assert [address for address in addresses if not client.pings(address)] == []


# --- one bad entry between two good ones --------------------------------------------------------

REFUSED = {
    "is not a network in CIDR notation": [
        "banana",
        "default",
        "all",
        "192.0.2",
        "10.1/16",
        "192.0.2.0/33",
        "2001:db8:66::/129",
        "192.0.2.0/-1",
        "192.0.2.0/+24",
        "192.0.2.0//24",
        "192.0.2.0/24/24",
        "300.0.2.0/24",
        "010.0.0.0/8",
        "192.0.2.0/ 24",
        "192.0.2.128/25 dev lo",
        "192.0.2.128/25\nvia 198.51.100.2",
        "192.0.2.128/25; ip link set eth0 down",
        "192.0.2.128/25 && ip route flush table main",
        "$(ip link set eth0 down)",
        "`ip link set eth0 down`",
        "'; ip link set eth0 down; '",
        "| ip link set eth0 down",
        "192.0.2.128/25\0",
        "\0",
        "--help",
        "-6",
        "-",
        "/",
        "/24",
        "\u0661\u0669\u0662.0.2.0/24",
        "192.0.2.0/\u0662\u0664",
        "\u200b192.0.2.128/25",
        "\ud800",
        "🐋",
        "x" * 100_000,
    ],
    "has no prefix length": [
        "192.0.2.7",
        "2001:db8:66::7",
        "192.0.2.0/255.255.255.0",
        "10.0.0.0/0.255.255.255",
        "0.0.0.1",
    ],
    "has host bits set": ["192.0.2.1/24", "198.51.100.2/24", "2001:db8:66::1/48", "10.0.0.0/0"],
    "has a scope id": ["fe80::1%eth0/64", "2001:db8:68::%eth0/64", "%", "192.0.2.0%lo/24"],
    "is not unicast": [
        "0.0.0.0/8",
        "0.0.0.0/32",
        "127.0.0.0/8",
        "127.0.0.1/32",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "239.1.0.0/16",
        "240.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "::ffff:198.51.100.0/120",
        "fe80::/64",
        "fe80::/10",
        "ff00::/8",
        "ff02::1/128",
    ],
    "is equal to or inside": [
        str(CLIENT.network),
        str(CLIENT6.network),
        "198.51.100.128/25",
        "2001:db8:67:0:1::/80",
        f"{GATEWAY}/32",
        f"{GATEWAY6}/128",
        f"{ROUTER}/32",
        f"{CLIENT.ip}/32",
        f"{CLIENT6.ip}/128",
        str(SECOND.network),
        str(SECOND6.network),
        f"{NEIGHBOUR}/32",
        f"{NEIGHBOUR6}/128",
        "2001:0DB8:0067:0000:8000::/65",
    ],
}


@pytest.mark.parametrize(("reason", "entries"), REFUSED.items(), ids=REFUSED)
def test_bad_entry_is_refused_alone_and_the_client_stays_connected(
    shell: Shells, client: Namespace, reason: str, entries: list[str]
) -> None:
    before = client.entries()

    decided = serve(shell, client, ", ".join([DST, *entries, DST6]))

    assert client.entries() == sorted([*before, GOOD, GOOD6])
    refusals = zip(entries, decided.refusals, strict=True)
    assert [entry for entry, refused in refusals if not refused.reason.startswith(reason)] == []
    for refusal in decided.refusals:
        assert not refusal.served
        assert len(refusal.entry) < 120
        assert refusal.entry.isprintable()
    assert_connected(client)


@pytest.mark.parametrize(
    "entry",
    [
        "198.51.0.0/16",
        "198.51.100.0/23",
        "203.0.113.0/24",
        "128.0.0.0/1",
        "2001:db8::/32",
        "2000::/3",
    ],
)
def test_wider_network_is_served_in_our_own_table_and_the_client_stays_connected(
    shell: Shells, client: Namespace, entry: str
) -> None:
    before = client.entries()

    decided = serve(shell, client, f"{DST},{entry},{DST6}")

    assert client.entries() == sorted([*before, GOOD, GOOD6, *in_our_table(entry)])
    assert decided.refusals == ()
    assert_connected(client)
    serve(shell, client, f"{DST},{entry},{DST6}")
    assert client.entries() == sorted([*before, GOOD, GOOD6, *in_our_table(entry)])


@pytest.mark.parametrize(
    "label",
    [
        pytest.param("0.0.0.0/1,128.0.0.0/1,::/1,8000::/1", id="both halves"),
        pytest.param("0.0.0.0/0,0::0/0", id="at once"),
    ],
)
def test_everything_leaves_connected_networks_and_default_routes(
    shell: Shells, client: Namespace, label: str
) -> None:
    before = client.entries()

    decided = serve(shell, client, label)

    wanted_ = [one for route_ in decided.routes for one in in_our_table(str(route_.dst))]
    assert len(wanted_) == 2 * (label.count(",") + 1)
    assert client.entries() == sorted([*before, *wanted_])
    assert_connected(client)
    for program, address, via in (("ip", "192.0.2.1", GATEWAY), ("ip -6", "2001::1", GATEWAY6)):
        assert f"via {via}" in client.run(SH, "-c", f"{program} route get {address}")


@pytest.mark.parametrize(
    ("addresses", "there", "family"),
    [((GATEWAY,), GOOD, "IPv6"), ((GATEWAY6,), GOOD6, "IPv4")],
    ids=["no IPv6", "no IPv4"],
)
def test_ip_version_that_the_gateway_lacks_is_refused(
    shell: Shells, client: Namespace, addresses: tuple[str, ...], there: Entry, family: str
) -> None:
    before = client.entries()

    decided = serve(shell, client, f"{DST},{DST6}", addresses)

    assert client.entries() == sorted([*before, there])
    (refusal,) = decided.refusals
    assert refusal.reason.startswith(f"is {family}, and the gateway has no {family} address")
    assert_connected(client)


def test_entries_past_the_thousandth_are_left_out(shell: Shells, client: Namespace) -> None:
    before = client.entries()
    entries = [f"10.{n // 256}.{n % 256}.0/24" for n in range(1005)]

    decided = serve(shell, client, ",".join([*entries, str(CLIENT.network), "0.0.0.0/0"]))

    assert client.entries() == sorted([*before, *map(served, entries[:1000])])
    (refusal,) = decided.refusals
    assert refusal.entry == entries[1000]
    assert refusal.reason == "is entry 1001 of the label; from here on all 7 are left out"
    assert_connected(client)


def test_repetitions_spaces_and_empty_entries_are_passed_over(
    shell: Shells, client: Namespace
) -> None:
    before = client.entries()

    decided = serve(shell, client, f",, {DST}\t,\n{DST} , ,2001:DB8:66:0::/48,{DST6}\u00a0,,")

    assert client.entries() == sorted([*before, GOOD, GOOD6])
    assert decided.refusals == ()


@pytest.mark.parametrize("label", ["", ",", " ", "\n", "\0", "," * 100_000])
def test_label_without_any_entry_changes_nothing(
    shell: Shells, client: Namespace, label: str
) -> None:
    before = client.entries()

    serve(shell, client, label)

    assert client.entries() == before


# --- any text whatsoever ------------------------------------------------------------------------

CANARY = "canary"
CIDRS = [
    *(DST, DST6, "192.0.2.7/32", "10.0.0.0/8", "0.0.0.0/1", "::/0", "0.0.0.0/0", "2001:db8::/32"),
    *(str(network) for network in ATTACHED),
    *(f"{GATEWAY}/32", "127.0.0.0/8", "fe80::/10", "192.0.2.0/255.255.255.0", "1.2.3.4"),
]
HOSTILE = [
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f";touch {CANARY};",
    f"\ntouch {CANARY}\n",
    f"&& touch {CANARY} #",
    f"|| >{CANARY}",
    f"'; touch {CANARY}; '",
    f'"; touch {CANARY}; "',
    f"| tee {CANARY}",
    f"%0\n>{CANARY}\n",
    *("'", '"', "\\", "\n", "\r", "\t", "\0", "\x1b[2J", "\ud800", "\udcff", "\u2028", "\ufeff"),
    *("%", "%eth0", "-", "--", "-batch", " dev lo", " via ", "default", "/", "/24", "..", "~", "*"),
    *("$IFS", "${PATH}", "<", ">", "&", "!", "#", "(", ")", "{}", "exit", "🐋"),
]
ADDRESSES = st.one_of(
    st.builds("{}/{}".format, st.ip_addresses(v=4), st.integers(0, 32)),
    st.builds("{}/{}".format, st.ip_addresses(v=6), st.integers(0, 128)),
    st.builds(
        lambda start, length: str(IPv4Network((start >> length << length, 32 - length))),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda start, length: str(IPv6Network((start >> length << length, 128 - length))),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
)
FRAGMENTS = st.one_of(
    st.sampled_from(CIDRS),
    st.sampled_from(HOSTILE),
    ADDRESSES,
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs", "Cc", "Zs", "N", "Po"]), max_size=4),
)
ENTRIES = st.one_of(st.sampled_from(CIDRS), ADDRESSES, st.lists(FRAGMENTS, max_size=5).map("".join))
LABELS = st.one_of(st.lists(ENTRIES, max_size=8).map(",".join), st.text(max_size=200))


def rivals(route_: Route) -> list[Route]:
    """Return routes to the same destination that are in the way, so that some are deleted."""
    dst, other = str(route_.dst), OTHER if route_.dst.version == 4 else OTHER6
    found = [route(dst, other, 50), route(dst, None, 4278198272, "unreachable")]
    return [one._replace(table=route_.table) for one in found]


def assert_intended(command: str, netns: Path) -> None:
    """Fail unless the line is one `ip route` in that namespace to a destination that may be."""
    nsenter, entered, *words = shlex.split(command)
    assert (nsenter, entered) == ("nsenter", f"--net={netns}")
    assert words.pop(0) == "ip"
    version = 6 if words[0] == "-6" else 4
    assert words[version == 6] == "route"
    verb, *rest = words[2 if version == 6 else 1 :]
    if verb == "del" and rest[0] == "unreachable":
        rest.pop(0)
    dst, *attributes = rest
    network = ip_network({4: "0.0.0.0/0", 6: "::/0"}[version] if dst == "default" else dst)
    assert dst in {str(network), "default"}
    assert network.version == version
    is_wide = network.prefixlen <= 1 or any(
        network.version == own.version and own.subnet_of(network)  # type: ignore[arg-type]
        for own in ATTACHED
    )
    table = ["table", "671"] if is_wide else []
    assert not any(
        network.version == own.version and network.subnet_of(own)  # type: ignore[arg-type]
        for own in ATTACHED
    )
    through, other = (GATEWAY, OTHER) if version == 4 else (GATEWAY6, OTHER6)
    allowed = {
        "replace": [["via", through, *table]],
        # The device: else the kernel deletes any IPv6 route of that metric, whatever its type.
        "del": [
            ["via", other, "metric", "50", *table],
            ["metric", "4278198272", *table, *(["dev", "lo"] if version == 6 else [])],
        ],
    }
    assert attributes in allowed[verb]
    assert command.isascii()
    assert command.isprintable()


@given(LABELS)
def test_no_label_makes_any_other_command(label: str) -> None:
    netns = Path("/var/run/docker/netns/0a1b2c3d4e5f")
    routes = wanted(netns, label).routes

    steps = plan(routes, [rival for route_ in routes for rival in rivals(route_)])

    assert len(steps) == 3 * len(routes)
    for step in steps:
        assert_intended(iproute.command(str(netns), step), netns)


def test_commands_of_any_label_run_nothing_else(
    client: Namespace,
    dialect: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing but routes changes, and no file appears where the shell runs."""
    assert dialect
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    shell = Shells()
    before = client.entries()
    links = client.run(IP, "-json", "address")
    ran = 0

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(LABELS)
    def run(label: str) -> None:
        nonlocal ran
        routes = wanted(client.path, label).routes
        steps = plan(routes, [rival for route_ in routes for rival in rivals(route_)])
        commands = [iproute.command(str(client.path), step) for step in steps]
        for command in commands:
            assert_intended(command, client.path)
        outcomes = list(shell.run([*commands, "echo alive"]))

        assert [outcome.command for outcome in outcomes] == [*commands, "echo alive"]
        assert (outcomes[-1].exit_code, outcomes[-1].output) == (0, "alive")
        # What is in the way does not exist here: its deletion fails, everything else works.
        for step, outcome in zip(steps, outcomes, strict=False):
            assert (outcome.exit_code == 0) == (step.verb == "replace"), outcome
        assert list(here.iterdir()) == []
        ran += len(steps)

    try:
        run()
    finally:
        shell.close()

    assert ran > 100
    assert client.run(IP, "-json", "address") == links
    after = client.entries()
    assert [entry for entry in after if entry in before] == before
    new = [entry for entry in after if entry not in before]
    assert {entry.gateway for entry in new} == set(BOTH)
    assert {(entry.table, entry.kind, entry.device) for entry in new} == {
        ("main", "unicast", "eth0"),
        ("671", "unicast", "eth0"),
    }
    assert_connected(client)


def test_canary_would_show_that_something_else_ran(
    dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dialect
    monkeypatch.chdir(tmp_path)
    shell = Shells()
    try:
        for hostile in HOSTILE[:10]:
            (tmp_path / CANARY).unlink(missing_ok=True)
            list(shell.run([f"true x{hostile}", "true"]))
            runs = hostile.startswith(("$", "`", ";", "\n", "&", "| ", "%"))
            assert (tmp_path / CANARY).exists() == runs, hostile
    finally:
        shell.close()
