"""A private Podman, as root, whose service answers the `docker` command as an engine does.

What is tried is its Docker-compatible API: nothing here makes a container by Podman's own commands.
"""

from pathlib import Path

from tests.lab.engine import Engine

# No systemd is there to hold cgroups, logs or events.
CONTAINERS = """\
[containers]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "%s"
[network]
network_backend = "netavark"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "%s"
runroot = "/run/containers/storage"
"""

# Podman puts its containers' cgroups at the top of the hierarchy that it sees. So it sees nothing
# above a cgroup of its own, which can be found and removed. The arguments: that cgroup's name, and
# the command that goes on.
OWN_CGROUP = r"""
set -eu
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1"
echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"
umount /sys/fs/cgroup
shift
exec unshare --cgroup "$@"
"""

# A cgroup that hands controllers on to others must hold no process itself, so those of the engine
# go to one beside the containers'. The argument: where it is to listen.
SERVICE = """
set -eu
mkdir -p /sys/fs/cgroup/engine
for process in 1 $$; do echo "$process" >/sys/fs/cgroup/engine/cgroup.procs; done
rm -f "$1"
ln -sf "$1" /run/docker.sock
echo $$ >/run/docker.pid
unset LISTEN_FDS LISTEN_PID
exec podman system service --time 0 "unix://$1"
"""

NO_DETECTION = "echo 0 | tee /proc/sys/net/ipv6/conf/*/accept_dad"


class Podman(Engine):
    """A private Podman, in a cgroup v2 hierarchy.

    Args:
        rootfs: a root file system with `rootfs.podman()`.
        runtime: what runs its containers, `crun` or `runc`.
    """

    program = "podman"
    daemons = ("podman",)
    namespaces = (*Engine.namespaces, "--cgroup")
    shares = ()  # Its hierarchy has no CPU controller, for want of which a start would fail.

    def __init__(self, rootfs: Path, runtime: str) -> None:
        super().__init__(rootfs=rootfs, exec_root="/run", cgroup_v2=True, socket_activation=False)
        self._runtime = runtime

    def _prefix(self) -> tuple[str, ...]:
        private = ("unshare", "--mount", "--propagation", "private")
        return (*private, "sh", "-c", OWN_CGROUP, "lab-cgroup", self.state.name)

    def _write_configuration(self) -> None:
        files = {
            "containers.conf": CONTAINERS % self._runtime,
            "storage.conf": STORAGE % (self.state / "podman"),
        }
        for name, text in files.items():
            (self.state / name).write_text(text, encoding="utf-8")
            # Where each `podman` finds them, also those that it starts itself.
            self.enter("cp", str(self.state / name), "/etc/containers/")
        # Its name server binds to a bridge's address at once, which must not be tentative then.
        self.enter("sh", "-c", NO_DETECTION)

    def _command(self, name: str) -> tuple[str, ...]:
        return "sh", "-c", SERVICE, name, self.socket
