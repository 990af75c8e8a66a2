"""The lines that fix things: for a Compose file, for a shell, or for `docker run`.

Pure. Log, doctor, commands and README take them from here, so that they all say the same. When one
applies is for others to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lib.model import DIRECT_LABEL, GATEWAY_LABEL, IPV6, NAMED_PREFIX, NETWORKS_LABEL

if TYPE_CHECKING:
    from lib.model import Container, DockerNetwork

NETNS_DIRECTORY = Path("/var/run/docker/netns")
"""Where an engine keeps the files of namespaces unless it has another `--exec-root`."""

SOCKET = "/var/run/docker.sock"
"""Where an engine listens unless it is told otherwise."""

# --- the sidecar --------------------------------------------------------------------------------

CAP_ADD = "cap_add: [NET_ADMIN, SYS_ADMIN]"
CAP_ADD_PTRACE = "cap_add: [NET_ADMIN, SYS_ADMIN, SYS_PTRACE]"
"""What it takes to look at the namespaces of others' processes: `proc_pid_ns(5)`."""
ENTER_THROUGH_PROCESSES = f"{CAP_ADD_PTRACE}, which it takes to enter through processes"

USER = 'user: "0"'
USERNS = "userns_mode: host   # the engine remaps users, which keeps containers from each other"
SECURITY_OPT = "security_opt: [label=disable]   # SELinux or AppArmor stands in the way"
SOCKET_DENIED = f"{USER}, or group_add with the socket's group; else {SECURITY_OPT}"
IMAGE = "use an image with ip and nsenter"
NO_NETWORK = "network_mode: none   # and no depends_on: it then starts in any order"
STRANDED = "the gateway was made anew: this container runs on, but will not start again as it is"
RESTART_POLICY = "give the sidecar `restart: unless-stopped`: its next start mounts the new socket"
ENGINE = f"mount the engine's socket (-v {SOCKET}:{SOCKET}:ro), or set DOCKER_HOST"
ENGINE_UPDATE = "update it to Docker 20.10 or newer"
SOCKET_VOLUME = f"volumes: ['{SOCKET}:{SOCKET}:ro']"
SHM = "leave the container a /dev/shm (no --ipc none), or its health is unknown"
NETWORK_OPTION = "name the network with --network if it is another one"
PROXY = "let the proxy pass GET /networks"


ROOTLESS_MOUNTS = (
    "nsenter --preserve-credentials -U -m -t $(cat $XDG_RUNTIME_DIR/dockerd-rootless/child_pid)"
    " mount --make-rshared /   # as the user of the rootless engine, after each of its starts"
)
"""What is mounted in the namespace of such an engine is seen in no container else, whatever a mount
is told (moby, contrib/dockerd-rootless.sh: `--propagation=rslave`)."""


def rootless_socket(user: int) -> str:
    """Return the line that mounts the socket of a user's engine."""
    runtime = f"/run/user/{user}"
    line = f"volumes: ['{runtime}/docker.sock:{SOCKET}:ro']"
    return f"{line}   # of Podman: {runtime}/podman/podman.sock"


def mount(directory: Path) -> str:
    """Return how to mount the directory of namespaces."""
    return f"mount it into the sidecar with slave propagation: -v {directory}:{directory}:ro,rslave"


def mount_lines(directory: Path) -> tuple[str, ...]:
    """Return the lines that mount it, for a Compose file and for `docker run`."""
    volume = f"{directory}:{directory}:ro,rslave"
    return (f"volumes: ['{volume}']", f"or with docker run: -v {volume}")


def follow_gateway(service: str) -> str:
    """Return the line by which the sidecar joins a gateway's new namespace."""
    line = f"depends_on: {{{service}: {{condition: service_started, restart: true}}}}"
    return f"{line}   # so that it joins again by itself"


def name_gateway(gateway: str) -> str:
    """Return the line by which the sidecar knows its gateway."""
    return f"labels: {{{GATEWAY_LABEL}: {gateway}}}"


# --- a swarm's service as the gateway ------------------------------------------------------------

