"""What every request has to pass before it is served: who asks, how much it brings, how long it takes."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from node_agent.daemon.api import Refused
from node_agent.daemon.refusal import Refusal, one_line
from node_agent.security.contexts import Peer

LARGEST_BODY = 64 * 1024
"""bytes of a body"""

LARGER_BODY = 4 * 2**20
"""bytes of a body where there is much to say"""
LARGER = re.compile(r"/v1/jobs/[^/]+/start|/v1/revocations")
"""paths of those"""

BODY_WITHIN = 30.0
"""s until such a body has arrived"""

LITTLE = 64 * 1024
"""bytes of a body that are read although they are not wanted, and"""
REST_WITHIN = 1.0
"""s that are waited for them"""

FILES = re.compile(r"/v1/jobs/[^/]+/files/[^/]+")
"""paths whose bodies are files; their route bounds them by what was announced"""

Message = dict[str, Any]
App = Callable[[Message, Any, Any], Any]

log = logging.getLogger("node_agent.daemon")


class Gate:
    """ASGI middleware around the application. Whatever goes wrong inside is answered with `Refused`."""

    def __init__(self, app: App, refuse: Callable[[Peer | None], Refusal | None]) -> None:
        """`refuse` tells why a peer may not ask for anything, if so."""
        self._app = app
        self._refuse = refuse

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive)
        answer = _Answer(send, body)
        try:
            refused = self._refuse(scope["state"].get("peer"))
            if refused is not None:
                raise refused
            if not (FILES.fullmatch(scope["path"]) and scope["method"] == "PUT"):
                body.bound(LARGER_BODY if LARGER.fullmatch(scope["path"]) else LARGEST_BODY)
            await self._app(scope, body, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Exception as error:  # a fault of ours: the daemon goes on, and its log says where it was
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            log.error(one_line(f"{scope['method']} {scope['path']}: {type(error).__name__} at {where}: {error}"))
            await answer.refuse(Refusal(500, "the agent failed; its log says how"))


class _Body:
    """What a request brings, as the application receives it."""

    def __init__(self, scope: Message, receive: Any) -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self._announced = int(length[:20]) if length.isdigit() else 0
        self._receive = receive
        self._arrived = 0
        self._deadline: float | None = None
        self._largest = 0
        self.complete = self._announced == 0 and b"transfer-encoding" not in headers

    def bound(self, largest: int) -> None:
        """From now on it may neither be large nor slow. Raises Refusal for one that is too large by its own word."""
        self._largest = largest
        if self._announced > largest:
            raise Refusal(413, self._too_large)
        self._deadline = _now() + BODY_WITHIN

    async def __call__(self) -> Message:
        """Raises HTTPException, which the application passes on, for one that is too large or too slow."""
        if self._deadline is None or self.complete:  # what is waited for then is that the connection closes
            return await self._next()
        try:
            message = await asyncio.wait_for(self._next(), max(0.0, self._deadline - _now()))
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the body took longer than {BODY_WITHIN:g} s") from None
        if self._arrived > self._largest:
            raise HTTPException(413, self._too_large)
        return message

    @property
    def _too_large(self) -> str:
        return f"body: found more than {self._largest} bytes, allowed at most as many"

    async def _next(self) -> Message:
        message: Message = await self._receive()
        self._arrived += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        return message

    async def rest(self) -> bool:
        """Read what is left of it, if that is little; whether all has been read now."""
        most, until = self._arrived + LITTLE, _now() + REST_WITHIN
        try:
            while not self.complete and max(self._arrived, self._announced) <= most:
                await asyncio.wait_for(self._next(), until - _now())
        except asyncio.TimeoutError:
            return False
        return self.complete


class _Answer:
    """Passes an answer on, and knows whether one has begun."""

    def __init__(self, send: Any, body: _Body) -> None:
        self._send = send
        self._body = body
        self._begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            if not await self._body.rest():  # the next request would have to be looked for behind it
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        if self._begun:
            return
        body = Refused(error=refusal.error, status=refusal.status).model_dump_json().encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self({"type": "http.response.start", "status": refusal.code, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _now() -> float:
    return asyncio.get_running_loop().time()
