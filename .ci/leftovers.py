"""Runs a command within a time limit, then names and kills whatever it has left running.

leftovers.py SECONDS COMMAND [ARGUMENT...]: exits with the command's code, or 1 for leftovers, or 124 for the limit.
Orphans of the command become children of this process, so none escapes by a session or environment of its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
GRACE = 2.0  # seconds for what is ending at this moment


def reap() -> dict[int, int]:
    """Exit codes of the children that have ended, by pid."""
    ended = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def running_children() -> list[int]:
    """Pids of the children that have not ended; those that have are reaped."""
    reap()
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        return [int(pid) for pid in children.read().split()]


def kill_leftovers() -> bool:
    """Kill what is still there, its children too; does not wait for what cannot die."""
    until = time.monotonic() + GRACE
    while (pids := running_children()) and time.monotonic() < until:
        time.sleep(0.05)
    named: set[int] = set()
    until = time.monotonic() + GRACE
    while pids and time.monotonic() < until:
        for pid in pids:
            if pid not in named:
                named.add(pid)
                with open(f"/proc/{pid}/comm") as comm, open(f"/proc/{pid}/wchan") as wchan:
                    print(f"left over: {pid} {comm.read().strip()} (in {wchan.read() or '?'})", flush=True)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        pids = running_children()
    return bool(named)


def main(limit: float, command: list[str]) -> int:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    pid = os.posix_spawnp(command[0], command, os.environ)
    until = time.monotonic() + limit
    # Orphans that have ended are reaped meanwhile: by the hundred they slow down all that looks through /proc.
    while pid not in (ended := reap()):
        if time.monotonic() > until:
            print(f"not done after {limit:g} s: {' '.join(command)}", flush=True)
            os.kill(pid, signal.SIGKILL)
            kill_leftovers()
            return 124
        time.sleep(0.2)
    return kill_leftovers() or ended[pid]


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
