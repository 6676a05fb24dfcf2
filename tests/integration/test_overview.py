"""`watcher status`, `history`, `probe`, `channels` and completion, with the real service and without."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.fuse import HANG, OK, fails
from tests.fakes.terminal import Terminal
from tests.integration.asking import request
from tests.integration.service import LIMIT, POLL, Service, Site

pytestmark = pytest.mark.kernel


async def listening(service: Service, site: Site) -> None:
    await service.wait_serving()
    await service.wait_until(site.socket.exists, "it listens")


async def settled(site: Site, counts: dict[str, int]) -> None:
    """Until the service sees so many mounts of each status."""
    async with asyncio.timeout(LIMIT):
        while Counter(m["status"] for m in (await get(site, "mounts"))["mounts"]) != counts:
            await asyncio.sleep(POLL)


async def get(site: Site, what: str) -> Any:
    """Without a process: where it is asked until it says what is waited for."""
    return (await request(site, "GET", f"/api/v1/{what}")).json


@asynccontextmanager
async def running(site: Site, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command that goes on."""
    command = [sys.executable, "-W", "error", "-m", "watcher", "--config", str(site.config), *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, cwd="/", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line_with(process: asyncio.subprocess.Process, pattern: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT):
        while line := (await process.stdout.readline()).decode():
            if re.search(pattern, line):
                return line
    raise AssertionError(f"no line with {pattern!r}")


async def shell(site: Site, line: str) -> tuple[int | None, str, str]:
    """A line of shell in which `watcher` is this one."""
    environment = {**os.environ, "WATCHER_CONFIG": str(site.config), "python": sys.executable}
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'watcher() {{ "$python" -W error -m watcher "$@"; }}\n{line}'),
        cwd="/",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    "command",
    [["status"], ["status", "--watch"], ["status", "--json"], ["history"], ["probe", "/mnt/x"], ["channels"]],
    ids=" ".join,
)
async def test_without_a_service(site: Site, command: list[str]) -> None:
    site.write_config()
    outcome = await site.run(*command)
    assert outcome == (3, "", f"watcher: no service is running: nobody listens on {site.socket}\n")


async def test_status_probe_history_and_channels(site: Site) -> None:
    nas, other = site.mount("nas"), site.mount("other", source="a\x1b[31mb:/x")
    site.write_config({"dead": "json://127.0.0.1:9/secret-token"})
    async with site.service() as service:
        await listening(service, site)
        await settled(site, {"ok": 2})
        outcome = await site.run("status")
        assert outcome.code == 0
        lines = outcome.out.splitlines()
        assert re.split(" {2,}", lines[0].strip()) == [
            "STATUS", "WHERE", "SOURCE", "TYPE", "SIZE", "USED", "LATENCY", "CAUSE",
        ]  # fmt: skip
        assert re.match(rf"ok +{nas.mount_point} +nas:/export +fuse.test .* ms", lines[1])
        assert re.match(rf"ok +{other.mount_point} +a\\x1b\[31mb:/x +fuse.test", lines[2])
        assert lines[-1] == "watching 2 mounts: 2 ok"
        assert await site.run("history") == (0, "nothing has changed within 24h\n", "")
        assert (await site.run("channels")).code == 0

        # ---- a probe on request
        outcome = await site.run("probe", f"{nas.mount_point}/")
        assert (outcome.code, outcome.err) == (0, "")
        assert re.fullmatch(rf"ok: {nas.mount_point} \(nas:/export\); answered in [0-9.]+ ms\n", outcome.out)
        assert (await site.run("probe", nas.mount_point.removeprefix("/"))).out.startswith(f"ok: {nas.mount_point}")
        outcome = await site.run("probe", "/nowhere")
        assert outcome == (3, "", "watcher: /nowhere is not watched; `watcher status` lists what is\n")
        async with running(site, "status", "--watch") as watching, running(site, "status", "--watch", "--json") as raw:
            await line_with(watching, "^watching 2 mounts: 2 ok")
            assert json.loads(await line_with(raw, "hello"))["event"] == "hello"
            nas.set(fails(errno.ESTALE))
            line = await line_with(watching, "stale")
            assert re.fullmatch(
                rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  {nas.mount_point} \(nas:/export\)  stale: Stale file handle.*\n",
                line,
            )
            change = json.loads(await line_with(raw, "change"))
            assert (change["event"], change["place"], change["change"]) == ("change", nas.mount_point, "began")
            outcome = await site.run("status")
            assert outcome.code == 2
            assert re.match(
                rf"STALE +{nas.mount_point} +nas:/export .* STALE HANDLE; Stale file", outcome.out.splitlines()[1]
            )
            assert (await site.run("silence", nas.mount_point, "--for", "1h")).code == 0
            assert "STALE (silenced)" in (await site.run("status")).out
            outcome = await site.run("probe", nas.mount_point)
            assert outcome.code == 2
            assert outcome.out.startswith(f"STALE (silenced): {nas.mount_point} (nas:/export); STALE HANDLE")
            assert f"umount -l {nas.mount_point}" in outcome.out
            nas.set(HANG)
            await service.wait_until(lambda: bool(list((site.path / "state/run").glob("wedged/*"))), "one hangs")
            async with asyncio.timeout(LIMIT):
                while "cannot be probed now: an earlier probe still hangs in it" not in outcome.out:
                    outcome = await site.run("probe", nas.mount_point)
                    assert outcome.code == 2
            watching.send_signal(signal.SIGINT)
            assert await watching.wait() == 0
            command = [sys.executable, "-m", "watcher", "--config", str(site.config), "status", "--watch"]
            async with Terminal(command, {"TERM": "dumb"}) as terminal:  # which cannot be drawn anew, as in Emacs
                await terminal.wait("watching 2 mounts: 1 stale, 1 ok")
                terminal.press("\x03")
                assert await terminal.end() == 0

            # ---- nobody reads on, or the disk is full: the exit code is the same, and nothing waits for a change
            commands = ("status --json", "status --watch", "history")
            unread = ";".join(f"{{ watcher {command}; echo $? >&2; }} | :" for command in commands)
            assert await shell(site, unread) == (0, "", "2\n0\n0\n")
            full = "cannot write the result: No space left on device\n"
            assert await shell(site, "watcher status >/dev/full") == (2, "", f"watcher: {full}")
            assert await shell(site, "watcher history >/dev/full") == (3, "", f"watcher: {full}")

            # ---- what has happened, and who could not be told
            outcome = await site.run("history", "--since", "1h")
            assert outcome.code == 0
            assert re.search(rf"  {nas.mount_point} \(nas:/export\)  stale: Stale file handle", outcome.out)
            assert json.loads((await site.run("history", "--json")).out)["complete"] is True
            assert (await site.run("history", "--since", "yesterday")).code == 3
            assert (await site.run("history", "--limit", "0")).code == 3
            async with asyncio.timeout(LIMIT):
                while (await get(site, "channels"))["channels"][0]["state"] != "failing":
                    await asyncio.sleep(POLL)
            outcome = await site.run("channels")
            assert outcome.code == 1
            assert re.search(r"^dead +FAILING +\d +- +since .*; tried again in ", outcome.out, re.MULTILINE)
            assert "secret" not in outcome.out
            nas.set(OK)
            assert await service.end() == 0
            assert await raw.wait() == 3
            assert raw.stderr is not None
            assert await raw.stderr.read() == b"watcher: the service has ended\n"


