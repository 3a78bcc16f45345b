"""The training process of one node: from its job to its last event."""

from __future__ import annotations

import hashlib
import os
import traceback
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from node_agent import events
from node_agent.clock import Clock, ModelledClock, VirtualClock, WallClock
from node_agent.compression import create
from node_agent.compression.base import GradientError
from node_agent.events import Emit
from node_agent.exchange import Account, Exchange, layers_of, make_buckets, parts_of
from node_agent.job import Job, ProbeSettings
from node_agent.link import IncomingLink, OutgoingLink
from node_agent.link_model import ConnectionLost, LinkError, LinkModel
from node_agent.pauses import Pauses
from node_agent.probe import ATTEMPTS, LinkDeviation, at_rest, deviations, measure
from node_agent.ring import Ring
from node_agent.telemetry.process import Telemetry
from node_agent.transport import Channel, FramePool, Handshake
from node_agent.work import Work
from node_agent.workloads.background import BackgroundError, BackgroundLearning
from node_agent.workloads.base import Workload
from node_agent.workloads.formats import SceneError

ASIDE, RING, BARE, PROBE = 0, 1, 2, 3
"""tags: what passes by the links, the messages of the ring, those of a bare one, and those that measure"""


FOR_PEOPLE = (LinkError, SceneError, BackgroundError, GradientError)
"""errors whose message says all that there is to say"""


def run(job: Job, emit: Emit) -> None:
    """Do the job, telling of it through `emit` (called from more than one thread).

    Never raises: what goes wrong ends in a `Fault`.
    """
    try:
        _do(job, emit)
    except Exception as error:  # the boundary of the process: whatever it was, the controller hears of it
        lost = isinstance(error, ConnectionLost)
        trace = "" if isinstance(error, FOR_PEOPLE) else traceback.format_exc()
        emit(events.Fault(job.rank, job.node, _one_line(error), trace, lost))


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if first and isinstance(error, (*FOR_PEOPLE, OSError)) else f"{type(error).__name__}: {first}"


def _do(job: Job, emit: Emit) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # Every buffer is written before it is read; filling it would take memory and time that no node needs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _join(job)
    handshake = Handshake(job.rank, job.world_size, *channels(job, ASIDE)) if job.world_size > 1 else None
    if handshake and job.probe is not None:
        probe_links(job, job.probe, handshake, emit)
    if job.workload is not None:
        _train(job, BackgroundLearning(job.workload, job.seed, job.rank), handshake, emit)
    else:
        emit(events.Finished(job.rank, job.node, 0.0, 0, "", 0))
    if handshake:
        handshake.meet()


def make_clock(job: Job) -> Clock:
    if job.clock == "wall":
        return WallClock()
    if job.roofline is None:
        return VirtualClock(job.compute_factor, pauses=job.pauses)
    return ModelledClock(Work(job.roofline), job.pauses)


def _train(job: Job, workload: Workload, handshake: Handshake | None, emit: Emit) -> None:
    if handshake:
        handshake.meet()
    clock = make_clock(job)

    def closed(since: float, until: float) -> None:
        assert job.outgoing is not None
        emit(events.Waiting(job.rank, job.node, job.outgoing.name, since, until))

    ring = make_ring(job, clock, handshake.latency if handshake else 0.0, closed)

    def paused(seconds: float) -> None:
        emit(events.Paused(job.rank, job.node, seconds))

    pauses = Pauses(job.pauses, clock, paused) if isinstance(clock, WallClock) else nullcontext()
    with clock.counting(), pauses:
        emit(_prepare_and_train(job, workload, ring, clock, handshake, emit))
    ring.close()


def _prepare_and_train(
    job: Job, workload: Workload, ring: Ring, clock: Clock, handshake: Handshake | None, emit: Emit
) -> events.Finished:
    facts = workload.prepare(ring)
    barrier(ring, clock, handshake)
    prepared = ring.outgoing.sent if ring.outgoing else events.Sent()
    link = ring.outgoing.model.settings if ring.outgoing else None
    buckets = make_buckets(list(workload.model.named_parameters()), job.bucket_bytes)
    dense = sum(ring.dense_bytes(sum(p.numel() for p in bucket.parameters)) for bucket in buckets)
    emit(events.Started(job.rank, job.node, os.getpid(), facts, prepared, clock.now(), dense, link))

    observer = Observer(job, workload, clock, handshake, emit)
    observer.observe(0)
    with Telemetry(job, emit):
        return _steps(job, workload, ring, clock, handshake, observer, emit)


def probe_links(job: Job, settings: ProbeSettings, handshake: Handshake, emit: Emit) -> None:
    """Measure the links of this node, as they are at the beginning.

    Raises LinkDeviation where one misses its tolerance, and LinkError if a neighbour fails.
    """
    assert job.outgoing is not None
    assert job.incoming is not None
    to_next, from_previous = channels(job, PROBE)
    pool = FramePool(job.frame)
    model = LinkModel(at_rest(job.outgoing), np.random.default_rng([job.seed, 0x9B0, job.rank]))
    outgoing = OutgoingLink(model, to_next, pool, WallClock(), handshake.latency)
    incoming = IncomingLink(from_previous, pool)
    asked = at_rest(job.incoming)
    for _ in range(ATTEMPTS):
        found, sent = measure(outgoing, incoming, asked, pool, settings, handshake.meet)
        missed = deviations(asked, found, settings.tolerance)
        if not handshake.meet(float(bool(missed))):  # of all nodes
            break
    emit(events.Probed(job.rank, job.node, asked.name, found, sent, model.settings, tuple(missed)))
    outgoing.close()
    handshake.meet()
    if missed and settings.binding:
        raise LinkDeviation(f"link {asked.name} is not what was asked of it: {', '.join(missed)}")


