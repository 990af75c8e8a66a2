"""The forward chains, read from a real kernel in a namespace with both kinds of firewall."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READ = (
    "import json, dataclasses; from lib.kernel import netfilter; "
    "print(json.dumps([dataclasses.astuple(chain) for chain in netfilter.forward_chains()]))"
)


def chains(*commands: str) -> list[list[object]]:
    """Return what is read in a new namespace after these commands."""
    script = "\n".join(["set -e", *commands, 'exec "$0" -c "$1"'])
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, sys.executable, READ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "not found" in done.stderr:
        pytest.skip(f"needs iptables: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found: list[list[object]] = json.loads(done.stdout)
    return found


def test_a_fresh_namespace_filters_nothing() -> None:
    assert chains() == []


@pytest.mark.parametrize("kind", ["nft", "legacy"])
@pytest.mark.parametrize(("tool", "family"), [("iptables", "ip"), ("ip6tables", "ip6")])
def test_policy_and_number_of_rules(kind: str, tool: str, family: str) -> None:
    program = f"{tool}-{kind}"
    drop, rule = f"{program} -P FORWARD DROP", f"{program} -A FORWARD -i eth0 -j ACCEPT"

    assert chains(f"{program} -P FORWARD ACCEPT") == [[family, "filter", "FORWARD", False, 0]]
    assert chains(drop) == [[family, "filter", "FORWARD", True, 0]]
    assert chains(drop, rule, rule) == [[family, "filter", "FORWARD", True, 2]]


def test_other_chains_are_not_told() -> None:
    assert chains("iptables-nft -P INPUT DROP", "iptables-nft -t nat -P OUTPUT ACCEPT") == []
    assert chains("iptables-legacy -P INPUT DROP") == [["ip", "filter", "FORWARD", False, 0]]
