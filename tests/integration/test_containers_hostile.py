"""What a container cannot do to the watcher, its host and its neighbours; and what the watcher does not do to it."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.containers import Containers, FakeContainer
from tests.fakes.fuse import HANG, UNREAD, FuseMount, delayed, fails
from tests.fakes.receivers import GotifyReceiver, TelegramReceiver
from tests.integration.looking import Outcome
from tests.integration.service import HOST, LIMIT, Service, Site
from tests.integration.test_notifications import asked, tell_last, titles, until_told
from watcher.core.outbox import CHATTY
from watcher.core.places import MAX_PLACES
from watcher.probing.sweep import MAX_PER_LANE

pytestmark = pytest.mark.kernel


async def once(site: Site, *arguments: str) -> Outcome:
    """`watcher --once --json` beside the service."""
    return Outcome(*await site.run("--once", "--json", *arguments))


def parked(mounts: Iterable[FuseMount]) -> int:
    """Threads that hang in these mounts."""
    return sum(mounted.counters().parked for mounted in mounts)


# ---- names

HOSTILE = {
    b"a\nb": "a\\nb",
    b"\x1b[31m\x07": "\\x1b[31m\\x07",
    b"<b>x</b>": "<b>x</b>",
    b"@everyone": "@everyone",
    b"\xff\xc3": "\\xff\\xc3",
    "a\u202eb".encode(): "a\\u202eb",
}


async def test_names_are_clean_wherever_they_go(site: Site, lxc: Containers) -> None:
    """In messages, the log, the table and JSON."""
    ct, last = lxc.start(name="<i>@here", user_namespace=True), site.mount("last")
    mounts = [
        ct.fuse.mount(b"/mnt/" + name, source="nas\n\x1b]0;x\x07\udcff@all<b>:/x", fstype="fuse.sshfs")
        for name in HOSTILE
    ]
    async with GotifyReceiver() as gotify, TelegramReceiver() as telegram:
        site.write_config({"gotify": gotify.url, "telegram": telegram.url}, lxc=lxc)
        async with site.service(env=telegram.env) as service:
            await asked(*mounts, last)
            outcome, table = await once(site), (await site.run("--once")).out
            for mounted in mounts:
                mounted.set(fails(errno.EIO))
            alarm = await until_told(gotify, f"{len(HOSTILE)} mounts")
            await tell_last(last, gotify)
            await telegram.wait_for(len(gotify.received))
            assert await service.end() == 0  # and its lines were printable: see Service

    assert alarm.title.startswith(f"🔴 {HOST}: CT {ct.ctid} <i>@\u2060here /mnt/")
    (sent,) = [message for message in telegram.received if f"{len(HOSTILE)} mounts" in message.text]
    for text in (f"{alarm.title}\n{alarm.message}", sent.text):
        assert all(line.replace("@\u2060", "").isprintable() for line in text.split("\n"))
        assert not re.search(r"@(everyone|here|all)", text)
        counted = re.search(r"^and (\d) more mounts?$", text, re.MULTILINE)
        shown = [name for name in HOSTILE.values() if "/mnt/" + name.replace("@", "@\u2060") in text]
        assert len(shown) + int(counted[1] if counted else 0) == len(HOSTILE)
        assert len(shown) > len(HOSTILE) // 2
    assert "&lt;b&gt;x" in sent.markup  # else it would be markup

    assert outcome.code == 0
    entries = [m for m in outcome.document["mounts"] if m["namespace"] == ct.namespace]
    by_bytes = {
        base64.b64decode(m["target_bytes"]) if "target_bytes" in m else m["target"].encode(): m for m in entries
    }
    assert {path: m["target"] for path, m in by_bytes.items()} == {
        b"/mnt/" + name: f"/mnt/{shown}" for name, shown in HOSTILE.items()
    }
    assert {m["source"] for m in entries} == {"nas\\n\\x1b]0;x\\x07\\xff@all<b>:/x"}
    strange = [line for text in (table, outcome.stderr) for line in text.split("\n") if not line.isprintable()]
    assert [line for line in strange if not line.replace("@\u2060", "").isprintable()] == []
    assert len([line for line in table.split("\n") if f"CT {ct.ctid}" in line]) == len(HOSTILE)


async def test_a_container_cannot_join_the_hosts_incident(site: Site, lxc: Containers) -> None:
    """Whatever server it says that its own mount is of, and though both die at one moment."""
    share, last = site.mount("nas", source="nas01:/media", fstype="fuse.sshfs"), site.mount("last")
    ct = lxc.start(name="liar")
    own = ct.fuse.mount("/mnt/nas", source="nas01:/media", fstype="fuse.sshfs")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, lxc=lxc)
        async with site.service() as service:
            await asked(share, own, last)
            own.set(fails(errno.EIO))
            share.set(fails(errno.EIO))
            await gotify.wait_for(2)
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    of_host = f"🔴 {HOST}: {share.mount_point} I/O ERROR"
    assert sorted(titles(gotify)[:2]) == sorted([of_host, f"🔴 {HOST}: CT {ct.ctid} liar /mnt/nas I/O ERROR"])
    assert titles(gotify)[2:] == [end]
    (message,) = [m.message for m in gotify.received if m.title == of_host]
    assert ct.ctid not in message
    assert "liar" not in message


# ---- the way to a mount


@contextmanager
def swapping(ct: FakeContainer, directory: str) -> Iterator[None]:
    """All the time, one after the other: a directory, and a symlink that leads to the host's of that name."""
    away, over = "/away", threading.Event()

    def swap() -> None:
        while not over.is_set():
            ct.run([("rename", directory, away), ("symlink", directory, directory)])
            over.wait(0.01)
            ct.run([("unlink", directory), ("rename", away, directory)])
            over.wait(0.01)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def test_no_way_into_the_host(site: Site, lxc: Containers) -> None:
    """Directories on the way are swapped for symlinks while it is asked, or it is mounted over: nothing is alarmed."""
    bait, last = site.mount("bait", directories=["in"]), site.mount("last")
    path, top = f"{bait.mount_point}/in", f"/{bait.mount_point.split('/')[1]}"
    ct = lxc.start(name="fox")
    own, buried = ct.fuse.mount(path), ct.fuse.mount("/mnt/buried")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, lxc=lxc, exclude=[f"host:{bait.mount_point}"])
        async with site.service() as service:
            await asked(own, buried, last)
            with swapping(ct, top):
                # Asked in vain, it is asked again more and more slowly, but before 30 s have passed.
                seen = own.counters().requests["STATFS"]
                await asyncio.to_thread(own.wait_seen, "STATFS", seen + 3, timeout=LIMIT)
            ct.run([("rename", top, "/away"), ("symlink", top, top)])
            await service.wait_for_line(f"watching {ct.namespace}:{path.replace(top, '/away', 1)}")

            ct.mount("none", "/mnt/buried", "tmpfs")
            await service.wait_for_line(f"no longer mounted: {ct.namespace}:/mnt/buried")
            buried.set(fails(errno.EIO))
            end = await tell_last(last, gotify)
            assert set(bait.counters().requests) == {"INIT"}
            assert await service.end() == 0
        assert titles(gotify) == [end]
    # This is where it leads who follows symlinks: else the above could not fail.
    os.stat(f"/proc/{ct.init.pid}/root{path}")
    assert bait.counters().requests["LOOKUP"] == 1


