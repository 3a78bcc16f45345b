"""Topology -> jobs -> fleet -> run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesim import host
from edgesim.comparison import compressor_label
from edgesim.fleet.base import Fleet, FleetError, NodeFailure, Strips
from edgesim.interruption import interruptible
from edgesim.network.namespaces import Network, NetworkError, run_id, usable_plan, warm_up
from edgesim.network.plan import Plan, describe
from edgesim.network.records import Record, RecordError, recorded
from edgesim.results import Run, RunFolder, RunFolderError, load
from edgesim.summary import summarise
from edgesim.topology.computing import boards
from edgesim.topology.events import pauses
from edgesim.topology.schema import Topology
from node_agent.compression.settings import CompressorSettings
from node_agent.events import ClockSet, Event, Observation, Started, Step
from node_agent.job import BackgroundSettings, Job, ProbeSettings, SceneSettings, ShardSettings
from node_agent.link_model import frame_bytes, patience, payload_bytes
from node_agent.workloads import detection
from node_agent.workloads.formats import SceneError
from node_agent.workloads.scenes import Prior, Scene, open_scene, target_prior

Watch = Callable[[Event], None]


class RunError(RuntimeError):
    """A run that failed; `folder` holds what was measured, if anything was, `log` the failed node's last words."""

    status = "failed"

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log
        self.folder: Path | None = None
        self.measured = False

    def details(self) -> str:
        log = "".join(f"  | {line}\n" for line in self.log.splitlines())
        kept = "what was measured is in" if self.measured else "nothing was measured yet; what was asked is in"
        return log if self.folder is None else f"{log}{kept} {self.folder}"


class Interrupted(RunError):
    """Ended by a signal from outside."""

    status = "interrupted"


