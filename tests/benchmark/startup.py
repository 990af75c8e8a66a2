"""What a start of the sidecar costs with many clients running, against the bare commands.

The commands alone are run by the BusyBox shell of the sidecar's own image, in the sidecar's kind of
container, so that both do the same with the same programs.
"""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import docker

from lib.model import ROLE_LABEL
from tests.benchmark.stats import Figure, percentile
from tests.benchmark.watch import Watch
from tests.benchmark.world import ALL_ROUTES, GATEWAYS, SUBNETS, Wish, cpu_seconds
from tests.lab import images
from tests.lab.engine import LABEL, poll
from tests.lab.errors import LabError
from tests.lab.site import PRIVILEGES, Container, Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from tests.lab.engine import Engine

PART = "start-up"
PARTS = ("startup", "memory")
MOST_OF_LOOP = 1.5
NOOP_OF_LOOP = 0.5
RESIDENT_MIB = 45.0
SECONDS = 60.0
PASSES_A_TURN = 3
FOREVER = "1000000"

# One call of the module `sh` for each line on standard input, timed without its import.
CALLS = """
import sys, time, sh
commands = [line.split() for line in sys.stdin]
start = time.perf_counter()
for words in commands:
    sh.Command(words[0])(*words[1:])
print(time.perf_counter() - start)
"""


class Crowd:
    """Many running clients with destinations, a gateway, and sidecars to be started.

    Args:
        engine: where.
        clients: how many.
    """

    def __init__(self, engine: Engine, clients: int) -> None:
        self.engine = engine
        self.wanted = Wish(2).destinations(0)
        self.lab = Lab(engine)
        self._count = clients

    def __enter__(self) -> Self:
        """Start clients, several at a time."""
        try:
            self.network = self.lab.network("wg", SUBNETS[4])
            self.gateway = self.lab.gateway("gateway", self.network, "--ip", GATEWAYS[4])
            image = images.client(self.engine)
            with ThreadPoolExecutor(4) as pool:
                keys = list(
                    pool.map(lambda one: self._start_client(one, image), range(self._count))
                )
            self.commands = [
                f"nsenter --net={key} ip route replace {dst} via {GATEWAYS[4]}"
                for key in keys
                for dst in self.wanted
            ]
            is_none = ("--label", f"{ROLE_LABEL}=")
            self.helper = self._sidecar(
                "helper", *is_none, "--entrypoint", "sleep", command=(FOREVER,)
            )
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
        # Seen on 20.10: a network that keeps an endpoint of one of a hundred containers removed at
        # once. This is the last thing on an engine that ends with all that is in it.
        with suppress(LabError):
            self.lab.__exit__(kind, error, traceback)

    def api(self) -> docker.APIClient:
        """A connection to the engine."""
        return docker.APIClient(base_url=f"unix://{self.engine.socket}", version="auto")

    def _start_client(self, number: int, image: str) -> str:
        api = self.api()
        labels = {LABEL: self.lab.token, "wgroutemgr.networks": ",".join(self.wanted)}
        config = api.create_host_config(network_mode=self.network)
        name = self.lab.name(f"client{number}")
        answer = api.create_container(
            image, ["sleep", FOREVER], name=name, labels=labels, host_config=config
        )
        api.start(answer["Id"])
        key = api.inspect_container(answer["Id"])["NetworkSettings"]["SandboxKey"]
        api.close()
        return str(key)

    def _sidecar(
        self, what: str, *options: str, command: Sequence[str], image: str = images.PRODUCT
    ) -> Container:
        return self.lab.container(
            what,
            image,
            *(*PRIVILEGES, *self.engine.shares),
            *("--network", f"container:{self.gateway.name}"),
            *("--label", f"wgroutemgr.network={self.network}"),
            *options,
            command=command,
        )

    def created(self, what: str, *command: str, image: str = images.PRODUCT) -> Container:
        """A sidecar that ran once and stopped, to be started again; its log grows on."""
        container = self._sidecar(what, command=command, image=image)
        container.stop()
        return container

    def clear(self) -> None:
        """Take every route from every client."""
        lines = "".join(f"{line.replace(' replace ', ' del ')} 2>&-\n" for line in self.commands)
        self._enter(self.engine.entry(), ["sh"], lines + ":\n")
        self.watch.read()

    def complete(self) -> bool:
        """Whether every client has its routes, and nobody else any."""
        text = self.engine.enter("sh", "-c", ALL_ROUTES)
        return sum(f"via {GATEWAYS[4]}" in line for line in text.splitlines()) == len(self.commands)

    def bare_loop(self) -> float:
        """Milliseconds that the commands alone take."""
        start = time.perf_counter()
        self._enter(self._helper(), ["sh"], "".join(f"{line}\n" for line in self.commands))
        return (time.perf_counter() - start) * 1000

    def calls(self) -> float:
        """Milliseconds that they take with one call of `sh` each."""
        lines = "".join(f"{line}\n" for line in self.commands)
        entry = (*self._helper(), "env", "PYTHONPATH=/opt/site-packages")
        return float(self._enter(entry, ["python3", "-c", CALLS], lines)) * 1000

    def interpreter(self, container: Container) -> float:
        """Milliseconds for which a sidecar runs that only tells its version."""
        api = self.api()
        api.start(container.name)
        api.wait(container.name)
        state = api.inspect_container(container.name)["State"]
        api.close()
        return _milliseconds(state["FinishedAt"]) - _milliseconds(state["StartedAt"])

    def start_up(self, container: Container) -> tuple[float, dict[str, float]]:
        """Milliseconds from when a sidecar runs to the last route, and to lines of its log."""
        api = self.api()
        api.start(container.name)
        seen = self.watch.await_routes({GATEWAYS[4]}, len(self.commands), SECONDS)
        start = _milliseconds(api.inspect_container(container.name)["State"]["StartedAt"])
        api.close()
        assert poll(lambda: "startup" in _moments(container, start), SECONDS)
        assert self.complete(), "not all routes are there"
        return seen[-1].time_ns / 1e6 - start, _moments(container, start)

    def process(self, container: Container) -> Path:
        """Where the machine sees the first process of a container."""
        return Path(f"/proc/{self.engine.pid}/root/proc/{container.inspect('{{.State.Pid}}')}")

    def processes(self, container: Container) -> list[Path]:
        """All processes of a container."""
        lines = self.engine.docker("top", container.name, "-o", "pid").splitlines()[1:]
        return [Path(f"/proc/{self.engine.pid}/root/proc/{line.strip()}") for line in lines]

    def _helper(self) -> tuple[str, ...]:
        pid = self.helper.inspect("{{.State.Pid}}")
        return (*self.engine.entry(), "nsenter", "--target", pid, "--mount", "--net", "--pid", "--")

    def _enter(self, entry: tuple[str, ...], argv: list[str], text: str) -> str:
        done = subprocess.run(
            [*entry, *argv],
            input=text,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": ":".join(images.FOLDERS) + ":/sbin:/bin"},
            check=True,
        )
        return done.stdout


