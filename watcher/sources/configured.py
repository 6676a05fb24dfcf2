"""Configurations of guests and storages, as files: a part of the child `users`, its last, since /etc/pve may hang.

Standard library only; it must not import the project.

What is said, lines of JSON: {"file": PATH, "text": base64} of each file; then {"link": PATH, "to": PATH} for each path
in them that has a link in it, as far as that can be found out without touching what may hang.
"""

from __future__ import annotations

import os
from binascii import b2a_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from watcher.sources.serving import say
    from watcher.sources.standing import UTF8, read, unescape
else:  # the directory that it was imported from itself
    from serving import say
    from standing import UTF8, read, unescape

MAX_FILES = 2000  # of a directory
FILE_LIMIT = 1 << 18  # bytes
MAX_PATHS = 1024  # that are looked at for links
MAX_LINKS = 40  # on the way of one (path_resolution(7))
# On these a link is read; all others may ask somebody for it, or be a trigger.
LOCAL = frozenset(
    (b"bcachefs", b"btrfs", b"ext2", b"ext3", b"ext4", b"f2fs", b"jfs", b"overlay", b"tmpfs", b"xfs", b"zfs")
)


def tell(
    files: Iterable[str], directories: Iterable[str], note: Callable[[OSError], None], proc: str, wanted: Iterable[str]
) -> None:
    """`note` takes why something could not be read. `wanted`: "major:minor" of what is not to be touched."""
    paths: dict[str, None] = {}
    for path in (*files, *(path for directory in directories for path in _files(directory, note))):
        try:
            text = read(path, FILE_LIMIT)
        except OSError as e:
            note(e)
            continue
        say({"file": path, "text": b2a_base64(text, newline=False).decode("ascii")})
        if len(paths) < MAX_PATHS:
            paths.update(dict.fromkeys(_paths(text)))
    if paths:
        try:
            untouched = _untouched(read(f"{proc}/self/mountinfo"), {device.encode() for device in wanted})
        except OSError as e:
            note(e)
            return
        for path in list(paths)[:MAX_PATHS]:
            if (to := _leads_to(path, untouched)) != path:
                say({"link": path, "to": to})


def _paths(text: bytes) -> list[str]:
    """What may be an absolute path in it: of a storage, a mount point, an lxc.mount.entry, a disk."""
    found = []
    at = text.find(b"/")
    while at > 0:
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        if text[at - 1 : at] in b" \t=:":
            path = text[at:end].partition(b",")[0].strip()
            # "/mnt/a b" in Proxmox VE's own keys; in LXC's fields end with a space, and one in a name is escaped.
            for each in dict.fromkeys((path, *path.split(None, 1)[:1])):
                try:
                    found.append(unescape(each).decode(*UTF8).rstrip("/"))
                except ValueError:  # no such escape
                    pass
        at = text.find(b"/", end)  # a line has one
    return [path for path in found if path.startswith("/") and "\0" not in path and len(path) < 4096]


def _untouched(table: bytes, wanted: set[bytes]) -> set[str]:
    """Where mounts stand that are no plain local file system, or are those asked about."""
    found = set()
    for line in table.split(b"\n"):
        fields, _, rest = line.partition(b" - ")
        words = fields.split(b" ")
        if len(words) > 4 and (rest.partition(b" ")[0] not in LOCAL or words[2] in wanted):
            found.add(os.fsdecode(unescape(words[4])))
    return found


def _leads_to(path: str, untouched: set[str]) -> str:
    """The path without the links in it, as the mount table has it.

    From the first mount on that is not to be touched it is as it was: no component beyond that is looked at.
    """
    at, rest, links = "/", path.split("/")[::-1], 0
    while rest and at not in untouched:
        name = rest.pop()
        if name in ("", "."):
            continue
        step = os.path.dirname(at) if name == ".." else f"{at.rstrip('/')}/{name}"
        if step in untouched or name == "..":
            at = step
            continue
        try:
            link = os.readlink(step)
        except OSError:  # it is none, or is not there
            at = step
            continue
        links += 1
        if links > MAX_LINKS:
            return path
        rest += link.split("/")[::-1]
        at = "/" if link.startswith("/") else at
    return path if ".." in rest else "/".join([at.rstrip("/"), *(part for part in rest[::-1] if part not in ("", "."))])


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
