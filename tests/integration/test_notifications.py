"""What people are told: real mounts, the real service, real receivers.

That nothing else was told is shown by a last event of another mount (`tell_last`): the whole sequence up to its
message is compared.
"""

from __future__ import annotations

import asyncio
import errno
import re
import signal
from contextlib import AsyncExitStack

import pytest

from tests.fakes.fuse import HANG, MS_NODEV, MS_NOSUID, MS_RDONLY, OK, FuseMount, fails
from tests.fakes.receivers import GotifyMessage, GotifyReceiver, SmtpReceiver, TelegramReceiver
from tests.integration.service import HOST, Service, Site

pytestmark = pytest.mark.kernel

SPAN = r"after \d+ (s|min) \(\d\d:\d\d(–\d\d:\d\d)?\)"
FLAGS = MS_NOSUID | MS_NODEV


async def asked(*mounts: FuseMount) -> None:
    """Return when each has been asked once more."""
    seen = [mount.counters().requests.get("STATFS", 0) for mount in mounts]
    for mount, count in zip(mounts, seen, strict=True):
        await asyncio.to_thread(mount.wait_seen, "STATFS", count + 1)


def told_of(body: str) -> list[str]:
    """The lines of a message, without what hangs on the mount: on a busy machine the search for that is cut short."""
    return [line for line in body.split("\n") if not line.startswith("Hangs on ")]


async def until_told(receiver: GotifyReceiver, title: str, count: int = 1) -> GotifyMessage:
    """The `count`th message whose title contains this, as soon as it is received."""
    number = len(receiver.received)
    while len(found := [m for m in receiver.received if title in m.title]) < count:
        try:
            await receiver.wait_for(number + 1)
        except TimeoutError:
            raise AssertionError(f"not told: {title!r}; told: {titles(receiver)}") from None
        number = len(receiver.received)
    return found[count - 1]


async def tell_last(last: FuseMount, *receivers: GotifyReceiver) -> str:
    """Provoke a message and wait until all of them have it; its title."""
    title = f"🔴 {HOST}: {last.mount_point} I/O ERROR"
    last.set(fails(errno.EIO))
    for receiver in receivers:
        await until_told(receiver, title)
    return title


def titles(receiver: GotifyReceiver) -> list[str]:
    return [message.title for message in receiver.received]


def matches(found: list[str], expected: list[str]) -> bool:
    """Whether these are the texts, in order; what stands in braces is a time span."""
    patterns = [re.escape(text).replace(r"\{SPAN\}", SPAN) for text in expected]
    return len(found) == len(patterns) and all(map(re.fullmatch, patterns, found))


# ---- one mount


async def test_a_stale_mount_that_recovers_is_told_once_each_way_to_every_channel(site: Site) -> None:
    nas, last = site.mount("nas", source="nas01:/export"), site.mount("last")
    async with GotifyReceiver() as gotify, SmtpReceiver() as smtp, TelegramReceiver() as telegram:
        site.write_config({"gotify": gotify.url, "mail": smtp.url, "telegram": telegram.url})
        async with site.service(env=telegram.env) as service:
            await asked(nas, last)
            nas.set(HANG)
            for receiver in (gotify, smtp, telegram):
                await receiver.wait_for(1)
            nas.set(OK)
            for receiver in (gotify, smtp, telegram):
                await receiver.wait_for(2)
            end = await tell_last(last, gotify)
            await smtp.wait_for(3)
            await telegram.wait_for(3)
            assert await service.end() == 0

        place = nas.mount_point
        expected = [f"🔴 {HOST}: {place} NO ANSWER", f"🟢 {HOST}: {place} ok {{SPAN}}", end]
        assert matches(titles(gotify), expected)
        assert matches([mail.subject for mail in smtp.received], expected)
        assert matches([message.text.split("\n")[0] for message in telegram.received], expected)

        alarm, recovery = gotify.received[0].message, gotify.received[1].message
        since, where, source, server, why, advice, give_up, quiet = told_of(alarm)
        assert re.fullmatch(r"Since \d\d:\d\d:\d\d \S+", since)
        assert where == f"Host {place}"
        assert source == "nas01:/export; fuse.test"
        # The first look into the directory may have been under way.
        assert re.match(r"No answer (to reading the directory )?within 0\.3 s; the probe hangs in ", why)
        assert "fuse" in why
        assert re.match(rf"Served by \S+ \(pid {site.fuse.pid}\b", server)
        assert advice.startswith("Do: ")
        assert re.fullmatch(
            rf"To give it up: if grep -qF ' {nas.device} / {place} ' /proc/self/mountinfo; then "
            rf"echo 1 > /sys/fs/fuse/connections/{nas.device.partition(':')[2]}/abort; "
            rf"umount -l {place}; fi # unwritten data is lost – then start what mounts it again"
            r"( – then restart what still has the old one)?",
            give_up,
        )
        assert quiet == f"Quiet: watcher silence host:{place} --for 2h"
        assert recovery == f"Ok: host {place}"
        for number, body in enumerate((alarm, recovery)):
            assert smtp.received[number].body == body
            assert telegram.received[number].text.partition("\n")[2] == body


