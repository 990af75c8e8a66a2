"""Docker Engines for tests and the demo: a private one that we start, or the one that is there.

A private engine lives in namespaces of its own (mounts, network, processes), so it runs beside the
machine's engine, keeps its bridges and firewall to itself, and dies with its first process: when
that one goes, on `close()`, on an error or because this process was killed, the kernel ends every
daemon, shim and container in it and drops every mount. It must not touch the machine's own engine,
network or mounts, nor any process that it did not start.
"""

import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import install
from tests.lab.errors import LabError

HOME = Path("/var/tmp")  # noqa: S108 - on disk, where overlay file systems work; made by mkdtemp
PREFIX = "wgroutemgr-lab-"
LABEL = "wgroutemgr-lab"
START_SECONDS = 60
STOP_SECONDS = 30
COMMAND_SECONDS = 300
RELEASE_SECONDS = 60
IN_USE = ("in use by task", "has dependent containers", "has active endpoints")
"""What a swarm says of a network until it has noticed that its containers are gone, Podman of a
container until those are gone that share its network, and Docker 20.10 now and then of a network
whose many containers were removed at once."""

# The first process of a private engine. Its arguments: the state folder, a root file system or
# nothing, `2` for a cgroup v2 hierarchy, and the command that it ends as. It says its process id as
# the machine sees it, then `ready`.
INIT = r"""
set -eu
state=$1 rootfs=$2 cgroup=$3 last=$4
read -r pid rest </proc/self/stat
echo "$pid"
root=
if [ -n "$rootfs" ]; then
    root=$state/root
    mkdir "$root" "$state/upper" "$state/work"
    mount -t overlay -o "lowerdir=$rootfs,upperdir=$state/upper,workdir=$state/work" overlay "$root"
    mkdir -p "$root$state"
    mount --bind "$state" "$root$state"
    mount --rbind /dev "$root/dev"
fi
# A sysfs of our own shows our own network devices; the cgroup mounts below /sys move over.
mkdir "$state/cgroup"
mount --rbind /sys/fs/cgroup "$state/cgroup"
mount -t sysfs sysfs "$root/sys"
if [ "$cgroup" = 2 ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount --rbind "$state/cgroup" "$root/sys/fs/cgroup"
fi
umount --recursive --lazy "$state/cgroup"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir "$root/run/lock"
if [ -n "$root" ]; then
    cd "$root"
    pivot_root . .
    umount --lazy .
fi
ip link set lo up
# Containers take the engine's mounts as slaves, so they must be shared, but only in here.
mount --make-rshared /
echo ready
# Ignoring SIGCHLD lets the kernel reap what is orphaned to us; a shell's trap ends with the shell.
exec env --ignore-signal=CHLD $last >/dev/null
"""

DAEMON = """
top=/sys/fs/cgroup/cpu/$1 own=/sys/fs/cgroup/cpu/$1/$2
if [ -d /sys/fs/cgroup/cpu ]; then
    mkdir -p "$own" && echo $$ >"$own/cgroup.procs" && echo 8192 >"$top/cpu.shares"
fi
shift
export LISTEN_PID=$$
exec "$@" 3<&0 </dev/null
"""
"""Starts one of its daemons: as systemd has it, each has a share of the CPU beside those of the
containers, and all together have as much as what else runs here. One socket is handed over by the
protocol of sd_listen_fds(3), as descriptor 3 of the process named."""

BRIDGED_UNFILTERED = """
cd /proc/sys/net/bridge 2>/dev/null || exit 0
for name in bridge-nf-call-iptables bridge-nf-call-ip6tables; do echo 0 >"$name"; done
"""


