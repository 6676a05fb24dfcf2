"""Configurations of guests and storages, as files: a part of the child `users`, its last, since /etc/pve may hang.

Standard library only; it must not import the project.

What is said, lines of JSON: {"file": PATH, "text": base64} of each file.
"""

from __future__ import annotations

import os
from binascii import b2a_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from watcher.sources.serving import say
    from watcher.sources.standing import read
else:  # the directory that it was imported from itself
    from serving import say
    from standing import read

MAX_FILES = 2000  # of a directory
FILE_LIMIT = 1 << 18  # bytes


def tell(files: Iterable[str], directories: Iterable[str], note: Callable[[OSError], None]) -> None:
    """`note` takes why something could not be read."""
    for path in (*files, *(path for directory in directories for path in _files(directory, note))):
        try:
            text = read(path, FILE_LIMIT)
        except OSError as e:
            note(e)
            continue
        say({"file": path, "text": b2a_base64(text, newline=False).decode("ascii")})


def _files(directory: str, note: Callable[[OSError], None]) -> list[str]:
    """ "101/config", "101.conf"; with those of VMs beside it, if it is called lxc."""
    try:
        names = sorted(os.listdir(directory))[:MAX_FILES]
    except OSError as e:
        names = []
        note(e)
    found = [f"{directory}/{n}" if n.endswith(".conf") else f"{directory}/{n}/config" for n in names]
    parent, _, last = directory.rpartition("/")
    if last == "lxc":
        machines = f"{parent}/qemu-server"
        try:
            found += [f"{machines}/{n}" for n in sorted(os.listdir(machines))[:MAX_FILES] if n.endswith(".conf")]
        except OSError as e:
            note(e)
    return found
