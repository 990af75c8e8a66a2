"""What reaches the log, and what the documented queries find in it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import docker
import pytest

from lib.logs.line import MAX_LINE
from tests.e2e.look import await_event, await_routes
from tests.lab import images
from tests.lab.engine import LABEL, poll
from tests.lab.site import Container
from tests.readme import block

if TYPE_CHECKING:
    from tests.lab.site import Lab

DST = "198.51.100.0/24"
SECRET = "correct-horse-battery-staple"  # noqa: S105 - that it is found nowhere is the test


def hostile(lab: Lab, network: str, what: str, label: str) -> Container:
    """Start a client whose label may be longer than a command line."""
    api = docker.APIClient(f"unix://{lab.engine.socket}")
    api.create_container(
        images.client(lab.engine),
        name=lab.name(what),
        environment={"PASSWORD": SECRET},
        labels={LABEL: lab.token, "wgroutemgr.networks": label, "password": SECRET},
        host_config=api.create_host_config(network_mode=network),
    )
    api.close()
    client = Container(lab.engine, lab.name(what))
    client.start()
    return client


@pytest.mark.parametrize("form", ["json", "ecs"])
def test_no_lines_no_secrets_and_no_megabytes_of_others_reach_the_log(
    lab: Lab, network: str, gateway: Container, form: str
) -> None:
    options = ("LOG_LEVEL=debug", f"LOG_FORMAT={form}", f"PASSWORD={SECRET}", "RESYNC_INTERVAL=1")
    words = [word for option in options for word in ("--env", f"WGROUTEMGR_{option}")]
    sidecar = lab.sidecar("sidecar", gateway, *words, network=network)
    lines = f'{DST},first line\n{{"event": "forged"}}\r\n\x1b[31mred\u2028\x85\udcff'
    many = hostile(lab, network, "lines", lines.encode(errors="replace").decode())
    huge = hostile(lab, network, "huge", f"{'x' * 500_000},{' y' * 250_000},{DST}")
    client = lab.client("client", network, networks=DST)
    for container in (many, huge, client):
        await_routes(container, {DST: gateway.address(network)})
    client.enter("ip", "link", "set", "eth0", "down")
    sidecar.await_log("route.failed")

    log = sidecar.logs()
    event = {"json": "event", "ecs": "event.action"}[form]
    entries = [json.loads(line) for line in log.split("\n")]
    assert max(len(line.encode()) for line in log.split("\n")) < MAX_LINE
    assert {"entry.refused", "route.replaced", "pass.finished"} <= {line[event] for line in entries}
    assert "forged" not in {line.get("event") for line in entries}
    assert SECRET not in log
    assert "x" * 100 not in log
    assert "\x1b" not in log


def test_the_documented_queries_answer_their_questions(
    lab: Lab, network: str, gateway: Container
) -> None:
    sidecar = lab.sidecar("sidecar", gateway, network=network)
    client = lab.client("client", network, networks=f"{DST},nonsense")
    await_routes(client, {DST: gateway.address(network)})
    await_event(sidecar, "entry.refused")
    gateway.stop()
    await_event(sidecar, "gateway.lost")
    assert poll(lambda: "unreachable" in client.enter("ip", "route"), 10)
    queries = [
        line.removeprefix("docker logs wgroutemgr | ").replace("dovecot", client.name)
        for name in ("queries", "executed")
        for line in block(name).splitlines()
    ]

    def ask(query: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", query], input=sidecar.logs(), capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    failed, changed, alive, commands = map(ask, queries)
    assert [json.loads(line)["event"] for line in failed] == ["entry.refused", "gateway.lost"]
    assert {line.split("\t")[1] for line in changed} == {"route.replaced"}
    assert changed[-1].endswith(f"ip route replace unreachable {DST}")
    assert [json.loads(line)["event"] for line in alive] == ["gateway.lost"]
    assert [line.split("\t")[2] for line in changed] == commands
