"""What people are told of mounts in containers: containers with FUSE inside, the real service, a real receiver."""

from __future__ import annotations

import errno
import os
import re
import signal
from contextlib import AsyncExitStack

import pytest

from tests.fakes.containers import Containers, FakeContainer
from tests.fakes.fuse import HANG, OK, Statfs, fails
from tests.fakes.fuse_server import MS_REMOUNT, unmount
from tests.fakes.receivers import GotifyReceiver
from tests.integration.looking import Outcome
from tests.integration.service import HOST, Service, Site
from tests.integration.test_notifications import asked, matches, tell_last, titles, until_told

pytestmark = pytest.mark.kernel


def label(ct: FakeContainer, name: str = "") -> str:
    """As people know it."""
    return " ".join(part for part in ("CT", ct.ctid, name) if part)


async def test_a_share_of_the_host_and_a_mount_of_a_containers_own(site: Site, lxc: Containers) -> None:
    """One message for the share in three places, one for what only one container has; each recovers with one."""
    share, last = site.mount("nas", source="nas01:/media", fstype="fuse.sshfs"), site.mount("last")
    plex = lxc.start(name="plex", binds={share.mount_point: "/media"})
    arr = lxc.start(name="arr", binds={share.mount_point: "/data"}, user_namespace=True)
    own = arr.fuse.mount("/mnt/own", source="me@nas02:/own", fstype="fuse.sshfs")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, lxc=lxc)
        async with site.service() as service:
            await asked(share, own, last)
            share.set(HANG)
            await until_told(gotify, "NO ANSWER")
            own.set(HANG)
            await until_told(gotify, "NO ANSWER", 2)
            share.set(OK)
            await until_told(gotify, "ok after")
            own.set(OK)
            await until_told(gotify, "ok after", 2)
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    assert matches(
        titles(gotify),
        [
            f"🔴 {HOST}: nas01 NO ANSWER, 3 mounts",
            f"🔴 {HOST}: CT {arr.ctid} arr /mnt/own NO ANSWER",
            f"🟢 {HOST}: nas01 ok {{SPAN}}",
            f"🟢 {HOST}: CT {arr.ctid} arr /mnt/own ok {{SPAN}}",
            end,
        ],
    ), titles(gotify)
    lines = gotify.received[0].message.splitlines()
    assert lines[1:4] == [
        f"Host {share.mount_point}",
        f"CT {plex.ctid} plex /media",
        f"CT {arr.ctid} arr /data",
    ]


# ---- containers that stop and start


@pytest.mark.cgroups
async def test_containers_that_stop_and_start(site: Site, lxc: Containers) -> None:
    """What is well goes and comes in silence; what was stale ends as stopped, or as remounted if it is soon back."""
    gone, back, well = (lxc.start(name=name, user_namespace=name == "back") for name in ("gone", "back", "well"))
    stale, hung, healthy = (ct.fuse.mount("/mnt/nas") for ct in (gone, back, well))
    last = site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, lxc=lxc, on=("stale", "vanished", "readonly"))
        async with site.service() as service:
            await asked(stale, hung, healthy, last)
            stale.set(fails(errno.ESTALE))
            hung.set(HANG)
            await gotify.wait_for(2)
            for ct in (gone, back, well):
                ct.stop()
            for ct in (gone, back, well):
                await service.wait_for_line(f"container stopped: {ct.namespace}:/mnt/nas")
            for ct in (back, well):
                ct.restart()
                await asked(ct.fuse.mount("/mnt/nas"))
            await until_told(gotify, "remounted")
            well.reboot()
            await asked(well.fuse.mount("/mnt/nas"))
            # A mount made while the container runs is not seen before the next round.
            late = well.fuse.mount("/mnt/late", mode=fails(errno.EIO))
            await until_told(gotify, "I/O ERROR")
            await until_told(gotify, "container stopped")
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    alarms, others = sorted(titles(gotify)[:2]), titles(gotify)[2:]
    assert alarms == sorted(
        [
            f"🔴 {HOST}: {label(gone, 'gone')} /mnt/nas STALE HANDLE",
            f"🔴 {HOST}: {label(back, 'back')} /mnt/nas NO ANSWER",
        ]
    )
    assert matches(others[:1], [f"🟢 {HOST}: {label(back, 'back')} /mnt/nas remounted, ok {{SPAN}}"]), others
    assert matches(
        sorted(others[1:-1]),
        [
            f"⚪ {HOST}: {label(gone, 'gone')} /mnt/nas container stopped {{SPAN}}",
            f"🔴 {HOST}: {label(well, 'well')} {late.mount_point} I/O ERROR",
        ],
    ), others
    assert others[-1] == end


# ---- what the host has anew, and a container has not


