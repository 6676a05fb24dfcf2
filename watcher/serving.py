"""The process that is the service: its memory, its log, its run, its end. Knows nothing of the command line."""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

from watcher import daemon, log

FAILURE = 3
_ARENA_MAX = -8  # mallopt(3)


def serve(config_path: str | None, verbose: bool) -> NoReturn:
    """Watch until a signal says otherwise, and end the process."""
    _be_thrifty()
    log.set_up(os.environ, verbose=verbose)
    code = FAILURE
    try:
        code = daemon.run(config_path, os.environ)
    except KeyboardInterrupt:  # before there is anybody to take the signal
        print("watcher: interrupted", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    finally:
        log.flush()
    # Not through the interpreter's own end, which waits for threads: one may be writing the state to a dead disk.
    os._exit(code)


def _be_thrifty() -> None:
    """Have one heap for all threads, of which one runs at a time; else each keeps what it has freed (glibc)."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
