"""The README's table of cases, and their stories below it: what a row holds, how they are written into a file."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROW = "row"
BEGIN, END = "<!-- cases: written by --lab-table -->", "<!-- end of cases -->"
STORIES = "The messages of these cases, as they were received, and what was done"


class Row(NamedTuple):
    """What was seen in one case."""

    order: int
    case: str
    kernel: str
    control: str  # what `stat -c %i` with a time limit of 2 s said, when it mattered
    watcher: str
    alarm: float | None = None  # seconds from the cut until the message had been received
    recovery: float | None = None  # seconds from the moment when `stat -f` answers again until the message
    story: str = ""  # the alarm as it was received, what was done about it, and the message that ended it


def render(rows: Iterable[Row]) -> str:
    """As Markdown."""
    found = sorted(rows)
    kernels = ", ".join(sorted({r.kernel for r in found}))
    today, python = time.strftime("%Y-%m-%d", time.gmtime()), platform.python_version()
    lines = [
        f"{today}, Linux {kernels} (server and client), Python {python}.",
        "",
        "| case | `stat -c %i`, 2 s | `watcher` | alarm after | recovery after |",
        "|---|---|---|---:|---:|",
    ]
    lines += [f"| {r.case} | {r.control} | {r.watcher} | {_s(r.alarm)} | {_s(r.recovery)} |" for r in found]
    if stories := [line for r in found if r.story for line in (f"{r.case}:", "", "```text", r.story, "```", "")]:
        lines += ["", "<details>", f"<summary>{STORIES}</summary>", "", *stories, "</details>"]
    return "\n".join(lines)


def _s(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.1f} s"


def write_table(path: Path, rows: Iterable[Row] | None) -> None:
    """Replace what stands between the marks; with None only look for them.

    Raises OSError where there is no such file, ValueError where the marks are not in it.
    """
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: wants the lines {BEGIN} and {END}")
    if rows is not None:
        path.write_text(f"{before}{BEGIN}\n{render(rows)}\n{END}{after}", "utf-8")
