"""The agent by hand: jobs as files, one process each, as boards would be started without a fleet."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import programs
import pytest
import torch
from processes import on_nodes

from node_agent.clock import VirtualClock
from node_agent.compression.settings import GCCSettings, NoneSettings
from node_agent.events import ClockOffset, Finished, Step
from node_agent.job import BackgroundSettings, Job, LinkSettings, SceneSettings
from node_agent.plain import described
from node_agent.ring import Ring
from node_agent.wire import decode
from node_agent.workloads.background import BackgroundLearning
from node_agent.workloads.scenes import open_scene, target_prior
from node_agent.workloads.shard import write_shard

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
    first, second = jobs(scene, tmp_path, 2)
    file = tmp_path / "job.json"
    file.write_text(first.model_dump_json())
    process = subprocess.Popen([*AGENT, "run", str(file)], stdout=subprocess.PIPE, text=True)
    (others,) = on_nodes(1, programs.told, second)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    events = [json.loads(line) for line in output.splitlines()]
    for told in (events, [described(event) for event in others]):
        assert [event["step"] for event in told if event["event"] == "step"] == [1, 2, 3, 4, 5]
        assert told[-1]["event"] == "finished"
    assert events[-1]["params_sha256"] == others[-1].params_sha256


def test_nodes_on_hosts_of_their_own_meet_at_the_first_ones_socket(scene: Path, tmp_path: Path) -> None:
    """As boards do: strips of the scene in files, events over descriptors, and clocks that have nothing in common."""
    shift = 1234
    elsewhere = ["unshare", "--time", "--monotonic", str(shift)]
    if subprocess.run([*elsewhere, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no time namespaces for this user")
    by_hand = jobs(scene, tmp_path, 2)
    listener = socket.create_server(("127.0.0.1", 0))
    whole = open_scene(SceneSettings(path=str(scene)))
    alive, lifeline = os.pipe()
    nodes = []
    for job in by_hand:
        folder = tmp_path / job.node
        folder.mkdir()
        shard = write_shard(whole, job.workload.lines, folder / "shard.npy")
        workload = job.workload.model_copy(update={"scene": shard})
        meeting = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        job = job.model_copy(update={"workload": workload, "rendezvous": meeting, "clock": "wall"})
        (folder / "job.json").write_text(job.model_dump_json())
        reading, writing = os.pipe()
        passed = {"--events": writing, "--lifeline": alive}
        passed |= {"--listen": listener.fileno()} if job.rank == 0 else {}
        options = [str(word) for option in passed.items() for word in option]
        command = [sys.executable, "-m", "node_agent", "run", "job.json", *options]
        process = subprocess.Popen(
            [*elsewhere, *command] if job.rank else command, cwd=folder, pass_fds=passed.values()
        )
        os.close(writing)
        nodes.append((process, reading))
    os.close(alive)
    listener.close()
    told = []
    for process, reading in nodes:
        with open(reading, "rb") as lines:
            told.append([decode(line) for line in lines])
        assert process.wait(60) == 0
    os.close(lifeline)
    finished = [those[-1] for those in told]
    assert all(isinstance(event, Finished) for event in finished)
    assert finished[0].params_sha256 == finished[1].params_sha256
    offsets = [[event.offset_s for event in those if isinstance(event, ClockOffset)] for those in told]
    assert offsets[0] == pytest.approx([shift] * len(offsets[0]), abs=0.01)
    assert offsets[1] == pytest.approx([-shift] * len(offsets[1]), abs=0.01)
    assert offsets[0]
    delays = [event.received.delay_s for those in told for event in those if isinstance(event, Step)]
    assert 0.0 < np.median([delay for delay in delays if delay is not None]) < 0.05  # 1 ms was asked for


def test_a_node_ends_with_its_lifeline(scene: Path, tmp_path: Path) -> None:
    job = jobs(scene, tmp_path, 2)[0]  # whose neighbour never comes
    (tmp_path / "job.json").write_text(job.model_dump_json())
    alive, lifeline = os.pipe()
    command = [sys.executable, "-m", "node_agent", "run", str(tmp_path / "job.json"), "--lifeline", str(alive)]
    process = subprocess.Popen(command, pass_fds=[alive])
    os.close(alive)
    os.close(lifeline)
    assert process.wait(30) == -signal.SIGKILL


def test_one_node_alone_trains_as_adam_does(scene: Path, tmp_path: Path) -> None:
    (job,) = jobs(scene, tmp_path, 1)
    job = job.model_copy(update={"compressor": NoneSettings()})
    (events,) = on_nodes(1, programs.told, job)

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
    assert [event.loss for event in events if isinstance(event, Step)] == pytest.approx(losses, rel=1e-5)


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
