"""Which monitors claim which container id, as far as it can be told by now.

Puts the walk of /proc together with what had to be asked. Believes nobody: a monitor without a live
init claims nothing, and what it means that two claim one id is for others to say.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from watcher.children import Children
from watcher.core import lxc
from watcher.sources import inquiries
from watcher.sources.monitors import ChildrenUnknown, Init, Monitor, Monitors


class Claim(NamedTuple):
    monitor: Monitor
    init: Init


class Claims:
    """Remembers ids and inits for as long as their monitor lives; asks once per walk for what it cannot see."""

    def __init__(self, proc: str, children: Children) -> None:
        """Raises OSError where our own namespaces cannot be read."""
        self._proc = proc
        self._children = children
        self._monitors = Monitors(proc)
        self._present: list[Monitor] = []
        self._ids: dict[Monitor, str | None] = {}  # None: it has said so, and it is no id
        self._inits: dict[Monitor, Init] = {}
        self._told: dict[Monitor, int] = {}  # pids of inits that LXC has told
        self._titles_wanted: list[Monitor] = []
        self._inits_wanted: list[tuple[Monitor, str]] = []
        self._asked_title: set[Monitor] = set()  # since the last walk
        self._asked_init: set[Monitor] = set()
        self.incomplete = False  # some monitor has no init: it starts or stops, or what it says is not known yet

    def walk(self, *, slow: bool = False) -> None:
        """Look for monitors. Raises OSError."""
        self._present = self._monitors.walk(slow=slow)
        self._asked_title.clear()
        self._asked_init.clear()
        here = set(self._present)
        for memory in (self._ids, self._inits, self._told):
            for gone in memory.keys() - here:
                del memory[gone]

    def sort(self) -> dict[str, list[Claim]]:
        """Who claims which id. What it takes to know more is then to be asked for."""
        claims: dict[str, list[Claim]] = {}
        self._titles_wanted, self._inits_wanted, self.incomplete = [], [], False
        for monitor in list(self._present):
            claim = self._claim_of(monitor)
            if claim is None and not self._monitors.is_alive(monitor):
                self._present.remove(monitor)
            elif claim is None:
                self.incomplete = True
            elif (ctid := self._id_of(monitor)) is not None:
                claims.setdefault(ctid, []).append(claim)
        return claims

    def _claim_of(self, monitor: Monitor) -> Claim | None:
        init = self._inits.get(monitor)
        if init is None or not self._monitors.is_alive(init):
            self._inits.pop(monitor, None)
            try:
                init = self._monitors.find_init(monitor, self._told.get(monitor))
            except ChildrenUnknown:
                if (ctid := self._id_of(monitor)) is not None and monitor not in self._asked_init:
                    self._inits_wanted.append((monitor, ctid))
                return None
            if init is None:
                self._told.pop(monitor, None)  # LXC restarts a container under the same monitor
                return None
            self._inits[monitor] = init
        return Claim(monitor, init)

    def _id_of(self, monitor: Monitor) -> str | None:
        if monitor not in self._ids:
            if (ctid := self._monitors.cgroup_id(monitor)) is None:
                if monitor not in self._asked_title:
                    self._titles_wanted.append(monitor)
                return None
            self._ids[monitor] = ctid
        return self._ids[monitor]

    def forget(self, monitor: Monitor) -> None:
        """Its init is ending: look for another."""
        self._inits.pop(monitor, None)

    # ---- what must be asked

    @property
    def to_ask(self) -> bool:
        return bool(self._titles_wanted or self._inits_wanted)

    async def ask(self) -> None:
        """Ask for what the last `sort` could not see; sort again afterwards."""
        monitors, inits = self._titles_wanted, self._inits_wanted
        self._titles_wanted, self._inits_wanted = [], []
        self._asked_title.update(monitors)
        self._asked_init.update(monitor for monitor, _ in inits)
        await asyncio.gather(self._ask_titles(monitors), self._ask_inits(inits))

    async def _ask_titles(self, monitors: list[Monitor]) -> None:
        if not monitors:
            return
        try:
            found = await inquiries.cmdlines(self._children, self._proc, [monitor.pid for monitor in monitors])
        except OSError:
            return  # at the next walk again
        for monitor in monitors:
            if monitor.pid in found and self._monitors.is_alive(monitor):
                self._ids[monitor] = lxc.id_from_cmdline(found[monitor.pid])

    async def _ask_inits(self, wanted: list[tuple[Monitor, str]]) -> None:
        for monitor, ctid in wanted:  # one after the other: this is for kernels that hardly anybody has
            try:
                pid = await inquiries.init_pid(self._children, ctid)
            except OSError:
                return
            if pid is not None:
                self._told[monitor] = pid

    # ---- what is to be said

    def is_alive(self, process: Init) -> bool:
        return self._monitors.is_alive(process)

    def user_namespace(self, init: Init) -> int:
        """The inode of its user namespace if that is not ours, else 0. Raises OSError."""
        return self._monitors.user_namespace(init)

    @property
    def problems(self) -> list[str]:
        """What keeps containers from being seen, in words."""
        said = []
        if self._monitors.hidden:
            said.append("lxc-start is running, but without more privilege its containers cannot be seen")
        for monitor in self._present:
            who, ctid = f"process {monitor.pid} (lxc-start)", self._ids.get(monitor, "")
            if ctid is None:
                said.append(f"{who} names no container that can be watched")
            elif not ctid and monitor in self._asked_title:
                said.append(f"the command line of {who} cannot be read")
            elif monitor in self._asked_init and monitor not in self._inits:
                said.append(f"neither the kernel nor lxc-info tells the init process of container {ctid}")
        return said
