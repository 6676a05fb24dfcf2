"""Real LXC containers: found, named, their mounts watched, and left alone when they stop."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.fuse import HANG, OK, FuseMount, FuseServer
from tests.integration.service import Service
from tests.system.following import follow, joined
from tests.system.hanging import reads, works
from tests.system.lxc import Container, InsideFuse
from tests.system.net import ADDRESS, EXPORTS, Server
from tests.system.table import Row
from tests.system.watching import QUICK, Watch, once

HOST = "lab"
NFS = "/mnt/nfs"
SOURCE = f"{ADDRESS}:{EXPORTS / 'nfs'}"
MARGIN = 5.0  # seconds that a stop may take longer beside us: what a busy machine may lag behind


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        server.nfs()
        yield server


# ---- with default settings, for the table


@pytest.mark.lab("lxc")
@pytest.mark.timeout(240)
async def test_a_share_of_the_host_that_is_bound_into_two_containers(
    server: Server, row: Callable[[Row], None]
) -> None:
    """One probe, one alarm with all three places, one recovery."""
    with (
        server.nfs_mount(NFS, "vers=4.2,hard"),
        Container("101", "plex", binds={NFS: "/media"}) as plex,
        Container("102", "arr", binds={NFS: "/data"}, unprivileged=True) as arr,
    ):
        plex.start()
        arr.start(foreground=False)
        async with Watch([NFS, "ct:*"], containers=True) as watch:
            await watch.status("3 mounts on the host and in 2 containers: 3 ok$")
            told = await watch.outage(
                "/media", server.cut, joined(server), hangs=["CT 101 plex", "CT 102 arr"], inside=plex.attach
            )
            await watch.status(": 3 ok$")
        assert len(watch.messages) == 2
    assert told.alarm.title == f"🔴 {HOST}: {ADDRESS} NO ANSWER, 3 mounts"
    assert told.alarm.message.splitlines()[1:4] == [f"Host {NFS}", "CT 101 plex /media", "CT 102 arr /data"]
    assert told.recovery.title.startswith(f"🟢 {HOST}: {ADDRESS} ok after ")
    assert told.recovery.message == f"Ok: host {NFS}, CT 101 plex /media, CT 102 arr /data"
    case = "NFS 4.2, hard, bound from the host into two containers: packets dropped"
    row(told.row(60, case, "NO ANSWER"))


@pytest.mark.lab("lxc")
@pytest.mark.timeout(240)
async def test_nfs_mounted_inside_a_container(server: Server, row: Callable[[Row], None]) -> None:
    """By its own client in its own network: the host knows nothing of it."""
    server.bridge()
    with Container("101", "plex", address="10.99.0.101") as plex:
        plex.start()
        with plex.nfs_mount(SOURCE, "/mnt/own", "vers=4.2,hard"), reads("/mnt/own/file", plex.attach):
            async with Watch(["ct:*"], containers=True) as watch:
                await watch.status("1 mount on the host and in 1 container: 1 ok$")
                told = await watch.outage(
                    "/mnt/own", server.cut, joined(server), hangs=["tail (", ", CT 101)"], inside=plex.attach
                )
                await watch.status(": 1 ok$")
            assert len(watch.messages) == 2
    assert told.alarm.title == f"🔴 {HOST}: CT 101 plex /mnt/own NO ANSWER"
    assert told.recovery.title.startswith(f"🟢 {HOST}: CT 101 plex /mnt/own ok after ")
    case = "NFS 4.2, hard, mounted inside a container: packets dropped"
    row(told.row(61, case, "NO ANSWER"))


@pytest.mark.lab("lxc")
@pytest.mark.timeout(240)
async def test_fuse_inside_an_unprivileged_container(row: Callable[[Row], None]) -> None:
    """The host's root may not look into it; it is probed all the same, and neither "denied" nor told to be ok."""
    with Container("102", "arr", unprivileged=True) as arr:
        arr.start()
        with InsideFuse(arr) as fuse:
            own = fuse.mount("/mnt/own", source="media:", fstype="fuse.rclone")
            outside = ["stat", "/".join(("/proc", str(arr.init), "root/mnt/own"))]
            refused = subprocess.run(outside, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=30)
            assert "Permission denied" in refused.stderr
            async with Watch(["ct:*"], containers=True) as watch:
                await watch.status(": 1 ok$")
                with works("/mnt/own", arr.attach):
                    told = await watch.outage(
                        "/mnt/own",
                        lambda: own.set(HANG),
                        follows=["To give it up"],
                        hangs=["sleep (", ", CT 102)"],
                        ends=" unmounted after ",
                        inside=arr.attach,
                    )
                await watch.status("watching 0 mounts")
                await watch.service.wait_until(lambda: not watch.service.children(), "no probe is left")
            assert len(watch.messages) == 2
    assert told.alarm.title == f"🔴 {HOST}: CT 102 arr /mnt/own NO ANSWER"
    # This kernel does not tell who serves it; one process in there may.
    assert "python3 (pid " in told.alarm.message
    case = "FUSE inside an unprivileged container: its process hangs; then given up"
    row(told.row(62, case, "NO ANSWER")._replace(recovery=None))


