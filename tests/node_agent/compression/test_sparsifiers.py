"""The sparsifiers, each against the straightforward reading of its definition and by hand."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lockstep import exchange
from methods import SHAPES, draw, make, memory_of, plain, said
from scipy.stats import norm
from torch import Tensor

from node_agent.compression import configure
from node_agent.compression.base import Layer, StepContext
from node_agent.compression.basis import Rows, Seeded, Tiles
from node_agent.compression.compressor import Compressor
from node_agent.compression.octets import PayloadError
from node_agent.compression.selection import exceeding
from node_agent.compression.settings import CATALOGUE
from node_agent.compression.tiles import Tiling

MINE = ["randomk", "threshold", "strom", "gaussiank", "dgc", "adacomp", "cltk", "arctopk"]
ALIGNED = ["randomk", "cltk", "arctopk"]
VALUES = {
    name: CATALOGUE[name].model_fields["values"].annotation.__args__
    for name in MINE
    if "values" in CATALOGUE[name].model_fields
}

numbers = st.one_of(
    st.floats(width=32, min_value=-(2.0**60), max_value=2.0**60),
    st.sampled_from([0.0, 1.0, -1.0, 1e-45, -1e-40]),
)
matrices = st.builds(
    lambda entries, rows: torch.tensor(np.resize(np.array(entries, np.float32), (rows, -(-len(entries) // rows)))),
    st.lists(numbers, min_size=1, max_size=120),
    st.integers(1, 9),
)


def row(*entries: float) -> Tensor:
    return torch.tensor([entries], dtype=torch.float32)


def one_layer(name: str, gradient: Tensor, **values: object) -> Compressor:
    return make(name, {"a": tuple(gradient.shape)}, **values)


def own(name: str, gradient: Tensor, **values: object) -> Tensor:
    """What a new node says of its first gradient."""
    return said(one_layer(name, gradient, **values), {"a": gradient})["a"]


@pytest.mark.parametrize(("name", "written"), [(name, written) for name in VALUES for written in VALUES[name]])
def test_values_are_written_as_asked_within_the_bound(name: str, written: str) -> None:
    gradients = draw(0)
    exact = said(make(name), gradients)
    compressor = make(name, values=written)
    bound = compressor.size_bound(list(gradients.values()))
    payload = compressor.encode(list(gradients.values()))
    assert len(payload) <= bound
    tolerance = {"float32": 0.0, "float16": 2e-3, "bfloat16": 1e-2, "int8": 0.02, "int4": 0.3}[written]
    for found, expected in zip(compressor.decode(payload), exact.values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in MINE if "density" in CATALOGUE[name].model_fields])
def test_warm_up_sends_more_at_first(name: str) -> None:
    compressor, gradients = make(name, density=0.01, warmup_steps=4), draw(0)
    payloads = [compressor.encode(list(gradients.values())) for _ in range(5)]
    entries = sum(g.numel() for g in gradients.values())
    assert payloads[0].kept / entries == pytest.approx(0.25, rel=0.2)
    assert payloads[4].kept < payloads[0].kept / 5
    bound = compressor.size_bound(list(gradients.values()))
    assert len(compressor.encode(list(gradients.values()))) <= bound


# Random-k


def test_randomk_draws_distinct_entries_alike_on_all_nodes_and_anew_in_each_step() -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    compressors = [make("randomk", density=0.3) for _ in range(3)]
    seen = []
    for step in range(2):
        outcomes, _ = exchange(compressors, [draw(k) for k in range(3)], step)
        for place, shape in enumerate(SHAPES.values()):
            members = [outcome.said[place].basis.members for outcome in outcomes]
            assert all(torch.equal(members[0], other) for other in members)
            d = int(np.prod(shape))
            assert len(members[0].unique()) == len(members[0]) == int(0.3 * d)
            assert set(members[0].tolist()) <= set(range(d))
            seen.append(tuple(members[0].tolist()))
    assert len(set(seen)) == len(seen)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_randomk_follows_the_seed() -> None:
    layer = Layer("a", (40, 30))
    method = make("randomk", {"a": layer.shape})._method.method
    bases = [
        method.basis(layer, torch.zeros(layer.shape), StepContext(4, 3, rank, seed))
        for rank, seed in ((0, 1), (2, 1), (0, 2))
    ]
    assert all(isinstance(basis, Seeded) for basis in bases)
    assert bases[0].seed == bases[1].seed != bases[2].seed


def test_unbiased_randomk_is_right_in_the_mean() -> None:
    gradient = torch.linspace(-1, 2, 50).view(5, 10)
    compressor = one_layer("randomk", gradient, density=0.21, unbiased=True, error_feedback=False)
    draws = torch.stack([said(compressor, {"a": gradient}, step)["a"] for step in range(800)])
    assert torch.all((draws == 0) | torch.isclose(draws, 5 * gradient))  # K = 10 of 50
    # The standard deviation of one entry's mean is |a| sqrt((d / K - 1) / draws).
    deviation = gradient.abs() * (4 / 800) ** 0.5
    assert torch.all((draws.mean(0) - gradient).abs() <= 5 * deviation + 1e-6)


def test_unbiased_randomk_of_the_largest_gradients_stays_finite() -> None:
    gradient = torch.tensor([[3e37, -3e38]]).repeat(30, 40)
    said = own("randomk", gradient, density=0.01, unbiased=True, error_feedback=False)
    largest = torch.finfo(torch.float32).max
    assert said.unique().tolist() == [-largest, 0, largest]


def test_unbiased_randomk_takes_no_error_feedback() -> None:
    with pytest.raises(
        ValueError,
        match=r"^compressor randomk: unbiased: found True; allowed false, or true with error_feedback: false$",
    ):
        configure("randomk", unbiased=True)
    assert configure("randomk", unbiased=True, error_feedback=False).error_feedback is False


# Threshold and Strom


@given(gradient=matrices, threshold=st.sampled_from([1e-37, 0.01, 1.0, 2.0**59]))
@settings(max_examples=60)
def test_threshold_sends_what_exceeds_it(gradient: Tensor, threshold: float) -> None:
    expected = torch.where(gradient.abs() > threshold, gradient, 0)
    assert torch.equal(own("threshold", gradient, threshold=threshold), expected)


def test_thresholds_compare_magnitudes_even_where_all_are_negative() -> None:
    gradient = row(-0.5, -0.001, -1.0)
    assert torch.equal(own("threshold", gradient, threshold=0.5), row(0, 0, -1))
    assert torch.equal(exceeding(gradient[0], 1e300), torch.empty(0, dtype=torch.int64))


def test_strom_by_hand() -> None:
    gradient = row(0.25, -0.25, 0.5, -1.75, 0, 0.0625)
    compressor = one_layer("strom", gradient, threshold=0.25)
    assert torch.equal(said(compressor, {"a": gradient})["a"], row(0, 0, 0.25, -0.25, 0, 0))
    memory = memory_of(compressor)
    assert memory is not None
    assert torch.equal(memory.residual["a"], row(0.25, -0.25, 0.25, -1.5, 0, 0.0625))
    # Without a new gradient, what is large goes on being said until it is not above tau.
    for left in (-1.25, -1.0, -0.75, -0.5, -0.25, -0.25):
        said(compressor, {"a": torch.zeros_like(gradient)})
        assert memory.residual["a"][0, 3] == left


# Gaussian-k


@given(gradient=matrices, density=st.sampled_from([0.03, 0.3, 0.9]))
@settings(max_examples=60)
def test_gaussiank_is_its_descent_step_by_step(gradient: Tensor, density: float) -> None:
    a = gradient.double().view(-1).numpy()
    enough = min(ceil(0.75 * max(1, int(density * a.size))), np.count_nonzero(a))
    first = abs(a.mean()) + np.sqrt(max(0.0, np.mean(a**2) - a.mean() ** 2)) * norm.ppf(1 - density / 2)
    threshold, steps = np.float32(first), 0
    while np.count_nonzero(np.abs(gradient.view(-1).numpy()) > threshold) < enough and threshold > 0:
        steps += 1
        threshold = np.float32(first / 1.012**steps)
    sent = own("gaussiank", gradient, density=density) != 0
    expected = gradient.abs() > float(threshold)
    near = (gradient.abs().double() / max(float(threshold), 1e-300) - 1).abs() < 1e-5  # either rounding is right
    assert torch.equal(sent | near, expected | near)
    assert int(sent.sum()) >= enough


def test_gaussiank_sends_about_k_of_normal_entries_and_as_many_of_their_negative() -> None:
    gradient = torch.from_numpy(np.random.default_rng(0).normal(0.002, 0.1, (200, 500)).astype(np.float32))
    sent = own("gaussiank", gradient, density=0.02)
    assert int((sent != 0).sum()) == pytest.approx(2000, rel=0.1)
    assert torch.equal(own("gaussiank", -gradient, density=0.02), -sent)


# DGC


def test_dgc_by_hand() -> None:
    compressor = one_layer("dgc", row(0, 0, 0, 0), density=0.25, warmup_steps=0, momentum_correction=0.5)
    memory = memory_of(compressor)
    assert memory is not None
    # u = g, v = g: the largest goes, and neither velocity nor residual of it remains.
    assert torch.equal(said(compressor, {"a": row(1, -4, 2, 0)})["a"], row(0, -4, 0, 0))
    assert torch.equal(memory.residual["a"], row(1, 0, 2, 0))
    assert torch.equal(memory.velocity["a"], row(1, 0, 2, 0))
    # u = (1, 0, 2, 0) / 2 + (1, 1, 0, 0), v = v + u
    assert torch.equal(said(compressor, {"a": row(1, 1, 0, 0)})["a"], row(0, 0, 3, 0))
    assert torch.equal(memory.velocity["a"], row(1.5, 1, 0, 0))
    assert torch.equal(memory.residual["a"], row(2.5, 1, 0, 0))


def test_dgc_rounds_its_number_of_entries() -> None:
    assert int((own("dgc", torch.ones(3, 9), density=0.1, warmup_steps=0) != 0).sum()) == 3  # 2.7
    assert int((own("topk", torch.ones(3, 9), density=0.1) != 0).sum()) == 2


def test_dgc_clips_without_momentum_too() -> None:
    gradient = row(3, 4)
    clipped = own("dgc", gradient, density=1.0, warmup_steps=0, momentum_correction=0.0, clip=1.0)
    torch.testing.assert_close(clipped, row(0.6, 0.8))


# AdaComp


def reference_adacomp(residue: Tensor, newest: Tensor, length: int, soft: float) -> Tensor:
    """What is said, bin by bin and entry by entry."""
    total = (residue + newest).view(-1)
    ahead = torch.add(total, newest.view(-1), alpha=soft)
    starts = range(0, len(total), length)
    largest = [total[start : start + length].abs().max() for start in starts]
    scale = torch.stack(largest).double().mean().float()
    sent = torch.zeros_like(total)
    for start, most in zip(starts, largest, strict=True):
        for i in range(start, min(start + length, len(total))):
            if ahead[i].abs() >= most:
                sent[i] = scale * total[i].sign()
    return sent.view(newest.shape)


@given(first=matrices, length=st.integers(1, 40), soft=st.sampled_from([0.0, 1.0, 2.5]), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_adacomp_is_its_definition(first: Tensor, length: int, soft: float, seed: int) -> None:
    compressor = one_layer("adacomp", first, bin_linear=length, soft=soft)
    memory = memory_of(compressor)
    assert memory is not None
    residue = torch.zeros_like(first)
    for gradient in (first, torch.from_numpy(np.random.default_rng(seed).normal(size=first.shape).astype(np.float32))):
        found = said(compressor, {"a": gradient})["a"]
        assert torch.equal(found, reference_adacomp(residue, gradient, length, soft))
        torch.testing.assert_close(memory.residual["a"], residue + gradient - found)
        residue = memory.residual["a"].clone()


def test_adacomp_by_hand() -> None:
    # Bins (1, -4), (0, 0), (2, 1): largest 4, 0, 2 with mean 2. Twice the entries reach them at -4, 2 and 1.
    assert torch.equal(own("adacomp", row(1, -4, 0, 0, 2, 1), bin_linear=2), row(0, -2, 0, 0, 2, 2))
    assert torch.equal(own("adacomp", row(1, -4, 0, 0, 2, 1), bin_linear=2, soft=0), row(0, -2, 0, 0, 2, 0))


def test_adacomp_has_smaller_bins_for_convolutions_and_many_chunks_of_bins() -> None:
    gradient = torch.from_numpy(np.random.default_rng(1).normal(size=(140, 500)).astype(np.float32))
    assert torch.equal(own("adacomp", gradient), reference_adacomp(torch.zeros(140, 500), gradient, 500, 1.0))
    kernels = gradient[:6].reshape(20, 6, 5, 5)
    assert torch.equal(own("adacomp", kernels), reference_adacomp(torch.zeros_like(kernels), kernels, 50, 1.0))


# CLT-k


def test_cltk_leaders_take_turns() -> None:
    gradients = [{"a": row(9, 0, 0, 1)}, {"a": row(0, -9, 0, 2)}, {"a": row(0, 0, 9, 3)}]
    for step in range(4):
        nodes = [plain("cltk", {"a": (1, 4)}, density=0.25) for _ in gradients]
        outcomes, sent = exchange(nodes, gradients, step)
        assert [len(one.data) > 0 for one in sent[0]] == [rank == step % 3 for rank in range(3)]
        expected = torch.zeros(1, 4)
        expected[0, step % 3] = -3 if step % 3 == 1 else 3
        for outcome in outcomes:
            assert isinstance(outcome.said[0].basis, Tiles)
            assert torch.equal(outcome.mean[0], expected)


@pytest.mark.parametrize("change", ["cut", "longer", "empty"])
def test_cltk_traces_a_damaged_message_to_the_leader(change: str) -> None:
    gradients = draw(0)
    rounds = make("cltk").rounds(list(gradients), list(gradients.values()), StepContext(3, 4, rank=0))
    next(rounds)
    leaders = next(make("cltk").rounds(list(gradients), list(gradients.values()), StepContext(3, 4, rank=1))).data
    empty = leaders[:0]
    damaged = {"cut": leaders[:-1], "longer": torch.cat([leaders, leaders[:1]]), "empty": empty}[change]
    with pytest.raises(PayloadError, match="message of rank 1: payload: "):
        rounds.send([empty, damaged, empty])


@pytest.mark.parametrize(
    "tiles",
    [
        Tiles(Tiling.of((40, 30), 3, "rows"), torch.arange(12)),
        Tiles(Tiling.of((40, 30), 1, "rows"), torch.arange(12)),
        Tiles(Tiling.of((40, 30)), torch.arange(13)),
        Tiles(Tiling.of((40, 30)), torch.arange(0)),
    ],
)
def test_cltk_refuses_a_choice_that_no_leader_makes(tiles: Tiles) -> None:
    rounds = make("cltk", {"a": (40, 30)}, density=0.01).rounds(["a"], [torch.randn(40, 30)], StepContext(2, 1, rank=0))
    empty = next(rounds).data
    with pytest.raises(PayloadError, match=r"rank 1: payload: layer a: found [0-9]+ chosen .* expected 12 of"):
        rounds.send([empty, torch.tensor(list(tiles.write()), dtype=torch.uint8)])


def test_low_pass_residual_by_hand() -> None:
    zeros = {"a": row(0, 0)}
    compressor = one_layer("cltk", row(0, 0), density=0.5, low_pass=0.25)
    memory = memory_of(compressor)
    assert memory is not None
    assert torch.equal(said(compressor, {"a": row(8, 4)})["a"], row(8, 0))
    # e = 3/4 (0, 0) + 1/4 ((8, 4) - (8, 0))
    assert torch.equal(memory.residual["a"], row(0, 1))
    # a = (2, 9), said (0, 9): e = 3/4 (0, 1) + 1/4 (2, 0)
    assert torch.equal(said(compressor, {"a": row(2, 8)})["a"], row(0, 9))
    assert torch.equal(memory.residual["a"], row(0.5, 0.75))
    # a = e, said (0, 3/4): e = 3/4 e + 1/4 (1/2, 0)
    assert torch.equal(said(compressor, zeros)["a"], row(0, 0.75))
    assert torch.equal(memory.residual["a"], row(0.5, 0.5625))


def test_a_low_pass_filter_takes_error_feedback() -> None:
    with pytest.raises(
        ValueError,
        match=r"^compressor cltk: low_pass: found 0.5; allowed 1, or a number below it with error_feedback: true$",
    ):
        configure("cltk", low_pass=0.5, error_feedback=False)
    assert configure("cltk", error_feedback=False).low_pass == 1


# ARC-Top-K


def test_arctopk_keeps_the_rows_of_the_largest_summed_sketch() -> None:
    gradients = [draw(k) for k in range(3)]
    nodes = [make("arctopk", density=0.2, sketch=3) for _ in gradients]
    outcomes, sent = exchange(nodes, gradients, step=6)
    assert [len(one) for one in sent] == [3, 3]
    assert sent[0][0].values == 0
    assert sent[0][0].data.numel() == 3 * sum(shape[0] for shape in SHAPES.values())
    sketches = torch.stack([one.data for one in sent[0]]).sum(0).view(-1, 3).split([s[0] for s in SHAPES.values()])
    for place, (shape, sketch) in enumerate(zip(SHAPES.values(), sketches, strict=True)):
        order = sketch.norm(dim=1).argsort(descending=True)[: int(0.2 * shape[0])].sort().values
        for outcome in outcomes:
            basis = outcome.said[place].basis
            assert isinstance(basis, Rows)
            assert basis.kept.tolist() == order.tolist()


def test_a_wide_sketch_finds_the_largest_rows_of_the_average_where_nodes_disagree() -> None:
    # Rows that cancel in the average are large on every node, and none of them is kept.
    noise = torch.zeros(20, 400)
    noise[:10] = 100 * draw(1, {"a": (10, 400)})["a"]
    signal = torch.zeros(20, 400)
    signal[15], signal[17] = 1.0, -2.0
    nodes = [make("arctopk", {"a": (20, 400)}, density=0.1, sketch=64) for _ in range(2)]
    outcomes, _ = exchange(nodes, [{"a": signal + noise}, {"a": signal - noise}])
    torch.testing.assert_close(outcomes[0].mean[0], signal, atol=1e-4, rtol=1e-4)


def test_arctopk_contracts() -> None:
    gradient = draw(3, {"a": (60, 50)})["a"]
    left = [
        float((gradient - said(one_layer("arctopk", gradient, density=0.25), {"a": gradient}, step)["a"]).norm()) ** 2
        for step in range(100)
    ]
    random = (1 - 0.25) * float(gradient.norm()) ** 2
    assert np.mean(left) < random
    assert max(left) < float(gradient.norm()) ** 2


@pytest.mark.parametrize("name", ALIGNED)
def test_aligned_ones_equal_the_same_choice_of_the_averaged_gradient(name: str) -> None:
    gradients = [draw(k) for k in range(4)]
    outcomes, _ = exchange([plain(name, density=0.1) for _ in gradients], gradients, step=2)
    for place, layer in enumerate(SHAPES):
        basis = outcomes[0].said[place].basis
        average = torch.stack([mine[layer] for mine in gradients]).mean(0)
        expected = torch.zeros(average.shape)
        basis.add(basis.coordinates(average), expected)
        for outcome in outcomes:
            assert torch.equal(outcome.mean[place], outcomes[0].mean[place])
            torch.testing.assert_close(outcome.mean[place], expected)
