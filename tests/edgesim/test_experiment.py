"""What the controller makes of a topology and of its nodes' events, without any node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesim.fleet.base import Ground, NodeFailure, Strips
from edgesim.fleet.local import LocalFleet
from edgesim.results import Run
from edgesim.run import Experiment, RunError, run_all
from edgesim.topology.reader import read
from node_agent.compression.settings import NoneSettings
from node_agent.events import Event, Fault, Finished, Observation, Received, Sent, Started, Step, StepParts
from node_agent.job import Job
from node_agent.link_model import frame_bytes, patience
from node_agent.workloads import detection
from node_agent.workloads.scenes import open_scene, target_prior

Write = Callable[..., Path]


def experiment(file: Path, *overrides: str) -> Experiment:
    return Experiment.prepare(read(file, overrides), "", overrides)


NO_PID = 2**22 + 1
"""that no Linux gives out"""


class Played:
    """A fleet of nodes that say what they are told to."""

    def __init__(self, events: Callable[[Sequence[Job]], Iterator[Event]]) -> None:
        self._events = events
        self._jobs: Sequence[Job] = ()

    pids_are_ours = True

    def prepare(self, run: str, nodes: Sequence[str], strips: Strips, folder: Path) -> Ground:
        return Ground("file:///meeting", [strips.settings] * len(nodes))

    def described(self) -> dict[str, Any]:
        return {"kind": "played"}

    def folders(self) -> Sequence[Path]:
        return ()

    def start(self, jobs: Sequence[Job], logs: Sequence[Path]) -> None:
        self._jobs = jobs

    def events(self) -> Iterator[Event]:
        return self._events(self._jobs)

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *_: object) -> None:
        pass


FACTS = {"parameters": 100, "bands_dropped": [], "non_finite": 0, "negative": 0, "empty_pixels": 0}


def played(
    maps: Sequence[dict[str, np.ndarray]],
    fingerprint: Callable[[int, int], int] = lambda rank, step: step,
    digest: Callable[[int], str] = lambda rank: "ab" * 32,
) -> Callable[[Sequence[Job]], Iterator[Event]]:
    """Nodes that observe `maps[0]` before the first of two steps, `maps[1]` after it and `maps[2]` after the second."""

    def events(jobs: Sequence[Job]) -> Iterator[Event]:
        for job in jobs:
            yield Started(job.rank, job.node, NO_PID, FACTS, Sent(1, 10, 2), 0.5, 400, job.outgoing)
        for number, whole in enumerate(maps):
            for job in jobs:
                if number:
                    parts, sent = StepParts(1.0, 0.0, 0.0, 0.0, 0.0), Sent(1, 390, 10)
                    mark = fingerprint(job.rank, number)
                    yield Step(job.rank, job.node, number, number, 1.0, 0.1, parts, sent, Received(), 100, mark, 400)
            for job in reversed(jobs):
                lines = slice(*job.workload.lines)
                strip = {name: values[lines] for name, values in whole.items()}
                yield Observation(job.rank, job.node, number, number + 0.25 * job.rank, strip)
        for job in jobs:
            yield Finished(job.rank, job.node, 2.0, 2, digest(job.rank), 100)

    return events


def run(of: Experiment, folder: Path, events: Callable[[Sequence[Job]], Iterator[Event]]) -> Run:
    return of.run(NoneSettings(), folder, Played(events), lambda event: None)


@pytest.fixture
def maps() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(3)
    return [{name: generator.random((24, 20)).astype(np.float32) for name in ("residual", "coarse")} for _ in range(3)]


def test_figures_are_of_the_pixels_that_did_not_give_the_prior(
    write_topology: Write, tmp_path: Path, maps: list[dict[str, np.ndarray]]
) -> None:
    of = experiment(write_topology(3, "  goal: 0.01\n"))
    found = run(of, tmp_path / "run", played(maps))
    prior = target_prior(of.scene, "blob", np.random.default_rng(0))
    assert prior.used.sum() == 6
    assert found.summary["scored"] == {"targets": 12, "background": 24 * 20 - 18}
    expected = detection.evaluate(maps[2], of.scene.mask, prior.used, detection.controls(of.scene, prior), maps[0])
    metrics = found.summary["metrics"]
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert metrics["auc_untrained"] != pytest.approx(metrics["auc"])
    np.testing.assert_array_equal(found.maps["scored"], ~prior.used)
    np.testing.assert_array_equal(found.maps["residual"], maps[2]["residual"])
    np.testing.assert_allclose(found.maps["score"], detection.fuse(**named(maps[2])), rtol=1e-6)
    for name, scores in detection.controls(of.scene, prior).items():
        np.testing.assert_allclose(found.maps[name], scores, rtol=1e-5)
    np.testing.assert_allclose(found.maps["untrained"], detection.fuse(**named(maps[0])), rtol=1e-6)
    # An evaluation is as late as the last node that it is of.
    assert [one["time_s"] for one in found.summary["evaluations"]] == [0.5, 1.5, 2.5]
    assert found.summary["time_to_target_s"] == 0.5


def named(maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"angle": maps["residual"], "coarse": maps["coarse"]}


def test_the_prior_is_the_one_that_was_asked_for(write_topology: Write) -> None:
    file = write_topology(2)
    oracle = experiment(file, "training.prior=oracle")
    assert not oracle.prior.used.any()
    assert oracle.scored["targets"] == 18
    with pytest.raises(ValueError, match="found 18 target pixels"):
        experiment(file, "training.prior=pixels")
    drawn = [
        experiment(
            file, "training.scene=indian-pines", "training.target=wheat", "training.prior=pixels", f"seed={seed}"
        )
        for seed in (1, 1, 2)
    ]
    used = [one.prior.used.tobytes() for one in drawn]
    assert used[0] == used[1] != used[2]


def test_replicas_that_differ_end_the_run_at_once(
    write_topology: Write, tmp_path: Path, maps: list[dict[str, np.ndarray]]
) -> None:
    of = experiment(write_topology(3))
    with pytest.raises(RunError, match="replicas differ after step 2: n0 00000000, n1 00000001") as caught:
        run(of, tmp_path / "run", played(maps, fingerprint=lambda rank, step: rank if step == 2 else 5))
    assert caught.value.folder == tmp_path / "run"


def test_different_parameters_at_the_end_fail_the_run(
    write_topology: Write, tmp_path: Path, maps: list[dict[str, np.ndarray]]
) -> None:
    of = experiment(write_topology(2))
    with pytest.raises(RunError, match="the nodes ended with different parameters"):
        run(of, tmp_path / "run", played(maps, digest=lambda rank: f"{rank:064x}"))


def test_jobs_carry_what_the_file_says(write_topology: Write) -> None:
    file = write_topology(3, "  bucket: 3 kB\n", links="{rate: 1 Mbit/s, delay: 7 ms, jitter: 1 ms}")
    of = experiment(file, "nodes.1.compute_factor=2.5", "emulation.timeout=9 s", "training.batch=17")
    jobs = of.jobs(NoneSettings(), "name", "file:///meeting")
    links = [job.outgoing for job in jobs if job.outgoing is not None]
    assert [(link.source, link.target) for link in links] == [("n0", "n1"), ("n1", "n2"), ("n2", "n0")]
    assert [job.incoming for job in jobs] == [links[-1], *links[:-1]]
    assert {link.rate for link in links} == {1e6}
    assert [job.compute_factor for job in jobs] == [1.0, 2.5, 1.0]
    assert [job.workload.lines for job in jobs] == [(0, 8), (8, 16), (16, 24)]
    frame = frame_bytes(links)
    for job in jobs:
        assert (job.seed, job.steps, job.clock, job.bare) == (3, 12, "virtual", False)
        assert (job.workload.batch, job.workload.learning_rate, job.workload.network) == (17, 1e-3, (48, 40, 8))
        assert (job.bucket_bytes, job.evaluate_every, job.frame) == (3000, 5, frame)
        # from the bands to 48, 40 and 8 units and back: every weight and bias, 4 bytes each
        widths = (of.scene.shape[2], 48, 40, 8, 40, 48, of.scene.shape[2])
        octets = 4 * sum((before + 1) * after for before, after in pairwise(widths))
        assert job.timeout == pytest.approx(9 + sum(patience(link, octets) for link in links))
        assert job.workload.target_spectrum == tuple(of.prior.spectrum)


def test_jobs_expect_of_a_hop_what_its_links_come_to(write_topology: Write) -> None:
    """Line n0 - n1 - n2 - n3, ring n0, n2, n1, n3. n0->n2 takes the links 0->1 and 1->2, and n1->n3 1->2 and 2->3, so
    that both share 1->2; n2->n1 and n3->n0 share 2->1. Alone each is as fast as its slowest link; together each
    has half of the 5 Mbit/s between n1 and n2."""
    pairs = ", ".join(f"{{between: [n{i}, n{i + 1}], rate: {i + 4} Mbit/s}}" for i in (0, 1, 2))
    more = "ring=[n0, n2, n1, n3]", f"links=[{pairs}]", "emulation.links=netns", "emulation.clock=wall"
    file = write_topology(4, links="{delay: 7 ms}")
    of = dataclasses.replace(experiment(file), topology=read(file, more))
    jobs = of.jobs(NoneSettings(), "name", "file:///meeting")
    assert [(job.outgoing.name, job.outgoing.rate, round(job.outgoing.delay, 6)) for job in jobs] == [
        ("n0->n2", 4e6, 0.014),
        ("n2->n1", 5e6, 0.007),
        ("n1->n3", 5e6, 0.014),
        ("n3->n0", 4e6, 0.021),
    ]
    assert [job.incoming for job in jobs] == [jobs[rank - 1].outgoing for rank in range(4)]
    assert all(job.probe.shared for job in jobs)
    shares = of.topology.ring_links()
    assert [link.rate for link in shares] == [2.5e6, 2.5e6, 2.5e6, 2.5e6]
    widths = (of.scene.shape[2], 48, 40, 8, 40, 48, of.scene.shape[2])
    octets = 4 * sum((before + 1) * after for before, after in pairwise(widths))
    assert jobs[0].timeout == pytest.approx(20 + sum(patience(link, octets) for link in shares))


def test_a_ring_is_bare_only_if_none_of_its_links_imposes_anything(write_topology: Write) -> None:
    for links, clock, bare in (("{}", "wall", True), ("{}", "virtual", False), ("{delay: 1 ms}", "wall", False)):
        jobs = experiment(write_topology(2, links=links), f"emulation.clock={clock}").jobs(NoneSettings(), "", "")
        assert [job.bare for job in jobs] == [bare] * 2


def node(rank: int, fault: Fault | None, running: bool = True) -> Any:
    """As much of a node's process as tells of its failure."""

    @dataclasses.dataclass
    class Node:
        rank: int
        fault: Fault | None
        running: bool
        finished: bool = False
        failed: bool = True

        @property
        def blame(self) -> int:
            return 0 if self.fault is None else 2 if self.fault.neighbour_lost else 1

        def failure(self) -> NodeFailure:
            return NodeFailure(self.rank, f"n{self.rank}", "failed", "")

    return Node(rank, fault, running)


