"""`watcher silence` and its kin against the real service: what is told, when, and what is not."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import signal

import pytest

from tests.fakes.fuse import OK, FuseMount, fails
from tests.fakes.receivers import GotifyReceiver
from tests.integration.asking import request
from tests.integration.service import HOST, Service, Site

pytestmark = pytest.mark.kernel


def titles(receiver: GotifyReceiver) -> list[str]:
    return [message.title for message in receiver.received]


def alarm(mount: FuseMount) -> str:
    return f"🔴 {HOST}: {mount.mount_point} I/O ERROR"


async def serving(service: Service, *mounts: FuseMount) -> None:
    """Until it can be asked, and watches these."""
    for mount in mounts:
        await service.wait_for_line(f"watching {re.escape(mount.mount_point)} ")
    await service.wait_serving()


async def silence(site: Site, *arguments: str) -> str:
    """The new silence's id."""
    outcome = await site.run("silence", *arguments)
    assert outcome.code == 0, outcome
    match = re.match(r"silence ([a-z0-9]{4}): ", outcome.out)
    assert match, outcome
    return match[1]


async def die_unnoticed(service: Service, mount: FuseMount, count: int = 1) -> None:
    mount.set(fails(errno.EIO))
    await service.wait_for_line(f"stale: {re.escape(mount.mount_point)} ", count)


# ---- what is told


@pytest.mark.once
async def test_what_is_still_stale_when_a_silence_is_ended_is_told_then(site: Site) -> None:
    nas, last = site.mount("nas"), site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await serving(service, nas, last)
            name = await silence(site, nas.mount_point, "--for", "2h", "--comment", "NAS upgrade")
            assert service.found(rf"silence {name} for 2 h: {nas.mount_point} \(NAS upgrade\)")
            await die_unnoticed(service, nas)
            last.set(fails(errno.EIO))  # is not silenced
            await gotify.wait_for(1)
            assert await site.run("unsilence", name) == (0, f"silence {name} ended\n", "")
            await gotify.wait_for(2)
            nas.set(OK)
            await gotify.wait_for(3)
            assert await service.end() == 0
        assert titles(gotify)[:2] == [alarm(last), alarm(nas)]
        assert titles(gotify)[2].startswith(f"🟢 {HOST}: {nas.mount_point} ok after")
        assert "told late" not in gotify.received[1].message.lower()


@pytest.mark.once
async def test_it_ends_by_itself_and_what_came_and_went_meanwhile_is_never_told(site: Site) -> None:
    brief, nas = site.mount("brief", source="nas02:/b"), site.mount("nas")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await serving(service, brief, nas)
            name = await silence(site, site.place("*"), "--for", "20s")
            await die_unnoticed(service, brief)
            await die_unnoticed(service, nas)
            brief.set(OK)
            await service.wait_for_line(f"stale no more: {brief.mount_point} ")
            assert not service.found(f"silence {name} is over")
            await service.wait_for_line(f"silence {name} is over: ")
            await gotify.wait_for(1)
            nas.set(OK)
            await gotify.wait_for(2)
            assert await service.end() == 0
        assert titles(gotify)[0] == alarm(nas)
        assert titles(gotify)[1].startswith(f"🟢 {HOST}: {nas.mount_point} ok after")


@pytest.mark.once
async def test_what_was_told_before_the_silence_is_followed_up_within_it(site: Site) -> None:
    nas = site.mount("nas")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await serving(service, nas)
            nas.set(fails(errno.EIO))
            await gotify.wait_for(1)
            await silence(site, "--server", "nas", nas.mount_point, "--for", "2h")
            nas.set(OK)
            await gotify.wait_for(2)
            assert await service.end() == 0
        assert titles(gotify)[0] == alarm(nas)
        assert titles(gotify)[1].startswith(f"🟢 {HOST}: {nas.mount_point} ok after")