# ---- what is about containers, not about times


@pytest.mark.lab("lxc2")
@pytest.mark.timeout(180)
async def test_containers_are_found_and_named_however_they_were_started(server: Server) -> None:
    """In the foreground below systemd, as Proxmox VE does, before the service; daemonised, while it runs; rebooted."""
    with (
        server.nfs_mount(NFS),
        Container("101", "plex", binds={NFS: "/media"}, own_disk=True) as plex,
        Container("102", "arr", binds={NFS: "/data"}, unprivileged=True) as arr,
    ):
        plex.start()
        async with Watch([NFS, "ct:*"], probe=QUICK, containers=True) as watch:
            await watch.status("2 mounts on the host and in 1 container: 2 ok$")
            await asyncio.to_thread(arr.start, foreground=False)
            await watch.status("3 mounts on the host and in 2 containers: 3 ok$")
            await asyncio.to_thread(plex.reboot)
            await watch.service.wait_for_line("watching ct:101:/media", 2)
            code, shown = await asyncio.to_thread(once, config=watch.config)
            assert watch.messages == []
        inside = {
            (m["namespace"], m["lxc_id"], m["lxc_name"], m["lxc_pid"], m["target"], m["status"])
            for m in shown["mounts"]
            if m["namespace"] != "host"
        }
        assert inside == {
            ("ct:101", "101", "plex", plex.init, "/media", "ok"),
            ("ct:102", "102", "arr", arr.init, "/data", "ok"),
        }
        assert (code, shown["notes"]) == (0, [])


@pytest.mark.lab("lxc3")
@pytest.mark.timeout(240)
async def test_a_container_with_a_dead_share_stops_as_it_does_without_us(server: Server) -> None:
    """Killed, and shut down; what was told of it ends as "container stopped", and never as ok."""
    with server.nfs_mount(NFS), Container("101", "plex", binds={NFS: "/media"}) as plex:
        without = {}
        for kill in (True, False):
            plex.start()
            server.cut()
            without[kill] = plex.stop(kill=kill)
            server.join()
        plex.start()
        async with Watch(["ct:*"], probe=QUICK, containers=True) as watch:  # not the host's own place: it stays dead
            for kill in (True, False):
                had = len(watch.messages)
                await watch.status(": 1 ok$")
                server.cut()
                alarm = await watch.next_message(had)
                took = await asyncio.to_thread(plex.stop, kill=kill)
                closed = await watch.next_message(had + 1)
                await watch.status("watching 0 mounts")
                server.join()
                await asyncio.to_thread(plex.start)
                assert alarm.title == f"🔴 {HOST}: CT 101 plex /media NO ANSWER"
                assert closed.title.startswith(f"⚪ {HOST}: CT 101 plex /media container stopped after ")
                assert took <= without[kill] + MARGIN
            await watch.status(": 1 ok$")
            assert len(watch.messages) == 4


