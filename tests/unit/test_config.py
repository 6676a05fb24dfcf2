"""The configuration: every refusal's exact words, the example file, and that no secret shows."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import hypothesis
import pytest
import rich.pretty
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import asdict, fields, replace

from watcher.config import Candidate, ConfigError, defaults_for_user, parse, search_path
from watcher.core.quiet import Window
from watcher.model import Kind, Pace
from watcher.secrets import SecretError, check_permissions, describe, resolve_url, secret_files
from watcher.settings import (
    Capacity,
    Channel,
    Expect,
    Heartbeat,
    Notify,
    Override,
    Paths,
    Probe,
    Quiet,
    Section,
    Settings,
    State,
    Status,
)
from watcher.values import Percent, TimeOfDay, format_duration, parse_duration, parse_time_of_day, scheme_of, shown

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
TOKEN = "S3CRETt0ken"
URL = f"tgram://{TOKEN}/42"


def problems(text: str, *, strict: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml", strict=strict)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


# ---- values


def test_an_empty_file_is_the_defaults() -> None:
    assert parse("", "c.toml") == (Settings(), [])


def test_values_arrive() -> None:
    settings, warnings = parse(
        """
        [watch]
        fstypes = ["nfs*"]
        include = ["/mnt/*", "server:nas01", "ct:101:/x", "host:/y", "?a", "[ab]"]
        show_only = ["fuse.x", "/mnt/z"]
        containers = false
        missing_after = "2m"
        [[expect]]
        mount = "/mnt/nas"
        [[expect]]
        mount = "ct:101:/data"
        source = "nas01:/data"
        fstype = "nfs4"
        [probe]
        interval = "1m30s"
        [[override]]
        mounts = ["/mnt/wan/*"]
        timeout = "15s"
        alarm_after = "2m"
        [[override]]
        mounts = ["/mnt/slow"]
        interval = "5m"
        [notify]
        on = ["stale", "vanished", "full"]
        group_wait = "0s"
        [[notify.channels]]
        name = "ops"
        url = "gotify://h/t"
        [[notify.channels]]
        name = "büro"
        credential = "mail"
        [capacity]
        warn = "92.5%"
        [[notify.quiet]]
        mounts = ["server:nas01"]
        from = "22:00"
        to = "6:30"
        days = ["sat", "sun"]
        [status]
        socket = ""
        [heartbeat]
        url = "https://hc-ping.com/x"
        interval = "5m"
        [paths]
        proc = "/tmp/proc"
        lxc_config = ["/x", "/y"]
        """,
        "c.toml",
    )
    assert warnings == []
    assert settings.watch.fstypes == ("nfs*",)
    assert settings.watch.include == ("/mnt/*", "server:nas01", "ct:101:/x", "host:/y", "?a", "[ab]")
    assert settings.watch.exclude == ()
    assert settings.watch.containers is False
    assert settings.watch.missing_after == 120.0
    assert settings.expect == (
        Expect(mount="/mnt/nas"),
        Expect(mount="ct:101:/data", source="nas01:/data", fstype="nfs4"),
    )
    assert settings.probe == Probe(interval=90.0)
    assert [o.mounts for o in settings.overrides] == [("/mnt/wan/*",), ("/mnt/slow",)]
    assert [o.changes() for o in settings.overrides] == [{"timeout": 15.0, "alarm_after": 120.0}, {"interval": 300.0}]
    assert settings.notify == Notify(
        on=(Kind.STALE, Kind.VANISHED, Kind.FULL),
        group_wait=0.0,
        channels=(Channel(name="ops", url="gotify://h/t"), Channel(name="büro", credential="mail")),
        quiet=(Quiet(mounts=("server:nas01",), begins=TimeOfDay(1320), ends=TimeOfDay(390), days=("sat", "sun")),),
    )
    assert settings.capacity == Capacity(warn=Percent(92.5))
    assert settings.status == Status(socket="")
    assert settings.heartbeat == Heartbeat(url="https://hc-ping.com/x", interval=300.0)
    assert settings.paths == Paths(proc="/tmp/proc", lxc_config=("/x", "/y"))


def test_what_the_file_leaves_out_is_as_in_the_given_defaults() -> None:
    user = Settings(state=State(path="/home/a/s.db"), paths=Paths(runtime="/run/user/7/mountwatch"))
    settings = parse('[paths]\nproc = "/p"', "c.toml", defaults=user).settings
    assert settings == replace(user, paths=Paths(proc="/p", runtime="/run/user/7/mountwatch"))


def test_a_byte_order_mark_and_dos_line_ends_do_not_matter() -> None:
    assert parse('\ufeff[probe]\r\ntimeout = "2s"\r\n', "c.toml").settings.probe.timeout == 2.0


def test_a_pattern_may_hold_bytes_that_are_not_utf8() -> None:
    text = b'[watch]\nexclude = ["/mnt/caf\xe9"]'.decode(errors="surrogateescape")
    assert os.fsencode(parse(text, "c.toml").settings.watch.exclude[0]) == b"/mnt/caf\xe9"


def test_the_probe_section_is_the_pace() -> None:
    assert Probe().pace() == Pace()
    assert Probe(interval=7.0, deep_interval=9.0).pace() == Pace(interval=7.0, deep_interval=9.0)
    assert {f.name for f in fields(Override)} - {"mounts"} == set(Pace._fields)
    assert {f.name for f in fields(Probe)} - {"startup_grace"} == set(Pace._fields)


# ---- times of day


@given(st.integers(0, 24 * 60))
def test_times_of_day_survive_the_round_trip(minutes: int) -> None:
    assert parse_time_of_day(str(TimeOfDay(minutes))) == minutes


# ---- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("15s", 15.0), ("2m", 120.0), ("1h30m", 5400.0), ("500ms", 0.5), ("1d", 86400.0), ("0s", 0.0)),
        *(("1.5s", 1.5), ("1d2h3m4s5ms", 93784.005), ("1m1ms", 60.001), ("90s", 90.0)),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


NOT_A_DURATION = 'is not a duration; write one such as "15s", "2m", "1h30m", "500ms" or "1d"'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10", '10 has no unit; write "10s" for seconds (or ms, m, h, d)'),
        ("2.5", '2.5 has no unit; write "2.5s" for seconds (or ms, m, h, d)'),
        ("-5s", '"-5s" is negative; write a duration such as "10s"'),
        *(
            (text, f'"{text}" {NOT_A_DURATION}')
            for text in ("", "s", "1 s", "5min", "30m1h", "1s1s", ".5s", "٣s", "1e3s")
        ),
        ("1s\n", f'"1s\\n" {NOT_A_DURATION}'),
        ("9" * 50 + "s", f'"{"9" * 39}…" {NOT_A_DURATION}'),
    ],
)
def test_what_is_no_duration(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        parse_duration(text)


@given(st.integers(0, 10**11))
def test_durations_survive_the_round_trip(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


# ---- what is refused

WHOLE = "(or ms, m, h, d)"
ONE_OF = 'none of "stale", "readonly", "vanished", "missing", "full"'
NO_PERCENTAGE = 'is not a percentage; write one from "1%" to "100%", such as "90%"'
DAYS = '"mon", "tue", "wed", "thu", "fri", "sat", "sun"'
NOTHING = "is empty, so nothing would be watched; leave it out for the default"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        # durations
        ("[probe]\ninterval = 10", f'[probe] interval: 10 has no unit; write "10s" for seconds {WHOLE}'),
        ("[probe]\ninterval = 1.5", f'[probe] interval: 1.5 has no unit; write "1.5s" for seconds {WHOLE}'),
        ("[probe]\ninterval = -3", '[probe] interval: "-3" is negative; write a duration such as "10s"'),
        ("[probe]\ntimeout = inf", f'[probe] timeout: "inf" {NOT_A_DURATION}'),
        (f"[probe]\ntimeout = {'9' * 4000}", f'[probe] timeout: "{"9" * 39}…" {NOT_A_DURATION}'),
        (
            "[probe]\ntimeout = true",
            '[probe] timeout: must be a duration, not true or false; write one such as "10s", with the quotes',
        ),
        (
            "[probe]\ntimeout = 00:00:10",
            '[probe] timeout: must be a duration, not a date or time; write one such as "10s", with the quotes',
        ),
        ('[probe]\ninterval = "0s"', '[probe] interval: "0s" is too short; write at least 100ms'),
        ('[probe]\ntimeout = "0s"', '[probe] timeout: "0s" is too short; write at least 100ms'),
        ('[probe]\ntimeout = "1h"', '[probe] timeout: "1h" is too long; write at most 5m'),
        ('[probe]\nstale_interval = "2d"', '[probe] stale_interval: "2d" is too long; write at most 1d'),
        ('[probe]\nalarm_after = "1d1ms"', '[probe] alarm_after: "1d1ms" is too long; write at most 1d'),
        ('[probe]\ndeep_interval = "0s"', '[probe] deep_interval: "0s" is too short; write at least 1s'),
        ('[probe]\nstartup_grace = "2h"', '[probe] startup_grace: "2h" is too long; write at most 1h'),
        ('[notify]\nmax_age = "0s"', '[notify] max_age: "0s" is too short; write at least 1m'),
        ('[notify]\ngroup_wait = "1h"', '[notify] group_wait: "1h" is too long; write at most 10m'),
        (
            '[notify]\ngroup_wait = "5m"\nmax_age = "2m"',
            "[notify] group_wait: must be shorter than max_age, or news expires before it is sent; lower it",
        ),
        # lists and patterns
        ('[watch]\nfstypes = "nfs"', '[watch] fstypes: must be a list, not text; write it as ["nfs", "nfs4"]'),
        ("[watch]\nfstypes = []", f"[watch] fstypes: {NOTHING}"),
        ("[watch]\ninclude = []", f"[watch] include: {NOTHING}"),
        ("[watch]\nexclude = [3]", "[watch] exclude[1]: must be text, not a number; write it in quotes"),
        ('[watch]\nexclude = ["/a", ""]', "[watch] exclude[2]: is empty; write a value or leave it out"),
        ('[watch]\nexclude = [" "]', "[watch] exclude[1]: is empty; write a value or leave it out"),
        (
            '[watch]\nfstypes = ["nfs, nfs4"]',
            '[watch] fstypes[1]: "nfs, nfs4" is not one file system type; quote each by itself: "nfs", "nfs4"',
        ),
        (
            '[watch]\nfstypes = ["/mnt"]',
            '[watch] fstypes[1]: "/mnt" is a path, not a file system type; mount points go into include or exclude',
        ),
        (
            '[watch]\ninclude = ["mnt/x"]',
            '[watch] include[1]: "mnt/x" matches no mount; mount points begin with "/", as in "/mnt/*"',
        ),
        (
            '[watch]\nshow_only = ["nas01:/x"]',
            '[watch] show_only[1]: "nas01:/x" matches no mount; mount points begin with "/", as in "/mnt/*" '
            '(a server is written "server:nas01")',
        ),
        (
            '[watch]\nexclude = ["server:"]',
            '[watch] exclude[1]: "server:" names no server; write such as "server:nas01"',
        ),
        (
            '[watch]\nexclude = ["/a\\u0000"]',
            "[watch] exclude[1]: holds a NUL character, which no path does; remove it",
        ),
        (
            '[watch]\ncontainers = "yes"',
            "[watch] containers: must be true or false, not text; write one of them, without the quotes",
        ),
        ("[watch]\ncontainers = 1", "[watch] containers: must be true or false, not a number; write one of them"),
        # percentages
        ("[capacity]\nwarn = 90", '[capacity] warn: 90 has no "%"; write "90%"'),
        ("[capacity]\nwarn = 92.5", '[capacity] warn: 92.5 has no "%"; write "92.5%"'),
        ("[capacity]\nwarn = 0.9", '[capacity] warn: 0.9 has no "%"; write "90%"'),
        ("[capacity]\nwarn = 1", '[capacity] warn: 1 has no "%"; write "1%"'),
        ("[capacity]\nwarn = 1.0", '[capacity] warn: 1.0 has no "%"; write "100%"'),
        ("[capacity]\nwarn = 0", '[capacity] warn: 0 has no "%"; write "90%"'),
        ("[capacity]\nwarn = 500", '[capacity] warn: 500 has no "%"; write "90%"'),
        ('[capacity]\nwarn = "90"', '[capacity] warn: 90 has no "%"; write "90%"'),
        ('[capacity]\nwarn = "150%"', '[capacity] warn: "150%" is too much; write at most 100%'),
        ('[capacity]\nwarn = "100.01%"', '[capacity] warn: "100.01%" is too much; write at most 100%'),
        ('[capacity]\nwarn = "0.9%"', '[capacity] warn: "0.9%" is too little; write at least 1%'),
        *(
            (f"[capacity]\nwarn = {value}", f"[capacity] warn: {text} {NO_PERCENTAGE}")
            for value, text in (
                *(('"much"', '"much"'), ('""', '""'), ("-5", '"-5"'), ("nan", '"nan"'), ('"90 %"', '"90 %"')),
                *(('"90%\\n"', '"90%\\n"'), ('"1.234%"', '"1.234%"'), ('"٩%"', '"٩%"'), ("1e300", '"1e+300"')),
            )
        ),
        (
            "[capacity]\nwarn = true",
            '[capacity] warn: must be a percentage, not true or false; write one such as "90%", with the quotes',
        ),
        # overrides
        ('[[override]]\ntimeout = "1s"', "override[1]: has no mounts; add one"),
        ('[[override]]\nmounts = []\ntimeout = "1s"', "override[1].mounts: is empty; name the mounts it is for"),
        ('[[override]]\nmounts = ["x"]\ntimeout = "1s"', None),
        (
            '[override]\nmounts = ["/x"]',
            "override: must be sections, of which there may be several; write [[override]], in double brackets",
        ),
        (
            "override = [1]",
            "override: must be sections, of which there may be several; write [[override]], in double brackets",
        ),
        ('[[probe]]\ntimeout = "1s"', "[probe]: must be a section, once; write [probe] on a line of its own"),
        ("probe = 3", "[probe]: must be a section, not a number; write [probe] on a line of its own"),
        # channels
        (f'[[notify.channels]]\nurl = "{URL}"', "notify.channels[1]: has no name; add one"),
        (
            f'[[notify.channels]]\nname = "a"\nurl = "{URL}"\n[[notify.channels]]\nname = "b"',
            "notify.channels[2]: says nowhere where to send; add one of url, url_file or credential",
        ),
        (
            f'[[notify.channels]]\nname = "a"\nurl = "{URL}"\ncredential = "c"',
            "notify.channels[1]: has url and credential; keep one of them",
        ),
        (
            f'[[notify.channels]]\nname = "a"\nurl = "{URL}"\n[[notify.channels]]\nname = "a"\nurl = "{URL}"',
            '[notify] channels: 2 of them are called "a"; give each a name of its own',
        ),
        *(
            (
                f'[[notify.channels]]\nname = "a"\nurl = "{url}"',
                'notify.channels[1].url: is not a URL on one line; write one as Apprise takes it, such as "tgram://…"',
            )
            for url in (TOKEN, "tgram://", "://x", f"{URL}\\n{URL}", f" {URL}", f"{URL} ")
        ),
        (
            '[[notify.channels]]\nname = "a"\nurl = ""',
            "notify.channels[1].url: is empty; write a value or leave it out",
        ),
        (
            f'[[notify.channels]]\nname = "a"\nurl_file = "{URL}"',
            'notify.channels[1].url_file: must be an absolute path; begin it with "/" ("~" is not expanded)',
        ),
        *(
            (
                f'[[notify.channels]]\nname = "a"\ncredential = "{name}"',
                "notify.channels[1].credential: must be the name given to LoadCredential=, "
                'such as "telegram"; a path goes into url_file',
            )
            for name in (URL, "../x", "a:b", "..", "a\\n", "x" * 256)
        ),
        (
            f'[[notify.channels]]\nname = "{URL}"\ncredential = "c"',
            'notify.channels[1].name: is a URL; write a name of your own, such as "admin-telegram", '
            "and the URL under url",
        ),
        (
            f'[[notify.channels]]\nname = "{"x" * 65}"\ncredential = "c"',
            "notify.channels[1].name: has 65 characters; write at most 64",
        ),
        *(
            (
                f'[[notify.channels]]\nname = "{name}"\ncredential = "c"',
                "notify.channels[1].name: has control characters or blanks around it; write printable characters only",
            )
            for name in ("a\\u001b[31m", "a\\nb", " a", "a\\u202e")
        ),
        ('[notify]\non = ["stal"]', f'[notify] on[1]: "stal" is {ONE_OF}; did you mean "stale"?'),
        ('[notify]\non = ["watcher"]', f'[notify] on[1]: "watcher" is {ONE_OF}; write one of these'),
        ('[notify]\non = ["xyz"]', f'[notify] on[1]: "xyz" is {ONE_OF}; write one of these'),
        ("[notify]\non = [1]", f"[notify] on[1]: a number is {ONE_OF}; write one of these"),
        ('[notify]\non = "stale"', '[notify] on: must be a list, not text; write it as ["stale"]'),
        # quiet windows
        ('[[notify.quiet]]\nmounts = ["/x"]\nfrom = "01:00"', "notify.quiet[1]: has no to; add one"),
        ('[[notify.quiet]]\nfrom = "01:00"\nto = "06:00"', "notify.quiet[1]: has no mounts; add one"),
        *(
            (
                f'[[notify.quiet]]\nmounts = ["/x"]\nfrom = "{text}"\nto = "06:00"',
                f'notify.quiet[1].from: "{text}" is not a time of day; write one such as "01:00" or "18:30"',
            )
            for text in ("1", "1h", "25:00", "24:01", "12:60", "1:2", "01:00:00", "-1:00")
        ),
        (
            '[[notify.quiet]]\nmounts = ["/x"]\nfrom = 01:00:00\nto = "06:00"',
            "notify.quiet[1].from: must be a time of day, not a date or time; "
            'write one such as "01:00", with the quotes',
        ),
        (
            '[[notify.quiet]]\nmounts = ["/x"]\nfrom = "06:00"\nto = "06:00"',
            'notify.quiet[1].to: is the same as from, 06:00; for the whole day write from = "00:00" and to = "24:00"',
        ),
        (
            '[[notify.quiet]]\nmounts = ["/x"]\nfrom = "24:00"\nto = "06:00"',
            'notify.quiet[1].from: must be before midnight; write "00:00", and the day after that',
        ),
        *(
            (
                f'[[notify.quiet]]\nmounts = ["/x"]\nfrom = "01:00"\nto = "06:00"\ndays = {days}',
                f"notify.quiet[1].days{words}",
            )
            for days, words in (
                ('["Saturday"]', f'[1]: "Saturday" is none of {DAYS}; did you mean "sat"?'),
                ('["x"]', f'[1]: "x" is none of {DAYS}; write one of these'),
                ("[6]", f"[1]: a number is none of {DAYS}; write one of these"),
                ("[]", ": is empty; leave it out for every day"),
                ('"sat"', ': must be a list, not text; write it as ["sat", "sun"]'),
            )
        ),
        (
            '[notify.quiet]\nmounts = ["/x"]',
            "notify.quiet: must be sections, of which there may be several; write [[notify.quiet]], in double brackets",
        ),
        # status and heartbeat
        (
            '[status]\nlisten = "0.0.0.0:9199"',
            '[status] listen: "0.0.0.0:9199" can be reached by other machines; add a token_file, '
            'or write "127.0.0.1:9199"',
        ),
        (
            '[status]\nlisten = "localhost:9199"',
            '[status] listen: "localhost:9199" is no address with a port; write "127.0.0.1:9199" or "[::1]:9199"',
        ),
        (
            '[status]\nlisten = "127.0.0.1:9199"\nhosts = ["https://pve1"]',
            '[status] hosts[1]: "https://***" is no host name; write one without a port, such as "pve1.example.org"',
        ),
        (
            '[status]\nsocket = "watcher.sock"',
            '[status] socket: must be an absolute path; begin it with "/" ("~" is not expanded)',
        ),
        (
            f'[status]\nsocket = "/{"x" * 107}"',
            "[status] socket: has 108 bytes; a socket's path has 107 at most",
        ),
        *(
            (f'[heartbeat]\nurl = "{url}"', '[heartbeat] url: is not a web address; write "https://…"')
            for url in ("hc-ping.com/x", "tgram://a/b", "https://", "https://a b", "http://x\\u001b")
        ),
        ('[heartbeat]\nurl = ""', "[heartbeat] url: is empty; write a value or leave it out"),
        (
            '[heartbeat]\nurl = "https://h/x"\nurl_file = "/x"',
            "[heartbeat]: has url and url_file; keep one of them",
        ),
        ('[heartbeat]\ninterval = "1s"', '[heartbeat] interval: "1s" is too short; write at least 5s'),
        # what should be mounted
        *(
            (
                f'[[expect]]\nmount = "{text}"',
                f'expect[1].mount: "{text}" is no mount point; write one such as "/mnt/nas", '
                'or "ct:101:/data" for a container\'s',
            )
            for text in ("mnt", "/mnt/../x", "server:nas01", "ct:/x", "ct:101")
        ),
        ('[[expect]]\nsource = "nas01:/x"', "expect[1]: has no mount; add one"),
        # paths
        (
            '[state]\npath = "state.db"',
            '[state] path: must be an absolute path; begin it with "/" ("~" is not expanded)',
        ),
        (
            '[paths]\nlxc_config = "/var/lib/lxc"',
            '[paths] lxc_config: must be a list, not text; write it as ["/var/lib/lxc"]',
        ),
        (
            '[paths]\nlxc_config = ["/a", "b"]',
            '[paths] lxc_config[2]: must be an absolute path; begin it with "/" ("~" is not expanded)',
        ),
        ("[paths]\nproc = 1", "[paths] proc: must be text, not a number; write it in quotes"),
        ('[paths]\nruntime = ""', "[paths] runtime: is empty; write a value or leave it out"),
        ('[paths]\nproc = "/p\\u0000"', "[paths] proc: holds a NUL character, which no path does; remove it"),
    ],
)
def test_what_is_refused(text: str, line: str | None) -> None:
    if line is None:
        line = 'override[1].mounts[1]: "x" matches no mount; mount points begin with "/", as in "/mnt/*"'
        line += ' (a server is written "server:nas01")'
    assert problems(text) == [f"c.toml: {line}"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[probe]\ninterval = 10s",
            "line 2, column 14: Expected newline or end of document after a statement; "
            'a duration needs quotes, as in "10s"',
        ),
        ("[watch]\nfstypes = [nfs]", 'line 2, column 12: Invalid value; text needs quotes, as in "nfs"'),
        ("url = tgram://x", 'line 1, column 7: Invalid value; text needs quotes, as in "nfs"'),
        ("[watch]\n[watch]", "line 2, column 7: a key or section that is there already; keep one of them"),
        ("a = 1\na = 2", "line 2, column 6: a key or section that is there already; keep one of them"),
        ("a = {b = 1, b = 2}", "line 1, column 18: a key or section that is there already; keep one of them"),
        ("x = '''a\r\n\r\nb", "line 3, column 2: Expected \"'''\"; look for a missing quote, comma or bracket"),
        (
            'a = "C:\\q"',
            "line 1, column 10: Unescaped '\\' in a string; put texts with a backslash in single quotes",
        ),
        (
            'a = "x\x01"',
            "line 1, column 7: Illegal character '\\x01'; look for a missing quote, comma or bracket",
        ),
    ],
)
def test_toml_errors_have_a_position_and_a_remedy(text: str, line: str) -> None:
    assert problems(text) == [f"c.toml: {line}"]


def test_a_number_without_end() -> None:
    assert problems("[probe]\ntimeout = " + "9" * 5000) == ["c.toml: a number of thousands of digits; correct it"]


def test_nesting_without_end() -> None:
    assert problems("a = " + "[" * 100_000) == [
        "c.toml: brackets are nested too deeply; no key needs more than one pair"
    ]


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    assert problems(
        """
        [watch]
        fstypes = ["a b", 1]
        includ = ["/x"]
        [probe]
        timeout = 5
        interval = "0s"
        [[notify.channels]]
        name = ""
        [[notify.channels]]
        name = "b"
        """
    ) == [
        'c.toml: [watch] fstypes[1]: "a b" is not one file system type; quote each by itself: "nfs", "nfs4"',
        "c.toml: [watch] fstypes[2]: must be text, not a number; write it in quotes",
        'c.toml: [watch] includ: unknown key; did you mean "include"?',
        'c.toml: [probe] timeout: 5 has no unit; write "5s" for seconds (or ms, m, h, d)',
        'c.toml: [probe] interval: "0s" is too short; write at least 100ms',
        "c.toml: notify.channels[1].name: is empty; write a value or leave it out",
        "c.toml: notify.channels[2]: says nowhere where to send; add one of url, url_file or credential",
    ]


# ---- what is warned of


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[probe]\nintervall = "1s"', '[probe] intervall: unknown key; did you mean "interval"?'),
        ('[probe]\nStale-Interval = "1s"', '[probe] Stale-Interval: unknown key; did you mean "stale_interval"?'),
        ("[watch]\nmax_age = 1", "[watch] max_age: unknown key; it belongs to [notify]"),
        ('timeout = "1s"', "timeout: unknown key; it belongs to [probe]"),
        ('[notify]\nurl_file = "/x"', "[notify] url_file: unknown key; it belongs to [[notify.channels]]"),
        (
            "[paths]\nzzz = 1",
            "[paths] zzz: unknown key; there are proc, cgroup, sys, lxc_config, runtime, fstab, units, storage",
        ),
        ("[prob]\ninterval = 3", "[prob]: unknown section; did you mean [probe]?"),
        ("[[overide]]\na = 1", "[[overide]]: unknown section; did you mean [[override]]?"),
        (
            "[stats]\n[state]",
            "[stats]: unknown section; did you mean [status]?",
        ),
        (
            "[x]",
            "[x]: unknown section; there are [watch], [[expect]], [probe], [[override]], [capacity], [notify], "
            "[status], [heartbeat], [state], [paths]",
        ),
        (
            '[[override]]\nmounts = ["/x"]\ntimeout = "1s"\nmax_age = "3s"',
            "override[1].max_age: unknown key; it belongs to [notify]",
        ),
        (
            f'[[notify.channels]]\nname = "a"\nurl = "{URL}"\nulr = "{URL}"',
            'notify.channels[1].ulr: unknown key; did you mean "url"?',
        ),
        ('[state]\n"a\\u001b\\n" = 1', '[state] "a\\x1b\\n": unknown key; there are path'),
        (f'[state]\n"{URL}" = 1', '[state] "tgram://***": unknown key; there are path'),
    ],
)
def test_an_unknown_key_is_a_warning_and_when_strict_a_problem(text: str, line: str) -> None:
    assert parse(text, "c.toml").warnings == [f"c.toml: {line}"]
    assert problems(text, strict=True) == [f"c.toml: {line}"]


HASTY = "is not longer than the timeout of {0}, so one slow answer is an alarm; write more than {0}, or"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('[probe]\nalarm_after = "5s"', [f'[probe] alarm_after: 5s {HASTY.format("5s")} "0s" if that is meant']),
        ('[probe]\nalarm_after = "5001ms"', []),
        ('[probe]\nalarm_after = "0s"', []),
        (
            '[[override]]\nmounts = ["/x"]\ntimeout = "1m"',
            [f'override[1].alarm_after: 20s {HASTY.format("1m")} "0s" if that is meant'],
        ),
        ('[[override]]\nmounts = ["/x"]\ntimeout = "1m"\nalarm_after = "2m"', []),
        ('[[override]]\nmounts = ["/x"]', ["override[1]: changes nothing; add a key of [probe], or remove it"]),
        (
            '[notify]\non = []\n[[notify.channels]]\nname = "a"\ncredential = "c"',
            ['[notify] on: is empty, so no channel is ever told anything; write ["stale"], or remove the channels'],
        ),
        ("[notify]\non = []", []),
        # Harmless: a slow mount is then asked as soon as it has answered, each time in depth.
        ('[probe]\ninterval = "1s"\nstale_interval = "1m"\ndeep_interval = "1s"\nalarm_after_error = "1h"', []),
    ],
)
def test_what_works_but_hardly_as_meant_is_a_warning_even_when_strict(text: str, lines: list[str]) -> None:
    assert parse(text, "c.toml").warnings == [f"c.toml: {line}" for line in lines]
    assert parse(text, "c.toml", strict=True).warnings == [f"c.toml: {line}" for line in lines]


# ---- config.example.toml


LISTS = ("override", "expect", "notify.channels", "notify.quiet")


def uncommented(text: str) -> str:
    """With every setting in force; prose is what has a blank after its "#"."""
    return re.sub(r"^#(?=[^\s#])", "", text, flags=re.MULTILINE)


def members(kind: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(section, key) of every key there is."""
    for field in fields(kind):
        inner = f"{path}.{field.encode_name}".strip(".")
        if get_origin(field.type) is Annotated:
            yield path, field.encode_name
        else:
            yield from members(get_args(field.type)[0] if get_origin(field.type) is tuple else field.type, inner)


