"""What should be mounted and is not: real mounts, files that tests write, the real service and `--once`."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import os
import re
import socket
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.fakes.containers import Containers
from tests.fakes.fuse import HANG, MS_BIND, OK, FuseServer
from tests.fakes.fuse_server import mount, unmount
from tests.fakes.receivers import GotifyReceiver
from tests.integration.looking import Command, until
from tests.integration.service import HOST, Site, toml
from tests.integration.test_notifications import asked, matches, tell_last, titles, told_of, until_told
from tests.unit.mounts import mount as row
from watcher.children import Children
from watcher.config import parse
from watcher.core.units import unit_name
from watcher.expectations import Expectations
from watcher.files import read_regular
from watcher.model import HOST as ON_HOST
from watcher.model import Container, Mount, Place
from watcher.reading import TRIES, BatchReader, File
from watcher.settings import Settings

pytestmark = pytest.mark.kernel


def paths_of(directory: Path, *, storage: str = "/nowhere") -> str:
    """Keys of [paths]: nothing of what this machine wants mounted."""
    (directory / "units").mkdir(exist_ok=True)
    return "\n".join(
        [
            f"fstab = {toml(str(directory / 'fstab'))}",
            f"units = {toml([str(directory / 'units')])}",
            f"storage = {toml(storage)}",
        ]
    )


def configure(
    site: Site,
    channels: dict[str, str],
    *,
    on: tuple[str, ...] = ("stale", "missing"),
    lxc: Containers | None = None,
) -> None:
    text = site.config_text(channels, on=on, lxc=lxc)
    text = text.replace("[watch]", '[watch]\nmissing_after = "500ms"', 1)
    site.write(site.config, text.replace("[paths]", f"[paths]\n{paths_of(site.path)}", 1))


def fstab(site: Site, *names: str) -> None:
    lines = [f"{name}:/export {site.place(name)} fuse.test defaults 0 0\n" for name in names]
    site.write(site.path / "fstab", "".join(lines))


# ---- the service


async def test_missing_since_the_start_is_told_and_so_is_that_it_is_mounted(site: Site) -> None:
    last = site.mount("last")
    fstab(site, "nas", "last")
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url})
        async with site.service() as service:
            place = site.place("nas")
            alarm = await until_told(gotify, "NOT MOUNTED")
            nas = site.mount("nas")
            await until_told(gotify, f"{place} mounted")
            await asked(nas, last)
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    red, green = f"🔴 {HOST}: {place} NOT MOUNTED", f"🟢 {HOST}: {place} mounted {{SPAN}}"
    assert matches(titles(gotify), [red, green, end])
    since, where, source, meaning, why, advice, quiet = told_of(alarm.message)
    assert re.fullmatch(r"Since \d\d:\d\d:\d\d \S+", since)
    assert (where, source) == (f"Host {place}", "nas:/export; fuse.test")
    assert meaning == "What is written there meanwhile lands on the disk underneath"
    assert why == "Not mounted; /etc/fstab wants it"
    assert advice == f"Do: mount {place}"
    assert quiet == f"Quiet: watcher silence host:{place} --for 2h"


async def test_why_it_is_not_mounted_and_what_hangs_on_it(site: Site) -> None:
    """Told, and explained: whether its server's port answers, and the storage that lies there."""
    place, storage = site.place("nas"), site.path / "storage.cfg"
    site.write(site.path / "fstab", f"127.0.0.1:/export {place} nfs4 defaults 0 0\n")
    storage.write_text(f"dir: films\n\tpath {place}/films\n")
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url})
        site.write(site.config, site.config.read_text().replace('"/nowhere"', toml(str(storage))))
        async with site.service() as service:
            alarm = await until_told(gotify, "NOT MOUNTED")
            explained = await site.run("explain", f"{place}/films")
            assert await service.end() == 0
    port = r"^ *127\.0\.0\.1:2049 (refuses|accepts) connections"
    for text in (alarm.message, explained.out):
        assert re.search(port, text, re.MULTILINE), text
        assert f"Do: mount {place}" in text
        assert "Hangs on it: PVE storage films" in text
    assert (explained.code, explained.out.partition("\n")[0]) == (2, f"NOT MOUNTED: host {place}")
    assert re.search(r"^  \S+ \S+  not mounted: not mounted; /etc/fstab wants it$", explained.out, re.MULTILINE)


