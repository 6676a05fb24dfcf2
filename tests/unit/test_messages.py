from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from tests.unit.mounts import subject
from watcher.core import messages
from watcher.core.advice import fits
from watcher.core.body import MAX_LINES, foremost
from watcher.core.evidence import Daemon, Endpoint, Evidence, Port, Question
from watcher.core.growth import Gravity, Growth
from watcher.core.incident import Condition, Incident, Member
from watcher.core.messages import Message, Sender, compose
from watcher.core.outbox import News, Topic
from watcher.core.radius import Process, Radius
from watcher.core.roster import ALONE, OLD
from watcher.core.silences import Silences
from watcher.core.wording import describe_type
from watcher.model import HOST, Cause, Kind, Place, Silence, Subject, Superblock

MEND = "Mend that – no such directory? It lies below the export with fsid=0, see exportfs -v"
BERLIN = ZoneInfo("Europe/Berlin")
DOWN, OK, GONE, REMOUNTED = Condition.DOWN, Condition.OK, Condition.GONE, Condition.REMOUNTED


def local(wall: float) -> datetime:
    return datetime.fromtimestamp(wall, BERLIN)


def clock(text: str) -> float:
    """Epoch seconds of a time of day in Berlin, on 1 July 2026 unless a date is given."""
    text = text if "-" in text else f"2026-07-01 {text}"
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def member(
    about: Subject,
    condition: Condition = DOWN,
    *,
    since: str = "02:10:07",
    changed: str = "02:10:27",
    kind: Kind = Kind.STALE,
    cause: Cause | None = Cause.TIMEOUT,
    error: str = "no answer within 5 s",
    stack: Sequence[str] = (),
    reason: str = "",
    context: str = "",
) -> Member:
    return Member(kind, about, condition, clock(since), clock(changed), cause, error, tuple(stack), reason, context)


def incident(*members: Member, server: str | None = "nas01", group: str = "server nas01") -> Incident:
    numbered = [replace(m, slot=n) for n, m in enumerate(members)]
    down = any(m.condition is DOWN for m in members)
    closed = None if down else max(m.changed for m in members)
    return Incident(1, group, server, min(m.changed for m in members), tuple(numbered), closed)


def told(
    topic: Topic,
    about: Incident,
    *,
    now: str = "02:10:30",
    due: str | None = None,
    told_down: int = 0,
    unreachable_since: str | None = None,
    host: str = "pve3",
    channel: str = "Telegram",
) -> Message:
    sender = Sender(host, channel, clock(unreachable_since) if unreachable_since else None)
    return compose(News(about, topic, clock(due or now)), told_down, sender, now=clock(now), local=local)


def text(message: Message) -> str:
    return f"[{message.type}] {message.title}\n{message.body}"


NAS01 = subject("/mnt/pve/nas01", source="nas01:/data")
IN_101 = subject(Place("ct:101", "/media"), source="nas01:/media", device="0:51", names=[("ct:101", "plex")])
IN_105 = subject(Place("ct:105", "/data"), source="nas01:/data", device="0:52", names=[("ct:105", "arr")])
RCLONE = subject("/mnt/cloud", source="remote:", fstype="fuse.rclone", device="0:60", options="rw")
CIFS = subject("/mnt/smb", source="//nas01/share", fstype="cifs", device="0:61", options="rw,vers=3.1.1")

# ---- the models


def test_a_server_is_dead() -> None:
    """The first model."""
    message = told(Topic.PROBLEM, incident(member(NAS01), member(IN_101), member(IN_105)))
    assert text(message) == "\n".join(
        [
            "[failure] 🔴 pve3: nas01 NO ANSWER, 3 mounts",
            "Since 02:10:07 CEST",
            "Host /mnt/pve/nas01 (PVE storage nas01)",
            "CT 101 plex /media",
            "CT 105 arr /data",
            "nas01:/data; NFS 4.2 hard",
            "No answer within 5 s",
            "Do: see whether nas01 is off, or the network to it, the mount resumes by itself",
            "To give it up: pvesm set nas01 --disable 1; umount -fl /mnt/pve/nas01"
            " # on all nodes – unwritten data is lost – who still waits: kill -9 – later: pvesm set nas01 --disable 0",
            "Quiet: watcher silence --server nas01 --for 2h",
        ]
    )


def test_a_stale_handle_in_a_container() -> None:
    """The second model, as far as containers are known yet."""
    stale = member(
        IN_105, since="14:03:00", changed="14:03:05", cause=Cause.STALE_HANDLE, error="Stale file handle (ESTALE)"
    )
    message = told(Topic.PROBLEM, incident(stale), now="14:03:10")
    assert text(message) == "\n".join(
        [
            "[failure] 🔴 pve3: CT 105 arr /data STALE HANDLE",
            "Since 14:03:00 CEST",
            "CT 105 arr /data",
            "nas01:/data; NFS 4.2 hard",
            "The server no longer knows that directory: deleted, restored, its disk not mounted, another fsid",
            "Stale file handle (ESTALE)",
            f"First, on nas01: ls -la /data; findmnt -T /data # empty, or its disk not mounted? {MEND}",
            "Do: pct exec 105 -- umount -l /data && pct exec 105 -- mount /data # where fstab has it",
            "Quiet: watcher silence --server nas01 --for 2h",
        ]
    )


