"""What the nodes of the ring tests run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import psutil
import torch
import torch.distributed as dist
from processes import Place
from torch import Tensor, nn

from node_agent import worker
from node_agent.clock import Clock, WallClock
from node_agent.compression import create
from node_agent.compression.settings import NoneSettings
from node_agent.events import Event, Measured, Sent
from node_agent.exchange import Exchange, layers_of
from node_agent.job import Job, LinkSettings, ProbeSettings
from node_agent.link_model import LinkError, frame_bytes
from node_agent.probe import measure
from node_agent.transport import FramePool


def tensor_of(rank: int, length: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * rank + length)
    return (torch.rand(length, generator=generator) * 8 - 4).to(dtype)


def all_reduce(place: Place, lengths: list[int], dtypes: list[torch.dtype], op: str, virtual: bool) -> list[Tensor]:
    ring = place.ring(place.clock(virtual))
    results = []
    for dtype in dtypes:
        for length in lengths:
            tensor = tensor_of(place.rank, length, dtype)
            ring.all_reduce(tensor, op)  # type: ignore[arg-type]
            results.append(tensor)
    return results


def all_gather(place: Place, virtual: bool) -> tuple[list[list[bytes]], list[tuple[int, int]]]:
    """Payloads of differing lengths, some of them empty and some longer than a message; and the bytes that this node
    sent of each all-gather, as counted and by the formula."""
    ring = place.ring(place.clock(virtual))
    assert ring.outgoing is not None
    gathered, octets = [], []
    for lengths in ([0, 1, 5, 300], [7, 0, 0, 1], [3_000_000, 10, 2_000_001, 0]):
        before = ring.outgoing.sent
        payload = torch.full((lengths[place.rank],), place.rank + 1, dtype=torch.uint8)
        gathered.append([bytes(part.numpy()) for part in ring.all_gather(payload)])
        octets.append(((ring.outgoing.sent - before).message_bytes, ring.all_gather_bytes(lengths)))
    return gathered, octets


def gather_time(place: Place, length: int, delay: float) -> tuple[float, int]:
    """Virtual time of an all-gather, and the messages that it took this node."""
    clock = place.clock(virtual=True)
    ring = place.ring(clock, delay=delay)
    ring.all_gather(torch.zeros(length + place.rank, dtype=torch.uint8))
    assert ring.outgoing is not None
    return clock.now(), ring.outgoing.sent.messages


def traffic(place: Place, length: int, link: dict[str, Any]) -> tuple[int, int, float]:
    """Payload bytes and header bytes of a dense all-reduce, and its virtual time."""
    clock = place.clock(virtual=True)
    ring = place.ring(clock, **link)
    ring.all_reduce(torch.ones(length))
    assert ring.outgoing is not None
    return ring.outgoing.sent.payload_bytes, ring.outgoing.sent.header_bytes, clock.now()


def bare_traffic(place: Place, length: int) -> tuple[int, int]:
    """Payload bytes and header bytes of a dense all-reduce over links that impose nothing."""
    ring = place.ring(place.clock(virtual=False))
    ring.all_reduce(torch.ones(length))
    assert ring.outgoing is not None
    return ring.outgoing.sent.payload_bytes, ring.outgoing.sent.header_bytes


def peers(place: Place) -> int:
    """Established TCP connections of this process after an all-reduce and an all-gather."""
    ring = place.ring(place.clock(virtual=False))
    ring.all_reduce(torch.ones(1000))
    ring.all_gather(torch.ones(10, dtype=torch.uint8))
    connections = psutil.Process(os.getpid()).net_connections(kind="tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED for one in connections)


def wall_time(place: Place, length: int, rate: float, delay: float) -> tuple[float, float, float]:
    """Wall-clock time of an all-reduce over shaped links, and the rate and delay measured by the receiver."""
    clock = place.clock(virtual=False)
    ring = place.ring(clock, rate=rate, delay=delay)
    ring.all_reduce(torch.ones(8))
    assert ring.incoming is not None
    ring.incoming.meter.measured()
    began = time.monotonic()
    ring.all_reduce(torch.ones(length))
    took = time.monotonic() - began
    measured = ring.incoming.meter.measured()
    ring.close()
    return took, measured.rate_bits / measured.rate_s, measured.delay_s or 0.0


def both_directions(place: Place, length: int, rate: float) -> float:
    """Time of two all-reduces at once, one each way round the ring."""
    rings = [place.ring(place.clock(virtual=False), rate=rate, step=step) for step in (1, -1)]
    tensors = [torch.ones(length), torch.ones(length)]
    for ring in rings:  # start together
        ring.all_reduce(torch.ones(8))
    began = time.monotonic()
    threads = [
        threading.Thread(target=ring.all_reduce, args=(tensor,)) for ring, tensor in zip(rings, tensors, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    assert all(bool((tensor == place.size).all()) for tensor in tensors)
    for ring in rings:
        ring.close()
    return took


def silence(place: Place) -> tuple[str, float]:
    """Node 0 waits for a neighbour that says nothing."""
    ring = place.ring(place.clock(virtual=False), timeout=1.0)
    if place.rank != 0:
        time.sleep(2.5)
        return "", 0.0
    began = time.monotonic()
    try:
        ring.all_reduce(torch.ones(10))
    except LinkError as error:
        return str(error), time.monotonic() - began
    return "no error", time.monotonic() - began


def model_of(widths: list[int]) -> nn.Module:
    torch.manual_seed(7)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers)


def each(place: Place, program: Callable[..., Any], cases: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What a program returns in each of several cases."""
    return [program(place, *case) for case in cases]