@pytest.mark.parametrize("on", [("stale", "missing"), ("stale", "missing", "vanished")])
async def test_what_vanishes_is_one_message_whoever_asks_for_which(site: Site, on: tuple[str, ...]) -> None:
    nas, last = site.mount("nas"), site.mount("last")
    fstab(site, "nas")
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url}, on=on)
        async with site.service() as service:
            await service.wait_for_line("watching .*/nas")
            await asked(nas, last)
            await asked(nas, last)
            unmount(os.fsencode(nas.mount_point))
            await service.wait_for_line(r"missing: .*/nas")
            await until_told(gotify, "NOT MOUNTED")
            site.mount("nas")
            await until_told(gotify, "mounted again")
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    place, mark = site.place("nas"), "🟠" if "vanished" in on else "🔴"
    expected = [f"{mark} {HOST}: {place} NOT MOUNTED", f"🟢 {HOST}: {place} mounted again {{SPAN}}", end]
    assert matches(titles(gotify), expected)


async def test_a_restart_tells_nothing_and_what_was_mounted_meanwhile_is_told(site: Site) -> None:
    last = site.mount("last")
    fstab(site, "nas", "other")
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url})
        async with site.service() as service:
            await until_told(gotify, "nas and 1 more NOT MOUNTED, 2 mounts")
            assert await service.end() == 0
        site.mount("nas")
        async with site.service() as service:
            await service.wait_for_line("missing since before the start: .*/other")
            await until_told(gotify, "mounted again")
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    assert len(gotify.received) == 3
    assert titles(gotify)[-1] == end
    assert f"🔴 Still: host {site.place('other')} NOT MOUNTED" in gotify.received[1].message


async def test_an_edit_of_fstab_counts_at_once_and_a_new_line_is_no_alarm(site: Site) -> None:
    nas, last = site.mount("nas"), site.mount("last")
    fstab(site)
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url})
        async with site.service() as service:
            await service.wait_for_edits_to_count()
            await asked(nas, last)
            fstab(site, "nas", "new")
            await service.wait_until(lambda: "1 not mounted" in status_of(site), "the status shows it")
            unmount(os.fsencode(nas.mount_point))
            await until_told(gotify, "nas NOT MOUNTED")
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    assert matches(titles(gotify), [f"🔴 {HOST}: {nas.mount_point} NOT MOUNTED", end])


