from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from node_agent.compression.selection import largest


def reference(scores: torch.Tensor, count: int) -> torch.Tensor:
    return torch.sort(scores, descending=True, stable=True).indices[:count].sort().values


@given(st.lists(st.integers(-3, 3) | st.floats(allow_nan=False, width=32), min_size=1, max_size=60), st.data())
def test_largest_is_the_head_of_a_stable_sort(scores: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(scores)))
    tensor = torch.tensor(scores, dtype=torch.float32)
    assert torch.equal(largest(tensor, count), reference(tensor, count))


@pytest.mark.parametrize("share", [1e-5, 0.001, 0.01, 0.3, 0.999])
@pytest.mark.parametrize("kind", ["normal", "few values", "sorted", "zero", "one in a sample's stride"])
def test_largest_of_many(kind: str, share: float) -> None:
    n = 300_000
    rng = np.random.default_rng(1)
    scores = {
        "normal": rng.standard_normal(n),
        "few values": rng.integers(0, 3, n),
        "sorted": np.arange(n),
        "zero": np.zeros(n),
        # The sample sees nothing but the largest, and so puts its threshold too high.
        "one in a sample's stride": np.where(np.arange(n) % 19 == 0, 1.0, rng.random(n) / 2),
    }[kind]
    tensor = torch.from_numpy(scores.astype(np.float32))
    count = max(1, int(share * n))
    assert torch.equal(largest(tensor, count), reference(tensor, count))
