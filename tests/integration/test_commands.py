"""`watcher check-config` and `watcher test-notify`, run as a person runs them."""

from __future__ import annotations

import re

import pytest

from tests.fakes.receivers import GotifyReceiver
from tests.integration.service import HOST, Site

pytestmark = pytest.mark.kernel

TOKENS = ("TokenInTheConfig1", "TokenInTheFile22", "TokenInCredential3")


# ---- check-config


async def test_a_good_configuration_is_shown_with_every_channel_and_without_secrets(site: Site) -> None:
    credentials = site.path / "credentials"
    credentials.mkdir()
    urls = [f"gotify://gotify.invalid/{token}" for token in TOKENS]
    Site.write(site.path / "url", urls[1] + "\n")
    Site.write(credentials / "gotify", urls[2])
    channels = {"inline": urls[0], "file": f'url_file = "{site.path}/url"', "unit": 'credential = "gotify"'}
    site.write_config(channels, timeout="700ms")
    outcome = await site.run("check-config", env={"CREDENTIALS_DIRECTORY": str(credentials)})
    assert outcome.code == 0, outcome
    assert outcome.err == ""
    for line in ('timeout = "700ms"', 'alarm_after = "1s"', 'max_age = "1d"', 'url = "gotify://***"'):
        assert f"{line}\n" in outcome.out
    for name in channels:
        assert f"channel {name}: Gotify, accepted\n" in outcome.out
    assert str(site.config) in outcome.out
    assert "warning" not in outcome.out
    assert not [token for token in TOKENS if token in outcome.out + outcome.err]


async def test_warnings_are_shown_and_are_no_failure(site: Site) -> None:
    site.write_config({"gotify": f"gotify://gotify.invalid/{TOKENS[0]}"}, alarm_after="200ms")
    site.config.chmod(0o644)
    outcome = await site.run("check-config")
    assert outcome.code == 0, outcome
    assert re.search(r"^warning: .*config\.toml: \[probe\] alarm_after: 200ms is not longer", outcome.out, re.MULTILINE)
    assert re.search(
        r"^warning: .*config\.toml: holds a secret URL, and every user can read it", outcome.out, re.MULTILINE
    )
    assert TOKENS[0] not in outcome.out + outcome.err


async def test_every_problem_is_named_with_file_and_key(site: Site) -> None:
    site.write(site.config, '[probe]\nintervall = "5s"\ntimeout = "5"\n[[notify.channels]]\nname = "x"\n')
    outcome = await site.run("check-config")
    assert outcome.code == 3
    lines = outcome.err.splitlines()
    assert [line.partition(f"watcher: {site.config}: ")[2].partition(": ")[0] for line in lines] == [
        "[probe] intervall",
        "[probe] timeout",
        "notify.channels[1]",
    ]
    assert 'did you mean "interval"?' in lines[0]


async def test_channels_that_cannot_be_used_are_problems(site: Site) -> None:
    site.write_config(
        {
            "well": f"gotify://gotify.invalid/{TOKENS[0]}",
            "typo": f"gotifi://gotify.invalid/{TOKENS[1]}",
            "lost": f'url_file = "{site.path}/none"',
            "unit": 'credential = "gotify"',
        }
    )
    outcome = await site.run("check-config", env={"CREDENTIALS_DIRECTORY": ""})
    assert outcome.code == 3
    assert "channel well: Gotify, accepted" in outcome.out
    assert "typo: Apprise knows no service gotifi://" in outcome.err
    assert f"{site.path}/none: No such file or directory" in outcome.err
    assert "not started by systemd with credentials" in outcome.err
    assert len(outcome.err.splitlines()) == 3
    assert not [token for token in TOKENS if token in outcome.out + outcome.err]


async def test_no_file_and_no_channels(site: Site) -> None:
    outcome = await site.run("check-config")
    assert outcome.code == 3
    assert outcome.err == f"watcher: {site.config}: does not exist; correct or drop --config\n"
    site.write_config()
    outcome = await site.run("check-config")
    assert outcome.code == 0
    assert "no channels: nobody will be told" in outcome.out


# ---- test-notify


async def test_a_test_message_reaches_all_channels_or_the_one_named(site: Site) -> None:
    async with GotifyReceiver() as one, GotifyReceiver() as two:
        site.write_config({"one": one.url, "two": two.url})
        outcome = await site.run("test-notify")
        assert outcome == (0, "one: sent\ntwo: sent\n", "")
        assert [m.title for m in one.received] == [m.title for m in two.received]
        assert one.received[0].title == f"🔔 {HOST}: test message of watcher"
        assert "Channel two works" in two.received[0].message
        outcome = await site.run("test-notify", "two")
        assert outcome == (0, "two: sent\n", "")
        assert (len(one.received), len(two.received)) == (1, 2)


async def test_a_channel_that_fails_is_named_with_the_reason(site: Site) -> None:
    async with GotifyReceiver(TOKENS[0]) as well, GotifyReceiver(TOKENS[1]) as ill, GotifyReceiver(TOKENS[2]) as none:
        site.write_config({"ill": ill.url, "none": none.url, "lost": f'url_file = "{site.path}/no"', "well": well.url})
        ill.fail(500)
        await none.stop()
        outcome = await site.run("test-notify")
        assert outcome.code == 1
        lines = outcome.out.splitlines()
        assert re.fullmatch(r"ill: FAILED: .*500.*", lines[0])
        assert re.fullmatch(r"none: FAILED: .*refused.*", lines[1])
        assert re.fullmatch(r"lost: FAILED: .*No such file or directory.*", lines[2])
        assert lines[3:] == ["well: sent"]
        assert len(well.received) == 1
        assert not [token for token in TOKENS if token in outcome.out + outcome.err]


async def test_an_unknown_channel_and_none_at_all(site: Site) -> None:
    site.write_config({"admin-telegram": "gotify://gotify.invalid/Token", "mail": "gotify://gotify.invalid/Token"})
    outcome = await site.run("test-notify", "admin-telegramm")
    assert outcome.code == 3
    assert outcome.err.endswith('no channel "admin-telegramm"; did you mean "admin-telegram"?\n')
    outcome = await site.run("test-notify", "pager")
    assert (outcome.code, outcome.out) == (3, "")
    assert "there are: admin-telegram, mail" in outcome.err
    site.write_config()
    outcome = await site.run("test-notify")
    assert outcome.code == 3
    assert "no channels; add a [[notify.channels]] section" in outcome.err
