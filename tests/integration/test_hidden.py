"""`watcher hidden`, run as a person runs it: files under mounts that hang, on the host and in containers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any

import pytest

from tests.fakes.containers import Containers
from tests.fakes.fuse import HANG, MS_BIND, FuseServer
from tests.fakes.fuse_server import mount, unmount
from tests.integration.looking import LIMIT, Command, mounts_at, of_ours, table
from watcher import uncovering
from watcher.children import Children
from watcher.config import parse
from watcher.core.mountinfo import mount_of
from watcher.model import HOST, Place
from watcher.probing import covered
from watcher.probing.covered import Job
from watcher.settings import Settings

pytestmark = pytest.mark.kernel

MakeDir = Callable[..., bytes]


def rows(command: Command, *paths: str, code: int = 1) -> list[dict[str, Any]]:
    outcome = command.run("hidden", "--json", *paths)
    assert (outcome.code, of_ours(outcome.stderr)) == (code, ""), outcome
    found: list[dict[str, Any]] = json.loads(outcome.stdout)["places"]
    return found


def fill(directory: bytes, files: int = 3) -> int:
    """Files of some KiB, one of them below a directory and with a second name; their bytes on the disk."""
    path = Path(os.fsdecode(directory))
    (path / "films").mkdir()
    for n in range(files - 1):
        (path / f"file{n}").write_bytes(b"x" * 10_000)
    (path / "films" / "1.mkv").write_bytes(b"x" * 50_000)
    os.link(path / "films" / "1.mkv", path / "films" / "again")
    os.sync()
    return sum(512 * p.stat().st_blocks for p in path.rglob("*") if p.is_file() and p.name != "again")


def test_what_lies_under_a_mount_that_hangs(fuse: FuseServer, mount_dir: MakeDir, command: Command) -> None:
    directory = mount_dir("mnt/nas")
    size = fill(directory)
    nas = fuse.mount(directory, source="nas01:/export", fstype="fuse.sshfs", mode=HANG)
    empty = fuse.mount(mount_dir("mnt/empty"), mode=HANG)
    before = [m.counters().requests for m in (nas, empty)]
    (first, second) = rows(command)
    assert (first["target"], first["files"], first["bytes"], first["error"]) == (nas.path.decode(), 4, size, None)
    assert sorted(first["names"]) == ["file0", "file1", "films"]
    assert first["mount"]["source"] == "nas01:/export"
    assert (second["target"], second["files"], second["bytes"]) == (empty.path.decode(), 0, 0)
    assert [m.counters().requests for m in (nas, empty)] == before  # nobody has asked the mounts

    outcome = command.run("hidden")
    assert outcome.code == 1
    told, rest = outcome.stdout.splitlines()
    assert told.startswith(f"{nas.path.decode()}: hidden under nas01:/export: 4 files, ")
    assert rest == "1 mount point more: nothing under it"
    assert rows(command, empty.path.decode(), code=0)[0]["files"] == 0
    # A path below it is looked up in the table: it cannot be asked.
    assert rows(command, f"{nas.path.decode()}/films/2.mkv")[0]["target"] == nas.path.decode()


def test_a_directory_on_which_nothing_is_mounted(mount_dir: MakeDir, command: Command) -> None:
    directory = mount_dir("mnt/gone")
    fill(directory)
    outcome = command.run("hidden", directory.decode())
    assert outcome.code == 0
    assert outcome.stdout.startswith(f"{directory.decode()}: nothing is mounted here; 4 files, ")
    (row,) = rows(command, f"{directory.decode()}/none")
    assert row["error"] == "there is no such directory"


def test_what_is_mounted_further_down_is_left_alone(
    fuse: FuseServer, mount_dir: MakeDir, command: Command, tmp_path: Path
) -> None:
    """Where nothing stands on the directory itself: it may hang, or be woken, and is nothing that lies on the disk."""
    directory = mount_dir("mnt/written")
    size = fill(directory)
    below = [fuse.mount(mount_dir(f"mnt/written/{name}"), mode=HANG) for name in ("films/a b", "sub")]
    (tmp_path / "mnt/written/one").touch()
    mount(b"/dev/null", os.fsencode(tmp_path / "mnt/written/one"), b"none", MS_BIND)
    (tmp_path / "fstab").write_text(f"nas01:/w {directory.decode()} nfs defaults 0 0\n")
    command.sections["paths"] += f'\nfstab = "{tmp_path}/fstab"'
    command.write()
    before = [m.counters().requests for m in below]
    try:
        for asked in ((), (directory.decode(),)):
            (row,) = (r for r in rows(command, *asked, code=0 if asked else 1) if r["target"] == directory.decode())
            assert (row["files"], row["bytes"], row["error"], row["cut"]) == (4, size, None, None)
            assert sorted(row["names"]) == ["file0", "file1", "films"]
        assert [m.counters().requests for m in below] == before
    finally:
        unmount(os.fsencode(tmp_path / "mnt/written/one"))


def test_what_should_be_mounted_and_is_not(mount_dir: MakeDir, command: Command, tmp_path: Path) -> None:
    written, tidy = mount_dir("mnt/written"), mount_dir("mnt/tidy")
    (tmp_path / "fstab").write_text(
        f"nas01:/w {written.decode()} nfs defaults 0 0\nnas01:/t {tidy.decode()} nfs defaults 0 0\n"
        f"nas01:/n {tmp_path}/mnt/none nfs defaults 0 0\n"
    )
    command.sections["paths"] += f'\nfstab = "{tmp_path}/fstab"'
    command.write()
    assert {row["files"] for row in rows(command, code=0)} == {0}
    size = fill(written)
    first, *others = rows(command)
    assert (first["target"], first["files"], first["bytes"]) == (written.decode(), 4, size)
    assert (first["mount"], first["expected_by"]) == (None, "/etc/fstab")
    assert {row["target"]: row["files"] for row in others} == {tidy.decode(): 0, f"{tmp_path}/mnt/none": 0}
    told = command.run("hidden").stdout.splitlines()[0]
    assert told.startswith(f"{written.decode()}: nothing is mounted here, though /etc/fstab wants it; 4 files, ")


def test_mounts_on_one_another(fuse: FuseServer, mount_dir: MakeDir, command: Command) -> None:
    """Of two on one directory the disk under both is meant; what lies on a remote mount is left alone."""
    twice, outer = mount_dir("mnt/twice"), mount_dir("mnt/outer")
    fill(twice)
    fuse.mount(twice, mode=HANG)
    fuse.mount(twice, mode=HANG)
    mount(b"none", outer, b"tmpfs")
    try:
        inner = mount_dir("mnt/outer/inner")
        fill(inner)
        fuse.mount(inner, mode=HANG)
        found = {row["target"]: row for row in rows(command)}
        assert found[twice.decode()]["files"] == 4
        assert (found[inner.decode()]["files"], found[inner.decode()]["lies_in"]["fstype"]) == (4, "tmpfs")
        command.sections["watch"] += '\nfstypes = ["fuse.*", "tmpfs"]'
        command.write()
        found = {row["target"]: row for row in rows(command)}
        assert "remote or FUSE mount itself" in found[inner.decode()]["error"]
    finally:
        fuse.close()
        unmount(outer)


def test_a_file_of_a_mount_bound_on_a_file_hides_no_directory(
    fuse: FuseServer, mount_dir: MakeDir, command: Command, tmp_path: Path
) -> None:
    nas, single = fuse.mount(mount_dir("elsewhere")), tmp_path / "mnt/single"
    single.write_text("under it")
    mount(nas.path + b"/one", os.fsencode(single), b"none", MS_BIND)
    try:
        assert rows(command, code=0) == []
        (row,) = rows(command, str(single))
        assert row["error"] == "there is no directory of files under it"
    finally:
        unmount(os.fsencode(single))


def test_names_that_are_none(fuse: FuseServer, mount_dir: MakeDir, command: Command) -> None:
    directory = mount_dir(b"mnt/a\n\xff")
    (Path(os.fsdecode(directory)) / "x\x1b[31m").write_text("x")
    (Path(os.fsdecode(directory)) / os.fsdecode(b"\xfe")).write_text("x")
    fuse.mount(directory, mode=HANG)
    outcome = command.run("hidden")
    assert outcome.stdout.replace("\n", "").isprintable()
    (row,) = rows(command)
    assert (row["files"], sorted(row["names"])) == (2, ["\\xfe", "x\\x1b[31m"])
    assert row["target"].endswith("/a\\n\\xff")


@pytest.mark.parametrize("user_namespace", [False, True])
def test_in_a_container(lxc: Containers, command: Command, user_namespace: bool) -> None:
    ct = lxc.start(name="plex", user_namespace=user_namespace)
    ct.mkdir("/mnt/own")
    ct.write("/mnt/own/film", 1 << 20)
    ct.symlink("/etc", "/mnt/link")
    own = ct.fuse.mount("/mnt/own", mode=HANG, source="nas02:/own")
    before = own.counters().requests
    command.look_into(lxc)
    (row,) = rows(command, f"{ct.namespace}:/mnt/own")
    assert (row["error"], row["files"], row["bytes"]) == (None, 1, 1 << 20)
    assert (row["namespace"], row["lxc_name"], row["names"]) == (ct.namespace, "plex", ["film"])
    assert own.counters().requests == before
    (row,) = rows(command, f"{ct.namespace}:/mnt/link")  # which would be the host's /etc
    assert row["error"] is not None
    assert [r["target"] for r in rows(command) if r["lxc_id"] == ct.ctid] == ["/mnt/own"]
    assert rows(command, "ct:999999999:/x")[0]["error"].startswith("no such container runs")


def test_without_the_rights(fuse: FuseServer, mount_dir: MakeDir, command: Command, tmp_path: Path) -> None:
    fuse.mount(mount_dir("mnt/nas"))
    for path in (command.config, *command.config.parents):
        if path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    argv = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", "--", *command.argv("hidden")]
    ended = subprocess.run(argv, cwd="/", env=command.environment(), capture_output=True, text=True, timeout=LIMIT)
    assert ended.returncode == 3
    assert ended.stdout == f"{tmp_path}/mnt/nas: needs root (CAP_SYS_ADMIN)\n"


async def test_a_disk_that_hangs_costs_its_time_and_no_other_answer(
    fuse: FuseServer, mount_dir: MakeDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covered, "GRACE", 0.5)
    disk, other = fuse.mount(mount_dir("disk"), mode=HANG), mount_dir("other")
    fill(other)
    (hanging,) = mounts_at(disk.path)
    base = mount_of(os.fsdecode(other), table())
    assert base is not None
    places = [Place(HOST, f"{disk.mount_point}/dead"), Place(HOST, os.fsdecode(other))]
    jobs = [Job(places[0], None, hanging, None), Job(places[1], None, base, None)]
    children = Children()
    try:
        dead, alive = await covered.look_into(jobs, children, entries=100, seconds=0.5)
    finally:
        children.close()
    assert (dead.error, dead.is_hung) == ("no answer from its disk within 1 s", True)
    assert (alive.error, alive.files) == ("", 4)
    assert alive.free > 0
    assert abs(alive.newest - time()) < 600


def test_a_container_full_of_mounts_is_looked_at_in_part(
    lxc: Containers, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncovering, "MAX_PLACES", 2)
    ct = lxc.start(name="plex")
    for n in range(4):
        ct.fuse.mount(f"/mnt/{n}", mode=HANG)
    command.look_into(lxc)
    settings = parse(command.config.read_text(), "test", strict=True, defaults=Settings()).settings
    found = uncovering.uncover(settings, [])
    mine = [row["target"] for row in found["places"] if row["lxc_id"] == ct.ctid]
    assert sorted(mine) == ["/mnt/0", "/mnt/1"]
    assert f"CT {ct.ctid}: 2 more mounts not looked under, since there are too many" in found["notes"]