SERVICE_OF_ITS_OWN = "run the agent as a service in a network of its own, as docs/swarm.md has it"
DNS_NOWHERE = "dns: [127.0.0.1]   # in the agent's service: it asks for nothing but its gateway"
NAME_SERVER = "we are named once we are healthy; else see the engine's log, journalctl -u docker"


def attach_agent(network: str) -> str:
    """Return the line that attaches an agent to the network that it serves."""
    return f"networks: [{network}]   # in the service of the agent"


def tasks_of(service: str) -> str:
    """Return what to look at where a service has no task."""
    return f"docker service ps {service}   # on a manager; the name in full is STACK_SERVICE"


def full_name(service: str) -> str:
    """Return what to look at where a name is not that of a task of a service."""
    return (
        f"docker service ls   # is {service} the full name? else who has the alias tasks.{service}"
    )


def node_ports(node: str) -> str:
    """Return what nodes of a swarm have to reach of each other."""
    return f"let the nodes reach each other: 7946/tcp, 7946/udp, 4789/udp of {node}"


def one_task(service: str) -> str:
    """Return what leaves a service one task: two with one key of WireGuard break each other."""
    return f"docker service scale {service}=1   # on a manager"


# --- containers ---------------------------------------------------------------------------------


def start(container: str) -> str:
    """Return the command that starts a container."""
    return f"docker start {container}"


def restart(*containers: str) -> str:
    """Return the command that restarts it, or several one after the other, whatever they run."""
    return " && ".join(f"docker restart {container}" for container in containers)


def start_shared(owner: str, guest: str) -> str:
    """Return what starts the owner of a namespace, and brings who was in it into the new one."""
    return f"{start(owner)} && {restart(guest)}"


def recreate(container: Container) -> str:
    """Return what makes a container anew, where it cannot be started again as it is."""
    service = container.labels.get("com.docker.compose.service")
    if service:
        return f"docker compose up -d --force-recreate {service}"
    return f"docker rm -f {container.name}, and run it again with a network that is there"


def sysctls(setting: str, container: str) -> str:
    """Return the line that makes a setting (`name: value`) in a container's namespace."""
    return f"sysctls: {{{setting}}}   # in the service of {container}"


def fixed_address(address: object, container: str) -> str:
    """Return the line that gives a container an address which no other one gets."""
    return f"ipv4_address: {address}   # of {container}, outside of ip_range"


def allowed_ips(dst: object, gateway: str) -> str:
    """Return how to send a destination into the tunnel."""
    line = f"add {dst} to AllowedIPs of the peer in the tunnel's configuration"
    return f"{line}, then: {restart(gateway)}"


def tunnel_device(gateway: str) -> str:
    """Return what to do about a VPN that routes nothing by itself."""
    needs = "cap_add: [NET_ADMIN], devices: [/dev/net/tun]"
    return f"give {gateway} a tunnel device ({needs}): a VPN in userspace mode has none"


def tunnel_back(gateway: str) -> str:
    """Return what brings a tunnel back that does not come by itself."""
    return f"{restart(gateway)}   # if its tunnel does not come back by itself"


def no_tunnel(gateway: str) -> str:
    """Return the line for a gateway that leads out by no tunnel, such as a proxy."""
    line = "environment: {WGROUTEMGR_ON_TUNNEL_LOSS: warn}"
    return f"{line}   # in the sidecar's service, if {gateway} is to have no tunnel"


def tunnel_routes(gateway: str) -> str:
    """Return the line that shows whether a gateway has a tunnel, and what it covers."""
    return f"docker exec {gateway} ip route show table all   # what goes into its tunnel"


GUARD = (
    "environment: {WGROUTEMGR_GATEWAY_GUARD: 'on'}"
    "   # in the sidecar's service: nothing leaves past the tunnel while that is away"
)


def forward_reject(front: str) -> str:
    """Return the line of a tunnel's configuration that lets nothing out past it."""
    rule = f"-I FORWARD -i {front} ! -o %i -j REJECT"
    return f"PostUp = iptables {rule}; ip6tables {rule}   # the same in the tunnel's file"


def policy_rule(gateway: str, dst: object, table: str, preference: int) -> str:
    """Return the rule that sends a network by the table that knows it, before all other rules."""
    words = f"{_ip(dst)} rule add pref {preference} to {dst} lookup {table}"
    return f"docker exec {gateway} {words}   # in its start script, to last"


