"""Figures: many measurements to n, median, p95 and worst, and what they are held against."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        part: which part of the benchmark it belongs to.
        name: what was measured.
        unit: of all numbers.
        values: every measurement.
        target: what the project promises, in words.
        met: whether that holds here; None without a target.
        share: of measurements that are as they should be, in percent.
        ratios: to what was measured in the same run, by its name.
        note: further words on that.
        details: whatever else a reader of the JSON may want.
    """

    part: str
    name: str
    unit: str
    values: Sequence[float]
    target: str = ""
    met: bool | None = None
    share: float | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    note: str = ""
    details: dict[str, object] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The one in the middle."""
        return percentile(self.values, 50)

    def summary(self) -> dict[str, object]:
        """The figure for JSON."""
        numbers: dict[str, object] = {"n": len(self.values)}
        if self.values:
            numbers |= {
                "median": self.median,
                "p95": percentile(self.values, 95),
                "worst": max(self.values),
            }
        return asdict(self) | {"values": [round(value, 3) for value in self.values]} | numbers


def table(figures: Sequence[Figure]) -> str:
    """All figures as text, one line each."""
    head = ("", "n", "in time", "median", "p95", "worst", "", "in the same run", "target", "")
    rows: list[tuple[str, ...]] = [head]
    part = ""
    for figure in figures:
        if figure.part != part:
            part = figure.part
            rows.append((part, *[""] * (len(head) - 1)))
        rows.append(_row(figure))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 1 <= column <= 5 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, ...]:
    numbers = ["", "", ""]
    if figure.values:
        shown = (figure.median, percentile(figure.values, 95), max(figure.values))
        numbers = [_number(one) for one in shown]
    ratios = [f"{_number(value)} x {name}" for name, value in figure.ratios.items()]
    against = ", ".join([*ratios, figure.note] if figure.note else ratios)
    share = "" if figure.share is None else f"{figure.share:.1f} %"
    verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
    name = f"  {figure.name}"
    n = str(len(figure.values))
    return (name, n, share, *numbers, figure.unit, against, figure.target, verdict)


def _number(value: float) -> str:
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 3)}f}"
