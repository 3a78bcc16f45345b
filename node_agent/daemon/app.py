"""The routes of the HTTPS API: thin, each hands over to what does it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Body, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from node_agent.daemon import board, metrics
from node_agent.daemon.admission import Inadmissible, few
from node_agent.daemon.api import Board, Claim, Health, JobStatus, Received, Refused, Task
from node_agent.daemon.held import HeldJob, within
from node_agent.daemon.journal import ANSWER
from node_agent.daemon.network import NoAddress
from node_agent.daemon.refusal import Refusal, one_line
from node_agent.daemon.settings import AgentSettings
from node_agent.daemon.slot import Slot, no_room, statuses
from node_agent.daemon.uploads import Upload
from node_agent.device import facts

KEEP_ALIVE = 1.0
"""s of silence in an event stream"""

STALL = 30.0
"""s that an upload may bring nothing"""

FURTHEST = 2**53
"""largest offset or sequence number; larger ones are no exact numbers everywhere"""


class Certificates(Protocol):
    """What the routes need of the board's identity."""

    @property
    def ends_s(self) -> float | None:
        """End of the certificate, s since 1970; None: without TLS."""

    def request(self) -> bytes:
        """A certificate signing request for the board's key, PEM. Raises Refusal."""

    def renew(self, certificate: bytes) -> None:
        """Raises Refusal."""

    def revoke(self, revocations: bytes) -> None:
        """Raises Refusal."""


_ALWAYS = (401, 403, 405, 408, 413)
_WORDS = {
    400: "The request is no HTTP, or its body no JSON.",
    401: "Nobody is known to ask.",
    403: "Who asks may not.",
    404: "There is no such thing.",
    405: "The path knows another method.",
    408: "The body took too long.",
    409: "Something is in the way.",
    413: "The body is too large.",
    422: "The request says what is not allowed.",
    507: "The disk is full.",
}


def _refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    found = {
        *codes,
        *_ALWAYS,
        *((422,) if 404 in codes else ()),
    }  # FastAPI describes it for every path with a parameter
    return {code: {"model": Refused, "description": _WORDS[code]} for code in sorted(found)}


def _octets(kind: str, description: str) -> dict[str, Any]:
    schema = {"type": "string", **({"format": "binary"} if kind == "application/octet-stream" else {})}
    return {"description": description, "content": {kind: {"schema": schema}}}