def see_rules(gateway: str, version: int) -> str:
    """Return how to see the policy rules of one IP version."""
    program = "ip -6" if version == IPV6 else "ip"
    return f"docker exec {gateway} {program} rule show   # a policy rule sends it elsewhere"


def _ip(dst: object) -> str:
    return "ip -6" if ":" in str(dst) else "ip"


def handshake(gateway: str) -> str:
    """Return what to look at where nothing comes out of a tunnel."""
    what = "the peer's Endpoint, its port, both keys, and what it allows"
    return f"docker exec {gateway} wg show   # see to {what}"


def peers(gateway: str) -> str:
    """Return what to look at where a tunnel drops packets."""
    what = "both must be in AllowedIPs, and the peer needs an Endpoint"
    return f"docker exec {gateway} wg show   # {what}"


def masquerade(device: str, version: int, when: str) -> str:
    """Return the line that puts the tunnel's address in the place of the clients'."""
    line = f"PostUp = {_iptables(version)} -t nat -A POSTROUTING -o {device} -j MASQUERADE"
    return f"{line}   # {when}"


FAR_SIDE_KNOWS = "only if the far side takes no address but the tunnel's"
FAR_SIDE_IS_ANYBODY = "in the tunnel's configuration"


def accept(gateway: str, front: str, device: str, version: int) -> str:
    """Return what lets the clients' packets into the tunnel, and only answers back."""
    tool = _iptables(version)
    there = f"{tool} -A FORWARD -i {front} -o {device} -j ACCEPT"
    answers = "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    back = f"{tool} -A FORWARD -i {device} -o {front} {answers}"
    return f"docker exec {gateway} sh -c '{there} && {back}'   # {_TO_LAST}"


def accept_all(gateway: str, version: int) -> str:
    """Return what lets everything pass that a gateway forwards."""
    return f"docker exec {gateway} {_iptables(version)} -P FORWARD ACCEPT"


def drop(gateway: str, version: int) -> str:
    """Return what stops all else that a gateway would forward."""
    return f"docker exec {gateway} {_iptables(version)} -P FORWARD DROP   # {_TO_LAST}"


_TO_LAST = "to last: PostUp of its tunnel, or gluetun's post-rules.txt"


def _iptables(version: int) -> str:
    return "ip6tables" if version == IPV6 else "iptables"


# --- networks -----------------------------------------------------------------------------------

_ALONE = {"none", "host", "slirp4netns", "pasta"}
"""Modes of a network beside which there is no other."""


def let_bridge(network: DockerNetwork) -> str:
    """Return the rule by which what stays on a network's bridge passes the host's firewall."""
    bridge = network.options.get("com.docker.network.bridge.name") or f"br-{network.id[:12]}"
    return f"iptables -I DOCKER-USER -i {bridge} -o {bridge} -j ACCEPT   # on the host, instead"


BRIDGE_FILTER = "sysctl -w net.bridge.bridge-nf-call-iptables=0   # on the host"
WITHDRAW = "docker compose run --rm wgroutemgr withdraw   # takes back what is left"
ONE_GATEWAY = f"let clients name the gateway that they mean: {NAMED_PREFIX}NAME"
LINK = "check that the container's link to the gateway's network is up"


def attach(network: str, container: Container) -> str:
    """Return what attaches a container, which owns its network namespace, to a network.

    The engine connects nobody to a second network who has the host's or none (moby, `updateNetwork`
    and `ErrConflictHostNetwork` in daemon/container_operations.go), Podman nobody whose network
    needs no root. It connects nobody twice.
    """
    point = container.endpoint(network)
    if point and container.running:
        return restart(container.name)
    if container.network_mode.partition(":")[0] in _ALONE:
        line = f"networks: [{network}]   # in the service of {container.name}"
        return f"{line}, instead of network_mode: {container.network_mode}"
    if point:
        return start(container.name)
    return f"docker network connect {network} {container.name}"


def create_network(network: str) -> str:
    """Return the command that makes a network."""
    return f"docker network create {network}"


def driver(network: str) -> str:
    """Return what to do about a network on which no container can be a gateway."""
    return f"make {network} anew with the driver bridge or macvlan"


