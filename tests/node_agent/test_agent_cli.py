"""The agent by hand: jobs as files, one process each, as boards would be started without a fleet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from node_agent.clock import VirtualClock
from node_agent.compression.settings import GCCSettings, NoneSettings
from node_agent.job import BackgroundSettings, Job, LinkSettings, SceneSettings
from node_agent.ring import Ring
from node_agent.workloads.background import BackgroundLearning
from node_agent.workloads.scenes import open_scene, target_prior

AGENT = [sys.executable, "-c", "from node_agent.cli import main; main()"]


def jobs(scene: Path, folder: Path, size: int) -> list[Job]:
    settings = SceneSettings(path=str(scene))
    opened = open_scene(settings)
    prior = target_prior(opened, "blob", np.random.default_rng(0))
    names = tuple(f"n{i}" for i in range(size))
    links = [LinkSettings(source=names[i], target=names[(i + 1) % size], rate=1e7, delay=0.001) for i in range(size)]
    cuts = [opened.shape[0] * i // size for i in range(size + 1)]
    return [
        Job(
            run="by-hand",
            rank=rank,
            nodes=names,
            seed=1,
            steps=5,
            clock="virtual",
            outgoing=links[rank] if size > 1 else None,
            incoming=links[rank - 1] if size > 1 else None,
            rendezvous=f"file://{folder}/rendezvous",
            compressor=GCCSettings(),
            workload=BackgroundSettings(
                scene=settings,
                lines=(cuts[rank], cuts[rank + 1]),
                target_spectrum=tuple(map(float, prior.spectrum)),
                network=(48, 40, 8),
                batch=32,
            ),
        )
        for rank in range(size)
    ]


def test_jobs_started_by_hand_find_one_another_and_agree(scene: Path, tmp_path: Path) -> None:
    processes = []
    for job in jobs(scene, tmp_path, 2):
        file = tmp_path / f"{job.node}.json"
        file.write_text(job.model_dump_json())
        processes.append(subprocess.Popen([*AGENT, "run", str(file)], stdout=subprocess.PIPE, text=True))
    finished: list[dict[str, Any]] = []
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0
        events = [json.loads(line) for line in output.splitlines()]
        assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4, 5]
        finished.append(events[-1])
    assert finished[0]["event"] == finished[1]["event"] == "finished"
    assert finished[0]["params_sha256"] == finished[1]["params_sha256"]


def test_one_node_alone_trains_as_adam_does(scene: Path, tmp_path: Path) -> None:
    (job,) = jobs(scene, tmp_path, 1)
    job = job.model_copy(update={"compressor": NoneSettings()})
    (tmp_path / "job.json").write_text(job.model_dump_json())
    done = subprocess.run([*AGENT, "run", str(tmp_path / "job.json")], capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]

    workload = BackgroundLearning(job.workload, job.seed, 0)
    workload.prepare(Ring(0, 1, VirtualClock()))
    optimiser = torch.optim.Adam(workload.model.parameters(), lr=job.workload.learning_rate)
    losses = []
    for _ in range(job.steps):
        optimiser.zero_grad()
        loss = workload.loss()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert [event["loss"] for event in events if event["event"] == "step"] == pytest.approx(losses, rel=1e-5)


def test_a_job_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text('{"run": "x", "steps": "many"}')
    for path, reason in ((file, "rank"), (tmp_path / "absent.json", "No such file")):
        done = subprocess.run([*AGENT, "run", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_schema_is_printed() -> None:
    done = subprocess.run([*AGENT, "schema"], capture_output=True, text=True, check=True)
    assert "compressor" in json.loads(done.stdout)["properties"]
