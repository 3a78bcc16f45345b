"""How a board becomes a member of the fleet, and stays one: the workstation's side."""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import httpx

from edgesim.fleet.address import Address
from edgesim.fleet.authority import Authority, AuthorityError, EnrolledBoard
from edgesim.fleet.tls_errors import causes, tls_reason
from node_agent.security import certificates
from node_agent.security.certificates import shown_time
from node_agent.security.errors import IdentityError
from node_agent.security.tokens import Token

PATH = "/v1/enrolment"
TIMEOUT = 10.0
"""s without an answer"""
CHANGING_OVER = 5.0
"""s that a board may take from its bootstrap certificate to its own"""
LARGEST_ANSWER = 64 * 1024
"""bytes"""


class EnrolmentError(RuntimeError):
    """A board that has not become, or has not stayed, a member; one line."""


class _Unanswered(EnrolmentError):
    """Whether what was sent has arrived is not known."""


class _Pinned(http.client.HTTPSConnection):
    """Says nothing to a board whose certificate is not the one that the token names."""

    def __init__(self, address: Address, token: Token) -> None:
        # Nobody vouches for a bootstrap certificate: it is its fingerprint that counts.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        super().__init__(address.host, address.port, timeout=TIMEOUT, context=context)
        self._address = address
        self._token = token

    def connect(self) -> None:
        super().connect()
        assert isinstance(self.sock, ssl.SSLSocket)
        shown = self.sock.getpeercert(binary_form=True)
        if shown is None or not self._token.pins(shown):
            self.close()
            raise EnrolmentError(
                f"{self._address}: its certificate is not the one that the token names, so nothing was sent. Is the "
                f"token of this board, and its newest? If the board was enrolled before: node-agent forget, restart "
                f"its agent, node-agent token. If all that is so, somebody stands between"
            )


def enroll(authority: Authority, address: Address, token: Token, name: str | None = None) -> EnrolledBoard:
    """Give a board its certificate.

    Args:
        address: of its agent, as the board will be reached from now on.
        token: as `node-agent token` has printed it there.
        name: of the board in the fleet; default: by its own configuration. It is known by its name, and reached under
            its address alone: a name leads nowhere.

    Raises:
        EnrolmentError: it cannot be reached, is not the one that the token names, or refuses.
        AuthorityError: the name is another board's or an address, or the fleet's folder cannot be used.
    """
    answer = _ask(address, token, "POST", {"secret": token.secret})
    try:
        csr = str(json.loads(answer)["csr"]).encode()
        name = name or certificates.name_of(certificates.read_request(csr))
    except (ValueError, KeyError, TypeError, IdentityError) as error:
        raise EnrolmentError(f"{address}: answered without a certificate request that can be used") from error
    _refuse_anothers(authority, address, name)
    certificate = authority.issue(csr, name, [address.host])
    membership = {
        "secret": token.secret,
        "certificate": certificate.decode(),
        "ca": authority.ca_pem.decode(),
        "revoked": authority.crl().decode(),
    }
    try:
        _ask(address, token, "PUT", membership)
    except _Unanswered:
        if not _has_taken(authority, address, certificate):
            raise
    return authority.record(str(address), certificate)


def renew_if_due(
    authority: Authority,
    board: EnrolledBoard,
    request: Callable[[], bytes],
    deliver: Callable[[bytes], object],
    always: bool = False,
) -> EnrolledBoard | None:
    """Give a board a new certificate when less than a third of the validity of its own is left.

    Args:
        request: asks the board for its request (PEM): GET /v1/certificate-request.
        deliver: hands it the certificate (PEM): PUT /v1/certificate.
        always: also where it is not due yet.

    Returns:
        the board as it is known from now on; None: nothing was to do.

    Raises:
        AuthorityError: the request cannot be used, or the fleet's folder cannot.
    """
    if not (always or board.due):
        return None
    address = Address.parse(board.address)
    certificate = authority.issue(request(), board.name, [address.host])
    deliver(certificate)
    return authority.record(board.address, certificate)


def renew(authority: Authority, board: EnrolledBoard, always: bool = True) -> EnrolledBoard | None:
    """As `renew_if_due`, over a connection of its own. Raises EnrolmentError where the board does not do its part."""
    if board.left <= timedelta(0):
        raise EnrolmentError(f"{board.name}: its certificate has expired on {shown_time(board.ends)}: enroll again")
    with _client(authority, board) as client:
        return renew_if_due(
            authority,
            board,
            lambda: _answer(client, board, "GET", "/v1/certificate-request"),
            lambda certificate: _answer(client, board, "PUT", "/v1/certificate", certificate),
            always,
        )


