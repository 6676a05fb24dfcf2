"""Log lines on stderr: for people on a terminal, for journald with a priority in front (sd-daemon(3))."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from watcher.core.wording import printable

# syslog(3) priorities
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


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


class _Stderr(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """A reader that went away must not end the watching."""


def under_journald(environ: Mapping[str, str]) -> bool:
    """Whether stderr is the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def set_up(environ: Mapping[str, str], *, verbose: bool = False) -> None:
    """Log to stderr from now on."""
    handler = _Stderr(sys.stderr)
    handler.setFormatter(_Lines(journald=under_journald(environ)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("watcher").setLevel(logging.DEBUG if verbose else logging.INFO)
