"""The sidecar runs with the documented privileges, needs each of them, and has nothing beyond."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e.doctor_site import beside, without
from tests.e2e.look import await_event, await_routes, events, routes
from tests.lab import images
from tests.readme import plain, table

if TYPE_CHECKING:
    from tests.lab.engine import Engine
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
CAPABILITIES = {"NET_ADMIN": 12, "SYS_ADMIN": 21}
FAILS = {"NET_ADMIN": ("route.failed", "stderr"), "SYS_ADMIN": ("client.failed", "reason")}
EXAMPLE = "/var/run/docker/netns/8f4e2b7c91d0"


def test_it_works_with_two_capabilities_and_under_the_default_profiles(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    client = lab.client("client", network, networks=DST)
    await_routes(client, {DST: gateway.address(network)})
    status = sidecar.exec("cat", "/proc/1/status")
    fields = dict(re.findall(r"^(\w+):\s+(\S+)", status, re.MULTILINE))

    both = sum(1 << bit for bit in CAPABILITIES.values())
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(fields[name], 16) == both
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    written = sidecar.exec("sh", "-c", "touch /opt/a 2>&1; :")
    assert "Read-only file system" in written


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_what_fails_without_a_capability(
    lab: Lab, network: str, gateway: Container, capability: str
) -> None:
    columns = ("what", "why", "whoever takes the sidecar over could", "without it, in the log")
    said = {plain(what): plain(log) for what, *_, log in table("privileges", *columns)}
    options = beside(gateway, network, *without(capability))
    sidecar = lab.container("sidecar", images.product(lab.engine), *options)
    client = lab.client("client", network, networks=DST)

    await_event(sidecar, "prerequisite.missing", level="error")
    event, key = FAILS[capability]
    failed = await_event(sidecar, event, container=client.name)
    assert said[capability].replace(EXAMPLE, failed["netns"]) in failed[key]
    assert failed["hint"].endswith("cap_add: [NET_ADMIN, SYS_ADMIN]")
    assert events(sidecar, "route.replaced") == []
    assert routes(client) == {}


def test_the_image_holds_nothing_to_install_or_build_with(engine: Engine) -> None:
    script = (
        "python3 -c 'import pip' 2>&1; python3 -c 'import ensurepip' 2>&1; "
        "for name in pip pip3 cc gcc c++ ld make git curl; do command -v $name; done; "
        "find /opt -name tests -o -name 'test_*' -o -name '*.c' -o -name pip"
    )
    words = ("run", "--rm", "--network", "none", "--entrypoint", "sh", images.product(engine))
    said = engine.docker(*words, "-c", script).splitlines()

    assert [line for line in said if not line.startswith((" ", "Traceback"))] == [
        "ModuleNotFoundError: No module named 'pip'",
        "ModuleNotFoundError: No module named 'ensurepip'",
    ]
