"""A layer's matrix cut into square tiles, numbered row by row; those at its right and lower border may be smaller."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from node_agent.compression.octets import PayloadError
from node_agent.compression.views import kernel_matrix, kernel_matrix_shape, kernel_of


@dataclass(frozen=True)
class Tiling:
    """Tiles of `side` entries each way of a (rows, columns) matrix: of the layer flattened to one row (`flat`), of its
    outputs (`rows`: one row an output), or of its kernels (`kernels`: each is a contiguous block)."""

    HEAD: ClassVar[struct.Struct] = struct.Struct("<BH")
    VIEWS: ClassVar[tuple[str, ...]] = ("flat", "rows", "kernels")

    rows: int
    columns: int
    side: int
    view: str = "rows"
    kernel: tuple[int, int] = (1, 1)
    """height and width of the blocks"""

    @classmethod
    def of(cls, shape: tuple[int, ...], side: int = 1, view: str = "flat") -> Tiling:
        """Raises ValueError where a tensor of this shape has no such matrix."""
        if view == "flat":
            return cls(1, prod(shape), side, view)
        if view == "rows":
            if not shape:
                raise ValueError("a number has no rows")
            return cls(shape[0], prod(shape[1:]), side, view)
        return cls(*kernel_matrix_shape(shape), side, view, kernel_of(shape))

    def block(self, layer: Tensor, start: int, stop: int) -> Tensor:
        """Some rows of the matrix, of a contiguous layer."""
        if self.view != "kernels":
            return layer.view(self.rows, self.columns)[start:stop]
        height, _ = self.kernel
        first = start // height
        return kernel_matrix(layer[first : -(-stop // height)])[start - first * height : stop - first * height]

    def write(self) -> bytes:
        return self.HEAD.pack(self.VIEWS.index(self.view), self.side)

    @classmethod
    def read(cls, octets: memoryview, shape: tuple[int, ...]) -> tuple[Tiling, int]:
        """The tiling written at the front of `octets`, and the bytes that it took. Raises PayloadError."""
        if len(octets) < cls.HEAD.size:
            raise PayloadError("payload: ends within a tiling")
        view, side = cls.HEAD.unpack_from(octets)
        if view >= len(cls.VIEWS) or side < 1 or (view and len(shape) < 2):
            raise PayloadError(f"payload: found tiles of side {side}, view {view}, for a layer of shape {shape}")
        return cls.of(shape, side, cls.VIEWS[view]), cls.HEAD.size

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles down, tiles across."""
        return -(-self.rows // self.side), -(-self.columns // self.side)

    @property
    def tiles(self) -> int:
        down, across = self.grid
        return down * across

    @property
    def entries(self) -> int:
        return self.rows * self.columns

    @property
    def largest(self) -> int:
        """Entries of the largest tile."""
        return min(self.side, self.rows) * min(self.side, self.columns)

    @property
    def smallest(self) -> int:
        """Entries of the smallest tile."""
        down, across = self.grid
        return (self.rows - (down - 1) * self.side) * (self.columns - (across - 1) * self.side) if self.tiles else 0

    def fitting(self, entries: int) -> int:
        """The most tiles that hold no more than so many entries together."""
        (down, across), side, count = self.grid, self.side, 0
        height, width = self.rows - (down - 1) * side, self.columns - (across - 1) * side  # of those at the border
        right, bottom = (side * width, down - 1), (height * side, across - 1)
        for size, tiles in sorted([(height * width, 1), right, bottom, (side * side, (down - 1) * (across - 1))]):
            taken = min(tiles, entries // size)
            count += taken
            entries -= taken * size
        return count

    def sizes(self, tiles: Tensor | None = None) -> Tensor:
        """Entries of each of these tiles; None: of all."""
        if tiles is None:
            tiles = torch.arange(self.tiles)
        _, across = self.grid
        heights = (self.rows - self.side * (tiles // across)).clamp(max=self.side)
        return heights * (self.columns - self.side * (tiles % across)).clamp(max=self.side)

    def members(self, tiles: Tensor) -> Tensor:
        """Positions of these tiles' entries in the flattened layer: tile after tile, each row by row of the matrix."""
        if self.side == 1 and self.kernel == (1, 1):
            return tiles
        _, across = self.grid
        row = (tiles // across * self.side)[:, None, None] + torch.arange(min(self.side, self.rows))[:, None]
        column = (tiles % across * self.side)[:, None, None] + torch.arange(min(self.side, self.columns))
        position = self._position(row, column)
        if self.rows % self.side == 0 and self.columns % self.side == 0:
            return position.view(-1)
        there = (row < self.rows) & (column < self.columns)
        return torch.from_numpy(position.numpy()[there.numpy()])  # faster than the same in torch

    def _position(self, row: Tensor, column: Tensor) -> Tensor:
        """In the flattened layer, of a place in the matrix."""
        height, width = self.kernel
        if height == width == 1:
            return row * self.columns + column
        block = row // height * (self.columns // width) + column // width
        return (block * height + row % height) * width + column % width