@pytest.mark.lab("lxc3")
@pytest.mark.timeout(240)
async def test_a_container_with_dead_nfs_of_its_own_stops_as_it_does_without_us(server: Server) -> None:
    """LXC takes its network down before the last of its mounts is gone: its monitor waits for the client's time-outs.

    Some 16 s here; with a hard mount more than five minutes, though nobody watches and the server is well.
    """
    server.bridge()
    patient = "vers=4.2,soft,timeo=10,retrans=1"
    with Container("101", "plex", address="10.99.0.101") as plex:
        plex.start()
        with plex.nfs_mount(SOURCE, "/mnt/own", patient):
            server.cut()
            without = plex.stop(kill=True)
        server.join()
        plex.start()
        with plex.nfs_mount(SOURCE, "/mnt/own", patient):
            async with Watch(["ct:*"], probe=QUICK, containers=True) as watch:
                await watch.status(": 1 ok$")
                server.cut()
                alarm = await watch.next_message(0)
                took = await asyncio.to_thread(plex.stop, kill=True)
                closed = await watch.next_message(1)
                await watch.status("watching 0 mounts")
                assert len(watch.messages) == 2
    assert alarm.title.startswith(f"🔴 {HOST}: CT 101 plex /mnt/own ")
    assert closed.title.startswith(f"⚪ {HOST}: CT 101 plex /mnt/own container stopped after ")
    assert took <= without + MARGIN


async def asked(mount: FuseMount) -> None:
    """Until it has been asked once more."""
    seen = mount.counters().requests.get("STATFS", 0)
    await asyncio.to_thread(mount.wait_seen, "STATFS", seen + 1, timeout=60)


@pytest.mark.lab("lxc2")
@pytest.mark.timeout(180)
async def test_a_frozen_container_is_not_judged() -> None:
    """Backups freeze containers, and with them their FUSE servers. A mount of the host tells the time meanwhile."""
    Path("/mnt/slow").mkdir(exist_ok=True)
    patient = '[[override]]\nmounts = ["/mnt/slow"]\nalarm_after = "9s"'  # three times what the other would take
    with Container("102", "arr", unprivileged=True) as arr, FuseServer() as ours:
        arr.start()
        slow = ours.mount("/mnt/slow")
        with InsideFuse(arr) as fuse:
            own = fuse.mount("/mnt/own")
            async with Watch(["/mnt/slow", "ct:*"], probe=QUICK, containers=True, more=patient) as watch:
                await watch.status(": 2 ok$")
                await asyncio.to_thread(arr.freeze)
                slow.set(HANG)
                alarm = await watch.next_message(0)
                code, frozen = await asyncio.to_thread(once, "--path", "ct:102:/mnt/own", config=watch.config)
                await asyncio.to_thread(arr.thaw)
                await asked(own)
                slow.set(OK)
                recovery = await watch.next_message(1)
                await asked(own)
                await watch.status(": 2 ok$")
                assert len(watch.messages) == 2
                # And what is told of it later can be followed, from the host.
                own.set(HANG)
                hangs = await watch.next_message(2)
                await asyncio.to_thread(follow, hangs.message, ["To give it up"])
                ended = await watch.next_message(3)
    assert alarm.title == f"🔴 {HOST}: /mnt/slow NO ANSWER"
    assert recovery.title.startswith(f"🟢 {HOST}: /mnt/slow ok after ")
    assert [(m["target"], m["status"]) for m in frozen["mounts"]] == [("/mnt/own", "denied")]
    assert "frozen" in frozen["mounts"][0]["error"]
    assert code == 0
    assert hangs.title == f"🔴 {HOST}: CT 102 arr /mnt/own NO ANSWER"
    assert ended.title.startswith(f"⚪ {HOST}: CT 102 arr /mnt/own unmounted after ")


@pytest.mark.lab("lxc2")
@pytest.mark.timeout(180)
async def test_what_a_container_mounts_while_it_runs(server: Server) -> None:
    server.bridge()
    with Container("101", "plex", address="10.99.0.101") as plex:
        plex.start()
        async with Watch(["ct:*"], probe=QUICK, containers=True) as watch:
            await watch.status("watching 0 mounts on the host and in 1 container$")
            with plex.nfs_mount(SOURCE, "/mnt/late", "vers=4.2,hard"):
                await watch.status("watching 1 mount .*: 1 ok$")
                server.cut()
                alarm = await watch.next_message(0)
                server.join()
                recovery = await watch.next_message(1)
                await watch.status(": 1 ok$")
                server.export("nfs", fsid=77)
                stale = await watch.followed(2)
                mended = await watch.next_message(3)
            await watch.status("watching 0 mounts")
            assert len(watch.messages) == 4
    server.export("nfs")
    assert alarm.title == f"🔴 {HOST}: CT 101 plex /mnt/late NO ANSWER"
    assert recovery.title.startswith(f"🟢 {HOST}: CT 101 plex /mnt/late ok after ")
    assert stale.title == f"🔴 {HOST}: CT 101 plex /mnt/late STALE HANDLE"
    assert mended.title.startswith(f"🟢 {HOST}: CT 101 plex /mnt/late ")


