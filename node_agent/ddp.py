"""A communication hook of DistributedDataParallel: any PyTorch program averages its gradients through a compressor.

    model = DistributedDataParallel(network)
    state = ExchangeState(model, "topk", density=0.01)
    model.register_comm_hook(state, exchange_hook)

DDP hands out its buckets while backward goes on, in the same order on every rank. They go to a communication thread,
which averages one after the other over a ring of the ranks; nothing blocks inside the hook. Layers are known by their
names, and nothing depends on which of them share a bucket: DDP makes its buckets anew after the first step.
"""

# DDP compares the hook's annotations with the types themselves: they must not be strings.

import queue
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from node_agent.clock import WallClock
from node_agent.compression import CompressorSettings, configure, create
from node_agent.events import Sent
from node_agent.exchange import Account, average, layers_of
from node_agent.job import LinkSettings
from node_agent.link import IncomingLink, OutgoingLink
from node_agent.link_model import LinkModel
from node_agent.ring import Ring
from node_agent.staging import Staging, staging_for
from node_agent.transport import Channel, FramePool, pass_on


@dataclass
class _Handed:
    """What DDP handed out: gradients are views of the buffer."""

    names: list[str]
    gradients: list[Tensor]
    buffer: Tensor
    last: bool
    outcome: Future[Tensor | Exception]
    made: torch.cuda.Event | None
    """on an accelerator: what makes the gradients"""


class ExchangeState:
    """What `exchange_hook` keeps from step to step: a compressor with its residuals, a ring, a communication thread.

    `compressor` is one of the catalogue's by its settings, or by its name with `settings` of its own; `seed` is of its
    randomness, the same on all ranks. The ring is one of the ranks of the model's process group (Gloo), in their order.
    `timeout`, s: a neighbour that is silent for longer is lost.

    All ranks make it, once the model is what they train: later changes of `requires_grad` are not followed. Raises
    ValueError where the compressor is unknown or not the same on all ranks, or a layer is not float32, or they are on
    several devices. Gradients of an accelerator are exchanged as copies on the host.

    Where DDP finds that no rank has used a parameter in a step, it leaves its gradient alone, and what has then been
    said of its residual is lost.

    What goes wrong in the exchange (a gradient that is not finite, on any rank; a neighbour that is lost) ends it:
    backward raises RuntimeError with the message, in this step and in all following ones.

    To go on later, save `state_dict`, or pickle the state itself: it comes back without its ring and its thread, and
    `attach` gives it to a model again.
    """

    def __init__(
        self,
        model: DistributedDataParallel,
        compressor: CompressorSettings | str,
        *,
        seed: int = 0,
        timeout: float = 1800.0,
        **settings: Any,
    ) -> None:
        self._rest(timeout)
        self._group = model.process_group

        def make() -> None:
            chosen = configure(compressor, **settings) if isinstance(compressor, str) else compressor
            self.compressor = create(chosen, layers_of(model.module), seed=seed)
            self._names = _names_of(model.module)

        self._start(self._agree(make))

    def _rest(self, timeout: float) -> None:
        """Belong to no model."""
        self.timeout = timeout
        self.account = Account()
        """time (s) and values of all exchanges so far"""
        self._thread: threading.Thread | None = None
        self._staging: Staging | None = None
        self._ring = Ring(0, 1, WallClock())

    def attach(self, model: DistributedDataParallel) -> None:
        """Average this model's gradients from now on. All ranks call it; raises ValueError as the constructor does, and
        where they have not come to the same step."""
        self.close()
        self._group = model.process_group

        def make() -> None:
            compressor = create(self.compressor.settings, layers_of(model.module))
            compressor.load_state_dict(self.compressor.state_dict())
            self.compressor = compressor
            self._names = _names_of(model.module)

        self._start(self._agree(make))

    def _agree(self, make: Callable[[], None]) -> int:
        """A number that all ranks of the group know, and nobody else is likely to have. Raises ValueError, on all
        ranks, where `make` does on one of them, or unless all then say the same."""
        try:
            make()
            said, fault = f"{self.compressor.settings!r}, seed {self.compressor.seed}, step {self.step}", ""
        except ValueError as error:
            said, fault = "", str(error)
        rank, told = dist.get_rank(self._group), [("", "", 0)] * dist.get_world_size(self._group)
        dist.all_gather_object(told, (said, fault, secrets.randbits(29)), self._group)
        if fault:
            raise ValueError(fault)
        for other, (what, wrong, _) in enumerate(told):
            if what != said:
                raise ValueError(
                    f"rank {other}: {wrong}" if wrong else f"rank {other} exchanges {what}, rank {rank} {said}"
                )
        return told[0][2]

    def _start(self, number: int) -> None:
        self.account = Account()
        self._staging = staging_for(next((one.device for one in self._names), torch.device("cpu")))
        self._ring = _ring_of(self._group, self.timeout, 2 * number)
        self._ready: queue.SimpleQueue[_Handed | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._communicate, name="ddp", daemon=True)
        self._thread.start()

    @property
    def step(self) -> int:
        """Steps whose gradients have been averaged."""
        return self.compressor.step

    @property
    def sent(self) -> Sent:
        """What this rank has put on the wire for gradients."""
        return self._ring.outgoing.sent if self._ring.outgoing else Sent()

    def hand_over(self, bucket: GradBucket) -> Future[Tensor]:
        """The bucket's buffer, once its gradients are averaged in place; returns at once."""
        if self._thread is None:
            raise RuntimeError("the exchange is closed, or was loaded and not yet attached to its model")
        names = []
        for parameter in bucket.parameters():
            if parameter not in self._names:
                raise RuntimeError(f"a parameter of shape {tuple(parameter.shape)} was not trained from the beginning")
            names.append(self._names[parameter])
        buffer, staging = bucket.buffer(), self._staging
        outcome: Future[Tensor | Exception] = Future(devices=[] if buffer.device.type == "cpu" else [buffer.device])
        made = staging.mark() if staging else None
        handed = _Handed(names, bucket.gradients(), buffer, bucket.is_last(), outcome, made)
        self._ready.put(handed)
        return handed.outcome.then(_averaged)

    def _communicate(self) -> None:
        failed: Exception | None = None
        while (handed := self._ready.get()) is not None:
            step = self.compressor.step
            try:
                if failed is None:
                    self._average(handed, step)
                    self.compressor.step += handed.last
            except Exception as error:  # handed to the training thread, in which backward raises it
                failed = error
            handed.outcome.set_result(handed.buffer if failed is None else failed)

    def _average(self, handed: _Handed, step: int) -> None:
        staging, gradients = self._staging, handed.gradients
        hosts = staging.fetch(gradients, handed.made) if staging else gradients
        average(handed.names, hosts, self.compressor, self._ring, step, self.account)
        if staging:
            staging.put(hosts, gradients)
            staging.arrived()  # the outcome is then whole for whoever waits for it

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, of this rank: its residuals and its step. Not while backward runs."""
        return self.compressor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All ranks call it. Raises ValueError, on all of them, where a state is that of another compressor or of other
        layers, or where they are of different steps."""
        self._agree(lambda: self.compressor.load_state_dict(state))

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.compressor.settings, "timeout": self.timeout, "compressor": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._rest(state["timeout"])
        self.compressor = create(state["settings"])
        self.compressor.load_state_dict(state["compressor"])

    def close(self) -> None:
        """End the communication thread. The state can still be saved."""
        if self._thread is None:
            return
        self._ready.put(None)
        self._thread.join()
        self._thread = None
        self._ring.close()


