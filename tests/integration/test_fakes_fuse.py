"""The test file system does what it says, on the real kernel; and so do the session's own rules (conftest.py)."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError

import watcher
from tests.fakes.fuse import (
    ALL_ONES,
    HANG,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    NO_INIT,
    OK,
    UNREAD,
    FuseServer,
    FuseServerError,
    Mode,
    Statfs,
    delayed,
    fails,
    parse_mode,
)
from tests.fakes.fuse_server import mount as mount_at
from tests.fakes.fuse_server import unmount as unmount_at

MakeDir = Callable[..., bytes]
LIMIT = 60.0  # generous: only a broken fake comes near it

kernel = pytest.mark.kernel


@contextmanager
def caller(call: str, path: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """A child in `os.<call>(path)`; its exit code is the errno, 0 if it succeeded."""
    code = f"import os, sys\ntry: os.{call}(os.fsencode(sys.argv[1]))\nexcept OSError as e: sys.exit(e.errno)"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code, path], cwd="/") as child:
        try:
            yield child
        finally:
            child.kill()


def survives_sigkill(child: subprocess.Popen[bytes]) -> bool:
    child.kill()
    try:
        child.wait(0.3)
    except subprocess.TimeoutExpired:
        return os.path.isdir(f"/proc/{child.pid}/task/{child.pid}")
    return False


def mountinfo() -> list[list[bytes]]:
    return [line.split() for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]


def error_of(call: Callable[[], object]) -> int:
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        call()
    assert caught.value.errno is not None
    return caught.value.errno


# ---- answers


@kernel
@pytest.mark.parametrize("numbers", [Statfs(), Statfs(0, 0, 0, 4096), Statfs(ALL_ONES, ALL_ONES, ALL_ONES, 512)])
def test_statfs_numbers(fuse: FuseServer, mount_dir: MakeDir, numbers: Statfs) -> None:
    mounted = fuse.mount(mount_dir(), statfs=numbers)
    seen = os.statvfs(mounted.path)
    counts = (seen.f_blocks, seen.f_bfree, seen.f_bavail, seen.f_frsize)
    assert tuple(count % 2**64 for count in counts) == numbers  # Python's statvfs shows all-ones as -1
    mounted.set(OK, statfs=Statfs(7, 6, 5, 1024))
    assert os.statvfs(mounted.path).f_blocks == 7


@kernel
def test_each_call_reaches_the_server(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounted = fuse.mount(mount_dir())
    for _ in range(3):
        os.statvfs(mounted.path)
        os.stat(mounted.path)
    requests = mounted.counters().requests
    assert (requests["STATFS"], requests["GETATTR"], requests["INIT"]) == (3, 3, 1)


@kernel
def test_directories(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounted = fuse.mount(mount_dir(), directories=["a/b c"], files=[f"file {n:03}" for n in range(200)] + ["a/x"])
    assert len(os.listdir(mounted.path)) == 201
    assert sorted(os.listdir(mounted.path + b"/a")) == [b"b c", b"x"]
    assert os.path.isdir(mounted.path + b"/a/b c")
    assert os.path.isfile(mounted.path + b"/a/x")
    assert error_of(lambda: os.stat(mounted.path + b"/none")) == errno.ENOENT
    assert os.access(mounted.path, os.R_OK)


@kernel
@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOTCONN, errno.EHOSTDOWN])
def test_errno(fuse: FuseServer, mount_dir: MakeDir, code: int) -> None:
    mounted = fuse.mount(mount_dir(), mode=fails(code))
    assert error_of(lambda: os.statvfs(mounted.path)) == code
    assert error_of(lambda: os.stat(mounted.path)) == code
    mounted.set(OK)
    os.statvfs(mounted.path)


@kernel
def test_delayed_answers_come(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounted = fuse.mount(mount_dir(), mode=delayed(50), statfs=Statfs(blocks=77))
    started = time.monotonic()
    assert os.statvfs(mounted.path).f_blocks == 77
    assert time.monotonic() - started >= 0.05  # never early
    assert mounted.counters().delayed == 0


@kernel
def test_delay_is_for_each_request_on_its_own(fuse: FuseServer, mount_dir: MakeDir) -> None:
    slow, quick = fuse.mount(mount_dir("slow"), mode=delayed(600_000)), fuse.mount(mount_dir("quick"))
    with caller("statvfs", slow.path) as first, caller("statvfs", slow.path) as second:
        slow.wait_seen("STATFS", 2)
        assert slow.counters().delayed == 2
        os.statvfs(quick.path)
        assert (first.poll(), second.poll()) == (None, None)
        slow.close_fd()
        assert {first.wait(LIMIT), second.wait(LIMIT)} <= {errno.ENOTCONN, errno.ECONNABORTED}


@kernel
def test_the_attribute_cache_answers_for_a_dead_server(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounted = fuse.mount(mount_dir(), attr_valid=3600)
    os.stat(mounted.path)
    mounted.close_fd()
    assert os.stat(mounted.path).st_ino == 1
    assert error_of(lambda: os.statvfs(mounted.path)) == errno.ENOTCONN


# ---- no answers


@kernel
def test_hanging_survives_sigkill_until_answered(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounted = fuse.mount(mount_dir(), mode=HANG)
    with caller("statvfs", mounted.path) as child:
        mounted.wait_parked()
        assert survives_sigkill(child)
        mounted.wait_seen("INTERRUPT")
        mounted.set(OK)
        assert child.wait(LIMIT) == -signal.SIGKILL
    assert mounted.counters().parked == 0
    os.statvfs(mounted.path)


@kernel
def test_parked_requests_can_be_answered_with_an_errno_or_dropped(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounted = fuse.mount(mount_dir(), mode=HANG)
    with caller("statvfs", mounted.path) as child:
        mounted.wait_parked()
        mounted.set(fails(errno.ESTALE))
        assert child.wait(LIMIT) == errno.ESTALE
    mounted.set(HANG)
    with caller("statvfs", mounted.path) as child:
        mounted.wait_parked()
        mounted.set(OK, drop_parked=True)
        os.statvfs(mounted.path)
        assert survives_sigkill(child)
        mounted.abort()
        assert child.wait(LIMIT) == -signal.SIGKILL


@kernel
@pytest.mark.parametrize("mode", [UNREAD, NO_INIT], ids=str)
def test_waiting_for_the_kernel_alone_is_killable(fuse: FuseServer, mount_dir: MakeDir, mode: Mode) -> None:
    mounted = fuse.mount(mount_dir(), mode=mode)
    before = mounted.waiting()
    with caller("statvfs", mounted.path) as child:
        mounted.wait_waiting(before + 1)
        assert child.poll() is None
        child.kill()
        assert child.wait(LIMIT) == -signal.SIGKILL
    assert "STATFS" not in mounted.counters().requests


@kernel
@pytest.mark.parametrize("mode", [UNREAD, NO_INIT], ids=str)
def test_waiting_callers_are_served_after_the_switch(fuse: FuseServer, mount_dir: MakeDir, mode: Mode) -> None:
    mounted = fuse.mount(mount_dir(), mode=mode)
    before = mounted.waiting()
    with caller("statvfs", mounted.path) as child:
        mounted.wait_waiting(before + 1)
        mounted.set(OK)
        assert child.wait(LIMIT) == 0


@kernel
def test_single_operations_can_hang(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounted = fuse.mount(mount_dir())
    mounted.set(HANG, ops=["OPENDIR", "READDIR"])
    with caller("listdir", mounted.path) as child:
        mounted.wait_parked()
        os.statvfs(mounted.path)
        assert "OPENDIR" in mounted.counters().requests
        mounted.set(HANG, ops=["READDIR"])
        mounted.set(OK, ops=["OPENDIR"])
        mounted.wait_seen("READDIR")
        assert mounted.counters().parked == 1
        mounted.set(OK)
        assert child.wait(LIMIT) == 0


# ---- ends


@kernel
def test_a_killed_server_leaves_dead_mounts_until_closed(fuse: FuseServer, mount_dir: MakeDir) -> None:
    hung, idle = fuse.mount(mount_dir("hung"), mode=HANG), fuse.mount(mount_dir("idle"))
    with caller("statvfs", hung.path) as child:
        hung.wait_parked()
        fuse.kill()
        assert child.wait(LIMIT) in (errno.ENOTCONN, errno.ECONNABORTED)
    assert error_of(lambda: os.statvfs(idle.path)) == errno.ENOTCONN
    assert {hung.path, idle.path} <= {fields[4] for fields in mountinfo()}
    with pytest.raises(FuseServerError):
        idle.set(OK)
    fuse.close()
    assert not {hung.path, idle.path} & {fields[4] for fields in mountinfo()}


@kernel
def test_a_server_waiting_for_itself_can_be_killed(fuse: FuseServer, mount_dir: MakeDir) -> None:
    outer = fuse.mount(mount_dir(), directories=["a"])
    inner = os.path.join(outer.path, b"a")
    outer.set(HANG, ops=["LOOKUP"])
    failures: list[type[Exception]] = []

    def mount_inner() -> None:
        try:
            fuse.mount(inner)
        except FuseServerError as error:
            failures.append(type(error))

    mounting = threading.Thread(target=mount_inner)
    mounting.start()
    outer.wait_waiting()  # not wait_parked: the server is busy with the other call
    fuse.kill()
    mounting.join(LIMIT)
    assert failures == [FuseServerError]


@kernel
@pytest.mark.parametrize("how", ["close_fd", "abort"])
def test_one_mount_loses_its_server(fuse: FuseServer, mount_dir: MakeDir, how: str) -> None:
    dead, alive = fuse.mount(mount_dir("dead")), fuse.mount(mount_dir("alive"))
    getattr(dead, how)()
    assert error_of(lambda: os.statvfs(dead.path)) == errno.ENOTCONN
    os.statvfs(alive.path)
    dead.unmount()
    os.statvfs(dead.path)  # the directory underneath


@kernel
def test_closing_frees_the_unkillable_and_unmounts(mount_dir: MakeDir) -> None:
    with FuseServer() as server:
        mounted = server.mount(mount_dir(), mode=HANG)
        child = subprocess.Popen(["stat", "-f", mounted.path], stderr=subprocess.DEVNULL, cwd="/")
        mounted.wait_parked()
        assert survives_sigkill(child)
    assert child.wait(LIMIT) == -signal.SIGKILL
    assert mounted.path not in {fields[4] for fields in mountinfo()}


@kernel
def test_a_lazy_unmount_of_a_hung_mount(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounted = fuse.mount(mount_dir(), mode=HANG)
    with caller("statvfs", mounted.path) as child:
        mounted.wait_parked()
        mounted.unmount()
        os.statvfs(mounted.path)  # the directory underneath
        assert child.poll() is None
        mounted.set(OK)
        assert child.wait(LIMIT) == 0


@kernel
def test_only_its_own_mounts_are_unmounted(mount_dir: MakeDir) -> None:
    with FuseServer() as server:
        path = server.mount(mount_dir()).path
        unmount_at(path)
        mount_at(b"somebody", path, b"tmpfs")
    sources = [fields[-2] for fields in mountinfo() if fields[4] == path]
    unmount_at(path)
    assert sources == [b"somebody"]


# ---- the mount table


@kernel
def test_identity_and_names_are_those_of_mountinfo(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounted = fuse.mount(mount_dir(), source="nas01:/export/media", fstype="fuse.sshfs", options="allow_other")
    (line,) = [fields for fields in mountinfo() if fields[4] == mounted.path]
    assert (int(line[0]), line[2].decode()) == (mounted.mount_id, mounted.device)
    tail = line[line.index(b"-") + 1 :]
    assert tail[:2] == [b"fuse.sshfs", b"nas01:/export/media"]
    assert b"allow_other" in tail[2].split(b",")


ODD_NAMES = {
    "space": b"a b",
    "newline": b"a\nb",
    "tab": b"a\tb",
    "backslash": b"a\\040b",
    "non-UTF-8": b"\xff\xfe",
    "hash": b"#a",
    "4,000 characters": b"/".join([b"x" * 199] * 20),
    "longer than PATH_MAX": b"/".join([b"y" * 199] * 30),
}


@kernel
@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_odd_mount_points(fuse: FuseServer, tmp_path: Path, name: bytes) -> None:
    *parents, last = name.split(b"/")
    above = os.open(tmp_path, os.O_PATH)
    for parent in parents:
        os.mkdir(parent, dir_fd=above)
        below = os.open(parent, os.O_PATH, dir_fd=above)
        os.close(above)
        above = below
    os.mkdir(last, dir_fd=above)
    path = os.path.join(os.fsencode(tmp_path), name)
    mounted = fuse.mount(path, statfs=Statfs(123, 4, 5, 4096))
    fd = os.open(last, os.O_PATH, dir_fd=above)
    os.close(above)
    try:
        assert os.statvfs(fd).f_blocks == 123
    finally:
        os.close(fd)
    assert (mounted.path, os.fsencode(mounted.mount_point)) == (path, path)
    ids = [fields[0] for fields in mountinfo()]
    assert b"%d" % mounted.mount_id in ids
    mounted.unmount()
    assert b"%d" % mounted.mount_id not in [fields[0] for fields in mountinfo()]


@kernel
def test_a_mount_below_a_fuse_directory_and_one_on_top(fuse: FuseServer, mount_dir: MakeDir) -> None:
    outer = fuse.mount(mount_dir(), directories=["a/b"])
    inner = fuse.mount(outer.path + b"/a/b", statfs=Statfs(blocks=11))
    cover = fuse.mount(outer.path + b"/a/b", statfs=Statfs(blocks=22))
    assert os.statvfs(inner.path).f_blocks == 22
    assert error_of(inner.unmount) == errno.EINVAL
    cover.unmount()
    assert os.statvfs(inner.path).f_blocks == 11
    outer.set(HANG)  # closing works none the less
    fuse.close()
    assert not [fields for fields in mountinfo() if fields[4].startswith(outer.path)]


@kernel
def test_read_only_mount_and_superblock(fuse: FuseServer, mount_dir: MakeDir) -> None:
    def options(path: bytes) -> tuple[bool, bool]:
        (line,) = [fields for fields in mountinfo() if fields[4] == path]
        return b"ro" in line[5].split(b","), b"ro" in line[-1].split(b",")

    keep = MS_NOSUID | MS_NODEV
    mounted = fuse.mount(mount_dir())
    assert options(mounted.path) == (False, False)
    mounted.remount(MS_BIND | MS_RDONLY | keep)
    assert options(mounted.path) == (True, False)
    mounted.remount(MS_RDONLY | keep)
    mounted.remount(MS_BIND | keep)
    assert options(mounted.path) == (False, True)
    assert os.statvfs(mounted.path).f_flag & os.ST_RDONLY
    born = fuse.mount(mount_dir("born"), flags=MS_RDONLY)
    assert options(born.path) == (True, True)


@kernel
def test_another_users_mount_without_allow_other(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounted = fuse.mount(mount_dir(), user_id=1000, group_id=1000)
    assert os.statvfs(mounted.path).f_blocks == 0
    assert error_of(lambda: os.stat(mounted.path)) == errno.EACCES
    assert "STATFS" not in mounted.counters().requests


@kernel
def test_five_hundred_mounts_by_one_process(fuse: FuseServer, mount_dir: MakeDir) -> None:
    mounts = [fuse.mount(mount_dir(f"{n}"), statfs=Statfs(blocks=1000 + n)) for n in range(500)]
    assert [os.statvfs(mounted.path).f_blocks for mounted in mounts] == [1000 + n for n in range(500)]
    assert len(os.listdir(f"/proc/{fuse.pid}/task")) == 1
    for mounted in mounts[::2]:
        mounted.set(fails(errno.EIO))
    assert {error_of(lambda m=m: os.statvfs(m.path)) for m in mounts[::2]} == {errno.EIO}  # type: ignore[misc]
    for mounted in mounts[1::2]:
        os.statvfs(mounted.path)


@kernel
def test_mounting_fails_with_the_kernels_errno(fuse: FuseServer, mount_dir: MakeDir) -> None:
    assert error_of(lambda: fuse.mount(mount_dir() + b"/none")) == errno.ENOENT
    assert error_of(lambda: fuse.mount(mount_dir(), options="no_such_option")) == errno.EINVAL


@kernel
def test_no_descriptor_is_left(mount_dir: MakeDir, descriptors: Callable[[], dict[int, str]]) -> None:
    before = descriptors()
    with FuseServer() as server:
        server.mount(mount_dir())
        server.kill()
    assert descriptors() == before


# ---- by hand


@kernel
def test_by_hand(mount_dir: MakeDir) -> None:
    script = Path(__file__).parents[1] / "fakes" / "fuse.py"
    path = mount_dir("by hand")
    command: list[str | bytes | Path] = [sys.executable, script, "hang", path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/") as by_hand:
        assert by_hand.stdin is not None
        assert by_hand.stdout is not None
        assert b"hang" in by_hand.stdout.readline()
        by_hand.stdin.write(b"errno ESTALE\n")
        by_hand.stdin.flush()
        assert by_hand.stdout.readline() == b"errno ESTALE\n"
        assert error_of(lambda: os.statvfs(path)) == errno.ESTALE
        by_hand.stdin.close()
        assert by_hand.wait(LIMIT) == 0
    os.statvfs(path)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("ok", OK),
        ("no_init", NO_INIT),
        ("errno 116", fails(116)),
        ("errno EIO", fails(5)),
        (" delay  45 ", delayed(45)),
    ],
)
def test_modes_by_their_words(text: str, mode: Mode) -> None:
    assert parse_mode(text) == mode
    assert parse_mode(str(mode)) == mode


@pytest.mark.parametrize("text", ["", "slow", "errno", "errno 512", "errno 0", "errno ENOPE", "delay x", "hang 5"])
def test_words_that_are_no_mode(text: str) -> None:
    with pytest.raises(ValueError, match=r"none of|1 to 511|invalid literal"):
        parse_mode(text)


# ---- the session's rules


def as_if_in(module: str) -> Callable[[], Any]:
    """A function that looks like one of `watcher/<module>`, and blocks."""
    names: dict[str, Any] = {}
    file = os.path.join(watcher.__path__[0], module)
    exec(compile("import os\ndef look(): return os.stat('/')", file, "exec"), names)
    function: Callable[[], Any] = names["look"]
    return function


async def test_blocking_watcher_code_on_the_loop_fails_the_test() -> None:
    with pytest.raises(BlockingError):
        as_if_in("daemon.py")()
    assert await asyncio.to_thread(as_if_in("daemon.py"))


@pytest.mark.parametrize("module", ["procfs.py", "children.py"])
async def test_the_exempt_modules_may_block(module: str) -> None:
    assert as_if_in(module)()


async def test_tests_may_block_briefly() -> None:
    assert os.stat("/")


@kernel
async def test_the_fake_is_fit_for_async_tests(mount_dir: MakeDir) -> None:
    with FuseServer() as server:
        mounted = server.mount(mount_dir(), mode=HANG)
        probe = asyncio.create_task(asyncio.to_thread(os.statvfs, mounted.path))
        await asyncio.to_thread(mounted.wait_parked)
        mounted.set(OK)
        assert (await asyncio.wait_for(probe, LIMIT)).f_blocks


@kernel
def test_mounts_stay_in_the_session(mount_dir: MakeDir) -> None:
    """The session's parent lives in another mount namespace: what we mount must not show there."""
    assert os.readlink("/proc/self/ns/mnt") != os.readlink(f"/proc/{os.getppid()}/ns/mnt")
    with FuseServer() as server:
        path = server.mount(mount_dir()).path
        assert path not in Path(f"/proc/{os.getppid()}/mountinfo").read_bytes()