def _steps(
    job: Job,
    workload: Workload,
    ring: Ring,
    clock: Clock,
    handshake: Handshake | None,
    observer: Observer,
    emit: Emit,
) -> events.Finished:
    model = workload.model
    optimiser = torch.optim.Adam(model.parameters(), lr=workload.learning_rate)
    compressor = create(job.compressor, layers_of(model))
    exchange = Exchange(model, compressor, ring, job.bucket_bytes, clock)
    sent = ring.outgoing.sent if ring.outgoing else events.Sent()
    if ring.incoming:
        ring.incoming.meter.measured()
    began = time_s = clock.now()
    for step in range(1, job.steps + 1):
        exchange.start(step - 1)
        optimiser.zero_grad()
        loss = workload.loss()
        loss.backward()
        before = clock.now()
        account = _finish(exchange, step)
        exposed = clock.now() - before
        optimiser.step()
        done = clock.now()
        if observer.due(step):
            barrier(ring, clock, handshake)

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
                    parts=parts_of(now - time_s, exposed, account, step_sent.busy_s, now - done),
                    sent=step_sent,
                    received=ring.incoming.meter.measured() if ring.incoming else events.Received(),
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


def barrier(ring: Ring, clock: Clock, handshake: Handshake | None) -> None:
    """Let time pass until all nodes are here and nothing is under way between them.

    What follows then begins for all at the same moment, whatever the links still carried is not charged to it, and a
    clock that is stopped stands still for all alike.
    """
    clock.wait_until(ring.quiet_at)
    if handshake:
        latest = handshake.meet(clock.now())
        if clock.virtual:  # clocks of the wall need not agree
            clock.wait_until(latest)


def _finish(exchange: Exchange, step: int) -> Account:
    try:
        return exchange.finish()
    except GradientError as error:
        raise GradientError(f"training diverged in step {step}: {error}") from error


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


def channels(job: Job, tag: int) -> tuple[Channel, Channel]:
    """To the next node of the ring, and from the previous one."""
    assert job.outgoing is not None
    assert job.incoming is not None
    following, previous = (job.rank + 1) % job.world_size, (job.rank - 1) % job.world_size
    return (
        Channel(following, tag, job.outgoing.name, job.timeout),
        Channel(previous, tag, job.incoming.name, job.timeout),
    )


def link_model(job: Job) -> LinkModel | None:
    """What the node imposes on its outgoing link, with randomness of the link's own; None if it is alone."""
    if job.outgoing is None:
        return None
    return LinkModel(job.outgoing, np.random.default_rng([job.seed, 0x11A, job.rank]))


def make_ring(
    job: Job, clock: Clock, latency: float = 0.0, closed: Callable[[float, float], None] | None = None
) -> Ring:
    """The ring of a job's links, over the process group that this process has joined and shaken hands in."""
    model = link_model(job)
    if model is None:
        return Ring(job.rank, job.world_size, clock)
    to_next, from_previous = channels(job, RING)
    pool = FramePool(job.frame)
    outgoing = OutgoingLink(model, to_next, pool, clock, latency, closed)
    bare = channels(job, BARE) if job.bare else None
    return Ring(job.rank, job.world_size, clock, outgoing, IncomingLink(from_previous, pool), pool, bare)


class Observer:
    """Looks at the model from outside the run: its time does not count and nothing crosses the links. The nodes have
    come to a `barrier` before: a clock that stands while messages are under way would make their links seem slow."""

    def __init__(self, job: Job, workload: Workload, clock: Clock, handshake: Handshake | None, emit: Emit) -> None:
        self._job = job
        self._workload = workload
        self._clock = clock
        self._handshake = handshake
        self._emit = emit

    def due(self, step: int) -> bool:
        every = self._job.evaluate_every
        return step == self._job.steps or (every > 0 and step % every == 0)

    def observe(self, step: int, time_s: float = 0.0) -> None:
        job = self._job
        with self._clock.stopped():
            arrays = self._workload.observe()
            self._emit(events.Observation(job.rank, job.node, step, time_s, arrays))
            if self._handshake:
                self._handshake.meet()


def fingerprint(model: nn.Module) -> int:
    """CRC-32 over all parameters' bytes, in the model's order: the quick check that replicas are the same."""
    crc = 0
    for parameter in model.parameters():
        crc = zlib.crc32(parameter.detach().contiguous().view(-1).numpy().data, crc)
    return crc


def digest(model: nn.Module) -> str:
    """SHA-256 over all parameters' bytes, in the model's order."""
    sha = hashlib.sha256()
    for parameter in model.parameters():
        sha.update(parameter.detach().contiguous().view(-1).numpy().data)
    return sha.hexdigest()
