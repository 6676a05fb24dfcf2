"""When a mount is asked next. Intervals run from start to start."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor

from watcher.model import Pace, Probe, Reach

CONFIRM_AFTER = 1.0  # the second good probe that ends stale
LONG_STALE = 300.0  # after this long a dead mount is held less often
LONG_STALE_PAUSE = 10.0  # between two probes of it: with a time-out of 5 s, every 15 s
VOID_RETRY = 2.0  # after a probe that said nothing
GRID_TOLERANCE = 0.1  # of the interval


def sweeps_of(probes: Iterable[Probe]) -> list[list[Probe]]:
    """What one child each is to ask: what has one time-out, since a child is killed at its last deadline."""
    sweeps: dict[float, list[Probe]] = {}
    for probe in probes:
        sweeps.setdefault(probe.timeout, []).append(probe)
    return list(sweeps.values())


def on_grid(started: float, interval: float) -> float:
    """The next multiple of `interval`: healthy mounts meet in one sweep, whenever they were first seen.

    Never later than 1.1 intervals after `started`.
    """
    return floor(started / interval + 1 + GRID_TOLERANCE) * interval


def next_probe(reach: Reach, pace: Pace, *, started: float, now: float, failing_since: float | None) -> float:
    """When to probe again, after a report at `now` of a probe started at `started`."""
    if reach is Reach.RECOVERING:
        return now + CONFIRM_AFTER  # the first may have waited since before the server was back
    if reach in (Reach.SUSPECT, Reach.STALE):
        if failing_since is not None and now - failing_since > LONG_STALE:
            return now + max(LONG_STALE_PAUSE, pace.stale_interval - (now - started))
        return max(now, started + pace.stale_interval)
    return max(now, on_grid(started, pace.interval))
