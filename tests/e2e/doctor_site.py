"""What the doctor's tests share: a site with a far host, the doctor's words, and its mends applied.

The "tunnel" is a veth pair from the gateway to a container without a network: an interface that the
engine did not make, through which packets really pass. The real WireGuard is in one test.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.e2e.look import await_event
from tests.lab import images
from tests.lab.engine import poll
from tests.lab.errors import LabError
from tests.lab.site import PRIVILEGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.lab.site import Container, Lab

DST, DST6 = "198.51.100.0/24", "2001:db8:51::/64"
FAR, FAR6 = "198.51.100.1", "2001:db8:51::1"
NO_REDIRECTS = ("--sysctl", "net.ipv4.ip_forward=1")
"""As containers have it where the engine is in no network namespace of its own: who forwards does
not believe a gateway that another next hop is the better one."""
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
_SHOW_CODE = '"$@"; echo "exit code $?"'
_LINE = re.compile(r"(ok|warn|fail|skip) +(\w+) +(.*)")


@dataclass
class Finding:
    """One finding as it was printed."""

    level: str
    check: str
    seen: str
    mend: list[str]


@dataclass
class Words:
    """What a doctor printed."""

    findings: list[Finding]
    exit_code: int
    last: str

    def of(self, check: str) -> list[Finding]:
        """Return what a check found."""
        return [finding for finding in self.findings if finding.check == check]

    def one(self, check: str) -> Finding:
        """Return the only thing that a check found."""
        (finding,) = self.of(check)
        return finding

    def levels(self, *levels: str) -> list[tuple[str, str]]:
        """Return check and words of all findings of these levels."""
        return [(each.check, each.seen) for each in self.findings if each.level in levels]


def parse(text: str) -> Words:
    """Read a doctor's output; every line must have its form."""
    *lines, last, code = text.splitlines()
    findings: list[Finding] = []
    for line in lines:
        if match := _LINE.fullmatch(line):
            findings.append(Finding(match[1], match[2], match[3], []))
        else:
            assert line.startswith("      "), text
            findings[-1].mend.append(line.strip())
    return Words(findings, int(code.removeprefix("exit code ")), last)


def ask(sidecar: Container, *words: str) -> Words:
    """Run the doctor in a sidecar that runs."""
    return parse(sidecar.exec("sh", "-c", _SHOW_CODE, "sh", *DOCTOR, *words))


def ask_new(lab: Lab, *options: str, words: Iterable[str] = ()) -> Words:
    """Run the doctor in a sidecar of its own, with these options of `docker run`."""
    command = ("-c", _SHOW_CODE, "sh", *DOCTOR, *words)
    image = images.product(lab.engine)
    run = ("run", "--rm", "--pull", "never", "--entrypoint", "sh", *options, image, *command)
    return parse(lab.engine.docker(*run))


def beside(gateway: Container, network: str, *privileges: str) -> list[str]:
    """Return the options of a sidecar of that gateway, with these or the documented privileges."""
    labels = (f"wgroutemgr.network={network}", f"wgroutemgr.gateway={gateway.name}")
    words = [word for label in labels for word in ("--label", label)]
    return [*(privileges or PRIVILEGES), "--network", "none", *words]


def without(*words: str) -> list[str]:
    """Return the documented privileges without some words and the option before each."""
    flat = list(PRIVILEGES)
    for word in words:
        at = flat.index(word)
        del flat[at - 1 : at + 1]
    return flat


def options_of(mend: Iterable[str]) -> list[str]:
    """Return the options of `docker run` that are the same as the Compose lines of a mend."""
    options: list[str] = []
    for line in mend:
        key, _, rest = line.partition("   #")[0].partition(": ")
        values = [word.strip("'\",") for word in rest.strip("{}[]").split()]
        if option := {"cap_add": "--cap-add", "volumes": "--volume", "dns": "--dns"}.get(key):
            options += [word for value in values for word in (option, value)]
        if option := {"sysctls": "--sysctl", "labels": "--label", "driver_opts": "--opt"}.get(key):
            options += [option, f"{values[0].rstrip(':')}={values[1]}"]
    return options


def paste(lab: Lab, line: str) -> str:
    """Run a line of a mend where a person would: on the engine's machine."""
    program, *words = shlex.split(line, comments=True)
    return lab.engine.docker(*words) if program == "docker" else lab.engine.enter(program, *words)


