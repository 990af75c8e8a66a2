"""Holds log lines against the documents' tables: which events, with which keys, of which types."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from lib.logs.line import MAX_LINE
from tests.readme import plain, spans, table

_ALWAYS = ["timestamp", "level", "event"]
_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "text or list": (str, list),
}
_FORMS = {
    "timestamp": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
    "container_id": re.compile(r"[0-9a-f]{12}"),
    "command": re.compile(r"nsenter --net=\S+ ip (-6 )?(route|rule) .*"),
}


@dataclass(frozen=True)
class Event:
    """One row of the table of events."""

    levels: frozenset[str]
    keys: dict[str, bool]
    """Names, and whether they are in every line."""


EVENTS = {
    plain(event): Event(
        frozenset(levels.split(", ")),
        {key.rstrip("?"): not key.endswith("?") for key in spans(keys)},
    )
    for levels, event, _, keys in table("events", "level", "event", "meaning", "keys")
}
KEYS = {
    key: _TYPES[kind]
    for names, kind, _ in table("keys", "key", "type", "value")
    for key in spans(names)
}


def violations(line: str) -> list[str]:
    """Return what is wrong with a line; nothing if it is as documented."""
    if len(line.encode()) >= MAX_LINE:
        return ["too long"]
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return ["not JSON"]
    if list(entry)[:3] != _ALWAYS:
        return [f"does not begin with {_ALWAYS}"]
    event = EVENTS.get(entry["event"])
    if not event:
        return [f"unknown event {entry['event']}"]
    names = entry.keys() - set(_ALWAYS)
    required = {key for key, always in event.keys.items() if always}
    found = [f"unknown key {key}" for key in sorted(names - event.keys.keys())]
    found += [f"no key {key}" for key in sorted(required - names)]
    found += [
        f"{key} is {value!r}"
        for key, value in entry.items()
        if key in KEYS and not _fits(key, value)
    ]
    if entry["level"] not in event.levels:
        found.append(f"{entry['event']} at level {entry['level']}")
    return found


def check(log: str) -> None:
    """Fail at the first line that is not as documented."""
    for line in log.splitlines():
        assert not violations(line), f"{violations(line)}: {line}"


def _fits(key: str, value: object) -> bool:
    form = _FORMS.get(key)
    return isinstance(value, KEYS[key]) and (not form or bool(form.fullmatch(str(value))))
