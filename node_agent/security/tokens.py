"""One-time tokens: what lets a workstation enrol a board, and the workstation be sure of the board.

A token is SECRET.FINGERPRINT in base32. The secret (120 random bits) proves to the board that its owner has sent the
workstation. Nobody guesses it within its hour, so wrong ones are not counted: whoever reaches the board could make its
token worthless with a few of them. The fingerprint (the first 160 bits of the SHA-256 of the board's bootstrap
certificate) proves to the workstation that nobody stands between: it compares before it says the secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from pydantic import BaseModel, ConfigDict, ValidationError

from node_agent import atomic
from node_agent.security import certificates, files
from node_agent.security.errors import IdentityError

LASTING = 3600.0
"""s that a token is valid"""

_SECRET_BYTES, _FINGERPRINT_BYTES = 15, 20  # multiples of five bytes: base32 needs no padding
_FORM = re.compile(r"([a-z2-7]{24})\.([a-z2-7]{32})")
_BOOTSTRAP_LASTING = timedelta(days=3650)


class TokenError(RuntimeError):
    """What was given is no token; one line, without what was given."""


class TokenRefused(RuntimeError):
    """The board does not take this secret; `reason` is for those alone who know the right one."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or "refused")
        self.reason = reason


@dataclass(frozen=True)
class Token:
    secret: str
    fingerprint: bytes

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises TokenError."""
        parts = _FORM.fullmatch(text.strip().lower())
        if parts is None:
            raise TokenError(
                "token: found something else, allowed what `node-agent token` prints: "
                "24 characters, a full stop, 32 characters"
            )
        return cls(parts[1], base64.b32decode(parts[2].upper()))

    def __str__(self) -> str:
        return f"{self.secret}.{_base32(self.fingerprint)}"

    def __repr__(self) -> str:
        return f"Token(…, {_base32(self.fingerprint)})"

    def pins(self, certificate: bytes) -> bool:
        """Whether this is the certificate (DER) that the board has told of."""
        return hmac.compare_digest(self.fingerprint, fingerprint(certificate))


def fingerprint(certificate: bytes) -> bytes:
    """The first 160 bits of the SHA-256 of a certificate (DER)."""
    return hashlib.sha256(certificate).digest()[:_FINGERPRINT_BYTES]


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")

    digest: str
    made_s: float
    used: bool = False


class Tokens:
    """The one token that a board knows at a time, without its secret, and the bootstrap certificate that it pins.

    Args:
        folder: the identity's.
        clock: s since 1970.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._path = folder / "token.json"
        self._clock = clock
        self.bootstrap = folder / "bootstrap.pem"
        """key and certificate in one file"""

    def make(self) -> Token:
        """A new token; the one before is worth nothing from now on.

        Raises:
            IdentityError: the folder cannot be written.
        """
        pinned = fingerprint(self.make_bootstrap())
        secret = _base32(secrets.token_bytes(_SECRET_BYTES))
        try:
            with files.locked(self._folder):
                self._keep(_Kept(digest=_digest(secret), made_s=self._clock()))
        except OSError as error:
            raise IdentityError(f"{self._path}: cannot write it: {error.strerror}") from error
        return Token(secret, pinned)

    def make_bootstrap(self) -> bytes:
        """The bootstrap certificate (DER), made first where there is none.

        Raises:
            IdentityError: its file cannot be read or written, or others can read it.
        """
        try:
            if not self.bootstrap.exists():
                key = certificates.make_key()
                own = certificates.self_signed(key, "bootstrap", certificates.utc_now(), _BOOTSTRAP_LASTING)
                with suppress(FileExistsError):  # another process was faster
                    atomic.create(self.bootstrap, certificates.key_pem(key) + certificates.pem(own))
            content = files.read_private(self.bootstrap)
        except OSError as error:
            raise IdentityError(f"{self.bootstrap}: cannot be used: {error.strerror}") from error
        certificate = certificates.read_certificate(content, str(self.bootstrap))
        return certificate.public_bytes(serialization.Encoding.DER)

    def forget_bootstrap(self) -> None:
        """Raises IdentityError where it cannot be removed."""
        try:
            atomic.remove(self.bootstrap)
        except OSError as error:
            raise IdentityError(f"{self.bootstrap}: cannot be removed: {error.strerror}") from error

    def check(self, secret: str) -> None:
        """Raises TokenRefused unless this is the secret of a token that is still good.

        Raises:
            IdentityError: the token's file cannot be read.
        """
        try:
            kept = self._kept()
        except OSError as error:
            raise IdentityError(f"{self._path}: cannot be used: {error.strerror}") from error
        if not hmac.compare_digest(_digest(secret), kept.digest if kept else "") or kept is None:
            raise TokenRefused
        if kept.used:
            raise TokenRefused("this token has been used already")
        # A clock that was set back must not make a token last longer.
        if not 0 <= self._clock() - kept.made_s < LASTING:
            raise TokenRefused("this token has expired: they are valid for one hour")

    def use_up(self) -> None:
        """The token is worth nothing from now on; it is remembered, so that who comes again with it is told so."""
        try:
            with files.locked(self._folder):
                if (kept := self._kept()) is not None:
                    self._keep(kept.model_copy(update={"used": True}))
        except OSError as error:
            raise IdentityError(f"{self._path}: cannot be used: {error.strerror}") from error

    def _kept(self) -> _Kept | None:
        try:
            return _Kept.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise IdentityError(f"{self._path}: found what cannot be read; make a new token") from error

    def _keep(self, kept: _Kept) -> None:
        atomic.replace(self._path, kept.model_dump_json().encode(), atomic.PRIVATE)


def _digest(secret: str) -> str:
    # The secret is random and long: a slow hash would add nothing.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _base32(content: bytes) -> str:
    return base64.b32encode(content).decode().lower()
