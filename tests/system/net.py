"""A second host inside the lab: a network namespace behind a veth, which serves NFS and SMB, and the wire to it.

    with Server() as server:
        server.nfs(options="rw,no_root_squash")
        ...
        server.cut()      # packets are dropped on both sides of the wire
        server.join()

Only for the lab: it loads modules, sets addresses and filters of the machine, and leaves daemons to the machine's end.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.system.waiting import wait_until

CLIENT, ADDRESS = "10.99.0.1", "10.99.0.2"
EXPORTS = Path("/srv")
LIMIT = 60.0  # seconds for what takes a second or two


def run(*command: str, check: bool = True, text: str | None = None, limit: float = LIMIT) -> str:
    """A command of the test's own that cannot hang; its output, the errors' too."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, input=text, timeout=limit
    )
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"
    return done.stdout


def mountinfo(path: str | Path) -> str:
    """The lines of the mount table on this mount point."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.split()[4] == str(path))


class Server:
    """The host at the other end of the wire."""

    def __enter__(self) -> Self:
        if "srv" not in run("ip", "netns", "list"):
            run("ip", "netns", "add", "srv")
            run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", "srv")
            run("ip", "addr", "add", f"{CLIENT}/24", "dev", "veth0")
            run("ip", "link", "set", "veth0", "up")
            run("ip", "-n", "srv", "addr", "add", f"{ADDRESS}/24", "dev", "eth0")
            run("ip", "-n", "srv", "link", "set", "eth0", "up")
            run("ip", "-n", "srv", "link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.join()

    @staticmethod
    def inside(*command: str, check: bool = True) -> str:
        """A command on that host."""
        return run("nsenter", "--net=/run/netns/srv", *command, check=check)

    # ---- the wire

    @staticmethod
    def bridge(name: str = "br0") -> None:
        """Put our end of the wire, and our address, on a bridge, so that containers can be on the same wire."""
        if Path("/sys/class/net", name).exists():
            return
        run("ip", "link", "add", name, "type", "bridge")
        run("ip", "link", "set", name, "up")
        run("ip", "addr", "del", f"{CLIENT}/24", "dev", "veth0")
        run("ip", "addr", "add", f"{CLIENT}/24", "dev", name)
        run("ip", "link", "set", "veth0", "master", name)

    def cut(self) -> None:
        """From now on no packet passes; nobody is told."""
        self.join()
        # At the server's end alone, in both directions: containers on a bridge are cut off, too.
        self.inside("iptables-legacy", "-I", "INPUT", "-i", "eth0", "-j", "DROP")
        self.inside("iptables-legacy", "-I", "OUTPUT", "-o", "eth0", "-j", "DROP")

    def join(self) -> None:
        """Packets pass again."""
        self.inside("iptables-legacy", "-F", check=False)

    def disturb(self, *netem: str) -> None:
        """Delay and loss on what the client sends, as tc-netem(8) words it; nothing: none."""
        run("modprobe", "sch_netem", check=False)
        run("tc", "qdisc", "del", "dev", "veth0", "root", check=False)
        if netem:
            run("tc", "qdisc", "add", "dev", "veth0", "root", "netem", *netem)

    # ---- NFS

    def nfs(self, *, v3: bool = False, options: str = "rw,no_root_squash") -> None:
        """Export /srv/nfs. With a grace period of 10 s, the least that nfsd takes."""
        if not mountinfo(EXPORTS):
            run("mount", "--bind", str(EXPORTS), str(EXPORTS))
        self.export("nfs", options=options)
        if Path("/proc/fs/nfsd").exists() and mountinfo("/proc/fs/nfsd"):
            return
        run("modprobe", "nfsd")
        self.inside("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
        run("mount", "-t", "rpc_pipefs", "rpc_pipefs", "/run/rpc_pipefs", check=False)
        if v3:
            self.inside("rpcbind")
            self._versions.clear()
        self.inside("rpc.mountd", *self._versions)
        self.start_nfsd()

    _versions = ["-N", "3"]  # noqa: RUF012  the machine's

    def start_nfsd(self) -> None:
        self.inside("rpc.nfsd", *self._versions, "--grace-time", "10", "--lease-time", "10", "2")

    def stop_nfsd(self) -> None:
        self.inside("rpc.nfsd", "0")

    _exports: dict[str, str] = {}  # noqa: RUF012  the machine's

    def export(self, name: str, *, options: str = "rw,no_root_squash", fsid: int | None = None) -> Path:
        """Export a directory /srv/NAME, made if need be; or with other options from now on."""
        directory = EXPORTS / name
        (directory / "dir").mkdir(parents=True, exist_ok=True)
        (directory / "file").write_text("hello\n")
        number = fsid if fsid is not None else sum(map(ord, name))
        self._exports[name] = f"{directory} *({options},no_subtree_check,insecure,fsid={number})"
        self._export_all()
        return directory

    def withdraw(self, name: str) -> None:
        """The export is no longer offered."""
        del self._exports[name]
        self._export_all()

    def _export_all(self) -> None:
        Path("/etc/exports").write_text("".join(f"{line}\n" for line in self._exports.values()))
        self.inside("exportfs", "-ra")
        if mountinfo("/proc/fs/nfsd"):
            self.inside("exportfs", "-f")  # what the kernel remembers of clients and exports

    @contextlib.contextmanager
    def nfs_mount(self, where: str, options: str = "vers=4.2", name: str = "nfs") -> Iterator[Path]:
        """The export mounted at `where`, until it can be taken away again."""
        place = Path(where)
        place.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "nfs", "-o", options, f"{ADDRESS}:{EXPORTS / name}", where)
        try:
            yield place
        finally:
            self.join()
            while mountinfo(where):
                run("umount", "-l", where)

    # ---- SMB

    def smb(self) -> None:
        """Serve /srv/smb as //10.99.0.2/share, to user root with password "lab"."""
        (EXPORTS / "smb" / "dir").mkdir(parents=True, exist_ok=True)
        self._configure_smb(offered=True)
        run("smbpasswd", "-s", "-a", "root", text="lab\nlab\n")
        if not pids("smbd"):
            self.start_smbd()

    @staticmethod
    def _configure_smb(*, offered: bool) -> None:
        text = (
            "[global]\nserver role = standalone server\nmap to guest = never\nlog level = 0\ndisable netbios = yes\n"
            "smb ports = 445\ninterfaces = eth0\n"
        )
        if offered:
            text += f"[share]\npath = {EXPORTS / 'smb'}\nread only = no\n"
        Path("/etc/samba/smb.conf").write_text(text)

    def remove_share(self) -> None:
        """The share is no longer offered, and who uses it is put out."""
        self._configure_smb(offered=False)
        self.inside("smbcontrol", "smbd", "reload-config")
        self.inside("smbcontrol", "smbd", "close-share", "share")

    def offer_share(self) -> None:
        self._configure_smb(offered=True)
        self.inside("smbcontrol", "smbd", "reload-config")

    def start_smbd(self) -> None:
        self.inside("smbd", "-D")
        wait_until(lambda: ":445" in self.inside("ss", "-Htln"), "smbd listens")

    def stop_smbd(self) -> None:
        """All of its processes: connections end."""
        for pid in pids("smbd"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        wait_until(lambda: not pids("smbd"), "smbd is gone")


def pids(comm: str) -> list[int]:
    """The living processes of this name, also as "name: title" or "name/3"."""
    found = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            name, _, rest = Path("/proc", entry, "stat").read_text().partition("(")[2].rpartition(")")
            if re.split(r"[ /:]", name)[0] == comm and rest.split()[0] != "Z":
                found.append(int(entry))
    return found
