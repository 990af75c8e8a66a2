"""Private engines of a user who is not root: Docker in RootlessKit, and Podman's service."""

from pathlib import Path

from tests.lab.engine import Engine
from tests.lab.rootfs import PACKAGES, podman, rootfs

USER = 1500
RUNTIME = f"/run/user/{USER}"
NEEDED = (*PACKAGES, "passt", "rootlesskit", "slirp4netns", "uidmap", *podman("crun"))

# What a login would see to: a user with subordinate ids, its run-time folder, a home outside of the
# overlay, and devices that all may use. The argument: the state folder.
PREPARE = f"""
useradd --uid {USER} --home-dir "$1/home" --create-home rootless
chown {USER}:{USER} "$1"
chmod 755 "$1"
echo rootless:300000:65536 | tee /etc/subuid >/etc/subgid
install -d -o {USER} -g {USER} -m 700 {RUNTIME} {RUNTIME}/podman
mknod -m 666 /run/tun c 10 200
mount --bind /run/tun /dev/net/tun
mount --make-rshared /run
"""
CONTAINERS = """\
[containers]
cgroups = "disabled"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
network_backend = "netavark"
"""


class Rootless(Engine):
    """Docker of a user, as `dockerd-rootless.sh` starts it, without cgroups."""

    daemons = ("dockerd",)
    own_socket = f"{RUNTIME}/docker.sock"
    """Where it listens unless it is told otherwise."""

    def __init__(self, root: Path | None = None) -> None:
        super().__init__(
            rootfs=root or rootfs("trixie", NEEDED),
            exec_root=f"{RUNTIME}/docker",
            cgroup_v2=True,
            socket_activation=False,
        )

    def share_mounts(self) -> None:
        """Have containers see what is mounted later in the engine's namespace."""
        child = self.enter("cat", f"{RUNTIME}/dockerd-rootless/child_pid")
        enter = ("nsenter", "--preserve-credentials", "-U", "-m", "-t", child)
        self.enter(*self._as_user(), *enter, "mount", "--make-rshared", "/")

    def _as_user(self) -> tuple[str, ...]:
        ids = ("--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--inh-caps=-all")
        path = "/usr/share/docker.io/contrib:/usr/sbin:/usr/bin:/sbin:/bin"
        values = (f"XDG_RUNTIME_DIR={RUNTIME}", f"HOME={self.state}/home", f"PATH={path}")
        without = ("--unset=LISTEN_FDS", "--unset=LISTEN_PID")
        return ("setpriv", *ids, "env", *without, f"--chdir={self.state}/home", *values)

    def _write_configuration(self) -> None:
        self.enter("sh", "-ec", PREPARE, "sh", str(self.state))

    def _command(self, name: str) -> tuple[str, ...]:
        del name
        sockets = (f"--host=unix://{path}" for path in (self.own_socket, self.socket))
        driver = ("--exec-opt", "native.cgroupdriver=cgroupfs")
        return (*self._as_user(), "dockerd-rootless.sh", *driver, *sockets)


class RootlessPodman(Rootless):
    """Podman of a user."""

    program = "podman"
    daemons = ("podman",)
    own_socket = f"{RUNTIME}/podman/podman.sock"

    def __init__(self) -> None:
        super().__init__()
        self.netns = f"{RUNTIME}/netns"

    def _write_configuration(self) -> None:
        super()._write_configuration()
        (self.state / "containers.conf").write_text(CONTAINERS, encoding="utf-8")

    def _command(self, name: str) -> tuple[str, ...]:
        config = f"CONTAINERS_CONF={self.state}/containers.conf"
        # The `docker` command comes by the state folder, a sidecar by the usual place.
        link = 'ln -s "$0" "$1"; exec podman system service --time 0 "unix://$0"'
        del name
        return (*self._as_user(), config, "sh", "-c", link, self.socket, self.own_socket)
