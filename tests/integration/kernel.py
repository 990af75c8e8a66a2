"""Network namespaces with links, read through iproute2's JSON: independent of what is tested.

What a test starts from is made, and what it ends with is looked at, only by means that the product
does not use.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lib.model import Address, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SECONDS = 5.0
"""How long something that should happen at once may take on a busy machine."""

# The network that is served, as the engine would number it, and a second one of the client.
GATEWAY, GATEWAY6 = "198.51.100.129", "2001:db8:67::129"
OTHER, OTHER6 = "198.51.100.9", "2001:db8:67::9"
ROUTER, ROUTER6 = "198.51.100.254", "2001:db8:67::254"
CLIENT, CLIENT6 = IPv4Interface("198.51.100.2/24"), IPv6Interface("2001:db8:67::2/64")
SECOND, SECOND6 = IPv4Interface("203.0.113.2/25"), IPv6Interface("2001:db8:113::2/64")
NEIGHBOUR, NEIGHBOUR6 = "203.0.113.1", "2001:db8:113::1"

# A network behind the gateway, of each IP version.
DST, DST6 = "192.0.2.0/24", "2001:db8:66::/48"

_SYSCTLS = """
for each in all default; do
    cd /proc/sys/net/ipv6/conf/$each
    echo 0 >accept_dad
    echo 0 >accept_ra
    echo 0 >router_solicitations
done
"""

_LINKS = """
link set lo up
link add eth0 type veth peer name w0 netns {peer}
link add eth1 type veth peer name w1 netns {peer}
link set eth0 up
link set eth1 up
"""
_CLIENT = f"""
address add {CLIENT} dev eth0
address add {CLIENT6} dev eth0 nodad
address add {SECOND} dev eth1
address add {SECOND6} dev eth1 nodad
route add default via {ROUTER}
route add default via {ROUTER6}
"""
_ROUTER = "link set lo up\nlink set w0 up\nlink set w1 up\n" + "".join(
    f"address add {address} dev {link}\n"
    for link, addresses in {
        "w0": [
            *(f"{address}/24" for address in (GATEWAY, OTHER, ROUTER)),
            *(f"{address}/64 nodad" for address in (GATEWAY6, OTHER6, ROUTER6)),
        ],
        "w1": [f"{NEIGHBOUR}/25", f"{NEIGHBOUR6}/64 nodad"],
    }.items()
    for address in addresses
)


_DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}


class Entry(NamedTuple):
    """One route as the kernel holds it, in whatever table."""

    table: str
    kind: str
    dst: str
    gateway: str
    device: str
    metric: int
    mtu: int = 0

    @property
    def onto_a_device(self) -> bool:
        """Whether it leads to neighbours, without any gateway."""
        return self.kind == "unicast" and bool(self.device) and not self.gateway


TOOLS = {name: shutil.which(name) for name in ("ip", "nsenter", "unshare", "busybox", "sh")}
"""Found before any test puts other programs first on the path; None for what is missing."""

IP, NSENTER, UNSHARE, BUSYBOX, SH = (path or name for name, path in TOOLS.items())

DIALECTS = {
    "iproute2": {"ip": IP, "nsenter": NSENTER, "sh": SH},
    "busybox": dict.fromkeys(("ip", "nsenter", "sh"), BUSYBOX),
}


@contextmanager
def dialect(name: str, folder: Path) -> Iterator[None]:
    """Put the programs of one dialect first on the path: `ip`, `nsenter` and the shell."""
    for program, found in DIALECTS[name].items():
        (folder / program).symlink_to(found)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{path}"
    try:
        assert shutil.which("ip") == str(folder / "ip")
        yield
    finally:
        os.environ["PATH"] = path


def poll(condition: Callable[[], object], seconds: float = SECONDS) -> bool:
    """Wait until the condition is true, at most that long; tell whether it is."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@dataclass(frozen=True)