def test_several_that_each_take_commands_of_their_own() -> None:
    """As after a restore of the server: what mends the first mends no other, and there is no room for all."""
    stale = [
        member(subject(f"/mnt/{n}", source=f"nas01:/{n}", device=f"0:{n}"), cause=Cause.STALE_HANDLE)
        for n in range(50, 56)
    ]
    silent = member(subject("/mnt/x", source="nas01:/x", device="0:60"), cause=Cause.TIMEOUT)
    bound = member(subject(Place("ct:105", "/50"), source="nas01:/50", device="0:50"), cause=Cause.STALE_HANDLE)

    def others(*members: Member) -> list[str]:
        lines = text(told(Topic.PROBLEM, incident(*members))).splitlines()
        assert len(lines) <= MAX_LINES + 1
        return [line for line in lines if line.startswith("For the others: ")]

    assert others(stale[0]) == others(stale[0], bound) == others(silent) == []
    assert others(silent, stale[0]) == others(stale[0], silent) == []  # the gravest first; the silent one resumes
    assert others(*stale[:2]) == ["For the others: watcher explain /mnt/51"]
    assert others(*stale) == [
        "For the others: watcher explain /mnt/51; watcher explain /mnt/52; watcher explain /mnt/53 # and 2 more"
    ]
    odd = member(subject("/mnt/a b", source="nas01:/y", device="0:61"), cause=Cause.STALE_HANDLE)
    hidden = member(subject("/mnt/a\n", source="nas01:/z", device="0:62"), cause=Cause.STALE_HANDLE)
    assert others(stale[0], odd, hidden) == ["For the others: watcher explain '/mnt/a b'"]
    # Longer than a channel takes in one piece, as HTML.
    quotes = [
        member(subject(f"/mnt/{n}{chr(39) * 30}", source=f"nas01:/q{n}", device=f"0:{n}"), cause=Cause.STALE_HANDLE)
        for n in range(70, 73)
    ]
    [line] = others(stale[0], *quotes)
    assert fits(line)
    assert line.endswith(" # and 2 more")


def test_some_are_back() -> None:
    """The third model."""
    third = member(
        IN_105,
        cause=Cause.STALE_HANDLE,
        error="Stale file handle (ESTALE)",
        since="02:10:20",
    )
    back = [member(NAS01, OK, changed="02:53:10"), member(IN_101, OK, changed="02:53:05")]
    message = told(
        Topic.PARTIAL,
        incident(*back, third),
        now="02:58:30",
        due="02:53:13",
        told_down=3,
        unreachable_since="02:53:14",
    )
    assert text(message) == "\n".join(
        [
            "[warning] 🟢 pve3: nas01 ok after 43 min (02:10–02:53), 2 of 3",
            "Ok: host /mnt/pve/nas01 (PVE storage nas01), CT 101 plex /media",
            "🔴 Still: CT 105 arr /data STALE HANDLE",
            f"First, on nas01: ls -la /data; findmnt -T /data # empty, or its disk not mounted? {MEND}",
            "Do: pct exec 105 -- umount -l /data && pct exec 105 -- mount /data # where fstab has it",
            "Told late: Telegram unreachable from 02:53 on",
        ]
    )


# ---- the other topics


def test_one_more() -> None:
    message = told(Topic.UPDATE, incident(member(NAS01), member(IN_101)), told_down=1)
    assert message.title == "🔴 pve3: nas01 NO ANSWER, 2 mounts (1 more)"


def test_all_is_back() -> None:
    message = told(Topic.RECOVERED, incident(member(NAS01, OK, changed="02:53:10")), now="02:53:10")
    assert text(message) == "\n".join(
        [
            "[success] 🟢 pve3: /mnt/pve/nas01 ok after 43 min (02:10–02:53)",
            "Ok: host /mnt/pve/nas01 (PVE storage nas01)",
        ]
    )


@pytest.mark.parametrize(
    ("members", "title", "kind"),
    [
        (
            [member(NAS01, GONE, changed="02:20:07", reason="unmounted")],
            "⚪ pve3: /mnt/pve/nas01 unmounted after 10 min (02:10–02:20)",
            "info",
        ),
        (
            [member(IN_101, GONE, changed="02:20:07", reason="container stopped")],
            "⚪ pve3: CT 101 plex /media container stopped after 10 min (02:10–02:20)",
            "info",
        ),
        (
            [member(NAS01, REMOUNTED, changed="02:20:07", reason="unmounted")],
            "🟢 pve3: /mnt/pve/nas01 remounted, ok after 10 min (02:10–02:20)",
            "success",
        ),
        (
            [member(NAS01, OK, changed="02:20:07"), member(IN_101, GONE, changed="02:19:07", reason="unmounted")],
            "🟢 pve3: nas01 ok after 10 min (02:10–02:20)",
            "success",
        ),
        (
            [member(NAS01, OK, changed="02:20:07", kind=Kind.READONLY, cause=None)],
            "🟢 pve3: /mnt/pve/nas01 writable again after 10 min (02:10–02:20)",
            "success",
        ),
        (
            [member(NAS01, OK, changed="02:20:07", kind=Kind.VANISHED, cause=Cause.VANISHED)],
            "🟢 pve3: /mnt/pve/nas01 mounted again after 10 min (02:10–02:20)",
            "success",
        ),
    ],
)
def test_how_it_ended(members: list[Member], title: str, kind: str) -> None:
    closed = all(m.condition is GONE for m in members)
    message = told(Topic.CLOSED if closed else Topic.RECOVERED, incident(*members), now="02:20:20")
    assert (message.title, message.type) == (title, kind)


