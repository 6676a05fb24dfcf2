"""What the tracker makes of real mount tables and real probes; and the visibility of mounts against two oracles."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.fakes.fuse import (
    ALL_ONES,
    HANG,
    MS_BIND,
    MS_RDONLY,
    OK,
    UNREAD,
    FuseServer,
    Mode,
    Statfs,
    delayed,
    fails,
)
from tests.fakes.fuse_server import MS_PRIVATE, MS_REC, MS_REMOUNT, identify, mount, unmount
from tests.integration.looking import (
    FAST,
    LIMIT,
    asker,
    mounts_at,
    picture,
    probe_of,
    stuck_threads,
    table,
    until,
    watching,
)
from watcher.core.mountinfo import Tree
from watcher.core.places import arrange
from watcher.model import HOST, Cause, Change, Kind, Pace, Place, Reach, ThreadGone, Verdict

pytestmark = pytest.mark.kernel

MakeDir = Callable[..., bytes]
MS_MOVE, MS_SLAVE, MS_SHARED = 8192, 1 << 19, 1 << 20  # linux/mount.h


# ---- states


async def test_hangs_before_the_start(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """Stale at the first sight; ok again after two good probes."""
    mounted = fuse.mount(mount_dir(), mode=HANG)
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        state = await seen.until_status(mounted.path, "stale")
        assert (state.cause, state.error) == (Cause.TIMEOUT, "no answer within 0.6 s")
        assert state.stack
        mounted.set(OK)
        await seen.until_status(mounted.path, "ok")
        assert [(t.kind, t.change) for t in seen.transitions] == [
            (Kind.STALE, Change.BEGAN),
            (Kind.STALE, Change.ENDED),
        ]
        assert len(seen.probes) == 3


async def test_hangs_later_and_comes_back(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir())
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        await seen.until_status(mounted.path, "ok")
        for mode in (HANG, UNREAD):
            mounted.set(mode)
            await seen.until_status(mounted.path, "stale")
            mounted.set(OK)
            await seen.until_status(mounted.path, "ok")
        assert [t.change for t in seen.transitions] == [Change.BEGAN, Change.ENDED] * 2


async def test_no_pile_up(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """Twenty rounds: one stuck thread in the mount that cannot be killed, none in the one that can."""
    wedged, killable = fuse.mount(mount_dir("a"), mode=HANG), fuse.mount(mount_dir("b"), mode=UNREAD)
    pace = FAST._replace(timeout=0.1, interval=0.1, stale_interval=0.0)
    async with picture(tmp_path / "run", watching(tmp_path, pace=pace)) as seen:
        await seen.until(lambda: len(seen.probes) >= 21, "twenty rounds")
        assert [p.place.mount_point for p in seen.probes].count(wedged.mount_point) == 1
        await until(lambda: seen.asker.children.survivors == 1, "one child left")
        (stuck,) = seen.asker.prober.wedged
        assert stuck.device == wedged.device
        (note,) = seen.asker.notes()
        assert len(stuck_threads([int(note.name)])) == 1
        state = seen.state(wedged.path)
        assert (state.status, state.wedged_since is not None) == ("stale", True)
        wedged.set(OK)
        killable.set(OK)
        await seen.until_status(wedged.path, "ok")
        await seen.until_status(killable.path, "ok")
        assert seen.asker.notes() == []


@pytest.mark.parametrize(
    ("code", "cause"),
    [(errno.ESTALE, Cause.STALE_HANDLE), (errno.EIO, Cause.IO_ERROR), (errno.EHOSTDOWN, Cause.TIMEOUT)],
)
async def test_error(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, code: int, cause: Cause) -> None:
    mounted = fuse.mount(mount_dir())
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        await seen.until_status(mounted.path, "ok")
        mounted.set(fails(code))
        state = await seen.until_status(mounted.path, "stale")
        assert (state.cause, state.latency, state.usage) == (cause, None, None)
        assert state.error == f"{os.strerror(code)} ({errno.errorcode[code]})"


async def test_server_killed(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir())
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        await seen.until_status(mounted.path, "ok")
        await asyncio.to_thread(fuse.kill)
        state = await seen.until_status(mounted.path, "stale")
        assert state.cause is Cause.DISCONNECTED


async def test_refused_at_first_sight(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir(), mode=fails(errno.EACCES))
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        state = await seen.until_status(mounted.path, "denied")
        assert (state.cause, state.reach) == (None, Reach.DENIED)
        mounted.set(OK)
        await seen.until_status(mounted.path, "ok")
        assert seen.transitions == []
        mounted.set(fails(errno.EACCES))
        state = await seen.until_status(mounted.path, "stale")
        assert state.cause is Cause.REFUSED


async def test_refused_after_a_restart(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir())
    async with picture(tmp_path / "run", watching(tmp_path)) as first:
        await first.until_status(mounted.path, "ok")
        known = first.tracker.answered()
    mounted.set(fails(errno.EACCES))
    async with picture(tmp_path / "run", watching(tmp_path / "nothing")) as second:
        second.tracker.restore_answered(known)
        second.tracker.configure(watching(tmp_path), 0.0)
        state = await second.until_status(mounted.path, "stale")
        assert state.cause is Cause.REFUSED


@pytest.mark.parametrize("blocks", [0, ALL_ONES])
async def test_implausible_size(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, blocks: int) -> None:
    mounted = fuse.mount(mount_dir())
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        await seen.until_status(mounted.path, "ok")
        mounted.set(OK, statfs=Statfs(blocks, blocks, blocks, 4096))
        state = await seen.until_status(mounted.path, "stale")
        assert state.cause is Cause.IMPLAUSIBLE
        mounted.set(OK, statfs=Statfs())
        state = await seen.until_status(mounted.path, "ok")
        assert state.usage is not None


@pytest.mark.parametrize("blocks", [0, ALL_ONES])
async def test_no_size_from_the_start(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, blocks: int) -> None:
    """That is how some file systems answer: nothing is wrong, and nothing is shown."""
    mounted = fuse.mount(mount_dir(), statfs=Statfs(blocks, blocks, blocks, 4096))
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        state = await seen.until_status(mounted.path, "ok")
        assert state.usage is None


@pytest.mark.parametrize(
    ("mode", "op"),
    [(fails(errno.EIO), "OPENDIR"), (fails(errno.EIO), "READDIR"), (delayed(1500), "READDIR")],
    ids=["error of OPENDIR", "error of READDIR", "silence"],
)
async def test_directory_fails_while_statfs_answers(
    fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, op: str, mode: Mode
) -> None:
    """A local daemon that answers statfs by itself must not talk away what the backend does not deliver."""
    mounted = fuse.mount(mount_dir())
    pace = FAST._replace(deep_interval=1.0, alarm_after=1.0, alarm_after_error=0.5)
    async with picture(tmp_path / "run", watching(tmp_path, pace=pace)) as seen:
        await seen.until_status(mounted.path, "ok")
        mounted.set(mode, ops=[op])
        begun = len(seen.probes)
        await seen.until(
            lambda: seen.state(mounted.path).status == "stale" or len(seen.probes) > begun + 30, "stale, or 30 probes"
        )
        assert seen.state(mounted.path).status == "stale"
        mounted.set(OK)
        await seen.until_status(mounted.path, "ok")


async def test_timeout_of_an_override(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    slow, other = fuse.mount(mount_dir("wan")), fuse.mount(mount_dir("lan"))
    for mounted in (slow, other):
        mounted.set(delayed(900), ops=["STATFS"])
    overrides = [([f"{tmp_path}/w*"], {"timeout": 20.0})]
    async with picture(tmp_path / "run", watching(tmp_path, overrides=overrides)) as seen:
        await seen.until_status(other.path, "stale")
        await seen.until_status(slow.path, "ok")
        assert {p.place.mount_point: p.timeout for p in seen.probes} == {slow.mount_point: 20.0, other.mount_point: 0.6}


# ---- read-only


async def test_mounted_read_only(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir(), flags=MS_RDONLY)
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        state = await seen.until_status(mounted.path, "readonly")
        assert (state.readonly, state.unexpected_readonly) == (True, False)
        assert seen.transitions == []


@pytest.mark.parametrize("flags", [MS_RDONLY, MS_BIND | MS_RDONLY], ids=["superblock", "mount"])
async def test_becomes_read_only(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, flags: int) -> None:
    mounted = fuse.mount(mount_dir())
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        await seen.until_status(mounted.path, "ok")
        await asyncio.to_thread(mounted.remount, flags)
        seen.read_table()
        state = seen.state(mounted.path)
        assert (state.status, state.readonly, state.unexpected_readonly) == ("readonly", True, True)
        assert [(t.kind, t.change) for t in seen.transitions] == [(Kind.READONLY, Change.BEGAN)]
        await asyncio.to_thread(mounted.remount, flags & ~MS_RDONLY)
        seen.read_table()
        await seen.round()
        await seen.until(lambda: not seen.state(mounted.path).readonly, "writable")
        assert [t.change for t in seen.transitions] == [Change.BEGAN, Change.ENDED]


async def test_superblock_read_only_at_first_sight(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """The mount says rw, the superblock ro: an error made it so, whenever that was."""
    mounted = fuse.mount(mount_dir())
    bound = mount_dir("bound")
    mount(mounted.path, bound, b"none", MS_BIND)
    await asyncio.to_thread(mounted.remount, MS_RDONLY)
    try:
        (listed,) = mounts_at(bound)
        assert "rw" in listed.options.split(",")
        assert "ro" in listed.super_options.split(",")
        async with picture(tmp_path / "run", watching(tmp_path)) as seen:
            await seen.until_status(bound, "readonly")
            assert seen.state(bound).unexpected_readonly
    finally:
        unmount(bound)


async def test_read_only_in_one_place_only(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """A bind that is ro by intent says nothing about the mount itself, and the mount's rw nothing about the bind."""
    mounted, bound = fuse.mount(mount_dir()), mount_dir("bound")
    mount(mounted.path, bound, b"none", MS_BIND)
    mount(b"none", bound, b"none", MS_REMOUNT | MS_BIND | MS_RDONLY)
    try:
        async with picture(tmp_path / "run", watching(tmp_path)) as seen:
            await seen.until_status(mounted.path, "ok")
            state = await seen.until_status(bound, "readonly")
            for _ in range(3):
                await seen.round()
            assert (state.readonly, state.unexpected_readonly) == (True, False)
            assert (seen.state(mounted.path).status, seen.state(mounted.path).readonly) == ("ok", False)
            assert seen.transitions == []
    finally:
        unmount(bound)


