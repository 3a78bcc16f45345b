"""Who may ask a board for anything: over mutual TLS the members of its fleet, without it everybody on the board."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from node_agent.daemon.refusal import Refusal
from node_agent.security.contexts import Peer, peer_of, refresh, server_context
from node_agent.security.errors import CertificateError, IdentityError
from node_agent.security.identity import Identity

INSECURE = Peer("insecure", 0, "controller")
"""everybody on the loopback interface, where there is no TLS"""

_WITHOUT = "this agent runs without TLS and has no certificate"


class Membership:
    """The board's identity, as routes and connections need it."""

    def __init__(self, identity: Identity) -> None:
        """Raises IdentityError."""
        self._identity = identity
        self.tls: ssl.SSLContext | None = server_context(identity)
        self.ends_s: float | None = identity.ends_at.timestamp()
        self.after_revocation: Callable[[], object] = lambda: None

    def identify(self, tls: ssl.SSLObject | None) -> Peer | None:
        try:
            return peer_of(tls) if tls is not None else None
        except CertificateError:
            return None

    def refuse(self, peer: Peer | None) -> Refusal | None:
        """Why a peer may not ask for anything; asked anew for each request."""
        if peer is None:
            return Refusal(401, "certificate: found none of this fleet")
        if peer.role != "controller":
            return Refusal(403, f"certificate: found a {peer.role}'s, allowed a controller's")
        if peer.ends_s <= time.time():
            return Refusal(403, f"certificate: found {peer.name}'s, which has ended")
        try:
            revoked = self._identity.is_revoked(peer.serial)
        except IdentityError as error:
            return Refusal(403, str(error))
        return Refusal(403, f"certificate: found {peer.name}'s, which is revoked") if revoked else None

    def request(self) -> bytes:
        """A certificate signing request for the board's key, PEM."""
        with _refused(409):
            return self._identity.request(self._identity.name)

    def renew(self, certificate: bytes) -> None:
        with _refused(422):
            self._identity.renew(certificate)
            self._refresh()

    def revoke(self, revocations: bytes) -> None:
        with _refused(422):
            self._identity.replace_revocations(revocations)
            self._refresh()
        self.after_revocation()

    def _refresh(self) -> None:
        if self.tls is not None:
            refresh(self.tls, self._identity)
        self.ends_s = self._identity.ends_at.timestamp()


class Plaintext:
    """The board's identity where it has none: plain HTTP on the loopback interface."""

    tls: ssl.SSLContext | None = None
    ends_s: float | None = None

    def identify(self, tls: ssl.SSLObject | None) -> Peer:
        return INSECURE

    def refuse(self, peer: Peer | None) -> Refusal | None:
        return None

    def request(self) -> bytes:
        raise Refusal(409, _WITHOUT)

    def renew(self, certificate: bytes) -> None:
        raise Refusal(409, _WITHOUT)

    def revoke(self, revocations: bytes) -> None:
        raise Refusal(409, _WITHOUT)


@contextmanager
def _refused(code: int) -> Iterator[None]:
    try:
        yield
    except IdentityError as error:
        raise Refusal(code, str(error)) from None
