"""NFS on demand under a real systemd: never woken, watched while it is used, and gone when it is idle."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes.fuse import FuseMount, FuseServer
from tests.system.net import ADDRESS, EXPORTS, Server, mountinfo, run
from tests.system.waiting import until
from tests.system.watching import QUICK, Watch
from watcher import procfs
from watcher.core.mountinfo import parse
from watcher.model import Mount
from watcher.sources.mount_table import use

pytestmark = [pytest.mark.lab("autofs"), pytest.mark.timeout(300)]

POINT = "/mnt/demand"
UNITS = Path("/run/systemd/system")
IDLE = 6  # seconds


class Site(NamedTuple):
    """The server, and a FUSE mount whose probes tell how often the service has looked around."""

    server: Server
    clock: FuseMount

    def watch(self) -> Watch:
        return Watch([POINT, self.clock.mount_point], probe=QUICK)

    def rounds(self) -> int:
        return self.clock.counters().requests.get("STATFS", 0)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        server.nfs()
        yield server


@pytest.fixture
def site(server: Server, fuse: FuseServer, mount_dir: Callable[..., bytes]) -> Iterator[Site]:
    """With a trigger at POINT."""
    Path(POINT).mkdir(parents=True, exist_ok=True)
    UNITS.mkdir(parents=True, exist_ok=True)
    (UNITS / "mnt-demand.mount").write_text(
        f"[Mount]\nWhat={ADDRESS}:{EXPORTS}/nfs\nWhere={POINT}\nType=nfs\nOptions=vers=4.2\n"
    )
    (UNITS / "mnt-demand.automount").write_text(f"[Automount]\nWhere={POINT}\nTimeoutIdleSec={IDLE}\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "mnt-demand.automount")
    try:
        yield Site(server, fuse.mount(mount_dir("clock")))
    finally:
        server.join()
        run("systemctl", "stop", "mnt-demand.automount", "mnt-demand.mount")


def mounted() -> Mount | None:
    """What the trigger has mounted. (Asked of the table: a look at the path would set it off.)"""
    table = parse(Path("/proc/self/mountinfo").read_bytes())
    assert any(m.mount_point == POINT and m.fstype == "autofs" for m in table), "the trigger itself is gone"
    return next((m for m in table if m.mount_point == POINT and m.fstype != "autofs"), None)


def probes() -> int:
    """How often the mount has been asked for its size since it was mounted; nobody but the service does that here."""
    stats = Path("/proc/self/mountstats").read_text().partition(f" mounted on {POINT} with fstype nfs4 ")[2]
    return int(stats.partition("STATFS: ")[2].split()[0]) if stats else 0


async def rounds(site: Site, count: int) -> None:
    """Until the service has looked around so many times."""
    first = site.rounds()
    await until(lambda: site.rounds() >= first + count, f"{count} rounds of probes")


async def look() -> None:
    """One look of a user."""
    process = await asyncio.create_subprocess_exec("ls", POINT, stdout=subprocess.DEVNULL)
    assert await process.wait() == 0


@contextmanager
def user() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody who reads a file in it, five times a second."""
    program = f"import time\nwhile True:\n    open('{POINT}/file').read()\n    time.sleep(0.2)"
    with subprocess.Popen([sys.executable, "-S", "-c", program], cwd="/") as process:
        try:
            yield process
        finally:
            process.kill()


def told(watch: Watch) -> list[str]:
    return watch.messages + watch.service.found("stale|ok again|NO ANSWER")


