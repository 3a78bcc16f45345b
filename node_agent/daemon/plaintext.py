"""Plain HTTP on the loopback interface, where everybody is the same peer."""

from __future__ import annotations

import ssl
from typing import Any

from node_agent.daemon.connections import Who
from node_agent.daemon.refusal import Refusal

INSECURE = Who("insecure")

_WITHOUT = "this agent runs without TLS and has no certificate"


class Plaintext:
    """The board's identity where it has none."""

    tls: ssl.SSLContext | None = None
    ends_s: float | None = None

    def identify(self, tls: Any) -> Who:
        return INSECURE

    def refuse(self, peer: Who | None) -> Refusal | None:
        return None

    def request(self) -> bytes:
        raise Refusal(409, _WITHOUT)

    def renew(self, certificate: bytes) -> None:
        raise Refusal(409, _WITHOUT)

    def revoke(self, revocations: bytes) -> None:
        raise Refusal(409, _WITHOUT)
