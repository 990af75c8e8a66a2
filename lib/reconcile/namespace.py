"""One namespace at a time: read its routes, plan, set what differs, remember and log it.

The visit is a conversation with a shell: it yields command lines, and is sent how they ended. What
ran is remembered and logged before anything else can fail.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import structlog

from lib import advice
from lib.errors import NetnsError, NetnsGoneError
from lib.model import DIRECT, IPV4, IPV6, MAIN, OPEN, TABLE, Client, Refusal, Route, Rule, Step
from lib.reconcile import failures
from lib.reconcile.ledger import Given
from lib.reconcile.report import Why
from lib.reconcile.reporting import who
from lib.routing import coverage, direct, iproute, policy, reach
from lib.routing.plan import Stage, chain, directly_reached, plan, stage
from lib.routing.size import sized

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence

    from lib.engine.client import Engine
    from lib.kernel.access import Kernel
    from lib.kernel.namespaces import NamespaceId
    from lib.kernel.shells import Conversation, Outcome
    from lib.model import Desired, Inside, Network, Thing
    from lib.reconcile.ledger import Ledger
    from lib.reconcile.report import Failure
    from lib.reconcile.reporting import Reporting

log = structlog.get_logger()

MAX_STEPS = 100
"""Commands in one namespace in one pass, so that no client waits long for another's."""

_DONE = {
    Route: {"replace": "route.replaced", "del": "route.deleted"},
    Rule: {"add": "rule.added", "del": "rule.deleted"},
}
VANISHED = {Route: "route.vanished", Rule: "rule.vanished"}


class Task(NamedTuple):
    """A step, for whom it is done, and the line that does it."""

    step: Step
    client: Client
    command: str


