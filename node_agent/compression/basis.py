"""In which coordinates a layer is said: the wire form of "which values are these".

A basis turns a layer into coordinates and adds coordinates to a layer, linearly; it is all that the nodes must have in
common for their coordinates to be summed. Every one is written as a few bytes, which need the layer's shape to be read.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from node_agent.compression import indices
from node_agent.compression.octets import PayloadError
from node_agent.compression.tiles import Tiling
from node_agent.compression.views import rows

Shape = tuple[int, ...]


class Basis(ABC):
    kind: ClassVar[int]
    """on the wire"""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of coordinates."""

    @abstractmethod
    def coordinates(self, layer: Tensor) -> Tensor:
        """Those of a tensor of the layer's shape: 1-D and contiguous, in its type and on its device. May share its
        memory."""

    @abstractmethod
    def add(self, values: Tensor, into: Tensor, factor: float = 1.0) -> None:
        """Add the tensor that has these coordinates, times `factor`, to a contiguous one."""

    @abstractmethod
    def erase(self, into: Tensor) -> None:
        """Make zero what coordinates say exactly, in a contiguous tensor of the layer's shape."""

    def write(self) -> bytes:
        return b""

    @classmethod
    @abstractmethod
    def read(cls, octets: memoryview, shape: Shape) -> tuple[Basis, int]:
        """The basis written at the front of `octets`, and the bytes that it took. Raises PayloadError for anything that
        `write` does not write, before it allocates more than the layer has entries."""


@dataclass(frozen=True)
class All(Basis):
    """Every entry."""

    kind = 0
    shape: Shape

    @property
    def size(self) -> int:
        return prod(self.shape)

    def coordinates(self, layer: Tensor) -> Tensor:
        return layer.reshape(-1).contiguous()

    def add(self, values: Tensor, into: Tensor, factor: float = 1.0) -> None:
        into.view(-1).add_(values.to(into.device), alpha=factor)

    def erase(self, into: Tensor) -> None:
        into.zero_()

    @classmethod
    def read(cls, octets: memoryview, shape: Shape) -> tuple[All, int]:
        return cls(shape), 0


class Entries(Basis):
    """Some of the entries, each once."""

    @property
    @abstractmethod
    def members(self) -> Tensor:
        """Their positions in the flattened layer."""

    @property
    def size(self) -> int:
        return self.members.numel()

    def coordinates(self, layer: Tensor) -> Tensor:
        return layer.reshape(-1).index_select(0, self.members.to(layer.device))

    def add(self, values: Tensor, into: Tensor, factor: float = 1.0) -> None:
        into.view(-1).index_add_(0, self.members.to(into.device), values.to(into.device), alpha=factor)

    def erase(self, into: Tensor) -> None:
        into.view(-1).index_fill_(0, self.members.to(into.device), 0)


@dataclass(frozen=True, eq=False)
class Tiles(Entries):
    """The entries of some tiles of the layer's matrix: tile after tile, each row by row."""

    kind = 1
    tiling: Tiling
    chosen: Tensor
    """numbers of the tiles, ascending int64, on any device"""

    @cached_property
    def size(self) -> int:
        if self.tiling.smallest == self.tiling.largest:
            return len(self.chosen) * self.tiling.largest
        return int(self.tiling.sizes(self.chosen).sum())

    @cached_property
    def members(self) -> Tensor:
        return self.tiling.members(self.chosen)

    def write(self) -> bytes:
        return self.tiling.write() + _write_set(self.chosen.cpu().numpy(), self.tiling.tiles)

    @classmethod
    def read(cls, octets: memoryview, shape: Shape) -> tuple[Tiles, int]:
        tiling, at = Tiling.read(octets, shape)
        chosen, length = _read_set(octets[at:], tiling.tiles)
        return cls(tiling, torch.from_numpy(chosen)), at + length


