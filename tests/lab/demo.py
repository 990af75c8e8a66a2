"""The two-site demo: a container on one site reaches a container on another one.

It uses the engine of this machine where one answers, else a private one, shows what the product
did and what came of it, and removes all it made. It only shows and checks: building belongs to the
rest of the lab, routes to the product.
"""

import argparse
import io
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.lab import images, install
from tests.lab.engine import Docker, Engine, Existing, clean, poll
from tests.lab.errors import LabError
from tests.lab.site import Container, Lab
from tests.lab.tunnel import Site, TwoSites, two_sites

NAME = "demo"
ROUTE_SECONDS = 30
PINGS = 3

PICTURE = """\
  {site1:^18}                              {site2:^18}
  {client1:^18}                              {client2:^18}
  {address1:^18}                              {address2:^18}
  {bar:^18}                              {bar:^18}
  {net1:^18}                              {net2:^18}
  {bar:^18}                              {bar:^18}
  {gateway1:^18} ======= WireGuard ======== {gateway2:^18}
  {sidecar1:^18}                              {sidecar2:^18}
"""

LOOK_AROUND = """\
Everything is left standing. To look around:

{export}    docker ps
    docker logs --follow sidecar1-{token}
    docker exec client1-{token} ip route
    docker exec client1-{token} ping {there}
    docker exec wireguard1-{token} wg show
    docker run --rm --detach --name another --network site1-{token} \\
        --label wgroutemgr.networks={wanted} {image}

To remove it (the next run does it too):

    ./tests/demo --clean
"""

SHOWN = sys.stdout
STYLED = SHOWN.isatty() and not os.environ.get("NO_COLOR")


def main() -> int:
    """Run the demo; returns the exit code."""
    arguments = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        _require_root()
        if arguments.clean:
            _clean()
            print("Nothing of the demo is left.")
            return 0
        with _recorded(arguments.record), ExitStack() as stack:
            return _demo(stack, keep=arguments.keep, private=arguments.private)
    except LabError as error:
        print(f"\n{_styled('demo: ' + str(error), '31')}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./tests/demo",
        description="Show two sites whose containers reach each other through a WireGuard tunnel, "
        "on this machine, from nothing; needs root. Uses the Docker Engine that answers, else "
        "installs Docker and starts a private engine. Only installed packages stay.",
    )
    parser.add_argument("--keep", action="store_true", help="leave it standing, to look around")
    parser.add_argument("--clean", action="store_true", help="remove what --keep left, and end")
    parser.add_argument(
        "--private", action="store_true", help="start a private engine even if another one answers"
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write what is shown into a file as well"
    )
    return parser.parse_args()


class _Recorder(io.StringIO):
    """Keeps what is shown, without its colours."""

    def write(self, text: str, /) -> int:
        SHOWN.write(text)
        return super().write(re.sub(r"\x1b\[\d+m", "", text))

    def flush(self) -> None:
        SHOWN.flush()


@contextmanager
def _recorded(file: Path | None) -> Iterator[None]:
    """Write what is shown into that file as well, unless the demo fails."""
    if file is None:
        yield
        return
    with redirect_stdout(_Recorder()) as shown:
        print("$ ./tests/demo")
        yield
    kept = re.sub(r" +$", "", shown.getvalue(), flags=re.MULTILINE)
    file.write_text(kept, encoding="utf-8")


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError(
            seen="the demo makes namespaces and routes, and this is not root",
            hint="sudo ./tests/demo",
        )


def _stop(number: int, _: FrameType | None) -> NoReturn:
    # What follows is cleaning up, which no second signal may cut short.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    print(f"\n{signal.Signals(number).name}: cleaning up ...", flush=True)
    sys.exit(128 + number)


