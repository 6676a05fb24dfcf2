"""`watcher` and `python -m watcher`: the service at once, all else through the command line.

The service runs for months, and would carry the command line's machinery (click) along: 1 MB, and 50 ms of its start.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

FAILURE = 3
MANY = 100_000  # objects more than before, upon which garbage is looked for: a command ends before, with nearly none


def main() -> NoReturn:
    """The console script."""
    wanted = service(sys.argv[1:])
    if wanted is not None and "_WATCHER_COMPLETE" not in os.environ:
        gc.disable()
        from watcher.serving import serve

        gc.freeze()  # what is loaded stays: no search for garbage goes through it, neither now nor later
        gc.enable()
        serve(*wanted)
    gc.set_threshold(MANY)
    from watcher import cli

    end(cli.main())


def end(code: int) -> NoReturn:
    """End the process, without taking the interpreter apart first: that is a twelfth of what a command costs."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:  # of what was printed, whoever printed it has heard already
        code = code or FAILURE
    os._exit(code)


def service(arguments: Sequence[str]) -> tuple[str | None, bool] | None:
    """`--config` and `--verbose`, if there is nothing else; None: it is the command line's to say."""
    config, verbose, left = None, False, list(arguments)
    while left:
        match left.pop(0), left[:1]:
            case (("-v" | "--verbose"), _):
                verbose = True
            case "--config", [path] if path and not path.startswith("-"):
                config = left.pop(0)
            case _:
                return None
    return config, verbose


if __name__ == "__main__":
    main()
