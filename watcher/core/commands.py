"""Commands for a message: what mounts it again, what takes it away, on the host or in the container.

They are to be copied, so whatever is in them is quoted for a shell; what is said of them stands behind a "#", as a
comment, since lines are copied whole; and none comes out of what would have to be shortened or escaped to be shown.
A shell may not know comments (an interactive zsh): what is said has nothing in it that begins a command, and of what
others have named only what is `plain`.
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from watcher.core.evidence import CIFS, Evidence, Origin
from watcher.core.mountinfo import escape, option
from watcher.core.mountstats import NFS
from watcher.core.units import unit_name
from watcher.core.wording import name
from watcher.model import HOST, Place, Subject, Superblock

_OPTIONS = "add the other options that it had"  # of a process, which the kernel does not know


_PLAIN = re.compile(r"[A-Za-z0-9_.\[][A-Za-z0-9_.@%:\[\]-]*")
_STORAGE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")  # PVE::JSONSchema's pve-storage-id


class Again(NamedTuple):
    """What mounts it again: a command, if there is one, and what is to be said of it."""

    command: str = ""
    remark: str = ""


def inside_of(place: Place) -> str:
    """What runs a command in the container; nothing on the host."""
    if place.namespace == HOST:
        return ""
    ctid = place.namespace.removeprefix("ct:")
    # Proxmox numbers its containers.
    return f"pct exec {ctid} -- " if ctid.isdecimal() else f"lxc-attach -n {shlex.quote(ctid)} -- "


def in_network_of(place: Place, commands: str) -> str:
    """These in the network of the container, with the host's programs: ping(8) is not in each container."""
    if place.namespace == HOST:
        return commands
    ctid = shlex.quote(place.namespace.removeprefix("ct:"))
    return f'nsenter -t "$(lxc-info -pHn {ctid})" -n sh -c {shlex.quote(commands)}'


def plain(text: str, width: int = 80) -> str:
    """A name that is nothing else to a shell, quoted or not; "" where it is no such."""
    return text if len(text) <= width and _PLAIN.fullmatch(text) else ""


def reboot(place: Place) -> str:
    ctid = place.namespace.removeprefix("ct:")
    if ctid.isdecimal():
        return f"pct reboot {ctid}"
    return f"restart the container {plain(ctid)}" if plain(ctid) else "restart the container"


def remarks(*texts: str) -> str:
    """Behind a command; "" if there are none."""
    text = ""
    for part in filter(None, texts):
        text += f" {part[:1].upper()}{part[1:]}" if text.endswith("?") else f" – {part}" if text else part
    return f" # {text}" if text else ""


def pve_storage(place: Place) -> str:
    """PVE mounts a storage at /mnt/pve/<storage id> and nothing else there."""
    ident = place.mount_point.removeprefix("/mnt/pve/")
    is_one = place.namespace == HOST and ident != place.mount_point and _STORAGE.fullmatch(ident) is not None
    return ident if is_one and name(ident, 100) == ident else ""


def storage_of(place: Place, found: Evidence | None) -> str:
    """The storage of PVE's that it mounts there, as far as is known; "" where somebody else mounts it."""
    if found is None or place.namespace != HOST:
        return pve_storage(place)
    # The same may stand elsewhere, too, and there be anybody's.
    ident = dict(found.radius.mounted).get(place.mount_point, "") if found.radius is not None else ""
    if ident and name(ident, 100) == ident:
        return ident
    return pve_storage(place) if found.origin in (Origin.UNKNOWN, Origin.PVE) else ""


# ---- taking it away


def unmounted(place: Place, again: Again, *, by: str = "umount -l") -> str:
    """Takes it away, and mounts it again where something does."""
    then = f" && {again.command}" if again.command else ""
    return f"{inside_of(place)}{by} {shlex.quote(place.mount_point)}{then}{remarks(again.remark)}"


def aborted(superblock: Superblock, place: Place, found: Evidence | None, again: Again) -> str:
    """The same of a FUSE mount, by a way that frees whoever hangs in it; "" where there is none.

    Only while it still stands there: messages are read hours later, and its number is given away at once when it goes,
    be it to /etc/pve. The process may take its mount along when it is aborted: then umount(8) finds nothing to do.
    """
    if found is None or found.waiting is None or found.question.connection is None:
        return ""
    root = superblock.root or "/"
    stands = f" {superblock.device} {escape(root)} {escape(place.mount_point)} "  # proc_pid_mountinfo(5)
    if name(root, 200) != root:
        return ""
    inside, abort = inside_of(place), f"/sys/fs/fuse/connections/{found.question.connection}/abort"
    # A container's own grep(1) would say what it likes.
    ctid = shlex.quote(place.namespace.removeprefix("ct:"))
    table = f'"/proc/$(lxc-info -pHn {ctid})/mountinfo"' if inside else "/proc/self/mountinfo"
    check = f"if grep -qF {shlex.quote(stands)} {table}; then"
    then = f" {again.command};" if again.command else ""
    done = f"echo 1 > {abort}; {inside}umount -l {shlex.quote(place.mount_point)};{then} fi"
    return f"{check} {done}{remarks('unwritten data is lost', again.remark)}"


