"""Are the routes there when the client starts? Starts in many ways, and every namespace looked at.

Each scenario starts clients, waits for what their probes say, and ends with a look into every
namespace of the engine: not one route may be where nobody asked for it.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.benchmark.stats import Figure, percentile
from tests.benchmark.world import NOTHING, Wish, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import docker

    from tests.benchmark.world import Client, Start
    from tests.lab.engine import Engine

PART = "in time"
BATCH = 20
"""Clients that stand at the same time where they are started one after the other."""

LATEST_MS = 10.0


@dataclass
class Result:
    """What a scenario came to."""

    starts: list[Start] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    batches: int = 0

    def take(self, world: World, *, timelines: bool, clear: bool = True) -> None:
        """Take in what was started since, and remove it."""
        starts, wrong = world.results(timelines=timelines)
        self.starts += starts
        self.wrong += [text for text in wrong if text not in self.wrong]
        self.batches += 1
        if clear:
            world.clear()


@dataclass(frozen=True)
class Scenario:
    """One way to start clients.

    Attributes:
        name: as in the table.
        count: starts to measure.
        run: starts them.
        versions: IP versions of the network.
        target: least share of starts in time, in percent.
        baseline: whether it is also run without early routes.
    """

    name: str
    count: int
    run: Callable[[World, int, bool], Result]
    versions: tuple[int, ...] = (4,)
    target: float | None = None
    baseline: bool = False


def sequence(wish: Wish, *, second: bool = False) -> Callable[[World, int, bool], Result]:
    """Start one, wait for what it says, start the next; maybe on a second network too."""

    def run(world: World, count: int, timelines: bool) -> Result:  # noqa: FBT001
        result = Result()
        api = world.api()
        for start in range(0, count, BATCH):
            for _ in range(min(BATCH, count - start)):
                _launch(world, api, wish, second=second)
            result.take(world, timelines=timelines)
        api.close()
        return result

    return run


def parallel(
    wish: Wish, width: int, *, unlabelled: int = 0, rounds: int = 1
) -> Callable[[World, int, bool], Result]:
    """Keep so many starts going, some of them of containers that want nothing.

    Args:
        wish: of the labelled ones.
        width: starts at the same time.
        unlabelled: how many of these are of containers without a label.
        rounds: starts by each of these, one after the other, until all are looked at and removed.
    """
    labelled = width - unlabelled

    def worker(world: World, wish: Wish) -> None:
        api = world.api()
        for _ in range(rounds):
            _launch(world, api, wish)
        api.close()

    def run(world: World, count: int, timelines: bool) -> Result:  # noqa: FBT001
        result = Result()
        with ThreadPoolExecutor(width) as pool:
            while len(result.starts) < count:
                kinds = [wish if place < labelled else NOTHING for place in range(width)]
                kinds = kinds[:: 1 if result.batches % 2 else -1]  # neither always comes first
                for future in [pool.submit(worker, world, kind) for kind in kinds]:
                    future.result()
                result.take(world, timelines=timelines)
        return result

    return run


def existing(act: str, wish: Wish) -> Callable[[World, int, bool], Result]:
    """Start clients again that ran before: by `start` after a stop, or by `restart`."""

    def run(world: World, count: int, timelines: bool) -> Result:  # noqa: FBT001
        result = Result()
        api = world.api()
        clients = [_launch(world, api, wish) for _ in range(min(10, count))]
        world.results()  # their first starts are measured elsewhere
        while len(result.starts) < count:
            if act == "start":
                for client in clients:
                    api.stop(client.id, timeout=0)
                world.settle()
            for client in clients:
                if act == "start":
                    api.start(client.id)
                else:
                    api.restart(client.id, timeout=0)
                world.await_look(client)
            result.take(world, timelines=timelines, clear=False)
        world.clear()
        api.close()
        return result

    return run


def policy(wish: Wish) -> Callable[[World, int, bool], Result]:
    """Let the engine's restart policy start clients again, whose process was killed."""
    kills = 3

    def run(world: World, count: int, timelines: bool) -> Result:  # noqa: FBT001
        result = Result()
        api = world.api()
        while len(result.starts) < count:
            clients = [_launch(world, api, wish, policy="always") for _ in range(5)]
            world.results()
            for _ in range(kills):
                for client in clients:
                    pid = api.inspect_container(client.id)["State"]["Pid"]
                    world.engine.enter("kill", "-KILL", str(pid))
                    world.await_look(client)
                result.take(world, timelines=timelines, clear=False)
            world.clear()
        api.close()
        return result

    return run


def _launch(
    world: World,
    api: docker.APIClient,
    wish: Wish,
    *,
    policy: str = "no",
    second: bool = False,
) -> Client:
    """Do what `docker run --detach` does, and wait for the probe."""
    client = world.create(api, wish, policy=policy, second=second)
    api.start(client.id)
    world.await_look(client)
    return client