def test_told_late() -> None:
    message = told(
        Topic.LATE,
        incident(member(NAS01, OK, changed="02:55:10")),
        now="03:10:00",
        due="02:55:10",
        unreachable_since="02:10:30",
    )
    assert text(message) == "\n".join(
        [
            "[info] ⚪ pve3: /mnt/pve/nas01 was NO ANSWER 02:10–02:55, told late",
            "Ok: host /mnt/pve/nas01 (PVE storage nas01)",
            "Told late: Telegram unreachable from 02:10 on",
        ]
    )


@pytest.mark.parametrize(("now", "late"), [("02:11:29", False), ("02:11:30", True)])
def test_what_is_late_says_so(now: str, late: bool) -> None:
    message = told(Topic.PROBLEM, incident(member(NAS01)), now=now, due="02:10:30", unreachable_since="02:10:31")
    assert ("Told late: Telegram unreachable from 02:10 on" in message.body.splitlines()) is late


def test_what_is_missing_says_who_wants_it_and_what_mounts_it() -> None:
    wanted = member(
        NAS01,
        kind=Kind.MISSING,
        cause=Cause.VANISHED,
        error="not mounted; PVE storage nas01 wants it",
        context="Do: pvesm status --storage nas01",
    )
    alarm = told(Topic.PROBLEM, incident(wanted))
    assert (alarm.type, alarm.title) == ("failure", "🔴 pve3: /mnt/pve/nas01 NOT MOUNTED")
    lines = alarm.body.splitlines()
    assert lines[3:6] == [
        "What is written there meanwhile lands on the disk underneath",
        "Not mounted; PVE storage nas01 wants it",
        "Do: pvesm status --storage nas01",
    ]
    for reason, words in (("mounted", "mounted"), ("", "mounted again")):
        over = replace(wanted, condition=OK, changed=clock("02:30:07"), reason=reason)
        end = told(Topic.RECOVERED, incident(over), now="02:30:08")
        assert end.title == f"🟢 pve3: /mnt/pve/nas01 {words} after 20 min (02:10–02:30)"


def test_a_disk_that_is_gone_and_a_pool_that_goes_on() -> None:
    usb = Subject(Superblock("8:17", "/", "ext4", "/dev/sdb1"), (Place("host", "/mnt/usb"),), "rw")
    gone = member(usb, kind=Kind.VANISHED, cause=Cause.VANISHED, error="its disk is gone: /dev/sdb1")
    assert told(Topic.PROBLEM, incident(gone, server=None)).title == "🟠 pve3: /mnt/usb DISK GONE"
    pool = member(
        usb, OK, kind=Kind.VANISHED, cause=Cause.VANISHED, error="its ZFS pool is suspended: t", changed="02:30:07"
    )
    end = told(Topic.RECOVERED, incident(pool, server=None), now="02:30:08")
    assert end.title == "🟢 pve3: /mnt/usb in order again after 20 min (02:10–02:30)"


def test_readonly_and_vanished_are_warnings() -> None:
    readonly = told(Topic.PROBLEM, incident(member(NAS01, kind=Kind.READONLY, cause=None, error="became read-only")))
    vanished = told(
        Topic.PROBLEM, incident(member(NAS01, kind=Kind.VANISHED, cause=Cause.VANISHED, error="no longer mounted"))
    )
    assert (readonly.type, readonly.title) == ("warning", "🟠 pve3: /mnt/pve/nas01 READ-ONLY")
    assert "\nDo: mount -o remount,rw /mnt/pve/nas01 # still not writable?" in readonly.body
    usb = Subject(Superblock("8:17", "/", "ext4", "/dev/sdb1"), (Place("host", "/mnt/usb"),), "rw")
    disk = told(Topic.PROBLEM, incident(member(usb, kind=Kind.READONLY, cause=None, error="became read-only")))
    assert "remount" not in disk.body  # what an error has stopped is not to be written to before it was checked
    assert (vanished.type, vanished.title) == ("warning", "🟠 pve3: /mnt/pve/nas01 NOT MOUNTED")


def test_what_has_been_wrong_for_long_is_not_why_people_are_woken() -> None:
    """A container that sees the disk under the mount, for weeks; then the server dies, and comes back."""
    long = {"since": "2026-06-10 12:00", "kind": Kind.VANISHED, "cause": Cause.VANISHED}
    disk = member(IN_101, error="sees the disk under nas01:/media", **long)  # type: ignore[arg-type]
    alarm = told(Topic.UPDATE, incident(disk, member(IN_105)), told_down=1)
    back = told(Topic.PARTIAL, incident(disk, member(IN_105, OK, changed="02:20:07")), now="02:20:10")
    assert text(alarm) == "\n".join(
        [
            "[failure] 🔴 pve3: nas01 NO ANSWER / NOT MOUNTED, 2 mounts (1 more)",
            "Since 02:10:07 CEST",
            "CT 101 plex /media NOT MOUNTED",
            "CT 105 arr /data NO ANSWER",
            "nas01:/data; NFS 4.2 hard",
            "No answer within 5 s",
            "Do: see whether nas01 is off, or the network to it, the mount resumes by itself",
            "To give it up: pct exec 105 -- umount -fl /data"
            " # unwritten data is lost – who still waits: kill -9"
            " – later: pct exec 105 -- mount /data, where fstab has it",
            "For the others: watcher explain ct:101:/media",
        ]
    )
    assert back.title == "🟢 pve3: CT 105 arr /data ok after 10 min (02:10–02:20), 1 of 2"


