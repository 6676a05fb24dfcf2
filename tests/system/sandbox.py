"""Run with the unit's sandbox on: prints as JSON what it lets pass, and the errno of what it does not.

Standard library only, so that Debian's own Python can run it, too.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable

CLONE_FILES, CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x400, 0x20000, 0x4000000, 0x40000000  # linux/sched.h
PTRACE_TRACEME = 0
SYS_BPF, SYS_IO_URING_SETUP, SYS_OPEN_TREE = 321, 425, 428  # x86_64
AT_FDCWD, OPEN_TREE_CLONE = -100, 1  # linux/fcntl.h, linux/mount.h

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _database() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ["STATE_DIRECTORY"]) as directory:
        for _ in range(2):  # the second time with a journal beside what is there
            db = sqlite3.connect(f"{directory}/x.db")
            db.execute("CREATE TABLE IF NOT EXISTS t (x)")
            db.execute("INSERT INTO t VALUES (1)")
            db.commit()
            db.close()


def _callback() -> None:
    assert ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)() == 7


def _thread() -> None:
    thread = threading.Thread(target=lambda: _call("unshare", CLONE_FILES))
    thread.start()
    thread.join()


def _enter(name: str, kind: int) -> None:
    with open(f"/proc/self/ns/{name}") as namespace:
        _call("setns", namespace.fileno(), kind)


def _mounts() -> None:
    """In a process of its own: one that has had threads may still share its root with the last of them (EINVAL)."""
    if not (pid := os.fork()):
        try:
            _enter("mnt", CLONE_NEWNS)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OSError(code, os.strerror(code))


WORKS: dict[str, Callable[[], object]] = {
    "a child": lambda: subprocess.run(["/bin/true"], check=True),
    "a thread with descriptors of its own": _thread,
    "the network namespace of another": lambda: _enter("net", CLONE_NEWNET),
    "the mount namespace of another": _mounts,
    "a copy of a mount": lambda: _call("syscall", SYS_OPEN_TREE, AT_FDCWD, b"/", OPEN_TREE_CLONE),
    "a database": _database,
    "a callback of ctypes": _callback,
    "TLS": ssl.create_default_context,
    "names": lambda: socket.getaddrinfo("localhost", 443, type=socket.SOCK_STREAM),
    "Internet sockets": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close(),
}
REFUSED: dict[str, Callable[[], object]] = {
    "mount": lambda: _call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
    "umount": lambda: _call("umount2", b"/proc", 0),
    "a host name of one's own": lambda: _call("unshare", CLONE_NEWUTS),
    "tracing": lambda: _call("ptrace", PTRACE_TRACEME, 0, None, None),
    "BPF": lambda: _call("syscall", SYS_BPF, 0, None, 0),
    "chroot": lambda: os.chroot("/"),
    "another owner": lambda: os.chown("/tmp", 1, 1),
    "the host name": lambda: socket.sethostname("x"),
    "raw sockets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "code on a writable page": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "devices": lambda: os.open("/dev/kmsg", os.O_WRONLY),
}


def _errno(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except Exception as error:  # noqa: BLE001  whatever it is, it did not work
        return repr(error)
    return ""


if __name__ == "__main__":
    said = {what: _errno(action) for what, action in (WORKS | REFUSED).items()}
    with open(sys.argv[1], "w") as file:
        json.dump(said, file)
