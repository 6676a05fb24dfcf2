"""Runs probe children and turns what they print into reports. Decides nothing about health.

One sweep is one child. Its verdicts come as they are printed; what has not answered by its deadline
has timed out, the child is killed and its exit is never awaited. A thread that outlives the kill is
*wedged*, and is watched until the kernel lets it go.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

from watcher import procfs
from watcher.children import KILL_GRACE, Child, Children, environment
from watcher.model import (
    Event,
    Probe,
    ProbeReport,
    Stage,
    StillWedged,
    Superblock,
    ThreadGone,
    Usage,
    Verdict,
    Wedged,
)
from watcher.probing.wedged import Note, WedgedNotes

log = logging.getLogger(__name__)

_CHILD = str(Path(__file__).with_name("child.py"))
CANARY_EVERY = 0.25  # the child's own rhythm
CANARY_LATE = 0.5  # a gap this long is time in which the child did not run
START_LIMIT = 10.0  # a job that no thread took in this time says nothing about its mount
# The mount table has another way than the file system: something was mounted over it, or it is gone.
_NO_SUCH_WAY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
MAX_STACKS = 64  # read per sweep: 200 hung mounts of one server hang in one place
POLL_WEDGED = 0.25  # seconds between two looks at the threads that hang for good


@dataclass(slots=True)
class _Job:
    probe: Probe
    tid: int = 0
    started: float = 0.0
    starved: float = 0.0  # the sweep's starved time when it started
    stage: Stage = Stage.WALK


class _Sweep:
    """The state of one child's list of jobs; fed with its output, asked for reports."""

    def __init__(self, probes: Iterable[Probe], now: float) -> None:
        self.open = {str(i): _Job(probe) for i, probe in enumerate(probes)}
        self.began = now
        self._alive_at = now
        self._starved = 0.0
        self._rest = b""

    def encode(self) -> bytes:
        """The jobs as the child reads them."""
        fields = []
        for name, job in self.open.items():
            options = ("d" if job.probe.deep else "") + ("z" if job.probe.superblock.fstype.startswith("fuse") else "")
            fields += [name, str(job.probe.mount_id), "/", job.probe.place.mount_point, options]
        return ("\0".join(fields) + "\0").encode("utf-8", "surrogateescape")

    def feed(self, chunk: bytes, now: float) -> list[ProbeReport]:
        """Take output in; give the reports that are complete."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [report for line in lines if (report := self._line(line.decode("utf-8", "replace"), now))]

    def _line(self, line: str, now: float) -> ProbeReport | None:
        word, *rest = line.split(" ", 5 if line.startswith(("void", "errno")) else -1)
        if word == "alive":
            self._note_alive(now)
            return None
        job = self.open.get(rest[0])
        if job is None:
            return None
        match word:
            case "start":
                job.tid, job.started, job.starved = int(rest[1]), now, self._starved
            case "walked":
                job.stage = Stage.STATFS
            case "deep":
                job.stage = Stage.DEEP
            case "ok":
                del self.open[rest[0]]
                return _answered(job, [int(n) for n in rest[1:]])
            case "errno" if rest[1] == Stage.WALK and int(rest[2]) in _NO_SUCH_WAY:
                del self.open[rest[0]]
                return ProbeReport(job.probe, Verdict.NOT_THIS_MOUNT, job.started or now, stage=Stage.WALK)
            case "errno":
                del self.open[rest[0]]
                return ProbeReport(
                    job.probe,
                    Verdict.FAILED,
                    job.started,
                    latency=int(rest[3]) / 1e6,
                    stage=Stage(rest[1]),
                    errno=int(rest[2]),
                )
            case "other":
                del self.open[rest[0]]
                return ProbeReport(job.probe, Verdict.NOT_THIS_MOUNT, job.started or now, stage=Stage.WALK)
            case "void":
                del self.open[rest[0]]
                return _void(job.probe, job.started or now, line.split(" ", 2)[2])
        return None

    def _note_alive(self, now: float) -> None:
        gap = now - self._alive_at
        if gap > CANARY_LATE:
            self._starved += gap - CANARY_EVERY
        self._alive_at = now

    def ends_at(self) -> float:
        """When the sweep is over, whoever has not answered by then."""
        running = [j.started + j.probe.timeout for j in self.open.values() if j.tid]
        if len(running) < len(self.open):
            running.append(self.began + START_LIMIT)
        return max(running, default=self.began)

    def was_starved(self, job: _Job, now: float) -> bool:
        """Whether the child ran too little of the time to blame the mount."""
        self._note_alive(now)
        self._alive_at = now
        return self._starved - job.starved > max(CANARY_LATE, 0.2 * job.probe.timeout)


def _answered(job: _Job, numbers: list[int]) -> ProbeReport:
    latency, frsize, blocks, bfree, bavail, flag = numbers
    return ProbeReport(
        job.probe,
        Verdict.ANSWERED,
        job.started,
        latency=latency / 1e6,
        usage=Usage(blocks * frsize, max(0, blocks - bfree) * frsize, bavail * frsize),
        readonly=bool(flag & os.ST_RDONLY),
    )


def _void(probe: Probe, started: float, note: str) -> ProbeReport:
    return ProbeReport(probe, Verdict.VOID, started, note=note)


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
        self._wedged: dict[Wedged, Note] = {}
        self._some_wedged = asyncio.Event()

    async def sweep(self, probes: list[Probe]) -> None:
        """Ask these mounts in one child; every one of them gets exactly one report."""
        now = monotonic()
        sweep = _Sweep(probes, now)
        child: Child | None = None
        try:
            child = await self._children.spawn([sys.executable, "-I", "-S", _CHILD], self._env)
            child.write(sweep.encode())
            child.close_stdin()
            await self._listen(child, sweep)
            if sweep.open:
                await self._give_up(child, sweep)
        except asyncio.CancelledError:
            if child is not None:
                self._leave(child, sweep)
            raise
        except OSError as e:
            self._void_rest(sweep, f"cannot start a probe: {e.strerror}")
        finally:
            if child is not None:
                child.kill()

    async def _listen(self, child: Child, sweep: _Sweep) -> None:
        """Emit reports as they come, until all have come, the time is over or the child is gone."""
        while sweep.open:
            try:
                chunk = await child.read(timeout=max(0.0, sweep.ends_at() - monotonic()))
            except TimeoutError:
                # What had come in the very turn of the loop in which the time ran out still counts.
                if not (chunk := child.take()):
                    return
            if not chunk:
                self._void_rest(sweep, "the probe process ended")
                return
            for report in sweep.feed(chunk, monotonic()):
                self._emit(report)

    async def _give_up(self, child: Child, sweep: _Sweep) -> None:
        """Kill the child, see which threads outlive it, report the rest as timed out."""
        now = monotonic()
        jobs = list(sweep.open.values())
        starved = {id(job) for job in jobs if not job.tid or sweep.was_starved(job, now)}
        stacks = {j.tid: procfs.stack(self._proc, child.pid, j.tid) for j in jobs[:MAX_STACKS] if j.tid}
        start_time = procfs.start_time(self._proc, child.pid) or 0
        child.kill()
        wedged: set[int] = set()
        if not await child.wait_exit(KILL_GRACE):
            wedged = {t for t in procfs.threads(self._proc, child.pid) if t != child.pid}
        notes = []
        for job in jobs:
            stuck = Wedged(child.pid, start_time, job.tid) if job.tid in wedged else None
            if stuck:
                notes.append(Note(job.probe.superblock, stuck, time() - (monotonic() - job.started)))
            if id(job) in starved and stuck is None:
                reason = "this machine was too slow to judge it" if job.tid else "no thread was free to ask it"
                self._emit(_void(job.probe, job.started or now, reason))
                continue
            self._emit(
                ProbeReport(
                    job.probe,
                    Verdict.TIMED_OUT,
                    job.started,
                    stage=job.stage,
                    stack=stacks.get(job.tid, ()),
                    wedged=stuck,
                )
            )
        sweep.open.clear()
        if notes:
            self._watch(notes)
            self._write_notes(child.pid)

    def _leave(self, child: Child, sweep: _Sweep) -> None:
        """Note what still runs, since nobody will look whether it ends: the next run will."""
        start_time, now = procfs.start_time(self._proc, child.pid) or 0, monotonic()
        running = [job for job in sweep.open.values() if job.tid]
        notes = [
            Note(j.probe.superblock, Wedged(child.pid, start_time, j.tid), time() - (now - j.started)) for j in running
        ]
        if notes:
            self._notes.write(child.pid, notes)

    def _void_rest(self, sweep: _Sweep, note: str) -> None:
        now = monotonic()
        for job in sweep.open.values():
            self._emit(_void(job.probe, job.started or now, note))
        sweep.open.clear()

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
