"""An engine with another exec root: its namespaces are elsewhere, and the program says where."""

from __future__ import annotations

from tests.e2e.doctor_site import ask, beside, options_of, without
from tests.e2e.look import await_event, await_routes, events
from tests.lab import images
from tests.lab.engine import Docker, Engine
from tests.lab.site import Lab

DST = "198.51.100.0/24"
ELSEWHERE = "/run/elsewhere/netns"
USUAL = f"{Docker.netns}:{Docker.netns}:ro,rslave"


def test_namespaces_elsewhere_are_named_and_found() -> None:
    with Engine(exec_root="/run/elsewhere") as engine, Lab(engine) as lab:
        product = images.product(engine)
        network = lab.network("wg-net", "192.168.67.0/24")
        gateway = lab.gateway("wireguard", network)
        client = lab.client("client", network, networks=DST)
        usual = lab.container("usual", product, *beside(gateway, network))

        failed = await_event(usual, "client.failed", container=client.name)
        assert failed["reason"].startswith(f"there is no directory {ELSEWHERE}, ")
        assert failed["hint"].endswith(f"-v {ELSEWHERE}:{ELSEWHERE}:ro,rslave")
        found = ask(usual)
        assert found.levels("warn", "fail") == [
            ("namespaces", f"there is no directory {ELSEWHERE}")
        ]
        finding = found.one("namespaces")
        usual.remove()

        options = [*beside(gateway, network, *without(USUAL)), *options_of(finding.mend)]
        mended = lab.container("mended", product, *options)
        await_routes(client, {DST: gateway.address(network)})
        assert events(mended, "prerequisite.missing") == []
        assert ask(mended).one("namespaces").level == "ok"
