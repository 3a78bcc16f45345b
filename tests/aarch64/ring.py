"""A ring of two nodes, one under an emulated aarch64 processor and one on this machine's own, over this host's sockets:
whether both end each step with the same parameters."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from root import Root
from scenes_made import write_scene

from node_agent.compression.settings import CATALOGUE
from node_agent.job import BackgroundSettings, Job, LinkSettings, SceneSettings
from node_agent.workloads.scenes import open_scene, target_prior

AGENT = ("-c", "from node_agent.cli import main; main()", "run")
COMPRESSORS = ("none", "powersgd", "gcc", "nsi")
"""sums of dense gradients, of factors that every node makes orthonormal, under an agreed mask, and own coordinates"""

NETWORK = (101, 83, 21)
"""odd widths, so that there are entries past the last whole vector of any processor"""

LIMIT = 900.0
"""s that a run may take, most of which is the import of torch"""


@dataclass(frozen=True)
class Agreement:
    compressor: str
    first: str
    """which kind of node has rank 0, and so keeps the rendezvous"""
    steps: int
    loss: float
    digests: tuple[str, ...]
    """of the parameters, by rank; none where a node has not finished"""
    parted: int | None
    """the first step after which the parameters differed"""
    wall_s: float
    faults: tuple[str, ...]

    @property
    def agreed(self) -> bool:
        return len(self.digests) == 2 and len(set(self.digests)) == 1 and self.parted is None and not self.faults


def run(root: Root, project: Path, folder: Path, compressor: str, first: str, steps: int = 40) -> Agreement:
    """Train over both kinds of nodes; rank 0 is of the kind `first`, aarch64 or x86-64."""
    began = time.monotonic()
    scene = write_scene(folder / "scene.npz")
    kinds = ("aarch64", "x86-64") if first == "aarch64" else ("x86-64", "aarch64")
    jobs = _jobs(scene, kinds, compressor, steps)
    processes = []
    for kind, job in zip(kinds, jobs, strict=True):
        file = folder / f"{kind}.json"
        if kind == "aarch64":
            file.write_text(_with_scene(job, "/tmp/shared/scene.npz").model_dump_json())
            command = root.command("python3", *AGENT, f"/tmp/shared/{file.name}", shared=folder)
        else:
            file.write_text(job.model_dump_json())
            command = [sys.executable, *AGENT, str(file)]
        environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
        with (folder / f"{kind}.jsonl").open("w") as out, (folder / f"{kind}.log").open("w") as log:
            processes.append(subprocess.Popen(command, stdout=out, stderr=log, env=environment))
    try:
        for process in processes:
            process.wait(max(1.0, began + LIMIT - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # the events say how far they came
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return _agreement(folder, kinds, processes, compressor, steps, time.monotonic() - began)


def _jobs(scene: Path, kinds: tuple[str, ...], compressor: str, steps: int) -> list[Job]:
    settings = SceneSettings(path=str(scene))
    opened = open_scene(settings)
    prior = target_prior(opened, "blob", np.random.default_rng(0))
    links = [LinkSettings(source=kinds[i], target=kinds[1 - i], rate=1e8, delay=0.001) for i in range(2)]
    half = opened.shape[0] // 2
    rendezvous = f"tcp://127.0.0.1:{_free_port()}"
    return [
        Job(
            run="two-kinds",
            rank=rank,
            nodes=kinds,
            seed=1,
            steps=steps,
            clock="virtual",
            outgoing=links[rank],
            incoming=links[1 - rank],
            rendezvous=rendezvous,
            timeout=LIMIT / 2,
            compressor=CATALOGUE[compressor](),
            workload=BackgroundSettings(
                scene=settings,
                lines=(half * rank, half * (rank + 1)),
                target_spectrum=tuple(map(float, prior.spectrum)),
                network=NETWORK,
                batch=64,
                learning_rate=1e-3,
            ),
        )
        for rank in range(2)
    ]


def _with_scene(job: Job, path: str) -> Job:
    assert job.workload is not None
    scene = job.workload.scene.model_copy(update={"path": path})
    return job.model_copy(update={"workload": job.workload.model_copy(update={"scene": scene})})


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _agreement(
    folder: Path,
    kinds: tuple[str, ...],
    processes: list[subprocess.Popen[bytes]],
    compressor: str,
    steps: int,
    wall_s: float,
) -> Agreement:
    told = [_events(folder / f"{kind}.jsonl") for kind in kinds]
    finished = [[event for event in events if event["event"] == "finished"] for events in told]
    trained = [[event for event in events if event["event"] == "step"] for events in told]
    differing = [a["step"] for a, b in zip(*trained, strict=False) if a["fingerprint"] != b["fingerprint"]]
    faults = [f"{e['node']}: {e['message']}" for events in told for e in events if e["event"] == "fault"]
    for kind, process, own in zip(kinds, processes, finished, strict=True):
        if not own and not faults:
            last = (folder / f"{kind}.log").read_text(errors="replace").strip().splitlines()[-1:]
            faults.append(f"{kind}: ended with {process.returncode}: {' '.join(last)}")
    return Agreement(
        compressor=compressor,
        first=kinds[0],
        steps=min(map(len, trained)),
        loss=trained[0][-1]["loss"] if trained[0] else float("nan"),
        digests=tuple(event["params_sha256"] for own in finished for event in own),
        parted=differing[0] if differing else None,
        wall_s=wall_s,
        faults=tuple(faults),
    )


def _events(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