def test_the_watchers_own_trouble() -> None:
    own = Subject(Superblock("", "", "", "configuration"), (), "")
    began = incident(
        member(own, kind=Kind.WATCHER, cause=None, error="Running on the last good configuration. line 3: x"),
        server=None,
        group="watcher configuration",
    )
    assert text(told(Topic.PROBLEM, began)) == (
        "[warning] 🟠 pve3: watcher needs attention\nRunning on the last good configuration. line 3: x"
    )
    good = "Its configuration can be used again"
    over = member(own, OK, kind=Kind.WATCHER, cause=None, reason=good)
    ended = incident(over, server=None, group="watcher configuration")
    assert text(told(Topic.RECOVERED, ended)) == (
        "[success] 🟢 pve3: watcher is in order again\nIts configuration can be used again"
    )


def test_test_message() -> None:
    message = messages.test_message("pve3", "mail\n@everyone")
    assert message.title == "🔔 pve3: test message of watcher"
    assert "\n" not in message.body
    assert "@everyone" not in message.body


# ---- true words


def test_a_part_that_was_unmounted_is_not_called_ok() -> None:
    """Only a successful probe ends stale; unmounted is something else."""
    gone = member(NAS01, GONE, changed="02:20:07", reason="unmounted")
    message = told(Topic.PARTIAL, incident(gone, member(IN_101)), now="02:20:20", told_down=2)
    assert "ok" not in message.title
    assert "🟢" not in message.title
    assert "No longer mounted: host /mnt/pve/nas01 (PVE storage nas01)" in message.body


def test_numbers_of_mounts_mean_the_same_in_all_messages() -> None:
    """Two places of one file system and one of another are three mounts, now and when some are back."""
    twice = subject("/mnt/a", "/srv/a", source="nas01:/a")
    first = told(Topic.PROBLEM, incident(member(twice), member(IN_101)))
    assert first.title.endswith(", 3 mounts")
    back = told(Topic.PARTIAL, incident(member(twice, OK, changed="02:30:07"), member(IN_101)), told_down=2)
    assert back.title.endswith(", 2 of 3")


def many(number: int, condition: Condition = DOWN, *, first: int = 0) -> list[Member]:
    return [
        member(subject(f"/mnt/{n}", source=f"nas01:/{n}", device=f"0:{n}"), condition, changed="02:20:07")
        for n in range(first, first + number)
    ]


def test_places_beyond_the_sixth_are_counted() -> None:
    def lines(number: int) -> list[str]:
        parts = (replace(m, kind=Kind.READONLY) for m in many(number))  # of which least is to be said
        return told(Topic.PROBLEM, incident(*parts)).body.splitlines()

    assert lines(6)[1:8] == [f"Host /mnt/{n}" for n in range(6)] + ["nas01:/0; NFS 4.2 hard"]
    assert lines(7)[7] == "and 1 more mount"
    assert lines(10_000)[7] == "and 9994 more mounts"


def test_what_to_do_counts_more_than_all_the_places() -> None:
    lines = told(Topic.PROBLEM, incident(*many(10_000))).body.splitlines()
    assert (len(lines), lines[6]) == (MAX_LINES, "and 9995 more mounts")
    assert lines[-3] == "Do: see whether nas01 is off, or the network to it, the mount resumes by itself"


@pytest.mark.parametrize(("back", "remounted", "gone"), [(1, 0, 0), (7, 0, 0), (7, 7, 0), (7, 7, 7), (500, 500, 500)])
def test_whatever_is_back_what_is_still_down_is_said(back: int, remounted: int, gone: int) -> None:
    members = [
        *many(back, OK),
        *many(remounted, REMOUNTED, first=1000),
        *many(gone, GONE, first=2000),
    ]
    for still in (1, 10):  # and what to do about it, told late or not
        down = many(still, DOWN, first=3000)
        for due in (None, "02:20:13"):
            lines = told(
                Topic.PARTIAL, incident(*members, *down), told_down=len(members), now="02:50:20", due=due
            ).body.splitlines()
            assert "🔴 Still: host /mnt/3000 NO ANSWER" in lines
            assert any(line.startswith("Do: ") for line in lines)
            assert len(lines) <= MAX_LINES


@pytest.mark.parametrize("number", [1, 5, 10_000])
@pytest.mark.parametrize("late", [False, True])
def test_what_was_found_out_and_what_to_do_are_never_cut_off(number: int, late: bool) -> None:
    parts = many(number)
    question = Question(parts[0].subject.superblock, Place("host", "/mnt/0"), stacked=2, others_ok=1)
    found = Evidence(question, port=Port.REACHABLE, endpoint=Endpoint("10.0.0.5", 2049))
    now = clock("03:00")
    news = News(incident(*parts), Topic.PROBLEM, now - 1000 * late)
    lines = compose(news, 0, Sender("pve3", "mail"), now=now, local=local, found=found).body.splitlines()
    assert len(lines) <= MAX_LINES
    assert "Host /mnt/0" in lines
    assert "10.0.0.5:2049 accepts connections, but this mount gets no answer" in lines
    do, give_up = (line for line in lines if line.startswith(("Do", "To give it up: ")))
    assert do.startswith("Do on nas01: dmesg | tail -n 20; systemctl restart nfs-server # if it is a Linux")
    assert give_up.startswith("To give it up: umount -fl /mnt/0 # ")
    assert give_up.endswith(" – later: mount -t nfs -o vers=4.2 nas01:/0 /mnt/0")
    assert "Quiet: watcher silence --server nas01 --for 2h" in lines
    assert (lines[-1] == "Told late") is late


