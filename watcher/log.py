"""Log lines on stderr: for people on a terminal, for journald with a priority in front (sd-daemon(3)).

Written by a thread of its own: a reader that stands still (a pager, a journal on a full disk) must
not stop the watching. Lines that nobody takes are counted and dropped.
"""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Mapping
from threading import Thread

from watcher.core.wording import printable

# syslog(3) priorities
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
MAX_WAITING = 10_000  # lines
FLUSH_LIMIT = 1.0  # seconds, at the end


class _Lines(logging.Formatter):
    """One line for each record; names from outside cannot bring control characters in."""

    def __init__(self, *, journald: bool) -> None:
        super().__init__("%(message)s" if journald else "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        record.exc_info = record.exc_text = None
        lines = [printable(line) for line in (super().format(record), *trace)]
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>" if self._journald else ""
        return "\n".join(prefix + line for line in lines)


class Stderr(logging.Handler):
    """Hands lines to a thread that writes them."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._waiting: queue.Queue[bytes] = queue.Queue(MAX_WAITING)
        self._dropped = 0
        # A daemon thread: nobody waits for it at the end but `drain`, and that with a limit.
        self._writer = Thread(target=self._write, name="log", daemon=True)
        try:
            self._writer.start()
        except RuntimeError:  # no thread to be had: then as everybody does
            self._has_writer = False
        else:
            self._has_writer = True

    def emit(self, record: logging.LogRecord) -> None:
        """Never blocks where there is a thread to write."""
        line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        if not self._has_writer:
            os.write(self._descriptor, line)
            return
        try:
            if self._dropped:
                self._waiting.put_nowait(f"{self._dropped} log lines were lost: nobody read them\n".encode())
                self._dropped = 0
            self._waiting.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def drain(self, limit: float) -> None:
        """Wait until what is waiting has been written, at most `limit` seconds."""
        with self._waiting.all_tasks_done:
            self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, limit)

    def _write(self) -> None:
        while True:
            line = self._waiting.get()
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                pass  # a reader that went away must not end the watching
            self._waiting.task_done()


def under_journald(environ: Mapping[str, str]) -> bool:
    """Whether stderr is the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def set_up(environ: Mapping[str, str], *, verbose: bool = False) -> None:
    """Log to stderr from now on."""
    handler = Stderr(2)
    handler.setFormatter(_Lines(journald=under_journald(environ)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("watcher").setLevel(logging.DEBUG if verbose else logging.INFO)


def flush() -> None:
    """Before the end: give the last lines their time, but not for ever."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Stderr):
            handler.drain(FLUSH_LIMIT)
