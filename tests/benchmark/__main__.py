"""The command line of the benchmark: `./tests/bench`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tests.benchmark import (
    changes,
    growth,
    intime,
    loss,
    plot,
    startup,
    swarm,
    takeover,
    without,
    world,
)
from tests.benchmark.stats import table
from tests.lab import images
from tests.lab.engine import Engine
from tests.lab.engines import Setup
from tests.lab.rootfs import rootfs

if TYPE_CHECKING:
    from tests.benchmark.stats import Figure

PARTS = ("in-time", "startup", "tunnel", "changes", "take-over", "growth", "memory")
ALONE = ("swarm",)
"""What is measured only when it is asked for: it takes a quarter of an hour."""

ON_ENGINES = {*PARTS} - {"growth"}
SUITES = {"host": None, "trixie": "trixie", "sid": "sid"}
STORES: dict[str, dict[str, object]] = {
    "overlay2": {},
    "containerd": {"features": {"containerd-snapshotter": True}},
}
"""Image stores, as the engine's configuration names them: the first is Docker 28's own choice."""
OTHER = "wgroutemgr:lab-other"
"""The image of the tree that is measured by turns with this one."""
DRAWN = ("one after the other, 3 dst", "four at a time, 3 dst")
_CPU_V1 = Path("/sys/fs/cgroup/cpu")
"""Where there is a CPU controller of cgroup v1, one of v2 has none."""
BASELINE = 40
"""Most starts of a scenario that are measured without early routes too."""


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="tests/bench", description=__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=(*PARTS, *ALONE, "all"))
    parser.add_argument("--engine", action="append", choices=SUITES, help="may be given again")
    parser.add_argument(
        "--store",
        action="append",
        choices=STORES,
        help="where the engine keeps images, for in-time; may be given again",
    )
    parser.add_argument(
        "--stopped",
        action="append",
        type=int,
        metavar="N",
        help="stopped containers with the label, for in-time; may be given again",
    )
    parser.add_argument(
        "--cap-add",
        action="append",
        default=[],
        metavar="NAME",
        help="a capability that the sidecar may have too, for in-time; may be given again",
    )
    parser.add_argument("--quick", action="store_true", help="few measurements: does it work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement")
    parser.add_argument(
        "--svg",
        type=Path,
        metavar="FILE",
        help="draw early routes on and off; what is drawn beside it",
    )
    parser.add_argument(
        "--cgroup",
        type=int,
        choices=(1, 2),
        default=1 if _CPU_V1.is_dir() else 2,
        help="hierarchy version; else the one by which this machine shares out its CPU",
    )
    parser.add_argument(
        "--calm", type=float, metavar="SECONDS", help="of both gateways up, for take-over"
    )
    parser.add_argument("--starts", type=int, default=0, metavar="N", help="of each scenario")
    parser.add_argument("--source", type=Path, default=images.ROOT, help="the tree to measure")
    parser.add_argument(
        "--against", type=Path, metavar="TREE", help="measure start-up by turns with that tree too"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="scenarios with this in the name; may be given again",
    )
    parser.add_argument("--timelines", action="store_true", help="tell what led to each miss")
    parser.add_argument(
        "--no-baseline", dest="baseline", action="store_false", help="skip early routes off"
    )
    arguments = parser.parse_args()
    if arguments.svg and arguments.json == arguments.svg.with_suffix(".json"):
        parser.error("what is drawn is written beside the drawing: choose another name for --json")
    return arguments


def tell(text: str) -> None:
    """Say how far it came."""
    print(text, file=sys.stderr, flush=True)


def in_time(
    arguments: argparse.Namespace, engine: Engine, label: str, stopped: int
) -> list[Figure]:
    """Measure whether routes are there at the first instruction, with early routes and without."""
    world.probe(engine)
    every = intime.scenarios(quick=arguments.quick)
    if arguments.starts:
        every = [replace(scenario, count=arguments.starts) for scenario in every]
    only = arguments.only or [""]
    chosen = [scenario for scenario in every if any(text in scenario.name for text in only)]
    more = {"stopped": stopped, "cap_add": arguments.cap_add}
    on = intime.run(engine, images.PRODUCT, chosen, tell, timelines=arguments.timelines, **more)
    off: dict[str, intime.Result] = {}
    if arguments.baseline and (arguments.source / without.MODULE).exists():
        tell("without early routes:")
        less = [
            replace(scenario, count=min(scenario.count, BASELINE))
            for scenario in chosen
            if scenario.baseline
        ]
        image = without.product(engine, arguments.source)
        off = intime.run(engine, image, less, tell, timelines=False, **more)
    return [
        intime.figure(scenario, on[scenario.name], label, off.get(scenario.name))
        for scenario in chosen
    ]


def in_swarm(arguments: argparse.Namespace) -> list[Figure]:
    """Measure the scenarios in a swarm of two nodes that were asked for."""
    quick, only = arguments.quick, arguments.only or [""]
    figures: list[Figure] = []
    for name in arguments.engine or ["host"]:
        suite = SUITES[name]
        figures += swarm.run(
            Setup(suite or "", cgroup=arguments.cgroup).node,
            tell,
            lambda scenario: any(text in scenario for text in only),
            rounds=arguments.starts or (swarm.FEW_ROUNDS if quick else swarm.ROUNDS),
            quick=quick,
        )
    return figures


def measure(arguments: argparse.Namespace) -> list[Figure]:
    """Measure what was asked for."""
    parts = set(PARTS if arguments.part == "all" else (arguments.part,))
    quick = arguments.quick
    figures = in_swarm(arguments) if "swarm" in parts else []
    names = (arguments.engine or ["host"]) if parts & ON_ENGINES else []
    for name, store in product(names, arguments.store or [next(iter(STORES))]):
        suite = SUITES[name]
        tree = rootfs(suite) if suite else None
        cgroup_v2 = arguments.cgroup == 2
        with Engine(rootfs=tree, cgroup_v2=cgroup_v2, config=STORES[store]) as engine:
            against = _other(engine, arguments.against) if arguments.against else ""
            images.product(engine, source=arguments.source)
            label = f"Docker {engine.version}"
            for stopped in arguments.stopped or [0]:
                if "in-time" in parts:
                    place = ", ".join((label, store, f"{stopped} stopped", *arguments.cap_add))
                    tell(f"--- {place}")
                    figures += in_time(arguments, engine, place, stopped)
            if "startup" in parts or "memory" in parts:
                tell(f"--- {label}")
                figures += startup.run(engine, label, parts, tell, quick=quick, against=against)
            if "tunnel" in parts:
                figures += loss.run(engine, label, tell, quick=quick)
            if "take-over" in parts:
                figures += takeover.run(engine, label, tell, quick=quick, calm=arguments.calm)
            if "changes" in parts:
                tell(f"--- {label}, changes")
                figures += changes.run(engine, label, tell, quick=quick)
    if "growth" in parts:
        figures += growth.growth(arguments.source, tell, quick=quick)
    if "memory" in parts:
        figures += growth.events(arguments.source, tell, quick=quick)
    return figures


def _other(engine: Engine, source: Path) -> str:
    """Build the image of another tree."""
    engine.docker("tag", images.product(engine, source=source), OTHER)
    return OTHER


def panels(figures: list[Figure]) -> list[plot.Panel]:
    """What can be drawn: starts that were measured with and without early routes."""
    return [
        plot.Panel(
            f"{figure.part.removeprefix(intime.PART)[2:]}: "
            + figure.name.replace("dst", "destinations"),
            [round(value, 3) for value in figure.values],
            cast("list[float]", figure.details["off_ms"]),
            (figure.share or 0.0, cast("float", figure.details["off_share"])),
        )
        for figure in figures
        if figure.name in DRAWN and figure.details.get("off_ms")
    ]


def main() -> int:
    """Measure, print, write."""
    arguments = parse()
    figures = measure(arguments)
    print(table(figures))
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "kernel": os.uname().release, "quick": arguments.quick}
        document = machine | {"figures": [figure.summary() for figure in figures]}
        _write(arguments.json, document)
    if arguments.svg:
        drawn = panels(figures)
        arguments.svg.write_text(plot.draw(drawn), encoding="utf-8")
        _write(arguments.svg.with_suffix(".json"), [asdict(panel) for panel in drawn])
    return 1 if any(figure.met is False for figure in figures) else 0


def _write(file: Path, document: object) -> None:
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
