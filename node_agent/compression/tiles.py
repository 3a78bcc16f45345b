"""A layer's matrix cut into square tiles, numbered row by row; those at its right and lower border may be smaller."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import frexp, prod
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

    def matrix(self, layer: Tensor) -> Tensor:
        """The layer as the matrix that is cut."""
        return kernel_matrix(layer) if self.view == "kernels" else layer.reshape(self.rows, self.columns)

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
        return int(self.sizes().min()) if self.tiles else 0

    def sizes(self) -> Tensor:
        """Entries of each tile."""
        down, across = self.grid
        heights = (self.rows - self.side * torch.arange(down)).clamp(max=self.side)
        widths = (self.columns - self.side * torch.arange(across)).clamp(max=self.side)
        return torch.outer(heights, widths).view(-1)

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
        return position[(row < self.rows) & (column < self.columns)]

    def _position(self, row: Tensor, column: Tensor) -> Tensor:
        """In the flattened layer, of a place in the matrix."""
        height, width = self.kernel
        if height == width == 1:
            return row * self.columns + column
        block = row // height * (self.columns // width) + column // width
        return (block * height + row % height) * width + column % width

    def moments(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and population standard deviation of the magnitudes in each tile.

        Box sums, rows first; slices instead of pooling, five times faster and without padding."""
        # Squares of very large or very small entries leave the range of float32; powers of two round nothing.
        _, exponent = frexp(max(map(abs, torch.aminmax(matrix))))
        scale = 1.0 if abs(exponent) < 40 else 2.0 ** -min(max(exponent, -126), 126)
        (down, across), side = self.grid, self.side
        rows = torch.zeros(2, down, self.columns)
        for i in range(min(side, self.rows)):
            part = matrix[i::side] if scale == 1 else matrix[i::side] * scale
            rows[0, : len(part)] += part.abs()
            rows[1, : len(part)].addcmul_(part, part)
        sums = torch.zeros(2, down, across)
        for j in range(min(side, self.columns)):
            part = rows[:, :, j::side]
            sums[:, :, : part.shape[2]] += part
        mean, square = sums.view(2, -1) / self.sizes()
        deviation = (square - mean.square()).clamp_(min=0).sqrt_()
        return mean / scale, deviation / scale