# ---- very many


@pytest.mark.cgroups
async def test_ten_thousand_mounts_of_one_container(site: Site, lxc: Containers) -> None:
    """Most are not watched, and that is said; if all hang, four threads do, now or later, in whatever run.

    The neighbours' and the host's alarms come as if it were not there.
    """
    share, last = site.mount("nas"), site.mount("last")
    greedy, meek = lxc.start(name="greedy", user_namespace=True), lxc.start(name="meek", user_namespace=True)
    many = [greedy.fuse.mount(f"/mnt/{n:03}") for n in range(300)]
    greedy.run([("mkdir", "/from")])
    greedy.run(
        step for n in range(10_000) for step in (("mkdir", f"/to/{n:050}"), ("bind", "/from", f"/to/{n:050}", 0))
    )
    nas = meek.fuse.mount("/mnt/nas")
    left_out = f"{len(many) - MAX_PLACES} more mounts not watched, since there are too many"
    cut = "its mount table is larger than 1 MiB; the rest is not watched"
    rarely = f'[[override]]\nmounts = ["{greedy.namespace}:*"]\ninterval = "1s"'  # for the sake of the machine
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, lxc=lxc, more=rarely)
        async with site.service() as service:
            await asked(share, nas, last, *many[:MAX_PLACES])
            assert sum("STATFS" in mounted.counters().requests for mounted in many) == MAX_PLACES

            for mounted in many:
                mounted.set(HANG)
            await until_told(gotify, f"CT {greedy.ctid} greedy")
            for _ in range(3):
                await asked(nas)
            nas.set(HANG)
            await until_told(gotify, f"CT {meek.ctid} meek /mnt/nas NO ANSWER")
            share.set(fails(errno.EIO))
            await until_told(gotify, f"{share.mount_point} I/O ERROR")
            assert parked(many) == MAX_PER_LANE
            outcome = await once(site)
            (note,) = outcome.notes_on(greedy.namespace)
            assert cut in note
            assert left_out in note
            assert len([m for m in outcome.document["mounts"] if m["namespace"] == greedy.namespace]) == MAX_PLACES
            assert parked([*many, nas]) == MAX_PER_LANE + 1
            await service.wait_for_line(f"{greedy.namespace}: {cut}; {left_out}")
            assert await service.end() == 0
        asked_now = last.counters().requests["STATFS"]
        async with site.service() as service:
            await asyncio.to_thread(last.wait_seen, "STATFS", asked_now + 3)
            await tell_last(last, gotify)
            assert parked([*many, nas]) == MAX_PER_LANE + 1
            assert await service.end() == 0
    assert len(gotify.received) <= 10