def status_of(site: Site) -> str:
    """The line that `watcher health` and systemd have."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(site.socket))
    connection.request("GET", "/api/v1/health")
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer.get("status", ""))


# ---- one look


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "mnt").mkdir()
    command = Command(tmp_path, watch=tmp_path / "mnt")
    command.sections["paths"] += "\n" + paths_of(tmp_path)
    command.write()
    return command


def test_one_look_shows_what_is_missing_and_fails(command: Command, tmp_path: Path) -> None:
    (tmp_path / "fstab").write_text(
        f"nas01:/data {tmp_path}/mnt/nas nfs4 ro 0 0\nnas01:/x {tmp_path}/mnt/x nfs noauto\n"
    )
    outcome = command.once()
    assert outcome.code == 2
    entry = outcome.mount(f"{tmp_path}/mnt/nas")
    assert (entry["status"], entry["reachable"], entry["cause"]) == ("missing", False, "vanished")
    assert (entry["source"], entry["fstype"], entry["server"]) == ("nas01:/data", "nfs4", "nas01")
    assert entry["error"] == "not mounted; /etc/fstab wants it"
    assert (entry["device"], entry["mount_id"]) == (None, None)
    assert outcome.document["summary"] == {
        "total": 1, "ok": 0, "readonly": 0, "denied": 0, "stale": 0, "missing": 1, "unknown": 0
    }  # fmt: skip
    text = command.run("--once").stdout
    assert re.search(r"NOT MOUNTED .*nas01:/data", text)
    assert "Do: mount" in text
    assert "1 mount: 1 NOT MOUNTED" in text
    explained = command.run("explain", f"{tmp_path}/mnt/nas/films")
    assert (explained.code, explained.stdout.splitlines()[0]) == (2, f"NOT MOUNTED: host {tmp_path}/mnt/nas")
    assert f"Do: mount {tmp_path}/mnt/nas" in explained.stdout
    gate = command.run("--once", "--path", f"{tmp_path}/mnt/nas")
    assert gate.code == 2
    assert command.run("--once", "--path", f"{tmp_path}/mnt/elsewhere").code == 2


def test_one_look_finds_it_mounted_through_a_link(command: Command, fuse: FuseServer, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "mnt")
    (tmp_path / "mnt/nas").mkdir()
    fuse.mount(f"{tmp_path}/mnt/nas", source="nas01:/data")
    (tmp_path / "fstab").write_text(f"nas01:/data {tmp_path}/link/nas fuse.test defaults\n")
    outcome = command.once()
    assert (outcome.code, outcome.document["summary"]["total"]) == (0, 1)


def test_a_bind_that_was_made_before_its_source_was_mounted_shows_the_disk(
    command: Command, fuse: FuseServer, tmp_path: Path
) -> None:
    for name in ("mnt/nas/www", "mnt/early", "mnt/good", "mnt/local", "mnt/local-bind"):
        (tmp_path / name).mkdir(parents=True)
    names = [("mnt/nas/www", "mnt/early"), ("mnt/nas/www", "mnt/good"), ("mnt/local", "mnt/local-bind")]
    lines = [f"{tmp_path}/{source} {tmp_path}/{target} none bind 0 0" for source, target in names]
    (tmp_path / "fstab").write_text("\n".join([f"nas01:/x {tmp_path}/mnt/nas fuse.test defaults", *lines]))
    bind = functools.partial(mount, fstype=b"none", flags=MS_BIND)
    early, good = (os.fsencode(tmp_path / name) for name in ("mnt/early", "mnt/good"))
    bind(os.fsencode(tmp_path / "mnt/nas/www"), early)
    nas = fuse.mount(f"{tmp_path}/mnt/nas", source="nas01:/x", directories=["www"])
    bind(nas.path + b"/www", good)
    try:
        outcome = command.once()
    finally:
        unmount(early)
        unmount(good)
    # The local one is no matter, though nobody has made it.
    assert {m["target"]: m["status"] for m in outcome.document["mounts"]} == {
        nas.mount_point: "ok", f"{tmp_path}/mnt/good": "ok", f"{tmp_path}/mnt/early": "missing"
    }  # fmt: skip
    early_one = outcome.mount(f"{tmp_path}/mnt/early")
    assert re.fullmatch(r".+ \(\w+\) stands in its place; /etc/fstab wants it", early_one["error"])


def test_one_look_knows_units_and_our_own_file(command: Command, tmp_path: Path) -> None:
    for stem, wanted in (("a", True), ("b", False), ("d", False)):
        unit = tmp_path / "units" / f"{stem}.mount"
        unit.write_text(f"[Mount]\nWhat=nas01:/{stem}\nWhere={tmp_path}/mnt/{stem}\nType=nfs\n")
        if wanted:
            (tmp_path / "units/remote-fs.target.wants").mkdir(exist_ok=True)
            (tmp_path / "units/remote-fs.target.wants" / unit.name).symlink_to(unit)
    # A trigger that failed, as systemd's do after five mounts in vain, leaves the directory open.
    (tmp_path / "units/d.automount").write_text("[Automount]\n")
    (tmp_path / "units/remote-fs.target.wants/d.automount").symlink_to(tmp_path / "units/d.automount")
    # What is masked is nobody's wish any more, whoever has written it down.
    (tmp_path / "fstab").write_text(f"nas01:/off {tmp_path}/mnt/off nfs4 defaults 0 0\n")
    (tmp_path / "units" / f"{unit_name(f'{tmp_path}/mnt/off')}").symlink_to("/dev/null")
    command.extra = f'[[expect]]\nmount = "{tmp_path}/mnt/mine"\n'
    command.write()
    outcome = command.once()
    assert outcome.code == 2
    assert {m["target"] for m in outcome.document["mounts"]} == {f"{tmp_path}/mnt/{n}" for n in ("a", "d", "mine")}
    assert outcome.mount(f"{tmp_path}/mnt/d")["error"] == "not mounted; d.automount wants it"
    assert "Do: systemctl start d.automount" in command.run("--once").stdout
    assert outcome.mount(f"{tmp_path}/mnt/a")["error"] == "not mounted; a.mount wants it"


def test_storages_are_read_from_a_fuse_mount_by_a_child_and_one_that_hangs_is_said(
    command: Command, fuse: FuseServer, tmp_path: Path
) -> None:
    # As /etc/pve is: the file of the fake FUSE file system holds what it holds, so here only that it hangs.
    (tmp_path / "pve").mkdir()
    fuse.mount(f"{tmp_path}/pve", mode=HANG)
    command.sections["paths"] = command.sections["paths"].replace("/nowhere", f"{tmp_path}/pve/storage.cfg")
    command.write()
    outcome = command.once()
    assert outcome.code == 0
    [note] = outcome.document["notes"]
    assert note.startswith("host: what should be mounted is not known in full:")
    assert "no answer from its file system within 5 s" in note


async def test_what_proxmox_wants_stands_while_its_files_are_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pve-cluster is restarted, or starts after us: until /etc/pve is mounted it is an empty directory."""
    pve = tmp_path / "etc/pve"
    pve.mkdir(parents=True)
    installed = tmp_path / "pmxcfs"
    installed.touch()
    monkeypatch.setattr("watcher.expectations.PMXCFS", str(installed), raising=False)
    text = f'[paths]\n{paths_of(tmp_path, storage=f"{pve}/storage.cfg")}\nlxc_config = ["{pve}/lxc"]\n'
    (tmp_path / "fstab").write_text("/mnt/pve/nas01/x /srv/x none bind 0 0\n")
    settings = parse(text, "test", strict=True, defaults=Settings()).settings
    inside = (Container("101", os.getpid(), 1, "arr"),)
    wanted = {"/mnt/pve/nas01": "PVE storage nas01", "/srv/x": "/etc/fstab"}
    children = Children()
    try:
        expectations = Expectations(settings, children, node="pve3")

        async def read() -> tuple[dict[str, str], bool]:
            found = await expectations.read(list, inside)
            assert found.binds == {Place(ON_HOST, "/srv/x")}
            return {e.place.mount_point: e.origin for e in found.expected}, found.complete

        assert await read() == ({}, False)
        assert f"{pve}/storage.cfg: {pve} is not mounted" in expectations.problems[ON_HOST]
        (pve / "storage.cfg").write_text("nfs: nas01\n\tserver nas01\n\texport /x\n")
        assert await read() == (wanted, True)
        assert expectations.problems == {}
        (pve / "storage.cfg").unlink()
        assert (await read())[0] == wanted
        installed.unlink()
        assert (await read())[0] == wanted  # it was there
        (pve / "lxc").mkdir()
        assert await read() == ({}, True)
        (pve / "lxc").rmdir()
        for leave in (Path.exists, Path.rmdir):  # Proxmox VE was removed; it was never there
            leave(pve)
            expectations = Expectations(settings, children, node="pve3")
            found = await expectations.read(list, inside)
            assert (found.expected, found.complete, expectations.problems) == ((), True, {})
    finally:
        children.close()