async def test_what_was_dead_before_the_start_alarms_once_and_what_is_ok_is_silent(site: Site) -> None:
    doomed = site.server()
    site.mount("fine")
    last = site.mount("last")
    hung = site.mount("hung", mode=HANG)
    unread = site.mount("noinit", mode=HANG, fstype="fuse.other")  # of one type, the two would be one message
    stale, broken = site.mount("estale", mode=fails(errno.ESTALE)), site.mount("eio", mode=fails(errno.EIO))
    orphan = site.mount("orphan", server=doomed)
    doomed.kill()
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await gotify.wait_for(5)
            end = await tell_last(last, gotify)
            assert await service.end() == 0
        assert sorted(titles(gotify)[:5]) == sorted(
            f"🔴 {HOST}: {mount.mount_point} {words}"
            for mount, words in (
                (hung, "NO ANSWER"),
                (unread, "NO ANSWER"),
                (stale, "STALE HANDLE"),
                (broken, "I/O ERROR"),
                (orphan, "FUSE PROCESS DEAD"),
            )
        )
        assert titles(gotify)[5:] == [end]
        body = next(m.message for m in gotify.received if "STALE HANDLE" in m.title)
        assert "Stale file handle (ESTALE)" in body
        assert f"\nDo: umount -l {stale.mount_point} # then start what mounts it again\n" in body
        body = next(m.message for m in gotify.received if "FUSE PROCESS DEAD" in m.title)
        assert f"\nDo: umount -l {orphan.mount_point} # then start what mounts it again\n" in body


# ---- several mounts of one server


async def test_mounts_of_one_server_are_one_message_at_each_step(site: Site) -> None:
    a, b, c = (site.mount(name, source=f"root@nas01:/{name}", fstype="fuse.sshfs") for name in ("a", "b", "c"))
    last = site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, group_wait="800ms")
        async with site.service() as service:
            await asked(a, b, c, last)
            a.set(HANG)
            b.set(HANG)
            await gotify.wait_for(1)
            c.set(fails(errno.ESTALE))
            await gotify.wait_for(2)
            a.set(OK)
            await gotify.wait_for(3)
            b.set(OK)
            c.set(OK)
            await gotify.wait_for(4)
            end = await tell_last(last, gotify)
            assert await service.end() == 0
        assert matches(
            titles(gotify),
            [
                f"🔴 {HOST}: nas01 NO ANSWER, 2 mounts",
                f"🔴 {HOST}: nas01 NO ANSWER / STALE HANDLE, 3 mounts (1 more)",
                f"🟢 {HOST}: {a.mount_point} ok {{SPAN}}, 1 of 3",
                f"🟢 {HOST}: nas01 ok {{SPAN}}",
                end,
            ],
        )
        first, more, partial, full = (message.message.split("\n") for message in gotify.received[:4])
        assert first[1:4] == [f"Host {a.mount_point}", f"Host {b.mount_point}", "root@nas01:/a; fuse.sshfs"]
        assert more[1:4] == [
            f"Host {a.mount_point} NO ANSWER",
            f"Host {b.mount_point} NO ANSWER",
            f"Host {c.mount_point} STALE HANDLE",
        ]
        assert partial[:3] == [
            f"Ok: host {a.mount_point}",
            f"🔴 Still: host {b.mount_point} NO ANSWER",
            f"🔴 Still: host {c.mount_point} STALE HANDLE",
        ]
        assert full == [f"Ok: {', '.join(f'host {mount.mount_point}' for mount in (a, b, c))}"]


