"""How fast each mount has answered lately: what a small curve is drawn from. Bounded, and forgotten with the mount."""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection

from watcher.model import ProbeReport, Superblock, Verdict

LATELY = 60  # answers; ten minutes of them at the default interval

_TELL_NOTHING = (Verdict.VOID, Verdict.NOT_THIS_MOUNT)


class Latencies:
    """By superblock, since its places share the answer."""

    def __init__(self) -> None:
        # Single precision: 240 bytes a mount, and an error below a nanosecond for what takes milliseconds.
        self._lately: dict[Superblock, array[float]] = {}
        self._reports: dict[Superblock, int] = {}

    def note(self, report: ProbeReport) -> None:
        """One more report, of whatever kind."""
        superblock = report.probe.superblock
        self._reports[superblock] = self._reports.get(superblock, 0) + 1
        if report.verdict in _TELL_NOTHING:
            return
        answered = report.verdict is Verdict.ANSWERED and report.latency is not None
        kept = self._lately.setdefault(superblock, array("f"))
        kept.append(report.latency if answered and report.latency is not None else math.nan)
        del kept[:-LATELY]

    def keep(self, superblocks: Collection[Superblock]) -> None:
        """Forget all others."""
        if len(self._reports) <= len(superblocks) and self._reports.keys() <= set(superblocks):
            return
        kept = set(superblocks)
        self._lately = {s: lately for s, lately in self._lately.items() if s in kept}
        self._reports = {s: number for s, number in self._reports.items() if s in kept}

    def of(self, superblock: Superblock) -> list[float | None]:
        """Seconds, the oldest first; None where there was no good answer."""
        kept = self._lately.get(superblock, ())
        return [None if math.isnan(seconds) else round(seconds, 6) for seconds in kept]

    def reports(self, superblock: Superblock) -> int:
        """How many probes of it have come back since it was first seen."""
        return self._reports.get(superblock, 0)
