"""Every watched superblock, by itself and by namespace, what may be asked of it now, and which tables are in doubt.

Keeps no time and judges nothing: health is `health`'s, events are the tracker's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from watcher.core import ondemand
from watcher.core.health import FAILING
from watcher.core.mountinfo import option
from watcher.core.places import LXCFS, Standing
from watcher.core.watched import Watched
from watcher.model import Container, Place, Reach, Superblock

MAX_WEDGED = 64  # stuck threads in all, above which mounts never asked before are left alone
OLD = "host ok, container old: the host has mounted it anew since"
ALONE = "the host's own mount of it is ok: only this one fails"
FROZEN_LIMIT = 600.0  # seconds for which a container may stand still before its own mounts are judged all the same


class Roster:
    """The watched superblocks, each once, wherever it stands."""

    def __init__(self) -> None:
        self._all: dict[Superblock, Watched] = {}
        self._in: dict[str, dict[Superblock, Watched]] = {}  # by namespace, so that one table costs only its own
        self._covered: dict[str, list[Watched]] = {}  # of these, what a walk reaches only across another; as last seen
        self._named = _ByName()
        self._on_host = _ByName()
        self._frozen_since: dict[str, float] = {}
        self._absent: dict[str, set[Place]] = {}  # by namespace: gone by one reading of its table, not yet by a second
        self._doubted: set[str] = set()

    # ---- who is on it

    def __iter__(self) -> Iterator[Watched]:
        return iter(self._all.values())

    def get(self, superblock: Superblock) -> Watched | None:
        return self._all.get(superblock)

    def inside(self, namespace: str) -> list[Watched]:
        """What stands in this namespace (and maybe in others)."""
        return list(self._in.get(namespace, {}).values())

    def join(self, watched: Watched, standing: Standing) -> None:
        """It stands in this place from now on."""
        self._covered.pop(standing.place.namespace, None)
        if watched.superblock not in self._all:
            self._all[watched.superblock] = watched
            self._named.add(watched)
        self._in.setdefault(standing.place.namespace, {})[watched.superblock] = watched
        if standing.container is None and not _is_on_host(watched):
            self._on_host.add(watched)
        watched.join(standing)

    def leave(self, watched: Watched, standing: Standing) -> None:
        """It no longer stands in this place; without any it is forgotten."""
        watched.leave(standing)
        namespace = standing.place.namespace
        self._covered.pop(namespace, None)
        if all(s.place.namespace != namespace for s in watched.standings):
            del self._in[namespace][watched.superblock]
            if not self._in[namespace]:
                del self._in[namespace]
            if standing.container is None:
                self._on_host.discard(watched)
        if not watched.standings:
            del self._all[watched.superblock]
            self._named.discard(watched)

    def twin_on_host(self, watched: Watched) -> Watched | None:
        """What the host has mounted under the same name, where this stands in containers only."""
        others = self._on_host.like(watched)
        if any(other.superblock.device == watched.superblock.device for other in others):
            return None
        return next(iter(others), None)

    def of_same_name(self, watched: Watched) -> list[Watched]:
        """What containers, and they alone, have mounted under the name of this mount of the host's."""
        if not _is_on_host(watched):
            return []
        return [w for w in self._named.like(watched) if self.twin_on_host(w) is not None]

    def context(self, watched: Watched) -> str:
        """What the host's mount of the same name says of this one, which stands in containers only."""
        twin = self.twin_on_host(watched)
        if twin is None or twin.health.reach is not Reach.OK:
            return ""
        if watched.on_host or all(_is_from_host(s, twin) for s in watched.standings):
            return OLD
        return ALONE if watched.health.reach in FAILING else ""

    # ---- containers that stand still

    def note_container(self, namespace: str, container: Container | None, now: float) -> bool:
        """Whether it has stopped moving just now."""
        if container is None or not container.frozen:
            self._frozen_since.pop(namespace, None)
            return False
        if namespace in self._frozen_since:
            return False
        self._frozen_since[namespace] = now
        return True

    def thaws_at(self, watched: Watched) -> float | None:
        """Until when it is not judged, since whoever serves it stands still; None where that is not so."""
        if not self._frozen_since or not watched.is_of_container:
            return None
        since = [self._frozen_since.get(s.place.namespace) for s in watched.standings]
        return None if not since or None in since else max(t for t in since if t is not None) + FROZEN_LIMIT

    def is_frozen(self, watched: Watched, now: float) -> bool:
        thaw = self.thaws_at(watched)
        return thaw is not None and now < thaw

    # ---- what a table may not have told

    def is_absent(self, place: Place) -> bool:
        """Whether the last reading of its table did not show it."""
        return place in self._absent.get(place.namespace, ())

    def note_absent(self, namespace: str, places: set[Place]) -> None:
        """What the last reading of a namespace's table did not show; a second one has to, before it counts as gone."""
        self._absent.pop(namespace, None)
        if places:
            self._absent[namespace] = places
            self.doubt(namespace)

    def doubt(self, namespace: str) -> None:
        """Its table must be read again soon."""
        self._doubted.add(namespace)

    def take_doubted(self) -> set[str]:
        """The namespaces in doubt, each named once."""
        doubted, self._doubted = self._doubted, set()
        return doubted

    # ---- what may be asked

    def crowded(self) -> bool:
        return sum(1 for w in self if w.wedged) >= MAX_WEDGED

    def reachable(self, watched: Watched) -> list[Standing]:
        """The places at which it may be asked."""
        ways = [s for s in watched.standings if not s.idles_out and self._is_open(s)]
        return ways or [s for s in ondemand.at_trigger(watched) if self._is_open(s)]

    def _is_open(self, standing: Standing) -> bool:
        return not self.is_absent(standing.place) and (not standing.below or self.behind(standing) is None)

    def behind(self, standing: Standing) -> Watched | None:
        """The failing mount that a walk to it would cross."""
        for superblock in standing.below:
            over = self._all.get(superblock)
            if over and superblock != standing.superblock and (over.wedged or over.health.reach in FAILING):
                return over
        return None

    def rearranged(self, namespace: str) -> None:
        """Its table was read: what lies below what may have changed."""
        self._covered.pop(namespace, None)

    def release_behind(self, namespace: str) -> None:
        """What only fails because a mount in front of it does is not judged."""
        covered = self._covered.get(namespace)
        if covered is None:  # kept, for each of a thousand that fail at once: almost none lies below another
            covered = [w for w in self._in.get(namespace, {}).values() if all(s.below for s in w.standings)]
            self._covered[namespace] = covered
        for watched in covered:
            if watched.health.reach is Reach.SUSPECT and all(self.behind(s) for s in watched.standings):
                watched.health.forget_failure()