class Docker(ABC):
    """An engine that one can talk to: the command line, and commands run where the engine runs."""

    socket: str
    version: str
    netns = "/var/run/docker/netns"
    """Where it keeps the files of namespaces."""
    shares: tuple[str, ...] = ("--cpu-shares", "16384")
    """What the sidecar gets of the CPU, as in the quick start. Docker leaves that out where it
    cannot be."""
    network_options: tuple[str, ...] = ()
    """What the lab's networks are made with."""

    def __init__(self) -> None:
        # What the lab has seen to here, see images.py: image, and what it was made of.
        self.images: dict[str, str] = {}

    @property
    def major(self) -> int:
        """First number of the engine's version: 20, 26, 28."""
        return int(self.version.split(".", maxsplit=1)[0])

    def docker(self, *args: str, seconds: float = COMMAND_SECONDS, both: bool = False) -> str:
        """Run `docker` against this engine; returns what it printed, raises with all it said."""
        return run("docker", *args, env=self.environment(), seconds=seconds, both=both)

    def enter(self, *argv: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run a command where the engine runs, as a person on its machine would."""
        return run(*self.entry(), *argv, seconds=seconds)

    @abstractmethod
    def entry(self) -> tuple[str, ...]:
        """The words to put before a command so that it runs where the engine runs."""

    def remove_labelled(self, token: str) -> None:
        """Remove every container and network that carries our label with this token."""
        mark = f"label={LABEL}={token}"
        if not poll(lambda: self._try_to_remove(mark), RELEASE_SECONDS, every=0.2):
            raise LabError(
                seen=f"what has the {mark} is still in use after {RELEASE_SECONDS} s",
                hint="see what the engine says when you remove it by hand",
            )

    def _try_to_remove(self, mark: str) -> bool:
        """Remove what has the mark; false if some of it has to be tried again, see `IN_USE`."""
        containers = self.docker("ps", "--all", "--quiet", "--filter", mark).split()
        networks = self.docker("network", "ls", "--quiet", "--filter", mark).split()
        try:
            if containers:
                self.docker("rm", "--force", "--volumes", *containers)
            if networks:
                self.docker("network", "rm", *networks)
        except LabError as error:
            if not any(text in str(error) for text in IN_USE):
                raise
            self._release(networks)
            return False
        return True

    def _release(self, networks: Iterable[str]) -> None:
        """Take from networks what they keep of containers that are gone.

        Seen on 20.10, where several containers left a network at once: it would keep that for good.
        """
        names = "{{range .Containers}}{{println .Name}}{{end}}"
        for network in networks:
            with suppress(LabError):  # It may be removed by now.
                for name in self.docker("network", "inspect", "--format", names, network).split():
                    self.docker("network", "disconnect", "--force", network, name)

    def environment(self) -> dict[str, str]:
        """The environment with which a `docker` command reaches this engine."""
        return os.environ | {
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_BUILDKIT": "0",  # the classic builder is there on every engine
            "PATH": install.PATH,
        }


class Existing(Docker):
    """The engine that already answers on this machine; it is used, never stopped."""

    SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")

    def __init__(self) -> None:
        super().__init__()
        host = os.environ.get("DOCKER_HOST", f"unix://{self.SOCKETS[1]}")
        self.socket = host.removeprefix("unix://")
        # A sidecar mounts the engine's socket and namespaces from their usual places.
        if self.socket not in self.SOCKETS:
            raise LabError(
                seen=f"the engine at {host} is not this machine's own",
                hint="unset DOCKER_HOST to use the machine's own engine",
            )
        answer = ping(self.socket)
        if answer is None or install.which("docker") is None:
            raise LabError(
                seen=f"no Docker Engine answers on {self.socket}",
                hint="start it, or let the lab start a private one",
            )
        self.version = self.docker("version", "--format", "{{.Server.Version}}")

    def entry(self) -> tuple[str, ...]:
        """Nothing to put before: this machine is where the engine runs."""
        return ()


class Engine(Docker):
    """A private engine, started on entering the context and wiped out on leaving it.

    Args:
        live_restore: containers survive a stop of the daemon.
        data_root: folder for the engine's data, relative to the state folder.
        exec_root: the engine's run-time folder, inside its private `/run`.
        socket_activation: `/run/docker.sock` outlives the daemon, as where systemd holds it, and
            who connects meanwhile waits. Without, each start of the daemon makes it anew.
        cgroup_v2: give it a cgroup v2 hierarchy, whatever the machine has.
        rootfs: run the engine of this root file system instead of the machine's.
        keep: it outlives this process, until `clean()`.
        config: further entries of the engine's `daemon.json`.
    """

    program = "dockerd"
    """The engine itself."""
    daemons: tuple[str, ...] = ("containerd", "dockerd")
    """What runs, in the order of its start."""
    namespaces: tuple[str, ...] = ("--mount", "--net", "--pid")
    """Those that are its own, as `nsenter` takes them."""

    def __init__(  # noqa: PLR0913 - options of an engine, all named
        self,
        *,
        live_restore: bool = False,
        data_root: str = "docker",
        exec_root: str = "/var/run/docker",
        socket_activation: bool = True,
        cgroup_v2: bool = False,
        rootfs: Path | None = None,
        keep: bool = False,
        config: dict[str, object] | None = None,
    ) -> None:
        super().__init__()
        self._live_restore = live_restore
        self._data_root = data_root
        self._exec_root = exec_root
        self.netns = f"{exec_root}/netns"
        self._socket_activation = socket_activation
        self._listener: socket.socket | None = None
        self._cgroup_v2 = cgroup_v2
        self._rootfs = rootfs
        self._keep = keep
        self._config = config or {}
        self._init: subprocess.Popen[str] | None = None
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.pid = 0

    @property
    def log(self) -> Path:
        """What the engine's daemons wrote."""
        return self.state / "engine.log"

    def __enter__(self) -> Self:
        """Start the engine, installed if it is not; whatever goes wrong, nothing of it stays."""
        install.ensure()
        clean()
        self.state = Path(tempfile.mkdtemp(prefix=PREFIX, dir=HOME))
        self.socket = str(self.state / "docker.sock")
        try:
            self._start_namespaces()
            if self._socket_activation:
                self._listen()
            self.version = self._daemon_version()
            self._write_configuration()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave it running if it is to be kept and nothing failed, else remove all of it."""
        if not (self._keep and error is None):
            self.close()

    def entry(self) -> tuple[str, ...]:
        """Enter the engine's mounts, network and processes."""
        return ("nsenter", "--target", str(self.pid), *self.namespaces, "--")

    def start(self) -> None:
        """Start the daemon, and containerd unless it still runs; returns once it answers."""
        for name in self.daemons:
            running = self._running.get(name)
            if running is None or running.poll() is not None:
                self._running[name] = self._spawn(name)
        daemon = self._running[self.program]
        answered = poll(
            lambda: daemon.poll() is not None or ping(self.socket) is not None, START_SECONDS
        )
        if not answered or daemon.poll() is not None:
            raise LabError(
                seen=f"{self.program} {self.version} did not come up; its log ends with:\n"
                f"{self._tail()}",
                hint="the last error above says why",
            )
        # Two sites on one engine: bridged packets would pass its firewall, which (from 28 on)
        # drops what comes from another network's addresses. The switch belongs to this namespace.
        self.enter("sh", "-c", BRIDGED_UNFILTERED)

    def stop(self) -> None:
        """Stop the daemon as a service manager would; without live restore, containers too."""
        self._signal(signal.SIGTERM)
        self._await_end()

    def kill(self) -> None:
        """Kill the daemon, only it: containers run on, unsupervised."""
        self._signal(signal.SIGKILL)
        self._await_end()

    def restart(self) -> None:
        """Stop the daemon and start it again."""
        self.stop()
        self.start()

    def reboot(self) -> None:
        """End whatever runs, lose what is kept in memory, and start again, as the machine does."""
        self.stop()
        for name in set(self.daemons) - {self.program}:
            daemon = self._running[name]
            for child in _children(daemon.pid):  # nsenter does not pass signals on
                os.kill(child, signal.SIGTERM)
            daemon.wait(STOP_SECONDS)
        self.enter("rm", "-rf", self._exec_root, "/run/containerd")
        self.start()

    def pause(self) -> None:
        """Freeze the daemon: it neither answers nor hangs up."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen daemon go on."""
        self._signal(signal.SIGCONT)
        # nsenter stops itself when its child is stopped, and would not notice its end.
        self._running[self.program].send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End every process of the engine and remove what it left on the machine."""
        if self._listener is not None:
            self._listener.close()
        if self._init is not None:
            if self.pid and self._init.poll() is None:
                os.kill(self.pid, signal.SIGKILL)
            else:
                self._init.kill()
            self._init.communicate()
        for daemon in self._running.values():
            daemon.send_signal(signal.SIGCONT)
            daemon.wait()
        _remove(self.state)

    def _start_namespaces(self) -> None:
        # The lock lives as long as the first process does, see clean(); nobody sees it unlocked.
        fresh = self.state / "lock.new"
        lock = os.open(fresh, os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        fresh.rename(self.state / "lock")
        with (self.state / "engine.log").open("ab") as log:
            # --kill-child: with the death of unshare; `cat`: with the end of its input, that is us.
            self._init = subprocess.Popen(
                [
                    *self._prefix(),
                    *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"),
                    *("--propagation", "private", "sh", "-c", INIT, "lab-engine"),
                    *(str(self.state), str(self._rootfs or ""), "2" if self._cgroup_v2 else ""),
                    "sleep infinity" if self._keep else "cat",
                ],
                stdin=subprocess.DEVNULL if self._keep else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is ours to handle, not its
                env=os.environ | {"PATH": install.PATH},
            )
        os.close(lock)
        assert self._init.stdout is not None
        first, second = self._init.stdout.readline(), self._init.stdout.readline()
        if second.strip() != "ready":
            raise LabError(
                seen=f"cannot make the engine's namespaces:\n{self._tail()}",
                hint="the lab needs root with all capabilities, and overlay for other engines",
            )
        self.pid = int(first)
        (self.state / "pid").write_text(first, encoding="utf-8")
        if self._keep:
            (self.state / "kept").touch()

    def _prefix(self) -> tuple[str, ...]:
        """The words to put before the command that makes the namespaces."""
        return ()

    def _daemon_version(self) -> str:
        text = self.enter(self.program, "--version")
        found = re.search(r"version ([0-9][0-9.]*)", text)
        if found is None:
            raise LabError(seen=f"`{self.program} --version` said: {text}", hint="no version in it")
        return found[1]

    def _write_configuration(self) -> None:
        config: dict[str, object] = {
            "hosts": [
                "fd://" if self._socket_activation else "unix:///run/docker.sock",
                f"unix://{self.socket}",
            ],
            "data-root": str(self.state / self._data_root),
            "exec-root": self._exec_root,
            "containerd": "/run/containerd/containerd.sock",
            "live-restore": self._live_restore,
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            # One parent for all, so that what is left of them can be found and removed.
            "cgroup-parent": f"/{self.state.name}",
            **self._config,
        }
        if self.major < 24:  # up to 23 it keeps a key beside its configuration
            config["deprecated-key-path"] = str(self.state / "key.json")
        (self.state / "daemon.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        (self.state / "containerd.toml").write_text(
            "version = 2\n"
            f'root = "{self.state}/containerd"\n'
            'state = "/run/containerd"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
            '[debug]\nlevel = "warn"\n',
            encoding="utf-8",
        )

    def _command(self, name: str) -> tuple[str, ...]:
        """What starts that one of `daemons`."""
        option, file = {
            "dockerd": ("--config-file", "daemon.json"),
            "containerd": ("--config", "containerd.toml"),
        }[name]
        return name, option, str(self.state / file)

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.entry(), "sh", "-c", DAEMON, "sh", self.state.name, *self._command(name)],
                stdin=self._listener.fileno() if self._listener else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"PATH": install.PATH, "LISTEN_FDS": "1"},
            )

    def _listen(self) -> None:
        path = self.state / "activated.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.enter("ln", "-s", str(path), "/run/docker.sock")

    def _signal(self, number: signal.Signals) -> None:
        self.enter("sh", "-c", f'kill -{number.value} "$(cat /run/docker.pid)"')

    def _await_end(self) -> None:
        try:
            self._running[self.program].wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise LabError(
                seen=f"{self.program} did not end within {STOP_SECONDS} s; the end of {self.log}:\n"
                f"{self._tail()}",
                hint="a container that ignores SIGTERM delays it; or it is paused: resume() first",
            ) from error
        # Its end is not cleanly seen by the next one after a kill.
        self.enter("rm", "-f", "/run/docker.pid")

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def clean(*, kept: bool = False) -> list[str]:
    """Remove what engines of killed processes left, and, if asked, the engines that were kept.

    An engine's first process holds a lock on its state folder: where nobody holds it, it is dead.
    """
    removed = []
    for state in sorted(HOME.glob(f"{PREFIX}*")):
        with suppress(FileNotFoundError):  # another clean() was quicker
            if (
                not (state / "lock").exists()
                and time.time() - state.stat().st_mtime < START_SECONDS
            ):
                continue  # it is just being made
            if _alive(state):
                if not (kept and (state / "kept").exists()):
                    continue
                os.kill(int((state / "pid").read_text(encoding="utf-8")), signal.SIGKILL)
            _remove(state)
            removed.append(str(state))
    return removed


def _alive(state: Path) -> bool:
    try:
        with (state / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _remove(state: Path) -> None:
    """Remove a dying engine's folder and the cgroups of its containers, once it is dead."""
    poll(lambda: not _alive(state), STOP_SECONDS)
    script = (
        'mkdir -p "$1/cgroup" && mount -t cgroup2 cgroup2 "$1/cgroup"; '
        'for top in "$1/cgroup" /sys/fs/cgroup /sys/fs/cgroup/*; do '
        '[ -d "$top/$2" ] && find "$top/$2" -depth -type d -exec rmdir {} +; done; :'
    )
    unshare = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    run(*unshare, str(state), state.name)
    shutil.rmtree(state, ignore_errors=True)
    if state.exists():
        shutil.rmtree(state)


def _children(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def run(
    *argv: str,
    env: dict[str, str] | None = None,
    seconds: float = COMMAND_SECONDS,
    both: bool = False,
) -> str:
    """Run a command, return what it printed; raise with all it said when it fails.

    Args:
        argv: the command.
        env: its environment; ours without one.
        seconds: how long it may take.
        both: return what it wrote to stderr too, in order.
    """
    try:
        done = subprocess.run(
            argv,
            env=env or os.environ | {"PATH": install.PATH},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us to handle
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(
            seen=f"`{' '.join(argv)}` did not end within {seconds:g} s",
            hint="see what it waits for",
        ) from error
    if done.returncode != 0:
        said = f"{done.stdout}{done.stderr or ''}".rstrip()
        raise LabError(
            seen=f"`{' '.join(argv)}` ended with {done.returncode}:\n{said}",
            hint="the command's own words above say why",
        )
    return done.stdout.strip()


def poll(condition: Callable[[], object], seconds: float, every: float = 0.02) -> bool:
    """Wait until a condition holds; false when it did not in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ping(path: str) -> str | None:
    """Ask an engine on this socket for a sign of life: its API version, or nothing."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/_ping")
        answer = connection.getresponse()
        return answer.headers.get("Api-Version") if answer.status == http.client.OK else None
    except OSError:
        return None
    finally:
        connection.close()