def test_the_cause_of_a_failure_is_named_before_its_consequences() -> None:
    lost = node(0, Fault(0, "n0", "link lost", "", neighbour_lost=True))
    raised = node(1, Fault(1, "n1", "no memory", "…"))
    killed = node(2, None, running=False)
    fleet = LocalFleet()
    for nodes, cause in (([lost, raised], 1), ([lost, killed], 2), ([lost, raised, killed], 2), ([lost], 0)):
        fleet._nodes = nodes
        assert fleet._cause(lost).rank == cause


def test_several_compressors_have_a_folder_each(
    write_topology: Write, tmp_path: Path, maps: list[dict[str, np.ndarray]]
) -> None:
    of = experiment(write_topology(2, "  compressor: [none, {name: gcc, density: 0.25}]\n"))
    titles: list[str] = []

    class Watching:
        def __enter__(self) -> Callable[[Event], None]:
            return lambda event: None

        def __exit__(self, *_: object) -> None:
            pass

    def watch(title: str) -> Any:
        titles.append(title)
        return Watching()

    runs = run_all(of, tmp_path / "both", Played(played(maps)), watch)
    assert [one.path.name for one in runs] == ["1-none", "2-gcc"]
    assert titles == ["none", "gcc density=0.25"]
    assert runs[1].summary["compressor"]["density"] == 0.25


def test_a_scene_is_opened_as_the_file_names_it(write_topology: Write, scene: Path) -> None:
    of = experiment(write_topology(2))
    np.testing.assert_array_equal(of.scene.mask, open_scene(of.jobs(NoneSettings(), "", "")[0].workload.scene).mask)
    assert of.scene.name == scene.stem
