"""The forward chains, read from a real kernel in a namespace with both kinds of firewall."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READ = (
    "import json, sys; from lib.kernel import netfilter; "
    "found = getattr(netfilter, sys.argv[1])(sys.argv[2]); "
    "print(json.dumps(found))"
)


def read(what: str, *commands: str, path: str = "") -> list[list[object]]:
    """Return what is read in a new namespace after these commands, or from outside by its path."""
    script = "\n".join(["set -e", *commands, 'exec "$0" -c "$1" "$2" "$3"'])
    enter = () if path else ("unshare", "--net")
    done = subprocess.run(
        [*enter, "sh", "-c", script, sys.executable, READ, what, path],
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


def chains(*commands: str) -> list[list[object]]:
    return read("forward_chains", *commands)


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


NAT = "-t nat -A POSTROUTING"


@pytest.mark.parametrize("kind", ["nft", "legacy"])
@pytest.mark.parametrize(("tool", "family"), [("iptables", "ip"), ("ip6tables", "ip6")])
def test_source_nat(kind: str, tool: str, family: str) -> None:
    program, source = f"{tool}-{kind}", "192.0.2.1" if family == "ip" else "fd::1"
    found = read(
        "source_nat",
        f"{program} {NAT} -o wg0 -j MASQUERADE",
        f"{program} {NAT} ! -o eth+ -p udp -j MASQUERADE",
        f"{program} -t nat -N MINE",
        f"{program} {NAT} -p tcp -j MINE",
        f"{program} -t nat -A MINE -j SNAT --to-source {source}",
    )

    assert sorted(map(str, found)) == sorted(
        map(
            str,
            [
                [family, "nat", "POSTROUTING", "wg0"],
                [family, "nat", "POSTROUTING", "!eth*"],
                [family, "nat", "MINE", ""],
            ],
        )
    )


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_what_rewrites_no_source(kind: str) -> None:
    """The engine's own rules for its DNS server are in every container on a network of its own."""
    program = f"iptables-{kind}"

    assert not read(
        "source_nat",
        f"{program} -t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 192.0.2.1",
        f"{program} {NAT} -o wg0 -j ACCEPT",
        f"{program} -t nat -N DOCKER_POSTROUTING",
        f"{program} {NAT} -d 127.0.0.11 -j DOCKER_POSTROUTING",
        f"{program} -t nat -A DOCKER_POSTROUTING -p udp -j SNAT --to-source :53",
    )


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_another_namespace_is_read_from_outside(kind: str) -> None:
    script = (
        f"iptables-{kind} {NAT} -o wg0 -j MASQUERADE; iptables-{kind} -P FORWARD DROP; "
        "echo; read wait"
    )
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-ec", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as inside:
        assert inside.stdout
        inside.stdout.readline()
        path = f"/proc/{inside.pid}/ns/net"
        nat, forward = (read(what, path=path) for what in ("source_nat", "forward_chains"))

    assert nat == [["ip", "nat", "POSTROUTING", "wg0"]]
    assert forward == [["ip", "filter", "FORWARD", True, 0]]