class Namespace:
    """A network namespace, held by the mount of its file."""

    path: Path

    def run(self, *words: str, stdin: str = "") -> str:
        """Run a program in it and return what it printed; fail if it failed."""
        done = subprocess.run(
            [NSENTER, f"--net={self.path}", *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def ip(self, *lines: str, version: int | None = None) -> None:
        """Run lines of iproute2's `ip`, such as `route add ...`, in one go."""
        options = [f"-{version}"] if version else []
        self.run(IP, *options, "-batch", "-", stdin="\n".join(lines))

    def pings(self, address: str) -> bool:
        """Tell whether an address answers from in here."""
        words = (NSENTER, f"--net={self.path}", BUSYBOX, "ping", "-c1", "-W1", address)
        return not subprocess.run(words, capture_output=True, check=False).returncode

    def entries(self, *options: str, versions: tuple[int, ...] = (4, 6)) -> list[Entry]:
        """Return the routes of all tables; options such as `table main` select."""
        return sorted(
            Entry(
                str(item.get("table", "main")),
                item.get("type", "unicast"),
                _DEFAULT[version] if item["dst"] == "default" else item["dst"],
                item.get("gateway") or item.get("via", {}).get("host", ""),
                item.get("dev", ""),
                item.get("metric", 0),
                item.get("metrics", [{}])[0].get("mtu", 0),
            )
            for version in versions
            for item in self._shown(version, *(options or ("table", "all")))
        )

    def routes(self, version: int) -> list[Route]:
        """Return the main table of an IP version in the product's words, ordered."""
        return ordered(
            Route(
                ip_network(entry.dst),
                ip_address(entry.gateway) if entry.gateway else None,
                entry.metric,
                "connected" if entry.onto_a_device else entry.kind,
                mtu=entry.mtu,
            )
            for entry in self.entries("table", "main", versions=(version,))
        )

    def settled(self) -> bool:
        """Tell whether the kernel has done what it does after a link went up."""
        shown = self._shown(4) + self._shown(6) + self._shown(6, "table", "local")
        kinds = Counter(item.get("type", item["dst"]) for item in shown)
        # Both links' own addresses, two that are added, and the loopback's.
        complete = (kinds["fe80::/64"], kinds["local"], kinds["multicast"]) == (2, 5, 2)
        return complete and not any("linkdown" in item["flags"] for item in shown)

    def _shown(self, version: int, *options: str) -> list[dict[str, Any]]:
        text = self.run(IP, f"-{version}", "-json", "route", "show", *options)
        return cast("list[dict[str, Any]]", json.loads(text or "[]"))


def ordered(routes: Iterable[Route]) -> list[Route]:
    return sorted(routes, key=repr)


def route(
    dst: str, gateway: str | None = None, metric: int | None = None, kind: str = "unicast"
) -> Route:
    """Return a route; without a metric it has the one that the kernel gives it."""
    network = ip_network(dst)
    usual = {4: 0, 6: 1024}[network.version]
    address: Address | None = ip_address(gateway) if gateway else None
    return Route(network, address, usual if metric is None else metric, kind)


@contextmanager
def namespace(path: Path) -> Iterator[Namespace]:
    """Make an empty network namespace whose file is `path`, and remove it in the end."""
    path.touch()
    subprocess.run([UNSHARE, f"--net={path}", "true"], check=True)
    try:
        yield Namespace(path)
    finally:
        subprocess.run(["umount", str(path)], check=True)
        path.unlink()


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    """Show a namespace under a second name, as the engine does the host's."""
    target.touch()
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


def descriptors() -> int:
    """Count the files that this process holds open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def few_descriptors(spare: int = 0) -> Iterator[None]:
    """Let this process open that many files more; below zero, less than it holds open."""
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(1, lowest_free + spare), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def client(folder: Path) -> Iterator[Namespace]:
    """Make a client's namespace, and the one with everybody else on its two networks."""
    with namespace(folder / "client") as made, namespace(folder / "others") as others:
        for each in (made, others):
            each.run(SH, "-c", _SYSCTLS)
        made.ip(_LINKS.format(peer=others.path))
        others.ip(_ROUTER)
        made.ip(_CLIENT)
        assert poll(made.settled), made.entries()
        yield made
