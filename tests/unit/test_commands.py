"""What commands refuse before they ask anybody."""

from __future__ import annotations

import sys

import pytest

from watcher import cli

NOT_PATHS = "names no path; write such as /mnt/media or ct:101:/mnt/media"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["probe", ""], f'"" {NOT_PATHS}'),
        (["probe", "ct:101"], NOT_PATHS),
        (["probe", "ct:x/y:/mnt"], "names no container"),
        (["probe", "/" + 100_000 * "a"], "is no path: it is too long"),
        (["explain", ""], f'"" {NOT_PATHS}'),
        (["hidden", ""], f'"" {NOT_PATHS}'),
        (["silence", "--for", "2h"], "name the mounts"),
        (["silence", "/mnt/*"], "say for how long"),
        (["silence", "/mnt/*", "--for", "2h", "--until", "18:30"], "say for how long"),
        (["silence", "/mnt/*", "--until", "0001-01-01"], '--until "0001-01-01" is too far away'),
        (["silence", "/mnt/*", "--until", 100_000 * "x"], "is not a time of day"),
        (["history", "--since=-1h"], '"-1h" is negative'),
        (["history", "--since", "1h&limit=1"], "is not a duration"),
        (["history", "--since", "1h\n"], '"1h\\n" is not a duration'),
        (["history", "--since", "\udcff"], '"\\xff" is not a duration'),
        (["history", "--limit", "-1"], "-1 is not in the range"),
        (["status", "/mnt"], "unexpected extra argument"),
        (["--config", "", "status"], "names no file"),
        (["status", "--config", ""], "names no file"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value)[:40].encode("ascii", "replace").decode(),
)
def test_wrong_usage_is_3_in_one_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["watcher", *arguments])
    code = cli.main()
    out, err = capsys.readouterr()
    assert (code, out) == (3, "")
    [line] = [line for line in err.splitlines() if said in line]
    assert len(line) < 300


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_loads_is_printed(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mountwatch"])
    monkeypatch.setenv("_WATCHER_COMPLETE", f"{shell}_source")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    for words in ("_watcher_completion", f"_WATCHER_COMPLETE={shell}_complete", "mountwatch"):
        assert words in out
