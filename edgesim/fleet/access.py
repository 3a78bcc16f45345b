"""With which right boards are spoken to: the credentials in a fleet's folder, or none at all on loopback."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from edgesim.fleet.address import Address
from edgesim.fleet.authority import FIRST_LIST, Authority, AuthorityError, EnrolledBoard, default_folder
from edgesim.fleet.base import FleetError
from edgesim.fleet.client import BoardClient, BoardError
from edgesim.fleet.enrolment import renew_if_due
from edgesim.fleet.everywhere import everywhere
from edgesim.fleet.inventory import Place, read_inventory
from node_agent.security.certificates import number_of, read_revocations
from node_agent.security.errors import IdentityError


class Access:
    """Opens connections to boards: with the credentials of one fleet, or in plain HTTP."""

    def __init__(self, authority: Authority | None, context: ssl.SSLContext | None) -> None:
        self._authority = authority
        self._context = context
        self._listed: dict[Address, bytes] = {}
        """the revocation list that each board has got from here"""

    @classmethod
    def of(cls, folder: Path | None, insecure: bool) -> Access:
        """Raises FleetError where the folder (None: the usual one) has no credentials that can be used."""
        if insecure:
            return cls(None, None)
        folder = folder or default_folder()
        if not (folder / "ca.pem").exists():
            raise FleetError(
                f"{folder}: no fleet there, and boards speak to nobody else; edgesim fleet init makes one, edgesim "
                "fleet enroll HOST adds a board, --fleet DIR names another folder"
            )
        try:
            authority = Authority.open(folder)
            return cls(authority, authority.controller().context())
        except (AuthorityError, IdentityError) as error:
            raise FleetError(str(error)) from error

    def clients(self, places: Sequence[Place]) -> list[BoardClient]:
        """Raises FleetError for plain HTTP beyond this machine."""
        for place in places:
            if self._context is None and not place.address.loopback:
                raise FleetError(f"{place.name}: --insecure: found {place.address}, allowed addresses of loopback")
        enrolled = self._enrolled()
        clients = []
        for place in places:
            known = enrolled.get(str(place.address))
            clients.append(BoardClient(place.name, place.address, self._context, known.ends if known else None))
        return clients

    def renew(self, clients: Sequence[BoardClient], tell: Callable[[str], None]) -> None:
        """Give those boards new certificates whose own are due. A certificate that is due is still valid: what goes
        wrong is told, and no more."""
        enrolled = self._enrolled()
        for client in clients:
            board = enrolled.get(str(client.address))
            if board is None or not board.due:
                continue
            assert self._authority is not None
            try:
                renew_if_due(self._authority, board, client.certificate_request, client.put_certificate)
            except (AuthorityError, BoardError) as error:
                tell(f"warning: {client.name}: its certificate could not be renewed: {error}")

    def tell_revoked(self, clients: Sequence[BoardClient], tell: Callable[[str], None]) -> None:
        """Give the boards the fleet's revocation list: they may have been off when it became longer. Each is given a
        list once, and none the first one, which it was enrolled with. What goes wrong is told, and no more."""
        if self._authority is None:
            return
        try:
            crl = self._authority.crl()
            if number_of(read_revocations(crl)) == FIRST_LIST:
                return
        except (AuthorityError, IdentityError) as error:
            tell(f"warning: boards cannot be told who is revoked: {error}")
            return
        waiting = [client for client in clients if self._listed.get(client.address) != crl]
        answers = everywhere(waiting, lambda client: client.put_revocations(crl))
        for client, answer in zip(waiting, answers, strict=True):
            if answer is None:
                self._listed[client.address] = crl
            elif isinstance(answer, BoardError):
                tell(f"warning: {client.name} could not be told who is revoked: {answer.message}")
            else:
                raise answer

    def _enrolled(self) -> dict[str, EnrolledBoard]:
        """By address."""
        if self._authority is None:
            return {}
        with suppress(AuthorityError):  # nothing but dates of certificates is taken from it here
            return {board.address: board for board in self._authority.boards().values()}
        return {}


def enrolled_boards(folder: Path | None) -> list[Place]:
    """The boards of a fleet. Raises FleetError where there is none, TopologyError where its file is damaged."""
    path = (folder or default_folder()) / "boards.yaml"
    if not path.exists():
        raise FleetError(
            f"{path}: no board is enrolled yet; on a board: node-agent token; then: edgesim fleet enroll HOST "
            "--token TOKEN; or name others with --inventory FILE"
        )
    return read_inventory(path)
