"""What must not hold up the watching, or end it: odd files, readers that stand still, a process that is stopped."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.fuse import HANG, OK, FuseServer
from tests.fakes.fuse_server import mount, unmount
from tests.integration.looking import Command
from tests.integration.service import LIMIT, Site
from watcher import config
from watcher.children import Children
from watcher.configfile import ConfigFile
from watcher.configwatch import ConfigWatch
from watcher.files import write_private
from watcher.reading import FileReader

pytestmark = pytest.mark.kernel

MakeDir = Callable[..., bytes]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


# ---- the configuration


async def test_a_fifo_in_place_of_the_configuration_holds_up_nothing(site: Site) -> None:
    site.mount("nas")
    site.write_config()
    async with site.service() as service:
        await service.wait_for_edits_to_count()
        fifo = site.config.with_name("fifo")
        os.mkfifo(fifo)
        fifo.replace(site.config)  # in one step: that a FIFO is made is no edit of a file, and no event of ours
        await service.wait_for_line("is not a regular file")
        await service.wait_for_line("the configuration stays as it was")
        assert await service.end() == 0
    assert (await site.run("--once")).code == 3
    assert (await site.run("check-config")).code == 3


def test_a_file_that_nobody_named_and_that_is_gone_is_no_wish_for_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defaults have no channels: the alarms would go nowhere while /etc is being restored."""
    path = tmp_path / "config.toml"
    path.write_text('[[notify.channels]]\nname = "a"\nurl = "json://127.0.0.1:1/"\n')
    monkeypatch.setattr(config, "DEFAULT_PATH", str(path))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)  # so that the copy stays in tmp_path
    environ = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}

    async def story() -> None:
        children = Children()
        watch = ConfigWatch(ConfigFile(None, environ, FileReader(children)), tuple)
        first = await watch.first()
        assert first is not None
        assert [c.name for c in first.notify.channels] == ["a"]
        path.unlink()
        assert await watch.reload() is None
        assert "is gone" in watch.trouble
        path.write_text('[[notify.channels]]\nname = "b"\nurl = "json://127.0.0.1:1/"\n')
        again = await watch.reload()
        assert again is not None
        assert ([c.name for c in again.notify.channels], watch.trouble) == (["b"], "")
        children.close()

    with ThreadPoolExecutor(1) as elsewhere:  # pytest-asyncio's loop of this thread stays as it is
        elsewhere.submit(asyncio.run, story()).result(LIMIT)


async def test_a_last_good_copy_on_a_hung_mount_is_left_alone(site: Site) -> None:
    hung = site.mount("state", mode=HANG)
    mount(os.fsencode(hung.mount_point), b"/var/lib", b"none", 0x1000)  # MS_BIND
    try:
        site.write_config()
        async with site.service() as service:
            await service.wait_for_line("watching")
            assert await service.end() == 0
    finally:
        unmount(b"/var/lib")


def test_a_private_file_is_written_whole_or_not_at_all(mount_dir: MakeDir) -> None:
    directory = mount_dir()
    mount(b"tiny", directory, b"tmpfs", 0, b"size=16k")
    try:
        path = Path(os.fsdecode(directory)) / "copy"
        write_private(path, b"first")
        with pytest.raises(OSError, match="No space"):
            write_private(path, b"x" * 100_000)
        assert [p.name for p in path.parent.iterdir()] == ["copy"]
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"first", 0o600)
    finally:
        unmount(directory)


# ---- readers and processes that stand still


def test_a_log_that_nobody_reads_stops_nothing(site: Site) -> None:
    site.write_config()
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    mounts = [site.mount(f"n{number}") for number in range(120)]
    site.write_config(include=[m.mount_point for m in mounts])
    argv = [sys.executable, "-m", "watcher", "-v", "--config", str(site.config)]
    with subprocess.Popen(argv, stderr=writer, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        os.close(writer)
        for one in mounts:
            one.wait_seen("STATFS", 1)
        for one in mounts[:40]:
            one.unmount()
        mounts[-1].wait_seen("STATFS", mounts[-1].counters().requests["STATFS"] + 3)  # it goes on
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    os.close(reader)


async def test_a_service_that_was_stopped_for_a_while_alarms_of_nothing(site: Site) -> None:
    """SIGSTOP, a suspended laptop: what was hanging before and answers now was not dead in between, for all we know."""
    nas, last = site.mount("nas"), site.mount("last")
    site.write_config(interval="250ms", timeout="300ms", alarm_after="3s")
    async with site.service() as service:
        await service.wait_for_line("watching", 2)
        nas.set(HANG)
        await service.wait_until(
            lambda: bool(list((site.path / "state" / "run").glob("wedged/*"))), "the thread is noted"
        )
        service.send(signal.SIGSTOP)
        nas.set(OK)
        last.set(HANG)  # what it was asked when it was stopped tells nothing either
        os.sched_yield()
        await service.wait_until(_passed(4.0), "four seconds, more than alarm_after")
        last.set(OK)
        service.send(signal.SIGCONT)
        asked = nas.counters().requests["STATFS"]
        await service.wait_until(lambda: nas.counters().requests["STATFS"] > asked + 2, "it asks again")
        assert service.found("stale") == []
        assert await service.end() == 0


def _passed(seconds: float) -> Callable[[], bool]:
    import time

    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


# ---- the output of --once


def test_the_verdict_stands_where_nobody_can_read_it(fuse: FuseServer, mount_dir: MakeDir, command: Command) -> None:
    fuse.mount(mount_dir(), source="nas:/x")
    command.write()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command.argv("--once"), stdout=full, stderr=subprocess.PIPE, env=command.environment(), timeout=LIMIT
        )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert b"cannot write the result" in done.stderr
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command.argv("--once")],
        stderr=subprocess.PIPE,
        env=command.environment(),
        timeout=LIMIT,
    )
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "where", "code"),
    [
        (("--once", "--path", "/nothing/here"), ">/dev/full 2>&1", 2),
        (("--once", "--path", "/nothing/here"), "2>&-", 2),
        (("explain", "ct:x:"), "2>/dev/full", 3),
    ],
)
def test_the_verdict_stands_where_not_even_complaints_can_be_read(
    command: Command, arguments: tuple[str, ...], where: str, code: int
) -> None:
    """As of a check whose log lies on the disk that is full."""
    command.write()
    argv = ["sh", "-c", f'exec "$@" {where}', "sh", *command.argv(*arguments)]
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, env=command.environment(), timeout=LIMIT)
    assert done.returncode == code


def test_a_path_is_a_mount_point(fuse: FuseServer, mount_dir: MakeDir, command: Command) -> None:
    mounted = fuse.mount(mount_dir(), source="nas:/x")
    command.write()
    assert command.run("--once", "--path", mounted.mount_point + "/").code == 0
    assert command.run("--once", "--path", mounted.mount_point.lstrip("/")).code == 3
    nothing = command.run("--once", "--path", "/nothing/here")
    assert (nothing.code, nothing.stdout) == (2, "No such mount.\n")


def test_a_proc_that_is_none_is_said(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[paths]\nproc = "/nonexistent"\n')
    for arguments in (["--once"], []):
        argv = [sys.executable, "-m", "watcher", "--config", str(path), *arguments]
        done = subprocess.run(argv, stderr=subprocess.PIPE, timeout=LIMIT)
        assert (done.returncode, b"Traceback" in done.stderr) == (3, False), done.stderr
        assert b"/nonexistent" in done.stderr