# What the example has in force: the default would miss a container that fills the disk under a mount.
AS_EXAMPLE = replace(Settings(), notify=Notify(on=(Kind.STALE, Kind.MISSING, Kind.VANISHED)))


def test_the_example_as_it_is_also_tells_what_has_vanished_and_changes_nothing_else() -> None:
    assert parse(EXAMPLE.read_text(), EXAMPLE.name, strict=True) == (AS_EXAMPLE, [])


def test_the_example_uncommented_is_the_same() -> None:
    settings, warnings = parse(uncommented(EXAMPLE.read_text()), EXAMPLE.name, strict=True)
    assert warnings == []
    assert len(settings.overrides) >= 1
    assert len(settings.notify.channels) == 3
    assert [q.window() for q in settings.notify.quiet] == [Window(("server:nas01",), 23 * 60 + 30, 6 * 60)]
    assert settings.heartbeat == Heartbeat(url="https://hc-ping.com/YOUR-UUID")
    assert (settings.status.listen, settings.status.token_file) == ("127.0.0.1:9199", "/etc/mountwatch/status.token")
    settings = replace(settings, status=replace(settings.status, listen="", token_file=None))
    notify = replace(settings.notify, channels=(), quiet=())
    assert settings.expect == (Expect(mount="/mnt/nas", source="nas01:/data", fstype="nfs4", ro=False),)
    assert replace(settings, overrides=(), expect=(), heartbeat=Heartbeat(), notify=notify) == AS_EXAMPLE