def exchange_hook(state: ExchangeState, bucket: GradBucket) -> Future[Tensor]:
    """For `register_comm_hook`: averages the bucket's gradients over all ranks, through the state's compressor."""
    return state.hand_over(bucket)


def _averaged(outcome: Future[Tensor | Exception]) -> Tensor:
    """DDP raises what a callback raises; an exception of the future itself it would take for a tensor."""
    found = outcome.value()
    if isinstance(found, Exception):
        raise found
    return found


def _names_of(network: nn.Module) -> dict[Tensor, str]:
    """Of all trained parameters. Raises ValueError for one that cannot be exchanged."""
    names: dict[Tensor, str] = {}
    allowed: torch.device | None = None
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            allowed = allowed or parameter.device
            if parameter.dtype != torch.float32 or parameter.device != allowed:
                found = f"{parameter.dtype} on {parameter.device}"
                raise ValueError(f"layer {name}: found {found}, allowed torch.float32 on {allowed}")
            names[parameter] = name
    return names


def _ring_of(group: dist.ProcessGroup, timeout: float, tag: int) -> Ring:
    """A ring of the group's ranks whose links impose nothing; `tag` and the next one are its messages' own."""
    ranks, clock = dist.get_process_group_ranks(group), WallClock()
    rank, size = dist.get_rank(group), len(ranks)
    if size == 1:
        return Ring(0, 1, clock)
    here, following, previous = ranks[rank], ranks[(rank + 1) % size], ranks[rank - 1]
    link = LinkSettings(source=str(here), target=str(following))
    to_next = Channel(following, tag, link.name, timeout, group)
    from_previous = Channel(previous, tag, f"{previous}->{here}", timeout, group)
    pass_on(0.0, to_next, from_previous)
    pool = FramePool()
    outgoing = OutgoingLink(LinkModel(link, np.random.default_rng(0)), to_next, pool, clock)
    bare = (replace(to_next, tag=tag + 1), replace(from_previous, tag=tag + 1))
    return Ring(rank, size, clock, outgoing, IncomingLink(from_previous, pool), pool, bare)
