"""Runs probe children and turns what they print into reports. Decides nothing about health.

One sweep is one child, and whatever that forks. Its verdicts come as they are printed; what has not
answered by its deadline has timed out, the child is killed and its exit is never awaited. A thread
that outlives the kill is *wedged*, and is watched until the kernel lets it go.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import monotonic, time

from watcher import procfs
from watcher.children import KILL_GRACE, Child, Children, environment, script
from watcher.model import Event, Probe, ProbeReport, StillWedged, Superblock, ThreadGone, Verdict, Wedged
from watcher.probing.sweep import (
    LANE_FULL,
    LANE_HANGS,
    LANE_SLOW,
    MAX_PER_LANE,
    START_LIMIT,
    Job,
    Sweep,
    void,
)
from watcher.probing.wedged import Note, WedgedNotes

log = logging.getLogger(__name__)

_CHILD = str(Path(__file__).with_name("child.py"))
_INSIDE = str(Path(__file__).with_name("inside.py"))  # the same, for sweeps that enter user namespaces
ENDED = "the probe process ended"
MAX_STACKS = 64  # read per sweep: 200 hung mounts of one server hang in one place
DYING = 3.0  # seconds, see `_survivors`
POLL_KILLED = 0.01  # seconds between two looks at killed processes that are not our own children
BUSY_PAUSE = 0.1  # seconds until it is looked again whether another sweep is done with a container
POLL_WEDGED = 0.25  # seconds between two looks at the threads that hang for good


class Prober:
    """Starts sweeps, watches wedged threads, and emits what it learns as events."""

    def __init__(
        self,
        children: Children,
        emit: Callable[[Event], None],
        *,
        notes: WedgedNotes,
        proc: str = "/proc",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._children = children
        self._emit = emit
        self._proc = proc
        self._notes = notes
        self._env = environment(os.environ if environ is None else environ)
        self._sweeps: list[Sweep] = []  # those under way
        self._wedged: dict[Wedged, Note] = {}
        self._some_wedged = asyncio.Event()

    async def sweep(self, probes: list[Probe]) -> None:
        """Ask these mounts; every one of them gets exactly one report. Another child asks what a slow lane leaves."""
        began = monotonic()
        while probes:
            probes = await self._ask(probes)
            if probes and monotonic() - began > START_LIMIT:
                self._void_all(probes, LANE_SLOW)
                return

    async def _ask(self, probes: list[Probe]) -> list[Probe]:
        """Ask in one child; gives the probes to be asked again, since their lane was busy but does not hang."""
        sweep = Sweep(probes, monotonic(), self._room)
        self._void_all([p for p in sweep.full if self._wedged_in(p.lane) >= MAX_PER_LANE], LANE_FULL)
        busy = [p for p in sweep.full if self._wedged_in(p.lane) < MAX_PER_LANE]
        if not sweep.open:
            if busy:
                await asyncio.sleep(BUSY_PAUSE)
            return busy
        child: Child | None = None
        self._sweeps.append(sweep)
        try:
            path = _INSIDE if sweep.goes_inside else _CHILD
            child = await self._children.spawn(script(path), self._env)
            child.write(sweep.encode())
            child.close_stdin()
            await self._listen(child, sweep)
            if sweep.open:
                await self._give_up(child, sweep)
        except asyncio.CancelledError:
            if child is not None:
                self._leave(sweep)
            raise
        except OSError as e:
            self._void_rest(sweep, f"cannot start a probe: {e.strerror}")
        finally:
            self._sweeps.remove(sweep)
            if child is not None:
                child.kill()
        hanging = [p for p in sweep.late if sweep.hung[p.lane] >= sweep.slots[p.lane]]
        self._void_all(hanging, LANE_HANGS)
        return busy + [p for p in sweep.late if sweep.hung[p.lane] < sweep.slots[p.lane]]

    def _wedged_in(self, lane: str) -> int:
        return sum(1 for note in self._wedged.values() if note.lane == lane)

    def _room(self, lane: str) -> int:
        """How many more threads may hang in a lane."""
        return MAX_PER_LANE - self._wedged_in(lane) - sum(sweep.holds(lane) for sweep in self._sweeps)

    async def _listen(self, child: Child, sweep: Sweep) -> None:
        """Emit reports as they come, until all have come, the time is over or the child is gone."""
        while sweep.open:
            try:
                chunk = await child.read(timeout=max(0.0, sweep.ends_at() - monotonic()))
            except TimeoutError:
                # What had come in the very turn of the loop in which the time ran out still counts.
                if not (chunk := child.take()):
                    return
            if not chunk:
                self._void_rest(sweep, ENDED)
                return
            for report in sweep.feed(chunk, monotonic()):
                self._emit(report)

    async def _give_up(self, child: Child, sweep: Sweep) -> None:
        """Kill the child, see which threads outlive it, report the rest as timed out."""
        now = monotonic()
        jobs = list(sweep.open.values())
        running = [job for job in jobs if job.tid]
        starved = {id(job) for job in jobs if not job.tid or sweep.was_starved(job, now)}
        stacks = {job.tid: procfs.stack(self._proc, job.pid, job.tid) for job in running[:MAX_STACKS]}
        begun = self._start_times(running)
        child.kill()
        survivors = await self._survivors(child, begun)
        notes = [_note(job, begun[job.pid]) for job in running if (job.pid, job.tid) in survivors]
        wedged = {note.wedged.tid: note.wedged for note in notes}
        self._watch(notes)
        sweep.hung = Counter(job.probe.lane for job in running)
        sweep.open.clear()
        for job in jobs:
            stuck = wedged.get(job.tid)
            if stuck is None and job.tid and job.pid not in begun:
                self._emit(void(job.probe, job.started, ENDED))
            elif stuck is None and id(job) in starved:
                reason = "this machine was too slow to judge it" if job.tid else "no thread was free to ask it"
                self._emit(void(job.probe, job.started or now, reason))
            else:
                stack = stacks.get(job.tid, ())
                self._emit(
                    ProbeReport(job.probe, Verdict.TIMED_OUT, job.started, stage=job.stage, stack=stack, wedged=stuck)
                )
        for pid in {note.wedged.pid for note in notes}:
            self._write_notes(pid)

    def _start_times(self, running: Iterable[Job]) -> dict[int, int]:
        """When the processes in which these jobs run were started; without those that have ended."""
        found = {pid: procfs.start_time(self._proc, pid) for pid in {job.pid for job in running}}
        return {pid: began for pid, began in found.items() if began is not None}

    async def _survivors(self, child: Child, begun: Mapping[int, int]) -> set[tuple[int, int]]:
        """The threads, as (pid, tid), that these processes still have KILL_GRACE after they were killed.

        One that nothing holds but a machine that is too busy, has DYING besides, for it to be its turn to end.
        """
        deadline = monotonic() + KILL_GRACE
        await child.wait_exit(KILL_GRACE)
        while True:
            left = {
                (pid, tid)
                for pid, began in begun.items()
                if not (pid == child.pid and child.exited) and procfs.start_time(self._proc, pid) == began
                for tid in procfs.threads(self._proc, pid) - {pid}
            }
            late = monotonic() - deadline
            if not left or late >= DYING or (late >= 0 and all(procfs.is_held(self._proc, *one) for one in left)):
                return left
            await asyncio.sleep(POLL_KILLED)

    def _leave(self, sweep: Sweep) -> None:
        """Note what still runs, since nobody will look whether it ends: the next run will."""
        running = [job for job in sweep.open.values() if job.tid]
        begun = self._start_times(running)
        for pid in begun:
            self._notes.write(pid, [_note(job, begun[pid]) for job in running if job.pid == pid])

    def _void_rest(self, sweep: Sweep, note: str) -> None:
        now = monotonic()
        for job in sweep.open.values():
            self._emit(void(job.probe, job.started or now, note))
        self._void_all(sweep.late, note)
        sweep.open.clear()
        sweep.late.clear()

    def _void_all(self, probes: Iterable[Probe], note: str) -> None:
        now = monotonic()
        for probe in probes:
            self._emit(void(probe, now, note))

    # ---- threads that hang for good

    def recall(self) -> list[Note]:
        """What earlier runs left hanging; emits a StillWedged for each."""
        notes = self._notes.read()
        for note in notes:
            since = monotonic() - max(0.0, time() - note.since_wall)
            self._emit(StillWedged(note.superblock, note.wedged, since))
        self._watch(notes)
        return notes

    def _watch(self, notes: list[Note]) -> None:
        self._wedged.update((note.wedged, note) for note in notes)
        if self._wedged:
            self._some_wedged.set()

    def _write_notes(self, pid: int) -> None:
        self._notes.write(pid, [n for n in self._wedged.values() if n.wedged.pid == pid])
        if self._notes.error:
            log.warning("cannot note probes that hang: %s", self._notes.error)
            self._notes.error = ""

    async def watch_wedged(self) -> None:
        """Emit a ThreadGone for each wedged thread that ends. Runs until cancelled."""
        while True:
            await self._some_wedged.wait()
            self.look_at_wedged()
            if not self._wedged:
                self._some_wedged.clear()
                continue
            await asyncio.sleep(POLL_WEDGED)

    def look_at_wedged(self) -> None:
        """Emit a ThreadGone for each wedged thread that has ended by now."""
        gone = [w for w in self._wedged if not self._notes.still_hangs(w)]
        for wedged in gone:
            del self._wedged[wedged]
            self._emit(ThreadGone(wedged))
        for pid in {w.pid for w in gone}:
            self._write_notes(pid)

    @property
    def wedged(self) -> dict[Superblock, float]:
        """Mounts in which a thread hangs for good, and since when (epoch seconds)."""
        return {note.superblock: note.since_wall for note in self._wedged.values()}


def _note(job: Job, process_began: int) -> Note:
    since = time() - (monotonic() - job.started)
    return Note(job.probe.superblock, Wedged(job.pid, process_began, job.tid), since, job.probe.lane)
