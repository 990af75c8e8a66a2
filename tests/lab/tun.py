"""A tunnel between two containers, without encryption: a `tun` in each, and who carries packets.

The kernel takes it for a tunnel, which a pair of Ethernet links is not, and it needs no handshake.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from lib.kernel.libc import enter_network_namespace
from tests.lab.engine import Engine
from tests.lab.errors import LabError

if TYPE_CHECKING:
    from tests.lab.site import Container

NAME = "wg0"
_SET_INTERFACE = 0x400454CA
"""`TUNSETIFF` of linux/if_tun.h."""
_TUN, _NO_INFO = 0x1, 0x1000
_LONGEST = 1 << 16


class Tun:
    """The tunnel, until it is closed; it holds the namespaces of both, be they gone."""

    def __init__(self, *ends: Container) -> None:
        """Make a link `wg0` in the namespace of each; they are down, and have no addresses."""
        paths = [namespace_of(end) for end in ends]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        if not self._process.stdout.readline():
            self.close()
            raise LabError(seen="there is no tun between the containers", hint="see what it says")

    def close(self) -> None:
        """End it; the links go with it."""
        self._process.kill()
        self._process.communicate()


def namespace_of(container: Container) -> str:
    """Return where this machine sees a container's network namespace."""
    engine = container.engine
    assert isinstance(engine, Engine), "only those are entered"
    key = container.inspect("{{.NetworkSettings.SandboxKey}}")
    # `/var/run` is a link there, which would lead to our own `/run`.
    return f"/proc/{engine.pid}/root/run/{key.partition('/run/')[2]}"


def _opened(path: str) -> int:
    """Return a descriptor of a new link in the namespace of a file, where this process is then."""
    namespace = os.open(path, os.O_RDONLY)
    enter_network_namespace(namespace)
    os.close(namespace)
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _SET_INTERFACE, struct.pack("16sH22x", NAME.encode(), _TUN | _NO_INFO))
    return tun


def main() -> None:
    """Carry packets between the namespaces of two files, until nobody wants that any more."""
    here, there = map(_opened, sys.argv[1:])
    other, who_wants_it = {here: there, there: here}, sys.stdin.fileno()
    print("ready", flush=True)
    while who_wants_it not in (ready := select.select([*other, who_wants_it], [], [])[0]):
        for end in ready:
            packet = os.read(end, _LONGEST)
            with suppress(OSError):  # Where the other end is down, it is lost.
                os.write(other[end], packet)


if __name__ == "__main__":
    main()
