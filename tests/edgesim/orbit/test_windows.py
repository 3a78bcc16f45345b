from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesim.orbit.earth import Array, Index
from edgesim.orbit.search import grid
from edgesim.orbit.statistics import extremes
from edgesim.orbit.windows import Windows, assemble, crossings

DURATION = 3000.0


def found(level: float, waves: list[tuple[float, float, float]], step: float) -> Windows:
    """Where level + sum of amplitude · sin(2 pi t / period + phase) is positive."""

    def at(row: Index, time: Array) -> Array:
        return level + sum(a * np.sin(2 * np.pi * time / p + phase) for a, p, phase in waves) + 0.0 * row

    times = grid(DURATION, step)
    samples = at(np.zeros(len(times), np.intp), times)[None, :]
    row, time = crossings(samples, times, at)
    ends = [np.flatnonzero(samples[:, place] > 0) for place in (0, -1)]
    return assemble(row, time, ends[0], ends[1], DURATION)


def test_beginnings_and_ends_are_exact() -> None:
    # sin(2 pi t / 1000) > 1/2 from 1/12 to 5/12 of each period
    windows = found(-0.5, [(1.0, 1000.0, 0.0)], 60.0)
    assert windows.start == pytest.approx([250 / 3, 3250 / 3, 6250 / 3], abs=1e-3)
    assert windows.end == pytest.approx([1250 / 3, 4250 / 3, 7250 / 3], abs=1e-3)


def test_what_is_open_all_the_time_is_one_window() -> None:
    windows = found(2.0, [(1.0, 700.0, 0.3)], 10.0)
    assert (windows.start.tolist(), windows.end.tolist()) == ([0.0], [DURATION])
    assert len(found(-2.0, [(1.0, 700.0, 0.3)], 10.0)) == 0


def test_windows_and_gaps_between_two_samples_are_found() -> None:
    # Above 0.9999 for 4.5 s around the crest at 265 s of every 1000 s: between the samples at 240 and at 300.
    phase = np.pi / 2 - 2 * np.pi * 265 / 1000
    half = 1000 * np.arccos(0.9999) / (2 * np.pi)
    windows = found(-0.9999, [(1.0, 1000.0, phase)], 60.0)
    assert windows.start == pytest.approx([265 - half, 1265 - half, 2265 - half], abs=1e-3)
    assert windows.end == pytest.approx([265 + half, 1265 + half, 2265 + half], abs=1e-3)
    gaps = found(0.9999, [(1.0, 1000.0, phase + np.pi)], 60.0)
    assert gaps.end[:-1] == pytest.approx(windows.start, abs=1e-3)
    assert gaps.start[1:] == pytest.approx(windows.end, abs=1e-3)


wave = st.tuples(st.floats(0.1, 1), st.floats(300, 3000), st.floats(0, 6))


@given(st.floats(-1, 1), st.lists(wave, min_size=1, max_size=3), st.floats(5, 50))
@settings(deadline=None)
def test_windows_are_ascending_and_disjoint_and_cover_what_is_positive(
    level: float, waves: list[tuple[float, float, float]], step: float
) -> None:
    windows = found(level, waves, step)
    edges = np.stack([windows.start, windows.end], axis=1).ravel()
    assert (np.diff(edges) > 0).all()
    assert ((edges >= 0) & (edges <= DURATION)).all()
    time = np.linspace(0, DURATION, 5001)
    value = level + sum(a * np.sin(2 * np.pi * time / p + phase) for a, p, phase in waves)
    inside = np.searchsorted(edges, time) % 2 == 1
    # Within 2 ms of an edge, or of what is looked at, the rounding to milliseconds decides.
    clear = np.abs(time[:, None] - np.append(edges, [0, DURATION])).min(axis=1) > 2e-3
    assert (inside == (value > 0))[clear & (np.abs(value) > 1e-6)].all()


def test_extremes_between_samples() -> None:
    windows = Windows(np.array([0, 1]), np.array([0.0, 100.0]), np.array([1000.0, 103.0]))

    def at(row: Index, time: Array) -> Array:
        return np.where(row == 0, np.cos((time - 333.3) / 200), time)

    least, greatest = extremes(windows, at, 60.0)
    assert least == pytest.approx([np.cos(np.pi), 100.0], abs=1e-4)
    assert greatest == pytest.approx([1.0, 103.0], abs=1e-6)
