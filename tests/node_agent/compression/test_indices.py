from __future__ import annotations

import tracemalloc
from math import lgamma, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node_agent.compression.indices import CODES, Form, largest_size, pack, unpack
from node_agent.compression.octets import PayloadError, read_varint, write_varint

UNIVERSES = [0, 1, 2, 7, 8, 9, 255, 256, 257, 1000, 4096, 65536, 65537, 10**6, 2**31, 2**32 - 1]


@st.composite
def sets(draw: st.DrawFn) -> tuple[NDArray[np.int64], int]:
    """Some units, single, scattered or in runs, and how many there are."""
    universe = draw(st.sampled_from(UNIVERSES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    starts = rng.integers(0, max(universe, 1), draw(st.integers(0, min(universe, 300))))
    units = (starts[:, None] + np.arange(draw(st.integers(1, 40)))).reshape(-1)
    ends = draw(st.sampled_from([[], [0], [universe - 1], [0, universe - 1]]))
    units = np.unique(np.append(units, ends).astype(np.int64))
    units = units[(units >= 0) & (units < universe)]
    if universe <= 65537 and draw(st.booleans()):
        units = np.setdiff1d(np.arange(universe), units)
    return units, universe


def bound(universe: int, count: int) -> float:
    """Bits of the number of one of all sets of this size: log2 of the binomial coefficient."""
    return (lgamma(universe + 1) - lgamma(count + 1) - lgamma(universe - count + 1)) / log(2)


def scattered(universe: int, density: float) -> NDArray[np.int64]:
    return np.flatnonzero(np.random.default_rng(0).random(universe, dtype=np.float32) < density)


@settings(max_examples=100)
@given(sets())
def test_units_come_back_and_take_no_more_than_a_bitmap_or_integers(chosen: tuple[NDArray[np.int64], int]) -> None:
    units, universe = chosen
    count = len(units)
    form, octets = pack(units, universe)
    found, size = unpack(form, memoryview(octets + b"\xff\x00"), count, universe)
    assert np.array_equal(found, units)
    assert found.dtype == np.int64
    assert size == len(octets) <= largest_size(count, universe)
    assert len(octets) <= -(-universe // 8)
    assert len(octets) <= 4 * count


@pytest.mark.parametrize(
    ("units", "universe", "form", "octets"),
    [
        ([], 0, Form.ALL, ""),
        ([0], 1, Form.ALL, ""),
        ([0, 1, 2], 3, Form.ALL, ""),
        ([], 1, Form.INTEGERS, ""),
        ([], 2**32 - 1, Form.INTEGERS, ""),
        ([0, 3], 8, Form.BITMAP, "09"),
        ([1, 8], 9, Form.BITMAP, "0201"),  # two bytes either way
        ([3], 9, Form.INTEGERS, "03"),
        ([2, 258], 300, Form.INTEGERS, "0200 0201"),
        ([2**32 - 2], 2**32 - 1, Form.INTEGERS, "feffffff"),
        # Gaps 4 5 3 8 2, divisor 3: quotients 1 1 1 2 0, so bits 01010100 11; remainders 1 2 0 2 2.
        ([4, 10, 14, 23, 26], 2**20, Form.GAPS, "01 02 2a03 df"),
        # Gaps 1000 1500, divisor 768: quotients 1 1; remainders 232 and 732 = 2 * 256 + 220.
        ([1000, 2501], 2**20, Form.GAPS, "11 01 0a e8dc 06"),
        # Two runs. Before them 100 and 79 + 1, divisor 48: quotients 2 1, remainders 4 and 31 = 16 + 15.
        # Each of 19 + 1 units, divisor 16: quotients 1 1, remainders 3 3.
        ([*range(100, 120), *range(200, 220)], 2**20, Form.RUNS, "02  09 01 14 f4 03  08 01 0a 33"),
    ],
)
def test_bytes_written_by_hand(units: list[int], universe: int, form: Form, octets: str) -> None:
    written = bytes.fromhex(octets)
    assert pack(np.array(units, np.int64), universe) == (form, written)
    found, size = unpack(form, memoryview(written), len(units), universe)
    assert found.tolist() == units
    assert size == len(written)


@pytest.mark.parametrize("density", [0.3, 0.235, 0.2, 0.15, 0.1, 0.05, 0.01, 0.001])
def test_scattered_units_take_two_percent_more_than_their_entropy_at_the_most(density: float) -> None:
    units = scattered(10**6, density)
    form, octets = pack(units, 10**6)
    assert form is Form.GAPS
    assert 1 <= 8 * len(octets) / bound(10**6, len(units)) <= 1.02
    assert np.array_equal(unpack(form, memoryview(octets), len(units), 10**6)[0], units)


def test_dense_units_take_a_bitmap() -> None:
    form, octets = pack(scattered(10**6, 0.5), 10**6)
    assert form is Form.BITMAP
    assert len(octets) == 125_000


@pytest.mark.parametrize(("length", "share"), [(2, 0.8), (8, 0.4), (64, 0.1)])
def test_the_longer_the_runs_the_fewer_the_bytes(length: int, share: float) -> None:
    starts = scattered(10**6 // length, 0.01) * length
    units = (starts[:, None] + np.arange(length)).reshape(-1)
    form, octets = pack(units, 10**6)
    assert form is Form.RUNS
    assert 8 * len(octets) < share * bound(10**6, len(units))
    assert np.array_equal(unpack(form, memoryview(octets), len(units), 10**6)[0], units)


def test_too_many_units_to_number_are_refused() -> None:
    with pytest.raises(ValueError, match="found 4294967296 units"):
        pack(np.array([1]), 2**32)


@pytest.mark.parametrize(
    ("form", "octets", "count", "universe", "reason"),
    [
        (5, "00", 1, 9, "index form 5"),
        (Form.ALL, "", 2, 3, "found 2 units called all"),
        (Form.BITMAP, "09", 2, 9, "cut short"),
        (Form.BITMAP, "0900", 3, 9, "found 2 bits set"),
        (Form.BITMAP, "0102", 2, 9, "found unit 9, expected units below 9"),
        (Form.INTEGERS, "0102", 3, 9, "cut short"),
        (Form.INTEGERS, "0102", 2, 257, "cut short"),
        (Form.INTEGERS, "0202", 2, 9, "do not ascend"),
        (Form.INTEGERS, "0201", 2, 9, "do not ascend"),
        (Form.INTEGERS, "0209", 2, 9, "found unit 9"),
        (Form.GAPS, "", 5, 100, "cut short"),
        (Form.GAPS, "01", 5, 100, "cut short"),
        (Form.GAPS, "3f 02 2a03 df", 5, 100, "divisor code 63"),
        (Form.GAPS, "ff 02 2a03 df", 5, 100, "divisor code 255"),
        (Form.GAPS, "01 8200 2a03 df", 5, 100, "more bytes than it needs"),
        (Form.GAPS, "01 ffffffffff00", 5, 100, "more bytes than it needs"),
        (Form.GAPS, "01 ffffffff7f", 5, 100, "34359738367 bytes of quotients for 5 numbers of sum 95"),
        (Form.GAPS, "01 06 2a030000 0000 df", 5, 100, "6 bytes of quotients"),
        (Form.GAPS, "01 03 2a0300 df", 5, 100, "found 5 quotients in 3 bytes"),
        (Form.GAPS, "01 02 2a07 df", 5, 100, "found 6 quotients"),
        (Form.GAPS, "01 02 2a01 df", 5, 100, "found 4 quotients"),
        (Form.GAPS, "01 02 2a03 f3", 5, 100, "found 243 for five digits"),
        (Form.GAPS, "01 01 0f df", 4, 100, "behind the last digit"),
        (Form.GAPS, "01 02 2a03", 5, 100, "cut short"),
        (Form.GAPS, "01 02 2a03 df", 5, 26, "found unit 26"),
        (Form.RUNS, "", 5, 100, "cut short"),
        (Form.RUNS, "06", 5, 100, "found 6 runs"),
        (Form.RUNS, "00 00 00 00 00", 5, 100, "found runs of 0 units"),
        (Form.RUNS, "02  09 01 14 f4 03  08 01 0a 33", 41, 1000, "found runs of 40 units"),
        (Form.RUNS, "02  09 01 14 f4 03  08 01 0a 33", 39, 1000, "found runs of 40 units"),
        (Form.RUNS, "02  09 01 14 f4 03  08 01 0a 33", 40, 219, "found unit 219"),
    ],
)
def test_bytes_that_lie_are_refused(form: int, octets: str, count: int, universe: int, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        unpack(form, memoryview(bytes.fromhex(octets)), count, universe)


def test_mutated_bytes_are_refused_or_stand_for_other_units() -> None:
    rng = np.random.default_rng(0)
    runs = (np.arange(20, 2000, 97)[:, None] + np.arange(12)).reshape(-1)
    originals = [
        (scattered(300, 0.4), 300),
        (np.array([2, 258]), 300),
        (scattered(2000, 0.05), 2001),
        (scattered(20_000, 0.01), 20_000),
        (runs, 2100),
    ]
    packed = [(*pack(units, universe), len(units), universe) for units, universe in originals]
    assert {form for form, *_ in packed} == {Form.BITMAP, Form.INTEGERS, Form.GAPS, Form.RUNS}
    refused = 0
    for _ in range(3000):
        form, octets, count, universe = packed[rng.integers(len(packed))]
        mutated = np.frombuffer(octets, np.uint8).copy()
        places = rng.integers(0, len(mutated) if rng.random() < 0.5 else 4, rng.integers(1, 4))
        mutated[places] = rng.integers(0, 256, len(places))
        if rng.random() < 0.1:
            mutated = mutated[: rng.integers(len(mutated))]
        if rng.random() < 0.1:
            form = rng.integers(0, 6)
        if rng.random() < 0.1:
            count = rng.integers(0, universe + 1)
        try:
            units, size = unpack(form, memoryview(mutated), count, universe)
        except PayloadError:
            refused += 1
            continue
        assert size <= len(mutated)
        assert len(units) == count
        assert np.all(np.diff(units, prepend=-1, append=universe) > 0)
    assert 1500 < refused < 3000


@settings(max_examples=100)
@given(st.integers(0, 255), st.binary(max_size=60), st.sampled_from(UNIVERSES), st.integers(0, 60))
def test_arbitrary_bytes_are_refused_or_stand_for_units(form: int, octets: bytes, universe: int, count: int) -> None:
    count = min(count, universe)
    try:
        units, size = unpack(form % 6, memoryview(octets), count, universe)
    except PayloadError:
        return
    assert size <= len(octets)
    assert len(units) == count
    assert np.all(np.diff(units, prepend=-1, append=universe) > 0)


@pytest.mark.parametrize("form", [Form.BITMAP, Form.INTEGERS, Form.GAPS, Form.RUNS])
@pytest.mark.parametrize("head", ["", "ffffffff0f", "00 ffffff7f", "ffffffff0f 00 ffffff7f", "01 00 01 01"])
def test_a_count_that_the_bytes_cannot_hold_is_not_believed(form: Form, head: str) -> None:
    octets = memoryview(bytes.fromhex(head) + bytes(1000))
    tracemalloc.start()
    with pytest.raises(PayloadError):
        unpack(form, octets, 2**32 - 2, 2**32 - 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_every_divisor_has_a_code_of_its_own() -> None:
    assert len(set(CODES.values())) == len(CODES)
    assert all(0 <= code < 256 for code in CODES.values())


@given(st.integers(0, 2**35 - 1))
def test_varints_come_back(number: int) -> None:
    octets = write_varint(number)
    assert read_varint(memoryview(octets + b"\x00")) == (number, len(octets))
    assert len(octets) == max(1, -(-number.bit_length() // 7))
