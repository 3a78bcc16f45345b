from __future__ import annotations

import json
import shutil
import ssl
import stat
import subprocess
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from boards import HOST, connected, enrolled, greeter
from cryptography import x509

from edgesim.fleet.authority import Authority, AuthorityError, default_folder, due
from edgesim.fleet.enrolment import renew_if_due
from node_agent import atomic
from node_agent.security import certificates
from node_agent.security.contexts import server_context
from node_agent.security.identity import Identity


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "fleet")


def read(pem: bytes | Path) -> x509.Certificate:
    return certificates.read_certificate(pem if isinstance(pem, bytes) else pem.read_bytes())


def test_a_fleet_is_made_once(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "a" / "fleet")
    key = (authority.folder / "ca-key.pem").read_bytes()
    with pytest.raises(AuthorityError, match="there is a fleet already"):
        Authority.create(authority.folder)
    assert (authority.folder / "ca-key.pem").read_bytes() == key
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700
    for name in ("ca-key.pem", "ledger.json"):
        assert stat.S_IMODE((authority.folder / name).stat().st_mode) == 0o600
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(AuthorityError, match="found something else"):
        Authority.create(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    before = (tmp_path / "empty").stat().st_ino
    Authority.create(tmp_path / "empty")
    assert (tmp_path / "empty").stat().st_ino == before
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == sorted(
        path.name for path in authority.folder.iterdir()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty", "full"]


def test_a_fleet_is_made_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = Authority.create(Path())
    assert made.folder == tmp_path
    assert Authority.open(Path()).ca_pem == made.ca_pem
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_the_folder_is_found_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESIM_FLEET", str(tmp_path / "here"))
    assert default_folder() == tmp_path / "here"
    with pytest.raises(AuthorityError, match="no fleet there; make one with: edgesim fleet init"):
        Authority.open()
    Authority.create(tmp_path / "here")
    assert Authority.open().folder == tmp_path / "here"
    monkeypatch.delenv("EDGESIM_FLEET")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "edgesim" / "fleet"


def test_certificates_say_who_may_do_what(authority: Authority, tmp_path: Path) -> None:
    board = read(authority.issue(Identity(tmp_path / "b").request("x"), "orin-1", [HOST, "orin-1.lab", "fd00::1"]))
    controller = read(authority.controller("alice").certificate)
    assert certificates.hosts_of(board) == (HOST, "orin-1.lab", "fd00::1")
    assert certificates.name_of(board) == "orin-1"
    assert certificates.hosts_of(controller) == ()
    now = certificates.utc_now()
    for one in (board, controller):
        assert not one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert now - one.not_valid_before_utc > timedelta(minutes=5)
        assert abs(one.not_valid_after_utc - now - timedelta(days=30)) < timedelta(minutes=1)
    assert board.serial_number.bit_length() > 64
    assert board.serial_number != controller.serial_number


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
def test_openssl_itself_takes_a_board_for_no_controller_and_the_other_way_round(
    authority: Authority, tmp_path: Path
) -> None:
    """By its purposes, strictly, and against the revocation list."""
    board = tmp_path / "board.pem"
    board.write_bytes(authority.issue(Identity(tmp_path / "b").request("x"), "orin-1", [HOST]))
    controller = authority.controller("alice").certificate
    verify = ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", authority.ca, "-CRLfile", authority.revoked]

    def passes(purpose: str, certificate: Path) -> bool:
        return subprocess.run([*verify, "-purpose", purpose, certificate], capture_output=True).returncode == 0

    assert passes("sslserver", board)
    assert passes("sslclient", controller)
    assert not passes("sslclient", board)
    assert not passes("sslserver", controller)
    authority.revoke("orin-1")
    assert not passes("sslserver", board)


def test_requests_names_and_hosts_that_are_none_are_refused(authority: Authority, tmp_path: Path) -> None:
    csr = Identity(tmp_path / "b").request("orin-1")
    for arguments, reason in (
        ((b"garbage", "orin-1", [HOST]), "certificate request: found what cannot be read as one"),
        ((csr, "../orin", [HOST]), "name: found '../orin'"),
        ((csr, "", [HOST]), "name: found ''"),
        ((csr, "a" * 65, [HOST]), "allowed 1 to 64"),
        ((csr, "orin-1", ["or in"]), "host: found 'or in'"),
    ):
        with pytest.raises(AuthorityError, match=reason):
            authority.issue(*arguments)
    with pytest.raises(AuthorityError, match="name: found"):
        authority.controller("../../alice")


def test_a_controller_keeps_its_certificate_until_a_third_is_left(authority: Authority) -> None:
    first = authority.controller("alice", days=30)
    assert authority.controller("alice").certificate.read_bytes() == first.certificate.read_bytes()
    certificate = read(first.certificate)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    third = (ends - begins) / 3
    assert not due(certificate, ends - third - timedelta(seconds=1))
    assert due(certificate, ends - third + timedelta(seconds=1))
    ended, key = authority.controller("late", days=-1), (authority.folder / "controllers/late/key.pem").read_bytes()
    renewed = authority.controller("late")
    assert renewed.ends > ended.ends
    assert renewed.key.read_bytes() == key


def test_a_controller_that_was_revoked_gets_another_key(authority: Authority) -> None:
    first = authority.controller("alice")
    key = first.key.read_bytes()
    authority.revoke("alice")
    second = authority.controller("alice")
    assert second.key.read_bytes() != key
    assert not authority.is_revoked(read(second.certificate).serial_number)


def test_keys_that_others_can_read_are_not_used(authority: Authority, tmp_path: Path) -> None:
    credentials = authority.controller("alice")
    credentials.key.chmod(0o644)
    with pytest.raises(AuthorityError, match=r"key\.pem: found mode 0644, allowed 0600"):
        authority.controller("alice")
    (authority.folder / "ca-key.pem").chmod(0o640)
    with pytest.raises(AuthorityError, match=r"ca-key\.pem: found mode 0640"):
        authority.issue(Identity(tmp_path / "b").request("x"), "x", [HOST])


def test_revocation_covers_all_certificates_of_a_name_and_the_lists_are_numbered(
    authority: Authority, tmp_path: Path
) -> None:
    csr = Identity(tmp_path / "b").request("orin-1")
    issued = [authority.issue(csr, "orin-1", [HOST]) for _ in range(2)]
    authority.record("192.0.2.1:7443", issued[1])
    kept = authority.issue(csr, "orin-2", [HOST])
    lists = [certificates.read_revocations(authority.crl())]
    serials = authority.revoke("orin-1")
    assert serials == sorted(f"{read(one).serial_number:x}" for one in issued)
    assert authority.boards() == {}
    lists.append(certificates.read_revocations(authority.crl()))
    assert authority.revoke("orin-1") == serials
    assert certificates.read_revocations(authority.crl()) == lists[-1]
    assert authority.revoke(f"{read(kept).serial_number:X}") == [f"{read(kept).serial_number:x}"]
    lists.append(certificates.read_revocations(authority.crl()))
    assert [certificates.number_of(one) for one in lists] == [1, 2, 3]
    assert lists[0].last_update_utc < lists[1].last_update_utc < lists[2].last_update_utc
    assert [len(certificates.serials_of(one)) for one in lists] == [0, 2, 3]
    with pytest.raises(AuthorityError, match="found 'orin-3', allowed a name or serial number of: orin-1, orin-2"):
        authority.revoke("orin-3")


@pytest.mark.parametrize("damage", ["a list that was not written", "a list that is gone", "a list that is none"])
def test_a_revocation_whose_list_got_lost_is_listed_when_it_is_said_again(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    serial = read(authority.controller("bob").certificate).serial_number
    if damage == "a list that was not written":
        replace = atomic.replace

        def full(path: Path, *rest: Any) -> None:
            if path == authority.revoked:
                raise OSError(28, "No space left on device")
            replace(path, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(atomic, "replace", full)
            with pytest.raises(AuthorityError, match="No space left"):
                authority.revoke("bob")
    else:
        authority.revoke("bob")
        authority.revoked.unlink()
        if damage == "a list that is none":
            authority.revoked.write_bytes(b"x")
    authority.revoke("bob")
    listed = certificates.read_revocations(authority.crl())
    assert certificates.serials_of(listed) == {serial}
    assert certificates.number_of(listed) == 3
    authority.revoke("bob")
    assert certificates.read_revocations(authority.crl()) == listed


def test_boards_are_remembered_by_name_and_address(authority: Authority, tmp_path: Path) -> None:
    csr = Identity(tmp_path / "b").request("x")
    authority.record("192.0.2.2:7443", authority.issue(csr, "b", ["192.0.2.2"]))
    authority.record("192.0.2.1:7443", authority.issue(csr, "a", ["192.0.2.1"]))
    boards = Authority.open(authority.folder).boards()
    assert {name: board.address for name, board in boards.items()} == {"a": "192.0.2.1:7443", "b": "192.0.2.2:7443"}
    authority.record("192.0.2.1:7443", authority.issue(csr, "c", ["192.0.2.1"]))
    assert list(authority.boards()) == ["b", "c"]
    with pytest.raises(AuthorityError, match="found 'a', allowed one that is enrolled: b, c"):
        authority.board("a")


def test_nothing_is_lost_where_many_issue_at_once(authority: Authority, tmp_path: Path) -> None:
    csr = Identity(tmp_path / "b").request("x")

    def enrol(number: int) -> None:
        opened = Authority.open(authority.folder)
        opened.record(f"192.0.2.{number}:7443", opened.issue(csr, f"orin-{number}", [f"192.0.2.{number}"]))
        opened.revoke(f"orin-{number}" if number % 2 else opened.board(f"orin-{number}").serial)
        opened.record(f"192.0.2.{number}:7443", opened.issue(csr, f"orin-{number}", [f"192.0.2.{number}"]))

    threads = [threading.Thread(target=enrol, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(authority.boards()) == [f"orin-{number}" for number in range(8)]
    listed = certificates.read_revocations(authority.crl())
    assert (certificates.number_of(listed), len(certificates.serials_of(listed))) == (9, 8)


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "boards: 3",
        "3",
        "boards: [{name: a}]",
        "boards: [{name: a, other: 1}]",
        "boards: [{name: a, address: or in, serial: a, ends: 2100-01-01T00:00:00Z}]",
    ],
)
def test_a_damaged_list_of_boards_is_no_list(authority: Authority, content: str) -> None:
    (authority.folder / "boards.yaml").write_text(content)
    with pytest.raises(AuthorityError, match=r"boards\.yaml: found"):
        authority.boards()


def test_a_damaged_ledger_stops_everything_that_would_change_it(authority: Authority, tmp_path: Path) -> None:
    (authority.folder / "ledger.json").write_text(json.dumps({"lists": "many"}))
    with pytest.raises(AuthorityError, match=r"ledger\.json: found what is no fleet's ledger"):
        authority.revoke("x")
    with pytest.raises(AuthorityError, match=r"ledger\.json"):
        authority.issue(Identity(tmp_path / "b").request("x"), "x", [HOST])


def test_a_board_is_renewed_when_it_is_due_over_the_callers_own_connection(
    authority: Authority, tmp_path: Path
) -> None:
    board = enrolled(authority, tmp_path / "b", days=9)
    known = authority.record("127.0.0.1:7443", board.certificate.read_bytes())
    renewed = renew_if_due(authority, known, lambda: board.request("192.0.2.66"), board.renew)
    assert renewed is not None
    assert (board.name, board.hosts) == ("orin-1", (HOST,))
    assert renewed == authority.board("orin-1")
    assert renewed.serial == f"{board.serial:x}"
    assert renew_if_due(authority, renewed, lambda: pytest.fail("asked"), lambda _: pytest.fail("told")) is None


def test_the_context_of_credentials_knows_of_revoked_boards(authority: Authority, tmp_path: Path) -> None:
    board = enrolled(authority, tmp_path / "b")
    with greeter(server_context(board)) as port:
        with connected(port, authority.controller().context()):
            pass
        authority.revoke("orin-1")
        with (
            pytest.raises(ssl.SSLCertVerificationError, match="revoked"),
            connected(port, authority.controller().context()),
        ):
            pass
