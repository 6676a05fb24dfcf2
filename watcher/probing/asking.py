"""The child that looks around a mount that has failed: `asking.main()` under `python -I -S`.

It never touches the mount. It connects to servers (from a container's network namespace, too), reads fusectl and
mountstats, and looks for units. Each question has a thread of its own, so that one that hangs holds up no other, and it
is expected to be killed. Standard library only, and little of that, since loading json alone doubles what the start
costs; it must not import the project.

Standard input, fields that end with NUL: where proc(5) is, then by kind "port" ADDRESS PORT PID, a process in whose
network namespace to ask ("0": ours); "stats" PID, the same; "waiting" DIRECTORY CONNECTION, of fusectl; "unit" NAME.
Standard output: one JSON array a line, `[kind, ...]`, as each fact is found; at last `["end"]`.
"""

from __future__ import annotations

import _socket as sockets  # what is beneath the module, which takes as long to load as the interpreter to start
import os
import sys
from _thread import allocate_lock, stack_size, start_new_thread

try:
    from _json import encode_basestring_ascii as quoted
except ImportError:  # another Python than CPython
    from json import dumps as quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CONNECT = 1.0  # seconds for a server to accept a connection
CLONE_NEWNET = 0x40000000  # linux/sched.h
MAX_STATS = 1 << 18  # bytes of what is passed on of mountstats
UNITS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")


class _Asking:
    """Threads, and what they say."""

    def __init__(self, proc: str) -> None:
        self._proc = proc
        self._lock = allocate_lock()
        self._running = 1  # until all have been started
        self._over = allocate_lock()
        self._over.acquire()

    def start(self, ask: Callable[..., None], *arguments: Any) -> None:
        with self._lock:
            self._running += 1
        start_new_thread(self._run, (ask, arguments))

    def _run(self, ask: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            ask(*arguments)
        except (OSError, ValueError):
            pass  # what cannot be found out is left out
        finally:
            self._end_one()

    def _end_one(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0:
                self._over.release()

    def wait(self) -> None:
        self._end_one()
        self._over.acquire()

    def say(self, *words: str | int) -> None:
        line = b"[%b]\n" % ", ".join(quoted(w) if isinstance(w, str) else str(w) for w in words).encode("ascii")
        with self._lock:
            while line:
                line = line[os.write(1, line) :]

    # ---- servers

    def port(self, address: str, port: int, pid: int) -> None:
        """`pid`: a process in whose network namespace to ask; 0: ours."""
        if pid:
            self._enter_network(pid)
        # As bytes: for text the codec of international names would be loaded.
        family, kind, protocol, _, where = sockets.getaddrinfo(
            address.encode(), port, type=sockets.SOCK_STREAM, flags=sockets.AI_NUMERICHOST | sockets.AI_NUMERICSERV
        )[0]
        connection = sockets.socket(family, kind, protocol)
        try:
            connection.settimeout(CONNECT)
            connection.connect(where)
        except ConnectionRefusedError:
            result = "refused"
        except TimeoutError:
            result = "no answer"
        except OSError as e:
            if e.errno not in (101, 113):  # ENETUNREACH, EHOSTUNREACH
                raise
            result = "unreachable"
        else:
            result = "reachable"
        finally:
            connection.close()
        self.say("port", address, port, pid, result)

    def _enter_network(self, pid: int) -> None:
        """This thread alone: a socket belongs to the network namespace that its thread was in."""
        namespace = os.open(f"{self._proc}/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if sys.version_info >= (3, 12):
                os.setns(namespace, CLONE_NEWNET)
            else:
                import ctypes

                if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(namespace)

    def stats(self, pid: int) -> None:
        """The lines of mountstats that tell of NFS transports."""
        found = b""
        with open(f"{self._proc}/{pid or 'self'}/mountstats", "rb") as file:
            for line in file:  # one at a time: a container may have a hundred thousand mounts with long names
                if line.startswith(b"\txprt:") or (line.startswith(b"device ") and b" with fstype nfs" in line):
                    found += line
                    if len(found) >= MAX_STATS:
                        break
        self.say("stats", pid, found[:MAX_STATS].decode("utf-8", "surrogateescape"))

    # ---- FUSE

    def waiting(self, directory: str, number: int) -> None:
        with open(f"{directory}/{number}/waiting", "rb") as file:
            self.say("waiting", number, int(file.read(32)))

    # ---- systemd

    def unit(self, name: str) -> None:
        if any(os.path.lexists(f"{directory}/{name}") for directory in UNITS):
            self.say("unit", name)


def main() -> None:
    stack_size(256 * 1024)
    fields = iter(sys.stdin.buffer.read().decode("utf-8", "surrogateescape").split("\0")[:-1])
    asking = _Asking(next(fields))
    for kind in fields:
        value = next(fields)
        if kind == "port":
            asking.start(asking.port, value, int(next(fields)), int(next(fields)))
        elif kind == "stats":
            asking.start(asking.stats, int(value))
        elif kind == "unit":
            asking.start(asking.unit, value)
        elif kind == "waiting":
            asking.start(asking.waiting, value, int(next(fields)))
    asking.wait()
    asking.say("end")
    os._exit(0)  # no waiting for threads
