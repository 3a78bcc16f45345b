"""Boards are spoken to with the credentials of their fleet, or not at all."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from scripted import Raw, answer

from edgesim.fleet.access import Access, enrolled_boards
from edgesim.fleet.address import Address
from edgesim.fleet.authority import Authority
from edgesim.fleet.base import FleetError
from edgesim.fleet.client import Mistrusted, Unreachable
from edgesim.fleet.inventory import Place
from node_agent.security.certificates import read_certificate
from node_agent.security.contexts import refresh, server_context
from node_agent.security.identity import Identity

HEALTH = {"name": "b0", "state": "idle", "version": "1", "uptime_s": 1.0, "time_s": 2.0, "monotonic_s": 3.0}


class Enrolled:
    """A board of a fleet with a certificate for so many days, which says that it is well, and takes another one."""

    def __init__(self, authority: Authority, folder: Path, days: float) -> None:
        self.identity = Identity(folder)
        self.identity.make_key()
        certificate = authority.issue(self.identity.request("b0"), "b0", ["127.0.0.1"], days)
        self.identity.accept(certificate, authority.ca_pem, authority.crl())
        self.context = server_context(self.identity)
        self.taken: list[bytes] = []
        self._raw = Raw(self._say, self._secure)
        self.address = self._raw.address
        authority.record(str(self.address), certificate)

    def _secure(self, connection: socket.socket) -> socket.socket:
        return self.context.wrap_socket(connection, server_side=True)

    def _say(self, connection: socket.socket, line: str) -> None:
        if "certificate-request" in line:
            connection.sendall(answer(self.identity.request("b0")))
        elif line.startswith("PUT /v1/certificate "):
            self.taken.append(connection.recv(65536))
            connection.sendall(answer(json.dumps(HEALTH).encode()))
        elif line.startswith("PUT /v1/revocations "):
            self.identity.replace_revocations(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            connection.sendall(answer(json.dumps(HEALTH).encode()))

    @property
    def requests(self) -> list[str]:
        return self._raw.requests

    def close(self) -> None:
        self._raw.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "fleet")


@pytest.fixture
def board(authority: Authority, tmp_path: Path) -> Iterator[Enrolled]:
    made = Enrolled(authority, tmp_path / "board", 5)
    yield made
    made.close()


def test_a_board_of_the_fleet_answers(authority: Authority, board: Enrolled) -> None:
    (client,) = Access.of(authority.folder, insecure=False).clients(enrolled_boards(authority.folder))
    assert (client.name, client.address) == ("b0", board.address)
    assert client.health().state == "idle"


def test_another_fleets_board_is_mistrusted(board: Enrolled, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")
    (client,) = Access.of(other.folder, insecure=False).clients([Place("b0", board.address)])
    with pytest.raises(Mistrusted, match=r"b0: the certificate that .* shows is not of this fleet's CA"):
        client.health()


def test_a_controller_that_is_revoked_is_told_so(authority: Authority, board: Enrolled) -> None:
    (client,) = Access.of(authority.folder, insecure=False).clients([Place("b0", board.address)])
    authority.revoke(authority.controller().name)
    board.identity.replace_revocations(authority.crl())
    refresh(board.context, board.identity)
    with pytest.raises(Mistrusted, match="refused our certificate: it is revoked"):
        client.health()


def test_a_name_that_the_certificate_does_not_hold_is_mistrusted(authority: Authority, board: Enrolled) -> None:
    place = Place("b0", Address("localhost", board.address.port))
    (client,) = Access.of(authority.folder, insecure=False).clients([place])
    with pytest.raises(Mistrusted, match="is for another address"):
        client.health()


def test_plain_http_gets_nothing_of_a_board(board: Enrolled) -> None:
    (client,) = Access(None, None).clients([Place("b0", board.address)])
    with pytest.raises(Unreachable):
        client.health()


def test_a_certificate_that_is_due_is_renewed_on_the_way(authority: Authority, board: Enrolled) -> None:
    access = Access.of(authority.folder, insecure=False)
    clients = access.clients(enrolled_boards(authority.folder))
    said: list[str] = []
    access.renew(clients, said.append)
    access.renew(clients, said.append)  # no longer due
    assert not said
    (certificate,) = board.taken
    renewed = authority.board("b0")
    assert f"{read_certificate(certificate).serial_number:x}" == renewed.serial
    assert renewed.left > timedelta(days=20)


def test_a_renewal_that_fails_is_a_warning(authority: Authority, board: Enrolled) -> None:
    access = Access.of(authority.folder, insecure=False)
    clients = access.clients(enrolled_boards(authority.folder))
    board.close()
    said: list[str] = []
    access.renew(clients, said.append)
    assert len(said) == 1
    assert said[0].startswith("warning: b0: its certificate could not be renewed: b0: no connection to ")


def test_boards_that_were_off_are_told_who_is_revoked_once(authority: Authority, board: Enrolled) -> None:
    access = Access.of(authority.folder, insecure=False)
    clients = access.clients(enrolled_boards(authority.folder))
    said: list[str] = []
    access.tell_revoked(clients, said.append)
    assert board.requests == []  # nobody was revoked ever
    for gone in ("bob", "carol"):
        serial = read_certificate(authority.controller(gone).certificate.read_bytes()).serial_number
        authority.revoke(gone)
        access.tell_revoked(clients, said.append)
        access.tell_revoked(clients, said.append)
        assert board.identity.is_revoked(serial)
    assert board.requests == ["PUT /v1/revocations HTTP/1.1"] * 2
    board.close()
    Access.of(authority.folder, insecure=False).tell_revoked(clients, said.append)
    assert len(said) == 1
    assert said[0].startswith("warning: b0 could not be told who is revoked: no connection to ")


def test_where_nobody_is_enrolled_it_is_said_how(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="no board is enrolled yet; on a board: node-agent token"):
        enrolled_boards(authority.folder)
    with pytest.raises(FleetError, match="no fleet there"):
        Access.of(tmp_path / "none", insecure=False)
