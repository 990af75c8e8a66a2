"""Command line and environment to settings."""

from __future__ import annotations

import pytest

from lib.cli.commandline import parse
from lib.cli.registry import COMMANDS, Command
from lib.named import named_command, named_options
from lib.settings import OPTIONS, VERSION, Option, Settings

NAMES = {option.name: option for option in OPTIONS}


def test_without_anything_the_defaults_hold() -> None:
    assert parse([], {}) == Settings(
        command="run",
        network=None,
        gateway=None,
        gateway_service=None,
        resync_interval=60.0,
        on_gateway_loss="unreachable",
        on_stop="keep",
        mtu="auto",
        log_format=None,
        log_level="info",
    )


def test_the_declared_defaults_are_those_of_an_empty_command_line() -> None:
    assert parse([], {}) == Settings()


VALUES = {
    "network": ("wg-other", "wg-other"),
    "gateway": ("wireguard", "wireguard"),
    "gateway-service": ("wg_wireguard", "wg_wireguard"),
    "resync-interval": ("2.5", 2.5),
    "on-gateway-loss": ("keep", "keep"),
    "on-tunnel-loss": ("warn", "warn"),
    "gateway-guard": ("on", "on"),
    "on-stop": ("withdraw", "withdraw"),
    "mtu": ("1280", "1280"),
    "log-format": ("console", "console"),
    "log-level": ("debug", "debug"),
}

OTHER_VALUES = {
    "network": "wg-elsewhere",
    "gateway": "elsewhere",
    "gateway-service": "wg_elsewhere",
    "resync-interval": "30",
    "on-gateway-loss": "unreachable",
    "on-tunnel-loss": "unreachable",
    "gateway-guard": "off",
    "on-stop": "unreachable",
    "mtu": "off",
    "log-format": "json",
    "log-level": "error",
}


def chosen(option: Option, found: Settings) -> object:
    return getattr(found, option.name.replace("-", "_"))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_an_option_can_be_given_on_the_command_line(option: Option) -> None:
    text, value = VALUES[option.name]

    assert chosen(option, parse([option.flag, text], {})) == value


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_an_option_can_be_given_as_a_variable(option: Option) -> None:
    text, value = VALUES[option.name]

    assert chosen(option, parse([], {option.variable: text})) == value


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_the_command_line_wins_over_the_variable(option: Option) -> None:
    text, value = VALUES[option.name]
    environ = {option.variable: OTHER_VALUES[option.name]}

    assert chosen(option, parse([option.flag, text], environ)) == value


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_an_empty_variable_is_as_good_as_none(option: Option) -> None:
    assert parse([], {option.variable: ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("network", "WGROUTEMGR_NETWORK"),
        ("gateway", "WGROUTEMGR_GATEWAY"),
        ("gateway-service", "WGROUTEMGR_GATEWAY_SERVICE"),
        ("resync-interval", "WGROUTEMGR_RESYNC_INTERVAL"),
        ("on-gateway-loss", "WGROUTEMGR_ON_GATEWAY_LOSS"),
        ("on-tunnel-loss", "WGROUTEMGR_ON_TUNNEL_LOSS"),
        ("gateway-guard", "WGROUTEMGR_GATEWAY_GUARD"),
        ("on-stop", "WGROUTEMGR_ON_STOP"),
        ("mtu", "WGROUTEMGR_MTU"),
        ("log-format", "WGROUTEMGR_LOG_FORMAT"),
        ("log-level", "WGROUTEMGR_LOG_LEVEL"),
    ],
)
def test_option_and_variable_have_the_same_name(name: str, variable: str) -> None:
    assert (NAMES[name].flag, NAMES[name].variable) == (f"--{name}", variable)


@pytest.mark.parametrize("text", ["1", "1.0", "60", "86400"])
def test_an_interval_between_a_second_and_a_day_is_taken(text: str) -> None:
    assert parse(["--resync-interval", text], {}).resync_interval == float(text)


