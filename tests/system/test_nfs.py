"""NFS that dies in every way it knows, and comes back: default settings, a real server, receiver and control."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.fuse import FuseServer
from tests.system.control import Control
from tests.system.following import follow, joined
from tests.system.hanging import GUESTS, reads, storage, works
from tests.system.net import ADDRESS, Server, mountinfo, run
from tests.system.table import Row
from tests.system.waiting import wait_until
from tests.system.watching import ERROR, KERNEL, QUICK, SILENCE, Watch, once, outage

Note = Callable[[Row], None]
NAS = "/mnt/pve/nas01"  # where Proxmox VE mounts a storage of this name


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


# ---- silence


@pytest.mark.lab("nfs4")
@pytest.mark.timeout(240)
async def test_hard_version_4_2_packets_dropped(server: Server, row: Note) -> None:
    server.nfs()
    with server.nfs_mount(NAS, "vers=4.2,hard") as place, storage("nas01", place), works(place / "dir"):
        assert once("--path", str(place))[0] == 0
        hangs = ("PVE storage nas01", GUESTS, "sleep (")
        told = await outage(place, server.cut, joined(server), says="NO ANSWER", within=SILENCE, hangs=hangs)
    assert set(told.control) == {"ok"}, "the control is known to miss it"
    row(told.row(10, "NFS 4.2, hard, a storage of Proxmox VE: packets dropped", "NO ANSWER"))


@pytest.mark.lab("nfs4")
@pytest.mark.timeout(240)
async def test_nfsd_stopped_and_started(server: Server, row: Note) -> None:
    server.nfs()
    with server.nfs_mount("/mnt/nfs", "vers=4.2,hard") as place, reads(place / "file"):
        told = await outage(place, server.stop_nfsd, says="NO ANSWER", within=SILENCE, hangs=["tail ("])
    assert f"Do on {ADDRESS}: systemctl restart nfs-server" in told.alarm.message
    assert set(told.control) == {"ok"}, "the control is known to miss it"
    row(told.row(13, "NFS 4.2, hard: nfsd stopped", "NO ANSWER"))


@pytest.mark.lab("nfs-soft")
@pytest.mark.timeout(240)
async def test_hard_version_3_packets_dropped(server: Server, row: Note) -> None:
    server.nfs(v3=True)
    with server.nfs_mount("/mnt/nfs", "vers=3,hard,nolock") as place, works(place):
        told = await outage(place, server.cut, joined(server), says="NO ANSWER", within=SILENCE, hangs=["sleep ("])
    assert set(told.control) == {"ok"}, "the control is known to miss it"
    row(told.row(11, "NFS 3, hard: packets dropped", "NO ANSWER"))


@pytest.mark.lab("nfs-soft")
@pytest.mark.timeout(240)
async def test_a_soft_mount_is_silent_then_says_eio_and_neither_is_a_recovery(server: Server, row: Note) -> None:
    server.nfs()
    with server.nfs_mount("/mnt/nfs", "vers=4.2,soft,timeo=50,retrans=2") as place, reads(place / "file"):
        # Patient enough to see its EIO, which comes after 15 to 30 s; only then the wire is back.
        async with Watch([str(place)], probe={"timeout": "40s"}) as patient, Watch([str(place)]) as watch:
            await patient.status("1 ok")
            await watch.status("1 ok")

            def mend() -> None:
                wait_until(lambda: "Input/output error" in patient.service.log, "an EIO was seen", 90)
                server.join()

            mends = joined(server)._replace(do=mend)
            told = await watch.outage(place, server.cut, mends, hangs=["tail ("])
            await patient.next_message(1)
        assert len(watch.messages) == 2, watch.messages
        assert len(patient.messages) == 2, patient.messages
    assert "ok after" in patient.messages[1]
    told.judge("NO ANSWER", SILENCE)
    row(told.row(12, "NFS 4.2, soft (timeo=50, retrans=2): packets dropped", "NO ANSWER"))


# ---- answers that are errors


@pytest.mark.lab("nfs-errors")
@pytest.mark.timeout(200)
async def test_an_export_is_withdrawn_and_offered_again(server: Server, row: Note) -> None:
    server.nfs()
    with server.nfs_mount("/mnt/nfs") as place, works(place / "dir"):
        told = await outage(place, lambda: server.withdraw("nfs"), says="REFUSED", within=ERROR, hangs=["sleep ("])
    assert f"Do on {ADDRESS}: " in told.alarm.message
    row(told.row(20, "NFS 4.2: export withdrawn", "REFUSED"))


@pytest.mark.lab("nfs-errors")
@pytest.mark.timeout(200)
async def test_the_mounted_directory_is_made_anew(server: Server, row: Note) -> None:
    server.nfs()
    export = server.export("nfs")
    (export / "sub").mkdir()
    with server.nfs_mount("/mnt/nfs", name="nfs/sub") as place, works(place):

        def replace() -> None:
            (export / "sub").rmdir()
            (export / "keeps-the-inode").mkdir()
            (export / "sub").mkdir()

        # The kernel may use all numbers again: then it is "ok", else "remounted, ok".
        told = await outage(place, replace, says="STALE HANDLE", within=ERROR, hangs=["sleep ("], ends="ok")
    assert f"First, on {ADDRESS}: " in told.alarm.message
    row(told.row(21, "NFS 4.2: directory deleted and made anew; then mounted anew", "STALE HANDLE"))


@pytest.mark.lab("nfs-errors")
@pytest.mark.timeout(200)
async def test_the_fsid_of_an_export_changes(server: Server, row: Note) -> None:
    """Of what stands in /etc/fstab."""
    server.nfs()
    with server.nfs_mount("/mnt/nfs", fstab=True) as place, works(place / "dir"):
        told = await outage(
            place,
            lambda: server.export("nfs", fsid=77),
            says="STALE HANDLE",
            within=ERROR,
            hangs=["sleep ("],
            ends="ok",
        )
        server.export("nfs")
    assert " && mount /mnt/nfs" in told.alarm.message
    row(told.row(22, "NFS 4.2, in /etc/fstab: fsid of the export changed", "STALE HANDLE"))


# ---- read-only


@pytest.mark.lab("nfs-errors")
@pytest.mark.timeout(200)
async def test_the_client_remounts_read_only(server: Server, row: Note) -> None:
    server.nfs()
    with server.nfs_mount("/mnt/nfs") as place, works(place / "dir"):
        told = await outage(
            place,
            lambda: run("mount", "-o", "remount,ro", str(place)),
            says="READ-ONLY",
            within=ERROR,
            hangs=["sleep ("],
            on=["stale", "readonly"],
            begins="🟠",
            ends="writable again",
        )
    row(told.row(30, "NFS 4.2: remounted read-only on the client", "READ-ONLY"))


@pytest.mark.lab("nfs-errors")
@pytest.mark.timeout(200)
async def test_a_server_that_lets_nobody_write_any_more(server: Server, row: Note) -> None:
    """The client's kernel does not know, and only a write would show it: reading works, and that is what we say."""
    server.nfs()
    with server.nfs_mount("/mnt/nfs") as place:
        async with Watch([str(place)], on=["stale", "readonly"], probe=QUICK) as watch:
            await watch.status("1 ok")
            server.export("nfs", options="ro,no_root_squash")
            with pytest.raises(OSError, match="Read-only file system"):
                (place / "new").touch()
            control = Control(str(place))
            code, said = await asyncio.to_thread(once, "--path", str(place))
            await watch.status("1 ok")
            control.stop()
        assert watch.messages == []
    assert (code, said["mounts"][0]["status"]) == (0, "ok")
    row(
        Row(
            31,
            "NFS 4.2: export made read-only on the server",
            KERNEL,
            control.since(0)[-1],
            "ok; only a write can tell",
        )
    )


