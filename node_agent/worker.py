"""The training process of one node: from its job to its last event."""

from __future__ import annotations

import hashlib
import os
import traceback
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from node_agent import events
from node_agent.clock import Clock, ModelledClock, VirtualClock, WallClock
from node_agent.compression import create
from node_agent.compression.base import GradientError
from node_agent.compression.compressor import Compressor
from node_agent.device.accelerator import AcceleratorError, accelerator, finish
from node_agent.device.backend import GLOO, Backend, BackendError, agreed, choose, require_distributed
from node_agent.events import Emit
from node_agent.exchange import Account, Exchange, bucket_bytes, layers_of, parts_of
from node_agent.job import Job, ProbeSettings
from node_agent.judgement import at_rest, deviations
from node_agent.link import POSTED, IncomingLink, OutgoingLink
from node_agent.link_model import ConnectionLost, LinkError, LinkModel, expected, framed
from node_agent.optimiser import Adam
from node_agent.pauses import Pauses
from node_agent.probe import ATTEMPTS, LinkDeviation, measure
from node_agent.ring import Ring
from node_agent.staging import staging_for
from node_agent.telemetry.interface import carried
from node_agent.telemetry.sampler import Sampler
from node_agent.transport import Channel, Comparison, FramePool, Handshake, pass_on
from node_agent.work import Work
from node_agent.workloads.background import BackgroundError, BackgroundLearning
from node_agent.workloads.base import Workload
from node_agent.workloads.formats import SceneError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

ASIDE, RING, BARE, PROBE = 0, 1, 2, 3
"""tags: what passes by the links, the messages of the ring, those of a bare one, and those that measure"""


MOST_POSTED = 1024
"""receives beyond the usual ones, however much a link holds"""

MOMENTUM = 0.9
"""Adam's beta 1"""

HEARD = 0.05
"""s after which what imposes the links from outside has heard that the run's clock goes; nothing is sent before"""

FOR_PEOPLE = (LinkError, SceneError, BackgroundError, GradientError, AcceleratorError, BackendError)
"""errors whose message says all that there is to say"""


def run(job: Job, emit: Emit, listener: int | None = None) -> None:
    """Do the job, telling of it through `emit` (called from more than one thread). `listener`: descriptor of the socket
    at which this node, the first one, lets the others meet; None: it opens one.

    Never raises: what goes wrong ends in a `Fault`.
    """
    try:
        _do(job, emit, listener)
    except Exception as error:  # the boundary of the process: whatever it was, the controller hears of it
        lost = isinstance(error, ConnectionLost)
        trace = "" if isinstance(error, FOR_PEOPLE) else traceback.format_exc()
        emit(events.Fault(job.rank, job.node, _one_line(error), trace, lost))


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if first and isinstance(error, (*FOR_PEOPLE, OSError)) else f"{type(error).__name__}: {first}"


def _do(job: Job, emit: Emit, listener: int | None) -> None:
    require_distributed()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # Every buffer is written before it is read; filling it would take memory and time that no node needs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    device = accelerator(job.device)
    data = join(job, listener, lambda: choose(job.backend, device.type == "cuda"))
    handshake = Handshake(job.rank, job.world_size, *channels(job, ASIDE)) if job.world_size > 1 else None
    if data is not None and job.world_size > 1:
        pass_on(0.0, *channels(job, RING, data))
    if handshake and job.probe is not None:
        probe_links(job, job.probe, handshake, emit, data)
    if job.workload is not None:
        _train(job, BackgroundLearning(job.workload, job.seed, job.rank, device), handshake, emit, data)
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


def _train(
    job: Job, workload: Workload, handshake: Handshake | None, emit: Emit, group: dist.ProcessGroup | None
) -> None:
    if handshake:
        handshake.meet()
    clock = make_clock(job)
    tell_clock(job, clock, emit)
    if job.imposed == "kernel":
        clock.wait_until(HEARD)

    def closed(since: float, until: float) -> None:
        assert job.outgoing is not None
        emit(events.Waiting(job.rank, job.node, job.outgoing.name, since, until))

    ring = make_ring(job, clock, handshake.next if handshake else None, closed, group)

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
    link = ring.outgoing.model.settings if ring.outgoing and job.imposed == "node" else None
    exchange = make_exchange(job, workload.model, ring, clock)
    dense = sum(ring.all_reduce_bytes(sum(p.numel() for p in bucket.parameters)) for bucket in exchange.buckets)
    emit(events.Started(job.rank, job.node, os.getpid(), facts, prepared, clock.now(), dense, link))

    observer = Observer(job, workload, ring, clock, handshake, emit)
    observer.observe(0)
    tell_clock(job, clock, emit)
    with Sampler(job, emit) as sampler:
        finished = _steps(job, workload, exchange, ring, clock, handshake, observer, emit)
    used = sampler.energy
    return replace(finished, energy_j=used.joules, power_source=used.source, energy_unmeasured_s=used.unmeasured_s)


