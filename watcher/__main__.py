"""`watcher` and `python -m watcher`: the service at once, all else through the command line.

The service runs for months, and would carry the command line's machinery (click) along: 1 MB, and 50 ms of its start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def main() -> NoReturn:
    """The console script."""
    wanted = service(sys.argv[1:])
    if wanted is not None and "_WATCHER_COMPLETE" not in os.environ:
        from watcher.serving import serve

        serve(*wanted)
    from watcher import cli

    cli.main()


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
