"""Who has /dev/fuse open, and for which connection: a part of the child `users`, and how that speaks.

Standard library only; it must not import the project.

What is said, arrays in lines of JSON: ["holder", PID, COMM, CGROUP, [CONNECTION, …]] of each process, the connections
as far as the kernel tells them (6.12 and older do not); else ["lives", PID, [CONNECTION, …]], those in whose pid
namespace it is, and ["names", PID, CONNECTION] of those whose mount point stands on its command line, or ["elsewhere",
PID] where that is another FUSE mount's; at last ["looked", whether all could be seen, as far as that was needed].
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock, start_new_thread
from itertools import islice

try:
    from _json import encode_basestring_ascii as quoted
except ImportError:  # another Python than CPython
    from json import dumps as quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_HOLDERS = 64  # processes with /dev/fuse open of which it is found out what they serve
MAX_DESCRIPTORS = 512  # of one process that are looked at: one in a container may have a million
CPU_LIMIT = 0.3  # seconds of the processor, after which no more processes are looked at
TITLES = 0.3  # seconds for the command lines
MAX_TITLE = 1 << 14  # bytes of a command line
MAX_TABLE = 1 << 18  # bytes of a mount table
# As links of proc(5) name it: below another root, where /dev was unmounted lazily, or where the node was removed.
_DEVICE = ("/fuse", "/fuse (deleted)")

UTF8 = ("utf-8", "surrogateescape")  # as the service has all names, whatever the locale

_speaking = allocate_lock()


def is_device(path: str) -> bool:
    """Whether a descriptor is open on /dev/fuse, as far as its link tells: it is never followed."""
    return path.endswith(_DEVICE)


def text(value: object) -> str:
    """JSON, of what is simple."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(key)}: {text(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(text, value))}]"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def say(value: object) -> None:
    """One line."""
    line = text(value).encode("ascii") + b"\n"
    with _speaking:
        while line:
            line = line[os.write(1, line) :]


