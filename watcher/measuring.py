"""Takes the measure of the running service when somebody asks; in between it costs nothing."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Sequence
from time import monotonic, time

from watcher import __version__, procfs
from watcher.children import Children
from watcher.core.figures import Figures
from watcher.core.incident import Incident
from watcher.core.listing import Listing
from watcher.core.measured import Measured, Process
from watcher.core.vitals import Delivery
from watcher.model import MountState, Silence

CLOCK_SET = 1.0  # seconds: less is the clock's own drift, and no reason for every time to change a little


class Measuring:
    """The parts of the service, and which mounts are listed one by one."""

    def __init__(
        self,
        figures: Figures,
        *,
        states: Callable[[], Sequence[MountState]],
        channels: Callable[[], Sequence[Delivery]],
        healthy: Callable[[], bool],
        hanging: Callable[[], int],
        incidents: Iterable[Incident],
        silences: Callable[[], Sequence[Silence]],
        children: Children,
    ) -> None:
        self._figures = figures
        self._states = states
        self._channels = channels
        self._healthy = healthy
        self._hanging = hanging
        self._incidents = incidents
        self._silences = silences
        self._children = children
        self._listing = Listing()
        self._started = time()
        self._offset = 0.0

    def measure(self) -> Measured:
        """All of it, as it is now."""
        now = monotonic()
        if abs(time() - now - self._offset) > CLOCK_SET:
            self._offset = time() - now
        listed = self._listing.choose(self._states(), now)
        latencies = ((labels, self._figures.latency(state.place)) for labels, state in listed.mounts)
        channels = self._channels()
        return Measured(
            version=__version__,
            clock_offset=self._offset,
            listed=listed,
            latencies={labels: reading for labels, reading in latencies if reading is not None},
            counts=self._figures.counts(delivery.channel for delivery in channels),
            channels=channels,
            healthy=self._healthy(),
            hanging=self._hanging(),
            incidents=sum(1 for incident in self._incidents if incident.closed is None),
            silences=len(self._silences()),
            process=self._process(),
        )

    def _process(self) -> Process:
        own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        children = self._children.pids
        return Process(
            started=self._started,
            cpu=own.ru_utime + own.ru_stime,
            resident=procfs.resident("self"),
            children=len(children),
            children_resident=sum(map(procfs.resident, children)),
            children_cpu=ended.ru_utime + ended.ru_stime,
        )
