"""The service from outside: its start, its end, its configuration, what it uses and what it writes."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path
from time import monotonic

import pytest

from tests.fakes.fuse import HANG, FuseMount, fails
from tests.fakes.receivers import GotifyReceiver
from tests.integration.service import FAST, HOST, Service, Site

pytestmark = pytest.mark.kernel

ATTENTION, IN_ORDER = f"🟠 {HOST}: watcher needs attention", f"🟢 {HOST}: watcher is in order again"


def parked(mounts: list[FuseMount]) -> list[int]:
    return [mount.counters().parked for mount in mounts]


def replace(path: Path, text: str) -> None:
    """As editors do it."""
    new = path.with_name(".new")
    Site.write(new, text)
    new.rename(path)


# ---- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_good_order_while_all_is_well(site: Site, number: signal.Signals) -> None:
    site.mount("nas")
    site.write_config()
    async with site.service() as service:
        await service.wait_for_line("watching")
        assert await service.end(number) == 0
        assert service.found(rf"stopping \({number.name}\)")
        await service.wait_until(lambda: service.processes() == [], "no child is left")


async def test_a_signal_while_probes_are_being_started_leaves_nothing_behind(site: Site) -> None:
    mounts = [site.mount(f"n{number}") for number in range(30)]
    # Each time-out of its own is a child of its own, so there is much to start.
    own = [f'[[override]]\nmounts = ["{m.mount_point}"]\ntimeout = "{n + 1}s"\n' for n, m in enumerate(mounts)]
    site.write_config(more="\n".join(own))
    async with site.service() as service:
        assert await service.end() == 0
        await service.wait_until(lambda: service.processes() == [], "no child is left")


@pytest.mark.once
async def test_fifty_hung_mounts_do_not_keep_it_from_ending_nor_pile_up(site: Site) -> None:
    mounts = [site.mount(f"n{number}", mode=HANG) for number in range(50)]
    site.write_config(timeout="1m", alarm_after="2m")
    async with site.service() as service:  # whose probes are pending
        await service.wait_until(lambda: all(parked(mounts)), "fifty probes hang")
        assert await service.end(signal.SIGTERM) == 0
        await service.wait_until(lambda: service.processes() == [], "no process is left that can be ended")
    # The pending requests are still with the FUSE server: from here on each mount adds one at most.
    before = parked(mounts)

    site.write_config()
    async with site.service() as service:  # whose probes have been given up
        await service.wait_for_line("stale: ", 50)
        assert await service.end(signal.SIGINT) == 0
        await service.wait_until(lambda: service.processes() == [], "no process is left that can be ended")
    after = parked(mounts)
    assert all(late <= early + 1 for early, late in zip(before, after, strict=True))

    async with site.service() as service:  # which knows of them from its predecessor
        await service.wait_for_line("stale since before the start: .*an earlier probe still hangs", 50)
        await service.wait_serving()
        service.send(signal.SIGINT)
        await service.wait_for_line("stopping")
        service.send(signal.SIGINT)
        assert await service.wait_end() in (0, 128 + signal.SIGINT)
        await service.wait_until(lambda: service.processes() == [], "no process is left that can be ended")
    assert parked(mounts) == after


async def test_a_message_that_hangs_does_not_keep_it_from_ending(site: Site) -> None:
    site.mount("nas", mode=fails(errno.EIO))
    async with GotifyReceiver() as gotify:
        gotify.hang()
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await gotify.wait_for_attempts(1)
            assert await service.end() == 0
            await service.wait_until(lambda: service.processes() == [], "the courier is gone")


# ---- the configuration


async def test_edits_are_taken_up_and_broken_ones_are_told_once(site: Site) -> None:
    site.mount("nas")
    last = site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        good = site.config.read_text()
        async with site.service(env={"NOTIFY_SOCKET": str(site.path / "absent")}) as service:
            await service.wait_for_line("watching .*/nas")
            await service.wait_for_edits_to_count()

            site.write(site.config, good.replace("[notify]", 'intervall = "5s"\n[notify]'))  # in place
            line = await service.wait_for_line(r"WARNING .*\[probe\] intervall: unknown key")
            assert 'did you mean "interval"?' in line
            assert str(site.config) in line
            await service.wait_for_line("configuration loaded", 1)

            replace(site.config, good)
            await service.wait_for_line("configuration loaded", 2)

            await service.wait_serving()
            service.send(signal.SIGHUP)
            await service.wait_for_line(r"reloading the configuration \(SIGHUP\)")
            await service.wait_for_line("configuration loaded", 3)

            site.write(site.config, good.replace(f'"{FAST["interval"]}"', '"250"'))
            line = await service.wait_for_line(r"ERROR .*\[probe\] interval: ")
            assert line.count(str(site.config)) == 1
            assert '250 has no unit; write "250s"' in line
            await service.wait_for_line("the configuration stays as it was", 1)
            await gotify.wait_for(1)

            replace(site.config, "no configuration at all")
            await service.wait_for_line("the configuration stays as it was", 2)

            last.set(fails(errno.EIO))  # the old settings, the channel among them, still hold
            await gotify.wait_for(2)

            replace(site.config, good)
            await service.wait_for_line("configuration loaded", 4)
            await gotify.wait_for(3)
            assert await service.end() == 0
        alarm = f"🔴 {HOST}: {last.mount_point} I/O ERROR"
        assert [message.title for message in gotify.received] == [ATTENTION, alarm, IN_ORDER]
        body = gotify.received[0].message
        assert body.startswith("Running on the configuration as it was before.")
        assert "[probe] interval: 250 has no unit" in body


@pytest.mark.once
async def test_a_file_that_was_removed_and_comes_back_as_it_was_is_in_order_again(site: Site) -> None:
    site.mount("nas")
    away = site.path / "away"
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await service.wait_for_edits_to_count()
            site.config.rename(away)
            await service.wait_for_line(r"ERROR .*config\.toml: does not exist")
            await gotify.wait_for(1)
            away.rename(site.config)
            await gotify.wait_for(2)
            assert await service.end() == 0
        assert [message.title for message in gotify.received] == [ATTENTION, IN_ORDER]


async def test_an_edit_changes_what_is_watched(site: Site) -> None:
    nas, extra = site.mount("nas"), site.mount("extra")
    site.write_config(exclude=[extra.mount_point])
    async with site.service() as service:
        await service.wait_for_line(f"watching {nas.mount_point}")
        assert not service.found(f"watching {extra.mount_point}")
        await service.wait_for_edits_to_count()
        site.write_config()
        await service.wait_for_line(f"watching {extra.mount_point}")
        assert await service.end() == 0


@pytest.mark.once
async def test_a_broken_file_at_the_start_means_the_last_good_copy_or_the_end(site: Site) -> None:
    last = site.mount("last")
    async with GotifyReceiver() as gotify:
        good = site.config_text({"gotify": gotify.url})
        broken = good.replace(f'"{FAST["interval"]}"', "true")
        site.write(site.config, broken)
        async with site.service() as service:
            assert await service.wait_end() == 3
            [line] = service.found(r"\[probe\] interval")
            assert str(site.config) in line
            assert service.found("no configuration to run on")

        site.write(site.config, good)
        async with site.service() as service:
            await service.wait_for_line("watching")
            assert await service.end() == 0

        site.write(site.config, broken)
        async with site.service() as service:
            await service.wait_for_line("running on the last good copy")
            await service.wait_for_edits_to_count()
            assert service.found(r"ERROR .*\[probe\] interval: ")
            await gotify.wait_for(1)
            last.set(fails(errno.EIO))
            await gotify.wait_for(2)
            site.write(site.config, good)
            await gotify.wait_for(3)
            assert await service.end() == 0
        alarm = f"🔴 {HOST}: {last.mount_point} I/O ERROR"
        assert [message.title for message in gotify.received] == [ATTENTION, alarm, IN_ORDER]
        assert gotify.received[0].message.startswith("Running on the last good configuration.")


@pytest.mark.once
async def test_the_copy_of_another_configuration_is_none_of_ours(site: Site) -> None:
    """Two instances on one machine: the one must not take up the other's channels and mounts."""
    site.mount("nas")
    site.write_config()
    async with site.service() as service:
        await service.wait_for_line("watching")
        assert await service.end() == 0
    other = site.path / "other.toml"
    site.write(other, "[probe]\ninterval = true\n")
    async with site.service(config=other) as service:
        assert await service.wait_end() == 3


