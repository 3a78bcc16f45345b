"""Boards join a fleet, stay in it and are shut out, with the commands that people type."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from boards import HOST, connected, enrolled, greeted, greeter, in_a_thread, small_agent
from typer.testing import CliRunner

from edgesim.cli import app
from edgesim.fleet import enrolment
from edgesim.fleet.address import Address
from edgesim.fleet.authority import Authority
from node_agent.security import enrolment as boards_side
from node_agent.security import verbs
from node_agent.security.accepting import MOST_HANDSHAKES
from node_agent.security.contexts import server_context
from node_agent.security.enrolment import serve_enrolment
from node_agent.security.identity import Identity
from node_agent.security.tokens import Token, Tokens, fingerprint


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fleet's folder."""
    monkeypatch.setenv("EDGESIM_FLEET", str(tmp_path / "fleet"))
    assert edgesim("fleet", "init")[0] == 0
    return tmp_path / "fleet"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of a board."""
    return tmp_path / "data"


def edgesim(*arguments: str, typed: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, input=typed)
    return result.exit_code, result.stdout, result.stderr


def make_token(data: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert verbs.token(data) == 0
    return capsys.readouterr().out.strip()


@contextmanager
def waiting(data: Path, name: str = "orin-1") -> Iterator[int]:
    """A board that waits to be enrolled; yields its port."""
    with socket.create_server((HOST, 0)) as listening:

        async def main(stop: asyncio.Event) -> None:
            await serve_enrolment(Identity(data / verbs.FOLDER), name, listening, stop)

        with in_a_thread(main):
            yield listening.getsockname()[1]


def ask(port: int, method: str, path: str, body: bytes | str) -> tuple[int, Any]:
    """A stranger's request to a board that waits."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(HOST, port, timeout=10, context=context)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


def test_a_second_fleet_is_not_made_over_the_first(fleet: Path) -> None:
    code, output, errors = edgesim("fleet", "init")
    assert (code, output) == (2, "")
    assert errors == f"edgesim: {fleet}: there is a fleet already; --fleet DIR makes another one elsewhere\n"


