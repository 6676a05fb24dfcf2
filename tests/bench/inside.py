"""One sweep over all mounts inside containers, and what it costs to judge them.

Beside the sweep stands one process for each mount, which asks it from the host through /proc/<init>/root: `stat` one
after the other, as the best-known monitor does, and `stat -f`, 32 at a time.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from tests.bench import gauges
from tests.bench.report import Figure, Row, about, seconds
from tests.bench.sweeps import SAMPLE, SAMPLE_FROM, Failed, Run
from tests.bench.ways import Task
from watcher.children import Children
from watcher.core.picture import Picture
from watcher.model import Event, Probe, ProbeReport, TableRead, Usage, Verdict
from watcher.probing.prober import Prober
from watcher.probing.wedged import WedgedNotes
from watcher.rules import rules_of
from watcher.settings import Settings

LIMIT = 30.0  # seconds for what takes milliseconds

Reached = tuple[str, int, str]  # a mount from the host's side: path, mount id, device


# ---- sweeps


def sweep_rows(tables: Sequence[TableRead], mounts: Sequence[Reached], rounds: int, target: Figure | None) -> list[Row]:
    """Over all that is watched in these tables, which are the `mounts`; raises Failed if one does not answer."""
    probes = _probes(tables)
    if len(probes) != len(mounts):
        raise Failed(f"{len(probes)} probes for {len(mounts)} mounts")
    asked = asyncio.run(_Sweeps().measure(probes, rounds))
    deep = asyncio.run(_Sweeps().measure([probe._replace(deep=True) for probe in probes], min(rounds, 3)))
    simple = _simple(mounts)
    return [
        Row("one sweep", seconds(median(asked.wall)), *simple.wall, target),
        Row("one sweep: processor time", seconds(median(asked.cpu)), *simple.cpu),
        Row("one sweep, directories read too", seconds(median(deep.wall))),
    ]


def mixed_row(label: str, tables: Sequence[TableRead], rounds: int, target: Figure | None) -> Row:
    """The same where some user namespaces must be entered. Not its processor time, of which the kill takes a part."""
    asked = asyncio.run(_Sweeps().measure(_probes(tables), rounds))
    return Row(label, seconds(median(asked.wall)), target=target)


def _probes(tables: Sequence[TableRead]) -> list[Probe]:
    """As the service asks most of the time, without reading directories."""
    return [probe._replace(deep=False) for probe in _Begun(tables).probes]


class _Sweeps:
    """Sweeps over the same probes as the service does them, with the real prober and its real child."""

    def __init__(self) -> None:
        self.wall: list[float] = []  # seconds until the last verdict
        self.cpu: list[float] = []
        self._answered = 0
        self._last = 0.0

    def _take(self, event: Event) -> None:
        if isinstance(event, ProbeReport):
            self._last = time.perf_counter()
            self._answered += event.verdict is Verdict.ANSWERED

    async def measure(self, probes: Sequence[Probe], rounds: int) -> _Sweeps:
        children = Children()
        with tempfile.TemporaryDirectory() as runtime:
            prober = Prober(children, self._take, notes=WedgedNotes(runtime))
            await prober.sweep(list(probes[:1]))  # what is imported or looked up once
            for _ in range(rounds):
                self._answered = 0
                began, cpu = time.perf_counter(), gauges.cpu()
                await prober.sweep(list(probes))
                self.wall.append(self._last - began)
                while children.survivors:
                    await asyncio.sleep(0.002)  # its processor time counts when it has been reaped
                self.cpu.append(gauges.cpu() - cpu)
                if self._answered != len(probes):
                    raise Failed(f"ours: {self._answered} of {len(probes)} healthy mounts inside answered")
        children.close()
        return self


class _Simple(NamedTuple):
    """Of the two simpler ways: one after the other, side by side."""

    wall: tuple[Figure, Figure]
    cpu: tuple[Figure, Figure]


def _simple(mounts: Sequence[Reached]) -> _Simple:
    """Of a sample, where there are many."""
    sampled = list(mounts if len(mounts) < SAMPLE_FROM else mounts[:: len(mounts) // SAMPLE])
    cpu = gauges.cpu()
    wall, answered = gauges.timed(lambda: sum(_stat(path) for path, _, _ in sampled))
    cpu = gauges.cpu() - cpu
    run = Run(Task("parallel", sampled, LIMIT))
    try:
        said = run.read()
    finally:
        run.end()
    if said is None or (answered, said["answered"]) != (len(sampled), len(sampled)):
        raise Failed(f"of {len(sampled)} healthy mounts inside {answered} and {said and said['answered']} answered")

    def scaled(value: float, *notes: str) -> Figure:
        figure = seconds(value * len(mounts) / len(sampled))
        note = ", ".join([*notes, *([f"from {len(sampled)}"] if len(sampled) < len(mounts) else [])])
        return about(figure, note) if note else figure

    return _Simple(
        (scaled(wall, "stat alone"), scaled(said["wall"][0])), (scaled(cpu, "stat alone"), scaled(said["cpu"][0]))
    )


def _stat(path: str) -> bool:
    return subprocess.run(["stat", "-c", "%i", path], capture_output=True, timeout=LIMIT, check=False).returncode == 0


# ---- judging


class _Begun:
    """The core with these tables, all that is due in them asked for."""

    def __init__(self, tables: Sequence[TableRead]) -> None:
        self.picture, now = Picture(rules_of(Settings())), time.monotonic()
        self.arranging, _ = gauges.timed(lambda: [self.picture.handle(table, now) for table in tables])  # seconds
        self.starting, self.probes = gauges.timed(lambda: self.picture.start_due(now))

    def answer(self) -> float:
        """Every mount has answered; seconds to take that in."""
        now = time.monotonic()
        reports = [
            ProbeReport(probe, Verdict.ANSWERED, now, latency=1e-4, usage=Usage(4 << 40, 3 << 40, 1 << 40))
            for probe in self.probes
        ]
        return gauges.timed(lambda: [self.picture.handle(report, now) for report in reports])[0]


def judging_rows(tables: Sequence[TableRead], rounds: int) -> list[Row]:
    """What the service's own process spends on them beside reading and asking."""
    begun = [_Begun(tables) for _ in range(rounds)]
    answering = [each.answer() for each in begun]
    picture = begun[-1].picture
    return [
        Row(f"judging: {words}", seconds(median(values)))
        for words, values in (
            ("all tables taken in", [each.arranging for each in begun]),
            ("what is due, when all is", [each.starting for each in begun]),
            ("the reports of one sweep", answering),
            ("when something is due next", [gauges.timed(picture.next_due)[0] for _ in range(rounds)]),
            ("how all of it stands", [gauges.timed(picture.snapshot)[0] for _ in range(rounds)]),
        )
    ]
