"""The commands as people run them: the service at rest and when mounts die, `--once`, `--version`."""

from __future__ import annotations

import asyncio
import errno
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.bench import gauges
from tests.bench.report import Figure, Row, Section, megabytes, number, percent, seconds
from tests.bench.stage import Stage
from tests.fakes.fuse import HANG, OK, FuseMount, Mode, fails

LIMIT = 60.0  # seconds for the service to start, or a command to end
ALARM_LIMIT = 120.0
SETTLE = 1.0  # seconds after the first questions, for what belongs to the start
NOWHERE = "gotify://127.0.0.1:9/AbcGotifyToken1"  # the discard port: nothing is sent to it at rest


@contextmanager
def running(config: Path, mounts: Sequence[FuseMount]) -> Iterator[int]:
    """The service with this configuration, from its first answer from each mount to the end of the `with`; its pid."""
    before = [_asked(mounted) for mounted in mounts]
    process = subprocess.Popen(_command("--config", config), stderr=subprocess.DEVNULL)
    try:
        for mounted, count in zip(mounts, before, strict=True):
            mounted.wait_seen("STATFS", count + 1, timeout=LIMIT)
        time.sleep(SETTLE)
        yield process.pid
    finally:
        process.terminate()
        process.wait(LIMIT)


def _asked(mounted: FuseMount) -> int:
    return mounted.counters().requests.get("STATFS", 0)


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "watcher", *map(str, arguments)]


def configuration(stage: Stage, url: str = NOWHERE, *, include: str = "", paths: str = "") -> Path:
    """The defaults, for our mounts alone (or those that `include` matches), and one channel; `paths`: more of these."""
    directory = stage.make_directory("service")
    path = Path(directory) / "config.toml"
    path.write_text(
        f'[watch]\ninclude = ["{include or stage.directory + "/*"}"]\n'
        f'[state]\npath = "{directory}/state.db"\n[status]\nsocket = "{directory}/sock"\n'
        f'[paths]\nruntime = "{directory}/run"\n{paths}'
        f'[[notify.channels]]\nname = "gotify"\nurl = "{url}"\n'
    )
    path.chmod(0o600)
    return path


# ---- at rest


class Rest(NamedTuple):
    """What a service at rest used."""

    share: float  # percent of one core, with its children
    memory: tuple[int, int]  # bytes resident at the end, and at most
    asked: int  # bytes resident once its socket has been asked something: then it has loaded aiohttp
    questions: float  # to each mount


def at_rest(config: Path, mounts: Sequence[FuseMount], duration: float) -> Rest:
    """The service with this configuration, for `duration` seconds after its start."""
    with running(config, mounts) as pid:
        asked, began, cpu = sum(map(_asked, mounts)), time.monotonic(), gauges.cpu_of(pid)
        time.sleep(duration)
        share = 100 * (gauges.cpu_of(pid) - cpu) / (time.monotonic() - began)
        asked = sum(map(_asked, mounts)) - asked
        memory = gauges.memory(pid, "VmRSS"), gauges.memory(pid)
        health = subprocess.run(_command("--config", config, "health"), capture_output=True, timeout=LIMIT, check=False)
        if health.returncode != 0:
            raise RuntimeError(f"not healthy: {health.stdout.decode()}{health.stderr.decode()}")
        later = gauges.memory(pid, "VmRSS")
    return Rest(share, memory, later, asked / len(mounts))


def idle(stage: Stage, count: int, duration: float) -> Section:
    rest = at_rest(configuration(stage), stage.mounts(count), duration)
    heading = f"The service at rest, {count} mounts, defaults, over {duration:g} s"
    return heading, rest_rows(rest, duration, share=0.2, memory=45e6, asked=45e6)


def rest_rows(rest: Rest, duration: float, *, share: float, memory: float, asked: float | None = None) -> list[Row]:
    """`share` (percent), `memory` and `asked` (bytes) are the targets."""
    resident, peak = rest.memory
    # A minute holds one round in which directories are read, a shorter time maybe none: the target is the minute's.
    target = percent(share) if duration >= 60 else None
    return [
        Row("processor time, of one core, with children", percent(rest.share), target=target),
        Row("resident memory", megabytes(resident), target=megabytes(memory)),
        Row("resident memory at its peak", megabytes(peak)),
        Row(
            "resident memory once its socket has been asked",
            megabytes(rest.asked),
            target=megabytes(asked) if asked is not None else None,
        ),
        Row("questions to each mount", number(rest.questions)),
    ]


# ---- when mounts die


def alarms(stage: Stage, count: int) -> Section:
    """From the moment a mount dies, or answers again, until the message is received."""
    return "From death or revival of a mount until the message is there, defaults", asyncio.run(_alarms(stage, count))


async def _alarms(stage: Stage, count: int) -> list[Row]:
    from tests.fakes.receivers import GotifyReceiver  # loads three servers

    mounts = stage.mounts(count)
    async with GotifyReceiver() as gotify:
        rows = []
        with running(configuration(stage, gotify.url), mounts):

            async def told(mounted: FuseMount, mode: Mode) -> Figure:
                expected = len(gotify.received) + 1
                began = time.monotonic()
                mounted.set(mode)
                await gotify.wait_for(expected, ALARM_LIMIT)
                return seconds(time.monotonic() - began)

            for word, mounted, mode, limit in (
                ("silence", mounts[0], HANG, 35.0),
                ("an error (ESTALE)", mounts[1], fails(errno.ESTALE), 20.0),
            ):
                rows.append(Row(f"{word}: alarm", await told(mounted, mode), target=seconds(limit)))
                rows.append(Row(f"{word}: recovery", await told(mounted, OK), target=seconds(12.0)))
        return rows


# ---- commands


def start_up(stage: Stage, count: int, rounds: int) -> Section:
    stage.mounts(count)
    config = configuration(stage)
    once = _command("--config", config, "--once")
    return f"Commands, from start to exit (median of {rounds})", [
        Row(f"watcher --once, {count} mounts", _median(once, rounds, rf"\b{count} ok\b"), target=seconds(0.3)),
        Row("watcher --version", _median(_command("--version"), rounds, "version")),
        Row("python -c pass", _median([sys.executable, "-c", "pass"], rounds, "")),
    ]


def _median(command: Sequence[str], rounds: int, expected: str) -> Figure:
    """Of the wall time. Raises RuntimeError if the command does not print what it should."""
    values = []
    for _ in range(rounds):
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        values.append(time.perf_counter() - began)
        if done.returncode != 0 or not re.search(expected, done.stdout):
            raise RuntimeError(f"{command[1:]}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return seconds(median(values))