def scenarios(*, quick: bool) -> list[Scenario]:
    """All of them, in the order of the table."""
    many, some, few = (4, 4, 2) if quick else (200, 60, 30)
    three, everything = Wish(3), Wish(everything=True)
    rounds = 1 if quick else 5
    return [
        *(
            Scenario(
                f"one after the other, {count} dst",
                many,
                sequence(Wish(count)),
                target=99.5,
                baseline=count == 3,
            )
            for count in (1, 3, 10)
        ),
        *(
            Scenario(
                f"four at a time, {count} dst",
                many,
                parallel(Wish(count), 4, rounds=rounds),
                target=98.0,
                baseline=count == 3,
            )
            for count in (1, 3, 10)
        ),
        *(
            Scenario(name, many, run, target=target, baseline=True)
            for name, run, target in (
                ("one after the other, everything", sequence(everything), 99.5),
                ("four at a time, everything", parallel(everything, 4, rounds=rounds), 98.0),
            )
        ),
        Scenario("two networks, everything", some, sequence(everything, second=True)),
        Scenario("ten at once, 3 dst", max(some, 10), parallel(three, 10), baseline=True),
        Scenario(
            "ten at once, half without label",
            max(some, 5),
            parallel(three, 10, unlabelled=5),
        ),
        Scenario("docker start, 3 dst", some, existing("start", three), baseline=True),
        Scenario("docker restart, 3 dst", some, existing("restart", three), baseline=True),
        Scenario("restart policy, 3 dst", few, policy(three)),
        Scenario("two networks, 3 dst", some, sequence(three, second=True)),
        Scenario("IPv6, 3 dst", some, sequence(Wish(0, 3)), versions=(4, 6)),
        Scenario("IPv4 and IPv6, 3 dst each", some, sequence(Wish(3, 3)), versions=(4, 6)),
    ]


def figure(scenario: Scenario, result: Result, label: str, off: Result | None) -> Figure:
    """One line of the table from what a scenario came to."""
    positions = [start.position_ms for start in result.starts]
    missed = [start for start in result.starts if not start.look.in_time]
    share = 100 * (1 - len(missed) / len(result.starts))
    target, met = "", None
    late = [max(0.0, start.position_ms) for start in missed]
    if scenario.target is not None:
        target = f">= {scenario.target:g} % in time, misses < {LATEST_MS:g} ms"
        met = share >= scenario.target and max(late, default=0) < LATEST_MS
    if result.wrong:
        target, met = f"{len(result.wrong)} WRONG ROUTES", False
    ratios, note, in_time = {}, "", 0
    if off:
        without = [start.position_ms for start in off.starts]
        in_time = sum(start.look.in_time for start in off.starts)
        ratios["the time without routes"] = _late(positions) / max(_late(without), 1e-9)
        note = (
            f"off: {100 * in_time / len(without):.0f} % of {len(without)}, "
            f"median {percentile(without, 50):.1f}, worst {max(without):.1f} ms"
        )
    return Figure(
        part=f"{PART}, {label}",
        name=scenario.name,
        unit="ms",
        values=positions,
        share=share,
        target=target,
        met=met,
        ratios=ratios,
        note=note,
        details={
            "late_ms": sorted(round(value, 2) for value in late),
            "misses": [start.timeline for start in missed],
            "wrong": result.wrong,
            "batches_looked_at": result.batches,
            "off_ms": [round(start.position_ms, 3) for start in off.starts] if off else [],
            "off_share": 100 * in_time / len(off.starts) if off else 0.0,
        },
    )


def _late(positions: Sequence[float]) -> float:
    """The mean time for which a client was without its routes."""
    return sum(max(0.0, value) for value in positions) / len(positions)


def run(  # noqa: PLR0913 - the last two are named
    engine: Engine,
    image: str,
    chosen: Sequence[Scenario],
    tell: Callable[[str], None],
    *,
    timelines: bool,
    stopped: int = 0,
    cap_add: Sequence[str] = (),
) -> dict[str, Result]:
    """Run scenarios, each kind of network in a world of its own; results by name.

    Beside them stand that many containers with the label that never run. The sidecar gets these
    capabilities beside those that it needs.
    """
    results: dict[str, Result] = {}
    for versions in dict.fromkeys(scenario.versions for scenario in chosen):
        with World(engine, image, versions, cap_add=cap_add) as place:
            place.stand_by(stopped)
            for scenario in chosen:
                if scenario.versions == versions:
                    begun = time.monotonic()
                    result = scenario.run(place, scenario.count, timelines)
                    results[scenario.name] = result
                    missed = sum(not start.look.in_time for start in result.starts)
                    worst = max(start.position_ms for start in result.starts)
                    tell(
                        f"{scenario.name}: {len(result.starts) - missed} of {len(result.starts)} "
                        f"in time, worst {worst:.1f} ms, {len(result.wrong)} wrong, "
                        f"{time.monotonic() - begun:.0f} s"
                    )
    return results
