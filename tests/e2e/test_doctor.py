"""The doctor: each thing broken for real, the line that names it, and what it prints applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lib.engine.client import Engine as Docker
from tests.e2e.look import await_event, await_routes, events
from tests.e2e.sickbed import (
    DST,
    DST6,
    FAR6,
    Finding,
    Ward,
    ask,
    ask_new,
    beside,
    make_gateway,
    make_tunnel,
    make_ward,
    options_of,
    paste,
    reaches,
    set_sysctl,
    without,
)
from tests.lab.engine import LABEL
from tests.lab.errors import LabError
from tests.lab.site import PRIVILEGES, Lab
from tests.lab.tunnel import two_sites

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.engine import Engine
    from tests.lab.site import Container

NETNS = "/var/run/docker/netns:/var/run/docker/netns:ro,rslave"
SOCKET = "/var/run/docker.sock:/var/run/docker.sock:ro"
CAP_ADD = "cap_add: [NET_ADMIN, SYS_ADMIN]"


@pytest.fixture(scope="module")
def ward(engine: Engine) -> Iterator[Ward]:
    """A site in good health, which every test leaves as it was."""
    with Lab(engine) as lab:
        ward = make_ward(lab, "ward")
        assert reaches(ward.client)
        assert reaches(ward.client, FAR6)
        yield ward


def serves(ward: Ward, *options: str) -> bool:
    """Tell whether a sidecar with these options gives a route that was lost, and end it."""
    lab, gateway = ward.lab, ward.gateway.address(ward.network)
    ward.client.enter("ip", "route", "del", DST)
    sidecar = lab.container("another", "wgroutemgr:lab", *options)
    try:
        gateway6 = ward.gateway.address(ward.network, ipv6=True)
        await_routes(ward.client, {DST: gateway, DST6: gateway6})
        return True
    finally:
        sidecar.remove()


def test_a_site_in_good_health(ward: Ward) -> None:
    found = ward.ask()

    assert found.levels("warn", "fail", "skip") == []
    assert (found.exit_code, found.last) == (0, f"{len(found.findings)} ok")
    assert found.one("clients").seen.endswith(ward.client.name)
    assert [each.seen for each in found.of("tunnel")] == [
        f"{ward.gateway.name} sends {DST} into wg0",
        f"{ward.gateway.name} sends {DST6} into wg0",
    ]


def test_a_client_in_good_health(ward: Ward) -> None:
    assert reaches(ward.client)
    assert reaches(ward.client, FAR6)
    found = ward.ask(ward.client.name)

    assert found.levels("warn", "fail", "skip") == []
    assert found.last.endswith(f"{ward.client.name}: nothing here stops its packet")
    address = ward.gateway.address(ward.network)
    assert found.of("route")[0].seen == f"{ward.client.name} sends {DST} to {address} by eth0"
    assert ward.ask(ward.client.inspect("{{.Id}}")).exit_code == 0


# --- the sidecar --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dropped", "seen"),
    [
        (["NET_ADMIN"], "NET_ADMIN not in effect"),
        (["SYS_ADMIN"], "SYS_ADMIN not in effect"),
        (["NET_ADMIN", "SYS_ADMIN"], "NET_ADMIN and SYS_ADMIN not in effect"),
    ],
)
def test_dropped_capabilities(ward: Ward, dropped: list[str], seen: str) -> None:
    broken = beside(ward.gateway, ward.network, *without(*dropped))
    finding = ask_new(ward.lab, *broken).one("capabilities")

    assert finding.level == "fail"
    assert finding.seen.startswith(seen)
    assert finding.mend == [CAP_ADD]
    mended = [*broken, *options_of(finding.mend)]
    assert ask_new(ward.lab, *mended).exit_code == 0
    assert serves(ward, *mended)


def test_user_without_capabilities(ward: Ward) -> None:
    finding = ask_new(ward.lab, *ward.beside, "--user", "1000").one("capabilities")

    assert finding.level == "fail"
    assert "runs as user 1000" in finding.seen
    assert finding.mend == ['user: "0"', CAP_ADD]


@pytest.mark.parametrize(
    ("instead", "seen"),
    [
        ([], "there is no directory /var/run/docker/netns"),
        (["--volume", NETNS.replace(",rslave", "")], "is mounted, but privately"),
    ],
)
def test_namespace_directory_missing_or_private(ward: Ward, instead: list[str], seen: str) -> None:
    broken = beside(ward.gateway, ward.network, *without(NETNS))
    finding = ask_new(ward.lab, *broken, *instead).one("namespaces")

    assert finding.level == "fail"
    assert seen in finding.seen
    assert finding.mend == [f"volumes: ['{NETNS}']", f"or with docker run: -v {NETNS}"]
    mended = [*broken, *options_of(finding.mend)]
    assert ask_new(ward.lab, *mended).exit_code == 0
    assert serves(ward, *mended)


def test_the_daemon_names_what_it_lacks(ward: Ward) -> None:
    broken = beside(ward.gateway, ward.network, *without("SYS_ADMIN", NETNS))
    sidecar = ward.lab.container("lacking", "wgroutemgr:lab", *broken)
    await_event(sidecar, "engine.connected")
    missing = events(sidecar, "prerequisite.missing", level="error")
    reasons = {entry["reason"].partition(" (")[0]: entry["hint"] for entry in missing}
    sidecar.remove()

    assert reasons == {
        "SYS_ADMIN not in effect": CAP_ADD,
        "there is no directory /var/run/docker/netns": (
            f"volumes: ['{NETNS}']; or with docker run: -v {NETNS}"
        ),
    }


@pytest.mark.parametrize("host", ["", "unix:///nowhere.sock", "tcp://127.0.0.1:2375"])
def test_no_engine(ward: Ward, host: str) -> None:
    broken = beside(ward.gateway, ward.network, *without(SOCKET))
    wrong = ["--env", f"DOCKER_HOST={host}"] if host else []
    found = ask_new(ward.lab, *broken, *wrong)
    finding = found.one("engine")

    assert finding.level == "fail"
    assert f"none at {host or 'its usual socket'}" in finding.seen
    unset = [f"remove DOCKER_HOST, or correct it: {host}"] if host else []
    assert finding.mend == [*unset, f"volumes: ['{SOCKET}']"]
    assert {check for check, _ in found.levels("ok")} == {"capabilities", "namespaces"}
    assert found.one("tunnel").seen == "cannot be told without the gateway's address"
    assert ask_new(ward.lab, *broken, *options_of(finding.mend)).exit_code == 0


def test_from_outside_of_the_gateways_namespace(ward: Ward) -> None:
    given = ["--network", ward.network, "--gateway", ward.gateway.name]
    found = ask_new(ward.lab, *PRIVILEGES, "--network", "none", words=given)

    assert found.levels("fail", "skip") == []
    assert found.one("gateway").seen == f"{ward.gateway.name}, named by --gateway"
    assert [check for check, _ in found.levels("warn")] == ["firewall"]


# --- gateway and network ------------------------------------------------------------------------


def test_network_missing_and_gateway_not_attached(ward: Ward) -> None:
    name = ward.lab.name("later")
    options = beside(ward.gateway, name)
    finding = ask_new(ward.lab, *options).one("network")
    assert (finding.level, finding.seen) == ("fail", f"there is no network {name}")
    paste(ward.lab, finding.mend[0].replace("create", f"create --label {LABEL}={ward.lab.token}"))

    finding = ask_new(ward.lab, *options).one("address")
    assert finding.seen == f"{ward.gateway.name} is not attached to {name}"
    paste(ward.lab, finding.mend[0])

    found = ask_new(ward.lab, *options)
    assert [found.one("network").level, found.one("address").level] == ["ok", "ok"]
    assert found.one("clients").level == "warn"
    paste(ward.lab, finding.mend[0].replace("connect", "disconnect"))


def test_gateway_stopped_and_namespace_left(lab: Lab) -> None:
    ward = make_ward(lab, "restarted", third=68)
    ward.gateway.stop()
    stopped = ward.ask().one("gateway")
    assert (stopped.level, stopped.seen) == ("fail", f"{ward.gateway.name} is not running")
    paste(lab, stopped.mend[0])

    left = ward.ask().one("gateway")
    assert left.level == "warn"
    assert left.seen.endswith("has a new network namespace since it restarted")
    assert ward.ask().one("address").level == "ok"
    paste(lab, left.mend[0])
    assert ward.ask().one("gateway").level == "ok"


def test_internal_network_where_bridged_packets_are_filtered(lab: Lab) -> None:
    ward = make_ward(lab, "inner", "--internal", third=68)
    switch = "net.bridge.bridge-nf-call-iptables"
    try:
        lab.engine.enter("sysctl", "-w", f"{switch}=1")
    except LabError:
        pytest.skip("needs br_netfilter: no bridged packet is filtered without it")
    assert not reaches(ward.client, seconds=0)
    finding = ward.ask().one("network")

    assert finding.level == "warn"
    assert f"{ward.network} is internal" in finding.seen
    paste(lab, finding.mend[0])
    assert reaches(ward.client)


def test_network_whose_containers_must_not_talk(lab: Lab) -> None:
    option = "com.docker.network.bridge.enable_icc=false"
    ward = make_ward(lab, "mute", "--opt", option, third=68)
    finding = ward.ask().one("network")

    assert not reaches(ward.client, seconds=0)
    assert finding.level == "fail"
    assert "enable_icc=false" in finding.seen
    assert finding.mend == [f"docker network rm {ward.network}, and create it without that option"]


def test_networks_are_listed_as_they_are_inspected(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = "com.docker.network.driver.mtu=1420"
    name = lab.network("inner", "192.168.68.0/24", options=("--internal", "--opt", option))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{lab.engine.socket}")
    real = Docker()
    (listed,) = (network for network in real.networks() if network.name == name)

    assert listed == real.network(name)
    assert (listed.driver, listed.internal) == ("bridge", True)
    assert listed.options["com.docker.network.driver.mtu"] == "1420"
    real.close()


# --- the way ------------------------------------------------------------------------------------


def test_forwarding_off(lab: Lab) -> None:
    ward = make_ward(lab, "still", third=68, sysctls="0")
    found = ward.ask()
    assert found.levels("fail") == [
        ("forwarding", f"net.ipv4.ip_forward is 0 in {ward.gateway.name}"),
        ("forwarding", f"net.ipv6.conf.all.forwarding is 0 in {ward.gateway.name}"),
    ]
    assert not reaches(ward.client, seconds=0)

    mend = [word for finding in found.of("forwarding") for word in options_of(finding.mend)]
    address = ward.gateway.address(ward.network)
    ward.far.enter("ip", "link", "del", "wg0")
    ward.gateway.remove()
    gateway = make_gateway(lab, ward.network, "still-wg", "0", "--ip", address, *mend)
    make_tunnel(lab, gateway, ward.far, ("192.168.68.0/24", "fd00:68::/64"), 1500)
    ward.sidecar.remove()
    ward.sidecar = lab.sidecar("again", gateway, network=ward.network)

    assert reaches(ward.client)
    assert reaches(ward.client, FAR6)
    assert ward.ask().levels("fail") == []


def test_strict_reverse_path_filter(ward: Ward) -> None:
    """What comes back takes another way to the client, a cable of its own."""
    lab, gateway, client = ward.lab, ward.gateway, ward.client
    default = gateway.enter("cat", "/proc/sys/net/ipv4/conf/all/rp_filter")
    here, there = (each.inspect("{{.State.Pid}}") for each in (gateway, client))
    lab.engine.enter(
        *("nsenter", "--net", "--target", here, "ip", "link", "add", "side", "type", "veth"),
        *("peer", "name", "side", "netns", there),
    )
    client.enter("ip", "link", "set", "side", "up")
    gateway.enter("ip", "link", "set", "side", "up")
    gateway.enter("ip", "route", "add", client.address(ward.network), "dev", "side")
    try:
        assert reaches(client)
        set_sysctl(gateway, "net.ipv4.conf.all.rp_filter=1")
        finding = ward.ask().one("rp_filter")
        assert finding.level == "fail"
        sender = client.address(ward.network)
        assert finding.seen == f"strict on eth0: it drops what comes from {sender}, reached by side"
        assert not reaches(client, seconds=0)

        set_sysctl(gateway, options_of(finding.mend)[1])
        assert ward.ask().one("rp_filter").level == "ok"
        assert reaches(client)
    finally:
        set_sysctl(gateway, f"net.ipv4.conf.all.rp_filter={default}")
        gateway.enter("ip", "link", "del", "side")


def test_strict_reverse_path_filter_that_drops_nothing(ward: Ward) -> None:
    default = ward.gateway.enter("cat", "/proc/sys/net/ipv4/conf/all/rp_filter")
    set_sysctl(ward.gateway, "net.ipv4.conf.all.rp_filter=1")
    found = ward.ask()
    answered = reaches(ward.client)
    set_sysctl(ward.gateway, f"net.ipv4.conf.all.rp_filter={default}")

    assert answered
    assert found.one("rp_filter").seen == "strict on eth0, wg0, but drops nothing"
    assert found.exit_code == 0


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_forward_policy_that_drops(ward: Ward, kind: str) -> None:
    def firewall(*words: str) -> None:
        ward.gateway.enter(f"iptables-{kind}", *words)

    firewall("-P", "FORWARD", "DROP")
    try:
        finding = ward.ask().one("firewall")
        assert (finding.level, finding.seen) == ("fail", "ip filter FORWARD drops everything")
        assert not reaches(ward.client, seconds=0)

        firewall("-A", "FORWARD", "-i", "eth0", "-j", "ACCEPT")
        assert ward.ask().one("firewall").level == "warn"
        firewall("-F", "FORWARD")
        prefix = f"docker exec {ward.gateway.name} iptables "
        firewall(*finding.mend[0].removeprefix(prefix).split())
        assert ward.ask().one("firewall").level == "ok"
        assert reaches(ward.client)
    finally:
        firewall("-P", "FORWARD", "ACCEPT")


def test_route_into_the_tunnel_missing(ward: Ward) -> None:
    ward.gateway.enter("ip", "route", "del", DST)
    ward.gateway.enter("ip", "-6", "route", "add", "unreachable", DST6, "metric", "1")
    found = ward.ask().of("tunnel")
    ward.gateway.enter("ip", "-6", "route", "del", "unreachable", DST6, "metric", "1")
    ward.gateway.enter("ip", "route", "add", DST, "via", "10.255.255.2")

    out = f"{ward.gateway.name} sends {DST} back out by eth0 via 192.168.67.1, into no tunnel"
    assert [each.level for each in found] == ["fail", "fail"]
    assert [each.seen for each in found] == [out, f"{ward.gateway.name} has no route to {DST6}"]
    assert found[0].mend[0].startswith(f"add {DST} to AllowedIPs of the peer")


def test_real_tunnel_without_the_far_network(lab: Lab) -> None:
    sites = two_sites(lab)
    here, there = sites.first, sites.second
    client = sites.start_client(here)
    far = lab.client("far", there.network, networks=here.wanted)
    config = here.gateway.exec("cat", "/dev/shm/wg0.conf")  # noqa: S108 - in the container
    whole = f"AllowedIPs = {', '.join(there.subnets)}"
    gateway = _replace_gateway(sites.first.gateway, config.replace(whole, ""), here.network)
    sidecar = lab.sidecar("sidecar", gateway, network=here.network)
    found = ask(sidecar).of("tunnel")
    assert [each.level for each in found] == ["fail", "fail"]
    assert "into no tunnel" in found[0].seen

    sidecar.remove()
    missing = ", ".join(each.mend[0].split()[1] for each in found)
    mended = config.replace(whole, f"AllowedIPs = {missing}")
    gateway = _replace_gateway(gateway, mended, here.network)
    sidecar = lab.sidecar("sidecar", gateway, network=here.network)
    assert {each.level for each in ask(sidecar).of("tunnel")} == {"ok"}
    there.gateway.restart()  # It calls again, which an idle peer does only after minutes.
    sites.start_sidecar(there)
    assert reaches(client, far.address(there.network), seconds=30)


def test_packets_larger_than_the_tunnel_takes(lab: Lab) -> None:
    large = make_ward(lab, "large", third=68, mtu=1420)
    found = large.ask()
    finding = found.one("mtu")
    assert (finding.level, found.exit_code) == ("warn", 0)
    assert finding.seen == f"up to 1500 bytes from {large.client.name}, but 1420 through wg0"

    small = make_ward(lab, "small", *options_of(finding.mend), third=69, mtu=1420)
    assert small.ask().one("mtu").level == "ok"


def test_destination_that_keeps_the_engine_from_attaching_the_client(ward: Ward) -> None:
    lab = ward.lab
    backend = lab.network("backend", "10.9.0.0/24")
    client = lab.client("wide", ward.network, networks="10.0.0.0/8,192.168.0.0/16")
    await_event(ward.sidecar, "client.routed", container=client.name)
    found = ward.ask()
    (finding,) = (each for each in found.of("overlaps") if backend in each.seen)
    assert finding.level == "warn"
    assert f"{client.name}: 10.0.0.0/8 overlaps the network {backend}" in finding.seen
    (contains,) = (each for each in found.of("clients") if each.level == "warn")
    assert f"{client.name}: 192.168.0.0/16 is served, but contains" in contains.seen
    with pytest.raises(LabError, match="conflicts with existing route"):
        lab.engine.docker("network", "connect", backend, client.name)

    client.remove()
    client = lab.client("wide", ward.network, networks="10.8.0.0/16")
    await_event(ward.sidecar, "client.routed", container=client.name, routes=1)
    assert [each for each in ward.ask().of("overlaps") if backend in each.seen] == []
    lab.engine.docker("network", "connect", backend, client.name)
    client.remove()


# --- one client ---------------------------------------------------------------------------------


def stops_at(ward: Ward, name: str, check: str) -> Finding:
    """Follow that client's packet, which must stop there."""
    found = ward.ask(name)
    assert found.exit_code == 1
    assert found.last.endswith(f"{name}: its packet stops at: {check}")
    return found.of(check)[0]