# ---- where mounts stand


async def test_places_of_one_superblock(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """One probe for all, one verdict; what is bound is one subject with all its places."""
    mounted = fuse.mount(mount_dir("first"))
    places = [mount_dir(f"bind-{n}") for n in range(5)]
    for path in places:
        mount(mounted.path, path, b"none", MS_BIND)
    try:
        async with picture(tmp_path / "run", watching(tmp_path)) as seen:
            assert len(await seen.round()) == 1
            assert mounted.counters().requests["STATFS"] == 1
            assert {state.status for state in seen.states().values()} == {"ok"}
            assert len(seen.states()) == 6
            mounted.set(HANG)
            await seen.until_status(places[3], "stale")
            assert {state.status for state in seen.states().values()} == {"stale"}
            (began,) = seen.transitions
            assert {place.mount_point for place in began.subject.places} == set(seen.states())
            assert mounted.counters().parked == 1
            mounted.set(OK)
            await seen.until_status(mounted.path, "ok")
    finally:
        for path in places:
            unmount(path)


async def test_subdirectory_is_a_mount_of_its_own(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted, bound = fuse.mount(mount_dir("first"), directories=["sub"]), mount_dir("bound")
    mount(mounted.path + b"/sub", bound, b"none", MS_BIND)
    try:
        async with picture(tmp_path / "run", watching(tmp_path)) as seen:
            assert len(await seen.round()) == 2
            assert {state.status for state in seen.states().values()} == {"ok"}
            assert seen.state(bound).mount.root == "/sub"
    finally:
        unmount(bound)


async def test_first_place_covered(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """What fails on the way to one place is no verdict on a mount that has another."""
    mounted, bound = fuse.mount(mount_dir("a/first")), mount_dir("bound")
    mount(mounted.path, bound, b"none", MS_BIND)
    try:
        async with picture(tmp_path / "run", watching(tmp_path)) as seen:
            cover = fuse.mount(mount_dir("a"))  # after the table was read
            await seen.until_status(bound, "ok")
            assert seen.transitions == []
            seen.read_table()
            seen.read_table()
            assert mounted.mount_point not in seen.states()
            assert seen.state(bound).status == "ok"
            cover.unmount()
    finally:
        unmount(bound)


async def test_covered_before_the_table_is_read_again(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """That the walk comes to nothing is a reason to read the table, not to blame the mount."""
    mounted = fuse.mount(mount_dir("a/b"))
    pace = FAST._replace(alarm_after_error=1.0)
    async with picture(tmp_path / "run", watching(tmp_path, pace=pace)) as seen:
        cover = fuse.mount(mount_dir("a"))  # has no directory b
        await seen.until(
            lambda: mounted.mount_point not in seen.states() or seen.state(mounted.path).status == "stale",
            "a verdict, or its end",
        )
        assert [t for t in seen.transitions if t.kind is Kind.STALE] == []
        cover.unmount()


async def test_stacked(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """Only the top is asked; that it lies on another is kept as a fact."""
    below = fuse.mount(mount_dir(), mode=HANG)
    top = fuse.mount(below.path, source="nas02:/top")
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        state = await seen.until_status(top.path, "ok")
        assert (state.mount.mount_id, state.stacked) == (top.mount_id, 2)
        assert len(seen.states()) == 1
        assert "STATFS" not in below.counters().requests
        top.unmount()
        seen.read_table()
        state = await seen.until_status(below.path, "stale")
        assert (state.mount.mount_id, state.stacked) == (below.mount_id, 1)


async def test_hidden_by_a_covered_ancestor(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    hidden = fuse.mount(mount_dir("a/b/c"), mode=HANG)
    cover = fuse.mount(mount_dir("a"), source="nas02:/cover", directories=["b/c"])
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        await seen.until_status(cover.path, "ok")
        assert list(seen.states()) == [cover.mount_point]
        assert "STATFS" not in hidden.counters().requests


PATIENT = FAST._replace(alarm_after=2.0, alarm_after_error=1.0)


@pytest.mark.parametrize("pace", [FAST, PATIENT], ids=["at once", "patient"])
async def test_healthy_below_a_hung_one(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, pace: Pace) -> None:
    """Nobody can reach it, and nobody is to blame but the one in front."""
    outer = fuse.mount(mount_dir("outer"), directories=["in/ner"])
    inner = fuse.mount(outer.path + b"/in/ner", source="nas02:/inner")
    async with picture(tmp_path / "run", watching(tmp_path, pace=pace)) as seen:
        await seen.until_status(inner.path, "ok")
        outer.set(HANG)
        await seen.until_status(outer.path, "stale")
        asked = len(seen.probes)
        for _ in range(20):
            await seen.round()
        state = seen.state(inner.path)
        assert (state.status, state.behind) == ("unknown", Place(HOST, outer.mount_point))
        assert state.error == f"behind {outer.mount_point}"
        assert inner.mount_point not in [p.place.mount_point for p in seen.probes[asked:]]
        outer.set(OK)
        await seen.until_status(outer.path, "ok")
        await seen.until_status(inner.path, "ok")
        assert {t.subject.source for t in seen.transitions} == {outer.source}


@pytest.mark.parametrize("mode", [HANG, UNREAD, fails(errno.EIO)], ids=str)
@pytest.mark.parametrize("pace", [FAST, PATIENT], ids=["at once", "patient"])
async def test_healthy_below_a_bad_one_at_first_sight(
    fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, mode: Mode, pace: Pace
) -> None:
    """Both are asked at once; the walk to the inner one fails with the outer."""
    outer = fuse.mount(mount_dir("outer"), directories=["in/ner"])
    inner = fuse.mount(outer.path + b"/in/ner", source="nas02:/inner")
    # An error to LOOKUP would make the kernel itself detach what is mounted below.
    outer.set(mode, ops=["STATFS"] if mode.kind == "errno" else [])
    async with picture(tmp_path / "run", watching(tmp_path, pace=pace)) as seen:
        await seen.until_status(outer.path, "stale")
        await seen.round()
        state = seen.state(inner.path)
        assert (state.status, state.behind) == ("unknown", Place(HOST, outer.mount_point))
        assert {t.subject.source for t in seen.transitions} == {outer.source}


async def test_lazily_unmounted(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """Before the table is read again, the probe tells; and the directory underneath is never an answer."""
    mounted = fuse.mount(mount_dir())
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        await seen.until_status(mounted.path, "ok")
        answered = len([r for r in seen.asker.events if getattr(r, "verdict", None) is Verdict.ANSWERED])
        mounted.unmount()
        await seen.until(lambda: not seen.states(), "gone")
        verdicts = [getattr(r, "verdict", None) for r in seen.asker.events]
        assert verdicts.count(Verdict.ANSWERED) == answered
        assert Verdict.NOT_THIS_MOUNT in verdicts
        assert [(t.kind, t.change) for t in seen.transitions] == [(Kind.VANISHED, Change.BEGAN)]


async def test_lazily_unmounted_while_stale(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """Closed as unmounted, never as recovered; what is mounted there next is remounted."""
    mounted = fuse.mount(mount_dir(), mode=UNREAD)
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        await seen.until_status(mounted.path, "stale")
        mounted.unmount()
        seen.read_table()
        assert seen.states() == {}
        again = fuse.mount(mount_dir(), source="nas01:/again")
        seen.read_table()
        await seen.until_status(again.path, "ok")
        assert [(t.change, t.reason) for t in seen.transitions] == [
            (Change.BEGAN, ""),
            (Change.GONE, "unmounted"),
            (Change.REMOUNTED, ""),
        ]


async def test_replaced_while_it_is_asked(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """The verdict on the old mount does not touch the new one."""
    old = fuse.mount(mount_dir(), mode=HANG)
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        asked = asyncio.create_task(seen.round())
        await asyncio.to_thread(old.wait_parked)
        unmount(old.path)
        new = fuse.mount(mount_dir())
        seen.read_table()
        assert seen.state(new.path).mount.mount_id == new.mount_id
        await asked
        assert seen.state(new.path).status == "unknown"
        await seen.until_status(new.path, "ok")
        assert [t.change for t in seen.transitions] == []
        old.set(OK)
        await until(lambda: bool(seen.asker.of(ThreadGone)), "end of the thread")


# ---- a table that changes


async def test_table_that_changes_all_the_time(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """A mount that stands is never reported gone, whatever comes and goes while the table is read."""
    standing = [fuse.mount(mount_dir(f"standing-{n}")) for n in range(10)]
    busy = [mount_dir(f"busy/{n}") for n in range(60)]
    stop, rounds = threading.Event(), [0]

    def churn() -> None:
        while not stop.is_set():
            for path in busy:
                mount(b"none", path, b"tmpfs")
            for path in busy[::2] + busy[1::2]:
                unmount(path)
            rounds[0] += 1

    thread = threading.Thread(target=churn)
    async with picture(tmp_path / "run", watching(tmp_path)) as seen:
        thread.start()
        try:
            for _ in range(150):
                seen.read_table()
                assert {m.mount_point for m in standing} <= set(seen.states())
                await asyncio.sleep(0)
            await until(lambda: rounds[0] > 2, "churn")
            while await seen.round():
                pass
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)
        for mounted in standing:
            await seen.until_status(mounted.path, "ok")
        assert not [t for t in seen.transitions if t.subject.fstype != "tmpfs"]


# ---- autofs


@dataclass
class Autofs:
    """A real autofs mount whose daemon is us."""

    path: bytes
    requests: int  # the pipe on which the kernel asks for mounts; non-blocking

    def asked(self) -> bytes:
        """What the kernel has asked for: every access that triggers it."""
        try:
            return os.read(self.requests, 4096)
        except BlockingIOError:
            return b""


@contextmanager
def autofs(path: bytes, kind: str, idle: int) -> Iterator[Autofs]:
    """Mount an autofs trigger (autofs(5)) with an idle time-out of so many seconds, 0 for none."""
    ours, kernels = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    os.set_blocking(ours, False)
    # Our own process group is the daemon's: it sees what lies on the trigger. Others, as the probe child, set it off.
    data = f"fd={kernels},pgrp={os.getpgrp()},minproto=5,maxproto=5,{kind}"
    mount(b"/etc/auto.test", path, b"autofs", 0, data.encode())
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # _IOWR(0x93, 0x64, unsigned long), include/uapi/linux/auto_fs.h
            fcntl.ioctl(fd, 0xC0089364, struct.pack("L", idle))
        finally:
            os.close(fd)
        yield Autofs(path, ours)
    finally:
        os.close(kernels)
        os.close(ours)
        unmount(path)


def test_strangers_set_off_the_trigger(mount_dir: MakeDir) -> None:
    """Else the tests below could not fail."""
    with (
        autofs(mount_dir(), "direct", 0) as trigger,
        subprocess.Popen(["stat", "-f", "--", trigger.path], start_new_session=True, cwd="/") as caller,
    ):
        try:
            os.set_blocking(trigger.requests, True)
            assert trigger.asked()
        finally:
            caller.kill()


@pytest.mark.parametrize("kind", ["direct", "indirect"])
async def test_trigger_is_left_alone(mount_dir: MakeDir, tmp_path: Path, kind: str) -> None:
    with autofs(mount_dir(), kind, 300) as trigger:
        chosen = watching(tmp_path, fstypes=["*"])
        async with picture(tmp_path / "run", chosen) as seen:
            await seen.round()
            assert seen.states() == {}
        (listed,) = mounts_at(trigger.path)
        assert listed.fstype == "autofs"
        assert "timeout=300" in listed.super_options
        assert trigger.asked() == b""


@pytest.mark.parametrize(("idle", "status"), [(300, "denied"), (0, "ok")])
async def test_mount_on_a_trigger(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, idle: int, status: str) -> None:
    """It is not asked where that would keep it from idling out."""
    with autofs(mount_dir("auto"), "direct", idle) as trigger:
        mounted = fuse.mount(mount_dir("aside"))
        mount(mounted.path, trigger.path, b"none", MS_MOVE)
        try:
            async with picture(tmp_path / "run", watching(tmp_path)) as seen:
                for _ in range(3):
                    await seen.round()
                assert seen.state(trigger.path).status == status
                assert seen.transitions == []
                assert ("STATFS" in mounted.counters().requests) is (status == "ok")
            assert trigger.asked() == b""
        finally:
            unmount(trigger.path)


@pytest.mark.parametrize("below", ["", "/sub"])
async def test_expired_under_the_probe(mount_dir: MakeDir, tmp_path: Path, fuse: FuseServer, below: str) -> None:
    """By a table of yesterday something is mounted on the trigger: the walk does not set it off."""
    with autofs(mount_dir(), "direct", 0) as trigger:
        (listed,) = mounts_at(trigger.path)
        stale = listed._replace(mount_id=listed.mount_id + 100_000, mount_point=listed.mount_point + below)
        async with asker(tmp_path / "run") as asking:
            (report,) = await asking.ask(probe_of(stale))
        assert report.verdict in (Verdict.NOT_THIS_MOUNT, Verdict.FAILED)
        assert trigger.asked() == b""


# ---- which mounts are visible: what a path lookup says, and findmnt


def disagreements(below: bytes) -> list[str]:
    """Mounts below a directory whose visibility is not what looking up their mount point says."""
    mounts = table()
    tree, found = Tree(mounts), []
    for mounted in mounts:
        if not os.fsencode(mounted.mount_point).startswith(below):
            continue
        try:
            reached: int | None = identify(os.fsencode(mounted.mount_point))[0]
        except FileNotFoundError:
            reached = None
        if tree.is_visible(mounted) != (reached == mounted.mount_id):
            found.append(f"is_visible={tree.is_visible(mounted)}, the lookup ends in {reached}: {mounted}")
    return found


def dump() -> str:
    return Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=0, max_size=3).map("/".join)
STEPS = st.one_of(
    st.tuples(st.just("tmpfs"), PATHS, PATHS),
    st.tuples(st.just("tmpfs"), PATHS, PATHS),
    st.tuples(st.just("bind"), PATHS, PATHS),
    st.tuples(st.just("rbind"), PATHS, PATHS),
    st.tuples(st.just("move"), PATHS, PATHS),
    st.tuples(st.just("unmount"), PATHS, PATHS),
    st.tuples(st.sampled_from(["shared", "slave", "private"]), PATHS, PATHS),
)


def populate(path: bytes) -> None:
    """Directories to mount on, as deep as the paths go."""
    for first in (b"a", b"b", b"c"):
        for second in (b"a", b"b", b"c"):
            for third in (b"a", b"b", b"c"):
                os.makedirs(os.path.join(path, first, second, third), exist_ok=True)


def act(base: bytes, step: tuple[str, str, str]) -> None:
    """One step on real mounts; what the kernel refuses is skipped."""
    kind, one, two = step
    here, there = base + b"/" + one.encode(), base + b"/" + two.encode()
    here, there = here.rstrip(b"/"), there.rstrip(b"/")
    with suppress(OSError):
        match kind:
            case "tmpfs":
                mount(b"none", here, b"tmpfs", 0, b"size=64k")
                if one < two:  # some of them empty: what they cover is gone from the walk
                    populate(here)
            case "bind":
                mount(here, there, b"none", MS_BIND)
            case "rbind":
                mount(here, there, b"none", MS_BIND | MS_REC)
            case "move":
                mount(here, there, b"none", MS_MOVE)
            case "unmount":
                if one:
                    unmount(here)
            case "shared":
                mount(b"none", here, b"none", MS_SHARED)
            case "slave":
                mount(b"none", here, b"none", MS_SLAVE)
            case _:
                mount(b"none", here, b"none", MS_PRIVATE)


def clear(base: bytes) -> None:
    """Take down all that stands at or below a directory."""
    with suppress(OSError):
        mount(b"none", base, b"none", MS_PRIVATE | MS_REC)
    while True:
        try:
            unmount(base)
        except OSError:
            return


@given(steps=st.lists(STEPS, min_size=4, max_size=24))
@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_visibility_in_any_tree(mount_dir: MakeDir, steps: list[tuple[str, str, str]]) -> None:
    base = mount_dir("tree")
    mount(b"none", base, b"tmpfs")
    try:
        mount(b"none", base, b"none", MS_PRIVATE)
        populate(base)
        for step in steps:
            act(base, step)
        count = sum(os.fsencode(m.mount_point).startswith(base) for m in table())
        event(f"{min(count, 30) // 5 * 5}+ mounts")
        assert disagreements(base) == [], dump()
    finally:
        clear(base)


def test_visibility_of_tucked_mounts(mount_dir: MakeDir) -> None:
    """Propagation puts a mount *under* one that stands there already."""
    base = mount_dir("tree")
    mount(b"none", base, b"tmpfs")
    try:
        mount(b"none", base, b"none", MS_SHARED)
        populate(base)
        mount(base + b"/a", base + b"/b", b"none", MS_BIND)  # a peer of a
        mount(b"top", base + b"/b/c", b"tmpfs")
        mount(b"none", base + b"/b", b"none", MS_SLAVE)
        mount(b"top2", base + b"/b/c", b"tmpfs")
        mount(b"propagated", base + b"/a/c", b"tmpfs")
        assert disagreements(base) == [], dump()
    finally:
        clear(base)


needs_findmnt = pytest.mark.skipif(shutil.which("findmnt") is None, reason="no findmnt here")


@needs_findmnt
def test_parser_against_findmnt(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """util-linux reads the same file with code of its own. (Names of UTF-8: JSON has nothing else.)"""
    names = ["plain", "a b", "tab\tnew\nline", "back\\slash\\040", "#hash", "ä→x", "- x -"]
    for name in names:
        fuse.mount(mount_dir(name), source=f"nas01:/{name}", fstype="fuse.a b" if name == "a b" else "fuse.test")
    fuse.mount(mount_dir("plain"), source="nas02:/top", flags=MS_RDONLY, options="allow_other")
    columns = "ID,PARENT,MAJ:MIN,FSROOT,TARGET,SOURCE,FSTYPE,VFS-OPTIONS,FS-OPTIONS"
    command = ["findmnt", "--json", "--list", "--kernel", "--nofsroot", "-o", columns]
    before = table()
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=True, cwd="/")
    assert before == table(), "somebody else mounted meanwhile"
    theirs = {entry["id"]: entry for entry in json.loads(done.stdout)["filesystems"]}
    assert len(before) >= len(names) + 1
    assert set(theirs) == {mounted.mount_id for mounted in before}
    for mounted in before:
        entry = theirs[mounted.mount_id]
        assert entry["parent"] == mounted.parent_id
        assert entry["maj:min"].strip() == mounted.device
        assert entry["fsroot"] == mounted.root
        assert entry["target"] == mounted.mount_point
        assert entry["fstype"] == mounted.fstype
        assert entry["vfs-options"] == mounted.options
        assert entry["fs-options"] == mounted.super_options
        if mounted.fstype.startswith("fuse"):
            assert entry["source"] == mounted.source


async def test_all_that_is_arranged_is_reached(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """Stacked, covered, bound: what is asked is exactly what a lookup ends in, and all of it answers."""
    for name in ("a", "a/b", "a/b", "c", "a", "a/b", "c/d"):
        fuse.mount(mount_dir(name), directories=["b", "d"])
    mount(os.fsencode(tmp_path / "c"), mount_dir("e"), b"none", MS_BIND | MS_REC)
    try:
        chosen = watching(tmp_path)
        standings = arrange(HOST, table(), chosen).standings
        assert {s.mount.mount_point.removeprefix(str(tmp_path)) for s in standings} == {
            "/a", "/a/b", "/c", "/c/d", "/e", "/e/d",
        }  # fmt: skip
        for standing in standings:
            assert identify(os.fsencode(standing.mount.mount_point))[0] == standing.mount.mount_id
        async with asker(tmp_path / "run") as asking:
            reports = await asking.ask(*(probe_of(s.mount) for s in standings))
        assert {report.verdict for report in reports} == {Verdict.ANSWERED}
    finally:
        clear(mount_dir("e"))