@dataclass(slots=True)
class Namespace:
    """What is to be in one namespace and for whom, what was put there before, and what is there."""

    path: str
    identity: NamespaceId | None = None
    """What it was when its container was located; None if it was not there."""
    wanted: dict[Thing, Client] = field(default_factory=dict)
    given: dict[Thing, Client] = field(default_factory=dict)
    actual: tuple[Thing, ...] = ()
    refusals: Mapping[Route, Refusal] = field(default_factory=dict)
    """Remarks on what is wanted, by what the container's own addresses can reach."""
    attached: tuple[Network, ...] = ()
    """The networks to which the engine has attached it."""
    mtus: Mapping[Network, int] = field(default_factory=dict)
    """How large packets to a destination may be behind the gateway (bytes)."""
    unsized: Collection[Network] = ()
    """Destinations of which that is not known: what is there may stay."""
    ruled: frozenset[int] = frozenset({IPV4, IPV6})
    """IP versions in which the kernel knows rules, as far as was looked."""
    left: list[Client] = field(default_factory=list)
    """Those of whom only what keeps their packets from another way is wanted, while it stands."""
    is_anothers: bool = False
    """Whether these are another gateway's clients now."""
    others: set[object] = field(default_factory=set)
    """Places that are other gateways': what stands there is theirs, also if we put it there."""
    past: Mapping[Thing, Route] = field(default_factory=dict)
    """The direct routes as they are to be there: by which gateway, a look tells."""

    def take(self, here: Inside, network: str) -> None:
        """Take in what is there, and what that says of the routes by a gateway on the network."""
        self.actual, self.ruled = (*here.routes, *here.rules), here.ruled
        self.is_anothers = self._is_anothers(here.routes)
        held = {} if self.is_anothers else self._hold()
        if self.mtus or self.unsized:
            there = {one.plain: one.mtu for one in here.routes if one.dst in self.unsized}
            by_gateway = (one for one in self._routes() if one.gateway)
            self.mtus = {
                one.dst: there.get(one, 0) or sized(one, here, self.mtus).mtu for one in by_gateway
            }
            self.wanted = {
                self.sized(one) if isinstance(one, Route) else one: client
                for one, client in self.wanted.items()
            }
        found = direct.resolved(self.wanted, here)
        remarks = {one: said for one, said in found.items() if isinstance(said, Refusal)}
        unreached = reach.refusals(self._routes(), here, network)
        self.refusals = {**unreached, **remarks, **held, **self._yield()}
        self.past = {one: route for one, route in found.items() if isinstance(route, Route)}
        if self.past:
            self.wanted = {self.past.get(one, one): client for one, client in self.wanted.items()}

    def _yield(self) -> dict[Route, Refusal]:
        """Leave to others what is theirs of what is not known here, and return what is not set."""
        yielded = coverage.yielded(self.wanted, self.actual)
        if OPEN in self.others:
            known = {*self.wanted, *self.given}
            in_table = (one for one in self.actual if isinstance(one, Route) and one.table == TABLE)
            theirs = (one for one in in_table if one not in known and not one.is_guard)
            self.others |= {one.place for one in (*yielded, *policy.needs(theirs))}
        return yielded

    def _hold(self) -> dict[Route, Refusal]:
        """Want what is to stay of those who have left, and return what is to be said of it."""
        remarks: dict[Route, Refusal] = {}
        for client in self.left:
            said = zip(client.routes, client.refusals, strict=True)
            held = {guard: remark for guard, remark in said if guard in self.actual}
            for thing in (*policy.needs(held), *(client.direct if held else ())):
                self.wanted.setdefault(thing, client)
            remarks |= held
        return remarks

    def _is_anothers(self, routes: Iterable[Route]) -> bool:
        """Tell whether somebody leads by our table: another sidecar's gateway, to which they came.

        What we put there is like what that one wants, and its own by now.
        """
        return bool(self.left) and any(
            one.table == TABLE and one.gateway and one not in self.given for one in routes
        )

    @property
    def destinations(self) -> tuple[Network, ...]:
        """Where packets are to be led."""
        return tuple(route.dst for route in self._routes())

    def _routes(self) -> Iterator[Route]:
        return (thing for thing in self.wanted if isinstance(thing, Route))

    def sized(self, route: Route) -> Route:
        """Return a wanted route as it is to be there: how large packets may be, a look tells."""
        return route._replace(mtu=self.mtus.get(route.dst, 0)) if route.gateway else route

    def take_before(self, entries: Iterable[tuple[NamespaceId, Given]]) -> None:
        """Take in what was put where this one is: into this, not one that was there before."""
        self.given = {
            given.thing: given.client for place, given in entries if place == self.identity
        }

    @property
    def rules(self) -> list[Rule]:
        """Return the rules that are there."""
        return [thing for thing in self.actual if isinstance(thing, Rule)]

    @property
    def has_rules(self) -> bool:
        """Whether rules are to be there, or were put there, or tell if there is IPv6 at all."""
        things = (*self.wanted, *self.given)
        return any(isinstance(thing, Rule) or thing.kind == "unreachable" for thing in things)

    @property
    def is_gateways(self) -> bool:
        """Whether it is the gateway's, with its guard."""
        things = (*self.wanted, *self.given)
        return any(isinstance(thing, Rule) and thing.device for thing in things)

    @property
    def clients(self) -> tuple[Client, ...]:
        """All for whom it is entered, each once."""
        everyone = [*self.given.values(), *self.wanted.values()]
        return tuple({client.container_id: client for client in everyone}.values())

    def wanted_by(self, client: Client) -> list[Thing]:
        """Return what is to be there for a client."""
        whose = self.wanted.items()
        return [thing for thing, one in whose if one.container_id == client.container_id]

    def tasks(self) -> list[Task]:
        """Return what makes it right, by stage."""
        refused = [route for route, remark in self.refusals.items() if not remark.served]
        wanted = [thing for thing in self.wanted if self._can_be(thing) and thing not in refused]
        kept = {*self.attached, *(route.dst for route in refused if route.kind != DIRECT)}
        given = () if self.is_anothers else self.given
        # Who has left may come to another gateway, which may just begin to set its own.
        left_over = () if self.left else self.left_over()
        returnable = [one for one in dict.fromkeys((*given, *left_over)) if self._is_ours(one)]
        planned = plan(wanted, self.actual, (one for one in returnable if not is_in(one, kept)))
        return [self.task(step, self._whose(step.thing)) for step in planned]

    def _is_ours(self, thing: Thing) -> bool:
        return thing.place not in self.others

    def released(self) -> list[Thing]:
        """Return what was put here and is another gateway's by now."""
        return [one for one in self.given if one not in self.wanted and not self._is_ours(one)]

    def _can_be(self, thing: Thing) -> bool:
        return isinstance(thing, Route) or thing.version in self.ruled

    def returns(self) -> list[Task]:
        """Return what takes back all that is there as it is wanted, or can only be ours."""
        whose = {
            plain: client
            for thing, client in self.wanted.items()
            for plain in (thing.plain, *_without_gateway(thing))
        }
        found = {thing.plain: thing for thing in self.actual}
        there = [found[plain] for plain in whose if plain in found]
        left_over = self.left_over() if whose else ()
        due = filter(self._is_ours, (*there, *left_over))
        steps = plan((), self.actual, dict.fromkeys(due))
        return [
            self.task(
                step._replace(reason=""), whose.get(step.thing.plain) or self._whose(step.thing)
            )
            for step in steps
        ]

    def left_over(self) -> list[Thing]:
        """Return what nobody wants and can only be ours, be it that we do not remember it."""
        if OPEN in self.others:
            return []
        return [
            thing for thing in self.actual if policy.is_ours(thing) and thing not in self.wanted
        ]

    def _whose(self, thing: Thing) -> Client:
        return self.wanted.get(thing) or self.given.get(thing) or self.clients[0]

    def task(self, step: Step, client: Client) -> Task:
        """Return what a step means here."""
        return Task(step, client, iproute.command(self.path, step))

    def kept(self, client: Client) -> tuple[Refusal, ...]:
        """Tell which of a client's routes stay, since the engine has connected their network since.

        To delete one would leave the container without any way to that network.
        """
        reason = "still leads through the gateway: the container was connected to it meanwhile"
        return tuple(
            Refusal(str(route.dst), reason, advice.CONNECT_AGAIN, served=True)
            for route, whose in self.given.items()
            if whose.container_id == client.container_id
            and isinstance(route, Route)
            and is_in(route, self.attached)
            and route in self.actual
        )

    def direct(self, routes: Iterable[Thing]) -> tuple[Refusal, ...]:
        """Tell which of the routes are refused because they would replace a connected network."""
        reason = "is a network to which the container is connected by itself"
        found = sorted(str(route.dst) for route in directly_reached(routes, self.actual))
        return tuple(Refusal(dst, reason, advice.CONNECTED) for dst in found)


