"""Everything that is measured, at one moment, as `status.metrics` exposes it. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from watcher.core.figures import Counts, Reading
from watcher.core.listing import Labels, Listed
from watcher.core.vitals import Delivery


class Process(NamedTuple):
    """What the service itself uses."""

    started: float  # seconds since the epoch
    cpu: float  # seconds of processor time
    resident: int  # bytes
    children: int  # that run now
    children_resident: int  # bytes, of all of them
    children_cpu: float  # seconds, of those that have ended


class Measured(NamedTuple):
    version: str
    clock_offset: float  # epoch minus monotonic seconds
    listed: Listed
    latencies: Mapping[Labels, Reading]  # of probes that were answered
    counts: Counts
    channels: Sequence[Delivery]
    healthy: bool
    hanging: int  # probes that hang for good
    incidents: int  # open ones
    silences: int  # that hold
    process: Process
