from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import about, drawn, mutated
from torch import Tensor

from node_agent.compression import codec, create
from node_agent.compression.base import Coded, Layer
from node_agent.compression.basis import SET_HEAD, All, Basis, Columns, Rows, Seeded, Tiles, sample
from node_agent.compression.octets import PayloadError
from node_agent.compression.settings import CATALOGUE
from node_agent.compression.tiles import Tiling
from node_agent.compression.values import Coding, Floats, Levels, Shares, Signs

CODINGS: list[Coding] = [
    Floats(),
    Floats(torch.float16),
    Shares(torch.bfloat16, 3),
    Levels(7, 16, "max", stochastic=False),
    Signs(-0.5, 2.0),
]


def coded(layer: Layer, basis: Basis, coding: Coding) -> Coded:
    return Coded(layer, basis, coding, coding.encode(torch.randn(basis.size)), "private")


@st.composite
def bases(draw: st.DrawFn, shape: tuple[int, int]) -> Basis:
    outputs, inputs = shape
    kind = draw(st.sampled_from(["all", "tiles", "seeded", "rows", "columns"]))
    if kind == "tiles":
        tiling = Tiling.of(shape, draw(st.integers(1, 5)), draw(st.sampled_from(Tiling.VIEWS)))
        chosen = sorted(draw(st.sets(st.integers(0, tiling.tiles - 1))))
        return Tiles(tiling, torch.tensor(chosen, dtype=torch.int64))
    if kind == "seeded":
        return Seeded(shape, draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, outputs * inputs)))
    if kind == "rows":
        kept = sorted(draw(st.sets(st.integers(0, outputs - 1))))
        return Rows(shape, np.array(kept, np.int64), draw(st.sampled_from(Rows.FILLS)))
    if kind == "columns":
        return Columns(shape, torch.randn(outputs, draw(st.integers(0, min(shape)))))
    return All(shape)


@given(st.data(), st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=3))
@settings(max_examples=60)
def test_what_is_packed_is_unpacked(data: st.DataObject, shapes: list[tuple[int, int]]) -> None:
    layers = [Layer(str(number), shape, number) for number, shape in enumerate(shapes)]
    sent = [coded(layer, data.draw(bases(layer.shape)), data.draw(st.sampled_from(CODINGS))) for layer in layers]  # type: ignore[arg-type]
    message = codec.pack(9, sent)
    for known in (layers, None):
        for one, back in zip(sent, codec.unpack(message, 9, known), strict=True):
            assert back.layer == one.layer
            assert torch.equal(back.octets, one.octets)
            assert torch.equal(back.decoded(), one.decoded())


