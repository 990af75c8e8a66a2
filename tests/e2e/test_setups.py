"""Engines set up otherwise: as a swarm, with users remapped, with another runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lib import advice
from tests.e2e.doctor_site import ask, options_of
from tests.e2e.look import await_event, await_routes
from tests.lab import images
from tests.lab.engine import Engine, poll
from tests.lab.site import PRIVILEGES, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

DST = "198.51.100.0/24"
LABELLED = f"wgroutemgr.networks={DST}"
REMAPPED = """
for file in passwd group subuid subgid; do
    cp /etc/$file /run/$file
    mount --bind /run/$file /etc/$file
done
echo remapped:x:500:500::/:/bin/sh >>/etc/passwd
echo remapped:x:500: >>/etc/group
echo remapped:200000:65536 | tee /etc/subuid >/etc/subgid
"""


class Remapping(Engine):
    """Its containers have user namespaces of their own, in which the host's root is nobody."""

    def __init__(self) -> None:
        super().__init__(config={"userns-remap": "remapped"})

    def start(self) -> None:
        """Let the users of containers come to their files, and start it."""
        self.state.chmod(0o711)
        self.enter("sh", "-ec", REMAPPED)
        super().start()


@pytest.fixture(scope="module")
def swarm() -> Iterator[Engine]:
    """Start a swarm of one, whose `runsc` is the usual runtime under that name."""
    with Engine(config={"runtimes": {"runsc": {"path": "/usr/sbin/runc"}}}) as engine:
        engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
        yield engine


def test_label_under_deploy_is_the_services(swarm: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "network_options", ("--driver", "overlay", "--attachable"))
    with Lab(swarm) as lab:
        network = lab.network("wg-net", "10.67.0.0/24")
        gateway = lab.gateway("wireguard", network)
        sidecar = lab.sidecar("sidecar", gateway, network=network)
        service = lab.name("web")
        words = ("--detach", "--network", network, "--label", LABELLED, "--name", service)
        swarm.docker("service", "create", *words, images.client(swarm))
        try:
            mark = ("--filter", f"label=com.docker.swarm.service.name={service}")
            form = ("--format", "{{.Names}}")
            assert poll(lambda: swarm.docker("ps", *mark, *form), 30, every=0.2)
            task = swarm.docker("ps", *mark, *form)
            finding = ask(sidecar, task).one("container")
            assert finding.level == "fail"
            assert finding.seen == (
                f"{task} has no label wgroutemgr.networks: its service {service} has it"
            )
            assert "not under `deploy:`" in finding.mend[1]

            option, value = options_of(finding.mend[:1])
            assert option == "--label"
            swarm.docker("service", "update", "--detach", "--container-label-add", value, service)
            await_event(sidecar, "client.routed", 60)
            assert ask(sidecar).one("network").level == "ok"
        finally:
            swarm.docker("service", "rm", service)


def test_runtime_with_a_network_stack_of_its_own(swarm: Engine) -> None:
    with Lab(swarm) as lab:
        network = lab.network("wg-net", "192.168.67.0/24")
        gateway = lab.gateway("wireguard", network, "--runtime", "runsc")
        client = lab.client("client", network, "--runtime", "runsc", networks=DST)
        sidecar = lab.sidecar("sidecar", gateway, network=network)

        warned = await_event(sidecar, "entry.warned", container=client.name)
        assert warned["reason"] == (
            "is served, but the runtime runsc does not see routes of its namespace"
        )
        assert warned["hint"] == f"runtime: runc   # in the service of {client.name}"
        found = ask(sidecar)
        assert found.of("gateway")[0].level == "warn"
        assert any("the runtime runsc" in each.seen for each in found.of("clients"))


def test_users_remapped() -> None:
    with Remapping() as engine, Lab(engine) as lab:
        network = lab.network("wg-net", "192.168.67.0/24")
        gateway = lab.gateway("wireguard", network)
        client = lab.client("client", network, networks=DST)
        remapped = lab.sidecar("remapped", gateway, network=network)
        lost = await_event(remapped, "engine.lost")
        assert lost["hint"] == advice.USERNS
        assert (await_event(remapped, "prerequisite.missing"))["hint"] == advice.USERNS
        found = ask(remapped)
        assert [check for check, _ in found.levels("fail")] == ["engine", "capabilities"]
        assert [found.one(check).mend for check in ("engine", "capabilities")] == [
            [advice.USERNS]
        ] * 2
        remapped.remove()

        privileges = (*PRIVILEGES, "--userns", "host", "--label", f"wgroutemgr.network={network}")
        label = f"wgroutemgr.gateway={gateway.name}"
        words = (*privileges, "--network", "none", "--label", label)
        sidecar = lab.container("sidecar", images.product(engine), *words)
        await_routes(client, {DST: gateway.address(network)})
        assert ask(sidecar).one("capabilities").level == "ok"