# ---- mounts that are taken away


@pytest.mark.once
async def test_an_unmounted_mount_never_recovers_and_a_remounted_one_says_so(site: Site) -> None:
    given_up, renewed, dropped = site.mount("givenup"), site.mount("renewed"), site.mount("dropped")
    last = site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await asked(given_up, renewed, dropped, last)
            given_up.set(HANG)
            renewed.set(fails(errno.ESTALE))
            dropped.set(fails(errno.ENOTCONN))
            await gotify.wait_for(3)
            given_up.unmount()
            renewed.unmount()
            await service.wait_for_line(f"but unmounted: {given_up.mount_point}")
            await service.wait_for_line(f"but unmounted: {renewed.mount_point}")
            site.write_config({"gotify": gotify.url}, exclude=[dropped.mount_point])
            again = site.mount("renewed", source="renewed:/export")
            await gotify.wait_for(6)
            end = await tell_last(last, gotify)
            assert await service.end() == 0
        assert again.mount_point == renewed.mount_point
        assert sorted(titles(gotify)[:3]) == [
            f"🔴 {HOST}: {dropped.mount_point} FUSE PROCESS DEAD",
            f"🔴 {HOST}: {given_up.mount_point} NO ANSWER",
            f"🔴 {HOST}: {renewed.mount_point} STALE HANDLE",
        ]
        assert matches(
            sorted(titles(gotify)[3:6]),
            [
                f"⚪ {HOST}: {dropped.mount_point} no longer watched {{SPAN}}",
                f"⚪ {HOST}: {given_up.mount_point} unmounted {{SPAN}}",
                f"🟢 {HOST}: {renewed.mount_point} remounted, ok {{SPAN}}",
            ],
        )
        assert titles(gotify)[6:] == [end]
        bodies = {m.title.split(" ")[2]: m.message for m in gotify.received[3:6]}
        assert bodies[given_up.mount_point] == f"No longer mounted: host {given_up.mount_point}"
        assert bodies[renewed.mount_point] == f"Remounted: host {renewed.mount_point}"
        # It is still mounted, and still dead.
        assert "no longer mounted" not in bodies[dropped.mount_point].lower()
        assert not service.found(f"no longer mounted: {dropped.mount_point}")


@pytest.mark.once
async def test_read_only_and_vanished_are_told_only_where_asked_for(site: Site) -> None:
    backup, gone, last = site.mount("backup"), site.mount("gone"), site.mount("last")
    async with GotifyReceiver() as default, GotifyReceiver() as everything, AsyncExitStack() as services:
        site.write_config({"gotify": default.url})
        other = site.path / "other.toml"
        kinds = ("stale", "readonly", "vanished")
        site.write(other, site.config_text({"gotify": everything.url}, on=kinds, state="other"))
        running: list[Service] = [
            await services.enter_async_context(site.service()),
            await services.enter_async_context(site.service(config=other)),
        ]
        for service in running:
            await service.wait_for_line("watching .*/last")
        await asked(backup, gone, last)
        await asked(backup, gone, last)
        backup.remount(MS_RDONLY | FLAGS)
        gone.unmount()
        for service in running:
            await service.wait_for_line("readonly: .*/backup")
            await service.wait_for_line("vanished: .*/gone")
        await everything.wait_for(2)
        backup.remount(FLAGS)
        site.mount("gone")
        await everything.wait_for(4)
        end = await tell_last(last, default, everything)
        assert [await service.end() for service in running] == [0, 0]
        assert titles(default) == [end]
        assert matches(
            sorted(titles(everything)[:2]) + sorted(titles(everything)[2:]),
            [
                f"🟠 {HOST}: {backup.mount_point} READ-ONLY",
                f"🟠 {HOST}: {gone.mount_point} NOT MOUNTED",
                end,
                f"🟢 {HOST}: {backup.mount_point} writable again {{SPAN}}",
                f"🟢 {HOST}: {gone.mount_point} mounted again {{SPAN}}",
            ],
        )
        assert titles(everything)[-1] == end


# ---- channels that fail


