"""The text of /proc/<pid>/mountinfo as mounts, and which of them a path lookup reaches.

Knows the format (proc_pid_mountinfo(5), fs/proc_namespace.c:show_mountinfo) and how stacked
mounts hide each other. What is worth watching is decided in `filters`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence

from watcher.model import Mount

_ESCAPE = re.compile(r"\\([0-7]{3})")


def unescape(field: str) -> str:
    """Undo fs/seq_file.c:mangle_path: space, tab, newline, backslash and # stand as \\ooo."""
    if "\\" not in field:
        return field
    return _ESCAPE.sub(lambda m: _byte(int(m[1], 8)), field)


def escape(path: str) -> str:
    """As a path stands there (show_mountinfo of fs/proc_namespace.c)."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in path)


def _byte(value: int) -> str:
    # surrogateescape, so that an escaped byte and a raw one decode alike (\377 is never a character)
    return bytes((value & 0xFF,)).decode("ascii", "surrogateescape")


def parse_line(line: str) -> Mount | None:
    """One line without its newline; None where it is none of the kernel's."""
    # Not split(): an empty source is two spaces in a row.
    fields = line.split(" ")
    try:
        dash = fields.index("-", 6)
        device = fields[2]
        major, _, minor = device.partition(":")
        fstype, source = fields[dash + 1], fields[dash + 2]
        if not (major.isdecimal() and minor.isdecimal() and fstype):
            return None
        return Mount(
            int(fields[0]),
            int(fields[1]),
            device,
            unescape(fields[3]),
            unescape(fields[4]),
            fields[5],
            unescape(fstype),
            unescape(source),
            # A comma within a value stays escaped: else what is in it would be options.
            unescape(" ".join(fields[dash + 3 :]).replace("\\054", "\\134054")),
        )
    except (ValueError, IndexError):
        return None


def parse(data: bytes) -> tuple[Mount, ...]:
    """A whole table. Never raises: a line that cannot be read is left out."""
    text = data.decode("utf-8", "surrogateescape")
    return tuple(mount for line in text.split("\n") if line and (mount := parse_line(line)))


def is_below(path: str, ancestor: str) -> bool:
    """Whether `path` lies strictly below the directory `ancestor`."""
    return path != ancestor and path.startswith(ancestor if ancestor == "/" else ancestor + "/")


def deepest(path: str, directories: Container[str]) -> str | None:
    """The deepest of these directories that the absolute path is, or lies in: as many looks as it has parts."""
    while path not in directories:
        if path == "/":
            return None
        path = path.rpartition("/")[0] or "/"
    return path


def _prefixes(path: str, below: str) -> Iterator[str]:
    """The directories strictly between `below` and `path`, outermost first."""
    start = len(below) + 1 if below != "/" else 1
    while (cut := path.find("/", start)) != -1:
        yield path[:cut]
        start = cut + 1


class Tree:
    """The mounts of one namespace by parent, as a path lookup walks them."""

    def __init__(self, mounts: Sequence[Mount]) -> None:
        self._by_id: dict[int, Mount] = {m.mount_id: m for m in mounts}
        # Two children of one parent on one directory cannot be told apart by the table: the later wins.
        self._children: dict[int, dict[str, Mount]] = {}
        for mount in mounts:
            if mount.parent_id != mount.mount_id:
                self._children.setdefault(mount.parent_id, {})[mount.mount_point] = mount
        self._reached: dict[int, bool] = {}

    def ancestors(self, mount: Mount) -> Iterator[Mount]:
        """The mounts that a walk to `mount` crosses, nearest first."""
        seen = {mount.mount_id}
        while (parent := self._by_id.get(mount.parent_id)) and parent.mount_id not in seen:
            seen.add(parent.mount_id)
            yield parent
            mount = parent

    def covering(self, mount: Mount) -> Mount | None:
        """The mount that stands directly on top of this one's root."""
        return self._children.get(mount.mount_id, {}).get(mount.mount_point)

    def is_visible(self, mount: Mount) -> bool:
        """Whether looking up its mount point ends in this mount."""
        return self.covering(mount) is None and self._is_reached(mount)

    def stacked(self, mount: Mount) -> int:
        """How many mounts stand on this mount point, this one included."""
        return 1 + sum(1 for below in self.ancestors(mount) if below.mount_point == mount.mount_point)

    def _is_reached(self, mount: Mount) -> bool:
        """Whether a walk comes to this mount's root (which another may cover)."""
        chain = [mount]
        for ancestor in self.ancestors(mount):
            if ancestor.mount_id in self._reached:
                break
            chain.append(ancestor)
        for link in reversed(chain):
            self._reached.setdefault(link.mount_id, self._is_attached(link))
        return self._reached[mount.mount_id]

    def _is_attached(self, mount: Mount) -> bool:
        parent = self._by_id.get(mount.parent_id)
        if parent is None or parent is mount:
            return True  # the root, or what a chroot shows of it
        if not self._reached.get(parent.mount_id, True):
            return False
        siblings = self._children.get(parent.mount_id, {})
        if siblings.get(mount.mount_point) is not mount:
            return False
        if mount.mount_point == parent.mount_point:
            return True
        if parent.mount_point in siblings:
            return False  # the parent's root is covered: the walk goes on in what covers it
        return not any(prefix in siblings for prefix in _prefixes(mount.mount_point, parent.mount_point))


def mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The visible mount on which an absolute, normalised path without symlinks lies."""
    way = {"/", path, *_prefixes(path, "/")}
    above = [m for m in mounts if m.mount_point in way]
    tree = Tree(above)
    return max((m for m in above if tree.is_visible(m)), key=lambda m: len(m.mount_point), default=None)


def option(options: str, key: str) -> str | None:
    """The value of `key=value` in a comma separated list, "" for a bare `key`, None if absent."""
    for item in options.split(","):
        name, _, value = item.partition("=")
        if name == key:
            return value
    return None


def is_mounted_readonly(mount: Mount) -> bool:
    """Whether it is read-only in this place; the file system may be writable in another."""
    return "ro" in mount.options.split(",")


def is_readonly(mount: Mount) -> bool:
    """Whether it is read-only, here or as a whole, as far as the table tells."""
    return is_mounted_readonly(mount) or "ro" in mount.super_options.split(",")
