from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.telemetry.energy import Energy

EIGHTHS = st.integers(1, 80).map(lambda eighths: eighths / 8)
"""s, whose sums are exact"""


def test_samples_at_irregular_times_are_integrated_by_trapezia() -> None:
    """4 W until 1 s, (4 + 6) / 2 x 0.5, (6 + 2) / 2 x 2, then 2 W for 0.25 s."""
    energy = Energy(longest_gap=3)
    for time, watts in ((1.0, 4.0), (1.5, 6.0), (3.5, 2.0)):
        energy.sample(time, watts)
    assert energy.until(3.75) == (4.0 + 2.5 + 8.0 + 0.5, 0.0)


def test_a_gap_is_not_bridged_but_told() -> None:
    energy = Energy(longest_gap=2)
    for time, watts in ((0.0, 5.0), (1.0, 5.0), (9.0, 5.0), (10.0, 5.0)):
        energy.sample(time, watts)
    assert energy.until(10.0) == (10.0, 8.0)
    assert energy.until(13.0) == (10.0, 11.0)  # the sensor was lost before the end


def test_a_late_first_sample_is_a_gap() -> None:
    energy = Energy(longest_gap=2)
    energy.sample(5.0, 3.0)
    assert energy.until(6.0) == (3.0, 5.0)


def test_without_a_sample_nothing_is_known() -> None:
    assert Energy(longest_gap=2).until(4.0) == (None, 4.0)


def test_what_a_meter_counts_is_known_however_long_it_took() -> None:
    energy = Energy(longest_gap=2)
    for time, joules in ((0.0, 0.0), (1.0, 7.0), (9.0, 80.0)):
        energy.count(time, joules)
    assert energy.until(9.0) == (87.0, 0.0)
    assert energy.until(10.0) == (87.0, 1.0)


def test_what_was_used_before_a_meter_began_is_not_in_it() -> None:
    energy = Energy(longest_gap=2)
    energy.count(30.0, 0.0)
    assert energy.until(30.0) == (0.0, 30.0)
    energy.count(31.0, 4.0)
    assert energy.until(31.5) == (4.0, 30.5)


@given(
    watts=st.floats(-1, 100),
    steps=st.lists(EIGHTHS, min_size=1, max_size=20),
    longest=EIGHTHS,
)
def test_constant_power_comes_to_power_times_the_measured_time(
    watts: float, steps: list[float], longest: float
) -> None:
    energy, time = Energy(longest), 0.0
    for step in steps:
        time += step
        energy.sample(time, watts)
    joules, unmeasured = energy.until(time)
    assert joules == pytest.approx(watts * (time - unmeasured), abs=1e-9)
    assert unmeasured == pytest.approx(sum(step for step in steps if step > longest), abs=1e-9)
