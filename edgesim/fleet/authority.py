"""The fleet's private certificate authority, kept in a folder of the workstation.

ca-key.pem, ca.pem         the authority: EC P-256, ten years, for boards and controllers directly below it alone
ledger.json                every certificate issued that is still valid, and every one revoked
revoked.pem                the revocation list that boards are given (RFC 5280, section 5)
boards.yaml                the boards that were enrolled: address, serial number, end of validity
controllers/NAME/          key and certificate of whoever steers boards from here
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgesim.fleet.address import Address
from node_agent import atomic
from node_agent.security import certificates, files
from node_agent.security.certificates import Role, checked_name, pem, utc_now
from node_agent.security.contexts import client_context
from node_agent.security.errors import IdentityError

BACKDATED = timedelta(minutes=10)
"""how long before its making a certificate begins to be valid: boards' clocks are not all right"""

AUTHORITY_LASTING = timedelta(days=3650)
BOARD_DAYS = 30.0
CONTROLLER_DAYS = 30.0

DUE = timedelta(days=BOARD_DAYS) / 3
"""what may be left of the validity of a board's certificate that is to be renewed"""

LISTED_AFTER_END = timedelta(days=365)
"""how long a revoked certificate stays in the list once it has ended"""

FIRST_LIST = 1
"""number of the revocation list that a fleet begins with, in which nobody is"""

_CONTROLLER_PLACE = "controllers"


class AuthorityError(RuntimeError):
    """The fleet's folder cannot be used so, or there is no such board; one line that says what to do."""


class EnrolledBoard(BaseModel):
    """What the workstation knows of a board; `serial` in hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    address: str
    serial: str
    ends: AwareDatetime

    @field_validator("address")
    @classmethod
    def _usual(cls, address: str) -> str:
        return str(Address.parse(address))

    @property
    def left(self) -> timedelta:
        """Of the certificate's validity; negative: it has ended."""
        return self.ends - utc_now()

    @property
    def due(self) -> bool:
        """Whether less than a third of the validity is left."""
        return self.left < DUE


