"""Gradients -> compressor -> ring -> gradients.

Gradients become ready in about the reverse order of the layers while backward runs. They are gathered in buckets; a
bucket that is full goes to the communication thread, which exchanges buckets one after the other, in the same fixed
order on every node, while backward goes on. Nothing blocks inside a hook.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from node_agent.clock import Clock
from node_agent.compression.base import Layer, Round, StepContext
from node_agent.compression.compressor import Compressor, check
from node_agent.events import StepParts
from node_agent.ring import Ring
from node_agent.staging import Staging


@dataclass
class Bucket:
    """Layers whose gradients travel together."""

    names: list[str]
    parameters: list[nn.Parameter]


def make_buckets(named: Sequence[tuple[str, nn.Parameter]], limit: int) -> list[Bucket]:
    """Group parameters, last first, into buckets that each are full once they hold `limit` bytes."""
    buckets: list[Bucket] = []
    room = 0
    for name, parameter in reversed(named):
        if room <= 0:
            buckets.append(Bucket([], []))
            room = limit
        buckets[-1].names.append(name)
        buckets[-1].parameters.append(parameter)
        room -= parameter.numel() * parameter.element_size()
    return buckets


def bucket_bytes(compressor: Compressor, parameters: Sequence[nn.Parameter], payload: int, nodes: int) -> int:
    """Gradients of which the compressor makes about `payload` bytes, or the share of one node in them: an all-gather
    takes N - 1 whole payloads past a link in as many delays as an all-reduce takes N-ths of one."""
    dense = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    share = payload if compressor.reduction == "aligned" else payload / nodes
    return int(share * dense / compressor.expected_size(parameters))


@dataclass
class Account:
    """What one step's exchange took, by the communication thread's clock (s), and what its payloads carried."""

    encode: float = 0.0
    """with the copies to the host, where gradients are staged"""
    ring: float = 0.0
    decode: float = 0.0
    """with the copies back"""
    values: int = 0
    formula_bytes: int = 0
    """that the rounds' collectives send by their formula"""
    ended: float = 0.0


class _Full(NamedTuple):
    """A bucket whose gradients are there."""

    number: int
    since: float
    """s, by the training thread's clock"""
    after: torch.cuda.Event | None
    """on an accelerator: what makes them"""


class Exchange:
    """Averages the gradients of `model` over the nodes of `ring`, through `compressor`.

    Call `start` before a step's backward and `finish` after it: then every parameter's gradient is the average, the
    same on all nodes bit for bit. `close` ends the communication thread. With `staging`, gradients are exchanged as
    copies on the host.
    """

    def __init__(
        self,
        model: nn.Module,
        compressor: Compressor,
        ring: Ring,
        bucket_bytes: int,
        clock: Clock,
        staging: Staging | None = None,
    ) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.buckets = make_buckets(named, bucket_bytes)
        self.compressor = compressor
        self._ring = ring
        self._clock = clock
        self._staging = staging
        self._missing = [0] * len(self.buckets)
        self._step = 0
        self._account = Account()
        self._error: BaseException | None = None
        self._ready: queue.SimpleQueue[_Full | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        for index, bucket in enumerate(self.buckets):
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(lambda _, index=index: self._arrived(index))
        self._thread = threading.Thread(target=self._communicate, name="exchange", daemon=True)
        self._thread.start()

    def start(self, step: int) -> None:
        self._step = step
        self._missing = [len(bucket.parameters) for bucket in self.buckets]
        self._account = Account()

    def _arrived(self, index: int) -> None:
        self._missing[index] -= 1
        if self._missing[index] == 0:
            self._ready.put(self._full(index))

    def _full(self, index: int) -> _Full:
        return _Full(index, self._clock.now(), self._staging.mark() if self._staging else None)

    def finish(self) -> Account:
        """Wait until every bucket is averaged; raises whatever went wrong on the way, also when called again."""
        for index, missing in enumerate(self._missing):
            if missing:  # a parameter that the loss does not depend on has a gradient of zero
                self._missing[index] = 0
                self._ready.put(self._full(index))
        if self.buckets and self._error is None:
            self._error = self._done.get()
        if self._error is not None:
            raise self._error
        self._clock.wait_until(self._account.ended)
        if self._staging:
            self._staging.arrived()
        return self._account

    def close(self) -> None:
        self._ready.put(None)
        self._thread.join()

    def _communicate(self) -> None:
        clock = self._clock.fork()
        self._ring.clock = clock
        with clock.counting():
            self._take_turns(clock)

    def _take_turns(self, clock: Clock) -> None:
        waiting: dict[int, _Full] = {}
        turn = 0
        while (item := self._ready.get()) is not None:
            waiting[item.number] = item
            try:
                while turn in waiting:
                    full = waiting.pop(turn)
                    clock.wait_until(full.since)
                    self._average(self.buckets[turn], full)
                    turn += 1
            except Exception as error:  # handed to the training thread, which raises it from `finish`
                self._done.put(error)
                return
            if turn == len(self.buckets):
                turn = 0
                self._account.ended = clock.now()
                self._done.put(None)

    def _average(self, bucket: Bucket, full: _Full) -> None:
        if self._staging:
            self._average_staged(bucket, self._staging, full)
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.detach().contiguous() for p in bucket.parameters]
        average(bucket.names, gradients, self.compressor, self._ring, self._step, self._account)
        for parameter, mean in zip(bucket.parameters, gradients, strict=True):
            parameter.grad = mean

    def _average_staged(self, bucket: Bucket, staging: Staging, full: _Full) -> None:
        unused = [parameter for parameter in bucket.parameters if parameter.grad is None]
        for parameter in unused:
            parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad.detach() for parameter in bucket.parameters if parameter.grad is not None]
        account, clock = self._account, self._ring.clock
        marks = (full.after, staging.mark() if unused else None)
        staging.wait(*marks)  # for backward, which is no part of the exchange
        began = clock.now()
        hosts = staging.fetch(gradients, *marks)
        account.encode += clock.now() - began
        average(bucket.names, hosts, self.compressor, self._ring, self._step, account)
        began = clock.now()
        staging.put(hosts, gradients)
        account.decode += clock.now() - began