@pytest.mark.once
async def test_a_channel_that_fails_delays_no_other_and_is_told_late_but_truly(site: Site) -> None:
    nas, last = site.mount("nas"), site.mount("last")
    async with AsyncExitStack() as stack:
        well, half, ill, refusing, hanging = [
            await stack.enter_async_context(GotifyReceiver()) for _ in ("well", "half", "ill", "refusing", "hanging")
        ]
        telegram = await stack.enter_async_context(TelegramReceiver())
        site.write_config(
            {
                "hanging": hanging.url,
                "refusing": refusing.url,
                "ill": ill.url,
                "telegram": telegram.url,
                "half": half.url,
                "well": well.url,
            }
        )
        ill.fail(500)
        hanging.hang()
        telegram.fail_flood(3)
        await refusing.stop()
        service = await stack.enter_async_context(site.service(env=telegram.env))
        await asked(nas, last)

        nas.set(HANG)
        alarm, ok = f"🔴 {HOST}: {nas.mount_point} NO ANSWER", f"🟢 {HOST}: {nas.mount_point} ok {{SPAN}}"
        await until_told(well, alarm)
        await until_told(half, alarm)
        await hanging.wait_for_attempts(1)
        half.fail(500)
        nas.set(OK)
        await until_told(well, "ok after")
        await service.wait_for_line("could not tell half ")
        assert re.search(r"attempt 1, next in 3 s", await service.wait_for_line("could not tell telegram "))
        for name in ("ill", "refusing"):
            await service.wait_for_line(rf"could not tell {name} \(attempt 1, next in 1 s\)")
            await service.wait_for_line(rf"could not tell {name} \(attempt 2, next in 2 s\)")

        for receiver in (half, ill, hanging, telegram):
            receiver.accept()
        await refusing.start()
        late = rf"⚪ {HOST}: {nas.mount_point} was NO ANSWER \d\d:\d\d(–\d\d:\d\d)?, told late"
        for receiver in (ill, refusing, hanging, telegram):
            await receiver.wait_for(1)
        await half.wait_for(2)
        end = await tell_last(last, well, half, ill, refusing, hanging)
        await telegram.wait_for(2)
        assert await service.end() == 0

        assert matches(titles(well), [alarm, ok, end])
        assert matches(titles(half), [alarm, ok, end])
        told_telegram = [message.text.split("\n")[0] for message in telegram.received]
        for told in (titles(ill), titles(refusing), titles(hanging), told_telegram):
            assert re.fullmatch(late, told[0])
            assert told[1:] == [end]
        assert service.found(r"told ill \(after \d+ failed attempts?\)")


async def test_no_end_is_told_of_trouble_that_was_not(site: Site) -> None:
    """Also of the watcher's own: its configuration was broken and mended while the channel was unreachable."""
    last = site.mount("last")
    async with GotifyReceiver() as gotify, GotifyReceiver() as other:
        site.write_config({"gotify": gotify.url, "other": other.url})
        good = site.config.read_text()
        gotify.fail(503)
        async with site.service() as service:
            await service.wait_for_edits_to_count()
            site.write(site.config, good + "[notify]\n")
            await until_told(other, "watcher needs attention")
            await service.wait_for_line("could not tell gotify ")
            site.write(site.config, good)
            await until_told(other, "watcher is in order again")
            gotify.accept()
            end = await tell_last(last, gotify, other)
            assert await service.end() == 0
        assert titles(other) == [
            f"🟠 {HOST}: watcher needs attention",
            f"🟢 {HOST}: watcher is in order again",
            end,
        ]
        assert not [title for title in titles(gotify) if "in order again" in title]


async def test_channels_that_come_and_go_with_reloads_are_told(site: Site) -> None:
    last = site.mount("last")
    async with GotifyReceiver() as kept, GotifyReceiver() as renamed:
        site.write_config({"kept": kept.url, "renamed-0": renamed.url})
        async with site.service() as service:
            await service.wait_serving()
            for number in range(1, 16):
                site.write_config({"kept": kept.url, f"renamed-{number}": renamed.url})
                service.send(signal.SIGHUP)
                await service.wait_for_line("configuration loaded", number)
            end = await tell_last(last, kept, renamed)
            assert await service.end() == 0
        assert titles(kept) == titles(renamed) == [end]