def test_the_example_shows_every_key_once_outside_of_lists() -> None:
    shown_keys: dict[tuple[str, str], int] = {}
    section = ""
    for line in uncommented(EXAMPLE.read_text()).splitlines():
        if heading := re.fullmatch(r"\[{1,2}([a-z.]+)\]{1,2}", line):
            section = heading[1]
        elif key := re.match(r"([a-z_]+) = ", line):
            shown_keys[section, key[1]] = shown_keys.get((section, key[1]), 0) + 1
    # In a section that stands once, one place of the URL is enough.
    everything = set(members(Settings)) - {("heartbeat", "url_file"), ("heartbeat", "credential")}
    assert ("notify.channels", "credential") in everything
    assert ("override", "deep_interval") in everything
    assert set(shown_keys) == everything
    assert {key: n for key, n in shown_keys.items() if n > 1 and key[0] not in LISTS} == {}


# ---- whatever the file holds

NAMES = sorted({name for member in members(Settings) for name in member} | {"nope", "notify.channels", "a.b"})
VALUES = [
    *(
        '"90%"',
        '"10s"',
        '"0s"',
        "10",
        "-1",
        "1e999",
        "nan",
        "true",
        '""',
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        '["nfs"]',
        '["/mnt/*"]',
    ),
    *('["stale"]', '"/var/x"', '"x"', "1979-05-27", "07:32:00", f'"{URL}"', f'["{URL}"]', f"{{url = '{URL}'}}", URL),
    *(f"'{URL}", f'"\\u001b{URL}\\n"', f'"/{URL}"', "'\udce9'", "99999999999999999999999", '"""', f'"{URL}" = 1'),
]
LINES = st.one_of(
    st.builds("{} = {}".format, st.sampled_from(NAMES), st.sampled_from(VALUES)),
    st.builds("[{}]".format, st.sampled_from(NAMES)),
    st.builds("[[{}]]".format, st.sampled_from(NAMES)),
    st.sampled_from([f'"{URL}" = 1', f'["{URL}"]', f'[["{URL}"]]', f'[[notify.channels]]\nname = "a"\nurl = "{URL}"']),
)
TOMLISH = st.lists(LINES, max_size=12).map("\n".join)


