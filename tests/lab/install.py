"""Brings the machine's own packages that the lab needs, and answers what apt knows.

It installs only commands that are missing, starts no service, adds no package source and no key:
every mirror comes from the machine's apt configuration. It must not touch an engine.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab.errors import LabError

# Command: the packages that may bring it, the first one that apt knows is taken.
PACKAGES: dict[str, tuple[str, ...]] = {
    "dockerd": ("docker.io",),
    "docker": ("docker-cli", "docker.io"),
    "containerd": ("containerd",),
    "iptables": ("iptables",),
    "ip": ("iproute2",),
    "unshare": ("util-linux",),
    "nsenter": ("util-linux",),
    "mount": ("mount",),
    "findmnt": ("util-linux",),
    "ps": ("procps",),
    "update-ca-certificates": ("ca-certificates",),
    "debootstrap": ("debootstrap",),
    "busybox": ("busybox-static",),
    "git": ("git",),
    "jq": ("jq",),
}
LAB = tuple(name for name in PACKAGES if name not in {"debootstrap", "busybox", "git", "jq"})

POLICY = Path("/usr/sbin/policy-rc.d")
# Debian's root PATH; a bare environment may come without the sbin folders.
PATH = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
)


def which(command: str) -> str | None:
    """Path of a command, looked for where root would find it."""
    return shutil.which(command, path=PATH)


def ensure(commands: Sequence[str] = LAB) -> list[str]:
    """Install what brings the missing ones of these commands; returns the packages installed."""
    missing = [command for command in commands if which(command) is None]
    if not missing:
        return []
    if os.geteuid() != 0:
        raise LabError(
            seen=f"not running as root, and these commands are missing: {' '.join(missing)}",
            hint="run as root, or install them first",
        )
    packages = _packages(missing)
    with _no_service_starts():
        if not _apt_install(packages):
            _run("apt-get", "update", "--quiet")
            packages = _packages(missing)
            if not _apt_install(packages):
                _run("apt-get", *_INSTALL, *packages)
    still = [command for command in missing if which(command) is None]
    if still:
        raise LabError(
            seen=f"installed {' '.join(packages)}, but these commands are still missing: "
            f"{' '.join(still)}",
            hint="install them by hand and try again",
        )
    return packages


_INSTALL = (
    *("-o", "DPkg::Lock::Timeout=300"),
    *("install", "--yes", "--quiet", "--no-install-recommends"),
)


def _packages(commands: Sequence[str]) -> list[str]:
    chosen = (_first_known(PACKAGES[command]) for command in commands)
    return list(dict.fromkeys(chosen))


def _first_known(packages: Sequence[str]) -> str:
    known = (name for name in packages if _apt(("apt-cache", "show", name)).returncode == 0)
    return next(known, packages[-1])


def _apt_install(packages: Sequence[str]) -> bool:
    return _apt(("apt-get", *_INSTALL, *packages)).returncode == 0


def _apt(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "PATH": PATH}
    with subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        # Interrupted, we wait for it to end: half-installed packages would be worse.
        output, _ = process.communicate()
    return subprocess.CompletedProcess(argv, process.returncode, output)


def _run(*argv: str) -> str:
    done = _apt(argv)
    if done.returncode != 0:
        raise LabError(
            seen=f"`{' '.join(argv)}` ended with {done.returncode}:\n{done.stdout.strip()}",
            hint="the machine's apt sources must work: see what apt says above",
        )
    return done.stdout


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Keep package scripts from starting services; what stood there before stands there after."""
    before = (POLICY.read_bytes(), POLICY.stat().st_mode) if POLICY.exists() else None
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            POLICY.unlink(missing_ok=True)
        else:
            POLICY.write_bytes(before[0])
            POLICY.chmod(before[1])


def os_release() -> dict[str, str]:
    """What /etc/os-release says: `ID`, `VERSION_CODENAME` and so on."""
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key: value.strip('"') for key, value in pairs}


def mirror() -> tuple[str, str]:
    """The machine's own package mirror and the keyring that signs it."""
    machine = os_release()
    release = machine.get("VERSION_CODENAME", "")
    template = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = _run("apt-get", "indextargets", "--format", template, "Created-By: Packages")
    for line in targets.splitlines():
        uri, suite, component = line.split()
        if (suite, component) == (release, "main"):
            return uri, f"/usr/share/keyrings/{machine['ID']}-archive-keyring.gpg"
    raise LabError(
        seen=f"apt knows no source for {release!r} main; it knows:\n{targets.strip()}",
        hint="the lab takes its packages from the machine's own release: add it to apt's sources",
    )


def fetch(suite: str, packages: Sequence[str], into: Path) -> None:
    """Unpack packages of a suite, with what they depend on, into a folder; installs nothing.

    A private apt state (no installed packages, one source) resolves the dependencies, so the suite
    may be another than the machine's. Package scripts do not run.
    """
    uri, keyring = mirror()
    state = into.with_name(f"{into.name}.apt")
    for folder in (into, state / "lists/partial", state / "cache/archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    components = "main universe" if os_release()["ID"] == "ubuntu" else "main"
    (state / "sources.list").write_text(
        f"deb [signed-by={keyring}] {uri} {suite} {components}\n", encoding="utf-8"
    )
    options = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "APT::Update::Error-Mode": "any",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    _run("apt-get", *words, "update", "--quiet")
    _run("apt-get", *words, *_INSTALL, "--download-only", *packages)
    # Where /bin, /lib and the like are links into /usr, packages rely on them.
    for name in ("bin", "lib", "lib64", "sbin"):
        (into / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (into / name).is_symlink():
            (into / name).symlink_to(f"usr/{name}")
    for archive in sorted((state / "cache/archives").glob("*.deb")):
        _unpack(archive, into)
    shutil.rmtree(state)


def _unpack(archive: Path, into: Path) -> None:
    # Not `dpkg -x`: it replaces the links above by folders.
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE
    ) as p:
        subprocess.run(
            ["tar", "--extract", "--keep-directory-symlink", "--directory", str(into)],
            stdin=p.stdout,
            check=True,
        )
