"""What is measured: an engine with a network, its gateway, the sidecar, and clients that look.

A client's first process is the probe (`probe.c`). What it says is read from the engine's own log
file, so that waiting for it costs the engine nothing; whose route came when is told by `watch.py`.
"""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from ipaddress import ip_address, ip_network
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import docker

from tests.benchmark.watch import Watch, incarnations
from tests.lab import images
from tests.lab.engine import LABEL, poll, run
from tests.lab.site import PRIVILEGES, Container, Lab

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from tests.benchmark.watch import Incarnation, Seen
    from tests.lab.engine import Engine

PROBE = "wgroutemgr-lab/probe"
SOURCE = Path(__file__).with_name("probe.c")
COMPILE = ("gcc", "-O2", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector")
MOST_WISHES = 10
LIMIT_MS = 2000
"""How long a probe looks."""

SECONDS = 30.0
QUIET = 0.1
"""Seconds without any work after which the sidecar is done."""

SUBNETS = {4: "192.168.67.0/24", 6: "fd00:67::/64"}
GATEWAYS = {4: "192.168.67.129", 6: "fd00:67::129"}
EVERYTHING, TABLE_RULE = "0.0.0.0/0", "0.0.0.0/671"
"""What a client asks for, and the rule without which the route to it is not asked."""
OTHER_SUBNET = "192.168.68.0/24"

# Every route of every namespace that is held by a file, and of the engine's own.
ALL_ROUTES = """
for file in /var/run/docker/netns/* /proc/1/ns/net; do
    echo "= $file"
    nsenter --net="$file" ip -4 route show
    nsenter --net="$file" ip -6 route show
    nsenter --net="$file" ip -4 route show table 671 2>/dev/null | sed 's|^default|0.0.0.0/0|'
done
"""


@dataclass(frozen=True)
class Wish:
    """How many destinations of each IP version a client asks for, or for everything of IPv4."""

    four: int = 0
    six: int = 0
    everything: bool = False

    def destinations(self, client: int) -> tuple[str, ...]:
        """Return that many, other ones for every client, so that a route tells whose it is."""
        if self.everything:
            return (EVERYTHING,)
        first, last = client * MOST_WISHES, client * MOST_WISHES + MOST_WISHES
        four = (f"10.{16 + one // 256}.{one % 256}.0/24" for one in range(first, last))
        six = (f"fd00:66:{one + 1:x}::/64" for one in range(first, last))
        return (*islice(four, self.four), *islice(six, self.six))


NOTHING = Wish()


@dataclass(frozen=True)
class Look:
    """What one start of a probe said."""

    first_look_ns: int
    present_at_ns: int | None
    in_time: bool


@dataclass(frozen=True)
class Start:
    """One start of a client, as the probe and the kernel saw it.

    Attributes:
        container: its id.
        look: what the probe saw.
        position_ms: when the last of its routes came, relative to its first instruction.
        timeline: all that happened around it, in order.
    """

    container: str
    look: Look
    position_ms: float
    timeline: tuple[str, ...] = ()


@dataclass
class Client:
    """A container that runs the probe; without destinations it carries no label."""

    id: str
    name: str
    wanted: tuple[str, ...]
    log: Path
    looks: int = 0
    """How many of its looks were measured already."""
    new: list[Look] = field(default_factory=list)

    def read(self) -> bool:
        """Take in what its probe said since; whether that was anything."""
        with suppress(FileNotFoundError):
            whole, _, _ = self.log.read_text(encoding="utf-8").rpartition("\n")
            lines = whole.splitlines()
            said = [json.loads(json.loads(line)["log"]) for line in lines[self.looks :]]
            self.looks += len(said)
            self.new += [Look(**one) for one in said]
        return bool(self.new)


def probe(engine: Engine) -> str:
    """See that the engine has the image with the probe; returns its name."""
    with tempfile.TemporaryDirectory() as folder:
        binary, archive = Path(folder) / "probe", Path(folder) / "image.tar"
        run(*COMPILE, "-o", str(binary), str(SOURCE))
        with tarfile.open(archive, "w") as tar:
            tar.add(binary, "probe")
        engine.docker("import", "--change", 'ENTRYPOINT ["/probe"]', str(archive), PROBE)
    return PROBE


class World:
    """A network with gateway and sidecar on an engine; leaving the context removes all of it.

    Args:
        engine: where.
        image: the sidecar's, so that several trees can be measured on one engine.
        versions: IP versions of the network.
        options: further arguments of the sidecar.
    """

    def __init__(
        self,
        engine: Engine,
        image: str = images.PRODUCT,
        versions: Sequence[int] = (4,),
        options: Sequence[str] = (),
        cap_add: Sequence[str] = (),
    ) -> None:
        self.engine = engine
        self.image = image
        self.versions = tuple(versions)
        self.gateways = {GATEWAYS[version] for version in versions}
        self._options = tuple(options)
        self._more = tuple(word for name in cap_add for word in ("--cap-add", name))
        self.lab = Lab(engine)
        self._seen: list[Seen] = []
        self._clients: list[Client] = []
        self._numbers = count()
        self._asked: dict[tuple[int, int], tuple[str, ...]] = {}
        """By namespace, what its client wants."""

    def __enter__(self) -> Self:
        """Start gateway and sidecar, and wait until it serves."""
        try:
            self.network = self.lab.network("wg", *(SUBNETS[one] for one in self.versions))
            self.gateway = self._gateway()
            self.sidecar = self._sidecar()
            self.sidecar.await_log('"pass.finished"')
            self.watch = Watch(self.engine)
        except BaseException:
            self.lab.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.watch.__exit__(None, None, None)
        self.lab.__exit__(kind, error, traceback)

    def _gateway(self) -> Container:
        addresses = {4: "--ip", 6: "--ip6"}
        words = [word for one in self.versions for word in (addresses[one], GATEWAYS[one])]
        return self.lab.gateway("gateway", self.network, *words)

    def _sidecar(self) -> Container:
        words = ("--network", f"container:{self.gateway.name}")
        label = ("--label", f"wgroutemgr.network={self.network}")
        command = ("run", "--on-tunnel-loss", "warn", *self._options)  # It has no tunnel.
        return self.lab.container(
            "sidecar",
            self.image,
            *(*PRIVILEGES, *self.engine.shares, *self._more),
            *words,
            *label,
            command=command,
        )

    @cached_property
    def other_network(self) -> str:
        """Another network, made when first asked for."""
        return self.lab.network("other", OTHER_SUBNET)

    def api(self) -> docker.APIClient:
        """A connection to the engine, for one thread."""
        return docker.APIClient(base_url=f"unix://{self.engine.socket}", version="auto")

    # --- clients --------------------------------------------------------------------------------

    def create(
        self,
        api: docker.APIClient,
        wish: Wish,
        *,
        policy: str = "no",
        second: bool = False,
    ) -> Client:
        """Create a client, as `docker create` does."""
        number = next(self._numbers)
        wanted = wish.destinations(number)
        label = {"wgroutemgr.networks": ",".join(wanted)} if wanted else {}
        name = self.lab.name(f"client{number}")
        answer = api.create_container(
            PROBE,
            self._arguments(wanted),
            name=name,
            labels={LABEL: self.lab.token, **label},
            host_config=api.create_host_config(
                network_mode=self.network, restart_policy={"Name": policy}
            ),
        )
        if second:
            api.connect_container_to_network(answer["Id"], self.other_network)
        folder = self.engine.state / "docker" / "containers" / answer["Id"]
        client = Client(answer["Id"], name, wanted, folder / f"{answer['Id']}-json.log")
        self._clients.append(client)
        return client

    def stand_by(self, number: int) -> None:
        """Create so many clients that are never started; they go with all the rest."""
        api = self.api()
        for _ in range(number):
            self.create(api, Wish(1))
        api.close()
        self._clients = []

    def _arguments(self, wanted: tuple[str, ...]) -> list[str]:
        four, six = ip_address(GATEWAYS[4]), ip_address(GATEWAYS[6])
        listed = [ip_network(dst).version for dst in wanted if dst != EVERYTHING]
        in_tables = (four.packed[::-1].hex().upper(), six.packed.hex())
        counted = [in_tables[0], str(listed.count(4)), in_tables[1], str(listed.count(6))]
        return [*counted, str(LIMIT_MS), "1" if EVERYTHING in wanted else "0"]

    def await_look(self, client: Client) -> None:
        """Wait until a started client said what it saw."""
        assert poll(client.read, SECONDS, every=0.005), f"{client.name} said nothing"

    def settle(self) -> None:
        """Wait until the sidecar has nothing more to do."""
        last, since = self._worked(), time.monotonic()
        deadline = since + SECONDS
        while time.monotonic() - since < QUIET:
            assert time.monotonic() < deadline, "the sidecar does not come to rest"
            time.sleep(0.01)
            if (now := self._worked()) != last:
                last, since = now, time.monotonic()

    def process(self, container: Container) -> Path:
        """Where the machine sees the first process of a container."""
        pid = container.inspect("{{.State.Pid}}")
        return Path(f"/proc/{self.engine.pid}/root/proc/{pid}")

    @cached_property
    def _sidecar_process(self) -> Path:
        return self.process(self.sidecar)

    def _worked(self) -> int:
        tasks = self._sidecar_process.glob("task/*/schedstat")
        return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks)

    # --- results --------------------------------------------------------------------------------

    def results(self, *, timelines: bool = False) -> tuple[list[Start], list[str]]:
        """Return all starts since the last call, and every route that was where nobody asked."""
        self.settle()
        api = self.api()
        inspected = {client.id: api.inspect_container(client.id) for client in self._clients}
        api.close()
        self._seen += self.watch.read()
        spaces = incarnations(self._seen)
        starts = self._starts(spaces, inspected, timelines=timelines)
        return starts, [*self._wrong_now(inspected), *self._wrong_ever(spaces)]

    def clear(self) -> None:
        """Remove all clients."""
        if self._clients:
            names = [client.name for client in self._clients]
            self.engine.docker("rm", "--force", "--volumes", *names)
        self._clients = []
        self.settle()
        self.watch.read()
        self._seen = []
        self._asked = {}

    def _starts(
        self, spaces: list[Incarnation], inspected: dict[str, Any], *, timelines: bool
    ) -> list[Start]:
        """Return the labelled clients' starts."""
        starts: list[Start] = []
        events = self._events() if timelines else []
        log = self._log() if timelines else []
        for client in self._clients:
            addresses = _addresses(inspected[client.id])
            for look in client.new:
                space = _space(spaces, addresses, look)
                if not client.wanted:
                    continue
                assert space, f"the kernel said nothing of {client.name}"
                self._asked[space.key] = client.wanted
                position = _position(space, client.wanted, look)
                timeline = _timeline(client, look, space, events, log) if timelines else ()
                starts.append(Start(client.id, look, position, timeline))
            client.new = []
        return starts

    def _wrong_ever(self, spaces: list[Incarnation]) -> list[str]:
        """Every route through our gateway that ever was in a namespace that did not ask for it."""
        return [
            f"for a moment: {route.address} via {route.gateway} in the namespace of "
            f"{', '.join(space.addresses) or space.nsid}"
            for space in spaces
            for route in space.routes
            if route.gateway in self.gateways
            and route.kind == "route"
            and route.address not in self._asked.get(space.key, ())
        ]

    def _wrong_now(self, inspected: dict[str, Any]) -> list[str]:
        """Every namespace whose routes are not exactly the wanted ones."""
        wanted = {
            Path(inspected[client.id]["NetworkSettings"]["SandboxKey"]).name: client
            for client in self._clients
        }
        wrong = []
        answer = self.engine.enter("sh", "-c", ALL_ROUTES)
        for part in answer.split("= ")[1:]:
            path, *lines = part.splitlines()
            client = wanted.pop(Path(path).name, None)
            found = sorted(filter(None, map(_added, lines)))
            right = sorted(
                f"{dst} via {GATEWAYS[ip_network(dst).version]}"
                for dst in (client.wanted if client else ())
            )
            if found != right:
                wrong.append(f"{client.name if client else path}: {found} instead of {right}")
        return wrong + [f"{client.name} has no namespace" for client in wanted.values()]

    def _events(self) -> list[tuple[int, str]]:
        # Not `--until 0s`: the command line cuts a duration's end down to the second.
        period = ("--since", "120s", "--until", f"{time.time():.6f}")
        text = self.engine.docker("events", *period, "--format", "{{json .}}")
        found = []
        for line in text.splitlines():
            event = json.loads(line)
            actor = event["Actor"]
            about = actor["Attributes"].get("container", actor["ID"])
            found.append((event["timeNano"], f"engine {event['Type']} {event['Action']} {about}"))
        return found

    def _log(self) -> list[tuple[int, str]]:
        found = []
        for line in self.sidecar.logs().splitlines():
            with suppress(ValueError, KeyError):
                entry = json.loads(line)
                stamp = datetime.fromisoformat(entry.pop("timestamp"))
                keys = ("container", "container_id", "dst", "reason", "trigger", "netns", "stderr")
                values = {key: entry[key] for key in keys if key in entry}
                values |= {k: entry[k] for k in ("duration_ms", "exit_code") if k in entry}
                moment = int(stamp.timestamp() * 1_000_000) * 1000
                found.append((moment, f"log {entry['event']} {values}"))
        return found