async def test_what_may_hang_is_not_touched_by_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what a link in a directory of units leads to, nor what was mounted while we read something else."""
    for name in ("nas", "late", "units"):
        (tmp_path / name).mkdir(parents=True)
    unit = "[Mount]\nWhat=nas01:/{0}\nWhere=/mnt/{0}\nType=nfs\n"
    (tmp_path / "nas/x.mount").write_text(unit.format("x"))
    (tmp_path / "units/x.mount").symlink_to(tmp_path / "nas/x.mount")  # systemctl link
    (tmp_path / "units/y.mount").write_text(unit.format("y"))
    (tmp_path / "units/z.mount").write_text(unit.format("z"))
    (tmp_path / "units/a.wants").mkdir()
    for name in ("x", "y"):
        (tmp_path / f"units/a.wants/{name}.mount").symlink_to(f"../{name}.mount")
    (tmp_path / "nas/z.mount").touch()
    (tmp_path / "units/b.wants").symlink_to(tmp_path / "nas")
    (tmp_path / "late/fstab").write_text("nas01:/l /mnt/l nfs\n")
    paths = paths_of(tmp_path, storage=f"{tmp_path}/nas/storage.cfg")
    text = f"[paths]\n{paths.replace(f'{tmp_path}/fstab', f'{tmp_path}/late/fstab')}"
    settings = parse(text, "test", strict=True, defaults=Settings()).settings
    nas = row(str(tmp_path / "nas"))
    tables, touched = [[nas]], list[str]()

    def mounts() -> list[Mount]:
        return tables.pop() if tables else [nas, row(str(tmp_path / "late"))]

    def read(path: str, limit: int) -> bytes:
        touched.append(path)
        return read_regular(path, limit)

    monkeypatch.setattr("watcher.expectations.read_regular", read)
    children = Children()
    try:
        found = await Expectations(settings, children, node="pve3").read(mounts, [])
    finally:
        children.close()
    assert [e.place.mount_point for e in found.expected] == ["/mnt/l", "/mnt/y"]
    assert [os.path.basename(path) for path in touched] == ["y.mount", "z.mount"]


async def test_a_file_that_hangs_costs_the_others_nothing_and_is_not_tried_again(
    fuse: FuseServer, tmp_path: Path
) -> None:
    (tmp_path / "pve").mkdir()
    hung = fuse.mount(f"{tmp_path}/pve", mode=HANG)
    (tmp_path / "plain").write_text("content")
    children = Children()
    try:
        reader = BatchReader(children)
        files = [File(f"{tmp_path}/pve/storage.cfg"), File(f"{tmp_path}/plain")]
        answers = await reader.read(files)
        assert isinstance(answers[files[0]], TimeoutError)
        assert answers[files[1]] == b"content"
        await until(lambda: children.survivors == 1, "end of the child that answered")
        assert isinstance((await reader.read(files[:1]))[files[0]], TimeoutError)
        assert children.survivors == 1
        hung.set(OK)
        await until(lambda: children.survivors == 0, "end of the children")
    finally:
        children.close()


async def test_many_that_hang_only_delay_the_others(fuse: FuseServer, tmp_path: Path) -> None:
    hung = []
    for number in range(TRIES + 1):
        (tmp_path / str(number)).mkdir()
        hung.append(File("/fstab", fuse.mount(f"{tmp_path}/{number}", mode=HANG).mount_point))
    (tmp_path / "plain").write_text("content")
    plain = File(f"{tmp_path}/plain")
    children = Children()
    try:
        reader = BatchReader(children, limit=0.5)
        first = await reader.read([*hung, plain])
        assert [type(first[file]) for file in hung] == [TimeoutError] * TRIES + [BlockingIOError]
        assert isinstance(first[plain], BlockingIOError)
        second = await reader.read([*hung, plain])
        assert second[plain] == b"content"
        assert children.survivors >= TRIES + 1
    finally:
        children.close()


# ---- containers


async def test_a_containers_own_fstab_is_read_without_leaving_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("of the host")
    children = Children()
    try:
        reader = BatchReader(children)
        inside = File("/etc/fstab", str(root))
        [answer] = (await reader.read([inside])).values()
        assert isinstance(answer, FileNotFoundError)
        (root / "etc/fstab").write_text("nas01:/a /data nfs\n")
        plain = File(str(tmp_path / "secret"))
        answers = await reader.read([inside, plain])
        assert answers == {inside: b"nas01:/a /data nfs\n", plain: b"of the host"}
        for target in (tmp_path / "secret", "/etc/hostname", "/dev/zero"):
            (root / "etc/fstab").unlink()
            (root / "etc/fstab").symlink_to(target)
            assert isinstance((await reader.read([inside]))[inside], OSError)
        (root / "etc/fstab").unlink()
        os.mkfifo(root / "etc/fstab")
        assert isinstance((await reader.read([inside]))[inside], OSError)
        (root / "etc/fstab").unlink()
        (root / "etc/fstab").write_bytes(b"#" * (1 << 20))
        assert isinstance((await reader.read([inside]))[inside], OSError)
        await until(lambda: children.survivors == 0, "end of the children")
    finally:
        children.close()


async def test_a_containers_fstab_is_read_again_where_something_is_not_mounted_any_more(
    lxc: Containers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct = lxc.start(name="arr", rootfs="directory")
    fstab = lxc.lxc_path / ct.ctid / "rootfs/etc/fstab"
    fstab.parent.mkdir(exist_ok=True)
    fstab.write_text("nas02:/a /mnt/a nfs\n")
    container = Container(ct.ctid, ct.init.pid, ct.init.start_time, "arr")
    settings = parse(f"[paths]\n{paths_of(tmp_path)}", "test", strict=True, defaults=Settings()).settings
    children = Children()
    try:
        expectations = Expectations(settings, children, node="pve3")

        async def inside() -> list[str]:
            found = await expectations.read(list, [container])
            assert found.inside == {ct.namespace}
            return [e.place.mount_point for e in found.expected]

        assert await inside() == ["/mnt/a"]
        fstab.write_text("nas02:/b /mnt/b nfs\n")
        assert await inside() == ["/mnt/a"]
        expectations.doubt(ct.namespace)
        assert await inside() == ["/mnt/b"]
        fstab.unlink()
        expectations.doubt(ct.namespace)
        assert await inside() == ["/mnt/b"]  # not as often as a container likes
        monkeypatch.setattr("watcher.expectations.DOUBTED_EVERY", 0.01)
        async with asyncio.timeout(20), aclosing(expectations.events(list, lambda: [container])) as events:
            assert (await anext(events)).expected == ()
            # Whoever unmounts it may edit its line a little later, but before it is told.
            fstab.write_text("nas02:/c /mnt/c nfs\n")
            assert [e.place.mount_point for e in (await anext(events)).expected] == ["/mnt/c"]
        text = '[watch]\nmissing_after = "0s"'
        expectations.configure(parse(text, "test", strict=True, defaults=settings).settings)
        monkeypatch.setattr("watcher.expectations.DOUBTED_EVERY", 0.0)
        expectations.doubt(ct.namespace)
        assert await inside() == ["/mnt/c"]
        fstab.unlink()
        assert await inside() == ["/mnt/c"]
        monkeypatch.setattr("watcher.expectations.FSTABS_EVERY", 0.0)
        assert await inside() == []
    finally:
        children.close()


@pytest.mark.parametrize("user_namespace", [False, True])
async def test_what_a_container_lacks_by_its_fstab_and_by_its_configuration(
    lxc: Containers, site: Site, user_namespace: bool
) -> None:
    share, last = site.mount("nas", source="nas01:/media"), site.mount("last")
    ct = lxc.start(name="arr", rootfs="directory", user_namespace=user_namespace)
    root = lxc.lxc_path / ct.ctid / "rootfs"
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/fstab").write_text("nas02:/own /mnt/own nfs4 defaults 0 0\n")
    with open(lxc.pve_path / f"{ct.ctid}.conf", "a") as conf:
        conf.write(f"mp0: {share.mount_point}/films,mp=/films\n")
    async with GotifyReceiver() as gotify:
        configure(site, {"gotify": gotify.url}, lxc=lxc)
        async with site.service() as service:
            alarm = await until_told(gotify, "NOT MOUNTED")
            await asked(share, last)
            end = await tell_last(last, gotify)
            assert await service.end() == 0
    assert matches(titles(gotify), [f"🔴 {HOST}: CT {ct.ctid} arr /films and 1 more NOT MOUNTED, 2 mounts", end])
    assert alarm.message.splitlines()[1:3] == [f"CT {ct.ctid} arr /films", f"CT {ct.ctid} arr /mnt/own"]
    assert f"Do: pct reboot {ct.ctid}" in alarm.message
