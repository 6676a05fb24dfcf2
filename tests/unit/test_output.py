"""One pass as JSON, as tables and as an exit code: the parts that take values only."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence

import pytest
from rich.console import Console
from rich.table import Table

from tests.unit.mounts import SOME_USAGE, mount
from watcher import output
from watcher.core.capacity import CapacityState
from watcher.model import HOST, Container, MountState, Place, Reach, Usage
from watcher.once import Findings

ARR = Container("105", 4711, 99, "arr")
EVIL = Container("x\x1b[31m", 4712, 99, "a\n[red]@everyone")
MIB = 1 << 20


def state(namespace: str = HOST, container: Container | None = None, *, status: str = "ok") -> MountState:
    reach = Reach.OK if status == "ok" else Reach.STALE
    return MountState(Place(namespace, "/mnt/nas"), mount(), reach, status, usage=SOME_USAGE, container=container)


def filesystem(
    point: str = "/mnt/nas",
    container: Container | None = None,
    *,
    usage: Usage | None = SOME_USAGE,
    full: bool = False,
    error: str = "",
    source: str = "nas01:/data",
) -> CapacityState:
    place = Place(container.namespace if container else HOST, point)
    return CapacityState(place, mount(point, source=source), container, usage, full=full, error=error)


def findings(
    *states: MountState,
    capacity: Sequence[CapacityState] = (),
    notes: Sequence[str] = (),
    unmatched: Sequence[str] = (),
) -> Findings:
    return Findings(
        states=states,
        checked_at=1_800_000_000.0,
        duration=0.05,
        unmatched=tuple(unmatched),
        clock_offset=0.0,
        capacity=tuple(capacity),
        notes=tuple(notes),
    )


def rows(table: Table) -> list[list[str]]:
    """The cells of each line, the heading first; what stands between two columns is two blanks or more."""
    console = Console(file=io.StringIO(), width=400, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in capture.get().splitlines()]


# ---- JSON


def test_a_file_system_in_a_container_as_json() -> None:
    shown = filesystem("/data", ARR, usage=Usage(1000, 930, 50), full=True)
    document = output.to_json(findings(capacity=[shown], notes=["CT 7: cut"]), "pve1")
    assert json.loads(json.dumps(document["capacity"])) == [
        {
            "namespace": "ct:105",
            "lxc_id": "105",
            "lxc_name": "arr",
            "lxc_pid": 4711,
            "source": "nas01:/data",
            "target": "/data",
            "fstype": "nfs4",
            "readonly": False,
            "total_bytes": 1000,
            "used_bytes": 930,
            "available_bytes": 50,
            "usage_percent": 93.0,
            "full": True,
            "error": None,
            "device": "0:50",
            "root": "/",
        }
    ]
    assert document["notes"] == ["CT 7: cut"]


def test_what_is_not_known_is_null_with_the_reason() -> None:
    shown = filesystem(usage=None, error="no answer within 5 s")
    [entry] = output.to_json(findings(capacity=[shown]), "pve1")["capacity"]
    assert {key: entry[key] for key in entry if key.endswith(("_bytes", "_percent")) or key.startswith("lxc_")} == (
        dict.fromkeys(
            ["lxc_id", "lxc_name", "lxc_pid", "total_bytes", "used_bytes", "available_bytes", "usage_percent"]
        )
    )
    assert (entry["namespace"], entry["error"], entry["full"]) == ("host", "no answer within 5 s", False)


def test_the_host_comes_first_and_numbers_are_counted() -> None:
    other = ARR._replace(ctid="20")
    shown = [filesystem("/b10", ARR), filesystem("/b9", ARR), filesystem("/z", other), filesystem("/host")]
    entries = output.to_json(findings(capacity=shown), "pve1")["capacity"]
    assert [(e["lxc_id"], e["target"]) for e in entries] == [
        *((None, "/host"), ("20", "/z"), ("105", "/b9"), ("105", "/b10"))
    ]


def test_names_from_a_container_are_escaped_and_their_bytes_stand_beside_them() -> None:
    point = "/caf\udce9\n"
    [entry] = output.to_json(findings(capacity=[filesystem(point, EVIL, source="\x1b")]), "pve1")["capacity"]
    assert all(value.isprintable() for value in entry.values() if isinstance(value, str))
    assert (entry["target"], entry["lxc_name"]) == ("/caf\\xe9\\n", "a\\n[red]@everyone")
    assert base64.b64decode(entry["target_bytes"]) == os.fsencode(point)


def test_a_mount_tells_in_which_container_it_is() -> None:
    document = output.to_json(findings(state("ct:105", ARR), state()), "pve1")
    assert [[m[key] for key in ("lxc_id", "lxc_name", "lxc_pid")] for m in document["mounts"]] == [
        ["105", "arr", 4711],
        [None, None, None],
    ]
    nameless = output.to_json(findings(state("ct:105", ARR._replace(name=""))), "pve1")["mounts"][0]
    assert (nameless["lxc_name"], nameless["lxc_pid"]) == (None, 4711)


# ---- exit codes


@pytest.mark.parametrize(
    ("full", "status", "asked", "code"),
    [
        *((False, "ok", True, 0), (True, "ok", False, 0), (True, "ok", True, 1)),
        *((True, "stale", True, 2), (True, "stale", False, 2)),
    ],
)
def test_a_full_file_system_is_a_warning_to_who_asks(full: bool, status: str, asked: bool, code: int) -> None:
    found = findings(state(status=status), capacity=[filesystem(full=full)])
    assert output.exit_code(found, capacity=asked) == code


# ---- tables


def test_the_fullest_comes_first_and_what_is_not_known_last() -> None:
    table = output.capacity_table(
        [
            filesystem("/dead", ARR, usage=None, error="no answer within 5 s"),
            filesystem("/half", ARR, usage=Usage(100 * MIB, 50 * MIB, 40 * MIB)),
            filesystem("/full", ARR, usage=Usage(100 * MIB, 99 * MIB, 1 * MIB), full=True),
            filesystem("/host", usage=Usage(100 * MIB, 99 * MIB, 1 * MIB)),
        ]
    )
    assert rows(table) == [
        ["WHERE", "SOURCE", "TYPE", "SIZE", "USED", "FREE", "USE%", "CAUSE"],
        ["/host", "nas01:/data", "nfs4", "100 MiB", "99.0 MiB", "1.00 MiB", "99 %"],
        ["CT 105 arr /full", "nas01:/data", "nfs4", "100 MiB", "99.0 MiB", "1.00 MiB", "99 %"],
        ["CT 105 arr /half", "nas01:/data", "nfs4", "100 MiB", "50.0 MiB", "40.0 MiB", "50 %"],
        ["CT 105 arr /dead", "nas01:/data", "nfs4", "-", "-", "-", "-", "no answer within 5 s"],
    ]


def test_without_anything_to_explain_there_is_no_column_for_it() -> None:
    assert rows(output.capacity_table([filesystem()]))[0][-1] == "USE%"


def test_names_are_neither_markup_nor_control_characters() -> None:
    shown = filesystem("/[bold]x\x1b[2J", EVIL, source="[link=http://x]")
    [_, row] = rows(output.capacity_table([shown]))
    assert row[:2] == ["CT x\\x1b[31m a\\n[red]@\u2060everyone /[bold]x\\x1b[2J", "[link=http://x]"]
    [_, row] = rows(output.table([state("ct:105", ARR)]))
    assert row[1] == "CT 105 arr /mnt/nas"


@pytest.mark.parametrize(
    ("capacity", "line"),
    [
        ([], "No file systems whose capacity is looked at."),
        ([filesystem()], "1 file system"),
        ([filesystem(), filesystem("/b", full=True)], "2 file systems, 1 full"),
    ],
)
def test_the_line_below_the_table(capacity: list[CapacityState], line: str) -> None:
    assert output.capacity_summary(findings(capacity=capacity)) == line


def test_notes_are_one_line_each() -> None:
    [line] = output.note_lines(findings(notes=["CT 5\x1b[2J\nx"]))
    assert line.isprintable()