# ---- mounting it again


def again(subject: Subject, place: Place, found: Evidence | None, *, is_away: bool = False) -> Again:
    """`is_away`: it is not mounted, and no file is known to want it."""
    quoted, unit = shlex.quote(place.mount_point), unit_name(place.mount_point)
    origin = found.origin if found is not None else Origin.UNKNOWN
    if storage_of(place, found):
        return Again(remark="PVE mounts it again")
    if origin is Origin.AUTOMOUNT:
        return Again(remark="the next access mounts it again")
    if origin is Origin.UNIT and place.namespace == HOST and len(unit) <= 200:
        return Again(f"systemctl start {shlex.quote(unit)}")
    if origin is Origin.UNKNOWN:
        is_fuse = subject.fstype.startswith("fuse")
        if (found is not None or is_away or is_fuse) and (whole := _anew(subject, place)).command:
            return whole
        if is_away or is_fuse:
            is_desktop = "gvfs" in subject.fstype or "gvfs" in subject.source
            desktop = "then, as its user: systemctl --user restart gvfs-daemon"
            return Again(remark=desktop if is_desktop else "then start what mounts it again")
    # Who mounts it is not known, or a line of fstab(5) does.
    remark = "where fstab has it" if origin is Origin.UNKNOWN else ""
    return Again(f"{inside_of(place)}mount {quoted}", remark)


def _anew(subject: Subject, place: Place) -> Again:
    """The whole command for what no file has; nothing where there is none, or too much of it."""
    source, root = subject.source, subject.superblock.root
    # Not "[-oProxyCommand=…]:" either: sshfs(1) takes the brackets away before ssh sees the rest.
    if name(source, 200) != source or not source or source.lstrip("[").startswith("-"):
        return Again()
    # A directory of it that is bound there (SMB's sources name theirs): the command would mount all of it.
    if root != "/" and not source.endswith(root):
        return Again()
    is_kernels = subject.fstype in NFS or subject.fstype in CIFS
    if is_kernels:
        program = f"mount -t {'nfs' if subject.fstype in NFS else subject.fstype}"
        # What is "krb5" asks for none.
        remark = "asks for the password" if subject.fstype in CIFS and "krb5" not in subject.options else ""
    # What a user has mounted is not root's to mount: with other keys, from a server that he has chosen.
    elif subject.fstype == "fuse.sshfs" and option(subject.options, "user_id") == "0":
        program, remark = "sshfs", _OPTIONS
    else:
        return Again()
    kept = _options(subject)
    how = f" -o {shlex.quote(','.join(kept))}" if kept else ""
    text = f"{inside_of(place)}{program}{how} {shlex.quote(source)} {shlex.quote(place.mount_point)}"
    return Again(text, remark) if name(text, 300) == text else Again()


# The options that are kept, of those that the kernel knows; the others are its own choice, or a process's.
_FLAGS = ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "sync")
_WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(NFS, (*_FLAGS, "soft", "softerr", "nolock", "noac", "nocto", "noresvport", "fsc")),
    **dict.fromkeys(CIFS, (*_FLAGS, "seal", "nobrl", "noperm", "mfsymlinks")),
    "fuse.sshfs": ("ro", "allow_other", "default_permissions"),
}
_VALUES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(NFS, ("vers", "proto", "port", "sec", "timeo", "retrans", "nconnect")),
    **dict.fromkeys(CIFS, ("vers", "sec", "username", "domain", "uid", "gid", "file_mode", "dir_mode")),
}
# nfs(5), mount.cifs(8); uid 0 of who mounts.
_DEFAULTS = frozenset(
    {
        *(("uid", "0"), ("gid", "0"), ("file_mode", "0755"), ("dir_mode", "0755")),
        *(("proto", "tcp"), ("sec", "sys"), ("timeo", "600"), ("retrans", "2")),
    }
)


def _options(subject: Subject) -> list[str]:
    words = subject.options.split(",")
    values = [(key, option(subject.options, key)) for key in _VALUES.get(subject.fstype, ())]
    named = [f"{key}={value}" for key, value in values if value and (key, value) not in _DEFAULTS]
    return named + [word for word in _WORDS.get(subject.fstype, ()) if word in words]
