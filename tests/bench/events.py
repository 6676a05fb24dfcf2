"""From a mount or unmount until the consumer of the mount table's events has the new table in hand."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence

from tests.bench.report import Row, Section, seconds
from tests.bench.stage import Stage
from tests.fakes.fuse_server import mount, unmount
from watcher.model import TableRead
from watcher.sources import mount_table

TARGET = seconds(0.005)
LIMIT = 10.0  # seconds for what takes milliseconds
# Seconds between two changes: longer than the source's own, which draws quick ones together and reads a large table
# less often.
PAUSE, PAUSE_PER_MOUNT = 0.08, 1e-4


def section(stage: Stage, sizes: Sequence[int], changes: int) -> Section:
    """`changes` changes, mounts and unmounts in turn, beside tables of `sizes` FUSE mounts."""
    rows = []
    for size in sizes:
        stage.mounts(size)
        values = sorted(
            asyncio.run(_latencies(os.fsencode(stage.make_directory("event")), changes, PAUSE + size * PAUSE_PER_MOUNT))
        )
        p99 = values[min(len(values) - 1, round(0.99 * len(values)))]
        rows.append(Row(f"beside {size:,} mounts: median", seconds(statistics.median(values)), target=TARGET))
        rows.append(Row(f"beside {size:,} mounts: 99th of 100", seconds(p99)))
    return f"A mount or unmount -> known ({changes} changes)", rows


async def _latencies(path: bytes, changes: int, pause: float) -> list[float]:
    tables: asyncio.Queue[tuple[float, bool]] = asyncio.Queue()  # when it was known, whether the mount stands in it
    consumer = asyncio.create_task(_consume(os.fsdecode(path), tables))
    await tables.get()  # the table as it was at first
    steps: dict[bool, Callable[[], None]] = {
        True: lambda: mount(b"none", path, b"tmpfs"),
        False: lambda: unmount(path),
    }
    found = []
    for number in range(changes):
        await asyncio.sleep(pause)
        wanted = number % 2 == 0
        began = await asyncio.to_thread(_timed, steps[wanted])
        async with asyncio.timeout(LIMIT):
            known, stands = await tables.get()
            while stands is not wanted:
                known, stands = await tables.get()
        found.append(known - began)
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)
    return found


async def _consume(point: str, tables: asyncio.Queue[tuple[float, bool]]) -> None:
    """As the service does, at once."""
    async for event in mount_table.tables("/proc", asyncio.Event()):
        known = time.monotonic()
        if isinstance(event, TableRead):
            tables.put_nowait((known, any(m.mount_point == point for m in event.mounts)))


def _timed(change: Callable[[], None]) -> float:
    """Make the change; the moment before it."""
    began = time.monotonic()
    change()
    return began
