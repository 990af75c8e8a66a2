"""What a pass says of clients: once, and again only when it changes.

Remembers what was said, by container. Decides nothing but whether a line is news.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Container

    from lib.model import Client, Desired, Refusal, Skipped

log = structlog.get_logger()

_MAX_REFUSALS = 20
"""Refused entries of one client that are logged one by one."""


class Reporting:
    """The memory of one daemon."""

    def __init__(self) -> None:
        self._remarks: dict[str, object] = {}
        self._inside: dict[str, tuple[Refusal, ...]] = {}

    def keep(self, present: Container[str]) -> None:
        """Forget all containers but these."""
        self._remarks = {key: text for key, text in self._remarks.items() if key in present}
        self._inside = {key: text for key, text in self._inside.items() if key in present}

    def remarks(self, wanted: Desired) -> None:
        """Tell what is left out of the wishes, and why."""
        for client in wanted.clients:
            if self._is_news(client.container_id, client.refusals):
                _tell_refusals(client, client.refusals)
        for skipped in wanted.skipped:
            if self._is_news(skipped.container_id, skipped):
                tell = log.debug if skipped.expected else log.warning
                tell("client.skipped", **who(skipped), reason=skipped.reason, **hint(skipped.hint))

    def inside(self, client: Client, refusals: tuple[Refusal, ...]) -> bool:
        """Tell what a look into its namespace says of what it asks for; return if that is news."""
        known = self._inside.get(client.container_id, ())
        news = tuple(refusal for refusal in refusals if refusal not in known)
        _tell_refusals(client, news)
        self._inside[client.container_id] = refusals
        return bool(news)

    def _is_news(self, container_id: str, said: object) -> bool:
        news = self._remarks.get(container_id, ()) != said
        self._remarks[container_id] = said
        return news


def who(client: Client | Skipped) -> dict[str, str]:
    """Return the values that name a client in a log line."""
    return {"container": client.container, "container_id": client.container_id[:12]}


def hint(text: str) -> dict[str, str]:
    """Return the value that advises the reader, where there is advice."""
    return {"hint": text} if text else {}


def _tell_refusals(client: Client, refusals: tuple[Refusal, ...]) -> None:
    for refusal in refusals[:_MAX_REFUSALS]:
        _tell_refusal(client, refusal)
    if surplus := refusals[_MAX_REFUSALS:]:
        reason = f"and {len(surplus)} more entries of this label"
        log.warning("entry.refused", **who(client), reason=reason)


def _tell_refusal(client: Client, refusal: Refusal) -> None:
    event = "entry.warned" if refusal.served else "entry.refused"
    values = {"entry": refusal.entry, "reason": refusal.reason} | hint(refusal.hint)
    log.warning(event, **who(client), **values)
