"""LXC containers without LXC: the tests' side of `container_init.py`. As root, in a private mount namespace.

    with Containers(tmp_path) as lxc:
        ct = lxc.start("101", name="plex", binds={"/mnt/nas": "/media"})    # the host's /mnt/nas, inside at /media
        ct.monitor.pid, ct.init.pid, ct.namespace                           # ..., "ct:101"
        nas = ct.fuse.mount("/mnt/own", source="nas01:/export", fstype="fuse.sshfs", mode=HANG)   # inside only
        ct.symlink("/etc", "/mnt/link")
        ct.freeze(), ct.thaw(), ct.reboot(), ct.restart(), ct.stop()

A container is two processes: a monitor that looks like `lxc-start`, and its only child, an init in mount, pid and (if
wanted) user namespaces of its own, below a pivoted root. What runs inside, its FUSE server too, dies with init.

All calls are synchronous and take a few milliseconds (`start` some 10); they use non-blocking sockets and poll(2), so
they are fit for async tests. What stops or leaves waits for processes to end: with many of them, `asyncio.to_thread`.
What is done inside is done by init itself: no path that leads through a mount that hangs, nothing while it is frozen.

`/proc` shows the monitors of other sessions on the same machine, too: `start()` without an id takes one that no other
session has, and `cgroup_path` holds only what belongs to this session (tests/fakes/cgroups.py).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.fakes import container_init
from tests.fakes.cgroups import prune
from tests.fakes.container import FakeContainer, Hold, Pretender
from tests.fakes.fuse import LIMIT
from tests.fakes.loop_image import LoopImage
from tests.fakes.processes import Channel, ContainerError, Process

__all__ = ["ContainerError", "Containers", "FakeContainer", "Hold", "Pretender", "Process", "not_ours"]

Rootfs = Literal["tmpfs", "directory", "image"]
NameIn = Literal["lxc", "pve", "both", "none"]


class Containers:
    """A host's containers and their directories; at the end of the `with`, or of a killed test, nothing is left."""

    def __init__(self, directory: Path, *, cgroup_path: str = "") -> None:
        """`cgroup_path`: where this session's cgroup2 is mounted (`SessionCgroup.path`); "": containers have none."""
        self.directory = directory
        self.cgroup_path = cgroup_path
        self.lxc_path = directory / "lxc"  # as /var/lib/lxc
        self.pve_path = directory / "pve"  # as /etc/pve/lxc
        for path in (self.lxc_path, self.pve_path):
            path.mkdir(parents=True)
        self.containers: list[FakeContainer] = []
        self._pretenders: list[Pretender] = []
        self._numbers = itertools.count(1)
        self._nursery = Channel("the nursery of the containers")
        with self._nursery.theirs as control:
            command = [sys.executable, "-E", "-s", "-S", "-m", container_init.__name__]
            here = Path(__file__).parents[2]
            self._process = subprocess.Popen(command, stdin=control.fileno(), cwd=here, start_new_session=True)

    @property
    def lxc_config_dirs(self) -> list[str]:
        return [str(self.lxc_path), str(self.pve_path)]

    def __enter__(self) -> Containers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(
        self,
        ctid: str = "",
        *,
        name: str = "",
        name_in: NameIn = "both",
        foreground: bool = True,
        argv: Sequence[str] = (),
        user_namespace: bool = False,
        rootfs: Rootfs = "tmpfs",
        binds: Mapping[str, str] | None = None,
        cgroup: bool = True,
        hold: Hold = "",
    ) -> FakeContainer:
        """Start a container; it runs on return, unless held. Raises OSError.

        Without `ctid` it gets an id that no other session uses. `argv` replaces what the monitor is known as. `binds`
        are paths of the host and where they stand inside, bound as they are now, without what is mounted below them.
        `rootfs`: "image" is an ext4 file system on a loop device (`FakeContainer.image`). Without `cgroup` the id is
        in the monitor's title only. `hold`: "no-child" stops before there is an init, "before-pivot" where init still
        has the host's mount table; `FakeContainer.release` goes on.
        """
        ctid = ctid or f"{os.getpid()}{next(self._numbers):04}"
        root = self.lxc_path / ctid / "rootfs"
        root.mkdir(parents=True, exist_ok=True)
        self._configure(ctid, name, name_in)
        image = None
        if rootfs == "image":
            image = LoopImage(self.directory / f"{ctid}-{next(self._numbers)}.ext4")
            self._nursery.call("image", device=image.device, path=str(image.path))
        title = ["/usr/bin/lxc-start", "-F", "-n", ctid] if foreground else [f"[lxc monitor] /var/lib/lxc {ctid}"]
        settings = container_init.Settings(
            ctid=ctid,
            argv=list(argv or title),
            cgroup=self.cgroup_path if cgroup else "",
            rootfs=str(root),
            kind=rootfs,
            device=image.device if image else "",
            user_namespace=user_namespace,
            binds=[[source, target] for source, target in (binds or {}).items()],
        )
        container = FakeContainer(self._nursery, settings, hold, image)
        self.containers.append(container)
        return container

    def _configure(self, ctid: str, name: str, name_in: NameIn) -> None:
        if name and name_in in ("lxc", "both"):
            (self.lxc_path / ctid / "config").write_text(
                f"lxc.arch = amd64\nlxc.tty.max = 2\nlxc.uts.name = {name}\nlxc.cgroup.relative = 0\n"
            )
        if name and name_in in ("pve", "both"):
            (self.pve_path / f"{ctid}.conf").write_text(
                f"arch: amd64\ncores: 2\nhostname: {name}\nmemory: 512\nostype: debian\n"
            )

    def pretend(
        self,
        argv: Sequence[str],
        *,
        comm: str = "lxc-start",
        uid: int = 0,
        children: int = 1,
        user_namespace: bool = False,
    ) -> Pretender:
        """A process of that title with so many idle children.

        It runs as another user (`uid`), or as root but in a user namespace of its own, if wanted.
        """
        pretender = Pretender(self._nursery, argv, comm=comm, uid=uid, children=children, user_namespace=user_namespace)
        self._pretenders.append(pretender)
        return pretender

    def close(self) -> None:
        """End everything, remove the cgroups, give the loop devices back. Never hangs; may be called again."""
        try:
            for container in self.containers:
                container.begin_to_stop()
            for container in self.containers:
                container.stop()
            for pretender in self._pretenders:
                pretender.end()
        finally:
            self._nursery.close()
            try:
                self._process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self._process.kill()  # its monitors die of that, and their inits
                self._process.wait()
        if self.cgroup_path:
            for container in self.containers:
                for name in ("lxc", "lxc.monitor"):
                    prune(f"{self.cgroup_path}/{name}/{container.ctid}")
            for name in ("lxc", "lxc.monitor", "lxc.pivot"):
                with contextlib.suppress(OSError):  # another host of this session still uses it
                    os.rmdir(f"{self.cgroup_path}/{name}")


def not_ours() -> list[str]:
    """Patterns of the containers of other sessions on this machine: ours have ids that begin with our pid.

    Whoever asks their mounts would leave threads in what they let hang.
    """
    own = str(os.getpid())
    return [f"ct:{own[:n]}[!{digit}]*" for n, digit in enumerate(own)]
