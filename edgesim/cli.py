"""The command line: one function per verb. What a verb needs is imported when it is called."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from edgesim.topology.schema import Topology

app = typer.Typer(
    name="edgesim",
    help="A testbed for distributed learning on satellites and other edge devices.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

File = Annotated[Path, typer.Argument(help="topology file (YAML)", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="change any field of the file, as in training.steps=100"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def main() -> None:
    """Entry point of the `edgesim` command."""
    try:
        app()
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as in `edgesim schema | head`
        sys.stdout = None
        sys.exit(FAILED)


@app.command()
def run(
    file: File,
    compressor: Annotated[
        list[str] | None,
        typer.Option("--compressor", metavar="NAME", help="run with this one; given several times: compare them"),
    ] = None,
    settings: Set = None,
    seed: Annotated[int | None, typer.Option(help="seed of everything random")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="the run folder itself  [default: results/runs/NAME-TIME]", show_default=False),
    ] = None,
    links: Annotated[str | None, typer.Option(metavar="userspace", help="how links are imposed")] = None,
    clock: Annotated[str | None, typer.Option(metavar="wall|virtual", help="whether nodes wait for links")] = None,
    figures: Annotated[bool, typer.Option(help="draw figures")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print nothing but errors")] = False,
    as_json: Json = False,
) -> None:
    """Train over the links of FILE, and report accuracy, bytes and time."""
    from edgesim import comparison
    from edgesim.fleet.local import LocalFleet
    from edgesim.progress import Progress
    from edgesim.results import RunFolder, RunFolderError
    from edgesim.run import Experiment, Interrupted, RunError, run_all
    from edgesim.topology.source import read_text
    from node_agent.workloads.formats import SceneError

    console = _console(stderr=as_json)
    overrides = list(settings or ())
    overrides += [f"training.compressor=[{', '.join(compressor)}]"] if compressor else []
    overrides += [f"{path}={value}" for path, value in _given(seed, links, clock)]
    topology = _read(file, overrides)
    try:
        experiment = Experiment.prepare(topology, read_text(file), overrides)
        folder = out or RunFolder.default_path("results/runs", topology.name, datetime.now())
        if not quiet:
            console.print(experiment.scene.describe, highlight=False)
            pixels = ", ".join(f"{count} {kind}" for kind, count in experiment.scored.items())
            console.print(f"target prior: {experiment.prior.label}; scored on {pixels} pixels", highlight=False)

        def watch(title: str) -> Progress:
            return Progress(console, title, list(topology.ring), topology.training.steps, quiet)

        runs = run_all(experiment, folder, LocalFleet(), watch)
    except (SceneError, RunFolderError) as error:
        _fail(str(error), BAD_INPUT)
    except RunError as error:
        _fail(str(error), INTERRUPTED if isinstance(error, Interrupted) else FAILED, error.details())
    drawn = _draw(folder, runs) if figures else []
    if as_json:
        typer.echo(comparison.to_json(runs))
    elif not quiet:
        console.print(comparison.render(runs))
        _list_figures(console, folder, drawn)


@app.command()
def validate(file: File, settings: Set = None, as_json: Json = False) -> None:
    """Check FILE: every mistake with its line, field, and what is allowed there."""
    topology = _read(file, settings or ())
    counts = {"name": topology.name, "nodes": len(topology.nodes), "links": len(topology.links), "valid": True}
    typer.echo(
        json.dumps(counts) if as_json else f"{file}: valid; {counts['nodes']} node(s), {counts['links']} link(s)"
    )


@app.command()
def show(
    file: File,
    settings: Set = None,
    png: Annotated[Path | None, typer.Option(help="draw it into this file as well", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Draw the nodes and links of FILE with their rates and delays."""
    from edgesim.topology.picture import draw

    topology = _read(file, settings or ())
    if as_json:
        typer.echo(topology.model_dump_json(indent=2))
    else:
        _console().print(draw(topology))
    if png is not None:
        from edgesim import figures

        try:
            figures.save(figures.draw_topology(topology.ring, topology.directed_links()), png)
        except (OSError, ValueError) as error:
            _fail(f"{png}: {error}", BAD_INPUT)


@app.command()
def schema() -> None:
    """Print the JSON schema of topology files, for editors."""
    from edgesim.topology.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Probe this machine, and say what will be imposed how."""
    from edgesim import doctor as probes

    findings = probes.examine()
    if as_json:
        typer.echo(json.dumps([finding.__dict__ for finding in findings], indent=2))
    else:
        _console().print(probes.render(findings))
    if any(finding.status == "missing" for finding in findings):
        raise typer.Exit(FAILED)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="folder for the overlaid figures", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Put runs side by side: a table, and with --out their figures overlaid."""
    from edgesim import comparison, figures
    from edgesim.results import RunFolderError, load

    console = _console()
    try:
        loaded = [load(path) for path in runs]
        drawn = figures.draw_overlays(loaded, out) if out is not None else []
    except RunFolderError as error:
        _fail(str(error), BAD_INPUT)
    if as_json:
        typer.echo(comparison.to_json(loaded))
        return
    console.print(comparison.render(loaded))
    if out is not None:
        _list_figures(console, out, drawn)


@app.command()
def compressors(as_json: Json = False) -> None:
    """List the compressors: settings, how their payloads travel, and where they come from."""
    from edgesim import catalogue

    if as_json:
        typer.echo(json.dumps(catalogue.entries(), indent=2))
    else:
        _console().print(catalogue.render())


def _given(seed: int | None, links: str | None, clock: str | None) -> Iterable[tuple[str, Any]]:
    options = {"seed": seed, "emulation.links": links, "emulation.clock": clock}
    return ((path, value) for path, value in options.items() if value is not None)


def _read(file: Path, overrides: Iterable[str]) -> Topology:
    from edgesim.topology.reader import TopologyError, read

    try:
        return read(file, list(overrides))
    except TopologyError as error:
        typer.echo(str(error), err=True)  # each line begins with its place, for editors
        raise typer.Exit(BAD_INPUT) from None


def _draw(folder: Path, runs: list[Any]) -> list[Path]:
    from edgesim import figures
    from edgesim.results import RunFolderError

    try:
        drawn = [path for run in runs for path in figures.draw_all(run, run.path / "figures")]
        return drawn if len(runs) == 1 else [*drawn, *figures.draw_overlays(runs, folder / "figures")]
    except RunFolderError as error:
        _fail(str(error), FAILED)


def _list_figures(console: Console, folder: Path, drawn: list[Path]) -> None:
    console.print(f"\nfolder: {folder}", highlight=False, soft_wrap=True)
    for place, figures in groupby(drawn, key=lambda path: path.parent):
        names = ", ".join(path.name for path in figures)
        console.print(f"  {place}/: {names}", highlight=False, soft_wrap=True)


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    # Where the output is no terminal its width is unknown: wide enough that no table is cut.
    return console if console.is_terminal else Console(stderr=stderr, width=110)


def _fail(message: str, code: int, details: str = "") -> NoReturn:
    typer.echo(f"edgesim: {message}", err=True)
    if details:
        typer.echo(details, err=True)
    raise typer.Exit(code)
