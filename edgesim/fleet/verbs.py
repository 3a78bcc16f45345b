"""`edgesim fleet …`: boards, and who may use them. What a verb needs is imported when it is called."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgesim.terminal import BAD_INPUT, FAILED, Json, console, fail

fleet = typer.Typer(name="fleet", no_args_is_help=True, help="Boards: enrol them, look after them.")

Folder = Annotated[
    Path | None,
    typer.Option(
        "--fleet", metavar="DIR", help="the fleet's folder  [default: $EDGESIM_FLEET, else ~/.config/edgesim/fleet]"
    ),
]


@fleet.command()
def init(folder: Folder = None) -> None:
    """Make a fleet: its private certificate authority. Whoever has its folder steers its boards."""
    from edgesim.fleet.authority import Authority, AuthorityError, default_folder

    try:
        authority = Authority.create(folder or default_folder())
    except AuthorityError as error:
        fail(str(error), BAD_INPUT)
    typer.echo(f"made a fleet in {authority.folder}; keep it to yourself, and keep a copy")
    typer.echo("next, on each board: node-agent token; then here: edgesim fleet enroll HOST --token TOKEN")


@fleet.command()
def enroll(
    host: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="where the board's agent is reached")],
    token: Annotated[
        str,
        typer.Option(metavar="TOKEN|-", help="printed by `node-agent token` on the board; -: from standard input"),
    ],
    name: Annotated[
        str | None, typer.Option(help="of the board in the fleet  [default: as the board calls itself]")
    ] = None,
    folder: Folder = None,
) -> None:
    """Give a board its certificate. Its key is made on the board, and stays there."""
    from edgesim.fleet import enrolment
    from edgesim.fleet.address import Address
    from edgesim.fleet.authority import Authority, AuthorityError
    from edgesim.topology.problems import Refusal
    from node_agent.security.certificates import checked_name, shown_time
    from node_agent.security.errors import CertificateError
    from node_agent.security.tokens import Token, TokenError

    try:
        address = Address.parse(host)
        parsed = Token.parse(sys.stdin.readline() if token == "-" else token)
        if name is not None:
            checked_name(name)
        authority = Authority.open(folder)
    except Refusal as error:
        fail(f"host: {error}", BAD_INPUT)
    except CertificateError as error:
        fail(f"--name: {error}", BAD_INPUT)
    except (TokenError, AuthorityError) as error:
        fail(str(error), BAD_INPUT)
    try:
        board = enrolment.enroll(authority, address, parsed, name)
    except (enrolment.EnrolmentError, AuthorityError) as error:
        fail(str(error), FAILED)
    typer.echo(f"{board.name} at {board.address} is enrolled until {shown_time(board.ends)}")


@fleet.command()
def renew(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="boards  [default: all]")] = None,
    folder: Folder = None,
) -> None:
    """Give boards new certificates: those named, or all of which less than a third of the validity is left."""
    from edgesim.fleet import enrolment
    from edgesim.fleet.authority import Authority, AuthorityError
    from node_agent.security.certificates import shown_time

    try:
        authority = Authority.open(folder)
        boards = [authority.board(name) for name in names] if names else list(authority.boards().values())
    except AuthorityError as error:
        fail(str(error), BAD_INPUT)
    failed = False
    for board in boards:
        try:
            renewed = enrolment.renew(authority, board, always=bool(names))
        except (enrolment.EnrolmentError, AuthorityError) as error:
            typer.echo(f"edgesim: {error}", err=True)
            failed = True
        else:
            done = "renewed, valid" if renewed else "not due, valid"
            typer.echo(f"{board.name}: {done} until {shown_time((renewed or board).ends)}")
    if failed:
        raise typer.Exit(FAILED)


@fleet.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME|SERIAL", help="board, controller, or one certificate of theirs")],
    folder: Folder = None,
) -> None:
    """Shut a board or a controller out for good, and tell all other boards."""
    from edgesim.fleet import enrolment
    from edgesim.fleet.authority import Authority, AuthorityError

    try:
        authority = Authority.open(folder)
        serials = authority.revoke(name)
        boards = authority.boards()
    except AuthorityError as error:
        fail(str(error), BAD_INPUT)
    typer.echo(f"{name}: {len(serials)} certificate(s) revoked")
    missed = []
    for board in boards.values():
        try:
            enrolment.deliver_revocations(authority, board)
        except (enrolment.EnrolmentError, AuthorityError) as error:
            typer.echo(f"edgesim: {error}", err=True)
            missed.append(board.name)
    if missed:
        fail(f"not told yet: {', '.join(missed)}; once they answer: edgesim fleet revoke {name}", FAILED)
    if boards:
        typer.echo(f"{len(boards)} board(s) know of it")


@fleet.command(name="list")
def listed(folder: Folder = None, as_json: Json = False) -> None:
    """List the boards: where they are reached, and how long their certificates are valid."""
    from edgesim.fleet import listing
    from edgesim.fleet.authority import Authority, AuthorityError

    try:
        boards = list(Authority.open(folder).boards().values())
    except AuthorityError as error:
        fail(str(error), BAD_INPUT)
    if as_json:
        typer.echo(json.dumps(listing.entries(boards), indent=2))
    elif boards:
        console().print(listing.render(boards))
    else:
        typer.echo("no board is enrolled yet; on a board: node-agent token; then: edgesim fleet enroll HOST --token T")
