"""Real LXC containers for the lab, laid out as Proxmox VE lays them out.

    ct = Container("101", "plex", binds={"/mnt/nfs": "/media"})
    ct.start()                      # lxc-start -F, as the main process of a unit of systemd
    ct.run("mount", "-t", "nfs", ...)
    ct.stop(kill=True)

A container is a few directories of its own around the lab's /usr, and an init that waits. Only for the lab: what it
leaves behind ends with the machine. Must not know what is mounted inside, nor who watches.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fakes.fuse import SERVER, FuseServer, ServerProcess
from tests.fakes.loop_image import LoopImage
from tests.system.net import run
from tests.system.waiting import wait_until

LXC = Path("/var/lib/lxc")
BRIDGE = "br0"
FIRST_ID = 100_000  # of the host, which root of an unprivileged container has
WAIT = 30  # seconds for a start or a stop that takes one or two
UNIT = Path("/run/systemd/system/pve-container@.service")

# As `pct start` does it (pve-container@.service): in the foreground, restarted by nobody.
_UNIT = """[Service]
Type=simple
Delegate=yes
KillMode=mixed
TimeoutStopSec=120s
ExecStart=/usr/bin/lxc-start -F -n %i
"""

_CONFIG = """lxc.uts.name = {name}
lxc.rootfs.path = dir:{root}
lxc.init.cmd = /init
lxc.mount.auto = proc:rw sys:ro
lxc.mount.entry = /usr usr none bind,ro 0 0
lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file 0 0
lxc.autodev = 1
lxc.pty.max = 4
lxc.apparmor.profile = unconfined
lxc.cgroup.relative = 0
lxc.cgroup.dir.monitor = lxc.monitor/{ctid}
lxc.cgroup.dir.container = lxc/{ctid}
lxc.cgroup.dir.container.inner = ns
"""

# In place of Proxmox VE's pct(1), which is not in Debian, as far as alarms name it; `exec` is lxc-attach there, too
# (PVE::LXC::Command, PVE::CLI::pct), and a container runs under that unit.
PCT = Path("/usr/local/sbin/pct")
_PCT = """#!/bin/sh
do=$1 id=$2
shift 2
case $do in
    exec) [ "$1" = -- ] && shift && exec lxc-attach -n "$id" -- "$@" ;;
    stop) exec lxc-stop -n "$id" -k ;;
    start) exec systemctl start "pve-container@$id" ;;
    reboot) lxc-stop -n "$id" -t 30 && systemctl stop "pve-container@$id" && exec systemctl start "pve-container@$id" ;;
