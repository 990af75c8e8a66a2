"""Random faults from a seed, again and again until they settle, then an exact comparison.

    ./tests/run soak --seconds 3600 --seed 7

A dozen clients on two networks, one with a gateway, one with two, which labels name or not; each of
these has a sidecar, all on an engine of its own. Steps are drawn from everything that may happen to
clients, routes, gateways, sidecars and the engine.
Then it waits until every namespace holds what the model says, and no more, or a deadline passes.
Truth about containers is what the engine says, truth about routes is what the kernel says.
"""

from __future__ import annotations

import random
import re
import statistics
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import docker

from tests.lab import images
from tests.lab.engine import LABEL, poll
from tests.lab.errors import LabError
from tests.lab.site import PRIVILEGES, Lab
from tests.lab.soak_model import (
    BAD,
    FIRST,
    GATEWAYS,
    GOOD,
    NETS,
    RESYNC,
    SERVED,
    Box,
    differences,
    parse,
    wanted,
)
from tests.lab.soak_watch import SoakError, Watch, fail, zombies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.lab.engine import Engine
    from tests.lab.soak_model import Routes

CLIENTS = 12
HOLD_SECONDS = 10
"""For which who comes back lets another one serve."""

SETTLE_SECONDS = 3 * RESYNC + HOLD_SECONDS
"""How long all may take to be right after the last fault, on a machine with other things to do."""

SLOW = 1.5 * RESYNC + HOLD_SECONDS
"""From here on the steps are shown even though all came right."""

STEPS = (10, 20)
"""Steps between two comparisons, at least and at most."""

ASKS = "wgroutemgr-soak.asks"
"""Label with the good part of a client's wishes, for the model; the product does not know it."""

ROLE = "wgroutemgr-soak.role"

UNNAMED = "wgroutemgr.networks"

NAMED = (("",), ("",), ("wg-a",), ("wg-b",), ("wg-z",), ("wg-a", "wg-z"), ("", "wg-z"))
"""Which labels have a destination: that which names none, or some that name a gateway."""

# What the engine may answer when several things happen at once.
RACES = re.compile(
    r"is not running|No such container|non running container|already in progress|"
    r"can't get final child's PID|"  # runc: the namespace to join went with its owner
    r"is not connected|already exists in network|marked for removal|is already|"
    r"/ns/net: no such file",
)
# While a route leads to a network, the engine attaches the container to nothing inside it.
CONFLICT = re.compile(r"conflicts with existing route")


STEP: list[tuple[int, Callable[[Soak], bool]]] = []


def step(weight: int) -> Callable[[Callable[[Soak], bool]], Callable[[Soak], bool]]:
    """Register a step: how often it is drawn. It returns False when it is not possible now."""

    def register(function: Callable[[Soak], bool]) -> Callable[[Soak], bool]:
        STEP.append((weight, function))
        return function

    return register