def log(container: Container) -> list[dict[str, Any]]:
    """What a sidecar logged."""
    lines = container.logs().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def _moments(container: Container, start: float) -> dict[str, float]:
    """When the first line of each kind came after that moment, in milliseconds."""
    found: dict[str, float] = {}
    for entry in log(container):
        after = _milliseconds(entry["timestamp"]) - start
        if after > 0:
            found.setdefault(str(entry["event"]), after)
            if entry["event"] == "pass.finished" and entry["trigger"] == "startup":
                found["startup"] = after
    return found


def _milliseconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp() * 1000


def run(  # noqa: PLR0913 - what is measured, and how
    engine: Engine,
    label: str,
    parts: set[str],
    tell: Callable[[str], None],
    *,
    quick: bool,
    against: str = "",
) -> list[Figure]:
    """Measure; both parts share the crowd, which takes the longest to make.

    `against` is another image whose start and passes are measured by turns with ours.
    """
    count, times = (10, 2) if quick else (100, 7)
    figures: list[Figure] = []
    begun = time.monotonic()
    with Crowd(engine, count) as crowd:
        tell(f"{count} clients run, {time.monotonic() - begun:.0f} s")
        if PARTS[0] in parts:
            figures += _cost(crowd, label, times, tell)
            if against:
                figures += _compare(crowd, label, times, tell, against)
        if PARTS[1] in parts:
            figures += _idle(crowd, label, 5 if quick else 60)
    return figures


def _cost(crowd: Crowd, label: str, times: int, tell: Callable[[str], None]) -> list[Figure]:
    sidecar = crowd.created("sidecar", "run")
    version = crowd.created("version", "--version")
    loops, calls, interpreters, starts = [], [], [], []
    moments: list[dict[str, float]] = []
    for _ in range(times):
        loops.append(crowd.bare_loop())
        interpreters.append(crowd.interpreter(version))
        crowd.clear()
        taken, when = crowd.start_up(sidecar)
        sidecar.stop()
        starts.append(taken)
        moments.append(when)
        tell(f"loop {loops[-1]:.0f}, interpreter {interpreters[-1]:.0f}, start-up {taken:.0f} ms")
    calls = [crowd.calls() for _ in range(min(times, 3))]
    passes = _idle_passes(crowd, 2, images.PRODUCT)[images.PRODUCT]
    loop, interpreter = percentile(loops, 50), percentile(interpreters, 50)
    own = [start - interpreter for start in starts]
    routes = len(crowd.commands)
    part = f"{PART}, {label}, {routes // 2} clients"

    def ratio(values: list[float]) -> dict[str, float]:
        return {"the shell loop": percentile(values, 50) / loop}

    names = list(dict.fromkeys(name for when in moments for name in when))
    steps = {
        name: round(percentile([when[name] for when in moments if name in when], 50), 1)
        for name in names
    }
    median = percentile(starts, 50)
    return [
        Figure(part, f"bare shell loop, {routes} commands", "ms", loops),
        Figure(part, "the interpreter's own start: --version", "ms", interpreters),
        Figure(
            part,
            f"sidecar runs until all {routes} routes are there",
            "ms",
            starts,
            ratios={"loop and interpreter": median / (loop + interpreter)},
            details={"median_ms_to": steps},
        ),
        Figure(
            part,
            "the same without the interpreter's start",
            "ms",
            own,
            target=f"<= {MOST_OF_LOOP} x loop",
            met=percentile(own, 50) <= MOST_OF_LOOP * loop,
            ratios=ratio(own),
        ),
        Figure(part, "one call of `sh` per command", "ms", calls, ratios=ratio(calls)),
        Figure(
            part,
            "pass with nothing to do",
            "ms",
            passes,
            target=f"< {NOOP_OF_LOOP} x loop",
            met=percentile(passes, 50) < NOOP_OF_LOOP * loop,
            ratios=ratio(passes),
        ),
    ]


