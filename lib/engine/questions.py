"""Asks the engine in a thread, so that who waits for an answer can do something else meanwhile."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Questions:
    """One thread, which lasts as long as the process: to start one costs half a question."""

    def __init__(self, tell: Callable[[], object]) -> None:
        """Have `tell` called, in that thread, whenever an answer is there."""
        self._tell = tell
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, question: Callable[[], T]) -> Future[T]:
        """Have a question asked, and return where its answer or its error will be."""
        answer: Future[T] = Future()
        answer.add_done_callback(lambda _: self._tell())
        if not self._thread:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()
        self._asked.put(partial(_answer, question, answer))
        return answer

    def _run(self) -> None:
        while True:
            self._asked.get()()


def _answer(question: Callable[[], T], answer: Future[T]) -> None:
    try:
        answer.set_result(question())
    except BaseException as error:  # noqa: BLE001 - it is raised where the answer is wanted
        answer.set_exception(error)
