"""PowerSGD, beside PyTorch's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from lockstep import exchange
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from node_agent.compression import configure, create
from node_agent.compression.base import GradientError, Layer, StepContext, alone
from node_agent.compression.basis import Columns
from node_agent.compression.compressor import Compressor
from node_agent.compression.octets import PayloadError
from node_agent.compression.powersgd import PowerSGD, orthonormal

LAYERS = [Layer("w", (40, 37)), Layer("kernel", (16, 8, 3, 3)), Layer("bias", (40,))]
MATRICES = LAYERS[:2]


def draw(seed: int, layers: list[Layer] = LAYERS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer.name: torch.randn(layer.shape, generator=generator) for layer in layers}


def low_rank(seed: int, rank: int, shape: tuple[int, int] = (40, 37)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, shape[1], generator=generator)


class Bucket:
    """What PyTorch's hook asks of DistributedDataParallel's."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        parts = self.flat.split([tensor.numel() for tensor in tensors])
        self.parts = [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def buffer(self) -> Tensor:
        return self.flat

    def gradients(self) -> list[Tensor]:
        return self.parts

    def index(self) -> int:
        return 0

    def is_last(self) -> bool:
        return True


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_same_as_pytorch_step_after_step(nodes: int, rank: int) -> None:
    """PyTorch's is given the nodes' mean: as the projection is linear, that is what they have in common."""
    start = {layer.name: torch.randn(layer.numel // layer.shape[0], rank) for layer in MATRICES}
    state = PowerSGDState(None, rank, start_powerSGD_iter=2, min_compression_rate=1)
    state.iter = 2
    state.q_memory_dict[0] = torch.cat([q.reshape(-1) for q in start.values()])
    state.p_memory_dict[0] = torch.empty(sum(layer.shape[0] * rank for layer in MATRICES))
    compressors = [create("powersgd", MATRICES, rank=rank) for _ in range(nodes)]
    for compressor in compressors:
        saved = compressor.state_dict()
        saved["method"]["method"]["factors"] = start
        compressor.load_state_dict(saved)
    for step in range(6):
        gradients = [draw(10 * step + k, MATRICES) for k in range(nodes)]
        bucket = Bucket([torch.stack([g[layer.name] for g in gradients]).mean(0) for layer in MATRICES])
        powerSGD_hook(state, bucket).wait()  # type: ignore[arg-type]
        outcomes, _ = exchange(compressors, gradients, step)
        for found, expected in zip(outcomes[0].mean, bucket.gradients(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
            assert expected.abs().max() > 0.1


@pytest.mark.parametrize("nodes", [1, 2, 5])
@pytest.mark.parametrize("rank", [1, 3])
def test_what_is_of_low_rank_is_sent_exactly(nodes: int, rank: int) -> None:
    # A published implementation sums where it ought to average: N times the gradient.
    # The nearer the start is to a right angle with the gradient, the more of rounding: a residual would carry it on.
    compressors = [create("powersgd", LAYERS[:1], rank=rank, error_feedback=False) for _ in range(nodes)]
    for step in range(3):
        gradient = low_rank(step, rank)
        outcomes, _ = exchange(compressors, [{"w": gradient}] * nodes, step)
        torch.testing.assert_close(outcomes[0].mean[0], gradient, rtol=1e-4, atol=1e-3)


def test_the_mean_is_projected_not_each_node() -> None:
    # Each node's is of rank 3, and so is their mean, to which two nodes add what cancels.
    base, noise = low_rank(0, 3), torch.randn(40, 37)
    compressors = [create("powersgd", LAYERS[:1], rank=3) for _ in range(2)]
    outcomes, _ = exchange(compressors, [{"w": base + noise}, {"w": base - noise}])
    torch.testing.assert_close(outcomes[0].mean[0], base, rtol=1e-4, atol=1e-4)


def test_layers_may_be_exchanged_in_any_grouping() -> None:
    together, apart = (create("powersgd", LAYERS) for _ in range(2))
    for step in range(3):
        gradients = draw(step)
        (outcome,), _ = exchange([together], [gradients], step)
        for layer, mean in zip(LAYERS, outcome.mean, strict=True):
            (single,), _ = exchange([apart], [{layer.name: gradients[layer.name]}], step)
            torch.testing.assert_close(single.mean[0], mean, rtol=1e-4, atol=1e-5)


def test_warm_start_finds_the_best_subspace() -> None:
    """One power iteration a step on a gradient that stays: the error falls to that of the best approximation."""
    gradient = low_rank(1, 2) + 0.05 * torch.randn(40, 37, generator=torch.Generator().manual_seed(2))
    best = torch.linalg.svdvals(gradient)[2:].norm()

    def error(**values: Any) -> float:
        compressor = create("powersgd", LAYERS[:1], error_feedback=False, **values)
        for step in range(5):
            (outcome,), _ = exchange([compressor], [{"w": gradient}], step)
        return float((outcome.mean[0] - gradient).norm() / best)

    assert error() == pytest.approx(1, abs=1e-3)
    assert error(warm_start=False) > 1.001


def test_said_and_residual_are_what_was_accumulated() -> None:
    compressors = [create("powersgd", LAYERS[:1]) for _ in range(2)]
    total, told = [torch.zeros(40, 37) for _ in range(2)], [torch.zeros(40, 37) for _ in range(2)]
    for step in range(6):
        gradients = [draw(10 * step + k, LAYERS[:1])["w"] * (step != 3) for k in range(2)]
        outcomes, _ = exchange(compressors, [{"w": g} for g in gradients], step)
        for k, outcome in enumerate(outcomes):
            total[k] += gradients[k]
            told[k] += outcome.said[0].decoded()
    for k, compressor in enumerate(compressors):
        residual = compressor.state_dict()["method"]["residual"]["w"]
        torch.testing.assert_close(told[k] + residual, total[k], rtol=1e-5, atol=1e-5)


def test_it_recovers_from_a_gradient_that_is_zero() -> None:
    compressors = [create("powersgd", LAYERS[:1]) for _ in range(2)]
    for step, gradient in enumerate([torch.zeros(40, 37), low_rank(0, 2), torch.zeros(40, 37), low_rank(1, 2)]):
        outcomes, _ = exchange(compressors, [{"w": gradient}] * 2, step)
        torch.testing.assert_close(outcomes[0].mean[0], gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e-20, 1e20, 1e35])
def test_gradients_of_any_size(scale: float) -> None:
    gradient = (low_rank(0, 2).double() * scale).float()
    compressors = [create("powersgd", LAYERS[:1]) for _ in range(2)]
    (outcome, other), _ = exchange(compressors, [{"w": gradient}] * 2)
    assert torch.equal(outcome.mean[0], other.mean[0])
    # Entries, and products of which there are few bits left, are multiples of 1e-45.
    torch.testing.assert_close(outcome.mean[0], gradient, rtol=1e-3, atol=max(1e-4 * scale, 1e-43))


def test_a_norm_beyond_float32_is_seen_on_every_node() -> None:
    single = torch.zeros(40, 37)
    single[3, 4] = 3e38
    (outcome,), _ = exchange([create("powersgd", LAYERS[:1])], [{"w": single}])
    torch.testing.assert_close(outcome.mean[0], single)
    row, column = torch.zeros(2, 40, 37)
    row[5], column[:, 4] = 3e38, 3e38
    for gradient, product in [(row, "M Q"), (column, r"M\^T P")]:
        message = f"layer w: {product}, summed over the nodes, is beyond float32"
        for own in ([gradient], [gradient, single], [torch.zeros(40, 37), gradient, single]):
            nodes = [create("powersgd", LAYERS[:1], rank=37 // 3) for _ in own]
            for node in errors_of(nodes, own):
                assert re.match(message, node), node
        with pytest.raises(GradientError, match=message):
            create("powersgd", LAYERS[:1], rank=37 // 3).encode([gradient])


def errors_of(nodes: list[Compressor], gradients: list[Tensor]) -> list[str]:
    """What ends the exchange on each node, in the same round of all."""
    running = [
        node.rounds(["w"], [gradient], StepContext(len(nodes), 0, rank))
        for rank, (node, gradient) in enumerate(zip(nodes, gradients, strict=True))
    ]
    reply: Any = None
    while True:
        rounds, errors = [], []
        for one in running:
            try:
                rounds.append(one.send(reply))
            except GradientError as error:
                errors.append(str(error))
        if errors:
            assert not rounds
            return errors
        reply = torch.stack([one.data for one in rounds]).sum(0)


def test_what_travels() -> None:
    layers = [*LAYERS, Layer("flat", (2, 2000)), Layer("cube", (10, 11, 12))]
    compressors = [create("powersgd", layers, rank=2) for _ in range(2)]
    outcomes, sent = exchange(compressors, [draw(k, layers) for k in range(2)])
    factors = [(40, 37), (16, 72), (10, 132)]  # two rows are no more than two factors: flat and bias are dense
    first, second = (turn[0] for turn in sent)
    assert first.nbytes == 4 * 2 * sum(m for m, _ in factors)
    assert second.nbytes == 4 * (2 * sum(n for _, n in factors) + 40 + 4000)
    assert first.values + second.values == 2 * sum(m + n for m, n in factors) + 40 + 4000
    torch.testing.assert_close(outcomes[0].mean[3], (draw(0, layers)["flat"] + draw(1, layers)["flat"]) / 2)


@pytest.mark.parametrize("rank", [1, 2, 18, 19, 1000])
def test_the_bound_is_met_and_payloads_say_the_same(rank: int) -> None:
    compressor = create("powersgd", LAYERS, rank=rank)
    gradients = list(draw(0).values())
    payload = compressor.encode(gradients)
    assert len(payload) == compressor.size_bound(gradients)
    (outcome,), _ = exchange([create("powersgd", LAYERS, rank=rank)], [draw(0)])
    for found, expected in zip(compressor.decode(bytes(payload)), outcome.mean, strict=True):
        assert torch.equal(found, expected)


def test_all_nodes_begin_with_the_same_factor_each_step_with_another() -> None:
    method = PowerSGD(configure("powersgd"), LAYERS)  # type: ignore[arg-type]
    first = method.start(LAYERS[0], StepContext(3, 0, rank=0))
    assert torch.equal(first, method.start(LAYERS[0], StepContext(3, 0, rank=2)))
    assert not torch.equal(first, method.start(LAYERS[0], StepContext(3, 1, rank=0)))
    assert not torch.equal(first, method.start(LAYERS[0], StepContext(3, 0, rank=0, seed=1)))


@pytest.mark.parametrize("octets", [b"\x29\0" + bytes(41 * 160), b"\1\0" + bytes(159), b"\1"])
def test_factors_that_cannot_be_are_refused(octets: bytes) -> None:
    with pytest.raises(PayloadError):
        Columns.read(memoryview(octets), (40, 37))


def test_layers_without_entries_or_dimensions() -> None:
    layers = [Layer("empty", (0, 5)), Layer("scalar", ()), Layer("one", (1, 1))]
    method = PowerSGD(configure("powersgd"), layers)  # type: ignore[arg-type]
    gradients = [torch.zeros(0, 5), torch.tensor(2.0), torch.tensor([[3.0]])]
    coded, sent = alone(method.compress([layer.name for layer in layers], gradients, StepContext()))
    assert not sent
    assert [one.decoded().tolist() for one in coded] == [[], 2.0, [[3.0]]]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 5),
    rank=st.integers(0, 5),
    scale=st.sampled_from([1e-40, 1e-20, 1.0, 1e30]),
    seed=st.integers(0, 99),
)
def test_columns_are_made_orthonormal(rows: int, columns: int, rank: int, scale: float, seed: int) -> None:
    a = (low_rank(seed, rank, (rows, columns)).double() * scale).float()
    q = orthonormal(a)
    gram = q.double().t() @ q.double()
    kept = gram.diagonal() > 0.5
    torch.testing.assert_close(gram, torch.diag(kept.double()), rtol=0, atol=1e-5)
    assert kept.sum() <= min(rows, columns)
    # Nothing of a is outside their span.
    left = a.double() - q.double() @ (q.double().t() @ a.double())
    assert left.norm() <= 1e-5 * a.double().norm()


def test_a_factor_is_added_in_the_order_of_its_columns() -> None:
    """Sums of two float64 products, rounded once: what a machine's own matrix product makes of them plays no part."""
    p, q, into = torch.randn(300, 2), torch.randn(2, 500), torch.randn(300, 500)
    expected = into.double() - p[:, :1].double() * q[0].double() - p[:, 1:].double() * q[1].double()
    Columns((300, 500), p).add(q.reshape(-1), into, -1.0)
    assert torch.equal(into, expected.float())