def others_in(desired: Desired, path: str) -> set[object]:
    """Return the places in a namespace that are other gateways'."""
    elsewhere = (one.elsewhere for one in desired.skipped if one.elsewhere)
    there = (one for one in (*desired.clients, *elsewhere) if one.netns == path)
    return {place for client in there for place in client.others}


def gather(desired: Desired) -> dict[str, Namespace]:
    """Gather what is wanted by namespace.

    Of two containers in one that ask different gateways for the same, the first by name is heard.
    """
    namespaces: dict[str, Namespace] = {}
    elsewhere = [one.elsewhere for one in desired.skipped if one.elsewhere]
    others, served = (defaultdict[str, set[object]](set) for _ in range(2))
    for client in sorted((*desired.clients, *elsewhere), key=lambda one: one.container):
        taken = others[client.netns]
        for thing in (*policy.needs(client.routes), *client.direct):
            if isinstance(thing, Route) and thing.place in served[client.netns]:
                continue
            namespace = namespaces.setdefault(client.netns, Namespace(client.netns, others=taken))
            namespace.wanted.setdefault(thing, client)
        taken |= client.others
        served[client.netns] |= client.others - client.unserved - _places(namespaces, client.netns)
    for path, namespace in namespaces.items():
        namespace.others -= _places(namespaces, path)
    for left in (one.left for one in desired.skipped if one.left):
        namespaces.setdefault(left.netns, Namespace(left.netns)).left.append(left)
    return namespaces


def _places(namespaces: Mapping[str, Namespace], path: str) -> set[object]:
    """Return the places of all routes that are wanted in a namespace."""
    held = namespaces.get(path)
    return {one.place for one in held.wanted if isinstance(one, Route)} if held else set()


def values_of(namespace: Namespace, task: Task) -> dict[str, str]:
    """Return the values that tell of a task in a log line."""
    thing = task.step.thing
    dst = {"dst": str(thing.dst)} if isinstance(thing, Route) else {}
    return who(task.client) | dst | {"netns": namespace.path, "command": task.command}


def log_done(
    namespace: Namespace, task: Task, outcome: Outcome, *, network: str, trigger: str
) -> None:
    """Log a change that was made."""
    thing = task.step.thing
    values = values_of(namespace, task) | {"network": network}
    if task.step.reason:
        values["reason"] = task.step.reason
    if isinstance(thing, Route):
        values["gateway"] = str(thing.gateway or thing.kind)
    log.info(
        _DONE[type(thing)][task.step.verb],
        **values,
        trigger=trigger,
        duration_ms=round(outcome.duration_ms, 1),
    )


