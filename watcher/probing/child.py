"""The probe child: asks many mounts at once whether they answer, and prints one line per step.

Its `main` runs under `python -I -S` with the standard library only; it must not import the project
(start-up time is most of what a sweep costs). It is expected to be killed: nothing here tries to
survive a mount that hangs, and nobody waits for it to exit.

Standard input, NUL-terminated fields, eight per job: id, mount id, the process from whose root
directory the path starts ("0": ours), the inode of that process's user namespace if it is to be
entered ("0": it is not), the lane ("": none) and how many threads that one may have, the path,
options ("d": read the directory too, "z": a size of 0 wants a second look). End of input ends the
list. Standard output, one line per step:

    start ID TID PID                                   a thread has taken the job: its time runs
    walked ID                                          the mount point is reached, now statfs
    deep ID                                            statfs has answered, now the directory is read
    ok ID LATENCY_US FRSIZE BLOCKS BFREE BAVAIL FLAG   what fstatvfs(3) says
    errno ID STAGE NUMBER LATENCY_US                   walk, statfs or deep failed
    other ID MOUNT_ID                                  another mount stands there
    gone ID                                            the process is gone, or its pid is another's now
    late ID                                            not asked: its lane's threads have all been busy
    void ID REASON                                     we could not ask
    alive                                              our own canary: statfs of /proc has answered

Containers with a user namespace of their own are `inside.py`'s matter, which does the same from there.
"""

from __future__ import annotations

import posix as os  # nearly all of what os would say; that one's own import costs a sixth of what a sweep does
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
LANE_TIME = 0.5  # seconds in which a lane's jobs may start: a slow container must not hold up the others' verdicts
MAX_THREADS = 4096
STACK = 128 * 1024  # bytes; a worker needs 40 kB, and 200 of them may stand

# Ours, not the mount's: out of descriptors or memory.
_OUR_ERRNOS = (12, 23, 24)  # ENOMEM, ENFILE, EMFILE
GONE = (2, 3)  # ENOENT, ESRCH: of /proc/<pid>/...
_ELOOP = 40


class Job:
    """One mount to be asked; see the module's docstring."""

    __slots__ = ("lane", "mount_id", "name", "options", "path", "root_pid", "slots", "user_namespace")

    def __init__(self, fields: list[str]) -> None:
        self.name, mount_id, root_pid, user_namespace, self.lane, slots, self.path, self.options = fields
        self.mount_id, self.root_pid, self.user_namespace = int(mount_id), int(root_pid), int(user_namespace)
        self.slots = int(slots)


FIELDS = len(Job.__slots__)


class CannotAskError(Exception):
    """For a reason that says nothing about the mount."""


class GoneError(Exception):
    """The process from whose root directory a path was to start has ended."""


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")  # below PIPE_BUF: never torn, whichever thread writes


def _unshare_files() -> Callable[[], None]:
    """Each worker gets its own descriptor table.

    Else one thread that cannot be killed keeps the descriptors of its neighbours open, and so their
    mounts busy, after the child is killed.
    """
    if sys.version_info >= (3, 12):
        return lambda: os.unshare(CLONE_FILES)
    # What ctypes is made of: that itself costs a fourth of what a sweep does. It is 3.11's own, and frozen.
    from _ctypes import call_function, dlopen, dlsym

    unshare = dlsym(dlopen(None, 0), "unshare")  # type: ignore[arg-type]  # None: this program itself

    def call() -> None:
        if call_function(unshare, (CLONE_FILES,)) != 0:
            raise OSError(0, "refused")

    return call


