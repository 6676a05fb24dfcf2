"""One fake LXC container, and what runs in it; `containers.py` starts it and describes it by example."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from tests.fakes.container_init import Settings
from tests.fakes.fuse import LIMIT, POLL_INTERVAL, FuseServer, ServerProcess
from tests.fakes.fuse_server import MNT_DETACH
from tests.fakes.loop_image import LoopImage
from tests.fakes.processes import Channel, ContainerError, Process, process_of

GRACE = 2.0  # seconds after which FUSE connections are aborted to free what cannot die
STEPS_PER_MESSAGE = 100_000  # characters

Hold = Literal["", "no-child", "before-pivot"]


class ContainerFuse(FuseServer):
    """A FUSE server inside: its mounts exist only there, made by the container's own root. Makes mount points."""

    creates_mount_points = True

    def __init__(self, container: FakeContainer) -> None:
        self._container = container
        super().__init__()

    def _start(self, control: socket.socket) -> ServerProcess:
        return Process(*self._container.inside.call("fuse", control.fileno()))

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def _unmount_remains(self) -> None:
        entries = [(m.mount_point, m.mount_id, m.device, m.fstype) for m in self._mounts]
        if entries:
            with contextlib.suppress(ContainerError):  # gone, and its mounts with it
                self._container.run([("unmount_ours", entries)])


class Pretender:
    """A process that looks like another one, until `end`."""

    def __init__(self, through: Channel, argv: Sequence[str], **settings: Any) -> None:
        self._channel = Channel(f"the pretender {argv[0]}")
        try:
            self.process = process_of(self._channel, through, "pretend", argv=argv, **settings)
        except BaseException:
            self._channel.close()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> None:
        self._channel.close()
        self.process.wait()