class _Issued(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    serial: str
    name: str
    role: Role
    ends: AwareDatetime


class _Revoked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    serial: str
    name: str
    at: AwareDatetime
    ends: AwareDatetime


class _Ledger(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lists: int = Field(default=FIRST_LIST - 1, description="number of the last revocation list")
    listed: AwareDatetime | None = Field(default=None, description="its time")
    issued: list[_Issued] = []
    revoked: list[_Revoked] = []


@dataclass(frozen=True)
class Credentials:
    """What a controller shows to boards, and what it verifies them by; all PEM files."""

    name: str
    certificate: Path
    key: Path
    ca: Path
    revoked: Path
    ends: datetime

    def context(self) -> ssl.SSLContext:
        """For HTTPS to boards of the fleet; raises IdentityError where the files cannot be used."""
        return client_context(self.ca, self.certificate, self.key, self.revoked)


def default_folder() -> Path:
    """$EDGESIM_FLEET, else edgesim/fleet in the user's configuration folder (~/.config)."""
    if given := os.environ.get("EDGESIM_FLEET"):
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgesim" / "fleet"


class Authority:
    """An open fleet folder. Made by `create`, used by `open`; several processes may use one folder at a time."""

    def __init__(self, folder: Path, certificate: x509.Certificate) -> None:
        self.folder = folder
        self.ca = folder / "ca.pem"
        self.revoked = folder / "revoked.pem"
        self._key_path = folder / "ca-key.pem"
        self._ledger_path = folder / "ledger.json"
        self._boards_path = folder / "boards.yaml"
        self._certificate = certificate

    @classmethod
    def create(cls, folder: Path, name: str = "edgesim fleet") -> Authority:
        """Make a new fleet.

        Raises:
            AuthorityError: there is one already, or the folder holds something else or cannot be written.
        """
        folder = folder.absolute()
        if (folder / "ca.pem").exists():
            raise AuthorityError(f"{folder}: there is a fleet already; --fleet DIR makes another one elsewhere")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise AuthorityError(f"{folder}: found something else there, allowed a new or an empty folder")
        key = certificates.make_key()
        certificate = _authority_certificate(key, f"{name} {secrets.token_hex(4)}")
        # Whole or not at all: a folder with a key but without its certificate would be in the way for ever.
        fresh = not folder.exists()
        made = (folder.parent if fresh else folder) / f".{folder.name}.{secrets.token_hex(4)}.partial"
        try:
            files.make_private_folder(made)
            atomic.create(made / "ca-key.pem", certificates.key_pem(key))
            atomic.create(made / "ca.pem", pem(certificate), atomic.PUBLIC)
            cls(made, certificate)._write_list(_Ledger())
            if fresh:
                made.rename(folder)
            else:  # somebody may stand in it: it stays the folder that it is
                folder.chmod(files.PRIVATE_FOLDER)
                for path in sorted(made.iterdir(), key=lambda path: path.name == "ca.pem"):
                    path.rename(folder / path.name)
        except OSError as error:
            raise AuthorityError(f"{folder}: cannot make it: {error.strerror or error}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path | None = None) -> Authority:
        """Raises AuthorityError where there is none, or its files cannot be used."""
        folder = folder or default_folder()
        path = folder / "ca.pem"
        try:
            certificate = certificates.read_certificate(path.read_bytes(), str(path))
        except FileNotFoundError:
            raise AuthorityError(f"{folder}: no fleet there; make one with: edgesim fleet init") from None
        except OSError as error:
            raise AuthorityError(f"{path}: cannot be read: {error.strerror}") from error
        except IdentityError as error:
            raise AuthorityError(str(error)) from error
        return cls(folder, certificate)

    @property
    def ca_pem(self) -> bytes:
        return pem(self._certificate)

    def issue(self, csr: bytes, name: str, hosts: Iterable[str], days: float = BOARD_DAYS) -> bytes:
        """A board's certificate (PEM) for the key of its request; it is in the ledger before it is handed out.

        Args:
            name: of the board, whatever its request says.
            hosts: names and addresses under which it is reached.
            days: of validity; negative: it has ended already.

        Raises:
            AuthorityError: request, name or hosts are not acceptable, or the folder cannot be written.
        """
        try:
            key = certificates.read_request(csr).public_key()
            alternatives = certificates.alternatives(hosts)
        except IdentityError as error:
            raise AuthorityError(str(error)) from error
        assert isinstance(key, ec.EllipticCurvePublicKey)  # read_request has seen to it
        return pem(self._issue(key, name, "board", timedelta(days=days), alternatives))

    def controller(self, name: str | None = None, days: float = CONTROLLER_DAYS) -> Credentials:
        """Credentials of a controller, made, or renewed when less than a third of their validity is left.

        Args:
            name: by which boards know who owns a job; default: USER@HOST of this workstation.

        Raises:
            AuthorityError: the folder cannot be used.
        """
        name = _acceptable(name or _own_name())
        place = self.folder / _CONTROLLER_PLACE / name
        certificate_path, key_path = place / "certificate.pem", place / "key.pem"
        try:
            files.make_private_folder(place)
            with files.locked(place):
                certificate = _existing(certificate_path)
                revoked = certificate is not None and self.is_revoked(certificate.serial_number)
                if revoked:  # the key may be in others' hands
                    atomic.remove(certificate_path)
                    atomic.remove(key_path)
                if certificate is None or revoked or due(certificate):
                    if not key_path.exists():
                        atomic.create(key_path, certificates.key_pem(certificates.make_key()))
                    key = certificates.read_key(files.read_private(key_path), str(key_path)).public_key()
                    certificate = self._issue(key, name, "controller", timedelta(days=days), None)
                    atomic.replace(certificate_path, pem(certificate))
                files.read_private(key_path)
        except OSError as error:
            raise AuthorityError(f"{place}: cannot be used: {error.strerror or error}") from error
        except IdentityError as error:
            raise AuthorityError(str(error)) from error
        return Credentials(name, certificate_path, key_path, self.ca, self.revoked, certificate.not_valid_after_utc)

    def revoke(self, name_or_serial: str) -> list[str]:
        """Revoke all certificates of a board or controller, or the one with this serial number (hexadecimal).

        Those that are revoked already are named again: doing it twice does no harm.

        Returns:
            serial numbers, hexadecimal.

        Raises:
            AuthorityError: nothing valid was issued under this name or number.
        """
        with self._changing() as ledger:
            asked = name_or_serial.lower().lstrip("0") if re.fullmatch("[0-9a-fA-F]+", name_or_serial) else None
            meant = [one for one in ledger.issued if name_or_serial == one.name or one.serial == asked]
            if not meant:
                known = ", ".join(sorted({one.name for one in ledger.issued})) or "none"
                raise AuthorityError(f"found {name_or_serial!r}, allowed a name or serial number of: {known}")
            there = {one.serial for one in ledger.revoked}
            fresh = [one for one in meant if one.serial not in there]
            now = utc_now()
            ledger.revoked += [_Revoked(**one.model_dump(exclude={"role"}), at=now) for one in fresh]
            # Boards whose clock is slow still need those that have ended lately.
            ledger.revoked = [one for one in ledger.revoked if one.ends > now - LISTED_AFTER_END]
            if fresh or not self._lists(ledger.revoked):
                self._write_list(ledger)
        gone = {one.serial for one in meant}
        with self._boards_changing() as boards:
            for name in [name for name, board in boards.items() if board.serial in gone]:
                del boards[name]
        return sorted(gone)

    def crl(self) -> bytes:
        """The revocation list (PEM) for boards."""
        try:
            return self.revoked.read_bytes()
        except OSError as error:
            raise AuthorityError(f"{self.revoked}: cannot be read: {error.strerror}") from error

    def is_revoked(self, serial: int) -> bool:
        return f"{serial:x}" in {one.serial for one in self._ledger().revoked}

    def boards(self) -> dict[str, EnrolledBoard]:
        """The enrolled boards by name, in the order of their names; raises AuthorityError where the file is damaged."""
        try:
            content = yaml.safe_load(self._boards_path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise AuthorityError(f"{self._boards_path}: cannot be read: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise AuthorityError(f"{self._boards_path}: found what is no YAML") from error
        try:
            found = [EnrolledBoard.model_validate(entry) for entry in content["boards"]]
        except (ValidationError, TypeError, KeyError) as error:
            raise AuthorityError(f"{self._boards_path}: found entries that are none of a board") from error
        return {board.name: board for board in sorted(found, key=lambda board: board.name)}

    def board(self, name: str) -> EnrolledBoard:
        """Raises AuthorityError where no board of this name is enrolled."""
        boards = self.boards()
        if name not in boards:
            known = ", ".join(boards) or "none is enrolled yet"
            raise AuthorityError(f"board: found {name!r}, allowed one that is enrolled: {known}")
        return boards[name]

    def record(self, address: str, certificate: bytes) -> EnrolledBoard:
        """Keep in mind that a board has taken its certificate (PEM); other boards at its address are no more."""
        own = certificates.read_certificate(certificate)
        name = certificates.name_of(own)
        with self._boards_changing() as boards:
            for other in [other for other, board in boards.items() if board.address == address]:
                del boards[other]
            boards[name] = EnrolledBoard(
                name=name, address=address, serial=f"{own.serial_number:x}", ends=own.not_valid_after_utc
            )
        return boards[name]

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        role: Role,
        lasting: timedelta,
        alternatives: x509.SubjectAlternativeName | None,
    ) -> x509.Certificate:
        name = _acceptable(name)
        now = utc_now()
        ends = min(now + lasting, self._certificate.not_valid_after_utc)
        begins = min(now, ends) - BACKDATED
        authority_key = self._certificate.public_key()
        assert isinstance(authority_key, ec.EllipticCurvePublicKey)
        builder = (
            x509.CertificateBuilder()
            .subject_name(certificates.named(name))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([certificates.USAGE[role]]), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), critical=False)
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self._key(), hashes.SHA256())
        with self._changing() as ledger:
            # What has ended is refused everywhere as it is.
            ledger.issued = [one for one in ledger.issued if one.ends > now]
            ledger.issued.append(_Issued(serial=f"{certificate.serial_number:x}", name=name, role=role, ends=ends))
        return certificate

    def _lists(self, revoked: Iterable[_Revoked]) -> bool:
        """Whether all of these are in the list that is there: what made the last one may have ended on its way."""
        try:
            there = certificates.serials_of(certificates.read_revocations(self.revoked.read_bytes()))
        except (FileNotFoundError, IdentityError):
            return False
        return all(int(one.serial, 16) in there for one in revoked)

    def _write_list(self, ledger: _Ledger) -> None:
        """Make the next revocation list; number and time grow, since OpenSSL goes by the time and boards by both."""
        made = utc_now().replace(microsecond=0) - BACKDATED
        if ledger.listed is not None:
            made = max(made, ledger.listed + timedelta(seconds=1))
        ledger.lists += 1
        ledger.listed = made
        authority_key = self._certificate.public_key()
        assert isinstance(authority_key, ec.EllipticCurvePublicKey)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(made)
            .next_update(made + AUTHORITY_LASTING)
            .add_extension(x509.CRLNumber(ledger.lists), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), critical=False)
        )
        for one in ledger.revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(int(one.serial, 16)).revocation_date(one.at)
            builder = builder.add_revoked_certificate(entry.build())
        revocations = builder.sign(self._key(), hashes.SHA256())
        # The ledger first: a list that is lost is made again by the next revocation, a revocation would not be.
        atomic.replace(self._ledger_path, ledger.model_dump_json(indent=1).encode(), atomic.PRIVATE)
        atomic.replace(self.revoked, pem(revocations))

    def _key(self) -> ec.EllipticCurvePrivateKey:
        try:
            return certificates.read_key(files.read_private(self._key_path), str(self._key_path))
        except OSError as error:
            raise AuthorityError(f"{self._key_path}: cannot be read: {error.strerror}") from error
        except IdentityError as error:
            raise AuthorityError(str(error)) from error

    def _ledger(self) -> _Ledger:
        try:
            return _Ledger.model_validate_json(self._ledger_path.read_bytes())
        except OSError as error:
            raise AuthorityError(f"{self._ledger_path}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise AuthorityError(f"{self._ledger_path}: found what is no fleet's ledger") from error

    @contextmanager
    def _changing(self) -> Iterator[_Ledger]:
        try:
            with files.locked(self.folder):
                ledger = self._ledger()
                yield ledger
                atomic.replace(self._ledger_path, ledger.model_dump_json(indent=1).encode(), atomic.PRIVATE)
        except OSError as error:
            raise AuthorityError(f"{self.folder}: cannot be written: {error.strerror or error}") from error

    @contextmanager
    def _boards_changing(self) -> Iterator[dict[str, EnrolledBoard]]:
        try:
            with files.locked(self.folder):
                boards = self.boards()
                yield boards
                content = {"boards": [board.model_dump(mode="json") for _, board in sorted(boards.items())]}
                atomic.replace(self._boards_path, yaml.safe_dump(content, sort_keys=False).encode())
        except OSError as error:
            raise AuthorityError(f"{self.folder}: cannot be written: {error.strerror or error}") from error


def due(certificate: x509.Certificate, now: datetime | None = None) -> bool:
    """Whether less than a third of its validity is left."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return ends - (now or utc_now()) < (ends - begins) / 3


def _authority_certificate(key: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    now = utc_now()
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(certificates.named(name))
        .issuer_name(certificates.named(name))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + AUTHORITY_LASTING)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_usage(digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _existing(path: Path) -> x509.Certificate | None:
    return certificates.read_certificate(path.read_bytes(), str(path)) if path.exists() else None


def _acceptable(name: str) -> str:
    try:
        return checked_name(name)
    except IdentityError as error:
        raise AuthorityError(str(error)) from error


def _own_name() -> str:
    """USER@HOST, without what a name may not hold."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry in the system's list
        user = f"uid{os.getuid()}"
    return re.sub(r"[^A-Za-z0-9_.@-]", "-", f"{user}@{socket.gethostname()}").lstrip("_.@-")[:64] or "controller"
