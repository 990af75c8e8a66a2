"""The doctor: each thing broken for real, the line that names it, and what it prints applied."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from lib.engine.client import Engine as Docker
from tests.e2e.doctor_site import (
    DST,
    DST6,
    FAR,
    FAR6,
    Finding,
    Site,
    ask,
    ask_new,
    beside,
    make_gateway,
    make_site,
    make_tunnel,
    options_of,
    paste,
    reaches,
    set_sysctl,
    without,
)
from tests.e2e.look import await_event, await_routes, events
from tests.lab.engine import LABEL, poll
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
def site(engine: Engine) -> Iterator[Site]:
    """A site in good health, which every test leaves as it was."""
    with Lab(engine) as lab:
        site = make_site(lab, "site")
        assert reaches(site.client)
        assert reaches(site.client, FAR6)
        yield site


def serves(site: Site, *options: str) -> bool:
    """Tell whether a sidecar with these options gives a route that was lost, and end it."""
    lab, gateway = site.lab, site.gateway.address(site.network)
    site.client.enter("ip", "route", "del", DST)
    sidecar = lab.container("another", "wgroutemgr:lab", *options)
    try:
        gateway6 = site.gateway.address(site.network, ipv6=True)
        await_routes(site.client, {DST: gateway, DST6: gateway6})
        return True
    finally:
        sidecar.remove()


def test_a_site_in_good_health(site: Site) -> None:
    found = site.ask()

    assert found.levels("warn", "fail", "skip") == []
    assert (found.exit_code, found.last) == (0, f"{len(found.findings)} ok")
    assert found.one("clients").seen.endswith(site.client.name)
    assert [each.seen for each in found.of("tunnel")] == [
        f"{site.gateway.name} sends {DST} into wg0",
        f"{site.gateway.name} sends {DST6} into wg0",
    ]


def test_a_client_in_good_health(site: Site) -> None:
    assert reaches(site.client)
    assert reaches(site.client, FAR6)
    found = site.ask(site.client.name)

    assert found.levels("warn", "fail", "skip") == []
    assert found.last.endswith(f"{site.client.name}: nothing here stops its packet")
    address = site.gateway.address(site.network)
    assert found.of("route")[0].seen == f"{site.client.name} sends {DST} to {address} by eth0"
    assert site.ask(site.client.inspect("{{.Id}}")).exit_code == 0


# --- the sidecar --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dropped", "seen"),
    [
        (["NET_ADMIN"], "NET_ADMIN not in effect"),
        (["SYS_ADMIN"], "SYS_ADMIN not in effect"),
        (["NET_ADMIN", "SYS_ADMIN"], "NET_ADMIN and SYS_ADMIN not in effect"),
    ],
)
def test_dropped_capabilities(site: Site, dropped: list[str], seen: str) -> None:
    broken = beside(site.gateway, site.network, *without(*dropped))
    finding = ask_new(site.lab, *broken).one("capabilities")

    assert finding.level == "fail"
    assert finding.seen.startswith(seen)
    assert finding.mend == [CAP_ADD]
    mended = [*broken, *options_of(finding.mend)]
    assert ask_new(site.lab, *mended).exit_code == 0
    assert serves(site, *mended)


def test_user_without_capabilities(site: Site) -> None:
    finding = ask_new(site.lab, *site.beside, "--user", "1000").one("capabilities")

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
def test_namespace_directory_missing_or_private(site: Site, instead: list[str], seen: str) -> None:
    broken = beside(site.gateway, site.network, *without(NETNS))
    finding = ask_new(site.lab, *broken, *instead).one("namespaces")

    assert finding.level == "fail"
    assert seen in finding.seen
    assert finding.mend == [f"volumes: ['{NETNS}']", f"or with docker run: -v {NETNS}"]
    mended = [*broken, *options_of(finding.mend)]
    assert ask_new(site.lab, *mended).exit_code == 0
    assert serves(site, *mended)


def test_the_daemon_names_what_it_lacks(site: Site) -> None:
    broken = beside(site.gateway, site.network, *without("SYS_ADMIN", NETNS))
    sidecar = site.lab.container("lacking", "wgroutemgr:lab", *broken)
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
def test_no_engine(site: Site, host: str) -> None:
    broken = beside(site.gateway, site.network, *without(SOCKET))
    wrong = ["--env", f"DOCKER_HOST={host}"] if host else []
    found = ask_new(site.lab, *broken, *wrong)
    finding = found.one("engine")

    assert finding.level == "fail"
    assert f"none at {host or 'its usual socket'}" in finding.seen
    unset = [f"remove DOCKER_HOST, or correct it: {host}"] if host else []
    assert finding.mend == [*unset, f"volumes: ['{SOCKET}']"]
    assert {check for check, _ in found.levels("ok")} == {"capabilities", "namespaces"}
    assert found.one("tunnel").seen == "cannot be told without the gateway's address"
    assert ask_new(site.lab, *broken, *options_of(finding.mend)).exit_code == 0


def test_from_outside_of_the_gateways_namespace(site: Site) -> None:
    given = ["--network", site.network, "--gateway", site.gateway.name]
    found = ask_new(site.lab, *PRIVILEGES, "--network", "none", words=given)

    assert found.levels("warn", "fail", "skip") == []
    assert found.one("gateway").seen == f"{site.gateway.name}, named by --gateway"


# --- gateway and network ------------------------------------------------------------------------


def test_network_missing_and_gateway_not_attached(site: Site) -> None:
    name = site.lab.name("later")
    options = beside(site.gateway, name)
    finding = ask_new(site.lab, *options).one("network")
    assert (finding.level, finding.seen) == ("fail", f"there is no network {name}")
    paste(site.lab, finding.mend[0].replace("create", f"create --label {LABEL}={site.lab.token}"))

    finding = ask_new(site.lab, *options).one("address")
    assert finding.seen == f"{site.gateway.name} is not attached to {name}"
    paste(site.lab, finding.mend[0])

    found = ask_new(site.lab, *options)
    assert [found.one("network").level, found.one("address").level] == ["ok", "ok"]
    assert found.one("clients").level == "warn"
    paste(site.lab, finding.mend[0].replace("connect", "disconnect"))


def test_gateway_stopped_and_namespace_left(lab: Lab) -> None:
    site = make_site(lab, "restarted", third=68)
    site.sidecar.remove()
    site.sidecar = lab.sidecar("sharing", site.gateway, network=site.network)
    await_event(site.sidecar, "pass.finished", trigger="startup")
    limit = site.ask().one("reboot")
    assert (limit.level, limit.mend[1:]) == (
        "warn",
        [f"labels: {{wgroutemgr.gateway: {site.gateway.name}}}"],
    )
    assert limit.mend[0].startswith("network_mode: none ")
    site.gateway.stop()
    stopped = site.ask().one("gateway")
    assert (stopped.level, stopped.seen) == ("fail", f"{site.gateway.name} is not running")
    paste(lab, stopped.mend[0])

    left = site.ask().one("gateway")
    assert left.level == "warn"
    assert left.seen.endswith("has a new network namespace since it restarted")
    assert site.ask().one("address").level == "ok"
    paste(lab, left.mend[0])
    assert site.ask().one("gateway").level == "ok"


def test_internal_network_where_bridged_packets_are_filtered(lab: Lab) -> None:
    site = make_site(lab, "inner", "--internal", third=68)
    switch = "net.bridge.bridge-nf-call-iptables"
    try:
        lab.engine.enter("sysctl", "-w", f"{switch}=1")
    except LabError:
        pytest.skip("needs br_netfilter: no bridged packet is filtered without it")
    assert not reaches(site.client, seconds=0)
    finding = site.ask().one("network")

    assert finding.level == "warn"
    assert f"{site.network} is internal" in finding.seen
    paste(lab, finding.mend[0])
    assert reaches(site.client)


def test_macvlan_network(lab: Lab) -> None:
    lab.engine.enter("ip", "link", "add", "parent0", "type", "bridge")
    try:
        lab.engine.enter("ip", "link", "set", "parent0", "up")
        options = ("--driver", "macvlan", "--opt", "parent=parent0")
        site = make_site(lab, "mac", *options, third=68)
        assert reaches(site.client)
        found = site.ask()
        assert (found.one("network").level, found.levels("fail")) == ("ok", [])
        assert "macvlan" in found.one("network").seen
        assert events(site.sidecar, "network.warned") == []
    finally:
        lab.engine.remove_labelled(lab.token)
        lab.engine.enter("ip", "link", "del", "parent0")


def test_network_whose_containers_must_not_talk(lab: Lab) -> None:
    option = "com.docker.network.bridge.enable_icc=false"
    site = make_site(lab, "mute", "--opt", option, third=68)
    finding = site.ask().one("network")

    assert not reaches(site.client, seconds=0)
    assert finding.level == "fail"
    assert "enable_icc=false" in finding.seen
    assert finding.mend == [f"docker network rm {site.network}, and create it without that option"]


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
    site = make_site(lab, "still", third=68, sysctls="0")
    found = site.ask()
    assert found.levels("fail") == [
        ("forwarding", f"net.ipv4.ip_forward is 0 in {site.gateway.name}"),
        ("forwarding", f"net.ipv6.conf.all.forwarding is 0 in {site.gateway.name}"),
    ]
    assert not reaches(site.client, seconds=0)

    mend = [word for finding in found.of("forwarding") for word in options_of(finding.mend)]
    address = site.gateway.address(site.network)
    site.far.enter("ip", "link", "del", "wg0")
    site.gateway.remove()
    gateway = make_gateway(lab, site.network, "still-wg", "0", "--ip", address, *mend)
    make_tunnel(lab, gateway, site.far, ("192.168.68.0/24", "fd00:68::/64"), 1500)
    site.sidecar.remove()
    site.sidecar = lab.sidecar("again", gateway, network=site.network)

    assert reaches(site.client)
    assert reaches(site.client, FAR6)
    assert site.ask().levels("fail") == []


def test_strict_reverse_path_filter(site: Site) -> None:
    """What comes back takes another way to the client, a cable of its own."""
    lab, gateway, client = site.lab, site.gateway, site.client
    default = gateway.enter("cat", "/proc/sys/net/ipv4/conf/all/rp_filter")
    here, there = (each.inspect("{{.State.Pid}}") for each in (gateway, client))
    lab.engine.enter(
        *("nsenter", "--net", "--target", here, "ip", "link", "add", "side", "type", "veth"),
        *("peer", "name", "side", "netns", there),
    )
    client.enter("ip", "link", "set", "side", "up")
    gateway.enter("ip", "link", "set", "side", "up")
    gateway.enter("ip", "route", "add", client.address(site.network), "dev", "side")
    try:
        assert reaches(client)
        set_sysctl(gateway, "net.ipv4.conf.all.rp_filter=1")
        finding = site.ask().one("rp_filter")
        assert finding.level == "fail"
        sender = client.address(site.network)
        assert finding.seen == f"strict on eth0: it drops what comes from {sender}, reached by side"
        assert not reaches(client, seconds=0)

        set_sysctl(gateway, options_of(finding.mend)[1])
        assert site.ask().one("rp_filter").level == "ok"
        assert reaches(client)
    finally:
        set_sysctl(gateway, f"net.ipv4.conf.all.rp_filter={default}")
        gateway.enter("ip", "link", "del", "side")


def test_strict_reverse_path_filter_that_drops_nothing(site: Site) -> None:
    default = site.gateway.enter("cat", "/proc/sys/net/ipv4/conf/all/rp_filter")
    set_sysctl(site.gateway, "net.ipv4.conf.all.rp_filter=1")
    found = site.ask()
    answered = reaches(site.client)
    set_sysctl(site.gateway, f"net.ipv4.conf.all.rp_filter={default}")

    assert answered
    assert found.one("rp_filter").seen == "strict on eth0, wg0, but drops nothing"
    assert found.exit_code == 0


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_forward_policy_that_drops(site: Site, kind: str) -> None:
    def firewall(*words: str) -> None:
        site.gateway.enter(f"iptables-{kind}", *words)

    firewall("-P", "FORWARD", "DROP")
    try:
        finding = site.ask().one("firewall")
        assert (finding.level, finding.seen) == ("fail", "ip filter FORWARD drops everything")
        assert not reaches(site.client, seconds=0)

        firewall("-A", "FORWARD", "-i", "eth0", "-j", "ACCEPT")
        assert site.ask().one("firewall").level == "warn"
        firewall("-F", "FORWARD")
        prefix = f"docker exec {site.gateway.name} iptables "
        firewall(*finding.mend[0].removeprefix(prefix).split())
        assert site.ask().one("firewall").level == "ok"
        assert reaches(site.client)
    finally:
        firewall("-P", "FORWARD", "ACCEPT")


def test_route_into_the_tunnel_missing(site: Site) -> None:
    site.gateway.enter("ip", "route", "del", DST)
    site.gateway.enter("ip", "-6", "route", "add", "unreachable", DST6, "metric", "1")
    found = site.ask().of("tunnel")
    site.gateway.enter("ip", "-6", "route", "del", "unreachable", DST6, "metric", "1")
    site.gateway.enter("ip", "route", "add", DST, "via", "10.255.255.2")

    out = f"{site.gateway.name} sends {DST} back out by eth0 via 192.168.67.1, into no tunnel"
    assert [each.level for each in found] == ["fail", "fail"]
    assert [each.seen for each in found] == [out, f"{site.gateway.name} has no route to {DST6}"]
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


def test_tunnel_that_receives_nothing(lab: Lab) -> None:
    sites = two_sites(lab)
    client = sites.start_client(sites.first)
    sidecar = sites.start_sidecar(sites.first)
    await_event(sidecar, "client.routed", container=client.name)
    assert {each.level for each in ask(sidecar).of("tunnel")} == {"ok"}

    sites.second.gateway.stop()
    assert not reaches(client, sites.second.subnets[0].replace(".0/24", ".1"), seconds=1)
    *_, finding = ask(sidecar, client.name).of("tunnel")
    assert finding.level == "fail"
    assert re.fullmatch(
        r"wg0 has sent \d+ packets? and received none: no handshake\?", finding.seen
    )
    assert "wg0" in paste(lab, finding.mend[0])


@pytest.mark.parametrize("kind", ["nft", "legacy"])
@pytest.mark.parametrize("is_within", [True, False])
def test_whose_address_the_far_side_sees(site: Site, kind: str, *, is_within: bool) -> None:
    given = ["--network", site.network, "--gateway", site.gateway.name]

    def nat() -> list[Finding]:
        if is_within:
            return site.ask().of("nat")
        return ask_new(site.lab, *PRIVILEGES, "--network", "none", words=given).of("nat")

    (kept,) = nat()
    keep = "clients keep their addresses: the far side must know 192.168.67.0/24 and fd00:67::/64"
    assert (kept.level, kept.seen) == ("ok", keep)
    lines = [line.partition("   #")[0].removeprefix("PostUp = ").split() for line in kept.mend]
    try:
        for tool, *words in lines:
            site.gateway.enter(f"{tool}-{kind}", *words)
        assert reaches(site.client)
        for finding, family in zip(nat(), ("ip", "ip6"), strict=True):
            assert finding.level == "ok"
            assert finding.seen.startswith("what leaves by wg0 gets another source address")
            assert f"({family} nat POSTROUTING," in finding.seen
            assert finding.mend == []
    finally:
        for tool, *_ in lines:
            site.gateway.enter(f"{tool}-{kind}", "-t", "nat", "-F", "POSTROUTING")


def test_gateway_without_a_tunnel_device(lab: Lab) -> None:
    network = lab.network("bare-net", "192.168.68.0/24")
    gateway = lab.gateway("bare-wg", network)
    client = lab.client("client", network, networks=DST)
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    await_event(sidecar, "client.routed", container=client.name)

    (line,) = ask(sidecar).one("tunnel").mend
    assert line.startswith(f"give {gateway.name} a tunnel device (")


@pytest.mark.parametrize("ipv6", [False, True])
def test_policy_rule_past_the_tunnel(site: Site, *, ipv6: bool) -> None:
    ip = ("ip", "-6") if ipv6 else ("ip",)
    dst, far, by = (DST6, FAR6, "fd00:67::1") if ipv6 else (DST, FAR, "192.168.67.1")
    subnet = "fd00:67::/64" if ipv6 else "192.168.67.0/24"
    site.gateway.enter(*ip, "route", "add", "default", "via", by, "table", "77")
    site.gateway.enter(*ip, "route", "add", subnet, "dev", "wg0", "table", "77")
    site.gateway.enter(*ip, "rule", "add", "pref", "100", "lookup", "77")
    try:
        assert not reaches(site.client, far, seconds=0)
        (finding,) = (each for each in site.ask().of("tunnel") if each.level == "fail")
        assert f"sends {dst} back out by eth0 via {by}, into no tunnel" in finding.seen
        paste(site.lab, finding.mend[0])
        assert [each.level for each in site.ask().of("tunnel")] == ["ok", "ok"]
        assert not reaches(site.client, far, seconds=0)
        *_, finding = (each for each in site.ask().of("back") if each.level == "fail")
        paste(site.lab, finding.mend[0])
        assert site.ask().levels("fail") == []
        assert reaches(site.client, far)
    finally:
        for preference in ("100", "99", "98"):
            with suppress(LabError):
                site.gateway.enter(*ip, "rule", "del", "pref", preference)
        site.gateway.enter(*ip, "route", "flush", "table", "77")


def test_packets_larger_than_the_tunnel_takes(lab: Lab) -> None:
    large = make_site(lab, "large", third=68, mtu=1420)
    assert large.ask().one("mtu").level == "ok"  # The route says it.
    large.client.enter("ip", "route", "replace", DST, "via", large.gateway.address(large.network))
    found = large.ask()
    finding = found.one("mtu")
    assert (finding.level, found.exit_code) == ("warn", 0)
    assert finding.seen == f"up to 1500 bytes from {large.client.name}, but 1420 through wg0"

    small = make_site(lab, "small", *options_of(finding.mend), third=69, mtu=1420)
    assert small.ask().one("mtu").level == "ok"


def test_destination_that_keeps_the_engine_from_attaching_the_client(site: Site) -> None:
    lab = site.lab
    backend = lab.network("backend", "10.9.0.0/24")
    client = lab.client("wide", site.network, networks="10.0.0.0/8,192.168.0.0/16")
    await_event(site.sidecar, "client.routed", container=client.name)
    found = site.ask()
    (finding,) = (each for each in found.of("overlaps") if backend in each.seen)
    assert finding.level == "warn"
    assert f"{client.name}: 10.0.0.0/8 overlaps the network {backend}" in finding.seen
    assert "192.168.0.0/16" not in str(found.of("overlaps"))  # It is in our own table.
    assert [each for each in found.of("clients") if each.level == "warn"] == []
    with pytest.raises(LabError, match="conflicts with existing route"):
        lab.engine.docker("network", "connect", backend, client.name)

    client.remove()
    client = lab.client("wide", site.network, networks="10.8.0.0/16")
    await_event(site.sidecar, "client.routed", container=client.name, routes=1)
    assert [each for each in site.ask().of("overlaps") if backend in each.seen] == []
    lab.engine.docker("network", "connect", backend, client.name)
    client.remove()


# --- one client ---------------------------------------------------------------------------------


def stops_at(site: Site, name: str, check: str) -> Finding:
    """Follow that client's packet, which must stop there."""
    found = site.ask(name)
    assert found.exit_code == 1
    assert found.last.endswith(f"{name}: its packet stops at: {check}")
    return found.of(check)[0]


