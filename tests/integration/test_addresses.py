"""What is known of the addresses in a namespace, and that nothing of who listens stays in it."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import closing
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import NoReturn

import pytest

from lib.errors import NetnsError
from lib.kernel.access import Reader
from lib.kernel.addresses import AddressMonitor
from lib.model import LocalAddress
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


def knows(monitor: AddressMonitor, *addresses: str) -> bool:
    """Take in news until exactly these addresses are known, beside those that no test gave."""

    def is_known() -> bool:
        monitor.read()
        given = {one for one in monitor.addresses if not (one.is_loopback or one.is_link_local)}
        return given == set(map(ip_address, addresses))

    return kernel.poll(is_known)


def test_addresses_are_known_as_they_come(space: kernel.Namespace) -> None:
    with listening(space) as monitor:
        assert knows(monitor)
        assert not monitor.read()

        space.ip(*LINK, "address add 192.0.2.7/24 dev eth0")
        assert knows(monitor, "192.0.2.7")
        space.ip("address add 2001:db8::7/64 dev eth0 nodad")
        assert knows(monitor, "192.0.2.7", "2001:db8::7")


def test_link_with_an_address_is_up_when_the_kernel_makes_its_routes(
    space: kernel.Namespace,
) -> None:
    with listening(space) as monitor:
        space.ip("link set lo up", *LINK, "address add 192.0.2.7/24 dev eth0")
        assert knows(monitor, "192.0.2.7")
        assert not monitor.is_up

        space.ip("link set eth0 up")
        assert kernel.poll(lambda: monitor.read() and monitor.is_up)


def test_addresses_that_were_there_before_are_known_too(space: kernel.Namespace) -> None:
    space.ip(*LINK, "address add 192.0.2.7/24 dev eth0")

    with listening(space) as monitor:
        assert knows(monitor, "192.0.2.7")
        assert monitor.is_up  # It may be, and nothing more would tell.


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
    with listening(space) as monitor:
        kernel.poll(lambda: not monitor.read())

        space.run(kernel.IP, *change.split())

        assert kernel.poll(monitor.read)


def test_more_news_than_the_socket_holds_end_nothing(space: kernel.Namespace) -> None:
    with listening(space) as monitor:
        space.ip(*LINK, "link set eth0 up")
        many = [f"192.0.{n // 250}.{n % 250 + 1}/32" for n in range(5000)]
        space.ip(*(f"address add {address} dev eth0" for address in many))
        assert monitor.read()

        space.ip("address add 198.51.100.7/24 dev eth0")

        last = ip_address("198.51.100.7")
        assert kernel.poll(lambda: monitor.read() and last in monitor.addresses)


def test_who_listened_is_where_he_was_and_leaves_nothing(space: kernel.Namespace) -> None:
    own, held = OWN.stat().st_ino, kernel.descriptors()
    with listening(space):
        assert OWN.stat().st_ino == own

    assert kernel.descriptors() == held


@pytest.mark.parametrize("kind", ["nothing", "file"])
def test_what_is_no_namespace_cannot_be_listened_in(tmp_path: Path, kind: str) -> None:
    path, own = tmp_path / "0a1b2c3d4e5f", OWN.stat().st_ino
    if kind == "file":
        path.touch()

    with pytest.raises(NetnsError) as caught:
        AddressMonitor(str(path))

    assert caught.value.reason.startswith(f"cannot listen in {path}: ")
    assert OWN.stat().st_ino == own


def refuse(*_: object) -> NoReturn:
    raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


@pytest.mark.parametrize("step", ["bind", "send"])
def test_nothing_is_left_of_who_could_not_begin_to_listen(
    space: kernel.Namespace, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = kernel.descriptors()
    monkeypatch.setattr(socket.socket, step, refuse)

    with pytest.raises(NetnsError, match=f"cannot listen in {space.path}: No buffer space"):
        AddressMonitor(str(space.path))

    assert kernel.descriptors() == before


def test_news_that_cannot_be_read_are_told_of(space: kernel.Namespace) -> None:
    with listening(space) as monitor:
        pass

    with pytest.raises(NetnsError, match=f"cannot listen in {space.path}: Bad file descriptor"):
        monitor.read()


def test_an_address_that_somebody_else_has_is_a_duplicate(space: kernel.Namespace) -> None:
    shared, network = ip_address("2001:db8::7"), ip_network("2001:db8::/64")
    space.ip(*LINK, f"address add {shared}/64 dev w0 nodad")
    space.ip("link set eth0 up", f"address add {shared}/64 dev eth0")

    duplicate = LocalAddress(shared, network, is_duplicate=True, mtu=1500)
    assert kernel.poll(lambda: duplicate in Reader().read(str(space.path)).addresses)


def test_the_network_of_an_address_may_be_that_of_the_other_end(space: kernel.Namespace) -> None:
    space.ip(*LINK, "address add 192.0.2.7 peer 198.51.100.1/24 dev eth0")

    (found,) = Reader().read(str(space.path)).addresses
    network = ip_network("198.51.100.0/24")
    assert found == LocalAddress(ip_address("192.0.2.7"), network, mtu=1500)


def test_addresses_of_one_link_alone_are_not_told_of(space: kernel.Namespace) -> None:
    space.ip("link set lo up", *LINK, "address add fe80::7/64 dev eth0 nodad")

    assert Reader().read(str(space.path)).addresses == ()