def _addresses(inspected: dict[str, Any]) -> set[str]:
    networks = inspected["NetworkSettings"]["Networks"].values()
    keys = ("IPAddress", "GlobalIPv6Address")
    return {str(ip_address(point[key])) for point in networks for key in keys if point.get(key)}


def _space(spaces: list[Incarnation], addresses: set[str], look: Look) -> Incarnation | None:
    """The namespace in which that look was: the last with these addresses before it."""
    candidates = [
        space
        for space in spaces
        if addresses & space.addresses.keys() and space.since_ns < look.first_look_ns
    ]
    return candidates[-1] if candidates else None


def _position(space: Incarnation, wanted: Sequence[str], look: Look) -> float:
    """When the last wanted route came, in milliseconds from the first instruction."""
    first: dict[str, int] = {}
    for route in space.routes:
        if route.kind in {"route", "rule"}:
            first.setdefault(route.address, route.time_ns)
    wanted = (*wanted, TABLE_RULE) if EVERYTHING in wanted else wanted
    times = [first.get(dst, look.first_look_ns + LIMIT_MS * 1_000_000) for dst in wanted]
    return (max(times) - look.first_look_ns) / 1e6


def _added(line: str) -> str | None:
    """A route that neither engine nor kernel made, in short; None for one of theirs."""
    words = line.split()
    if words[0] in {"default", "unreachable"} or "kernel" in words or words[0].startswith("fe80:"):
        return None
    return f"{words[0]} via {words[words.index('via') + 1]}" if "via" in words else line


