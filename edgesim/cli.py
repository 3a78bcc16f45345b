"""The command line: one function per verb. What a verb needs is imported when it is called."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from edgesim.fleet.verbs import Folder as FleetFolder
from edgesim.fleet.verbs import fleet as fleet_verbs
from edgesim.interruption import interruptible
from edgesim.terminal import BAD_INPUT, FAILED, INTERRUPTED, Json
from edgesim.terminal import as_wide_as_needed as _as_wide_as_needed
from edgesim.terminal import console as _console
from edgesim.terminal import fail as _fail

if TYPE_CHECKING:
    from rich.console import Console

    from edgesim.topology.schema import Topology


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """An interrupt is told here: further out it would end the program without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED)


app = typer.Typer(
    name="edgesim",
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(fleet_verbs)

File = Annotated[Path, typer.Argument(help="topology file (YAML)", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="change any field of the file, as in training.steps=100"),
]


def main() -> None:
    """Entry point of the `edgesim` command."""
    _open_standard_streams()
    try:
        with interruptible():
            app()
    except KeyboardInterrupt:
        typer.echo("edgesim: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as in `edgesim schema | head`
        sys.stdout = None
        sys.exit(FAILED)
    except OSError as error:
        if error.filename is not None:
            raise
        sys.stdout = None
        typer.echo(f"edgesim: the output cannot be written: {error.strerror}", err=True)
        sys.exit(FAILED)


def _open_standard_streams() -> None:
    """Those that were closed lead nowhere: their descriptors would otherwise be given to what is opened next."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"edgesim {version('edgesim')}")
        raise typer.Exit


@app.callback()
def _edgesim(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """A testbed for distributed learning on satellites and other edge devices."""


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
        typer.Option(help="the run folder itself (default: results/runs/NAME-TIME)", show_default=False),
    ] = None,
    links: Annotated[str | None, typer.Option(metavar="userspace|netns", help="how links are imposed")] = None,
    clock: Annotated[str | None, typer.Option(metavar="wall|virtual", help="whether nodes wait for links")] = None,
    allow_deviation: Annotated[
        bool, typer.Option("--allow-deviation", help="run also where links miss their tolerance, and record it")
    ] = False,
    inventory: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="boards (YAML: name, address) that are the nodes", show_default=False),
    ] = None,
    folder: FleetFolder = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="boards in plain HTTP, on loopback only")] = False,
    lease: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="boards end their part after hearing nothing from here for so long (default: 20 s)",
            show_default=False,
        ),
    ] = None,
    allow_versions: Annotated[
        bool, typer.Option("--allow-versions", help="run also on boards of different versions, and say so")
    ] = False,
    figures: Annotated[bool, typer.Option(help="draw figures")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print nothing but errors")] = False,
    as_json: Json = False,
) -> None:
    """Train over the links of FILE, and report accuracy, bytes and time."""
    from edgesim import comparison
    from edgesim.fleet.base import FleetError
    from edgesim.fleet.choice import Boards, choose, parse_lease
    from edgesim.network.namespaces import NetworkError
    from edgesim.network.plan import Unavailable
    from edgesim.progress import Progress, Terminal
    from edgesim.results import RunFolder, RunFolderError
    from edgesim.run import Experiment, Interrupted, RunError, reserve, run_all
    from edgesim.topology.computing import assumptions
    from edgesim.topology.quantities import QuantityError
    from edgesim.topology.reader import TopologyError, read
    from edgesim.topology.source import read_text
    from node_agent.workloads.formats import SceneError

    console = _as_wide_as_needed(Terminal, stderr=as_json)
    options = dict(_options(compressor or [], seed, links, clock, allow_deviation, allow_versions))
    overrides = [*options, *(settings or ())]

    def tell(line: str) -> None:
        if not quiet:
            console.print(line, highlight=False, markup=False)

    try:
        topology = read(file, overrides, options)
        silence = None if lease is None else parse_lease(lease)
        fleet = choose(topology, Boards(inventory, folder, insecure, silence, allow_versions), tell)
        experiment = Experiment.prepare(topology, read_text(file), overrides)
    except (TopologyError, SceneError, Unavailable) as error:
        _refuse(_problems(error, file, overrides, options))
    except QuantityError as error:
        _fail(f"--lease: {error}", BAD_INPUT)
    except (NetworkError, FleetError) as error:
        _fail(str(error), FAILED)
    place = out or RunFolder.default_path("results/runs", topology.name, datetime.now())
    try:
        reserve(place, len(topology.training.compressor))
        if not quiet:
            pixels = ", ".join(f"{count} {kind}" for kind, count in experiment.scored.items())
            console.print(experiment.scene.describe, highlight=False)
            console.print(f"target prior: {experiment.prior.label}; scored on {pixels} pixels", highlight=False)
            for line in assumptions(topology):
                console.print(line, highlight=False)

        def watch(title: str) -> Progress:
            virtual = topology.emulation.clock == "virtual"
            return Progress(console, title, list(topology.ring), topology.training.steps, quiet, virtual)

        runs = run_all(experiment, place, fleet, watch)
    except RunFolderError as error:
        _fail(str(error), BAD_INPUT)
    except RunError as error:
        _fail(str(error), INTERRUPTED if isinstance(error, Interrupted) else FAILED, error.details())
    if as_json:
        typer.echo(comparison.to_json(runs))
    elif not quiet:
        console.print(comparison.render(runs))
    drawn = _draw(place, runs) if figures else []
    if not as_json and not quiet:
        _list_figures(console, place, drawn)
    if console.failure is not None:
        _fail(f"the output cannot be written: {console.failure.strerror}; the run is in {place}", FAILED)


@app.command()
def validate(
    file: File,
    settings: Set = None,
    links: Annotated[str | None, typer.Option(metavar="userspace|netns", help="how links are imposed")] = None,
    as_json: Json = False,
) -> None:
    """Check FILE, and the scene that it names: every mistake with its line, field, and what is allowed there."""
    from edgesim.network.namespaces import NetworkError, check
    from edgesim.network.plan import Unavailable
    from edgesim.run import open_scene_of
    from edgesim.topology.reader import TopologyError, read
    from node_agent.workloads.formats import SceneError

    options = dict(_options([], links=links))
    overrides = [*options, *(settings or ())]
    problems: list[str] = []
    try:
        topology = read(file, overrides, options)
        if topology.emulation.links == "netns":
            check(topology)
        open_scene_of(topology)
    except (TopologyError, SceneError, Unavailable) as error:
        problems = _problems(error, file, overrides, options)
    except NetworkError as error:
        _fail(str(error), FAILED)
    if as_json:
        typer.echo(json.dumps({"valid": not problems, "problems": problems}, indent=2))
        raise typer.Exit(BAD_INPUT if problems else 0)
    if problems:
        _refuse(problems)
    typer.echo(f"{file}: valid; {len(topology.nodes)} node(s), {len(topology.links)} link(s)")


@app.command()
def show(
    file: File,
    settings: Set = None,
    png: Annotated[
        Path | None,
        typer.Option(
            help="draw it into this file as well; a constellation's tracks and contacts into NAME-orbit.png beside it",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw the nodes and links of FILE with their rates and delays."""
    from edgesim.topology.picture import draw
    from edgesim.topology.reader import TopologyError, read

    try:
        topology = read(file, settings or ())
    except TopologyError as error:
        _refuse(_problems(error, file, settings or ()))
    if as_json:
        typer.echo(topology.model_dump_json(indent=2))
    else:
        _console().print(draw(topology))
    if png is not None:
        from edgesim import figures

        try:
            figures.save(figures.draw_topology(topology.ring, topology.directed_links()), png)
            if topology.constellation is not None:
                from edgesim.contacts import plan_of
                from edgesim.figures.orbit import draw_orbit

                plan = plan_of(topology.constellation, topology.orbital_links())
                figures.save(draw_orbit(plan), png.with_name(f"{png.stem}-orbit{png.suffix}"))
        except (OSError, ValueError) as error:
            _fail(f"{png}: {error}", BAD_INPUT)


@app.command()
def contacts(
    file: File,
    settings: Set = None,
    out: Annotated[Path | None, typer.Option(help="write every contact and eclipse as CSV", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Tell when the satellites and stations of FILE see each other, and when the Earth's shadow falls on them."""
    from edgesim import contacts as plans
    from edgesim.orbit.tle import ElementsError
    from edgesim.results import RunFolderError, write_atomically
    from edgesim.topology.reader import TopologyError, read_constellation

    try:
        name, constellation, pairs = read_constellation(file, settings or ())
        plan = plans.plan_of(constellation, pairs)
    except TopologyError as error:
        _refuse(_problems(error, file, settings or ()))
    except ElementsError as error:
        _fail(f"{file}: {error}", BAD_INPUT)
    if out is not None:
        try:
            write_atomically(out, plans.to_csv(plan))
        except RunFolderError as error:
            _fail(str(error), BAD_INPUT)
    if as_json:
        typer.echo(json.dumps(plans.to_json(plan, name), indent=2))
    else:
        _console().print(plans.render(plan, name))


@app.command()
def links(
    file: File,
    settings: Set = None,
    how: Annotated[str | None, typer.Option("--links", metavar="userspace|netns", help="how links are imposed")] = None,
    at: Annotated[str, typer.Option(metavar="TIME", help="as they are at this moment of the run's clock")] = "0 s",
    samples: Annotated[int, typer.Option(min=8, max=100_000, help="single messages a direction")] = 60,
    png: Annotated[Path | None, typer.Option(help="draw it into this file as well", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Measure every link of FILE, both ways: requested, applied and measured rate, delay, jitter and loss."""
    from edgesim import proof
    from edgesim.fleet.base import NodeFailure
    from edgesim.fleet.local import LocalFleet
    from edgesim.network.namespaces import NetworkError, usable_plan
    from edgesim.network.plan import Unavailable
    from edgesim.topology.quantities import QuantityError, parse_time
    from edgesim.topology.reader import TopologyError, read
    from node_agent.job import ProbeSettings

    options = dict(_options([], links=how))
    overrides = [*options, *(settings or ())]
    try:
        topology = read(file, overrides, options)
        _here_only(topology, file, overrides, "measures")
        moment = parse_time(at)
        plan = usable_plan(topology) if topology.emulation.links == "netns" else None
    except (TopologyError, Unavailable) as error:
        _refuse(_problems(error, file, overrides, options))
    except NetworkError as error:
        _fail(str(error), FAILED)
    except QuantityError as error:
        _fail(f"--at: {error}", BAD_INPUT)
    if not topology.links:
        typer.echo("[]" if as_json else f"{file}: one node, and no link to measure")
        return
    tolerance = topology.emulation.tolerance
    probe = ProbeSettings(samples=samples, budget=30.0, burst_time=1.0, tolerance=tolerance, binding=False)
    proofs: list[proof.Proof] = []
    try:
        with closing(proof.prove(topology, LocalFleet, probe, moment, plan)) as pairs:
            for pair in pairs:
                proofs += pair
                if not as_json:
                    names = " and ".join(one.requested.name for one in pair)
                    typer.echo(f"measured {names} ({len(proofs)} of {2 * len(topology.links)})", err=True)
    except (NodeFailure, NetworkError) as error:
        _fail(str(error), FAILED)
    if as_json:
        typer.echo(json.dumps([one.as_json() for one in proofs], indent=2))
    else:
        _console().print(proof.render(proofs, tolerance))
    if png is not None and proofs:
        from edgesim import figures

        try:
            figures.save(figures.draw_deviation(proofs, tolerance), png)
        except (OSError, ValueError) as error:
            _fail(f"{png}: {error}", BAD_INPUT)
    if any(one.deviations for one in proofs):
        raise typer.Exit(FAILED)


@app.command()
def presets(as_json: Json = False) -> None:
    """List the named links: rate and delay of each direction, and where they come from."""
    from edgesim import catalogue

    if as_json:
        typer.echo(json.dumps(catalogue.presets(), indent=2, ensure_ascii=False))
    else:
        _console().print(catalogue.render_presets())


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
    from edgesim.results import RunFolderError, load, runs_in

    console = _console()
    try:
        loaded = [load(inner) for path in runs for inner in runs_in(path)]
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
def compressors(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="settings and sources of these")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the compressors and how their payloads travel; of those named, settings and where they come from."""
    from edgesim import catalogue
    from edgesim.topology.problems import Refusal

    try:
        if as_json:
            typer.echo(json.dumps(catalogue.entries(names or ()), indent=2))
        else:
            _console().print(catalogue.render_entries(names) if names else catalogue.render())
    except Refusal as error:
        _refuse([f"compressor: {error}"])


@app.command(name="exec", context_settings={"ignore_unknown_options": True})
def execute(
    file: File,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="program and arguments")],
    settings: Set = None,
    grace: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="for the others once a node has failed")] = 10,
) -> None:
    """Run a command on every node, over the links of FILE: RANK, WORLD_SIZE, MASTER_ADDR and so on are set as torchrun
    does. Ends with the worst exit code."""
    from edgesim.exec import Output, run_everywhere
    from edgesim.network.namespaces import Network, NetworkError, usable_plan
    from edgesim.network.plan import Unavailable
    from edgesim.topology.events import pauses
    from edgesim.topology.reader import TopologyError, read

    try:
        topology = read(file, settings or ())
        _here_only(topology, file, settings or (), "runs commands")
        plan = usable_plan(topology)
    except (TopologyError, Unavailable) as error:
        _refuse(_problems(error, file, settings or ()))
    except NetworkError as error:
        _fail(str(error), FAILED)
    try:
        with Network(replace(plan, run=f"exec-{os.getpid()}")) as network:
            when = [pauses(topology.events, name) for name in plan.nodes]
            code = run_everywhere(network, command, Output(plan.nodes), grace, when)
    except NetworkError as error:
        _fail(str(error), FAILED)
    raise typer.Exit(code)


@app.command()
def clean(as_json: Json = False) -> None:
    """End what killed runs have left behind: their processes, and with these their namespaces and devices."""
    from edgesim.network import records

    cleaned: list[dict[str, Any]] = []
    try:
        for one in records.clean():
            cleaned.append(one.__dict__)
            if not as_json:
                what = "is going on; left alone" if one.alive else f"removed; {one.processes} process(es) ended"
                typer.echo(f"{one.run}: {what}")
    except records.RecordError as error:
        _fail(str(error), FAILED)
    if as_json:
        typer.echo(json.dumps(cleaned, indent=2))
    elif not cleaned:
        typer.echo("nothing to remove")


@app.command()
def devices(as_json: Json = False) -> None:
    """List the device profiles: what each board reaches in each power mode, and how much of that is unverified."""
    from edgesim import devices as profiles

    try:
        entries = profiles.entries()
    except profiles.DeviceError as error:
        _fail(str(error), FAILED)
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
    else:
        _console().print(profiles.render(entries))


def _options(
    compressors: list[str],
    seed: int | None = None,
    links: str | None = None,
    clock: str | None = None,
    allow_deviation: bool = False,
    allow_versions: bool = False,
) -> Iterable[tuple[str, str]]:
    """What options other than --set stand for, each with what was typed."""
    if compressors:
        names = compressors[0] if len(compressors) == 1 else f"[{', '.join(compressors)}]"
        yield f"training.compressor={names}", " ".join(f"--compressor {name}" for name in compressors)
    others: tuple[tuple[str, str, Any], ...] = (
        ("seed", "seed", seed),
        ("links", "emulation.links", links),
        ("clock", "emulation.clock", clock),
    )
    for option, path, value in others:
        if value is not None:
            yield f"{path}={value}", f"--{option} {value}"
    if allow_deviation:
        yield "emulation.allow_deviation=true", "--allow-deviation"
    if allow_versions:
        yield "emulation.allow_versions=true", "--allow-versions"


def _problems(
    error: ValueError, file: Path, overrides: Sequence[str], typed: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """A line for each mistake, its place first, as editors like it."""
    from edgesim.network.plan import Unavailable
    from edgesim.topology.problems import Problem, dotted
    from edgesim.topology.reader import TopologyError, place_of

    if isinstance(error, TopologyError):
        return str(error).splitlines()
    if isinstance(error, Unavailable):
        return [
            str(Problem(place_of(file, overrides, *keys, typed=typed), dotted(keys), refusal))
            for keys, refusal in error.problems
        ]
    return [f"{place_of(file, overrides, 'training', 'scene')}: training.scene: {error}"]


def _here_only(topology: Topology, file: Path, overrides: Sequence[str], does: str) -> None:
    """Refuse boards where the nodes would be processes of this machine in their stead."""
    from edgesim.topology.problems import Problem, Refusal, TopologyError
    from edgesim.topology.reader import place_of

    for place, node in enumerate(topology.nodes):
        if node.address is not None:
            keys = ("nodes", place, "address")
            refusal = Refusal(node.address, f"none: this verb {does} on this machine alone")
            raise TopologyError([Problem(place_of(file, overrides, *keys), ".".join(map(str, keys)), refusal)])


def _refuse(problems: Sequence[str]) -> NoReturn:
    typer.echo("\n".join(problems), err=True)
    raise typer.Exit(BAD_INPUT)


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