def average(
    names: Sequence[str], gradients: Sequence[Tensor], compressor: Compressor, ring: Ring, step: int, account: Account
) -> None:
    """Replace these layers' gradients by their means over the nodes of the ring, and add to the account what it took.

    Raises GradientError on every node where a gradient of any node, or a mean, is not finite; LinkError if a neighbour
    fails.
    """
    clock = ring.clock
    context = StepContext(ring.size, step, ring.rank, compressor.seed)
    rounds = compressor.rounds(names, gradients, context, into=gradients)
    reply: Any = None
    try:
        while True:
            began = clock.now()
            one = rounds.send(reply)
            encoded = clock.now()
            reply = _reduced(one, ring, account)
            account.encode += encoded - began
            account.ring += clock.now() - encoded
            account.values += one.values
    except StopIteration:
        for name, mean in zip(names, gradients, strict=True):
            check(compressor.layers[name], mean)  # a sum of finite values may not be finite
        account.decode += clock.now() - began


def _reduced(one: Round, ring: Ring, account: Account) -> Tensor | list[Tensor]:
    data = one.data
    if one.reduction == "private":
        gathered = ring.all_gather(data)
        account.formula_bytes += ring.all_gather_bytes([message.numel() for message in gathered])
        return gathered
    ring.all_reduce(data)
    account.formula_bytes += ring.all_reduce_bytes(data.numel(), data.element_size())
    return data


def layers_of(model: nn.Module) -> list[Layer]:
    """All trained tensors of a model, in its own order."""
    return [Layer(name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad]


def parts_of(duration: float, exposed: float, account: Account, busy: float, idle: float = 0.0) -> StepParts:
    """Where a step of `duration` s went: its parts add up to it.

    `exposed` is the time in which the training thread had nothing left to do but wait for the exchange, `busy` the
    time for which this node occupied its outgoing link, `idle` what it waited for the others when all was done and
    what it paused. What the communication thread did behind backward cost the step nothing: its parts divide among
    them only what was exposed.
    """
    transfer = min(busy, account.ring)
    total = account.encode + account.ring + account.decode
    share = min(1.0, exposed / total) if total > 0 else 0.0
    encode, transfer, decode = share * account.encode, share * transfer, share * account.decode
    wait = max(0.0, exposed - encode - transfer - decode)
    return StepParts(duration - exposed - idle, encode, wait + idle, transfer, decode)
