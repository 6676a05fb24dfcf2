"""`python -m tests.bench`, as root, from the root of the repository: measures everything and prints one table.

Progress goes to standard error, the table to standard output. The exit code says whether it could be measured, not
whether targets were reached: machines differ.
"""

from __future__ import annotations

import argparse
import compileall
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import watcher
from tests.bench import asked, containers, events, incident, report, service, storm, sweeps
from tests.bench.stage import Stage, Unavailable, stage


def sections(options: argparse.Namespace) -> dict[str, Callable[[Stage], report.Section]]:
    """What is measured, in its order, by the names that --only takes."""
    if options.quick:
        found: dict[str, Callable[[Stage], report.Section]] = {
            "healthy": partial(sweeps.healthy, sizes=[10, 40]),
            "some-hung": partial(sweeps.some_hung, size=40, count=4, timeout=0.5, bound=1),
            "all-hung": partial(sweeps.all_hung, size=20, timeout=0.5, bound=1),
            "events": partial(events.section, sizes=[10], changes=6),
            "once": partial(service.start_up, count=10, rounds=1),
            "idle": partial(service.idle, count=20, duration=0.5),
            "asked": partial(asked.section, count=20, duration=1.5),
            "storm": partial(storm.section, count=12, servers=3, fast=True),
            "incident": partial(incident.section, processes=20, rounds=1),
            "containers": partial(containers.section, count=6, mounts=4, own=2, rounds=1),
            "container-starts": partial(containers.starts, changes=2),
            "container-idle": partial(containers.idle, count=3, mounts=2, duration=0.5),
        }
    else:
        found = {
            "healthy": partial(sweeps.healthy, sizes=[10, 100, 1000, 5000]),
            "some-hung": partial(sweeps.some_hung, size=1000, count=50, timeout=2.0, bound=20),
            "all-hung": partial(sweeps.all_hung, size=200, timeout=2.0, bound=20),
            "events": partial(events.section, sizes=[10, 1000], changes=200),
            "once": partial(service.start_up, count=10, rounds=10),
            "idle": partial(service.idle, count=20, duration=options.seconds),
            "asked": partial(asked.section, count=500, duration=options.seconds),
            "storm": partial(storm.section, count=1000, servers=20),
            "incident": partial(incident.section, processes=2000, rounds=7),
            "containers": partial(containers.section, count=200, mounts=20, own=50, rounds=7),
            "container-starts": partial(containers.starts, changes=20),
            "container-idle": partial(containers.idle, count=20, mounts=5, duration=options.seconds),
        }
    if options.alarms:
        found["alarms"] = partial(service.alarms, count=20)
    return {name: found[name] for name in found if not options.only or name in options.only}


def machine() -> list[str]:
    """What the figures hold for."""
    cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    models = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return [
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"Linux {platform.release()}",
        f"{len(models) or '?'} × {models[0] if models else platform.machine()}",
        f"Python {platform.python_version()}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the watcher. Needs root.")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, some seconds in all: proves only that it runs"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the service is watched at rest (60)")
    parser.add_argument("--alarms", action="store_true", help="also the time until messages arrive (two minutes)")
    parser.add_argument("--only", action="append", metavar="NAME", help="one part: healthy, some-hung, all-hung, ...")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    options = parser.parse_args()
    wanted = sections(options)
    if unknown := set(options.only or ()) - set(wanted):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    # As pip leaves it: else, where PYTHONDONTWRITEBYTECODE is set, each start compiles it, and that counts, too.
    compileall.compile_dir(str(Path(watcher.__file__).parent), quiet=2)
    done, code = [], 0
    try:
        with stage() as mounts:
            for name, measure in wanted.items():
                print(f"{name} …", file=sys.stderr, flush=True)
                try:
                    done.append(measure(mounts))
                except Unavailable as e:
                    print(f"{name} {e}", file=sys.stderr)
                    code = 1
    except Unavailable as e:
        print(f"the benchmark {e}", file=sys.stderr)
        return 1
    print((report.as_markdown if options.markdown else report.as_text)(machine(), done))
    return code


if __name__ == "__main__":
    sys.exit(main())