def test_client_that_is_none(ward: Ward) -> None:
    assert "no container nobody" in stops_at(ward, "nobody", "container").seen
    hostly = ward.lab.client("hostly", "host", networks=DST)
    assert "the host's network namespace" in stops_at(ward, hostly.name, "container").seen
    gateway = stops_at(ward, ward.gateway.name, "container")
    assert gateway.seen.endswith("is in the gateway's own network namespace")
    hostly.remove()


def test_client_stopped_unattached_and_unlabelled(ward: Ward) -> None:
    lab = ward.lab
    client = lab.client("remote", lab.network("elsewhere", "192.168.99.0/24"), networks=DST)
    client.stop()
    stopped = stops_at(ward, client.name, "container")
    assert stopped.seen == f"{client.name} is not running"
    paste(lab, stopped.mend[0])

    unattached = stops_at(ward, client.name, "container")
    assert unattached.seen == f"{client.name} is not attached to {ward.network}"
    paste(lab, unattached.mend[0])
    await_routes(client, {DST: ward.gateway.address(ward.network)})
    assert ward.ask(client.name).exit_code == 0
    client.remove()

    client = lab.client("remote", ward.network)
    unlabelled = stops_at(ward, client.name, "container")
    assert unlabelled.seen == f"{client.name} has no label wgroutemgr.networks"
    client.remove()
    client = lab.client("remote", ward.network, *options_of(unlabelled.mend))
    await_routes(client, {"192.168.66.0/24": ward.gateway.address(ward.network)})
    client.remove()


