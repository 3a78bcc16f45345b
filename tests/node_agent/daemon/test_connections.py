"""What comes from the network and is none of what a controller says."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator

import pytest
from agents import Board, in_thread, settings

from node_agent.daemon import connections, gate
from node_agent.daemon.api import Refused


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEAD_WITHIN", 0.8)
        patch.setattr(connections, "LINGER", 0.1)
        patch.setattr(gate, "BODY_WITHIN", 1.2)
        with in_thread(settings(tmp_path_factory.mktemp("board") / "data")) as found:
            yield found


@pytest.fixture(autouse=True)
def nothing_fails(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that anybody sends is a fault of the daemon's."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def connect(board: Board) -> socket.socket:
    host, port = board.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.settimeout(10)
    return connection


def everything(connection: socket.socket) -> bytes:
    """Until the other side closes."""
    answer = b""
    try:
        while chunk := connection.recv(65536):
            answer += chunk
    except ConnectionResetError:
        pass
    return answer


def refused(answer: bytes, code: int) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % code), answer[:200]
    assert b"application/json" in head
    return Refused.model_validate_json(body).error


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 300_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % index for index in range(9000)) + b"\r\n",
    ],
)
def test_what_is_no_http(board: Board, garbage: bytes) -> None:
    with connect(board) as connection:
        connection.sendall(garbage)
        answer = everything(connection)
    assert refused(answer, 400) == "request: found what is no HTTP/1.1"
    assert board.get("/v1/health")["state"] == "idle"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 422),
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b'{"run": "\xff", "lease_s": 5}', 400),
        (b"[" * 60_000, 400),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
        (b'{"run": "\\ud800", "lease_s": 5}', 422),
        (b'{"run": "r", "lease_s": NaN}', 422),
        (b'{"run": "r", "lease_s": 1e999}', 422),
        (b'{"run": "r", "lease_s": ' + b"9" * 5000 + b"}", 400),
        (b'{"run": "r", "lease_s": 5, "\\ud800\\n": 5}', 422),
        (b'{"run": "r", "lease_s": 5, "owner": "me"}', 422),
        (b'{"run": "../r", "lease_s": 5}', 422),
        (b"null", 422),
        (b'{"run": "' + b"r" * gate.LARGEST_BODY + b'"}', 413),
    ],
)
def test_bodies_that_are_no_claim(board: Board, body: bytes, code: int) -> None:
    answer = board.http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    error = Refused.model_validate_json(answer.content).error
    assert answer.status_code == code, error
    assert error.isprintable()
    assert len(error) <= 500


def test_a_body_of_10_gib_is_not_read(board: Board) -> None:
    for length in (b"content-length: 10737418240", b"content-length: " + b"9" * 19):
        with connect(board) as connection:
            connection.sendall(b"POST /v1/jobs HTTP/1.1\r\nhost: a\r\n" + length + b"\r\n\r\n{")
            assert "allowed at most as many" in refused(everything(connection), 413)


def test_a_body_without_length_is_counted(board: Board) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(10_000):
            yield bytes(2**20)

    answer = board.http.post("/v1/jobs", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    job = board.claim({"file": b"0123456789"})
    assert board.http.put(f"/v1/jobs/{job}/files/file", content=chunks()).status_code == 413
    board.http.delete(f"/v1/jobs/{job}")


def test_an_answer_before_the_body(board: Board) -> None:
    """A small body is read and the connection used again; behind a large one it is closed, and the peer told so."""
    head = b"PUT /v1/jobs/x/files/y HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
    with connect(board) as connection:
        for _ in range(2):
            connection.sendall(head % 100 + b"x" * 50)
            time.sleep(0.05)
            connection.sendall(b"x" * 50)
            answer = connection.recv(65536)
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert b"connection: close" not in answer
        connection.sendall(head % 10**9 + b"x" * 50)
        answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b"connection: close" in answer


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/jobs/", "/docs", "/v1/jobs/..%2f..", "/v1/jobs/x/files/..", "/v1/jobs/%00/log", "/v1/jobs/%ff"],
)
def test_paths_that_lead_nowhere(board: Board, path: str) -> None:
    answer = board.http.get(path)
    assert answer.status_code in (404, 405)
    assert Refused.model_validate_json(answer.content).error.isprintable()


def test_methods_that_are_not_known(board: Board) -> None:
    for method in ("PATCH", "OPTIONS", "TRACE", "HEAD", "BREW"):
        answer = board.http.request(method, "/v1/health")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET"
    with connect(board) as connection:
        connection.sendall(b"GET /nowhere HTTP/1.1\r\nhost: [\r\nconnection: close\r\n\r\n")
        assert refused(everything(connection), 404)


def test_numbers_that_are_none(board: Board) -> None:
    job = board.claim({"file": b"x"})
    for wrong in ("-1", "1.5", "x", "9" * 400, "nan", "\ud7ff"):
        for path in (f"/v1/jobs/{job}/events?after", f"/v1/jobs/{job}/log?offset"):
            assert board.http.get(f"{path}={wrong}").status_code == 422
    board.http.delete(f"/v1/jobs/{job}")


def test_slow_senders_are_dropped(board: Board) -> None:
    with connect(board) as silent, connect(board) as slow, connect(board) as later, connect(board) as body:
        later.sendall(b"GET /v1/health HTTP/1.1\r\nhost: a\r\n\r\n")
        body.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
        )
        began = time.monotonic()
        slow.sendall(b"GET /v1/health HT")
        time.sleep(0.1)
        later.recv(65536)
        later.sendall(b"GET ")
        assert everything(silent) == everything(slow) == everything(later) == b""
        assert "longer than" in refused(everything(body), 408)
        assert 0.7 < time.monotonic() - began < 8


def test_an_upload_is_taken_over_from_a_connection_that_hangs(board: Board) -> None:
    job = board.claim({"file": b"0123456789"})
    with connect(board) as hanging:
        head = f"PUT /v1/jobs/{job}/files/file HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\nconnection: close\r\n\r\n"
        hanging.sendall(head.encode() + b"0123")
        while board.get(f"/v1/jobs/{job}")["files"][0]["received"] < 4:
            time.sleep(0.02)
        assert board.send(job, "file", b"456789", offset=4).status_code == 200
        hanging.sendall(b"999999")
        assert "another request" in refused(everything(hanging), 409)
    assert board.get(f"/v1/jobs/{job}")["state"] == "ready"
    board.http.delete(f"/v1/jobs/{job}")


def test_an_upload_whose_connection_breaks_behind_the_last_byte_is_whole(board: Board) -> None:
    job = board.claim({"file": b"0123456789"})
    with connect(board) as connection:
        head = f"PUT /v1/jobs/{job}/files/file HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"a\r\n0123456789\r\n")
        while board.get(f"/v1/jobs/{job}")["files"][0]["received"] < 10:
            time.sleep(0.02)
    deadline = time.monotonic() + 10
    while board.get(f"/v1/jobs/{job}")["state"] != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    board.http.delete(f"/v1/jobs/{job}")
