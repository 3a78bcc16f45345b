from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.compression.density import proportional, warm_up

densities = st.floats(1e-4, 1)


@pytest.mark.parametrize(
    ("density", "stages"),
    [
        (0.001, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 0.001]),
        (0.02, [0.25, 0.0625, 0.03, 0.02, 0.02]),
        (0.05, [0.25, 0.0625, 0.0625, 0.05, 0.05]),
        (0.1, [0.25, 0.1, 0.1, 0.1, 0.1]),
        (0.5, [0.5] * 5),
        (1.0, [1.0] * 5),
    ],
)
def test_stages_of_the_warm_up(density: float, stages: list[float]) -> None:
    assert [warm_up(density, step, 20) for step in range(0, 25, 5)] == pytest.approx(stages)
    assert [warm_up(density, step, 20) for step in range(4, 25, 5)] == pytest.approx(stages)


@given(densities, st.integers(0, 50))
def test_warm_up_falls_to_the_final_density(density: float, steps: int) -> None:
    course = [warm_up(density, step, steps) for step in range(steps + 2)]
    assert all(density <= later <= earlier for earlier, later in pairwise(course))
    assert course[steps] == density


def test_proportional_by_hand() -> None:
    assert proportional(0.1, [3, 1], [100, 100]) == pytest.approx([0.15, 0.05])
    # In proportion the second would have 0.002; it is held at a fourth of 0.1, the first has the rest.
    assert proportional(0.1, [100, 1], [100, 100]) == pytest.approx([0.175, 0.025])
    # The first is held at four times 0.1, the others share 0.1 * 1000 - 0.4 * 100 = 60 by 2 : 1.
    assert proportional(0.1, [1000, 2, 1], [100, 450, 450]) == pytest.approx([0.4, 60 / 450 * 2 / 3, 60 / 450 / 3])


@given(densities, st.lists(st.tuples(st.floats(0, 1e38), st.integers(1, 10**7)), min_size=1, max_size=12))
def test_proportional_keeps_budget_bounds_and_order(density: float, layers: list[tuple[float, int]]) -> None:
    importance, sizes = zip(*layers, strict=True)
    rates = proportional(density, importance, sizes)
    assert rates @ np.array(sizes) == pytest.approx(density * sum(sizes))
    assert np.all(rates >= density / 4 * (1 - 1e-12))
    assert np.all(rates <= min(1, 4 * density))
    assert np.all(np.diff(rates[np.argsort(importance)]) >= -1e-12)