# ---- completion


def complete(site: Site, shell: str, line: str) -> tuple[int, str, str]:
    """What a shell is given for the last word of this line."""
    words = line.split(" ")
    env = {**os.environ, "_WATCHER_COMPLETE": f"{shell}_complete", "WATCHER_CONFIG": str(site.config)}
    if shell == "fish":
        env |= {"COMP_WORDS": line, "COMP_CWORD": words[-1]}
    else:
        env |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "watcher"],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout, done.stderr


async def test_completion(site: Site, tmp_path: Path) -> None:
    nas, films, colon = site.mount("nas"), site.mount("films"), site.mount("ct:101").mount_point
    site.mount("in two words")
    site.write_config()
    assert complete(site, "bash", "watcher probe /")[1:] == ("\n", "")
    async with site.service() as service:
        await listening(service, site)
        await service.wait_for_line("watching .*/nas")
        for shell, form, commands in (
            ("bash", "plain,{}\n", ("probe", "silence", "explain")),
            ("zsh", "plain\n{}\n_\n", ("probe",)),
            ("fish", "plain,{}\n", ("probe",)),
        ):
            for command in commands:
                wanted = "".join(map(form.format, (colon, films.mount_point, nas.mount_point)))
                async with asyncio.timeout(3 * LIMIT):  # on a busy machine a second is not much
                    while (said := complete(site, shell, f"watcher {command} {site.path}"))[1:] == ("\n", ""):
                        await asyncio.sleep(0)
                assert said[1:] == (wanted, "")
        assert complete(site, "bash", f"watcher probe {nas.mount_point}x")[1:] == ("\n", "")
        # The whole of it, in a real bash, by the other name, and where bash takes words apart.
        program = tmp_path / "mountwatch"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m watcher "$@"\n')
        program.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WATCHER_CONFIG": str(site.config), "PS1": "ready> "}
        async with Terminal(["bash", "--norc", "-i"], environment) as bash:
            await bash.wait("ready> ")
            bash.press('eval "$(_WATCHER_COMPLETE=bash_source mountwatch)"; echo loaded\n')
            await bash.wait("\nloaded")
            for typed, completed in ((f"probe {colon[:-3]}", f"probe {colon} "), ("unsil", "unsilence ")):
                bash.press(f"mountwatch {typed}")
                seen = False
                async with asyncio.timeout(3 * LIMIT):  # on a busy machine a second is not much
                    while not seen:
                        bash.press("\t")
                        with suppress(AssertionError):
                            seen = bool(await bash.wait(f"mountwatch {completed}", limit=5.0))
                bash.press("\x01#\n")  # a comment
        # One that does not answer is not waited for.
        service.send(signal.SIGSTOP)
        assert complete(site, "bash", f"watcher probe {site.path}")[1:] == ("\n", "")
        service.send(signal.SIGCONT)
        assert await service.end() == 0
