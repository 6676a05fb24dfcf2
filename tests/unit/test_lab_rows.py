"""What labs tell: the README's table with its stories, and the commands that are taken out of alarms."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.following import Step, steps
from tests.system.table import BEGIN, END, STORIES, Row, write_table

EXPORTFS = "exportfs -v; exportfs -ra # if it is a Linux: see exports(5)"
ALARM = f"""Since 16:25:39 UTC
Host /mnt/nfs
10.99.0.2:/srv/nfs/sub; NFS 4.2 hard
First, on 10.99.0.2: ls -la /srv/nfs; findmnt -T /srv/nfs # is it there?
Do: umount -l /mnt/nfs; mount /mnt/nfs
Do on 10.99.0.2: {EXPORTFS}
To give it up: umount -fl /mnt/nfs
Quiet: watcher silence --server 10.99.0.2 --for 2h"""


def test_a_story_stands_below_the_table_in_a_fold(tmp_path: Path) -> None:
    rows = [
        Row(20, "second", "6.12", "ok", "ok, no message"),
        Row(10, "first", "6.12", "hangs", "NO ANSWER", 28.46, 4.0, "🔴 lab: /mnt/x NO ANSWER\nSince <b>\n\n🟢 ok"),
    ]
    readme = tmp_path / "README.md"
    readme.write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    write_table(readme, rows)
    write_table(readme, rows)  # in place of what it has written
    before, _, rest = readme.read_text().partition("|---|---|---|---:|---:|\n")
    assert before.startswith(f"# Before\n{BEGIN}\n2")
    assert rest == (
        "| first | hangs | NO ANSWER | 28.5 s | 4.0 s |\n"
        "| second | ok | ok, no message | – | – |\n"
        "\n"
        "<details>\n"
        f"<summary>{STORIES}</summary>\n"
        "\n"
        "first:\n"
        "\n"
        "```text\n"
        "🔴 lab: /mnt/x NO ANSWER\nSince <b>\n\n🟢 ok\n"
        "```\n"
        "\n"
        "</details>\n"
        f"{END}\nafter\n"
    )


def test_without_stories_there_is_no_fold(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    write_table(readme, [Row(20, "second", "6.12", "ok", "ok, no message")])
    assert "<details>" not in readme.read_text()


@pytest.mark.parametrize(
    ("leads", "found"),
    [
        (["Do"], [("lab", "umount -l /mnt/nfs; mount /mnt/nfs"), ("10.99.0.2", EXPORTFS)]),
        (["First"], [("10.99.0.2", "ls -la /srv/nfs; findmnt -T /srv/nfs # is it there?")]),
        (["To give it up"], [("lab", "umount -fl /mnt/nfs")]),
        (["To mount it anew"], []),
    ],
)  # fmt: skip
def test_the_lines_to_be_followed(leads: list[str], found: list[tuple[str, str]]) -> None:
    assert [(step.host, step.commands) for step in steps(ALARM, leads)] == found


def test_as_it_stands_on_a_terminal() -> None:
    assert Step("Do", "10.99.0.2", "exportfs -ra # x").typed == "root@10.99.0.2:~# exportfs -ra # x"
