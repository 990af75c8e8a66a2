"""A question to a name server and its answer, as bytes, and over a socket of the test's own."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from lib.kernel import names
from lib.kernel.names import Reply, ask, parse, question

NAME = "tasks.wg_wireguard"
ASKED = question(NAME, 1, 0x1234)
A, AAAA, CNAME = 1, 28, 5
HERE = ip_address("192.168.67.5")
THERE = ip_address("192.168.67.9")
FIRST = b"\xc0\x0c"
"""A pointer to the name that was asked for."""


def record(value: bytes, kind: int = A, name: bytes = FIRST, family: int = 1) -> bytes:
    return name + struct.pack(">HHIH", kind, family, 600, len(value)) + value


def answer(*records: bytes, asked: bytes = ASKED, code: int = 0, flags: int = 0x8180) -> bytes:
    head = struct.pack(">HHHHH", flags | code, 1, len(records), 0, 0)
    return asked[:2] + head + asked[12:] + b"".join(records)


def test_a_question_as_it_is_sent() -> None:
    assert ASKED == b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\5tasks\x0cwg_wireguard\0\0\1\0\1"


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64, "gänge"])
def test_what_cannot_be_a_name_is_not_asked(name: str) -> None:
    assert ask(name, server=("192.0.2.1", 53)) == Reply(3)


TWO = (record(HERE.packed), record(THERE.packed))


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        pytest.param(answer(*TWO), Reply(0, (HERE, THERE)), id="two, with pointers"),
        pytest.param(answer(*TWO, TWO[0]), Reply(0, (HERE, THERE)), id="one twice"),
        pytest.param(
            answer(record(HERE.packed, name=b"\5tasks\x0cwg_wireguard\0")),
            Reply(0, (HERE,)),
            id="the name written out",
        ),
        pytest.param(
            answer(record(HERE.packed, name=b"\5tasks\xc0\x12")),
            Reply(0, (HERE,)),
            id="written out, then a pointer",
        ),
        pytest.param(
            answer(record(b"\1x\0", CNAME), *TWO[:1]), Reply(0, (HERE,)), id="by another name"
        ),
        pytest.param(answer(record(bytes(16), AAAA)), Reply(0), id="not what was asked for"),
        pytest.param(answer(record(b"\1\2\3")), Reply(0), id="an address of three bytes"),
        pytest.param(answer(record(HERE.packed, family=3)), Reply(0), id="not of the Internet"),
        pytest.param(answer(code=3), Reply(3), id="no such name"),
        pytest.param(answer(code=2), Reply(2), id="failed"),
        pytest.param(answer(code=3, asked=ASKED).lower(), Reply(3), id="in small letters"),
        pytest.param(answer(*TWO, asked=b"\x12\x35" + ASKED[2:]), None, id="to another question"),
        pytest.param(
            answer(*TWO, asked=question("tasks.wg_wireguarx", 1, 0x1234)), None, id="another name"
        ),
        pytest.param(answer(*TWO, flags=0x0100), None, id="a question"),
        pytest.param(answer(*TWO)[:-9], None, id="cut off"),
        pytest.param(answer(b"\x3f"), None, id="a name that does not end"),
        pytest.param(b"", None, id="nothing"),
        pytest.param(ASKED[:11], None, id="half a head"),
    ],
)
def test_an_answer_as_it_comes(said: bytes, reply: Reply | None) -> None:
    assert parse(said, ASKED) == reply


def test_an_answer_of_the_other_ip_version() -> None:
    asked = question(NAME, AAAA, 7)
    told = record(ip_address("fd::5").packed, AAAA)

    assert parse(answer(told, TWO[0], asked=asked), asked) == Reply(0, (ip_address("fd::5"),))


@pytest.mark.parametrize(
    ("reply", "known", "left"),
    [
        (Reply(0, (HERE,)), (HERE,), True),
        (Reply(3), (), True),
        (Reply(2), None, False),
        (Reply(5), None, True),
        (Reply(None), None, False),
    ],
)
def test_what_a_reply_means(reply: Reply, known: object, *, left: bool) -> None:
    assert (reply.known, reply.left) == (known, left)


# --- a server of the test's own -----------------------------------------------------------------


Says = Callable[[bytes], tuple[bytes, ...]]


class Server:
    """Sends to each question what the test says: nothing, or one or several answers."""

    def __init__(self, says: Says) -> None:
        self.asked: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._socket.getsockname()
        self._says = says
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            asked, whose = self._socket.recvfrom(4096)
            if not asked:
                return
            self.asked.append(asked)
            for said in self._says(asked):
                self._socket.sendto(said, whose)

    def close(self) -> None:
        """End it, by an empty packet."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.address)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Says], Server]]:
    """Return what starts a server, which ends with the test."""
    servers: list[Server] = []

    def start(says: Says) -> Server:
        servers.append(Server(says))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_a_name_is_asked_for(serve: Callable[[Says], Server]) -> None:
    server = serve(lambda asked: (answer(*TWO, asked=asked),))

    assert ask(NAME, server=server.address) == Reply(0, (HERE, THERE))
    assert [asked[2:] for asked in server.asked] == [ASKED[2:]]


def test_what_is_no_answer_to_it_is_passed_over(serve: Callable[[Says], Server]) -> None:
    server = serve(
        lambda asked: (b"x", answer(record(b"\0" * 4), asked=b"\0\0"), answer(code=3, asked=asked))
    )

    assert ask(NAME, server=server.address) == Reply(3)


def test_each_question_has_a_number_of_its_own(serve: Callable[[Says], Server]) -> None:
    server = serve(lambda asked: (answer(asked=asked),))
    for _ in range(8):
        ask(NAME, server=server.address)

    assert len({asked[:2] for asked in server.asked}) > 1


def test_silence_ends_in_time(serve: Callable[[Says], Server]) -> None:
    server = serve(lambda _: ())
    begun = time.monotonic()

    assert ask(NAME, server=server.address, seconds=0.2) == Reply(None)
    assert 0.2 <= time.monotonic() - begun < 2


def test_chatter_does_not_prolong_it(serve: Callable[[Says], Server]) -> None:
    server = serve(lambda _: (b"no answer",) * 50)
    begun = time.monotonic()

    assert ask(NAME, server=server.address, seconds=0.2) == Reply(None)
    assert time.monotonic() - begun < 2


def test_where_nobody_listens_it_is_told_at_once() -> None:
    server = Server(lambda _: ())
    server.close()
    begun = time.monotonic()

    assert ask(NAME, server=server.address, seconds=30) == Reply(None)
    assert time.monotonic() - begun < 10


def test_without_a_socket_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object) -> socket.socket:
        raise OSError

    monkeypatch.setattr("socket.socket", no_socket)

    assert ask(NAME) == Reply(None)


def test_it_is_the_engines_that_is_asked() -> None:
    assert names.SERVER == ("127.0.0.11", 53)
