"""What leaves past the gateway in an ordinary set-up, while somebody is away: counted.

The table of docs/whole-tunnel.md. The client sends all the time, in both IP versions. The strongest
set-up is in test_compose.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e.doctor_site import NO_REDIRECTS, lead, make_gateway
from tests.e2e.look import await_event
from tests.e2e.uplink import SENDER, Uplink
from tests.lab.engine import poll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.engine import Engine
    from tests.lab.site import Container, Lab

SUBNETS = ("192.168.67.0/24", "fd00:67::/64")
SECONDS = 10.0
EVERYTHING = "0.0.0.0/0, ::/0"


@dataclass
class Place:
    """A gateway with a tunnel to a far host, a client that sends, a sidecar, and an uplink."""

    lab: Lab
    network: str
    gateway: Container
    client: Container
    uplink: Uplink
    sidecar: Container | None = None

    def tunnel(self) -> None:
        """Make the tunnel, which goes whenever the gateway does."""
        self.uplink.tunnel(self.gateway)
        lead(self.gateway, self.uplink.far, SUBNETS)
        self.gateway.enter("ip", "route", "replace", "default", "via", "10.255.255.2")
        self.gateway.enter("ip", "-6", "route", "replace", "default", "via", "fd00:ffff::2")

    def serve(self) -> None:
        """Run a sidecar, and wait until what the client sends goes through the tunnel."""
        if self.sidecar:
            self.sidecar.start()
        else:
            self.sidecar = self.lab.lone_sidecar(
                "sidecar", gateway=self.gateway, network=self.network
            )
        assert self.uplink.flows()


@pytest.fixture
def place(lab: Lab) -> Iterator[Place]:
    network = lab.network("wg-net", *SUBNETS)
    gateway = make_gateway(lab, network, "wireguard")
    far = lab.client("far", "none")
    with Uplink(far) as uplink:
        command = ("sh", "-c", SENDER)
        client = lab.client("client", network, *NO_REDIRECTS, networks=EVERYTHING, command=command)
        place = Place(lab, network, gateway, client, uplink)
        place.tunnel()
        yield place


def test_what_leaves_past_the_gateway_while_somebody_is_away(place: Place, engine: Engine) -> None:
    step, gateway, client = place.uplink.step, place.gateway, place.client
    docker = engine.docker
    assert poll(lambda: all(place.uplink.left()), SECONDS)
    step("no sidecar yet")
    place.serve()
    assert place.sidecar
    sidecar = place.sidecar
    step("nobody")
    step("sidecar stopped", sidecar.stop)
    place.serve()
    step("sidecar killed", lambda: docker("kill", sidecar.name))
    place.serve()
    step("engine restarted", engine.restart)
    step("engine killed", engine.kill, engine.start)
    await_event(sidecar, "engine.connected")
    step("gateway stopped", gateway.stop)
    step("gateway back, tunnel not yet", gateway.start)
    step("tunnel up", place.tunnel, place.uplink.flows)
    step("tunnel down", place.uplink.close_tunnel)
    step("tunnel up again", place.tunnel, place.uplink.flows)
    step("gateway killed", lambda: docker("kill", gateway.name))
    gateway.start()
    place.tunnel()
    assert place.uplink.flows()
    step("sidecar stopped, gateway killed", sidecar.stop, lambda: docker("kill", gateway.name))
    gateway.start()
    place.tunnel()
    place.serve()
    step("client restarted", client.restart)
    assert place.uplink.flows()
    step("client restarted again", client.restart)
    assert place.uplink.flows()
    step("disconnected", lambda: docker("network", "disconnect", place.network, client.name))
    step("connected", lambda: docker("network", "connect", place.network, client.name))
    assert place.uplink.flows()
    step("sidecar stopped, client restarted", sidecar.stop, client.restart)
    place.serve()

    assert place.uplink.leaky().keys() - RACES == {
        "no sidecar yet",
        "sidecar stopped, client restarted",
    }, place.uplink.counted


RACES = {"client restarted", "client restarted again", "connected"}
"""In which the sidecar has to be quicker than a packet."""
