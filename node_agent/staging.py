"""Gradients of an accelerator on the host, where they are compressed and exchanged, and their means back on it.

Gloo, the compressors and NumPy work on the host's memory. What is copied there goes to page-locked buffers, which the
device can reach by itself (CUDA C++ Programming Guide, page-locked host memory), on a stream of its own, so that it
does not wait behind kernels of backward that follow. On the CPU the same path copies between ordinary buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

ALIGNED = 64
"""bytes: no two tensors share a cache line"""


class Staging:
    """Copies between tensors of one device and the host.

    `mark` and `arrived` belong to the thread that computes, `wait`, `fetch` and `put` to the one that communicates:
    they take turns, as what was fetched stands where the next will.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def mark(self) -> torch.cuda.Event | None:
        """What this thread has asked of the device until now; None where nothing is done later than it is asked."""
        if self._stream is None:
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self, *after: torch.cuda.Event | None) -> None:
        """Until all that was marked is done."""
        for event in filter(None, after):
            event.synchronize()

    def fetch(self, tensors: Sequence[Tensor], *after: torch.cuda.Event | None) -> list[Tensor]:
        """Copies of the tensors as they are `after` all that was marked, contiguous, until the next call."""
        hosts = self._places(tensors)
        for event in filter(None, after):
            event.wait(self._stream)
        with self._copying():
            for host, tensor in zip(hosts, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()
        return hosts

    def put(self, hosts: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Copy what was fetched, and may have changed, back to the tensors."""
        with self._copying():
            for host, tensor in zip(hosts, tensors, strict=True):
                tensor.copy_(host, non_blocking=True)
        if self._stream is not None:
            # The next copies of this thread would wait for these in any case, and their time would count as those'.
            self._stream.synchronize()

    def arrived(self) -> None:
        """What this thread asks of the device from now on finds all that was `put` before."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def _copying(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _places(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
        room = sum(-(-size // ALIGNED) * ALIGNED for size in sizes)
        if room > self._buffer.numel():
            # torch does not free the old one before copies from it are done.
            self._buffer = torch.empty(room, dtype=torch.uint8, pin_memory=self._stream is not None)
        places, offset = [], 0
        for tensor, size in zip(tensors, sizes, strict=True):
            places.append(self._buffer[offset : offset + size].view(tensor.dtype).view(tensor.shape))
            offset += -(-size // ALIGNED) * ALIGNED
        return places


def staging_for(device: torch.device) -> Staging | None:
    """None for tensors that are on the host already."""
    return None if device.type == "cpu" else Staging(device)
