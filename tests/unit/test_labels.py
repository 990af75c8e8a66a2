"""Label text: what is a destination, what is refused, and that no text whatsoever does harm."""

from __future__ import annotations

import re
import shlex
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model import Network, Route, Step
from lib.routing import iproute, labels


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("192.0.2.0/24", ["192.0.2.0/24"], id="one"),
        pytest.param("192.0.2.0/24,198.51.100.0/25", ["192.0.2.0/24", "198.51.100.0/25"], id="two"),
        pytest.param(
            "203.0.113.0/24,192.0.2.0/24", ["203.0.113.0/24", "192.0.2.0/24"], id="order is kept"
        ),
        pytest.param("2001:db8::/32", ["2001:db8::/32"], id="IPv6"),
        pytest.param("2001:DB8:0::/48", ["2001:db8::/48"], id="IPv6 in another spelling"),
        pytest.param(
            "192.0.2.0/24,2001:db8::/64", ["192.0.2.0/24", "2001:db8::/64"], id="both families"
        ),
        pytest.param("192.0.2.7/32", ["192.0.2.7/32"], id="a single host"),
        pytest.param("2001:db8::7/128", ["2001:db8::7/128"], id="a single IPv6 host"),
        pytest.param(
            " 192.0.2.0/24 ,\n\t198.51.100.0/24\r\n",
            ["192.0.2.0/24", "198.51.100.0/24"],
            id="white space",
        ),
        pytest.param(
            "\u00a0192.0.2.0/24\u2003", ["192.0.2.0/24"], id="white space that does not look it"
        ),
        pytest.param(",192.0.2.0/24,,", ["192.0.2.0/24"], id="empty entries"),
        pytest.param("192.0.2.0/24,192.0.2.0/24", ["192.0.2.0/24"], id="repetition"),
        pytest.param(
            "2001:db8::/48,2001:db8:0:0::/48", ["2001:db8::/48"], id="repetition in disguise"
        ),
        pytest.param("", [], id="nothing"),
        pytest.param(" , ,", [], id="nothing but separators"),
        pytest.param("10.0.0.0/8", ["10.0.0.0/8"], id="private"),
        pytest.param("100.64.0.0/10", ["100.64.0.0/10"], id="carrier-grade NAT"),
        pytest.param("fd00:db8::/48", ["fd00:db8::/48"], id="unique local"),
        pytest.param("0.0.0.0/1", ["0.0.0.0/1"], id="half of the internet"),
        pytest.param("0.0.0.0/0, ::/0", ["0.0.0.0/0", "::/0"], id="everything"),
    ],
)
def test_a_good_label_gives_its_destinations_and_no_refusal(text: str, expected: list[str]) -> None:
    assert labels.parse(text) == (networks(*expected), ())


NOT_CIDR = ("is not a network in CIDR notation", "write it like 192.168.66.0/24")
SCOPED = ("has a scope id", "write the network without the % part")


def no_length(suggestion: str) -> tuple[str, str]:
    return "has no prefix length", f"write {suggestion}"


def host_bits(suggestion: str) -> tuple[str, str]:
    return "has host bits set", f"write {suggestion}"


def special(name: str) -> tuple[str, str]:
    return f"is not unicast: {name}", "no gateway leads there"


REFUSED = {
    "office": NOT_CIDR,
    "192.0.2.0/33": NOT_CIDR,
    "2001:db8::/129": NOT_CIDR,
    "192.0.2/24": NOT_CIDR,
    "192.000.002.000/24": NOT_CIDR,  # leading zeros are octal to some
    "192.0.2.0/24 198.51.100.0/24": NOT_CIDR,
    "192.0.2.0/24;198.51.100.0/24": NOT_CIDR,
    "192.0.2.0/24/25": NOT_CIDR,
    "192.0.2.0/-1": NOT_CIDR,
    "192.0.2.0/": NOT_CIDR,
    "/24": NOT_CIDR,
    "192.0.2.0/\u0662\u0664": NOT_CIDR,  # 24 in digits of another script
    "192.0.2.0/24\x00": NOT_CIDR,
    "$(reboot)": NOT_CIDR,
    "192.0.2.7": no_length("192.0.2.7/32"),
    "2001:db8::7": no_length("2001:db8::7/128"),
    "192.0.2.0/255.255.255.0": no_length("192.0.2.0/24"),
    "192.0.2.0/0.0.0.255": no_length("192.0.2.0/24"),
    "192.0.2.7/24": host_bits("192.0.2.0/24"),
    "2001:db8::7/64": host_bits("2001:db8::/64"),
    "2001:db8::%eth0/64": SCOPED,
    "fe80::%$(reboot)/64": SCOPED,
    "127.0.0.0/8": special("loopback, 127.0.0.0/8"),
    "127.0.0.53/32": special("loopback, 127.0.0.0/8"),
    "0.0.0.0/32": special("this host, 0.0.0.0/8"),
    "169.254.169.254/32": special("link-local, 169.254.0.0/16"),
    "224.0.0.0/4": special("multicast, 224.0.0.0/4"),
    "239.1.2.0/24": special("multicast, 224.0.0.0/4"),
    "240.0.0.0/4": special("reserved, 240.0.0.0/4"),
    "255.255.255.255/32": special("reserved, 240.0.0.0/4"),
    "224.0.0.0/3": special("multicast and reserved, 224.0.0.0/3"),
    "::/128": special("unspecified, ::/128"),
    "::1/128": special("loopback, ::1/128"),
    "::/127": special("unspecified and loopback, ::/127"),
    "::ffff:192.0.2.0/120": special("IPv4-mapped, ::ffff:0:0/96"),
    "fe80::/64": special("link-local, fe80::/10"),
    "ff02::/16": special("multicast, ff00::/8"),
}


