from __future__ import annotations

from fnmatch import translate
from re import compile as regex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.mounts import mount, place, watching
from watcher.core.filters import MountPatterns, closed, literal, server_of, unmatched
from watcher.model import HOST, Mount, Pace

TEXT = st.text(st.characters(codec=None), max_size=40)


@pytest.mark.parametrize(
    ("fstype", "source", "server"),
    [
        ("nfs", "nas01:/export", "nas01"),
        ("nfs4", "nas01.example.org:/", "nas01.example.org"),
        ("nfs4", "10.0.0.1:/export/a:b", "10.0.0.1"),
        ("nfs4", "nas01:/export/user@home", "nas01"),
        ("nfs4", "[fe80::1]:/export", "fe80::1"),
        ("nfs4", "[fe80::1%eth0]:/export", "fe80::1%eth0"),
        ("nfs4", "[fe80::1%br-lan]:/export", "fe80::1%br-lan"),
        ("nfs4", "/no/colon", None),
        ("nfs4", ":/export", None),
        ("nfs4", "/a:b", None),
        ("nfs4", "", None),
        ("cifs", "//nas01/share", "nas01"),
        ("smb3", "//NAS01/share/deeper", "NAS01"),
        ("cifs", r"\\nas01\share", "nas01"),
        ("cifs", "//10.0.0.1/a@b", "10.0.0.1"),
        ("cifs", "//nas01", "nas01"),
        ("cifs", "/nas01/share", None),
        ("cifs", "", None),
        ("ceph", "10.0.0.1:6789,10.0.0.2:6789:/", "10.0.0.1:6789,10.0.0.2:6789"),
        ("ceph", "10.0.0.1:6789:/volumes/a@b", "10.0.0.1:6789"),
        ("ceph", "10.0.0.1:6789:/volumes/a=b", "10.0.0.1:6789"),
        ("ceph", "admin@b3acfc0d-575f.cephfs=/volumes", "b3acfc0d-575f.cephfs"),
        ("ceph", "admin@b3acfc0d-575f.cephfs=/a@b=c", "b3acfc0d-575f.cephfs"),
        ("ceph", "[v2:10.0.0.1:3300,v1:10.0.0.1:6789]:/", "[v2:10.0.0.1:3300,v1:10.0.0.1:6789]"),
        ("fuse.sshfs", "nas01:/srv", "nas01"),
        ("fuse.sshfs", "user@nas01:/srv", "nas01"),
        ("fuse.sshfs", "user@nas01:", "nas01"),
        ("fuse.sshfs", "user@example.org@nas01:/srv", "nas01"),
        ("fuse.sshfs", "user@nas01:/srv/mail@home", "nas01"),
        ("fuse.sshfs", "nas01:/srv/mail@home", "nas01"),
        ("fuse.sshfs", "user@[fe80::1]:/srv", "fe80::1"),
        ("fuse.glusterfs", "gluster01:/volume", "gluster01"),
        ("fuse.curlftpfs", "curlftpfs#ftp://ftp.example.org/", "ftp.example.org"),
        ("fuse.rclone", "remote:bucket", None),
        ("fuse", "nas01:/srv", None),
        ("fuse.nfs4", "nas01:/export", None),  # a FUSE mount that calls itself so
        ("9p", "nas01:/x", None),
        ("virtiofs", "tag", None),
        ("ext4", "/dev/sda1", None),
    ],
)
def test_server_of(fstype: str, source: str, server: str | None) -> None:
    assert server_of(fstype, source) == server


@given(st.sampled_from(["nfs", "nfs4", "cifs", "ceph", "fuse.sshfs", "fuse.glusterfs", "fuse.curlftpfs"]) | TEXT, TEXT)
def test_any_source_is_taken(fstype: str, source: str) -> None:
    assert server_of(fstype, source) != ""


HOST_NAS, CT_NAS = place("/mnt/nas/data"), place("/mnt/nas/data", "ct:101")


