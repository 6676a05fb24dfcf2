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


@pytest.mark.parametrize("device", ["0:53", "0:77"])  # bound on itself; older mounts of the same source
def test_who_has_mounted_it_without_end_does_not_hold_up_the_search(tmp_path: Path, device: str) -> None:
    nas = Wanted("0:53", "nfs4", "nas01:/x")
    line = f"30 1 {device} / /mnt/nas rw - nfs4 nas01:/x rw\n"
    points = tables(tmp_path, line * (MAX_POINTS + 1), nas).points("2", is_ours=False)
    assert points.of("/mnt/nas/x") == {nas}
    assert nas.cut  # not all of its table has been looked at, and that is said
