"""The ring over real processes and sockets."""

from __future__ import annotations

from itertools import pairwise

import programs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import on_nodes

from node_agent.clock import VirtualClock
from node_agent.ring import Ring, all_gather_traffic, all_reduce_traffic, chunk_bounds
from node_agent.transport import HEADER_BYTES

LENGTHS = [0, 1, 2, 3, 5, 1000, 1001, 700_003]
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_all_reduce_sums_any_length_and_type_identically_on_all_nodes(size: int) -> None:
    results = on_nodes(size, programs.all_reduce, LENGTHS, FLOATS, "sum", size == 3)
    case = 0
    for dtype in FLOATS:
        for length in LENGTHS:
            inputs = [programs.tensor_of(rank, length, dtype) for rank in range(size)]
            exact = torch.stack([tensor.double() for tensor in inputs]).sum(0)
            # each of the size - 1 additions rounds a partial sum of at most 4 size to the type's precision
            tolerance = (size - 1) * 4 * size * torch.finfo(dtype).eps
            for rank in range(size):
                found = results[rank][case]
                assert found.dtype == dtype
                assert torch.equal(found.view(torch.uint8), results[0][case].view(torch.uint8))
                assert length == 0 or float((found.double() - exact).abs().max()) <= tolerance
            case += 1


def test_bare_and_framed_rings_give_the_same_bits() -> None:
    bare = on_nodes(4, programs.all_reduce, LENGTHS, [torch.float32], "sum", False)
    framed = on_nodes(4, programs.all_reduce, LENGTHS, [torch.float32], "sum", True)
    assert all(torch.equal(a, b) for a, b in zip(bare[0], framed[0], strict=True))


@pytest.mark.parametrize("virtual", [False, True])
@pytest.mark.parametrize("op", ["min", "max"])
def test_all_reduce_finds_extremes(op: str, virtual: bool) -> None:
    results = on_nodes(3, programs.all_reduce, [1001], [torch.float32], op, virtual)
    stacked = torch.stack([programs.tensor_of(rank, 1001, torch.float32) for rank in range(3)])
    for (found,) in results:
        assert torch.equal(found, getattr(torch, f"a{op}")(stacked, 0))


@pytest.mark.parametrize("virtual", [False, True])
def test_all_gather_brings_payloads_of_differing_lengths(virtual: bool) -> None:
    for gathered, octets in on_nodes(4, programs.all_gather, virtual):
        assert all(counted == formula for counted, formula in octets)
        for payloads, lengths in zip(
            gathered, ([0, 1, 5, 300], [7, 0, 0, 1], [3_000_000, 10, 2_000_001, 0]), strict=True
        ):
            assert payloads == [bytes([rank + 1]) * length for rank, length in enumerate(lengths)]


def test_all_gather_costs_one_delay_a_hop_and_one_message() -> None:
    # three hops of 0.25 s each, and no round of its own for the sizes
    for took, messages in on_nodes(4, programs.gather_time, 100, 0.25):
        assert took == pytest.approx(0.75)
        assert messages == 3


@pytest.mark.parametrize("size", [2, 3, 4])
def test_dense_all_reduce_meets_its_bounds(size: int) -> None:
    length, rate, delay = 250_000, 1e7, 0.02
    for payload, header, took in on_nodes(size, programs.traffic, length, {"rate": rate, "delay": delay}):
        bound = 2 * (size - 1) / size * 4 * length
        assert payload + header <= 1.01 * bound
        assert took <= 1.05 * (8 * bound / rate + 2 * (size - 1) * delay)
        assert took >= 8 * bound / rate  # nothing is faster than the link


def test_traffic_formula_counts_what_is_sent() -> None:
    for rank, (payload, header, _) in enumerate(on_nodes(3, programs.traffic, 10_007, {"rate": 1e6})):
        octets, messages = all_reduce_traffic(10_007, 4, 3, rank, 16 * 1024)
        assert (payload, header) == (octets, messages * HEADER_BYTES)


def test_a_gather_by_hand() -> None:
    # Node 1 passes on its own payload, node 0's and node 3's, in frames of 64 bytes: 1 + 1 (empty) + 3.
    assert all_gather_traffic([0, 10, 999, 130], rank=1, frame=64) == (140, 5)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=6))
def test_every_payload_of_a_gather_takes_all_hops_but_one(lengths: list[int]) -> None:
    sent = [all_gather_traffic(lengths, rank, 64) for rank in range(len(lengths))]
    assert sum(octets for octets, _ in sent) == (len(lengths) - 1) * sum(lengths)
    for rank, (octets, messages) in enumerate(sent):
        assert octets == sum(lengths) - lengths[(rank + 1) % len(lengths)]
        assert messages >= max(len(lengths) - 1, octets / 64)


def test_a_ring_without_shaping_counts_what_it_sends() -> None:
    for rank, (payload, header) in enumerate(on_nodes(3, programs.bare_traffic, 700_003)):
        assert payload == all_reduce_traffic(700_003, 4, 3, rank, 2**20)[0]
        assert header == 0


def test_only_neighbours_connect() -> None:
    assert on_nodes(5, programs.peers) == [2] * 5


def test_shaped_links_give_what_was_asked_on_the_wall_clock() -> None:
    # 0.3 s of transmission. A busy machine may be late, but is never early; how late at rest, the benchmarks tell.
    length, rate, delay = 250_000, 4e7, 0.03
    for took, measured_rate, measured_delay in on_nodes(4, programs.wall_time, length, rate, delay):
        assert 0.299 <= took <= 3 * (0.3 + 6 * delay)
        assert 0.5 * rate < measured_rate < 1.1 * rate
        assert delay - 0.005 < measured_delay < delay + 0.2


def test_both_directions_of_the_ring_run_at_once() -> None:
    # one all-reduce takes 0.6 s; one after the other, the two would take 1.2 s
    for took in on_nodes(4, programs.both_directions, 250_000, 2e7):
        assert 0.58 <= took < 1.0


def test_a_silent_neighbour_is_an_error_and_not_a_hang() -> None:
    (message, took), *_ = on_nodes(2, programs.silence)
    assert message == "link 1->0: silent for 1 s"
    assert 0.9 < took < 20


@given(st.integers(0, 10_000), st.integers(1, 70))
def test_chunks_cover_everything_evenly(numel: int, size: int) -> None:
    bounds = chunk_bounds(numel, size)
    lengths = [stop - start for start, stop in bounds]
    assert sum(lengths) == numel
    assert len(bounds) == size
    assert max(lengths) - min(lengths) <= 1
    assert all(before[1] == after[0] for before, after in pairwise(bounds))


@given(st.integers(0, 100_000), st.integers(1, 16))
def test_the_nodes_together_send_what_a_ring_all_reduce_must(numel: int, size: int) -> None:
    sent = [all_reduce_traffic(numel, 4, size, rank, 65536)[0] for rank in range(size)]
    assert sum(sent) == 2 * (size - 1) * numel * 4


def test_a_ring_needs_links_unless_it_is_alone() -> None:
    with pytest.raises(ValueError, match="a ring of 2 needs links"):
        Ring(0, 2, VirtualClock())


def test_collectives_refuse_what_they_cannot_carry() -> None:
    ring = Ring(0, 1, VirtualClock())
    with pytest.raises(ValueError, match="contiguous"):
        ring.all_reduce(torch.ones(4, 4).t()[1:])
    with pytest.raises(ValueError, match="bytes"):
        ring.all_gather(torch.ones(3))
