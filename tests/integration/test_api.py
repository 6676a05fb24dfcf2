"""What the service answers over HTTP: mounts, incidents, history, channels, events, a probe on request."""

from __future__ import annotations

import errno
import json
from datetime import datetime
from typing import Any

import pytest

from tests.fakes.fuse import HANG, OK, fails
from tests.fakes.receivers import GotifyReceiver
from tests.integration.asking import events, request
from tests.integration.service import HOST, Service, Site
from watcher import __version__

pytestmark = pytest.mark.kernel


async def get(site: Site, path: str, status: int = 200) -> Any:
    reply = await request(site, "GET", path)
    assert reply.status == status, (path, reply.status, reply.body)
    return reply.json


async def listening(service: Service, site: Site) -> None:
    await service.wait_serving()
    await service.wait_until(site.socket.exists, "it listens")


async def test_what_there_is_and_what_happens(site: Site) -> None:
    nas, other = site.mount("nas"), site.mount("other", source="nas02:/x")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url, "dead": "json://127.0.0.1:9/secret-token"})
        async with site.service() as service:
            await listening(service, site)
            async with events(site) as stream, events(site, "/events") as second:
                hello = await stream.next()
                assert hello.kind == "hello"
                assert (hello.data["host"], hello.data["version"]) == (HOST, __version__)
                summary = await stream.next("summary")
                while summary.data["counts"] != {"ok": 2}:
                    summary = await stream.next("summary")

                # ---- all is well
                answer = await get(site, "/api/v1/mounts")
                assert (answer["host"], answer["version"]) == (HOST, __version__)
                assert answer["status"] == "watching 2 mounts: 2 ok"
                assert [m["target"] for m in answer["mounts"]] == [nas.mount_point, other.mount_point]
                entry = answer["mounts"][0]
                assert (entry["status"], entry["silenced"], entry["source"]) == ("ok", False, "nas:/export")
                assert len(entry["latencies"]) == entry["probes"] >= 1
                assert all(0 < seconds < 60 for seconds in entry["latencies"])
                assert await get(site, "/api/v1/incidents") | {"at": ""} == {"at": "", "incidents": []}
                assert (await get(site, "/api/v1/history"))["entries"] == []

                # ---- one dies, and is told
                nas.set(fails(errno.ESTALE))
                change = await stream.next("change")
                assert (change.data["kind"], change.data["change"], change.data["cause"]) == (
                    "stale", "began", "stale_handle",
                )  # fmt: skip
                assert (change.data["place"], change.data["places"]) == (nas.mount_point, [nas.mount_point])
                summary = await stream.next("summary")
                assert summary.data["counts"] == {"stale": 1, "ok": 1}
                await gotify.wait_for(1)
                answer = await get(site, "/api/v1/mounts")
                assert [(m["target"], m["status"]) for m in answer["mounts"]] == [
                    (nas.mount_point, "stale"), (other.mount_point, "ok"),
                ]  # fmt: skip
                assert answer["mounts"][0]["latencies"][-1] is None
                [one] = (await get(site, f"/api/v1/mounts?id={entry['id']}"))["mounts"]
                assert (one["id"], one["target"], one["status"]) == (entry["id"], nas.mount_point, "stale")
                assert one["advice"]
                assert isinstance(one["why"], list)
                [incident] = (await get(site, "/api/v1/incidents"))["incidents"]
                assert incident["title"] == gotify.received[0].title
                assert (incident["closed"], incident["silenced"]) == (None, False)
                [member] = incident["members"]
                assert (member["place"], member["id"], member["condition"]) == (nas.mount_point, entry["id"], "down")
                assert (member["kind"], member["cause"]) == ("stale", "stale_handle")
                assert any(line.startswith("Stale file handle") for line in incident["cause"])
                assert set(incident["cause"] + incident["advice"]) <= set(gotify.received[0].message.split("\n"))

                # ---- who knows of it
                def failing(channels: list[dict[str, Any]]) -> bool:
                    return bool(channels[1]["state"] == "failing")

                channels = (await get(site, "/api/v1/channels"))["channels"]
                while not failing(channels):
                    await stream.next("summary")
                    channels = (await get(site, "/api/v1/channels"))["channels"]
                told, dead = channels
                assert (told["name"], told["state"], told["waiting"], told["last_error"]) == ("gotify", "ok", 0, None)
                assert told["last_told"] is not None
                assert (dead["name"], dead["waiting"]) == ("dead", 1)
                assert dead["next_attempt"] > dead["failing_since"]
                assert dead["last_error"]
                assert "secret" not in json.dumps(channels)

                # ---- and is back, seen by both who listen
                nas.set(OK)
                back = await stream.next("change")
                assert (back.data["change"], back.number) == ("ended", (change.number or 0) + 1)
                assert [(await second.next("change")).number for _ in range(2)] == [change.number, back.number]
                entries = (await get(site, "/api/v1/history?since=1h&limit=10"))["entries"]
                assert [e["change"] for e in entries] == ["ended", "began"]
                assert entries[1] == {k: v for k, v in change.data.items() if k != "cause"}
                assert len((await get(site, "/api/v1/history?limit=1"))["entries"]) == 1
                later = datetime.fromisoformat(entries[0]["at"]).timestamp() + 60
                since = datetime.fromtimestamp(later).astimezone().isoformat(timespec="seconds")
                assert (await get(site, f"/api/v1/history?since={since}"))["entries"] == []
                [incident] = (await get(site, "/api/v1/incidents"))["incidents"]
                assert incident["closed"] is not None
                assert incident["title"].startswith(f"🟢 {HOST}: {nas.mount_point} ok after")
            assert (await request(site, "GET", "/healthz")).body == b"ok\n"
            assert (await request(site, "GET", "/readyz")).body == b"ready\n"
            assert await service.end() == 0
        # What an earlier service has written is there for the next.
        async with site.service() as service:
            await listening(service, site)
            answer = await get(site, "/api/v1/history")
            assert answer["entries"] == entries
            assert answer["complete"] is True
            assert await service.end() == 0


async def test_a_probe_on_request(site: Site) -> None:
    nas = site.mount("nas")
    site.write_config(interval="1h", stale_interval="1h")
    async with site.service() as service:
        await listening(service, site)
        async with events(site) as stream:
            while (await stream.next("summary")).data["counts"] != {"ok": 1}:
                pass
            [before] = (await get(site, "/api/v1/mounts"))["mounts"]
            assert before["probes"] == 1  # the next would come in an hour
            for asked in (nas.mount_point, before["id"], f"host:{nas.mount_point}"):
                reply = await request(site, "POST", f"/api/v1/probe?mount={asked}")
                assert (reply.status, reply.json["mount"]["id"]) == (202, before["id"])
                [after] = (await get(site, "/api/v1/mounts"))["mounts"]
                while after["probes"] == before["probes"]:
                    [after] = (await get(site, "/api/v1/mounts"))["mounts"]
                before = after
            nas.set(HANG)
            assert (await request(site, "POST", f"/api/v1/probe?mount={nas.mount_point}")).status == 202
            await stream.next("change")
            reply = await request(site, "POST", f"/api/v1/probe?mount={nas.mount_point}")
            assert (reply.status, reply.json["detail"]) == (
                409, "an earlier probe still hangs in it; it is asked again once that has ended",
            )  # fmt: skip
            reply = await request(site, "POST", "/api/v1/probe?mount=/nowhere")
            assert (reply.status, reply.json["detail"]) == (404, "no such mount is watched")
        nas.set(OK)
        assert await service.end() == 0
