"""What a board is to its fleet: its key, its certificate, the fleet's authority, and whom the fleet has revoked."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from node_agent import atomic
from node_agent.security import certificates, files
from node_agent.security.certificates import name_of, pem, shown_time, utc_now
from node_agent.security.errors import IdentityError as IdentityError


class Identity:
    """The folder that holds it; made where it is not there. The key never leaves it.

    Args:
        folder: of mode 0700, for nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "key.pem"
        self.certificate = folder / "certificate.pem"
        self.ca = folder / "ca.pem"
        self.revoked = folder / "revoked.pem"
        self._revoked_serials: frozenset[int] = frozenset()
        self._revoked_stamp: tuple[int, int, int] | None = None
        try:
            files.make_private_folder(folder)
            mode = folder.stat().st_mode & 0o777
        except OSError as error:
            raise _cannot("make", folder, error) from error
        if mode & 0o077:
            raise IdentityError(f"{folder}: found mode {mode:04o}, allowed 0700: chmod 700 {folder}")
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            raise IdentityError(f"{folder}: belongs to another user; act as the one that the agent runs as")
        self._sweep(atomic.ABANDONED)

    @property
    def enrolled(self) -> bool:
        # The certificate is written last.
        return all(path.exists() for path in (self.certificate, self.ca, self.revoked, self.key))

    @property
    def name(self) -> str:
        """As the fleet calls this board."""
        return name_of(self._own())

    @property
    def serial(self) -> int:
        return self._own().serial_number

    @property
    def hosts(self) -> tuple[str, ...]:
        """Under which the board is reached, as its certificate says."""
        return certificates.hosts_of(self._own())

    @property
    def ends_at(self) -> datetime:
        """End of the certificate's validity, in UTC."""
        return self._own().not_valid_after_utc

    def check(self) -> None:
        """Raises IdentityError unless all that an enrolled board needs is there, readable, and fits together."""
        for path in (self.key, self.ca, self.revoked, self.certificate):
            if not path.exists():
                raise IdentityError(f"{path}: is missing; this board is not enrolled")
        self._fits(self._own(), self._authority())
        self._listed(self._revocations(), self._authority())

    def make_key(self) -> None:
        """Make the private key where there is none yet."""
        if not self.key.exists():
            try:
                atomic.create(self.key, certificates.key_pem(certificates.make_key()))
            except FileExistsError:
                pass  # another process was faster
            except OSError as error:
                raise _cannot("write", self.key, error) from error
        self._private()

    def request(self, name: str) -> bytes:
        """A certificate request (PEM) for this board's key; the key is made first where there is none."""
        self.make_key()
        subject = certificates.named(certificates.checked_name(name))
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        return pem(builder.sign(self._private(), hashes.SHA256()))

    def accept(self, certificate: bytes, ca: bytes, revoked: bytes) -> None:
        """Become a member of the fleet (all PEM).

        Raises:
            IdentityError: the board is enrolled already, or these do not fit its key and one another; nothing is
                written then.
        """
        if self.enrolled:
            raise IdentityError(f"{self.folder}: this board is enrolled already, as {self.name}")
        authority = certificates.read_certificate(ca, "the authority's certificate")
        own = certificates.read_certificate(certificate)
        revocations = certificates.read_revocations(revoked)
        if not certificates.is_authority(authority) or not certificates.issued_by(authority, authority):
            raise IdentityError("the authority's certificate: found one that is no fleet's authority")
        self._fits(own, authority)
        self._current(own)
        self._listed(revocations, authority)
        if own.serial_number in certificates.serials_of(revocations):
            raise IdentityError("certificate: it is revoked already")
        for path, content in ((self.ca, authority), (self.revoked, revocations), (self.certificate, own)):
            self._write(path, pem(content))

    def renew(self, certificate: bytes) -> None:
        """Take a newer certificate (PEM) for the same key and name.

        Raises:
            IdentityError: it is none for this board, ends before the one that is there, or is revoked.
        """
        own = certificates.read_certificate(certificate)
        self._fits(own, self._authority())
        self._current(own)
        if name_of(own) != self.name:
            raise IdentityError(f"certificate: found one for {name_of(own)}, allowed one for {self.name}")
        if own.not_valid_after_utc < self.ends_at:
            raise IdentityError(f"certificate: found one that ends before the one that is there, {self._span(own)}")
        if self.is_revoked(own.serial_number):
            raise IdentityError("certificate: it is revoked")
        self._write(self.certificate, pem(own))

    def replace_revocations(self, revoked: bytes) -> None:
        """Take a newer revocation list (PEM); the one that is there already is taken again without effect.

        Raises:
            IdentityError: it is none, not by the fleet's authority, or older than the one that is there.
        """
        found = certificates.read_revocations(revoked)
        self._listed(found, self._authority())
        there = self._revocations()
        if pem(found) == pem(there):
            return
        number, least = certificates.number_of(found), certificates.number_of(there)
        # OpenSSL goes by the time alone: of two lists in one context the later one counts.
        if number <= least or found.last_update_utc <= there.last_update_utc:
            raise IdentityError(f"revocation list: found number {number}, allowed one that is newer than {least}")
        self._write(self.revoked, pem(found))

    def is_revoked(self, serial: int) -> bool:
        """Whether the fleet has revoked the certificate of this serial number."""
        try:
            status = self.revoked.stat()
        except OSError as error:
            raise _cannot("read", self.revoked, error) from error
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp != self._revoked_stamp:
            self._revoked_serials = certificates.serials_of(self._revocations())
            self._revoked_stamp = stamp
        return serial in self._revoked_serials

    def forget(self) -> bool:
        """Remove key and certificates; whether there were any."""
        there = [path for path in (self.certificate, self.key, self.ca, self.revoked) if path.exists()]
        try:
            for path in there:
                atomic.remove(path)
        except OSError as error:
            raise _cannot("remove", self.folder, error) from error
        self._sweep(0.0)
        return bool(there)

    def _sweep(self, abandoned_s: float) -> None:
        """Half-written files may hold a key."""
        try:
            atomic.sweep(self.folder, abandoned_s)
        except OSError as error:
            raise _cannot("tidy", self.folder, error) from error

    def _own(self) -> x509.Certificate:
        return self._stored(self.certificate)

    def _authority(self) -> x509.Certificate:
        return self._stored(self.ca)

    def _stored(self, path: Path) -> x509.Certificate:
        try:
            return certificates.read_certificate(path.read_bytes(), str(path))
        except OSError as error:
            raise _cannot("read", path, error) from error

    def _revocations(self) -> x509.CertificateRevocationList:
        try:
            return certificates.read_revocations(self.revoked.read_bytes(), str(self.revoked))
        except OSError as error:
            raise _cannot("read", self.revoked, error) from error

    def _private(self) -> ec.EllipticCurvePrivateKey:
        try:
            return certificates.read_key(files.read_private(self.key), str(self.key))
        except OSError as error:
            raise _cannot("read", self.key, error) from error

    def _fits(self, own: x509.Certificate, authority: x509.Certificate) -> None:
        name_of(own)
        if not certificates.issued_by(own, authority):
            raise IdentityError("certificate: found one that the fleet's authority has not signed")
        if not certificates.same_key(own, self._private()):
            raise IdentityError("certificate: found one for another key than this board's")
        if certificates.role_of(own) != "board":
            raise IdentityError("certificate: found a controller's, allowed a board's")

    def _current(self, own: x509.Certificate) -> None:
        now = utc_now()
        if not own.not_valid_before_utc <= now < own.not_valid_after_utc:
            raise IdentityError(
                f"certificate: found one valid {self._span(own)}, and this board's clock says {shown_time(now)}: "
                f"set the clock that is wrong"
            )

    def _listed(self, revocations: x509.CertificateRevocationList, authority: x509.Certificate) -> None:
        if not certificates.listed_by(revocations, authority):
            raise IdentityError("revocation list: found one that the fleet's authority has not signed")

    def _span(self, own: x509.Certificate) -> str:
        return f"from {shown_time(own.not_valid_before_utc)} to {shown_time(own.not_valid_after_utc)}"

    def _write(self, path: Path, content: bytes) -> None:
        try:
            atomic.replace(path, content)
        except OSError as error:
            raise _cannot("write", path, error) from error


def _cannot(do: str, path: Path, error: OSError) -> IdentityError:
    return IdentityError(f"{path}: cannot {do} it: {error.strerror or error}")