async def test_mounts_that_die_one_after_the_other_are_few_messages(site: Site, lxc: Containers) -> None:
    """Some at first, and then none for a minute, whatever else dies."""
    ct, last = lxc.start(name="arr"), site.mount("last")
    mounts = [ct.fuse.mount(f"/mnt/{n:02}") for n in range(50)]
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, lxc=lxc, alarm_after_error="0s")
        async with site.service() as service:
            await asked(*mounts, last)
            for number, mounted in enumerate(mounts, 1):
                mounted.set(fails(errno.EIO))
                if number % 10 == 0:
                    await service.wait_for_line(f"stale: {ct.namespace}:", number)
                    await gotify.wait_for(min(number // 10, CHATTY))
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    *told, told_last = titles(gotify)
    assert told_last == end
    assert len(told) == CHATTY
    assert all(title.startswith(f"🔴 {HOST}: CT {ct.ctid} arr /mnt/") for title in told)


async def test_mounts_that_are_slow_are_not_said_to_hang(site: Site, lxc: Containers) -> None:
    """More than a container's probes can be, at a time: some have to wait for their turn."""
    ct = lxc.start(name="arr", user_namespace=True)
    mounts = [ct.fuse.mount(f"/mnt/{n}", mode=delayed(150)) for n in range(2 * MAX_PER_LANE)]
    site.write_config(lxc=lxc, interval="100ms", timeout="30s")
    async with site.service() as service:
        for mounted in mounts:
            await asyncio.to_thread(mounted.wait_seen, "STATFS", 2, timeout=LIMIT)
        assert service.found("no verdict on ") == []
        assert await service.end() == 0


# ---- what the watcher holds of a container


def held(service: Service) -> tuple[int, int]:
    """Its descriptors: those that are no pidfd, and pidfds of processes that have ended."""
    others = dead = 0
    for fd in os.listdir(f"/proc/{service.pid}/fd"):
        try:
            if os.readlink(f"/proc/{service.pid}/fd/{fd}") != "anon_inode:[pidfd]":
                others += 1
            elif "Pid:\t-1" in Path(f"/proc/{service.pid}/fdinfo/{fd}").read_text():
                dead += 1
        except FileNotFoundError:  # closed meanwhile
            continue
    return others, dead


@pytest.mark.cgroups
@pytest.mark.usefixtures("loop_devices")
async def test_a_dead_containers_disk_is_free_at_once(site: Site, lxc: Containers) -> None:
    """Also while a probe hangs in a mount that outlives it; and thirty starts leave no descriptor."""
    shares, last = [site.mount(name, options="allow_other") for name in ("one", "two")], site.mount("last")
    cts = [
        lxc.start(rootfs="image", user_namespace=unprivileged, binds={share.mount_point: "/media"})
        for share, unprivileged in zip(shares, (False, True), strict=True)
    ]
    cycled = [lxc.start(user_namespace=number % 2 == 0) for number in range(10)]
    slow = f'[[override]]\nmounts = ["{cts[0].namespace}:*", "{cts[1].namespace}:*"]\ntimeout = "5m"'
    # The host's places are left out, so that the shares are asked inside.
    site.write_config(lxc=lxc, exclude=[f"host:{share.mount_point}" for share in shares], more=slow)
    async with site.service() as service:
        for ct in cts:
            await service.wait_for_line(f"watching {ct.namespace}:/media")
        await asked(*shares, last)
        own = [ct.fuse.mount("/mnt/own", mode=UNREAD) for ct in cts]
        for share in shares:
            share.set(HANG)
        for share in shares:
            await asyncio.to_thread(share.wait_parked)
        for mounted in own:
            await asyncio.to_thread(mounted.wait_waiting, timeout=LIMIT)
        for ct in cts:
            await asyncio.to_thread(ct.stop)
            image = ct.image
            assert image is not None
            await service.wait_until(image.detach, "the disk is free")
        assert parked(shares) == 2

        await service.wait_until(lambda: held(service)[1] == 0, "no pidfd of the dead")
        before = held(service)
        for count in range(1, 4):
            for ct in cycled:
                await asyncio.to_thread(ct.restart)
                ct.fuse.mount("/mnt/nas")
            for ct in cycled:
                await service.wait_for_line(f"watching {ct.namespace}:/mnt/nas", count)
        for ct in cycled:
            await asyncio.to_thread(ct.stop)
            await service.wait_for_line(f"container stopped: {ct.namespace}:/mnt/nas", 3)
        await service.wait_until(lambda: held(service) <= before, f"{before} descriptors again")
        assert await service.end() == 0
