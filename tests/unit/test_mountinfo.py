from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.mounts import ROOT, mount
from watcher.core.mountinfo import Tree, is_below, mount_of, option, parse, parse_line
from watcher.model import Mount

# ---- the format


def mangle(raw: bytes, escaped: bytes) -> bytes:
    """As fs/seq_file.c:mangle_path writes a name: each byte of `escaped` as a backslash and three octal digits."""
    return b"".join(b"\\%03o" % byte if byte in escaped else bytes((byte,)) for byte in raw)


PATH_ESCAPES = b" \t\n\\"  # fs/proc_namespace.c:show_mountinfo, for root and mount point
FIELD_ESCAPES = b" \t\n\\#"  # the same file's mangle(), for type and source
# Names as the kernel can hold them: no NUL. A "/" in front, so that a root or mount point is never empty.
names = st.binary(max_size=60).map(lambda raw: raw.replace(b"\0", b""))
paths = names.map(lambda raw: b"/" + raw)
words = st.from_regex(rb"[a-z0-9.]{1,12}", fullmatch=True)
optional_fields = st.lists(st.sampled_from([b"shared:5", b"master:12", b"propagate_from:3", b"unbindable"]), max_size=4)


@given(
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1)),
    paths,
    paths,
    words,
    optional_fields,
    words,
    names,
    words,
)
def test_round_trip(
    mount_id: int,
    parent_id: int,
    device: tuple[int, int],
    root: bytes,
    point: bytes,
    options: bytes,
    tags: list[bytes],
    fstype: bytes,
    source: bytes,
    super_options: bytes,
) -> None:
    line = b" ".join(
        [
            b"%d %d %d:%d" % (mount_id, parent_id, *device),
            mangle(root, PATH_ESCAPES),
            mangle(point, PATH_ESCAPES),
            options,
            *tags,
            b"-",
            mangle(fstype, FIELD_ESCAPES),
            mangle(source, FIELD_ESCAPES),
            super_options,
        ]
    )
    [read] = parse(line + b"\n")
    assert (read.mount_id, read.parent_id, read.device) == (mount_id, parent_id, f"{device[0]}:{device[1]}")
    assert [os.fsencode(text) for text in (read.root, read.mount_point, read.fstype, read.source)] == [
        root,
        point,
        fstype,
        source,
    ]
    assert [read.options.encode(), read.super_options.encode()] == [options, super_options]


@given(st.binary(max_size=2000))
def test_any_bytes_are_read(data: bytes) -> None:
    for read in parse(data):
        assert isinstance(read, Mount)


@given(st.lists(st.sampled_from(["36", "35", "98:0", "/", "-", "", "ext4", "rw", r"\040", r"\777", "é"]), max_size=14))
def test_any_fields_are_read(fields: list[str]) -> None:
    parse_line(" ".join(fields))


TAIL = "35 1 0:50 / /mnt/nas rw,relatime"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{TAIL} - nfs4 nas01:/data rw,vers=4.2", ("/mnt/nas", "nfs4", "nas01:/data", "rw,vers=4.2")),
        (f"{TAIL} shared:1 - nfs4 nas01:/data rw", ("/mnt/nas", "nfs4", "nas01:/data", "rw")),
        (f"{TAIL} shared:1 master:2 later:3 - nfs4 n:/ rw", ("/mnt/nas", "nfs4", "n:/", "rw")),
        (f"{TAIL} - tmpfs  rw", ("/mnt/nas", "tmpfs", "", "rw")),  # an empty source: two spaces
        (f"{TAIL} - fuse - rw", ("/mnt/nas", "fuse", "-", "rw")),
        (f"{TAIL} - nfs4 nas01:/data ", ("/mnt/nas", "nfs4", "nas01:/data", "")),
        (f"{TAIL} - nfs4 nas01:/data", ("/mnt/nas", "nfs4", "nas01:/data", "")),
        (f"{TAIL} - cifs //nas/a\\040b rw", ("/mnt/nas", "cifs", "//nas/a b", "rw")),
        (f"{TAIL} - overlay o rw,lowerdir=/a b", ("/mnt/nas", "overlay", "o", "rw,lowerdir=/a b")),
        (r"35 1 0:50 / /a\011b\012c\134d rw - fuse.sshfs u@h:\043 rw", ("/a\tb\nc\\d", "fuse.sshfs", "u@h:#", "rw")),
        (r"35 1 0:50 / /no\08x\1 rw - fuse s rw", (r"/no\08x\1", "fuse", "s", "rw")),  # no escapes of the kernel's
        (r"35 1 0:50 / /mnt/- - - nfs4 n:/ rw", ("/mnt/-", "nfs4", "n:/", "rw")),  # "-" as options
        (r"35 1 0:50 / /mnt//deleted rw - fuse s rw", ("/mnt//deleted", "fuse", "s", "rw")),
    ],
)
def test_line(line: str, expected: tuple[str, str, str, str]) -> None:
    read = parse_line(line)
    assert read is not None
    assert (read.mount_point, read.fstype, read.source, read.super_options) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "35",
        "35 1 0:50 / /mnt rw",
        "35 1 0:50 / /mnt rw -",
        "35 1 0:50 / /mnt rw - nfs4",
        "35 1 0:50 / /mnt rw nfs4 nas01:/data rw",
        "x 1 0:50 / /mnt rw - nfs4 n:/ rw",
        "35 x 0:50 / /mnt rw - nfs4 n:/ rw",
        "35 1 050 / /mnt rw - nfs4 n:/ rw",
        "35 1 :5 / /mnt rw - nfs4 n:/ rw",
        "35 1 0:50 / /mnt rw -  n:/ rw",
    ],
)
def test_what_is_no_line_is_left_out(line: str) -> None:
    assert parse_line(line) is None


