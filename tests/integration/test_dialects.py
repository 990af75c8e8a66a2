"""What both `ip` programs do to the kernel's tables, and that these are read as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lib.kernel import route_table
from lib.model import Step
from lib.routing import iproute
from lib.routing.plan import plan
from tests.integration import kernel
from tests.integration.kernel import (
    DST,
    DST6,
    GATEWAY,
    GATEWAY6,
    OTHER,
    OTHER6,
    ROUTER,
    ROUTER6,
    Namespace,
    ordered,
    route,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lib.kernel.shells import Outcome, Shells
    from lib.model import Route
    from tests.integration.kernel import Entry

# The largest metric that a routing daemon was seen to give (systemd-networkd, for a bad route).
HIGH = 4278198272

# The same words for both IP versions.
WORDS = {
    4: {
        "dst": DST,
        "host": "192.0.2.7",
        "gateway": GATEWAY,
        "other": OTHER,
        "router": ROUTER,
        "wider": "192.0.0.0/16",
        "narrower": "192.0.2.128/25",
        "elsewhere": "192.0.0.9",
    },
    6: {
        "dst": DST6,
        "host": "2001:db8:66::7",
        "gateway": GATEWAY6,
        "other": OTHER6,
        "router": ROUTER6,
        "wider": "2001:db8::/32",
        "narrower": "2001:db8:66:1::/64",
        "elsewhere": "2001:db9::9",
    },
}
VERSIONS = tuple(WORDS)


def worded(version: int, text: str) -> str:
    return text.format(**WORDS[version])


def prepare(client: Namespace, *lines: str) -> None:
    """Give both tables routes, as `add {dst} via {other}`."""
    for version in VERSIONS:
        client.ip(*(f"route {worded(version, line)}" for line in lines), version=version)


def parsed(version: int, text: str, usual_metric: int | None = None) -> Route:
    """Return the route that words such as `unreachable {dst} metric 5` stand for."""
    words = worded(version, text).split()
    kind = "unicast" if not words[0].isalpha() else words.pop(0)
    after = dict(zip(words[1::2], words[2::2], strict=True))
    metric = int(after["metric"]) if "metric" in after else usual_metric
    found = route(words[0], after.get("via"), metric, kind)
    return found._replace(mtu=int(after.get("mtu", 0)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    with kernel.client(tmp_path_factory.mktemp("shared")) as client:
        yield client


@pytest.fixture(scope="module")
def pristine(shared: Namespace) -> list[Entry]:
    return shared.entries()


@pytest.fixture
def client(shared: Namespace, pristine: list[Entry]) -> Iterator[Namespace]:
    """Lend a client that has no other routes than it had from the start; many tests need one."""
    yield shared
    for version in VERSIONS:
        flush = ("exact {wider}", "root {dst}")
        lines = (worded(version, f"route flush table main {what}") for what in flush)
        shared.ip(*lines, version=version)
    assert shared.entries() == pristine


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Namespace]:
    """Make a client for a test that changes more than routes to `dst` and around it."""
    with kernel.client(tmp_path) as client:
        yield client


def run(shell: Shells, client: Namespace, *steps: Step) -> list[Outcome]:
    return list(shell.run([iproute.command(str(client.path), step) for step in steps]))


def table(client: Namespace, version: int) -> list[Route]:
    """Return a table, read as the product does; it must be what iproute2 says."""
    found = route_table.read(str(client.path))
    routes = ordered(known for known in found if known.dst.version == version)
    assert routes == client.routes(version)
    return routes


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("{dst} via {gateway}", "{dst} via {gateway}", id="through a gateway"),
        pytest.param("{host} via {gateway}", "{host} via {gateway}", id="a single host"),
        pytest.param("{dst} via {gateway} metric 1", "{dst} via {gateway} metric 1", id="metric"),
        pytest.param(
            f"{{dst}} via {{other}} metric {HIGH}",
            f"{{dst}} via {{other}} metric {HIGH}",
            id="a metric beyond 31 bits",
        ),
        pytest.param(
            "{dst} via {other} metric 4294967295",
            "{dst} via {other} metric 4294967295",
            id="the highest metric",
        ),
        pytest.param("{dst} dev eth0", "connected {dst}", id="onto a device"),
        pytest.param("{host} dev eth1 metric 9", "connected {host} metric 9", id="host, device"),
        pytest.param("unreachable {dst}", "unreachable {dst}", id="unreachable"),
        pytest.param(
            f"unreachable {{host}} metric {HIGH}",
            f"unreachable {{host}} metric {HIGH}",
            id="unreachable host, high metric",
        ),
        pytest.param("blackhole {dst} metric 5", "blackhole {dst} metric 5", id="blackhole"),
        pytest.param("prohibit {dst}", "prohibit {dst}", id="prohibit"),
        pytest.param("throw {dst}", "throw {dst}", id="throw"),
        pytest.param(
            "{dst} via {gateway} mtu 1300 proto static",
            "{dst} via {gateway} mtu 1300",
            id="attributes",
        ),
        pytest.param(
            "{dst} nexthop via {gateway} nexthop via {other}", "{dst}", id="several gateways"
        ),
        pytest.param(
            "{dst} metric 6 nexthop via {gateway} weight 2 nexthop via {other}",
            "{dst} metric 6",
            id="several gateways and a metric",
        ),
    ],
)
def test_route_is_read_back_as_it_is_in_the_kernel(
    client: Namespace, line: str, expected: str
) -> None:
    before = {version: table(client, version) for version in VERSIONS}

    prepare(client, f"add {line}")

    for version in VERSIONS:
        new = parsed(version, expected)
        assert table(client, version) == ordered([*before[version], new])


def test_default_routes_are_read_back(fresh: Namespace) -> None:
    before = {version: table(fresh, version) for version in VERSIONS}

    prepare(
        fresh,
        f"add default via {{other}} metric {HIGH}",
        "add unreachable default metric 8",
        "add default dev eth1 metric 9",
    )

    for version, default in ((4, "0.0.0.0/0"), (6, "::/0")):
        new = [
            route(default, worded(version, "{other}"), HIGH),
            route(default, None, 8, "unreachable"),
            route(default, None, 9, "connected"),
        ]
        assert table(fresh, version) == ordered([*before[version], *new])


def test_untouched_client_has_these_routes(client: Namespace) -> None:
    assert table(client, 4) == ordered(
        [
            route("0.0.0.0/0", ROUTER),
            route("198.51.100.0/24", kind="connected"),
            route("203.0.113.0/25", kind="connected"),
        ]
    )
    assert table(client, 6) == ordered(
        [
            route("::/0", ROUTER6),
            route("2001:db8:67::/64", None, 256, "connected"),
            route("2001:db8:113::/64", None, 256, "connected"),
            route("fe80::/64", None, 256, "connected"),
            route("fe80::/64", None, 256, "connected"),
        ]
    )


def test_link_local_gateway_is_read_back(client: Namespace) -> None:
    client.ip(f"route add {DST6} via fe80::99 dev eth0")

    assert route(DST6, "fe80::99") in table(client, 6)


def test_tables_without_any_route_are_empty(fresh: Namespace) -> None:
    fresh.ip("link set eth0 down", "link set eth1 down")

    assert table(fresh, 4) == []
    assert table(fresh, 6) == []


# --- single steps -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "verb", "subject", "expected"),
    [
        pytest.param(
            [], "replace", "{dst} via {gateway}", ["{dst} via {gateway}"], id="replace, new"
        ),
        pytest.param(
            ["{dst} via {gateway}"],
            "replace",
            "{dst} via {gateway}",
            ["{dst} via {gateway}"],
            id="replace, the same again",
        ),
        pytest.param(
            ["{dst} via {other}"],
            "replace",
            "{dst} via {gateway}",
            ["{dst} via {gateway}"],
            id="replace, other gateway",
        ),
        *(
            pytest.param(
                [f"{kind} {{dst}}"],
                "replace",
                "{dst} via {gateway}",
                ["{dst} via {gateway}"],
                id=f"replace, over {kind}",
            )
            for kind in ("unreachable", "blackhole", "prohibit", "throw")
        ),
        pytest.param(
            ["{dst} nexthop via {other} nexthop via {router}"],
            "replace",
            "{dst} via {gateway}",
            ["{dst} via {gateway}"],
            id="replace, over several gateways",
        ),
        pytest.param(
            ["{dst} via {other} metric 50"],
            "replace",
            "{dst} via {gateway}",
            ["{dst} via {gateway}", "{dst} via {other} metric 50"],
            id="replace, next to another metric",
        ),
        pytest.param(
            [f"unreachable {{dst}} metric {HIGH}"],
            "replace",
            f"{{dst}} via {{gateway}} metric {HIGH}",
            [f"{{dst}} via {{gateway}} metric {HIGH}"],
            id="replace, high metric",
        ),
        pytest.param(
            [],
            "replace",
            "{host} via {gateway}",
            ["{host} via {gateway}"],
            id="replace, a single host",
        ),
        pytest.param(
            [], "replace", "unreachable {dst}", ["unreachable {dst}"], id="replace, unreachable"
        ),
        pytest.param(
            ["{dst} via {gateway}"],
            "replace",
            "unreachable {dst}",
            ["unreachable {dst}"],
            id="replace, unreachable over a gateway",
        ),
        pytest.param(
            ["{dst} via {gateway}"], "del", "{dst} via {gateway}", [], id="del, through a gateway"
        ),
        pytest.param(
            ["{dst} via {gateway}", "{dst} via {other} metric 50"],
            "del",
            "{dst} via {other} metric 50",
            ["{dst} via {gateway}"],
            id="del, the one of another metric",
        ),
        pytest.param(
            ["{dst} via {gateway}", f"{{dst}} via {{other}} metric {HIGH}"],
            "del",
            f"{{dst}} via {{other}} metric {HIGH}",
            ["{dst} via {gateway}"],
            id="del, a metric beyond 31 bits",
        ),
        pytest.param(
            ["{dst} via {gateway}", f"{{dst}} via {{other}} metric {HIGH}"],
            "del",
            "{dst} via {gateway}",
            [f"{{dst}} via {{other}} metric {HIGH}"],
            id="del, the one without a metric",
        ),
        pytest.param(
            ["{dst} via {gateway}", "{dst} via {gateway} metric 5"],
            "del",
            "{dst} via {gateway}",
            ["{dst} via {gateway} metric 5"],
            id="del, the one without a metric, not another to the same gateway",
        ),
        *(
            pytest.param(
                [f"{kind} {{dst}} metric 5", "{dst} via {gateway}"],
                "del",
                f"{kind} {{dst}} metric 5",
                ["{dst} via {gateway}"],
                id=f"del, {kind}",
            )
            for kind in ("unreachable", "blackhole", "prohibit", "throw")
        ),
        pytest.param(
            ["unreachable {dst}"], "del", "unreachable {dst}", [], id="del, unreachable alone"
        ),
        pytest.param(["{host} via {other}"], "del", "{host} via {other}", [], id="del, a host"),
        pytest.param(
            ["{dst} metric 6 nexthop via {other} nexthop via {router}", "{dst} via {gateway}"],
            "del",
            "{dst} metric 6",
            ["{dst} via {gateway}"],
            id="del, several gateways",
        ),
    ],
)
def test_step_changes_exactly_this(  # noqa: PLR0913, PLR0917 - a table
    shell: Shells,
    client: Namespace,
    pristine: list[Entry],
    lines: list[str],
    verb: str,
    subject: str,
    expected: list[str],
) -> None:
    untouched = {version: table(client, version) for version in VERSIONS}
    prepare(client, *(f"add {line}" for line in lines))
    assert verb in {"replace", "del"}

    outcomes = run(
        shell,
        client,
        *(Step(verb, parsed(version, subject)) for version in VERSIONS),  # type: ignore[arg-type]
    )

    assert [(outcome.exit_code, outcome.output) for outcome in outcomes] == [(0, "")] * 2
    for version in VERSIONS:
        routes = [parsed(version, text) for text in expected]
        assert table(client, version) == ordered([*untouched[version], *routes])
    ours = {worded(version, name) for version in VERSIONS for name in ("{dst}", "{host}")}
    assert [entry for entry in client.entries() if entry.dst not in ours] == pristine


@pytest.mark.parametrize(
    ("verb", "subject"),
    [
        pytest.param("replace", "{dst} via {elsewhere}", id="a gateway that is not on the link"),
        pytest.param("del", "{dst} via {gateway}", id="delete what is not there"),
        pytest.param("del", "{wider} via {other} metric 3", id="delete it with another metric"),
    ],
)
def test_step_that_the_kernel_refuses_has_an_exit_code_and_changes_nothing(
    shell: Shells, fresh: Namespace, verb: str, subject: str
) -> None:
    prepare(fresh, "del default", "add {wider} via {other}")
    before = fresh.entries()

    outcomes = run(
        shell,
        fresh,
        *(Step(verb, parsed(version, subject)) for version in VERSIONS),  # type: ignore[arg-type]
    )

    assert [outcome.exit_code for outcome in outcomes] == [2, 2]
    assert all(outcome.output for outcome in outcomes)
    assert fresh.entries() == before


def test_namespace_file_that_is_gone_has_an_exit_code(shell: Shells, client: Namespace) -> None:
    step = Step("replace", route(DST, GATEWAY))

    (outcome,) = shell.run([iproute.command(f"{client.path}-gone", step)])

    assert outcome.exit_code == 1
    assert "No such file or directory" in outcome.output


# --- from any start to what is wanted -----------------------------------------------------------

BOTH = {
    "nothing": [],
    "what is wanted": ["add {dst} via {gateway}"],
    "another gateway": ["add {dst} via {other}"],
    "unreachable": ["add unreachable {dst}"],
    "blackhole": ["add blackhole {dst}"],
    "prohibit": ["add prohibit {dst}"],
    "throw": ["add throw {dst}"],
    "several gateways": ["add {dst} nexthop via {gateway} nexthop via {other}"],
    "several gateways, metric": ["add {dst} metric 7 nexthop via {gateway} nexthop via {other}"],
    "another metric": ["add {dst} via {other} metric 50"],
    "our gateway, another metric": ["add {dst} via {gateway} metric 50"],
    "a high metric": [f"add {{dst}} via {{other}} metric {HIGH}"],
    "two other metrics": [
        "add {dst} via {other} metric 5",
        f"add unreachable {{dst}} metric {HIGH}",
    ],
    "ours and another metric": [
        "add {dst} via {gateway}",
        "add {dst} via {other} metric 1",
        "add blackhole {dst} metric 2000",
    ],
    "another, appended": ["add {dst} via {other}", "append {dst} via {router}"],
    "another, appended to ours": ["add {dst} via {gateway}", "append {dst} via {other}"],
    "ours, appended to another": ["add {dst} via {other}", "append {dst} via {gateway}"],
    "unreachable, appended to another": ["add {dst} via {other}", "append unreachable {dst}"],
    "unreachable, appended to ours": ["add {dst} via {gateway}", "append unreachable {dst}"],
    "another protocol": ["add {dst} via {gateway} proto static"],
    "attributes": ["add {dst} via {other} mtu 1300"],
    "ours, of another size": ["add {dst} via {gateway} mtu 1300"],
    "neighbours in the tree": ["add {wider} via {other}", "add {narrower} via {other}"],
}


def converge(shell: Shells, client: Namespace, wanted: list[Route]) -> None:
    """Do what a pass does: read, plan, run."""
    steps = plan(wanted, route_table.read(str(client.path)))
    outcomes = run(shell, client, *steps)
    assert [(outcome.exit_code, outcome.output) for outcome in outcomes] == [(0, "")] * len(steps)


@pytest.mark.parametrize(
    "wish",
    ["{dst} via {gateway}", "{dst} via {gateway} mtu 1280", "unreachable {dst}"],
    ids=["via", "mtu", "lost"],
)
@pytest.mark.parametrize("lines", BOTH.values(), ids=BOTH)
def test_one_pass_makes_it_right_and_leaves_the_second_nothing_to_do(
    shell: Shells, client: Namespace, lines: list[str], wish: str
) -> None:
    prepare(client, *lines)
    wanted = [parsed(version, wish) for version in VERSIONS]
    destinations = {DST, DST6}
    strangers = [entry for entry in client.entries() if entry.dst not in destinations]

    converge(shell, client, wanted)

    for version, route_ in zip(VERSIONS, wanted, strict=True):
        ours = [known for known in client.routes(version) if known.dst == route_.dst]
        assert ours == [route_]
    assert [entry for entry in client.entries() if entry.dst not in destinations] == strangers
    assert plan(wanted, route_table.read(str(client.path))) == ()


def test_link_local_gateway_is_replaced_and_deleted(shell: Shells, client: Namespace) -> None:
    client.ip(
        f"route add {DST6} via fe80::99 dev eth0",
        f"route add {DST6} via fe80::98 dev eth0 metric 3",
    )

    converge(shell, client, [route(DST6, GATEWAY6)])

    assert [known for known in client.routes(6) if known.dst == route(DST6).dst] == [
        route(DST6, GATEWAY6)
    ]


def test_gateway_of_the_other_ip_version_does_not_stay_in_the_way(
    shell: Shells, client: Namespace
) -> None:
    rest = client.routes(4)
    client.ip(f"route add {DST} via inet6 {OTHER6} metric 9")

    converge(shell, client, [route(DST, GATEWAY)])

    assert client.routes(4) == ordered([*rest, route(DST, GATEWAY)])


def test_destination_onto_a_device_is_left_alone(shell: Shells, client: Namespace) -> None:
    prepare(client, "add {dst} dev eth1")
    before = client.entries()

    converge(shell, client, [route(DST, GATEWAY), route(DST6, GATEWAY6)])

    assert client.entries() == before