@dataclass
class Site:
    """A site: client, gateway, a tunnel of sorts, a far host. Both sides know the way back."""

    lab: Lab
    network: str
    gateway: Container
    far: Container
    client: Container
    sidecar: Container

    @property
    def beside(self) -> list[str]:
        """The options of another sidecar."""
        return beside(self.gateway, self.network)

    def ask(self, *words: str) -> Words:
        """Ask the doctor in its sidecar."""
        return ask(self.sidecar, *words)


def make_site(
    lab: Lab, what: str, *options: str, third: int = 67, mtu: int = 1500, sysctls: str = "1"
) -> Site:
    """Make a site; `sysctls` is the value of both forwarding settings."""
    subnets = (f"192.168.{third}.0/24", f"fd00:{third}::/64")
    network = lab.network(f"{what}-net", *subnets, options=options)
    gateway = make_gateway(lab, network, f"{what}-wg", sysctls)
    far = lab.client(f"{what}-far", "none")
    make_tunnel(lab, gateway, far, subnets, mtu)
    client = lab.client(f"{what}-client", network, *NO_REDIRECTS, networks=f"{DST},{DST6}")
    resync = ("--env", "WGROUTEMGR_RESYNC_INTERVAL=3600")
    sidecar = lab.lone_sidecar(f"{what}-sidecar", *resync, gateway=gateway, network=network)
    await_event(sidecar, "pass.finished", trigger="startup")
    return Site(lab, network, gateway, far, client, sidecar)


def make_gateway(
    lab: Lab, network: str, name: str, forwarding: str = "1", *options: str
) -> Container:
    """Run a gateway whose forwarding settings have this value."""
    settings = [f"{key}={forwarding}" for key in FORWARDING]
    words = [word for setting in settings for word in ("--sysctl", setting)]
    words += ["--sysctl", "net.ipv6.conf.all.disable_ipv6=0", "--cap-add", "NET_ADMIN"]
    image = images.wireguard(lab.engine)
    return lab.container(name, image, "--network", network, *words, *options, command=images.WAIT)


def make_tunnel(
    lab: Lab, gateway: Container, far: Container, subnets: tuple[str, str], mtu: int
) -> None:
    """Lead from the gateway by an interface `wg0` to the far host, and back."""
    here, there = (each.inspect("{{.State.Pid}}") for each in (gateway, far))
    lab.engine.enter(
        *("nsenter", "--net", "--target", here, "ip", "link", "add", "wg0", "mtu", str(mtu)),
        *("type", "veth", "peer", "name", "wg0", "netns", there),
    )
    lead(gateway, far, subnets)


def lead(gateway: Container, far: Container, subnets: tuple[str, str]) -> None:
    """Give addresses to both ends of a tunnel `wg0`, and routes to what is behind the other."""
    for container, own, peer, routes in (
        (gateway, 1, 2, (DST, DST6)),
        (far, 2, 1, subnets),
    ):
        commands = [
            "echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6",
            f"ip address add 10.255.255.{own}/30 dev wg0",
            f"ip address add fd00:ffff::{own}/126 dev wg0 nodad",
            "ip link set wg0 up",
            f"ip route replace {routes[0]} via 10.255.255.{peer}",
            f"ip route replace {routes[1]} via fd00:ffff::{peer}",
        ]
        if container is far:
            commands += [f"ip address replace {host} dev lo" for host in (FAR, f"{FAR6}/128")]
        container.enter("sh", "-ec", "\n".join(commands))


def reaches(client: Container, target: str = FAR, seconds: float = 10) -> bool:
    """Tell whether packets pass both ways, or do so within some time."""

    def answered() -> bool:
        try:
            return "1 packets received" in client.exec("ping", "-c", "1", "-W", "1", target)
        except LabError:
            return False

    return poll(answered, seconds, every=0.1)


def set_sysctl(gateway: Container, setting: str) -> None:
    """Set `name=value` in a namespace from outside."""
    name, _, value = setting.partition("=")
    gateway.enter("sh", "-c", f"echo {value} >/proc/sys/{name.replace('.', '/')}")


DOCTOR = ("wgroutemgr", "doctor")