@dataclass(frozen=True)
class Experiment:
    """A topology with its scene opened and checked: ready to run under any compressor."""

    topology: Topology
    source: str
    """the topology's text, as read"""
    scene: Scene
    prior: Prior
    controls: dict[str, NDArray[np.float64]]
    """maps of the detectors that learn nothing"""
    rgb: NDArray[np.uint8]
    overrides: tuple[str, ...] = ()
    """what was changed of it on the command line"""
    plan: Plan | None = None
    """how the kernel imposes the links; None: the nodes do"""

    @classmethod
    def prepare(cls, topology: Topology, source: str, overrides: Sequence[str] = ()) -> Experiment:
        """Open the scene, draw the prior, run the controls, and find out whether the links can be imposed here.

        Raises SceneError as `open_scene_of`, Unavailable and NetworkError as `usable_plan`.
        """
        plan = usable_plan(topology) if topology.emulation.links == "netns" else None
        scene, prior = open_scene_of(topology)
        controls, rgb = detection.controls(scene, prior), detection.false_colour(scene)
        return cls(topology, source, scene, prior, controls, rgb, tuple(overrides), plan)

    @property
    def scored(self) -> dict[str, int]:
        """How many pixels of each kind the figures are of."""
        truth = self.scene.mask[~self.prior.used]
        return {"targets": int(truth.sum()), "background": int((~truth).sum())}

    def strips(self) -> Strips:
        """Of the scene: as many lines for each node of the ring as for the others, but for one."""
        lines, nodes = self.scene.shape[0], len(self.topology.ring)
        cuts = [lines * i // nodes for i in range(nodes + 1)]
        return Strips(self.scene, _scene_settings(self.topology), list(pairwise(cuts)))

    def jobs(
        self,
        compressor: CompressorSettings,
        run: str,
        rendezvous: str,
        network: Network | None = None,
        scenes: Sequence[SceneSettings | ShardSettings] | None = None,
    ) -> list[Job]:
        """One job per node, in ring order. `scenes`: where each finds its strip; None: in the scene as opened here."""
        topology, training = self.topology, self.topology.training
        names = tuple(topology.ring)
        links = {link.source: link for link in topology.ring_links(alone=True)}
        incoming = {link.target: link for link in links.values()}
        hops, shares = topology.ring_hops(), topology.ring_links()
        frame = frame_bytes(shares)
        modelled = boards(topology)
        factors = {node.name: node.compute_factor for node in topology.nodes}
        inside: list[dict[str, Any]] = [{}] * len(names)
        if network is not None:
            inside = [{**network.inside(rank), "egress": network.plan.egress(rank)} for rank in range(len(names))]
        bare = topology.emulation.clock == "wall" and all(link.bare for link in links.values())
        probe = None
        if topology.emulation.clock == "wall" and links and not bare:
            emulation = topology.emulation
            lead = warm_up(topology.directed_links()) if network is not None else 0.0
            probe = ProbeSettings(warm_up=lead, tolerance=emulation.tolerance, binding=not emulation.allow_deviation)
        # A neighbour may be silent for as long as all of its gradients are under way, on every link before it.
        longest = max(frame, 4 * _parameters(self.scene.shape[2], training.network))
        silence = topology.emulation.timeout + sum(patience(link, longest, network is not None) for link in shares)
        silence += sum(pause.end - pause.start for name in names for pause in pauses(topology.events, name))
        strips = self.strips()
        scenes = scenes or [strips.settings] * len(names)
        return [
            Job(
                run=run,
                rank=rank,
                nodes=names,
                seed=topology.seed,
                steps=training.steps,
                device=training.accelerator,
                clock=topology.emulation.clock,
                compute_factor=factors[name],
                roofline=modelled[name].device.roofline(modelled[name].mode) if name in modelled else None,
                pauses=pauses(topology.events, name),
                outgoing=links.get(name),
                incoming=incoming.get(name),
                frame=frame,
                bare=bare,
                rendezvous=rendezvous,
                probe=probe and probe.model_copy(update={"shared": hops[rank - 1].shared}),
                timeout=silence,
                compressor=compressor,
                density=training.density,
                bucket_bytes=training.bucket,
                payload_bytes=payload_bytes(shares),
                workload=BackgroundSettings(
                    scene=scenes[rank],
                    lines=strips.lines[rank],
                    target_spectrum=tuple(map(float, self.prior.spectrum)),
                    network=training.network,
                    batch=training.batch,
                    learning_rate=training.learning_rate,
                ),
                evaluate_every=training.evaluate_every,
                **inside[rank],
            )
            for rank, name in enumerate(names)
        ]

    def run(self, compressor: CompressorSettings, path: Path, fleet: Fleet, watch: Watch) -> Run:
        """Train on the fleet and fill the run folder `path`; returns it as read back.

        Raises RunError where a node fails, replicas differ, the folder cannot be written or a signal ends the run;
        the folder then holds what was measured so far. Raises RunFolderError if the folder cannot be made.
        """
        folder = RunFolder.create(path)
        began = time.monotonic()
        observed = Observed(self)
        failure: RunError | None = None
        measured = False
        try:
            folder.write_topology(self.source)
            config = self._config(compressor)
            folder.write_config(config)
            with (
                recorded(run_id(path)) as record,
                interruptible(),
                self._network(record) as network,
                fleet,
            ):
                record.leave(fleet.folders())
                ground = fleet.prepare(path.name, self.topology.ring, self.strips(), record.folder())
                folder.write_config({**config, "fleet": fleet.described()})
                jobs = self.jobs(compressor, path.name, ground.rendezvous, network, ground.scenes)
                if network is not None:
                    folder.record_network("began", network.applied())
                fleet.start(jobs, [folder.log_path(job.node) for job in jobs])
                try:
                    for event in fleet.events():
                        if isinstance(event, ClockSet):
                            if network is not None and network.plan.changing:
                                network.begin(event.origin_s)
                            continue
                        if isinstance(event, Started) and fleet.pids_are_ours:
                            record.add(event.pid)
                        folder.record(event)
                        measured = True
                        evaluation = observed(event)
                        if evaluation is not None:
                            folder.record_evaluation(*evaluation)
                        watch(event)
                finally:
                    if network is not None:  # raises where the network's own failure was the cause of a node's
                        folder.record_network("ended", network.applied())
            folder.write_maps(observed.maps())
        except NodeFailure as error:
            failure = RunError(str(error), error.log)
        except (RunError, RunFolderError, NetworkError, RecordError, FleetError) as error:
            failure = error if isinstance(error, RunError) else RunError(str(error))
        except KeyboardInterrupt:
            failure = Interrupted("interrupted")
        wall_s = time.monotonic() - began
        try:
            folder.close()
            summary = summarise(load(path), wall_s=wall_s)
            if failure is None and not summary["nodes_agree"]:
                failure = RunError("the nodes ended with different parameters")
            if failure is not None:
                line = " ".join(part.strip() for part in str(failure).splitlines())
                summary |= {"status": failure.status, "error": line}
            folder.write_summary(summary)
        except RunFolderError as error:
            failure = failure or RunError(str(error))
        if failure is not None:
            failure.folder, failure.measured = path, measured
            raise failure
        return load(path)

    def _network(self, record: Record) -> AbstractContextManager[Network | None]:
        return nullcontext() if self.plan is None else Network(replace(self.plan, run=record.run), record)

    def _config(self, compressor: CompressorSettings) -> dict[str, Any]:
        topology = self.topology
        return {
            "name": topology.name,
            "nodes": list(topology.ring),
            "links": [link.model_dump() for link in topology.directed_links()],
            "clock": topology.emulation.clock,
            "network": describe(self.plan) if self.plan is not None else None,
            "compute": topology.compute,
            "boards": {name: board.described() for name, board in boards(topology).items()},
            "compressor": compressor.model_dump(),
            "scene": self.scene.describe,
            "prior": self.prior.label,
            "scored": self.scored,
            "topology": topology.model_dump(mode="json"),
            "overrides": list(self.overrides),
            "versions": host.versions(),
            "host": host.host(),
            "git": host.revision(),
        }


def _parameters(bands: int, encoder: Sequence[int]) -> int:
    """Of the background learner: an encoder of these widths, and the decoder that mirrors it."""
    widths = (bands, *encoder, *encoder[-2::-1], bands)
    return sum(before * after + after for before, after in pairwise(widths))


def open_scene_of(topology: Topology) -> tuple[Scene, Prior]:
    """The scene of a topology, and what is known of its target.

    Raises SceneError where the scene cannot be used, has fewer lines than there are nodes, or leaves nothing to be told
    apart.
    """
    scene = open_scene(_scene_settings(topology))
    prior = target_prior(scene, topology.training.prior, np.random.default_rng([topology.seed, 0xD]))
    if scene.shape[0] < len(topology.ring):
        raise SceneError(
            f"{scene.name}: found {scene.shape[0]} lines, allowed at least one for each of the "
            f"{len(topology.ring)} nodes"
        )
    truth = scene.mask[~prior.used]
    if truth.all() or not truth.any():
        raise SceneError(
            f"{scene.name}: found {int(truth.sum())} targets among the {truth.size} pixels to be scored, allowed "
            "both targets and background"
        )
    return scene, prior


def reserve(folder: Path, runs: int) -> None:
    """Make the folder of so many runs before they begin. Raises RunFolderError where it cannot take them."""
    if runs > 1 and folder.is_dir() and any(folder.iterdir()):
        raise RunFolderError(f"{folder}: not an empty folder; choose another one for {runs} runs")
    RunFolder.reserve(folder)


def run_all(
    experiment: Experiment, folder: Path, fleet: Fleet, watch: Callable[[str], AbstractContextManager[Watch]]
) -> list[Run]:
    """Run the experiment under each of its compressors, one after the other on the same links.

    `folder` is the run folder itself where there is one compressor; with several it holds a run folder for each.
    Raises as `Experiment.run`.
    """
    compressors = experiment.topology.training.compressor
    runs = []
    for place, compressor in enumerate(compressors, start=1):
        settings = compressor.model_dump()
        path = folder if len(compressors) == 1 else folder / f"{place}-{settings['name']}"
        with watch(compressor_label(settings)) as watching:
            runs.append(experiment.run(compressor, path, fleet, watching))
    return runs


class Observed:
    """What the controller makes of the events: whether replicas agree, and what their maps are worth."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._nodes = list(experiment.topology.ring)
        self._fingerprints: dict[int, dict[str, int]] = {}
        self._observations: dict[int, dict[int, Observation]] = {}
        self._last: dict[str, NDArray[Any]] = {}
        self._untrained: dict[str, NDArray[Any]] = {}

    def __call__(self, event: Event) -> tuple[int, float, dict[str, float]] | None:
        """Raises RunError at the first step after which two nodes hold different parameters. Returns step, time (s) and
        metrics of an evaluation, where the event was the last that it took."""
        if isinstance(event, Step):
            self._compare(event)
        return self._evaluate(event) if isinstance(event, Observation) else None

    def _compare(self, step: Step) -> None:
        known = self._fingerprints.setdefault(step.step, {})
        known[step.node] = step.fingerprint
        if len(set(known.values())) > 1:
            groups = ", ".join(f"{node} {value:08x}" for node, value in sorted(known.items()))
            raise RunError(f"replicas differ after step {step.step}: {groups}")
        if len(known) == len(self._nodes):
            del self._fingerprints[step.step]

    def _evaluate(self, event: Observation) -> tuple[int, float, dict[str, float]] | None:
        strips = self._observations.setdefault(event.step, {})
        strips[event.rank] = event
        if len(strips) < len(self._nodes):
            return None
        del self._observations[event.step]
        self._last = {
            name: np.concatenate([strips[rank].arrays[name] for rank in range(len(self._nodes))])
            for name in event.arrays
        }
        self._untrained = self._untrained or self._last
        experiment = self._experiment
        metrics = detection.evaluate(
            self._last,
            experiment.scene.mask,
            experiment.prior.used,
            controls=experiment.controls,
            untrained=self._untrained,
        )
        return event.step, max(strip.time_s for strip in strips.values()), metrics

    def maps(self) -> dict[str, NDArray[Any]]:
        """Full-scene maps (H, W), for figures."""
        scene, prior = self._experiment.scene, self._experiment.prior
        return {
            "score": detection.fuse(self._last["residual"], self._last["coarse"]).astype(np.float32),
            **{name: values.astype(np.float32) for name, values in self._last.items()},
            "untrained": detection.fuse(self._untrained["residual"], self._untrained["coarse"]).astype(np.float32),
            **{name: values.astype(np.float32) for name, values in self._experiment.controls.items()},
            "target": scene.mask,
            "scored": ~prior.used,
            "rgb": self._experiment.rgb,
        }


def _scene_settings(topology: Topology) -> SceneSettings:
    training = topology.training
    return SceneSettings(path=training.scene, target=training.target, cube=training.cube, mask=training.mask)
