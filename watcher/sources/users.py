"""The child that finds who uses file systems, and who serves FUSE ones: `users.main()` under `python -I -S`.

Standard input, fields that end with NUL, by kind: "proc" PATH; "own" FILE, whose processes are ours, by their command
line, and do not count; "wanted" MAJOR:MINOR FSTYPE SOURCE, a file system; "fuse" CONNECTION MOUNT-POINT PID COMM COMM,
a mount whose server is wanted: a process in its pid namespace ("0": ours), and what the server may be called; "waiting"
DIRECTORY, of fusectl; "directory" PATH, with configurations of guests; "file" PATH, such as storage.cfg; "seconds" N;
"allowance" FACTOR, how many times as much of the processor it may take as an alarm's search.

It looks at all processes once, for so many seconds at most, then reads the configurations: files of the directories,
as /var/lib/lxc and /etc/pve/lxc are laid out, and what lies beside the latter. /etc/pve is a FUSE mount, and may hang:
then this is killed, and what it has printed by then counts. Links of /proc are read, never followed. Standard library
only, and little of that: what json and re load costs as much as a walk over a thousand processes. It must not import
the project.

Standard output, lines of JSON: what `serving` says, in arrays; for each that is wanted, in this order, {"processes":
[{"pid", "comm", "mnt", "cgroup": "" but of the first, "blocked", "uses"}], "users", "blocked", "maybe", "cut", "lost",
"docker": [[container, LXC container or "", whether it holds an older mount], …], "jobs": [UPID, …]}, then {"running":
[UPID, …]}, all backups that run, then what `configured` says, then {"end": true, "seen": whether all
of it was ours to see}.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from watcher.sources import configured, serving
    from watcher.sources.serving import UTF8, say
    from watcher.sources.standing import WAITS, Points, Tables, Wanted, link, read, read_once
else:  # the directory that it was imported from itself
    import configured
    import serving
    from serving import UTF8, say
    from standing import WAITS, Points, Tables, Wanted, link, read, read_once

MAX_LISTED = 64
MAX_UNITS = 4  # processes of each sort whose cgroup is told: as many as a line names
MAX_FDS = 4096  # of one process
MAX_TASKS = 64
EVERY = 16  # processes between two looks at the clock
CPU_LIMIT = 0.11  # seconds of the processor, our own start included, after which nobody's open files are looked at
CPU_END = 0.4  # the same, after which nobody is: somebody has started processes by the ten thousand
START = 0.025  # the same, that our own start takes at most where those are meant (measured: 0.014 to 0.022)
MAX_JOBS = 16
MAX_PARENTS = 32
EXITING = 0x00000004  # PF_EXITING of linux/sched.h
KERNEL_THREAD = 0x00200000  # PF_KTHREAD of linux/sched.h, in proc_pid_stat(5)'s flags


class Search:
    """For the processes that use file systems, in whatever mount namespaces these stand."""

    def __init__(self, asked: Asked, pace: float) -> None:
        """`pace`: how many times as much of the processor as CPU_LIMIT and its like say it may take."""
        self._proc = asked.proc
        self._wanted = [Wanted(*each) for each in asked.wanted]
        self._tables = Tables(asked.proc, self._wanted)
        self._own = [name.encode(*UTF8) for name in asked.own]
        self._ends = time.monotonic() + asked.seconds
        self._pace = pace
        self._serving = serving.Serving(asked.proc, asked.fuse, self._ends, pace)
        self._waiters = _waiters(asked.waiting)  # that may yet be found to wait for a FUSE server; None: no idea
        self._our_program, self._our_processes = (link(f"{asked.proc}/self/{name}") for name in ("exe", "ns/pid"))
        self._lost = False  # not even all that wait have been looked at
        self.all_seen = True  # nothing is kept from us
        self.jobs: dict[str, str] = {}  # pid -> UPID of a backup

    def run(self) -> list[dict[str, Any]]:
        """Who waits comes first; then who has files open, as far as our share of the processor lasts."""
        rest, others = list[tuple[str, str, Points]](), list[str]()
        for namespace, pids, is_ours in self._spaces():
            if self._is_over(CPU_LIMIT) and not is_ours:  # there are too many of them
                self._cut(self._wanted)
                others += pids
                continue
            points = self._tables.points(pids[0], is_ours=is_ours)
            if not points.all and not is_ours:
                others += pids
                continue
            for number, pid in enumerate(pids):
                if number % EVERY == 0 and self._is_over(CPU_END):
                    self._lost = True
                    break
                stat = self._stat(pid)
                comm, _, fields = stat.partition(b"(")[2].rpartition(b")")
                words = fields.split()
                if len(words) < 18 or int(words[6]) & KERNEL_THREAD:
                    continue
                if is_ours:
                    self._note_job(pid, comm)
                self._serving.meet(pid, comm)
                if not points.all:
                    others.append(pid)
                    continue
                blocked, here = self._blocked(pid, words, points), points.of(link(f"{self._proc}/{pid}/cwd"))
                if blocked or here:
                    uses = here | self._uses(pid, points)
                    for one in {*blocked, *uses}:
                        one.found[pid] = namespace, one in blocked, one in uses
                else:
                    rest.append((pid, namespace, points))
        is_over = False
        for number, (pid, namespace, points) in enumerate(rest):
            is_over = is_over or (number % EVERY == 0 and self._is_over(CPU_LIMIT))
            if is_over:
                self._cut(points.all)
                continue
            for one in self._uses(pid, points):
                one.found[pid] = namespace, False, True
        self._serving.look_at([*(pid for pid, *_ in rest), *others])
        self._serving.end()
        return [self._said(one) for one in self._wanted]

    def _spaces(self) -> list[tuple[str, list[str], bool]]:
        """(mount namespace, its processes, whether it is ours), ours first: nobody has to wait for who has many."""
        spaces: dict[str, list[str]] = {}
        me, ours, pids = str(os.getpid()), link(f"{self._proc}/self/ns/mnt"), os.listdir(self._proc)
        self.all_seen = "1" in pids  # else others' are hidden: hidepid= of proc(5)
        for pid in pids:
            if pid.isdecimal() and pid != me:
                try:
                    spaces.setdefault(os.readlink(f"{self._proc}/{pid}/ns/mnt"), []).append(pid)
                except OSError as e:  # it has ended, or it is not ours to see
                    self.note(e)
        ordered = sorted(spaces.items(), key=lambda space: (space[0] != ours, len(space[1])))
        return [(namespace, pids, namespace == ours) for namespace, pids in ordered]

    def note(self, error: OSError) -> None:
        """Why something could not be looked at; what has ended is no loss."""
        self.all_seen = self.all_seen and not isinstance(error, PermissionError)

    def _is_over(self, limit: float) -> bool:
        return time.process_time() > limit * self._pace or time.monotonic() > self._ends

    @staticmethod
    def _cut(wanted: Iterable[Wanted]) -> None:
        for one in wanted:
            one.cut = True

    def _said(self, one: Wanted) -> dict[str, Any]:
        ordered = sorted(
            (
                (int(p), *how)
                for p, how in one.found.items()
                if not self._is_own(p) and not self._has_ended(p, waits=how[1])
            ),
            key=lambda how: (not how[2], not how[3], how[0]),
        )
        listed: list[dict[str, Any]] = []
        told: dict[tuple[bool, bool], int] = {}  # of each sort
        for pid, namespace, blocked, uses in ordered[:MAX_LISTED]:
            told[blocked, uses] = number = told.get((blocked, uses), 0) + 1
            cgroup = self._text(f"{pid}/cgroup") if number <= MAX_UNITS else ""
            listed.append(
                {
                    "pid": pid,
                    "comm": self._text(f"{pid}/comm"),
                    "mnt": namespace,
                    "cgroup": cgroup,
                    "blocked": blocked,
                    "uses": uses,
                }
            )
        jobs = dict.fromkeys(filter(None, (self._job_of(str(pid)) for pid, *_ in ordered[:MAX_LISTED])))
        return {
            "processes": listed,
            "users": sum(uses for *_, uses in ordered),
            "blocked": sum(blocked and uses for _, _, blocked, uses in ordered),
            "maybe": sum(not uses for *_, uses in ordered),
            "cut": one.cut,
            "lost": self._lost,
            "docker": [[docker, *how] for docker, how in one.docker.items()][:MAX_LISTED],
            "jobs": list(jobs),
        }

    # ---- what is more than a process

    def _note_job(self, pid: str, comm: bytes) -> None:
        """PVE's workers call themselves "task UPID:node:pid:pstart:starttime:type:id:user:" (PVE::RESTEnvironment)."""
        base = f"{self._proc}/{pid}"
        try:
            if not comm.startswith(b"task UPID:") or len(self.jobs) >= MAX_JOBS:
                return
            # Not the directory's owner: that is root, too, of whoever does not let himself be dumped.
            if b"\nUid:\t0\t" in read_once(f"{base}/status"):
                title = read_once(f"{base}/cmdline").partition(b"\0")[0].strip().removeprefix(b"task ")
                if b":vzdump:" in title:
                    self.jobs[pid] = title[:256].decode("utf-8", "backslashreplace")
        except OSError:
            pass

    def _job_of(self, pid: str) -> str:
        """The backup that a process belongs to, if it does: it is that worker, or has been started by it."""
        for _ in range(MAX_PARENTS if self.jobs else 0):
            if pid in self.jobs:
                return self.jobs[pid]
            try:
                pid = read_once(f"{self._proc}/{pid}/stat").rpartition(b")")[2].split(None, 2)[1].decode()
            except (OSError, IndexError):
                break
        return ""

    # ---- one process

    def _stat(self, pid: str) -> bytes:
        """proc_pid_stat(5); b"" of what has ended."""
        try:
            return read_once(f"{self._proc}/{pid}/stat")
        except OSError:
            return b""

    def _uses(self, pid: str, points: Points) -> set[Wanted]:
        """Which of them it has open."""
        found, devices, whole = set[Wanted](), list[str](), False
        try:
            directory = os.open(f"{self._proc}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            self.note(e)
            self._serving.unseen(e)
            return found
        try:
            with os.scandir(directory) as entries:  # not all of them at once: there may be a million
                for number, entry in enumerate(islice(entries, MAX_FDS)):
                    if number % 64 == 63 and self._is_over(CPU_LIMIT):
                        self._cut(points.all)
                        break
                    try:
                        path = os.readlink(entry.name, dir_fd=directory)
                    except OSError:
                        continue  # closed meanwhile
                    if serving.is_device(path):
                        devices.append(entry.name)
                    if path.startswith("/"):
                        found |= points.of(path)
                else:
                    whole = next(entries, None) is None
        except OSError:
            pass
        finally:
            os.close(directory)
        if whole:
            self._serving.saw(pid, devices)
        return found

    def _blocked(self, pid: str, words: list[bytes], points: Points) -> set[Wanted]:
        """Of which of them one of its threads may wait for the server, by what it waits for in the kernel.

        `words`: of its stat, from the state on.
        """
        base, here = f"{self._proc}/{pid}", {one for one in points.all if one.waits}
        if not here or words[17] == b"1":  # num_threads
            return self._waits_for(base, words[0], here)
        found: set[Wanted] = set()
        try:
            with os.scandir(f"{base}/task") as entries:
                threads = [f"{base}/task/{entry.name}" for entry in islice(entries, MAX_TASKS)]
            for task in threads:
                state = read_once(f"{task}/stat").rpartition(b")")[2].split(None, 1)[0]
                found |= self._waits_for(task, state, here - found)
        except (OSError, IndexError):
            pass
        return found

    def _waits_for(self, task: str, state: bytes, candidates: set[Wanted]) -> set[Wanted]:
        # FUSE waits as S until a signal comes; the others are D from the beginning. A look at a stack is dear.
        if state == b"S":
            candidates = {one for one in candidates if one.fstype.startswith(b"fuse")} if self._waiters != 0 else set()
        if not candidates or state not in (b"D", b"S"):
            return set()
        try:
            stack = read_once(f"{task}/stack").decode("ascii", "replace")
        except OSError as e:
            self.note(e)
            return set()
        names = [line.partition("] ")[2].lstrip("_") for line in stack.splitlines()]
        # A FUSE server waits in fuse_dev_read for requests: that is its work.
        if any(f.startswith("fuse_dev_") for f in names):
            return set()
        if self._waiters and any(f.startswith(WAITS["fuse"]) for f in names):
            self._waiters -= 1
        return {one for one in candidates if any(f.startswith(one.waits) for f in names)}

    def _is_own(self, pid: str) -> bool:
        """Whether it is a child of ours: the same program, in our pid namespace.

        Of no other the command line is read: that waits for whoever changes the memory of a process, and he may wait
        for the very mount, or for what a container has made to hold us up.
        """
        base = f"{self._proc}/{pid}"
        if link(f"{base}/exe") != self._our_program or link(f"{base}/ns/pid") != self._our_processes:
            return False
        try:
            command = read(f"{base}/cmdline", 1 << 14)
        except OSError:
            return False
        return any(name in command.split(b"\0") for name in self._own)

    def _has_ended(self, pid: str, *, waits: bool) -> bool:
        """Whether it is gone, or about to go and not held up in that: a child of ours has no name any more."""
        fields = self._stat(pid).rpartition(b")")[2].split()
        return len(fields) < 7 or fields[0] in (b"Z", b"X") or (not waits and bool(int(fields[6]) & EXITING))

    def _text(self, file: str) -> str:
        try:
            return read_once(f"{self._proc}/{file}").rstrip(b"\n").decode(*UTF8)
        except OSError:
            return ""


def _waiters(directory: str) -> int | None:
    """How many requests wait for FUSE servers in all, by fusectl; None where that does not tell."""
    try:
        return sum(int(read_once(f"{directory}/{name}/waiting")) for name in os.listdir(directory))
    except (OSError, ValueError):
        return None


class Asked:
    """What is to be found out; see the module's docstring."""

    def __init__(self, fields: Iterator[str]) -> None:
        self.proc, self.waiting, self.seconds, self.allowance = "/proc", "", 1.0, 1.0
        self.own, self.directories, self.files = list[str](), list[str](), list[str]()
        self.wanted, self.fuse = list[tuple[str, str, str]](), list[tuple[int, str, int, tuple[str, ...]]]()
        for kind in fields:
            value = next(fields)
            match kind:
                case "proc":
                    self.proc = value
                case "own":
                    self.own.append(value)
                case "wanted":
                    self.wanted.append((value, next(fields), next(fields)))
                case "fuse":
                    point, pid = next(fields), int(next(fields))
                    self.fuse.append((int(value), point, pid, (next(fields), next(fields))))
                case "waiting":
                    self.waiting = value
                case "directory":
                    self.directories.append(value.rstrip("/"))
                case "file":
                    self.files.append(value)
                case "seconds":
                    self.seconds = float(value)
                case "allowance":
                    self.allowance = float(value)


def main() -> None:
    # A slow machine has as many processes as another: what its start took tells how much slower it is.
    pace = max(1.0, time.process_time() / START)
    fields = sys.stdin.buffer.read().decode(*UTF8).split("\0")
    asked = Asked(iter(fields[:-1]))
    search = Search(asked, pace * asked.allowance)
    for said in search.run():
        say(said)
    say({"running": list(search.jobs.values())})
    devices = [device for device, *_ in asked.wanted]
    configured.tell(asked.files, asked.directories, search.note, asked.proc, devices)
    say({"end": True, "seen": search.all_seen})
    os._exit(0)  # no waiting for threads
