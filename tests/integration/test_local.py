"""Local disks, watched from the tables alone: a real ext4 file system on a loop device, and errors that are real."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.fuse_server import mount, unmount
from tests.fakes.loop_image import LoopImage
from tests.fakes.receivers import GotifyReceiver
from tests.integration.service import HOST, Site, toml
from tests.integration.test_notifications import asked, matches, tell_last, titles, until_told
from watcher import procfs

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("loop_devices")]


@pytest.fixture
def disk(site: Site) -> Iterator[tuple[LoopImage, str]]:
    """An ext4 file system, and where it is mounted."""
    image, place = LoopImage(site.path / "disk.ext4"), site.place("disk")
    os.makedirs(place)
    mount(os.fsencode(image.device), os.fsencode(place), b"ext4", 0, b"errors=remount-ro")
    try:
        yield image, place
    finally:
        unmount(os.fsencode(place))
        image.detach()


def configure(site: Site, channels: dict[str, str], sys: Path | None = None) -> None:
    text = site.config_text(channels, on=("stale", "readonly", "vanished"))
    site.write(site.config, text.replace("[paths]", f"[paths]\nsys = {toml(str(sys or '/sys'))}", 1))


async def test_a_file_system_that_an_error_has_made_read_only_is_told(site: Site, disk: tuple[LoopImage, str]) -> None:
    image, place = disk
    last = site.mount("last")
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url})
        async with site.service() as service:
            await asked(last)
            with subprocess.Popen(["sleep", "1000"], cwd=place) as user:
                Path("/sys/fs/ext4", os.path.basename(image.device), "trigger_fs_error").write_text("a test")
                site.mount("another")  # the table is read again at each change, and else within half a minute
                alarm = await until_told(gotify, "READ-ONLY")
                user.kill()
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    assert matches(titles(gotify), [f"🟠 {HOST}: {place} READ-ONLY", end])
    assert f"{image.device}; ext4" in alarm.message
    assert "Do: dmesg" in alarm.message
    assert f"Hangs on it: 1 process using it: sleep ({user.pid}" in alarm.message


async def test_a_device_that_is_gone_is_told_once_and_its_umount_ends_it(
    site: Site, disk: tuple[LoopImage, str], tmp_path: Path
) -> None:
    """The mount is real, and the going of the device what sysfs would show: no device can be pulled out here."""
    image, place = disk
    sys = tmp_path / "sys"
    for directory, names in (("dev/block", procfs.block_devices("/sys")), ("class/block", procfs.block_names("/sys"))):
        (sys / directory).mkdir(parents=True)
        for name in names:
            (sys / directory / name).touch()
    number = os.stat(image.device).st_rdev
    last = site.mount("last")
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url}, sys)
        async with site.service() as service:
            await asked(last)
            (sys / "dev/block" / f"{os.major(number)}:{os.minor(number)}").unlink()
            alarm = await until_told(gotify, "DISK GONE")
            assert await service.end() == 0
        shutil.rmtree(site.path / "state" / "run", ignore_errors=True)
        async with site.service() as service:
            await service.wait_for_line("vanished: .*/disk")  # found again, and known to be told
            unmount(os.fsencode(place))
            await until_told(gotify, "unmounted")
            end = await tell_last(last, gotify)
            assert await service.end() == 0
        mount(os.fsencode(image.device), os.fsencode(place), b"ext4")
    expected = [f"🟠 {HOST}: {place} DISK GONE", f"⚪ {HOST}: {place} unmounted {{SPAN}}", end]
    assert matches(titles(gotify), expected), titles(gotify)
    assert f"Do: umount -l {place} # then plug it in again" in alarm.message


async def test_a_look_says_it_too(site: Site, disk: tuple[LoopImage, str]) -> None:
    image, place = disk
    configure(site, {})
    outcome = await site.run("--once")
    assert (outcome.code, place in outcome.out) == (0, False)
    Path("/sys/fs/ext4", os.path.basename(image.device), "trigger_fs_error").write_text("a test")
    outcome = await site.run("--once")
    assert outcome.code == 1
    assert "READ-ONLY" in outcome.out
