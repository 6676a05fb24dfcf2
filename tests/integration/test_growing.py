"""What is written under a mount point while its mount is away: a real mount, a small disk, and who writes there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.container import FakeContainer
from tests.fakes.containers import Containers
from tests.fakes.fuse_server import mount, unmount
from tests.fakes.receivers import GotifyReceiver
from tests.integration.service import HOST, Service, Site
from tests.integration.test_missing import configure, fstab
from tests.integration.test_notifications import SPAN, asked, titles, until_told
from watcher import procfs
from watcher.control import ask

pytestmark = pytest.mark.kernel

MS_REMOUNT = 32  # linux/mount.h
_WRITE = 'n=0; while :; do head -c 1M /dev/zero > "$0/film$$.$n"; n=$((n+1)); sleep 0.3; done'


@contextlib.contextmanager
def writer(directory: str) -> Iterator[None]:
    """Goes on writing there, 3 MiB a second."""
    with subprocess.Popen(["sh", "-c", _WRITE, directory], cwd="/", start_new_session=True) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


async def write_until_told(ct: FakeContainer, directory: str, gotify: GotifyReceiver) -> None:
    """The container goes on writing there, 1 MiB at a time, until there is a second message."""
    for number in range(1000):
        await asyncio.to_thread(ct.write, f"{directory}/{number}", 1 << 20)
        with contextlib.suppress(TimeoutError):
            await gotify.wait_for(2, 0.3)
            break


@pytest.fixture
def disk(site: Site) -> Iterator[str]:
    """A large file system of its own that holds the mount points."""
    directory = site.place("").rstrip("/")
    os.makedirs(directory)
    mount(b"none", os.fsencode(directory), b"tmpfs", data=b"size=64g")
    yield directory
    site.fuse.close()
    unmount(os.fsencode(directory))


async def test_what_is_written_under_a_mount_that_is_away_is_told_and_not_again_after_a_restart(
    site: Site, disk: str
) -> None:
    nas, last = site.mount("nas", source="nas01:/media"), site.mount("last")
    fstab(site, "nas")
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url})
        async with site.service() as service:
            await asked(nas, last)
            nas.unmount()
            # Whatever hinders a look, short of a disk that hangs, may pass.
            os.rmdir(nas.mount_point)
            Path(nas.mount_point).touch()
            await until_told(gotify, "NOT MOUNTED")
            await service.wait_for_line(f"not looked at what is written under {nas.mount_point}: is no directory")
            os.unlink(nas.mount_point)
            os.mkdir(nas.mount_point)
            with writer(nas.mount_point):
                told = await until_told(gotify, "written to underneath")
                # Who asks gets it, too, with its figures.
                explained = json.loads((await site.run("explain", "--json", nas.mount_point)).out)["mount"]
                shown = (await site.run("explain", nas.mount_point)).out
                listed = (await site.run("status")).out
                answer = await asyncio.to_thread(ask, str(site.socket), "GET", "incidents")
                assert await service.end() == 0
        async with site.service() as service:
            with writer(nas.mount_point):
                # Again it is seen, and known to be told.
                await service.wait_for_line(f"WARNING .*Something writes to the disk on {disk} under")
                mount(b"none", os.fsencode(disk), b"tmpfs", flags=MS_REMOUNT, data=b"size=512m")
                grave = await until_told(gotify, "written to underneath", 2)
            site.mount("nas", source="nas01:/media")
            end = await until_told(gotify, "🟢")
            assert await service.end() == 0
    title = f"🔴 {HOST}: {nas.mount_point} NOT MOUNTED"
    assert titles(gotify) == [title, *[f"{title}, written to underneath"] * 2, end.title]
    growing = rf"Something writes to the disk on {disk} under {nas.mount_point}: [\d.]+ MiB since \d\d:\d\d"
    [line] = [line for line in told.message.splitlines() if line.startswith("Something")]
    assert re.fullmatch(rf"{growing}, full in about [\d]+ (h|h \d+ min|min)", line), line
    written = explained["written_underneath"]
    assert (written["namespace"], written["target"], written["disk"]) == ("host", nas.mount_point, disk)
    assert written["bytes"] >= 1 << 20
    assert written["full_in_seconds"] > 60
    assert written["since"] <= written["checked_at"]
    assert re.match(growing, written["text"])
    assert re.search(rf"^  {growing}", shown, re.M)
    assert f"Something writes to the disk on {disk} under" in " ".join(listed.split())
    [member] = answer.body["incidents"][0]["members"]
    assert re.match(growing, member["written_underneath"]["text"])
    [line] = [line for line in grave.message.splitlines() if line.startswith("Something")]
    assert re.fullmatch(rf"{growing}, full within a minute", line), line
    assert f"Do: mount {nas.mount_point}" in grave.message
    assert re.search(SPAN, end.title)


def stop_all(service: Service, name: str, over: threading.Event) -> None:
    """Stops the children that run this file, so that they answer too late; a kill still ends them."""
    with contextlib.suppress(PermissionError):  # before the others: it must come to one before that has answered
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -20)
    while not over.is_set():
        for pid in procfs.children("/proc", service.pid):  # many times a second: without a walk over all processes
            with contextlib.suppress(OSError):
                if name in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGSTOP)
        over.wait(0.001)


async def test_who_looks_too_late_looks_again(site: Site, disk: str) -> None:
    """A machine may be so busy that a look takes too long: only one that hangs is the last."""
    nas, last = site.mount("nas", source="nas01:/media"), site.mount("last")
    fstab(site, "nas")
    over = threading.Event()
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url})
        async with site.service() as service:
            await asked(nas, last)
            stopping = asyncio.create_task(asyncio.to_thread(stop_all, service, "beneath.py", over))
            try:
                nas.unmount()
                with writer(nas.mount_point):
                    await service.wait_for_line("under .*: no answer from its disk within 4 s: it is looked again")
                    over.set()
                    await until_told(gotify, "written to underneath")
            finally:
                over.set()
                await stopping
            assert await service.end() == 0


async def test_a_container_that_writes_to_its_own_disk(site: Site, lxc: Containers, disk: str) -> None:
    share, last = site.mount("nas", source="nas01:/media"), site.mount("last")
    ct = lxc.start(name="arr", user_namespace=True)
    ct.mkdir("/films")
    with open(lxc.pve_path / f"{ct.ctid}.conf", "a") as conf:
        conf.write(f"mp0: {share.mount_point}/films,mp=/films\n")
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url}, lxc=lxc)
        async with site.service() as service:
            await asked(share, last)
            await until_told(gotify, f"CT {ct.ctid} arr /films NOT MOUNTED")
            await write_until_told(ct, "/films", gotify)
            told = await until_told(gotify, "written to underneath")
            assert await service.end() == 0
    assert f"CT {ct.ctid} arr writes to its root disk under /films: " in told.message


async def test_a_container_that_writes_to_the_disk_under_the_hosts_mount(
    site: Site, lxc: Containers, disk: str
) -> None:
    os.makedirs(site.place("nas"))
    ct = lxc.start("", name="arr", binds={site.place("nas"): "/data"})
    share, last = site.mount("nas", source="nas01:/media"), site.mount("last")
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url}, on=("stale", "vanished"), lxc=lxc)
        async with site.service() as service:
            await asked(share, last)
            await until_told(gotify, f"CT {ct.ctid} arr /data NOT MOUNTED")
            await write_until_told(ct, "/data", gotify)
            told = await until_told(gotify, "written to underneath")
            assert await service.end() == 0
    assert f"CT {ct.ctid} arr writes to the host's disk on {disk} under {share.mount_point}: " in told.message
