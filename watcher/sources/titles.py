"""The child that reads command lines: `python -I -S titles.py PROC PID...`.

/proc/<pid>/cmdline is that process's memory, and reading it can wait for whatever holds its mmap
lock. So this runs apart, one thread to a process, so that one that hangs holds up no other; and it
is expected to be killed. Standard library only; it must not import the project.

Standard output, one line for each process whose command line could be read: its pid, a space, the
bytes in hexadecimal.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock, stack_size, start_new_thread

LIMIT = 1 << 14  # bytes of one command line


class _Reading:
    """The command lines of some processes, each printed as it comes."""

    def __init__(self, proc: str, pids: list[str]) -> None:
        self._proc = proc
        self._left = len(pids)
        self._printing = allocate_lock()
        self._over = allocate_lock()
        self._over.acquire()
        for pid in pids:
            start_new_thread(self._read, (pid,))

    def _read(self, pid: str) -> None:
        try:
            with open(f"{self._proc}/{pid}/cmdline", "rb", buffering=0) as file:
                parts, size = [], 0
                while size < LIMIT and (part := file.read(LIMIT - size)):
                    parts.append(part)
                    size += len(part)
            line = f"{pid} {b''.join(parts).hex()}\n".encode()
        except OSError:
            line = b""
        with self._printing:
            while line:
                line = line[os.write(1, line) :]
            self._left -= 1
            if self._left == 0:
                self._over.release()

    def wait(self) -> None:
        self._over.acquire()


if __name__ == "__main__":
    stack_size(128 * 1024)
    if len(sys.argv) > 2:
        _Reading(sys.argv[1], sys.argv[2:]).wait()
    os._exit(0)  # no waiting for threads
