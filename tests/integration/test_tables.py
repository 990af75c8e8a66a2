"""Reading a namespace's routes beyond what `ip route` makes of them (for that, test_dialects)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lib.errors import NetnsError
from lib.kernel import route_table
from tests.integration import kernel
from tests.integration.kernel import DST, DST6, GATEWAY, GATEWAY6, Namespace, ordered, route

if TYPE_CHECKING:
    from lib.model import Route

ROOT = Path(__file__).parents[2]
OWN = Path("/proc/thread-self/ns/net")
LINK = ("link add d0 type veth peer name d1", "link set d0 up", "link set d1 up")
BIG = (
    "import socket, sys; "
    "socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)"
    ".sendto(bytes(1400), (sys.argv[1], 9))"
)

TRY_TO_GO = """
import os, subprocess
from lib import errors
from lib.kernel import route_table

def place(process):
    return os.stat(f"/proc/{process}/ns/net").st_ino

own = place("thread-self")
child = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
while place(child.pid) == own:
    pass
try:
    route_table.read(f"/proc/{child.pid}/ns/net")
except errors.NetnsError as error:
    here = "still here" if place("thread-self") == own else "lost"
    print(error.reason.partition(": ")[2], here, sep=", ")
child.communicate()
"""


def read(space: Namespace) -> list[Route]:
    return ordered(route_table.read(str(space.path)))


def test_a_new_namespace_has_no_routes(space: Namespace) -> None:
    assert route_table.read(str(space.path)) == ()


def test_without_a_path_ours_are_read() -> None:
    own = Namespace(OWN)

    assert ordered(route_table.read()) == ordered([*own.routes(4), *own.routes(6)])


def test_more_routes_than_one_answer_holds(space: Namespace) -> None:
    space.ip(*LINK, "address add 192.0.2.7/24 dev d0")
    many = [f"10.{n // 256}.{n % 256}.0/24" for n in range(5000)]

    space.ip(*(f"route add {dst} via 192.0.2.1" for dst in many))

    found = [one for one in route_table.read(str(space.path)) if one.gateway]
    assert ordered(found) == ordered(route(dst, "192.0.2.1") for dst in many)


def test_other_tables_are_left_out(client: Namespace) -> None:
    before = read(client)

    client.ip(
        f"route add {DST} via {GATEWAY} table 100",
        f"route add {DST} via {GATEWAY} table 254000",
        f"route add {DST6} via {GATEWAY6} table local",
    )

    assert read(client) == before


def test_a_gateway_of_the_other_ip_version(client: Namespace) -> None:
    client.ip(f"route add {DST} via inet6 {GATEWAY6}")

    assert route(DST, GATEWAY6) in read(client)


def test_a_next_hop_that_is_an_object_of_its_own(client: Namespace) -> None:
    client.ip(f"nexthop add id 7 via {GATEWAY} dev eth0", f"route add {DST} nhid 7")

    assert route(DST, GATEWAY) in read(client)


@pytest.mark.parametrize(
    ("dst", "gateway", "host"),
    [(DST, GATEWAY, "192.0.2.7"), (DST6, GATEWAY6, "2001:db8:66::7")],
    ids=["IPv4", "IPv6"],
)
def test_what_the_kernel_has_learnt_of_a_way_is_no_route(
    tmp_path: Path, client: Namespace, dst: str, gateway: str, host: str
) -> None:
    others = Namespace(tmp_path / "others")
    others.ip(*LINK, "link set d0 mtu 1300", f"route add {dst} dev d0")
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        others.run(kernel.SH, "-c", f"echo 1 >/proc/sys/net/{name}")
    client.ip(f"route add {dst} via {gateway}")
    before = read(client)

    def has_learnt() -> bool:
        client.run(sys.executable, "-c", BIG, host)
        return "mtu 1300" in client.run(kernel.IP, "route", "get", host)

    assert kernel.poll(has_learnt)
    assert read(client) == before


def test_who_has_read_is_where_he_was_and_leaves_nothing(client: Namespace) -> None:
    own, held = OWN.stat().st_ino, len(list(Path("/proc/self/fd").iterdir()))

    assert read(client)

    assert OWN.stat().st_ino == own
    assert len(list(Path("/proc/self/fd").iterdir())) == held


def test_who_may_not_come_back_does_not_go() -> None:
    """In a user namespace: what is made there may be entered, but not where we came from."""
    words = (kernel.UNSHARE, "--user", "--map-root-user", sys.executable, "-c", TRY_TO_GO)

    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert said == "Operation not permitted, still here\n"


@pytest.mark.parametrize(
    ("kind", "why"), [("nothing", "No such file or directory"), ("file", "Invalid argument")]
)
def test_what_is_no_namespace_cannot_be_read(tmp_path: Path, kind: str, why: str) -> None:
    path, own = tmp_path / "0a1b2c3d4e5f", OWN.stat().st_ino
    if kind == "file":
        path.touch()

    with pytest.raises(NetnsError) as caught:
        route_table.read(str(path))

    assert caught.value.reason == f"cannot read the routes in {path}: {why}"
    assert OWN.stat().st_ino == own
