"""What a thread makes torch do, counted kernel by kernel, and the time that a device would take for it.

Each kernel takes, after the roofline model of Williams, Waterman and Patterson (CACM 52(4), 2009),

    t = max(FLOPs / (eta_c P), bytes / (eta_m BW)) + t_launch

and the kernels of one thread follow one another. Their sum is at least the same formula applied to a step as a whole,
in which every kernel would hide behind every other.

FLOPs are those of matrix products, convolutions and attention, as `torch.utils.flop_counter` has them (a multiply-add
is two); of all other kernels none, as these are bound by memory. Bytes: a kernel reads each operand once and writes
each result once, nothing stays in a cache between two kernels, and views cost nothing. So parameters, gradients,
activations and the optimiser's state count as often as PyTorch's eager kernels touch them. What gathers or scatters by
index touches what it moves, not the whole that it picks from. A tensor that is handed to NumPy is read once; what NumPy
does with it is not seen.

The counts follow from shapes and data alone: they are the same on every host, however busy it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from node_agent.job import Roofline

aten = torch.ops.aten

_NO_KERNELS = {
    *(aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided),
    *(aten._unsafe_view, aten._local_scalar_dense),
}
"""beside views: what allocates, renames, or reads a number that is already there"""

_WRITE_ONLY = {aten.copy_, aten.fill_, aten.zero_, aten.normal_, aten.random_, aten.uniform_}
"""in place, without reading what was there"""

_GATHER = {aten.index, aten.index_select, aten.gather, aten.take, aten.embedding, aten.masked_select}
_SCATTER = {
    *(aten.index_put_, aten._index_put_impl_, aten.index_copy_, aten.index_fill_, aten.put_),
    *(aten.scatter_, aten.scatter_add_, aten.index_add_),
}


class Work:
    """The work of one thread, counted while it is entered as a context by that thread."""

    def __init__(self, device: Roofline) -> None:
        self.device = device
        self.seconds = 0.0
        self.flops = 0
        self.octets = 0
        self.kernels = 0
        self._entered = ExitStack()

    def fresh(self) -> Work:
        """A count of another thread's work on the same device, at nought."""
        return Work(self.device)

    def add(self, flops: int, octets: int, kernels: int = 1) -> None:
        device = self.device
        self.flops += flops
        self.octets += octets
        self.kernels += kernels
        self.seconds += max(flops / device.flop_s, octets / device.byte_s) + kernels * device.launch_s

    def __enter__(self) -> Work:
        self._entered.enter_context(_Kernels.of(self))
        self._entered.enter_context(_Departures.of(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()


class _Kernels(TorchDispatchMode):
    work: Work

    @classmethod
    def of(cls, work: Work) -> _Kernels:
        mode = cls()
        mode.work = work
        return mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operation = func.overloadpacket
        if func.namespace == "aten" and not func.is_view and operation not in _NO_KERNELS:
            count = flop_registry.get(operation)
            flops = 0 if count is None else count(*args, **kwargs, out_val=result)
            self.work.add(flops, touched(operation, args, kwargs, result))
        return result


class _Departures(TorchFunctionMode):
    work: Work

    @classmethod
    def of(cls, work: Work) -> _Departures:
        mode = cls()
        mode.work = work
        return mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.numpy:
            self.work.add(0, _octets(args[0]), kernels=0)
        return func(*args, **(kwargs or {}))


def touched(operation: Any, args: Iterable[Any], kwargs: dict[str, Any], result: Any) -> int:
    """Bytes that one kernel reads and writes."""
    operands = list(_tensors((*args, *(value for name, value in kwargs.items() if name != "out"))))
    if operation in _GATHER:
        moved = sum(map(_octets, _tensors(result)))
        return sum(map(_octets, operands[1:])) + 2 * moved
    if operation in _SCATTER:
        others = operands[1:]
        moved = max((other.numel() for other in others), default=0) * operands[0].element_size()
        return sum(map(_octets, others)) + moved
    read = operands[1:] if operation in _WRITE_ONLY else operands
    return sum(map(_octets, read)) + sum(map(_octets, _tensors(result)))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _octets(tensor: Tensor) -> int:
    """An expanded tensor is no larger than what it was expanded from."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
