"""What a path is taken for, and what is said of the mount that it lies on: without any file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.core.entries import detailed_entry
from watcher.core.explain import (
    Address,
    address,
    advice_on,
    base_of,
    by_source,
    nearby,
    normalised,
    places_of,
    same_file_system,
    watched_on_the_way,
)
from watcher.core.filters import Filter
from watcher.core.mountinfo import parse
from watcher.core.wording import past_words
from watcher.explained import lines
from watcher.model import HOST, Cause, Change, Container, Kind, Mount, MountState, Pace, Place, Reach, TableRead

HOST_TABLE = b"""\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
30 21 0:50 / /mnt/pve/nas01 rw - nfs4 nas01:/export rw,hard,vers=4.2
31 21 0:51 / /mnt/iso rw - nfs4 nas02:/iso rw,hard
32 30 0:52 / /mnt/pve/nas01/sub rw - tmpfs none rw
33 21 0:53 / /srv rw - nfs4 nas03:/srv rw
34 33 0:54 / /srv rw - nfs4 nas03:/srv rw
"""
CT_TABLE = b"""\
121 1 7:0 / / rw - ext4 /dev/loop0 rw
130 121 0:50 /media /media rw - nfs4 nas01:/export rw,hard,vers=4.2
"""
CONTAINER = Container("101", 4711, 1, "plex")
TABLES = {
    HOST: TableRead(HOST, parse(HOST_TABLE)),
    CONTAINER.namespace: TableRead(CONTAINER.namespace, parse(CT_TABLE), CONTAINER),
}
WATCHED = Filter(fstypes=["nfs4"], include=["*"], exclude=(), show_only=(), pace=Pace())


def state(path: str, status: str = "ok", namespace: str = HOST, cause: Cause | None = None) -> MountState:
    mount = next(m for m in TABLES[namespace].mounts if m.mount_point == path)
    return MountState(Place(namespace, path), mount, Reach.OK, status, cause, container=TABLES[namespace].container)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/mnt/nas", Address(HOST, "/mnt/nas")),
        ("//mnt/./nas/../nas/", Address(HOST, "/mnt/nas")),
        ("/../..", Address(HOST, "/")),
        ("host:/mnt", Address(HOST, "/mnt")),
        ("ct:101:/data/x", Address("ct:101", "/data/x")),
        ("ct:101:/a:b", Address("ct:101", "/a:b")),
        ("nas/x", Address(HOST, "/here/nas/x")),
        (".", Address(HOST, "/here")),
        ("a:b", Address(HOST, "/here/a:b")),
    ],
)
def test_address(text: str, expected: Address) -> None:
    assert address(text, "/here") == expected


@pytest.mark.parametrize(
    "text", ["", "ct:101", "ct:101:", "ct:101:data", "ct:../1:/x", "ct::/x", "host:x", "/a\0b", "/a" * 4096]
)
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"write such as|is no path"):
        address(text)


@given(st.text(alphabet="/.a\udcff", max_size=30))
def test_normalised_is_what_a_table_has(path: str) -> None:
    text = normalised(path)
    assert text.startswith("/")
    assert normalised(text) == text
    assert not {"", ".", ".."} & set(text.split("/")[1:]) or text == "/"


def test_the_deepest_watched_mount_on_the_way() -> None:
    states = [state("/"), state("/mnt/pve/nas01"), state("/media", namespace="ct:101")]
    for path, point in (
        ("/mnt/pve/nas01/x", "/mnt/pve/nas01"),
        ("/mnt/pve/nas010", "/"),
        ("/mnt/pve/nas01", "/mnt/pve/nas01"),
    ):
        found = watched_on_the_way(Address(HOST, path), states)
        assert found is not None
        assert found.place.mount_point == point
    assert watched_on_the_way(Address("ct:101", "/x"), states) is None
    missing = state("/mnt/pve/nas01", "missing")
    assert watched_on_the_way(Address(HOST, "/mnt/pve/nas01"), [missing, *states]) is missing


def test_where_else_it_stands() -> None:
    mount = next(m for m in TABLES[HOST].mounts if m.mount_point == "/mnt/pve/nas01")
    found, more = same_file_system(mount, Place(HOST, mount.mount_point), TABLES)
    assert ([(e.place, e.root, e.container) for e in found], more) == (
        [(Place("ct:101", "/media"), "/media", CONTAINER)],
        0,
    )


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        (Address(HOST, "/mnt/pve"), Place(HOST, "/mnt/pve/nas01")),
        (Address(HOST, "/mnt/pve/nas1"), Place(HOST, "/mnt/pve/nas01")),
        (Address(HOST, "/mnt/isos"), Place(HOST, "/mnt/iso")),
        (Address("ct:101", "/"), Place("ct:101", "/media")),
        (Address("ct:102", "/"), Place(HOST, "/mnt/iso")),
    ],
)
def test_what_may_have_been_meant(asked: Address, first: Place) -> None:
    found, more = nearby(asked, TABLES, WATCHED)
    assert (found[0], more) == (first, 0)
    assert sorted(map(str, found)) == ["/mnt/iso", "/mnt/pve/nas01", "/srv", "ct:101:/media"]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("nas01:/export", ["/mnt/pve/nas01", "ct:101:/media"]),
        ("nas01:/export/", ["/mnt/pve/nas01", "ct:101:/media"]),
        ("nas01:", ["/mnt/pve/nas01", "ct:101:/media"]),
        ("nas01:/exp", []),
        ("\\\\nas\\iso", []),
    ],
)
def test_what_is_mounted_names_a_mount(text: str, places: list[str]) -> None:
    assert [str(place) for place in by_source(text, TABLES, WATCHED)] == places


def test_nearby_is_bounded() -> None:
    mounts = parse(b"".join(b"%d 1 0:%d / /m%d rw - nfs4 n:/ rw\n" % (n, n, n) for n in range(2, 102)))
    found, more = nearby(Address(HOST, "/"), {HOST: TableRead(HOST, mounts)}, WATCHED)
    assert (len(found), more) == (12, 88)


def test_of_what_is_expected_by_its_place_alone_no_more_is_said() -> None:
    mount = Mount(0, 0, "", "/", "/mnt/usb", "", "", "", "")
    state = MountState(Place(HOST, "/mnt/usb"), mount, Reach.UNKNOWN, "missing", Cause.VANISHED, "[[expect]] wants it")
    document: dict[str, Any] = {
        "mount": detailed_entry(state, 0.0), "evidence": [], "places": [], "radius": None, "advice": [],
        "answered_by": "service", "history": [], "leads_to": None,
    }  # fmt: skip
    assert list(lines(document)) == ["NOT MOUNTED: host /mnt/usb", "  NOT MOUNTED: [[expect]] wants it"]


def test_advice_is_that_of_an_alarm() -> None:
    assert advice_on(state("/mnt/pve/nas01")) == []
    stale = state("/mnt/pve/nas01", "stale", cause=Cause.TIMEOUT)
    assert advice_on(stale)[0] == "Do: see whether nas01 is off, or the network to it, the mount resumes by itself"
    inside = state("/media", "stale", "ct:101", Cause.STALE_HANDLE)
    assert advice_on(inside)[-1] == (
        "Do: pct exec 101 -- umount -l /media && pct exec 101 -- mount /media # where fstab has it"
    )


def test_what_the_host_has_too_is_mended_there() -> None:
    inside = state("/media", "stale", "ct:101", Cause.TIMEOUT)
    host = state("/mnt/pve/nas01")._replace(mount=inside.mount._replace(mount_point="/mnt/pve/nas01"))
    assert places_of(inside, [inside, host, state("/mnt/iso")]) == [host.place]
    stale = inside._replace(cause=Cause.STALE_HANDLE)
    [*_, do] = advice_on(stale, [host.place])
    assert do.startswith(
        "Do: umount -l /mnt/pve/nas01 # PVE mounts it again – then restart what still has the old one: "
    )
    assert do.endswith(": pct reboot 101")


def test_the_base_of_what_stands_on_one_directory_is_under_all_of_it() -> None:
    mounts = TABLES[HOST].mounts
    by_id = {m.mount_id: m for m in mounts}
    for mount_id, base in ((30, 21), (32, 30), (33, 21), (34, 21)):
        found = base_of(by_id[mount_id], mounts)
        assert found is not None
        assert found.mount_id == base
    assert base_of(by_id[21], mounts) is None


@pytest.mark.parametrize("kind", [*Kind, "later"])
@pytest.mark.parametrize("change", [*Change, "later"])
def test_each_entry_of_the_history_has_words(kind: str, change: str) -> None:
    assert past_words(kind, change)


def test_an_entry_says_when() -> None:
    entry = detailed_entry(state("/mnt/pve/nas01", "slow")._replace(since=5.0, wedged_since=6.5), 1_800_000_000.0)
    assert (entry["status"], entry["slow"]) == ("unknown", True)
    assert (entry["since"], entry["hanging_since"]) == ("2027-01-15T08:00:05Z", "2027-01-15T08:00:06Z")
