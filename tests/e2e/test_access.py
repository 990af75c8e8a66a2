"""The engine behind a filter or a proxy that cuts streams, over TCP and over TLS."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.doctor_site import without
from tests.e2e.look import await_event, await_routes, entries, events
from tests.e2e.proxy import Proxy, tcp_listener
from tests.lab import images
from tests.lab.engine import poll, run
from tests.readme import compose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.engine import Engine
    from tests.lab.site import Container, Lab

DST = "198.51.100.0/24"
SOCKET = "/var/run/docker.sock:/var/run/docker.sock:ro"
HOST = "192.168.67.1"
ENDPOINTS = {
    *("/version", "/events", "/containers/json", "/containers/ID/json"),
    *("/networks", "/networks/ID"),
}
NO_RESYNC = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=3600")


def sidecar(
    lab: Lab, gateway: Container, network: str, *options: str, engine: str = ""
) -> Container:
    """Run the product with another way to the engine than its socket."""
    words = (
        *without(SOCKET),
        *("--network", f"container:{gateway.name}"),
        *("--label", f"wgroutemgr.network={network}", "--env", f"DOCKER_HOST={engine}"),
    )
    return lab.container("sidecar", images.product(lab.engine), *words, *options)


def behind(proxy: Path, lab: Lab, gateway: Container, network: str, *options: str) -> Container:
    mount = ("--volume", f"{proxy.parent}:/run/engine:ro")
    host = f"unix:///run/engine/{proxy.name}"
    return sidecar(lab, gateway, network, *mount, *options, engine=host)


@pytest.fixture
def socket(engine: Engine, lab: Lab) -> Path:
    folder = engine.state / f"proxy-{lab.token}"
    folder.mkdir()
    return folder / "docker.sock"


def allowed() -> str:
    """Return what the documented proxy lets through; the proxy takes it for the whole path."""
    proxy = compose("socket-proxy")["services"]["socket-proxy"]
    (words,) = (word for word in proxy["command"] if word.startswith("-allow"))
    option, _, pattern = words.partition("=")
    assert option == "-allowGET"
    return str(pattern)


def endpoints(seen: list[str]) -> set[str]:
    """Return the paths of GET requests with ids and names replaced; others as they are."""
    named = re.compile(r"^GET (/(?:containers|networks)/)(?!json)[^/]+")
    return {named.sub(r"GET \1ID", line).removeprefix("GET ") for line in seen}


# --- filters ------------------------------------------------------------------------------------


def test_the_documented_reading_calls_suffice_and_no_other_is_tried(
    lab: Lab, network: str, gateway: Container, socket: Path
) -> None:
    with Proxy(socket, lab.engine.socket, allowed=allowed()) as proxy:
        box = behind(socket, lab, gateway, network, *NO_RESYNC)
        await_event(box, "pass.finished", trigger="startup")
        wanted = {DST: gateway.address(network)}

        client = lab.client("client", network, networks=DST)
        await_routes(client, wanted)
        client.restart()
        await_routes(client, wanted)
        late = lab.client("late", lab.network("elsewhere", "192.168.99.0/24"), networks=DST)
        lab.engine.docker("network", "connect", network, late.name)
        await_routes(late, wanted)
        lodger = lab.client("lodger", f"container:{late.name}", networks="203.0.113.0/24")
        await_routes(late, wanted | {"203.0.113.0/24": gateway.address(network)})
        lodger.remove()
        late.restart()
        await_routes(late, wanted)
        gateway.restart()
        await_routes(client, {DST: gateway.address(network)})
        box.restart()
        await_event(box, "daemon.stopped")
        assert poll(lambda: len(events(box, "pass.finished", trigger="startup")) == 2, 20)
        box.exec("wgroutemgr", "status")

        assert proxy.refused == []
        assert endpoints(proxy.seen) == ENDPOINTS


def test_what_changes_anything_is_refused_by_the_documented_filter() -> None:
    for path in (
        *("/containers/0123/archive", "/containers/0123/export", "/containers/0123/attach/ws"),
        *("/info", "/secrets", "/v1.41/images/json", "/v1.41/exec/0123/json", "/_ping"),
    ):
        assert not re.fullmatch(allowed(), path), path
    for path in ENDPOINTS:
        assert re.fullmatch(allowed(), path)
        assert re.fullmatch(allowed(), f"/v1.41{path}")


def test_doctor_and_early_routes_do_without_the_list_of_networks(
    lab: Lab, network: str, gateway: Container, socket: Path
) -> None:
    pattern = allowed().replace("networks(/[^/]+)?", "networks/[^/]+")
    with Proxy(socket, lab.engine.socket, allowed=pattern) as proxy:
        box = behind(socket, lab, gateway, network)
        await_event(box, "pass.finished", trigger="startup")
        for number in range(10):  # A busy machine may be late now and then.
            client = lab.client(f"client{number}", network, networks=DST)
            await_routes(client, {DST: gateway.address(network)})
            if events(box, "route.replaced", trigger="early"):
                break
        assert events(box, "route.replaced", trigger="early")
        said = box.exec("sh", "-c", "wgroutemgr doctor; :")

        assert "let the proxy pass GET /networks" in said
        assert set(proxy.refused) == {"GET /networks"}


def test_refused_event_stream_is_said_once_and_with_its_reason(
    lab: Lab, network: str, gateway: Container, socket: Path
) -> None:
    pattern = allowed().replace("events|", "")
    with Proxy(socket, lab.engine.socket, allowed=pattern) as proxy:
        box = behind(socket, lab, gateway, network, "--env", "WGROUTEMGR_RESYNC_INTERVAL=1")
        assert poll(lambda: len(proxy.refused) >= 3, 20)
        client = lab.client("client", network, networks=DST)
        await_routes(client, {DST: gateway.address(network)})  # every try is a pass

        (lost,) = events(box, "engine.lost")
        assert lost["reason"] == "the engine refused: Forbidden"
        assert set(proxy.refused) == {"GET /events"}
        assert box.exec("sh", "-c", "wgroutemgr health; :") == lost["reason"]


def test_proxy_that_cuts_every_idle_stream_after_a_second(
    lab: Lab, network: str, gateway: Container, socket: Path
) -> None:
    with Proxy(socket, lab.engine.socket, idle=1) as proxy:
        box = behind(socket, lab, gateway, network, *NO_RESYNC)

        def streams() -> int:
            return proxy.seen.count("GET /events")

        assert poll(lambda: streams() >= 3, 30)
        before = entries(box)
        client = lab.client("client", network, networks=DST)
        await_routes(client, {DST: gateway.address(network)})
        more = streams() + 4
        assert poll(lambda: streams() >= more, 30)

        assert len(events(box, "engine.lost")) == 1
        assert len(events(box, "engine.connected")) == 2
        quiet = [entry for entry in entries(box)[len(before) :] if entry["event"].startswith("eng")]
        assert quiet == []
        assert box.exec("wgroutemgr", "health") == "ok"


# --- TCP and TLS --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(engine: Engine) -> Path:
    """Make what a person makes by the manual: an authority, a server's and a client's key."""
    folder = engine.state / "tls"
    folder.mkdir()
    request = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1")
    ca = (f"{folder}/ca.pem", f"{folder}/ca-key.pem")
    usage = ("-addext", "keyUsage=critical,keyCertSign")  # Python asks for it from 3.13 on
    run(*request, *usage, "-subj", "/CN=authority", "-out", ca[0], "-keyout", ca[1])
    for name, extension in (
        ("server", f"subjectAltName=IP:{HOST}"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        out = folder / name
        out.mkdir()
        run(
            *(*request, "-subj", f"/CN={name}", "-CA", ca[0], "-CAkey", ca[1]),
            *("-addext", "basicConstraints=critical,CA:FALSE", "-addext", extension),
            *("-out", f"{out}/cert.pem", "-keyout", f"{out}/key.pem"),
        )
        (out / "ca.pem").write_bytes(Path(ca[0]).read_bytes())
    return folder


@pytest.fixture
def secured(engine: Engine, network: str, certificates: Path) -> Iterator[Proxy]:  # noqa: ARG001 - it makes the bridge that has the address
    """The engine at the address of the bridge, for those who show a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server/cert.pem", certificates / "server/key.pem")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = tcp_listener(Path(f"/proc/{engine.pid}/ns/net"), (HOST, 2376))
    with Proxy(listener, engine.socket, tls=context) as proxy:
        yield proxy


