"""What a node may not tell of itself."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import FACTS, played

from edgesim.fleet.plausible import Implausible, Listener
from edgesim.results import RunFolder, load
from edgesim.summary import summarise
from node_agent.compression.settings import NoneSettings
from node_agent.events import (
    ClockOffset,
    Event,
    Fault,
    Finished,
    Measured,
    Observation,
    Paused,
    Probed,
    Sent,
    Started,
    Step,
    Telemetry,
    Waiting,
)
from node_agent.job import BackgroundSettings, Job, LinkSettings, ShardSettings
from node_agent.wire import WireError, decode, encode

SCENE = ShardSettings(file="shard.npy", name="small", describe="small", shape=(24, 20, 32))
JOB = Job(
    run="r",
    rank=0,
    nodes=("a", "b"),
    seed=1,
    steps=2,
    outgoing=LinkSettings(source="a", target="b"),
    incoming=LinkSettings(source="b", target="a"),
    rendezvous="tcp://127.0.0.1:1",
    compressor=NoneSettings(),
    workload=BackgroundSettings(scene=SCENE, lines=(0, 12), target_spectrum=(1.0,) * 32),
)


@pytest.fixture
def job() -> Job:
    return JOB


def listen(job: Job, told: Iterable[Event]) -> None:
    listener = Listener(job)
    for event in told:
        listener(event)


def heard(job: Job, *more: Event) -> None:
    listen(job, (*played(job), *more))


def test_a_whole_run_is_heard(job: Job) -> None:
    late = Fault(0, "a", "link a->b: lost\n", "a\nb", neighbour_lost=True)
    heard(job, Telemetry(0, "a", 1.0, rss_bytes=7, rails_w={"VDD_IN": -0.1}, mode="15W"), late)


def one(kind: type[Any], job: Job) -> Any:
    return next(event for event in played(job) if isinstance(event, kind))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda job: one(Finished, job), "finished: found after the node had finished"),
        (lambda job: one(Step, job), "step: found after the node had finished"),
        (lambda job: one(Observation, job), "observation: found after the node had finished"),
        (lambda job: Telemetry(0, "a", 1.0, threads=-1), "telemetry.threads: found -1, allowed a whole number"),
        (lambda job: Telemetry(0, "a", float("inf")), "telemetry.host_s: found inf, allowed a time"),
        (lambda job: Telemetry(0, "a", 1.0, mode="a\nb"), "telemetry.mode: found 'a b', allowed text of one line"),
        (lambda job: Telemetry(0, "a", 1.0, rails_w={"\x1b": 1.0}), "telemetry.rails_w: found '', allowed text of"),
        (lambda job: Waiting(0, "a", "b->a", 0.0, 1.0), "waiting.link: found b->a, allowed a->b"),
        (lambda job: ClockOffset(0, "a", "c", 0.0, 0.0, 0.0), "clockoffset.neighbour: found c, allowed b"),
        (lambda job: Paused(0, "a", -1.0), "paused.seconds: found -1, allowed a time"),
    ],
)
def test_what_does_not_belong_to_a_run_is_refused(make: Callable[[Job], Event], expected: str, job: Job) -> None:
    with pytest.raises(Implausible) as caught:
        heard(job, make(job))
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (Started, {"facts": {**FACTS, "parameters": "100"}}, "started.facts.parameters: found 100, allowed a whole"),
        (Started, {"facts": {**FACTS, "bands_dropped": 7}}, "started.facts.bands_dropped: found something else"),
        (Started, {"facts": {}}, "started.facts.bands_dropped: found nothing"),
        (Started, {"facts": {**FACTS, "scene": "a\x1b[2J"}}, "started.facts.scene: found 'a [2J', allowed text of one"),
        (Started, {"dense_step_bytes": -1}, "started.dense_step_bytes: found -1"),
        (Finished, {"steps": 1}, "finished.steps: found (1, 2), allowed (2, 2)"),
        (Finished, {"params_sha256": "x" * 64}, "finished.params_sha256: found no SHA-256"),
        (Finished, {"time_s": float("nan")}, "finished.time_s: found nan"),
        (Step, {"time_s": -1.0}, "step.time_s: found -1, allowed a time"),
    ],
)
def test_what_would_spoil_the_results_is_refused(
    kind: type[Any], values: dict[str, Any], expected: str, job: Job
) -> None:
    with pytest.raises(Implausible) as caught:
        listen(
            job, [dataclasses.replace(event, **values) if isinstance(event, kind) else event for event in played(job)]
        )
    assert str(caught.value).startswith(expected)


def test_readings_that_are_no_numbers_are_left_out(job: Job) -> None:
    nan, inf = float("nan"), float("inf")
    told = Telemetry(0, "a", 1.0, temperature_c=nan, total_w=-inf, gpu_percent=7.0, rails_w={"IN": inf, "GPU": 2.0})
    expected = Telemetry(0, "a", 1.0, gpu_percent=7.0, rails_w={"GPU": 2.0})
    assert Listener(job)(told) == expected


@pytest.mark.parametrize("missing", [0, 2])
def test_a_node_that_has_not_told_its_first_and_last_maps_has_not_finished(missing: int, job: Job) -> None:
    told = [event for event in played(job) if not (isinstance(event, Observation) and event.step == missing)]
    with pytest.raises(Implausible, match=f"finished: found no maps of step {missing}, allowed"):
        listen(job, told)


def test_probes_are_of_the_incoming_link(job: Job) -> None:
    found = Measured(1e6, 1.0, 100, 0.1, 0.0, 5)
    assert job.outgoing is not None
    Listener(job)(Probed(0, "a", "b->a", found, Sent(), job.outgoing))
    with pytest.raises(Implausible, match=r"probed\.link: found a->b, allowed b->a"):
        Listener(job)(Probed(0, "a", "a->b", found, Sent(), job.outgoing))
    with pytest.raises(Implausible, match=r"probed\.deviations: found"):
        Listener(job)(Probed(0, "a", "b->a", found, Sent(), job.outgoing, ("rate\x1b",)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | st.just("nan"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.data())
def test_whatever_a_board_says_is_refused_or_can_be_written_and_summed_up(data: st.DataObject) -> None:
    sample = Telemetry(0, "a", 1.0, rss_bytes=7, temperatures_c={"cpu": 40.0}, mode="15W")
    probed = Probed(0, "a", "b->a", Measured(1e6, 1.0, 100, 0.1, 0.0, 5), Sent(), JOB.outgoing, ("rate",))  # type: ignore[arg-type]
    told = [json.loads(encode(event)) for event in (probed, sample, *played(JOB))]
    place = data.draw(st.sampled_from(told))
    while isinstance(inner := place[key := data.draw(st.sampled_from(sorted(place)))], dict) and inner:
        if data.draw(st.booleans()):
            break
        place = inner
    place[key] = data.draw(VALUES)
    listener = Listener(JOB)
    try:
        known = [decode(json.dumps(event)) for event in told]
        known = [listener(event) for event in known]
    except (WireError, Implausible):
        return
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder.create(path)
        folder.write_config({"nodes": ["a", "b"], "clock": "wall", "topology": {}})
        for event in known:
            folder.record(event)
        folder.close()
        folder.write_summary(summarise(load(path)))
