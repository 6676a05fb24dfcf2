"""The three ways to ask many mounts, each run in a process of its own so that its memory and children are its own.

    python -m tests.bench.ways            one JSON object on standard input: a Task; see `start` for what comes out

ours      the watcher's sweep: one child for all mounts
seed      `stat` and then `df` for each mount, one mount after the other, with subprocess's own time-out
parallel  `stat -f` for each mount, 32 at a time; it does not wait for one that it had to kill, which is kinder than
          most such programs are
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tests.bench import gauges
from watcher.children import Children
from watcher.model import HOST, Event, Place, Probe, ProbeReport, Superblock
from watcher.probing.prober import Prober
from watcher.probing.wedged import WedgedNotes

AT_A_TIME = 32
MEMORY_SAMPLE = 100  # mounts: more need no more memory
GONE_LIMIT = 10.0  # seconds for everything to end that was let go


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure."""

    way: str
    mounts: list[tuple[str, int, str]]  # path, mount id, "major:minor"
    timeout: float  # seconds a mount may take
    rounds: int = 1
    deep: bool = False  # ours only: read the directories too
    hung: bool = False  # some mounts hang: one round; say how far it is; ours stays until they were let go


@dataclass(slots=True)
class Outcome:
    """What was measured: of each round, and at most."""

    wall: list[float] = field(default_factory=list)  # seconds
    cpu: list[float] = field(default_factory=list)
    answered: int = 0  # mounts, in the last round
    own_memory: int = 0  # bytes
    childrens_memory: int = 0
    children: int = 0  # at the same time
    wedged: int = 0  # threads that outlived their kill


def main() -> None:
    """Say an Outcome, one JSON object on a line; for mounts that hang see `_ours` and `_seed`."""
    task = Task(**json.loads(sys.stdin.readline()))
    match task.way:
        case "ours":
            asyncio.run(_ours(task))
        case "parallel":
            asyncio.run(_parallel(task))
        case _:
            _seed(task)
    os._exit(0)  # without waiting for children that hang


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


# ---- ours


async def _ours(task: Task) -> None:
    """With hung mounts: say the Outcome, wait for a line on standard input, and say how long the rest took to go."""
    children = Children()
    with tempfile.TemporaryDirectory() as runtime:
        sweeper = Sweeper(task, children, runtime)
        watching = asyncio.create_task(sweeper.prober.watch_wedged())
        outcome = await sweeper.measure()
        _say(asdict(outcome))
        if task.hung:
            await asyncio.to_thread(sys.stdin.readline)
            began = time.perf_counter()
            while (sweeper.prober.wedged or children.survivors) and time.perf_counter() - began < GONE_LIMIT:
                await asyncio.sleep(0.01)
            _say({"left": len(sweeper.prober.wedged) + children.survivors, "seconds": time.perf_counter() - began})
        watching.cancel()
    children.close()


class Sweeper:
    """Sweeps as the service does them, with the real prober and its real child."""

    def __init__(self, task: Task, children: Children, runtime: str) -> None:
        self._task = task
        self._children = children
        self._probes = [
            Probe(Superblock(device, "/", "fuse.test", path), Place(HOST, path), mount_id, task.timeout, task.deep)
            for path, mount_id, device in task.mounts
        ]
        self._verdicts: Counter[str] = Counter()
        self._verdict_at = 0.0  # the last one
        self.prober = Prober(children, self._take, notes=WedgedNotes(runtime))

    def _take(self, event: Event) -> None:
        if isinstance(event, ProbeReport):
            self._verdicts[event.verdict] += 1
            self._verdict_at = time.perf_counter()

    async def measure(self) -> Outcome:
        outcome = Outcome()
        if self._task.hung:
            with gauges.ChildrensMemory(0.1) as seen:
                await self._round(outcome)
        else:
            await self.prober.sweep(self._probes[:1])  # what is imported or looked up once
            for _ in range(self._task.rounds):
                await self._round(outcome)
            with gauges.ChildrensMemory(0.001) as seen:  # costs time: in a round that does not count
                self._verdicts.clear()
                await self.prober.sweep(self._probes)
        outcome.answered, outcome.wedged = self._verdicts["answered"], len(self.prober.wedged)
        outcome.own_memory, outcome.childrens_memory, outcome.children = gauges.memory(), seen.peak, seen.most
        return outcome

    async def _round(self, outcome: Outcome) -> None:
        self._verdicts.clear()
        began, cpu = time.perf_counter(), gauges.cpu()
        await self.prober.sweep(self._probes)
        outcome.wall.append(self._verdict_at - began)
        while self._children.survivors and not self.prober.wedged:
            await asyncio.sleep(0.002)  # its processor time counts when it has been reaped
        outcome.cpu.append(gauges.cpu() - cpu)


# ---- the simpler ways


def _seed(task: Task) -> None:
    """With hung mounts: say {"mount": number} before each mount, since it may be the last."""
    outcome = Outcome()
    for _ in range(task.rounds):
        began, cpu = time.perf_counter(), gauges.cpu()
        outcome.answered = _one_after_the_other(task)
        outcome.wall.append(time.perf_counter() - began)
        outcome.cpu.append(gauges.cpu() - cpu)
    with gauges.ChildrensMemory(0.001) as seen:
        _one_after_the_other(replace(task, mounts=task.mounts[:MEMORY_SAMPLE]))
    outcome.own_memory, outcome.childrens_memory, outcome.children = gauges.memory(), seen.peak, seen.most
    _say(asdict(outcome))


def _one_after_the_other(task: Task) -> int:
    answered = 0
    for number, (path, _, _) in enumerate(task.mounts, 1):
        if task.hung:
            _say({"mount": number})
        try:
            for command in (["stat", "-c", "%i", path], ["df", "-B1", "--output=size,used,avail", path]):
                subprocess.run(command, timeout=task.timeout, capture_output=True, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            continue
        answered += 1
    return answered


async def _parallel(task: Task) -> None:
    outcome = Outcome()
    for _ in range(task.rounds):
        began, cpu = time.perf_counter(), gauges.cpu()
        outcome.answered = await _side_by_side(task)
        outcome.wall.append(time.perf_counter() - began)
        outcome.cpu.append(gauges.cpu() - cpu)
    if not task.hung:
        with gauges.ChildrensMemory(0.001) as seen:
            await _side_by_side(replace(task, mounts=task.mounts[:MEMORY_SAMPLE]))
        outcome.childrens_memory, outcome.children = seen.peak, seen.most
    outcome.own_memory = gauges.memory()
    _say(asdict(outcome))
    os._exit(0)  # the loop's own closing would wait for what hangs


async def _side_by_side(task: Task) -> int:
    free = asyncio.Semaphore(AT_A_TIME)

    async def ask(path: str) -> bool:
        async with free:
            process = await asyncio.create_subprocess_exec(
                "stat", "-f", "-c", "%S %b %f %a", path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            try:
                await asyncio.wait_for(process.communicate(), task.timeout)
            except TimeoutError:
                process.kill()
                return False
            return process.returncode == 0

    return sum(await asyncio.gather(*(ask(path) for path, _, _ in task.mounts)))


if __name__ == "__main__":
    main()
