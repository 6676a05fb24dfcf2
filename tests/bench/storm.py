"""Many mounts of some servers go stale at once: how soon all is told, and what that costs the service."""

from __future__ import annotations

import asyncio
import errno
import sys
import time
from pathlib import Path

from tests.bench import gauges
from tests.bench.report import Row, Section, megabytes, number, seconds
from tests.bench.service import configuration
from tests.bench.stage import Stage
from tests.fakes.fuse import fails

LIMIT = 120.0
HASTE = '[probe]\ninterval = "250ms"\nalarm_after_error = "300ms"\nstartup_grace = "0s"\n'


def section(stage: Stage, count: int, servers: int, *, fast: bool = False) -> Section:
    heading = f"{count:,} mounts of {servers} servers go stale at once"
    return heading, asyncio.run(_storm(stage, count, servers, fast=fast))


async def _storm(stage: Stage, count: int, servers: int, *, fast: bool) -> list[Row]:
    from tests.fakes.receivers import GotifyReceiver  # loads three servers

    mounts = stage.of_servers(count, servers)
    async with GotifyReceiver() as gotify:
        config = configuration(stage, gotify.url, paths=f"lxc_config = []\n{HASTE if fast else ''}")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "watcher", "--config", str(config), stderr=asyncio.subprocess.PIPE
        )
        try:
            for mounted in mounts:
                await asyncio.to_thread(mounted.wait_seen, "STATFS", 1, timeout=LIMIT)
            pause = 1.0 if fast else 15.0
            await asyncio.sleep(pause)
            before = gauges.own_cpu_of(process.pid)
            await asyncio.sleep(pause)
            idle = (gauges.own_cpu_of(process.pid) - before) / pause
            resident, cpu, began = (
                gauges.memory(process.pid, "VmRSS"),
                gauges.own_cpu_of(process.pid),
                time.monotonic(),
            )
            for mounted in mounts:
                mounted.set(fails(errno.ESTALE))
            assert process.stderr is not None
            found = 0
            async with asyncio.timeout(LIMIT):
                while found < count:
                    found += b" stale: " in await process.stderr.readline()
            judged = time.monotonic()
            await gotify.wait_for(servers, LIMIT)
            told = time.monotonic()
            await asyncio.sleep(2.0)  # for what would be one too many, and the last writes
            spent = gauges.own_cpu_of(process.pid) - cpu - idle * (time.monotonic() - began)
            grown = gauges.memory(process.pid, "VmRSS") - resident
        finally:
            process.terminate()
            assert process.stderr is not None
            while await process.stderr.readline():
                pass
            await process.wait()
        size = Path(config).with_name("state.db").stat().st_size
    return [
        Row("messages", number(len(gotify.received)), target=number(servers)),
        Row("from the last verdict until the last message", seconds(told - judged), target=seconds(10.0)),
        Row("processor time above idle, couriers and probes apart", seconds(max(spent, 0.0)), target=seconds(1.0)),
        Row("memory above idle", megabytes(max(grown, 0)), target=megabytes(20e6)),
        Row("state on disk", megabytes(size)),
    ]
