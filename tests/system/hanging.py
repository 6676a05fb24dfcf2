"""What hangs on a mount in a lab: processes that are at work in it, and a Proxmox VE that has it for a storage.

    with reads(place / "file"), storage("nas01", place):
        ...

Only for the lab: it takes the machine's /etc/pve for its own. Must not know how anything is broken.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.system.net import ADDRESS, EXPORTS

PVE = Path("/etc/pve")  # a directory here; there are paths.storage and paths.lxc_config, as by default
GUESTS = "CT 105 arr (mp0), VM 200 win (disk)"  # of `storage`, as messages name them
ENOUGH = 3600  # seconds that a process stays


@contextmanager
def _running(*command: str, cwd: str | Path = "/") -> Iterator[int]:
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()  # it is there
    try:
        yield process.pid
    finally:
        process.kill()  # one that nothing kills ends with the lab
        process.stdout.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.returncode = 0  # else it is complained of


@contextmanager
def reads(file: str | Path, inside: Sequence[str] = ()) -> Iterator[int]:
    """A tail(1), by its pid, that has read this file, a line at least, and looks for more; an error ends it.

    `inside`: see `Watch.outage`.
    """
    with _running(*inside, "tail", "-n", "+1", "-s", "2", "-f", str(file)) as pid:
        yield pid


@contextmanager
def works(directory: str | Path, inside: Sequence[str] = ()) -> Iterator[int]:
    """A sleep(1), by its pid, whose working directory this is."""
    script = f'cd "$0"; echo there; exec sleep {ENOUGH}'
    with _running(*inside, "sh", "-c", script, str(directory)) as pid:
        yield pid


@contextmanager
def storage(name: str, place: str | Path, kind: str = "nfs") -> Iterator[None]:
    """A storage of Proxmox VE's there, with a container that has a directory of it, and a virtual machine's disk."""
    server = f"\tserver {ADDRESS}\n\texport {EXPORTS / 'nfs'}\n" if kind == "nfs" else ""
    for file, text in (
        ("storage.cfg", f"{kind}: {name}\n\tpath {place}\n{server}\tcontent images\n"),
        ("lxc/105.conf", f"hostname: arr\nmp0: {place}/dir,mp=/films\n"),
        ("qemu-server/200.conf", f"name: win\nscsi0: {name}:200/vm-200-disk-0.qcow2,size=32G\n"),
    ):
        (PVE / file).parent.mkdir(parents=True, exist_ok=True)
        (PVE / file).write_text(text)
    try:
        yield
    finally:
        shutil.rmtree(PVE)