@pytest.mark.parametrize(
    ("globs", "host", "container"),
    [
        ([], False, False),
        (["*"], True, True),
        (["/mnt/*"], True, True),  # * also matches /
        (["/mnt/nas"], False, False),
        (["/mnt/nas/data"], True, True),
        (["/mnt/nas/dat?"], True, True),
        (["/mnt/nas/[a-d]*"], True, True),
        (["/mnt/nas/[!d]*"], False, False),
        (["host:/mnt/*"], True, False),
        (["host:*"], True, False),
        (["ct:101:/mnt/*"], False, True),
        (["ct:102:/mnt/*"], False, False),
        (["ct:*:/mnt/nas/*"], False, True),
        (["ct:*"], False, True),
        (["server:nas01"], True, True),
        (["server:nas*"], True, True),
        (["server:/mnt/*"], False, False),
        (["nas01"], False, False),  # a server only with its prefix
        (["/srv/*", "host:/mnt/*"], True, False),
        (["/mnt/nas/data\n"], False, False),
        (["["], False, False),
    ],
)
def test_patterns(globs: list[str], host: bool, container: bool) -> None:
    patterns = MountPatterns(globs)
    assert (patterns.match(HOST_NAS, "nas01"), patterns.match(CT_NAS, "nas01")) == (host, container)


def test_server_pattern_needs_a_server() -> None:
    assert not MountPatterns(["server:*"]).match(HOST_NAS, None)


def test_brackets_in_a_name_can_be_addressed() -> None:
    assert MountPatterns(["/mnt/[[]a]"]).match(place("/mnt/[a]"), None)


@given(st.lists(TEXT | TEXT.map(lambda t: f"server:{t}") | TEXT.map(lambda t: f"ct:{t}"), max_size=5), TEXT, TEXT)
def test_any_pattern_is_taken(globs: list[str], point: str, server: str) -> None:
    patterns = MountPatterns(globs)
    patterns.match(place(point), server)
    patterns.match(place(point, "ct:1"), None)


@given(TEXT)
def test_star_matches_everything(point: str) -> None:
    assert MountPatterns(["*"]).match(place(point), None)


@pytest.mark.parametrize(
    ("watch", "watched"),
    [
        ({}, True),
        ({"fstypes": ["nfs*"]}, True),
        ({"fstypes": ["cifs"]}, False),
        ({"fstypes": []}, False),
        ({"include": []}, False),
        ({"include": ["/mnt/*"]}, True),
        ({"include": ["/srv/*"]}, False),
        ({"exclude": ["/mnt/nas"]}, False),
        ({"exclude": ["server:nas01"]}, False),
        ({"exclude": ["server:nas02"]}, True),
        ({"include": ["server:nas01"], "exclude": ["/mnt/nas/*"]}, True),
        ({"include": ["ct:*"]}, False),
    ],
)
def test_watches(watch: dict[str, list[str]], watched: bool) -> None:
    assert watching(**watch).watches(HOST, mount("/mnt/nas")) is watched  # type: ignore[arg-type]


def test_autofs_is_never_watched() -> None:
    """Asking it would mount what it stands for."""
    trigger = mount("/net", fstype="autofs", source="/etc/auto.net")
    for chosen in (watching(fstypes=["*"]), watching(fstypes=["autofs"], include=["/net"])):
        assert not chosen.watches(HOST, trigger)


@pytest.mark.parametrize(
    ("show_only", "shown"),
    [
        ([], False),
        (["nfs4"], True),
        (["fuse.*"], False),
        (["/mnt/*"], True),
        (["host:/mnt/nas"], True),
        (["ct:*"], False),
        (["server:nas01"], True),
        (["mnt"], False),  # without a slash it is a type
    ],
)
def test_shows_only(show_only: list[str], shown: bool) -> None:
    assert watching(show_only=show_only).shows_only(HOST, mount("/mnt/nas")) is shown


