"""Mounts that answer, some that hang, all that hang: three ways side by side on the same mounts."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from tests.bench.report import Figure, Row, Section, about, megabytes, nothing, number, seconds
from tests.bench.stage import Stage
from tests.bench.ways import Outcome, Task
from tests.fakes.fuse import HANG, OK, FuseMount

SAMPLE = 200  # mounts of more than SAMPLE_FROM, for the ways that would take minutes
SAMPLE_FROM = 2000
EXIT_LIMIT = 5.0  # seconds
TARGETS = {1000: (seconds(0.1), seconds(0.15))}  # mounts: wall, processor time


class Failed(Exception):
    """A way did not do what it was measured for: its figures would mean nothing."""


class Run:
    """One way, at work in a process of its own."""

    def __init__(self, task: Task) -> None:
        command = [sys.executable, "-m", "tests.bench.ways"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.write(json.dumps(asdict(task)))

    def write(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def read(self) -> dict[str, Any] | None:
        """The next object that it says; None at the end."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Let it clean up and end, or kill it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        try:
            self._process.wait(EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait(EXIT_LIMIT)


def _task(way: str, mounts: Sequence[FuseMount], timeout: float, **options: Any) -> Task:
    return Task(way, [(m.mount_point, m.mount_id, m.device) for m in mounts], timeout, **options)


def _measure(way: str, mounts: Sequence[FuseMount], rounds: int, *, deep: bool = False) -> Outcome:
    """Healthy mounts. Raises Failed if they did not all answer."""
    run = Run(_task(way, mounts, 10.0, rounds=rounds, deep=deep))
    try:
        said = run.read()
    finally:
        run.end()
    if said is None or said["answered"] != len(mounts):
        raise Failed(f"{way}: {said and said['answered']} of {len(mounts)} healthy mounts answered")
    return Outcome(**said)


# ---- healthy mounts


def healthy(stage: Stage, sizes: Sequence[int]) -> Section:
    rows = []
    for size in sizes:
        mounts = stage.mounts(size)
        rows += _healthy(mounts)
    return "Healthy mounts, one sweep over all of them", rows


def _healthy(mounts: Sequence[FuseMount]) -> list[Row]:
    size = len(mounts)
    ours = _measure("ours", mounts, rounds=7 if size <= 1000 else 3)
    sampled = mounts if size < SAMPLE_FROM else mounts[:: size // SAMPLE]
    scale = size / len(sampled)
    others = [
        _measure("seed", sampled, rounds=3 if size <= 100 else 1),
        _measure("parallel", sampled, rounds=3 if size <= 1000 else 1),
    ]
    wall_target, cpu_target = TARGETS.get(size, (None, None))

    def scaled(values: list[float]) -> Figure:
        figure = seconds(scale * median(values))
        return figure if scale == 1 else about(figure, f"from {len(sampled)}")

    seed, parallel = others
    label = f"{size:,} mounts"
    rows = [
        Row(label, seconds(median(ours.wall)), scaled(seed.wall), scaled(parallel.wall), wall_target),
        Row(f"{label}: processor time", seconds(median(ours.cpu)), scaled(seed.cpu), scaled(parallel.cpu), cpu_target),
        Row(
            f"{label}: memory of children",
            megabytes(ours.childrens_memory),
            megabytes(seed.childrens_memory),
            megabytes(parallel.childrens_memory),
        ),
        Row(
            f"{label}: memory of own process",
            megabytes(ours.own_memory),
            megabytes(seed.own_memory),
            megabytes(parallel.own_memory),
        ),
    ]
    if size in TARGETS:
        deep = _measure("ours", mounts, rounds=3, deep=True)
        rows.append(Row(f"{label}, directories read too", seconds(median(deep.wall))))
        rows.append(Row(f"{label}, directories read too: processor time", seconds(median(deep.cpu))))
    return rows


# ---- mounts that hang


def some_hung(stage: Stage, size: int, count: int, timeout: float, bound: float) -> Section:
    """`count` of `size` mounts hang for good; the others are answered among them."""
    mounts = stage.mounts(size)
    hung = mounts[size // count // 2 :: size // count][:count]
    ours, gone = _ours_hung(mounts, hung, timeout)
    _expect(ours, answered=size - count, wedged=count)
    seed = _seed_hung(mounts, hung, timeout, bound)
    parallel = _parallel_hung(mounts, hung, timeout)
    heading = f"{size:,} mounts, {count} of them hung for good; time-out {timeout:g} s"
    return heading, [
        Row("until the last verdict", seconds(ours.wall[0]), seed, parallel, seconds(timeout + 0.6)),
        *_remains(ours, gone),
    ]


def all_hung(stage: Stage, size: int, timeout: float, bound: float) -> Section:
    mounts = stage.mounts(size)
    ours, gone = _ours_hung(mounts, mounts, timeout)
    _expect(ours, answered=0, wedged=size)
    seed = _seed_hung(mounts, mounts, timeout, bound)
    parallel = _parallel_hung(mounts, mounts, timeout)
    heading = f"{size:,} of {size:,} mounts hung for good; time-out {timeout:g} s"
    return heading, [
        Row("until the last verdict", seconds(ours.wall[0]), seed, parallel, seconds(timeout + 0.3)),
        Row("children", number(ours.children), target=number(1)),
        Row("memory of the child", megabytes(ours.childrens_memory), target=megabytes(20e6)),
        *_remains(ours, gone),
    ]


def _expect(ours: Outcome, *, answered: int, wedged: int) -> None:
    if (ours.answered, ours.wedged) != (answered, wedged):
        raise Failed(f"{ours.answered} answered and {ours.wedged} hang, not {answered} and {wedged}")


def _remains(ours: Outcome, gone: Figure) -> list[Row]:
    return [
        Row("threads left that cannot be killed", number(ours.wedged)),
        Row("from the moment they answer until all is gone", gone),
    ]


def _ours_hung(mounts: Sequence[FuseMount], hung: Sequence[FuseMount], timeout: float) -> tuple[Outcome, Figure]:
    """What was measured, and how long it took until nothing was left after the mounts were let go."""
    run = Run(_task("ours", mounts, timeout, hung=True))
    try:
        with _Hanging(hung):
            said = run.read()
        if said is None:
            raise Failed("ours: ended without a word")
        run.write("released")
        rest = run.read()
    finally:
        run.end()
    if rest is None or rest["left"]:
        raise Failed(f"ours: of {len(hung)} threads and children some are left after the mounts answer: {rest}")
    return Outcome(**said), seconds(rest["seconds"])


def _seed_hung(mounts: Sequence[FuseMount], hung: Sequence[FuseMount], timeout: float, bound: float) -> Figure:
    """It waits for a child that cannot die; so it is stopped after `bound` seconds."""
    with _Hanging(hung):
        run = Run(_task("seed", mounts, timeout, hung=True))
        stop = threading.Timer(bound, run.kill)
        stop.start()
        at, whole = 0, None
        while whole is None and (said := run.read()):
            at, whole = said.get("mount", at), said.get("wall")
        stop.cancel()
        stop.join()
        run.end()
    if whole:
        return seconds(whole[0])
    return nothing(f"did not end within {bound:g} s (stuck at mount {at:,})")


def _parallel_hung(mounts: Sequence[FuseMount], hung: Sequence[FuseMount], timeout: float) -> Figure:
    with _Hanging(hung):
        run = Run(_task("parallel", mounts, timeout, hung=True))
        try:
            said = run.read()
        finally:
            run.end()
    if said is None or said["answered"] != len(mounts) - len(hung):
        raise Failed(f"parallel: {said}")
    return about(seconds(said["wall"][0]), f"{len(hung)} processes left")


class _Hanging:
    """For the time of the `with` these mounts read requests and never answer; then they answer all of them."""

    def __init__(self, mounts: Sequence[FuseMount]) -> None:
        self._mounts = mounts

    def __enter__(self) -> None:
        for mounted in self._mounts:
            mounted.set(HANG)

    def __exit__(self, *_: object) -> None:
        for mounted in self._mounts:
            mounted.set(OK)
