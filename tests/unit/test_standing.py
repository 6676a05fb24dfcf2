"""Where file systems stand in the mount tables of others, by made-up files of proc(5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from watcher.sources.standing import MAX_POINTS, Tables, Wanted

HOST_TABLE = "30 1 0:53 / /mnt/nas rw - nfs4 nas01:/x rw\n"


def tables(proc: Path, other: str, *wanted: Wanted) -> Tables:
    """Of process 1, which is ours and has been looked at, and of process 2."""
    for pid, table in (("1", HOST_TABLE), ("2", other)):
        (proc / pid).mkdir()
        (proc / pid / "mountinfo").write_text(table)
        (proc / pid / "cgroup").write_text("0::/\n")
    found = Tables(str(proc), wanted)
    found.points("1", is_ours=True)
    return found


def test_paths_on_it(tmp_path: Path) -> None:
    nas, other = Wanted("0:53", "nfs4", "nas01:/x"), Wanted("0:54", "nfs4", "nas01:/y")
    points = tables(tmp_path, "30 1 0:53 / /a\\040b rw - nfs4 nas01:/x rw\n" * 2, nas, other).points("2", is_ours=False)
    assert points.all == {nas}
    assert points.of("/a b") == points.of("/a b/c") == {nas}
    assert points.of("/a bc") == points.of("/a") == points.of("socket:[7]") == set()
    assert not nas.cut


def test_what_is_mounted_in_it_is_another_matter(tmp_path: Path) -> None:
    """Who has a file of a local disk open does not hang on the server in whose directory that is mounted."""
    nas = Wanted("0:53", "nfs4", "nas01:/x")
    table = """\
29 1 8:1 / /mnt/a\\040b/hidden rw - ext4 /dev/sda rw
30 1 0:53 / /mnt/a\\040b rw - nfs4 nas01:/x rw
31 30 8:2 / /mnt/a\\040b/disk\\0402 rw - ext4 /dev/sdb rw
32 30 0:53 /y /mnt/a\\040b/own rw - nfs4 nas01:/x rw
"""
    points = tables(tmp_path, table, nas).points("2", is_ours=False)
    for path in ("/mnt/a b/x", "/mnt/a b/disk", "/mnt/a b/disk 22", "/mnt/a b/own/x", "/mnt/a b/hidden/x"):
        assert points.of(path) == {nas}, path
    for path in ("/mnt/a b/disk 2", "/mnt/a b/disk 2/x"):
        assert points.of(path) == set(), path


def test_it_stands_at_the_root(tmp_path: Path) -> None:
    nas = Wanted("0:53", "nfs4", "nas01:/x")
    table = "30 1 0:53 / / rw - nfs4 nas01:/x rw\n31 30 0:5 / /dev rw - tmpfs tmpfs rw\n"
    points = tables(tmp_path, table, nas).points("2", is_ours=False)
    assert points.of("/") == points.of("/etc/x") == {nas}
    assert points.of("/dev/null") == set()


@pytest.mark.parametrize("device", ["0:53", "0:77"])  # bound on itself; older mounts of the same source
def test_who_has_mounted_it_without_end_does_not_hold_up_the_search(tmp_path: Path, device: str) -> None:
    nas = Wanted("0:53", "nfs4", "nas01:/x")
    line = f"30 1 {device} / /mnt/nas rw - nfs4 nas01:/x rw\n"
    points = tables(tmp_path, line * (MAX_POINTS + 1), nas).points("2", is_ours=False)
    assert points.of("/mnt/nas/x") == {nas}
    assert nas.cut  # not all of its table has been looked at, and that is said
