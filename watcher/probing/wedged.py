"""Notes of threads that hang for good, kept in the runtime directory over the life of one process.

A `watcher --once` run every minute, or a restarted service, must not add a stuck thread to the same
mount each time: each process that outlived its kill has a file that names it (boot, pid, start time)
and its threads and their mounts. The directory is on a tmpfs: reads and writes here are short.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from watcher import procfs
from watcher.model import Superblock, Wedged


class Note(NamedTuple):
    superblock: Superblock
    wedged: Wedged
    since_wall: float
    lane: str = ""  # the probe's; also of files of versions that had none


class WedgedNotes:
    """The files under `<runtime>/wedged`. Errors of the directory are not worth an alarm: they are kept in `.error`."""

    def __init__(self, runtime: str | None, proc: str = "/proc") -> None:
        """`runtime`: a directory on a local file system; None where there is none: then nothing is noted."""
        self._dir = Path(runtime) / "wedged" if runtime is not None else None
        self._proc = proc
        self._boot = procfs.boot_id(proc)
        self.error = ""

    def write(self, pid: int, notes: list[Note]) -> None:
        """Note the threads of one process; an empty list removes its file."""
        if self._dir is None:
            return
        path = self._dir / str(pid)
        try:
            if not notes:
                path.unlink(missing_ok=True)
                return
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours(self._dir):
                raise PermissionError(1, "belongs to others, or others can write to it")
            record = {
                "boot_id": self._boot,
                "threads": [
                    {
                        "pid": n.wedged.pid,
                        "start_time": n.wedged.start_time,
                        "tid": n.wedged.tid,
                        "superblock": list(n.superblock),
                        "since": n.since_wall,
                        "lane": n.lane,
                    }
                    for n in notes
                ],
            }
            # In place: what is half written when we are killed counts as nothing.
            path.write_text(json.dumps(record), "ascii")  # lone surrogates of odd names stay \udcXX
        except OSError as e:
            self.error = f"{self._dir}: {e.strerror}"

    def read(self) -> list[Note]:
        """The threads that still hang; files of others are removed."""
        found: list[Note] = []
        if self._dir is None:
            return found
        try:
            if not _is_ours(self._dir):
                return found
            names = sorted(os.listdir(self._dir))  # noqa: TID251  # on a tmpfs
        except OSError:
            return found
        for name in names:
            path = self._dir / name
            alive = [n for n in self._parse(path) if self.still_hangs(n.wedged)]
            found += alive
            if not alive:
                with suppress(OSError):
                    path.unlink()
        return found

    def still_hangs(self, wedged: Wedged) -> bool:
        return procfs.thread_exists(self._proc, wedged.pid, wedged.tid) and (
            procfs.start_time(self._proc, wedged.pid) == wedged.start_time
        )

    def _parse(self, path: Path) -> list[Note]:
        try:
            record = json.loads(path.read_text("ascii"))
            if record["boot_id"] != self._boot:
                return []
            return [
                Note(
                    Superblock(*map(str, t["superblock"])),
                    Wedged(int(t["pid"]), int(t["start_time"]), int(t["tid"])),
                    float(t["since"]),
                    str(t.get("lane", "")),
                )
                for t in record["threads"]
            ]
        except (OSError, ValueError, ArithmeticError, LookupError, TypeError):
            return []  # half written by a process that was killed: it noted nothing


def _is_ours(directory: Path) -> bool:
    # In /tmp another user may have made it first, and would choose what we believe to hang.
    status = os.lstat(directory)  # noqa: TID251  # on a tmpfs
    private = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and private