BAD = [
    *[("resync-interval", text) for text in ("0", "0.9", "-5", "86401", "nan", "inf", "1m", "x")],
    *[("on-gateway-loss", text) for text in ("delete", "Keep")],
    *[("gateway-guard", text) for text in ("yes", "On", "true")],
    *[("on-tunnel-loss", text) for text in ("keep", "Warn")],
    *[("on-stop", text) for text in ("delete", "Keep")],
    *[("mtu", text) for text in ("575", "65536", "-1280", "1e3", "\u0661\u0662\u0668\u0660", "on")],
    *[("log-format", text) for text in ("xml", "JSON")],
    *[("log-level", text) for text in ("verbose", "INFO", "warn")],
]


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_wrong_option_ends_with_code_2_and_names_option_and_value(
    name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([f"--{name}={text}"], {})

    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"argument --{name}: {text!r} is " in said.err


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_wrong_variable_ends_with_code_2_too(
    name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([], {NAMES[name].variable: text})

    assert ended.value.code == 2
    assert f"{text!r} is " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--unknown"], ["frobnicate"], ["run", "run"], ["--network"], ["--net", "wg-net"]],
    ids=["unknown option", "unknown command", "two commands", "no value", "abbreviation"],
)
def test_wrong_usage_ends_with_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments, {})

    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["--gateway=a", "--gateway-service=b"], {}),
        (["--gateway=a"], {"WGROUTEMGR_GATEWAY_SERVICE": "b"}),
        ([], {"WGROUTEMGR_GATEWAY": "a", "WGROUTEMGR_GATEWAY_SERVICE": "b"}),
    ],
)
def test_a_gateway_is_named_one_way(
    arguments: list[str], environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments, environ)

    assert ended.value.code == 2
    assert (
        "--gateway and --gateway-service (or their variables): give one" in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_taken(command: str) -> None:
    assert parse([command], {}).command == command


def test_help_names_every_option_variable_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"], {"COLUMNS": "80"})

    assert ended.value.code == 0
    said = capsys.readouterr().out
    for word in [*COMMANDS, *(word for o in OPTIONS for word in (o.flag, o.variable))]:
        assert word in said


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_is_taken_before_and_after_the_command(command: str, option: Option) -> None:
    text, value = VALUES[option.name]
    environ = {option.variable: OTHER_VALUES[option.name]}

    before = parse([option.flag, text, command], environ)
    after = parse([command, option.flag, text], environ)

    assert before == after
    assert (before.command, chosen(option, before)) == (command, value)
    for flag in ([option.flag, text], [f"{option.flag}={text}"]):
        for words in ([*flag, command], [command, *flag], [option.flag, "other", *flag]):
            assert named_options(words) == {option.name: text}
        assert named_command([*flag, command]) == named_command([command, *flag]) == command


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_value_that_is_a_commands_name_is_no_command(option: Option) -> None:
    assert named_command([option.flag, "status"]) == parse([], {}).command == "run"
    assert named_command([f"{option.flag}=status", "plan"]) == "plan"


def test_whatever_another_sidecar_was_given_is_read() -> None:
    assert named_options(["sh", "-c", "x", "--network"]) == {"network": ""}


@pytest.mark.parametrize("command", COMMANDS)
def test_only_the_daemon_logs_what_goes_well(command: str) -> None:
    assert parse([command], {}).log_level == ("info" if command == "run" else "warning")
    assert parse([command], {"WGROUTEMGR_LOG_LEVEL": "info"}).log_level == "info"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_has_help_of_its_own_with_its_exit_codes_and_an_example(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([command.name, "--help"], {})

    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: wgroutemgr {command.name} [OPTION ...]")
    assert command.synopsis in said.partition("\n")[0]
    for word in [command.description, command.example.splitlines()[0], "exit codes:"]:
        assert word in said
    for code, meaning in command.exit_codes:
        assert f"  {code}  {meaning}\n" in said
    for option in OPTIONS:
        assert option.flag in said
        assert option.variable in said
    assert max(map(len, command.description.splitlines())) < 80


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_commands_function_is_there(command: Command) -> None:
    assert callable(command.load())


def test_version_is_printed_and_ends_with_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--version"], {})

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"wgroutemgr {VERSION}\n"
