"""TLS of a board and of a controller: version 1.3 alone, both sides with certificates of one fleet."""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass
from pathlib import Path

from node_agent.security import certificates
from node_agent.security.certificates import Role
from node_agent.security.errors import CertificateError, IdentityError
from node_agent.security.identity import Identity


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a connection, by a certificate that the handshake has verified."""

    name: str
    serial: int
    role: Role
    ends_s: float = math.inf
    """s since 1970 of the end of the certificate's validity"""


class _Telling(ssl.SSLObject):
    """Tells the peer why its handshake failed.

    OpenSSL leaves an alert in the outgoing buffer for that, but asyncio closes the connection of a failed handshake
    without sending what is in the buffer. Asking for more to read makes it send; the failure comes when the peer, who
    has read the alert, says something or goes.
    """

    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._failure = error
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "an alert is to be sent first") from error


def server_context(identity: Identity) -> ssl.SSLContext:
    """For a board: who comes without a controller's certificate of this fleet, valid and not revoked, gets no further
    than the handshake.

    Raises:
        IdentityError: the board is not enrolled, or its files cannot be used.
    """
    identity.check()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
    # A resumed session would not be verified again: who was revoked meanwhile would come in.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.sslobject_class = _Telling
    _load(context, identity.certificate, identity.key, identity.ca)
    refresh(context, identity)
    return context


def refresh(context: ssl.SSLContext, identity: Identity) -> None:
    """Use the identity's present certificate and revocation list for handshakes from now on.

    Raises:
        IdentityError: they cannot be used.
    """
    try:
        context.load_cert_chain(identity.certificate, identity.key)
        # Lists add up in a context: of those by one authority, OpenSSL takes the one that was made last.
        context.load_verify_locations(cafile=identity.revoked)
    except (ssl.SSLError, OSError) as error:
        raise IdentityError(f"{identity.folder}: cannot be used for TLS: {error}") from error


def client_context(ca: Path, certificate: Path, key: Path, revoked: Path | None = None) -> ssl.SSLContext:
    """For a controller: only boards of the authority `ca` are spoken to, under a name that their certificate holds.

    Args:
        revoked: the fleet's revocation list; None: boards are not looked up there.

    Raises:
        IdentityError: the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which requires a certificate and checks the host's name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    _load(context, certificate, key, ca)
    if revoked is not None:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        _load(context, certificate, key, revoked)
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path, trusted: Path) -> None:
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(cafile=trusted)
    except (ssl.SSLError, OSError) as error:
        raise IdentityError(f"{certificate.parent}: cannot be used for TLS: {error}") from error


def peer_of(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> Peer:
    """Who is at the other end of a connection whose handshake is done.

    Raises:
        CertificateError: the peer has shown no certificate, or none of a fleet.
    """
    shown = ssl_object.getpeercert(binary_form=True)
    if shown is None:
        raise CertificateError("peer: it has shown no certificate")
    certificate = certificates.read_der(shown)
    return Peer(
        certificates.name_of(certificate),
        certificate.serial_number,
        certificates.role_of(certificate),
        certificate.not_valid_after_utc.timestamp(),
    )
