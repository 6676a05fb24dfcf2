"""One list of probes on its way through a probe child: what it is given, what it says, what that means.

Knows nothing of processes and waits for nothing: `prober` feeds it with output and tells it the time.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import sample

from watcher.model import Probe, ProbeReport, Stage, Usage, Verdict

CANARY_EVERY = 0.25  # the child's own rhythm
CANARY_LATE = 0.5  # a gap this long is time in which the child did not run
START_LIMIT = 10.0  # a job that no thread took in this time says nothing about its mount
# The same inside of a container, whose root directory may hang: that is no reason to keep the others' verdicts back.
START_LIMIT_INSIDE = 5.0
MAX_PER_LANE = 4  # threads that hang in one container at most, so that none can exhaust us
LANE_FULL = f"{MAX_PER_LANE} probes hang in this container already"
LANE_HANGS = f"not asked: {MAX_PER_LANE} probes hang in this container"
LANE_SLOW = "not asked: the mounts of this container answer too slowly"
# The mount table has another way than the file system: something was mounted over it, or it is gone.
_NO_SUCH_WAY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

Pool = tuple[str, int, int]  # a lane and the process of the child that works through it


@dataclass(slots=True)
class Job:
    probe: Probe
    slots: int = 0  # threads that its lane may have in its process; 0: no such limit
    tid: int = 0
    pid: int = 0  # of the process whose thread it is
    started: float = 0.0
    starved: float = 0.0  # the sweep's starved time when it started
    stage: Stage = Stage.WALK


class Sweep:
    """The state of one child's list of jobs; fed with its output, asked for reports."""

    def __init__(self, probes: Iterable[Probe], now: float, free: Callable[[str], int] = lambda lane: MAX_PER_LANE):
        """`free`: how many more threads may hang in a lane."""
        self.began = now
        self.full: list[Probe] = []  # of lanes that have no room: not asked
        self.late: list[Probe] = []  # not asked since all threads of their lane were busy
        self.slots: Counter[str] = Counter()  # by lane: threads that it has in this sweep
        self.hung: Counter[str] = Counter()  # by lane: threads that had not answered when the time was over
        self._held: dict[Pool, tuple[int, int]] = {}  # threads that it may have, jobs that are open
        self.open: dict[str, Job] = {}
        self._admit(list(probes), free)
        self._alive_at = now
        self._starved = 0.0
        self._rest = b""

    def _admit(self, probes: list[Probe], free: Callable[[str], int]) -> None:
        lanes: dict[str, dict[Pool, list[Probe]]] = {}
        jobs = []
        for probe in probes:
            if probe.lane:
                lanes.setdefault(probe.lane, {}).setdefault(_pool_of(probe), []).append(probe)
            else:
                jobs.append(Job(probe))
        for lane, pools in lanes.items():
            if (room := free(lane)) <= 0:
                self.full += [p for waiting in pools.values() for p in waiting]
                continue
            slots = _share(room, {pool: len(waiting) for pool, waiting in pools.items()})
            self.slots[lane] = sum(slots.values())
            for pool, waiting in pools.items():
                if not slots[pool]:
                    self.late += waiting
                    continue
                self._held[pool] = slots[pool], len(waiting)
                # Else those in front would be asked each time, and the others never while they hang.
                jobs += [Job(p, slots[pool]) for p in sample(waiting, len(waiting))]
        self.open = {str(i): job for i, job in enumerate(jobs)}

    def encode(self) -> bytes:
        """The jobs as the child reads them."""
        fields = []
        for name, job in self.open.items():
            p = job.probe
            options = ("d" if p.deep else "") + ("z" if p.superblock.fstype.startswith("fuse") else "")
            numbers = [str(p.mount_id), str(p.root_pid), str(p.user_namespace)]
            fields += [name, *numbers, p.lane, str(job.slots), p.place.mount_point, options]
        return ("\0".join(fields) + "\0").encode("utf-8", "surrogateescape")

    @property
    def goes_inside(self) -> bool:
        """Whether a user namespace is to be entered."""
        return any(job.probe.user_namespace for job in self.open.values())

    def holds(self, lane: str) -> int:
        """Threads that may hang in this lane now, on behalf of this sweep."""
        return sum(min(held) for pool, held in self._held.items() if pool[0] == lane)

    def feed(self, chunk: bytes, now: float) -> list[ProbeReport]:
        """Take output in; give the reports that are complete."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [report for line in lines if (report := self._line(line.decode("utf-8", "replace"), now))]

    def close(self, name: str) -> Job:
        """A job that needs no thread any more."""
        job = self.open.pop(name)
        if job.slots:
            slots, left = self._held[_pool_of(job.probe)]
            self._held[_pool_of(job.probe)] = slots, left - 1
        return job

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
                job.tid, job.pid, job.started, job.starved = int(rest[1]), int(rest[2]), now, self._starved
                return None
            case "walked":
                job.stage = Stage.STATFS
                return None
            case "deep":
                job.stage = Stage.DEEP
                return None
        self.close(rest[0])
        match word:
            case "ok":
                return _answered(job, [int(n) for n in rest[1:]])
            case "errno" if rest[1] != Stage.WALK or int(rest[2]) not in _NO_SUCH_WAY:
                return ProbeReport(
                    job.probe,
                    Verdict.FAILED,
                    job.started,
                    latency=int(rest[3]) / 1e6,
                    stage=Stage(rest[1]),
                    errno=int(rest[2]),
                )
            case "late":
                self.late.append(job.probe)
                return None
            case "void":
                return void(job.probe, job.started or now, line.split(" ", 2)[2])
        return ProbeReport(job.probe, Verdict.NOT_THIS_MOUNT, job.started or now, stage=Stage.WALK)

    def _note_alive(self, now: float) -> None:
        gap = now - self._alive_at
        if gap > CANARY_LATE:
            self._starved += gap - CANARY_EVERY
        self._alive_at = now

    def ends_at(self) -> float:
        """When the sweep is over, whoever has not answered by then."""
        ends = self.began
        for job in self.open.values():
            if job.tid:
                limit = job.started + job.probe.timeout
            else:
                limit = self.began + (START_LIMIT_INSIDE if job.probe.root_pid else START_LIMIT)
            ends = max(ends, limit)
        return ends

    def was_starved(self, job: Job, now: float) -> bool:
        """Whether the child ran too little of the time to blame the mount."""
        self._note_alive(now)
        self._alive_at = now
        return self._starved - job.starved > max(CANARY_LATE, 0.2 * job.probe.timeout)


def void(probe: Probe, started: float, note: str) -> ProbeReport:
    return ProbeReport(probe, Verdict.VOID, started, note=note)


def _answered(job: Job, numbers: list[int]) -> ProbeReport:
    latency, frsize, blocks, bfree, bavail, flag = numbers
    return ProbeReport(
        job.probe,
        Verdict.ANSWERED,
        job.started,
        latency=latency / 1e6,
        usage=Usage(blocks * frsize, max(0, blocks - bfree) * frsize, bavail * frsize),
        readonly=bool(flag & os.ST_RDONLY),
    )


def _pool_of(probe: Probe) -> Pool:
    # Those without a user namespace of their own share the first process.
    return (probe.lane, probe.user_namespace, probe.root_pid) if probe.user_namespace else (probe.lane, 0, 0)


def _share(room: int, wanted: dict[Pool, int]) -> dict[Pool, int]:
    """Hand out the threads of a lane to the processes that work through it, one by one."""
    shares = dict.fromkeys(wanted, 0)
    while room > 0 and shares != wanted:
        for pool in shares:
            if room > 0 and shares[pool] < wanted[pool]:
                shares[pool] += 1
                room -= 1
    return shares