def _demo(stack: ExitStack, *, keep: bool, private: bool) -> int:
    began = time.monotonic()
    _heading("Docker Engine and images")
    _clean()
    engine = _engine(stack, keep=keep, private=private)
    pull = isinstance(engine, Existing)
    if pull and not keep:
        stack.callback(images.remove, engine)
    with _step("Building wgroutemgr's image from its Dockerfile"):
        images.product(engine, pull=pull)
    with _step("Making the images of clients and gateways"):
        images.client(engine)
        images.wireguard(engine)

    _heading("Two sites and a tunnel")
    lab = stack.enter_context(Lab(engine, NAME, keep=keep))
    with _step("Making two networks, two WireGuard gateways and the tunnel between them"):
        sites = two_sites(lab)
    print(f"  {sites.first.gateway.logs().splitlines()[0]}")
    with _step("Starting client 1, before there is any wgroutemgr"):
        client1 = sites.start_client(sites.first)
    _show_silence(client1, sites.second)
    with _step("Starting a wgroutemgr beside each gateway"):
        sites.start_sidecar(sites.first)
        sites.start_sidecar(sites.second)
    with _step("Starting client 2, while wgroutemgr is watching"):
        client2 = sites.start_client(sites.second)
    with _step("Waiting for the routes"):
        for site in (sites.first, sites.second):
            _await_routes(sites, site)
    print()
    print(_picture(sites, client1, client2))

    _show(sites, client1, client2)
    _heading("Result")
    seconds = time.monotonic() - began
    good = f"Both clients reach each other through the tunnel. {seconds:.0f} s."
    print(_styled(good, "32"))
    if keep:
        print()
        print(_look_around(engine, sites, client2))
        return 0
    with _step("Removing it all"):
        stack.close()
    return 0


def _engine(stack: ExitStack, *, keep: bool, private: bool) -> Docker:
    if not private:
        try:
            existing = Existing()
        except LabError as error:
            print(f"  {str(error).splitlines()[0]}")
        else:
            print(f"  Using this machine's Docker Engine {existing.version}.")
            _install(("ip", "update-ca-certificates"))
            return existing
    _install(install.LAB)
    with _step("Starting a private Docker Engine"):
        engine = stack.enter_context(Engine(keep=keep))
    print(f"  Docker Engine {engine.version}, in namespaces of its own.")
    return engine


def _install(commands: Sequence[str]) -> None:
    with _step("Installing what is missing"):
        installed = install.ensure(commands)
    if installed:
        print(f"  Installed {' '.join(installed)}; they stay, no service was started.")


def _clean() -> None:
    """Remove what earlier demos left, killed or kept."""
    for state in clean(kept=True):
        print(f"  Removed the engine of an earlier run in {state}.")
    try:
        existing = Existing()
    except LabError:
        return
    existing.remove_labelled(NAME)
    images.remove(existing)


def _show_silence(client: Container, there: Site) -> None:
    address = there.gateway.address(there.network)
    print(f"  {_prompt(client, 'ping', '-c1', '-W1', address)}")
    try:
        client.exec("ping", "-c1", "-W1", address)
    except LabError:
        print("  no answer: client 1 does not know the way to site 2")
    else:
        print("  an answer: this engine itself routes between the sites, see the counters below")


def _await_routes(sites: TwoSites, site: Site) -> None:
    client, sidecar = site.client, site.sidecar
    assert client is not None
    assert sidecar is not None
    wanted = sites.other(site).subnets

    def routed() -> bool:
        return all(f"{subnet} via" in _routes(client) for subnet in wanted)

    poll(lambda: routed() or not sidecar.running(), ROUTE_SECONDS, every=0.1)
    if not routed():
        state = f"after {ROUTE_SECONDS} s" if sidecar.running() else f"and {sidecar.name} ended"
        raise LabError(
            seen=f"{client.name} has no routes to {' and '.join(wanted)} {state}:\n"
            f"{_routes(client)}\n{sidecar.name} wrote:\n{sidecar.logs()}",
            hint="the sidecar's log above says what it did, and what it did not and why",
        )


def _routes(client: Container) -> str:
    return client.exec("ip", "route") + "\n" + client.exec("ip", "-6", "route")