class Soak:
    """One run: the site, what was done to it, and what was seen."""

    def __init__(self, engine: Engine, lab: Lab, seed: int, tell: Callable[[str], None]) -> None:
        self.engine = engine
        self.lab = lab
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311 - no secret
        self.tell = tell
        self.begun = time.monotonic()
        self.watch = Watch()
        self.boxes: list[Box] = []
        self.journal: list[str] = []
        self.counts: Counter[str] = Counter()
        self.settled: list[tuple[float, bool]] = []
        self.number = dict(FIRST)
        self.serial = 0
        self.down: set[str] = set()
        self.foreign: dict[int, Routes] = {}
        self.given: dict[str, dict[int, set[str]]] = {net: defaultdict(set) for net in GATEWAYS}
        self.tolerated: dict[int, set[str]] = defaultdict(set)
        self.lingering = 0

    # --- what is there --------------------------------------------------------------------------

    def look(self) -> list[Box]:
        """Ask the engine for all containers and remember whose namespace is whose."""
        client = docker.APIClient(base_url=f"unix://{self.engine.socket}", timeout=60)
        try:
            mark = {"label": f"{LABEL}={self.lab.token}"}
            boxes = []
            for item in client.containers(all=True, filters=mark):
                try:
                    boxes.append(self._box(client.inspect_container(item["Id"])))
                except docker.errors.NotFound:
                    continue
        finally:
            client.close()
        self.watch.know(boxes)
        self.boxes = sorted(boxes, key=lambda box: box.name)
        self._bear_in_mind()
        return self.boxes

    def _bear_in_mind(self) -> None:
        """Note what was given, and what a sidecar that ended meanwhile cannot take back.

        What it gave is remembered by the process alone. What is not wanted any more when the next
        process does its first pass may stay; it must be right only if it is wanted again.
        """
        asked: dict[str, dict[int, set[str]]] = {net: defaultdict(set) for net in GATEWAYS}
        for box in self.owners():
            for net in (key for key, one in GATEWAYS.items() if one in box.served()):
                asked[net][box.pid] = set(wanted(box, self.boxes, dict.fromkeys(GATEWAYS)))
                self.given[net][box.pid] |= asked[net][box.pid]
        for net in sorted(self.watch.fresh):
            for pid, destinations in self.given[net].items():
                self.tolerated[pid] |= destinations - asked[net][pid]
            self.read_log(net)

    def _box(self, answer: dict[str, Any]) -> Box:
        labels = answer["Config"]["Labels"]
        networks = answer["NetworkSettings"]["Networks"] or {}
        running = bool(answer["State"]["Running"])
        attached = {
            name.rpartition("-")[0]: (point["IPAddress"], point["GlobalIPv6Address"])
            for name, point in networks.items()
            if name != "host"
        }
        return Box(
            id=answer["Id"],
            name=answer["Name"].removeprefix("/"),
            role=labels[ROLE],
            running=running,
            pid=answer["State"]["Pid"],
            mode=answer["HostConfig"]["NetworkMode"],
            key=answer["NetworkSettings"]["SandboxKey"],
            networks=attached,
            asks=tuple(labels.get(ASKS, "").split()),
            log=answer["LogPath"],
            started=answer["State"]["StartedAt"],
        )

    def box(self, what: str) -> Box | None:
        """Return the container of that name, as last seen."""
        return next((box for box in self.boxes if box.what == what), None)

    def clients(self, *, running: bool | None = None) -> list[Box]:
        """Return all clients, or those that run, or those that do not, as last seen."""
        clients = [box for box in self.boxes if box.role == "client"]
        return [box for box in clients if running is None or box.running == running]

    def owner(self, box: Box) -> Box | None:
        """Return the container whose namespace it has, if that runs."""
        owner = next((b for b in self.boxes if b.id == (box.host_of or box.id)), None)
        return owner if owner and owner.running else None

    def gateway(self, net: str) -> tuple[str, str] | None:
        """Return the addresses of a gateway; None while it is lost."""
        box = self.box(f"gw-{net}")
        addresses = box.networks.get(GATEWAYS[net]) if box and box.running else None
        return addresses if addresses and all(addresses) else None

    def routes(self, boxes: Iterable[Box]) -> dict[int, Routes]:
        """Read the kernel's routes in the namespaces of these containers, and, as 0, the host's."""
        script = """
            for family in -4 -6; do
                echo "== 0 $family"; ip $family -j route show table main; echo
                for pid in "$@"; do
                    echo "== $pid $family"
                    nsenter --target "$pid" --net ip $family -j route show table main; echo
                done
            done; :"""
        pids = [str(box.pid) for box in boxes]
        text = self.engine.enter("sh", "-c", script, "sh", *pids)
        found: dict[int, Routes] = defaultdict(dict)
        for block in text.split("== ")[1:]:
            head, _, body = block.partition("\n")
            pid, family = head.split()
            found[int(pid)] |= parse(body, family)
        return found

    # --- doing ----------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Write down what is done, for the report of a failure."""
        self.journal.append(f"{self.now():8.2f}  {text}")

    def docker(self, *words: str, may: re.Pattern[str] | None = None) -> str:
        """Run a docker command, which may fail only by saying something that is expected."""
        ours = (LABEL, ROLE, ASKS, "--label", "--pull", "never", "--detach")
        shown = (ascii(word)[1:-1] for word in words if not word.startswith(ours))
        self.note(" ".join(("docker", *(w if len(w) < 200 else f"{w[:200]}..." for w in shown))))
        try:
            return self.engine.docker(*words)
        except LabError as error:
            if may is None or not may.search(str(error)):
                raise
            self.note(f"    refused: {str(error).splitlines()[-1][:200]}")
            if CONFLICT.search(str(error)):
                # What the engine says of the container from here on contradicts itself.
                self.docker("rm", "--force", words[-1])
            return ""

    def together(self, commands: Iterable[Sequence[str]]) -> None:
        """Run several docker commands at the same time."""
        with ThreadPoolExecutor(8) as pool:
            may = re.compile(f"{RACES.pattern}|{CONFLICT.pattern}")
            for future in [pool.submit(self.docker, *words, may=may) for words in commands]:
                future.result()

    def name(self, net: str) -> str:
        return self.lab.name(net)

    def wishes(self, *, always: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Draw a label's good entries, and the options that put it onto a container."""
        if not always and self.rng.random() < 0.15:
            return (), ()
        good = self.rng.sample(GOOD, 5 if always else self.rng.choice((0, 1, 1, 2, 3, 5)))
        bad = self.rng.sample(BAD, self.rng.choice((0, 0, 0, 1, 3)))
        names = {dst: self.rng.choice(NAMED) for dst in good}
        asks: list[str] = []
        words: list[str] = []
        for name in sorted({"", *(one for each in names.values() for one in each)}):
            own = [dst for dst in good if name in names[dst]]
            asks += [f"{name}={dst}" if name else dst for dst in own]
            entries = own + own[:1] + (bad if not name else [])
            self.rng.shuffle(entries)
            text = self.rng.choice((",", " , ", ",,", ",\t")).join(entries)
            key = f"wgroutemgr.networks.{self.name(f'gw-{name}')}" if name else UNNAMED
            words += ["--label", f"{key}={text}"]
        return tuple(asks), tuple(words)

    def run_words(
        self, what: str, network: str, *options: str, role: str = "client", begin: str = "run"
    ) -> list[str]:
        """Return a command that makes a container."""
        good, label = self.wishes(always=role == "refused")
        mark = ("--label", f"{LABEL}={self.lab.token}", "--label", f"{ROLE}={role}")
        asks = ("--label", f"{ASKS}={' '.join(good)}")
        start = [begin, *(("--detach",) if begin == "run" else ()), "--pull", "never"]
        name = ("--name", self.lab.name(what))
        return [*start, *name, *mark, *asks, *label, "--network", network, *options, images.CLIENT]

    def new_client(self) -> list[str] | None:
        """Return a command that makes a client in a free place, on its own or with another."""
        taken = {box.what for box in self.clients()}
        free = [f"c{index}" for index in range(CLIENTS) if f"c{index}" not in taken]
        if not free:
            return None
        hosts = [box for box in self.clients(running=True) if not box.host_of]
        if hosts and self.rng.random() < 0.25:
            network = f"container:{self.rng.choice(hosts).name}"
        else:
            network = self.name(self.rng.choice((*SERVED, *SERVED, *SERVED, "aside")))
        begin = self.rng.choice(("run", "run", "run", "create"))
        return self.run_words(self.rng.choice(free), network, begin=begin)

    def client_command(self, box: Box) -> list[str]:
        """Draw what happens to a client."""
        if not box.running:
            startable = not box.host_of or self.owner(box)
            if startable and self.rng.random() < 0.9:
                return ["start", box.name]
            return ["rm", "--force", box.name]
        draw = self.rng.random()
        if box.host_of or draw < 0.5:
            verbs = [["stop", "--time", "1"], ["kill"], ["rm", "--force"]]
            if not box.host_of or self.owner(box):
                verbs += [["restart", "--time", "1"]] * 3
            return [*self.rng.choice(verbs), box.name]
        return self.rng.choice(self.attachments(box))

    def attachments(self, box: Box) -> list[list[str]]:
        """Return the commands that change what a client is attached to; never both served ones."""
        off = [["network", "disconnect", self.name(net), box.name] for net in box.networks]
        free = [net for net in NETS if net not in box.networks]
        on = [
            ["network", "connect", self.name(net), box.name]
            for net in free
            if net == "aside" or not box.served()
        ]
        return [*off, *on]

    # --- steps: clients -------------------------------------------------------------------------

    @step(14)
    def create_client(self) -> bool:
        words = self.new_client()
        if words:
            self.docker(*words)
        return bool(words)

    @step(18)
    def change_client(self) -> bool:
        clients = self.clients()
        if clients:
            self.docker(*self.client_command(self.rng.choice(clients)), may=CONFLICT)
        return bool(clients)

    @step(6)
    def change_clients_in_parallel(self) -> bool:
        clients = self.clients()
        chosen = self.rng.sample(clients, min(len(clients), self.rng.randint(2, 6)))
        commands = [self.client_command(box) for box in chosen]
        if words := self.new_client():
            commands.append(words)
        self.together(commands)
        return bool(commands)

    @step(2)
    def burst_of_short_lives(self) -> bool:
        commands = []
        for _ in range(6):
            self.serial += 1
            words = self.run_words(
                f"s{self.serial}", self.name(self.rng.choice(SERVED)), "--rm", role="short"
            )
            nap = self.rng.choice(("0", "0.02", "0.05", "0.2"))
            commands.append([*words, "sleep", nap])
        self.together(commands)
        return True

    @step(4)
    def swap_network(self) -> bool:
        movable = [box for box in self.clients(running=True) if box.served() and not box.host_of]
        if not movable:
            return False
        box = self.rng.choice(movable)
        (net,) = box.served()
        self.docker("network", "disconnect", self.name(net), box.name)
        self.nap()
        target = self.name(self.rng.choice(SERVED))
        self.docker("network", "connect", target, box.name, may=CONFLICT)
        return True

    @step(1)
    def rename_client(self) -> bool:
        clients = self.clients()
        taken = {box.what for box in clients}
        free = [f"c{index}" for index in range(CLIENTS) if f"c{index}" not in taken]
        if not clients or not free:
            return False
        box = self.rng.choice(clients)
        self.docker("rename", box.name, self.lab.name(self.rng.choice(free)))
        return True

    @step(1)
    def pause_client(self) -> bool:
        clients = self.clients(running=True)
        if not clients:
            return False
        box = self.rng.choice(clients)
        self.docker("pause", box.name)
        self.nap()
        self.docker("unpause", box.name)
        return True

    # --- steps: routes --------------------------------------------------------------------------

    def drifting(self) -> list[Box]:
        """Return the containers in which something may change without any event."""
        often = {net for net in SERVED if NETS[net].resync == RESYNC}
        clients = self.clients(running=True)
        return [box for box in clients if not box.host_of and often & box.networks.keys()]

    def routed(self) -> list[tuple[Box, str]]:
        """Return those of them that should have routes, each with one of the destinations."""
        gateways = {net: self.gateway(net) for net in GATEWAYS}
        return [
            (box, self.rng.choice(sorted(routes)))
            for box in self.drifting()
            if (routes := wanted(box, self.boxes, gateways))
        ]

    def enter(self, box: Box, *words: str) -> None:
        """Run a command in a container's namespace; it may find things changed."""
        self.note(f"in {box.what}: {' '.join(words)}")
        command = ("sh", "-c", '"$@" 2>&1 || :', "sh", "nsenter", "--target", str(box.pid), "--net")
        if said := self.engine.enter(*command, *words):
            self.note(f"    {said[:200]}")

    @step(10)
    def tamper(self) -> bool:
        if not (pairs := self.routed()):
            return False
        box, dst = self.rng.choice(pairs)
        (net,) = box.served()
        family = "-6" if ":" in dst else "-4"
        start = NETS[net].gateway[family == "-6"]
        stranger = f"{start}{self.rng.choice(('7', '77'))}"
        change = self.rng.choice(
            (
                ("del", dst),
                ("replace", dst, "via", stranger),
                ("add", dst, "via", stranger, "metric", "50"),
                ("add", dst, "via", stranger, "metric", "2000"),
                ("add", "unreachable", dst, "metric", "3"),
                ("replace", "unreachable", dst),
                ("replace", "blackhole", dst),
                ("flush", "proto", "boot"),
            )
        )
        self.enter(box, "ip", family, "route", *change)
        if change[0] == "flush" and family == "-4":
            self.foreign.pop(box.pid, None)
        # If nobody asks for it any more before the sidecar has seen this, it is none of its own.
        self.tolerated[box.pid].add(dst)
        return True

    @step(1)
    def add_route_of_own(self) -> bool:
        owners = [box for box in self.clients(running=True) if not box.host_of]
        if not owners:
            return False
        box = self.rng.choice(owners)
        dst = f"100.64.{self.rng.randrange(256)}.0/24"
        self.enter(box, "ip", "route", "replace", "unreachable", dst)
        self.foreign.setdefault(box.pid, {})[dst] = "unreachable"
        return True

    @step(3)
    def flap_link(self) -> bool:
        if not (drifting := self.drifting()):
            return False
        box = self.rng.choice(drifting)
        (net,) = box.served()
        v4, v6 = box.networks[net]
        # The kernel forgets IPv6 addresses of a link that goes down.
        script = f"""
            dev=$(ip -o -4 addr show to {v4} | awk '{{print $2}}')
            v4=$(ip -4 route show default dev $dev) v6=$(ip -6 route show default dev $dev)
            ip link set $dev down; sleep {self.rng.choice((0, 0, 0.3, 2.5))}; ip link set $dev up
            ip -6 addr add {v6}/64 dev $dev nodad
            [ -z "$v4" ] || ip -4 route add $v4 dev $dev
            [ -z "$v6" ] || ip -6 route add ${{v6%% metric*}} dev $dev
        """
        self.enter(box, "sh", "-c", script)
        return True

    # --- steps: gateways ------------------------------------------------------------------------

    def next_addresses(self, net: str) -> tuple[str, ...]:
        """Return options with addresses that the gateway did not have lately."""
        self.number[net] = FIRST[net] + (self.number[net] - FIRST[net] + 1) % 60
        v4, v6 = (f"{prefix}{self.number[net]}" for prefix in NETS[GATEWAYS[net]].gateway)
        self.watch.gateways[net].update((v4, v6))
        return "--ip", v4, "--ip6", v6

    def make_gateway(self, net: str) -> None:
        options = self.next_addresses(net)
        self.note(f"docker run gateway gw-{net} {' '.join(options)}")
        network = self.name(GATEWAYS[net])
        self.lab.gateway(f"gw-{net}", network, *options, "--label", f"{ROLE}=gateway")

    def raise_gateway(self, net: str) -> None:
        """See to it that a gateway is there, whatever was done to it."""
        box = self.box(f"gw-{net}")
        if box is None:
            self.make_gateway(net)
        else:
            if GATEWAYS[net] not in box.networks:
                options = self.next_addresses(net)
                self.docker("network", "connect", *options, self.name(GATEWAYS[net]), box.name)
            if not box.running:
                self.docker("start", box.name)
        self.look()
        assert self.gateway(net), f"gw-{net} has no addresses: {self.box(f'gw-{net}')}"

    def lose_gateway(self, net: str) -> None:
        """Take a gateway away, in one way or another."""
        name = self.lab.name(f"gw-{net}")
        network = self.name(GATEWAYS[net])
        ways = [["stop", "--time", "1"], ["kill"], ["network", "disconnect", network]]
        is_only_one = [*GATEWAYS.values()].count(GATEWAYS[net]) == 1
        if is_only_one and (net in self.down or not self.is_fresh(net)):
            # A sidecar that never saw its gateway could not recognise the next one, nor could
            # others tell whose it is.
            ways.append(["rm", "--force"])
        self.docker(*self.rng.choice(ways), name)

    @step(4)
    def gateway_goes(self) -> bool:
        up = [net for net in GATEWAYS if self.gateway(net)]
        if up:
            self.lose_gateway(self.rng.choice(up))
        return bool(up)

    @step(6)
    def gateway_comes(self) -> bool:
        lost = [net for net in GATEWAYS if not self.gateway(net)]
        if lost:
            self.raise_gateway(self.rng.choice(lost))
        return bool(lost)

    @step(4)
    def gateway_goes_and_comes(self) -> bool:
        up = [net for net in GATEWAYS if self.gateway(net)]
        if not up:
            return False
        net = self.rng.choice(up)
        self.lose_gateway(net)
        self.nap()
        self.look()
        self.raise_gateway(net)
        return True

    @step(2)
    def gateway_restarts(self) -> bool:
        up = [net for net in GATEWAYS if self.gateway(net)]
        if up:
            self.docker("restart", "--time", "1", self.lab.name(f"gw-{self.rng.choice(up)}"))
        return bool(up)

    @step(2)
    def stranger_takes_the_address(self) -> bool:
        """Give a lost gateway's last address to somebody else."""
        gone = [
            net
            for net, network in GATEWAYS.items()
            if network not in getattr(self.box(f"gw-{net}"), "networks", ())
        ]
        gone = [net for net in gone if not self.box(f"x-{net}")]
        if not gone:
            return False
        net = self.rng.choice(gone)
        network = GATEWAYS[net]
        v4, v6 = (f"{start}{self.number[net]}" for start in NETS[network].gateway)
        options = ("--ip", v4, "--ip6", v6)
        words = self.run_words(f"x-{net}", self.name(network), *options, role="stranger")
        self.docker(*words)
        return True

    def remove_strangers(self) -> None:
        for box in self.boxes:
            if box.role == "stranger":
                self.docker("rm", "--force", box.name)

    # --- steps: sidecars ------------------------------------------------------------------------

    def make_sidecar(self, net: str) -> None:
        self.note(f"docker run sidecar sc-{net}")
        network, gateway = GATEWAYS[net], next(b for b in self.boxes if b.what == f"gw-{net}")
        self.lab.container(
            f"sc-{net}",
            images.PRODUCT,  # as it was built for this run, whatever was edited since
            *PRIVILEGES,
            *("--network", f"container:{gateway.name}"),
            *("--label", f"wgroutemgr.network={self.name(network)}", "--label", f"{ROLE}=sidecar"),
            *("--env", f"WGROUTEMGR_RESYNC_INTERVAL={NETS[network].resync}"),
            *("--env", "WGROUTEMGR_ON_TUNNEL_LOSS=warn"),  # these gateways have no tunnel
        )
        self.down.discard(net)

    def raise_sidecar(self, net: str) -> bool:
        """See to it that a sidecar runs; False while the engine could not start it."""
        self.look()
        gateway, box = self.box(f"gw-{net}"), self.box(f"sc-{net}")
        if not gateway or not gateway.running:
            return bool(box and box.running)
        if box and not box.running:
            self.ended(net)
            if box.host_of == gateway.id:
                self.docker("start", box.name)
            else:
                self.docker("rm", "--force", box.name)
                box = None
        if not box:
            self.make_sidecar(net)
        self.down.discard(net)
        return True

    def is_fresh(self, net: str) -> bool:
        """Tell whether a sidecar has not finished a pass since its start."""
        self.read_log(net)
        return net in self.watch.fresh

    def ended(self, net: str) -> None:
        """Note that a sidecar's process ended."""
        self.read_log(net)
        self.down.add(net)
        self.watch.fresh.add(net)
        self.look()

    def running_sidecars(self) -> list[str]:
        """Return the gateways whose sidecar runs and may be disturbed now.

        Only one of them at a time, for some minutes: the others may show whether they grow.
        """
        turn = [*GATEWAYS][(self.seed + int(self.now()) // 600) % len(GATEWAYS)]
        box = self.box(f"sc-{turn}")
        return [turn] if box and box.running else []

    @step(2)
    def sidecar_is_killed(self) -> bool:
        """Kill it and leave it dead for some steps."""
        nets = self.running_sidecars()
        for net in nets:
            self.docker("kill", self.lab.name(f"sc-{net}"))
            self.ended(net)
        return bool(nets)

    @step(5)
    def sidecar_starts(self) -> bool:
        started = [self.raise_sidecar(net) for net in sorted(self.down)]
        return any(started)

    @step(3)
    def sidecar_is_killed_and_starts(self) -> bool:
        nets = self.running_sidecars()
        for net in nets:
            self.docker("kill", self.lab.name(f"sc-{net}"))
            self.ended(net)
            self.raise_sidecar(net)
        return bool(nets)

    @step(1)
    def sidecar_restarts(self) -> bool:
        nets = self.running_sidecars()
        for net in nets:
            gateway, box = self.box(f"gw-{net}"), self.box(f"sc-{net}")
            assert box
            if gateway and gateway.running and box.host_of == gateway.id:
                self.ended(net)
                self.docker("restart", "--time", "2", box.name)
                self.down.discard(net)
            else:
                self.docker("stop", "--time", "2", box.name)
                self.raise_sidecar(net)
        return bool(nets)

    @step(1)
    def sidecar_is_frozen(self) -> bool:
        boxes = [box for net in GATEWAYS if (box := self.box(f"sc-{net}")) and box.running]
        if boxes:
            name = self.rng.choice(boxes).name
            self.docker("pause", name)
            time.sleep(self.rng.choice((0.2, 1, 3)))
            self.docker("unpause", name)
        return bool(boxes)

    # --- steps: the engine ----------------------------------------------------------------------

    @step(1)
    def engine_restarts(self) -> bool:
        self.note("engine: restart")
        self.engine.restart()
        return True

    @step(1)
    def engine_is_killed_and_starts(self) -> bool:
        self.note("engine: kill -9")
        self.engine.kill()
        self.nap()
        self.note("engine: start")
        self.engine.start()
        return True

    @step(1)
    def engine_is_away_while_others_die(self) -> bool:
        mortal = [box for box in self.boxes if box.running and box.role in ("client", "gateway")]
        chosen = [box for box in mortal if self.rng.random() < 0.3]
        self.note("engine: stop")
        self.engine.stop()
        for box in chosen:
            self.note(f"kill -9 the first process of {box.what}")
            # Without live restore it has ended already.
            self.engine.enter("sh", "-c", 'kill -9 "$1" 2>&1 || :', "sh", str(box.pid))
        time.sleep(self.rng.choice((0, 1, 3)))
        self.note("engine: start")
        self.engine.start()
        return True

    @step(1)
    def engine_hangs(self) -> bool:
        """Freeze it, in the middle of things or not."""
        seconds = self.rng.choice((1, 2, 3, 3, 5, 12))
        chosen = [box for box in self.clients() if self.rng.random() < 0.15]
        commands = [self.client_command(box) for box in chosen]
        thread = threading.Thread(target=self.together, args=(commands,))
        if self.rng.random() < 0.5:
            thread.start()
            time.sleep(self.rng.choice((0, 0.05, 0.2)))
        self.note(f"engine: SIGSTOP for {seconds} s")
        self.engine.pause()
        time.sleep(seconds)
        self.engine.resume()
        self.note("engine: SIGCONT")
        if thread.ident:
            thread.join()
        return True

    # --- the run --------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self.begun

    def nap(self) -> None:
        """Let some time pass, or none."""
        time.sleep(self.rng.choice((0, 0, 0, 0.05, 0.2, 0.6, 1.5)))

    def build(self) -> None:
        """Make the site."""
        for net, form in NETS.items():
            ranges = [word for part in form.ranges for word in ("--ip-range", part)]
            self.lab.network(net, *form.subnets, options=ranges)
        self.look()
        for net in GATEWAYS:
            self.raise_gateway(net)
            self.make_sidecar(net)
        fixed = (("hostly", "host"), ("parasite", f"container:{self.lab.name('gw-wg-a')}"))
        for what, network in fixed:
            self.docker(*self.run_words(what, network, role="refused"))
        for _ in range(CLIENTS):
            self.look()
            self.docker(*(self.new_client() or ()))

    def go(self, seconds: float) -> None:
        """Disturb and compare until the time is over."""
        self.build()
        self.settle(lost=None)
        while self.now() < seconds:
            for _ in range(self.rng.randint(*STEPS)):
                self.one_step()
            self.settle(lost=self.rng.choice((*GATEWAYS, None, None, None, None)))
        self.settle(lost=None)

    def one_step(self) -> None:
        """Draw steps until one is possible, and do it."""
        self.look()
        both = [box.what for box in self.boxes if len(box.served()) > 1]
        assert not both, f"on both served networks: {both}"
        weights, functions = zip(*STEP, strict=True)
        while True:
            function = self.rng.choices(functions, weights)[0]
            place = len(self.journal)
            if function(self):
                self.journal.insert(place, f"          {function.__name__}")
                self.counts[function.__name__] += 1
                self.nap()
                return

    def settle(self, lost: str | None) -> None:
        """Bring gateways and sidecars up, all but a lost gateway, and compare until it is right."""
        self.prepare(lost)
        if self.rng.random() < 0.5:
            self.look()
            for _ in range(3):
                self.tamper()  # only a resync can tell
        self.note(f"settle{f' without the gateway {lost}' if lost else ''}")
        begun = time.monotonic()
        right = poll(lambda: not self.compare(lost), SETTLE_SECONDS, every=0.2)
        took = time.monotonic() - begun
        for net in GATEWAYS:
            self.read_log(net)
        if not right:
            fail(*self.compare(lost))
        if took > SLOW:
            self.tell(f"{self.now():6.0f} s  slow: {took:.1f} s after\n{self.story()}")
        self.settled.append((took, lost is not None))
        if len(self.settled) % 4 == 0:
            self.stay_quiet(lost)
        if wrong := self.compare(lost):
            fail("it was right, but did not stay so:", *wrong)
        self.check_sidecars()
        self.tell(
            f"{self.now():6.0f} s  {self.counts.total():5} steps  "
            f"settled in {took:4.1f} s  {len(self.clients(running=True)):2} clients"
            f"{f'  without the gateway {lost}' if lost else ''}"
        )
        self.narrow()
        self.journal.clear()
        for lines in self.watch.lines.values():
            lines.clear()
        self.remove_strangers()

    def prepare(self, lost: str | None) -> None:
        """Bring gateways and sidecars up, all but a lost gateway."""
        self.look()
        for net in GATEWAYS:
            if not self.raise_sidecar(net):
                self.raise_gateway(net)
                self.raise_sidecar(net)
            if net != lost:
                self.raise_gateway(net)
            elif self.gateway(net):
                self.lose_gateway(net)

    def compare(self, lost: str | None) -> list[str]:
        """Return what is not as the labels ask for; nothing when all is right."""
        self.look()
        gateways = {net: self.gateway(net) for net in GATEWAYS}
        wrong = [
            f"gateway {net} is {'up' if addresses else 'lost'}"
            for net, addresses in gateways.items()
            if (net == lost) == bool(addresses)
        ]
        owners = self.owners()
        actual = self.routes(owners)
        bridges = {dst: via for dst, via in actual[0].items() if via == "connected"}
        wrong += differences("the host", bridges, actual[0])
        for pid in self.foreign.keys() - actual.keys():
            del self.foreign[pid]
        for memory in (self.tolerated, *self.given.values()):
            for pid in memory.keys() - actual.keys():
                del memory[pid]
        for box in owners:
            title = f"{box.what} ({box.id[:12]}, {' '.join(box.networks) or 'unattached'})"
            want = wanted(box, self.boxes, gateways) | self.foreign.get(box.pid, {})
            stays = {
                dst: via
                for dst, via in actual[box.pid].items()
                if dst not in want and dst.split()[0] in self.tolerated[box.pid] - want.keys()
            }
            wrong += differences(title, want | stays, actual[box.pid])
        return wrong

    def owners(self) -> list[Box]:
        """Return the running containers that have a namespace of their own, as last seen."""
        return [box for box in self.boxes if box.running and not box.host_of and box.mode != "host"]

    def narrow(self) -> None:
        """Tolerate no more than what is there now that all is settled."""
        actual = self.routes(self.owners())
        for pid in self.tolerated:
            self.tolerated[pid] &= {key.split()[0] for key in actual[pid]}
        gateways = {net: self.gateway(net) for net in GATEWAYS}
        for box in self.owners():
            asked = set(wanted(box, self.boxes, gateways))
            for net, network in GATEWAYS.items():
                self.given[net][box.pid] = asked if network in box.networks else set()
            self.tolerated[box.pid] -= asked
            self.lingering += len(self.tolerated[box.pid])

    def stay_quiet(self, lost: str | None) -> None:
        """See that what is right comes to write no line, for longer than a resync takes.

        At first it may: a gateway that comes on a network without clients shows in no route.
        """
        quiet = RESYNC + 1.5
        seen: list[str] = []
        since = begun = time.monotonic()
        while time.monotonic() - since < quiet:
            time.sleep(0.2)
            for net in GATEWAYS:
                self.read_log(net)
            if (lines := [line for net in GATEWAYS for line in self.watch.lines[net]]) != seen:
                seen, since = lines, time.monotonic()
            if since - begun > 2 * quiet + HOLD_SECONDS:
                fail(f"a sidecar goes on writing in a steady state (lost: {lost}):", *lines[-9:])

    def read_log(self, net: str) -> None:
        """Read on in the log of a gateway's sidecar."""
        self.watch.read(net, self.box(f"sc-{net}"))

    def check_sidecars(self) -> None:
        """See that the sidecars live, log as they should, do not grow, and reap their children."""
        for net in GATEWAYS:
            self.read_log(net)
            box = self.box(f"sc-{net}")
            if box is None or not box.running:
                fail(f"sc-{net} does not run: {box}")
            self.watch.measure(self.engine, box)
            if not poll(lambda box=box: not zombies(self.engine, box), 2):  # type: ignore[misc]
                fail(f"zombies in sc-{net}", *zombies(self.engine, box))

    # --- the report -----------------------------------------------------------------------------

    def headline(self) -> str:
        """Return the numbers of this run in one line."""
        took = [seconds for seconds, _ in self.settled] or [0.0]
        return (
            f"seed {self.seed}: {self.counts.total()} steps in {self.now():.0f} s, Docker "
            f"{self.engine.version}; {len(self.settled)} comparisons, of them "
            f"{sum(lost for _, lost in self.settled)} without a gateway; settled in "
            f"{statistics.median(took):.1f} s (median), {max(took):.1f} s (worst)"
        )

    def summary(self) -> str:
        """Return what was done and seen, in numbers."""
        parts = [
            self.headline(),
            f"routes that a sidecar could not know to be its own: {self.lingering}",
            "steps: " + ", ".join(f"{name} {n}" for name, n in sorted(self.counts.items())),
            "log: "
            + ", ".join(
                f"{level} {name} {n}" for (level, name), n in sorted(self.watch.events.items())
            ),
        ]
        return "\n".join((*parts, *self.watch.growths()))

    def failure(self, error: Exception) -> str:
        """Return all that is needed to find out what went wrong."""
        for net in GATEWAYS:
            with suppress(SoakError, OSError, ValueError):
                self.read_log(net)
        return "\n".join((f"{type(error).__name__}: {error}", self.story(), self.summary()))

    def story(self) -> str:
        """Return what was done, and what the sidecars said, since the last good comparison."""
        parts = [f"--- steps since the last good comparison (seed {self.seed}) ---", *self.journal]
        for net, lines in self.watch.lines.items():
            parts += [f"--- log of sc-{net} since then ---", *lines[-60:]]
        return "\n".join((*parts, "---"))


def soak(engine: Engine, seed: int, seconds: float, tell: Callable[[str], None]) -> Soak:
    """Run it on an engine that has the images; raise SoakError with the whole story.

    What it makes stays: an engine that went through this is for nothing else.
    """
    tell(f"soak: seed {seed}, {seconds:.0f} s, Docker {engine.version}")
    run = Soak(engine, Lab(engine), seed, tell)
    try:
        run.go(seconds)
    except Exception as error:
        raise SoakError(run.failure(error)) from error
    tell(run.summary())
    return run