@pytest.mark.lab("lxc2")
@pytest.mark.timeout(180)
async def test_what_the_host_mounts_after_containers_were_started(server: Server) -> None:
    """LXC lets it come in, and all is well; a container that it does not reach writes on the host's disk.

    And once both have it, that container keeps the dead one when the host has mounted it anew. Alarms say what to do.
    """
    Path(NFS).mkdir(exist_ok=True)
    with (
        Container("101", "plex", binds={NFS: "/media"}) as plex,
        Container("102", "arr", binds={NFS: "/data"}, unprivileged=True, private=True) as arr,
    ):
        plex.start()
        arr.start()
        async with Watch([NFS, "ct:*"], probe=QUICK, containers=True, on=("stale", "vanished")) as watch:
            await watch.status("watching 0 mounts on the host and in 2 containers")
            with server.nfs_mount(NFS):
                alarm = await watch.next_message(0)
                await watch.status("watching 3 mounts .*: 2 ok, 1 not mounted$")
                await asyncio.to_thread(follow, alarm.message)
                recovery = await watch.next_message(1)
                await watch.status("watching 3 mounts .*: 3 ok$")
                assert len(watch.messages) == 2
                server.export("nfs", fsid=77)
                stale = await watch.followed(2)
                partial = await watch.followed(3)
                mended = await watch.next_message(4)
                await watch.status("watching 3 mounts .*: 3 ok$")
                assert len(watch.messages) == 5
    server.export("nfs")
    assert alarm.title == f"🟠 {HOST}: CT 102 arr /data NOT MOUNTED"
    # One that takes its time to start again has stopped, to begin with.
    again = rf"(🟢 {HOST}: CT 102 arr /data remounted, ok|⚪ {HOST}: CT 102 arr /data container stopped) after "
    assert re.match(again, recovery.title)
    assert stale.title == f"🔴 {HOST}: {ADDRESS} STALE HANDLE, 3 mounts"
    assert "🔴 Still: CT 102 arr /data STALE HANDLE" in partial.message
    assert mended.title.startswith((f"🟢 {HOST}: ", f"⚪ {HOST}: "))


def waits_uninterruptibly(service: Service) -> bool:
    """Whether a thread of a probe does, as on NFS."""
    for pid in service.children():
        for status in Path(f"/proc/{pid}/task").glob("*/stat"):
            try:
                if status.read_text().rpartition(")")[2].split()[0] == "D":
                    return True
            except OSError:
                continue
    return False


@pytest.mark.lab("lxc2")
@pytest.mark.timeout(180)
async def test_nothing_of_ours_pins_a_container_that_has_stopped(server: Server) -> None:
    """Its disk is free at once, though probes that would wait a minute hang in what it had mounted."""
    with (
        server.nfs_mount(NFS),
        Container("102", "arr", binds={NFS: "/data"}, unprivileged=True, own_disk=True) as arr,
    ):
        assert arr.image is not None
        arr.start()
        with InsideFuse(arr) as fuse:
            own = fuse.mount("/mnt/own")
            async with Watch(["ct:*"], probe=QUICK | {"timeout": "60s"}, containers=True) as watch:
                await watch.status(": 2 ok$")
                own.set(HANG)
                await asyncio.to_thread(own.wait_parked)
                server.cut()
                await watch.service.wait_until(lambda: waits_uninterruptibly(watch.service), "a probe waits on NFS")
                assert arr.image.in_use()
                await asyncio.to_thread(arr.stop, kill=True)
                assert not arr.image.in_use()
                assert waits_uninterruptibly(watch.service)
                assert arr.image.detach()
                assert watch.messages == []