def name_network(network: str) -> str:
    """Return the line that keeps Compose from putting the project's name before it."""
    return f"networks: {{{network}: {{name: {network}}}}}"


MTU_AUTO = "environment: {WGROUTEMGR_MTU: auto}   # the clients' routes say then what is too large"


def mtu(size: int, network: str) -> str:
    """Return the line that limits the packets of a network (bytes)."""
    line = f'driver_opts: {{com.docker.network.driver.mtu: "{size}"}}'
    return f"{line}   # for {network}, which must be made anew"


# --- labels -------------------------------------------------------------------------------------

LABEL = f"labels: {{{NETWORKS_LABEL}: 192.168.66.0/24}}   # what it wants to reach"
DOCTOR = "docker exec wgroutemgr wgroutemgr doctor   # says what is lacking"
JOIN_ROUTES = "join neighbouring networks of the tunnel (AllowedIPs) into wider ones"
OVERLAP = "give the container's own network another subnet, or name what it wants instead of auto"
NAME_IT = f"write it into the label {NAMED_PREFIX}NAME of the gateway that is meant"
NOT_UNDER_DEPLOY = "beside `image:`, not under `deploy:`, whose labels are the service's alone"
NOT_THE_GATEWAY = "remove the label from the container: the gateway has these routes itself"
NETWORK_OF_ITS_OWN = "attach the container to a network of its own"
CONNECT_AGAIN = "disconnect the container from that network, and connect it again"
CONNECTED = "remove it from the label: the container reaches that network directly"


DNS = "give it one that is reached otherwise (dns:), unless names are to go through the gateway"
PORTS = (
    "publish on a reverse proxy without the label, or name the network that is published on, or"
    f" those of the callers, in the label {DIRECT_LABEL}"
)
ONE_OF_TWO_LABELS = f"name it in {NETWORKS_LABEL} or in {DIRECT_LABEL}, not in both"
NOT_THE_ENGINES = "leave the default route as the engine sets it, or remove the entry"
NOT_INTERNAL = "attach the container to a network that is not internal, or remove the entry"


DIRECT_CALLERS = f"labels: {{{DIRECT_LABEL}: 198.51.100.0/24}}   # the network of those who call"


def direct_network(network: str) -> str:
    """Return the label by which calls are answered by the network on which a port is published."""
    line = f"labels: {{{DIRECT_LABEL}: {network}}}"
    return f"{line}   # if its default route is there (gw_priority: 1)"


def publish_elsewhere(network: str) -> str:
    """Return how a port is published without a route in the way."""
    return f"publish on a reverse proxy without the label, which reaches it over {network}"


def dns_server(container: str) -> str:
    """Return the line by which names are asked for behind the tunnel."""
    return f"dns: [10.64.0.1]   # in the service of {container}: a server behind the tunnel"


def both_versions(other: int) -> str:
    """Return the label by which the other IP version does not go past the gateway either."""
    line = f"labels: {{{NETWORKS_LABEL}: '0.0.0.0/0, ::/0'}}"
    return f"{line}   # IPv{other} goes by the gateway too then, or nowhere"


def runtime(container: str) -> str:
    """Return the line that runs a container so that it sees its namespace."""
    return f"runtime: runc   # in the service of {container}"


def narrower(dst: object) -> str:
    """Return how to leave room for other networks."""
    return f"name narrower networks than {dst} in the label {NETWORKS_LABEL}"


# --- what commands and the kernel say -----------------------------------------------------------

_BY_OUTPUT = {
    "not permitted": f"give the sidecar both capabilities: {CAP_ADD}",
    "not found": IMAGE,
    "can't execute": IMAGE,
    "unreachable": LINK,
    "No route to host": LINK,
    "invalid gateway": LINK,
}
"""By a part of the output. What the kernel says is in the C library's words: ENETUNREACH is
"Network unreachable" (musl) or "Network is unreachable" (glibc), EHOSTUNREACH "Host is unreachable"
or "No route to host". The others are the same in both."""


def on_output(output: str) -> str:
    """Return what to do about a command that failed with that output; nothing if not known."""
    return next((advice for part, advice in _BY_OUTPUT.items() if part in output), "")
