"""The children that hold Apprise (`courier.py`), seen from the service: a message in, how it went out.

Failures are data here; when to try again is `sender`'s matter.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from watcher.children import Child, Children, script_with_packages

if TYPE_CHECKING:
    from watcher.core.messages import Message

SEND_LIMIT = 60.0  # seconds for one message; SMTP and slow webhooks answer within 30
_COURIER = str(Path(__file__).with_name("courier.py"))


class Delivery(NamedTuple):
    """How an attempt ended."""

    ok: bool
    error: str = ""
    retry_after: float | None = None


class Courier:
    """The child that holds Apprise, for as long as one channel has something to tell."""

    def __init__(self, children: Children, env: Mapping[str, str]) -> None:
        self._children = children
        self._env = env
        self._child: Child | None = None
        self._rest = b""

    async def send(self, url: str, message: Message) -> Delivery:
        """Deliver one message. Failures are data: never raises but for cancellation."""
        answer = await self._ask(
            {"op": "send", "url": url, "title": message.title, "body": message.body, "type": message.type}
        )
        after = answer.get("retry_after")
        return Delivery(
            bool(answer.get("ok")),
            str(answer.get("error", "")),
            float(after) if isinstance(after, int | float) else None,
        )

    async def check(self, url: str) -> tuple[str, str]:
        """(service, error): whether Apprise takes a URL; nothing is sent."""
        answer = await self._ask({"op": "check", "url": url})
        if answer.get("ok"):
            return str(answer.get("service") or "Apprise"), ""
        return "", str(answer.get("error") or "Apprise does not take it")

    async def _ask(self, request: dict[str, str]) -> dict[str, Any]:
        try:
            if self._child is None or self._child.exited:
                self._child = await self._children.spawn(script_with_packages(_COURIER), self._env)
                self._rest = b""
            self._child.write(json.dumps(request).encode() + b"\n")
            async with asyncio.timeout(SEND_LIMIT):
                line = await self._line(self._child)
            answer = json.loads(line)
        except TimeoutError:
            self.close()
            return {"ok": False, "error": f"no answer within {SEND_LIMIT:g} s"}
        except (OSError, ValueError) as e:
            self.close()
            return {"ok": False, "error": f"cannot run Apprise: {e}"}
        if not isinstance(answer, dict):
            return {"ok": False, "error": "cannot run Apprise: it answers nonsense"}
        return answer

    async def _line(self, child: Child) -> bytes:
        while b"\n" not in self._rest:
            chunk = await child.read()
            if not chunk:
                raise ChildProcessError("its process ended")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def close(self) -> None:
        """Kill it: after its last answer it has nothing left to do, and before it is hung."""
        if self._child is not None:
            self._child.kill()
            self._child = None