def test_evidence_of_another_mount_says_nothing() -> None:
    """By the time that it was found, another stood first."""
    found = Evidence(Question(IN_105.superblock, IN_105.places[0]), port=Port.REFUSED, endpoint=Endpoint("10.0.0.5", 1))
    about = incident(member(NAS01))
    now = clock("02:10:30")
    message = compose(News(about, Topic.PROBLEM, now), 0, Sender("pve3", "Telegram"), now=now, local=local, found=found)
    assert message == told(Topic.PROBLEM, about)


def test_causes_that_differ_stand_beside_their_places() -> None:
    lines = told(
        Topic.PROBLEM, incident(member(NAS01), member(CIFS, cause=Cause.ERROR, error="Host is down (EHOSTDOWN)"))
    )
    assert lines.title == "🔴 pve3: nas01 NO ANSWER / ERROR Host is down (EHOSTDOWN), 2 mounts"
    assert "Host /mnt/smb ERROR Host is down (EHOSTDOWN)" in lines.body.splitlines()


def test_a_share_that_is_not_offered_is_no_missing_file() -> None:
    message = told(Topic.PROBLEM, incident(member(CIFS, cause=Cause.ERROR, error="No such file or directory (ENOENT)")))
    assert message.title == "🔴 pve3: /mnt/smb SHARE NOT OFFERED"
    assert message.body.splitlines()[-3:-1] == [
        "No such file or directory (ENOENT)",
        "Do on nas01: testparm -s; smbcontrol all reload-config"
        " # is [share] listed? If not, add it to smb.conf first – the mount resumes by itself",
    ]


def test_where_it_hangs() -> None:
    hanging = member(RCLONE, stack=["request_wait_answer", "fuse_simple_request", "fuse_statfs", "vfs_statfs"])
    body = told(Topic.PROBLEM, incident(hanging, server=None)).body
    assert "No answer within 5 s; the probe hangs in request_wait_answer < fuse_simple_request < fuse_statfs" in body


@pytest.mark.parametrize(
    ("about", "cause", "advice"),
    [
        (
            CIFS,
            Cause.TIMEOUT,
            "To give it up: umount -l /mnt/smb"
            " # unwritten data is lost – who still waits: kill -9 – later: mount /mnt/smb, where fstab has it",
        ),
        (RCLONE, Cause.TIMEOUT, "To give it up: umount -l /mnt/cloud # then start what mounts it again"),
        (CIFS, Cause.STALE_HANDLE, "Do: umount -l /mnt/smb && mount /mnt/smb # where fstab has it"),
        (RCLONE, Cause.DISCONNECTED, "Do: umount -l /mnt/cloud # then start what mounts it again"),
        (
            NAS01,
            Cause.REFUSED,
            "Do on nas01: exportfs -v; exportfs -a # is this client listed? If not, add it to /etc/exports first – "
            "the mount resumes by itself",
        ),
        (NAS01, Cause.IO_ERROR, "Do: dmesg | tail -n 20 # and see to nas01"),
        (
            subject("/mnt/a b'c"),
            Cause.STALE_HANDLE,
            """Do: umount -l '/mnt/a b'"'"'c' && mount '/mnt/a b'"'"'c' # where fstab has it""",
        ),
        (
            subject("/mnt/$(reboot)"),
            Cause.STALE_HANDLE,
            "Do: umount -l '/mnt/$(reboot)' && mount '/mnt/$(reboot)' # where fstab has it",
        ),
        (
            IN_105,
            Cause.STALE_HANDLE,
            "Do: pct exec 105 -- umount -l /data && pct exec 105 -- mount /data # where fstab has it",
        ),
        (
            subject(Place("ct:web", "/data;x")),
            Cause.STALE_HANDLE,
            "Do: lxc-attach -n web -- umount -l '/data;x' && lxc-attach -n web -- mount '/data;x' # where fstab has it",
        ),
        # of several places, the host's
        (
            subject(Place("ct:1", "/x"), "/mnt/x"),
            Cause.STALE_HANDLE,
            "Do: umount -l /mnt/x && mount /mnt/x"
            " # where fstab has it – then restart what still has the old one: pct reboot 1",
        ),
    ],
)
def test_advice(about: Subject, cause: Cause, advice: str) -> None:
    server = None if about is RCLONE else "nas01"
    body = told(Topic.PROBLEM, incident(member(about, cause=cause), server=server)).body.splitlines()
    assert body[-2] == advice
    if "mount " in advice:  # a line is copied whole: to a shell, "; then" is an error, and none of it is done
        assert "then" not in shlex.split(advice.partition(": ")[2], comments=True)


