from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from node_agent.workloads.cleaning import BandStatistics, band_statistics, clean, cleaned_strips, scene_statistics
from node_agent.workloads.formats import SceneError
from node_agent.workloads.scenes import Scene

cubes = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 8)),
    elements=st.one_of(st.floats(-100, 100, width=32), st.sampled_from([np.nan, np.inf, -np.inf, 0.0])),
)


@given(cubes, st.integers(1, 5))
def test_statistics_of_strips_add_up_to_those_of_the_whole(cube, step):
    strips = [band_statistics(cube[start : start + step]) for start in range(0, len(cube), step)]
    total, whole = reduce(BandStatistics.__or__, strips), band_statistics(cube)
    assert np.array_equal(total.minimum, whole.minimum)
    assert np.array_equal(total.maximum, whole.maximum)
    assert np.array_equal(total.finite, whole.finite)
    assert total.pixels == whole.pixels == cube.shape[0] * cube.shape[1]


@given(cubes)
def test_what_is_cleaned_is_finite_and_within_range(cube):
    statistics = band_statistics(cube)
    try:
        kept = statistics.kept
    except SceneError:
        return
    cleaned = clean(cube.copy(), kept)
    low, high = statistics.range
    filled = cleaned.cube[~cleaned.empty]
    assert np.isfinite(cleaned.cube).all()
    assert filled.min() >= low - 1e-4
    assert filled.max() <= high + 1e-4
    assert cleaned.non_finite == (~np.isfinite(cube[..., kept])).sum()
    untouched = np.isfinite(cube[..., kept]) & (cube[..., kept] >= 0)
    assert np.array_equal(cleaned.cube[untouched], cube[..., kept][untouched])


def test_bands_without_information_are_dropped():
    cube = np.arange(1, 1 + 4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    cube[..., 1] = 7  # dead
    cube[..., 2] *= -1  # constant once clipped
    cube[:2, :, 3] = np.nan  # half of it left: not kept, as it is not more than half
    cube.reshape(20, 6)[:9, 4] = np.inf  # eleven of twenty left
    assert band_statistics(cube).kept.tolist() == [True, False, False, False, True, True]
    with pytest.raises(SceneError, match="none of its 6 bands"):
        _ = band_statistics(cube * np.nan).kept
    with pytest.raises(SceneError, match="none of its 2 bands"):
        _ = band_statistics(cube[..., 1:3]).kept


def test_interpolation_along_the_spectrum_by_hand():
    spectrum = np.array([np.nan, 2, np.nan, 99, 10, -4, np.nan], np.float32)
    kept = np.array([1, 1, 1, 0, 1, 1, 1], bool)
    cleaned = clean(spectrum.reshape(1, 1, 7), kept)
    # bands 1 and 4 hold 2 and 10, so band 2, a third of the way, gets 2 + 8/3; ends are held; -4 is clipped
    assert cleaned.cube[0, 0] == pytest.approx([2, 2, 2 + 8 / 3, 10, 0, 0])
    assert cleaned.non_finite == 3
    assert cleaned.negative == 2
    assert not cleaned.empty.any()
    empty = clean(np.full((1, 1, 7), np.nan, np.float32), kept)
    assert empty.empty.all()
    assert not empty.cube.any()


def test_a_scene_is_cleaned_strip_by_strip():
    cube = np.random.default_rng(0).normal(10, 8, (30, 4, 5)).astype(np.float32)
    scene = Scene("memory", cube.shape, np.ones((30, 4), bool), "map", None, cube, (0, 1, 2))
    kept = scene_statistics(scene).kept
    whole = np.concatenate([strip.cube for _, strip in cleaned_strips(scene, kept)])
    assert np.array_equal(whole, clean(cube, kept).cube)
    assert np.array_equal(whole, cube.clip(0))
