"""One board's agent, asked over HTTPS. What a board says is a stranger's word: sized, timed and validated here."""

from __future__ import annotations

import json
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from edgesim.fleet.address import Address
from edgesim.fleet.tls_errors import causes, tls_reason
from node_agent.daemon.api import VERSION, Board, Claim, Health, JobStatus, Received, Refused, Task

CONNECT = 5.0
"""s for a connection, its TLS handshake included"""
ANSWER = 10.0
"""s in which an answer has come as a whole"""
SILENCE, QUIET = 5.0, 2.5
"""s after which a stream of events that keeps itself alive every second is given up, at most and at least"""

LARGEST_BODY = 2**20
LARGEST_EVENT = 64 * 2**20
LARGEST_LOG = 64 * 2**20
"""bytes"""
LONGEST_SAID = 300
"""characters of what a board says that a message repeats"""

CHUNK = 256 * 1024

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")


class BoardError(RuntimeError):
    """A board that did not do what it was asked. One line, for people."""

    def __init__(self, board: str, message: str) -> None:
        super().__init__(f"{board}: {message}")
        self.board = board
        self.message = message


class Unreachable(BoardError):
    """No answer, or half of one: it may come when asked again."""


class Mistrusted(BoardError):
    """TLS came to no understanding."""


class Rejected(BoardError):
    """The board said no."""

    def __init__(self, board: str, message: str, code: int, status: JobStatus | None = None) -> None:
        super().__init__(board, message)
        self.code = code
        self.status = status


class End(BaseModel):
    """How a job ended, the last line of its events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["finished", "failed"]
    error: str | None = None
    exit: int | None = None


@dataclass(frozen=True)
class Line:
    """Of a job's events: an event as `node_agent.wire` writes it, or the end."""

    seq: int
    event: bytes | None = None
    end: End | None = None


def printable(text: str, longest: int = LONGEST_SAID) -> str:
    """On one line, without what would steer a terminal."""
    line = _plain(text).strip()
    return line if len(line) <= longest else f"{line[:longest]}…"


def printable_lines(text: str) -> str:
    """The same of each line."""
    return "\n".join(_plain(line.expandtabs(4)) for line in text.splitlines())


def _plain(line: str) -> str:
    return "".join(character if character.isprintable() else " " for character in line)


@dataclass
class _Connections:
    http: httpx.Client
    users: int = 0
    left: bool = False


