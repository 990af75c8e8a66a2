"""Draws when routes came, relative to the client's first instruction, as an SVG.

Plain text, no font of its own; its grey and its two colours can be read on white and on black.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH, LEFT, RIGHT = 860, 60, 36
PANEL, GAP, TOP, BOTTOM = 92, 34, 58, 56
FROM, TO, TICK, BIN = -100.0, 150.0, 25, 2.5
GREY, ON, OFF = "#808080", "#2f81f7", "#d9730d"

STYLE = f"""
text {{ font: 12px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: {GREY} }}
.title {{ font-size: 15px; font-weight: 600 }}
.on {{ fill: {ON} }} .off {{ fill: {OFF} }}
.axis {{ stroke: {GREY}; stroke-width: 1 }}
.grid {{ stroke: {GREY}; stroke-width: .5; stroke-opacity: .35 }}
.start {{ stroke: {GREY}; stroke-width: 1.5; stroke-dasharray: 4 3 }}
.bar {{ fill-opacity: .8 }}
"""


@dataclass(frozen=True)
class Panel:
    """Measurements of one kind of start on one engine, in milliseconds.

    Attributes:
        title: which.
        on: with the fast path.
        off: without.
        in_time: the share of each that the clients themselves found in time, in percent.
    """

    title: str
    on: Sequence[float]
    off: Sequence[float]
    in_time: tuple[float, float]


def draw(panels: Sequence[Panel]) -> str:
    """Return the drawing."""
    height = TOP + len(panels) * (PANEL + GAP) + BOTTOM
    described = (
        "For each kind of start and each engine, how many starts had all their routes how many "
        "milliseconds before or after the client's first instruction: with the fast path nearly "
        "all before, without it all after."
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"',
        f' viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title about">',
        '<title id="title">When a client\'s routes are there</title>',
        f'<desc id="about">{escape(described)}</desc>',
        f"<style>{STYLE}</style>",
        *_head(),
        *(line for place, panel in enumerate(panels) for line in _panel(panel, place)),
        *_foot(height),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _x(milliseconds: float) -> float:
    inside = min(max(milliseconds, FROM), TO)
    return LEFT + (inside - FROM) / (TO - FROM) * (WIDTH - LEFT - RIGHT)


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(text)}</text>'


def _line(x: float, top: float, right: float, bottom: float, kind: str) -> str:
    return f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{right:.1f}" y2="{bottom:.1f}" class="{kind}"/>'


def _head() -> Iterator[str]:
    yield _text(LEFT, 22, "When a client's routes are there", kind="title")
    for place, (kind, text) in enumerate(
        {"on": "with the fast path", "off": "without: on the engine's start event"}.items()
    ):
        left = LEFT + place * 150
        yield f'<rect x="{left}" y="33" width="11" height="11" class="bar {kind}"/>'
        yield _text(left + 17, 43, text)


def _panel(panel: Panel, place: int) -> Iterator[str]:
    top = TOP + place * (PANEL + GAP) + 22
    base = top + PANEL - 8
    for tick in range(int(FROM), int(TO) + 1, TICK):
        yield _line(_x(tick), top, _x(tick), base, "grid")
    shares = {kind: _shares(values) for kind, values in (("on", panel.on), ("off", panel.off))}
    highest = max((share for bins in shares.values() for share in bins.values()), default=1.0)
    for kind, bins in shares.items():
        for left, share in sorted(bins.items()):
            tall = share / highest * (PANEL - 14)
            width = _x(left + BIN) - _x(left) if left + BIN <= TO else 4.0
            yield (
                f'<rect x="{_x(left):.1f}" y="{base - tall:.1f}" width="{max(width - 0.6, 1):.1f}" '
                f'height="{tall:.1f}" class="bar {kind}"/>'
            )
    yield _line(LEFT, base, WIDTH - RIGHT, base, "axis")
    yield _line(_x(0), top - 4, _x(0), base, "start")
    yield _text(LEFT, top - 8, panel.title)
    yield _text(WIDTH - RIGHT, top - 8, _said(panel), anchor="end")
    yield _text(LEFT - 8, top + 8, f"{100 * highest:.0f} %", anchor="end")
    yield _text(LEFT - 8, base, "0", anchor="end")


def _said(panel: Panel) -> str:
    on, off = panel.in_time
    return f"in time: {on:.1f} % of {len(panel.on)}, without {off:.1f} % of {len(panel.off)}"


def _shares(values: Sequence[float]) -> dict[float, float]:
    """Share of the values by the left end of the bin they are in; what is beyond is at the ends."""
    inside = (min(max(value, FROM), TO) for value in values)
    counts = Counter(value // BIN * BIN for value in inside)
    return {left: count / len(values) for left, count in counts.items()}


def _foot(height: int) -> Iterator[str]:
    y = height - BOTTOM + 12
    for tick in range(int(FROM), int(TO) + 1, TICK):
        ends = {int(FROM): "≤ ", int(TO): "≥ "}
        yield _text(
            _x(tick), y, f"{ends.get(tick, '')}{tick:+d}".replace("+0", "0"), anchor="middle"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    label = "last route present, milliseconds from the client's first instruction (dashed)"
    yield _text(middle, y + 22, label, anchor="middle")
    yield _text(middle, y + 38, "height: share of the starts in 2.5 ms", anchor="middle")
