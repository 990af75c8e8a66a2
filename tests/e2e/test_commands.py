"""The commands that take one look: what they print is so, and they change no more than they say.

They run in a sidecar without a daemon, so that nothing mends what a test breaks.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.look import await_event, await_routes, entries, routes
from tests.lab import images
from tests.lab.site import PRIVILEGES
from tests.readme import block

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
OTHER_DST = "203.0.113.0/24"
DST6 = "2001:db8:51::/48"
SUBNET = "192.168.67.0/24"
SUBNET6 = "fd00:67::/64"
STRANGER, STRANGER6 = "192.168.67.200", "fd00:67::ff"

Answer = subprocess.CompletedProcess[str]
Row = dict[str, str]


@pytest.fixture
def network(lab: Lab) -> str:
    return lab.network("wg-net", SUBNET, SUBNET6)


@pytest.fixture
def idle(lab: Lab, gateway: Container, network: str) -> Container:
    """Run a sidecar that does nothing until it is told to."""
    return sleeper(lab, gateway, network, *PRIVILEGES)


def sleeper(lab: Lab, gateway: Container, network: str, *options: str) -> Container:
    return lab.container(
        "sidecar",
        images.product(lab.engine),
        *("--network", f"container:{gateway.name}", "--label", f"wgroutemgr.network={network}"),
        *("--entrypoint", "sleep", *options),
        command=("3600",),
    )


def ask(container: Container, *argv: str, env: str = "A=", tty: bool = False) -> Answer:
    """Run a command in a container, as the README shows it."""
    return subprocess.run(
        ["docker", "exec", f"--tty={str(tty).lower()}", "--env", env, container.name, *argv],
        env=container.engine.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def status(container: Container) -> list[Row]:
    found: list[Row] = json.loads(ask(container, "wgroutemgr", "status", "--json").stdout)["routes"]
    return found


def states(container: Container) -> dict[str, str]:
    """Return the state of each destination, or of each container without one."""
    return {row["dst"] or row["container"]: row["state"] for row in status(container)}


def commands(plan: str) -> list[str]:
    return [line for line in plan.splitlines() if not line.startswith("#")]


def mess_up(client: Container) -> None:
    """Give a client wrong routes of several kinds."""
    client.enter("ip", "route", "add", DST, "via", STRANGER)
    client.enter("ip", "route", "add", DST, "via", STRANGER, "metric", "50")
    client.enter("ip", "-6", "route", "add", DST6, "via", STRANGER6, "metric", "7")


def test_plan_is_what_run_does_and_changes_nothing(
    lab: Lab, network: str, gateway: Container, idle: Container
) -> None:
    clients = [
        lab.client("first", network, networks=f"{DST},nonsense,{DST6}"),
        lab.client("second", network, networks=f"{OTHER_DST},{DST6}"),
    ]
    mess_up(clients[0])
    before = [routes(client) for client in clients]

    plan = ask(idle, "wgroutemgr", "plan")

    assert plan.returncode == 3
    assert plan.stderr == ""
    assert [routes(client) for client in clients] == before
    sidecar = lab.sidecar("running-sidecar", gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    ran = [entry["command"] for entry in entries(sidecar) if entry["event"].startswith("route.")]
    assert len(ran) == 6
    # Two namespaces are written side by side; in each the order is the same.
    assert commands(plan.stdout) == sorted(ran, key=lambda line: commands(plan.stdout).index(line))
    for client in clients:
        netns = f"--net={client.inspect('{{.NetworkSettings.SandboxKey}}')}"
        assert [line for line in ran if netns in line] == [
            line for line in commands(plan.stdout) if netns in line
        ]


def test_plan_given_to_a_shell_leaves_nothing_for_run_to_do(
    lab: Lab, network: str, gateway: Container, idle: Container
) -> None:
    client = lab.client("client", network, networks=f"{DST},nonsense,{DST6}")
    lab.client("elsewhere", lab.network("other", "192.168.99.0/24"), networks=DST)
    mess_up(client)

    assert ask(idle, "sh", "-c", "wgroutemgr plan | sh").stderr == ""

    v4, v6 = gateway.address(network), gateway.address(network, ipv6=True)
    assert routes(client) == {DST: v4, DST6: v6}
    again = ask(idle, "wgroutemgr", "plan")
    assert (again.returncode, commands(again.stdout)) == (0, [])
    assert f"# {client.name}: nonsense is not a network in CIDR notation (" in again.stdout
    assert f"is not attached to {network}" in again.stdout
    sidecar = lab.sidecar("running-sidecar", gateway, network=network)
    assert await_event(sidecar, "pass.finished", trigger="startup")["changed"] == 0


def test_status_beside_the_daemon(lab: Lab, network: str, gateway: Container) -> None:
    client = lab.client("client", network, networks=DST)
    sidecar = lab.sidecar("running-sidecar", gateway, network=network)
    await_routes(client, {DST: gateway.address(network)})

    answer = ask(sidecar, "wgroutemgr", "status")

    head, line = answer.stdout.splitlines()
    assert head.split() == [
        *("CONTAINER", "NETWORK", "NAMESPACE", "DESTINATION", "GATEWAY", "STATE", "REASON")
    ]
    netns = client.inspect("{{.NetworkSettings.SandboxKey}}")
    assert line.split() == [client.name, network, netns, DST, gateway.address(network), "ok"]
    assert head.index("DESTINATION") == line.index(DST)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_status_without_a_client(idle: Container) -> None:
    answer = ask(idle, "wgroutemgr", "status", "--json")

    assert (answer.returncode, json.loads(answer.stdout)["routes"]) == (0, [])
    told, _ = answer.stderr.splitlines()
    assert told == "wgroutemgr: no running container carries the label wgroutemgr.networks"


def test_each_state_is_told_from_the_others(lab: Lab, network: str, idle: Container) -> None:
    ok, gone, wrong, beside, direct = (f"198.51.100.{number}/32" for number in range(5))
    asked = f"{ok},{gone},{wrong},{beside},{direct},{SUBNET}"
    client = lab.client("client", network, networks=asked)
    hostly = lab.client("hostly", "host", networks=DST)
    elsewhere = lab.client("elsewhere", lab.network("other", "192.168.99.0/24"), networks=DST)
    assert {ok: "missing", wrong: "missing"}.items() <= states(idle).items()
    ask(idle, "sh", "-c", "wgroutemgr plan | sh")
    client.enter("ip", "route", "del", gone)
    client.enter("ip", "route", "replace", wrong, "via", STRANGER)
    client.enter("ip", "route", "add", beside, "via", STRANGER, "metric", "50")
    client.enter("ip", "route", "replace", direct, "dev", "eth0")

    found = {row["dst"] or row["container"]: row for row in status(idle)}

    assert {key: row["state"] for key, row in found.items()} == {
        ok: "ok",
        gone: "missing",
        wrong: "wrong",
        beside: "wrong",
        direct: "refused",
        SUBNET: "refused",
        hostly.name: "refused",
        elsewhere.name: "skipped",
    }
    assert found[wrong]["reason"] == f"there is {wrong} via {STRANGER}"
    assert "metric 50" in found[beside]["reason"]
    assert "connected by itself" in found[direct]["reason"]
    assert "is equal to or inside" in found[SUBNET]["reason"]
    assert "host's network namespace" in found[hostly.name]["reason"]
    assert ask(idle, "wgroutemgr", "status").returncode == 3


def test_lost_gateway_shows_and_can_be_withdrawn(
    lab: Lab, network: str, gateway: Container, idle: Container
) -> None:
    client = lab.client("client", network, networks=DST)
    ask(idle, "sh", "-c", "wgroutemgr plan | sh")
    gateway.stop()
    assert states(idle) == {DST: "wrong"}

    ask(idle, "sh", "-c", "wgroutemgr plan | sh")

    assert routes(client) == {DST: "unreachable"}
    answer = ask(idle, "wgroutemgr", "status")
    assert answer.returncode == 3
    assert answer.stdout.splitlines()[1].split()[4:6] == ["unreachable", "unreachable"]
    assert "is not running" in answer.stderr
    assert ask(idle, "wgroutemgr", "withdraw").returncode == 0
    assert routes(client) == {}


def test_client_that_cannot_be_looked_at(lab: Lab, network: str, gateway: Container) -> None:
    without_namespaces = [word for word in PRIVILEGES if "netns" not in word][:-1]
    blind = sleeper(lab, gateway, network, *without_namespaces)
    client = lab.client("client", network, networks=DST)

    (row,) = status(blind)
    assert (row["state"], row["dst"]) == ("unknown", DST)
    assert "there is no directory /var/run/docker/netns" in row["reason"]
    assert row["hint"].startswith("mount it into the sidecar")
    assert ask(blind, "wgroutemgr", "status").returncode == 3
    for command in ("plan", "withdraw"):
        answer = ask(blind, "wgroutemgr", command)
        assert answer.returncode == 1
        assert commands(answer.stdout) == []
        told, hint = answer.stderr.splitlines()
        assert told.startswith(f"wgroutemgr: {client.name}: there is no directory")
        assert hint.startswith("hint: mount it")


def test_json_holds_exactly_this(
    lab: Lab, network: str, gateway: Container, idle: Container
) -> None:
    client = lab.client("client", network, networks=f"{DST},198.51.100.7/24")
    v4, v6 = gateway.address(network), gateway.address(network, ipv6=True)
    whose = {
        "container": client.name,
        "container_id": client.inspect("{{.Id}}"),
        "network": network,
        "netns": client.inspect("{{.NetworkSettings.SandboxKey}}"),
    }

    found: dict[str, Any] = json.loads(ask(idle, "wgroutemgr", "status", "--json").stdout)

    rest = {"mtu": 0, "direct": False}
    missing = {"dst": DST, "gateway": v4, "state": "missing", "reason": "", "hint": ""}
    refused = {
        "dst": "198.51.100.7/24",
        "gateway": "",
        "state": "refused",
        "reason": "has host bits set",
        "hint": "write 198.51.100.0/24",
    }
    assert found == {
        "gateway": gateway.name,
        "gateway_id": gateway.inspect("{{.Id}}"),
        "service": "",
        "node": "",
        "networks": [
            {
                "network": network,
                "addresses": [v4, v6],
                "gateways": [
                    {"gateway": gateway.name, "names": [], "standing": "there", "unnamed": True}
                ],
                "reason": "",
            }
        ],
        "routes": [whose | missing | rest, whose | refused | rest],
    }


def test_withdraw_takes_back_what_was_given_and_nothing_else(
    lab: Lab, network: str, gateway: Container, idle: Container
) -> None:
    client = lab.client("client", network, networks=f"{DST},{DST6},{OTHER_DST}")
    foreign = lab.client("foreign", network)
    v4, v6 = gateway.address(network), gateway.address(network, ipv6=True)
    sidecar = lab.sidecar("running-sidecar", gateway, network=network)
    await_routes(client, {DST: v4, DST6: v6, OTHER_DST: v4})
    sidecar.stop()
    client.enter("ip", "route", "replace", OTHER_DST, "via", STRANGER)
    client.enter("ip", "route", "add", DST, "via", v4, "metric", "50")
    client.enter("ip", "-6", "route", "add", DST6, "via", v6, "metric", "7")
    client.enter("ip", "route", "add", "192.0.2.0/24", "via", v4)
    foreign.enter("ip", "route", "add", DST, "via", v4)

    answer = ask(idle, "wgroutemgr", "withdraw")

    assert answer.returncode == 0
    assert routes(client) == {
        OTHER_DST: STRANGER,
        f"{DST} metric 50": v4,
        f"{DST6} metric 7": v6,
        "192.0.2.0/24": v4,
    }
    assert routes(foreign) == {DST: v4}
    enter = f"nsenter --net={client.inspect('{{.NetworkSettings.SandboxKey}}')}"
    assert answer.stdout.splitlines() == [
        f"{enter} ip route del {DST} via {v4}",
        f"{enter} ip -6 route del {DST6} via {v6} metric 1024",
    ]
    assert "a sidecar that runs gives these routes back" in answer.stderr
    again = ask(idle, "wgroutemgr", "withdraw")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_withdraw_as_it_is_documented(lab: Lab, network: str, gateway: Container) -> None:
    client = lab.client("client", network, networks=DST)
    sidecar = lab.sidecar("running-sidecar", gateway, network=network)
    await_routes(client, {DST: gateway.address(network)})
    script = block("withdraw")
    for ours, theirs in {
        "docker stop wgroutemgr": f"docker stop --time 1 {sidecar.name}",
        "=wireguard": f"={gateway.name}",
        "=wg-net": f"={network}",
        "wgroutemgr withdraw": f"{images.product(lab.engine)} withdraw",
    }.items():
        assert script.count(ours) == 1
        script = script.replace(ours, theirs)

    answer = subprocess.run(
        ["sh", "-ec", script],
        env=lab.engine.environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (answer.returncode, routes(client)) == (0, {}), answer.stderr
    assert "ip route del" in answer.stdout


def test_text_of_a_label_breaks_no_line(
    lab: Lab, network: str, gateway: Container, idle: Container
) -> None:
    hostile = f"{DST},\nreboot\n;reboot\x1b[31m,\t\r\n"
    client = lab.client("client", network, networks=hostile)

    plan = ask(idle, "wgroutemgr", "plan").stdout
    table = ask(idle, "wgroutemgr", "status").stdout

    assert [line.split()[0] for line in plan.splitlines()] == ["#", "nsenter"]
    assert len(table.splitlines()) == 3
    assert (plan + table).replace("\n", "").isprintable()
    assert r"reboot\n;reboot\x1b[31m" in table
    assert routes(client) == {}
    assert gateway.running()


def test_colour_is_for_terminals(lab: Lab, network: str, idle: Container) -> None:
    lab.client("client", network, networks=DST)

    assert "\x1b" not in ask(idle, "wgroutemgr", "status").stdout
    assert "\x1b[31mmissing" in ask(idle, "wgroutemgr", "status", tty=True).stdout
    assert "\x1b" not in ask(idle, "wgroutemgr", "status", tty=True, env="NO_COLOR=1").stdout


@pytest.mark.parametrize("command", ["plan", "status", "withdraw"])
@pytest.mark.parametrize(
    ("env", "options", "reason"),
    [
        ("DOCKER_HOST=unix:///nowhere", (), "the engine did not answer as it should"),
        ("A=", ("--gateway", "nobody"), "the engine has no container nobody, named by --gateway"),
        ("A=", ("--network", "nowhere"), "there is no network nowhere"),
    ],
)
def test_error_is_told_plainly(
    idle: Container, command: str, env: str, options: tuple[str, ...], reason: str
) -> None:
    answer = ask(idle, "wgroutemgr", command, *options, env=env)

    assert (answer.returncode, answer.stdout) == (1, "")
    told, hint = answer.stderr.splitlines()
    assert told.startswith(f"wgroutemgr: {reason}")
    assert hint.startswith("hint: ")


def test_wrong_usage_ends_with_code_2(idle: Container) -> None:
    assert ask(idle, "wgroutemgr", "status", "--unknown").returncode == 2
    assert ask(idle, "wgroutemgr", "plan", "--json").returncode == 2