@given(st.data(), st.tuples(st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=60)
def test_a_basis_adds_what_its_coordinates_stand_for(data: st.DataObject, shape: tuple[int, int]) -> None:
    basis = data.draw(bases(shape))
    tensor = torch.randn(shape)
    stands_for = torch.zeros(shape)
    basis.add(basis.coordinates(tensor), stands_for)
    twice = stands_for.clone()
    basis.add(basis.coordinates(tensor), twice, factor=-1.0)
    torch.testing.assert_close(twice, torch.zeros(shape), rtol=0, atol=0 if not isinstance(basis, Columns) else 1e-5)
    if isinstance(basis, (All, Tiles, Seeded)):  # entries as they are, and the others not at all
        assert torch.equal(stands_for[stands_for != 0], tensor[stands_for != 0])
        erased = tensor.clone()
        basis.erase(erased)
        assert torch.equal(erased + stands_for, tensor)


@given(st.integers(1, 60), st.data(), st.integers(0, 2**64 - 1))
def test_a_sample_has_distinct_ascending_members(universe: int, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(0, universe))
    found = sample(universe, count, seed)
    assert len(found) == count
    assert np.all(np.diff(found) > 0)
    assert not count or (found[0] >= 0 and found[-1] < universe)


def test_every_member_of_a_sample_is_as_likely() -> None:
    counts = np.bincount(np.concatenate([sample(7, 3, seed) for seed in range(7000)]), minlength=7)
    assert abs(counts - 3000).max() < 5 * 42  # a binomial's standard deviation is 41.4


def message() -> bytes:
    """Two layers, of 4 and 3 entries, the second one's last by a sign."""
    layers = [Layer("a", (2, 2), 0), Layer("b", (3,), 1)]
    tiles = Tiles(Tiling.of((3,)), torch.tensor([2]))
    sent = [Coded(layers[0], All((2, 2)), Floats(torch.float16), torch.arange(8, dtype=torch.uint8), "private")]
    sent.append(Coded(layers[1], tiles, Signs(-1, 1), torch.ones(1, dtype=torch.uint8), "private"))
    return codec.pack(7, sent).numpy().tobytes()


def test_message_by_hand() -> None:
    body = struct.pack("<HBIIB", 0, 2, 2, 2, 0) + bytes([0, 1]) + bytes(range(8))
    body += struct.pack("<HBIB", 1, 1, 3, 1) + struct.pack("<BHBI", 0, 1, 1, 1) + bytes([0b100])
    body += struct.pack("<Bff", 2, -1, 1) + bytes([1])
    assert message() == struct.pack("<4sBBHI", b"ESGM", 2, 7, 2, zlib.crc32(body)) + body


def octets(data: bytes) -> Tensor:
    return torch.tensor(list(data), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, 0, "magic"),
        (4, 1, "version 1, method 7"),
        (5, 8, "version 2, method 8"),
        (8, 0, "damaged"),
        (20, 1, "damaged"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(at: int, value: int, words: str) -> None:
    damaged = bytearray(message())
    damaged[at] = value
    with pytest.raises(PayloadError, match=words):
        codec.unpack(octets(bytes(damaged)), 7)


def test_other_layers_are_refused() -> None:
    layers = [Layer("a", (2, 2), 0), Layer("b", (4,), 1)]
    with pytest.raises(PayloadError, match=r"found layer 1 of shape \(3,\), expected 1 of \(4,\)"):
        codec.unpack(octets(message()), 7, layers)
    with pytest.raises(PayloadError, match="found 2 layers, expected 1"):
        codec.unpack(octets(message()), 7, layers[:1])


def test_a_payload_of_unknown_layers_may_not_ask_for_all_memory() -> None:
    body = struct.pack("<HBIIB", 0, 2, 2**31, 2**31, 2) + struct.pack("<QI", 1, 1) + bytes([0, 0]) + bytes(4)
    payload = struct.pack("<4sBBHI", b"ESGM", 2, 4, 1, zlib.crc32(body)) + body
    with pytest.raises(PayloadError, match="about more than 67108864 entries"):
        codec.unpack(octets(payload), 4)


@pytest.mark.parametrize("name", CATALOGUE)
def test_mutated_payloads_end_in_a_payload_error_or_in_gradients(name: str) -> None:
    generator = np.random.default_rng(1)
    gradients = [torch.randn(40, 30), torch.randn(7), torch.randn(16, 8, 3, 3)]
    compressor = create(name)
    payload = bytes(compressor.encode(gradients))
    refused = 0
    for _ in range(150):
        try:
            decoded = compressor.decode(mutated(payload, generator))
        except PayloadError:
            refused += 1
        else:
            assert [tensor.shape for tensor in decoded] == [tensor.shape for tensor in gradients]
    assert refused > 75


NO_UNITS, HUGE = SET_HEAD.pack(0, 0), 2**32 - 1


@pytest.mark.parametrize(
    ("shape", "kind", "basis", "words"),
    [
        ((5, 0), Rows.kind, b"\0" + SET_HEAD.pack(0, 5), r"found basis 3 of shape \(5, 0\)"),
        ((2**25, 0), Rows.kind, b"\0" + SET_HEAD.pack(0, 2**25), "found basis 3"),
        ((0, 5), Rows.kind, b"\0" + NO_UNITS, "found basis 3"),
        ((0, 5), Columns.kind, bytes(2), "found basis 4"),
        ((), Columns.kind, bytes(2), r"found basis 4 of shape \(\)"),
        ((5, 5, 3, 0), Tiles.kind, Tiling.HEAD.pack(2, 3) + NO_UNITS, "found basis 1"),
        ((HUGE, HUGE, HUGE, 0), All.kind, b"", "about more than 67108864 entries"),
        ((0, HUGE, HUGE, HUGE), All.kind, b"", "about more than 67108864 entries"),
    ],
)
def test_layers_without_entries_or_dimensions_have_no_other_basis(
    shape: tuple[int, ...], kind: int, basis: bytes, words: str
) -> None:
    with pytest.raises(PayloadError, match=words):
        create("topk").decode(about(3, shape, kind, basis))


def test_messages_about_any_shape_end_in_a_payload_error_or_in_gradients() -> None:
    generator, decoded = np.random.default_rng(0), 0
    for _ in range(1500):
        try:
            (tensor,) = create("topk").decode(drawn(3, generator))
        except PayloadError:
            continue
        assert tensor.isfinite().all()
        decoded += 1
    assert decoded > 50


def test_positions_are_not_made_before_there_are_values(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = Tiling.HEAD.pack(1, 4096) + SET_HEAD.pack(0, 4)  # all four of 4097 x 4097 entries
    made: list[int] = []
    monkeypatch.setattr(Tiling, "members", lambda tiling, chosen: made.append(len(chosen)))
    with pytest.raises(PayloadError, match=f"layer 0: found 0 bytes of {4 * 4097**2}"):
        create("topk").decode(about(3, (4097, 4097), Tiles.kind, tiles))
    assert not made


@given(st.data(), st.tuples(st.integers(1, 12), st.integers(1, 12)), st.integers(1, 5))
@settings(max_examples=60)
def test_tiles_know_their_size_without_their_members(data: st.DataObject, shape: tuple[int, int], side: int) -> None:
    tiling = Tiling.of(shape, side, "rows")
    chosen = sorted(data.draw(st.sets(st.integers(0, tiling.tiles - 1))))
    basis = Tiles(tiling, torch.tensor(chosen, dtype=torch.int64))
    assert basis.size == len(basis.members)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("coding", [Floats(), Floats(torch.float16), Floats(torch.bfloat16), Shares(torch.float16, 3)])
def test_values_that_are_not_finite_are_refused(coding: Coding, value: float) -> None:
    layer = Layer("w", (70, 30))
    values = torch.zeros(layer.shape)
    octets = coding.encode(values.view(-1))
    assert isinstance(coding, Floats)
    octets.view(coding.dtype)[1234] = value
    for known in ([layer], None):
        (one,) = codec.unpack(codec.pack(3, [Coded(layer, All(layer.shape), coding, octets, "private")]), 3, known)
        with pytest.raises(PayloadError, match=r"payload: layer [0w]: found values that are NaN or infinite"):
            one.decoded()


@pytest.mark.parametrize(
    "gradient", [torch.arange(8.0)[::2], torch.arange(8.0).view(4, 2)[:, :1], torch.arange(8.0).view(2, 4).t()]
)
def test_coordinates_of_a_strided_tensor_are_contiguous(gradient: Tensor) -> None:
    shape = tuple(gradient.shape)
    for basis in (All(shape), Rows(shape, np.arange(shape[0]), "zero")):
        coordinates = basis.coordinates(gradient)
        assert coordinates.is_contiguous()
        assert coordinates.tolist() == gradient.flatten().tolist()