# ---- unmounting what is dead


def in_the_background(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.lab("nfs-umount")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("option", ["-l", "-f", ""])
async def test_unmounting_a_dead_mount(server: Server, option: str) -> None:
    server.nfs()
    with server.nfs_mount("/mnt/nfs") as place:
        async with Watch([str(place)], probe=QUICK) as watch:
            await watch.status("1 ok")
            await asyncio.to_thread(server.cut)
            alarm = await watch.next_message(0)
            assert "NO ANSWER" in alarm.title
            command = ["umount", *([option] if option else []), str(place)]
            if option == "-l":
                await asyncio.to_thread(run, *command)
            elif option == "-f":
                # "busy" while a probe waits, which it ends: at the latest the third goes through.
                for _ in range(20):
                    await asyncio.to_thread(run, *command, check=False)
                    if not mountinfo(place):
                        break
            else:
                # "busy" while a probe waits; else the command itself waits for the server, and goes through with it.
                while mountinfo(place):
                    unmounting = in_the_background(*command)
                    try:
                        await asyncio.to_thread(unmounting.wait, 2)
                    except subprocess.TimeoutExpired:
                        await asyncio.to_thread(server.join)
                        await asyncio.to_thread(unmounting.wait, 60)
            wait_until(lambda: not mountinfo(place), "it is unmounted")
            ended = await watch.next_message(1)
            await watch.service.wait_until(lambda: not watch.service.children(), "no probe is left")
            await asyncio.to_thread(server.join)
            # Of the dead file system itself nothing is left, either: nobody holds it.
            await asyncio.to_thread(wait_until, lambda: not volumes(), "the kernel lets go of the file system", 90)
            assert len(watch.messages) == 2, watch.messages
    if option:
        assert "no longer mounted" in ended.title.lower() + ended.message.lower(), watch.messages
        assert " ok after" not in ended.title


def volumes() -> list[str]:
    """NFS file systems that the kernel holds, mounted or not."""
    with suppress(FileNotFoundError):
        return [line for line in Path("/proc/fs/nfsfs/volumes").read_text().splitlines()[1:] if line]
    return []


@pytest.mark.lab("nfs-umount")
@pytest.mark.timeout(120)
async def test_neighbours_that_nobody_can_kill(server: Server, tmp_path: Path, fuse: FuseServer) -> None:
    """Two creates in one dead directory: the second waits for the first's lock, and not even SIGKILL ends it."""
    server.nfs()
    healthy = tmp_path / "healthy"
    healthy.mkdir()
    other = fuse.mount(str(healthy), source="nas02:/export")
    with server.nfs_mount("/mnt/nfs") as place:
        async with Watch([str(place), str(healthy)], probe=QUICK) as watch:
            await watch.status("2 ok")
            await asyncio.to_thread(server.cut)
            creators = [in_the_background("touch", str(place / f"new{n}")) for n in (1, 2)]
            alarm = await watch.next_message(0)
            assert str(place) in alarm.title + alarm.message
            await watch.status("1 ok.*1 stale|1 stale.*1 ok")
            asked = other.counters().requests["STATFS"]
            await asyncio.to_thread(other.wait_seen, "STATFS", asked + 2)  # it goes on being asked
            for creator in creators:
                creator.kill()
            await asyncio.to_thread(server.join)
            recovery = await watch.next_message(1)
            assert " ok after" in recovery.title
            for creator in creators:
                await asyncio.to_thread(creator.wait, 60)
            await watch.service.wait_until(lambda: "probe hanging" not in watch.now, "no probe hangs")
        assert len(watch.messages) == 2, watch.messages


@pytest.mark.lab("nfs-umount")
@pytest.mark.timeout(240)
async def test_a_dead_mount_is_given_up_as_its_alarm_says(server: Server) -> None:
    """Nobody waits for the server any more, neither of ours nor of others."""
    server.nfs()
    with server.nfs_mount("/mnt/nfs", "vers=4.2,hard") as place, reads(place / "file"):
        async with Watch([str(place)], probe=QUICK) as watch:
            await watch.status("1 ok")
            await asyncio.to_thread(server.cut)
            waiting = in_the_background("touch", str(place / "new"))
            alarm = await watch.next_message(0)
            hanging = alarm.message.partition("Hangs on it: ")[2]
            assert f"touch ({waiting.pid}" in hanging
            assert "tail (" in hanging
            assert waiting.poll() is None
            await asyncio.to_thread(follow, alarm.message, ["To give it up"])
            assert not mountinfo(place)
            assert await asyncio.to_thread(waiting.wait, 60) != 0
            ended = await watch.next_message(1)
            await watch.service.wait_until(lambda: not watch.service.children(), "no probe is left")
            assert len(watch.messages) == 2, watch.messages
    assert "NO ANSWER" in alarm.title
    assert " unmounted after " in ended.title


# ---- a bad line is no outage


@pytest.mark.lab("nfs-slow")
@pytest.mark.timeout(300)
async def test_a_slow_link_is_no_outage(server: Server, row: Note) -> None:
    """One second of delay and 5 % loss, in bursts of ten seconds 30 %."""
    server.nfs()
    with server.nfs_mount("/mnt/nfs", "vers=4.2,hard") as place:
        async with Watch([str(place)]) as watch:
            await watch.status("1 ok")
            until = time.monotonic() + 150
            while time.monotonic() < until:
                for seconds, loss in ((20, "5%"), (10, "30%")):
                    await asyncio.to_thread(server.disturb, "delay", "1s", "loss", loss)
                    await asyncio.sleep(seconds)
            assert watch.messages == []
            await asyncio.to_thread(server.disturb)
            await watch.status("1 ok")
        assert watch.messages == []
        assert watch.service.found("stale") == []
    row(Row(80, "NFS 4.2: 1 s delay, 5 % loss, bursts of 10 s with 30 %", KERNEL, "–", "ok, no message"))
