"""The daemon over mutual TLS."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from agents import Board, in_process, in_thread, settings, url_in
from boards import HOST, enrolled

from edgesim.fleet.address import Address
from edgesim.fleet.authority import Authority
from edgesim.fleet.enrolment import enroll
from node_agent.daemon import connections, server
from node_agent.daemon.membership import Membership
from node_agent.security.contexts import Peer, client_context
from node_agent.security.identity import Identity
from node_agent.security.tokens import Token


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "fleet")


@pytest.fixture
def identity(authority: Authority, tmp_path: Path) -> Identity:
    return enrolled(authority, tmp_path / "identity")


@pytest.fixture
def board(authority: Authority, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """As the controller alice sees it."""
    monkeypatch.setattr(server, "HANDSHAKE_WITHIN", 1.0)
    with in_thread(settings(tmp_path / "data"), identity, authority.controller("alice").context()) as found:
        yield found


def test_a_controller_and_another_one(board: Board, authority: Authority) -> None:
    bob = Board(board.url, authority.controller("bob").context())
    job = board.claim({"file": b"x"})
    assert bob.get("/v1/health")["job"]["owner"] == "alice"
    assert bob.http.post("/v1/jobs", json={"run": "r", "lease_s": 5}).status_code == 409
    for method, path in (
        ("PUT", "/files/file"),
        ("POST", "/start"),
        ("POST", "/lease"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ):
        task = {"kind": "of no kind"} if path == "/start" else None  # nobody looks at what a stranger brings
        refused = bob.http.request(method, f"/v1/jobs/{job}{path}", json=task)
        assert refused.status_code == 403, path
        assert refused.json()["error"] == "job: found bob, allowed alice, who claimed the board"
    assert board.http.post(f"/v1/jobs/{job}/cancel").json()["error"] == "cancelled by alice"
    assert bob.end(job)["error"] == "cancelled by alice"


def ask(connection: http.client.HTTPSConnection, method: str, path: str) -> int:
    """On this connection and no other one."""
    connection.auto_open = False
    connection.request(method, path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_no_number_of_connections_locks_the_owner_out(
    board: Board, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner's stays, however long it has been silent; of the others the one that has been so for longest goes."""
    monkeypatch.setattr(connections, "MOST", 4)
    place = board.url.removeprefix("https://")

    def connected(name: str) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection(place, context=authority.controller(name).context(), timeout=10)
        connection.connect()
        return connection

    board.claim({})
    board.http.close()
    with ExitStack() as stack:
        alice, *bobs = (stack.enter_context(closing(connected(name))) for name in ("alice", *["bob"] * 3))
        assert ask(alice, "GET", "/v1/health") == 200
        assert [ask(bob, "GET", "/v1/health") for bob in (bobs[1], bobs[2], bobs[0])] == [200] * 3
        later = stack.enter_context(closing(connected("bob")))
        assert ask(later, "GET", "/v1/health") == 200
        with pytest.raises((ConnectionError, ssl.SSLError)):
            ask(bobs[1], "GET", "/v1/health")
        assert [ask(one, "GET", "/v1/health") for one in (alice, bobs[0], bobs[2], later)] == [200] * 4


def test_who_is_not_let_in(board: Board, authority: Authority, identity: Identity, tmp_path: Path) -> None:
    stranger = Authority.create(tmp_path / "other").controller("mallory")
    nobody = ssl.create_default_context(cafile=authority.ca)
    for context in (
        nobody,
        client_context(authority.ca, stranger.certificate, stranger.key),
        client_context(authority.ca, identity.certificate, identity.key),
    ):
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{board.url}/v1/health", verify=context)
    with pytest.raises(httpx.TransportError):
        httpx.get(board.url.replace("https", "http") + "/v1/health")
    assert board.get("/v1/health")["state"] == "idle"