def _show(sites: TwoSites, client1: Container, client2: Container) -> None:
    both = (sites.first, sites.second)
    for site in both:
        assert site.sidecar is not None
        _heading(f"What wgroutemgr wrote on site {site.number}")
        print(_prompt(None, "docker", "logs", site.sidecar.name))
        print(site.sidecar.logs())
    for site, client in zip(both, (client1, client2), strict=True):
        _heading(f"Routing tables of client {site.number}")
        for words in (("ip", "route"), ("ip", "-6", "route")):
            _exec(client, *words)

    before = {site.number: _transfer(site) for site in both}
    for (source, target), site in zip(
        ((client1, client2), (client2, client1)), (sites.second, sites.first), strict=True
    ):
        _heading(f"From {source.name} to {target.name}")
        _exec(source, "ping", f"-c{PINGS}", target.address(site.network))
        _exec(source, "ping", f"-c{PINGS}", target.address(site.network, ipv6=True))
        _exec(source, "traceroute", "-n", "-q1", "-w2", target.address(site.network))

    _heading("The tunnel's counters")
    for site in both:
        _exec(site.gateway, "wg", "show", "wg0")
    for site in both:
        _check_transfer(site, before[site.number], _transfer(site))


def _transfer(site: Site) -> tuple[int, int]:
    """Bytes that a gateway's tunnel has received and sent."""
    _, received, sent = site.gateway.exec("wg", "show", "wg0", "transfer").split()
    return int(received), int(sent)


def _check_transfer(site: Site, before: tuple[int, int], after: tuple[int, int]) -> None:
    received, sent = (now - then for now, then in zip(after, before, strict=True))
    print(
        f"  {site.gateway.name}: {received} bytes received, {sent} sent through the tunnel "
        f"since the first ping"
    )
    # Each of the four pings sends and answers packets of at least 84 bytes in either direction.
    least = 4 * PINGS * 84
    if min(received, sent) < least:
        raise LabError(
            seen=f"less than the {least} bytes of the pings went through the tunnel",
            hint="the clients reach each other some other way: see their routing tables",
        )


def _picture(sites: TwoSites, client1: Container, client2: Container) -> str:
    return _styled(
        PICTURE.format(
            bar="|",
            site1="site 1",
            site2="site 2",
            client1=client1.name,
            client2=client2.name,
            address1=client1.address(sites.first.network),
            address2=client2.address(sites.second.network),
            net1=sites.first.subnets[0],
            net2=sites.second.subnets[0],
            gateway1=sites.first.gateway.name,
            gateway2=sites.second.gateway.name,
            sidecar1=f"sidecar1-{NAME}",
            sidecar2=f"sidecar2-{NAME}",
        ),
        "36",
    )


def _look_around(engine: Docker, sites: TwoSites, client2: Container) -> str:
    private = isinstance(engine, Engine)
    export = f"    export DOCKER_HOST=unix://{engine.socket}\n" if private else ""
    there = client2.address(sites.second.network)
    wanted = sites.second.wanted
    return LOOK_AROUND.format(
        export=export, token=NAME, there=there, wanted=wanted, image=images.CLIENT
    )


def _exec(container: Container, *words: str) -> None:
    print(_prompt(container, *words))
    print(container.exec(*words))
    print()


def _prompt(container: Container | None, *words: str) -> str:
    place = ("docker", "exec", container.name) if container else ()
    return _styled("$ " + " ".join((*place, *words)), "2")


def _heading(text: str) -> None:
    print(f"\n{_styled(text, '1')}\n{_styled('-' * len(text), '1')}", flush=True)


@contextmanager
def _step(text: str) -> Iterator[None]:
    """Say what is being done while it is, and how long it took once it is done."""
    print(f"  {text} ... ", end="", flush=True)
    began = time.monotonic()
    try:
        yield
    except LabError:
        print(_styled("failed", "31"), flush=True)
        raise
    print(f"{time.monotonic() - began:.1f} s", flush=True)


def _styled(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if STYLED else text


if __name__ == "__main__":
    sys.exit(main())
