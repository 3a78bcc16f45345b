"""Why a board and this workstation do not trust each other, in words.

Boards tell by the alerts of RFC 8446, section 6.2; what is wrong with a board's certificate OpenSSL tells here, by the
codes of `X509_STORE_CTX_get_error`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import datetime

from node_agent.security.certificates import shown_time

_ITS_CLOCK = "its clock may be wrong (boards without a battery start in the past), or this machine's"

_ALERTS = {
    "CERTIFICATE_REVOKED": "refused our certificate: it is revoked",
    "UNKNOWN_CA": "refused our certificate: it is of another fleet",
    "DECRYPT_ERROR": "refused our certificate: it is of another fleet",
    "CERTIFICATE_EXPIRED": f"refused our certificate as expired: {_ITS_CLOCK}",
    "BAD_CERTIFICATE": f"refused our certificate as not yet valid: {_ITS_CLOCK}",
    "UNSUPPORTED_CERTIFICATE": "refused our certificate: it is no controller's",
    "CERTIFICATE_REQUIRED": "asks for a controller's certificate, and we have shown none",
    "CERTIFICATE_UNKNOWN": "refused our certificate (revoked or of another fleet)",
    "ACCESS_DENIED": "refused our certificate (revoked or of another fleet)",
    "PROTOCOL_VERSION": "does not take the version of TLS that we offer",
    "HANDSHAKE_FAILURE": "offers nothing in TLS that we take",
}

_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}

_EXPIRED, _NOT_YET_VALID, _REVOKED = 10, 9, 23
_LIST_NOT_YET_VALID, _LIST_EXPIRED = 11, 12
_WRONG_HOST = {62, 64}
_WRONG_PURPOSE = {26, 79}


def tls_reason(error: BaseException, address: object, ends: datetime | None = None) -> str | None:
    """Why a connection to a board failed, on one line; None where TLS is not the reason.

    Args:
        error: of `ssl`, or of a library that has one of `ssl` as its cause.
        address: of the board.
        ends: when the board's certificate ends, where that is known.
    """
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _of_its_certificate(cause, address, ends)
        if isinstance(cause, ssl.SSLError):
            return _of_alert(cause, address)
    return None


def _of_its_certificate(error: ssl.SSLCertVerificationError, address: object, ends: datetime | None) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        when = f" on {shown_time(ends)}" if ends is not None else ""
        return f"the certificate of {address} has expired{when}: enroll again"
    if code == _NOT_YET_VALID:
        return f"the certificate of {address} is not yet valid: this machine's clock is behind"
    if code == _REVOKED:
        return f"the certificate of {address} is revoked: enroll again"
    if code in (_LIST_NOT_YET_VALID, _LIST_EXPIRED):
        return "this fleet's revocation list is not valid now: this machine's clock is wrong"
    if code in _WRONG_HOST:
        return f"the certificate that {address} shows is for another address: enroll it under the one that is used"
    if code in _WRONG_PURPOSE:
        return f"the certificate that {address} shows is no board's"
    return f"the certificate that {address} shows is not of this fleet's CA ({error.verify_message})"


def _of_alert(error: ssl.SSLError, address: object) -> str:
    reason = error.reason or ""
    for alert, meaning in _ALERTS.items():
        if reason.endswith(f"ALERT_{alert}"):
            return f"{address} {meaning}"
    if reason in _NO_TLS:
        return f"{address} does not speak TLS: no agent, or one with --insecure"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "EOF" in reason:
        return f"{address} closed the connection in the middle of TLS"
    return f"TLS with {address} failed: {reason.replace('_', ' ').lower() or error}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what has led to it: as its cause or context, or carried along by a library that wraps it."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        cause = pending.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        pending += [cause.__cause__, cause.__context__, *(arg for arg in cause.args if isinstance(arg, BaseException))]
