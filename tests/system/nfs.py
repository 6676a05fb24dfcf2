"""A real NFS server for tests in the lab machine: nfsd in a network namespace behind a veth, so that it can be cut off.

server = NfsServer()
server.start()              # once for a machine; it has no stop
server.export               # "10.99.0.2:/srv/nfs", NFS 4
server.drop()               # packets vanish, as with a dead machine
server.let_through()
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CLIENT, SERVER = "10.99.0.1", "10.99.0.2"
DIRECTORY = "/srv/nfs"
_NAMESPACE = "nfs-server"


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class NfsServer:
    export = f"{SERVER}:{DIRECTORY}"

    def start(self) -> None:
        run("ip", "netns", "add", _NAMESPACE)
        run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", _NAMESPACE)
        run("ip", "addr", "add", f"{CLIENT}/24", "dev", "veth0")
        run("ip", "link", "set", "veth0", "up")
        for arguments in (("addr", "add", f"{SERVER}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            run("ip", "-n", _NAMESPACE, *arguments)
        run("ip", "-n", _NAMESPACE, "link", "set", "lo", "up")

        os.makedirs(DIRECTORY, exist_ok=True)
        Path(DIRECTORY, "file").write_text("hello\n")
        run("modprobe", "nfsd")
        self._inside("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
        Path("/etc/exports").write_text(f"{DIRECTORY} *(rw,no_root_squash,no_subtree_check,insecure,fsid=1)\n")
        self._inside("exportfs", "-ra")
        self._inside("rpc.mountd", "-N", "3")
        # A restarted server makes its clients wait for the grace period: as short as it takes.
        self._inside("rpc.nfsd", "-N", "3", "--grace-time", "10", "--lease-time", "10", "2")

    @staticmethod
    def _inside(*command: str) -> None:
        # Not "ip netns exec", which makes a mount namespace of its own.
        run("nsenter", f"--net=/run/netns/{_NAMESPACE}", *command)

    def drop(self) -> None:
        run("iptables-legacy", "-I", "INPUT", "-i", "veth0", "-j", "DROP")
        run("iptables-legacy", "-I", "OUTPUT", "-o", "veth0", "-j", "DROP")

    def let_through(self) -> None:
        run("iptables-legacy", "-F")