def test_clients_bad_entries_are_named(ward: Ward) -> None:
    client = ward.lab.client("bad", ward.network, networks=f"nonsense,{DST}")
    found = ward.ask(client.name).of("container")
    client.remove()

    assert [each.level for each in found] == ["ok", "warn"]
    assert found[1].seen == f"{client.name}: nonsense is not a network in CIDR notation"


def test_clients_route_is_gone(ward: Ward) -> None:
    ward.client.enter("ip", "route", "del", DST)
    finding = stops_at(ward, ward.client.name, "route")
    assert f"sends {DST} to 192.168.67.1 by eth0, not to the gateway" in finding.seen

    paste(ward.lab, finding.mend[-1])
    assert ward.ask(ward.client.name).exit_code == 0


def test_somebody_else_answers_for_the_gateway(ward: Ward) -> None:
    address = ward.gateway.address(ward.network)
    neighbour = ("ip", "neigh", "replace", address, "dev", "eth0")
    ward.client.enter(*neighbour, "lladdr", "02:00:00:00:00:99", "nud", "permanent")
    finding = stops_at(ward, ward.client.name, "neighbour")
    ward.client.enter(*neighbour[:2], "del", address, "dev", "eth0")

    assert finding.seen.startswith(f"{address} is 02:00:00:00:00:99, PERMANENT, but ")
    assert "neighbour" in dict(ward.ask(ward.client.name).levels("skip"))
    assert reaches(ward.client)


def test_way_back_is_lost(ward: Ward) -> None:
    address = ward.client.address(ward.network)
    ward.gateway.enter("ip", "route", "add", address, "dev", "wg0")
    finding = stops_at(ward, ward.client.name, "back")
    ward.gateway.enter("ip", "route", "del", address, "dev", "wg0")

    assert finding.seen.endswith(f"({address}) leaves the gateway by wg0")


# --- helpers ------------------------------------------------------------------------------------


def _replace_gateway(old: Container, config: str, network: str) -> Container:
    """Make a gateway anew with another configuration, at its old addresses."""
    addresses = [old.address(network), old.address(network, ipv6=True)]
    lab = Lab(old.engine, token=old.name.rpartition("-")[2])
    internet = lab.name("internet")
    outer = old.address(internet)
    old.remove()
    gateway = lab.gateway(old.name.rpartition("-")[0], internet, "--ip", outer, config=config)
    words = ("--ip", addresses[0], "--ip6", addresses[1], network, gateway.name)
    old.engine.docker("network", "connect", *words)
    gateway.await_log("wg0: up")
    return gateway
