from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import programs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import on_nodes
from torch import nn

from node_agent.compression import create
from node_agent.compression.base import Layer
from node_agent.compression.settings import GCCSettings, NoneSettings, NSISettings, TopKSettings
from node_agent.exchange import Account, bucket_bytes, make_buckets, parts_of
from node_agent.transport import HEADER_BYTES

DENSE = [
    NoneSettings(),
    TopKSettings(density=1.0),
    GCCSettings(density=1.0),
    NSISettings(density=1.0),
]


SPARSE = [GCCSettings(), NSISettings(density=0.1), TopKSettings(density=0.05)]

Found = dict[tuple[str, int], list[Any]]
"""what each node returns, by compressor and size of buckets"""


def on_nodes_each(size: int, program: Callable[..., Any], compressors: Sequence[Any], limits: Sequence[int]) -> Found:
    cases = [(settings, limit) for settings in compressors for limit in limits]
    by_node = on_nodes(size, programs.each, program, cases)
    return {
        (settings.name, limit): list(results)
        for (settings, limit), results in zip(cases, zip(*by_node, strict=True), strict=True)
    }


@pytest.fixture(scope="module")
def dense() -> Found:
    """Of three nodes, after two steps."""
    return on_nodes_each(3, partial(programs.exchange, steps=2), DENSE, (1, 10**9))


@pytest.mark.parametrize("name", [settings.name for settings in DENSE])
@pytest.mark.parametrize("bucket_bytes", [1, 10**9])
def test_at_full_density_the_exchange_is_the_average(dense: Found, name: str, bucket_bytes: int) -> None:
    results = dense[name, bucket_bytes]
    own = [node[1] for node in results]
    for averaged, _, buckets in results:
        assert buckets == (7 if bucket_bytes == 1 else 1)
        for layer, gradient in enumerate(averaged):
            expected = sum(gradients[layer] for gradients in own) / 3
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
            assert torch.equal(gradient, results[0][0][layer])


@pytest.fixture(scope="module")
def sparse() -> Found:
    """Of four nodes, after three steps."""
    return on_nodes_each(4, partial(programs.exchange, steps=3), SPARSE, (10**9, 5000))


@pytest.mark.parametrize("name", [settings.name for settings in SPARSE])
def test_compressed_gradients_are_the_same_on_all_nodes_however_they_are_bucketed(sparse: Found, name: str) -> None:
    one, many = sparse[name, 10**9], sparse[name, 5000]
    assert many[0][2] > 1
    for averaged, _, _ in (*one, *many):
        for gradient, reference in zip(averaged, one[0][0], strict=True):
            # the ring adds in an order that depends on where the chunks of a bucket are cut
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-7)
    for results in (one, many):
        for averaged, _, _ in results:
            assert all(torch.equal(a, b) for a, b in zip(averaged, results[0][0], strict=True))


def test_the_values_of_all_payloads_are_counted() -> None:
    half = 26 * 40 + 31 * 50 + 16 * 60  # half of the rows and one that stands for the others
    found = on_nodes_each(2, programs.values_sent, [NoneSettings(), GCCSettings()], (1, 10**9))
    for limit in (1, 10**9):
        # weights of 50 x 40, 60 x 50 and 30 x 60, and 140 biases, which are sent dense
        assert found["none", limit] == [2000 + 3000 + 1800 + 140] * 2
        assert found["gcc", limit] == [half + 140] * 2


def test_a_gradient_that_is_not_a_number_ends_the_step_and_names_the_layer() -> None:
    messages = on_nodes(2, programs.poisoned, float("nan"))
    assert messages == ["layer 0.bias: 50 of 50 gradient entries are NaN or infinite (rank 1)"] * 2


def test_finite_gradients_whose_sum_is_not_are_refused_on_every_node() -> None:
    # the gradient of a weight is its input, 3e38: finite on each node, too large together
    messages = on_nodes(2, programs.overflowing)
    assert all("gradient entries are NaN or infinite" in message for message in messages)