async def test_silences_outlive_the_service_and_a_kill(site: Site) -> None:
    nas, last = site.mount("nas"), site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await serving(service, nas, last)
            gone = await silence(site, last.mount_point, "--for", "2h")
            name = await silence(site, nas.mount_point, "--for", "2h", "--comment", "NAS upgrade")
            await site.run("unsilence", gone)
            assert await service.end() == 0
        async with site.service() as service:
            await serving(service, nas, last)
            [kept] = json.loads((await site.run("silences", "--json")).out)["silences"]
            assert (kept["id"], kept["comment"]) == (name, "NAS upgrade")
            await die_unnoticed(service, nas)
            last.set(fails(errno.EIO))
            await gotify.wait_for(1)
            assert await service.end(signal.SIGKILL) == -signal.SIGKILL
        async with site.service() as service:
            await service.wait_serving()
            await service.wait_until(site.socket.exists, "it listens")
            assert alarm(nas) not in titles(gotify)
            assert (await site.run("unsilence", name)).code == 0
            while alarm(nas) not in titles(gotify):
                await gotify.wait_for(len(gotify.received) + 1)
            assert await service.end() == 0
        # That it was told may not have been on disk yet when it was killed.
        assert list(dict.fromkeys(titles(gotify))) == [alarm(last), alarm(nas)]


@pytest.mark.once
async def test_quiet_windows_hold_and_can_be_taken_out_of_the_configuration(site: Site) -> None:
    nas, last = site.mount("nas"), site.mount("last")
    quiet = f'[[notify.quiet]]\nmounts = ["{nas.mount_point}"]\nfrom = "00:00"\nto = "24:00"\n'
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, more=quiet)
        async with site.service() as service:
            await serving(service, nas, last)
            await service.wait_for_edits_to_count()
            await die_unnoticed(service, nas)
            last.set(fails(errno.EIO))
            await gotify.wait_for(1)
            outcome = await site.run("silences")
            assert re.search(r"^-  +00:00 to 24:00 .* 1 mount  quiet now, by the configuration$", outcome.out, re.M)
            site.write_config({"gotify": gotify.url})
            await gotify.wait_for(2)
            assert await service.end() == 0
        assert titles(gotify) == [alarm(last), alarm(nas)]


# ---- the commands


@pytest.mark.once
async def test_silences_are_listed_for_people_and_for_programs(site: Site) -> None:
    nas = site.mount("nas")
    site.write_config()
    async with site.service() as service:
        await serving(service, nas)
        assert await site.run("silences") == (0, "no silences\n", "")
        later = await silence(site, "/mnt/none", "ct:101:*", "--for", "1d", "--comment", "two\nlines \x1b[31m")
        sooner = await silence(site, site.place("*"), "--for", "30m")
        outcome = await site.run("silences")
        lines = outcome.out.splitlines()
        assert re.fullmatch(r"ID +UNTIL +MOUNTS +COVERS +COMMENT", lines[0])
        assert re.fullmatch(rf"{sooner}  .*\((29|30) min\) +{re.escape(site.place('*'))} +1 mount", lines[1])
        assert re.fullmatch(rf"{later}  .* /mnt/none, ct:101:\* +no mount  two\\nlines \\x1b\[31m", lines[2])
        listed = json.loads((await site.run("silences", "--json")).out)
        assert [s["id"] for s in listed["silences"]] == [sooner, later]
        assert listed["silences"][1]["mounts"] == listed["silences"][1]["unmatched"] == ["/mnt/none", "ct:101:*"]
        assert listed["quiet"] == []
        assert (await site.run("unsilence", sooner, later)).out == f"silence {sooner} ended\nsilence {later} ended\n"
        outcome = await site.run("unsilence", sooner)
        assert (outcome.code, outcome.out) == (3, "")
        assert f'no silence "{sooner}"' in outcome.err
        assert await service.end() == 0


