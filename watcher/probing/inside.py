"""The probe child of sweeps that go into containers with a user namespace of their own.

FUSE shuts out whoever is not in its user namespace, the host's root too. So for each such container a
process is forked, before there are threads, which joins that namespace and does the container's jobs;
all others are done here. Its `main` runs and speaks as that of `child.py` does; the forked
ones write to the same pipe. This first process stays until they are done, so that its process group
can be killed for as long as it lives, and they end when it is gone.

It must not make itself dumpable (prctl(2)): what is root in a container could look into it.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from watcher.probing import child
else:  # the directory that it was imported from itself
    import child

CLONE_NEWUSER = 0x10000000  # linux/sched.h

if sys.version_info < (3, 12):
    import ctypes  # os.setns came with 3.12; imported once, not by every process that is forked


def _join_user_namespace(fd: int) -> None:
    if sys.version_info >= (3, 12):
        os.setns(fd, CLONE_NEWUSER)
    elif ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWUSER) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _enter(root_pid: int, user_namespace: int) -> int:
    """Become root of that process's user namespace; gives a descriptor of its root directory.

    The directory is opened first, as the host's root: a container's may not look at each process of
    its own. Raises GoneError, CannotAskError, OSError.
    """
    # What follows is of this one, even if its pid is used again.
    process = child.open_base(root_pid, f"/proc/{root_pid}")
    base = child.open_base(root_pid, "root", process)
    namespace = os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    if os.fstat(namespace).st_ino != user_namespace:
        raise child.GoneError
    _join_user_namespace(namespace)
    os.close(namespace)
    os.close(process)
    try:
        os.setgroups([])
    except PermissionError:
        pass  # where setgroups(2) is denied for good (user_namespaces(7)); FUSE does not look at these
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return base


def _serve(jobs: list[child.Job], leader: int) -> None:
    """One container's jobs, in a process of their own."""
    try:
        base = _enter(jobs[0].root_pid, jobs[0].user_namespace)
    except child.CannotAskError as e:
        _void(jobs, str(e))
    except child.GoneError:
        _say_gone(jobs)
    except OSError as e:
        if e.errno in child.GONE:
            _say_gone(jobs)
        else:
            _void(jobs, f"cannot enter the container's user namespace: {e.strerror}")
    else:
        child.attend(child.Pool(jobs, base), lambda: os.getppid() == leader)


def _say_gone(jobs: list[child.Job]) -> None:
    for job in jobs:
        child.say(f"gone {job.name}")


def _void(jobs: list[child.Job], reason: str) -> None:
    for job in jobs:  # the prober knows which of them have a report already
        child.say(f"void {job.name} {reason}")


class Forked:
    """The processes forked for containers, and the jobs that each was given."""

    def __init__(self) -> None:
        self._jobs: dict[int, list[child.Job]] = {}

    def start(self, jobs: list[child.Job]) -> None:
        leader = os.getpid()
        try:
            pid = os.fork()
        except OSError as e:
            _void(jobs, f"cannot fork: {e.strerror}")
            return
        if pid == 0:
            code = 1
            try:
                _serve(jobs, leader)
                code = 0
            finally:
                os._exit(code)
        self._jobs[pid] = jobs

    def reap(self) -> None:
        """Take note of those that have ended, and say so if it was before their time."""
        while self._jobs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            jobs = self._jobs.pop(pid)
            if status != 0:
                _void(jobs, "the probe process ended")

    def __len__(self) -> int:
        return len(self._jobs)


def _ask_all() -> None:
    parent = os.getppid()
    here: list[child.Job] = []
    containers: dict[tuple[int, int], list[child.Job]] = {}
    for job in child.read_jobs():
        if job.user_namespace:
            containers.setdefault((job.user_namespace, job.root_pid), []).append(job)
        else:
            here.append(job)
    child.prepare()
    forked = Forked()

    def look() -> bool:
        forked.reap()
        child.show_alive()
        return os.getppid() == parent  # else nobody listens any more

    next_look = time.monotonic() + child.CANARY_EVERY
    for jobs in containers.values():
        forked.start(jobs)
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + child.CANARY_EVERY
            look()
    wanted = child.attend(child.Pool(here), look)
    while wanted and forked:
        wanted = look()
        time.sleep(child.CANARY_EVERY)
    os._exit(0)  # without waiting for threads


def main() -> None:
    child.run(_ask_all)
