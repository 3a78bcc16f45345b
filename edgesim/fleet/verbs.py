"""`edgesim fleet …`: boards, and who may use them. What a verb needs is imported when it is called."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesim.terminal import BAD_INPUT, FAILED, Json, console, fail

if TYPE_CHECKING:
    from edgesim.fleet.client import BoardClient

fleet = typer.Typer(name="fleet", no_args_is_help=True, help="Boards: enrol them, look after them.")

Folder = Annotated[
    Path | None,
    typer.Option(
        "--fleet", metavar="DIR", help="the fleet's folder (default: $EDGESIM_FLEET, else ~/.config/edgesim/fleet)"
    ),
]

Inventory = Annotated[
    Path | None,
    typer.Option("--inventory", metavar="FILE", help="boards (YAML; default: the enrolled ones)", show_default=False),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="in plain HTTP, on loopback only")]


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
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="boards  [default: all]")] = None,
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
        fail(f"not told yet: {', '.join(missed)}; once they answer: edgesim fleet revoke {name}, or a run", FAILED)
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


@fleet.command()
def status(
    inventory: Inventory = None, folder: Folder = None, insecure: Insecure = False, as_json: Json = False
) -> None:
    """Ask all boards how they are: state, run, versions, load, certificate, clock. Exits 1 if one is silent."""
    from edgesim.fleet import survey

    entries = survey.survey(_clients(inventory, folder, insecure))
    if as_json:
        typer.echo(json.dumps([entry.as_json() for entry in entries], indent=2))
    else:
        console().print(survey.render(entries))
    if any(entry.met is None for entry in entries):
        raise typer.Exit(FAILED)


Board = Annotated[str, typer.Argument(metavar="NAME", help="of the board")]


@fleet.command()
def logs(
    name: Board,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the job has ended")] = False,
    inventory: Inventory = None,
    folder: Folder = None,
    insecure: Insecure = False,
) -> None:
    """Print what a board's job, the present one or the last, has printed there."""
    from edgesim.fleet.base import FleetError
    from edgesim.fleet.client import BoardError
    from edgesim.fleet.logs import lines_of

    (client,) = _clients(inventory, folder, insecure, [name])
    try:
        for line in lines_of(client, follow):
            typer.echo(line)
    except (BoardError, FleetError) as error:
        fail(str(error), FAILED)


@fleet.command()
def cancel(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="boards")] = None,
    everything: Annotated[bool, typer.Option("--all", help="on all boards")] = False,
    inventory: Inventory = None,
    folder: Folder = None,
    insecure: Insecure = False,
) -> None:
    """End what runs on boards. Only who has claimed a board may."""
    from edgesim.fleet.cancelling import cancel_all

    if bool(names) == everything:
        fail(
            "cancel: found " + ("both names and --all" if names else "no board") + ", allowed names or --all", BAD_INPUT
        )
    failed = False
    for line, done in cancel_all(_clients(inventory, folder, insecure, names)):
        typer.echo(line if done else f"edgesim: {line}", err=not done)
        failed = failed or not done
    if failed:
        raise typer.Exit(FAILED)


@fleet.command()
def bench(
    name: Board,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="write the profile there, instead of printing it")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="fewer repetitions")] = False,
    inventory: Inventory = None,
    folder: Folder = None,
    insecure: Insecure = False,
) -> None:
    """Let a board measure what it reaches: a device profile for topology files."""
    from edgesim import devices
    from edgesim.fleet.base import FleetError
    from edgesim.fleet.benchmark import benchmark
    from edgesim.fleet.client import BoardError, printable, printable_lines
    from edgesim.results import RunFolderError, write_atomically

    if out is not None and out.suffix not in (".yaml", ".yml"):
        fail(f"--out: found {out}, allowed a file whose name ends in .yaml", BAD_INPUT)
    (client,) = _clients(inventory, folder, insecure, [name])
    try:
        profile = benchmark(client, quick, lambda line: typer.echo(line, err=True))
    except (BoardError, FleetError) as error:
        fail(str(error), FAILED)
    if out is None:
        typer.echo(printable_lines(profile.decode(errors="replace")))
        return
    try:
        device = devices.parse(profile, f"{name}'s profile")
        write_atomically(out, profile)
    except devices.DeviceError as error:
        fail(printable(str(error)), FAILED)
    except RunFolderError as error:
        fail(str(error), FAILED)
    typer.echo(f"{out}: {printable(device.board)}, measured by {name}; device: {out} in a topology file uses it")


def _clients(
    inventory: Path | None, folder: Path | None, insecure: bool, names: Sequence[str] | None = None
) -> list[BoardClient]:
    """Of the boards named, or of all."""
    from edgesim.fleet.access import Access, enrolled_boards
    from edgesim.fleet.base import FleetError
    from edgesim.fleet.inventory import named, read_inventory
    from edgesim.topology.problems import Refusal, TopologyError

    try:
        access = Access.of(folder, insecure)
        places = enrolled_boards(folder) if inventory is None else read_inventory(inventory)
        return access.clients(places if not names else [named(places, name) for name in names])
    except TopologyError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(BAD_INPUT) from None
    except Refusal as error:
        fail(f"board: {error}", BAD_INPUT)
    except FleetError as error:
        fail(str(error), FAILED)