def test_client_that_is_none(site: Site) -> None:
    assert "no container nobody" in stops_at(site, "nobody", "container").seen
    hostly = site.lab.client("hostly", "host", networks=DST)
    assert "the host's network namespace" in stops_at(site, hostly.name, "container").seen
    gateway = stops_at(site, site.gateway.name, "container")
    assert gateway.seen.endswith("is in the gateway's own network namespace")
    hostly.remove()


def test_client_stopped_unattached_and_unlabelled(site: Site) -> None:
    lab = site.lab
    client = lab.client("remote", lab.network("elsewhere", "192.168.99.0/24"), networks=DST)
    client.stop()
    stopped = stops_at(site, client.name, "container")
    assert stopped.seen == f"{client.name} is not running"
    paste(lab, stopped.mend[0])

    unattached = stops_at(site, client.name, "container")
    assert unattached.seen == f"{client.name} is not attached to {site.network}"
    paste(lab, unattached.mend[0])
    await_routes(client, {DST: site.gateway.address(site.network)})
    assert site.ask(client.name).exit_code == 0
    client.remove()

    client = lab.client("remote", site.network)
    unlabelled = stops_at(site, client.name, "container")
    assert unlabelled.seen == f"{client.name} has no label wgroutemgr.networks"
    client.remove()
    client = lab.client("remote", site.network, *options_of(unlabelled.mend))
    await_routes(client, {"192.168.66.0/24": site.gateway.address(site.network)})
    client.remove()


