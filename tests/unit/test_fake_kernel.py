"""What the stand-in for the kernel does beyond the kernel: it is told to fail, and is strict."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from lib.errors import NetnsError
from lib.kernel.shells import TIMED_OUT, Conversation
from lib.model import Route, Step
from lib.routing import iproute
from tests.fake_kernel import FakeKernel

PATH = "/var/run/docker/netns/0a1b2c3d4e5f"
ROUTE = Route(ip_network("198.51.100.0/24"), ip_address("192.0.2.1"), 0)
OTHER = Route(ip_network("203.0.113.0/24"), ip_address("192.0.2.1"), 0)
LINES = [iproute.command(PATH, Step("replace", route)) for route in (ROUTE, OTHER)]


@pytest.fixture
def kernel() -> FakeKernel:
    kernel = FakeKernel()
    kernel.add(PATH, addresses=["192.0.2.7/24"])
    return kernel


def run(kernel: FakeKernel, *lines: str) -> list[tuple[int, str]]:
    ended: list[tuple[int, str]] = []

    def conversation() -> Conversation:
        ended.extend([(outcome.exit_code, outcome.output) for outcome in (yield lines)])

    kernel.serve([conversation()])
    return ended


@pytest.mark.parametrize(
    "line",
    [
        "ip route",
        f"nsenter --net={PATH} ip route show",
        f"nsenter --net={PATH} ip route add 198.51.100.0/24 via 192.0.2.1",
        f"nsenter --net={PATH} ip route replace 198.51.100.0/24",
        f"nsenter --net={PATH} ip route replace 198.51.100.0/24 via 192.0.2.1 mtu lock 1280",
        f"nsenter --net={PATH} ip route replace unreachable 198.51.100.0/24 mtu 1280",
        f"nsenter --net={PATH} ip route replace 198.51.100.0/24 metric 1 via 192.0.2.1",
        f"nsenter --net={PATH} ip route replace 198.51.100.0/24 via 192.0.2.1 dev eth0",
        f"nsenter --net={PATH} ip route replace unreachable 198.51.100.0/24 via 192.0.2.1",
        f"nsenter --net={PATH} ip -6 route replace 198.51.100.0/24 via 192.0.2.1",
        f"nsenter --net={PATH} ip route replace fd00::/64 via fd00::1",
        f"nsenter --net={PATH} ip -6 route del fd00::/64",
        f"nsenter  --net={PATH} ip route replace 198.51.100.0/24 via 192.0.2.1",
        f"nsenter --net={PATH} ip route replace 198.51.100.0/24 via 192.0.2.1; reboot",
    ],
)
def test_any_other_line_fails_the_test(kernel: FakeKernel, line: str) -> None:
    with pytest.raises(AssertionError, match="does not understand"):
        run(kernel, line)

    assert kernel.commands == []


def test_what_ran_is_known(kernel: FakeKernel) -> None:
    assert run(kernel, *LINES) == [(0, "")] * 2
    assert kernel.commands == LINES


def test_a_namespace_can_be_told_to_fail_and_to_hang_until_it_is_healed(kernel: FakeKernel) -> None:
    kernel.fail(PATH, "it is ill", only="203.0.113.0")
    assert run(kernel, *LINES) == [(0, ""), (2, "it is ill")]

    kernel.hang(PATH)
    assert run(kernel, *LINES) == [(TIMED_OUT, "no answer within 5 s, killed")] * 2

    kernel.heal(PATH)
    assert run(kernel, *LINES) == [(0, "")] * 2


def test_it_can_be_told_not_to_be_read_and_not_to_be_entered(kernel: FakeKernel) -> None:
    error = NetnsError(f"{PATH} is the host's network namespace")
    kernel.fail_reading(PATH, "Too many open files")
    kernel.forbid(PATH, error)

    with pytest.raises(NetnsError, match="Too many open files"):
        kernel.routes(PATH)
    with pytest.raises(NetnsError) as caught:
        kernel.check(PATH)
    assert caught.value is error

    kernel.heal(PATH)
    kernel.check(PATH)
    assert len(kernel.routes(PATH)) == 1


def test_a_namespace_can_end_between_two_commands(kernel: FakeKernel) -> None:
    kernel.before_command(lambda line: kernel.remove(PATH) if line == LINES[1] else None)

    first, second = run(kernel, *LINES)

    assert first == (0, "")
    assert second == (1, f"nsenter: can't open '{PATH}': No such file or directory")


def test_conversations_take_turns_as_wide_as_it_is_told() -> None:
    kernel = FakeKernel(width=2)
    paths = [f"{PATH}{name}" for name in "abc"]
    for path in paths:
        kernel.add(path, addresses=["192.0.2.7/24"])

    def conversation(path: str) -> Conversation:
        yield [iproute.command(path, Step("replace", route)) for route in (ROUTE, OTHER)]

    kernel.serve(map(conversation, paths))

    ran = [line.split()[1][-1] for line in kernel.commands]
    assert ran == ["a", "b", "a", "b", "c", "c"]