def test_shown_only_is_still_watched() -> None:
    assert watching(show_only=["nfs4"]).watches(HOST, mount())


def test_pace_without_override() -> None:
    pace = Pace(interval=30)
    assert watching(pace=pace).pace(HOST, mount()) == pace


def test_later_overrides_win_key_by_key() -> None:
    chosen = watching(
        overrides=[
            (["/mnt/*"], {"timeout": 15.0, "alarm_after": 120.0}),
            (["server:nas01"], {"timeout": 20.0}),
            (["/srv/*"], {"timeout": 1.0}),
        ]
    )
    assert chosen.pace(HOST, mount()) == Pace(timeout=20.0, alarm_after=120.0)
    assert chosen.pace(HOST, mount(source="nas02:/data")) == Pace(timeout=15.0, alarm_after=120.0)
    assert chosen.pace(HOST, mount("/srv/a", source="nas02:/a")) == Pace(timeout=1.0)
    assert chosen.pace(HOST, mount("/opt/a", source="nas02:/a")) == Pace()


@given(st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=3), TEXT, TEXT, TEXT, TEXT)
def test_any_filter_takes_any_mount(
    globs: list[str], types: list[str], shown: list[str], namespace: str, point: str, fstype: str, source: str
) -> None:
    chosen = watching(fstypes=types, include=globs, exclude=globs, show_only=shown, overrides=[(globs, {"timeout": 1})])
    odd: Mount = mount(point, fstype=fstype, source=source)
    assert not chosen.watches(namespace, odd)  # what is both included and excluded is not watched
    chosen.shows_only(namespace, odd)
    chosen.pace(namespace, odd)


def test_brackets_that_nothing_closes_cost_no_more_than_others() -> None:
    # Else translate() reads 4,096 of them to the end 4,096 times: seconds, in which the service would stand still.
    assert closed("/mnt/[a]" + "[" * 4096) == "/mnt/[a]" + "[[]" * 4096


@given(st.lists(st.text("[]!*?a", max_size=8), max_size=3), st.text("[]!*?a", max_size=4))
def test_a_pattern_is_a_glob_whether_it_matches_one_text_or_many(globs: list[str], text: str) -> None:
    found = MountPatterns([f"/{glob}" for glob in globs]).match(place(f"/{text}"), None)
    assert found is any(regex(translate(f"/{glob}")).match(f"/{text}") for glob in globs)


MOUNTS = {place("/mnt/a"): "nas01", place("/mnt/a", "ct:101"): None, place("/srv"): "nas02", place("/x"): ""}
ANY = st.sampled_from(["/mtn/*", "/mnt/?", "host:/srv", "ct:101:*", "ct:*", "server:*", "server:nas01", "server:nas03"])


@given(st.lists(ANY | st.builds("{}{}".format, st.sampled_from(["", "ct:101:", "server:"]), st.text("[]!*?a/"))))
def test_what_matches_nothing(globs: list[str]) -> None:
    nothing = [glob for glob in globs if not any(MountPatterns([glob]).match(p, s) for p, s in MOUNTS.items())]
    assert unmatched(globs, MOUNTS) == nothing


@given(st.text("[]!*?a", max_size=8), st.text("[]!*?a", max_size=8))
def test_a_literal_matches_itself_alone(text: str, other: str) -> None:
    patterns = MountPatterns([literal(f"/{text}")])
    assert patterns.match(place(f"/{text}"), None)
    assert patterns.match(place(f"/{other}"), None) is (text == other)


@example("[][", "[][")
@example("[!][", "[!][")
@given(st.text("[]!-^a/*?", max_size=12), st.text("[]!-^a/", max_size=8))
def test_closed_brackets_mean_the_same(glob: str, text: str) -> None:
    assert (regex(translate(closed(glob))).match(text) is None) is (regex(translate(glob)).match(text) is None)
