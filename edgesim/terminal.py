"""What verbs have in common: exit codes, one message for what went wrong, a console that cuts no table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def fail(message: str, code: int, details: str = "") -> NoReturn:
    typer.echo(f"edgesim: {message}", err=True)
    if details:
        typer.echo(details, err=True)
    raise typer.Exit(code)


def console() -> Console:
    from rich.console import Console

    return as_wide_as_needed(Console)


C = TypeVar("C", bound="Console")


def as_wide_as_needed(kind: Callable[..., C], stderr: bool = False) -> C:
    """Where the output is no terminal its width is unknown: wide enough that no table is cut."""
    made = kind(stderr=stderr)
    return made if made.is_terminal else kind(stderr=stderr, width=110)