@dataclass(frozen=True)
class Seeded(Entries):
    """`count` entries drawn without replacement from a generator that all nodes have."""

    kind = 2
    HEAD: ClassVar[struct.Struct] = struct.Struct("<QI")
    shape: Shape
    seed: int
    count: int

    @property
    def size(self) -> int:
        return self.count

    @cached_property
    def members(self) -> Tensor:
        return torch.from_numpy(sample(prod(self.shape), self.count, self.seed))

    def write(self) -> bytes:
        return self.HEAD.pack(self.seed, self.count)

    @classmethod
    def read(cls, octets: memoryview, shape: Shape) -> tuple[Seeded, int]:
        seed, count = _unpack(cls.HEAD, octets)
        if count > prod(shape):
            raise PayloadError(f"payload: found {count} entries of a layer that has {prod(shape)}")
        return cls(shape, seed, count), cls.HEAD.size


@dataclass(frozen=True, eq=False)
class Rows(Basis):
    """Some rows of the layer's matrix of outputs, and one more that stands for all the others."""

    kind = 3
    FILLS: ClassVar[tuple[str, ...]] = ("zero", "mean_dropped", "centroid")
    shape: Shape
    kept: NDArray[np.int64]
    """numbers of the rows, ascending"""
    fill: str
    """what the other one is: none is sent, the mean of the rows that are not kept, or that of all"""

    @property
    def dropped(self) -> int:
        return self.shape[0] - len(self.kept)

    @property
    def filled(self) -> bool:
        return self.dropped > 0 and self.fill != "zero"

    @property
    def width(self) -> int:
        return prod(self.shape[1:])

    @property
    def size(self) -> int:
        return (len(self.kept) + self.filled) * self.width

    def coordinates(self, layer: Tensor) -> Tensor:
        a = rows(layer)
        if not self.dropped:
            return a.reshape(-1).contiguous()
        kept = torch.from_numpy(self.kept).to(a.device)
        values = a.new_empty(self.size // max(1, self.width), self.width)
        torch.index_select(a, 0, kept, out=values[: len(kept)])
        if self.filled:
            weights = a.new_full((len(a),), 1 / (len(a) if self.fill == "centroid" else self.dropped))
            if self.fill == "mean_dropped":
                weights.index_fill_(0, kept, 0)
            torch.mv(a.t(), weights, out=values[-1])
        return values.view(-1)

    def add(self, values: Tensor, into: Tensor, factor: float = 1.0) -> None:
        parts, target = values.to(into.device).view(-1, self.width), rows(into)
        kept = torch.from_numpy(self.kept).to(into.device)
        target.index_add_(0, kept, parts[: len(kept)], alpha=factor)
        if self.filled:
            others = np.delete(np.arange(len(target)), self.kept)
            target.index_add_(
                0, torch.from_numpy(others).to(into.device), parts[-1].expand(len(others), -1), alpha=factor
            )

    def erase(self, into: Tensor) -> None:
        rows(into).index_fill_(0, torch.from_numpy(self.kept).to(into.device), 0)

    def write(self) -> bytes:
        return bytes([self.FILLS.index(self.fill)]) + _write_set(self.kept, self.shape[0])

    @classmethod
    def read(cls, octets: memoryview, shape: Shape) -> tuple[Rows, int]:
        if not octets or octets[0] >= len(cls.FILLS) or not shape:
            raise PayloadError("payload: rows without a known fill, or of a layer that has none")
        kept, length = _read_set(octets[1:], shape[0])
        return cls(shape, kept, cls.FILLS[octets[0]]), 1 + length


@dataclass(frozen=True, eq=False)
class Columns(Basis):
    """The layer's matrix M of outputs as P Q^T, of which P is known and Q^T = P^T M are the coordinates."""

    kind = 4
    HEAD: ClassVar[struct.Struct] = struct.Struct("<H")
    shape: Shape
    p: Tensor
    """(outputs, rank), float32, its columns orthonormal"""

    @property
    def size(self) -> int:
        return self.p.shape[1] * prod(self.shape[1:])

    def coordinates(self, layer: Tensor) -> Tensor:
        return (self.p.to(layer.device).t() @ rows(layer)).reshape(-1)

    def add(self, values: Tensor, into: Tensor, factor: float = 1.0) -> None:
        # Matrix products differ from machine to machine in their last bits, and nodes must not. In float64 the products
        # of float32 are exact, so that nothing but the order of additions matters, and that is the columns'.
        p = (self.p.to(into.device) * factor).double().unbind(1)
        q = values.to(into.device).double().view(len(p), prod(self.shape[1:])).unbind(0)
        target = rows(into)
        step = max(1, 2**15 // max(1, target.shape[1]))
        for start in range(0, len(target), step):
            chunk = target[start : start + step].double()
            for column, row in zip(p, q, strict=True):
                chunk.addr_(column[start : start + step], row)
            target[start : start + step] = chunk

    def erase(self, into: Tensor) -> None:
        """Nothing: no entry is said exactly."""

    def write(self) -> bytes:
        return self.HEAD.pack(self.p.shape[1]) + self.p.contiguous().cpu().numpy().astype("<f4").tobytes()

    @classmethod
    def read(cls, octets: memoryview, shape: Shape) -> tuple[Columns, int]:
        (rank,) = _unpack(cls.HEAD, octets)
        outputs = shape[0] if shape else 0
        length = 4 * rank * outputs
        if rank > min(outputs, prod(shape[1:])) or len(octets) < cls.HEAD.size + length:
            raise PayloadError(f"payload: found a factor of rank {rank} for a layer of shape {shape}")
        factor = np.frombuffer(octets, "<f4", rank * outputs, cls.HEAD.size).astype(np.float32)
        if not np.isfinite(factor).all():
            raise PayloadError("payload: found a factor that is not finite")
        return cls(shape, torch.from_numpy(factor.reshape(outputs, rank))), cls.HEAD.size + length


KINDS: dict[int, type[Basis]] = {basis.kind: basis for basis in (All, Tiles, Seeded, Rows, Columns)}


def sample(universe: int, count: int, seed: int) -> NDArray[np.int64]:
    """`count` of the numbers below `universe`, ascending, every set as likely as any other.

    Made of raw 64-bit draws, so that it is the same with every version of NumPy.
    """
    if 2 * count > universe:
        left_out = np.zeros(universe, dtype=bool)
        left_out[sample(universe, universe - count, seed)] = True
        return np.flatnonzero(~left_out)
    draws: list[NDArray[np.int64]] = []
    bits, missing = np.random.Philox(seed), count
    while missing > 0:
        draws.append((bits.random_raw(missing + 64) % np.uint64(universe)).astype(np.int64))
        drawn = np.concatenate(draws)
        _, first = np.unique(drawn, return_index=True)
        missing = count - len(first)
    return np.sort(drawn[np.sort(first)[:count]]) if count else np.empty(0, np.int64)


SET_HEAD = struct.Struct("<BI")
"""form and number of the units, in front of them"""


def _write_set(units: NDArray[np.int64], universe: int) -> bytes:
    form, octets = indices.pack(units, universe)
    return SET_HEAD.pack(form, len(units)) + octets


def _read_set(octets: memoryview, universe: int) -> tuple[NDArray[np.int64], int]:
    form, count = _unpack(SET_HEAD, octets)
    if count > universe:
        raise PayloadError(f"payload: found {count} of {universe} units")
    units, length = indices.unpack(form, octets[SET_HEAD.size :], count, universe)
    return units, SET_HEAD.size + length


def _unpack(head: struct.Struct, octets: memoryview) -> tuple[int, ...]:
    if len(octets) < head.size:
        raise PayloadError(f"payload: found {len(octets)} bytes where at least {head.size} are expected")
    return head.unpack_from(octets)
