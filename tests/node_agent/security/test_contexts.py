"""Who gets through a handshake, over real sockets."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from boards import HOST, connected, enrolled, greeted, greeter, said_to

from edgesim.fleet.authority import Authority
from node_agent.security.contexts import client_context, refresh, server_context
from node_agent.security.identity import Identity, IdentityError


def trusting(authority: Authority) -> ssl.SSLContext:
    """A client that believes in the fleet, and shows nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=authority.ca)
    return context


def showing(authority: Authority, certificate: Path, key: Path) -> ssl.SSLContext:
    context = trusting(authority)
    context.load_cert_chain(certificate, key)
    return context


def test_a_controller_of_the_fleet_is_known_by_its_name(authority: Authority, board: Identity) -> None:
    with greeter(server_context(board)) as port:
        assert greeted(port, authority.controller("alice@ws").context()) == "controller alice@ws"
        with connected(port, authority.controller("alice@ws").context()) as secured:
            assert secured.version() == "TLSv1.3"


@pytest.mark.parametrize(
    ("who", "alert"),
    [
        ("nobody", "CERTIFICATE_REQUIRED"),
        ("another fleet's controller", "UNKNOWN_CA"),
        ("one whose certificate has ended", "CERTIFICATE_EXPIRED"),
        ("one that is revoked", "CERTIFICATE_REVOKED"),
        ("a board", "UNSUPPORTED_CERTIFICATE"),
        ("the board itself", "UNSUPPORTED_CERTIFICATE"),
        ("an old version of TLS", "PROTOCOL_VERSION"),
    ],
)
def test_everybody_else_is_told_why_not(
    authority: Authority, other: Authority, tmp_path: Path, who: str, alert: str
) -> None:
    if who == "one that is revoked":
        credentials = authority.controller("bob")
        authority.revoke("bob")
    board = enrolled(authority, tmp_path / "board")
    if who == "nobody":
        context = trusting(authority)
    elif who == "another fleet's controller":
        credentials = other.controller("alice")
        context = showing(authority, credentials.certificate, credentials.key)
    elif who == "one whose certificate has ended":
        credentials = authority.controller("late", days=-1)
        context = showing(authority, credentials.certificate, credentials.key)
    elif who == "one that is revoked":
        context = credentials.context()
    elif who == "a board":
        second = enrolled(authority, tmp_path / "second", "orin-2")
        context = showing(authority, second.certificate, second.key)
    elif who == "the board itself":
        context = showing(authority, board.certificate, board.key)
    else:
        context = authority.controller("alice").context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    with greeter(server_context(board)) as port:
        with pytest.raises(ssl.SSLError) as refusal:
            greeted(port, context)
        assert str(refusal.value.reason).endswith(f"ALERT_{alert}")
        assert greeted(port, authority.controller("alice").context()) == "controller alice"


def test_what_is_no_tls_is_hung_up_on(authority: Authority, board: Identity) -> None:
    with greeter(server_context(board)) as port, socket.create_connection((HOST, port), 10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        plain.shutdown(socket.SHUT_WR)
        answer = plain.recv(1000)
        assert b"HTTP" not in answer
        assert answer == b"" or plain.recv(1000) == b""


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("another address", 64),
        ("another name", 62),
        ("a controller", 26),
        ("another fleet", 20),
        ("ended", 10),
        ("revoked", 23),
    ],
)
def test_a_controller_speaks_to_boards_of_its_fleet_alone(
    authority: Authority, other: Authority, tmp_path: Path, what: str, code: int
) -> None:
    fleet = other if what == "another fleet" else authority
    hosts = {"another address": ("127.0.0.2",), "another name": ("orin-2.lab",)}.get(what, (HOST,))
    board = enrolled(fleet, tmp_path / "board", hosts=hosts, days=-1 if what == "ended" else 30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(board.certificate, board.key)
    if what == "a controller":
        credentials = authority.controller("mallory")
        context.load_cert_chain(credentials.certificate, credentials.key)
    if what == "revoked":
        authority.revoke("orin-1")
    host = "orin-1.lab" if what == "another name" else HOST
    with greeter(context) as port, pytest.raises(ssl.SSLCertVerificationError) as refusal:
        greeted(port, authority.controller("alice").context(), host)
    assert refusal.value.verify_code == code


def test_a_newer_revocation_list_counts_in_the_context_that_serves_already(
    authority: Authority, board: Identity
) -> None:
    """Twice, and within one second: OpenSSL tells lists apart by their times."""
    context = server_context(board)
    everybody = {name: authority.controller(name).context() for name in ("alice", "bob", "carol")}
    with greeter(context) as port:
        for name, one in everybody.items():
            assert greeted(port, one) == f"controller {name}"
        for gone in ("bob", "carol"):
            authority.revoke(gone)
            board.replace_revocations(authority.crl())
            refresh(context, board)
            with pytest.raises(ssl.SSLError, match="revoked"):
                greeted(port, everybody[gone])
        with pytest.raises(ssl.SSLError, match="revoked"):
            greeted(port, everybody["bob"])
        assert greeted(port, everybody["alice"]) == "controller alice"


def test_who_is_revoked_is_known_on_a_connection_that_is_open(authority: Authority, board: Identity) -> None:
    with (
        greeter(server_context(board), board) as port,
        connected(port, authority.controller("bob").context()) as secured,
        connected(port, authority.controller("alice").context()) as staying,
    ):
        assert said_to(secured) == "controller bob"
        authority.revoke("bob")
        board.replace_revocations(authority.crl())
        assert said_to(secured) == "revoked"
        assert said_to(staying) == "controller alice"


def test_no_session_can_be_resumed_by_who_is_revoked_meanwhile(authority: Authority, board: Identity) -> None:
    context = authority.controller("alice").context()
    with greeter(server_context(board)) as port, connected(port, context) as secured:
        said_to(secured)
        assert secured.session is None or not secured.session.has_ticket


def test_a_renewed_certificate_is_shown_from_the_next_handshake_on(authority: Authority, board: Identity) -> None:
    context = server_context(board)
    client = authority.controller("alice").context()
    with greeter(context) as port:
        shown = []
        for _ in range(2):
            with connected(port, client) as secured:
                shown.append(secured.getpeercert(binary_form=True))
            board.renew(authority.issue(board.request("orin-1"), "orin-1", [HOST]))
            refresh(context, board)
    assert shown[0] != shown[1]


def test_a_board_without_its_revocation_list_does_not_serve(authority: Authority, board: Identity) -> None:
    board.revoked.unlink()
    with pytest.raises(IdentityError, match=r"revoked\.pem: is missing"):
        server_context(board)


def test_files_that_are_no_certificates_make_no_context(authority: Authority, tmp_path: Path) -> None:
    credentials = authority.controller("alice")
    for content in (b"", b"-----BEGIN CERTIFICATE-----\n", b"\xff" * 100):
        broken = tmp_path / "broken.pem"
        broken.write_bytes(content)
        with pytest.raises(IdentityError, match="cannot be used for TLS"):
            client_context(broken, credentials.certificate, credentials.key)
