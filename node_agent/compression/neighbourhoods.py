"""Mean and population standard deviation in the p x p neighbourhoods of a layer's matrix, some rows at a time, so that
what is made of them stays in the cache: by box sums, at a cost that hardly grows with p."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from node_agent.compression.tiles import Tiling

CHUNK = 2**18
"""entries of a block, where the matrix is not wider"""


@dataclass(frozen=True)
class Block:
    """Some rows of tiles, or of entries and the windows around them. It lasts until the next one is asked for."""

    rows: slice
    x: Tensor
    """the entries, or their magnitudes"""
    mean: Tensor
    deviation: Tensor


def tiles(layer: Tensor, tiling: Tiling, signed: bool, scale: float) -> Iterator[Block]:
    """Of the entries in each tile times `scale`, or their magnitudes. Squares have to stay within float32. A
    deviation of which the sums in float32 may have made all is 0.

    Slices instead of pooling: faster, and without padding."""
    (down, across), side, columns = tiling.grid, tiling.side, tiling.columns
    step = max(1, CHUNK // (side * columns))
    scratch = torch.empty(min(step * side, tiling.rows), columns)
    of_rows, of_tiles = torch.zeros(2, min(step, down), across * side), torch.empty(2, min(step, down), across)
    heights = (tiling.rows - side * torch.arange(down)).clamp(max=side).float()
    widths = (columns - side * torch.arange(across)).clamp(max=side).float()
    sizes = torch.outer(heights[:step], widths)
    for top in range(0, down, step):
        bottom = min(top + step, down)
        matrix = tiling.block(layer, top * side, min(bottom * side, tiling.rows))
        x = scratch[: len(matrix)]
        if scale != 1:
            matrix = torch.mul(matrix, scale, out=x)
        x = matrix if signed else torch.abs(matrix, out=x)

        sums = of_rows[:, : bottom - top, :columns]
        sums[0].copy_(x[::side])
        torch.mul(x[::side], x[::side], out=sums[1])
        for i in range(1, min(side, len(x))):
            part = x[i::side]
            sums[0, : len(part)] += part
            sums[1, : len(part)].addcmul_(part, part)
        totals, padded = of_tiles[:, : bottom - top], of_rows[:, : bottom - top]
        if side == 1:
            totals.copy_(padded)
        else:
            torch.add(padded[:, :, ::side], padded[:, :, 1::side], out=totals)
        for j in range(2, side):
            totals += padded[:, :, j::side]

        if bottom == down:
            sizes = torch.outer(heights[top:], widths)
        mean, square = totals.div_(sizes)
        resolution = side * 2.0**-21 * square  # as long as each sum has about 2 side roundings
        variance = square.sub_(mean.square())
        yield Block(slice(top, bottom), x, mean, variance.masked_fill_(variance < resolution, 0).sqrt_())


def windows(layer: Tensor, tiling: Tiling, side: int, signed: bool) -> Iterator[Block]:
    """Of the entries, or their magnitudes, in the window of `side` (odd) around each entry, clipped at the borders.

    In float64, where no square of a float32 is out of range. What is below the resolution of float32 entries is a
    deviation of 0."""
    rows, columns, half = tiling.rows, tiling.columns, side // 2
    step = min(rows, max(1, CHUNK // (4 * columns)))
    padded = torch.zeros(2, step + 2 * half, columns + 2 * half, dtype=torch.float64)
    across = _counts(0, columns, columns, half)
    for top in range(0, rows, step):
        bottom = min(top + step, rows)
        first, last = max(0, top - half), min(rows, bottom + half)
        block = tiling.block(layer, first, last)
        x, square = padded[:, : bottom - top + 2 * half]
        for one in (x, square):  # above the first row and below the last there is nothing
            one[: first - top + half] = 0
            one[last - top + half :] = 0
        inner = slice(first - top + half, last - top + half), slice(half, half + columns)
        x[inner].copy_(block if signed else block.abs())
        torch.mul(x[inner], x[inner], out=square[inner])

        sums = consecutive(consecutive(padded[:, : bottom - top + 2 * half], side, 1), side, 2)
        mean, square = sums.div_(torch.outer(_counts(top, bottom, rows, half), across))
        resolution = 2.0**-46 * square
        variance = square.sub_(mean.square())
        variance.masked_fill_(variance < resolution, 0)
        yield Block(slice(top, bottom), x[half : half + bottom - top, half : half + columns], mean, variance.sqrt_())


def consecutive(x: Tensor, count: int, dim: int) -> Tensor:
    """Sums of every `count` entries that follow one another along `dim`.

    By doubling, about 2 log2(count) additions: S_2k[i] = S_k[i] + S_k[i + k]. Unlike differences of a running sum, they
    cancel nothing."""
    length, done, width, doubled = x.shape[dim] - count + 1, 0, 1, x
    total: Tensor | None = None
    while True:
        if count & width:
            part = doubled.narrow(dim, done, length)
            total = part if total is None else total + part
            done += width
        if done == count:
            assert total is not None
            return total.clone() if count == 1 else total
        kept = doubled.shape[dim] - width
        doubled = doubled.narrow(dim, 0, kept) + doubled.narrow(dim, width, kept)
        width *= 2


def _counts(start: int, stop: int, end: int, half: int) -> Tensor:
    """Of those within `half` of each place from `start` to `stop`, how many are between 0 and `end`."""
    at = torch.arange(start, stop, dtype=torch.float64)
    return (at + half).clamp(max=end - 1) - (at - half).clamp(min=0) + 1
