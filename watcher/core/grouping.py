"""What belongs to one incident: mounts of one server or superblock, and what most likely has one cause.

Compares values only; the incidents that there are, and their life, are `incidents`'.
"""

from __future__ import annotations

from watcher.core.filters import server_of
from watcher.core.incident import INSIDE, WATCHER, Incident, Member
from watcher.model import HOST, Kind, Subject


def group_of(subject: Subject, kind: Kind) -> tuple[str, str | None]:
    """(group, server): what shares a cause. A container's FUSE mount cannot claim a server of the host's."""
    if kind is Kind.WATCHER:
        return f"{WATCHER} {subject.source}", None  # each with its own end
    server = server_of(subject.fstype, subject.source)
    inside = {p.namespace for p in subject.places}
    if kind is Kind.MISSING and len(inside) == 1 and HOST not in inside:
        # A container's own files may name whatever server they like.
        return f"missing{INSIDE}{inside.pop().removeprefix('ct:')}", None
    if subject.fstype.startswith("fuse") and len(inside) == 1 and HOST not in inside:
        # One message for all that a container serves itself, whatever it calls that.
        return f"{'full' if kind is Kind.FULL else 'fuse'}{INSIDE}{inside.pop().removeprefix('ct:')}", None
    if kind is Kind.FULL:
        # A disk can be full for weeks, and nothing else that happens to its server has to do with it.
        return f"full {' '.join(subject.superblock)}", None
    if subject.fstype.startswith("fuse") and HOST not in inside:
        return f"superblock {' '.join(subject.superblock)}", None  # lxcfs: the host's, in several containers
    if server is not None:
        return f"server {server}", server
    return "superblock " + " ".join(subject.superblock), None


def is_one_trouble(incident: Incident, member: Member, server: str | None, at: float, within: float) -> bool:
    """Whether this is most likely the same matter, though no server says so: sixty rclone mounts die as one.

    `within`: seconds since the incident began.
    """
    first = incident.members[0]
    return (
        server is None
        and incident.server is None
        and at - incident.opened < within
        and (first.kind, first.cause, first.subject.fstype) == (member.kind, member.cause, member.subject.fstype)
        and _namespaces(first) == _namespaces(member)
        and member.kind is not Kind.WATCHER
    )


def is_same_matter(old: Member, kind: Kind, subject: Subject) -> bool:
    """Whether it is the same, but maybe for the device number, which a reboot or a new mount changes."""
    return (
        old.kind is kind
        and old.subject.superblock[1:] == subject.superblock[1:]
        and (old.key == (kind, subject.superblock, ()) or old.stands_at(subject.places))
    )


def _namespaces(member: Member) -> set[str]:
    return {place.namespace for place in member.subject.places}
