from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from node_agent.compression.tiles import Tiling
from node_agent.compression.views import kernel_matrix

tilings = st.builds(Tiling, rows=st.integers(1, 12), columns=st.integers(1, 12), side=st.integers(1, 5))


def blocks(tiling: Tiling, matrix: NDArray[Any]) -> list[NDArray[Any]]:
    side = tiling.side
    return [
        matrix[i : i + side, j : j + side].ravel()
        for i in range(0, tiling.rows, side)
        for j in range(0, tiling.columns, side)
    ]


@given(tilings)
def test_members_of_all_tiles_are_all_entries_once(tiling: Tiling) -> None:
    positions = np.arange(tiling.entries).reshape(tiling.rows, tiling.columns)
    expected = blocks(tiling, positions)
    assert len(expected) == tiling.tiles
    assert tiling.sizes().tolist() == [len(block) for block in expected]
    assert max(map(len, expected)) == tiling.largest
    assert min(map(len, expected)) == tiling.smallest
    assert tiling.members(torch.arange(tiling.tiles)).tolist() == np.concatenate(expected).tolist()


@given(tilings, st.data())
def test_members_of_some_tiles(tiling: Tiling, data: st.DataObject) -> None:
    tiles = sorted(data.draw(st.sets(st.integers(0, tiling.tiles - 1))))
    positions = np.arange(tiling.entries).reshape(tiling.rows, tiling.columns)
    expected = [int(i) for tile in tiles for i in blocks(tiling, positions)[tile]]
    assert tiling.members(torch.tensor(tiles, dtype=torch.int64)).tolist() == expected


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([(1, 1), (3, 3), (2, 5)]), st.booleans(), st.data())
def test_blocks_are_rows_of_the_matrix(
    outputs: int, inputs: int, kernel: tuple[int, int], kernels: bool, data: st.DataObject
) -> None:
    layer = torch.arange(outputs * inputs * prod(kernel)).view(outputs, inputs, *kernel)
    tiling = Tiling.of(tuple(layer.shape), 2, "kernels" if kernels else "rows")
    matrix = kernel_matrix(layer) if kernels else layer.flatten(1)
    start = data.draw(st.integers(0, tiling.rows))
    stop = data.draw(st.integers(start, tiling.rows))
    assert torch.equal(tiling.block(layer, start, stop), matrix[start:stop])


@given(tilings, st.data())
def test_no_more_tiles_fit(tiling: Tiling, data: st.DataObject) -> None:
    entries = data.draw(st.integers(0, tiling.entries))
    held = tiling.sizes().sort().values.cumsum(0)
    assert tiling.fitting(entries) == int((held <= entries).sum())
