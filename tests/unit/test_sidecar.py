"""Which container we are, where several share the gateway's namespace, and whom we follow."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from lib.engine import gateways, sidecar
from lib.errors import NotReadyError
from lib.model import SERVICE_LABEL, Container, Published, Sidecar
from lib.settings import DEFAULT_NETWORK, Settings
from tests.fakes import StandInEngine

if TYPE_CHECKING:
    from pathlib import Path

    from lib.engine.client import Engine

GATEWAY, OURS = "fedcba9876543210" * 4, "0123456789abcdef" * 4


def container(name: str, network_mode: str, sandbox_key: str) -> Container:
    return Container(
        id=name,
        name=name,
        running=True,
        labels={},
        network_mode=network_mode,
        sandbox_key=sandbox_key,
        endpoints=(),
    )


OWNER = container(GATEWAY, "wg-net", "/proc/self/ns/net")


def sharing(name: str, label: str, layer: str = "") -> Container:
    other = container(name, f"container:{GATEWAY}", "")
    return other._replace(labels={"wgroutemgr.network": label}, upper_dir=layer)


@dataclass
class Place:
    """What is seen of the container that we are in."""

    mountinfo: Path

    def find(
        self,
        *there: Container,
        settings: Settings | None = None,
        files_of: str = OURS,
        hostname_of: str = "",
        layer: str = "/snapshots/2/fs",
        **engine: Any,  # noqa: ANN401 - what the stand-in takes
    ) -> Sidecar:
        """Find our place where the files of that container are mounted, and that is our layer."""
        files = {"hosts": files_of, "hostname": hostname_of or files_of}
        lines = "".join(
            f"620 610 8:1 /docker/containers/{key}/{name} /etc/{name} rw - ext4 /dev/sda rw\n"
            for name, key in files.items()
            if key
        )
        lines += f"610 520 0:52 / / rw - overlay overlay rw,upperdir={layer},workdir=/w\n"
        self.mountinfo.write_text(lines)
        stand_in = cast("Engine", StandInEngine(there, **engine))
        return sidecar.find(stand_in, settings or Settings())


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    (tmp_path / "cgroup").write_text("0::/\n")
    monkeypatch.setattr(sidecar, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(sidecar, "MOUNTINFO", tmp_path / "mountinfo")
    return Place(tmp_path / "mountinfo")


def test_writable_layer_tells_us_from_another(place: Place) -> None:
    both = sharing("other", "wg-net", "/layers/1"), sharing("we", "second", "/layers/2")

    assert place.find(OWNER, *both, files_of=GATEWAY, layer="/layers/2").network == "second"


def test_without_a_layer_no_label_is_guessed(place: Place) -> None:
    both = sharing("other", "third"), sharing("we", "second")
    found = place.find(OWNER, *both, files_of=GATEWAY)

    assert (found.own, found.network) == (None, DEFAULT_NETWORK)


@pytest.mark.parametrize("label", ["second", "third"])
def test_without_a_layer_a_label_that_all_have_is_ours(place: Place, label: str) -> None:
    both = sharing("other", label), sharing("we", label)

    assert place.find(OWNER, *both, files_of=GATEWAY).network == label


def test_gateway_is_not_we_where_our_own_file_and_its_namespace_are_told_of_us_too(
    place: Place,
) -> None:
    """As by Podman 4."""
    we = sharing(OURS, "second")._replace(sandbox_key="/proc/self/ns/net")

    found = place.find(OWNER, we, files_of=GATEWAY, hostname_of=OURS)

    assert found.gateway.id == GATEWAY
    assert (found.own, found.network) == (we, "second")


def test_we_are_found_although_the_listing_does_not_tell_whose_namespace_is_shared(
    place: Place,
) -> None:
    """As by Podman 4.3."""
    both = container("client", "wg-net", "/run/netns/1"), sharing("we", "second", "/layers/2")
    listing = tuple(one._replace(network_mode="") for one in both)

    found = place.find(OWNER, *both, files_of=GATEWAY, layer="/layers/2", listing=listing)

    assert (found.own, found.network) == (both[1], "second")


def test_we_are_found_where_we_joined_one_that_joined_the_gateway(place: Place) -> None:
    middle = container("middle", f"container:{GATEWAY}", "")._replace(upper_dir="/layers/1")
    we = sharing("we", "second", "/layers/2")._replace(network_mode="container:middle")

    found = place.find(we, middle, OWNER, files_of=GATEWAY, layer="/layers/2")

    assert (found.gateway, found.own, found.network) == (OWNER, we, "second")


# --- several in one namespace -------------------------------------------------------------------

STARTED = 100.0
"""Seconds ago, when our first process began."""


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> float:
    """Let our first process have begun then, and return when that was."""
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - STARTED
    ticks = int(since_boot * os.sysconf("SC_CLK_TCK"))
    first = tmp_path / "stat"
    first.write_text(f"1 (a (b) c) S {' 0' * 18} {ticks} 0 0\n")
    monkeypatch.setattr(sidecar, "FIRST_PROCESS", first.parent)
    return time.time() - STARTED


@pytest.mark.parametrize(
    ("others", "ours", "network"),
    [
        pytest.param([-600], 0.3, "ours", id="the daemon runs for long, beside it the doctor"),
        pytest.param([30], 0.3, "ours", id="another was started later"),
        pytest.param([5], 0.3, "ours", id="another was started a little later"),
        pytest.param([-600, 30], 9.0, "ours", id="the engine was slow"),
        pytest.param([1.0], 0.3, DEFAULT_NETWORK, id="two were started together"),
        pytest.param([-600], 60.0, DEFAULT_NETWORK, id="nobody started then"),
    ],
)
def test_start_of_our_first_process_tells_us_from_others_without_a_layer(
    place: Place, began: float, others: list[float], ours: float, network: str
) -> None:
    """As on the containerd image store."""
    we = sharing("we", "ours")._replace(started_at=began + ours)
    them = [sharing(f"o{at}", f"n{at}")._replace(started_at=began + at) for at in others]

    assert place.find(OWNER, *them, we, files_of=GATEWAY).network == network


# --- a network of our own -----------------------------------------------------------------------

PLACE = "com.docker.compose.project", "com.docker.compose.service"
ONE_OFF_KEY = "com.docker.compose.oneoff"


def ours(**changes: object) -> Container:
    """Return our own container, in a namespace of its own."""
    return container(OURS, "none", "/proc/self/ns/net")._replace(name="sidecar", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("wg-net", "this container has a network of its own: name the gateway"),
        ("none", "this container has a network of its own: name the gateway"),
        ("host", "this container uses the host's network: name the gateway"),
    ],
)
def test_we_are_not_our_own_gateway(place: Place, mode: str, reason: str) -> None:
    other = container("o1", "wg-net", "/run/netns/1")

    with pytest.raises(NotReadyError) as refused:
        place.find(ours(network_mode=mode), other)
    assert refused.value.reason == reason
    assert "wgroutemgr.gateway" in refused.value.hint


def test_we_are_not_taken_for_the_gateway_while_the_engine_is_busy_with_our_start(
    place: Place,
) -> None:
    """A listing tells of a container that is being started as of one that does not run."""
    we = sharing("we", "second")
    listing = OWNER, we._replace(running=False)

    found = place.find(OWNER, we, listing=listing, files_of=GATEWAY)

    assert (found.gateway.id, found.own, found.network) == (GATEWAY, we, "second")


def test_the_owner_is_found_although_the_engine_is_silent_about_another(place: Place) -> None:
    stuck = container("stuck", "x", "")

    found = place.find(stuck, OWNER, silent_about="stuck", files_of="")

    assert found.gateway.id == GATEWAY


def test_an_owner_with_another_layer_is_not_we_although_nobody_else_is_seen(place: Place) -> None:
    """As long as the engine does not answer for us."""
    owner = OWNER._replace(upper_dir="/layers/1")

    found = place.find(owner, files_of=GATEWAY, layer="/layers/2")

    assert (found.gateway.id, found.own) == (GATEWAY, None)


# --- the gateway by name ------------------------------------------------------------------------


def service(key: str, number: str, **changes: object) -> Container:
    labels = dict(zip(PLACE, ("home", "wireguard"), strict=True))
    labels |= {"com.docker.compose.container-number": number}
    made = container(key, "home_default", "")._replace(name=f"home-{key}", labels=labels)
    return made._replace(**changes)  # type: ignore[arg-type]


def labelled(reference: str) -> Container:
    return ours(labels={"wgroutemgr.gateway": f" {reference} ", PLACE[0]: "home"})


ELSEWHERE = service("e1", "1", labels={PLACE[0]: "work", PLACE[1]: "wireguard"})
RUN = service("r1", "1", labels={**ELSEWHERE.labels, PLACE[0]: "home", ONE_OFF_KEY: "True"})
FIRST, SECOND = service("g1", "1"), service("g2", "2")


@pytest.mark.parametrize(
    ("reference", "there", "expected"),
    [
        pytest.param("home-g1", [FIRST, SECOND], "g1", id="its name"),
        pytest.param("g2", [FIRST, SECOND], "g2", id="its id"),
        pytest.param("wireguard", [ELSEWHERE, RUN, SECOND, FIRST], "g1", id="its service"),
        pytest.param(
            "wireguard", [FIRST._replace(running=False), SECOND], "g2", id="which of it runs"
        ),
        pytest.param("wireguard", [FIRST._replace(running=False)], "g1", id="it does not run yet"),
    ],
)
def test_our_label_names_the_gateway(
    place: Place,
    reference: str,
    there: list[Container],
    expected: str,
) -> None:
    we = labelled(reference)
    found = place.find(we, *there)

    assert (found.gateway.id, found.own) == (expected, we)
    assert found.named_by == "the label wgroutemgr.gateway"


@pytest.mark.parametrize("there", [[], [ELSEWHERE], [RUN]], ids=["none", "elsewhere", "one-off"])
def test_a_gateway_that_is_named_and_not_there_is_waited_for(
    place: Place, there: list[Container]
) -> None:
    with pytest.raises(NotReadyError) as missing:
        place.find(labelled("wireguard"), *there)
    assert missing.value.reason == (
        "the engine has no container wireguard, named by the label wgroutemgr.gateway"
    )


def test_an_option_wins_over_the_label_which_wins_over_the_namespace(place: Place) -> None:
    found = place.find(labelled("g1"), FIRST, SECOND, settings=Settings(gateway="g2"))
    assert (found.gateway.id, found.named_by) == ("g2", "--gateway")

    we = sharing("we", "second")._replace(labels={"wgroutemgr.gateway": "g1"})
    found = place.find(OWNER, we, FIRST, files_of=GATEWAY)
    assert found.gateway.id == "g1"
    we = we._replace(labels={})
    assert place.find(OWNER, we, FIRST, files_of=GATEWAY).gateway.id == GATEWAY


@pytest.mark.parametrize("gateway", [None, GATEWAY], ids=["shared", "named"])
def test_a_gateway_in_the_hosts_network_gets_nobody_a_route(
    place: Place, gateway: str | None
) -> None:
    host = OWNER._replace(network_mode="host", name="wireguard")

    with pytest.raises(NotReadyError) as refused:
        place.find(host, sharing("we", "x"), settings=Settings(gateway=gateway), files_of=GATEWAY)
    assert refused.value.reason == (
        "the gateway wireguard uses the host's network: "
        "clients reach its tunnels by their default route"
    )


# --- several networks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("second", ("second",), id="one"),
        pytest.param("second, third,wg-net", ("second", "third", "wg-net"), id="several"),
        pytest.param(" third ,, second,", ("third", "second"), id="empty entries"),
        pytest.param("second,third, second", ("second", "third"), id="one of them twice"),
        pytest.param(" , ", (DEFAULT_NETWORK,), id="none"),
    ],
)
def test_networks_are_named_by_label_or_option(
    place: Place, text: str, expected: tuple[str, ...]
) -> None:
    we = labelled("g1")
    by_label = we._replace(labels={**we.labels, "wgroutemgr.network": text})
    for found in (
        place.find(by_label, FIRST),
        place.find(we, FIRST, settings=Settings(network=text)),
    ):
        assert found.networks == expected
        assert found.network == expected[0]
        assert [one.network for one in found.each] == list(expected)
        assert {one.networks for one in found.each} == {expected}


def test_another_choice_of_networks_beside_a_daemon_is_told_of(place: Place) -> None:
    we = ours()
    daemon = Sidecar(FIRST, we, "").on(("second", "third"))
    for text, told in (
        ("second,third", []),
        (None, []),
        ("third, second", ["the daemon of this container serves second, third"]),
    ):
        settings = Settings(published=Published({}, {}, daemon), network=text)
        with structlog.testing.capture_logs() as logged:
            found = place.find(we, FIRST, settings=settings)
        assert found.networks == tuple((text or "second,third").replace(" ", "").split(","))
        assert [entry["reason"] for entry in logged] == told


# --- beside a daemon ----------------------------------------------------------------------------

NEW = FIRST._replace(id="new", sandbox_key="/run/netns/new")


def beside(own: Container) -> Published:
    return Published({}, {}, Sidecar(FIRST, own, "second"))


def test_the_gateway_that_the_daemon_follows_is_followed_on(place: Place) -> None:
    """It was made anew: what tells us of it is only what the daemon knows."""
    we = sharing("we", "second")

    found = place.find(we, NEW, settings=Settings(published=beside(we)), files_of="")

    assert (found.gateway, found.own, found.network, found.named_by) == (NEW, we, "second", "")


def test_what_the_daemon_was_given_holds_before_it_knows_the_gateway(place: Place) -> None:
    we = labelled("home-g2")

    told = Published({"gateway": "g1", "network": "x"}, {})
    found = place.find(we, FIRST, SECOND, settings=Settings(published=told))

    assert (found.gateway, found.network, found.named_by) == (FIRST, "x", "--gateway")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, []),
        ({"gateway": "home-g1", "network": "second"}, []),
        ({"gateway": "g2"}, ["the daemon of this container follows home-g1"]),
        ({"network": "third"}, ["the daemon of this container serves second"]),
    ],
)
def test_an_option_wins_over_the_daemon_and_is_told_of_where_it_differs(
    place: Place, options: dict[str, str], told: list[str]
) -> None:
    we = ours()
    with structlog.testing.capture_logs() as logged:
        settings = Settings(published=beside(we), **options)  # type: ignore[arg-type]
        found = place.find(we, FIRST, SECOND, settings=settings)

    assert found.gateway.id == {"g2": "g2"}.get(options.get("gateway", ""), "g1")
    assert found.network == options.get("network", "second")
    assert [entry["reason"] for entry in logged] == told


@pytest.mark.parametrize(
    ("mode", "there", "expected"),
    [
        pytest.param("none", [NEW], False, id="it joins nobody"),
        pytest.param("container:new", [NEW], False, id="it joins the gateway"),
        pytest.param("container:home-g1", [NEW], False, id="by its name"),
        pytest.param("container:old", [NEW], True, id="it is gone"),
        pytest.param(
            "container:old", [NEW, service("old", "2", running=False)], True, id="it has ended"
        ),
        pytest.param("container:other", [NEW, service("other", "2")], False, id="another"),
    ],
)
def test_who_cannot_start_again(
    mode: str,
    there: list[Container],
    expected: bool,  # noqa: FBT001 - what is expected
) -> None:
    stand_in = cast("Engine", StandInEngine(tuple(there)))
    place = Sidecar(FIRST, ours(network_mode=mode), "wg-net")

    assert sidecar.is_stranded(stand_in, place, NEW) == expected


# --- the gateway's successor --------------------------------------------------------------------

COMPOSE = {
    "com.docker.compose.project": "home",
    "com.docker.compose.service": "wireguard",
    "com.docker.compose.container-number": "1",
    ONE_OFF_KEY: "False",
}
ONE_OFF = COMPOSE | {ONE_OFF_KEY: "True"}


def task(name: str) -> dict[str, str]:
    service = name.partition(".")[0]
    return {"com.docker.swarm.service.name": service, "com.docker.swarm.task.name": name}


def made(
    key: str, labels: dict[str, str] | None = None, *, name: str = "wireguard", running: bool = True
) -> Container:
    return Container(key, name, running, labels or {}, "wg-net", "", ())


def followed(last: Container, *there: Container) -> str:
    """Return the id of the one that is followed, and nothing if nobody is."""
    try:
        return gateways.follow(cast("Engine", StandInEngine(there)), last).id
    except NotReadyError:
        return ""


RUNS, ENDED = made("old"), made("old", running=False)
IN_COMPOSE = made("old", COMPOSE, name="home-wireguard-1")
BY_HAND = made("old", ONE_OFF, name="mine")
TASK = made("old", task("wg.1.abc"), name="wg.1.abc")


@pytest.mark.parametrize(
    ("last", "there", "expected"),
    [
        pytest.param(RUNS, [RUNS, made("new", name="other")], "old", id="it runs"),
        pytest.param(RUNS, [RUNS._replace(name="before")], "old", id="it was renamed"),
        pytest.param(RUNS, [ENDED], "old", id="it ended"),
        pytest.param(RUNS, [], "", id="it is gone"),
        pytest.param(RUNS, [made("new")], "new", id="it was made anew"),
        pytest.param(RUNS, [made("wireguard", name="other")], "", id="another's id is its name"),
        pytest.param(
            RUNS,
            [RUNS._replace(name="before"), made("new")],
            "old",
            id="an updater has renamed it and started the next",
        ),
        pytest.param(
            RUNS,
            [ENDED._replace(name="before"), made("new")],
            "new",
            id="an updater has ended it, too",
        ),
        pytest.param(
            RUNS,
            [ENDED._replace(name="before"), made("new", running=False)],
            "new",
            id="an updater is about to start the next",
        ),
        pytest.param(
            IN_COMPOSE,
            [made("new", COMPOSE, name="f00_home-wireguard-1")],
            "new",
            id="the same of its service",
        ),
        pytest.param(
            IN_COMPOSE,
            [
                made("kept", COMPOSE, name="before"),
                made("new", COMPOSE, name="home-wireguard-1"),
            ],
            "new",
            id="two of its service run, one has its name",
        ),
        *(
            pytest.param(IN_COMPOSE, [made("new", COMPOSE | {key: "2"}, name="x")], "", id=key)
            for key in COMPOSE
            if key != ONE_OFF_KEY
        ),
        pytest.param(
            IN_COMPOSE,
            [made("new", ONE_OFF, name="home-wireguard-run-1")],
            "",
            id="a one-off of its service",
        ),
        pytest.param(
            IN_COMPOSE,
            [IN_COMPOSE._replace(running=False), made("new", ONE_OFF, name="run-1")],
            "old",
            id="a one-off beside it, ended",
        ),
        pytest.param(
            IN_COMPOSE,
            [made("new", ONE_OFF, name="home-wireguard-1")],
            "",
            id="a one-off that has its name",
        ),
        pytest.param(BY_HAND, [made("new", ONE_OFF, name="mine")], "new", id="a one-off again"),
        pytest.param(BY_HAND, [made("new", ONE_OFF, name="x")], "", id="another one-off"),
        pytest.param(BY_HAND, [made("new", COMPOSE, name="x")], "", id="a one-off's service"),
        pytest.param(
            TASK,
            [TASK._replace(running=False), made("new", task("wg.1.def"), name="wg.1.def")],
            "new",
            id="the next task, beside the one that ended",
        ),
        pytest.param(
            TASK, [made("new", task("wg.2.def"), name="wg.2.def")], "", id="a task in another slot"
        ),
        pytest.param(
            TASK, [made("new", task("vpn.1.def"), name="vpn.1.def")], "", id="of another service"
        ),
        pytest.param(
            made("old"), [made("new", name="other")], "", id="no label makes nobody alike"
        ),
    ],
)
def test_who_is_followed(last: Container, there: list[Container], expected: str) -> None:
    assert followed(last, *there) == expected


def test_a_gateway_that_runs_is_followed_by_one_question() -> None:
    engine = StandInEngine((IN_COMPOSE,))
    gateways.follow(cast("Engine", engine), IN_COMPOSE)

    assert engine.calls == ["inspect old"]


# --- a swarm's service as the gateway -----------------------------------------------------------

AGENT = ours()._replace(labels={SERVICE_LABEL: " wg_wireguard ", "wgroutemgr.network": "second"})


@pytest.mark.parametrize(
    ("own", "settings", "by"),
    [
        pytest.param(AGENT, Settings(), f"the label {SERVICE_LABEL}", id="by a label"),
        pytest.param(
            AGENT._replace(labels={SERVICE_LABEL: "x", "wgroutemgr.network": "second"}),
            Settings(gateway_service="wg_wireguard"),
            "--gateway-service",
            id="an option wins over the label",
        ),
        pytest.param(
            AGENT._replace(labels={"wgroutemgr.network": "second"}),
            Settings(published=Published({"gateway-service": "wg_wireguard"}, {})),
            "--gateway-service",
            id="by the daemon's option",
        ),
    ],
)
def test_a_service_is_named(place: Place, own: Container, settings: Settings, by: str) -> None:
    found = place.find(own, settings=settings)

    assert (found.service, found.named_by, found.network) == ("wg_wireguard", by, "second")
    assert (found.gateway.id, found.gateway.name) == ("wg_wireguard", "wg_wireguard")
    assert (found.gateway.running, found.own) == (False, own)


def test_an_option_that_names_a_container_wins_over_a_label_that_names_a_service(
    place: Place,
) -> None:
    found = place.find(AGENT, FIRST, settings=Settings(gateway="g1"))

    assert (found.gateway, found.service, found.named_by) == (FIRST, "", "--gateway")


def test_two_labels_that_name_a_gateway_are_one_too_many(place: Place) -> None:
    both = {SERVICE_LABEL: "wg_wireguard", "wgroutemgr.gateway": "g1"}

    with pytest.raises(NotReadyError) as refused:
        place.find(AGENT._replace(labels=both), FIRST)
    assert (refused.value.reason, refused.value.hint) == (
        "this container has both labels, wgroutemgr.gateway and wgroutemgr.gateway-service",
        "remove one of them",
    )


def test_a_task_without_either_is_told_how_to_name_a_service(place: Place) -> None:
    labels = {"com.docker.swarm.service.name": "wg_wgroutemgr"}
    we = AGENT._replace(labels=labels, sandbox_key="/proc/self/ns/net")

    with pytest.raises(NotReadyError) as refused:
        place.find(we, files_of=OURS)
    assert (refused.value.reason, refused.value.hint) == (
        "this container has a network of its own: name the gateway",
        "labels: {wgroutemgr.gateway-service: STACK_SERVICE}, or --gateway-service STACK_SERVICE",
    )


@pytest.mark.parametrize(
    ("settings", "gateway", "service", "differs"),
    [
        ({}, "task", "wg_wireguard", 0),
        ({"gateway_service": "wg_wireguard"}, "task", "wg_wireguard", 0),
        ({"gateway_service": "wg_other"}, "wg_other", "wg_other", 1),
        ({"gateway": "g1"}, "g1", "", 1),
    ],
)
def test_the_service_that_the_daemon_follows_is_followed_on(
    place: Place, settings: dict[str, str], gateway: str, service: str, differs: int
) -> None:
    task = FIRST._replace(id="task", name="wg_wireguard.1.a")
    daemon = Sidecar(task, AGENT, "second", "--gateway-service", "wg_wireguard")
    with structlog.testing.capture_logs() as logged:
        chosen = Settings(published=Published({}, {}, daemon), **settings)  # type: ignore[arg-type]
        found = place.find(AGENT, FIRST, settings=chosen)

    assert (found.gateway.id, found.service, found.own) == (gateway, service, AGENT)
    assert [entry["event"] for entry in logged] == ["daemon.differs"] * differs
