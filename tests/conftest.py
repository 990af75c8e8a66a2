"""What every test folder shares: its marker, honest skips, and reproducible random cases.

A test that lacks something says so with `pytest.skip("needs THING: why")`. Under
`--require=THING,...` such a skip is a failure, so that CI cannot pass by testing nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

TESTS = Path(__file__).parent
MARKED_FOLDERS = ("integration", "e2e", "soak")

# Helpers outside of test files explain their failed asserts too.
pytest.register_assert_rewrite("tests.e2e", "tests.integration", "tests.lab")

# Reproducible, and no time limit for a single example: test machines are slow at times.
hypothesis.settings.register_profile("repository", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        default="",
        metavar="THING,...",
        help="fail, instead of skip, a test that needs one of these things (root, docker)",
    )
    parser.addoption(
        "--engine",
        metavar="NAME",
        help="run end-to-end tests on that engine: a name of ./tests/engines --help",
    )
    parser.addoption("--seconds", type=float, default=600, help="how long the soak takes")
    parser.addoption("--reboots", type=int, default=50, help="how often an engine is rebooted")
    parser.addoption("--seed", type=int, help="of the soak's faults; a new one by default, printed")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test by its folder: tests/e2e/... gets the marker `e2e`."""
    folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
    if folder in MARKED_FOLDERS:
        item.add_marker(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if any(item.get_closest_marker(name) for name in MARKED_FOLDERS) and os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")


def lacking(reason: str, required: Iterable[str]) -> str | None:
    """Return the required thing that a skip's reason says is missing."""
    match = re.search(r"\bneeds (\w+):", reason)
    return match[1] if match and match[1] in required else None


def refuse_skip(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    required = str(config.getoption("--require")).split(",")
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if thing := lacking(reason, required):
        report.outcome = "failed"
        report.longrepr = f"{reason} (and --require={thing} forbids to skip)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report, collector.config)
    return report