def _timeline(
    client: Client,
    look: Look,
    space: Incarnation,
    events: list[tuple[int, str]],
    log: list[tuple[int, str]],
) -> tuple[str, ...]:
    found = [(time, text) for time, text in events if client.id in text]
    found = [(time, text.replace(client.id, "")) for time, text in found]
    found.append((space.since_ns, "kernel namespace has an id"))
    found += [(time, f"kernel address {one}") for one, time in space.addresses.items()]
    found += [(one.time_ns, f"kernel {one.kind} {one.address}") for one in space.routes]
    found.append((look.first_look_ns, f"PROBE first look, in time: {look.in_time}"))
    if look.present_at_ns:
        found.append((look.present_at_ns, "PROBE all present"))
    begin = min(time for time, _ in found if time > look.first_look_ns - 1_500_000_000)
    end = max(look.present_at_ns or 0, look.first_look_ns) + 20_000_000
    found += log
    return tuple(
        f"{(time - look.first_look_ns) / 1e6:9.2f} ms  {text}"
        for time, text in sorted(found)
        if begin - 1_000_000 <= time <= end
    )


def cpu_seconds(processes: Iterable[Path]) -> float:
    """CPU time of processes with those of their children that ended."""
    ticks = 0
    for process in processes:
        fields = (process / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
