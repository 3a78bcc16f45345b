"""What is wrong with a board's or a fleet's papers; every message is one line."""

from __future__ import annotations


class IdentityError(RuntimeError):
    """Files that are missing, unreadable, open to others, or do not fit together."""


class CertificateError(IdentityError):
    """A certificate, request, key or revocation list that is not what it should be."""