def probe_links(
    job: Job, settings: ProbeSettings, handshake: Handshake, emit: Emit, group: dist.ProcessGroup | None = None
) -> None:
    """Measure the links of this node, as they are at the beginning.

    Raises LinkDeviation where one misses its tolerance, and LinkError if a neighbour fails.
    """
    assert job.outgoing is not None
    assert job.incoming is not None
    to_next, from_previous = channels(job, PROBE, group)
    pool = FramePool(job.frame)
    link = at_rest(job.outgoing if job.imposed == "node" else expected(job.outgoing))
    model = LinkModel(link, np.random.default_rng([job.seed, 0x9B0, job.rank]))
    clock = WallClock()
    outgoing = OutgoingLink(model, to_next, pool, clock, handshake.latency, imposed=job.imposed == "node")
    outgoing.offset = handshake.next.offset
    incoming = make_incoming(job, from_previous, pool)
    asked = at_rest(job.incoming if job.imposed == "node" else framed(job.incoming))
    # Where packets are lost beneath TCP, it slows down and waits: what messages find then is no property of the link.
    judged = job.imposed == "node" or not asked.loss
    turn = job.rank if job.imposed == "kernel" and job.world_size == 2 else None
    following = at_rest(job.outgoing if job.imposed == "node" else framed(job.outgoing))
    found, missed = None, ["not measured"]
    for _ in range(ATTEMPTS):
        latest, sent = measure(outgoing, incoming, following, asked, pool, settings, handshake.meet, clock, turn)
        if found is None or missed:  # a link that was once as asked is not blamed for another one's repetition
            found = latest
            tolerated = (settings.tolerance, job.imposed == "kernel", settings.shared)
            missed = deviations(asked, found, *tolerated) if judged else []
        if not handshake.meet(float(bool(missed))):  # of all nodes
            break
    assert found is not None
    emit(events.Probed(job.rank, job.node, asked.name, found, sent, model.settings, tuple(missed)))
    outgoing.close()
    handshake.meet()
    if missed and settings.binding:
        raise LinkDeviation(f"link {asked.name} is not what was asked of it: {', '.join(missed)}")


def _steps(
    job: Job,
    workload: Workload,
    exchange: Exchange,
    ring: Ring,
    clock: Clock,
    handshake: Handshake | None,
    observer: Observer,
    emit: Emit,
) -> events.Finished:
    model = workload.model
    trained_on = next(model.parameters()).device
    compressor = exchange.compressor
    optimiser = make_optimiser(model, workload.learning_rate, compressor)
    sent = ring.outgoing.sent if ring.outgoing else events.Sent()
    if ring.incoming:
        ring.incoming.meter.measured()
    device = carried(job.egress) if job.egress is not None else None
    began = time_s = clock.now()
    for step in range(1, job.steps + 1):
        exchange.start(step - 1)
        rested = clock.rested
        optimiser.zero_grad()
        loss = workload.loss()
        loss.backward()
        finish(trained_on)  # what backward has only asked for is computing, and no wait for the exchange
        before = clock.now()
        account = _finish(exchange, step)
        exposed = clock.now() - before
        optimiser.step()
        finish(trained_on)
        done = clock.now()
        if observer.due(step):
            barrier(ring, clock, handshake)

        now = clock.now()
        idle = now - done + clock.rested - rested
        density = compressor.density
        compressor.observe(
            done - time_s - exposed - (clock.rested - rested), account.encode + account.ring + account.decode
        )
        with clock.stopped():
            before_step, sent = sent, ring.outgoing.sent if ring.outgoing else sent
            device_before, device = device, carried(job.egress) if job.egress is not None else None
            step_sent = sent - before_step
            emit(
                events.Step(
                    rank=job.rank,
                    node=job.node,
                    step=step,
                    time_s=now - began,
                    duration_s=now - time_s,
                    loss=float(loss.detach()),
                    parts=parts_of(now - time_s, exposed, account, step_sent.busy_s, idle),
                    sent=step_sent,
                    received=ring.incoming.meter.measured() if ring.incoming else events.Received(),
                    values_sent=account.values,
                    density=density,
                    fingerprint=fingerprint(model),
                    formula_bytes=account.formula_bytes,
                    carried=device - device_before if device and device_before else None,
                )
            )
        if observer.due(step):
            observer.observe(step, now - began)
        tell_clock(job, clock, emit)
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


