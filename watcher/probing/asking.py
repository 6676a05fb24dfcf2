"""The child that looks around a mount that has failed: `python -I -S asking.py`, one JSON object on stdin.

It never touches the mount. It connects to servers (from a container's network namespace, too), reads fusectl and
mountstats, and finds the processes that hold /dev/fuse. Each question has a thread of its own, so that one that hangs
holds up no other, and it is expected to be killed. Standard library only; it must not import the project.

Standard output: one JSON array a line, `[kind, ...]`, as each fact is found; at last `["end"]`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from _thread import allocate_lock, stack_size, start_new_thread
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CONNECT = 1.0  # seconds for a server to accept a connection
CLONE_NEWNET = 0x40000000  # linux/sched.h
MAX_HOLDERS = 64  # processes with /dev/fuse open of which it is found out what they serve
MAX_DESCRIPTORS = 512  # of one process that are looked at: one in a container may have a million
CPU_LIMIT = 0.3  # seconds of the processor, after which no more processes are looked at
TITLES = 0.3  # seconds for the command lines of the likely ones
MAX_TITLE = 1 << 14  # bytes of a command line
MAX_STATS = 1 << 18  # bytes of what is passed on of mountstats
DEVICES = ("/dev/fuse", "/fuse")  # the latter where /dev was unmounted lazily
UNITS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")


class _Asking:
    """Threads, and what they say."""

    def __init__(self, proc: str) -> None:
        self._proc = proc
        self._lock = allocate_lock()
        self._running = 1  # until all have been started
        self._holders = self._titles = 0  # seen so far; whose command lines are being read
        self._known: set[int] = set()  # connections of which it is known who serves them
        self._over = allocate_lock()
        self._over.acquire()

    def start(self, ask: Callable[..., None], *arguments: Any) -> None:
        with self._lock:
            self._running += 1
        start_new_thread(self._run, (ask, arguments))

    def _run(self, ask: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            ask(*arguments)
        except (OSError, ValueError):
            pass  # what cannot be found out is left out
        finally:
            self._end_one()

    def _end_one(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0:
                self._over.release()

    def wait(self) -> None:
        self._end_one()
        self._over.acquire()

    def say(self, *words: Any) -> None:
        line = json.dumps(words).encode() + b"\n"
        with self._lock:
            while line:
                line = line[os.write(1, line) :]

    # ---- servers

    def port(self, address: str, port: int, pid: int) -> None:
        """`pid`: a process in whose network namespace to ask; 0: ours."""
        if pid:
            self._enter_network(pid)
        family, kind, protocol, _, where = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )[0]
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(CONNECT)
            try:
                connection.connect(where)
            except ConnectionRefusedError:
                result = "refused"
            except TimeoutError:
                result = "no answer"
            except OSError as e:
                if e.errno not in (101, 113):  # ENETUNREACH, EHOSTUNREACH
                    raise
                result = "unreachable"
            else:
                result = "reachable"
        self.say("port", address, port, pid, result)

    def _enter_network(self, pid: int) -> None:
        """This thread alone: a socket belongs to the network namespace that its thread was in."""
        namespace = os.open(f"{self._proc}/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if sys.version_info >= (3, 12):
                os.setns(namespace, CLONE_NEWNET)
            else:
                import ctypes

                if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(namespace)

    def stats(self, pid: int) -> None:
        """The lines of mountstats that tell of NFS transports."""
        with open(f"{self._proc}/{pid or 'self'}/mountstats", "rb") as file:
            wanted = [line for line in file if line.startswith((b"device ", b"\txprt:"))]
        nfs = [line for line in wanted if b"xprt:" in line or b" with fstype nfs" in line]
        self.say("stats", pid, b"".join(nfs)[:MAX_STATS].decode("utf-8", "surrogateescape"))

    # ---- FUSE

    def waiting(self, directory: str, number: int) -> None:
        with open(f"{directory}/{number}/waiting", "rb") as file:
            self.say("waiting", number, int(file.read(32)))

    def holders(self, mounts: list[list[Any]]) -> None:
        """Who has /dev/fuse open, and for which connection.

        `mounts`: number, mount point, a pid in its namespace, names that who serves it may have. To look at every
        descriptor of thousands of processes costs most of a second, so those with the right names come first.
        """
        pids = sorted(int(name) for name in os.listdir(self._proc) if name.isdecimal())
        names = {name[:15] for mount in mounts for name in mount[3] if name}  # proc_pid_comm(5)
        likely = [pid for pid in pids if self._line(pid, "comm") in names]
        complete = self._look_at(likely, mounts)
        patience = time.monotonic() + TITLES
        while not (known := self._known.issuperset(mount[0] for mount in mounts)):
            if not self._titles or time.monotonic() >= patience:
                break
            time.sleep(0.005)
        if not known:
            done = set(likely)
            complete = self._look_at([pid for pid in pids if pid not in done], mounts) and complete
        self.say("looked", complete)

    def _look_at(self, pids: list[int], mounts: list[list[Any]]) -> bool:
        """Say who of these has /dev/fuse open; whether all could be seen, as far as that was needed."""
        complete = True
        wanted = {mount[0] for mount in mounts}
        for pid in pids:
            if time.process_time() > CPU_LIMIT:
                return False
            try:
                connections, all_of_them = self._connections(pid)
                complete = complete and all_of_them
                if connections is None:
                    continue
                self._holders += 1
                if self._holders > MAX_HOLDERS:
                    return False
                self.say("holder", pid, self._line(pid, "comm"), self._line(pid, "cgroup"), connections)
            except PermissionError:
                complete = False
                continue
            except OSError:
                continue  # it has ended
            self._known.update(connections)
            if wanted <= self._known:
                break
            if not connections:  # 6.12 and older do not tell of which connection it is
                with self._lock:
                    self._titles += 1
                self.start(self._title, pid, mounts)
        return complete

    def _connections(self, pid: int) -> tuple[list[int] | None, bool]:
        """The FUSE connections of a process, as far as the kernel tells; None if it has none. And if that is all."""
        directory = os.open(f"{self._proc}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with os.scandir(directory) as entries:  # not all of them at once, which alone would take a second
                names = [entry.name for entry in islice(entries, MAX_DESCRIPTORS + 1)]
            ours = []
            for name in names[:MAX_DESCRIPTORS]:
                try:
                    if os.readlink(name, dir_fd=directory) in DEVICES:
                        ours.append(name)
                except OSError:
                    pass  # closed meanwhile
        finally:
            os.close(directory)
        numbers = []
        for name in ours:
            try:
                with open(f"{self._proc}/{pid}/fdinfo/{name}", "rb") as file:
                    lines = file.read().splitlines()
            except OSError:
                continue
            numbers += [int(line.split()[1]) for line in lines if line.startswith(b"fuse_connection:")]
        return numbers if ours else None, len(names) <= MAX_DESCRIPTORS

    def _line(self, pid: int, file: str) -> str:
        """comm or cgroup; "" where there is none."""
        try:
            with open(f"{self._proc}/{pid}/{file}", "rb", buffering=0) as opened:
                return (opened.read(4096) or b"").rstrip(b"\n").decode("utf-8", "surrogateescape")
        except OSError:
            return ""

    def _title(self, pid: int, mounts: list[list[Any]]) -> None:
        """Which of the mounts a process names on its command line, if it lives where they do.

        A container's process may name whatever it likes, and reading that may wait for its memory.
        """
        try:
            lives_in = os.readlink(f"{self._proc}/{pid}/ns/pid")
            with open(f"{self._proc}/{pid}/cmdline", "rb") as file:
                words = file.read(MAX_TITLE).decode("utf-8", "surrogateescape").split("\0")
            paths = {word.rstrip("/") for word in words if word.startswith("/")}
            for number, mount_point, init_pid, _ in mounts:
                if mount_point in paths and os.readlink(f"{self._proc}/{init_pid or 'self'}/ns/pid") == lives_in:
                    self.say("names", pid, number)
                    self._known.add(number)
        finally:
            with self._lock:
                self._titles -= 1

    # ---- systemd

    def unit(self, name: str) -> None:
        if any(os.path.lexists(f"{directory}/{name}") for directory in UNITS):
            self.say("unit", name)


def main() -> None:
    stack_size(256 * 1024)
    wanted = json.load(sys.stdin)
    asking = _Asking(wanted["proc"])
    for arguments in wanted["ports"]:
        asking.start(asking.port, *arguments)
    for pid in wanted["stats"]:
        asking.start(asking.stats, pid)
    for name in wanted["units"]:
        asking.start(asking.unit, name)
    if wanted["fuse"]:
        for number, *_ in wanted["fuse"]:
            asking.start(asking.waiting, wanted["connections"], number)
        asking.start(asking.holders, wanted["fuse"])
    asking.wait()
    asking.say("end")
    os._exit(0)  # no waiting for threads


if __name__ == "__main__":
    main()
