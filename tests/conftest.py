"""What every test runs in: a mount namespace of its own, and a loop on which nothing of ours may block.

Must not hold fixtures of single areas: those stay with their tests.

- As root the whole session (and every child it starts) gets a private mount namespace, so that nothing a test mounts
  is seen outside, or outlives the session. fusectl is mounted there if it is missing, and /dev/fuse is open to all
  users, as udev makes it.
- It also gets a cgroup of its own, and a cgroup namespace, so that two sessions on one machine do not meet there.
- Tests marked `kernel` need root, /dev/fuse and that namespace; those marked `cgroups` that cgroup. Without them they
  are skipped, or, with CI=true, failed: a CI that quietly skips them would prove nothing.
- Inside a lab (tests/system) it stays in the machine's namespaces: the machine is the test's own.
- A shell starts what it puts into the background with SIGINT ignored, and so would be all that tests start: it is not.
- In async tests a blocking call on the event loop (blockbuster) fails the test if code of `watcher` is on the stack.
  Tests and fakes themselves may block briefly; `watcher/procfs.py`, `watcher/children.py`,
  `watcher/configfile.py`, `watcher/files.py`, `watcher/reading.py` (only what lies on a local disk, by the table),
  `watcher/probing/wedged.py` (notes on a tmpfs) and `watcher/sources/inotify.py` (pyinotify looks at the directory
  that it watches, which is on no file system that hangs) may, by name.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from tests.fakes.cgroups import SessionCgroup
from tests.fakes.containers import Containers
from tests.fakes.fuse import CONNECTIONS, FuseServer
from tests.fakes.fuse_server import MS_BIND, MS_PRIVATE, MS_REC, mount, unmount
from tests.fakes.loop_image import first_free

CLONE_NEWNS = 0x00020000  # linux/sched.h; os.unshare came with 3.12 only
MAY_BLOCK = (
    "watcher/procfs.py",
    "watcher/children.py",
    "watcher/configfile.py",
    "watcher/files.py",
    "watcher/reading.py",
    "watcher/probing/wedged.py",
    "watcher/sources/inotify.py",
)

# How long an example takes depends on what else the machine does: time is no property. The gate takes the same examples
# each time, so that it judges the change and not the dice, and few where only other libraries are tried; elsewhere new
# ones are tried.
if "MOUNTWATCH_LAB" not in os.environ:  # there no test takes examples, and it takes a second to load
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)
    settings.register_profile("gate", deadline=None, derandomize=True)
    settings.register_profile("few", settings.get_profile("gate"), max_examples=20)
    settings.load_profile("gate" if os.environ.get("CI", "").lower() in ("true", "1") else "untimed")

kernel_missing = pytest.StashKey[str]()  # why `kernel` tests cannot run; empty if they can
cgroups_missing = pytest.StashKey[str]()  # the same of `cgroups`
session_cgroup = pytest.StashKey[SessionCgroup]()  # absent where it cannot be had


def enter_mount_namespace() -> str:
    """Give this process (its main thread, and all it starts) mounts of its own; or say what is missing for that."""
    if os.environ.get("MOUNTWATCH_LAB"):
        return ""  # a machine of our own: systemd, containers and we are to see the same mounts
    if os.geteuid() != 0:
        return "needs root"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        return f"needs a mount namespace of its own: {os.strerror(ctypes.get_errno())}"
    mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)  # else our mounts would spread to the host
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
        if not os.path.ismount(CONNECTIONS):
            mount(b"fusectl", os.fsencode(CONNECTIONS), b"fusectl")
        open_fuse_to_all()
    except OSError as error:
        return f"needs FUSE: {error}"
    return ""


def open_fuse_to_all() -> None:
    """Cover /dev/fuse by one for all users, if it is root's alone: root of a user namespace is not that root."""
    device = os.stat("/dev/fuse")
    if device.st_mode & 0o666 == 0o666:
        return
    with tempfile.TemporaryDirectory() as directory:
        node = os.path.join(os.fsencode(directory), b"fuse")
        mount(b"fuse", os.fsencode(directory), b"tmpfs")
        try:
            os.mknod(node, stat.S_IFCHR, device.st_rdev)
            os.chmod(node, 0o666)
            mount(node, b"/dev/fuse", b"none", MS_BIND)
        finally:
            unmount(os.fsencode(directory))


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    missing = config.stash[kernel_missing] = config.stash[cgroups_missing] = enter_mount_namespace()
    if not missing and not os.environ.get("MOUNTWATCH_LAB"):
        try:
            config.stash[session_cgroup] = SessionCgroup.enter()
        except OSError as error:
            config.stash[cgroups_missing] = f"needs a cgroup of its own: {error}"