def everything_said(text: str, *, strict: bool = False) -> list[str]:
    """All that is made of a file for people to read."""
    try:
        settings, warnings = parse(text, "c.toml", strict=strict)
    except ConfigError as error:
        return error.problems or ["a refusal without a word"]
    assert isinstance(settings, Settings)
    assert all(line.startswith("c.toml: ") for line in warnings)
    return [*warnings, *describe(settings).splitlines(), repr(settings), rich.pretty.pretty_repr(settings)]


@given(TOMLISH, st.booleans())
@example(f'[[notify.channels]]\nname = "a"\nurl = "{URL}"', True)
@example(f'[[notify.channels]]\nname = "a"\nurl = "{URL}', False)
def test_toml_of_any_sense_is_refused_in_words_without_secrets(text: str, strict: bool) -> None:
    for line in everything_said(text, strict=strict):
        assert TOKEN not in line
        assert line != "a refusal without a word"
        assert line.startswith(("Settings(", " ", ")")) or line.isprintable()


@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode(errors="surrogateescape"))))
def test_text_of_any_kind_is_read_or_refused(text: str) -> None:
    for line in everything_said(text):
        assert line.startswith(("Settings(", " ", ")")) or line.isprintable()


@hypothesis.settings(max_examples=12)  # dozens of files each time
@given(st.text(), st.text())
def test_any_key_and_any_text_make_one_printable_line(key: str, value: str) -> None:
    def quoted(raw: str) -> str:
        return '"' + "".join(f"\\U{ord(c):08X}" for c in raw if not 0xD800 <= ord(c) <= 0xDFFF) + '"'

    for section, name in members(Settings):
        heading = f"[[{section}]]" if section in LISTS else f"[{section}]"
        text = f"{heading}\n{name} = {quoted(value)}\n{quoted(key)} = [{quoted(value)}]"
        try:
            lines = parse(text, "c.toml").warnings
        except ConfigError as error:
            lines = error.problems
        assert lines
        assert all(line.isprintable() and line.startswith("c.toml: ") for line in lines)


