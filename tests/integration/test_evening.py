"""An evening of pulling plugs, read from the receivers' end: each log is a diary that tells what happened, once.

`-rP` shows both diaries.
"""

from __future__ import annotations

import errno
import signal

import pytest

from tests.fakes.fuse import HANG, OK, FuseMount, fails
from tests.fakes.receivers import GotifyReceiver
from tests.integration.service import HOST, Site
from tests.integration.test_notifications import asked, matches, titles, until_told

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(240)]


def share(site: Site, server: str, name: str) -> FuseMount:
    return site.mount(f"{server}-{name}", source=f"{server}:/{name}", fstype="fuse.sshfs")


def diary(receiver: GotifyReceiver) -> str:
    return "\n\n".join(f"{message.title}\n{message.message}" for message in receiver.received)


async def test_what_each_channel_has_at_the_end_of_the_evening(site: Site) -> None:
    media, backup = share(site, "nas01", "media"), share(site, "nas01", "backup")
    photos, vault, rack = share(site, "nas02", "photos"), share(site, "nas03", "vault"), share(site, "nas04", "rack")
    async with GotifyReceiver() as desk, GotifyReceiver() as phone:
        site.write_config({"desk": desk.url, "phone": phone.url})
        async with site.service() as service:
            await asked(media, backup, photos, vault, rack)
            # nas01 is unplugged.
            media.set(HANG)
            backup.set(HANG)
            for receiver in (desk, phone):
                await until_told(receiver, "nas01 NO ANSWER")
            await service.wait_for_line("told phone")
            # The network to the phone goes, too. nas02 comes and goes meanwhile.
            phone.fail(503)
            photos.set(fails(errno.ESTALE))
            await until_told(desk, f"{photos.mount_point} STALE HANDLE")
            await service.wait_for_line("could not tell phone")
            photos.set(OK)
            await until_told(desk, f"{photos.mount_point} ok")
            await service.wait_for_line("told desk: .*photos ok")  # and noted: else it may be told twice
            # The host loses power. One share of nas01 is well again when it is back; then nas04 dies.
            service.send(signal.SIGKILL)
            await service.wait_end()
        media.set(OK)
        async with site.service() as service:
            await until_told(desk, f"{media.mount_point} ok")
            rack.set(fails(errno.EIO))
            await until_told(desk, f"{rack.mount_point} I/O ERROR")
            # nas03 is upgraded, which has been announced: it goes twice, and is still away when that is to be over.
            announced = await site.run("silence", "--server", "nas03", "--for", "2h", "--comment", "upgrade")
            assert announced.code == 0, announced
            vault.set(fails(errno.EIO))
            await service.wait_for_line("stale: .*vault")
            vault.set(OK)
            await service.wait_for_line("stale no more: .*vault")
            vault.set(fails(errno.ESTALE))
            await service.wait_for_line("stale: .*vault", 2)
            # The phone can be reached again, with a service that was restarted meanwhile: an upgrade of ours.
            assert await service.end() == 0
        phone.accept()
        async with site.service() as service:
            await until_told(phone, f"{rack.mount_point} I/O ERROR")
            assert (await site.run("unsilence", announced.out.split()[1].rstrip(":"))).code == 0
            for receiver in (desk, phone):
                await until_told(receiver, f"{vault.mount_point} STALE HANDLE")
            # And all is plugged in again.
            for mount, name in ((backup, "nas01"), (vault, vault.mount_point), (rack, rack.mount_point)):
                mount.set(OK)
                for receiver in (desk, phone):
                    await until_told(receiver, f"{name} ok")
            assert await service.end() == 0
        print(f"---- desk\n{diary(desk)}\n\n---- phone\n{diary(phone)}")  # noqa: T201 - shown with -rP
    assert matches(
        titles(desk),
        [
            f"🔴 {HOST}: nas01 NO ANSWER, 2 mounts",
            f"🔴 {HOST}: {photos.mount_point} STALE HANDLE",
            f"🟢 {HOST}: {photos.mount_point} ok {{SPAN}}",
            f"🟢 {HOST}: {media.mount_point} ok {{SPAN}}, 1 of 2",
            f"🔴 {HOST}: {rack.mount_point} I/O ERROR",
            f"🔴 {HOST}: {vault.mount_point} STALE HANDLE",
            f"🟢 {HOST}: nas01 ok {{SPAN}}",
            f"🟢 {HOST}: {vault.mount_point} ok {{SPAN}}",
            f"🟢 {HOST}: {rack.mount_point} ok {{SPAN}}",
        ],
    ), titles(desk)
    late = [title for title in titles(phone) if title.endswith("told late")]
    assert [title for title in titles(phone) if photos.mount_point in title] == late
    assert len(late) == 1
    others = [title for title in titles(phone) if title not in late]
    assert sorted(map(kind, others)) == sorted(kind(title) for title in titles(desk) if photos.mount_point not in title)


def kind(title: str) -> str:
    """Without the times, which may be a little later for one than for the other."""
    return title.partition(" after ")[0] + (", 1 of 2" if title.endswith(", 1 of 2") else "")
