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

CLIENT, ADDRESS = "10.99.0.1", "10.99.0.2"
INSIDE = ("nsenter", "--net=/run/netns/srv")  # what stands before a command that is to run on that host
EXPORTS = Path("/srv")
FSTAB = Path("/etc/fstab")  # empty in the lab
SMB_CONF = Path("/etc/samba/smb.conf")
LIMIT = 60.0  # seconds for what takes a second or two

# In place of Debian's units, which would serve on this side of the wire; as those are, as far as starts and stops go.
# With a grace period of 10 s, the least that nfsd takes.
UNITS = Path("/run/systemd/system")
_NFS_SERVER = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStartPre=-{inside} exportfs -r
ExecStart={inside} rpc.nfsd {versions} --grace-time 10 --lease-time 10 2
ExecStop={inside} rpc.nfsd 0
ExecStopPost={inside} exportfs -au
ExecStopPost={inside} exportfs -f
"""
_SMBD = """[Service]
Type=notify
PIDFile=/run/samba/smbd.pid
ExecStart={inside} smbd --foreground --no-process-group
"""
PING = Path("/usr/local/bin/ping")  # the lab has no other


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
            PING.unlink(missing_ok=True)
            PING.symlink_to("/bin/busybox")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.join()

    @staticmethod
    def inside(*command: str, check: bool = True) -> str:
        """A command on that host."""
        return run(*INSIDE, *command, check=check)

    @staticmethod
    def _install(unit: str, text: str) -> None:
        """A service of that host, so that `systemctl restart` is what it is elsewhere."""
        file, text = UNITS / unit, text.replace("{inside}", f"/usr/bin/{' '.join(INSIDE)}")
        if file.exists() and file.read_text() == text:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        Path("/etc/systemd/system", unit).unlink(missing_ok=True)  # the image masks it
        run("systemctl", "daemon-reload")

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
        """Export /srv/nfs."""
        if not mountinfo(EXPORTS):
            run("mount", "--bind", str(EXPORTS), str(EXPORTS))
        self.export("nfs", options=options)
        if Path("/proc/fs/nfsd").exists() and mountinfo("/proc/fs/nfsd"):
            return
        run("modprobe", "nfsd")
        self.inside("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
        run("mount", "-t", "rpc_pipefs", "rpc_pipefs", "/run/rpc_pipefs", check=False)
        versions = () if v3 else ("-N", "3")
        if v3:
            self.inside("rpcbind")
        self.inside("rpc.mountd", *versions)
        self._install("nfs-server.service", _NFS_SERVER.replace("{versions}", " ".join(versions)))
        run("systemctl", "start", "nfs-server")

    @staticmethod
    def stop_nfsd() -> None:
        run("systemctl", "stop", "nfs-server")

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
        """The export is no longer offered, though /etc/exports has it."""
        self.inside("exportfs", "-u", f"*:{EXPORTS / name}")

    def _export_all(self) -> None:
        Path("/etc/exports").write_text("".join(f"{line}\n" for line in self._exports.values()))
        self.inside("exportfs", "-ra")
        if mountinfo("/proc/fs/nfsd"):
            self.inside("exportfs", "-f")  # what the kernel remembers of clients and exports

    @contextlib.contextmanager
    def nfs_mount(
        self, where: str, options: str = "vers=4.2", name: str = "nfs", *, fstab: bool = False
    ) -> Iterator[Path]:
        """The export mounted at `where`, until it can be taken away again. `fstab`: as it stands there meanwhile."""
        place = Path(where)
        place.mkdir(parents=True, exist_ok=True)
        source = f"{ADDRESS}:{EXPORTS / name}"
        if fstab:
            FSTAB.write_text(f"{source} {where} nfs {options},noauto 0 0\n")
        run("mount", *([] if fstab else ["-t", "nfs", "-o", options, source]), where)
        try:
            yield place
        finally:
            self.join()
            FSTAB.write_text("")
            while mountinfo(where):
                run("umount", "-l", where)

    # ---- SMB

    def smb(self) -> None:
        """Serve /srv/smb as //10.99.0.2/share, to user root with password "lab"."""
        (EXPORTS / "smb" / "dir").mkdir(parents=True, exist_ok=True)
        (EXPORTS / "smb" / "file").write_text("hello\n")
        self.write_share()
        run("smbpasswd", "-s", "-a", "root", text="lab\nlab\n")
        self._install("smbd.service", _SMBD)
        run("systemctl", "start", "smbd")

    @staticmethod
    def write_share(*, offered: bool = True) -> None:
        """Into smb.conf alone: smbd is to be told."""
        text = (
            "[global]\nserver role = standalone server\nmap to guest = never\nlog level = 0\ndisable netbios = yes\n"
            "smb ports = 445\ninterfaces = eth0\n"
        )
        if offered:
            text += f"[share]\npath = {EXPORTS / 'smb'}\nread only = no\n"
        SMB_CONF.write_text(text)

    def remove_share(self) -> None:
        """The share is no longer offered, and who uses it is put out."""
        self.write_share(offered=False)
        self.inside("smbcontrol", "smbd", "reload-config")
        self.inside("smbcontrol", "smbd", "close-share", "share")

    @staticmethod
    def stop_smbd() -> None:
        """All of its processes: connections end."""
        run("systemctl", "stop", "smbd")


def pids(comm: str) -> list[int]:
    """The living processes of this name, also as "name: title" or "name/3"."""
    found = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            name, _, rest = Path("/proc", entry, "stat").read_text().partition("(")[2].rpartition(")")
            if re.split(r"[ /:]", name)[0] == comm and rest.split()[0] != "Z":
                found.append(int(entry))
    return found