def tell_clock(job: Job, clock: Clock, emit: Emit) -> None:
    """Let what imposes the links from outside follow the run's clock, which stands still now and then."""
    if job.imposed == "kernel" and job.rank == 0 and isinstance(clock, WallClock):
        emit(events.ClockSet(job.rank, job.node, clock.origin))


def join(
    job: Job, listener: int | None = None, choosing: Callable[[], Backend] = lambda: GLOO
) -> dist.ProcessGroup | None:
    """Join the process group. Only neighbours will connect, and only through the job's interfaces. Where the job is for
    an accelerator, the backend is the chosen one if all nodes have chosen it.

    Returns the group whose messages go over the links, where that is not the default one. Raises ConnectionLost where
    the place at which the nodes meet is not reached.
    """
    os.environ["TORCH_GLOO_LAZY_INIT"] = "1"
    timeout = timedelta(seconds=job.timeout)
    # Gloo looks for its interface whenever a group is made.
    os.environ["GLOO_SOCKET_IFNAME"] = job.aside or job.interface
    store = meeting(job, listener)
    # Choosing may take its time; until the store is open, no other node knows that this one is there.
    chosen = choosing()
    if job.device != "cpu":
        chosen = agreed(chosen, job.rank, job.world_size, store, job.timeout)
    dist.init_process_group(chosen.init_string, store=store, rank=job.rank, world_size=job.world_size, timeout=timeout)
    if job.aside is None:
        return None
    os.environ["GLOO_SOCKET_IFNAME"] = job.interface
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timeout)
    return group


def meeting(job: Job, listener: int | None = None) -> Store:
    """The store in which the nodes of this run, and no other one's, find each other's addresses. On hosts of their own
    they meet at rank 0, which holds it.

    Raises ConnectionLost where it is not reached.
    """
    from torch._C._distributed_c10d import FileStore, PrefixStore, TCPStore  # not part of every build of torch

    place = urlsplit(job.rendezvous)
    first = job.rank == 0
    store: Store
    try:
        if place.scheme == "file":
            store = FileStore(place.path, job.world_size)
        else:
            store = TCPStore(
                place.hostname or "",
                place.port or 0,
                is_master=first,
                timeout=timedelta(seconds=job.timeout),
                wait_for_workers=False,
                master_listen_fd=listener if first else None,
            )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConnectionLost(f"rendezvous {job.rendezvous}: {reason}") from error
    return PrefixStore(job.run, store)


def channels(job: Job, tag: int, group: dist.ProcessGroup | None = None) -> tuple[Channel, Channel]:
    """To the next node of the ring, and from the previous one."""
    assert job.outgoing is not None
    assert job.incoming is not None
    following, previous = (job.rank + 1) % job.world_size, (job.rank - 1) % job.world_size
    return (
        Channel(following, tag, job.outgoing.name, job.timeout, group),
        Channel(previous, tag, job.incoming.name, job.timeout, group),
    )


def link_model(job: Job) -> LinkModel | None:
    """What the node imposes on its outgoing link, or expects of it, with randomness of the link's own; None if it is
    alone."""
    if job.outgoing is None:
        return None
    link = job.outgoing if job.imposed == "node" else expected(job.outgoing)
    return LinkModel(link, np.random.default_rng([job.seed, 0x11A, job.rank]))


