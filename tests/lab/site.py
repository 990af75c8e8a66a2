"""A site as the README draws it: a network, its WireGuard gateway, a sidecar, clients.

Everything is made with the `docker` command line, the sidecar with exactly the privileges that
the product documents. What is made carries a label with the site's token and is removed by it.
It must not add a route to a client: that is what the product is for.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.lab import images
from tests.lab.engine import LABEL, Docker, poll
from tests.lab.errors import LabError

STOP_SECONDS = 1
# From 28 on an engine drops, before anything else, what is addressed to a container and comes from
# another network. With two sites on one engine a packet between the clients is just that, wherever
# bridged packets pass the firewall. This mode leaves that rule out. Private engines do not need it.
UNPROTECTED = 28
ADDRESS = "{{with index .NetworkSettings.Networks %r}}{{.%s}}{{end}}"


@dataclass(frozen=True)
class Container:
    """A container of the lab."""

    engine: Docker
    name: str

    def inspect(self, template: str) -> str:
        """One thing that the engine knows about it, as a Go template."""
        return self.engine.docker("inspect", "--type", "container", "--format", template, self.name)

    def logs(self) -> str:
        """What it wrote so far."""
        return self.engine.docker("logs", self.name, both=True)

    def exec(self, *argv: str) -> str:
        """Run a command of its image in it."""
        return self.engine.docker("exec", self.name, *argv)

    def enter(self, *argv: str) -> str:
        """Run a command of the engine's machine in its network namespace."""
        key = self.inspect("{{.NetworkSettings.SandboxKey}}")
        return self.engine.enter("nsenter", f"--net={key}", *argv)

    def address(self, network: str, *, ipv6: bool = False) -> str:
        """Its address on a network; empty without one."""
        what = "GlobalIPv6Address" if ipv6 else "IPAddress"
        return self.inspect((ADDRESS % (network, what)).replace("'", '"'))

    def running(self) -> bool:
        """Whether it runs right now."""
        return self.inspect("{{.State.Running}}") == "true"

    def exit_code(self) -> int:
        """The code with which it last ended."""
        return int(self.inspect("{{.State.ExitCode}}"))

    def start(self) -> None:
        """Start it."""
        self.engine.docker("start", self.name)

    def stop(self, seconds: int = STOP_SECONDS) -> None:
        """Stop it; the time is what it gets before it is killed."""
        self.engine.docker("stop", "--time", str(seconds), self.name)

    def restart(self, seconds: int = STOP_SECONDS) -> None:
        """Restart it."""
        self.engine.docker("restart", "--time", str(seconds), self.name)

    def remove(self) -> None:
        """Remove it, running or not."""
        self.engine.docker("rm", "--force", "--volumes", self.name)

    def await_log(self, text: str, seconds: float = 30) -> str:
        """Wait until its log has a text; returns the log."""
        if not poll(lambda: text in self.logs(), seconds, every=0.1):
            raise LabError(
                seen=f"{self.name} did not write {text!r} in {seconds:g} s, but:\n{self.logs()}",
                hint="its log above says how far it came",
            )
        return self.logs()


@dataclass
class Lab:
    """Names and makes what belongs together; leaving the context removes it.

    Attributes:
        engine: where.
        token: random part of every name, and value of the label on everything made.
        keep: leave it standing.
    """

    engine: Docker
    token: str = field(default_factory=lambda: secrets.token_hex(3))
    keep: bool = False

    def __enter__(self) -> Self:
        """Nothing is made yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove what was made, also what a failure left half made."""
        if not (self.keep and error is None):
            self.engine.remove_labelled(self.token)

    def name(self, what: str) -> str:
        """The name of a thing of this lab."""
        return f"{what}-{self.token}"

    def network(self, what: str, *subnets: str, options: Sequence[str] = ()) -> str:
        """Make a bridge network; returns its name."""
        overlay = self.engine.network_options
        if overlay:  # the engine gives such networks no IPv6
            subnets = tuple(subnet for subnet in subnets if ":" not in subnet)
        words = [*overlay, *(word for subnet in subnets for word in ("--subnet", subnet))]
        if any(":" in subnet for subnet in subnets):
            words.append("--ipv6")
        if self.engine.major >= UNPROTECTED and not overlay:
            for family in ("4", "6"):
                mode = f"com.docker.network.bridge.gateway_mode_ipv{family}=nat-unprotected"
                words += ["--opt", mode]
        self.engine.docker(
            "network", "create", *self._mark(), *words, *options, name := self.name(what)
        )
        return name

    def container(
        self, what: str, image: str, *options: str, command: Sequence[str] = ()
    ) -> Container:
        """Run a container in the background."""
        name = self.name(what)
        words = ("run", "--detach", "--pull", "never", "--name", name, *self._mark())
        self.engine.docker(*words, *options, image, *command)
        return Container(self.engine, name)

    def gateway(
        self,
        what: str,
        network: str,
        *options: str,
        config: str = "",
        command: Sequence[str] = images.WAIT,
    ) -> Container:
        """Run a WireGuard container on a network; without configuration it has no tunnel."""
        words = [
            *("--network", network, "--cap-add", "NET_ADMIN"),
            *("--sysctl", "net.ipv4.ip_forward=1"),
            *("--sysctl", "net.ipv6.conf.all.forwarding=1"),
            *("--sysctl", "net.ipv6.conf.all.disable_ipv6=0"),
        ]
        if config:
            words += ["--device", "/dev/net/tun", "--env", f"WG_CONF={config}"]
        image = images.wireguard(self.engine)
        command = () if config else command
        return self.container(what, image, *words, *options, command=command)

    def sidecar(
        self,
        what: str,
        gateway: Container,
        *options: str,
        network: str | None = None,
        command: Sequence[str] = (),
    ) -> Container:
        """Run the product beside a gateway, with the privileges that it documents and no more."""
        shared = ("--network", f"container:{gateway.name}")
        return self._sidecar(what, *shared, *options, network=network, command=command)

    def lone_sidecar(
        self,
        what: str,
        *options: str,
        mode: str = "none",
        gateway: Container | None = None,
        network: str,
        command: Sequence[str] = (),
    ) -> Container:
        """Run the product without a network; a label names the gateway, if one is given."""
        label = ("--label", f"wgroutemgr.gateway={gateway.name}") if gateway else ()
        words = ("--network", mode, *label, *options)
        return self._sidecar(what, *words, network=network, command=command)

    def _sidecar(
        self, what: str, *options: str, network: str | None, command: Sequence[str] = ()
    ) -> Container:
        privileges = (word.replace(Docker.netns, self.engine.netns) for word in PRIVILEGES)
        label = ("--label", f"wgroutemgr.network={network}") if network else ()
        words = (*privileges, *self.engine.shares, *label, *options)
        return self.container(what, images.product(self.engine), *words, command=command)

    def client(
        self,
        what: str,
        network: str,
        *options: str,
        networks: str | None = None,
        command: Sequence[str] = (),
    ) -> Container:
        """Run a container that asks for routes to these networks, or for none."""
        label = ("--label", f"wgroutemgr.networks={networks}") if networks is not None else ()
        image = images.client(self.engine)
        words = ("--network", network, *label, *options)
        return self.container(what, image, *words, command=command)

    def _mark(self) -> tuple[str, str]:
        return ("--label", f"{LABEL}={self.token}")


PRIVILEGES = (
    *("--read-only", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_ADMIN"),
    *("--security-opt", "no-new-privileges:true"),
    *("--volume", "/var/run/docker.sock:/var/run/docker.sock:ro"),
    *("--volume", f"{Docker.netns}:{Docker.netns}:ro,rslave"),
)
