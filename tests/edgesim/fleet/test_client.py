"""A client of servers that do not answer as boards do."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time

import pytest
from scripted import STREAM, answer, saying

from edgesim.fleet import client as module
from edgesim.fleet.client import BoardClient, BoardError, End, Rejected, Unreachable, printable

HEALTH = {"name": "b0", "state": "idle", "version": "1", "uptime_s": 1.0, "time_s": 2.0, "monotonic_s": 3.0}


def test_an_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # which nobody asks
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with saying(answer(json.dumps(HEALTH).encode())) as (_, client):
        assert client.health().name == "b0"


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (answer(b"{"), "GET /health: answered what is none of its answers: Invalid JSON"),
        (answer(b"[" * 100_000), "GET /health: answered what is none of its answers: Invalid JSON"),
        (answer(b'{"name": "b0"}'), "GET /health: answered what is none of its answers: state: Field required"),
        (answer(b"\xff\x00\x1b[2J"), "GET /health: answered what is none of its answers: Invalid JSON"),
        (
            answer(json.dumps({**HEALTH, "uptime_s": "\x1b[2J"}).encode()),
            "GET /health: answered what is none of its answers: uptime_s: Input should be a valid number",
        ),
        (
            answer(gzip.compress(b"0" * 10_000_000), more="Content-Encoding: gzip\r\n"),
            "GET /health: answered what is none of its answers: Invalid JSON",
        ),
        (answer(b" " * (2**20 + 1)), "GET /health: found an answer of more than 1 MiB"),
    ],
)
def test_what_is_no_answer_is_told_in_one_line(octets: bytes, message: str) -> None:
    with saying(octets) as (_, client), pytest.raises(BoardError) as caught:
        client.health()
    assert str(caught.value).startswith(f"b0: {message}")
    assert str(caught.value).isprintable()
    assert not isinstance(caught.value, Unreachable | Rejected)


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    def endless(connection: socket.socket, line: str) -> None:
        connection.sendall(STREAM)
        while True:
            connection.sendall(b"0" * 65536)

    with saying(endless) as (_, client), pytest.raises(BoardError, match="an answer of more than 1 MiB"):
        client.health()


def test_no_answer_leads_elsewhere() -> None:
    redirect = answer(b"", "307 Temporary Redirect", "Location: http://127.0.0.1/other\r\n")
    with saying(redirect) as (server, client), pytest.raises(Rejected) as caught:
        client.health()
    assert caught.value.code == 307
    assert server.requests == ["GET /v1/health HTTP/1.1"]


def test_a_refusal_is_told_without_what_steers_a_terminal() -> None:
    body = json.dumps({"error": "job: \x1b[31mfound\n7, allowed 8", "status": None}).encode()
    with saying(answer(body, "422 Unprocessable")) as (_, client), pytest.raises(Rejected) as caught:
        client.health()
    assert str(caught.value) == "b0: job:  [31mfound 7, allowed 8"
    assert caught.value.code == 422
    with saying(answer(b"<html>", "502 Bad Gateway")) as (_, client), pytest.raises(Rejected) as caught:
        client.health()
    assert str(caught.value) == "b0: GET /health: answered 502 without a reason"


def drip(connection: socket.socket, line: str) -> None:
    connection.sendall(STREAM)
    while True:
        connection.sendall(b" ")
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("say", "message"),
    [
        (lambda connection, line: time.sleep(5), "no answer from ADDRESS"),
        (drip, "its answer took too long"),
        (
            b"",
            "ADDRESS does not speak HTTP as it should: Server disconnected without sending a response; is it served "
            "with --insecure?",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "ADDRESS does not speak HTTP as it should: "),
        (answer(b"{}").replace(b"2\r\n", b"99\r\n", 1), "ADDRESS does not speak HTTP as it should: "),
    ],
)
def test_half_an_answer_may_come_when_asked_again(say: object, message: str) -> None:
    with saying(say) as (server, client), pytest.raises(Unreachable) as caught:  # type: ignore[arg-type]
        client.health()
    assert str(caught.value).startswith(f"b0: {message.replace('ADDRESS', str(server.address))}")


def test_nobody_there() -> None:
    with saying(b"") as (server, _):
        pass
    client = BoardClient("b0", server.address, None)
    with pytest.raises(Unreachable, match=f"b0: no connection to {server.address}: Connection refused"):
        client.health()


def test_events_are_lines_with_a_word_now_and_then() -> None:
    body = (
        b'\n{"seq": 1, "event": {"event": "x"}}\n\n{"seq": 2, "end": {"state": "failed", "error": "e", "exit": -9}}\n'
    )
    with saying(STREAM + body) as (server, client):
        blank, first, again, last = client.events("j", 0)
    assert blank is again is None
    assert first is not None
    assert (first.seq, first.event, first.end) == (1, b'{"event": "x"}', None)
    assert last is not None
    assert (last.seq, last.end) == (2, End(state="failed", error="e", exit=-9))
    assert server.requests == ["GET /v1/jobs/j/events?after=0 HTTP/1.1"]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"7",
        b'{"seq": "1", "event": {}}',
        b'{"seq": true, "event": {}}',
        b'{"seq": 1}',
        b'{"seq": 1, "event": 7}',
        b'{"seq": 1, "event": {}, "end": {}}',
        b'{"seq": 1, "end": {"state": "running"}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_line_that_is_none_is_told(line: bytes) -> None:
    with saying(STREAM + line + b"\n") as (_, client), pytest.raises(BoardError, match="none of its answers"):
        list(client.events("j", 0))


def test_a_line_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_EVENT", 1000)
    with saying(STREAM + b"0" * 2000) as (_, client), pytest.raises(BoardError, match="a line of more than"):
        list(client.events("j", 0))


def test_a_silent_stream_is_given_up() -> None:
    def quiet(connection: socket.socket, line: str) -> None:
        connection.sendall(STREAM + b'{"seq": 1, "ev')
        time.sleep(5)

    with saying(quiet) as (_, client), pytest.raises(Unreachable, match="no answer from"):
        list(client.events("j", 0))


def test_printable() -> None:
    assert printable(" a\tb\x9bc\u202e ") == "a b c"
    assert printable("x" * 400) == "x" * 300 + "…"


def test_a_client_that_is_closed_keeps_nothing_and_may_ask_again() -> None:
    closed, going_on = threading.Event(), threading.Event()
    health = json.dumps(HEALTH).encode()

    def say(connection: socket.socket, line: str) -> None:
        if "events" in line:
            connection.sendall(STREAM + b'{"seq": 1, "event": {}}\n')
            going_on.wait(5)
            connection.sendall(b'{"seq": 2, "end": {"state": "finished"}}\n')
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(health) + health)
            if not connection.recv(1):
                closed.set()

    with saying(say) as (_, client):
        client.silence = 5.0
        client.health()
        assert not closed.is_set()
        client.close()
        assert closed.wait(5)
        lines = client.events("j", 0)
        assert next(lines) is not None
        client.close()  # who still listens hears the rest
        going_on.set()
        assert [line.end.state for line in lines if line is not None and line.end is not None] == ["finished"]
        assert client.health().name == "b0"
