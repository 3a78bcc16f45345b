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

LARGEST_BODY = 4 * 2**20
"""bytes of a body that is no file"""

BODY_WITHIN = 30.0
"""s until such a body has arrived"""

FILES = re.compile(r"/v1/jobs/[^/]+/files/[^/]+")
"""paths whose bodies are files; their route bounds them by what was announced"""

_TOO_LARGE = f"body: found more than {LARGEST_BODY} bytes, allowed at most as many"

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
        answer = _Answer(send)
        try:
            refused = self._refuse(scope["state"].get("peer"))
            if refused is not None:
                raise refused
            if not (FILES.fullmatch(scope["path"]) and scope["method"] == "PUT"):
                receive = _bounded(scope, receive)
            await self._app(scope, receive, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Exception as error:  # a fault of ours: the daemon goes on, and its log says where it was
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            log.error(one_line(f"{scope['method']} {scope['path']}: {type(error).__name__} at {where}: {error}"))
            await answer.refuse(Refusal(500, "the agent failed; its log says how"))


class _Answer:
    """Passes an answer on, and knows whether one has begun."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._begun = False

    async def __call__(self, message: Message) -> None:
        self._begun = True
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        if self._begun:
            return
        body = Refused(error=refusal.error, status=refusal.status).model_dump_json().encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self({"type": "http.response.start", "status": refusal.code, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _bounded(scope: Message, receive: Any) -> Any:
    """Raises Refusal for a body that is too large by its own word, and HTTPException, as the application passes it on,
    while it is read: for one that is too large or too slow."""
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if announced.isdigit() and int(announced[:20]) > LARGEST_BODY:
        raise Refusal(413, _TOO_LARGE)
    arrived = 0
    complete = False
    deadline = asyncio.get_running_loop().time() + BODY_WITHIN

    async def counted() -> Message:
        nonlocal arrived, complete
        if complete:  # what is waited for now is that the connection closes
            return dict(await receive())
        try:
            left = deadline - asyncio.get_running_loop().time()
            message: Message = await asyncio.wait_for(receive(), max(0.0, left))
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the body took longer than {BODY_WITHIN:g} s") from None
        arrived += len(message.get("body", b""))
        if arrived > LARGEST_BODY:
            raise HTTPException(413, _TOO_LARGE)
        complete = not message.get("more_body", False)
        return message

    return counted