class FakeContainer:
    """One container of `Containers.start`. What is done to a stopped one raises ContainerError."""

    init: Process
    monitor: Process

    def __init__(self, nursery: Channel, settings: Settings, hold: Hold, image: LoopImage | None = None) -> None:
        self._nursery = nursery
        self.settings = settings
        self.ctid = settings.ctid
        self.image = image
        self._hold: Hold = ""
        self._fuse: ContainerFuse | None = None
        self._pretenders: list[Pretender] = []
        self._boot(hold)

    @property
    def namespace(self) -> str:
        return f"ct:{self.ctid}"

    @property
    def cgroup(self) -> str:
        """The directory of the container as a whole: cgroup.freeze, cgroup.events; init lives in `ns` below it."""
        if not self.settings.cgroup:
            raise ContainerError(f"container {self.ctid} has no cgroup")
        return f"{self.settings.cgroup}/lxc/{self.ctid}"

    # ---- its life

    def _boot(self, hold: Hold) -> None:
        self._control = Channel(f"the monitor of container {self.ctid}")
        try:
            self.monitor = process_of(self._control, self._nursery, "monitor", **self.settings._asdict())
        except BaseException:
            self._control.close()
            raise
        try:
            self._spawn(hold)
        except BaseException:
            self._control.close()
            self.monitor.wait()  # its cgroups are gone, too
            raise

    def _spawn(self, hold: Hold) -> None:
        self._hold = hold
        if hold != "no-child":
            self.inside = Channel(f"container {self.ctid}")
            try:
                with self.inside.theirs:
                    (pidfd,) = self._control.call("spawn", self.inside.theirs.fileno())
                self.init = Process(pidfd)
                self.inside.hello()
                if hold != "before-pivot":
                    self.inside.call("go")
            except BaseException:
                self.inside.close()
                raise

    def release(self, until: Literal["", "before-pivot"] = "") -> None:
        """Let a held container go on, to the end of its start or to a later hold."""
        if self._hold == "before-pivot":
            self._hold = ""
            self.inside.call("go")
        elif self._hold == "no-child":
            self._spawn(until)

    def begin_to_stop(self) -> None:
        """Kill init and do not wait: many containers end beside each other. `stop` is still to be called."""
        if self._hold != "no-child":
            self.init.kill()

    def kill_init(self) -> None:
        """As a crash, or `poweroff` inside: the monitor tidies up and ends, too. Waits for both."""
        self.init.kill()
        self._wait_for_end()

    def kill_monitor(self) -> None:
        """SIGKILL: init dies with it, nobody tidies the cgroups up. Waits for both."""
        self.monitor.kill()
        self._wait_for_end()

    def stop(self) -> None:
        """As `pct stop`: init dies, then the monitor. Without effect on a container that has stopped."""
        if self._hold == "no-child":
            self._control.close()
        else:
            self.init.kill()
        self._wait_for_end()

    def _wait_for_end(self) -> None:
        processes = [self.monitor] if self._hold == "no-child" else [self.init, self.monitor]
        for process in processes:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                if self._fuse:  # a process inside waits in a mount that nobody serves any more
                    self._fuse.abort_connections()
                process.wait()
        self._control.close()
        self._forget_inside()

    def _forget_inside(self) -> None:
        if self._hold != "no-child":
            self.inside.close()
        if self._fuse:
            self._fuse.close()
        self._fuse = None
        for pretender in self._pretenders:
            pretender.end()
        self._pretenders.clear()

    def restart(self, hold: Hold = "") -> None:
        """Stop, and start with the same settings: all processes are new, and nothing of the inside is left."""
        self.stop()
        self._boot(hold)

    def reboot(self, hold: Hold = "") -> None:
        """As `reboot` inside: the monitor stays and starts another init."""
        self._control.call("halt")
        self._forget_inside()
        self._spawn(hold)

    # ---- the freezer

    def freeze(self) -> None:
        """As a backup in suspend mode does; returns when everything inside stands still, the FUSE server too."""
        self._freeze(1)

    def thaw(self) -> None:
        self._freeze(0)

    def _freeze(self, state: int) -> None:
        Path(self.cgroup, "cgroup.freeze").write_text(str(state))
        events = Path(self.cgroup, "cgroup.events")
        deadline = time.monotonic() + LIMIT
        while f"frozen {state}" not in events.read_text():
            if time.monotonic() > deadline:
                raise TimeoutError(f"container {self.ctid} does not {'freeze' if state else 'thaw'}")
            time.sleep(POLL_INTERVAL)

    # ---- inside

    @property
    def fuse(self) -> ContainerFuse:
        """The container's FUSE server, started at first use; another one after it was closed."""
        if self._fuse is None or self._fuse.closed:
            self._fuse = ContainerFuse(self)
        return self._fuse

    def run(self, steps: Iterable[Sequence[Any]]) -> None:
        """Have init do these, one after the other: `("mkdir", "/a")`, ... (`container_init.STEPS`). Raises OSError."""
        batch: list[Sequence[Any]] = []
        size = 0
        for step in steps:
            batch.append(step)
            size += len(json.dumps(step))
            if size > STEPS_PER_MESSAGE:
                self.inside.call("run", steps=batch)
                batch, size = [], 0
        if batch:
            self.inside.call("run", steps=batch)

    def mkdir(self, path: str) -> None:
        """With what is missing above; no error if it is there."""
        self.run([("mkdir", path)])

    def rmdir(self, path: str) -> None:
        self.run([("rmdir", path)])

    def symlink(self, target: str, path: str) -> None:
        self.run([("symlink", target, path)])

    def unlink(self, path: str) -> None:
        self.run([("unlink", path)])

    def rename(self, old: str, new: str) -> None:
        self.run([("rename", old, new)])

    def write(self, path: str, size: int) -> None:
        """A file of so many zero bytes, really written."""
        self.run([("write", path, size)])

    def bind(self, source: str, target: str, flags: int = 0) -> None:
        """Bind-mount what is inside at another place inside; `flags` such as MS_REC."""
        self.run([("bind", source, target, flags)])

    def mount(self, source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
        self.run([("mkdir", target), ("mount", source, target, fstype, flags, data)])

    def umount(self, path: str, flags: int = MNT_DETACH) -> None:
        self.run([("umount", path, flags)])

    def pretend(self, argv: Sequence[str], *, comm: str = "lxc-start", uid: int = 0, children: int = 1) -> Pretender:
        """A process inside of that title, with so many idle children; it dies with init."""
        self._pretenders.append(Pretender(self.inside, argv, comm=comm, uid=uid, children=children))
        return self._pretenders[-1]
