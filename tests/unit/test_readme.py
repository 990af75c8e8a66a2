"""The documents say what the code does: their YAML, tables and links are held against the tree.

A test that fails here asks for a better document, or shows that the code changed by mistake.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from functools import cache
from importlib.metadata import metadata
from ipaddress import ip_address, ip_network
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from lib import advice
from lib.cli import tables
from lib.cli.registry import COMMANDS
from lib.doctor.report import CHECKS
from lib.engine.client import NEWEST_API, OLDEST_API
from lib.health import OK
from lib.logs import ecs
from lib.model import (
    DEFAULT_METRIC,
    DIRECT_LABEL,
    GATEWAY_LABEL,
    NAMED_PREFIX,
    NETWORK_LABEL,
    NETWORKS_LABEL,
    PREFER_LABEL,
    ROLE_LABEL,
    SERVICE_LABEL,
    Desired,
    Gateway,
    Route,
    Step,
)
from lib.reconcile.look import Findings
from lib.routing import iproute, labels
from lib.settings import DEFAULT_NETWORK, OPTIONS
from tests import logschema
from tests.lab.engine import Docker
from tests.lab.site import PRIVILEGES
from tests.readme import (
    DOCUMENTS,
    README,
    ROOT,
    block,
    blocks,
    compose,
    paragraph,
    plain,
    prose,
    spans,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURE = (ROOT / "docs/two-sites.svg").read_text()
SOURCES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
    for path in (ROOT / "wgroutemgr.py", *sorted((ROOT / "lib").rglob("*.py")))
}
LONGEST_README = 250
LEVELS = {"debug", "info", "warning", "error", "exception"}


# --- reading the code ---------------------------------------------------------------------------


def constants() -> Iterator[str]:
    for name, tree in SOURCES.items():
        # The field names of ECS look like events.
        for node in ast.walk(tree) if name != "lib/logs/ecs.py" else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


LABELS = [
    NETWORK_LABEL,
    GATEWAY_LABEL,
    SERVICE_LABEL,
    ROLE_LABEL,
    NETWORKS_LABEL,
    f"{NAMED_PREFIX}<gateway>",
    PREFER_LABEL,
    DIRECT_LABEL,
]


def events() -> set[str]:
    """Return all constants of the form `noun.participle`; the labels look alike."""
    named = {text for text in constants() if re.fullmatch(r"[a-z]+\.[a-z]+", text)}
    return named - {*LABELS}


def logged_at() -> Iterator[tuple[str, str]]:
    """Return event and level wherever both are literal: `log.info("noun.participle", ...)`."""
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level),
                    args=[ast.Constant(value=str(event)), *_],
                ) if level in LEVELS:
                    yield event, "error" if level == "exception" else level


@cache
def templates() -> list[re.Pattern[str]]:
    """Return a pattern for every text of the code, formatted ones included, long enough to tell."""
    found = []
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if sum(len(text) for text in texts if isinstance(text, str)) >= len("is IPv, "):
                pattern = "".join(".+" if text is None else re.escape(str(text)) for text in texts)
                found.append(re.compile(pattern))
    return found


def said_by_the_code(text: str) -> bool:
    """Tell whether it is a reason of ours, or a text of the kernel for which we have advice."""
    return any(pattern.fullmatch(text) for pattern in templates()) or bool(advice.on_output(text))


def keys() -> set[str]:
    """Return all names of keyword arguments and all constants that are keys of a dict."""
    found: set[str] = set()
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            match node:
                case ast.keyword(arg=str(name)):
                    found.add(name)
                case ast.Dict(keys=names):
                    found |= {str(key.value) for key in names if isinstance(key, ast.Constant)}
    return found


# --- the Compose files --------------------------------------------------------------------------


def test_the_sidecar_gets_exactly_the_privileges_it_needs() -> None:
    sidecar = compose("site")["services"]["wgroutemgr"]

    del sidecar["image"], sidecar["container_name"], sidecar["pull_policy"]
    assert sidecar == {
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "cap_add": ["NET_ADMIN", "SYS_ADMIN"],
        "read_only": True,
        "security_opt": ["no-new-privileges:true"],
        "cpu_shares": 16384,
        "labels": {GATEWAY_LABEL: "wireguard", NETWORK_LABEL: DEFAULT_NETWORK},
        "volumes": [
            "/var/run/docker.sock:/var/run/docker.sock:ro",
            {
                "type": "bind",
                "source": "/var/run/docker/netns",
                "target": "/var/run/docker/netns",
                "read_only": True,
                "bind": {"propagation": "rslave", "create_host_path": True},
            },
        ],
        "restart": "unless-stopped",
    }


def test_the_end_to_end_tests_run_with_exactly_those_privileges() -> None:
    sidecar = compose("site")["services"]["wgroutemgr"]
    socket, netns = sidecar["volumes"]
    given = {"--cap-drop": sidecar["cap_drop"], "--cap-add": sidecar["cap_add"]}
    given |= {"--security-opt": sidecar["security_opt"]}
    mode = f"ro,{netns['bind']['propagation']}"
    given |= {"--volume": [socket, f"{netns['source']}:{netns['target']}:{mode}"]}

    first, *words = PRIVILEGES
    assert first == "--read-only"
    assert words == [
        word for option, values in given.items() for value in values for word in (option, value)
    ]
    assert Docker.shares == ("--cpu-shares", str(sidecar["cpu_shares"]))


def test_the_sidecar_runs_the_image_that_was_just_built() -> None:
    image = compose("site")["services"]["wgroutemgr"]["image"]

    assert f"docker build -t {image} .\n" in block("build")


def test_the_gateway_forwards_and_has_the_address_of_the_picture() -> None:
    content = compose("site")
    gateway = content["services"]["wireguard"]
    pool = content["networks"]["wg-net"]["ipam"]["config"][0]
    address = gateway["networks"]["wg-net"]["ipv4_address"]

    assert gateway["sysctls"] == {"net.ipv4.ip_forward": 1}
    assert gateway["cap_add"] == ["NET_ADMIN"]
    assert f">{address}<" in PICTURE
    assert ip_address(address) in ip_network(pool["subnet"])
    assert ip_address(address) not in ip_network(pool["ip_range"])


def test_the_network_is_the_one_that_is_served_by_default() -> None:
    assert compose("site")["networks"]["wg-net"]["name"] == DEFAULT_NETWORK
    assert compose("client")["networks"] == {DEFAULT_NETWORK: {"external": True}}


def test_the_client_asks_for_the_network_that_the_tunnel_leads_to() -> None:
    (client,) = compose("client")["services"].values()
    destinations, refusals = labels.parse(client["labels"][NETWORKS_LABEL])

    assert list(client["labels"]) == [NETWORKS_LABEL]
    assert client["networks"] == [DEFAULT_NETWORK]
    assert not refusals
    assert [f"AllowedIPs = {dst}" for dst in destinations] == [
        line for line in block("tunnel").splitlines() if line.startswith("AllowedIPs")
    ]


def test_the_versions_of_the_api_are_those_of_the_code() -> None:
    engines = DOCUMENTS["docs/engines.md"]

    assert f"API {OLDEST_API}; tried up to" in engines
    assert f"API {NEWEST_API};" in engines


def test_the_dependencies_are_those_that_are_pinned_with_their_licences() -> None:
    rows = {
        plain(package): licence for package, licence in table("dependencies", "package", "licence")
    }
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)

    assert list(rows) == pinned
    for package, licence in rows.items():
        said = metadata(package).json
        assert licence == (said.get("license_expression") or said["license"]), package


def test_without_the_directory_the_sidecar_gets_what_its_errors_say() -> None:
    (change,) = compose("pid-host")["services"].values()

    assert change.pop("pid") == "host"
    assert yaml.safe_load(advice.CAP_ADD_PTRACE) == change


def test_the_proxy_takes_the_place_of_the_engines_socket() -> None:
    services = compose("socket-proxy")["services"]
    proxy, sidecar = services["socket-proxy"], services["wgroutemgr"]
    socket = sidecar["environment"]["DOCKER_HOST"].removeprefix("unix://")

    assert f"-proxysocketendpoint={socket}" in proxy["command"]
    assert proxy["volumes"] == [
        compose("site")["services"]["wgroutemgr"]["volumes"][0],
        "engine:/run/engine",
    ]
    assert sidecar["volumes"] == ["engine:/run/engine:ro"]


def test_the_client_that_waits_is_the_client_and_waits_for_the_sidecar() -> None:
    (name,) = compose("client")["services"]

    waits = {"wgroutemgr": {"condition": "service_healthy"}}
    assert set(waits) <= set(compose("site")["services"])
    assert compose("waits") == {"services": {name: {"depends_on": waits}}}


# --- tables -------------------------------------------------------------------------------------


def test_the_labels_are_those_of_the_code() -> None:
    rows = table("labels", "on", "label", "meaning", "default")

    assert [plain(label) for _, label, *_ in rows] == LABELS
    assert plain(rows[0][3]) == DEFAULT_NETWORK


def test_the_options_are_those_of_the_code() -> None:
    rows = table("options", "option", "variable", "default", "meaning")

    assert [[plain(cell) for cell in row] for row in rows] == [
        [option.flag, option.variable, option.default or option.shown_default, option.help]
        for option in OPTIONS
    ]


def test_the_commands_are_those_of_the_code() -> None:
    rows = table("commands", "command", "does", "exit codes")

    assert [
        [plain(name), plain(does).partition(": see ")[0], codes] for name, does, codes in rows
    ] == [
        [
            command.name,
            command.help,
            "; ".join(f"{code} {meaning}" for code, meaning in command.exit_codes),
        ]
        for command in COMMANDS.values()
    ]


def test_the_states_are_those_of_the_help() -> None:
    rows = table("states", "state", "meaning")

    assert [f"  {plain(state):12} {meaning}" for state, meaning in rows] == [
        line for line in COMMANDS["status"].description.splitlines() if line.startswith("  ")
    ]


def test_the_keys_of_the_json_are_those_of_the_code() -> None:
    gateway = Gateway("wireguard", "0123", "wg-net", "4567", ())
    gateway = Gateway("wireguard", "0123", "wg-net", "4567", ())
    network = Findings(gateway, None, Desired((), ()), [], [])
    document = json.loads(tables.document([tables.Row("dovecot", "89ab")], [network]))

    assert list(document) == [plain(key) for key, _ in table("status", "key", "value")]
    assert list(document["networks"][0]) == [
        plain(key) for key, _ in table("status-networks", "key of a network", "value")
    ]
    assert list(document["routes"][0]) == [
        plain(key)
        for key, _ in table(
            "status-routes", "key of a route", "value: text, empty where there is none"
        )
    ]


def test_the_table_of_states_is_drawn_as_the_code_does() -> None:
    drawn = block("status")
    head, *lines = drawn.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    cells = [
        [line[start:end].strip() for start, end in pairwise([*starts, None])] for line in lines
    ]
    rows = [
        tables.Row(name, "", network, netns, dst, gateway.strip("-"), state, reason)
        for name, network, netns, dst, gateway, state, reason in cells
    ]

    assert drawn.splitlines() == list(tables.table(rows, colour=False))


def test_the_checks_are_those_of_the_code_in_their_order() -> None:
    rows = table("checks", "check", "looks at")

    assert [plain(check) for check, _ in rows] == list(CHECKS)


def test_the_sample_of_the_doctor_has_the_form_of_its_output() -> None:
    sample = block("doctor").splitlines()
    found = [re.match(r"(ok  |warn|fail|skip)  (\w+) +\S", line) for line in sample]

    assert {match[2] for match in found if match} == set(CHECKS) - {
        "names",
        "container",
        "route",
        "neighbour",
    }


def test_the_events_are_those_of_the_code() -> None:
    listed = [plain(event) for _, event, *_ in table("events", "level", "event", "meaning", "keys")]

    assert len(listed) == len(set(listed))
    assert set(listed) == events()


def test_the_keys_are_those_of_the_code() -> None:
    assert logschema.KEYS.keys() - {"timestamp", "level", "event", "exception"} <= keys()
    assert {key for row in logschema.EVENTS.values() for key in row.keys} <= logschema.KEYS.keys()


def test_the_fields_of_ecs_are_those_of_the_code() -> None:
    named = set(spans(paragraph("ecs"))) - {"--log-format ecs"}

    assert named == {*ecs.FIELDS.values(), "message", "wgroutemgr.", "event", "stderr"}


def test_the_events_have_the_levels_of_the_code() -> None:
    listed = {
        plain(event): level.split(", ")
        for level, event, *_ in table("events", "level", "event", "meaning", "keys")
    }

    assert {(event, level) for event, level in logged_at() if level not in listed[event]} == set()


def test_the_refused_entries_are_refused_for_that_reason() -> None:
    rows = table("refused", "refused", "`reason` in the log", "why")
    for examples, reason, _ in rows:
        said = [refusal.reason for entry in spans(examples) for refusal in labels.parse(entry)[1]]

        assert len(said) == len(spans(examples)), f"not refused by itself: {examples}"
        assert said_by_the_code(plain(reason)), reason
        assert not said or plain(reason) in said


def test_the_reasons_in_the_troubleshooting_table_are_those_of_the_code() -> None:
    rows = table("symptoms", "symptom", "meaning", "fix")
    quoted = [text for symptom, *_ in rows if symptom[0] == "`" for text in spans(symptom)[:1]]

    assert len(quoted) > 10
    assert [text for text in quoted if not said_by_the_code(text)] == []


def test_the_health_is_said_as_in_the_code() -> None:
    said = [spans(text)[0] for text, _ in table("health", "said", "meaning")]

    assert said.pop(0) == OK
    assert [text for text in said if "…" not in text and not said_by_the_code(text)] == []


@pytest.mark.parametrize(
    "text",
    ["Network unreachable", "Network is unreachable", "Host is unreachable", "No route to host"],
)
def test_advice_is_found_in_the_words_of_either_c_library(text: str) -> None:
    assert advice.on_output(f"ip: RTNETLINK answers: {text}") == advice.LINK


def test_what_is_quoted_of_a_command_is_in_the_words_of_the_images_c_library() -> None:
    """The image has musl."""
    assert not re.search("Network is unreachable|No route to host|Device or resource busy", README)


def test_a_made_up_reason_is_not_found_in_the_code() -> None:
    assert not said_by_the_code("the gateway wireguard is on holiday")
    assert not said_by_the_code("no network namespace owns our container")


# --- the log line -------------------------------------------------------------------------------


LINE = json.loads(block("line"))


def test_the_log_line_has_the_keys_of_the_code() -> None:
    first, rest = list(LINE)[:3], {*list(LINE)[3:]}

    assert first == ["timestamp", "level", "event"]
    assert rest <= keys()
    assert rest >= {"container", "network", "dst", "gateway", "netns", "command", "trigger"}


def test_what_is_read_from_a_log_line_is_there() -> None:
    read = set(re.findall(r'(\w+) += ""', block("alloy")))
    asked = set(re.findall(r"\| (\w+)=~?\"", block("logql")))
    assert {*asked, "timestamp"} == read <= logschema.KEYS.keys()

    line = ecs.renamed(LINE)
    fields = set(re.findall(r"([\w.]+): ", block("kql")))
    assert fields <= line.keys()
    assert line["service.name"] == "wgroutemgr"


def test_the_components_of_the_alloy_configuration_are_all_there() -> None:
    alloy = block("alloy")
    made = {".".join(found) for found in re.findall(r'^([\w.]+) "(\w+)" {$', alloy, re.MULTILINE)}
    used = set(re.findall(r"([a-z]+\.\w+\.\w+)\.(?:targets|output|receiver)", alloy))

    assert used == made - {"loki.source.docker.sidecar"}
    assert alloy.count("{") == alloy.count("}")


def test_the_filebeat_configuration_picks_the_sidecars_lines() -> None:
    (source,) = compose("filebeat")["filebeat.inputs"]

    assert [next(iter(parser)) for parser in source["parsers"]] == ["container", "ndjson"]
    ours = {"equals": {"service.name": "wgroutemgr"}}
    assert source["processors"] == [{"drop_event": {"when": {"not": ours}}}]


def test_the_log_line_shows_the_command_that_the_code_would_run() -> None:
    dst = ip_network(LINE["dst"])
    route = Route(dst, ip_address(LINE["gateway"]), DEFAULT_METRIC[dst.version])

    assert LINE["command"] == iproute.command(LINE["netns"], Step("replace", route))


def test_the_commands_to_paste_are_those_of_the_log_line() -> None:
    pasted = "".join(blocks("sh")).replace("\\\n    ", "")

    assert f"docker exec wgroutemgr {LINE['command']}\n" in pasted
    assert f"docker exec wgroutemgr nsenter --net={LINE['netns']} ip route show\n" in pasted


# --- links and paths ----------------------------------------------------------------------------


def slugs(document: str) -> set[str]:
    """Return the anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("document", "target"),
    sorted(
        {
            (document, target)
            for document in DOCUMENTS
            for target in re.findall(r"\]\((?!https:)([^)]+)\)", prose(document))
        }
    ),
)
def test_a_link_leads_somewhere(document: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    there = (ROOT / document).parent / path if path else ROOT / document

    assert there.exists()
    if anchor:
        assert anchor in slugs(there.resolve().relative_to(ROOT).as_posix())


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if "/" in name])
def test_the_readme_leads_to_every_document(document: str) -> None:
    assert re.search(rf"\]\({re.escape(document)}(#[\w-]+)?\)", README)