def test_a_torn_line_costs_only_itself() -> None:
    whole = b"35 1 0:50 / /mnt/a rw - nfs4 n:/a rw\n"
    assert [m.mount_point for m in parse(whole + whole[:20] + b"\n" + whole)] == ["/mnt/a", "/mnt/a"]


def test_a_raw_carriage_return_does_not_end_a_line() -> None:
    [read] = parse(b"35 1 0:50 / /mnt/a\rb\x0bc\x85 rw - nfs4 n:/a rw\n")
    assert os.fsencode(read.mount_point) == b"/mnt/a\rb\x0bc\x85"


def test_ten_thousand_lines() -> None:
    """Flat, chained and stacked, and all of it walked."""
    lines = [b"1 0 8:1 / / rw - ext4 /dev/sda1 rw"]
    lines += [b"%d 1 0:%d / /mnt/%d rw - nfs4 nas:/%d rw" % (n, n, n, n) for n in range(10, 8000)]
    lines += [b"%d %d 0:9 / /deep%s rw - fuse f rw" % (n, n - 1 if n > 8000 else 1, b"/a" * (n - 8000))
              for n in range(8000, 9000)]  # fmt: skip
    lines += [b"%d %d 0:9 / /stack rw - fuse f rw" % (n, n - 1 if n > 9000 else 1) for n in range(9000, 10011)]
    mounts = parse(b"\n".join(lines) + b"\n")
    assert len(mounts) == 1 + 7990 + 1000 + 1011
    tree = Tree(mounts)
    assert sum(map(tree.is_visible, mounts)) == 1 + 7990 + 1000 + 1
    assert tree.stacked(mounts[-1]) == 1011


# ---- the tree


def visible(*mounts: Mount) -> list[int]:
    tree = Tree(mounts)
    return [m.mount_id for m in mounts if tree.is_visible(m)]


def at(point: str, mount_id: int, parent: int) -> Mount:
    return mount(point, mount_id=mount_id, parent=parent)


@pytest.mark.parametrize(
    ("mounts", "seen"),
    [
        pytest.param([at("/mnt/a", 2, 1), at("/mnt/b", 3, 1)], [1, 2, 3], id="side by side"),
        pytest.param([at("/mnt/a", 2, 1), at("/mnt/a/b", 3, 2)], [1, 2, 3], id="one below the other"),
        pytest.param([at("/mnt/a", 2, 1), at("/mnt/a", 3, 2)], [1, 3], id="stacked"),
        pytest.param([at("/mnt/a", 2, 1), at("/mnt/a", 3, 2), at("/mnt/a", 4, 3)], [1, 4], id="stacked twice"),
        pytest.param([at("/mnt/a/b", 2, 1), at("/mnt/a", 3, 1)], [1, 3], id="cut off by a later mount above"),
        pytest.param(
            [at("/mnt/a", 2, 1), at("/mnt/a/b", 3, 2), at("/mnt/a", 4, 2)],
            [1, 4],
            id="cut off by a cover on its parent",
        ),
        pytest.param(
            [at("/mnt/a", 2, 1), at("/mnt/a/b", 3, 2), at("/mnt/a", 4, 2), at("/mnt/a/b", 5, 4)],
            [1, 4, 5],
            id="the same again on the cover",
        ),
        pytest.param(
            [at("/mnt/a/b/c", 2, 1), at("/mnt/a/b/c/d", 3, 2), at("/mnt/a", 4, 1)], [1, 4], id="cut off with its parent"
        ),
        pytest.param(
            [at("/mnt/a", 3, 2), at("/mnt/a", 2, 1)], [1, 3], id="tucked beneath: line order says nothing, parents do"
        ),
        pytest.param([at("/mnt/ab", 2, 1), at("/mnt/a", 3, 1)], [1, 2, 3], id="a common prefix is no ancestor"),
        pytest.param([at("/", 2, 1), at("/mnt/a", 3, 2)], [2, 3], id="on top of the root"),
        pytest.param([at("/mnt/a", 2, 1), at("/", 3, 1)], [3], id="all hidden under a new root"),
        pytest.param([at("/mnt/a", 2, 99)], [1, 2], id="parent outside of what we see"),
    ],
)
def test_visible(mounts: list[Mount], seen: list[int]) -> None:
    assert visible(ROOT, *mounts) == seen
    assert sorted(visible(*reversed([ROOT, *mounts]))) == seen  # whatever the order of the lines


