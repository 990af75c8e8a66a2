"""What one look found, as a person or a program reads it: rows, a table, JSON, comments.

Pure: it looks at nothing itself.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from lib.cli.output import printable
from lib.model import MAIN, Route, Rule
from lib.routing import iproute, policy
from lib.routing.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lib.model import Candidate, Client, Gateway, Thing
    from lib.reconcile.look import Findings
    from lib.reconcile.namespace import Namespace
    from lib.reconcile.report import Failure

FINE = {"ok", "skipped"}
"""The states that ask for nothing."""

_HEAD = ("CONTAINER", "NETWORK", "NAMESPACE", "DESTINATION", "GATEWAY", "STATE", "REASON")
_STATE = _HEAD.index("STATE")
_GREEN, _YELLOW, _DIM, _RED = 32, 33, 2, 31
_COLOURS = {"ok": _GREEN, "refused": _YELLOW, "skipped": _DIM}


_ASTRAY = "the gateway sends it into no tunnel"


class Row(NamedTuple):
    """One destination of one client, or a container that has none; empty is what there is not."""

    container: str
    container_id: str
    network: str = ""
    netns: str = ""
    dst: str = ""
    """A destination, or an entry of the label as it stands there."""
    gateway: str = ""
    """Where the destination should lead: an address, or `unreachable`."""
    state: str = ""
    reason: str = ""
    hint: str = ""
    mtu: int = 0
    """How large packets may be on that route (bytes); 0 if nothing is to be said of that."""
    direct: bool = False
    """Whether it is what keeps off the gateway."""

    @property
    def way(self) -> str:
        """The gateway as a person reads it."""
        size = f"mtu {self.mtu}" if self.mtu else ""
        words = (self.gateway, "direct" if self.direct else "", size)
        return " ".join(word for word in words if word) or "-"

    @property
    def why(self) -> str:
        """The reason and what to do about it."""
        return f"{self.reason} ({self.hint})" if self.hint else self.reason


def rows(findings: Findings) -> list[Row]:
    """Return what was found, ordered by container."""
    found = [row for client in findings.desired.clients for row in _client(client, findings)]
    unguarded = [findings.unguarded] if findings.unguarded else []
    for skipped in (*findings.desired.skipped, *unguarded):
        if held := [*_left(skipped.left, findings)] if skipped.left else []:
            found += held
            continue
        state = "skipped" if skipped.expected else "refused"
        whose = (skipped.container, skipped.container_id)
        found.append(Row(*whose, state=state, reason=skipped.reason, hint=skipped.hint))
    for failure in findings.failures:
        if "netns" not in failure.values:
            whose = (failure.container, failure.container_id)
            said = cause(failure)
            found.append(Row(*whose, state="unknown", reason=said["reason"], hint=said["hint"]))
    return sorted(found, key=lambda row: (row.container, row.container_id))


def joined(networks: Sequence[Findings]) -> list[Row]:
    """Return the rows of all networks.

    Who is served on one is passed over in what others say of it as a whole, and who is served on
    none is the first's to tell of.
    """
    known = [rows(one) for one in networks]
    told = {row.container_id for each in known for row in each if row.network}
    found: list[Row] = []
    for each in known:
        new = [row for row in each if row.network or row.container_id not in told]
        found += new
        told |= {row.container_id for row in new}
    return sorted(found, key=lambda row: (row.container, row.container_id))


def comments(found: Sequence[Row]) -> Iterator[str]:
    """Yield what there is to say beside the commands, as lines that a shell passes over."""
    for row in found:
        if row.reason:
            subject = f"{row.container}: {row.dst}" if row.dst else f"{row.container}:"
            yield f"# {printable(f'{subject} {row.why}')}"


def table(found: Sequence[Row], *, colour: bool) -> Iterator[str]:
    """Yield the lines of an aligned table."""
    cells = [_HEAD] + [
        tuple(
            printable(cell)
            for cell in (
                row.container,
                row.network or "-",
                row.netns or "-",
                row.dst or "-",
                row.way,
                row.state,
                row.why,
            )
        )
        for row in found
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for number, line in enumerate(cells):
        padded = [f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)]
        if colour and number:
            padded[_STATE] = f"\x1b[{_COLOURS.get(line[_STATE], _RED)}m{padded[_STATE]}\x1b[0m"
        yield "  ".join(padded).rstrip()


def document(found: Sequence[Row], networks: Sequence[Findings]) -> str:
    """Return the same as JSON."""
    gateway = next(one.gateway for one in networks if one.is_known)
    content = {
        "gateway": gateway.container,
        "gateway_id": gateway.container_id,
        "service": gateway.service,
        "node": gateway.node,
        "networks": [_network(one) for one in networks],
        "routes": [row._asdict() for row in found],
    }
    return json.dumps(content, indent=2)


def _network(found: Findings) -> dict[str, object]:
    """Return what is known of the gateway on one of the networks."""
    gateway, among = found.gateway, found.gateway.gateways.candidates if found.is_known else ()
    return {
        "network": gateway.network,
        "addresses": [str(address) for address in gateway.addresses],
        "gateways": [_gateway(one, gateway) for one in among if not one.network],
        "reason": found.lost.reason if found.lost else "",
    }


def _gateway(one: Candidate, ours: Gateway) -> dict[str, object]:
    """Return what is known of one of the gateways on the network."""
    return {
        "gateway": one.gateway,
        "names": sorted(one.names),
        "standing": one.standing.name.lower(),
        "unnamed": one.gateway == ours.gateways.unnamed,
    }


def cause(failure: Failure) -> dict[str, str]:
    """Return reason and hint of a failure; what a command said is the reason."""
    values = failure.values
    reason = str(values.get("stderr") or failure.reason)
    return {"reason": reason, "hint": str(values.get("hint", ""))}


def _client(client: Client, findings: Findings) -> Iterator[Row]:
    whose = (client.container, client.container_id, findings.gateway.network, client.netns)
    space = next((space for space in findings.namespaces if space.path == client.netns), None)
    failure = next((f for f in findings.failures if f.values.get("netns") == client.netns), None)
    unknown = {"state": "unknown", **cause(failure)} if failure else {}
    remarks = {refusal.entry: refusal for refusal in client.refusals if refusal.served}
    for wanted in client.routes:
        route = space.sized(wanted) if space else wanted
        state = _state(route, policy.needs([route]), space, findings) if space else unknown
        if not state:
            continue  # It ended while it was looked at.
        if (remark := remarks.get(str(route.dst))) and "reason" not in state:
            state |= {"reason": remark.reason, "hint": remark.hint}
        where = str(route.dst), str(route.gateway or route.kind)
        yield Row(*whose, *where, **state, mtu=route.mtu, direct=False)
    for thing in client.direct:
        if row := _direct(thing, whose, space, findings, unknown):
            yield row
    if not client.routes and not client.refusals:
        yield Row(*whose, state="skipped", reason="its label names no network")
    for refusal in client.refusals:
        if not refusal.served:
            yield Row(*whose, refusal.entry, "", "refused", refusal.reason, refusal.hint)


def _left(client: Client, findings: Findings) -> Iterator[Row]:
    """Yield the rows of who has left the network, if what keeps its packets there stands."""
    space = next((space for space in findings.namespaces if space.path == client.netns), None)
    held = tuple(guard for guard in client.routes if space and guard in space.wanted)
    for row in _client(client._replace(routes=held), findings) if held else ():
        is_held = row.state == "ok" and not row.direct
        yield row._replace(state="unreachable") if is_held else row


def _direct(
    wanted: Thing,
    whose: tuple[str, str, str, str],
    space: Namespace | None,
    findings: Findings,
    unknown: dict[str, str],
) -> Row | None:
    """Return the row of what keeps off the gateway; None if the container ended meanwhile."""
    thing = space.past.get(wanted, wanted) if space else wanted
    state = _state(thing, [thing], space, findings) if space else unknown
    if isinstance(thing, Rule):
        where = f"from {thing.source}", ""
    else:
        where = str(thing.dst), str(thing.gateway or "")
        if space and (remark := space.refusals.get(thing)):
            state = {"state": "refused", "reason": remark.reason, "hint": remark.hint}
    return Row(*whose, *where, **state, mtu=0, direct=True) if state else None


def _state(
    route: Thing, needed: Sequence[Thing], space: Namespace, findings: Findings
) -> dict[str, str]:
    if direct := space.direct([route]):
        return {"state": "refused", "reason": direct[0].reason, "hint": direct[0].hint}
    if plan(needed, space.actual):
        there = [other for other in space.actual if _competes(other, route)]
        if any(other not in needed for other in there):
            words = ", ".join(iproute.text(other) for other in there)
            return {"state": "wrong", "reason": f"there is {words}"}
        if route.table == MAIN:
            return {"state": "missing"}
        lacking = ", ".join(_name(thing) for thing in needed if thing not in space.actual)
        return {"state": "missing", "reason": f"not there: {lacking}"}
    is_astray = isinstance(route, Route) and route.dst in findings.astray
    if isinstance(route, Route) and route.kind == "unreachable" and not route.is_guard:
        reason = _ASTRAY if is_astray else "the gateway is lost"
        return {"state": "unreachable", "reason": reason}
    said = _before(route, space) if isinstance(route, Route) else {}
    return said or ({"state": "ok", "reason": _ASTRAY} if is_astray else {"state": "ok"})


def _before(route: Route, space: Namespace) -> dict[str, str]:
    """Return what is to be said of a rule of somebody else's that is asked before our table."""
    first = next(
        (
            one
            for one in sorted(space.rules, key=lambda rule: rule.pref)
            if route.table != MAIN and one.version == route.version and policy.is_before(one)
        ),
        None,
    )
    if not first:
        return {}
    if first.is_foreign or first.source or first.device:
        reason = f"rule {first.pref} is not ours, and may send some packets elsewhere"
        return {"state": "ok", "reason": reason}
    where = "nowhere" if first.is_unreachable else f"by table {first.table}"
    reason = f"rule {first.pref} is not ours, and sends packets {where} before"
    return {"state": "wrong", "reason": reason}


def _competes(other: Thing, route: Thing) -> bool:
    """Tell whether it leads to the same destination in the same table."""
    if isinstance(other, Rule) or isinstance(route, Rule):
        return False
    return (other.dst, other.table) == (route.dst, route.table)


def _name(thing: Thing) -> str:
    """Return what it is to who reads of its absence."""
    if isinstance(thing, Rule):
        return f"rule {thing.pref}"
    return "guard" if thing.is_guard else "route"
