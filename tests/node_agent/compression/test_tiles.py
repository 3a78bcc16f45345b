from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from node_agent.compression.tiles import Tiling

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
    assert tiling.members(torch.arange(tiling.tiles)).tolist() == np.concatenate(expected).tolist()


@given(tilings, st.data())
def test_members_of_some_tiles(tiling: Tiling, data: st.DataObject) -> None:
    tiles = sorted(data.draw(st.sets(st.integers(0, tiling.tiles - 1))))
    positions = np.arange(tiling.entries).reshape(tiling.rows, tiling.columns)
    expected = [int(i) for tile in tiles for i in blocks(tiling, positions)[tile]]
    assert tiling.members(torch.tensor(tiles, dtype=torch.int64)).tolist() == expected


@given(tilings, st.integers(0, 2**32 - 1), st.sampled_from([1e-44, 1e-30, 1e-9, 1.0, 1e15, 1e38]))
def test_moments_are_those_of_the_magnitudes(tiling: Tiling, seed: int, magnitude: float) -> None:
    matrix = (np.random.default_rng(seed).uniform(-1, 1, (tiling.rows, tiling.columns)) * magnitude).astype(np.float32)
    mean, deviation = tiling.moments(torch.from_numpy(matrix))
    expected = [np.abs(block.astype(np.float64)) for block in blocks(tiling, matrix)]
    peak = float(np.abs(matrix).max())
    tiny = 1.5e-45  # the spacing of denormal numbers
    assert mean.tolist() == pytest.approx([block.mean() for block in expected], rel=1e-6, abs=1e-6 * peak + tiny)
    # A difference of squares has the square root of the rounding error.
    assert deviation.tolist() == pytest.approx([block.std() for block in expected], rel=1e-5, abs=2e-3 * peak + tiny)


def test_moments_of_zeros() -> None:
    mean, deviation = Tiling(4, 4, 3).moments(torch.zeros(4, 4))
    assert not mean.any()
    assert not deviation.any()