class BoardClient:
    """Raises Unreachable, Rejected and, for an answer that is none, BoardError. May be used by several threads."""

    def __init__(
        self, name: str, address: Address, context: ssl.SSLContext | None, ends: datetime | None = None
    ) -> None:
        """
        Args:
            context: of TLS; None: plain HTTP.
            ends: of the board's certificate, where that is known.
        """
        self.name = name
        self.address = address
        self._ends = ends
        self.answer_within = ANSWER
        self.connect_within = CONNECT
        self.silence = SILENCE
        self._context = context
        self._lock = threading.Lock()
        self._connections = self._none_yet()

    def _none_yet(self) -> _Connections:
        scheme = "http" if self._context is None else "https"
        return _Connections(
            httpx.Client(
                base_url=f"{scheme}://{self.address}/v{VERSION}",
                verify=False if self._context is None else self._context,
                # Answers are read as they are: none is unpacked, none leads elsewhere, and no proxy stands between.
                headers={"accept-encoding": "identity"},
                follow_redirects=False,
                trust_env=False,
            )
        )

    def hurry(self, lease: float) -> None:
        """Give up connections early enough that others can be made within `lease` s."""
        self.connect_within = min(CONNECT, lease / 3)
        self.silence = min(SILENCE, max(QUIET, lease / 3))

    def close(self) -> None:
        """Give the connections back, as soon as no answer is awaited on them; whoever asks again makes new ones."""
        with self._lock:
            left, self._connections = self._connections, self._none_yet()
            left.left = True
            unused = not left.users
        if unused:
            left.http.close()

    @contextmanager
    def _connected(self) -> Iterator[httpx.Client]:
        with self._lock:
            connections = self._connections
            connections.users += 1
        try:
            yield connections.http
        finally:
            with self._lock:
                connections.users -= 1
                unused = connections.left and not connections.users
            if unused:
                connections.http.close()

    def health(self) -> Health:
        return self._ask("GET", "/health", Health)

    def board(self) -> Board:
        return self._ask("GET", "/board", Board)

    def claim(self, claim: Claim) -> JobStatus:
        return self._ask("POST", "/jobs", JobStatus, claim)

    def jobs(self) -> list[JobStatus]:
        octets = self._octets("GET", "/jobs")
        return self._validated("GET /jobs", lambda: TypeAdapter(list[JobStatus]).validate_json(octets))

    def job(self, job: str) -> JobStatus:
        return self._ask("GET", f"/jobs/{job}", JobStatus)

    def start(self, job: str, task: Task) -> JobStatus:
        return self._ask("POST", f"/jobs/{job}/start", JobStatus, task)

    def renew(self, job: str, within: float) -> JobStatus:
        """`within`: s after which the answer comes too late."""
        return self._ask("POST", f"/jobs/{job}/lease", JobStatus, within=within)

    def cancel(self, job: str) -> JobStatus:
        return self._ask("POST", f"/jobs/{job}/cancel", JobStatus)

    def forget(self, job: str) -> None:
        self._octets("DELETE", f"/jobs/{job}")

    def result(self, job: str) -> bytes:
        return self._octets("GET", f"/jobs/{job}/result")

    def certificate_request(self) -> bytes:
        return self._octets("GET", "/certificate-request")

    def put_certificate(self, certificate: bytes) -> None:
        headers = {"content-type": "text/plain"}
        self._octets("PUT", "/certificate", content=certificate, headers=headers)

    def put_revocations(self, revocations: bytes) -> None:
        headers = {"content-type": "text/plain"}
        self._octets("PUT", "/revocations", content=revocations, headers=headers)

    def log(self, job: str, offset: int = 0) -> bytes:
        """What the worker printed, from `offset` on; at most 1 MiB."""
        return self._octets("GET", f"/jobs/{job}/log", params={"offset": offset})

    def put(
        self, job: str, name: str, path: Path, offset: int, sent: Callable[[int], None] = lambda position: None
    ) -> Received:
        """Send a file from `offset` on; `sent` is told up to where it has been written to the connection."""
        size = path.stat().st_size - offset

        def chunks() -> Iterator[bytes]:
            with path.open("rb") as file:
                file.seek(offset)
                while chunk := file.read(CHUNK):
                    yield chunk
                    sent(file.tell())

        headers = {"content-length": str(size), "content-type": "application/octet-stream"}
        place = f"/jobs/{job}/files/{name}"
        octets = self._octets(
            "PUT", place, params={"offset": offset}, content=chunks(), headers=headers, within=math.inf
        )
        return self._validated(f"PUT {place}", lambda: Received.model_validate_json(octets))

    def events(self, job: str, after: int) -> Iterator[Line | None]:
        """The lines after number `after`, as they come; None: the board says that there is nothing to tell yet.

        Ends where the stream does, which has told all if its last line was an end.
        """
        place = f"/jobs/{job}/events"
        timeout = httpx.Timeout(self.silence, connect=self.connect_within)
        with self._answer("GET", place, params={"after": after}, timeout=timeout) as response:
            for line in self._lines(response, place):
                yield self._line(line, place) if line.strip() else None

    def _lines(self, response: httpx.Response, place: str) -> Iterator[bytes]:
        """Whole lines; one that the end of the stream cuts short is left out."""
        parts: list[bytes] = []
        held = 0
        for chunk in response.iter_raw():
            *whole, rest = chunk.split(b"\n")
            for end in whole:
                yield b"".join((*parts, end))
                parts, held = [], 0
            parts.append(rest)
            held += len(rest)
            if held > LARGEST_EVENT:
                raise BoardError(self.name, f"GET {place}: found a line of more than {LARGEST_EVENT >> 20} MiB")

    def _line(self, text: bytes, place: str) -> Line:
        def read() -> Line:
            # The event is kept as it came, for whoever knows events: it need not be read twice.
            found = json.loads(text)
            if not isinstance(found, dict) or type(found.get("seq")) is not int:
                raise ValueError("no sequence number")
            if found.keys() == {"seq", "event"} and isinstance(found["event"], dict):
                return Line(found["seq"], event=json.dumps(found["event"]).encode())
            if found.keys() == {"seq", "end"}:
                return Line(found["seq"], end=End.model_validate(found["end"]))
            raise ValueError("neither an event nor an end")

        return self._validated(f"GET {place}", read)

    def _ask(
        self, method: str, place: str, expected: type[Body], body: BaseModel | None = None, within: float = 0.0
    ) -> Body:
        headers = {"content-type": "application/json"}
        content = None if body is None else body.model_dump_json().encode()
        octets = self._octets(
            method, place, content=content, headers=headers if body is not None else {}, within=within
        )
        return self._validated(f"{method} {place}", lambda: expected.model_validate_json(octets))

    def _octets(
        self,
        method: str,
        place: str,
        *,
        params: Mapping[str, int] | None = None,
        content: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        within: float = 0.0,
    ) -> bytes:
        """The body of an answer that must be whole `within` s; 0: the usual time; infinite: only silence is limited."""
        within = within or self.answer_within
        until = time.monotonic() + within
        timeout = httpx.Timeout(min(within, self.answer_within), connect=min(self.connect_within, within))
        request = {"params": params, "content": content, "headers": headers, "timeout": timeout}
        with self._answer(method, place, **request) as response:
            return self._whole(response, f"{method} {place}", until)

    @contextmanager
    def _answer(self, method: str, place: str, **request: Any) -> Iterator[httpx.Response]:
        """An answer whose body is not read yet; one that refuses is raised."""
        try:
            with self._connected() as http, http.stream(method, place.removeprefix("/"), **request) as response:
                if not response.is_success:
                    raise self._rejected(response, f"{method} {place}")
                yield response
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: httpx.HTTPError) -> BoardError:
        """Mistrust does not go away when one asks again; a connection that was cut while it was made does."""
        told = tls_reason(error, self.address, self._ends)
        cut = any(isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) for cause in causes(error))
        if told is None or cut:
            return Unreachable(self.name, told or self._reason(error))
        return Mistrusted(self.name, told)

    def _reason(self, error: httpx.HTTPError) -> str:
        """Why there was no answer, in words."""
        address = self.address
        if isinstance(error, httpx.ConnectTimeout):
            return f"no connection to {address} within {self.connect_within:.2g} s"
        if isinstance(error, httpx.TimeoutException):
            return f"no answer from {address}"
        if isinstance(error, httpx.ConnectError):
            return f"no connection to {address}: {_innermost(error)}"
        if isinstance(error, httpx.RemoteProtocolError):
            hint = "; is it served with --insecure?" if self._context is None else ""
            return f"{address} does not speak HTTP as it should: {printable(str(error)).rstrip('.')}{hint}"
        return f"the connection to {address} broke: {_innermost(error)}"

    def _rejected(self, response: httpx.Response, place: str) -> BoardError:
        octets = self._whole(response, place, time.monotonic() + self.answer_within)
        try:
            refused = Refused.model_validate_json(octets)
        except ValidationError:
            return Rejected(
                self.name, f"{place}: answered {response.status_code} without a reason", response.status_code
            )
        return Rejected(self.name, printable(refused.error), response.status_code, refused.status)

    def _whole(self, response: httpx.Response, place: str, until: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        for chunk in response.iter_raw():
            parts.append(chunk)
            size += len(chunk)
            if size > LARGEST_BODY:
                raise BoardError(self.name, f"{place}: found an answer of more than {LARGEST_BODY >> 20} MiB")
            if time.monotonic() > until:
                raise Unreachable(self.name, "its answer took too long")
        return b"".join(parts)

    def _validated(self, place: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except (ValueError, RecursionError) as error:
            said = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                said = ": ".join((*map(str, first["loc"]), first["msg"]))
            raise BoardError(self.name, f"{place}: answered what is none of its answers: {printable(said)}") from error


def _innermost(error: BaseException) -> str:
    *_, cause = causes(error)
    said = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return printable(said or type(cause).__name__)
