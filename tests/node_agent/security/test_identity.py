from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from boards import HOST, enrolled
from cryptography import x509
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgesim.fleet.authority import Authority
from node_agent.security import certificates
from node_agent.security.identity import Identity, IdentityError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        identity = Identity(tmp_path / "data" / "identity")
        request = identity.request("orin-1")
    finally:
        os.umask(before)
    assert mode(identity.key) == 0o600
    assert mode(identity.folder) == mode(tmp_path / "data") == 0o700
    assert b"PRIVATE" not in request
    assert sorted(path.name for path in identity.folder.iterdir()) == ["key.pem"]


def test_the_key_is_made_once_and_requests_are_for_it(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity")
    first = identity.request("orin-1")
    second = certificates.read_request(identity.request("orin-1"))
    read = certificates.read_request(first)
    assert read.public_key() == second.public_key()
    assert certificates.name_of(read) == "orin-1"
    assert certificates.hosts_of(read) == ()
    assert not identity.enrolled


def test_a_key_or_a_folder_that_others_can_read_is_refused(board: Identity) -> None:
    board.key.chmod(0o640)
    with pytest.raises(IdentityError, match=r"key\.pem: found mode 0640, allowed 0600.*chmod 600"):
        board.request("orin-1")
    board.folder.chmod(0o755)
    with pytest.raises(IdentityError, match=r"found mode 0755, allowed 0700: chmod 700"):
        Identity(board.folder)


def test_a_member_knows_its_name_and_its_end(authority: Authority, tmp_path: Path) -> None:
    board = enrolled(authority, tmp_path / "board", "orin-7", ("192.0.2.7", "orin-7"), days=30)
    again = Identity(board.folder)
    assert again.enrolled
    assert (again.name, again.hosts) == ("orin-7", ("192.0.2.7", "orin-7"))
    left = (again.ends_at - certificates.utc_now()).total_seconds()
    assert left == pytest.approx(30 * 86400, abs=60)
    again.check()


def test_what_does_not_fit_makes_no_member(authority: Authority, other: Authority, tmp_path: Path) -> None:
    board = Identity(tmp_path / "board")
    csr = board.request("orin-1")
    certificate = authority.issue(csr, "orin-1", [HOST])
    stranger = Identity(tmp_path / "stranger").request("orin-1")
    controller = authority.controller("alice")
    ca, crl = authority.ca_pem, authority.crl()
    for what, reason in (
        ((certificate, other.ca_pem, other.crl()), "the fleet's authority has not signed"),
        ((certificate, ca, other.crl()), "revocation list: found one that the fleet's authority has not signed"),
        ((other.issue(csr, "orin-1", [HOST]), ca, crl), "certificate: found one that the fleet's authority has not"),
        ((authority.issue(stranger, "orin-1", [HOST]), ca, crl), "another key"),
        ((controller.certificate.read_bytes(), ca, crl), "another key"),
        ((certificate, certificate, crl), "no fleet's authority"),
        ((authority.issue(csr, "orin-1", [HOST], days=-1), ca, crl), "this board's clock says .* set the clock"),
        ((certificate, ca, b""), "revocation list: found what cannot be read as one"),
        ((b"", ca, crl), "certificate: found what cannot be read as one"),
        ((certificate, csr, crl), "authority's certificate: found what cannot be read as one"),
    ):
        with pytest.raises(IdentityError, match=reason) as refusal:
            board.accept(*what)
        assert "\n" not in str(refusal.value)
        assert not board.enrolled
        assert [path.name for path in board.folder.iterdir()] == ["key.pem"]
    board.accept(certificate, ca, crl)
    with pytest.raises(IdentityError, match="enrolled already, as orin-1"):
        board.accept(certificate, ca, crl)


def test_a_certificate_that_was_revoked_on_its_way_makes_no_member(authority: Authority, tmp_path: Path) -> None:
    board = Identity(tmp_path / "board")
    certificate = authority.issue(board.request("orin-1"), "orin-1", [HOST])
    authority.revoke("orin-1")
    with pytest.raises(IdentityError, match="revoked already"):
        board.accept(certificate, authority.ca_pem, authority.crl())


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Identity, list[bytes]]:
    folder = tmp_path_factory.mktemp("papers")
    authority = Authority.create(folder / "fleet")
    board = Identity(folder / "board")
    certificate = authority.issue(board.request("orin-1"), "orin-1", [HOST])
    return board, [certificate, authority.ca_pem, authority.crl()]


