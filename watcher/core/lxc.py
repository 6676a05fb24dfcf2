"""What the kernel's and LXC's texts say of a container: its id, its name, who is its init, whether it is frozen.

Reads nothing itself. Whatever the text, nothing here raises, and an id that comes out is fit for a
path and for a command line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from watcher.core.mountinfo import Tree, unescape
from watcher.model import Mount

COMM = b"lxc-start"
PATH_MAX = 4096  # linux/limits.h
NAME_LIMIT = 64  # characters: HOST_NAME_MAX (gethostname(2))

_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

# lxc-start(1), with the common options of lxc(7); those that take a value.
_SHORT_WITH_VALUE = b"cflLnopPs"
_LONG = {
    b"close-all-fds": False,
    b"console": True,
    b"console-log": True,
    b"daemon": False,
    b"define": True,
    b"foreground": False,
    b"help": False,
    b"logfile": True,
    b"logpriority": True,
    b"lxcpath": True,
    b"name": True,
    b"pidfile": True,
    b"quiet": False,
    b"rcfile": True,
    b"share-ipc": True,
    b"share-net": True,
    b"share-pid": True,
    b"share-uts": True,
    b"usage": False,
    b"version": False,
}
_TITLE = b"[lxc monitor] "  # lxccontainer.c: "[lxc monitor] <lxcpath> <name>"


# ---- whose monitor it is


def valid_id(text: bytes) -> str | None:
    """The text as a container's id, None if it is none."""
    return text.decode("ascii") if _ID.fullmatch(text) else None


def id_from_cgroup(text: bytes) -> str | None:
    """The id from a monitor's /proc/<pid>/cgroup where it lies in Proxmox VE's "/lxc.monitor/<id>".

    Not from LXC's own default "/lxc.monitor.<id>": that gets a "-1" behind it if the name is taken.
    """
    path = _unified_path(text)
    return valid_id(path.removeprefix(b"/lxc.monitor/")) if path.startswith(b"/lxc.monitor/") else None


def id_from_cmdline(text: bytes) -> str | None:
    """The id from a monitor's /proc/<pid>/cmdline: lxc-start's arguments, or the title of a daemonised one."""
    arguments = text.rstrip(b"\0").split(b"\0")
    if arguments[0].startswith(_TITLE):
        return valid_id(arguments[0].rstrip().rpartition(b" ")[2])
    return valid_id(_name_argument(arguments[1:]))


def _name_argument(arguments: Sequence[bytes]) -> bytes:
    """What getopt_long(3) gives lxc-start as its --name, else the first argument that is no option; b"" if none."""
    name, positional = b"", b""
    rest = list(reversed(arguments))
    while rest:
        word = rest.pop()
        if word == b"--":
            positional = positional or (rest[-1] if rest else b"")
            break
        if word.startswith(b"--"):
            given, has_value, value = word[2:].partition(b"=")
            option = _long_option(given)
            if _LONG.get(option) and not has_value:
                value = rest.pop() if rest else b""
            if option == b"name":
                name = value
        elif word.startswith(b"-") and word != b"-":
            for at in range(1, len(word)):
                if word[at] in _SHORT_WITH_VALUE:
                    value = word[at + 1 :] or (rest.pop() if rest else b"")
                    if word[at] == ord("n"):
                        name = value
                    break
        else:
            positional = positional or word
    return name or positional


def _long_option(given: bytes) -> bytes:
    """The option's full name: an abbreviation counts if only one begins so."""
    if given in _LONG:
        return given
    meant = [option for option in _LONG if option.startswith(given)]
    return meant[0] if len(meant) == 1 else b""


# ---- processes


def is_all_root(status: bytes) -> bool:
    """Whether the four user ids in a /proc/<pid>/status are 0."""
    return _field(status, b"Uid:") == [b"0"] * 4


def is_first_process(status: bytes) -> bool:
    """Whether a /proc/<pid>/status is of a process that has the number 1 in its own pid namespace."""
    return _field(status, b"NSpid:")[-1:] == [b"1"]


def _field(status: bytes, key: bytes) -> list[bytes]:
    for line in status.split(b"\n"):
        if line.startswith(key):
            return line[len(key) :].split()
    return []


# ---- control groups


def cgroup_of(text: bytes) -> str:
    """The path in the cgroup v2 hierarchy from a /proc/<pid>/cgroup, "" if it has none below our root."""
    path = _unified_path(text)
    if not path.startswith(b"/") or b".." in path.split(b"/"):  # cgroup_namespaces(7): "/../x" is beyond our root
        return ""
    return path.decode("utf-8", "surrogateescape")


def _unified_path(text: bytes) -> bytes:
    for line in text.split(b"\n"):
        if line.startswith(b"0::"):
            return line[3:]
    return b""


def is_frozen(events: bytes) -> bool:
    """Whether a cgroup.events says that all in this cgroup stand still, by its own freezing or an ancestor's."""
    return b"frozen 1" in events.split(b"\n")


# ---- the host name


def name_from_config(text: bytes) -> str:
    """`lxc.uts.name` from a container's LXC configuration (lxc.container.conf(5)), "" if it sets none."""
    name = b""
    for line in text.splitlines():
        key, equals, value = line.partition(b"=")
        if equals and key.strip() == b"lxc.uts.name":
            name = _unquoted(value.strip())  # the last one holds; an empty one takes it back
    return _as_name(name)


def _unquoted(value: bytes) -> bytes:
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] and value[:1] in (b'"', b"'") else value


def name_from_pve_config(text: bytes) -> str:
    """`hostname` from a container's Proxmox VE configuration (pct.conf(5)) as it is now, not in a snapshot."""
    name = b""
    for line in text.splitlines():
        if line.startswith(b"["):
            break
        key, colon, value = line.partition(b":")
        if colon and key.strip() == b"hostname":
            name = value.strip()
    return _as_name(name)


def _as_name(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")[:NAME_LIMIT]


# ---- what it binds


def key_and_value(line: str) -> tuple[str, str]:
    """Of "key = value" (lxc.container.conf(5)) or "key: value", as Proxmox's own files have LXC's keys, too."""
    head, _, tail = line.partition(":" if line.partition("=")[0].count(":") else "=")
    return head.strip(), tail.strip()


def bind_of(entry: str) -> tuple[str, str] | None:
    """(source, target) of the value of an lxc.mount.entry, in the form of fstab(5); None if it binds nothing."""
    fields = [unescape(field) for field in entry.split()]
    if len(fields) < 4 or not {"bind", "rbind"} & set(fields[3].split(",")):
        return None
    return fields[0], fields[1]


# ---- the mount table


def whole_lines(table: bytes, limit: int) -> bytes:
    """At most the first `limit` bytes, cut behind a line."""
    return table if len(table) <= limit else table[: table.rfind(b"\n", 0, limit) + 1]


def of_bearable_length(mounts: Sequence[Mount]) -> tuple[Mount, ...]:
    """Those that a path can name: by chdir(2) and mount(2) on "." a mount point can be made of any length."""
    return tuple(m for m in mounts if len(m.mount_point) < PATH_MAX and len(m.root) < PATH_MAX)


def root_of(mounts: Sequence[Mount]) -> tuple[str, str] | None:
    """Device and root of what a namespace shows as "/". Before its pivot_root(2) a container has the host's."""
    roots = [mount for mount in mounts if mount.mount_point == "/"]
    tree = Tree(roots) if len(roots) > 1 else None
    for mount in reversed(roots):
        if tree is None or tree.is_visible(mount):
            return mount.device, mount.root
    return None