def test_clients_bad_entries_are_named(site: Site) -> None:
    client = site.lab.client("bad", site.network, networks=f"nonsense,{DST}")
    found = site.ask(client.name).of("container")
    client.remove()

    assert [each.level for each in found] == ["ok", "warn"]
    assert found[1].seen == f"{client.name}: nonsense is not a network in CIDR notation"


def test_clients_name_server_and_callers_are_in_a_destination(site: Site) -> None:
    options = ("--dns", FAR, "--publish", "127.0.0.1:8081:81", "--publish", "8080:80")
    client = site.lab.client("called", site.network, *options, networks=f"203.0.113.0/24,{DST}")
    try:
        served = await_event(site.sidecar, "entry.warned", container=client.name, entry=DST)
        assert served["reason"] == f"is served, but holds its DNS server {FAR}"
        (callers,) = events(
            site.sidecar, "entry.warned", container=client.name, entry="203.0.113.0/24"
        )
        assert callers["reason"] == (
            "is served, but callers of the published 80/tcp in it are answered through the gateway"
            " (so are those in 1 more)"
        )
        site.lab.engine.docker("network", "connect", "bridge", client.name)
        found = site.ask(client.name)
        (warned,) = found.of("container")[1:]
        assert warned.seen.partition(": ")[2].partition(" is")[0] == DST
        answered = f"callers of {client.name}'s published 80/tcp are answered through"
        assert found.one("ports").seen.startswith(answered)
        assert len(events(site.sidecar, "entry.warned", container=client.name)) == 2
    finally:
        client.remove()


