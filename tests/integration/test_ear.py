"""What is heard in a namespace, and that nothing of who listens is left in it."""

from __future__ import annotations

from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from lib.errors import NetnsError
from lib.kernel.addresses import AddressMonitor
from tests.integration import kernel

OWN = Path("/proc/thread-self/ns/net")
LINK = (
    "link add eth0 type veth peer name w0",
    "link set eth0 addrgenmode none",  # No news but what a test makes.
    "link set w0 addrgenmode none",
    "link set w0 up",
)


def listening(space: kernel.Namespace) -> closing[AddressMonitor]:
    return closing(AddressMonitor(str(space.path)))


def hears(ear: AddressMonitor, *addresses: str) -> bool:
    """Take in news until exactly these addresses are known, beside those that no test gave."""

    def is_heard() -> bool:
        ear.read()
        given = {one for one in ear.addresses if not (one.is_loopback or one.is_link_local)}
        return given == set(map(ip_address, addresses))

    return kernel.poll(is_heard)


def test_addresses_are_heard_of_as_they_come(space: kernel.Namespace) -> None:
    with listening(space) as ear:
        assert hears(ear)
        assert not ear.read()

        space.ip(*LINK, "address add 192.0.2.7/24 dev eth0")
        assert hears(ear, "192.0.2.7")
        space.ip("address add 2001:db8::7/64 dev eth0 nodad")
        assert hears(ear, "192.0.2.7", "2001:db8::7")


def test_link_with_an_address_is_up_when_the_kernel_makes_its_routes(
    space: kernel.Namespace,
) -> None:
    with listening(space) as ear:
        space.ip("link set lo up", *LINK, "address add 192.0.2.7/24 dev eth0")
        assert hears(ear, "192.0.2.7")
        assert not ear.is_up

        space.ip("link set eth0 up")
        assert kernel.poll(lambda: ear.read() and ear.is_up)


def test_addresses_that_were_there_before_are_heard_of_too(space: kernel.Namespace) -> None:
    space.ip(*LINK, "address add 192.0.2.7/24 dev eth0")

    with listening(space) as ear:
        assert hears(ear, "192.0.2.7")
        assert ear.is_up  # It may be, and nothing more would tell.


@pytest.mark.parametrize(
    "change",
    [
        "link add eth1 type veth peer name w1",
        "link set eth0 up",
        "address add 192.0.2.8/24 dev eth0",
        "route add 198.51.100.0/24 via 192.0.2.1",
        "-6 route add unreachable 2001:db8:9::/64",
    ],
)
def test_whatever_leads_to_a_route_is_news(space: kernel.Namespace, change: str) -> None:
    space.ip(*LINK, "address add 192.0.2.7/24 dev eth0")
    if "route add" in change:
        space.ip("link set eth0 up")
    with listening(space) as ear:
        kernel.poll(lambda: not ear.read())

        space.run(kernel.IP, *change.split())

        assert kernel.poll(ear.read)


def test_more_news_than_the_socket_holds_end_nothing(space: kernel.Namespace) -> None:
    with listening(space) as ear:
        space.ip(*LINK, "link set eth0 up")
        many = [f"192.0.{n // 250}.{n % 250 + 1}/32" for n in range(5000)]
        space.ip(*(f"address add {address} dev eth0" for address in many))
        assert ear.read()

        space.ip("address add 198.51.100.7/24 dev eth0")

        assert kernel.poll(lambda: ear.read() and ip_address("198.51.100.7") in ear.addresses)


def test_who_listened_is_where_he_was_and_leaves_nothing(space: kernel.Namespace) -> None:
    own, held = OWN.stat().st_ino, len(list(Path("/proc/self/fd").iterdir()))
    with listening(space):
        assert OWN.stat().st_ino == own

    assert len(list(Path("/proc/self/fd").iterdir())) == held


@pytest.mark.parametrize("kind", ["nothing", "file"])
def test_what_is_no_namespace_cannot_be_listened_in(tmp_path: Path, kind: str) -> None:
    path, own = tmp_path / "0a1b2c3d4e5f", OWN.stat().st_ino
    if kind == "file":
        path.touch()

    with pytest.raises(NetnsError) as caught:
        AddressMonitor(str(path))

    assert caught.value.reason.startswith(f"cannot listen in {path}: ")
    assert OWN.stat().st_ino == own
