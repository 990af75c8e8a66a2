"""One line of JSON from any values whatsoever, never a long one.

Pure. Who logs must not fail for what it logs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

MAX_LINE = 8192
"""Bytes of the longest line; the engine would split one of more than 16 KiB."""

_SHORTEST = 16
"""Characters that are kept of a value at least."""
_DEEPEST = 8
"""Levels of what is in each other; what is deeper is shown as text."""
_BIGGEST = 2**63
"""Numbers beyond are shown as text: few who read JSON can take them."""


def plain(value: object) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Return a value as JSON has it: its parts where it has any, else its text."""
    return _plain(value, 0)


def line(fields: Mapping[str, Any]) -> str:
    """Return plain fields as a line that is shorter than MAX_LINE.

    Long values are clipped; where that is not enough, the last fields are left out.
    """
    shown, limit, kept = _dump(fields), MAX_LINE // 2, len(fields)
    while len(shown.encode()) >= MAX_LINE:
        first = list(fields.items())[:kept]
        shown = _dump({_clip(key, limit): _clip(value, limit) for key, value in first})
        if limit > _SHORTEST:
            limit //= 2
        else:
            kept //= 2
    return shown


def _plain(value: object, depth: int) -> Any:  # noqa: ANN401 - as above
    try:
        if isinstance(value, str):  # Most are, and to tell what is no mapping takes long.
            return _text(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and abs(value) < _BIGGEST:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if isinstance(value, Mapping) and depth < _DEEPEST:
            return {_text(key): _plain(part, depth + 1) for key, part in value.items()}
        if isinstance(value, list | tuple | AbstractSet) and depth < _DEEPEST:
            parts = sorted(value, key=_text) if isinstance(value, AbstractSet) else value
            return [_plain(part, depth + 1) for part in parts]
    except Exception as error:  # noqa: BLE001 - its class is broken
        return _without_text(value, error)
    return _text(value)


def _text(value: object) -> str:
    """Return a value as text that has a form in UTF-8."""
    try:
        text = str(value)
        return text if text.isascii() else text.encode(errors="backslashreplace").decode()
    except Exception as error:  # noqa: BLE001 - its class is broken
        return _without_text(value, error)


def _without_text(value: object, error: Exception) -> str:
    return f"{type(value).__name__} that cannot be shown: {type(error).__name__}"


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _clip(value: Any, limit: int) -> Any:  # noqa: ANN401 - as above
    shown = value if isinstance(value, str) else _dump(value)
    return value if len(shown) <= limit else f"{shown[:limit]}… ({len(shown)} characters)"