def exchange(place: Place, settings: Any, bucket_bytes: int, steps: int) -> tuple[list[Tensor], list[Tensor], int]:
    """Gradients as exchanged, the node's own ones, and the number of buckets."""
    clock = place.clock(virtual=True)
    model = model_of([40, 50, 60, 30])
    model.register_parameter("idle", nn.Parameter(torch.ones(3, 3)))  # the loss does not depend on it
    ring = place.ring(clock)
    exchanged = Exchange(model, create(settings, layers_of(model)), ring, bucket_bytes, clock)
    generator = torch.Generator().manual_seed(place.rank)
    own: list[Tensor] = []
    for step in range(steps):
        inputs = torch.randn(16, 40, generator=generator)
        alone = torch.autograd.grad(
            model(inputs).square().mean(), [p for name, p in model.named_parameters() if name != "idle"]
        )
        own = [torch.zeros(3, 3), *alone]
        model.zero_grad()
        exchanged.start(step)
        model(inputs).square().mean().backward()
        exchanged.finish()
    exchanged.close()
    averaged = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return averaged, own, len(exchanged.buckets)


def values_sent(place: Place, settings: Any, bucket_bytes: int) -> int:
    """Gradient values that the payloads of one exchange carried."""
    clock = place.clock(virtual=True)
    model = model_of([40, 50, 60, 30])
    exchanged = Exchange(model, create(settings, layers_of(model)), place.ring(clock), bucket_bytes, clock)
    exchanged.start(0)
    model(torch.ones(4, 40)).sum().backward()
    account = exchanged.finish()
    exchanged.close()
    return account.values


def poisoned(place: Place, value: float) -> str:
    """An exchange in which node 1's inputs, and so its gradients, are `value`."""
    clock = place.clock(virtual=True)
    model = model_of([40, 50])
    exchanged = Exchange(model, create(NoneSettings(), layers_of(model)), place.ring(clock, timeout=3.0), 10**6, clock)
    exchanged.start(0)
    (model(torch.full((4, 40), value if place.rank == 1 else 1.0)).sum()).backward()
    try:
        exchanged.finish()
    except (ValueError, LinkError) as error:
        return str(error)
    return "no error"


def overflowing(place: Place) -> str:
    """An exchange of gradients that are finite on each node, and whose sum is not."""
    clock = place.clock(virtual=True)
    model = nn.Linear(40, 50)
    exchanged = Exchange(model, create(NoneSettings(), layers_of(model)), place.ring(clock), 10**6, clock)
    exchanged.start(0)
    model(torch.full((1, 40), 3e38)).sum().backward()
    try:
        exchanged.finish()
    except ValueError as error:
        return str(error)
    return "no error"


class SlowBackward(torch.autograd.Function):
    """The identity, whose gradient takes its time by `clock`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, clock: Clock, seconds: float) -> Tensor:
        ctx.clock, ctx.seconds = clock, seconds
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        ctx.clock.wait_until(ctx.clock.now() + ctx.seconds)
        return gradients[0], None, None


def overlap(place: Place, rate: float, seconds: float) -> tuple[float, float]:
    """Time that the training thread waited for an exchange of two buckets, and that the exchange took: by a clock on
    which nothing takes time but the links and `seconds` of backward between the two buckets."""
    clock = place.clock(virtual=True, factor=0.0)
    first, second = nn.Linear(100, 100), nn.Linear(100, 100)
    ring = place.ring(clock, rate=rate)
    model = nn.Sequential(first, second)
    exchanged = Exchange(model, create(NoneSettings(), layers_of(model)), ring, 40_400, clock)
    exchanged.start(0)
    second(SlowBackward.apply(first(torch.ones(1, 100)), clock, seconds)).sum().backward()
    before = clock.now()
    account = exchanged.finish()
    exposed = clock.now() - before
    exchanged.close()
    return exposed, account.ring


def probed(place: Place, link: dict[str, Any], samples: int, imposed: dict[str, Any]) -> tuple[Measured, Sent]:
    """What a probe finds of the link that this node receives from, and what it sent. The sender imposes `imposed` of
    what is asked of the links."""
    clock = WallClock()
    ring = place.ring(clock, **{**link, **imposed})
    assert ring.outgoing is not None
    assert ring.incoming is not None
    asked = LinkSettings(source="a", target="b", **link)  # both directions are alike
    settings = ProbeSettings(samples=samples, burst_time=0.3)
    pool = FramePool(frame_bytes([asked]))
    return measure(ring.outgoing, ring.incoming, asked, asked, pool, settings, dist.barrier, clock)


def told(place: Place, job: Job) -> list[Event]:
    """The events of a job, which brings a rendezvous of its own."""
    dist.destroy_process_group()
    events: list[Event] = []
    worker.run(job, events.append)
    return events
