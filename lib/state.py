"""What the daemon was given, and whom it serves and follows: for the commands beside it.

A file in memory, beside the health, which a person can read too. It ends with the container, and
holds for as long as the process does that wrote it: `/dev/shm` may be shared with others.
"""

from __future__ import annotations

import json
import os
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from lib import advice, health
from lib.kernel.namespaces import process_start
from lib.model import Container, Coverage, Published, Sidecar
from lib.settings import PUBLISHED, VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.model import Network
    from lib.settings import Settings

FILE = Path("/dev/shm/wgroutemgr.state")  # noqa: S108 - a container has a /dev/shm of its own

_PROC = Path("/proc")
_SUCCESSION = ("com.docker.compose.", "com.docker.swarm.")
"""How labels begin by which a gateway's successor is known."""

log = structlog.get_logger()


class State:
    """The state of one daemon, which writes it only when it changes."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], file: Path = FILE) -> None:
        self._file = file
        self._head = {
            "version": VERSION,
            "process": os.getpid(),
            "process_start": process_start(_PROC / "self"),
            "settings": {
                option.name: str(chosen)
                for option in PUBLISHED
                if (chosen := getattr(settings, option.field)) is not None
            },
            "variables": {
                option.variable: environ[option.variable]
                for option in PUBLISHED
                if option.variable in environ
            },
        }
        self._written: object = None

    def publish(
        self,
        sidecar: Sidecar | None,
        lost: Mapping[Network, float] | None = None,
        coverage: Mapping[str, Coverage] | None = None,
    ) -> None:
        """Write it, with our place if that is known.

        And with what the gateway's tunnel is lost for, and what its tunnels cover, of what comes
        from each network.
        """
        content = self._head | {
            "sidecar": _described(sidecar) if sidecar else None,
            "tunnel_lost": {str(dst): since for dst, since in (lost or {}).items()},
            "covered": {
                name: sorted(map(str, one.networks))
                for name, one in (coverage or {}).items()
                if one.networks is not None
            },
        }
        if content == self._written:
            return
        first, self._written = self._written is None, content
        try:
            health.replace(self._file, f"{json.dumps(content, indent=2)}\n")
        except OSError as error:
            if first:
                log.warning("state.failed", reason=str(error), hint=advice.SHM)


def read(file: Path = FILE) -> Published | None:
    """Return what the daemon of this container has published; None if there is none."""
    try:
        content = json.loads(file.read_text())
        began = process_start(_PROC / str(content["process"]))
    except OSError:
        return None
    if (content["version"], content["process_start"]) != (VERSION, began):
        return None
    place = content["sidecar"]
    lost = {ip_network(dst): since for dst, since in content["tunnel_lost"].items()}
    sidecar = _sidecar(place) if place else None
    coverage = {
        name: Coverage(frozenset(map(ip_network, covered)))
        for name, covered in content["covered"].items()
    }
    return Published(content["settings"], content["variables"], sidecar, lost, coverage)


def _described(sidecar: Sidecar) -> dict[str, Any]:
    gateway, own = sidecar.gateway, sidecar.own
    return {
        "container": own.name if own else "",
        "container_id": own.id if own else "",
        "networks": sidecar.networks,
        "gateway": gateway.name,
        "gateway_id": gateway.id,
        "gateway_labels": {
            key: value for key, value in gateway.labels.items() if key.startswith(_SUCCESSION)
        },
        "named_by": sidecar.named_by,
        "service": sidecar.service,
        "addresses": [str(address) for address in sidecar.addresses],
    }


def _sidecar(place: Mapping[str, Any]) -> Sidecar:
    own = _container(place["container_id"], place["container"], {})
    gateway = _container(place["gateway_id"], place["gateway"], place["gateway_labels"])
    addresses = tuple(map(ip_address, place["addresses"]))
    return Sidecar(
        gateway,
        own if own.id else None,
        "",
        place["named_by"],
        place["service"],
        addresses,
    ).on(place["networks"])


def _container(key: str, name: str, labels: Mapping[str, str]) -> Container:
    return Container(
        id=key,
        name=name,
        running=False,
        labels=labels,
        network_mode="",
        sandbox_key="",
        endpoints=(),
    )