@pytest.mark.parametrize(
    ("members", "server", "line"),
    [
        ([NAS01], "nas01", "Quiet: watcher silence --server nas01 --for 2h"),
        ([RCLONE], None, "Quiet: watcher silence host:/mnt/cloud --for 2h"),
        ([subject(Place("ct:105", "/a b*"))], None, "Quiet: watcher silence 'ct:105:/a b[*]' --for 2h"),
        ([subject("/a"), subject("/b")], None, None),
        ([subject("/a\nb")], None, None),
        ([NAS01], "nas\u202e01", None),
    ],
)
def test_how_to_have_it_quiet(members: list[Subject], server: str | None, line: str | None) -> None:
    about = incident(*map(member, members), server=server)
    for topic in (Topic.PROBLEM, Topic.REPEAT):
        lines = told(topic, about).body.splitlines()
        assert [text for text in lines if text.startswith("Quiet:")] == ([line] if line else [])
    assert "Quiet:" not in told(Topic.UPDATE, about).body
    if line is not None:  # and it does what it says
        said = shlex.split(line.removeprefix("Quiet: watcher silence "))
        pattern = f"server:{said[1]}" if said[0] == "--server" else said[0]
        silences = Silences(local, [Silence("abcd", (pattern,), 0.0, 2e10, "")])
        assert silences.silenced(about, about.opened)


@pytest.mark.parametrize(
    "about",
    [
        pytest.param(subject("/mnt/a\nb"), id="not to be typed"),
        pytest.param(subject("/mnt/" + "x" * 300), id="too long to be shown whole"),
        pytest.param(subject(Place("ct:1", "/mnt/\x1b[31m")), id="not to be typed, in a container"),
    ],
)
def test_no_advice_that_cannot_be_followed(about: Subject) -> None:
    body = told(Topic.PROBLEM, incident(member(about, cause=Cause.STALE_HANDLE))).body
    assert [line.partition(",")[0] for line in body.splitlines() if line.startswith(("Do", "First"))] == ["Do: by hand"]


def test_the_host_has_it_anew_and_a_container_keeps_the_dead_one() -> None:
    """What is said while the host is well again and a container is not."""
    kept = member(IN_105, cause=Cause.STALE_HANDLE, error="Stale file handle (ESTALE)", context=OLD)
    lines = told(Topic.PROBLEM, incident(kept)).body.splitlines()
    assert lines[-3:-1] == ["Host ok, container old: the host has mounted it anew since", "Do: pct reboot 105"]
    partial = told(Topic.PARTIAL, incident(member(NAS01, REMOUNTED, changed="02:20:10"), kept), now="02:20:20")
    assert partial.body.splitlines() == [
        "Remounted: host /mnt/pve/nas01 (PVE storage nas01)",
        "🔴 Still: CT 105 arr /data STALE HANDLE",
        "Host ok, container old: the host has mounted it anew since",
        "Do: pct reboot 105",
    ]


def test_only_the_containers_own_mount_fails() -> None:
    alone = member(IN_105, cause=Cause.STALE_HANDLE, error="Stale file handle (ESTALE)", context=ALONE)
    assert told(Topic.PROBLEM, incident(alone)).body.splitlines()[-3:-1] == [
        "The host's own mount of it is ok: only this one fails",
        "Do: pct exec 105 -- umount -l /data && pct exec 105 -- mount /data # where fstab has it",
    ]


def test_a_container_sees_the_disk_under_a_mount() -> None:
    error = "sees the disk under nas01:/data: it was started before the host had mounted that"
    message = told(Topic.PROBLEM, incident(member(IN_105, kind=Kind.VANISHED, cause=Cause.VANISHED, error=error)))
    assert message.title == "🟠 pve3: CT 105 arr /data NOT MOUNTED"
    assert message.body.splitlines()[-3:-1] == [
        "Sees the disk under nas01:/data: it was started before the host had mounted that",
        "Do: pct reboot 105 # what it wrote there meanwhile is on the disk of the host, under the mount",
    ]


def test_pve_mounts_its_storages_itself() -> None:
    """They are not in fstab: `mount /mnt/pve/nas01` only says that it cannot find it there."""
    body = told(Topic.PROBLEM, incident(member(NAS01, cause=Cause.STALE_HANDLE))).body
    assert "umount -l /mnt/pve/nas01" in body
    assert "; mount /mnt/pve/nas01" not in body


def test_without_a_server_nothing_is_said_of_one() -> None:
    body = told(
        Topic.PROBLEM, incident(member(RCLONE, cause=Cause.IO_ERROR, error="Input/output error (EIO)"), server=None)
    ).body
    assert "server" not in body


@pytest.mark.parametrize(
    ("fstype", "options", "words"),
    [
        ("nfs4", "rw,vers=4.2,hard", "NFS 4.2 hard"),
        ("nfs", "rw,vers=3,soft", "NFS 3 soft"),
        ("nfs4", "rw,vers=4.1,softerr", "NFS 4.1 softerr"),
        ("nfs4", "rw", "NFS"),
        ("cifs", "rw,vers=3.1.1", "SMB 3.1.1"),
        ("smb3", "rw", "SMB"),
        ("fuse.sshfs", "rw", "fuse.sshfs"),
        ("ceph", "rw", "ceph"),
    ],
)
def test_describe_type(fstype: str, options: str, words: str) -> None:
    assert describe_type(fstype, options) == words


# ---- days and zones


def test_another_day_is_named() -> None:
    body = told(Topic.PROBLEM, incident(member(NAS01, since="2026-06-30 23:59:50")), now="00:00:20").body
    assert body.splitlines()[0] == "Since 2026-06-30 23:59:50 CEST"


def test_a_span_over_midnight_names_both_days() -> None:
    over = member(NAS01, OK, since="2026-06-30 23:50:00", changed="2026-07-01 00:10:00")
    title = told(Topic.RECOVERED, incident(over), now="00:10:00").title
    assert title.endswith("ok after 20 min (2026-06-30 23:50–2026-07-01 00:10)")