@pytest.mark.once
async def test_a_configuration_that_others_can_read_is_warned_of_once_it_holds_a_url(site: Site) -> None:
    site.write_config()
    site.config.chmod(0o644)
    async with site.service() as service:
        await service.wait_for_line("no channel")
        assert not service.found("every user can read")
        await service.wait_for_edits_to_count()
        site.config.write_text(site.config_text({"gotify": "gotify://127.0.0.1:1/Tok3nOfTheTest"}))
        line = await service.wait_for_line("WARNING .*every user can read")
        assert line.endswith(f"{site.config}: holds a secret URL, and every user can read it; chmod 600 {site.config}")
        assert await service.end() == 0
        assert "Tok3nOfTheTest" not in service.log


# ---- its own files on file systems that hang


@pytest.mark.once
async def test_a_configuration_on_a_hung_mount_means_the_last_good_copy_or_the_end(site: Site) -> None:
    with_copy, without = site.path / "with" / "config.toml", site.path / "without" / "config.toml"
    for path in (with_copy, without):
        path.parent.mkdir()
    site.mount("nas")
    site.write(with_copy, site.config_text())
    async with site.service(config=with_copy) as service:
        await service.wait_for_line("watching")
        assert await service.end() == 0
    for path in (with_copy, without):
        site.fuse.mount(path.parent, mode=HANG)

    async with site.service(config=with_copy) as service:
        line = await service.wait_for_line("no answer from its file system")
        assert str(with_copy) in line
        await service.wait_for_line("running on the last good copy")
        await service.wait_for_line("watching")
        assert await service.end() == 0

    for copy in site.system.glob("mountwatch/*.toml"):
        copy.unlink()
    async with site.service(config=without) as service:
        assert await service.wait_end() == 3
        assert service.found(f"{without}: no answer from its file system")
        assert service.found("no configuration to run on")


