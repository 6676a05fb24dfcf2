"""FUSE that dies and comes back: sshfs in all the ways in which it does; another user's; a start that never ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.fakes.fuse import NO_INIT, FuseServer
from tests.system.control import Control
from tests.system.following import OwnAct
from tests.system.hanging import GUESTS, reads, storage, works
from tests.system.net import mountinfo, pids, run
from tests.system.table import Row
from tests.system.waiting import wait_until
from tests.system.watching import ERROR, KERNEL, LAG, QUICK, SILENCE, Watch, nothing, once, outage

Note = Callable[[Row], None]
NOBODY = 65534
REMOTE = Path("/srv")
SSH = Path("/usr/local/bin/ssh")  # stands in for ssh(1)
DOWN = Path("/run/ssh.down")  # while it exists, the far end is not to be reached


def start_sshfs(place: Path, *options: str, before: Sequence[str] = ()) -> None:
    """An sshfs that speaks with an sftp-server of its own. `before`: what stands before its command."""
    (REMOTE / "dir").mkdir(parents=True, exist_ok=True)
    (REMOTE / "file").write_text("hello\n")
    SSH.write_text(f"#!/bin/sh\n[ -e {DOWN} ] && exit 255\nexec /usr/lib/openssh/sftp-server\n")
    SSH.chmod(0o755)
    more = [word for option in options for word in ("-o", option)]
    run(*before, "sshfs", *more, f"nas01:{REMOTE}", str(place))
    wait_until(lambda: mountinfo(place), "sshfs has mounted")


@contextmanager
def sshfs(*options: str, where: str = "/mnt/sshfs", before: Sequence[str] = ()) -> Iterator[Path]:
    place = Path(where)
    place.mkdir(parents=True, exist_ok=True)
    start_sshfs(place, *options, before=before)
    try:
        yield place
    finally:
        DOWN.unlink(missing_ok=True)
        send(signal.SIGCONT, "sftp-server")  # also of one that was given up
        while mountinfo(where):
            run("umount", "-l", where)
        send(signal.SIGKILL, "sshfs")


def send(number: signal.Signals, comm: str) -> None:
    for pid in pids(comm):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def cannot_be_killed(comm: str) -> int:
    """Threads of killed processes of this name that wait for a FUSE process; with the zombies that they belong to."""
    found = 0
    for task in Path("/proc").glob("[0-9]*/task/[0-9]*"):
        with suppress(OSError):
            status = (task / "status").read_text()
            killed = int(status.partition("SigPnd:")[2].split()[0], 16) & 1 << (signal.SIGKILL - 1)
            if status.split()[1].startswith(comm) and killed and "request_wait_answer" in (task / "stack").read_text():
                found += 1
    return found


# ---- sshfs


@pytest.mark.lab("fuse")
@pytest.mark.timeout(240)
async def test_the_far_end_of_an_sshfs_stops(row: Note) -> None:
    with sshfs() as place, reads(place / "file"):
        assert once("--path", str(place))[0] == 0
        async with Watch([str(place)]) as watch:
            await watch.status("1 ok")

            def look() -> None:
                # One thread of the probe's is caught for good, and who looks meanwhile adds none.
                assert cannot_be_killed("python") == 1
                code, said = once("--path", str(place), config=watch.config)
                assert (code, said["mounts"][0]["cause"]) == (2, "timeout")
                assert cannot_be_killed("python") == 1
                assert cannot_be_killed("stat") > 1, "the control is known to leave one each time"

            # The kernel may use all numbers again: then it is "ok", else "remounted, ok".
            told = await watch.outage(
                place,
                lambda: send(signal.SIGSTOP, "sftp-server"),
                looks=look,
                follows=["To mount it anew"],
                hangs=["tail ("],
                ends="ok",
            )
            await watch.service.wait_until(lambda: "hanging" not in watch.now, "no probe hangs any more")
            assert len(watch.messages) == 2, watch.messages
            told.judge("NO ANSWER", SILENCE)
            assert "nas01" in told.alarm.title + told.alarm.message
            wait_until(lambda: cannot_be_killed("python") == 0, "the kernel lets go of the thread")
    row(told.row(50, "sshfs: far end stopped; then mounted anew", "NO ANSWER"))


@pytest.mark.lab("fuse")
@pytest.mark.timeout(240)
async def test_sshfs_is_killed_and_started_again(row: Note) -> None:
    with sshfs() as place, works(place / "dir"):

        def kill() -> None:
            send(signal.SIGKILL, "sshfs")

        told = await outage(place, kill, says="FUSE PROCESS DEAD", within=ERROR, hangs=["sleep ("], ends="ok")
    row(told.row(51, "sshfs: killed; then mounted anew", "FUSE PROCESS DEAD"))


@pytest.mark.lab("fuse2")
@pytest.mark.timeout(240)
async def test_sshfs_that_looks_for_its_server_again_and_again(row: Note) -> None:
    with sshfs("reconnect") as place, works(place / "dir"):

        def fall() -> None:
            DOWN.touch()
            send(signal.SIGKILL, "sftp-server")

        back = OwnAct("nas01 can be reached again", DOWN.unlink)
        told = await outage(place, fall, back, says="I/O ERROR", within=ERROR, hangs=["sleep ("])
    row(told.row(52, "sshfs, `reconnect`: server away", "I/O ERROR"))


@pytest.mark.lab("fuse2")
@pytest.mark.timeout(240)
async def test_sshfs_that_ends_when_its_connection_does(row: Note) -> None:
    """It takes its mount along, and what is written from then on fills the disk underneath."""
    with sshfs() as place, storage("media", place, "dir"):
        told = await outage(
            place,
            lambda: send(signal.SIGKILL, "sftp-server"),
            hangs=["PVE storage media", GUESTS],
            says="NOT MOUNTED",
            within=ERROR,
            on=["stale", "vanished"],
            begins="🟠",
            ends="mounted again",
        )
    assert set(told.control) == {"ok"}, "it looks at the directory underneath"
    row(told.row(53, "sshfs: connection lost, so it ends and unmounts", 'NOT MOUNTED, with `"vanished"`'))


# ---- others


@pytest.mark.lab("fuse2")
@pytest.mark.timeout(240)
async def test_another_users_mount_is_not_checkable_and_no_alarm(tmp_path: Path, fuse: FuseServer, row: Note) -> None:
    Path("/dev/fuse").chmod(0o666)  # as udev has it
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for directory in (theirs, ours):
        directory.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    for directory in (tmp_path, *tmp_path.parents):
        directory.chmod(directory.stat().st_mode | 0o011)
    other = fuse.mount(str(ours), source="nas02:/export")

    async def some_rounds() -> None:
        await asyncio.to_thread(other.wait_seen, "STATFS", other.counters().requests.get("STATFS", 0) + 4, timeout=60)

    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env", "HOME=/"]
    with sshfs(where=str(theirs), before=as_nobody):
        control = Control(str(theirs))
        async with Watch([str(theirs), str(ours)], probe=QUICK) as watch:
            await watch.status("1 ok.*1 not checkable|1 not checkable.*1 ok")
            await some_rounds()
            # That it dies the kernel hides from root as well: to all but its owner it says the same as before.
            send(signal.SIGKILL, "sshfs")
            await some_rounds()
            code, said = await asyncio.to_thread(once, "--path", str(theirs))
            assert (code, said["mounts"][0]["status"]) == (0, "denied")
            assert watch.messages == []
            assert watch.service.found("stale") == []
        control.stop()
    row(Row(54, "FUSE of another user, and its death", KERNEL, control.since(0)[-1], "not checkable, no message"))


@pytest.mark.lab("fuse2")
@pytest.mark.timeout(240)
async def test_a_fuse_process_that_never_finishes_its_start(fuse: FuseServer, row: Note) -> None:
    """As gvfs was seen to, by a df(1) that never came back; it is no process of a user's here."""
    place = Path("/run/user/1000/gvfs")
    place.mkdir(parents=True, exist_ok=True)
    async with Watch([str(place)]) as watch, AsyncExitStack() as stack:
        await watch.status("0 mounts|no mounts|watching")
        fuse.mount(str(place), mode=NO_INIT, source="gvfsd-fuse", fstype="fuse.other")
        df = stack.enter_context(subprocess.Popen(["df", str(place)], stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        stack.callback(df.kill)
        told = await watch.outage(place, nothing, hangs=["df ("], ends="unmounted")
        await watch.service.wait_until(lambda: not watch.service.children(), "no probe is left")
        await asyncio.to_thread(df.wait, 60)
        assert len(watch.messages) == 2, watch.messages
        assert "NO ANSWER" in told.alarm.title
        assert told.alarm_after < SILENCE + LAG
    row(told.row(55, "FUSE process that never finishes its start", "NO ANSWER")._replace(recovery=None))


@pytest.mark.lab("fuse2")
@pytest.mark.timeout(240)
async def test_such_a_start_given_up_by_abort(tmp_path: Path, fuse: FuseServer) -> None:
    """Still mounted, and dead in another way: no recovery, and no second alarm."""
    place = tmp_path / "gvfs"
    place.mkdir()

    def cause() -> object:
        return once("--path", str(place))[1]["mounts"][0]["cause"]

    async with Watch([str(place)], probe=QUICK) as watch:
        hung = fuse.mount(str(place), mode=NO_INIT, source="gvfsd-fuse", fstype="fuse.other")
        alarm = await watch.next_message(0)
        assert "NO ANSWER" in alarm.title
        assert str(place) in alarm.title
        hung.abort()
        await asyncio.to_thread(wait_until, lambda: cause() != "timeout", "it says something else")
        hung.unmount()
        ended = await watch.next_message(1)
        assert "unmounted" in ended.title
        await watch.service.wait_until(lambda: not watch.service.children(), "no probe is left")
        assert len(watch.messages) == 2, watch.messages