def test_winter_is_another_zone() -> None:
    body = told(Topic.PROBLEM, incident(member(NAS01, since="2026-12-01 12:00:00")), now="2026-12-01 12:00:30").body
    assert body.splitlines()[0] == "Since 12:00:00 CET"


def test_the_hour_that_comes_twice_does_not_shorten_an_outage() -> None:
    began = clock("2026-10-25 02:50:00")
    over = Member(Kind.STALE, NAS01, OK, began, began + 3600, Cause.TIMEOUT)
    title = told(Topic.RECOVERED, incident(over), now="2026-10-25 04:00:00").title
    assert "ok after 1 h " in title


def test_late_by_days_names_the_day() -> None:
    """`02:53` alone would be taken for today's."""
    message = told(
        Topic.RECOVERED,
        incident(member(NAS01, OK, changed="02:55:00")),
        now="2026-07-03 08:00:00",
        due="02:55:00",
        unreachable_since="02:53:00",
    )
    assert "2026-07-01" in message.title
    assert message.body.splitlines()[-1] == "Told late: Telegram unreachable from 2026-07-01 02:53 on"


# ---- hostile names

HOSTILE = [
    "/mnt/a\nb",
    "/mnt/\x1b[31mred\x1b[0m",
    "/mnt/\u202egpj",
    "/mnt/@everyone",
    "/mnt/" + "x" * 4000,
    b"/mnt/\xff\xfe".decode("utf-8", "surrogateescape"),
    "/mnt/pve/\u2028@here",
    "; rm -rf /",
    "",
]
names = st.text(st.characters(codec=None), max_size=30) | st.sampled_from(HOSTILE)
places = st.builds(Place, st.sampled_from(["host", "ct:101"]), names.map(lambda n: f"/{n}"))
subjects = st.builds(
    Subject,
    st.builds(
        Superblock,
        st.integers(0, 10**6).map(lambda n: f"0:{n}"),
        names,
        st.sampled_from(["nfs4", "cifs", "ceph", "fuse", "fuse.sshfs"]) | names.map(lambda n: f"fuse.{n}"),
        names | names.map(lambda n: f"{n}:/x"),
    ),
    st.lists(places, min_size=1, max_size=9).map(tuple),
    names.map(lambda n: f"rw,{n}") | st.sampled_from(["rw,vers=4.2,hard", "rw,vers=3,soft"]),
    st.just((("ct:101", "x\n@everyone\x1b"),)),
)
ERRORS = ["", "no answer within 5 s", "No route to host (EHOSTUNREACH)", "Host is down (EHOSTDOWN)"]
ERRORS += ["Transport endpoint is not connected (ENOTCONN)", "answers with an impossible size"]
times = st.floats(clock("2026-01-01"), clock("2026-12-31"))
members = st.builds(
    Member,
    st.sampled_from([Kind.STALE, Kind.STALE, Kind.READONLY, Kind.VANISHED, Kind.MISSING]),
    subjects,
    st.sampled_from([c for c in Condition if c is not Condition.FLAPPING]),
    times,
    times,
    st.sampled_from(list(Cause)),
    st.sampled_from(ERRORS),
    st.sampled_from([(), ("rpc_wait_bit_killable",), ("request_wait_answer", "fuse_statfs", "a", "b")]),
    st.sampled_from(["", "unmounted", "container stopped"]),
)


def hostile(
    topic: Topic,
    parts: Sequence[Member],
    server: str | None,
    host: str,
    channel: str,
    now: float,
    late: float,
    told_down: int,
) -> Message:
    """A message about the worst of names."""
    if topic in (Topic.PROBLEM, Topic.UPDATE, Topic.REPEAT):
        parts = [*parts, member(NAS01)]
    elif topic is Topic.FLAPPING:
        parts = [*(replace(m, flapping=True, flaps=7) for m in parts), member(CIFS)]
    elif topic is Topic.PARTIAL:
        parts = [*parts, member(NAS01, OK), member(CIFS)]
    else:
        parts = [replace(m, condition=OK) if m.condition is DOWN else m for m in parts]
    about = incident(*parts, server=server)
    return compose(News(about, topic, now - late), told_down, Sender(host, channel, now - late), now=now, local=local)


hostile_messages = st.builds(
    hostile,
    st.sampled_from(list(Topic)),
    st.lists(members, min_size=1, max_size=9),
    st.none() | names,
    names,
    names,
    times,
    st.floats(0, 1e6),
    st.integers(0, 12),
)
quick = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
TEN_THOUSAND = hostile(Topic.PROBLEM, many(10_000), "nas01", "x" * 4000, "y" * 4000, clock("03:00"), 3600.0, 1)


@quick
@given(hostile_messages)
@example(TEN_THOUSAND)
def test_a_message_has_its_bounds(message: Message) -> None:
    lines = message.body.split("\n")
    assert 1 <= len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 400
    assert len(message.title) <= 300