def _compare(
    crowd: Crowd, label: str, times: int, tell: Callable[[str], None], against: str
) -> list[Figure]:
    """Measure start and idle passes of two images by turns."""
    names = {images.PRODUCT: "this tree", against: "the other tree"}
    sidecars = {
        image: crowd.created(f"turn{number}", "run", image=image)
        for number, image in enumerate(names)
    }
    starts: dict[str, list[float]] = {image: [] for image in names}
    firsts: dict[str, list[float]] = {image: [] for image in names}
    for turn in range(2 * times):
        for image, sidecar in sidecars.items():
            crowd.clear()
            taken, when = crowd.start_up(sidecar)
            sidecar.stop()
            starts[image].append(taken)
            firsts[image].append(when["startup"] - when["daemon.started"])
            tell(f"turn {turn + 1}, {names[image]}: {taken:.0f} ms")
    passes = _idle_passes(crowd, 2 * times, *names)
    part = f"by turns with another tree, {label}, {len(crowd.commands) // 2} clients"
    return [
        Figure(
            part,
            f"{what}, {name}",
            "ms",
            values[image],
            ratios={"the other": percentile(values[image], 50) / percentile(values[against], 50)},
        )
        for what, values in (
            ("sidecar runs until all routes are there", starts),
            ("from daemon.started to the end of the first pass", firsts),
            ("pass with nothing to do", passes),
        )
        for image, name in names.items()
    ]


def _idle_passes(crowd: Crowd, turns: int, *names: str) -> dict[str, list[float]]:
    """Milliseconds of passes that found everything in place, of images by turns."""
    command = ("run", "--resync-interval", "1", "--log-level", "debug")
    sidecars = {
        image: crowd.created(f"resync{number}", *command, image=image)
        for number, image in enumerate(names)
    }
    for turn in range(turns):
        for sidecar in sidecars.values():
            sidecar.start()
            _await_idle(sidecar, (turn + 1) * PASSES_A_TURN)
            sidecar.stop()
    found = {image: _idle_ones(sidecar) for image, sidecar in sidecars.items()}
    for sidecar in sidecars.values():
        sidecar.remove()
    return found


def _await_idle(sidecar: Container, count: int) -> None:
    assert poll(lambda: len(_idle_ones(sidecar)) >= count, SECONDS, every=1.0)


def _idle_ones(sidecar: Container) -> list[float]:
    finished = [entry for entry in log(sidecar) if entry["event"] == "pass.finished"]
    idle = [one for one in finished if one["trigger"] == "resync" and not one["changed"]]
    return [float(one["duration_ms"]) for one in idle]


def _idle(crowd: Crowd, label: str, seconds: int) -> list[Figure]:
    """Memory of a sidecar that serves all clients, and what it does while nothing happens."""
    sidecar = crowd.created("idle", "run", "--resync-interval", "60")
    crowd.clear()
    crowd.start_up(sidecar)
    time.sleep(2)  # start-up is over
    resident = _status(crowd.process(sidecar), "VmRSS") / 1024
    processes = crowd.processes(sidecar)
    before, switches = cpu_seconds(processes), _switches(processes)
    time.sleep(seconds)
    used, woken = cpu_seconds(processes) - before, _switches(processes) - switches
    after = _status(crowd.process(sidecar), "VmRSS") / 1024
    part = f"memory and idle, {label}, {len(crowd.commands) // 2} clients"
    return [
        Figure(
            part,
            "resident memory of the process",
            "MiB",
            [resident, after],
            target=f"<= {RESIDENT_MIB:g} MiB",
            met=max(resident, after) <= RESIDENT_MIB,
        ),
        Figure(part, f"CPU in {seconds} idle s, one resync in them", "s", [used]),
        Figure(part, f"wake-ups in {seconds} idle s", "", [float(woken)]),
    ]


def _status(process: Path, name: str) -> int:
    lines = (process / "status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def _switches(processes: list[Path]) -> int:
    tasks = [task for process in processes for task in (process / "task").iterdir()]
    return sum(_status(task, "voluntary_ctxt_switches") for task in tasks)