def test_the_name_of_the_file_is_kept_to_one_line_too() -> None:
    with pytest.raises(ConfigError, match=r'^"a\\nb": \[probe\]: must be a section'):
        parse("probe = 1", "a\nb")


# ---- without secrets


def test_no_way_of_showing_the_heartbeat_shows_its_url() -> None:
    settings = parse(f'[heartbeat]\nurl = "https://hc/{TOKEN}"', "c.toml").settings
    for text in (repr(settings), describe(settings), rich.pretty.pretty_repr(settings), str(settings.heartbeat)):
        assert TOKEN not in text
        assert "https://***" in text


def test_no_way_of_showing_a_channel_shows_its_url() -> None:
    channel = Channel(name="a", url=URL)
    settings = Settings(notify=Notify(channels=(channel,)))
    for text in (
        *(repr(channel), str(channel), f"{channel}", repr(settings), str(settings), describe(settings)),
        *(rich.pretty.pretty_repr(channel), rich.pretty.pretty_repr(settings), repr(parse("", "c", defaults=settings))),
    ):
        assert TOKEN not in text
        assert "tgram://***" in text


@given(TOMLISH)
@example(uncommented(EXAMPLE.read_text()))
@example('[watch]\nexclude = ["/a\\u001b\\U000E0001\\n"]')
def test_describe_is_a_file_with_the_same_settings(text: str) -> None:
    try:
        settings = parse(text, "c.toml").settings
    except ConfigError:
        return
    notify = settings.notify
    channels = tuple(replace(c, url=c.redacted_url()) for c in notify.channels)
    heartbeat = replace(settings.heartbeat, url=settings.heartbeat.redacted_url())
    if "\udce9" not in text:  # TOML has no way to write that byte
        expected = replace(settings, notify=replace(notify, channels=channels), heartbeat=heartbeat)
        assert parse(describe(settings), "c.toml", strict=True).settings == expected


