"""What people read when a board and their workstation do not trust each other; each case from a real handshake."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from boards import HOST, enrolled, small_agent

from edgesim.fleet.authority import Authority
from edgesim.fleet.tls_errors import tls_reason
from node_agent.security.contexts import client_context
from node_agent.security.identity import Identity


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "fleet")


@pytest.fixture
def board(authority: Authority, tmp_path: Path) -> Identity:
    return enrolled(authority, tmp_path / "board")


def reason(port: int, context: ssl.SSLContext, host: str = HOST) -> str:
    with pytest.raises(httpx.HTTPError) as failure, httpx.Client(verify=context, trust_env=False, timeout=10) as client:
        client.get(f"https://{host}:{port}/v1/certificate-request")
    told = tls_reason(failure.value, "orin-1:7443")
    assert told is not None
    assert "\n" not in told
    return told


Case = Callable[[Authority, Path], ssl.SSLContext]


def of_another_fleet(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    other = Authority.create(tmp_path / "other").controller("alice")
    return client_context(authority.ca, other.certificate, other.key)


def ended(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    return authority.controller("late", days=-1).context()


def not_yet_valid(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    """As one is for a board whose clock starts in the past."""
    with pytest.MonkeyPatch.context() as patch:
        from edgesim.fleet import authority as module

        later = module.utc_now() + module.timedelta(days=1)
        patch.setattr(module, "utc_now", lambda: later)
        return authority.controller("early").context()


def a_boards(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    second = enrolled(authority, tmp_path / "second", "orin-2")
    return client_context(authority.ca, second.certificate, second.key)


def nobodys(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.ca)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (of_another_fleet, "orin-1:7443 refused our certificate: it is of another fleet"),
        (ended, "orin-1:7443 refused our certificate as expired: its clock may be wrong"),
        (not_yet_valid, "orin-1:7443 refused our certificate as not yet valid: its clock may be wrong"),
        (a_boards, "orin-1:7443 refused our certificate: it is no controller's"),
        (nobodys, "orin-1:7443 asks for a controller's certificate, and we have shown none"),
    ],
)
def test_what_the_board_has_against_us(
    authority: Authority, board: Identity, tmp_path: Path, case: Case, told: str
) -> None:
    with small_agent(board) as port:
        assert reason(port, case(authority, tmp_path)).startswith(told)


def test_that_we_are_revoked(authority: Authority, board: Identity) -> None:
    context = authority.controller("bob").context()
    authority.revoke("bob")
    board.replace_revocations(authority.crl())
    with small_agent(board) as port:
        assert reason(port, context) == "orin-1:7443 refused our certificate: it is revoked"


def test_what_we_have_against_the_board(authority: Authority, board: Identity, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other").controller("alice").context()
    ours = authority.controller("alice").context()
    with small_agent(board) as port:
        assert "is not of this fleet's CA" in reason(port, other)
        assert reason(port, ours, "localhost") == (
            "the certificate that orin-1:7443 shows is for another address: enroll it under the one that is used"
        )
        authority.revoke("orin-1")
        assert reason(port, authority.controller("alice").context()) == (
            "the certificate of orin-1:7443 is revoked: enroll again"
        )
    late = enrolled(authority, tmp_path / "late", "orin-2", days=-1)
    with small_agent(late) as port:
        assert reason(port, ours) == "the certificate of orin-1:7443 has expired: enroll again"


def test_when_a_certificate_has_expired_is_told_where_it_is_known(authority: Authority, tmp_path: Path) -> None:
    late = enrolled(authority, tmp_path / "late", days=-1)
    with (
        small_agent(late) as port,
        socket.create_connection((HOST, port), 10) as plain,
        pytest.raises(ssl.SSLError) as failure,
    ):
        authority.controller("alice").context().wrap_socket(plain, server_hostname=HOST)
    told = tls_reason(failure.value, "orin-1", late.ends_at)
    assert told == f"the certificate of orin-1 has expired on {late.ends_at:%Y-%m-%d %H:%M} UTC: enroll again"


@contextmanager
def answering(octets: bytes) -> Iterator[int]:
    from boards import in_a_thread

    listening = socket.create_server((HOST, 0))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(octets)
        writer.close()

    async def main(stop: asyncio.Event) -> None:
        server = await asyncio.start_server(answer, sock=listening)
        await stop.wait()
        server.close()

    with in_a_thread(main):
        yield listening.getsockname()[1]


def test_what_speaks_no_tls(authority: Authority) -> None:
    context = authority.controller("alice").context()
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert reason(port, context) == "orin-1:7443 does not speak TLS: no agent, or one with --insecure"


def test_other_failures_are_none_of_tls() -> None:
    assert tls_reason(httpx.ConnectError("refused"), "orin-1") is None
    assert tls_reason(ConnectionRefusedError(111, "Connection refused"), "orin-1") is None
