from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.core.mountstats import counters
from watcher.model import Counters

# Linux 6.12
NFS = b"""device 10.99.0.2:/srv/nfs mounted on %b with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.2,rsize=131072,wsize=131072,namlen=255,hard,proto=tcp,timeo=600,retrans=2,sec=sys,local_lock=none
\tage:\t112
\timpl_id:\tname='',domain='',date='0,0'
\tcaps:\tcaps=0xfffbc0bf,wtmult=512,dtsize=131072,bsize=0,namlen=255
\tnfsv4:\tbm0=0xfdffbfff,bm1=0x40fdbe3e,bm2=0x62803,acl=0x3,sessions,pnfs=not configured,lease_time=10,lease_expired=0
\tsec:\tflavor=1,pseudoflavor=1
\tevents:\t%b \n\
\tbytes:\t%b \n\
\tRPC iostats version: 1.1  p/v: 100003/4 (nfs)
\txprt:\ttcp 0 0 2 0 0 30 30 0 30 0 2 0 0
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
\t      STATFS: 3 3 0 444 480 0 1 1 0

"""
OTHERS = b"""device proc mounted on /proc with fstype proc
no device mounted on /odd with fstype odd
device systemd-1 mounted on /mnt/nas with fstype autofs
"""
MEANT = (0, 1, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17)  # of the events
IN_BYTES = (0, 1, 2, 3)


def numbers(first: int, count: int) -> bytes:
    return b" ".join(b"%d" % n for n in range(first, first + count))


def stats(point: bytes = b"/mnt/nas", events: bytes = numbers(100, 27), in_bytes: bytes = numbers(200, 8)) -> bytes:
    return NFS % (point, events, in_bytes)


def counted(**changed: bytes) -> Counters:
    [found] = counters(stats(**changed)).values()
    return found


def test_what_is_counted() -> None:
    meant = tuple(str(100 + n) for n in MEANT) + tuple(str(200 + n) for n in IN_BYTES)
    assert counters(OTHERS + stats() + OTHERS) == {"/mnt/nas": meant}


@pytest.mark.parametrize("index", range(27))
def test_events(index: int) -> None:
    moved = b" ".join(b"%d" % (n + (n == 100 + index)) for n in range(100, 127))
    assert (counted(events=moved) != counted()) is (index in MEANT)


@pytest.mark.parametrize("index", range(8))
def test_bytes(index: int) -> None:
    moved = b" ".join(b"%d" % (n + (n == 200 + index)) for n in range(200, 208))
    assert (counted(in_bytes=moved) != counted()) is (index in IN_BYTES)


def test_probes_and_lease_renewals_do_not_count() -> None:
    assert counters(stats().replace(b"STATFS: 3 3", b"STATFS: 9 9").replace(b"0 30 30", b"0 95 95")) == counters(
        stats()
    )


def test_nothing_is_counted_of_others() -> None:
    assert counters(OTHERS) == {}
    assert counters(stats().replace(b"fstype nfs4", b"fstype fuse.sshfs")) == {}
    assert list(counters(stats().replace(b"fstype nfs4", b"fstype nfs"))) == ["/mnt/nas"]


def test_two_on_one_mount_point_are_both_seen() -> None:
    lower, upper = stats(events=b"1 1"), stats(events=b"2 2")
    assert counters(lower + upper) not in (counters(lower), counters(upper))


def test_counters_of_earlier_and_later_kernels() -> None:
    assert counted(events=numbers(100, 5), in_bytes=b"") == ("100", "101", "104")
    assert counted(events=numbers(100, 40)) == counted()


@given(st.binary(min_size=1, max_size=60).map(lambda raw: raw.replace(b"\0", b"")))
def test_names(name: bytes) -> None:
    """As fs/seq_file.c:mangle_path writes them."""
    mangled = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes((byte,)) for byte in b"/" + name)
    [point] = counters(stats(mangled))
    assert os.fsencode(point) == b"/" + name


@given(st.binary(max_size=2000))
def test_any_bytes_are_read(data: bytes) -> None:
    counters(data)
    assert set(counters(stats() + data)) >= {"/mnt/nas"}


@given(st.data())
def test_any_damage_is_read(data: st.DataObject) -> None:
    text = OTHERS + stats() + stats(b"/mnt/b")
    cut, rest = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    for value in counters(text[:cut] + data.draw(st.binary(max_size=50)) + text[rest:]).values():
        assert all(isinstance(number, str) for number in value)