TLS = ("--env", "DOCKER_TLS_VERIFY=1", "--env", "DOCKER_CERT_PATH=/certs")


def test_engine_over_tls(
    lab: Lab, network: str, gateway: Container, certificates: Path, secured: Proxy
) -> None:
    mount = ("--volume", f"{certificates}/client:/certs:ro")
    box = sidecar(lab, gateway, network, *mount, *TLS, *NO_RESYNC, engine=f"tcp://{HOST}:2376")
    await_event(box, "pass.finished", trigger="startup")
    client = lab.client("client", network, networks=DST)

    await_routes(client, {DST: gateway.address(network)})
    assert events(box, "engine.lost") == []
    assert endpoints(secured.seen) <= ENDPOINTS


def test_engine_over_tls_with_a_certificate_of_another_authority(
    lab: Lab, network: str, gateway: Container, certificates: Path, secured: Proxy
) -> None:
    folder = certificates / "other"
    folder.mkdir()
    words = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other")
    run(*words, "-out", f"{folder}/cert.pem", "-keyout", f"{folder}/key.pem")
    (folder / "ca.pem").write_bytes((folder / "cert.pem").read_bytes())
    mount = ("--volume", f"{folder}:/certs:ro")
    box = sidecar(lab, gateway, network, *mount, *TLS, engine=f"tcp://{HOST}:2376")

    lost = await_event(box, "engine.lost")
    assert "certificate verify failed" in lost["reason"]
    assert secured.seen == []


def test_engine_over_tcp(lab: Lab, engine: Engine, network: str, gateway: Container) -> None:
    listener = tcp_listener(Path(f"/proc/{engine.pid}/ns/net"), (HOST, 2375))
    with Proxy(listener, engine.socket):
        box = sidecar(lab, gateway, network, *NO_RESYNC, engine=f"tcp://{HOST}:2375")
        await_event(box, "pass.finished", trigger="startup")
        client = lab.client("client", network, networks=DST)
        wanted = {DST: gateway.address(network)}
        await_routes(client, wanted)
        box.restart()
        client.enter("ip", "route", "del", DST)
        await_routes(client, wanted)
        assert events(box, "engine.lost") == []
