"""The probe child: asks many mounts at once whether they answer, and prints one line per step.

Runs as `python -I -S child.py` with the standard library only; it must not import the project
(start-up time is most of what a sweep costs). It is expected to be killed: nothing here tries to
survive a mount that hangs, and nobody waits for it to exit.

Standard input, NUL-terminated fields, five per job: id, mount id, the directory that the path
starts from ("/"), the path, options ("d": read the directory too, "z": a size of 0 wants a second
look). End of input ends the list. Standard output, one line per step:

    start ID TID                                       a thread has taken the job: its time runs
    walked ID                                          the mount point is reached, now statfs
    deep ID                                            statfs has answered, now the directory is read
    ok ID LATENCY_US FRSIZE BLOCKS BFREE BAVAIL FLAG   what fstatvfs(3) says
    errno ID STAGE NUMBER LATENCY_US                   walk, statfs or deep failed
    other ID MOUNT_ID                                  another mount stands there
    void ID REASON                                     we could not ask
    alive                                              our own canary: statfs of /proc has answered
"""

from __future__ import annotations

import os
import sys
import time
from _thread import allocate_lock, get_native_id, stack_size, start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_FILES = 0x400  # linux/sched.h
TICK = 0.005  # seconds between two looks at the queue
START_WITHIN = 0.2  # a waiting job must start in this time, so threads are added until it would
CANARY_EVERY = 0.25
MAX_THREADS = 4096
STACK = 128 * 1024  # bytes; a worker needs 40 kB, and 200 of them may stand

# Ours, not the mount's: out of descriptors or memory.
_OUR_ERRNOS = (12, 23, 24)  # ENOMEM, ENFILE, EMFILE

Job = tuple[str, int, str, str, str]


def _say(line: str) -> None:
    os.write(1, line.encode() + b"\n")  # below PIPE_BUF: never torn, whichever thread writes


def _unshare_files() -> Callable[[], None]:
    """Each worker gets its own descriptor table.

    Else one thread that cannot be killed keeps the descriptors of its neighbours open, and so their
    mounts busy, after the child is killed.
    """
    if sys.version_info >= (3, 12):
        return lambda: os.unshare(CLONE_FILES)
    import ctypes

    unshare = ctypes.CDLL(None, use_errno=True).unshare

    def call() -> None:
        if unshare(CLONE_FILES) != 0:
            raise OSError(ctypes.get_errno(), "unshare")

    return call


def _walk(base: str, path: str) -> int:
    """An O_PATH descriptor of the mount point, reached without following one symlink."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(base, os.O_PATH | os.O_CLOEXEC)
    for name in path.split("/"):
        if name:
            above = fd
            try:
                fd = os.open(name, flags, dir_fd=above)
            finally:
                os.close(above)
    return fd


def _mount_id(fd: int) -> int:
    """proc_pid_fdinfo(5). Of the thread: the descriptor is in no table but its own."""
    info = os.open(f"/proc/thread-self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(info, 4096)
    finally:
        os.close(info)
    return int(text.partition(b"mnt_id:")[2].split(None, 1)[0])


def _read_directory(fd: int) -> None:
    try:
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    except (NotADirectoryError, PermissionError):
        return  # a file is mounted there, or its owner keeps us out: statfs has answered all the same
    try:
        with os.scandir(opened) as entries:
            next(entries, None)
    except PermissionError:
        pass
    finally:
        os.close(opened)


def _ask(job: Job) -> None:
    name, wanted, base, path, options = job
    began = time.perf_counter()
    stage, fd = "walk", -1
    try:
        fd = _walk(base, path)
        found = _mount_id(fd)
        if found != wanted:
            _say(f"other {name} {found}")
            return
        stage = "statfs"
        _say(f"walked {name}")
        began = time.perf_counter()
        v = os.fstatvfs(fd)
        if v.f_blocks == 0 and "z" in options:
            os.fstat(fd)  # FUSE of another user answers zeros without asking its server; this says EACCES
        latency = int((time.perf_counter() - began) * 1e6)
        if "d" in options:
            stage = "deep"
            _say(f"deep {name}")
            _read_directory(fd)
        _say(f"ok {name} {latency} {v.f_frsize} {v.f_blocks} {v.f_bfree} {v.f_bavail} {v.f_flag}")
    except OSError as e:
        number = e.errno or 5
        if number in _OUR_ERRNOS:
            _say(f"void {name} {os.strerror(number)}")
        else:
            _say(f"errno {name} {stage} {number} {int((time.perf_counter() - began) * 1e6)}")
    finally:
        if fd >= 0:
            os.close(fd)


def _read_jobs() -> list[Job]:
    data = b""
    while chunk := os.read(0, 1 << 20):
        data += chunk
    fields = [f.decode("utf-8", "surrogateescape") for f in data.split(b"\0")[:-1]]
    return [
        (fields[i], int(fields[i + 1]), fields[i + 2], fields[i + 3], fields[i + 4])
        for i in range(0, len(fields) - 4, 5)
    ]


class Pool:
    """Threads that take jobs one by one; as many as it takes that no job waits for a mount that hangs."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs[::-1]
        self._lock = allocate_lock()
        self._total = len(jobs)
        self.threads = 0
        self.done = 0
        self._unshare = _unshare_files()
        self.finished = allocate_lock()
        self.finished.acquire()

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def grow(self, count: int) -> None:
        for _ in range(min(count, self.waiting, MAX_THREADS - self.threads)):
            try:
                start_new_thread(self._work, ())
            except RuntimeError as e:  # EAGAIN: a limit of processes; those that run go on
                if self.threads == 0:
                    self._give_up(str(e))
                return
            self.threads += 1

    def _give_up(self, reason: str) -> None:
        while self._jobs:
            _say(f"void {self._jobs.pop()[0]} {reason}")
        self.finished.release()

    def _work(self) -> None:
        try:
            self._unshare()
        except OSError as e:
            failure: str | None = f"unshare: {e.strerror}"
        else:
            failure = None
        tid = get_native_id()
        while True:
            try:
                job = self._jobs.pop()  # atomic
            except IndexError:
                return
            if failure is None:
                _say(f"start {job[0]} {tid}")
                _ask(job)
            else:
                _say(f"void {job[0]} {failure}")
            with self._lock:
                self.done += 1
                last = self.done == self._total
            if last:
                self.finished.release()


def main() -> None:
    parent = os.getppid()
    jobs = _read_jobs()
    stack_size(STACK)
    # Threads of one core take turns at the interpreter's lock; the default turn of 5 ms would be the sweep's length.
    sys.setswitchinterval(0.001)
    pool = Pool(jobs)
    if jobs:
        pool.grow(2)
        done, next_canary = 0, 0.0
        while not pool.finished.acquire(timeout=TICK if pool.waiting else CANARY_EVERY):
            # Jobs that new threads take and hang in are no progress: count those that were finished.
            finished, done = pool.done - done, pool.done
            if finished * (START_WITHIN / TICK) < pool.waiting:
                # Doubling, or fourfold while nothing moves: 2,000 hung mounts all have their thread after five looks.
                pool.grow(max(2, pool.threads if finished else 3 * pool.threads))
            now = time.monotonic()
            if now >= next_canary:
                next_canary = now + CANARY_EVERY
                os.statvfs("/proc")
                _say("alive")
                if os.getppid() != parent:
                    break  # nobody listens any more
    os._exit(0)  # without waiting for threads


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(1)
