"""What is loaded, and what is not: most of the service's memory, and of what each start of a command costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from watcher.children import ALONE
from watcher.probing import child

HEAVY = ("aiohttp", "aiohttp.client", "apprise", "click", "prometheus_client", "rich")


def loaded(code: str) -> set[str]:
    """Which of the heavy modules are loaded after this code, in a Python of its own."""
    shown = f"\nimport sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    run = [sys.executable, "-W", "error", "-c", code + shown]
    return set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())


PREPARED = "from watcher import serving; from watcher.status import serverside; serverside.prepare()"
ASKED = f"{PREPARED}; import watcher.status.api"
WHOLE = "import aiohttp; assert aiohttp.web is watcher.status.api.web; aiohttp.client.ClientSession"


def test_at_rest() -> None:
    assert loaded("from watcher import serving") == set()


def test_asked() -> None:
    """With aiohttp's server, and without its client."""
    assert loaded(ASKED) == {"aiohttp"}


def test_asked_with_a_heartbeat() -> None:
    """The client is aiohttp's own, whichever of both comes first."""
    for code in (
        f"{ASKED}; import watcher.delivery.ping; {WHOLE}",
        f"import watcher.delivery.ping; {ASKED}; {WHOLE}",
        f"{ASKED}; from aiohttp import ClientTimeout; {WHOLE}",
        f"{ASKED}; from aiohttp import *; ClientSession; {WHOLE}",
    ):
        assert loaded(code) == {"aiohttp", "aiohttp.client"}
    nothing = f"{ASKED}; import aiohttp\ntry: aiohttp.nothing\nexcept AttributeError: pass\nelse: raise SystemExit(1)"
    assert loaded(nothing) == {"aiohttp", "aiohttp.client"}


SERVICE = {"aiohttp", "aiosqlite", "anyio", "apprise", "prometheus_client", "pyinotify", "watcher.daemon"}
TELLING = {"watcher.core.incident", "watcher.core.messages", "watcher.core.saved"}
LOOKING = {"sqlite3", "watcher.core.picture", "watcher.once", "watcher.probing.prober"}


def modules(code: str) -> set[str]:
    """All that are loaded after this code."""
    run = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    return set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())


def test_one_pass() -> None:
    """Cron runs it each minute; it tells nobody."""
    found = modules("from watcher import cli, once, output")
    assert found >= LOOKING
    assert found.isdisjoint({*SERVICE, *TELLING, "http.client", "shutil", "tempfile"})


def test_asking() -> None:
    """A command that asks the service does not know how to look itself."""
    found = modules("from watcher import cli, overview, quieting")
    assert found >= {"http.client", "watcher.output"}
    assert found.isdisjoint({*SERVICE, *TELLING, *LOOKING})


def test_checking_the_configuration() -> None:
    found = modules("from watcher import cli, channels")
    assert found.isdisjoint({*SERVICE, *TELLING, *LOOKING, "http.client"})


def test_a_command_ends_at_once() -> None:
    """What it has loaded is not taken apart; what it has said is written all the same."""
    code = "import atexit, sys; atexit.register(print, 'apart'); sys.argv[1:] = ['--version']\n"
    run = [sys.executable, "-c", f"{code}from watcher.__main__ import main; print('said', end=' '); main()"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("said watcher, version")
    assert "apart" not in done.stdout


def test_probe_child() -> None:
    """What a sweep costs is the start of its child, threads' own descriptor tables included."""
    file = Path(child.__file__)
    code = f"import sys; sys.path.insert(0, {str(file.parent)!r}); import child; child.Pool([]); print(*sys.modules)"
    run = [sys.executable, *ALONE, "-c", code]
    found = set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
    assert "child" in found
    assert found.isdisjoint(("os", "ctypes", "types", "struct", "site"))
