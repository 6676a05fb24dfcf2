"""What is told over a restart: what changed while nobody watched, once, and nothing of what did not."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from tests.fakes.fuse import HANG, OK, fails
from tests.fakes.fuse_server import mount, unmount
from tests.fakes.receivers import GotifyReceiver
from tests.integration.service import HOST, Site
from tests.integration.test_notifications import asked, matches, tell_last, titles, until_told

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_what_has_not_changed_is_not_told_again(site: Site, how: signal.Signals) -> None:
    stale, fine, last = site.mount("stale"), site.mount("fine"), site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await asked(stale, fine, last)
            stale.set(fails(errno.ESTALE))
            await gotify.wait_for(1)
            await service.wait_for_line("told gotify")
            service.send(how)
            await service.wait_end()
        for _ in range(2):
            async with site.service() as service:
                await service.wait_for_line("stale since before the start: .*Stale file handle")
                await asked(stale, fine, last)
                await asked(stale, fine, last)
                service.send(how)
                await service.wait_end()
        async with site.service() as service:
            await asked(stale, fine, last)
            stale.set(OK)
            await until_told(gotify, f"🟢 {HOST}: {stale.mount_point} ok")
            end = await tell_last(last, gotify)
            await service.end()
        assert matches(
            titles(gotify),
            [
                f"🔴 {HOST}: {stale.mount_point} STALE HANDLE",
                f"🟢 {HOST}: {stale.mount_point} ok {{SPAN}}",
                end,
            ],
        )


async def test_what_recovered_died_or_went_while_it_was_down_is_told_once(site: Site) -> None:
    # Of one type they would be one message.
    back, dies = site.mount("back", fstype="fuse.back"), site.mount("dies", fstype="fuse.dies")
    gone, anew = site.mount("gone", fstype="fuse.gone"), site.mount("anew", fstype="fuse.anew")
    last = site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await asked(back, dies, gone, anew, last)
            for one in (back, gone, anew):
                one.set(fails(errno.EIO))
            await gotify.wait_for(3)
            await service.wait_for_line("told gotify", 3)
            service.send(signal.SIGKILL)
            await service.wait_end()
        back.set(OK)
        dies.set(fails(errno.ESTALE))
        for one in (gone, anew):
            unmount(os.fsencode(one.mount_point))
        again = site.mount("anew", fstype="fuse.anew")
        async with site.service() as service:
            await until_told(gotify, f"🟢 {HOST}: {back.mount_point} ok")
            await until_told(gotify, f"🟢 {HOST}: {again.mount_point} ok")
            await until_told(gotify, f"🔴 {HOST}: {dies.mount_point} STALE HANDLE")
            unmounted = await until_told(gotify, f"⚪ {HOST}: {gone.mount_point} unmounted")
            assert "no longer mounted" in unmounted.message.lower()
            end = await tell_last(last, gotify)
            await service.end()
        assert len(titles(gotify)) == 8
        assert titles(gotify)[-1] == end


async def test_what_could_not_be_told_before_a_restart_is_told_after_it(site: Site) -> None:
    nas, last = site.mount("nas"), site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        gotify.fail(503)
        async with site.service() as service:
            await asked(nas, last)
            nas.set(HANG)
            await gotify.wait_for_attempts(1)
            await service.wait_for_line("could not tell")
            assert await service.end() == 0
        gotify.accept()
        async with site.service() as service:
            await until_told(gotify, f"🔴 {HOST}: {nas.mount_point} NO ANSWER")
            end = await tell_last(last, gotify)
            await service.end()
        assert titles(gotify) == [f"🔴 {HOST}: {nas.mount_point} NO ANSWER", end]


async def test_a_message_under_way_when_it_is_stopped_is_not_told_again(site: Site) -> None:
    nas, last = site.mount("nas"), site.mount("last")
    async with GotifyReceiver() as gotify:
        gotify.delay = 1.0
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await asked(nas, last)
            nas.set(fails(errno.EIO))
            await gotify.wait_for_attempts(1)
            assert await service.end() == 0
        gotify.delay = 0.0
        async with site.service() as service:
            await asked(nas, last)
            end = await tell_last(last, gotify)
            await service.end()
        assert titles(gotify) == [f"🔴 {HOST}: {nas.mount_point} I/O ERROR", end]


async def test_a_channel_that_is_removed_leaves_no_ghost(site: Site) -> None:
    nas, last = site.mount("nas"), site.mount("last")
    async with GotifyReceiver() as gotify, GotifyReceiver() as other:
        site.write_config({"gotify": gotify.url, "other": other.url})
        async with site.service() as service:
            await asked(nas, last)
            nas.set(fails(errno.EIO))
            await gotify.wait_for(1)
            await other.wait_for(1)
            await service.wait_for_line("told other")
            await service.end()
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            nas.set(OK)
            await gotify.wait_for(2)
            await service.wait_for_line("told gotify")
            await service.end()
        site.write_config({"gotify": gotify.url, "other": other.url})
        async with site.service() as service:
            await asked(nas, last)
            end = await tell_last(last, gotify, other)
            await service.end()
        # As one that is new, it is not told the end of what was over before it came.
        assert titles(other) == [f"🔴 {HOST}: {nas.mount_point} I/O ERROR", end]


# ---- trouble with the state


async def test_a_full_disk_is_told_once_and_alarms_go_out_all_the_same(site: Site) -> None:
    nas, last = site.mount("nas"), site.mount("last", fstype="fuse.last")
    disk = site.path / "state"
    disk.mkdir()
    mount(b"none", os.fsencode(disk), b"tmpfs", 0, b"size=256k,mode=700")
    try:
        async with GotifyReceiver() as gotify, GotifyReceiver() as other:
            site.write_config({"gotify": gotify.url, "other": other.url})
            async with site.service() as service:
                await asked(nas, last)
                with pytest.raises(OSError, match="No space"):
                    (disk / "filler").write_bytes(b"x" * 300_000)
                nas.set(fails(errno.EIO))
                for receiver in (gotify, other):
                    await until_told(receiver, "I/O ERROR")
                    told = await until_told(receiver, "watcher needs attention")
                    assert "state.db cannot be written: the disk is full; it goes on in memory" in told.message
                (disk / "filler").unlink()
                for receiver in (gotify, other):
                    told = await until_told(receiver, "watcher is in order again")
                    assert told.message == "Its state is kept on disk again"
                await service.end()
            async with site.service() as service:
                nas.set(OK)
                await until_told(gotify, f"🟢 {HOST}: {nas.mount_point} ok")
                end = await tell_last(last, gotify, other)
                await service.end()
            for receiver in (gotify, other):
                assert sorted(titles(receiver)) == sorted(
                    [
                        f"🔴 {HOST}: {nas.mount_point} I/O ERROR",
                        f"🟠 {HOST}: watcher needs attention",
                        f"🟢 {HOST}: watcher is in order again",
                        *[title for title in titles(receiver) if title.startswith(f"🟢 {HOST}: {nas.mount_point} ok")],
                        end,
                    ]
                )
    finally:
        unmount(os.fsencode(disk))


async def test_a_corrupt_state_is_moved_aside_and_told(site: Site) -> None:
    nas = site.mount("nas")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        (site.path / "state").mkdir()
        (site.path / "state" / "state.db").write_bytes(b"rubbish" * 1000)
        async with site.service() as service:
            told = await until_told(gotify, "watcher needs attention")
            assert "is corrupt" in told.message
            await asked(nas)
            await service.end()
        names = os.listdir(site.path / "state")
        assert [name for name in names if name.startswith("state.db.corrupt-")]
        assert "state.db" in names


async def test_what_ended_while_it_was_down_and_was_never_told_is_told_late(site: Site) -> None:
    nas, last = site.mount("nas"), site.mount("last", fstype="fuse.last")
    async with GotifyReceiver() as gotify, GotifyReceiver() as other:
        site.write_config({"gotify": gotify.url, "other": other.url})
        gotify.fail(500)
        async with site.service() as service:
            await asked(nas, last)
            nas.set(fails(errno.EIO))
            await service.wait_for_line("told other")
            await service.wait_for_line("could not tell gotify")
            service.send(signal.SIGKILL)
            await service.wait_end()
        nas.set(OK)
        gotify.accept()
        async with site.service() as service:
            await until_told(other, f"🟢 {HOST}: {nas.mount_point} ok")
            late = await until_told(gotify, f"⚪ {HOST}: {nas.mount_point} was I/O ERROR")
            assert late.title.endswith(", told late")
            await tell_last(last, gotify, other)
            await service.end()
        assert len(titles(gotify)) == 2
        assert len(titles(other)) == 3