class Serving:
    """Looks for the processes that serve some FUSE mounts, as the processes are gone through."""

    def __init__(
        self, proc: str, mounts: Sequence[tuple[int, str, int, tuple[str, ...]]], ends: float, pace: float
    ) -> None:
        """`mounts`: connection, mount point, a pid in its pid namespace ("0": ours), what the server may be called.

        `ends`: until when, of the monotonic clock; `pace`: how many times as much of the processor as CPU_LIMIT it may
        take.
        """
        self._proc, self._mounts, self._limit = proc, mounts, CPU_LIMIT * pace
        self._ends = ends
        self._wanted = {mount[0] for mount in mounts}
        self._names = {name.encode(*UTF8)[:15] for *_, names in mounts for name in names if name}  # proc_pid_comm(5)
        self._known: set[int] = set()  # connections of which it is known who serves them
        self._seen: set[str] = set()  # processes of which all descriptors have been
        self._holders = self._reading = 0  # found so far; whose command lines are being read
        self._complete = True

    @property
    def is_over(self) -> bool:
        """Whether all are known."""
        return self._wanted <= self._known

    def meet(self, pid: str, comm: bytes) -> None:
        """A process: looked at, if it has the right name."""
        if comm in self._names and not self.is_over:
            self._look_at(pid)

    def look_at(self, pids: Iterable[str]) -> None:
        """And these, if it is not known by then."""
        for pid in pids:
            if self.is_over:
                break
            is_late = time.process_time() > self._limit or time.monotonic() > self._ends
            if is_late or self._holders > MAX_HOLDERS:
                self._complete = False
                break
            if pid not in self._seen:
                self._look_at(pid)

    def end(self) -> None:
        """Say how far it came."""
        patience = time.monotonic() + TITLES
        while self._reading and not self.is_over and time.monotonic() < patience:
            time.sleep(0.005)
        if self._mounts:
            say(["looked", self._complete])

    def _look_at(self, pid: str) -> None:
        try:
            directory = os.open(f"{self._proc}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            self.unseen(e)
            return
        found = []
        try:
            with os.scandir(directory) as entries:  # not all of them at once, which alone would take a second
                names = [entry.name for entry in islice(entries, MAX_DESCRIPTORS + 1)]
            for name in names[:MAX_DESCRIPTORS]:
                try:
                    if is_device(os.readlink(name, dir_fd=directory)):
                        found.append(name)
                except OSError:
                    pass  # closed meanwhile
            self.saw(pid, found, all_of_them=len(names) <= MAX_DESCRIPTORS)
        except OSError:
            pass  # it has ended
        finally:
            os.close(directory)

    def unseen(self, error: OSError) -> None:
        """A process that could not be looked at; what has ended is no loss."""
        self._complete = self._complete and not isinstance(error, PermissionError)

    def saw(self, pid: str, descriptors: Sequence[str], *, all_of_them: bool = True) -> None:
        """A process has these open on the device."""
        if pid in self._seen or self.is_over:
            return
        self._seen.add(pid)
        self._complete = self._complete and all_of_them
        if not descriptors:
            return
        self._holders += 1
        if self._holders > MAX_HOLDERS:
            self._complete = False
            return
        connections = []
        for name in descriptors:
            lines = self._file(pid, f"fdinfo/{name}").splitlines()
            connections += [int(line.split()[1]) for line in lines if line.startswith(b"fuse_connection:")]
        comm, cgroup = (self._file(pid, file).rstrip(b"\n") for file in ("comm", "cgroup"))
        say(["holder", int(pid), comm.decode(*UTF8), cgroup.decode(*UTF8), connections])
        self._known.update(connections)
        if not connections and (here := self._beside(pid)):
            say(["lives", int(pid), [mount[0] for mount in here]])
            with _speaking:
                self._reading += 1
            start_new_thread(self._title, (pid, here))

    def _file(self, pid: str, name: str) -> bytes:
        """b"" where there is none."""
        try:
            fd = os.open(f"{self._proc}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.read(fd, 4096)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def _fuse_mounts(self, pid: str) -> set[str]:
        """Where FUSE mounts stand for a process, as far as their names are plain: of these it may serve one."""
        with open(f"{self._proc}/{pid}/mountinfo", "rb") as file:
            table = file.read(MAX_TABLE).decode(*UTF8)
        return {line.split(" ")[4] for line in table.split("\n")[:-1] if " - fuse" in line}

    def _home(self, init_pid: int) -> str:
        """The pid namespace of a process; "" of what has ended; 0: ours."""
        try:
            return os.readlink(f"{self._proc}/{init_pid or 'self'}/ns/pid")
        except OSError:
            return ""

    def _beside(self, pid: str) -> list[tuple[int, str, int, tuple[str, ...]]]:
        """The mounts in whose pid namespace a process lives."""
        try:
            lives_in = os.readlink(f"{self._proc}/{pid}/ns/pid")
        except OSError:
            return []
        return [mount for mount in self._mounts if self._home(mount[2]) == lives_in]

    def _title(self, pid: str, here: list[tuple[int, str, int, tuple[str, ...]]]) -> None:
        """Which of the mounts `here`, where it lives, a process names on its command line, or that it names another.

        A container's process may name whatever it likes, and reading that may wait for its memory, even after a kill:
        of who lives elsewhere it is not read.
        """
        try:
            with open(f"{self._proc}/{pid}/cmdline", "rb") as file:
                words = file.read(MAX_TITLE).decode(*UTF8).split("\0")
            paths = {word.rstrip("/") for word in words if word.startswith("/")}
            named = [number for number, mount_point, *_ in here if mount_point in paths]
            for number in named:
                say(["names", int(pid), number])
                self._known.add(number)
            if not named and paths & self._fuse_mounts(pid):
                say(["elsewhere", int(pid)])
        except OSError:
            pass
        finally:
            with _speaking:
                self._reading -= 1
