"""Labs: machines in which tests run that are marked `lab`, and the reports that come back from there.

A lab is Debian under User-Mode Linux, an ordinary process of this machine (`lab/build`, `lab/run`). Into it go this
checkout and the Python that runs here, at the same paths; in it one pytest session runs the lab's tests and writes
each report to a file that we read as it grows. Knows nothing of what is tested.
"""

from __future__ import annotations

import compileall
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "lab"
CHECKOUT = Path(__file__).parents[2]
INSIDE = "MOUNTWATCH_LAB"  # in the environment of what runs in a lab: the lab's name
REPORTS = "reports.jsonl"
POLL = 0.1  # seconds between two looks at what the lab has reported
LAST_LINES = 60
DIED = 125  # exit code of `lab/run`: the machine ended before the command did
KIND = os.environ.get("LAB_KIND", "uml")  # or "qemu": Debian's stock kernel under emulation, several times slower


def missing() -> str:
    """Why no lab can be had here; empty if one can."""
    if os.geteuid() != 0:
        return "needs root"
    if platform.machine() != "x86_64":
        return f"needs an x86-64 machine, not {platform.machine()}"  # the only one of which Debian has the kernel
    for program, package in (("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("unshare", "util-linux")):
        if not shutil.which(program):
            return f"needs {program}: apt-get install {package}"
    return ""


def own_suite() -> str:
    """The Debian release whose Python runs here, if that is Debian's own: then the lab must have the same one."""
    if sys.base_prefix != "/usr":
        return ""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def image(suite: str, output: int | None = None) -> str:
    """The directory of a release's image, made if need be. `output`: a descriptor for what its making prints.

    $LAB_CACHE names another place than /var/cache/mountwatch-lab. Raises CalledProcessError.
    """
    cache = os.environ.get("LAB_CACHE") or "/var/cache/mountwatch-lab"
    built = subprocess.run(
        [HERE / "build", cache, suite],
        env={**os.environ, "WITH_QEMU": "1" if KIND == "qemu" else ""},
        stdout=subprocess.PIPE,
        stderr=output,
        check=True,
        text=True,
    )
    return built.stdout.strip()


def compile_checkout() -> None:
    """Write the bytecode of what runs in labs: they cannot, and compiling takes several times as long in them."""
    for directory in ("watcher", "tests"):
        compileall.compile_dir(CHECKOUT / directory, quiet=2)


def run(image: str, *command: str, limit: float, shares: Sequence[str] = ()) -> list[str]:
    """The command line that boots a lab and runs a command in it; see `lab/run` for its exit codes."""
    return [
        str(HERE / "run"),
        *("-t", str(int(limit * (5 if KIND == "qemu" else 1)))),
        *(("-m", "1536M") if KIND == "qemu" else ()),
        *(word for share in shares for word in ("-s", share)),
        image,
        *command,
    ]


class Lab:
    """One machine, from its start in a thread of its own until it is gone."""

    def __init__(self, name: str, suite: str, nodeids: Sequence[str], limit: float) -> None:
        """`limit`: seconds after which the machine is ended, its boot included."""
        self.name = name
        self.died = False  # and was booted a second time
        self._suite = suite
        self._nodeids = list(nodeids)
        self.limit = limit
        self._reports: dict[str, list[dict[str, Any]]] = {nodeid: [] for nodeid in nodeids}
        self._finished: set[str] = set()
        self._changed = threading.Condition()
        self._code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._directory = Path(tempfile.mkdtemp(prefix=f"lab-{name}."))
        self._output = self._directory / "output"
        self._thread = threading.Thread(target=self._run, name=f"lab {name}", daemon=True)

    @property
    def tests(self) -> int:
        return len(self._nodeids)

    def start(self, room: threading.Semaphore) -> None:
        """Boot as soon as there is room."""
        self._room = room
        self._thread.start()

    def reports(self, nodeid: str) -> Iterator[dict[str, Any]]:
        """A test's reports as they come, as `pytest_report_to_serializable` makes them; ends with it, or the lab."""
        seen = 0
        while True:
            with self._changed:
                while len(self._reports[nodeid]) == seen and nodeid not in self._finished and self._code is None:
                    self._changed.wait()
                new = self._reports[nodeid][seen:]
                over = nodeid in self._finished or self._code is not None
            yield from new
            seen += len(new)
            if over and not new:
                return

    def ended(self) -> str:
        """How the lab ended, for a test without reports, with the last lines of what it printed."""
        lines = self._output.read_text("utf-8", "replace").splitlines() if self._output.exists() else []
        return "\n".join([f"lab {self.name} ended with {self._code} before this test did:", *lines[-LAST_LINES:]])

    def output(self) -> str:
        """All that it has printed."""
        return self._output.read_text("utf-8", "replace") if self._output.exists() else ""

    def stop(self) -> None:
        """End the machine; what it printed is gone."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()
        if self._thread.ident is not None:
            self._thread.join(30)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self) -> None:
        code = DIED
        try:
            with self._output.open("wb") as output, self._room:
                if not self._stopped:
                    code = self._boot_and_run(image(self._suite, output.fileno()), output.fileno())
        except Exception as e:  # noqa: BLE001  the tests that wait for this lab must hear of it
            self._output.write_text(f"{e!r}\n")
        finally:
            self._read()
            with self._changed:
                self._code = code
                self._changed.notify_all()

    def _boot_and_run(self, image: str, output: int) -> int:
        code = self._boot(image, output, self._nodeids)
        self._read()
        left = [nodeid for nodeid in self._nodeids if nodeid not in self._finished]
        if code == DIED and left and not self._stopped:
            # User-Mode Linux panics now and then when this machine is short of something (seen: in fork): no word
            # about what is tested. Not twice in a row.
            os.write(output, b"lab: the machine died; booted once more for the rest\n")
            self.died = True
            code = self._boot(image, output, left)
        return code

    def _boot(self, image: str, output: int, nodeids: Sequence[str]) -> int:
        inside = ["env", f"--chdir={CHECKOUT}", f"{INSIDE}={self.name}"]
        inside += [f"{key}={os.environ[key]}" for key in ("CI",) if key in os.environ]
        # A lab is slow: only the plugins that its tests need.
        inside += ["PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", sys.executable, "-B", "-m", "pytest"]
        inside += ["-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
        inside += ["-q", "--color=no", *nodeids]
        shares = dict.fromkeys(p for p in (str(CHECKOUT), sys.prefix, sys.base_prefix) if p != "/usr")
        self._process = subprocess.Popen(
            run(image, *inside, limit=self.limit, shares=list(shares)),
            env={**os.environ, "LAB_JOB": str(self._directory / "job")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        if self._stopped:
            self._process.terminate()
        while True:
            try:
                return self._process.wait(POLL)
            except subprocess.TimeoutExpired:
                self._read()

    _at = 0

    def _read(self) -> None:
        path = self._directory / "job" / REPORTS
        try:
            with path.open("rb") as reports:
                reports.seek(self._at)
                data = reports.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        with self._changed:
            for line in whole.splitlines():
                said = json.loads(line)
                if "finished" in said:
                    self._finished.add(said["finished"])
                elif said["nodeid"] in self._reports:
                    self._reports[said["nodeid"]].append(said)
            self._changed.notify_all()