async def test_a_url_on_a_hung_mount_holds_up_its_own_channel_only(site: Site) -> None:
    vault, last = site.mount("vault", mode=HANG), site.mount("last")
    async with GotifyReceiver() as gotify:
        channels = {"stuck": f'url_file = "{vault.mount_point}/url"', "gotify": gotify.url}
        site.write_config(channels, exclude=[vault.mount_point])
        async with site.service() as service:
            await service.wait_for_line("watching")
            last.set(fails(errno.EIO))
            await gotify.wait_for(1)
            line = await service.wait_for_line("could not tell stuck .*no answer from its file system")
            assert f"{vault.mount_point}/url: no answer" in line
            await service.wait_for_line(r"could not tell stuck \(attempt 2")
            # The readers that hang must not become more with every attempt.
            await service.wait_until(lambda: len(service.children()) <= 1, "one reader hangs, not one per attempt")
            assert await service.end() == 0


# ---- what it uses


@pytest.mark.once
async def test_idle_it_sleeps(site: Site) -> None:
    mounts = [site.mount(f"n{number}") for number in range(5)]
    site.write_config(interval="10m", startup_grace="0s")
    async with site.service() as service:
        for mount in mounts:
            await asyncio.to_thread(mount.wait_seen, "STATFS")
        site.mount("late")  # the last event that it takes
        await service.wait_for_line("watching .*/late")
        await service.wait_until(lambda: not service.children(), "the probe child has ended")
        began, wake_ups, cpu = monotonic(), service.wake_ups(), service.cpu_seconds()
        await asyncio.sleep(3)  # not for an effect: this is the time that is measured
        wake_ups, cpu = service.wake_ups() - wake_ups, service.cpu_seconds() - cpu
        # One look at the house falls into every 5 s; a loop that spins makes hundreds of thousands.
        assert wake_ups < 20 * (monotonic() - began)
        assert cpu < 0.5
        assert await service.end() == 0


async def test_descriptors_and_threads_do_not_grow_with_mounts_that_come_and_go(site: Site) -> None:
    site.write_config(interval="10m")
    names = [f"n{number}" for number in range(10)]

    async def come_and_go(service: Service, round_: int) -> None:
        mounts = [site.mount(name) for name in names]
        await service.wait_for_line("INFO watching", 10 * round_)
        for mount in mounts:
            mount.unmount()
        await service.wait_for_line("INFO no longer mounted", 10 * round_)

    async with site.service() as service:
        await come_and_go(service, 1)
        await service.wait_until(lambda: not service.children(), "the probe child has ended")
        descriptors, threads = service.descriptors(), service.threads()
        for round_ in range(2, 7):
            await come_and_go(service, round_)
        await service.wait_until(lambda: service.descriptors() <= descriptors, f"{descriptors} descriptors again")
        # One more stands while the state is written.
        await service.wait_until(lambda: service.threads() <= threads, f"{threads} threads again")
        assert await service.end() == 0


# ---- what it writes


async def test_the_journal_gets_priorities_clean_lines_and_no_secret(site: Site) -> None:
    token = "AVerySecretTokenOfTheTest"
    odd = site.mount("two\nlines \x1b[31mred\x1b[0m", mode=fails(errno.EIO), source="nas\x1b]0;x\x07:/\n<2>forged")
    async with GotifyReceiver(token) as gotify:
        gotify.hang()
        site.write_config({"gotify": gotify.url})
        async with site.service("-v", journal=True) as service:
            line = await service.wait_for_line("stale")
            assert line.startswith("<4>stale: ")
            assert r"two\nlines \x1b[31mred\x1b[0m" in line
            assert (await service.wait_for_line("watching")).startswith("<6>")

            await gotify.wait_for_attempts(1)
            shown = b""
            for pid in service.processes():
                shown += b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
            assert b"courier.py" in shown
            assert token.encode() not in shown

            gotify.fail(500, {"error": token, "errorDescription": gotify.url})
            await service.wait_for_line("<4>could not tell gotify ")
            gotify.accept()
            [message] = await gotify.wait_for(1)
            await service.wait_for_line("<6>told gotify ")
            assert await service.end() == 0
        assert token not in service.log
        assert r"two\nlines" in message.title
        assert odd.mount_point not in message.title + message.message
        assert "\x1b" not in message.title + message.message
        assert "forged" not in [line[:6] for line in message.message.split("\n")]


async def test_variables_of_systemd_do_not_reach_children(site: Site) -> None:
    nas = site.mount("nas", mode=HANG)
    site.write_config(timeout="1m", alarm_after="2m")
    inherited = {"NOTIFY_SOCKET": str(site.path / "absent"), "WATCHDOG_USEC": "1000000"}
    async with site.service(env=inherited) as service:
        await asyncio.to_thread(nas.wait_parked)
        [child] = service.children()
        names = {entry.partition(b"=")[0] for entry in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")}
        assert not names & {name.encode() for name in inherited}
        assert os.readlink(f"/proc/{child}/cwd") == "/"
        assert await service.end() == 0