def test_a_controller_that_is_revoked_loses_its_open_connections(board: Board, authority: Authority) -> None:
    bob = Board(board.url, authority.controller("bob").context())
    job = board.claim({})
    assert bob.get("/v1/health")["state"] == "ready"
    other = Authority.create(authority.folder.parent / "another")
    wrong = board.http.put("/v1/revocations", content=other.crl())
    assert (wrong.status_code, "not signed" in wrong.json()["error"]) == (422, True)
    authority.revoke("bob")
    with bob.http.stream("GET", f"/v1/jobs/{job}/events") as stream:
        assert board.http.put("/v1/revocations", content=authority.crl()).status_code == 204
        with pytest.raises(httpx.TransportError):
            stream.read()
    with pytest.raises(httpx.TransportError):
        bob.get("/v1/health")
    assert board.get("/v1/health")["state"] == "ready"


def test_a_request_of_a_revoked_controller_on_an_open_connection(board: Board, authority: Authority) -> None:
    bob = Board(board.url, authority.controller("bob").context())
    bob.get("/v1/health")
    authority.revoke("bob")
    board.http.put("/v1/revocations", content=authority.crl())
    refused = bob.http.get("/v1/health")
    assert (refused.status_code, refused.json()["error"]) == (403, "certificate: found bob's, which is revoked")


def test_a_controller_whose_certificate_ends_loses_its_open_connections(
    board: Board, authority: Authority, identity: Identity
) -> None:
    """Valid for a few seconds, on a connection that is idle and on one that is told events."""
    brief = authority.controller("bob", days=3.5 / 86400).context()
    idle, listening = Board(board.url, brief), Board(board.url, brief)
    job = board.claim({})
    assert idle.get("/v1/health")["state"] == "ready"
    began = time.monotonic()
    with listening.http.stream("GET", f"/v1/jobs/{job}/events") as stream, pytest.raises(httpx.TransportError):
        stream.read()
    assert time.monotonic() - began < 10
    with pytest.raises(httpx.TransportError):
        idle.get("/v1/health")
    ended = Peer("bob", 1, "controller", time.time() - 1)
    refusal = Membership(identity).refuse(ended)
    assert refusal is not None
    assert (refusal.code, refusal.error) == (403, "certificate: found bob's, which has ended")
    assert board.get("/v1/health")["state"] == "ready"


def test_a_certificate_is_renewed(board: Board, authority: Authority, identity: Identity) -> None:
    ends = board.get("/v1/health")["certificate_ends_s"]
    assert ends == identity.ends_at.timestamp()
    request = board.http.get("/v1/certificate-request").content
    health = board.http.put("/v1/certificate", content=authority.issue(request, "orin-1", [HOST], days=99))
    assert health.json()["certificate_ends_s"] > ends + 60 * 86400
    assert Board(board.url, authority.controller("alice").context()).get("/v1/health")["state"] == "idle"
    refused = board.http.put("/v1/certificate", content=b"words")
    assert (refused.status_code, refused.json()["error"].startswith("certificate")) == (422, True)


def test_without_tls_there_is_no_certificate(tmp_path: Path) -> None:
    with in_thread(settings(tmp_path / "data")) as board:
        for method, path in (("GET", "-request"), ("PUT", "")):
            answer = board.http.request(method, f"/v1/certificate{path}", content=b"x")
            assert answer.status_code == 409
        assert board.get("/v1/health")["certificate_ends_s"] is None


def test_a_board_is_enrolled_and_goes_on(tmp_path: Path, authority: Authority) -> None:
    """Also where its name could be no host's."""
    with in_process(tmp_path / "board", real=True, lines="name: my_board\n") as (process, said):
        place = said.split(" waits at ")[1].split(" ")[0]
        command = [sys.executable, "-m", "node_agent", "token", "--config", str(tmp_path / "board" / "agent.yaml")]
        token = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        enroll(authority, Address.parse(place), Token.parse(token))
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert url_in(ready) == f"https://{place}"
        board = Board(url_in(ready), authority.controller("alice").context())
        assert board.get("/v1/health")["name"] == "my_board"
        assert json.loads(board.http.get("/v1/board").content)["interface"] == "lo"
        began = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5


def test_a_board_that_waits_to_be_enrolled_can_be_stopped(tmp_path: Path) -> None:
    with in_process(tmp_path / "board", real=True) as (process, _):
        process.terminate()
        assert process.wait(10) == 0