def test_who_believes_a_redirect_is_told_so(site: Site) -> None:
    """A gateway that sends back out of its front what came in there tells of the next hop.

    In the main table and in our own. The line applied, nothing leaves past it any more.
    """
    gateway, via6 = site.gateway, site.gateway.address(site.network, ipv6=True)
    via = gateway.address(site.network)
    shown = site.client.enter("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
    route6 = ("2001:db8:113::/64", "via", shown.split()[3].partition("/")[0], "dev", "eth0")
    gateway.enter("ip", "-6", "route", "add", *route6)
    label = "203.0.113.0/24, 192.160.0.0/12, 2001:db8:113::/64"
    client = site.lab.client("believer", site.network, networks=label)
    made = [client]
    try:
        assert poll(lambda: ways(client) == [via, via, via6], 10)
        (found,) = (one for one in site.ask().of("redirects") if one.level == "warn")
        assert found.seen.startswith(f"{client.name} believes ICMP redirects: ")
        assert poll(lambda: redirected(client) and via not in ways(client), 10)
        assert ways(client) == ["192.168.67.1", "192.168.67.1", via6]

        # With another address: the kernel soon tells one no more of other ways.
        mended = site.lab.client("mended", site.network, *options_of(found.mend), networks=label)
        made.append(mended)
        client.remove()
        assert poll(lambda: ways(mended) == [via, via, via6], 10)
        assert poll(lambda: redirected(mended), 10)
        assert ways(mended) == [via, via, via6]
        assert site.ask().one("redirects").level == "ok"
    finally:
        for one in made:
            one.remove()
        gateway.enter("ip", "-6", "route", "del", *route6)


def ways(client: Container) -> list[str]:
    """Return the next hops to the hosts of that test."""
    shown = [client.enter("ip", "route", "get", host) for host in ASTRAY]
    return [line.partition(" via ")[2].split()[0] for line in shown]


def redirected(client: Container) -> bool:
    """Send to each of them, and tell whether the client was told of another way to each by now.

    It believes that only where it knows the other next hop as a neighbour.
    """
    client.exec("ping", "-c", "1", "192.168.67.1")
    client.exec("sh", "-c", "".join(f"ping -c 3 -i 0.2 -W 1 {one} & " for one in ASTRAY) + "wait")
    names, values = (
        line.split()
        for line in client.enter("cat", "/proc/net/snmp").splitlines()
        if line.startswith("Icmp:")
    )
    told6 = dict(line.split() for line in client.enter("cat", "/proc/net/snmp6").splitlines())
    told = int(values[names.index("InRedirects")])
    return told > 1 and int(told6["Icmp6InRedirects"]) > 0


ASTRAY = ("203.0.113.80", "192.160.0.80", "2001:db8:113::80")
"""In the main table, in our own, and of IPv6."""


def test_everything_leaves_by_the_tunnel_or_it_is_told(site: Site) -> None:
    """Each line applied, nothing is told of any more. Rules lead into the tunnel, as wg-quick's."""
    lab, gateway, name = site.lab, site.gateway, site.gateway.name
    words = ("pref", "100", "iif", "eth0", "to", "192.0.2.0/24", "lookup", "100")
    words6 = ("pref", "100", "iif", "eth0", "to", "2001:db8::/64", "lookup", "100")
    gateway.enter("ip", "route", "add", "default", "via", "10.255.255.2", "table", "100")
    gateway.enter("ip", "-6", "route", "add", "default", "via", "fd00:ffff::2", "table", "100")
    published = ("--publish", "8082:80")
    client = lab.client("whole", site.network, *published, networks="0.0.0.0/0")
    try:
        broken = site.ask(client.name)
        past = broken.of("tunnel")[0]
        assert (past.level, past.mend[0].split()[1]) == ("fail", "0.0.0.0/0")
        gateway.enter("ip", "rule", "add", *words)
        gateway.enter("ip", "-6", "rule", "add", *words6)
        gateway.exec("ping", "-c", "1", "192.168.67.1")
        gateway.exec("ping", "-c", "1", "fd00:67::1")
        found = site.ask(client.name)
        checks = ("dns", "ports", "ipv6", "nat")
        assert [found.one(check).level for check in checks] == ["warn"] * len(checks)
        into, *_, without = found.of("tunnel")
        assert (into.level, without.level) == ("ok", "warn")
        assert without.seen.startswith(
            f"without its tunnel, {name} sends 0.0.0.0/0 out by eth0 via"
        )

        client.remove()
        options = options_of(found.one("dns").mend)
        client = lab.client("whole", site.network, *options, networks="0.0.0.0/0,::/0")
        apply(gateway, without.mend)
        apply(gateway, [line.replace("iptables", "ip6tables") for line in without.mend])
        apply(gateway, [f"docker exec {name} {found.one('nat').mend[0].partition('= ')[2]}"])
        assert poll(lambda: site.ask(client.name).levels("fail") == [], 10)
        mended = site.ask(client.name)
        assert [mended.one(check).level for check in checks[:3]] == ["ok"] * 3
        assert [each.seen for each in mended.of("tunnel") if each.level != "ok"] == []
        assert reaches(site.client)
    finally:
        client.remove()
        for program in ("iptables", "ip6tables"):
            gateway.enter(program, "-P", "FORWARD", "ACCEPT")
            gateway.enter(program, "-F", "FORWARD")
        with suppress(LabError):
            nat = ("POSTROUTING", "-o", "wg0", "-j", "MASQUERADE")
            gateway.enter("iptables", "-t", "nat", "-D", *nat)
            gateway.enter("ip", "rule", "del", *words)
            gateway.enter("ip", "-6", "rule", "del", *words6)
        gateway.enter("ip", "route", "flush", "table", "100")
        gateway.enter("ip", "-6", "route", "flush", "table", "100")


def apply(gateway: Container, mends: list[str]) -> None:
    """Run lines for the gateway's container with the machine's programs, which its image lacks."""
    for line in mends:
        assert line.startswith(f"docker exec {gateway.name} ")
        gateway.enter(*shlex.split(line, comments=True)[3:])


def test_clients_route_is_gone(site: Site) -> None:
    site.client.enter("ip", "route", "del", DST)
    finding = stops_at(site, site.client.name, "route")
    assert f"sends {DST} to 192.168.67.1 by eth0, not to the gateway" in finding.seen

    paste(site.lab, finding.mend[-1])
    assert site.ask(site.client.name).exit_code == 0


def test_somebody_else_answers_for_the_gateway(site: Site) -> None:
    address = site.gateway.address(site.network)
    neighbour = ("ip", "neigh", "replace", address, "dev", "eth0")
    site.client.enter(*neighbour, "lladdr", "02:00:00:00:00:99", "nud", "permanent")
    finding = stops_at(site, site.client.name, "neighbour")
    site.client.enter(*neighbour[:2], "del", address, "dev", "eth0")

    assert finding.seen.startswith(f"{address} is 02:00:00:00:00:99, PERMANENT, but ")
    assert "neighbour" in dict(site.ask(site.client.name).levels("skip"))
    assert reaches(site.client)


def test_way_back_is_lost(site: Site) -> None:
    address = site.client.address(site.network)
    site.gateway.enter("ip", "route", "add", address, "dev", "wg0")
    finding = stops_at(site, site.client.name, "back")
    site.gateway.enter("ip", "route", "del", address, "dev", "wg0")

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
