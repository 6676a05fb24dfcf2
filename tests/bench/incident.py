"""What it costs to find out why a mount fails and what hangs on it, beside many processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench import gauges
from tests.bench.report import Row, Section, seconds
from tests.bench.stage import Stage
from tests.fakes.fuse import HANG
from watcher import procfs, radius
from watcher.children import Children
from watcher.core.evidence import Endpoint, Question
from watcher.core.mountinfo import parse
from watcher.model import HOST, Place, Superblock
from watcher.probing.evidence import gather
from watcher.reading import FileReader
from watcher.settings import Paths

DESCRIPTORS = 3  # of each process, beyond the three
# Forked from one, they share its memory.
_MANY = f"""import os, signal
null = [os.open("/dev/null", os.O_RDONLY) for _ in range({DESCRIPTORS})]
for _ in range(int(os.sys.argv[1])):
    if os.fork() == 0:
        signal.pause()
print("there", flush=True)
signal.pause()
"""


def section(stage: Stage, processes: int, rounds: int) -> Section:
    heading = f"An incident is looked into, beside {processes:,} processes (median of {rounds})"
    return heading, asyncio.run(_section(stage, processes, rounds))


async def _section(stage: Stage, processes: int, rounds: int) -> list[Row]:
    # Called as its process is, as nearly all are: "fuse.sshfs" is served by sshfs.
    dead = stage.one("dead", Path(f"/proc/{stage.process}/comm").read_text().strip())
    fuse = Superblock(dead.device, "/", dead.fstype, dead.source)
    # No NFS here: something in memory stands in for the mount, to which nobody waits, and a socket for the server.
    memory = next(m for m in parse(procfs.read("/proc/self/mountinfo")) if m.mount_point == stage.directory)
    nfs = Superblock(memory.device, "/", memory.fstype, memory.source)
    with _many(processes), socket.create_server(("127.0.0.1", 0)) as server:
        dead.set(HANG)
        endpoint = Endpoint(*server.getsockname())
        rows = []
        for what, question, point in (
            ("FUSE: processor time", Question(fuse, Place(HOST, dead.mount_point)), dead.mount_point),
            ("a kernel's client: the same", Question(nfs, Place(HOST, "/mnt/nas"), (endpoint,)), "/mnt/nas"),
        ):
            costs = [await _cost(question, point) for _ in range(rounds)]
            rows.append(Row(what, seconds(median(costs)), target=seconds(0.15)))
    stage.mounts(0)
    return rows


async def _cost(question: Question, mount_point: str) -> float:
    """Processor time of all that is started for it; what the service itself does for it is little, and not in it."""
    before, children = gauges.cpu_of_reaped(), Children()
    try:
        wanted = radius.Wanted(question.superblock.device, question.superblock.fstype, (mount_point,))
        mounts = parse(procfs.read("/proc/self/mountinfo"))
        await asyncio.gather(
            gather([question], children=children, reader=FileReader(children), mounts=mounts),
            radius.look([wanted], [], children, Paths()),
        )
        async with asyncio.timeout(10.0):
            while children.survivors:
                await asyncio.sleep(0.01)
    finally:
        children.close()
    return gauges.cpu_of_reaped() - before


@contextmanager
def _many(count: int) -> Iterator[None]:
    """So many processes that do nothing."""
    command = [sys.executable, "-I", "-S", "-c", _MANY, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
