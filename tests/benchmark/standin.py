"""A stand-in for the engine: what the sidecar asks for, over a real socket, for many clients.

One process, started by `growth.py`: `standin.py SOCKET NAMESPACES CLIENTS`. Lines on standard input
tell it what to do, each is answered by one line on standard output:

    events N    tell of the end and the start of N / 2 clients, one after the other
    created N   tell of the creation and the removal of N other clients, one after the other
    asked       how many requests there were
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import socket

GATEWAY, NETWORK = "gateway", "wg-net"
GATEWAY_ADDRESS = "10.67.255.254"
PREFIX = 16
WANTED = ("192.168.66.0/24", "192.168.68.0/24")
API = "1.41"


def client_address(number: int) -> str:
    """Return the address of a client."""
    return f"10.67.{number // 250}.{number % 250 + 1}"


def identifier(kind: str, number: int = 0) -> str:
    """Return an id as the engine gives them: 64 hexadecimal digits."""
    return f"{ord(kind[0]):02x}{number:010x}".ljust(64, "0")


class World:
    """What the engine knows: one network, its gateway and so many clients."""

    def __init__(self, namespaces: str, clients: int) -> None:
        self.network = identifier(NETWORK)
        self.containers = {
            identifier("client", number): self._container(
                identifier("client", number),
                f"client{number}",
                client_address(number),
                f"{namespaces}/client{number}",
                {"wgroutemgr.networks": ",".join(WANTED)},
            )
            for number in range(clients)
        }
        self.gateway = self._container(
            identifier(GATEWAY), GATEWAY, GATEWAY_ADDRESS, f"{namespaces}/gateway", {}
        )
        self.listing = [self._listed(one) for one in self.containers.values()]
        self.asked = 0
        self.streams: list[socket.socket] = []

    def _container(
        self, key: str, name: str, address: str, namespace: str, labels: dict[str, str]
    ) -> dict[str, Any]:
        endpoint = {
            "IPAMConfig": None,
            "Links": None,
            "Aliases": [key[:12]],
            "NetworkID": self.network,
            "EndpointID": identifier("endpoint"),
            "Gateway": "10.67.0.1",
            "IPAddress": address,
            "IPPrefixLen": PREFIX,
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "MacAddress": "02:42:c0:a8:43:02",
            "DriverOpts": None,
        }
        return {
            "Id": key,
            "Created": "2026-01-01T00:00:00.000000000Z",
            "Path": "sleep",
            "Args": ["infinity"],
            "State": {"Status": "running", "Running": True, "Paused": False, "Pid": 1},
            "Image": f"sha256:{key}",
            "Name": f"/{name}",
            "GraphDriver": {"Name": "overlay2", "Data": {}},
            "HostConfig": {"NetworkMode": NETWORK, "RestartPolicy": {"Name": "no"}},
            "Mounts": [],
            "Config": {
                "Hostname": key[:12],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["sleep", "infinity"],
                "Image": "client",
                "Labels": labels,
            },
            "NetworkSettings": {
                "SandboxID": key,
                "SandboxKey": namespace,
                "Ports": {},
                "Networks": {NETWORK: endpoint},
            },
        }

    @staticmethod
    def _listed(container: dict[str, Any]) -> dict[str, Any]:
        return {
            "Id": container["Id"],
            "Names": [container["Name"]],
            "Image": "client",
            "ImageID": container["Image"],
            "Command": "sleep infinity",
            "Created": 1_767_225_600,
            "Ports": [],
            "Labels": container["Config"]["Labels"],
            "State": "running",
            "Status": "Up 5 minutes",
            "HostConfig": {"NetworkMode": NETWORK},
            "NetworkSettings": {"Networks": container["NetworkSettings"]["Networks"]},
            "Mounts": [],
        }

    def list(self, filters: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the running containers that carry the labels and are among the ids."""
        if "running" not in filters.get("status", ["running"]):
            return []
        labels, ids = filters.get("label", []), filters.get("id", [])
        found = [self.containers[key] for key in ids if key in self.containers] if ids else None
        chosen = self.listing if found is None else [self._listed(one) for one in found]
        return [
            one for one in chosen if all(label.split("=")[0] in one["Labels"] for label in labels)
        ]

    def inspect_network(self) -> dict[str, Any]:
        """Return the network with everybody's addresses."""
        everybody = [*self.containers.values(), self.gateway]
        return {
            "Name": NETWORK,
            "Id": self.network,
            "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.67.0.0/16"}]},
            "Containers": {
                one["Id"]: {
                    "Name": one["Name"][1:],
                    "IPv4Address": one["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
                    + f"/{PREFIX}",
                    "IPv6Address": "",
                }
                for one in everybody
            },
        }

    def tell(self, count: int) -> None:
        """Send so many events to whoever listens, in small groups as a busy engine would."""
        keys = list(self.containers)
        for number in range(count // 2):
            place = number % len(keys)
            for action in ("die", "start"):
                self._send(action, keys[place], {"name": f"client{place}"})
            if number % 5 == 4:
                time.sleep(0.02)

    def tell_created(self, count: int) -> None:
        """Tell of the creation and the removal of so many."""
        label = {"wgroutemgr.networks": ",".join(WANTED)}
        for number in range(count):
            for action in ("create", "destroy"):
                self._send(action, f"{number:064x}", {"name": f"new{number}", **label})
            if number % 50 == 49:
                time.sleep(0.02)

    def _send(self, action: str, key: str, attributes: dict[str, str]) -> None:
        moment = time.time_ns()
        event = {
            "Type": "container",
            "Action": action,
            "Actor": {"ID": key, "Attributes": attributes},
            "scope": "local",
            "time": moment // 1_000_000_000,
            "timeNano": moment,
        }
        data = json.dumps(event).encode() + b"\n"
        for stream in self.streams:
            stream.sendall(b"%x\r\n%b\r\n" % (len(data), data))


class Handler(BaseHTTPRequestHandler):
    """Answers as the engine does."""

    protocol_version = "HTTP/1.1"
    world: World

    def do_GET(self) -> None:
        self.world.asked += 1
        url = urlsplit(self.path)
        path = url.path.removeprefix(f"/v{API}")
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if path == "/events":
            self._stream()
        elif (answer := self._answer(path, query)) is None:
            self._send(HTTPStatus.NOT_FOUND, {"message": f"No such thing: {path}"})
        else:
            self._send(HTTPStatus.OK, answer)

    def do_HEAD(self) -> None:
        self._send(HTTPStatus.OK, "")

    def _answer(self, path: str, query: dict[str, str]) -> object:
        world = self.world
        match path.strip("/").split("/"):
            case ["version"]:
                return {"Version": "20.10.24", "ApiVersion": API, "MinAPIVersion": "1.12"}
            case ["_ping"]:
                return "OK"
            case ["containers", "json"]:
                return world.list(json.loads(query.get("filters", "{}")))
            case ["containers", "gateway", "json"]:
                return world.gateway
            case ["containers", key, "json"]:
                return world.gateway if key == world.gateway["Id"] else world.containers.get(key)
            case ["networks", key] if key in (NETWORK, world.network):
                return world.inspect_network()
        return None

    def _send(self, status: HTTPStatus, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Api-Version", API)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.world.streams.append(self.connection)
        self.connection.recv(1)  # until it hangs up
        self.world.streams.remove(self.connection)
        self.close_connection = True

    def address_string(self) -> str:
        """There is no address on this kind of socket."""
        return "sidecar"

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Server(ThreadingMixIn, UnixStreamServer):
    """One thread for each connection."""

    daemon_threads = True
    request_queue_size = 64


def serve(path: str, namespaces: str, clients: int) -> None:
    """Answer, and do what standard input says until it ends."""
    Handler.world = world = World(namespaces, clients)
    with Server(path, Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("ready", flush=True)
        for line in sys.stdin:
            match line.split():
                case ["events", count]:
                    world.tell(int(count))
                    print("told", flush=True)
                case ["created", count]:
                    world.tell_created(int(count))
                    print("told", flush=True)
                case ["asked"]:
                    print(world.asked, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