@quick
@given(hostile_messages)
def test_a_message_is_plain_text(message: Message) -> None:
    # The word joiner is ours: it takes the call out of a name.
    shown = f"{message.title}{message.body}".replace("\u2060", "").replace("\n", "")
    assert [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")] == []
    assert "\n" not in message.title
    shown.encode("utf-8")


@quick
@given(hostile_messages)
def test_a_message_calls_nobody(message: Message) -> None:
    shown = f"{message.title}\n{message.body}".lower()
    assert "@everyone" not in shown
    assert "@here" not in shown


@pytest.mark.parametrize(
    "about",
    [
        pytest.param(subject("/mnt/@everyone"), id="mount point"),
        pytest.param(subject(source="@everyone:/x"), id="source"),
        pytest.param(subject(fstype="fuse.@everyone"), id="type"),
        pytest.param(subject(Place("ct:1", "/x"), names=[("ct:1", "@everyone")]), id="container"),
    ],
)
@pytest.mark.parametrize("cause", [Cause.TIMEOUT, Cause.STALE_HANDLE, Cause.REFUSED])
def test_no_part_of_a_mount_calls_everyone(about: Subject, cause: Cause) -> None:
    message = told(Topic.PROBLEM, incident(member(about, cause=cause), server=None))
    assert "@everyone" not in message.title + message.body


def test_a_type_is_no_longer_than_another_name() -> None:
    """Whoever may mount a FUSE file system names its type."""
    message = told(Topic.PROBLEM, incident(member(subject(fstype="fuse." + "x" * 4000)), server=None))
    assert max(map(len, message.body.splitlines())) <= 200


@quick
@given(names.map(lambda n: f"/mnt/{n}"), st.sampled_from(list(Cause)))
def test_commands_can_be_pasted(point: str, cause: Cause) -> None:
    body = told(Topic.PROBLEM, incident(member(subject(point), cause=cause))).body
    lines = [line for line in body.splitlines() if line.startswith(("Do", "To ")) and "umount" in line]
    for line in lines:
        words = shlex.split(line)
        [at] = (n for n, word in enumerate(words) if word in ("-l", "-fl"))
        assert words[at + 1].rstrip(";,") == point.rstrip(";,")


def test_what_hangs_on_one_place_is_not_told_of_another_with_the_same_source() -> None:
    """What is not mounted has no device, so that two such places look like one file system."""
    missing = Superblock("", "/", "nfs4", "nas01:/data")
    about = member(
        Subject(missing, (Place(HOST, "/mnt/a"),), ""), kind=Kind.MISSING, error="not mounted; fstab wants it"
    )
    hanging = Radius(storages=("films",))

    def body(place: str) -> str:
        found = Evidence(Question(missing, Place(HOST, place)), radius=hanging)
        news = News(incident(about), Topic.PROBLEM, about.changed)
        return compose(news, 0, Sender("pve3", "x"), now=about.changed, local=local, found=found).body

    assert "Hangs on it: PVE storage films" in body("/mnt/a")
    assert "films" not in body("/mnt/b")


@pytest.mark.parametrize("late", [0.0, 600.0])
@pytest.mark.parametrize("hangs", [True, False])
def test_however_much_there_is_to_say_what_to_do_is_not_cut_off(late: float, hangs: bool) -> None:
    written = Growth(Place(HOST, "/mnt/cloud"), "/", 1 << 30, 0.0, 60.0, gravity=Gravity.SOON_FULL)
    stack = ("request_wait_answer", "fuse_statfs")

    def about_cloud(n: int) -> Subject:
        return subject(f"/mnt/cloud{n}", source="x:", fstype="fuse.rclone")

    members = [
        replace(
            member(subject(f"/mnt/cloud{n}", source="x:", fstype="fuse.rclone"), stack=stack, context=ALONE), growth=g
        )
        for n, g in enumerate([written, written, None, None, None, None, None, None])
    ]
    flapping = replace(members[-1], flapping=True, flaps=9)
    flapped = replace(members[-2], flaps=7)
    about = incident(*members[:-2], flapped, flapping, server=None)
    first = foremost(about)
    assert first is not None
    question = Question(first.subject.superblock, first.subject.places[0], stacked=2, others_ok=3)
    radius = Radius(storages=("films",), users=1, blocked=1, processes=(Process(1, "cp", HOST, blocked=True),))
    daemons = (Daemon(7, "rclone", "rclone.service"),)
    found = Evidence(question, waiting=7, daemons=daemons, radius=radius if hangs else Radius())
    now = about.opened + late
    news = News(about, Topic.PROBLEM, about.opened)
    lines = compose(news, 0, Sender("pve3", "x"), now=now, local=local, found=found).body.splitlines()
    assert len(lines) <= MAX_LINES
    assert "Do: systemctl restart rclone.service" in lines
    assert [line for line in lines if line.startswith("To give it up: ")], lines
    assert hangs or not any("nothing found" in line for line in lines)  # goes before any cause does


def test_where_it_was_not_looked_for_to_the_end_the_command_that_does_is_named() -> None:
    cut = Radius(unknown=("there are too many processes",))

    def body(place: Place) -> str:
        about = member(Subject(Superblock("0:7", "/", "nfs4", "nas01:/data"), (place,), ""))
        found = Evidence(Question(about.subject.superblock, place), radius=cut)
        news = News(incident(about), Topic.PROBLEM, about.changed)
        return compose(news, 0, Sender("pve3", "x"), now=about.changed, local=local, found=found).body

    why = "Hangs on it: not known, the search was cut short"
    assert f"{why}; see: watcher explain /mnt/nas\n" in body(Place(HOST, "/mnt/nas"))
    assert f"{why}; see: watcher explain 'ct:101:/mnt/a b'\n" in body(Place("ct:101", "/mnt/a b"))
    for odd in ("/mnt/\x1b", f"/mnt/{'x' * 300}"):  # it would have to be escaped, or shortened
        assert f"{why}\n" in body(Place(HOST, odd))