def by_stage(tasks: Iterable[Task], failed: Container[object]) -> Iterator[list[Task]]:
    """Yield the tasks of each stage for which there are any, but for chains that failed by then."""
    found = [*tasks]
    for each in Stage:
        due = [one for one in found if stage(one.step) is each and chain(one.step) not in failed]
        if due:
            yield due


def _without_gateway(thing: Thing) -> Iterator[Route]:
    """Yield what stood in the place of a route while its gateway, or that's tunnel, was lost."""
    if isinstance(thing, Route) and thing.gateway:
        yield thing.plain._replace(gateway=None, kind="unreachable")


def _is_a_loss(thing: Thing) -> bool:
    """Tell whether it says that the gateway is lost."""
    return isinstance(thing, Route) and thing.kind == "unreachable" and not thing.is_guard


def is_in(thing: Thing, networks: Container[Network]) -> bool:
    """Tell whether it is a route in the main table to one of these networks."""
    return isinstance(thing, Route) and thing.table == MAIN and thing.dst in networks


@dataclass(slots=True)
class Visitor:
    """Goes through namespaces in one pass, and counts what it changes."""

    engine: Engine
    kernel: Kernel
    ledger: Ledger
    reporting: Reporting
    network: str
    trigger: str
    changed: int = 0

    def visit(self, namespace: Namespace) -> Conversation:
        """Read, plan, set, remember. What fails here keeps nobody else from its routes."""
        try:
            place = self._enter(namespace)
            self._take_stock(namespace, place)
            changed: set[str] = set()
            failed: set[object] = set()
            for due in by_stage(self._choose(namespace), failed):
                self.kernel.confirm(place)
                coming = (task for task in due if task.step.verb != "del")
                self.ledger.begin(place, (Given(one.step.thing, one.client) for one in coming))
                outcomes = yield [task.command for task in due]
                ended = list(zip(due, outcomes, strict=True))
                failing = self._record(namespace, place, ended)
                self.ledger.end(place)
                # Last, as the engine is asked: others may be served until it answers.
                self._fail_commands(namespace, failing)
                failed |= {chain(task.step) for task, _ in failing}
                changed |= {
                    task.client.container_id for task, outcome in ended if not outcome.exit_code
                }
            if not namespace.is_gateways:
                self._log_clients(namespace, changed)
        except NetnsError as error:
            self._fail_entry(namespace, error)

    def _enter(self, namespace: Namespace) -> NamespaceId:
        """Read the routes that are there; raise NetnsError if that cannot be."""
        self.kernel.check(namespace.path, own=namespace.is_gateways)
        place = namespace.identity or self.kernel.identify(namespace.path)
        if place is None:
            reason = f"{namespace.path} has just ended"
            raise NetnsGoneError(reason)
        sizes = bool(namespace.mtus)  # To read the links takes a third of all that.
        here = self.kernel.read(namespace.path, rules=namespace.has_rules, sizes=sizes)
        namespace.take(here, self.network)
        return place

    # --- before the commands --------------------------------------------------------------------

    def _take_stock(self, namespace: Namespace, place: NamespaceId) -> None:
        """Compare what we remember with what is there."""
        actual = set(namespace.actual)
        gone = namespace.given.keys() if namespace.is_anothers else namespace.given.keys() - actual
        for thing in (*gone, *namespace.released()):
            self.ledger.drop(place, thing)
        for thing, client in namespace.wanted.items():
            if thing in actual:
                if _is_a_loss(thing) and not self.ledger.is_ours(place, thing):
                    self.ledger.note(client.container_id, Why.LOOK_AGAIN)
                self.ledger.put(place, thing, client)
        for client in namespace.clients:
            wanted = namespace.wanted_by(client)
            remarks = (remark for one, remark in namespace.refusals.items() if one in wanted)
            beyond = tuple(dict.fromkeys(remarks))  # A route and its guard have the same.
            said = (*namespace.direct(wanted), *namespace.kept(client), *beyond)
            if self.reporting.inside(client, said) and beyond:
                self.ledger.note(client.container_id, Why.LOOK_AGAIN)

    def _choose(self, namespace: Namespace) -> list[Task]:
        """Return what is done in this pass.

        What has failed before comes last, and not at all while there is more that was never tried:
        so each entry that can work is reached, and what fails waits for its time.
        """
        tasks = namespace.tasks()
        for client in namespace.clients:
            own = [
                task.command for task in tasks if task.client.container_id == client.container_id
            ]
            self.ledger.keep_failures(client.container_id, own)
        fresh, again = self._by_failure(tasks)
        chosen = [*fresh, *again][:MAX_STEPS]
        for task in fresh[MAX_STEPS:]:
            self.ledger.note(task.client.container_id, Why.MORE)
        return chosen

    def _by_failure(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
        """Return the tasks to destinations without a failure, and the others that are due.

        The latter in the order in which they failed. A destination stays in one piece.
        """
        chains: dict[object, list[Task]] = defaultdict(list)
        for task in tasks:
            chains[chain(task.step)].append(task)
        fresh: list[Task] = []
        failed: list[tuple[int, list[Task]]] = []
        for group in chains.values():
            known = list(self.ledger.failures(group[0].client.container_id))
            ranks = [known.index(task.command) for task in group if task.command in known]
            if not ranks:
                fresh += group
            elif not self.ledger.continues(group[0].client.container_id):
                failed.append((min(ranks), group))
        failed.sort(key=lambda ranked: ranked[0])
        return fresh, [task for _, group in failed for task in group]

    # --- after them -----------------------------------------------------------------------------

    def _record(
        self, namespace: Namespace, place: NamespaceId, ended: Sequence[tuple[Task, Outcome]]
    ) -> list[tuple[Task, Outcome]]:
        """Remember and log how commands ended; return those that failed."""
        failed: list[tuple[Task, Outcome]] = []
        for task, outcome in ended:
            if not outcome.exit_code:
                self._note_done(namespace, place, task)
                log_done(namespace, task, outcome, network=self.network, trigger=self.trigger)
            elif failures.is_vanished(task.step, outcome):
                self.ledger.drop(place, task.step.thing)
                log.debug(VANISHED[type(task.step.thing)], **values_of(namespace, task))
            elif failures.is_found(task.step, outcome):
                self._note_there(namespace, place, task)
                log.debug("rule.found", **values_of(namespace, task))
            else:
                failed.append((task, outcome))
        return failed

    def _note_done(self, namespace: Namespace, place: NamespaceId, task: Task) -> None:
        if task.step.verb == "del":
            self.ledger.drop(place, task.step.thing)
        else:
            self._note_there(namespace, place, task)
        self.ledger.succeed(task.client.container_id, task.command)
        self.changed += 1

    def _note_there(self, namespace: Namespace, place: NamespaceId, task: Task) -> None:
        self.ledger.put(place, task.step.thing, task.client)
        namespace.actual = (*namespace.actual, task.step.thing)

    def _log_clients(self, namespace: Namespace, changed: Container[str]) -> None:
        """Sum up whose routes changed: how many of those that they ask for are there."""
        for client in namespace.clients:
            if client.container_id in changed:
                shared = {"shared_with": client.shared_with} if client.shared_with else {}
                routes = len({*client.routes} & {one.plain for one in namespace.actual})
                log.info("client.routed", **who(client), **shared, routes=routes)

    def _fail_commands(self, namespace: Namespace, failed: Iterable[tuple[Task, Outcome]]) -> None:
        """Tell of failed commands, unless they failed because the container ended under them."""
        is_there: dict[str, bool] = {}
        for task, outcome in failed:
            client = task.client
            if client.container_id not in is_there:
                is_there[client.container_id] = self._is_there(namespace, client)
            if is_there[client.container_id]:
                self._fail(failures.of_command(client, namespace.path, task.step.thing, outcome))
            else:
                log.debug("client.gone", **values_of(namespace, task), reason=outcome.output)

    def _fail_entry(self, namespace: Namespace, error: NetnsError) -> None:
        """Tell that a namespace cannot be entered, for each of its clients that is still there."""
        if isinstance(error, NetnsGoneError) and namespace.identity:
            self.ledger.forget_namespace(namespace.identity)
        for client in namespace.clients:
            if failures.is_there(self.engine, client):
                self._fail(failures.of_entry(client, namespace.path, error))

    def _is_there(self, namespace: Namespace, client: Client) -> bool:
        try:
            self.kernel.check(namespace.path)
        except NetnsError:
            return False
        return failures.is_there(self.engine, client)

    def _fail(self, failure: Failure) -> None:
        if self.ledger.fail(failure):
            failures.log_failure(failure)