def test_describe_hides_control_characters() -> None:
    settings = parse('[watch]\nexclude = ["/a\\u001b[31m\\"\\\\", "/\udce9"]', "c.toml").settings
    assert r'exclude = ["/a\U0000001B[31m\"\\", "/\U0000DCE9"]' in describe(settings).splitlines()


def test_describe_shows_shares_and_switches_as_they_are_written() -> None:
    lines = describe(parse('[watch]\ncontainers = false\n[capacity]\nwarn = "92.5%"', "c.toml").settings).splitlines()
    assert {"containers = false", 'warn = "92.5%"'} <= set(lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", '"a"'),
        ("a\x1b\n\u202e", '"a\\x1b\\n\\u202e"'),
        ("x" * 41, '"' + "x" * 39 + '…"'),
        (f"see {URL}", '"tgram://***"'),
        ("://x", '"://***"'),
    ],
)
def test_shown(value: str, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("url", "scheme"), [(URL, "tgram"), ("46elks://a:b@+1", "46elks"), ("a", None), ("a://", None), ("a://b\n", None)]
)
def test_scheme_of(url: str, scheme: str | None) -> None:
    assert scheme_of(url) == scheme


# ---- where the URL is


def channel_at(path: Path) -> Channel:
    return Channel(name="ops", url_file=str(path))


