"""A matrix cut into square tiles, numbered row by row; those at its right and lower border may be smaller."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    rows: int
    columns: int
    side: int

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

    def sizes(self) -> Tensor:
        """Entries of each tile."""
        down, across = self.grid
        heights = (self.rows - self.side * torch.arange(down)).clamp(max=self.side)
        widths = (self.columns - self.side * torch.arange(across)).clamp(max=self.side)
        return torch.outer(heights, widths).view(-1)

    def members(self, tiles: Tensor) -> Tensor:
        """Positions of these tiles' entries in the flattened matrix: tile after tile, each row by row."""
        if self.side == 1:
            return tiles
        inside = torch.arange(self.side)
        _, across = self.grid
        row = (tiles // across * self.side)[:, None, None] + inside[:, None]
        column = (tiles % across * self.side)[:, None, None] + inside
        position = row * self.columns + column
        if self.rows % self.side == 0 and self.columns % self.side == 0:
            return position.view(-1)
        return position[(row < self.rows) & (column < self.columns)]

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
