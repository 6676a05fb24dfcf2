"""What the fake containers need of the kernel and the standard library lacks: clone(2), detached mounts, titles.

Standard library only, and single-threaded processes only. System call numbers are those of x86_64 and aarch64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable

from tests.fakes.fuse_server import MS_REC, make_directories, mount, unmount

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000  # linux/sched.h
MS_SLAVE = 1 << 19  # linux/mount.h
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_MM, PR_SET_CHILD_SUBREAPER = 1, 4, 15, 35, 36  # linux/prctl.h
PR_SET_MM_MAP = 14
AT_FDCWD = -100
SYS_CLONE, SYS_PIVOT_ROOT = {"x86_64": (56, 155), "aarch64": (220, 41)}.get(os.uname().machine, (-1, -1))
SYS_OPEN_TREE, SYS_MOVE_MOUNT = 428, 429  # the same everywhere

# PyDLL keeps the interpreter's lock, as os.fork does: the child of `clone` must find it held.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.sbrk.restype = ctypes.c_void_p


def _check(result: int, path: str = "") -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return result


# ---- processes


def _prctl(option: int, *arguments: int | bytes | ctypes.Structure) -> None:
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in arguments]
    _check(_libc.prctl(option, *words, *[ctypes.c_ulong(0)] * (4 - len(words))))


def die_with_parent() -> None:
    """Of SIGKILL. A change of user ids undoes it."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """What loses its parent below us becomes our child."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _clone(flags: int) -> int:
    if not flags:
        return os.fork()
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(_libc.syscall(SYS_CLONE, ctypes.c_ulong(flags | signal.SIGCHLD), *[ctypes.c_ulong(0)] * 4))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return _check(pid)


def spawn(body: Callable[[], None], flags: int = 0) -> int:
    """Run `body` in a new process, in new namespaces by `flags`; a user namespace among them owns the others.

    Gives its pid. A traceback goes to standard error.
    """
    pid = _clone(flags)
    if pid:
        return pid
    code = 1
    try:
        body()
        code = 0
    finally:
        if code:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)


def leave_user_namespace() -> None:
    """For one of our own, without an id map."""
    _check(_libc.unshare(CLONE_NEWUSER))


def become_root_inside() -> None:
    """From the outer root, whom the user namespace's map does not know, to its own root."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _prctl(PR_SET_DUMPABLE, 1)  # as after an exec; the change of ids took it and the death signal away
    die_with_parent()


class _MemoryMap(ctypes.Structure):
    """struct prctl_mm_map of linux/prctl.h."""

    _fields_ = [
        *[
            (name, ctypes.c_uint64)
            for name in (
                *("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack"),
                *("arg_start", "arg_end", "env_start", "env_end", "auxv"),
            )
        ],
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    ]


# Where /proc/<pid>/stat has them, counted from the state, its third field.
_STAT_FIELDS = {"start_code": 23, "end_code": 24, "start_stack": 25, "start_data": 42, "end_data": 43, "start_brk": 44,
                "env_start": 47, "env_end": 48}  # fmt: skip

_title: ctypes.Array[ctypes.c_char]  # must live as long as the process


def become_known_as(comm: str, argv: list[str]) -> None:
    """Set what /proc/<pid>/comm and cmdline show, the latter as LXC's daemonised monitor does."""
    global _title
    text = b"".join(os.fsencode(word) + b"\0" for word in argv)
    _title = ctypes.create_string_buffer(text, len(text))
    with open("/proc/thread-self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    known = {name: int(fields[position]) for name, position in _STAT_FIELDS.items()}
    start = ctypes.addressof(_title)
    layout = _MemoryMap(
        **known, brk=_libc.sbrk(0), arg_start=start, arg_end=start + len(text), exe_fd=ctypes.c_uint32(-1).value
    )
    map_it = ctypes.c_ulong(PR_SET_MM_MAP), ctypes.byref(layout), ctypes.c_ulong(ctypes.sizeof(layout))
    try:
        _check(_libc.prctl(PR_SET_MM, *map_it, ctypes.c_ulong(0)))
    except OSError as error:
        # A kernel without CONFIG_CHECKPOINT_RESTORE (the labs' have none): over the words that are there, if it fits.
        old, end = int(fields[45]), int(fields[46])
        if error.errno not in (errno.EINVAL, errno.EPERM) or len(text) > end - old:
            raise
        ctypes.memmove(old, text.ljust(end - old, b"\0"), end - old)
    _prctl(PR_SET_NAME, os.fsencode(comm))


# ---- mounts


def own_mounts() -> None:
    """As LXC does it: what the host mounts may still come in, nothing of ours goes out."""
    mount(b"none", b"/", b"none", MS_REC | MS_SLAVE)


def new_mount_namespace() -> None:
    _check(_libc.unshare(CLONE_NEWNS))
    own_mounts()


def detached_copy(path: str) -> int:
    """A mount of a directory or file that stands nowhere yet: may be put into a namespace with fewer rights."""
    flags = ctypes.c_uint(OPEN_TREE_CLONE | os.O_CLOEXEC)
    return _check(_libc.syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags), path)


def put_mount(fd: int, path: bytes) -> None:
    """Let a detached mount stand at `path`, which is made. The mount itself is not asked: it may hang."""
    make_directories(path)
    try:
        _move_mount(fd, path)
    except OSError:
        os.rmdir(path)  # it is no directory, then
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        _move_mount(fd, path)
    mount(b"none", path, b"none", MS_SLAVE)


def _move_mount(fd: int, path: bytes) -> None:
    flags = ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH)
    _check(_libc.syscall(SYS_MOVE_MOUNT, fd, b"", AT_FDCWD, path, flags), os.fsdecode(path))


def pivot() -> None:
    """Make the current directory the root as LXC does: both stacked on "/", then the old one lazily unmounted."""
    old, new = os.open("/", os.O_RDONLY | os.O_DIRECTORY), os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    _check(_libc.syscall(SYS_PIVOT_ROOT, b".", b"."))
    os.fchdir(old)
    mount(b"none", b".", b"none", MS_REC | MS_SLAVE)
    unmount(b".")
    os.fchdir(new)
    os.close(old)
    os.close(new)
