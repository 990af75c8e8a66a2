"""A swarm of two nodes in one machine: two private engines on a switch.

Each engine has its own mounts, network and processes; the switch is a bridge in a third network
namespace, so that a node that dies does not take the other's link along. A node dies by the death
of its first process, and is cut off by taking its port out of the bridge. There is no way out of
the nodes: what is asked of a registry or a name server outside fails at once.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import images
from tests.lab.engine import START_SECONDS, Engine, poll
from tests.lab.errors import LabError
from tests.lab.site import PRIVILEGES, Container
from tests.lab.tun import namespace_of

NETWORK, SUBNET = "wg-net", "192.168.67.0/24"
GATEWAY, AGENT = "wg_wireguard", "wg_wgroutemgr"
SOCKET = "/var/run/docker.sock"


@dataclass
class Node:
    """One machine of the swarm."""

    engine: Engine
    address: str
    port: str
    """Name of its port on the switch."""
    id: str = ""
    """As the swarm calls it."""

    def container(self, service: str) -> Container | None:
        """Return the container of a service that runs here, if one does."""
        mark = f"label=com.docker.swarm.service.name={service}"
        found = self.engine.docker("ps", "--quiet", "--filter", mark, "--filter", "status=running")
        names = found.split()
        return Container(self.engine, names[0]) if names else None

    def await_container(self, service: str, seconds: float = 60) -> Container:
        """Wait until a service has a container here, and return it."""
        seen: list[Container] = []

        def is_there() -> bool:
            seen.extend(filter(None, [self.container(service)]))
            return bool(seen)

        if not poll(is_there, seconds, every=0.2):
            raise LabError(
                seen=f"{service} has no container on {self.address} after {seconds:g} s",
                hint=f"see `docker service ps {service}` on the manager",
            )
        return seen[0]

    def client(self, name: str, networks: str, *options: str) -> Container:
        """Run a plain container here that asks for routes to these networks."""
        label = f"wgroutemgr.networks={networks}"
        words = ("run", "--detach", "--pull", "never", "--network", NETWORK, "--label", label)
        self.engine.docker(*words, *options, "--name", name, images.CLIENT)
        return Container(self.engine, name)


@dataclass
class Swarm:
    """A manager and a worker with the lab's images.

    Attributes:
        make: what makes the engine of a node.
        nodes: the manager, and the worker.
    """

    make: Callable[[], Engine] = Engine
    nodes: list[Node] = field(default_factory=list)
    _switch: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def manager(self) -> Node:
        """The node that is asked to change something."""
        return self.nodes[0]

    @property
    def worker(self) -> Node:
        """The other one."""
        return self.nodes[1]

    def __enter__(self) -> Self:
        """Start all of it; whatever goes wrong, nothing of it stays."""
        try:
            self._start_switch()
            self._add_node()
            words = ("--advertise-addr", self.manager.address)
            self.manager.engine.docker("swarm", "init", *words)
            self.manager.id = _id(self.manager.engine)
            self.add_worker()
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
        """End both engines and the switch."""
        self.close()

    def close(self) -> None:
        """End whatever was started."""
        with ExitStack() as all_of_it:
            if self._switch:
                all_of_it.callback(self._switch.communicate)
                all_of_it.callback(self._switch.kill)
            for node in self.nodes:
                all_of_it.callback(node.engine.close)

    def network(self) -> None:
        """Create the network that is served."""
        words = ("--driver", "overlay", "--attachable", "--subnet", SUBNET)
        self.manager.engine.docker("network", "create", *words, NETWORK)

    def add_worker(self) -> None:
        """Start another node."""
        node, manager = self._add_node(), self.manager
        token = manager.engine.docker("swarm", "join-token", "--quiet", "worker")
        words = ("--token", token, "--advertise-addr", node.address)
        node.engine.docker("swarm", "join", *words, f"{manager.address}:2377")
        node.id = _id(node.engine)

    def replace(self, node: Node) -> None:
        """Have a new node where one has died."""
        self.nodes.remove(node)
        node.engine.close()
        self.manager.engine.docker("node", "rm", "--force", node.id)
        self.add_worker()

    def kill(self, node: Node) -> None:
        """Have a machine die; it does not come back."""
        os.kill(node.engine.pid, signal.SIGKILL)

    def cut_off(self, node: Node) -> None:
        """Take a node's port out of the switch."""
        self._on_switch("ip", "link", "set", node.port, "nomaster")

    def reconnect(self, node: Node) -> None:
        """Put it back."""
        self._on_switch("ip", "link", "set", node.port, "master", "switch")

    def plug_in(self, container: Container, address: str) -> None:
        """Connect a container that has no network to the switch, as a machine with that address."""
        self._connect("plugged", namespace_of(container))
        container.enter("ip", "address", "add", f"{address}/24", "dev", "uplink")
        container.enter("ip", "link", "set", "uplink", "up")

    def service(self, name: str, *options: str, image: str, command: Sequence[str] = ()) -> None:
        """Create a service."""
        words = ("--detach", "--no-resolve-image", "--network", NETWORK, "--restart-delay", "1s")
        self.manager.engine.docker(
            "service", "create", "--name", name, *words, *options, image, *command
        )

    def gateway(self, node: Node, *options: str) -> None:
        """Create the gateway's service, without a tunnel, with its task on that node."""
        where = ("--constraint", _only(node), "--endpoint-mode", "dnsrr")
        needs = ("--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.ip_forward=1")
        self.service(GATEWAY, *where, *needs, *options, image=images.WIREGUARD, command=images.WAIT)

    def move(self, old: Node | None, new: Node | None) -> None:
        """Let the gateway's task run on another node only than it had to, or on any."""
        words = [word for node in [old] if node for word in ("--constraint-rm", _only(node))]
        words += [word for node in [new] if node for word in ("--constraint-add", _only(node))]
        self.update(*words)

    def update(self, *options: str) -> None:
        """Update the gateway's service."""
        self.manager.engine.docker(
            "service", "update", "--detach", "--no-resolve-image", *options, GATEWAY
        )

    def agents(self, *options: str) -> None:
        """Create the agent's service, with a task on each node."""
        words = ("--mode", "global", *agent_words(GATEWAY), *options)
        self.service(AGENT, *words, image=images.PRODUCT)

    def _start_switch(self) -> None:
        self._switch = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        if not poll(self._is_apart, START_SECONDS):
            raise LabError(seen="the switch's namespace is not there", hint="it needs root")
        self._on_switch("ip", "link", "add", "switch", "type", "bridge")
        self._on_switch("ip", "link", "set", "switch", "up")

    def _is_apart(self) -> bool:
        assert self._switch
        return _namespace(self._switch.pid) != _namespace("self")

    def _on_switch(self, *command: str) -> None:
        assert self._switch
        words = ("nsenter", f"--net=/proc/{self._switch.pid}/ns/net", *command)
        subprocess.run(words, check=True)

    def _connect(self, port: str, netns: str) -> None:
        """Lead a port of the switch into a namespace, as its link `uplink`."""
        ends = ("type", "veth", "peer", "name", "uplink", "netns", netns)
        self._on_switch("ip", "link", "add", port, *ends)
        self._on_switch("ip", "link", "set", port, "master", "switch", "up")

    def _add_node(self) -> Node:
        number = next(self._numbers)
        engine = self.make()
        engine.__enter__()
        node = Node(engine, f"10.77.0.{number}", f"port{number}")
        self.nodes.append(node)
        self._connect(node.port, str(engine.pid))
        engine.enter("ip", "address", "add", f"{node.address}/24", "dev", "uplink")
        engine.enter("ip", "link", "set", "uplink", "up")
        for make in (images.client, images.wireguard, images.product):
            make(engine)
        return node


def agent_words(service: str) -> tuple[str, ...]:
    """Return what an agent is given as a service: as the example has it."""
    kept = PRIVILEGES[: PRIVILEGES.index("--security-opt")]  # a service has none
    netns = Engine.netns
    return (
        *kept,
        *("--dns", "127.0.0.1", "--env", f"WGROUTEMGR_GATEWAY_SERVICE={service}"),
        *("--container-label", f"wgroutemgr.network={NETWORK}"),
        *("--mount", f"type=bind,source={SOCKET},target={SOCKET},readonly"),
        *("--mount", f"type=bind,source={netns},target={netns},readonly,bind-propagation=rslave"),
    )


def _id(engine: Engine) -> str:
    return engine.docker("info", "--format", "{{.Swarm.NodeID}}")


def _only(node: Node) -> str:
    return f"node.id=={node.id}"


def _namespace(process: int | str) -> str:
    return str(Path(f"/proc/{process}/ns/net").readlink())
