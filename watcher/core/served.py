"""Which processes serve FUSE mounts, from what the search for it says (`sources.serving`). Values only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from watcher.core.evidence import Daemon, Question, unit_of

# What serves one mount only, which it does not name on its command line, as far as it is called so: /etc/pve,
# /var/lib/lxcfs, /run/user/1000/doc.
_SERVE_THEIRS = frozenset({"pmxcfs", "lxcfs", "xdg-document-po"})


class Served:
    """Who serves FUSE mounts, as far as the search for it has told."""

    def __init__(self) -> None:
        self._holders: dict[int, Daemon] = {}
        self._serves: defaultdict[int, list[int]] = defaultdict(list)  # connection -> pids
        self._untold: set[int] = set()  # pids of which the kernel does not tell what they serve
        self._named: defaultdict[int, list[int]] = defaultdict(list)  # connection -> pids, by their command lines
        self._lives: defaultdict[int, list[int]] = defaultdict(list)  # connection -> pids in its pid namespace
        self._busy: set[int] = set()  # pids of those that name another mount on their command lines
        self._complete = False

    def take(self, words: Sequence[object]) -> None:
        """What `sources.serving` says."""
        match words:
            case ["holder", int(pid), str(comm), str(cgroup), list(connections)]:
                self._holders[pid] = Daemon(pid, comm, *unit_of(cgroup))
                for number in connections:
                    self._serves[number].append(pid)
                if not connections:
                    self._untold.add(pid)
            case ["names", int(pid), int(number)]:
                self._named[number].append(pid)
            case ["lives", int(pid), list(connections)]:
                for number in connections:
                    self._lives[number].append(pid)
            case ["elsewhere", int(pid)]:
                self._busy.add(pid)
            case ["looked", bool(complete)]:
                self._complete = complete

    def by(self, question: Question) -> tuple[Daemon, ...] | None:
        """The processes; None: not known; (): nobody does."""
        if question.gone:
            return ()
        if question.connection is None:
            return None
        # A kernel that tells of one tells of all; then who has /dev/fuse open and no connection serves nothing.
        pids = (self._serves if self._serves else self._named).get(question.connection, [])
        if pids:
            return tuple(self._holders[pid] for pid in sorted(set(pids)) if pid in self._holders)
        if self._complete and not self._serves and (only := self._only(question, question.connection)) is not None:
            return (only._replace(likely=True),)
        return () if self._complete and (self._serves or not self._untold) else None

    def _only(self, question: Question, connection: int) -> Daemon | None:
        """The one that is left where the kernel does not tell; of several, the one that is called as its type says."""
        taken = self._busy.union(*self._named.values())
        left = [self._holders[pid] for pid in self._lives[connection] if pid in self._holders and pid not in taken]
        left = [one for one in left if one.comm not in _SERVE_THEIRS or one.comm in question.likely]
        called = [one for one in left if one.comm and one.comm in (name[:15] for name in question.likely)]
        return next(iter(called or left)) if len(called or left) == 1 else None
