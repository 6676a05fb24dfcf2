"""Running LXC containers and their mount tables: a look at all of them, or events for as long as it runs.

Events first (control groups that come and go, inits that exit), a slow walk of /proc behind them.
Touches nothing inside a container, holds nothing of one open but the pidfd of its init, and believes
neither of two monitors that claim one id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from watcher.children import Children
from watcher.core.lxc import root_of
from watcher.model import Mount, NamespaceGone, TableRead, TableUnreadable
from watcher.reading import FileReader
from watcher.sources.claims import Claim, Claims
from watcher.sources.exits import Exits
from watcher.sources.inquiries import HostNames
from watcher.sources.running import ROUND, Running

if TYPE_CHECKING:
    from watcher.sources.inotify import CgroupChanges

SLOW_WALK = 30.0  # seconds
AFTER_CHANGE = (0.0, 0.5, 2.0)  # seconds after a control group came or went: the processes come after it
RETRY_FIRST = 0.025  # seconds, doubled each time, while a monitor has no init yet
WALK_SHARE = 20  # the time of a walk is at most this part of the time, however often containers start
NAME_RETRY = 60.0  # seconds after a name could not be looked up
NAMELESS_RETRY = 10  # times that, where none was found: a cluster file system may just not be mounted
NAME_PATIENCE = 0.1  # seconds for which a new container's table waits for its name
GATHER = 0.01  # seconds: control groups come in bursts

GENERAL = "containers"  # the key of what concerns no single container
STOPPED = "container stopped"
CONTESTED = "claimed by two monitors"

News = TableRead | NamespaceGone | TableUnreadable


class ContainerTables:
    """The mount tables of all running containers. One of `look` and `events` is used, not both."""

    def __init__(
        self,
        *,
        proc: str,
        cgroup: str,
        lxc_config: Sequence[str],
        children: Children,
        reader: FileReader,
        host_mounts: Callable[[], Sequence[Mount]],
    ) -> None:
        """`lxc_config`: directories such as /var/lib/lxc and /etc/pve/lxc. `host_mounts`: our own table."""
        self._proc, self._cgroup = proc, cgroup
        self._children = children
        self._names = HostNames(lxc_config, reader, host_mounts)
        self._host_mounts = host_mounts
        self._claims: Claims | None = None
        self._running: dict[str, Running] = {}  # by namespace
        self._contested: dict[str, list[int]] = {}  # namespace -> pids of the monitors
        self._blind = ""  # why nothing can be seen
        self._asking: set[asyncio.Task[None]] = set()
        self._answered = False  # what was asked of the claimants
        self._wake = asyncio.Event()
        # Of `events` only.
        self._live = False
        self._changes: CgroupChanges | None = None
        self._exits = Exits(self._wake.set)
        self._looks: list[float] = []  # when to walk after a change, in order
        self._walk_rest_until = 0.0

    @property
    def problems(self) -> dict[str, str]:
        """What cannot be done at present, in words, by namespace, or under "containers"."""
        said = {}
        if general := [self._blind] if self._blind else self._claims.problems if self._claims else []:
            said[GENERAL] = "; ".join(general)
        for namespace, running in self._running.items():
            if own := [words for words in (running.trouble, running.name_problem) if words]:
                said[namespace] = "; ".join(own)
        for namespace, pids in self._contested.items():
            said[namespace] = (
                f"claimed by {len(pids)} monitors, none is believed: processes {', '.join(map(str, pids))}"
            )
        return said

    def want(self, namespaces: Iterable[str]) -> None:
        """These tables are wanted again soon, even if they are unchanged."""
        for namespace in namespaces:
            if (running := self._running.get(namespace)) is not None:
                running.want()
        self._wake.set()

    async def look(self) -> list[News]:
        """Who runs, and each table that is new, changed or wanted. Waits for names as long as the reader does."""
        self._walk()
        news = self._settle()
        while self._asking:
            await asyncio.wait(self._asking)
            if self._take_answers():
                news += self._settle()
        return news + self._read(self._running.values())

    async def events(self) -> AsyncGenerator[News, None]:
        """All of it at first, then each change, for ever. To be closed (aclosing); may then be called again."""
        from watcher.sources.inotify import CgroupChanges, WatchError  # one look does without pyinotify

        self._live = True
        try:
            self._changes = CgroupChanges(self._cgroup, came_or_went=self._came_or_went, froze=self._froze)
        except WatchError:
            pass  # the slow walk sees it all, only later
        slow_walk, retry, tries = 0.0, float("inf"), 0
        try:
            while True:
                self._wake.clear()
                now = monotonic()
                news = [gone for running in self._exits.take() for gone in self._drop(running, STOPPED)]
                changed = bool(self._looks and self._looks[0] <= now)
                if changed or slow_walk <= now:
                    self._walk(slow=not changed)
                    retry, slow_walk = now, now + SLOW_WALK
                if self._take_answers() or news or retry <= now:
                    news += self._settle()
                    tries = min(tries + 1, 8) if self._incomplete else 0
                    retry = now + min(ROUND, RETRY_FIRST * 2**tries) if tries else float("inf")
                news += self._read([running for running in self._running.values() if running.due <= now])
                self._follow()
                for item in news:
                    began = monotonic()
                    yield item
                    if (running := self._running.get(item.namespace)) is not None:
                        running.has_cost(monotonic() - began)
                await self._sleep(min(slow_walk, retry, *self._looks[:1], *(r.due for r in self._running.values())))
        finally:
            asking = list(self._asking)
            self.close()
            await asyncio.gather(*asking, return_exceptions=True)

    def close(self) -> None:
        """Let go of everything and forget it; what is being asked is given up."""
        for task in self._asking:
            task.cancel()
        self._asking.clear()
        self._exits.close()
        if self._changes is not None:
            self._changes.close()
            self._changes = None
        self._live, self._blind = False, ""
        self._running.clear()
        self._contested.clear()
        self._looks.clear()

    # ---- who runs

    def _walk(self, *, slow: bool = False) -> None:
        began = monotonic()
        self._looks = [at for at in self._looks if at > began]
        try:
            if self._claims is None:
                self._claims = Claims(self._proc, self._children)
            self._claims.walk(slow=slow)
            self._blind = ""
        except OSError as e:
            self._blind = f"{e.filename or self._proc}: {e.strerror or e}"
        if self._changes is not None:
            self._changes.watch_directories()
        now = monotonic()
        self._walk_rest_until = now + WALK_SHARE * (now - began)

    @property
    def _incomplete(self) -> bool:
        return self._claims is not None and self._claims.incomplete

    def _settle(self) -> list[News]:
        """Bring what runs up to what is claimed, and ask for what is missing."""
        if self._claims is None:
            return []
        now, news = monotonic(), list[News]()
        claims = {f"ct:{ctid}": (ctid, claimants) for ctid, claimants in self._claims.sort().items()}
        self._contested = {
            namespace: sorted(claim.monitor.pid for claim in claimants)
            for namespace, (_, claimants) in claims.items()
            if len(claimants) > 1
        }
        for namespace, running in list(self._running.items()):
            _, claimants = claims.get(namespace, ("", []))
            if namespace in self._contested:
                news += self._drop(running, CONTESTED)
            elif claimants != [running.claim] and (claimants or not self._claims.is_alive(running.init)):
                news += self._drop(running, STOPPED)
        for namespace, (ctid, claimants) in claims.items():
            if namespace not in self._contested and namespace not in self._running:
                self._start(self._claims, ctid, claimants[0], now)
        for running in self._running.values():
            if running.name_at <= now:
                running.name_at = float("inf")
                self._ask(self._look_for_name(running))
        if self._claims.to_ask:
            self._ask(self._ask_for_claims(self._claims))
        return news

    def _start(self, claims: Claims, ctid: str, claim: Claim, now: float) -> None:
        running = Running(self._proc, self._cgroup, claims, ctid, claim, now)
        self._running[running.container.namespace] = running
        if not self._live:
            return
        running.read_at = now + NAME_PATIENCE
        with suppress(OSError):  # gone already, or too many descriptors: the walk sees it
            self._exits.follow(running, claims)

    def _drop(self, running: Running, reason: str) -> list[News]:
        self._exits.unfollow(running)
        namespace = running.container.namespace
        if self._running.get(namespace) is not running:
            return []
        del self._running[namespace]
        return [NamespaceGone(namespace, reason)] if running.was_told else []

    # ---- their tables

    def _read(self, which: Iterable[Running]) -> list[News]:
        """The news from these tables."""
        news, host_root = list[News](), None
        for running in list(which):
            host_root = host_root or root_of(self._host_mounts())
            if (item := running.read(host_root)) is not None:
                news.append(item)
            elif running.ended and self._claims is not None:
                self._claims.forget(running.claim.monitor)
                news += self._drop(running, STOPPED)
        return news

    # ---- what is asked in the background

    def _ask(self, question: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(question)
        self._asking.add(task)
        task.add_done_callback(lambda _: self._wake.set())

    def _take_answers(self) -> bool:
        """Whether there is more to settle by now. Raises what was raised while asking: a bug."""
        done = {task for task in self._asking if task.done()}
        self._asking -= done
        for task in done:
            task.result()
        answered, self._answered = self._answered, False
        return answered

    async def _ask_for_claims(self, claims: Claims) -> None:
        await claims.ask()
        self._answered = True

    async def _look_for_name(self, running: Running) -> None:
        try:
            name = await self._names.find(running.container.ctid)
        except OSError as e:
            running.named("", f"its name is not known: {e.strerror}")
            running.name_at = monotonic() + NAME_RETRY
        else:
            running.named(name)
            if not name:
                running.name_at = monotonic() + NAMELESS_RETRY * NAME_RETRY

    # ---- what wakes us

    def _came_or_went(self) -> None:
        first = max(monotonic(), self._walk_rest_until)
        self._looks = [first + after for after in AFTER_CHANGE]
        self._wake.set()

    def _froze(self, path: str) -> None:
        for running in self._running.values():
            if running.events_path == path:
                running.frozen_or_thawed()
        self._wake.set()

    def _follow(self) -> None:
        if self._changes is not None:
            self._changes.follow({r.events_path for r in self._running.values() if r.events_path})

    async def _sleep(self, until: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - monotonic())):
                await self._wake.wait()
                await asyncio.sleep(GATHER)
