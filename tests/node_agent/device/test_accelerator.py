"""What a node trains on, where there is no CUDA device."""

from __future__ import annotations

import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from forked import events_of, in_fork
from pydantic import ValidationError

from edgesim.topology.problems import TopologyError
from edgesim.topology.reader import read
from node_agent import worker
from node_agent.clock import VirtualClock
from node_agent.compression.settings import NoneSettings
from node_agent.device.accelerator import AcceleratorError, accelerator
from node_agent.events import Event, Fault, Step
from node_agent.job import BackgroundSettings, Job, Roofline, SceneSettings
from node_agent.ring import Ring
from node_agent.workloads.background import BackgroundLearning
from node_agent.workloads.scenes import open_scene, target_prior

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def job(scene: Path, rendezvous: Path, **values: object) -> Job:
    settings = SceneSettings(path=str(scene))
    opened = open_scene(settings)
    workload = BackgroundSettings(
        scene=settings,
        lines=(0, opened.shape[0]),
        target_spectrum=tuple(map(float, target_prior(opened, "blob", np.random.default_rng(0)).spectrum)),
        network=(48, 40, 8),
        batch=32,
    )
    whole = {"run": "r", "rank": 0, "nodes": ("a",), "seed": 1, "steps": 3, "outgoing": None, "incoming": None}
    whole |= {"rendezvous": f"file://{rendezvous}", "compressor": NoneSettings(), "workload": workload}
    return Job.model_validate(whole | values)


def test_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert accelerator("auto") == accelerator("cpu") == torch.device("cpu")
    with pytest.raises(
        AcceleratorError, match=r"^device: found cuda, allowed cpu: torch .* finds no CUDA device here$"
    ):
        accelerator("cuda")


def test_a_clock_that_counts_cpu_time_is_for_the_cpu(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="device: found cuda, allowed cpu where a virtual clock counts CPU time"):
        job(scene, tmp_path / "r", device="cuda", clock="virtual")
    with pytest.raises(ValidationError, match="backend: found nccl, allowed auto or gloo where device is cpu"):
        job(scene, tmp_path / "r", backend="nccl")
    roofline = Roofline(flop_s=1e9, byte_s=1e9)
    assert job(scene, tmp_path / "r", device="cuda", clock="virtual", roofline=roofline).device == "cuda"


def test_a_topology_names_it_once_for_all_nodes(scene: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    text = f"name: small\nnodes: [a, b]\ntraining: {{scene: {scene}, accelerator: cuda}}\nemulation: {{clock: %s}}\n"
    file.write_text(text % "wall")
    assert read(file).training.accelerator == "cuda"
    file.write_text(text % "virtual")
    with pytest.raises(TopologyError, match=r"training\.accelerator: found cuda, allowed cpu, where the virtual clock"):
        read(file)


def test_a_job_for_whatever_there_is_trains_on_the_cpu_as_any_other(scene: Path, tmp_path: Path) -> None:
    asked = job(scene, tmp_path / "rendezvous", device="auto")
    assert asked.workload is not None
    workload = BackgroundLearning(asked.workload, asked.seed, 0)
    workload.prepare(Ring(0, 1, VirtualClock()))
    optimiser = torch.optim.Adam(workload.model.parameters(), lr=workload.learning_rate)
    expected = []
    for _ in range(asked.steps):
        optimiser.zero_grad()
        loss = workload.loss()
        loss.backward()
        optimiser.step()
        expected.append(loss.item())
    losses = [event.loss for event in in_fork(events_of, asked) if isinstance(event, Step)]
    assert losses == pytest.approx(expected, rel=1e-5)


BEHIND = 0.05
"""s after which a device has done what it was asked, in the next test"""


def of_a_device_that_lags(asked: Job) -> list[Event]:
    with mock.patch.object(worker, "finish", side_effect=lambda device: time.sleep(BEHIND)):
        return events_of(asked)


def test_what_a_device_takes_for_backward_is_computing(scene: Path, tmp_path: Path) -> None:
    told = in_fork(of_a_device_that_lags, job(scene, tmp_path / "rendezvous"))
    parts = [event.parts for event in told if isinstance(event, Step)]
    assert len(parts) == 3
    assert all(one.compute >= 2 * BEHIND for one in parts)  # of backward, and of the optimiser's step


def test_a_job_for_cuda_ends_in_one_line(scene: Path, tmp_path: Path) -> None:
    (fault,) = in_fork(events_of, job(scene, tmp_path / "rendezvous", device="cuda"))
    assert isinstance(fault, Fault)
    assert fault.traceback == ""
    assert fault.error.startswith("device: found cuda, allowed cpu: torch ")
