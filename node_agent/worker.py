"""The training process of one node: from its job to its last event."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import nn

from node_agent import events
from node_agent.clock import Clock, VirtualClock, WallClock
from node_agent.compression import create
from node_agent.exchange import Exchange, layers_of, parts_of
from node_agent.job import Job
from node_agent.link import IncomingLink, OutgoingLink
from node_agent.link_model import LinkError, LinkModel
from node_agent.ring import Ring
from node_agent.transport import Channel, FramePool, connect
from node_agent.workloads.background import BackgroundLearning
from node_agent.workloads.base import Workload

FORWARD = 1
"""tag of the messages that travel in ring order"""

Emit = Callable[[events.Event], None]


def run(job: Job, emit: Emit) -> None:
    """Do the job, telling of it through `emit` (called from more than one thread).

    Never raises: what goes wrong ends in a `Fault`.
    """
    try:
        _train(job, emit)
    except Exception as error:  # the boundary of the process: whatever it was, the controller hears of it
        lost = isinstance(error, LinkError)
        emit(events.Fault(job.rank, job.node, _one_line(error), traceback.format_exc(), lost))


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return (
        first if isinstance(error, (LinkError, ValueError, OSError)) and first else f"{type(error).__name__}: {first}"
    )


def _train(job: Job, emit: Emit) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    _join(job)
    workload = BackgroundLearning(job.workload, job.seed, job.rank)
    _meet(job, "start")
    clock: Clock = WallClock() if job.clock == "wall" else VirtualClock(job.compute_factor)
    ring = make_ring(job, clock)

    facts = workload.prepare(ring)
    prepared = ring.outgoing.sent if ring.outgoing else events.Sent()
    link = ring.outgoing.model.settings if ring.outgoing else None
    dense = ring.dense_bytes(sum(p.numel() for p in workload.model.parameters()))
    emit(events.Started(job.rank, job.node, os.getpid(), facts, prepared, clock.now(), dense, link))

    observer = Observer(job, workload, clock, emit)
    observer.observe(0)
    with TelemetryThread(job, emit):
        finished = _steps(job, workload, ring, clock, observer, emit)
    emit(finished)
    ring.close()
    _meet(job, "end")


def _steps(job: Job, workload: Workload, ring: Ring, clock: Clock, observer: Observer, emit: Emit) -> events.Finished:
    model = workload.model
    optimiser = torch.optim.Adam(model.parameters(), lr=workload.learning_rate)
    compressor = create(job.compressor, layers_of(model))
    exchange = Exchange(model, compressor, ring, job.bucket_bytes, clock)
    sent = ring.outgoing.sent if ring.outgoing else events.Sent()
    if ring.incoming:
        ring.incoming.measured()
    began = time_s = clock.now()
    for step in range(1, job.steps + 1):
        exchange.start(step - 1)
        optimiser.zero_grad()
        loss = workload.loss()
        loss.backward()
        before = clock.now()
        account = exchange.finish()
        exposed = clock.now() - before
        optimiser.step()

        now = clock.now()
        with clock.stopped():
            before_step, sent = sent, ring.outgoing.sent if ring.outgoing else sent
            step_sent = sent - before_step
            emit(
                events.Step(
                    rank=job.rank,
                    node=job.node,
                    step=step,
                    time_s=now - began,
                    duration_s=now - time_s,
                    loss=float(loss.detach()),
                    parts=parts_of(now - time_s, exposed, account, step_sent.busy_s),
                    sent=step_sent,
                    received=ring.incoming.measured() if ring.incoming else events.Received(),
                    values_sent=account.values,
                    fingerprint=fingerprint(model),
                )
            )
            if observer.due(step):
                observer.observe(step, now - began)
        time_s = clock.now()
    exchange.close()
    return events.Finished(
        job.rank, job.node, now - began, job.steps, digest(model), sum(p.numel() for p in model.parameters())
    )


def _join(job: Job) -> None:
    """Join the process group. Only neighbours will connect, and only through the job's interface."""
    os.environ["TORCH_GLOO_LAZY_INIT"] = "1"
    os.environ["GLOO_SOCKET_IFNAME"] = job.interface
    dist.init_process_group(
        "gloo",
        init_method=job.rendezvous,
        rank=job.rank,
        world_size=job.world_size,
        timeout=timedelta(seconds=job.timeout),
    )


def _meet(job: Job, place: str) -> None:
    """Wait until every node has come to `place`. Over the store, not the links: it costs them nothing."""
    store = dist.distributed_c10d._get_default_store()
    if store.add(f"{job.run}/{place}", 1) == job.world_size:
        store.set(f"{job.run}/{place}/all", "1")
    store.wait([f"{job.run}/{place}/all"], timedelta(seconds=job.timeout))


def make_ring(job: Job, clock: Clock) -> Ring:
    """The ring of a job's links, over the process group that this process has joined."""
    if job.outgoing is None or job.incoming is None:
        return Ring(job.rank, job.world_size, clock)
    following, previous = (job.rank + 1) % job.world_size, (job.rank - 1) % job.world_size
    to_next = Channel(following, FORWARD, job.outgoing.name, job.timeout)
    from_previous = Channel(previous, FORWARD, job.incoming.name, job.timeout)
    connect(to_next, from_previous)
    pool = FramePool()
    model = LinkModel(job.outgoing, np.random.default_rng([job.seed, 0x11A, job.rank]))
    outgoing, incoming = OutgoingLink(model, to_next, pool, clock), IncomingLink(from_previous, pool)
    return Ring(job.rank, job.world_size, clock, outgoing, incoming, pool)


class Observer:
    """Looks at the model from outside the run: its time does not count and nothing crosses the links."""

    def __init__(self, job: Job, workload: Workload, clock: Clock, emit: Emit) -> None:
        self._job = job
        self._workload = workload
        self._clock = clock
        self._emit = emit

    def due(self, step: int) -> bool:
        every = self._job.evaluate_every
        return step == self._job.steps or (every > 0 and step % every == 0)

    def observe(self, step: int, time_s: float = 0.0) -> None:
        job = self._job
        with self._clock.stopped():
            arrays = self._workload.observe()
            self._emit(events.Observation(job.rank, job.node, step, time_s, arrays))
            _meet(job, f"observed-{step}")


class TelemetryThread:
    """Samples this process's CPU and memory while the `with` block runs."""

    def __init__(self, job: Job, emit: Emit) -> None:
        self._job = job
        self._emit = emit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)

    def __enter__(self) -> TelemetryThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        process, began = psutil.Process(), time.monotonic()
        process.cpu_percent()
        while not self._stop.wait(self._job.telemetry_interval):
            with process.oneshot():
                self._emit(
                    events.Telemetry(
                        self._job.rank,
                        self._job.node,
                        time.monotonic() - began,
                        process.cpu_percent(),
                        process.memory_info().rss,
                        process.num_threads(),
                    )
                )


def fingerprint(model: nn.Module) -> int:
    """A quick 64-bit sum over the bits of all parameters: differs wherever replicas have drifted apart."""
    total = 0
    for place, parameter in enumerate(model.parameters(), start=1):
        words = parameter.detach().contiguous().view(torch.uint8).view(torch.int32).to(torch.int64)
        total += (2 * place + 1) * int(words.sum())
    return total % 2**63


def digest(model: nn.Module) -> str:
    """SHA-256 over all parameters' bytes, in the model's order."""
    sha = hashlib.sha256()
    for parameter in model.parameters():
        sha.update(parameter.detach().contiguous().view(-1).numpy().data)
    return sha.hexdigest()
