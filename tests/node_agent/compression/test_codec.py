from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node_agent.compression.codec import HEADER, PayloadError, Selection, Space, decode, encode, encoded_size

METHOD = 7


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[Space], list[Selection]]:
    """Units of one to four entries each, a value for every entry of those that are sent."""
    spaces, selections = [], []
    for layer in range(draw(st.integers(1, 4))):
        units = draw(st.sampled_from([1, 2, 7, 8, 9, 200, 256, 257, 1000, 65536, 65537]))
        each = draw(st.integers(1, 4))
        count = draw(st.integers(0, min(units, 300)) | st.just(units))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        chosen = torch.from_numpy(np.sort(rng.choice(units, count, replace=False)))
        values = torch.from_numpy(rng.standard_normal(count * each).astype(np.float32))
        spaces.append(Space(3 * layer, units, units * each))
        selections.append(Selection(chosen, values))
    return spaces, selections


@given(messages())
def test_decode_returns_what_was_encoded_in_the_predicted_size(
    message: tuple[list[Space], list[Selection]],
) -> None:
    spaces, selections = message
    octets = encode(METHOD, spaces, selections)
    sizes = [len(s.units) for s in selections], [len(s.values) for s in selections]
    assert octets.dtype == torch.uint8
    assert octets.numel() == encoded_size(spaces, *sizes)
    for found, expected in zip(decode(octets, METHOD, spaces), selections, strict=True):
        assert torch.equal(found.units, expected.units)
        assert torch.equal(found.values.view(torch.int32), expected.values.view(torch.int32))


def test_bytes_of_a_message_written_by_hand() -> None:
    spaces = [Space(0, 300, 300), Space(1, 8, 8), Space(5, 2, 4)]
    selections = [
        Selection(torch.tensor([2, 258]), torch.tensor([1.0, -2.0])),  # 2 x 2 bytes against 38: integers
        Selection(torch.tensor([0, 3]), torch.tensor([0.5, 0.0])),  # 2 x 1 bytes against 1: bitmap
        Selection(torch.tensor([0, 1]), torch.tensor([1.0, 1.0, 1.0, 1.0])),  # all
    ]
    body = bytes.fromhex(
        "0000 02 00 02000000 02000000"
        "0100 01 00 02000000 02000000"
        "0500 00 00 02000000 04000000"
        "0200 0201"
        "09"
        "0000803f 000000c0 0000003f 00000000 0000803f 0000803f 0000803f 0000803f"
    )
    header = b"ESGM" + bytes([1, METHOD, 3, 0]) + zlib.crc32(body).to_bytes(4, "little")
    assert encode(METHOD, spaces, selections).numpy().tobytes() == header + body


@pytest.mark.parametrize(
    ("units", "count", "index_bytes"),
    [
        (256, 3, 3),  # one byte numbers 256 units
        (257, 3, 6),
        (65536, 3, 6),
        (65537, 3, 12),
        (256, 40, 32),  # bitmap
        (257, 17, 33),  # 34 against 33
        (257, 16, 32),
        (257, 257, 0),  # all
    ],
)
def test_indices_take_the_smallest_form(units: int, count: int, index_bytes: int) -> None:
    space = Space(0, units, units)
    octets = encode(METHOD, [space], [Selection(torch.arange(count), torch.zeros(count))])
    assert octets.numel() == 12 + 12 + index_bytes + 4 * count


SPACES = [Space(0, 300, 300), Space(1, 64, 64), Space(2, 10, 40)]
MESSAGE = encode(
    METHOD,
    SPACES,
    [
        Selection(torch.tensor([5, 7, 290]), torch.tensor([1.0, 2.0, 3.0])),
        Selection(torch.arange(0, 64, 3), torch.ones(22)),
        Selection(torch.arange(10), torch.zeros(40)),
    ],
).numpy()


def with_checksum(octets: NDArray[np.uint8]) -> torch.Tensor:
    octets = octets.copy()
    octets[8:12] = np.frombuffer(struct.pack("<I", zlib.crc32(octets[HEADER.size :].tobytes())), np.uint8)
    return torch.from_numpy(octets)