def make_incoming(job: Job, channel: Channel, pool: FramePool) -> IncomingLink:
    """The link from the previous node, with as many receives posted as keep it busy: where something else than the
    sender imposes the delay, the transport waits for the word that its message has a place to go."""
    assert job.incoming is not None
    if job.imposed == "node":
        return IncomingLink(channel, pool)
    states = (job.incoming, *job.incoming.changes)
    under_way = max((state.rate or 0.0) / 8 * 2 * state.delay for state in states)
    return IncomingLink(channel, pool, POSTED + min(MOST_POSTED, int(under_way / job.frame) + 1), imposed=False)


def make_ring(
    job: Job,
    clock: Clock,
    neighbour: Comparison | None = None,
    closed: Callable[[float, float], None] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Ring:
    """The ring of a job's links, over a process group that this process has joined; it has shaken hands, and knows how
    it and its next neighbour compare."""
    model = link_model(job)
    if model is None:
        return Ring(job.rank, job.world_size, clock)
    to_next, from_previous = channels(job, RING, group)
    pool = FramePool(job.frame)
    latency = neighbour.latency if neighbour else 0.0
    outgoing = OutgoingLink(model, to_next, pool, clock, latency, closed, imposed=job.imposed == "node")
    outgoing.offset = neighbour.offset if neighbour else 0.0
    incoming = make_incoming(job, from_previous, pool)
    bare = channels(job, BARE, group) if job.bare else None
    return Ring(job.rank, job.world_size, clock, outgoing, incoming, pool, bare)


def make_exchange(job: Job, model: nn.Module, ring: Ring, clock: Clock) -> Exchange:
    """The exchange of a job's gradients, in buckets of the same layers on all nodes."""
    compressor = create(job.compressor, layers_of(model), seed=job.seed, automatic=job.density)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    limit = job.bucket_bytes or bucket_bytes(compressor, trained, job.payload_bytes, job.world_size)
    return Exchange(model, compressor, ring, limit, clock, staging_for(next(model.parameters()).device))


def make_optimiser(model: nn.Module, learning_rate: float, compressor: Compressor) -> Adam:
    """Adam, without its first moment for the layers whose gradients the compressor has given momentum already."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(0.0 if name in compressor.corrected else MOMENTUM, []).append(parameter)
    return Adam([{"params": those, "betas": (momentum, 0.999)} for momentum, those in groups.items()], lr=learning_rate)


class Observer:
    """Looks at the model from outside the run: its time does not count and nothing crosses the links. The nodes have
    come to a `barrier` before: a clock that stands while messages are under way would make their links seem slow."""

    def __init__(
        self, job: Job, workload: Workload, ring: Ring, clock: Clock, handshake: Handshake | None, emit: Emit
    ) -> None:
        self._job = job
        self._workload = workload
        self._ring = ring
        self._clock = clock
        self._handshake = handshake
        self._emit = emit
        self._told: float | None = None

    def due(self, step: int) -> bool:
        every = self._job.evaluate_every
        return step == self._job.steps or (every > 0 and step % every == 0)

    def observe(self, step: int, time_s: float = 0.0) -> None:
        job = self._job
        with self._clock.stopped():
            arrays = self._workload.observe()
            self._emit(events.Observation(job.rank, job.node, step, time_s, arrays))
            if self._handshake:
                self._compare_clocks(self._handshake)
                self._handshake.meet()

    def _compare_clocks(self, handshake: Handshake) -> None:
        handshake.compare_clocks()
        job, found = self._job, handshake.next
        assert job.outgoing is not None
        assert self._ring.outgoing is not None
        self._ring.outgoing.offset = found.offset
        if found.offset != self._told:
            self._told = found.offset
            moment = self._clock.now()
            self._emit(
                events.ClockOffset(job.rank, job.node, job.outgoing.target, moment, found.offset, found.round_trip)
            )


def fingerprint(model: nn.Module) -> int:
    """CRC-32 over all parameters' bytes, in the model's order: the quick check that replicas are the same."""
    crc = 0
    for parameter in model.parameters():
        crc = zlib.crc32(parameter.detach().contiguous().view(-1).cpu().numpy().data, crc)
    return crc


def digest(model: nn.Module) -> str:
    """SHA-256 over all parameters' bytes, in the model's order."""
    sha = hashlib.sha256()
    for parameter in model.parameters():
        sha.update(parameter.detach().contiguous().view(-1).cpu().numpy().data)
    return sha.hexdigest()
