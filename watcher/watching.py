"""The watching itself: what the kernel tells goes to the picture, what is due to the prober, what changed to `take`.

Decides nothing (that is `core.picture`'s), and tells nobody (that is the daemon's).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from socket import gethostname
from time import monotonic

import anyio
import anyio.abc
import anyio.lowlevel

from watcher.children import Children
from watcher.core.figures import Figures
from watcher.core.latencies import Latencies
from watcher.core.picture import Picture, merged
from watcher.core.schedule import sweeps_of
from watcher.core.vitals import Observations
from watcher.core.wording import count
from watcher.expectations import Expectations
from watcher.model import (
    HOST,
    Asked,
    Event,
    Mount,
    NamespaceGone,
    Overslept,
    Place,
    Probe,
    ProbeReport,
    TableRead,
    TableUnreadable,
    Tick,
    Transition,
    Verdict,
)
from watcher.narration import Narrator
from watcher.probing.prober import Prober
from watcher.probing.wedged import WedgedNotes
from watcher.reading import FileReader
from watcher.rules import rules_of
from watcher.settings import Settings
from watcher.sources import mount_table
from watcher.sources.containers import ContainerTables

log = logging.getLogger(__name__)

OVERSLEPT = 1.0  # seconds behind the plan: then it is we who were not there
DISKS_EVERY = 10.0  # seconds
GATHER = 0.01  # seconds: a sweep's reports come in bursts, and each look at what is due costs
_IN_WORDS = {"denied": "not checkable", "missing": "not mounted", "readonly": "read-only"}  # as `--once` has it


class Watching:
    """The host and its containers, from the first table to the last probe."""

    def __init__(
        self,
        settings: Settings,
        mounts: Sequence[Mount],
        *,
        picture: Picture,
        take: Callable[[list[Transition], float], object],
        children: Children,
        reader: FileReader,
        runtime: str | None,
        environ: Mapping[str, str],
        figures: Figures,
    ) -> None:
        """`mounts`: the host's; `take`: is given transitions, and when; `runtime`: where notes may be kept."""
        self.mounts = tuple(mounts)
        self.picture = picture
        self.narrator = Narrator()
        self.seen = Observations(monotonic())
        self._figures = figures
        self.latencies = Latencies()
        self.ready = False  # the first table is read, and the first round of probes is back
        self._take_on = take
        self._proc, self._sys = settings.paths.proc, settings.paths.sys
        self._wake, self._wanted = asyncio.Event(), asyncio.Event()
        self._containers_wanted = asyncio.Event()
        self._watching_containers: anyio.CancelScope | None = None
        self._prober = Prober(
            children, self._handle, notes=WedgedNotes(runtime, self._proc), proc=self._proc, environ=environ
        )
        self._containers = ContainerTables(
            proc=self._proc,
            cgroup=settings.paths.cgroup,
            lxc_config=settings.paths.lxc_config,
            children=children,
            reader=reader,
            host_mounts=lambda: self.mounts,
        )
        self._wants_disks = settings.watch.local
        self._expectations = Expectations(settings, children, node=gethostname().partition(".")[0])
        self._want_containers(settings.watch.containers)

    def begin(self) -> None:
        """Take in what there is, and what still hangs of an earlier run."""
        self._handle(TableRead(HOST, self.mounts))
        self._prober.recall()

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._read_tables)
            self._tasks.start_soon(self._read_containers)
            self._tasks.start_soon(self._read_expectations)
            self._tasks.start_soon(self._look_at_disks)
            self._tasks.start_soon(self._probe)
            self._tasks.start_soon(self._prober.watch_wedged)

    def configure(self, settings: Settings) -> None:
        """By these rules from now on."""
        now, tracker = monotonic(), self.picture.tracker
        before = [(namespace, tracker.places(namespace)) for namespace in tracker.namespaces()]
        self._take(self.picture.configure(rules_of(settings), now), now)
        for namespace, places in before:
            after = tracker.places(namespace)
            self._figures.watched(namespace, after)
            self.narrator.places(places, after, now, gone="no longer watched")
        self._want_containers(settings.watch.containers)
        self._expectations.configure(settings)
        self._wants_disks = settings.watch.local

    def probe_now(self, place: Place) -> Asked | None:
        """Ask the mount in this place at once, if that can be; None if it is not watched."""
        asked = self.picture.ask_now(place, monotonic())
        self._wake.set()
        return asked

    def note_problems(self) -> None:
        """Say what cannot be watched as it should be, where that is new."""
        self.narrator.problems(merged(self._containers.problems, self.picture.problems(), self._expectations.problems))

    def counts(self) -> Counter[str]:
        """How many mounts are in each state, by its word."""
        return Counter(state.status for state in self.picture.snapshot())

    def summary(self) -> str:
        """How many there are, and how they are, in one line."""
        tally = self.counts()
        parts = [f"{number} {_IN_WORDS.get(status, status)}" for status, number in tally.most_common()]
        text = f"watching {count(tally.total(), 'mount')}"
        if containers := len(self.picture.tracker.namespaces()) - 1:
            text += f" on the host and in {count(containers, 'container')}"
        text += f": {', '.join(parts)}" if parts else ""
        return text + (f"; {count(self.hanging, 'probe')} hanging" if self.hanging else "")

    @property
    def hanging(self) -> int:
        """Mounts in which a probe hangs for good."""
        return len(self._prober.wedged)

    # ---- events in, transitions out

    def _handle(self, event: Event) -> None:
        """Give an event to the picture and pass on what changed by it."""
        now = monotonic()
        self._figures.event(event)
        if isinstance(event, TableRead | NamespaceGone):
            if event.namespace == HOST and isinstance(event, TableRead):
                self.mounts = event.mounts
            if event.namespace != HOST and event.namespace not in self.picture.tracker.namespaces():
                self._expectations.wanted.set()
            before = self.picture.tracker.places(event.namespace)
            self._take(self.picture.handle(event, now), now)
            why = event.reason if isinstance(event, NamespaceGone) else "no longer mounted"
            after = self.picture.tracker.places(event.namespace)
            self._figures.watched(event.namespace, after)
            if event.namespace != HOST and isinstance(event, TableRead) and before.keys() - after.keys():
                self._expectations.doubt(event.namespace)
            self.narrator.places(before, after, now, gone=why)
            return
        if isinstance(event, TableUnreadable):
            log.error("cannot read the mount table of %s: %s", event.namespace, event.error)
        if isinstance(event, ProbeReport):
            self.latencies.note(event)
            void = event.verdict is Verdict.VOID
            self.seen.report(now, void=void)
            if void:
                self.narrator.void(event, now)
        self._take(self.picture.handle(event, now), now)

    def _take(self, transitions: list[Transition], now: float) -> None:
        self._take_on(transitions, now)
        self._wake.set()

    async def _read_tables(self) -> None:
        def looked() -> None:
            now = monotonic()
            self.seen.table_read(now)
            self._figures.table_read(now)

        async for event in mount_table.tables(self._proc, self._wanted, looked):
            self._handle(event)

    async def _read_containers(self) -> None:
        """While the rules want containers; then they are forgotten."""
        while True:
            await self._containers_wanted.wait()
            with anyio.CancelScope() as self._watching_containers:
                async with aclosing(self._containers.events()) as events:
                    async for event in events:
                        self._handle(event)
                        await anyio.lowlevel.checkpoint()  # two hundred tables are not one turn of the loop
            for namespace in self.picture.tracker.namespaces():
                if namespace != HOST:
                    self._handle(NamespaceGone(namespace, "no longer watched"))

    async def _look_at_disks(self) -> None:
        while True:
            if self._wants_disks:
                self._handle(mount_table.disks(self._proc, self._sys))
                if self.picture.local.in_doubt:
                    self._wanted.set()  # of the table: it may have been unmounted meanwhile
                    await anyio.sleep(1.0)
                    continue
            await anyio.sleep(DISKS_EVERY)

    async def _read_expectations(self) -> None:
        async with aclosing(self._expectations.events(lambda: self.mounts, self.picture.missing.containers)) as events:
            async for event in events:
                self._handle(event)

    def _want_containers(self, wanted: bool) -> None:
        if wanted:
            self._containers_wanted.set()
            return
        self._containers_wanted.clear()
        if self._watching_containers is not None:
            self._watching_containers.cancel()

    # ---- probes

    async def _probe(self) -> None:
        """Start what is due, when it is due."""
        while True:
            self._wake.clear()
            now = monotonic()
            if rereads := self.picture.take_rereads():
                if HOST in rereads:
                    self._wanted.set()
                self._containers.want(rereads - {HOST})
            due = self.picture.next_due()
            if due is not None and due <= now:
                if now - due > OVERSLEPT:
                    self._prober.look_at_wedged()
                    self.picture.handle(Overslept(), now)
                self._take(self.picture.handle(Tick(), now), now)
                if self.picture.wants_use(now):
                    self.picture.handle(mount_table.use(self._proc), now)
                for probes in sweeps_of(self.picture.start_due(now)):
                    self._tasks.start_soon(self._sweep, probes)
                await anyio.lowlevel.checkpoint()
                continue
            self.ready = self.ready or self.seen.is_idle
            with anyio.move_on_after(None if due is None else due - now):
                await self._wake.wait()
                await anyio.sleep(GATHER)

    async def _sweep(self, probes: list[Probe]) -> None:
        began = monotonic()
        sweep = self.seen.sweep_began(began + max(probe.timeout for probe in probes))
        try:
            await self._prober.sweep(probes)
            self.ready = True
        finally:
            self.seen.sweep_ended(sweep)
            self._figures.sweep(monotonic() - began)
