"""How a board that belongs to no fleet yet becomes a member: the board's side.

    POST /v1/enrolment  {secret}                            -> {csr}
    PUT  /v1/enrolment  {secret, certificate, ca, revoked}  -> 204

Nothing else is offered until then, over TLS with a bootstrap certificate that the token pins. Who has no good token
learns nothing: every refusal looks the same.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Iterable
from typing import TypeVar

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from node_agent.security.accepting import Accepting
from node_agent.security.errors import IdentityError
from node_agent.security.identity import Identity
from node_agent.security.tokens import TokenRefused, Tokens

PATH = "/v1/enrolment"

MOST_OCTETS = 64 * 1024
"""of a body: two certificates take little of it, a revocation list 53 bytes an entry"""

REFUSED_AFTER = 0.1
"""s that who comes with a wrong token waits for his answer: he shall not fill the log"""

LARGEST_HEAD = 8192
"""bytes of a request's head"""

LONGEST_CONNECTION = 30.0
"""s, from the handshake to the last answer"""

LONGEST_HANDSHAKE = 5.0
"""s"""

LONGEST_CLOSING = 2.0
"""s in which the last answers are read"""

MOST_CONNECTIONS = 16
"""at a time, once their handshake is done"""

log = logging.getLogger(__name__)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    secret: str = Field(max_length=256)


class _Membership(_Body):
    certificate: str = Field(max_length=16 * 1024)
    ca: str = Field(max_length=16 * 1024)
    revoked: str = Field(max_length=MOST_OCTETS)


_B = TypeVar("_B", bound=_Body)


class _Connection(H11Protocol):
    """Of limited duration, whatever the other end does; where there are too many, the oldest goes."""

    def __init__(self, config: uvicorn.Config, state: ServerState, open_ones: dict[_Connection, None]) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._open_ones = open_ones
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end = self.loop.call_later(LONGEST_CONNECTION, transport.abort)
        self._open_ones[self] = None
        if len(self._open_ones) > MOST_CONNECTIONS:
            next(iter(self._open_ones)).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_ones.pop(self, None)
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)


class _Refusal(Exception):
    def __init__(self, code: int, error: str) -> None:
        super().__init__(error)
        self.code = code
        self.error = error


class Enrolment:
    """The application; `done` is set when the board has become a member of a fleet.

    Args:
        name: of this board.
    """

    def __init__(self, identity: Identity, tokens: Tokens, name: str) -> None:
        self._identity = identity
        self._tokens = tokens
        self._name = name
        self.done = asyncio.Event()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(PATH, self._ask, methods=["POST"]),
                Route(PATH, self._join, methods=["PUT"]),
                Route("/{path:path}", self._nothing, methods=["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
            ],
            exception_handlers={_Refusal: _refused},
        )

    async def _ask(self, request: Request) -> Response:
        await self._authorise(request, (await _body(request, _Body)).secret)
        try:
            csr = self._identity.request(self._name)
        except IdentityError as error:
            log.error("enrolment: %s", error)
            raise _Refusal(500, str(error)) from error
        return JSONResponse({"csr": csr.decode()})

    async def _join(self, request: Request) -> Response:
        body = await _body(request, _Membership)
        await self._authorise(request, body.secret)
        try:
            self._identity.accept(body.certificate.encode(), body.ca.encode(), body.revoked.encode())
        except IdentityError as error:
            log.warning("enrolment by %s failed: %s", _who(request), error)
            raise _Refusal(422, str(error)) from error
        log.info("enrolled as %s by %s", self._identity.name, _who(request))
        self.done.set()
        try:
            self._tokens.use_up()
        except IdentityError as error:  # the board is a member all the same, and members take no tokens
            log.error("enrolment: %s", error)
        return Response(status_code=204)

    async def _nothing(self, request: Request) -> Response:
        raise _Refusal(403, "refused")

    async def _authorise(self, request: Request, secret: str) -> None:
        try:
            self._tokens.check(secret)
        except TokenRefused as refused:
            log.warning("enrolment by %s refused: %s", _who(request), refused.reason or "a wrong token, or none is out")
            await asyncio.sleep(REFUSED_AFTER)
            raise _Refusal(403, str(refused)) from refused
        except IdentityError as error:
            log.error("enrolment: %s", error)
            raise _Refusal(403, "refused") from error


async def serve_enrolment(identity: Identity, name: str, listening: socket.socket, stop: asyncio.Event) -> bool:
    """Offer enrolment, and nothing else, until the board has become a member.

    Args:
        identity: not enrolled yet.
        name: of this board, for its request; what its certificate says is the workstation's affair.
        listening: bound; it stays open, so that the daemon goes on with it.
        stop: ends it before, when set.

    Returns:
        whether the board is enrolled now.

    Raises:
        IdentityError: the bootstrap certificate cannot be made or read.
    """
    tokens = Tokens(identity.folder)
    enrolment = Enrolment(identity, tokens, name)
    config = uvicorn.Config(
        enrolment.app(),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        h11_max_incomplete_event_size=LARGEST_HEAD,
    )
    config.load()
    state = ServerState()
    open_ones: dict[_Connection, None] = {}
    context = _bootstrap_context(tokens)
    accepting = Accepting(listening, lambda: _Connection(config, state, open_ones), context, LONGEST_HANDSHAKE)
    waiting = [asyncio.ensure_future(event.wait()) for event in (enrolment.done, stop)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in waiting:
            future.cancel()
        accepting.close()
        await _close(open_ones)
    if identity.enrolled:
        tokens.forget_bootstrap()
    return identity.enrolled


async def _close(open_ones: Iterable[_Connection]) -> None:
    """Let answers that have begun be read, but not for ever."""
    for connection in tuple(open_ones):
        connection.shutdown()
    ends = time.monotonic() + LONGEST_CLOSING
    while open_ones and time.monotonic() < ends:
        await asyncio.sleep(0.01)
    for connection in tuple(open_ones):
        connection.transport.abort()


def _bootstrap_context(tokens: Tokens) -> ssl.SSLContext:
    tokens.make_bootstrap()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    try:
        context.load_cert_chain(tokens.bootstrap)
    except (ssl.SSLError, OSError) as error:
        raise IdentityError(f"{tokens.bootstrap}: cannot be used for TLS: {error}") from error
    return context


async def _body(request: Request, kind: type[_B]) -> _B:
    """Read no more than is allowed; what is wrong with it is not said to who may be anybody."""
    content = b""
    try:
        async for part in request.stream():
            content += part
            if len(content) > MOST_OCTETS:
                raise _Refusal(413, "refused")
        return kind.model_validate_json(content)
    except (ValidationError, ClientDisconnect) as error:
        raise _Refusal(403, "refused") from error


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refusal)
    # The rest of a body that is not read must not be taken for the next request.
    return JSONResponse({"error": error.error, "status": None}, error.code, {"connection": "close"})


def _who(request: Request) -> str:
    return request.client.host if request.client else "somebody"