def pytest_unconfigure(config: pytest.Config) -> None:
    if session_cgroup in config.stash:
        config.stash[session_cgroup].leave()
        del config.stash[session_cgroup]


def pytest_report_header(config: pytest.Config) -> list[str]:
    kernel, cgroups = config.stash[kernel_missing], config.stash[cgroups_missing]
    return [
        f"kernel tests: {'unavailable, ' + kernel if kernel else 'in a private mount namespace'}",
        f"cgroups tests: {'unavailable, ' + cgroups if cgroups else 'in a cgroup of their own'}",
    ]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, key in (("kernel", kernel_missing), ("cgroups", cgroups_missing)):
        missing = item.config.stash[key]
        if missing and item.get_closest_marker(marker):
            skip_or_fail(f"{marker} test {missing}")


def skip_or_fail(reason: str) -> None:
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"{reason}; with CI set it must not be skipped", pytrace=False)
    pytest.skip(reason)


class _Any(Container[str]):
    """Every function's name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:  # blockbuster's signature asks for an iterable, and uses only `in`
        raise NotImplementedError


@pytest.fixture(scope="session")
def blocking_calls() -> BlockBuster:
    """The detector, not yet at work. It looks only at calls with a frame of `watcher` on the stack."""
    detector = BlockBuster(["watcher"])
    for function in detector.functions.values():
        for module in MAY_BLOCK:
            function.can_block_in(module, _Any())
    return detector


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    if not inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        yield
        return
    detector: BlockBuster = request.getfixturevalue("blocking_calls")
    detector.activate()
    try:
        yield
    finally:
        detector.deactivate()


@pytest.fixture
def mount_dir(tmp_path: Path) -> Callable[..., bytes]:
    """A function that makes a directory to mount on, of any name or relative path (str or bytes; default "mnt").

    It lies under the test's own; given back is its absolute path, as bytes.
    """

    def make(name: str | bytes = b"mnt") -> bytes:
        path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
        os.makedirs(path, exist_ok=True)
        return path

    return make


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[FuseServer]:
    """A FUSE server of the test's own. (After `tmp_path`, so that nothing is mounted there when that is removed.)"""
    with FuseServer() as server:
        yield server


@pytest.fixture
def lxc(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Containers]:
    """A host for fake LXC containers; they have cgroups if the session has (mark `cgroups` what cannot do without)."""
    cgroup = request.config.stash.get(session_cgroup, None)
    with Containers(tmp_path / "host", cgroup_path=cgroup.path if cgroup else "") as host:
        yield host


@pytest.fixture
def loop_devices() -> None:
    """For containers with `rootfs="image"`: like a marker, skips or fails a test where there are none."""
    try:
        first_free()
    except (OSError, subprocess.CalledProcessError) as error:
        skip_or_fail(f"needs a loop device: {error}")


@pytest.fixture
def descriptors() -> Callable[[], dict[int, str]]:
    """A function that lists this process's open descriptors and what they are: compare before and after."""

    def list_open() -> dict[int, str]:
        gc.collect()
        found = {}
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                found[fd] = os.readlink(f"/proc/self/fd/{fd}")
            except FileNotFoundError:  # the listing's own
                continue
        return found

    return list_open
