"""Rows of figures, as a table for a terminal or in Markdown. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

HEADINGS = ("", "watcher", "target", "", "stat, df one by one", "stat -f, 32 at a time")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; None where it cannot be compared ("did not end")."""

    value: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured, by us and by the two other ways. The target is the most that is allowed."""

    what: str
    ours: Figure
    seed: Figure | None = None
    parallel: Figure | None = None
    target: Figure | None = None

    @property
    def verdict(self) -> str:
        if self.target is None or self.target.value is None:
            return ""
        return "ok" if self.ours.value is not None and self.ours.value <= self.target.value else "MISSED"

    def cells(self) -> tuple[str, ...]:
        target = f"≤ {self.target.text}" if self.target else ""
        return (self.what, self.ours.text, target, self.verdict, self._beside(self.seed), self._beside(self.parallel))

    def _beside(self, other: Figure | None) -> str:
        if other is None:
            return "–"
        if not other.value or not self.ours.value:
            return other.text
        ratio = other.value / self.ours.value
        return f"{other.text} ({ratio:.0f}×)" if ratio >= 10 else f"{other.text} ({ratio:.1f}×)"


def seconds(value: float) -> Figure:
    """A duration given in seconds."""
    if value >= 1:
        return Figure(value, f"{value:.2f} s")
    return Figure(value, f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.2f} ms")


def megabytes(value: float) -> Figure:
    """A size given in bytes; in the table, MB are 10^6."""
    return Figure(value, f"{value / 1e6:.1f} MB")


def percent(value: float) -> Figure:
    return Figure(value, f"{value:.2f} %")


def number(value: float) -> Figure:
    return Figure(value, f"{value:g}")


def about(figure: Figure, note: str) -> Figure:
    """The same figure, with a word about how it was come by."""
    return Figure(figure.value, f"{figure.text}, {note}")


def nothing(text: str) -> Figure:
    """In place of a figure: why there is none."""
    return Figure(None, text)


Section = tuple[str, Sequence[Row]]  # its heading and its rows


def as_text(machine: Sequence[str], sections: Sequence[Section]) -> str:
    """For a terminal: columns padded with blanks."""
    lines = [HEADINGS] + [row.cells() for _, rows in sections for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]

    def padded(cells: Sequence[str]) -> str:
        first, *rest = (
            _pad(column)(cell, width) for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    out = [*machine, "", padded(HEADINGS)]
    for heading, rows in sections:
        out += ["", heading, *(padded(row.cells()) for row in rows)]
    return "\n".join(out)


def _pad(column: int) -> Callable[[str, int], str]:
    return str.ljust if column in (0, 3) else str.rjust


def as_markdown(machine: Sequence[str], sections: Sequence[Section]) -> str:
    """One table; the sections are rows in bold."""
    out = ["; ".join(machine) + ".", ""]
    out.append("| " + " | ".join(HEADINGS) + " |")
    out.append("|" + "|".join("---" if column in (0, 3) else "---:" for column in range(len(HEADINGS))) + "|")
    for heading, rows in sections:
        out.append(f"| **{heading}** " + "| " * (len(HEADINGS) - 1) + "|")
        out += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(out)