def open_base(root_pid: int, path: str, directory: int | None = None) -> int:
    """The directory in which a walk begins. Raises GoneError, CannotAskError, or OSError where we are in trouble."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
    except OSError as e:
        if e.errno in _OUR_ERRNOS:
            raise
        # A process that ends just now may be refused instead.
        if e.errno in GONE or not _runs(root_pid):
            raise GoneError from None
        raise CannotAskError(f"cannot look into the container: {e.strerror}") from None


def _runs(pid: int) -> bool:
    try:
        os.stat(f"/proc/{pid}")
    except OSError:
        return False
    return True


def _walk(fd: int, path: str) -> int:
    """An O_PATH descriptor of the mount point, reached without following one symlink. Closes the one it begins with."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    for name in path.split("/"):
        if name:
            above = fd
            try:
                if name in (".", ".."):  # never in a mount table; it could lead out of the container
                    raise OSError(_ELOOP, os.strerror(_ELOOP))
                fd = os.open(name, flags, dir_fd=above)
            finally:
                os.close(above)
    return fd


def _mount_id(fd: int) -> int:
    """proc_pid_fdinfo(5). Of the thread: the descriptor is in no table but its own."""
    try:
        info = os.open(f"/proc/thread-self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as e:  # before Linux 5.14 inside a user namespace, since we are not dumpable there
        raise CannotAskError(f"cannot read the mount id: {e.strerror}") from None
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


def read_jobs() -> list[Job]:
    data = b""
    while chunk := os.read(0, 1 << 20):
        data += chunk
    fields = [f.decode("utf-8", "surrogateescape") for f in data.split(b"\0")[:-1]]
    return [Job(fields[i : i + FIELDS]) for i in range(0, len(fields) - FIELDS + 1, FIELDS)]


class Pool:
    """Threads that take jobs one by one; as many as it takes that no job waits for a mount that hangs.

    A lane's jobs are one list, which as many threads work through as the lane may have.
    """

    def __init__(self, jobs: list[Job], base: int = -1) -> None:
        """`base`: a descriptor of the directory from which all paths start; -1: each job has its own."""
        self._base = base
        self._lanes: dict[str, list[Job]] = {}
        alone = []
        for job in reversed(jobs):
            if job.lane:
                self._lanes.setdefault(job.lane, []).append(job)
            else:
                alone.append([job])
        # Taken from the end: what has no lane first, then one thread for each lane, then the second ones.
        rounds = max((lane[0].slots for lane in self._lanes.values()), default=0)
        lanes = [lane for n in range(rounds) for lane in self._lanes.values() if n < min(lane[0].slots, len(lane))]
        self._queue = lanes[::-1] + alone
        self._lock = allocate_lock()
        self._left = len(jobs)
        self._at_base = len(jobs)  # those that have not begun their walk, where all begin it at `base`
        self.threads = 0
        self.done = 0
        self._unshare = _unshare_files()
        self.finished = allocate_lock()
        if jobs:
            self.finished.acquire()

    @property
    def waiting(self) -> int:
        return len(self._queue)

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
        while self._queue:
            jobs = self._queue.pop()
            while jobs:
                say(f"void {jobs.pop().name} {reason}")
        self.finished.release()

    def close_lanes(self) -> None:
        """No job of a lane starts any more."""
        while self._lanes:
            _, jobs = self._lanes.popitem()
            while jobs:
                try:
                    job = jobs.pop()
                except IndexError:
                    break
                say(f"late {job.name}")
                self._leave_base()
                self._finish_one()

    def release_base(self) -> None:
        """Let go of the container's root once every walk has begun: what hangs must not keep its disk busy."""
        if self._base >= 0 and self._at_base == 0:
            os.close(self._base)
            self._base = -1

    def _leave_base(self) -> None:
        with self._lock:
            self._at_base -= 1

    def _finish_one(self) -> None:
        with self._lock:
            self.done += 1
            self._left -= 1
            last = self._left == 0
        if last:
            self.finished.release()

    def _work(self) -> None:
        failure = ""
        try:
            self._unshare()
            if self._base >= 0:
                os.close(self._base)  # this thread's own copy: it may hang for longer than the container lives
        except OSError as e:
            failure = f"unshare: {e.strerror}"
        where = f"{get_native_id()} {os.getpid()}"
        while True:
            try:
                jobs = self._queue.pop()  # atomic
            except IndexError:
                return
            while True:
                try:
                    job = jobs.pop()
                except IndexError:
                    break
                if failure:
                    say(f"void {job.name} {failure}")
                    self._leave_base()
                else:
                    say(f"start {job.name} {where}")
                    self._ask(job)
                self._finish_one()

    def _begin(self, job: Job) -> int:
        """The directory in which the walk begins."""
        if self._base < 0:
            return open_base(job.root_pid, f"/proc/{job.root_pid}/root" if job.root_pid else "/")
        try:  # in the first thread's table, which is the one that "self" shows
            return os.open(f"/proc/self/fd/{self._base}", os.O_PATH | os.O_CLOEXEC)
        finally:
            self._leave_base()

    def _ask(self, job: Job) -> None:
        name = job.name
        began = time.perf_counter()
        stage, fd = "walk", -1
        try:
            fd = _walk(self._begin(job), job.path)
            found = _mount_id(fd)
            if found != job.mount_id:
                say(f"other {name} {found}")
                return
            stage = "statfs"
            say(f"walked {name}")
            began = time.perf_counter()
            v = os.fstatvfs(fd)
            if v.f_blocks == 0 and "z" in job.options:
                os.fstat(fd)  # FUSE of another user answers zeros without asking its server; this says EACCES
            latency = int((time.perf_counter() - began) * 1e6)
            if "d" in job.options:
                stage = "deep"
                say(f"deep {name}")
                _read_directory(fd)
            say(f"ok {name} {latency} {v.f_frsize} {v.f_blocks} {v.f_bfree} {v.f_bavail} {v.f_flag}")
        except CannotAskError as e:
            say(f"void {name} {e}")
        except GoneError:
            say(f"gone {name}")
        except OSError as e:
            number = e.errno or 5
            if number in _OUR_ERRNOS:
                say(f"void {name} {os.strerror(number)}")
            else:
                say(f"errno {name} {stage} {number} {int((time.perf_counter() - began) * 1e6)}")
        finally:
            if fd >= 0:
                os.close(fd)


def attend(pool: Pool, look: Callable[[], bool]) -> bool:
    """Until all jobs are done, or `look` (every CANARY_EVERY) says that nobody wants it any more: then False."""
    began = time.monotonic()
    done, next_look = 0, 0.0
    pool.grow(2)
    while not pool.finished.acquire(timeout=TICK if pool.waiting else CANARY_EVERY):
        # Jobs that new threads take and hang in are no progress: count those that were finished.
        finished, done = pool.done - done, pool.done
        if finished * (START_WITHIN / TICK) < pool.waiting:
            # Doubling, or fourfold while nothing moves: 2,000 hung mounts all have their thread after five looks.
            pool.grow(max(2, pool.threads if finished else 3 * pool.threads))
        now = time.monotonic()
        if now - began >= LANE_TIME:
            pool.close_lanes()
        pool.release_base()
        if now >= next_look:
            next_look = now + CANARY_EVERY
            if not look():
                return False
    return True


def prepare() -> None:
    """Before there are threads."""
    stack_size(STACK)
    # Threads of one core take turns at the interpreter's lock; the default turn of 5 ms would be the sweep's length.
    sys.setswitchinterval(0.001)


def show_alive() -> None:
    os.statvfs("/proc")
    say("alive")


def _ask_all() -> None:
    parent = os.getppid()

    def look() -> bool:
        show_alive()
        return os.getppid() == parent  # else nobody listens any more

    jobs = read_jobs()
    prepare()
    attend(Pool(jobs), look)
    os._exit(0)  # without waiting for threads


def run(program: Callable[[], None]) -> None:
    """To its end, or until nobody reads what it says."""
    try:
        program()
    except BrokenPipeError:
        os._exit(1)


def main() -> None:
    run(_ask_all)