def test_a_bucket_travels_while_backward_goes_on() -> None:
    # Two buckets of 10,100 values; on a ring of two each node sends each of them once, as two halves of 20,200 bytes in
    # messages of 16,384 and 3,816 bytes with a header each. The first one's transfer vanishes behind the backward pass.
    transfer = 8 * (40_400 + 4 * HEADER_BYTES) / 1e6
    for exposed, transferring in on_nodes(2, programs.overlap, 1e6, 0.6):
        assert transferring == pytest.approx(2 * transfer)
        assert exposed == pytest.approx(transfer)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 400))
def test_buckets_hold_every_parameter_once_last_first_and_no_more_than_fills_them(sizes: list[int], limit: int) -> None:
    named = [(f"p{i}", nn.Parameter(torch.zeros(size))) for i, size in enumerate(sizes)]
    buckets = make_buckets(named, limit)
    assert [name for bucket in buckets for name in bucket.names] == [name for name, _ in reversed(named)]
    for bucket in buckets:
        *before, last = (4 * parameter.numel() for parameter in bucket.parameters)
        assert sum(before) < limit
        assert sum(before) + last >= limit or bucket is buckets[-1]


def test_buckets_are_of_such_gradients_as_make_the_payload() -> None:
    layers = [nn.Parameter(torch.zeros(100, 100)) for _ in range(20)]
    shapes = [Layer(str(i), (100, 100)) for i in range(20)]
    dense = bucket_bytes(create("none", shapes), layers, 50_000, 4)
    assert 49_000 < dense <= 50_000  # but for some bytes a layer that describe it
    assert bucket_bytes(create("fp16", shapes), layers, 50_000, 4) == pytest.approx(2 * dense, rel=0.01)
    # after warm-up 100 of 10,000 entries of a layer, 4 bytes each and at most as much for where they are
    sparse = bucket_bytes(create("topk", shapes, density=0.01, warmup_steps=9), layers, 4 * 50_000, 4)
    assert 50 * dense * 0.9 < sparse < 100 * dense


@pytest.mark.parametrize("name", ["threshold", "strom", "adacomp", "gaussiank"])
def test_where_a_threshold_decides_gradients_are_taken_to_be_sparse(name: str) -> None:
    layers = [nn.Parameter(torch.zeros(100, 100)) for _ in range(20)]
    shapes = [Layer(str(i), (100, 100)) for i in range(20)]
    assert bucket_bytes(create(name, shapes), layers, 50_000, 1) > 40 * 50_000


def test_nsi_makes_about_the_payload_that_its_buckets_are_for() -> None:
    shapes = [Layer(str(i), shape) for i, shape in enumerate([(400, 189), (400, 400), (50, 400), (189, 400)])]
    layers = [nn.Parameter(torch.randn(layer.shape)) for layer in shapes]
    dense = 4 * sum(layer.numel for layer in shapes)
    for rule in ("uniform", "proportional", "global_threshold"):
        compressor = create("nsi", shapes, layer_rule=rule, warmup_steps=2)
        gradients = bucket_bytes(compressor, layers, 20_000, 1)
        for _ in range(4):
            payload = compressor.encode([layer.detach() for layer in layers])
        assert 0.9 * 20_000 < len(payload) * gradients / dense < 1.01 * 20_000


@given(*[st.floats(0, 10) for _ in range(6)])
def test_the_parts_of_a_step_add_up_to_it(
    computed: float, exposed: float, encode: float, ring: float, decode: float, busy: float
) -> None:
    parts = parts_of(computed + exposed, exposed, Account(encode=encode, ring=ring, decode=decode), busy)
    values = (parts.compute, parts.encode, parts.wait, parts.transfer, parts.decode)
    assert sum(values) == pytest.approx(computed + exposed)
    assert min(values) >= -1e-9