async def test_it_is_not_woken_is_watched_while_used_and_idles_out(site: Site) -> None:
    async with site.watch() as watch:
        await rounds(site, 5)
        assert mounted() is None, "woken by us"

        with user():
            await until(lambda: mounted() is not None, "mounted for its user")
            await watch.service.wait_for_line(f"watching {POINT}")
            for _ in range(2):
                before = probes()
                await until(lambda: probes() >= before + 4, "probed while it is used")  # noqa: B023
        await until(lambda: mounted() is None, "idle, and unmounted")

        await rounds(site, 5)
        assert mounted() is None, "woken by us"
        await look()
        await until(lambda: probes() >= 1, "asked when it appears")
        at = site.rounds()
        # What the look moved after that, a second probe sees.
        await until(lambda: mounted() is None or probes() > 2, "idle, and unmounted")
        assert mounted() is None, "asked, and nobody was there"
        assert site.rounds() - at >= 3
        assert told(watch) == []
        assert await watch.service.end() == 0


async def test_who_hangs_in_it_is_told_of_and_the_recovery_too(site: Site) -> None:
    async with site.watch() as watch:
        with user():
            await until(lambda: mounted() is not None and probes() >= 2, "probed while it is used")
            site.server.cut()
            alarm = await watch.next_message(0)
            assert f"{ADDRESS} NO ANSWER" in alarm.title or POINT in alarm.title
            await rounds(site, 5)
            site.server.join()
            recovery = await watch.next_message(1)
            assert " ok after " in recovery.title
        await until(lambda: mounted() is None, "idle, and unmounted")
        await rounds(site, 3)
        assert len(watch.messages) == 2
        assert await watch.service.end() == 0


async def test_a_server_that_dies_while_nobody_is_there_is_nobodys_matter(site: Site) -> None:
    async with site.watch() as watch:
        await look()
        await until(lambda: probes() >= 1, "asked once when it appears")
        await rounds(site, 2)  # what the look had moved is read by now
        assert mounted() is not None
        site.server.cut()
        await until(lambda: mounted() is None, "idle, and unmounted although its server is dead")
        await rounds(site, 5)
        assert told(watch) == []
        assert await watch.service.end() == 0


async def test_a_trigger_that_systemd_gives_up_is_told_and_set_up_again(site: Site) -> None:
    """Five mounts in vain within ten seconds, and what is written there lands on the disk."""
    unit, wants = UNITS / "mnt-demand.mount", UNITS / "multi-user.target.wants"
    unit.write_text(unit.read_text().replace("vers=4.2", "vers=4.2,retry=0"))
    wants.mkdir(exist_ok=True)
    (wants / "mnt-demand.automount").symlink_to(UNITS / "mnt-demand.automount")
    run("systemctl", "daemon-reload")
    async with Watch([POINT, site.clock.mount_point], probe=QUICK, on=("stale", "missing")) as watch:
        await rounds(site, 2)
        site.server.stop_nfsd()
        await until(lambda: not (run("ls", POINT, check=False), mountinfo(POINT))[1], "given up by systemd")
        alarm = await watch.followed(0)
        assert alarm.title.endswith(f"{POINT} NOT MOUNTED")
        assert "No longer mounted; mnt-demand.automount wants it" in alarm.message
        assert "Do: systemctl start mnt-demand.automount" in alarm.message
        recovery = await watch.next_message(1)
        assert f"{POINT} mounted again" in recovery.title
        assert mounted() is None, "the trigger is enough"
        assert await watch.service.end() == 0
    run("systemctl", "start", "nfs-server")
    (wants / "mnt-demand.automount").unlink()


async def test_the_counters_are_read_without_the_server(site: Site) -> None:
    """And show who hangs, but no probe."""
    await look()
    site.server.cut()
    before = use("/proc")
    with user():
        await until(lambda: use("/proc") != before, "a call is counted that the server will not answer")
    hanging = use("/proc")
    assert POINT in hanging.counters
    asking = [sys.executable, "-S", "-c", f"import os; os.statvfs(os.open('{POINT}', os.O_PATH))"]
    with subprocess.Popen(asking, cwd="/") as process:
        await until(lambda: "nfs_statfs" in procfs.stack("/proc", process.pid, process.pid), "hangs as a probe does")
        assert use("/proc") == hanging
        process.kill()