@pytest.mark.cgroups
async def test_the_host_has_it_anew_and_containers_keep_the_old(site: Site, lxc: Containers) -> None:
    """A share that is mounted again on the host; an lxcfs that was restarted before the watcher was."""
    first = site.server()
    share = site.mount("nas", server=first, source="nas01:/media", fstype="fuse.sshfs")
    old = site.mount("lxcfs", server=first, source="lxcfs", fstype="fuse.lxcfs")
    bound = {f"{old.mount_point}/{name}": f"/run/{name}" for name in ("one", "two", "three")}
    plex, arr = lxc.start(name="plex", binds=bound | {share.mount_point: "/media"}), lxc.start(name="arr", binds=bound)
    fresh = site.server()
    last = site.mount("last")
    old.unmount()
    site.mount("lxcfs", server=fresh, source="lxcfs", fstype="fuse.lxcfs")
    old.close_fd()
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, lxc=lxc)
        async with site.service() as service:
            await asked(share, last)
            lxcfs = await until_told(gotify, "FUSE PROCESS DEAD")
            first.kill()
            alarm = await until_told(gotify, "nas01 FUSE PROCESS DEAD")
            unmount(share.path)
            await service.wait_for_line(f"but unmounted: {share.mount_point}")
            site.mount("nas", server=fresh, source="nas01:/media", fstype="fuse.sshfs")
            partial = await until_told(gotify, "remounted, ok")
            plex.restart()  # it gets what the host has by now
            await until_told(gotify, "nas01 remounted, ok")
            await until_told(gotify, "/run/one remounted, ok")
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    assert titles(gotify)[:3] == [lxcfs.title, alarm.title, partial.title]
    assert matches(
        sorted(titles(gotify)[3:-1]),
        [
            f"🟢 {HOST}: {label(plex, 'plex')} /run/one remounted, ok {{SPAN}}, 1 of 2",
            f"🟢 {HOST}: nas01 remounted, ok {{SPAN}}",
        ],
    ), titles(gotify)
    assert titles(gotify)[-1] == end
    where = f"{label(plex, 'plex')} /run/one and 1 more"
    assert lxcfs.title == f"🔴 {HOST}: {where} FUSE PROCESS DEAD, 2 mounts"
    lines = lxcfs.message.splitlines()
    assert lines[1:4] == [f"{label(plex, 'plex')} /run/one", f"{label(arr, 'arr')} /run/one", "lxcfs; fuse.lxcfs"]
    assert "Host ok, container old: the host has mounted it anew since" in lines
    assert alarm.title == f"🔴 {HOST}: nas01 FUSE PROCESS DEAD, 2 mounts"
    assert matches([partial.title], [f"🟢 {HOST}: {share.mount_point} remounted, ok {{SPAN}}, 1 of 2"]), partial.title
    assert partial.message.splitlines() == [
        f"Remounted: host {share.mount_point}",
        f"🔴 Still: {label(plex, 'plex')} /media FUSE PROCESS DEAD",
        "Host ok, container old: the host has mounted it anew since",
        f"Do: pct reboot {plex.ctid}",
    ]


@pytest.mark.cgroups
async def test_a_container_that_sees_the_disk_under_the_mount(site: Site, lxc: Containers) -> None:
    """It was started before the NAS was mounted; told once where that is asked for, and shown."""
    os.makedirs(site.place("nas"))
    plex = lxc.start(name="plex", binds={site.place("nas"): "/media"})
    last = site.mount("last")
    async with GotifyReceiver() as default, GotifyReceiver() as everything, AsyncExitStack() as services:
        site.write_config({"gotify": default.url}, lxc=lxc)
        other = site.path / "other.toml"
        text = site.config_text({"gotify": everything.url}, lxc=lxc, on=("stale", "vanished"), state="other")
        site.write(other, text)
        running: list[Service] = [
            await services.enter_async_context(site.service()),
            await services.enter_async_context(site.service(config=other)),
        ]
        for service in running:
            await service.wait_for_line("watching .*/last")
        site.mount("nas", source="nas01:/media", fstype="fuse.sshfs")
        alarm = await until_told(everything, "NOT MOUNTED")
        outcome = Outcome(*await site.run("--once", "--json"))
        plex.restart()
        ended = await until_told(everything, "🟢")
        end = await tell_last(last, default, everything)
        assert [await service.end() for service in running] == [0, 0]
    assert titles(default) == [end]
    assert titles(everything) == [alarm.title, ended.title, end]
    assert alarm.title == f"🟠 {HOST}: {label(plex, 'plex')} /media NOT MOUNTED"
    assert alarm.message.splitlines()[1:] == [
        f"{label(plex, 'plex')} /media",
        "nas01:/media; fuse.sshfs",
        "Sees the disk under nas01:/media: it was started before the host had mounted that",
        f"Do: pct reboot {plex.ctid} # what it wrote there meanwhile is on the disk of the host, under the mount",
        f"Quiet: watcher silence {plex.namespace}:/media --for 2h",
    ]
    assert matches([ended.title], [f"🟢 {HOST}: {label(plex, 'plex')} /media remounted, ok {{SPAN}}"]), ended.title
    assert outcome.code == 2
    assert outcome.mount("/media", plex.namespace)["status"] == "missing"
    assert outcome.mount(site.place("nas"))["status"] == "ok"


