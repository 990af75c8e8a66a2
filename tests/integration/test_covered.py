"""What a gateway's kernel sends into its tunnels, also by the rules of wg-quick."""

from __future__ import annotations

from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from lib.errors import NetnsError
from lib.kernel.access import Reader
from lib.model import Tunnelled
from tests.integration import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FRONT, FRONT6 = "192.0.2.1", "2001:db8::1"
X, Y, X6 = "198.51.100.0/24", "203.0.113.0/24", "2001:db8:1::/64"
BOTH, WG0, NONE = frozenset({4, 6}), frozenset({"wg0"}), frozenset[str]()
TUNNEL = ("tuntap add wg0 mode tun", "link set wg0 addrgenmode none", "link set wg0 up")


@contextmanager
def gateway(tmp_path: Path) -> Iterator[kernel.Namespace]:
    """Return a namespace with a link, as the engine makes it, and a tunnel."""
    with kernel.namespace(tmp_path / "gateway") as space:
        space.ip(
            "link set lo up",
            "link add eth0 type veth peer name w0",
            *(f"link set {name} addrgenmode none" for name in ("eth0", "w0")),
            "link set w0 up",
            "link set eth0 up",
            f"address add {FRONT}/24 dev eth0",
            f"address add {FRONT6}/64 dev eth0 nodad",
            f"route add default via {FRONT[:-1]}254",
            *TUNNEL,
        )
        yield space


def covered(space: kernel.Namespace, *front: str) -> dict[str, str]:
    found = Reader().covered(str(space.path), [*map(ip_address, front or (FRONT, FRONT6))])
    return {str(dst): device for dst, device in found.devices.items()}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([f"route add {X} dev wg0", f"-6 route add {X6} dev wg0"], [X, X6], id="main"),
        pytest.param(
            ["address add 10.7.0.1/24 dev wg0", f"route add {X} via 10.7.0.2"],
            [X],
            id="through a far end, and not its own network",
        ),
        pytest.param(
            [
                "address add 10.7.0.1/32 dev wg0",
                "-6 address add fd00::1/128 dev wg0 nodad",
                "route add 10.7.0.9/32 dev wg0",
            ],
            ["10.7.0.9/32"],
            id="a peer's own address, and not the gateway's",
        ),
        pytest.param([f"route add {X} via 192.0.2.9", f"route add {Y} dev eth0"], [], id="others"),
        pytest.param([f"route add unreachable {X}", f"route add blackhole {Y}"], [], id="nowhere"),
        pytest.param([f"route add {X} dev wg0 table 1234"], [], id="a table that is not asked"),
        pytest.param(
            [f"route add {X} dev wg0 table 51820", "rule add not fwmark 51820 table 51820"],
            [X],
            id="a table of its own",
        ),
        pytest.param(
            [
                f"route add {X} dev wg0",
                f"route add {X} via 192.0.2.9 table 99",
                "rule add table 99",
            ],
            [],
            id="but another table comes before",
        ),
        pytest.param(
            [f"route add {X} dev wg0 metric 5", f"route add {X} via 192.0.2.9 metric 4"],
            [],
            id="but another route comes before",
        ),
        pytest.param(["route add 0.0.0.0/1 dev wg0"], ["0.0.0.0/1"], id="a half"),
        pytest.param(
            [f"route add {X} nexthop dev wg0 nexthop dev wg0"], [X], id="by several links"
        ),
    ],
)
def test_what_is_covered(tmp_path: Path, lines: list[str], expected: list[str]) -> None:
    with gateway(tmp_path) as space:
        for line in lines:
            version = 6 if line.startswith("-6 ") else None
            space.ip(line.removeprefix("-6 "), version=version)

        assert covered(space) == dict.fromkeys(expected, "wg0")


def test_everything_as_wg_quick_sets_it(tmp_path: Path) -> None:
    with gateway(tmp_path) as space:
        for version in (4, 6):
            space.ip(
                "route add default dev wg0 table 51820",
                "rule add not fwmark 51820 table 51820",
                "rule add table main suppress_prefixlength 0",
                version=version,
            )
        space.ip(f"route add {X} dev wg0")

        assert covered(space) == dict.fromkeys(["0.0.0.0/0", "::/0", X], "wg0")
        assert covered(space, FRONT) == dict.fromkeys(["0.0.0.0/0", X], "wg0")


def test_a_tunnel_that_is_down_or_away(tmp_path: Path) -> None:
    with gateway(tmp_path) as space:
        space.ip(f"route add {X} dev wg0", "link add far type veth peer name f0")
        front = [ip_address(FRONT), ip_address(FRONT6)]
        path = str(space.path)
        assert Reader().covered(path, front) == Tunnelled({ip_network(X): "wg0"}, WG0, BOTH)
        space.ip("link set wg0 down")
        assert Reader().covered(path, front) == Tunnelled({}, NONE, BOTH)
        space.ip("link set wg0 up")
        assert Reader().covered(path, front) == Tunnelled({}, WG0, BOTH)
        space.ip("link del wg0")
        assert Reader().covered(path, front[:1]) == Tunnelled({}, NONE, frozenset({4}))
        assert Reader().covered(path, [ip_address("192.0.2.99")]) == Tunnelled()


def test_a_namespace_that_is_gone_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NetnsError, match="No such file or directory"):
        Reader().covered(str(tmp_path / "gone"), [])


def test_hundreds_of_routes_are_read(tmp_path: Path) -> None:
    many = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(900)]
    with gateway(tmp_path) as space:
        space.ip(*(f"route add {dst} dev wg0" for dst in many))

        assert covered(space) == dict.fromkeys(many, "wg0")