def test_stacked_counts_what_stands_on_the_same_directory() -> None:
    mounts = [ROOT, at("/mnt/a", 2, 1), at("/mnt/a", 3, 2), at("/mnt/a/b", 4, 3), at("/mnt/a/b", 5, 4)]
    assert [Tree(mounts).stacked(m) for m in mounts] == [1, 1, 2, 1, 2]


def test_covering() -> None:
    lower, upper, below = at("/mnt/a", 2, 1), at("/mnt/a", 3, 2), at("/mnt/a/b", 4, 3)
    tree = Tree([ROOT, lower, upper, below])
    assert tree.covering(lower) is upper
    assert tree.covering(upper) is None  # what is mounted deeper covers no root


def test_ancestors_come_nearest_first() -> None:
    chain = [ROOT, at("/a", 2, 1), at("/a/b", 3, 2), at("/a/b/c", 4, 3)]
    assert [m.mount_id for m in Tree(chain).ancestors(chain[-1])] == [3, 2, 1]


points = st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/ab", "/b"])


@given(st.lists(st.builds(at, points, st.integers(1, 8), st.integers(0, 8)), max_size=10))
def test_any_parent_ids_end(mounts: list[Mount]) -> None:
    """Cycles, mounts that are their own parents, ids given twice: no loop, no exception."""
    tree = Tree(mounts)
    for one in mounts:
        tree.is_visible(one)
        assert len(list(tree.ancestors(one))) <= len({m.mount_id for m in mounts})
        assert 1 <= tree.stacked(one) <= len(mounts)
        tree.covering(one)


@given(st.data())
def test_visible_is_what_mounting_in_order_leaves(data: st.DataObject) -> None:
    """Mounts made one after the other, each on what a lookup of its directory finds then: a model of the kernel's."""
    mounts = [ROOT]

    def lookup(path: str) -> Mount:
        """The mount in which a walk to `path` ends, component by component."""
        current, walked = ROOT, "/"
        parts = [part for part in path.split("/") if part]
        for part in ["", *parts]:
            walked = walked if not part else f"{walked.rstrip('/')}/{part}"
            while over := next(
                (m for m in mounts if m.parent_id == current.mount_id and m.mount_point == walked), None
            ):
                current = over
        return current

    for mount_id in range(2, 2 + data.draw(st.integers(0, 7))):
        point = data.draw(points)
        mounts.append(at(point, mount_id, lookup(point).mount_id))
    table = data.draw(st.permutations(mounts))
    tree = Tree(table)
    assert {m.mount_id for m in table if tree.is_visible(m)} == {
        m.mount_id for m in mounts if lookup(m.mount_point) is m
    }


# ---- paths and options


@pytest.mark.parametrize(
    ("path", "ancestor", "below"),
    [
        ("/mnt/a", "/mnt", True),
        ("/mnt/a", "/", True),
        ("/", "/", False),
        ("/mnt", "/mnt", False),
        ("/mntx", "/mnt", False),
        ("/mnt", "/mnt/a", False),
    ],
)
def test_is_below(path: str, ancestor: str, below: bool) -> None:
    assert is_below(path, ancestor) is below


@pytest.mark.parametrize(
    ("path", "mounts", "expected"),
    [
        ("/etc/fstab", [at("/mnt/a", 2, 1)], 1),
        ("/mnt/a", [at("/mnt/a", 2, 1)], 2),
        ("/mnt/a/x/y", [at("/mnt/a", 2, 1)], 2),
        ("/mnt/ab", [at("/mnt/a", 2, 1)], 1),
        ("/mnt/a/b/x", [at("/mnt/a/b", 3, 2), at("/mnt/a", 2, 1)], 3),
        ("/mnt/a/x", [at("/mnt/a", 2, 1), at("/mnt/a", 3, 2)], 3),
        ("/mnt/a/b/x", [at("/mnt/a/b", 2, 1), at("/mnt/a", 3, 1)], 3),  # 2 is cut off: a walk ends in 3
    ],
)
def test_mount_of(path: str, mounts: list[Mount], expected: int) -> None:
    found = mount_of(path, [ROOT, *mounts])
    assert found is not None
    assert found.mount_id == expected


def test_mount_of_nothing() -> None:
    assert mount_of("/etc", []) is None


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ("rw,vers=4.2,hard", "vers", "4.2"),
        ("rw,vers=4.2,hard", "hard", ""),
        ("rw,vers=4.2,hard", "soft", None),
        ("rw,vers=4.2", "ver", None),
        ("a=b=c", "a", "b=c"),
        ("", "rw", None),
    ],
)
def test_option(options: str, key: str, value: str | None) -> None:
    assert option(options, key) == value


def test_a_comma_within_an_option_begins_no_other() -> None:
    line = "30 1 0:53 / /a rw - cifs //nas/x rw,username=a\\054addr=6.6.6.6,addr=10.0.0.5"
    mount = parse_line(line)
    assert mount is not None
    assert option(mount.super_options, "addr") == "10.0.0.5"
    assert option(mount.super_options, "username") == "a\\054addr=6.6.6.6"
