"""A sidecar without a network, the recommended one, and a gateway that a label names."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.doctor_site import ask, beside
from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab import images
from tests.lab.engine import poll
from tests.lab.site import PRIVILEGES

if TYPE_CHECKING:
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
# What the first process sees when it looks, as its first action; then it stays.
LOOK = ("sh", "-c", "ip route show; trap 'exit 0' TERM; sleep 1000 & wait")


def health(sidecar: Container) -> str:
    return sidecar.exec("sh", "-c", "sh /opt/wgroutemgr/lib/health.sh; :")


def states(sidecar: Container, *options: str) -> list[str]:
    """Return the states that `status` shows."""
    found = sidecar.exec("sh", "-c", 'wgroutemgr status --json "$@"; :', "sh", *options)
    return [row["state"] for row in json.loads(found)["routes"]]


def test_without_a_network_it_serves_the_gateway_that_its_label_names(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.lone_sidecar("sidecar", gateway=gateway, network=network)
    found = await_event(sidecar, "sidecar.found")
    assert (found["container"], found["network"]) == (sidecar.name, network)
    client = lab.client("client", network, networks=DST)
    via = {DST: gateway.address(network)}

    await_routes(client, via)
    assert poll(lambda: health(sidecar) == "ok", 20)
    gateway.stop()
    await_routes(client, {DST: "unreachable"})
    assert poll(lambda: health(sidecar).startswith(f"the gateway {gateway.name} is lost"), 20)
    gateway.start()
    await_routes(client, via)
    said = ask(sidecar)
    assert said.one("gateway").seen == f"{gateway.name}, named by the label wgroutemgr.gateway"
    assert said.one("sidecar").seen.startswith(f"we are {sidecar.name}, known by its daemon")
    assert said.one("reboot").level == said.one("firewall").level == "ok"

    sidecar.stop()
    words = ("run", "--rm", *beside(gateway, network))
    lab.engine.docker(*words, images.product(lab.engine), "withdraw")
    assert routes(client) == {}


def test_routes_are_there_at_the_first_instruction(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.lone_sidecar("sidecar", gateway=gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    words = ("--network", network, "--label", f"wgroutemgr.networks={DST}")
    image = images.client(lab.engine)

    clients = [lab.container(f"client{n}", image, *words, command=LOOK) for n in range(6)]
    for client in clients:
        await_routes(client, {DST: gateway.address(network)})

    # On a busy machine one may be late.
    assert sum(DST in client.logs() for client in clients) >= 5


@pytest.mark.usefixtures("gateway")
def test_in_a_network_of_its_own_it_does_not_take_itself_for_the_gateway(
    lab: Lab, network: str
) -> None:
    client = lab.client("client", network, networks=DST)
    sidecar = lab.lone_sidecar("sidecar", mode=network, network=network)

    waits = await_event(sidecar, "gateway.missing")
    assert waits["reason"] == "this container has a network of its own: name the gateway"
    assert routes(client) == {}


def test_a_gateway_in_the_hosts_network_changes_nobodys_routes(lab: Lab, network: str) -> None:
    client = lab.client("client", network, networks=DST)
    gateway = lab.client("gateway", "host")
    sidecar = lab.sidecar("sidecar", gateway, network=network)

    waits = await_event(sidecar, "gateway.missing")
    assert waits["reason"] == (
        f"the gateway {gateway.name} uses the host's network: "
        "clients reach its tunnels by their default route"
    )
    assert routes(client) == {}


# --- commands beside the daemon -----------------------------------------------------------------


def test_commands_know_what_the_daemon_was_given_as_options(
    lab: Lab, network: str, gateway: Container
) -> None:
    image, none = images.product(lab.engine), ("--network", "none")
    given = ("--gateway", gateway.name, "--network", network, "--on-gateway-loss", "keep")
    other = ("--env", "WGROUTEMGR_NETWORK=other")
    sidecar = lab.container("sidecar", image, *PRIVILEGES, *none, *other, command=given)
    client = lab.client("client", network, networks=DST)
    via = {DST: gateway.address(network)}
    await_routes(client, via)
    await_event(sidecar, "route.replaced")

    said = ask(sidecar)
    assert said.one("gateway").seen == f"{gateway.name}, named by --gateway"
    assert states(sidecar) == ["ok"]
    assert sidecar.exec("wgroutemgr", "plan") == ""
    published = json.loads(sidecar.exec("cat", "/dev/shm/wgroutemgr.state"))  # noqa: S108
    assert published["settings"]["on-gateway-loss"] == "keep"
    assert (published["sidecar"]["gateway"], published["sidecar"]["networks"]) == (
        gateway.name,
        [network],
    )

    stranger = lab.gateway("stranger", network)
    done = subprocess.run(
        ["docker", "exec", sidecar.name, "wgroutemgr", "status", "--gateway", stranger.name],
        env=lab.engine.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, " wrong " in done.stdout) == (3, True)
    assert f"the daemon of this container follows {gateway.name}" in done.stderr
    assert "ip route del" in sidecar.exec("wgroutemgr", "withdraw")


def test_a_gateway_that_was_made_anew_is_followed_by_commands_too(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    client = lab.client("client", network, networks=DST)
    await_routes(client, {DST: gateway.address(network)})
    gateway.remove()
    await_routes(client, {DST: "unreachable"})
    assert states(sidecar) == ["unreachable"]

    gateway = lab.gateway("wireguard", network, "--ip", "192.168.67.99")
    await_routes(client, {DST: "192.168.67.99"})
    stranded = await_event(sidecar, "sidecar.stranded")
    assert str(stranded["hint"]).startswith(f"docker rm -f {sidecar.name}, and run it again")
    assert states(sidecar) == ["ok"]
    assert sidecar.exec("wgroutemgr", "plan") == ""
    finding = ask(sidecar).one("gateway")
    assert (finding.level, finding.seen) == ("warn", stranded["reason"])
    assert finding.mend == [stranded["hint"]]
    assert "ip route del" in sidecar.exec("wgroutemgr", "withdraw")
    assert len(events(sidecar, "sidecar.stranded")) == 1