esac
exit 255
"""

# Ends at once when it is asked to: what a stop takes beyond that is not init's.
_INIT = """#!/bin/sh
trap 'exit 0' PWR
ip link set lo up
while :; do sleep 1000 & wait; done
"""


class Container:
    """One container; made at once, started by `start`."""

    def __init__(
        self,
        ctid: str,
        name: str,
        *,
        binds: Mapping[str, str] | None = None,
        address: str = "",
        unprivileged: bool = False,
        own_disk: bool = False,
        private: bool = False,
    ) -> None:
        """`binds`: directories of the host and where they stand inside. `address`: its own, on the server's wire.

        What the host mounts upon a bound directory later is seen inside, too, as LXC has it, unless it is `private`.
        `own_disk`: its root is an image on a loop device, mounted by the monitor in a mount namespace of its own.
        """
        self.ctid, self.name = ctid, name
        self.directory = LXC / ctid
        self.root = self.directory / "rootfs"
        self.root.mkdir(parents=True)
        self._unprivileged = unprivileged
        PCT.write_text(_PCT)
        PCT.chmod(0o755)
        run("modprobe", "fuse")
        os.chmod("/dev/fuse", 0o666)  # as udev makes it; there is none in the lab
        config = _CONFIG.format(name=name, ctid=ctid, root=self.root)
        for source, target in (binds or {}).items():
            options = "bind,create=dir,private" if private else "bind,create=dir"
            config += f"lxc.mount.entry = {source} {target.lstrip('/')} none {options} 0 0\n"
        config += self._network(address) + (self._idmap() if unprivileged else "")
        self.image: LoopImage | None = None
        if own_disk:
            run("modprobe", "loop")
            self.image = LoopImage(self.directory / "disk.ext4", ("busybox", "mke2fs", "-F"))
            config += self._hook(self.image)
        try:
            with self._mounted():
                self._fill()
            (self.directory / "config").write_text(config)
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)  # else the next one of this id cannot be made
            raise

    @staticmethod
    def _network(address: str) -> str:
        if not address:
            return "lxc.net.0.type = empty\n"
        return (
            f"lxc.net.0.type = veth\nlxc.net.0.link = {BRIDGE}\nlxc.net.0.flags = up\n"
            f"lxc.net.0.ipv4.address = {address}/24\n"
        )

    @staticmethod
    def _idmap() -> str:
        for file in ("/etc/subuid", "/etc/subgid"):
            Path(file).write_text(f"root:{FIRST_ID}:65536\n")
        return f"lxc.idmap = u 0 {FIRST_ID} 65536\nlxc.idmap = g 0 {FIRST_ID} 65536\n"

    def _hook(self, image: LoopImage) -> str:
        hook = self.directory / "mount-root"
        hook.write_text(f'#!/bin/sh\nexec mount -t ext4 {image.device} "$LXC_ROOTFS_PATH"\n')
        hook.chmod(0o755)
        return f"lxc.monitor.unshare = 1\nlxc.hook.pre-start = {hook}\n"

    @contextlib.contextmanager
    def _mounted(self) -> Iterator[None]:
        if self.image is None:
            yield
            return
        run("mount", "-t", "ext4", self.image.device, str(self.root))
        try:
            yield
        finally:
            run("umount", str(self.root))

    def _fill(self) -> None:
        for name in ("usr", "proc", "sys", "dev", "tmp", "run", "etc", "root", "mnt", "var/lib/nfs"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.root / name).symlink_to(f"usr/{name}")
        for name in ("passwd", "group", "netconfig", "protocols", "services", "nsswitch.conf"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"/etc/{name}", self.root / "etc")
        shutil.copy(SERVER, self.root)
        (self.root / "init").write_text(_INIT)
        (self.root / "init").chmod(0o755)
        if self._unprivileged:
            run("chown", "-hR", f"{FIRST_ID}:{FIRST_ID}", str(self.root))

    @property
    def label(self) -> str:
        """As it stands in messages."""
        return f"CT {self.ctid} {self.name}"

    # ---- its life

    def start(self, *, foreground: bool = True) -> None:
        """Under systemd in the foreground, as Proxmox VE does, or daemonised; returns when it runs."""
        if foreground:
            if not UNIT.exists():
                UNIT.parent.mkdir(parents=True, exist_ok=True)
                UNIT.write_text(_UNIT)
                run("systemctl", "daemon-reload")
            run("systemctl", "start", f"pve-container@{self.ctid}")
        else:
            run("lxc-start", "-d", "-n", self.ctid)
        self._wait_for("RUNNING")

    def stop(self, *, kill: bool = False, limit: float = 2 * WAIT) -> float:
        """The seconds until LXC says that it has stopped; raises subprocess.TimeoutExpired."""
        began = time.monotonic()
        run("lxc-stop", "-n", self.ctid, *(("-k",) if kill else ("-t", str(WAIT))), limit=limit)
        self._wait_for("STOPPED", limit)
        return time.monotonic() - began

    def _wait_for(self, state: str, limit: float = 2 * WAIT) -> None:
        run("lxc-wait", "-n", self.ctid, "-s", state, "-t", str(int(limit)), limit=limit + 5)

    def reboot(self) -> None:
        """From inside: the monitor stays, and starts another init. Returns when that runs."""
        before = self.init
        self.run("busybox", "reboot", "-f", check=False)
        wait_until(lambda: self.runs and self.init not in (0, before), "another init runs")

    def freeze(self) -> None:
        run("lxc-freeze", "-n", self.ctid)

    def thaw(self) -> None:
        run("lxc-unfreeze", "-n", self.ctid)

    @property
    def init(self) -> int:
        """The pid of its init, 0 if there is none."""
        return int(run("lxc-info", "-n", self.ctid, "-p", "-H") or 0)

    @property
    def runs(self) -> bool:
        return "RUNNING" in run("lxc-info", "-n", self.ctid, "-s", "-H")

    # ---- what is done inside

    @property
    def attach(self) -> tuple[str, ...]:
        """What stands before a command that is to run inside."""
        return ("lxc-attach", "-n", self.ctid, "--")

    def run(self, *command: str, check: bool = True) -> str:
        return run(*self.attach, *command, check=check)

    @contextlib.contextmanager
    def nfs_mount(self, source: str, where: str, options: str) -> Iterator[Path]:
        """Mounted inside by its own client in its own network, and unmounted while that is there.

        Else it is LXC's monitor that unmounts it at the very end, when the network has been taken down, and hangs.
        """
        self.run("mkdir", "-p", where)
        self.run("mount", "-t", "nfs", "-o", options, source, where)
        try:
            yield Path(where)
        finally:
            if self.runs:
                with contextlib.suppress(subprocess.TimeoutExpired):  # the server is gone: the test has failed before
                    run(*self.attach, "umount", "-l", where, check=False, limit=10)

    # ---- the end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.runs:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                self.stop(kill=True)
        if self.image is not None:
            self.image.detach()
        shutil.rmtree(self.directory)


class InsideFuse(FuseServer):
    """A FUSE server that runs in a container: its mounts exist only there, made by the container's own root."""

    creates_mount_points = True

    def __init__(self, container: Container) -> None:
        self._container = container
        super().__init__()

    def _start(self, control: socket.socket) -> ServerProcess:
        # Debian's own Python, which is in every container's /usr; ours may lie where only the host's root may go.
        command = [*self._container.attach, "/usr/bin/python3", "-I", "-S", f"/{SERVER.name}"]
        return subprocess.Popen(command, stdin=control.fileno(), cwd="/", start_new_session=True)

    def _unmount_remains(self) -> None:
        """They end with the container."""
