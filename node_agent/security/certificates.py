"""What certificates, requests and revocation lists of a fleet look like, and how they are read.

X.509 as in RFC 5280: keys on the curve P-256, roles told apart by the extended key usage alone. A controller's
certificate is for clientAuth, a board's for serverAuth, none for both.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node_agent.security.errors import CertificateError

Role = Literal["controller", "board"]

USAGE: dict[Role, x509.ObjectIdentifier] = {
    "controller": ExtendedKeyUsageOID.CLIENT_AUTH,
    "board": ExtendedKeyUsageOID.SERVER_AUTH,
}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
"""of a board or a controller; 64 characters are the most that a common name may have (RFC 5280, appendix A.1)"""

HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.I)

MOST_OCTETS = 1 << 20
"""of any certificate, request or list that is read"""

# Everything that the library raises on material that is none: not all of these are ValueErrors.
_MALFORMED = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)


T = TypeVar("T")


def _read(content: bytes, what: str, load: Callable[[bytes], T]) -> T:
    if len(content) > MOST_OCTETS:
        raise CertificateError(f"{what}: found {len(content)} bytes, allowed at most {MOST_OCTETS}")
    try:
        return load(content)
    except _MALFORMED as error:
        raise CertificateError(f"{what}: found what cannot be read as one") from error


def read_certificate(pem: bytes, what: str = "certificate") -> x509.Certificate:
    """Raises CertificateError where it is none, or its name or extensions cannot be read."""

    return _read(pem, what, lambda content: _parsed(x509.load_pem_x509_certificate(content)))


def read_der(der: bytes) -> x509.Certificate:
    """One in the form in which a handshake shows it; raises CertificateError as `read_certificate` does."""
    return _read(der, "certificate", lambda content: _parsed(x509.load_der_x509_certificate(content)))


def _parsed(certificate: x509.Certificate) -> x509.Certificate:
    # These are read only when asked for: what is wrong with them shall show itself here.
    _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.not_valid_after_utc
    return certificate


def read_request(pem: bytes) -> x509.CertificateSigningRequest:
    """Raises CertificateError where it is none, or is not signed by its own key on P-256."""
    request = _read(pem, "certificate request", x509.load_pem_x509_csr)
    try:
        signed = request.is_signature_valid
        key = request.public_key()
        _ = request.subject
    except (*_MALFORMED, InvalidSignature) as error:
        raise CertificateError("certificate request: found one that cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError("certificate request: found another kind of key, allowed one on the curve P-256")
    if not signed:
        raise CertificateError("certificate request: its signature is not by its own key")
    return request


def read_revocations(pem: bytes, what: str = "revocation list") -> x509.CertificateRevocationList:
    """Raises CertificateError where it is none, or has no number."""

    def load(content: bytes) -> x509.CertificateRevocationList:
        revocations = x509.load_pem_x509_crl(content)
        _ = number_of(revocations), revocations.issuer, revocations.last_update_utc, serials_of(revocations)
        return revocations

    return _read(pem, what, load)


def read_key(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """Raises CertificateError where it is no private key on P-256 without a passphrase."""
    key = _read(pem, what, lambda content: serialization.load_pem_private_key(content, None))
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError(f"{what}: found another kind of key, allowed one on the curve P-256")
    return key


def make_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(signed: x509.Certificate | x509.CertificateRevocationList | x509.CertificateSigningRequest) -> bytes:
    return signed.public_bytes(serialization.Encoding.PEM)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def name_of(holder: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The common name; raises CertificateError where there is not exactly one that a fleet allows."""
    found = [attribute.value for attribute in holder.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(found) != 1 or not isinstance(found[0], str):
        raise CertificateError(f"certificate: found {len(found)} common names, allowed one")
    return checked_name(found[0])


def checked_name(name: str) -> str:
    """Raises CertificateError for a name that no board and no controller may have."""
    if not NAME.fullmatch(name):
        raise CertificateError(
            f"name: found {name[:80]!r}, allowed 1 to 64 letters, digits and _ . @ -, a letter or digit first"
        )
    return name


def role_of(certificate: x509.Certificate) -> Role:
    """Raises CertificateError where it is not for exactly one of clientAuth and serverAuth."""
    try:
        usage = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usage = set()
    for role, meant in USAGE.items():
        if usage == {meant}:
            return role
    raise CertificateError("certificate: found other extended key usages, allowed clientAuth or serverAuth alone")


def alternatives(hosts: Iterable[str]) -> x509.SubjectAlternativeName:
    """Host names and IP addresses under which a board is reached.

    Raises:
        CertificateError: one is neither.
    """
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not HOST.fullmatch(host):
                raise CertificateError(f"host: found {host[:80]!r}, allowed a host name or an IP address") from None
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def hosts_of(holder: x509.Certificate | x509.CertificateSigningRequest) -> tuple[str, ...]:
    """Host names and IP addresses that it names."""
    try:
        names = holder.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))


def number_of(revocations: x509.CertificateRevocationList) -> int:
    return revocations.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def serials_of(revocations: x509.CertificateRevocationList) -> frozenset[int]:
    return frozenset(entry.serial_number for entry in revocations)


def same_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except _MALFORMED:
        return False


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign certificates and revocation lists, and nothing below it may."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca and constraints.path_length == 0 and usage.key_cert_sign and usage.crl_sign


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (*_MALFORMED, InvalidSignature):
        return False
    return True


def listed_by(revocations: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    """Whether the authority signed the list."""
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or revocations.issuer != authority.subject:
        return False
    try:
        return revocations.is_signature_valid(key)
    except (*_MALFORMED, InvalidSignature):
        return False


def self_signed(key: ec.EllipticCurvePrivateKey, name: str, now: datetime, lasting: timedelta) -> x509.Certificate:
    """One that nobody vouches for: whoever trusts it knows its fingerprint."""
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + lasting)
        .sign(key, hashes.SHA256())
    )


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


def shown_time(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