def paths() -> set[str]:
    """Return what is written as a path of this tree, in the texts and in the commands."""
    words = {span.split()[0] for document in DOCUMENTS for span in spans(prose(document))}
    words |= {word for block in blocks("sh") for word in block.split()}
    return {
        word
        for word in words
        if re.match(r"(\./)?(docs|examples|lib|tests)/|wgroutemgr\.py$", word)
    }


@pytest.mark.parametrize("path", sorted(paths()))
def test_a_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_layout_names_every_package_and_module() -> None:
    rows = table("layers", "layer", "where")
    named = [name for _, files in rows for name in spans(files)]
    folders = {f"{Path(name).parent}/" for name in SOURCES if name.count("/") > 1}
    modules = {name for name in SOURCES if name.count("/") < 2}

    assert sorted([*named, "lib/__init__.py"]) == sorted(folders | modules)


def test_the_layers_are_drawn_as_they_are_enforced() -> None:
    drawing = (ROOT / "docs/layers.svg").read_text()
    rows: dict[str, set[str]] = {}
    for y, name in re.findall(r'class="name" .*y="(\d+)">(\w+)<', drawing):
        rows.setdefault(y, set()).add(name)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (one["layers"] for one in contracts["contracts"] if "layers" in one)

    assert list(rows.values()) == [{"wgroutemgr"}, *({*re.findall(r"\w+", row)} for row in layers)]


def test_the_first_screen_has_the_picture_and_the_two_commands() -> None:
    screen = "\n".join(README.splitlines()[:40])

    assert "(docs/two-sites.svg)" in screen
    assert "\n./tests/demo " in screen
    assert "\n./tests/run " in screen


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= LONGEST_README
