"""The README's examples of the API, run as they stand."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service import LIMIT, Site

pytestmark = pytest.mark.kernel

README = Path(__file__).parents[2] / "README.md"
SOCKET = "/run/mountwatch/watcher.sock"


def examples() -> list[str]:
    return re.findall(rf"^curl --unix-socket {SOCKET} .+$", README.read_text(), re.MULTILINE)


def path_of(example: str) -> str:
    return example.rstrip("'").partition("http://localhost")[2].partition("?")[0]


def routes() -> set[str]:
    """Those that the table names."""
    rows = re.findall(r"^\| `(?:GET|POST|DELETE) .* \|$", README.read_text(), re.MULTILINE)
    return {route for row in rows for route in re.findall(r"`[A-Z ]*(/[a-z0-9/]+)", row.split(" | ")[0])}


async def test_the_examples_of_the_readme(site: Site) -> None:
    nas = site.mount("nas")
    site.write_config()
    said: dict[str, Any] = {}
    async with site.service() as service:
        await service.wait_for_line(f"watching {nas.mount_point}")
        await service.wait_serving()
        await service.wait_until(site.socket.exists, "it listens")
        for example in examples():
            command = example.replace(SOCKET, str(site.socket)).replace("/mnt/nas", nas.mount_point)
            if command.endswith("/ID"):
                command = command.removesuffix("ID") + said["silences"]["silences"][0]["id"]
            ends = "events" not in command
            process = await asyncio.create_subprocess_shell(
                command.replace("curl ", "exec curl --silent --show-error --fail-with-body ", 1),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            async with asyncio.timeout(LIMIT):
                if ends:
                    out, err = await process.communicate()
                    assert (process.returncode, err) == (0, b""), (command, out)
                else:
                    out = await process.stdout.readuntil(b"\n\n")
                    assert out.startswith(b"event: hello\ndata: {")
                    process.terminate()
                    await process.communicate()
            name = path_of(example).rpartition("/")[2]
            said[name] = json.loads(out) if out.startswith(b"{") else out.decode()
        # Each route of the table is among them, under one of its names.
        assert routes() - set(map(path_of, examples())) == {"/events", "/api/v1/silences/"}
        assert said["mounts"]["mounts"][0]["target"] == nas.mount_point
        assert said["probe"]["mount"]["target"] == nas.mount_point
        assert said["silences"]["silences"][0]["mounts"] == [nas.mount_point]
        assert said["ID"] == ""
        assert (said["health"]["healthy"], said["healthz"], said["readyz"]) == (True, "ok\n", "ready\n")
        assert {"incidents", "history", "channels"} <= said.keys()
        assert json.loads((await site.run("silences", "--json")).out)["silences"] == []
        assert await service.end() == 0