def _sent(kind: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": {"type": "string"}}}}}


OCTETS, PEM, EVENTS = "application/octet-stream", "text/plain", "application/x-ndjson"


def make(settings: AgentSettings, slot: Slot, certificates: Certificates, began: float) -> FastAPI:
    """The application. `began` by the monotonic clock, s."""
    app = FastAPI(
        title="edgesim node agent",
        version=facts.version("edgesim") or "0",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _answer_errors(app)
    registry = metrics.registry(slot, began, lambda: certificates.ends_s)

    def health() -> Health:
        return Health(
            name=settings.name,
            state=slot.state,
            version=facts.version("edgesim") or "0",
            uptime_s=time.monotonic() - began,
            time_s=time.time(),
            monotonic_s=time.monotonic(),
            job=slot.current.status() if slot.current is not None else None,
            load=os.getloadavg()[0],
            certificate_ends_s=certificates.ends_s,
        )

    @app.get("/v1/health", responses=_refusals())
    async def get_health() -> Health:
        """Whether the board is well, and what it does."""
        return health()

    @app.get("/v1/board", responses=_refusals(409))
    async def get_board() -> Board:
        """What a controller has to know of the board before it uses it."""
        try:
            return await asyncio.to_thread(board.describe, settings)
        except NoAddress as error:
            raise Refusal(409, str(error)) from None

    _jobs(app, slot)
    _job(app, slot)
    _certificates(app, certificates, health)
    _metrics(app, registry)
    return app


def _jobs(app: FastAPI, slot: Slot) -> None:
    @app.post("/v1/jobs", status_code=201, responses=_refusals(400, 409, 422, 507))
    async def claim(request: Request, claim: Claim) -> JobStatus:
        """Reserve the board for a run."""
        return (await slot.claim(claim, _peer(request))).status()

    @app.get("/v1/jobs", responses=_refusals())
    async def get_jobs() -> list[JobStatus]:
        """The current job first, then those kept, the latest first."""
        return statuses(slot.jobs())


def _checking_first(slot: Slot) -> type[APIRoute]:
    """A route for a body of which there may be much: it is looked at only where who sends it may start the job, and
    validated only where that takes no longer than a moment."""

    class Checking(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            serve = super().get_route_handler()

            async def check(request: Request) -> Response:
                job = slot.owned(request.path_params["id"], _peer(request))
                slot.startable(job)
                try:
                    await asyncio.to_thread(few, await _body(request))
                except Inadmissible as error:
                    raise Refusal(422, str(error), job.status()) from None
                return await serve(request)

            return check

    return Checking


def _job(app: FastAPI, slot: Slot) -> None:
    started = APIRouter(route_class=_checking_first(slot))

    @app.get("/v1/jobs/{id}", responses=_refusals(404))
    async def get_job(id: str) -> JobStatus:
        """How a job stands."""
        return slot.find(id).status()

    @app.put(
        "/v1/jobs/{id}/files/{name}",
        responses=_refusals(404, 409, 422, 507),
        openapi_extra={"requestBody": {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def put_file(
        request: Request, id: str, name: str, offset: Annotated[int, Query(ge=0, le=FURTHEST)] = 0
    ) -> Received:
        """Send a file of the job, from `offset` on."""
        job = slot.owned(id, _peer(request))
        if name not in job.uploads:
            raise Refusal(404, f"file: found {name!r}, allowed one of the claim", job.status())
        if job.record.state not in ("staging", "ready"):
            raise Refusal(409, f"job: found {job.record.state}, allowed staging", job.status())
        await _receive(request, slot, job, job.uploads[name], offset)
        return job.uploads[name].status

    @started.post("/v1/jobs/{id}/start", status_code=202, responses=_refusals(400, 404, 409, 422, 507))
    async def start(request: Request, id: str, task: Annotated[Task, Body()]) -> JobStatus:
        """Begin; the job's files are there."""
        job = slot.owned(id, _peer(request))
        await slot.start(job, task)
        return job.status()

    app.include_router(started)

    @app.get(
        "/v1/jobs/{id}/events",
        response_class=StreamingResponse,
        responses={200: _octets(EVENTS, "A line per event, and one for the end."), **_refusals(404, 422)},
    )
    async def get_events(id: str, after: Annotated[int, Query(ge=0, le=FURTHEST)] = 0) -> StreamingResponse:
        """The job's events that follow number `after`, as they come, until it has ended."""
        return StreamingResponse(_events(slot, slot.find(id), after), media_type=EVENTS)

    @app.get(
        "/v1/jobs/{id}/log",
        response_class=Response,
        responses={200: _octets(OCTETS, f"At most {ANSWER} bytes."), **_refusals(404, 422)},
    )
    async def get_log(id: str, offset: Annotated[int, Query(ge=0, le=FURTHEST)] = 0) -> Response:
        """What the job printed, from `offset` on."""
        return Response(slot.find(id).output.read(offset), media_type=OCTETS)

    @app.get(
        "/v1/jobs/{id}/result",
        response_class=Response,
        responses={200: _octets(OCTETS, "The file that the job left as its result."), **_refusals(404, 413)},
    )
    async def get_result(id: str) -> Response:
        """What the job left as its result."""
        job = slot.find(id)
        return Response(await asyncio.to_thread(_result, job), media_type=OCTETS)

    @app.post("/v1/jobs/{id}/lease", responses=_refusals(404))
    async def renew(request: Request, id: str) -> JobStatus:
        """A sign of life."""
        return slot.owned(id, _peer(request)).status()

    @app.post("/v1/jobs/{id}/cancel", responses=_refusals(404))
    async def cancel(request: Request, id: str) -> JobStatus:
        """End the job."""
        job = slot.owned(id, _peer(request))
        await slot.cancel(job, _peer(request))
        return job.status()

    @app.delete("/v1/jobs/{id}", status_code=204, responses=_refusals(404, 409))
    async def forget(request: Request, id: str) -> None:
        """Remove a job that does not run, and its files."""
        await slot.forget(slot.owned(id, _peer(request)))


def _certificates(app: FastAPI, certificates: Certificates, health: Callable[[], Health]) -> None:
    @app.get(
        "/v1/certificate-request",
        response_class=Response,
        responses={200: _octets(PEM, "A certificate signing request."), **_refusals(409)},
    )
    async def get_request() -> Response:
        """Ask for a new certificate for the board's key."""
        return Response(certificates.request(), media_type=PEM)

    @app.put("/v1/certificate", responses=_refusals(409, 422), openapi_extra=_sent(PEM))
    async def put_certificate(request: Request) -> Health:
        """Replace the board's certificate."""
        certificates.renew(await _body(request))
        return health()

    @app.put("/v1/revocations", status_code=204, responses=_refusals(409, 422), openapi_extra=_sent(PEM))
    async def put_revocations(request: Request) -> None:
        """Replace the list of revoked certificates."""
        certificates.revoke(await _body(request))


def _metrics(app: FastAPI, registry: CollectorRegistry) -> None:
    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: _octets("text/plain", "Prometheus' text format."), **_refusals()},
    )
    async def get_metrics() -> Response:
        """What Prometheus is told."""
        return Response(metrics.page(registry), headers={"content-type": metrics.CONTENT_TYPE})


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return _refuse(refusal.code, refusal.error, refusal.status)

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> Response:
        text = one_line(f"{request.method} {request.scope['path']}: {error.detail}")
        headers = {"allow": _allowed(app, request)} if error.status_code == 405 else error.headers
        return _refuse(error.status_code, text, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        found = "" if first["type"] == "missing" else f"found {_short(first.get('input'))}, "
        return _refuse(422, one_line(f"{place}: {found}{first['msg']}"))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _refuse(500, "the agent failed; its log says how")


def _refuse(
    code: int, error: str, status: JobStatus | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    body = Refused(error=error, status=status).model_dump(mode="json")
    return JSONResponse(body, code, headers=dict(headers or {}))


def _allowed(app: FastAPI, request: Request) -> str:
    """The methods that the path knows: there is a route for each."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    found = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
    return ", ".join(sorted({method for route in found for method in route.methods or ()}))


def _short(value: Any) -> str:
    """Enough of a value to know it by."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return "a number of more than 63 bits"
    text = repr(value[:40] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 60 else text[:59] + "…"


def _peer(request: Request) -> str:
    name: str = request.scope["state"]["peer"].name
    return name


async def _body(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise _gone() from None


def _gone() -> Refusal:
    return Refusal(400, "the connection closed before the body was whole")


async def _receive(request: Request, slot: Slot, job: HeldJob, upload: Upload, offset: int) -> None:
    """Take what a request brings of a file."""
    length = request.headers.get("content-length", "")
    turn = _with_status(job, lambda: upload.begin(offset, int(length[:20]) if length.isdigit() else 0))
    try:
        await _take(request, slot, job, upload, turn)
    except Refusal:
        if upload.due:  # the last byte has come, and nobody may come back for more
            with suppress(Refusal):
                await slot.finish(job, upload)
        raise
    if upload.due:
        await slot.finish(job, upload)
        job.renew()
    await slot.arrived(job)


async def _take(request: Request, slot: Slot, job: HeldJob, upload: Upload, turn: int) -> None:
    chunks = request.stream()
    while (chunk := await _next(chunks, job)) is not None:
        if job.record.state not in ("staging", "ready"):
            raise Refusal(409, f"job: found {job.record.state}, allowed staging", job.status())
        job.renew()
        before = upload.received
        try:
            _with_status(job, lambda chunk=chunk: upload.add(turn, chunk))  # type: ignore[misc]
        except OSError as error:
            raise no_room(error, job.status()) from None
        finally:
            slot.uploaded_bytes += upload.received - before


def _with_status(job: HeldJob, do: Callable[[], int | None]) -> int:
    """What `do` refuses is told with how the job stands."""
    try:
        return do() or 0
    except Refusal as refusal:
        raise Refusal(refusal.code, refusal.error, job.status()) from None


async def _next(chunks: AsyncIterator[bytes], job: HeldJob) -> bytes | None:
    """The next chunk that is not empty; None at the end."""
    try:
        while True:
            coming: Awaitable[bytes] = anext(chunks)
            chunk = await asyncio.wait_for(coming, STALL)
            if chunk:
                return chunk
    except StopAsyncIteration:
        return None
    except ClientDisconnect:
        raise _gone() from None
    except asyncio.TimeoutError:
        raise Refusal(408, f"file: found nothing for {STALL:g} s, allowed a steady stream", job.status()) from None


async def _events(slot: Slot, job: HeldJob, after: int) -> AsyncIterator[bytes]:
    while not job.gone:
        over, news = job.ended.is_set(), job.news()
        lines = job.journal.read(after)
        if lines:
            numbered = enumerate(lines, after + 1)
            after += len(lines)
            yield b"".join(b'{"seq": %d, "event": %b}\n' % (seq, line.rstrip()) for seq, line in numbered)
        elif over:
            yield _end(job)
            return
        elif slot.stopping and job.record.state in ("staging", "ready"):
            return
        elif not await within(news, KEEP_ALIVE):
            yield b"\n"


def _end(job: HeldJob) -> bytes:
    record = job.record
    end = {"state": record.state, "error": record.error, "exit": record.exit}
    return json.dumps({"seq": job.journal.last + 1, "end": end}).encode() + b"\n"


def _result(job: HeldJob) -> bytes:
    try:
        with (job.folder.work / "result").open("rb") as file:
            content = file.read(ANSWER + 1)
    except OSError:
        raise Refusal(404, "result: found none, allowed where a job left one", job.status()) from None
    if len(content) > ANSWER:
        raise Refusal(413, f"result: found more than {ANSWER} bytes, allowed at most as many", job.status())
    return content
