"""What is not told for now: silences that somebody has set, and quiet windows.

A silence is over once the clock on the wall shows its end, however long the machine was suspended. That it does not
outlast its own length when the clock is set back is the shell's to see to. Only telling is silenced; judging goes on,
and what is still stale at the end is told then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from watcher.core.filters import MountPatterns, server_of
from watcher.core.incident import Incident, Member
from watcher.core.quiet import QuietHours, Window
from watcher.core.times import Local
from watcher.model import Place, Silence

# Without what is taken for something else when it is read aloud or off a screen: no i, l, o, 0, 1.
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
ID_LENGTH = 4
REMEMBERED = 3600.0  # seconds for which one that is over still explains why something was not told
MAX_SILENCES = 1000
MAX_IN_ALL = 1000  # patterns of all silences that hold: each is tried with each mount
MAX_KNOWN = 1000
_MAX_PLACES = 20_000
_MAX_COVERS = 8
LONGEST = 366 * 86400.0  # seconds: whoever wants it quiet for longer should say so in the configuration


def new_id(draw: Callable[[int], int], taken: Collection[str]) -> str:
    """A short name for a silence, easy to type. `draw(n)`: a random number below n."""
    while True:
        name = "".join(ALPHABET[draw(len(ALPHABET))] for _ in range(ID_LENGTH))
        # One of digits alone would be taken for a number of something.
        if name not in taken and not name.isdecimal():
            return name


class _Cover:
    """What some silences and quiet windows are about, all of them as one; remembers its answers."""

    def __init__(self, globs: Iterable[str], quiet: QuietHours, windows: frozenset[int]) -> None:
        self._patterns = MountPatterns(dict.fromkeys(globs))
        self._quiet, self._windows = quiet, windows
        self._known: dict[tuple[Place, str | None], bool] = {}

    def has(self, place: Place, server: str | None) -> bool:
        answer = self._known.get((place, server))
        if answer is None:
            answer = self._patterns.match(place, server) or self._quiet.cover(place, server, self._windows)
            if len(self._known) >= _MAX_PLACES:
                self._known.clear()
            self._known[place, server] = answer
        return answer


class Silences:
    """The silences there are and the quiet windows, ready to be asked about incidents."""

    def __init__(self, local: Local, silences: Iterable[Silence] = ()) -> None:
        self._by_id: dict[str, Silence] = {}
        self._quiet = QuietHours((), local)
        self._local = local
        # By incident: what was answered last, of what it was then and by what held. In a storm this is asked of
        # every incident at each change of any.
        self._known: dict[int, tuple[Incident, _Cover, bool]] = {}
        self._covers: dict[tuple[tuple[str, ...], frozenset[int]], _Cover] = {}  # by what holds
        for silence in silences:
            self.add(silence)

    def add(self, silence: Silence) -> None:
        """One more; its id is new."""
        self._by_id[silence.id] = silence
        self._covers.clear()  # one of this name may have been known that had other patterns

    def end(self, name: str, wall: float) -> Silence | None:
        """Let one end now; None if none of that name holds. It is remembered for a while, like one that ran out."""
        known = self._by_id.get(name)
        if known is None or known.ends <= wall:
            return None
        self._by_id[name] = known._replace(ends=wall)
        return known

    def configure(self, windows: Iterable[Window]) -> None:
        """The quiet windows as they are from now on."""
        self._quiet = QuietHours(windows, self._local)
        self._covers.clear()

    @property
    def windows(self) -> Sequence[Window]:
        return self._quiet.windows

    @property
    def ids(self) -> frozenset[str]:
        """All that are in use, by those that are over, too."""
        return frozenset(self._by_id)

    def active(self, wall: float) -> list[Silence]:
        """Those that hold, the first to end in front."""
        return sorted((s for s in self._by_id.values() if _holds(s, wall)), key=lambda s: (s.ends, s.id))

    def active_windows(self, wall: float) -> frozenset[int]:
        """The numbers of the quiet windows that hold."""
        return self._quiet.active(wall)

    def prune(self, wall: float) -> list[Silence]:
        """Forget those that are over for long, or that are over and too many; they are given back."""
        over = sorted((s for s in self._by_id.values() if not _holds(s, wall)), key=lambda s: s.ends, reverse=True)
        old, kept, patterns = [], 0, 0
        for silence in over:
            kept, patterns = kept + 1, patterns + len(silence.patterns)
            if silence.ends + REMEMBERED <= wall or kept > MAX_SILENCES or patterns > MAX_IN_ALL:
                old.append(silence)
        old.reverse()
        for silence in old:
            del self._by_id[silence.id]
        return old

    def next_end(self, wall: float) -> float | None:
        """When the next one ends, by the wall clock."""
        return min((s.ends for s in self._by_id.values() if s.ends > wall), default=None)

    def silenced(self, incident: Incident, wall: float) -> bool:
        """Whether nothing is to be told of it for now.

        All of it that is down must be covered, at each of its places. What is over by now counts as it was when it
        ended: what came and went within a silence is never told.
        """
        at = wall if incident.closed is None else min(wall, incident.closed)
        members = incident.down or incident.members
        if (cover := self._cover(at)) is None:
            return False
        known = self._known.get(incident.number)
        if known is not None and known[0] is incident and known[1] is cover:
            return known[2]
        answer = all(_covered(member, cover) for member in members)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[incident.number] = incident, cover, answer
        return answer

    def covered(self, mounts: Mapping[Place, str | None], wall: float) -> set[Place]:
        """Of these mounts (place: server) the ones of which nothing is to be told for now."""
        if (cover := self._cover(wall)) is None:
            return set()
        return {place for place, server in mounts.items() if cover.has(place, server)}

    def _cover(self, at: float) -> _Cover | None:
        """What is covered at this time; None: nothing is."""
        held = tuple(name for name, s in self._by_id.items() if _holds(s, at))
        windows = self._quiet.active(at)
        if not held and not windows:
            return None
        cover = self._covers.get((held, windows))
        if cover is None:
            if len(self._covers) >= _MAX_COVERS:
                self._covers.clear()
            globs = (glob for name in held for glob in self._by_id[name].patterns)
            cover = self._covers[held, windows] = _Cover(globs, self._quiet, windows)
        return cover


def _covered(member: Member, cover: _Cover) -> bool:
    subject = member.subject
    server = server_of(subject.fstype, subject.source)
    # What stands nowhere concerns the watcher itself.
    return bool(subject.places) and all(cover.has(place, server) for place in subject.places)


def _holds(silence: Silence, wall: float) -> bool:
    # Not `begins <= wall`: with a clock that was set back it would not hold although it was set just now.
    return wall < silence.ends


def matching(patterns: Iterable[str], mounts: Mapping[Place, str | None]) -> list[Place]:
    """Which of these mounts (place: server) the patterns are about."""
    compiled = MountPatterns(patterns)
    return [place for place, server in mounts.items() if compiled.match(place, server)]
