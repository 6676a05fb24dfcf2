"""FUSE that dies and comes back: sshfs whose far end stops or is gone; another user's; a start that never ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.fuse import NO_INIT, OK, FuseServer
from tests.system.net import mountinfo, pids, run, wait_until
from tests.system.table import Row
from tests.system.watching import KERNEL, QUICK, Control, Watch, once

Note = Callable[[Row], None]
SILENCE, ERROR, LAG = 35.0, 20.0, 15.0  # seconds: the promises with default settings, and what a lab may be late
RECOVERY = 12.0
FAR_END = "/usr/lib/openssh/sftp-server"


def start_sshfs(place: Path) -> None:
    """An sshfs that speaks with an sftp-server of its own, in place of ssh(1)."""
    Path("/run/sftp").write_text(f"#!/bin/sh\nexec {FAR_END}\n")
    Path("/run/sftp").chmod(0o755)
    run("sshfs", "-o", "ssh_command=/run/sftp", "nas01:/srv", str(place))
    wait_until(lambda: mountinfo(place), "sshfs has mounted")


@contextmanager
def sshfs(where: str = "/mnt/sshfs") -> Iterator[Path]:
    place = Path(where)
    place.mkdir(parents=True, exist_ok=True)
    start_sshfs(place)
    try:
        yield place
    finally:
        send(signal.SIGCONT)
        while mountinfo(where):
            run("umount", "-l", where)
        for pid in pids("sshfs"):
            os.kill(pid, signal.SIGKILL)


def send(number: signal.Signals) -> None:
    for pid in pids("sftp-server"):
        os.kill(pid, number)


@pytest.mark.lab("fuse")
@pytest.mark.timeout(240)
async def test_the_far_end_of_an_sshfs_stops(row: Note) -> None:
    with sshfs() as place:
        assert once("--path", str(place))[0] == 0
        async with Watch([str(place)]) as watch:
            await watch.status("1 ok")
            told = await watch.outage(place, lambda: send(signal.SIGSTOP), lambda: send(signal.SIGCONT))
            await watch.service.wait_until(lambda: "hanging" not in watch.now, "no probe hangs any more")
        assert len(watch.messages) == 2, watch.messages
    assert "NO ANSWER" in told.alarm.title
    assert "nas01" in told.alarm.title + told.alarm.message
    assert told.alarm_after < SILENCE + LAG
    assert told.recovery_after < RECOVERY + LAG
    row(told.row(50, "sshfs: far end stopped", "NO ANSWER"))


@pytest.mark.lab("fuse")
@pytest.mark.timeout(240)
async def test_sshfs_is_killed_and_started_again(row: Note) -> None:
    with sshfs() as place:

        def kill() -> None:
            for pid in pids("sshfs"):
                os.kill(pid, signal.SIGKILL)

        def start() -> None:
            run("umount", "-l", str(place))
            start_sshfs(place)

        async with Watch([str(place)]) as watch:
            await watch.status("1 ok")
            told = await watch.outage(place, kill, start, ends="ok")  # the kernel may use all numbers again
        assert len(watch.messages) == 2, watch.messages
    assert "FUSE PROCESS DEAD" in told.alarm.title
    assert told.alarm_after < ERROR + LAG
    assert told.recovery_after < RECOVERY + LAG
    row(told.row(51, "sshfs: killed; then mounted anew", "FUSE PROCESS DEAD"))


@pytest.mark.lab("fuse")
@pytest.mark.timeout(120)
async def test_another_users_mount_is_not_checkable_and_no_alarm(tmp_path: Path, row: Note) -> None:
    place = tmp_path / "theirs"
    place.mkdir()
    os.chown(place, 65534, 65534)
    with FuseServer() as server:
        server.mount(str(place), mode=OK, user_id=65534, group_id=65534, source="nas01:/home")
        control = Control(str(place))
        code, said = once("--path", str(place))
        assert (code, said["mounts"][0]["status"]) == (0, "denied")
        async with Watch([str(place)], probe=QUICK) as watch:
            await watch.status("1 denied")
            # It goes on being looked at, and stays so.
            await asyncio.sleep(5)
            await watch.status("1 denied")
        assert watch.messages == []
        control.stop()
    row(Row(52, "FUSE of another user", KERNEL, control.since(0)[-1], "not checkable, no message"))


@pytest.mark.lab("fuse")
@pytest.mark.timeout(120)
async def test_a_fuse_process_that_never_finishes_its_start(tmp_path: Path, row: Note) -> None:
    place = tmp_path / "gvfs"
    place.mkdir()
    with FuseServer() as server:
        async with Watch([str(place)], probe=QUICK) as watch:
            await watch.status("READY|watching 0 mounts|watching")
            hung = server.mount(str(place), mode=NO_INIT, source="gvfsd-fuse", fstype="fuse.other")
            alarm = await watch.next_message(0)
            assert "NO ANSWER" in alarm.title
            assert str(place) in alarm.title
            hung.abort()
            hung.unmount()
            await watch.next_message(1)
            await watch.service.wait_until(lambda: not watch.service.children(), "no probe is left")
        assert len(watch.messages) == 2, watch.messages