@pytest.mark.parametrize("entry", REFUSED)
def test_a_bad_entry_is_refused_by_itself_with_reason_and_hint(entry: str) -> None:
    destinations, refusals = labels.parse(f"198.51.100.0/24,{entry},203.0.113.0/24")

    assert destinations == networks("198.51.100.0/24", "203.0.113.0/24")
    assert [(refusal.reason, refusal.hint) for refusal in refusals] == [REFUSED[entry]]
    assert not refusals[0].served


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        pytest.param("office", "office", id="as it is"),
        pytest.param("büro", "büro", id="letters of any script"),
        pytest.param("\x1b[31mred", "\\x1b[31mred", id="terminal escape"),
        pytest.param("a\nb", "a\\nb", id="line break"),
        pytest.param("\u202eabc", "\\u202eabc", id="writing direction"),
        pytest.param("\ufeff192.0.2.0/24", "\\ufeff192.0.2.0/24", id="byte order mark"),
        pytest.param("x" * 80, "x" * 80, id="eighty characters"),
        pytest.param("x" * 81, "x" * 80 + "… (81 characters)", id="one more"),
        pytest.param("x" * 1_000_000, "x" * 80 + "… (1000000 characters)", id="a million"),
    ],
)
def test_a_refusal_shows_its_entry_short_and_printable(entry: str, shown: str) -> None:
    _, refusals = labels.parse(entry)

    assert [refusal.entry for refusal in refusals] == [shown]


def test_entries_past_the_thousandth_are_left_out_with_one_refusal() -> None:
    entries = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(1003)]

    destinations, refusals = labels.parse(",".join(entries))

    assert destinations == networks(*entries[:1000])
    assert [(refusal.entry, refusal.reason) for refusal in refusals] == [
        ("10.3.232.0/24", "is entry 1001 of the label; from here on all 3 are left out")
    ]


def test_a_thousand_entries_are_all_served() -> None:
    entries = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(1000)]

    assert labels.parse(",".join(entries)) == (networks(*entries), ())


def test_the_same_bad_entry_is_refused_once() -> None:
    _, refusals = labels.parse("office,192.0.2.0/24,office")

    assert [refusal.entry for refusal in refusals] == ["office"]


NOISE = st.sampled_from([*";&|$`'\"\\()<>*?~#%!\n\0 -", "$(id)"])
LENGTHS = st.one_of(st.integers(-1, 130).map(str), st.just("255.255.0.0"), NOISE)
ADDRESSES = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=4).map(lambda address: str(ip_address(int(address) & 0xFFFF0000))),
    st.ip_addresses(v=6).map(lambda address: str(ip_address(int(address) >> 64 << 64))),
)
ENTRIES = st.one_of(
    st.text(max_size=20),
    st.builds("{}/{}".format, ADDRESSES, LENGTHS),
    st.builds("{}{}/{}".format, ADDRESSES, NOISE, LENGTHS),
    st.builds("{}/{}{}".format, ADDRESSES, LENGTHS, NOISE),
    st.ip_addresses().map(str),
)
LABELS = st.one_of(st.text(), st.lists(ENTRIES, max_size=8).map(",".join))

SPECIAL: tuple[Any, ...] = networks(
    *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
    *("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
)

COMMAND = re.compile(
    r"nsenter --net=/var/run/docker/netns/0a1b2c3d4e5f ip( -6)? route (replace|del) "
    r"(?P<dst>[0-9a-f.:]+/\d+|default) via (192\.0\.2\.1|2001:db8::1 metric 1024|2001:db8::1)"
)


@given(LABELS)
def test_any_text_gives_canonical_unicast_destinations_and_no_exception(text: str) -> None:
    destinations, refusals = labels.parse(text)

    for dst in destinations:
        assert str(dst) == str(ip_network(str(dst), strict=True))
        assert not any(dst.version == bad.version and dst.subnet_of(bad) for bad in SPECIAL)
    assert len(set(destinations)) == len(destinations)
    assert len(destinations) + len(refusals) <= sum(1 for entry in text.split(",") if entry.strip())
    assert bool(destinations or refusals) == any(entry.strip() for entry in text.split(","))


@given(LABELS)
def test_any_refusal_is_one_short_printable_line(text: str) -> None:
    _, refusals = labels.parse(text)

    for refusal in refusals:
        for part in (refusal.entry, refusal.reason, refusal.hint):
            assert part
            assert part.isprintable()
            assert len(part) < 200


@given(LABELS, st.sampled_from(["replace", "del"]))
def test_any_text_renders_to_the_intended_command_and_nothing_else(text: str, verb: str) -> None:
    destinations, _ = labels.parse(text)
    gateways = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}

    for dst in destinations:
        route = Route(dst, gateways[dst.version], {4: 0, 6: 1024}[dst.version])
        step = Step("replace" if verb == "replace" else "del", route)
        line = iproute.command("/var/run/docker/netns/0a1b2c3d4e5f", step)
        match = COMMAND.fullmatch(line)

        assert match
        assert match["dst"] == (str(dst) if dst.prefixlen else "default")
        assert shlex.split(line) == line.split(" ")
        assert (" -6 " in line) == (dst.version == 6)
