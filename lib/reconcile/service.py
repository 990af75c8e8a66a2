"""The gateway as a task of a swarm's service, on whichever node: the second way to find it.

The node's name server is asked, and the engine only where that has something new. No node is
special: that on which the gateway runs finds it by the same question.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, NamedTuple

import structlog

from lib import advice
from lib.errors import CallError, GoneError, NotReadyError, UnprovenError
from lib.kernel import names
from lib.model import Gateway
from lib.routing.tasks import Choice, Kind, Told, decide, is_news, patience

if TYPE_CHECKING:
    from collections.abc import Callable

    from lib.engine.client import Engine
    from lib.model import Address, Container, DockerNetwork, Endpoint, Sidecar, Task

log = structlog.get_logger()

_CALM_SECONDS, _EAGER_SECONDS = 1.0, 0.5
"""Between two questions: while a task is named, and while none is."""


class Question(NamedTuple):
    """What is asked of the name server, and what was last made of its answer."""

    service: str
    own_id: str
    last: Told

    def ask(self) -> Told:
        """Return what the name server says now."""
        return heard(self.service, self.own_id, self.last._replace(tasks=None))

    def is_news(self, told: Told) -> bool:
        """Tell whether that asks for another look."""
        return is_news(told, self.last)


def heard(service: str, own_id: str, told: Told) -> Told:
    """Return what is told with what the name server says.

    For us it is asked only where it names no task: that may be since it does not live.
    """
    found = told._replace(named=names.ask(names.of_tasks(service)).known, own=None)
    if found.inside:
        return found
    return found._replace(own=names.ask(names.of_container(own_id)).known)


class Watch:
    """Asks each second or more often, in a thread, and tells of what is news."""

    def __init__(self, tell: Callable[[], None]) -> None:
        """Call `tell`, in that thread, when the gateway is to be looked for anew."""
        self._tell = tell
        self._question: Question | None = None
        self._thread: threading.Thread | None = None

    def begin(self, question: Question) -> None:
        """Ask that from now on; the thread ends with the program."""
        self._question = question
        if not self._thread:
            self._thread = threading.Thread(target=self._run, name="names", daemon=True)
            self._thread.start()

    def look(self) -> None:
        """Ask once."""
        question = self._question
        if question and question.is_news(question.ask()) and question is self._question:
            self._tell()

    @property
    def interval(self) -> float:
        """Seconds until the next question: whoever has no gateway is to have the next one soon."""
        is_named = self._question is not None and self._question.last.inside
        return _CALM_SECONDS if is_named else _EAGER_SECONDS

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(self.interval):
            self.look()


class ServiceGateway:
    """Follows the task of one service; remembers which is in use, and of whom was warned."""

    def __init__(self, clock: Callable[[], float], watch: Watch | None = None) -> None:
        """Without a watch, as for who looks once, the name server is asked when looked for."""
        self._clock = clock
        self._watch = watch
        self._in_use: Task | None = None
        self._warned: tuple[object, object] = ((), ())
        """Of whom: addresses in doubt, and tasks beside the one in use."""
        self._listing: tuple[frozenset[Address], tuple[Task, ...]] = (frozenset(), ())
        """Who was named when the engine last knew all of them, and the tasks that it told of."""
        self._tries = 0
        self.again_at = math.inf
        """When to ask again about who is in doubt (monotonic seconds)."""
        self.container: Container | None = None
        """The gateway's, if that runs on this node."""
        self.choice = Choice(Kind.UNKNOWN)
        """What was last made of what the node told."""
        self.own_netns = ""
        """File of our own namespace: where the others' are too."""

    def find(self, engine: Engine, place: Sidecar) -> Gateway:
        """Return the gateway as it is now.

        Raises NotReadyError if it is lost, UnprovenError if that cannot be told, CallError if the
        engine does not answer.
        """
        self.container, self.again_at = None, math.inf
        own, point = self._own(engine, place)
        network = engine.network(point.network_id)
        told = heard(place.service, own.id, Told(network.subnets, None))
        told, silence = self._listed(engine, place.service, network, told)
        choice = self.choice = decide(told, self._in_use)
        self._remember(place, own, told, choice)
        if choice.kind is not Kind.FOUND or not choice.task:
            raise _error(choice, told, place, silence)
        self.container = self._local(engine, network, choice.task)
        return Gateway(
            choice.task.name,
            self.container.id if self.container else "",
            network.name,
            network.id,
            (choice.task.address,),
            service=place.service,
            node=choice.task.node,
            may_tunnel=self.container.may_tunnel if self.container else True,
        )

    def _own(self, engine: Engine, place: Sidecar) -> tuple[Container, Endpoint]:
        """Return our own container and its place on the network."""
        if not place.own:
            reason = "our own container was not found, so it is not known which network it is on"
            raise UnprovenError(reason, advice.SERVICE_OF_ITS_OWN)
        own = engine.inspect(place.own.id)
        self.own_netns = own.sandbox_key
        point = own.endpoint(place.network)
        if not point or not point.interfaces:
            raise _apart(place)
        return own, point

    def _listed(
        self, engine: Engine, service: str, network: DockerNetwork, told: Told
    ) -> tuple[Told, str]:
        """Add what the engine lists, if that is needed; and why it does not."""
        inside, in_use = told.inside, self._in_use
        is_kept = in_use is not None and in_use.address in inside
        if not inside or (is_kept and len(inside) == 1):
            return told, ""
        if is_kept and inside == self._listing[0]:
            return told._replace(tasks=self._listing[1]), ""
        try:
            tasks = engine.tasks(network.id).get(service, ())
        except (CallError, GoneError) as error:
            return told, error.reason
        if inside <= {task.address for task in tasks}:
            self._listing = inside, tasks
        return told._replace(tasks=tasks), ""

    def _remember(self, place: Sidecar, own: Container, told: Told, choice: Choice) -> None:
        if choice.kind in {Kind.FOUND, Kind.LOST}:
            self._in_use = choice.task
        is_doubt = bool(choice.doubted)
        if is_doubt:
            self.again_at = self._clock() + patience(self._tries)
        self._tries = self._tries + 1 if is_doubt else 0
        if told.tasks is not None or choice.kind is not Kind.FOUND:
            self._warn(place, choice)
        if self._watch:
            self._watch.begin(Question(place.service, own.id, told))

    def _warn(self, place: Sidecar, choice: Choice) -> None:
        """Warn, once, of who is named and no task, and of more tasks than one."""
        before, self._warned = self._warned, (choice.doubted, choice.others)
        values = {"service": place.service, "network": place.network}
        if choice.doubted and choice.doubted != before[0]:
            gateway = [str(address) for address in choice.doubted]
            reason = f"named tasks.{place.service}, and no task of that service"
            hint = advice.full_name(place.service)
            log.warning("gateway.doubted", **values, gateway=gateway, reason=reason, hint=hint)
        if choice.task and choice.others and choice.others != before[1]:
            reason = f"{len(choice.others) + 1} tasks of {place.service} run, one is used"
            hint = advice.one_task(place.service)
            values["container"] = choice.task.name
            log.warning("gateway.several", **values, reason=reason, hint=hint)

    def _local(self, engine: Engine, network: DockerNetwork, task: Task) -> Container | None:
        """Return the container of this node that has the task's address."""
        for key, interfaces in network.interfaces.items():
            if task.address in {interface.ip for interface in interfaces}:
                try:
                    return engine.inspect(key)
                except GoneError:
                    return None
        return None


def _error(choice: Choice, told: Told, place: Sidecar, silence: str) -> NotReadyError:
    """Return why there is no gateway."""
    service = place.service
    if choice.kind is Kind.APART:
        return _apart(place)
    if choice.kind is Kind.LOST:
        return NotReadyError(f"no task of the service {service} runs", advice.tasks_of(service))
    if told.inside:
        reason = f"the engine does not list the tasks of {service}: {silence}"
        return UnprovenError(reason, advice.PROXY)
    reason = f"the name server of {place.network} names neither us nor a task of {service}"
    return UnprovenError(reason, advice.NAME_SERVER)


def _apart(place: Sidecar) -> UnprovenError:
    reason = f"this container is not attached to {place.network}: nothing is known of the tasks of"
    return UnprovenError(f"{reason} {place.service}", advice.attach_agent(place.network))