def test_from_a_token_to_mutual_tls_on_the_same_port(
    fleet: Path, data: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = make_token(data, capsys)
    identity = Identity(data / verbs.FOLDER)
    with waiting(data) as port:
        code, output, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", "-", typed=f"{token}\n")
    assert (code, errors) == (0, "")
    assert output.startswith(f"orin-1 at {HOST}:{port} is enrolled until ")
    assert Token.parse(token).secret not in caplog.text
    assert sorted(path.name for path in identity.folder.iterdir()) == [
        ".lock",
        "ca.pem",
        "certificate.pem",
        "key.pem",
        "revoked.pem",
        "token.json",
    ]
    authority = Authority.open()
    assert (identity.name, identity.hosts) == ("orin-1", (HOST,))
    assert identity.key.read_bytes() not in {path.read_bytes() for path in fleet.rglob("*") if path.is_file()}
    with greeter(server_context(identity)) as port_after:
        assert greeted(port_after, authority.controller("alice").context()) == "controller alice"
    (board,) = json.loads(edgesim("fleet", "list", "--json")[1])
    assert board["name"] == "orin-1"
    assert board["address"] == f"{HOST}:{port}"
    assert 29.9 * 86400 < board["left_s"] <= 30 * 86400
    assert "30 d" in edgesim("fleet", "list")[1]
    assert verbs.token(data) == 2
    assert "enrolled already, as orin-1" in capsys.readouterr().err


def test_the_listening_socket_outlives_enrolment(fleet: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = Token.parse(make_token(data, capsys))
    identity = Identity(data / verbs.FOLDER)
    authority = Authority.open()
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        done = []

        async def main(stop: asyncio.Event) -> None:
            done.append(await serve_enrolment(identity, "orin-1", listening, stop))

        with in_a_thread(main):
            status, answer = ask(port, "POST", "/v1/enrolment", json.dumps({"secret": token.secret}))
            assert (status, answer.keys()) == (200, {"csr"})
            certificate = authority.issue(answer["csr"].encode(), "orin-1", [HOST])
            papers = {"certificate": certificate, "ca": authority.ca_pem, "revoked": authority.crl()}
            body = json.dumps({"secret": token.secret, **{what: pem.decode() for what, pem in papers.items()}})
            assert ask(port, "PUT", "/v1/enrolment", body) == (204, None)
        assert done == [True]
        listening.settimeout(10)
        with socket.create_connection((HOST, port), 10), listening.accept()[0]:
            pass


def test_a_token_that_was_used_is_refused_after_a_restart(
    fleet: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = make_token(data, capsys)
    with waiting(data) as port:
        assert edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)[0] == 0
    Identity(data / verbs.FOLDER).forget()  # which is less than what `node-agent forget` does
    # The worst case: whoever replays it knows the new bootstrap certificate.
    pinned = fingerprint(Tokens(data / verbs.FOLDER).make_bootstrap())
    replayed = Token(Token.parse(token).secret, pinned)
    with waiting(data) as port:
        code, output, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", str(replayed))
        assert ask(port, "POST", "/v1/enrolment", json.dumps({"secret": replayed.secret}))[0] == 403
    assert (code, output) == (1, "")
    assert "refuses the token (this token has been used already)" in errors
    assert "node-agent token" in errors


def test_tokens_that_are_wrong_or_late_are_refused(fleet: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = Token.parse(make_token(data, capsys))
    wrong = Token("a" * 24, token.fingerprint)
    with waiting(data) as port:
        code, _, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", str(wrong))
        assert code == 1
        assert "refuses the token (a wrong one); make a new one" in errors
        late = Tokens(data / verbs.FOLDER, lambda: time.time() - 3601).make()
        code, _, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", str(late))
        assert code == 1
        assert "has expired" in errors
    assert not Identity(data / verbs.FOLDER).enrolled
    assert edgesim("fleet", "list", "--json")[1] == "[]\n"


def test_nothing_is_said_to_who_stands_between(
    fleet: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The token of one board, and a server with another bootstrap certificate, which hears no secret."""
    token = make_token(data, capsys)
    between = Tokens(Identity(tmp_path / "between").folder)
    between.make_bootstrap()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(between.bootstrap)
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append(await reader.read(1000))
        except ConnectionResetError:
            heard.append(b"")
        writer.close()

    listening = socket.create_server((HOST, 0))
    port = listening.getsockname()[1]

    async def main(stop: asyncio.Event) -> None:
        server = await asyncio.start_server(listen, sock=listening, ssl=context)
        await stop.wait()
        server.close()

    with in_a_thread(main):
        code, output, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)
        until = time.monotonic() + 10
        while not heard and time.monotonic() < until:
            time.sleep(0.01)
    assert (code, output) == (1, "")
    assert "its certificate is not the one that the token names, so nothing was sent" in errors
    assert heard == [b""]


def test_a_board_that_is_enrolled_offers_no_enrolment(
    fleet: Path, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    token = make_token(data, capsys)
    board = enrolled(Authority.open(), tmp_path / "board")
    with small_agent(board) as port:
        code, _, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)
    assert code == 1
    assert "If the board was enrolled before: node-agent forget" in errors


def test_strangers_learn_nothing_from_a_board_that_waits(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_token(data, capsys)
    refused = {"error": "refused", "status": None}
    with waiting(data) as port:
        for method, path, body in (
            ("POST", "/v1/enrolment", "{}"),
            ("POST", "/v1/enrolment", "not JSON"),
            ("POST", "/v1/enrolment", b"\xff\xfe"),
            ("POST", "/v1/enrolment", '{"secret": "x", "more": 1}'),
            ("POST", "/v1/enrolment", '{"secret": "x"}'),
            ("PUT", "/v1/enrolment", '{"secret": "x"}'),
            ("GET", "/v1/health", ""),
            ("GET", "/docs", ""),
            ("DELETE", "/v1/enrolment", ""),
        ):
            assert ask(port, method, path, body) == (403, refused), (method, path, body)
        long = json.dumps({"secret": "x" * 70_000})
        assert ask(port, "POST", "/v1/enrolment", long)[0] == 413
        assert Identity(data / verbs.FOLDER).enrolled is False


def test_connections_that_say_nothing_do_not_keep_others_out(
    fleet: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = make_token(data, capsys)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    idle = []
    with waiting(data) as port:
        try:
            for _ in range(boards_side.MOST_CONNECTIONS + 4):
                plain = socket.create_connection((HOST, port), 10)
                idle.append(context.wrap_socket(plain))
            code, _, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)
        finally:
            for one in idle:
                one.close()
    assert (code, errors) == (0, "")


def test_connections_that_begin_no_handshake_are_bounded(
    fleet: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = make_token(data, capsys)
    with waiting(data) as port, ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection((HOST, port), boards_side.LONGEST_HANDSHAKE / 2))
            for _ in range(MOST_HANDSHAKES + 4)
        ]
        with suppress(ConnectionResetError):
            assert crowd[0].recv(1) == b""
        assert edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)[0] == 0


@pytest.mark.parametrize("taken", [True, False])
def test_an_answer_that_is_lost_is_not_a_certificate_that_is_lost(
    fleet: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """The board is looked at again: what it shows now tells whether it has become a member."""
    token = make_token(data, capsys)
    identity = Identity(data / verbs.FOLDER)
    monkeypatch.setattr(enrolment, "CHANGING_OVER", 0.5)
    send = enrolment._Pinned.request

    def lossy(self: enrolment._Pinned, method: str, *rest: Any) -> None:
        if method == "POST" or taken:
            send(self, method, *rest)
        if method == "PUT":
            if taken:
                self.getresponse().read()
            raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(enrolment._Pinned, "request", lossy)
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]

        async def main(stop: asyncio.Event) -> None:
            if await serve_enrolment(identity, "orin-1", listening, stop):
                server = await asyncio.start_server(lambda *_: None, sock=listening, ssl=server_context(identity))
                await stop.wait()
                server.close()

        with in_a_thread(main):
            code, output, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)
    assert identity.enrolled == taken
    assert list(Authority.open().boards()) == (["orin-1"] if taken else [])
    assert code == (0 if taken else 1)
    assert ("is enrolled until" in output) == taken
    assert len(errors.splitlines()) == (0 if taken else 1)


def test_names_and_addresses_of_boards_are_each_ones_own(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with waiting(first) as port:
        assert edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", make_token(first, capsys))[0] == 0
    with waiting(second) as port:
        address, token = f"{HOST}:{port}", make_token(second, capsys)
        code, _, errors = edgesim("fleet", "enroll", address, "--token", token)
        assert code == 1
        assert "found the name orin-1, which is the board's at 127.0.0.1:" in errors
        code, _, errors = edgesim("fleet", "enroll", address, "--token", token, "--name", HOST)
        assert code == 1
        assert "found the name 127.0.0.1, which is an address" in errors
        code, output, _ = edgesim("fleet", "enroll", address, "--token", token, "--name", "orin-2")
    assert code == 0
    assert output.startswith("orin-2 at ")
    assert list(Authority.open().boards()) == ["orin-1", "orin-2"]


def test_a_board_cannot_take_the_place_of_another_by_its_name(
    fleet: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its request names the address, and then the host name, under which another one is, or will be, reached."""
    authority, identity = Authority.open(), Identity(data / verbs.FOLDER)
    for other, address in (("orin-2", "192.0.2.12:7443"), ("orin-3", "orin-3.lab:7443"), ("localhost", "192.0.2.13")):
        authority.record(address, authority.issue(identity.request(other), other, [Address.parse(address).host]))
    token = make_token(data, capsys)
    for name, reason in (
        ("192.0.2.99", "found the name 192.0.2.99, which is an address: --name gives it another one"),
        ("orin-3.lab", "found the name orin-3.lab, which leads to orin-3"),
    ):
        with waiting(data, name) as port:
            code, _, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)
        assert code == 1
        assert reason in errors
    with waiting(data, "orin-4.lab") as port:
        code, _, errors = edgesim("fleet", "enroll", f"localhost:{port}", "--token", token, "--name", "orin-4")
        assert code == 1
        assert "found an address that is the name of the board at 192.0.2.13:7443" in errors
        assert edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)[0] == 0
    assert (identity.name, identity.hosts) == ("orin-4.lab", (HOST,))


def test_a_board_whose_name_is_no_host_name_is_enrolled(
    fleet: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = make_token(data, capsys)
    with waiting(data, "orin_1") as port:
        assert edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)[0] == 0
    assert list(Authority.open().boards()) == ["orin_1"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("or in", "--token", "x"), "host: found 'or in'"),
        (("orin-1", "--token", "x"), "token: found something else"),
        (("orin-1", "--token", f"{'a' * 24}.{'a' * 32}", "--name", "../x"), "--name: name: found '../x'"),
    ],
)
def test_what_is_typed_wrong_is_told_before_anything_is_sent(
    fleet: Path, arguments: tuple[str, ...], reason: str
) -> None:
    code, output, errors = edgesim("fleet", "enroll", *arguments)
    assert (code, output) == (2, "")
    assert reason in errors
    assert len(errors.splitlines()) == 1