def failure(channel: Channel, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SecretError) as caught:
        resolve_url(channel, environ or {})
    error = caught.value
    assert TOKEN not in str(error)
    assert error.__cause__ is None
    assert str(error).isprintable()
    return str(error)


def test_a_url_in_the_configuration_is_itself() -> None:
    assert resolve_url(Channel(name="a", url=URL), {}) == URL


@pytest.mark.parametrize("content", [URL, f"{URL}\n", f"\n  {URL} \r\n\n", f"\ufeff{URL}"])
def test_a_url_in_a_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "u").write_text(content)
    assert resolve_url(channel_at(tmp_path / "u"), {}) == URL
    credential = Channel(name="ops", credential="u")
    assert resolve_url(credential, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == URL


CORRECT = "write the URL into it, or correct url_file"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", f"is empty; {CORRECT}"),
        (b" \n", f"is empty; {CORRECT}"),
        (f"{URL}\n{URL}".encode(), "has several lines; leave only the URL, and make a channel of each further one"),
        (TOKEN.encode(), f'holds no URL such as "tgram://…"; {CORRECT}'),
        (f"{URL}\xff".encode("latin-1"), f"is not UTF-8 text; {CORRECT}"),
        (URL.encode() + b"x" * 70_000, f"is larger than 65536 bytes; {CORRECT}"),
    ],
)
def test_a_file_without_a_usable_url(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "u"
    path.write_bytes(content)
    assert failure(channel_at(path)) == f'channel "ops": {shown(str(path))[1:-1]}: {words}'


def test_what_is_not_a_file(tmp_path: Path) -> None:
    assert failure(channel_at(tmp_path / "absent")).endswith(f"No such file or directory; {CORRECT}")
    assert failure(channel_at(tmp_path)).endswith(f"is not a regular file; {CORRECT}")
    os.mkfifo(tmp_path / "fifo")
    assert failure(channel_at(tmp_path / "fifo")).endswith(f"is not a regular file; {CORRECT}")


def test_a_missing_credential_names_the_directive(tmp_path: Path) -> None:
    channel = Channel(name="ops", credential="mail")
    remedy = "add LoadCredential=mail:FILE to the unit, or use url_file"
    assert failure(channel) == (
        f'channel "ops": no credential "mail": not started by systemd with credentials; {remedy}'
    )
    assert failure(channel, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).endswith(f"No such file or directory; {remedy}")


def test_files_with_secrets() -> None:
    inline, file, twin = Channel(name="a", url=URL), Channel(name="b", url_file="/u"), Channel(name="c", url_file="/u")
    credential = Channel(name="d", credential="m")

    def found(*channels: Channel) -> list[str]:
        return secret_files(Settings(notify=Notify(channels=channels)), "/c.toml")

    assert found() == found(credential) == []
    assert found(inline, file, twin, credential) == ["/c.toml", "/u"]
    assert found(file) == ["/u"]
    assert secret_files(Settings(notify=Notify(channels=(inline,))), None) == []
    assert secret_files(Settings(heartbeat=Heartbeat(url="https://h/x")), "/c.toml") == ["/c.toml"]
    assert secret_files(Settings(heartbeat=Heartbeat(url_file="/u")), "/c.toml") == ["/u"]


@pytest.mark.parametrize(
    ("mode", "gid", "own_gid", "words"),
    [
        (0o600, 100, 0, None),
        (0o640, 0, 0, None),
        (0o640, 100, 100, None),
        (0o640, 100, 0, "group 100 can read it; chmod 600 /c.toml"),
        (0o620, 100, 0, "group 100 can change it; chmod 600 /c.toml"),
        (0o644, 0, 0, "every user can read it; chmod 600 /c.toml"),
        (0o604, 100, 0, "every user can read it; chmod 600 /c.toml"),
        (0o602, 0, 0, "every user can change it; chmod 600 /c.toml"),
        (0o644, 100, 100, "every user can read it; chmod 640 /c.toml"),
    ],
)
def test_permissions(mode: int, gid: int, own_gid: int, words: str | None) -> None:
    expected = [] if words is None else [f"/c.toml: holds a secret URL, and {words}"]
    assert check_permissions("/c.toml", stat.S_IFREG | mode, gid, own_gid) == expected


def test_permissions_of_a_real_file_whose_name_needs_quotes(tmp_path: Path) -> None:
    path = tmp_path / "my config"
    path.write_text("")
    path.chmod(0o644)
    found = path.stat()
    assert check_permissions(str(path), found.st_mode, found.st_gid)[0].endswith(f"; chmod 600 '{path}'")
    path.chmod(0o600)
    assert check_permissions(str(path), path.stat().st_mode, found.st_gid) == []


# ---- which file, and whose directories


def test_which_file_is_read() -> None:
    environ = {"WATCHER_CONFIG": "/b"}
    assert search_path(environ, "/a") == Candidate("/a", True, "--config")
    assert search_path(environ, None) == Candidate("/b", True, "$WATCHER_CONFIG")
    assert search_path({"WATCHER_CONFIG": ""}, None) == search_path({}, None)
    assert search_path({}, None) == Candidate("/etc/mountwatch/config.toml", False, "")
    assert search_path({}, "/a").absent().problems == ["/a: does not exist; correct or drop --config"]


@pytest.mark.parametrize(
    ("euid", "environ", "state", "runtime"),
    [
        (0, {"HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0"}, "/var/lib/mountwatch/state.db", "/run/mountwatch"),
        (
            7,
            {"HOME": "/home/a", "XDG_RUNTIME_DIR": "/run/user/7"},
            "/home/a/.local/state/mountwatch/state.db",
            "/run/user/7/mountwatch",
        ),
        (7, {"HOME": "/home/a", "XDG_STATE_HOME": "/s"}, "/s/mountwatch/state.db", "/tmp/mountwatch-7"),
        (
            7,
            {"HOME": "/home/a", "XDG_STATE_HOME": "s", "XDG_RUNTIME_DIR": ""},
            "/home/a/.local/state/mountwatch/state.db",
            "/tmp/mountwatch-7",
        ),
        (7, {}, "/tmp/mountwatch-7/state.db", "/tmp/mountwatch-7"),
    ],
)
def test_defaults_for_user(euid: int, environ: dict[str, str], state: str, runtime: str) -> None:
    settings = defaults_for_user(euid, environ)
    assert (settings.state.path, settings.paths.runtime) == (state, runtime)
    assert settings.status.socket == f"{runtime}/watcher.sock"
    assert replace(settings, state=State(), paths=Paths(), status=Status()) == Settings()


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(AttributeError):
        settings.probe.interval = 3.0  # type: ignore[misc]
    assert all(isinstance(section, Section | tuple) for section in asdict(settings).values())
    assert hash(settings) == hash(Settings())