def _is_from_host(standing: Standing, twin: Watched) -> bool:
    """Whether a container has this mount from the host, and not one of its own of the same thing."""
    if standing.mount.fstype == LXCFS:
        return True
    if standing.mount.fstype.startswith("fuse"):
        return False
    if standing.container is not None and standing.container.user_namespace:
        return True  # in a user namespace of its own nothing but FUSE can be mounted (FS_USERNS_MOUNT)
    # NFS 4 names the address of the client: a container with a network of its own has another than the host.
    client = option(standing.mount.super_options, "clientaddr")
    return client is not None and client == option(twin.standings[0].mount.super_options, "clientaddr")


class _ByName:
    """Watched superblocks by file system type and source."""

    def __init__(self) -> None:
        self._index: dict[tuple[str, str], dict[Superblock, Watched]] = {}

    def like(self, watched: Watched) -> Collection[Watched]:
        return self._index.get(self._key(watched), {}).values()

    def add(self, watched: Watched) -> None:
        self._index.setdefault(self._key(watched), {})[watched.superblock] = watched

    def discard(self, watched: Watched) -> None:
        named = self._index[self._key(watched)]
        del named[watched.superblock]
        if not named:
            del self._index[self._key(watched)]

    @staticmethod
    def _key(watched: Watched) -> tuple[str, str]:
        return watched.superblock.fstype, watched.superblock.source


def _is_on_host(watched: Watched) -> bool:
    return any(s.container is None for s in watched.standings)


def may_ask(watched: Watched, crowded: bool) -> bool:
    if watched.asked is not None or watched.wedged is not None:
        return False
    return not (crowded and watched.health.reach is Reach.UNKNOWN)