def deliver_revocations(authority: Authority, board: EnrolledBoard) -> None:
    """Give a board the revocation list. Raises EnrolmentError where it does not take it."""
    with _client(authority, board) as client:
        _answer(client, board, "PUT", "/v1/revocations", authority.crl())


def _refuse_anothers(authority: Authority, address: Address, name: str) -> None:
    """A board may choose its name: it must lead to no other one."""
    if _is_number(name):
        raise AuthorityError(f"{address}: found the name {name}, which is an address: --name gives it another one")
    for other in authority.boards().values():
        if other.address == str(address) or other.left <= timedelta(0):
            continue
        if other.name == name:
            raise AuthorityError(
                f"{address}: found the name {name}, which is the board's at {other.address}: "
                f"--name gives it another one, edgesim fleet revoke {name} frees it"
            )
        if name.lower() in (Address.parse(other.address).host, other.name.lower()):
            raise AuthorityError(f"{address}: found the name {name}, which leads to {other.name}: give another --name")
        if address.host == other.name.lower():
            raise AuthorityError(
                f"{address}: found an address that is the name of the board at {other.address}: "
                f"edgesim fleet revoke {other.name} frees it"
            )


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _ask(address: Address, token: Token, method: str, body: dict[str, str]) -> bytes:
    connection = _Pinned(address, token)
    try:
        with closing(connection):
            connection.request(method, PATH, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read(LARGEST_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise _Unanswered(_reason(error, address)) from error
    if response.status == 403:
        said = _said(content)
        why = "a wrong one" if said in ("", "refused") else said
        raise EnrolmentError(f"{address}: refuses the token ({why}); make a new one on the board: node-agent token")
    if not 200 <= response.status < 300:
        raise EnrolmentError(f"{address}: {_said(content) or f'answered {response.status} without a reason'}")
    return content


def _has_taken(authority: Authority, address: Address, certificate: bytes) -> bool:
    """Whether the board shows the certificate already."""
    expected = certificates.read_certificate(certificate).serial_number
    context = authority.controller().context()
    until = time.monotonic() + CHANGING_OVER
    while True:
        try:
            with (
                socket.create_connection((address.host, address.port), TIMEOUT) as plain,
                context.wrap_socket(plain, server_hostname=address.host) as secured,
            ):
                shown = secured.getpeercert(binary_form=True)
            return shown is not None and certificates.read_der(shown).serial_number == expected
        except OSError:
            if time.monotonic() > until:
                return False
            time.sleep(0.2)


def _client(authority: Authority, board: EnrolledBoard) -> httpx.Client:
    try:
        context = authority.controller().context()
    except IdentityError as error:
        raise AuthorityError(str(error)) from error
    # No proxy stands between, and no answer leads elsewhere.
    return httpx.Client(
        verify=context, base_url=f"https://{board.address}", timeout=TIMEOUT, trust_env=False, follow_redirects=False
    )


def _answer(client: httpx.Client, board: EnrolledBoard, method: str, path: str, content: bytes | None = None) -> bytes:
    headers = {"Content-Type": "text/plain"} if content is not None else None
    try:
        with client.stream(method, path, content=content, headers=headers) as response:
            answer = b""
            for part in response.iter_raw():
                answer += part
                if len(answer) > LARGEST_ANSWER:
                    raise EnrolmentError(f"{board.name}: found an answer of more than {LARGEST_ANSWER} bytes")
    except httpx.HTTPError as error:
        raise EnrolmentError(f"{board.name}: {_reason(error, board.address, board.ends)}") from error
    if not response.is_success:
        raise EnrolmentError(f"{board.name}: {_said(answer) or f'answered {response.status_code} without a reason'}")
    return answer


def _reason(error: Exception, address: object, ends: datetime | None = None) -> str:
    if told := tls_reason(error, address, ends):
        return told
    found = list(causes(error))
    if any(isinstance(one, TimeoutError | httpx.TimeoutException) for one in found):
        return f"no answer from {address} within {TIMEOUT:g} s"
    said = [one.strerror for one in found if isinstance(one, OSError) and one.strerror]
    return f"no connection to {address}: {said[-1] if said else str(error) or type(error).__name__}"


def _said(content: bytes) -> str:
    """What the body of a refusal says, fit for a terminal."""
    try:
        said: Any = json.loads(content)
        error = said["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return "".join(character if character.isprintable() else " " for character in str(error))[:300]
