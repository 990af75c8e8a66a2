"""What the sidecar must have been given, read from samples of /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib import advice
from lib.advice import CAP_ADD, NETNS_DIRECTORY
from lib.kernel import prerequisites
from lib.kernel.prerequisites import (
    capabilities,
    directory,
    mount_of,
    parse_mounts,
)
from lib.model import Finding

SAMPLES = Path(__file__).parent.parent / "data" / "proc"
REAL = Path("/run/docker/netns")
PRIVATE = "622 610 0:24 /docker/netns /run/docker/netns ro - tmpfs tmpfs rw"
SLAVE = PRIVATE.replace("ro -", "ro master:5 -")
SHARED = PRIVATE.replace("ro -", "ro shared:5 -")


def status(effective: str, user: int = 0) -> str:
    return f"Name:\tpython3\nUid:\t0\t{user}\t0\t0\nCapEff:\t{effective}\n"


@pytest.mark.parametrize(
    ("effective", "lacking"),
    [
        ("0000000000201000", ""),
        ("000001ffffffffff", ""),
        ("0000000000200000", "NET_ADMIN"),
        ("0000000000001000", "SYS_ADMIN"),
        ("00000000a80425fb", "NET_ADMIN and SYS_ADMIN"),
    ],
)
def test_lacking_capabilities_are_named(effective: str, lacking: str) -> None:
    found = capabilities(status(effective))

    assert found.level == ("fail" if lacking else "ok")
    assert found.seen.startswith(lacking)
    assert found.fix == ((CAP_ADD,) if lacking else ())


def test_capabilities_that_another_user_lacks_are_blamed_on_the_user() -> None:
    found = capabilities(status("0000000000000000", user=1000))

    assert "user 1000" in found.seen
    assert found.fix == ('user: "0"', CAP_ADD)


WHOLE, REMAPPED = "         0          0 4294967295\n", "         0     100000      65536\n"
ROOTLESS = "         0       1500          1\n         1     100000      65536\n"
NOBODY = 65534


@pytest.mark.parametrize(
    ("uid_map", "owner", "remapped", "user"),
    [
        (WHOLE, 0, False, None),
        (WHOLE, NOBODY, False, None),
        (REMAPPED, NOBODY, True, None),
        (ROOTLESS, 0, False, 1500),
    ],
)
def test_user_namespaces_are_told_from_each_other(
    uid_map: str, owner: int, user: int | None, *, remapped: bool
) -> None:
    """As they are seen in containers with userns-remap, and in those of a rootless engine."""
    assert prerequisites.is_remapped(uid_map, owner) == remapped
    assert prerequisites.rootless_user(uid_map, owner) == user


@pytest.mark.parametrize(
    ("output", "fix"),
    [
        ("nsenter: setns(): Permission denied", advice.SECURITY_OPT),
        ("sh: ip: not found", advice.IMAGE),
        ("anything else", ""),
    ],
)
def test_what_a_command_says_names_its_fix(output: str, fix: str) -> None:
    assert prerequisites.on_output(output) == fix


def test_capabilities_that_are_in_effect_are_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = "RTNETLINK answers: Operation not permitted"
    found = Finding("fail", "", (CAP_ADD,))
    monkeypatch.setattr(prerequisites, "capabilities", lambda: found)
    assert prerequisites.on_output(refused) == CAP_ADD

    monkeypatch.setattr(prerequisites, "capabilities", lambda: Finding("ok", ""))
    assert CAP_ADD not in prerequisites.on_output(refused)


@pytest.mark.parametrize(("line", "follows"), [(PRIVATE, False), (SLAVE, True), (SHARED, True)])
def test_a_mount_follows_as_a_slave_or_a_peer(line: str, *, follows: bool) -> None:
    (mount,) = parse_mounts(line)

    assert (mount.point, mount.follows) == (REAL, follows)


def test_the_mount_of_a_path_is_the_nearest_one_and_the_last() -> None:
    mounts = parse_mounts(f"1 0 0:1 / / rw shared:1 - ext4 x rw\n{PRIVATE}\n{SLAVE}\n")

    assert mount_of(REAL, mounts) is mounts[2]
    assert mount_of(REAL / "0a1b2c3d4e5f", mounts) is mounts[2]
    assert mount_of(REAL.parent, mounts) is mounts[0]
    assert mount_of(REAL, []) is None


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("mountinfo-*")))
def test_every_sample_of_mountinfo_is_read(name: str) -> None:
    text = (SAMPLES / name).read_text()
    mounts = parse_mounts(text)

    assert len(mounts) == len(text.splitlines())
    if mount := mount_of(REAL, [mount for mount in mounts if mount.point == REAL]):
        assert mount.follows


def test_a_mount_point_with_a_space_is_read() -> None:
    (mount,) = parse_mounts(r"1 0 0:1 / /srv/engine\040data rw - ext4 x rw")

    assert mount.point == Path("/srv/engine data")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for /proc: of a container with the usual privileges and a mount."""
    files = {"STATUS": status("0000000000201000"), "MOUNTINFO": SLAVE}
    files |= {"CGROUP": "0::/\n", "FIRST_CGROUP": "0::/\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(prerequisites, name, tmp_path / name)
    return tmp_path


def test_a_missing_directory_is_to_be_mounted(proc: Path) -> None:
    found = directory(proc / "netns")

    assert found.level == "fail"
    assert f"{proc}/netns:{proc}/netns:ro,rslave" in found.fix[0]


@pytest.mark.parametrize(
    ("effective", "level"), [("0000000000281000", "ok"), ("0000000000201000", "fail")]
)
def test_it_need_not_be_there_where_processes_of_the_host_can_be_entered(
    proc: Path, effective: str, level: str
) -> None:
    (proc / "FIRST_CGROUP").write_text("0::/../../init.scope\n")
    (proc / "STATUS").write_text(status(effective))

    found = directory(proc / "netns")

    assert found.level == level
    assert ("SYS_PTRACE not in effect" in found.seen) == (level == "fail")
    assert ("SYS_PTRACE" in "".join(found.fix)) == (level == "fail")


@pytest.mark.parametrize(("line", "level"), [(PRIVATE, "fail"), (SLAVE, "ok")])
def test_a_private_mount_is_told_from_one_that_follows(
    tmp_path: Path, line: str, level: str
) -> None:
    assert directory(tmp_path, line.replace(str(REAL), str(tmp_path))).level == level


def test_nothing_is_missing_where_all_is_given(monkeypatch: pytest.MonkeyPatch, proc: Path) -> None:
    monkeypatch.setattr(prerequisites, "NETNS_DIRECTORY", proc / "netns")

    assert [finding.seen for finding in prerequisites.missing()] == [
        f"there is no directory {REAL}"  # mounted somewhere else, as with another --exec-root
    ]
    (proc / "netns").mkdir()
    assert prerequisites.missing() == []


def test_the_directory_is_the_engines() -> None:
    assert str(NETNS_DIRECTORY) == "/var/run/docker/netns"