def test_a_board_that_does_not_answer_is_told_in_one_line(fleet: Path) -> None:
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
    code, _, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", f"{'a' * 24}.{'a' * 32}")
    assert code == 1
    assert errors == f"edgesim: no connection to {HOST}:{port}: Connection refused\n"


def test_a_board_with_a_wrong_clock_says_so(
    fleet: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = make_token(data, capsys)
    monkeypatch.setattr("node_agent.security.identity.utc_now", lambda: datetime(1970, 1, 1, 0, 5, tzinfo=timezone.utc))
    with waiting(data) as port:
        code, _, errors = edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)
    assert code == 1
    assert "this board's clock says 1970-01-01 00:05 UTC: set the clock that is wrong" in errors
    assert not Identity(data / verbs.FOLDER).enrolled


def test_forgetting_ends_identity_and_token(fleet: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = make_token(data, capsys)
    assert verbs.forget(data) == 0
    assert capsys.readouterr().out == f"this board was not enrolled (data in {data})\n"
    with waiting(data) as port:
        assert "used already" in edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", token)[2]
        assert edgesim("fleet", "enroll", f"{HOST}:{port}", "--token", make_token(data, capsys))[0] == 0
    assert verbs.forget(data) == 0
    assert "edgesim fleet revoke orin-1" in capsys.readouterr().out
    assert not Identity(data / verbs.FOLDER).enrolled


def test_renewal_over_mutual_tls(fleet: Path, tmp_path: Path) -> None:
    authority = Authority.open()
    board = enrolled(authority, tmp_path / "board", days=9)
    with small_agent(board) as port:
        authority.record(f"{HOST}:{port}", board.certificate.read_bytes())
        assert "due, edgesim fleet renew" in edgesim("fleet", "list")[1]
        code, output, _ = edgesim("fleet", "renew")
        assert (code, output[:25]) == (0, "orin-1: renewed, valid un")
        with connected(port, authority.controller().context()):
            pass
        first = board.serial
        assert edgesim("fleet", "renew")[1].startswith("orin-1: not due, valid until ")
        assert board.serial == first
        assert edgesim("fleet", "renew", "orin-1")[1].startswith("orin-1: renewed")
        assert board.serial != first
        assert authority.board("orin-1").serial == f"{board.serial:x}"
    code, _, errors = edgesim("fleet", "renew", "orin-1")
    assert code == 1
    assert errors == f"edgesim: orin-1: no connection to {HOST}:{port}: Connection refused\n"
    code, _, errors = edgesim("fleet", "renew", "orin-9")
    assert code == 2
    assert "found 'orin-9', allowed one that is enrolled: orin-1" in errors


def test_a_board_at_an_ipv6_address(fleet: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    identity = Identity(data / verbs.FOLDER)
    token, port = make_token(data, capsys), listening.getsockname()[1]

    async def main(stop: asyncio.Event) -> None:
        await serve_enrolment(identity, "orin-1", listening, stop)

    with listening, in_a_thread(main):
        code, output, _ = edgesim("fleet", "enroll", f"[::1]:{port}", "--token", token)
    assert (code, output[: len(f"orin-1 at [::1]:{port} ")]) == (0, f"orin-1 at [::1]:{port} ")
    assert identity.hosts == ("::1",)


def test_a_certificate_that_has_ended_is_not_renewed(fleet: Path, tmp_path: Path) -> None:
    authority = Authority.open()
    board = enrolled(authority, tmp_path / "board", days=-1)
    authority.record(f"{HOST}:7443", board.certificate.read_bytes())
    code, _, errors = edgesim("fleet", "renew")
    assert code == 1
    assert "orin-1: its certificate has expired on " in errors
    assert "enroll again" in errors
    assert "expired: enroll again" in edgesim("fleet", "list")[1]


def test_who_is_revoked_is_shut_out_of_all_boards(fleet: Path, tmp_path: Path) -> None:
    authority = Authority.open()
    boards = [enrolled(authority, tmp_path / name, name) for name in ("orin-1", "orin-2")]
    bob = authority.controller("bob").context()
    with small_agent(boards[0]) as one, small_agent(boards[1]) as two:
        for board, port in zip(boards, (one, two), strict=True):
            authority.record(f"{HOST}:{port}", board.certificate.read_bytes())
        with connected(one, bob):
            pass
        code, output, errors = edgesim("fleet", "revoke", "bob")
        assert (code, output, errors) == (0, "bob: 1 certificate(s) revoked\n2 board(s) know of it\n", "")
        for port in (one, two):
            with pytest.raises(ssl.SSLError, match="revoked"), connected(port, bob) as secured:
                secured.recv(1)
        assert edgesim("fleet", "revoke", "orin-2")[1] == "orin-2: 1 certificate(s) revoked\n1 board(s) know of it\n"
    code, _, errors = edgesim("fleet", "revoke", "bob")
    assert code == 1
    assert (
        errors.splitlines()[-1] == "edgesim: not told yet: orin-1; once they answer: edgesim fleet revoke bob, or a run"
    )
    code, _, errors = edgesim("fleet", "revoke", "nobody")
    assert code == 2
    assert "found 'nobody'" in errors