# ---- how full


def percent(used: int) -> Statfs:
    return Statfs(blocks=10_000, bfree=10_000 - 100 * used, bavail=10_000 - 100 * used)


async def test_full_is_told_on_change_only(site: Site, lxc: Containers) -> None:
    """Of a container's own mount as it fills and empties, and of its root, which nobody watches otherwise."""
    arr, small = lxc.start(name="arr", user_namespace=True), lxc.start(name="small")
    nas = arr.fuse.mount("/mnt/nas", statfs=percent(89))
    small.run([("mount", "none", "/", "", MS_REMOUNT, "size=1m"), ("write", "/log", 970_000)])
    marks = [site.mount(name) for name in ("first", "second", "last")]
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, lxc=lxc, on=("full", "stale"), interval="100ms")
        async with site.service() as service:

            async def fill(used: int) -> None:
                nas.set(OK, statfs=percent(used))
                await asked(nas)
                await asked(nas)  # by now the answer before this one has been judged

            await fill(89)
            await until_told(gotify, f"{label(small)} small / ")
            ends = [await tell_last(marks[0], gotify)]
            await fill(91)
            await until_told(gotify, "/mnt/nas 91 % FULL")
            await fill(88)
            await fill(93)
            await fill(88)
            ends.append(await tell_last(marks[1], gotify))
            await fill(86)
            await until_told(gotify, "below 90 % again")
            await fill(89)
            ends.append(await tell_last(marks[2], gotify))
            assert await service.end() == 0
    of_root, *others = titles(gotify)
    assert re.fullmatch(rf"🟠 {HOST}: {label(small, 'small')} / 9\d % FULL", of_root)
    place = f"{label(arr, 'arr')} /mnt/nas"
    assert matches(
        others,
        [
            ends[0],
            f"🟠 {HOST}: {place} 91 % FULL",
            ends[1],
            f"🟢 {HOST}: {place} below 90 % again {{SPAN}}",
            ends[2],
        ],
    ), others


# ---- what is left alone


@pytest.mark.cgroups
async def test_a_frozen_container_is_not_judged(site: Site, lxc: Containers) -> None:
    """Its server stands still with it. What it has of the host is judged, and told after twice that time."""
    share, last = site.mount("nas"), site.mount("last")
    arr = lxc.start(name="arr", user_namespace=True, binds={share.mount_point: "/media"})
    own = arr.fuse.mount("/mnt/own")
    patient = f'[[override]]\nmounts = ["{share.mount_point}", "{arr.namespace}:/media"]\nalarm_after = "2s"'
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, lxc=lxc, more=patient)
        async with site.service() as service:
            await asked(share, own, last)
            arr.freeze()
            share.set(HANG)
            alarm = await until_told(gotify, "NO ANSWER")
            assert not service.found(f"stale: {arr.namespace}:/mnt/own")
            arr.thaw()
            await asked(own)
            own.set(HANG)
            await until_told(gotify, "/mnt/own NO ANSWER")
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    expected = [f"🔴 {HOST}: {share.mount_point} and 1 more NO ANSWER, 2 mounts"]
    expected += [f"🔴 {HOST}: {label(arr, 'arr')} /mnt/own NO ANSWER", end]
    assert titles(gotify) == expected
    assert alarm.message.splitlines()[1:3] == [f"Host {share.mount_point}", f"{label(arr, 'arr')} /media"]


async def test_containers_are_forgotten_and_found_again_at_a_reload(site: Site, lxc: Containers) -> None:
    ct, last = lxc.start(name="arr"), site.mount("last")
    own = ct.fuse.mount("/mnt/own")
    watching = f"watching {ct.namespace}:/mnt/own "
    async with GotifyReceiver() as gotify:
        with_them = site.config_text({"gotify": gotify.url}, lxc=lxc, on=("stale", "vanished"))
        site.write(site.config, with_them)
        async with site.service() as service:
            await service.wait_for_line(watching)
            await asked(own)
            site.write(site.config, with_them.replace("containers = true", "containers = false"))
            service.send(signal.SIGHUP)
            await service.wait_for_line(f"no longer watched: {ct.namespace}:/mnt/own")
            own.set(fails(errno.EIO))
            await asked(last)
            await asked(last)
            site.write(site.config, with_them)
            service.send(signal.SIGHUP)
            await service.wait_for_line(watching, 2)
            await until_told(gotify, "I/O ERROR")
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    assert titles(gotify) == [f"🔴 {HOST}: {label(ct, 'arr')} /mnt/own I/O ERROR", end]