@pytest.mark.once
async def test_a_pattern_that_matches_nothing_is_taken_and_warned_of(site: Site) -> None:
    nas = site.mount("nas")
    site.write_config()
    async with site.service() as service:
        await serving(service, nas)
        outcome = await site.run("silence", "/mtn/nas", f"{nas.mount_point}/", "--until", "23:59")
        assert outcome.code == 0
        assert " until 23:59, 1 mount\n" in outcome.out
        assert outcome.err == (
            'watcher: warning: "/mtn/nas" matches no mount that is watched now; is that what you meant?\n'
        )
        assert await service.end() == 0


REFUSED = [
    (["silence", "--for", "2h"], "name the mounts"),
    (["silence", "/mnt/x"], "say for how long"),
    (["silence", "/mnt/x", "--for", "2h", "--until", "18:30"], "say for how long"),
    (["silence", "/mnt/x", "--until", "noon"], '"noon" is not a time of day'),
    (["silence", "/mnt/x", "--for", "2"], 'write "2s" for seconds'),
    (["silence", "/mnt/x", "--for", "0s"], "over before it begins"),
    (["silence", "/mnt/x", "--for", "400d"], "at most 366d"),
    (["silence", "/mnt/x", "--until", "2020-01-01 00:00"], "over before it begins"),
    (["silence", "", "/mnt/x", "--for", "2h"], '"" matches no mount'),
    (["silence", "--server", "", "--for", "2h"], '"server:" names no server'),
    (["silence", "nas01", "--for", "2h"], 'a server is written "server:nas01"'),
    (["silence", "mnt/x", "--for", "2h"], 'mount points begin with "/"'),
    (["silence", "/mnt/x", "--for", "2h", "--comment", "x" * 501], "at most 500"),
    (["silence", "/mnt/x", "--for", "2h", "--comment", "\udcff"], "bytes that are not UTF-8"),
    (["unsilence"], "Missing argument"),
    (["--once", "silences"], "--once does not go with silences"),
]


@pytest.mark.once
async def test_what_is_refused(site: Site) -> None:
    site.write_config()
    async with site.service() as service:
        await service.wait_serving()
        for arguments, words in REFUSED:
            outcome = await site.run(*arguments)
            assert (outcome.code, outcome.out) == (3, ""), arguments
            assert words in outcome.err
        assert await service.end() == 0


async def test_without_a_service_every_command_says_so(site: Site) -> None:
    site.write_config()
    for arguments in (["silence", "/x", "--for", "1h"], ["silences"], ["unsilence", "abcd"], ["health"]):
        outcome = await site.run(*arguments)
        assert outcome == (3, "", f"watcher: no service is running: nobody listens on {site.socket}\n")
    site.write_config(socket="")
    outcome = await site.run("health")
    assert (outcome.code, outcome.out) == (3, "")
    assert '[status] socket is ""' in outcome.err


async def test_with_a_broken_configuration_the_service_is_still_found(site: Site) -> None:
    nas = site.mount("nas")
    site.write_config()
    async with site.service() as service:
        await serving(service, nas)
        site.config.write_text("no configuration at all")
        assert (await site.run("health")).code == 0
        assert await service.end() == 0


@pytest.mark.once
async def test_silencing_while_the_service_is_busy_does_not_hold_it_up(site: Site) -> None:
    """Twenty at once, each a connection of its own."""
    nas = site.mount("nas")
    site.write_config()
    async with site.service() as service:
        await serving(service, nas)
        body = json.dumps({"mounts": ["/mnt/*"], "duration": "1h", "comment": ""}).encode()
        asked = [
            request(site, "POST", "/api/v1/silences", body, {"Content-Type": "application/json"}) for _ in range(20)
        ]
        replies = await asyncio.gather(*asked)
        assert {reply.status for reply in replies} == {201}, [reply.body for reply in replies]
        assert len({reply.headers["location"] for reply in replies}) == 20
        assert len(json.loads((await site.run("silences", "--json")).out)["silences"]) == 20
        assert await service.end() == 0
