"""Plain HTTP on the loopback interface, where everybody is the same peer."""

from __future__ import annotations

import ssl

from node_agent.daemon.refusal import Refusal
from node_agent.security.contexts import Peer

INSECURE = Peer("insecure", 0, "controller")

_WITHOUT = "this agent runs without TLS and has no certificate"


class Plaintext:
    """The board's identity where it has none."""

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
