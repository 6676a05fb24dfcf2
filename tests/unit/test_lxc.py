"""What the texts of the kernel and of LXC say of containers: tables, and whatever else may stand there."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.mounts import mount
from tests.unit.test_architecture import imported
from watcher.core import lxc
from watcher.core.mountinfo import parse

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
TITLES = Path(__file__).parents[2] / "watcher/sources/titles.py"


# ---- whose monitor it is


@pytest.mark.parametrize(
    ("argv", "ctid"),
    [
        # Proxmox VE
        ("/usr/bin/lxc-start -F -n 101", "101"),
        ("lxc-start -F -n 101", "101"),
        # getopt_long(3)
        ("lxc-start -n101", "101"),
        ("lxc-start -Fn101", "101"),
        ("lxc-start -Fn 101", "101"),
        ("lxc-start -dqCn web", "web"),
        ("lxc-start --name web", "web"),
        ("lxc-start --name=web", "web"),
        ("lxc-start --na web -F", "web"),
        ("lxc-start -n old --name=new", "new"),
        ("lxc-start web", "web"),
        ("lxc-start -F web", "web"),
        ("lxc-start web -F", "web"),
        ("lxc-start -o -n web", "web"),
        ("lxc-start -o /log web", "web"),
        ("lxc-start -o/log web", "web"),
        ("lxc-start --logfile /log web", "web"),
        ("lxc-start --logfile=/log web", "web"),
        ("lxc-start --share-net -n web", "web"),
        ("lxc-start -P /srv/lxc -l DEBUG -f /x -s lxc.a=b -c /y -L /z -p /pid -n web", "web"),
        ("lxc-start -F -- web", "web"),
        ("lxc-start -n web -- /bin/sh -n x", "web"),
        ("lxc-start web /bin/true", "web"),
        ("lxc-start - -n web", "web"),
        # none
        ("lxc-start", None),
        ("lxc-start -F", None),
        ("lxc-start -n", None),
        ("lxc-start --name", None),
        ("lxc-start --name=", None),
        ("lxc-start --", None),
        ("lxc-start -o web", None),
        ("lxc-start -n ../../etc", None),
        ("lxc-start -n .", None),
        ("lxc-start -n -x", None),
        ("lxc-start -n 101/ns", None),
        ("lxc-start -n " + "x" * 64, "x" * 64),
        ("lxc-start -n " + "x" * 65, None),
        ("lxc-start -n wéb", None),
        ("", None),
    ],
)
def test_id_from_the_arguments(argv: str, ctid: str | None) -> None:
    words = argv.split(" ")
    assert lxc.id_from_cmdline("\0".join([*words, ""]).encode()) == ctid


@pytest.mark.parametrize(
    ("title", "ctid"),
    [
        (b"[lxc monitor] /var/lib/lxc 102", "102"),
        (b"[lxc monitor] /var/lib/lxc 102\0", "102"),
        (b"[lxc monitor] /var/lib/lxc 102\0\0\0\0", "102"),
        (b"[lxc monitor] /srv/my containers web-1.test", "web-1.test"),
        (b"[lxc monitor] /var/lib/lxc ../x", None),
        (b"[lxc monitor] /var/lib/lxc \xff", None),
        (b"[lxc monitor] ", None),
        (b" [lxc monitor] /var/lib/lxc 102", None),
        (b"lxc-start -n 1\n2", None),
    ],
)
def test_id_from_the_title_of_a_daemonised_monitor(title: bytes, ctid: str | None) -> None:
    assert lxc.id_from_cmdline(title) == ctid


@pytest.mark.parametrize(
    ("text", "ctid"),
    [
        (b"0::/lxc.monitor/101\n", "101"),
        (b"12:cpu:/x\n1:name=systemd:/\n0::/lxc.monitor/web\n", "web"),
        (b"0::/lxc.monitor/101/x\n", None),
        (b"0::/lxc.monitor/\n", None),
        (b"0::/lxc.monitor\n", None),
        (b"0::/lxc.monitor.101\n", None),
        (b"0::/lxc/101\n", None),
        (b"0::/../other/lxc.monitor/101\n", None),
        (b"0::/lxc.monitor/101 (deleted)\n", None),
        (b"3:x:/lxc.monitor/101\n", None),
        (b"0::/system.slice/pve-container@101.service\n", None),
        (b"", None),
    ],
)
def test_id_from_the_control_group(text: bytes, ctid: str | None) -> None:
    assert lxc.id_from_cgroup(text) == ctid


WORDS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"-n", b"--name", b"--name=", b"-F", b"--", b"-", b"-o", b"[lxc monitor] /x ", b"101", b"\n", b""]
    ),
)


@given(st.one_of(st.binary(), st.lists(WORDS).map(b"\0".join), st.lists(WORDS).map(b"".join)))
@example(b"lxc-start\0-n\0101\n")
@example(b"[lxc monitor] x 101\n\n")
@example(b"0::/lxc.monitor/101\r\n")
def test_whatever_the_text_nothing_raises_and_an_id_is_one(text: bytes) -> None:
    for ctid in (lxc.id_from_cmdline(text), lxc.id_from_cgroup(text), lxc.id_from_cgroup(b"0::/lxc.monitor/" + text)):
        assert ctid is None or ID.fullmatch(ctid)
    for name in (lxc.name_from_config(text), lxc.name_from_pve_config(text)):
        assert len(name) <= lxc.NAME_LIMIT
        assert not set(name) & set("\r\n")
    assert ".." not in lxc.cgroup_of(b"0::/" + text).split("/")
    assert lxc.whole_lines(text, 10) == text[:10] or text.startswith(lxc.whole_lines(text, 10))
    lxc.is_all_root(text), lxc.is_first_process(text), lxc.is_frozen(text)


# ---- processes and control groups


@pytest.mark.parametrize(
    ("status", "root", "first"),
    [
        (b"Name:\tlxc-start\nUid:\t0\t0\t0\t0\nNSpid:\t4711\n", True, False),
        (b"Name:\tsystemd\nUid:\t100000\t100000\t100000\t100000\nNSpid:\t4711\t1\n", False, True),
        (b"Uid:\t1000\t0\t0\t0\n", False, False),
        (b"Uid:\t0\t0\t0\t1000\n", False, False),
        (b"Uid:\t0\t0\t0\n", False, False),
        (b"Name:\tUid:\t0\t0\t0\t0\n", False, False),
        (b"NSpid:\t4711\t11\n", False, False),
        (b"NSpid:\t4711\t2\t1\n", False, True),
        (b"NSpid:\t1\t11\n", False, False),
        (b"", False, False),
    ],
)
def test_a_process_by_its_status(status: bytes, root: bool, first: bool) -> None:
    assert (lxc.is_all_root(status), lxc.is_first_process(status)) == (root, first)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"0::/lxc/101/ns/init.scope\n", "/lxc/101/ns/init.scope"),
        (b"3:cpu:/x\n0::/lxc/101\n", "/lxc/101"),
        (b"0::/lxc/a\xffb\n", "/lxc/a\udcffb"),
        (b"0::/../../x\n", ""),
        (b"0::/lxc/../../x\n", ""),
        (b"0::/lxc/..x\n", "/lxc/..x"),
        (b"3:cpu:/x\n", ""),
        (b"0::\n", ""),
        (b"", ""),
    ],
)
def test_the_control_group_of_a_process(text: bytes, path: str) -> None:
    assert lxc.cgroup_of(text) == path


@pytest.mark.parametrize(
    ("events", "frozen"),
    [(b"populated 1\nfrozen 1\n", True), (b"populated 1\nfrozen 0\n", False), (b"populated 1\n", False), (b"", False)],
)
def test_frozen(events: bytes, frozen: bool) -> None:
    assert lxc.is_frozen(events) is frozen


# ---- the host name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"lxc.uts.name = plex\n", "plex"),
        (b"lxc.uts.name=plex", "plex"),
        (b"  lxc.uts.name\t=  plex \t\n", "plex"),
        (b"lxc.arch = amd64\r\nlxc.uts.name = plex\r\nlxc.tty.max = 2\r\n", "plex"),
        (b"# lxc.uts.name = old\nlxc.uts.name = plex\n", "plex"),
        (b"#lxc.uts.name = old\n", ""),
        (b"lxc.uts.name = one\nlxc.uts.name = two\n", "two"),
        (b"lxc.uts.name = one\nlxc.uts.name =\n", ""),
        (b"lxc.uts.name = 'plex'\n", "plex"),
        (b'lxc.uts.name = "plex"\n', "plex"),
        (b"lxc.uts.name = '\n", "'"),
        (b"lxc.uts.name.x = plex\n", ""),
        (b"lxc.uts.name plex\n", ""),
        (b"\xff\xfe\x00junk\nlxc.uts.name = pl\xffx\n", "pl\udcffx"),
        (b"lxc.uts.name = pl\xc3\xa9x\n", "pléx"),
        (b"lxc.uts.name = " + b"x" * 100, "x" * 64),
        (b"hostname: plex\n", ""),
        (b"", ""),
    ],
)
def test_name_from_an_lxc_configuration(text: bytes, name: str) -> None:
    assert lxc.name_from_config(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"arch: amd64\nhostname: plex\nmemory: 512\n", "plex"),
        (b"hostname:plex", "plex"),
        (b"hostname: \t plex  \r\nmemory: 512\r\n", "plex"),
        (b"#hostname: described\nhostname: plex\n", "plex"),
        (b"hostname: plex\n\n[before-update]\nhostname: old\n", "plex"),
        (b"memory: 1\n[before-update]\nhostname: old\n", ""),
        (b"hostname: pl\xffx\n", "pl\udcffx"),
        (b"xhostname: plex\n", ""),
        (b"lxc.uts.name = plex\n", ""),
        (b"", ""),
    ],
)
def test_name_from_a_proxmox_configuration(text: bytes, name: str) -> None:
    assert lxc.name_from_pve_config(text) == name


# ---- the mount table


@pytest.mark.parametrize(
    ("table", "root"),
    [
        (b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 0:5 / /proc rw - proc proc rw\n", ("8:1", "/")),
        (b"20 1 8:1 /var/lib/lxc/1/rootfs / rw - ext4 /dev/sda1 rw\n", ("8:1", "/var/lib/lxc/1/rootfs")),
        (b"1 1 0:2 / / rw - rootfs rootfs rw\n20 1 8:1 / / rw - ext4 /dev/sda1 rw\n", ("8:1", "/")),
        (b"30 20 0:9 / / rw - tmpfs x rw\n20 1 8:1 / / rw - ext4 /dev/sda1 rw\n", ("0:9", "/")),
        (b"21 20 0:5 / /proc rw - proc proc rw\n", None),
        (b"", None),
    ],
)
def test_the_visible_root(table: bytes, root: tuple[str, str] | None) -> None:
    assert lxc.root_of(parse(table)) == root


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(100, b"one\ntwo\nthree"), (13, b"one\ntwo\nthree"), (12, b"one\ntwo\n"), (3, b""), (4, b"one\n")],
)
def test_a_table_is_cut_behind_a_line(limit: int, kept: bytes) -> None:
    assert lxc.whole_lines(b"one\ntwo\nthree", limit) == kept


def test_the_child_that_reads_titles_stands_alone() -> None:
    """It runs under -I -S: nothing but the standard library can be imported there."""
    tree = ast.parse(TITLES.read_text())
    assert [name for _, name in imported(tree) if name.split(".")[0] not in sys.stdlib_module_names] == []


def test_mount_points_longer_than_a_path_are_left_out() -> None:
    """chdir(2) and mount(2) on "." make them of any length, and judging them takes the square of that."""
    short = mount("/" + "a" * 4000, mount_id=1)
    long = mount("/a" * 100_000, mount_id=2)
    deep = mount("/x", mount_id=3, root="/a" * 100_000)
    assert lxc.of_bearable_length([short, long, deep]) == (short,)