@settings(max_examples=100)
@given(data=st.data())
def test_garbage_makes_no_member_and_is_refused_in_one_line(
    papers: tuple[Identity, list[bytes]], data: st.DataObject
) -> None:
    """Any bytes at all, and what is genuine but for a few of its bytes."""
    board, genuine = papers
    handed = list(genuine)
    which = data.draw(st.integers(0, 2))
    if data.draw(st.booleans()):
        changed = bytearray(genuine[which])
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(40, len(changed) - 40))
            changed[place] = data.draw(st.sampled_from(b"ABCDEFGHabcdefgh0123456789+/"))
        handed[which] = bytes(changed)
        if handed == genuine:
            return
    else:
        handed[which] = data.draw(st.binary(max_size=200))
    with pytest.raises(IdentityError) as refusal:
        board.accept(handed[0], handed[1], handed[2])
    assert "\n" not in str(refusal.value)
    assert not board.enrolled


@example(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
@example(b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n")
@example(b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n")
@given(st.binary(max_size=300))
def test_garbage_is_neither_certificate_nor_request_nor_list_nor_key(content: bytes) -> None:
    for read in (certificates.read_certificate, certificates.read_request, certificates.read_revocations):
        with pytest.raises(IdentityError):
            read(content)
    with pytest.raises(IdentityError):
        certificates.read_key(content, "key")


def test_a_renewal_is_for_the_same_board_and_lasts_longer(
    authority: Authority, other: Authority, board: Identity, tmp_path: Path
) -> None:
    csr, before = board.request("orin-1"), board.certificate.read_bytes()
    for certificate, reason in (
        (other.issue(csr, "orin-1", [HOST]), "has not signed"),
        (authority.issue(csr, "orin-2", [HOST]), "found one for orin-2, allowed one for orin-1"),
        (authority.issue(csr, "orin-1", [HOST], days=1), "ends before the one that is there"),
        (authority.issue(Identity(tmp_path / "x").request("orin-1"), "orin-1", [HOST]), "another key"),
        (b"none", "cannot be read"),
    ):
        with pytest.raises(IdentityError, match=reason):
            board.renew(certificate)
        assert board.certificate.read_bytes() == before
    renewed = authority.issue(csr, "orin-1", [HOST], days=60)
    board.renew(renewed)
    assert board.certificate.read_bytes() == renewed
    assert board.serial == certificates.read_certificate(renewed).serial_number


def test_revocation_lists_only_get_newer(authority: Authority, other: Authority, board: Identity) -> None:
    oldest = authority.crl()
    serial = certificates.read_certificate(authority.controller("bob").certificate.read_bytes()).serial_number
    assert not board.is_revoked(serial)
    authority.revoke("bob")
    newest = authority.crl()
    board.replace_revocations(newest)
    board.replace_revocations(newest)
    assert board.is_revoked(serial)
    for content, reason in (
        (oldest, "found number 1, allowed one that is newer than 2"),
        (other.crl(), "has not signed"),
        (b"x", "cannot be read"),
        (newest.replace(b"X509 CRL", b"CERTIFICATE"), "cannot be read"),
    ):
        with pytest.raises(IdentityError, match=reason):
            board.replace_revocations(content)
    assert board.is_revoked(serial)
    assert Identity(board.folder).is_revoked(serial)


def test_a_key_that_was_left_half_written_is_forgotten_too(board: Identity) -> None:
    old, new = board.folder / ".key.pem.0a.partial", board.folder / ".key.pem.0b.partial"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    Identity(board.folder)
    assert (old.exists(), new.exists()) == (False, True)
    board.forget()
    assert list(board.folder.iterdir()) == []


def test_after_forgetting_another_key_is_made(board: Identity) -> None:
    before = board.key.read_bytes()
    assert board.forget()
    assert not board.enrolled
    assert not board.forget()
    board.make_key()
    assert board.key.read_bytes() != before


def test_a_disk_that_fills_leaves_the_old_certificate_whole(
    authority: Authority, board: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = board.certificate.read_bytes()
    renewed = authority.issue(board.request("orin-1"), "orin-1", [HOST])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("node_agent.atomic.os.fsync", full)
    with pytest.raises(IdentityError, match=r"certificate\.pem: cannot write it: No space left on device"):
        board.renew(renewed)
    assert board.certificate.read_bytes() == before
    assert sorted(path.name for path in board.folder.iterdir()) == [
        "ca.pem",
        "certificate.pem",
        "key.pem",
        "revoked.pem",
    ]


def test_roles_are_told_apart_by_the_extended_key_usage(authority: Authority, board: Identity) -> None:
    controller = certificates.read_certificate(authority.controller("alice").certificate.read_bytes())
    own = certificates.read_certificate(board.certificate.read_bytes())
    assert (certificates.role_of(controller), certificates.role_of(own)) == ("controller", "board")
    ca = certificates.read_certificate(authority.ca_pem)
    with pytest.raises(IdentityError, match="extended key usages"):
        certificates.role_of(ca)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