def test_an_index_form_that_another_size_would_have_is_refused() -> None:
    octets = MESSAGE.copy()
    assert octets[HEADER.size + 2] == 2
    octets[HEADER.size + 2] = 1
    with pytest.raises(PayloadError, match="layer 0: found index form 1, expected 2"):
        decode(with_checksum(octets), METHOD, SPACES)


def test_every_truncation_and_extension_is_refused() -> None:
    for length in range(len(MESSAGE)):
        with pytest.raises(PayloadError):
            decode(torch.from_numpy(MESSAGE[:length].copy()), METHOD, SPACES)
        if length >= HEADER.size:
            with pytest.raises(PayloadError):
                decode(with_checksum(MESSAGE[:length]), METHOD, SPACES)
    with pytest.raises(PayloadError):
        decode(with_checksum(np.append(MESSAGE, np.uint8(0))), METHOD, SPACES)


def test_every_single_bit_error_is_refused() -> None:
    for position in range(8 * len(MESSAGE)):
        damaged = MESSAGE.copy()
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(PayloadError):
            decode(torch.from_numpy(damaged), METHOD, SPACES)


def test_mutations_that_carry_a_right_checksum_stay_within_the_layers() -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(5000):
        mutated = MESSAGE.copy()
        places = rng.integers(0, len(MESSAGE) if rng.random() < 0.5 else 60, rng.integers(1, 5))
        mutated[places] = rng.integers(0, 256, len(places))
        try:
            selections = decode(with_checksum(mutated), METHOD, SPACES)
        except PayloadError:
            refused += 1
            continue
        for space, selection in zip(SPACES, selections, strict=True):
            assert len(selection.values) <= space.entries
            assert torch.all(selection.units.diff() > 0)
            assert torch.all((selection.units >= 0) & (selection.units < space.units))
    assert 500 < refused < 5000


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(octets: bytes) -> None:
    with pytest.raises(PayloadError):
        decode(torch.frombuffer(bytearray(octets) or bytearray(1), dtype=torch.uint8), METHOD, SPACES)


def test_counts_are_not_believed_beyond_what_the_layers_hold() -> None:
    hostile = MESSAGE.copy()
    hostile[HEADER.size + 4 : HEADER.size + 12] = 255  # four thousand million units and values
    tracemalloc.start()
    with pytest.raises(PayloadError, match="at most 300"):
        decode(with_checksum(hostile), METHOD, SPACES)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("method", "spaces", "reason"),
    [
        (METHOD + 1, SPACES, "expected version 1, method 8"),
        (METHOD, SPACES[:2], "2 layers"),
        (METHOD, [SPACES[1], SPACES[0], SPACES[2]], "about layer 0, expected 1"),
    ],
)
def test_a_message_about_something_else_is_refused(method: int, spaces: list[Space], reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        decode(torch.from_numpy(MESSAGE), method, spaces)


@pytest.mark.parametrize(
    ("units", "values", "written_for", "reason"),
    [
        ([4, 4], 2, Space(0, 300, 300), "not ascending"),
        ([5, 4], 2, Space(0, 300, 300), "not ascending"),
        ([4, 299], 2, Space(0, 300, 300), "beyond 298"),
        ([4, 5], 299, Space(0, 298, 298), "at most 298 with 298"),
        ([2, 4, 4, 9, *range(11, 60)], 53, Space(0, 300, 300), "found 52 bits set, expected 53"),
        ([2, *range(11, 60), 299], 51, Space(0, 300, 300), "bits set"),  # in the padding of the bitmap
    ],
)
def test_well_formed_messages_that_lie_are_refused(
    units: list[int], values: int, written_for: Space, reason: str
) -> None:
    octets = encode(METHOD, [written_for], [Selection(torch.tensor(units), torch.zeros(values))])
    with pytest.raises(PayloadError, match=reason):
        decode(octets, METHOD, [Space(0, 298, 298)])
