from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from node_agent.compression.octets import PayloadError
from node_agent.compression.values import CHUNK, Coding, Floats, Levels, Shares, Signs, coding_of

LARGEST = torch.finfo(torch.float32).max

FLOATS = [Floats(torch.float32), Floats(torch.float16), Floats(torch.bfloat16)]
NEAREST = [
    Levels(127, 256, "max", False),
    Levels(7, 256, "max", False),
    Levels(7, 7, "max", False),  # no divisor of a chunk
    Levels(41, 256, "max", False),  # 41 * (1 / 41) is not 1 in float32
    Levels(1, 3, "max", False),
    Levels(1, 0, "max", False),
    Levels(100, CHUNK + 1, "max", False),
]
L2 = [Levels(127, 512, "l2", False), Levels(5, 0, "l2", False)]
STOCHASTIC = [
    Levels(127, 512, "l2", True),
    Levels(7, 512, "l2", True),
    Levels(1, 0, "max", True),
    Levels(127, 1, "max", True),
]
SIGNS = [Signs(-1, 1), Signs(-0.1, 0.3), Signs(0, 0)]
CODINGS = FLOATS + NEAREST + L2 + STOCHASTIC + SIGNS


def name(coding: object) -> str:
    return str(coding).replace("torch.", "")


def values_of(seed: int, count: int, scale: float = 1) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.standard_normal(count) * scale).astype(np.float32))


def encoded(coding: Coding, values: Tensor, seed: int = 0) -> Tensor:
    octets = coding.encode(values, np.random.default_rng(seed))
    assert octets.dtype == torch.uint8
    assert octets.shape == (coding.size(len(values)),)
    return octets


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


VALUES = st.builds(values_of, st.integers(0, 2**32 - 1), st.integers(0, 700), st.sampled_from([1e-44, 1e-20, 1, 1e30]))


@pytest.mark.parametrize("coding", CODINGS, ids=name)
@settings(max_examples=6)
@given(values=VALUES)
def test_decoded_values_are_within_a_level(coding: Coding, values: Tensor) -> None:
    octets = encoded(coding, values)
    decoded = coding.decode(octets, len(values))
    assert decoded.dtype == torch.float32
    error = (decoded.double() - values).abs()
    if isinstance(coding, Floats):
        tiny, largest = torch.finfo(coding.dtype).smallest_normal, torch.finfo(coding.dtype).max
        error = (decoded.double() - values.clamp(-largest, largest)).abs()
        epsilon = 0 if coding.dtype == torch.float32 else torch.finfo(coding.dtype).eps
        assert torch.all(error <= epsilon * values.double().abs().clamp(min=tiny) / 2)
    elif isinstance(coding, Levels):
        for bucket, found in zip(
            values.split(coding.bucket or max(len(values), 1)),
            error.split(coding.bucket or max(len(values), 1)),
            strict=True,
        ):
            bucket = bucket.double()
            if bucket.numel():
                norm = float(bucket.norm() if coding.norm == "l2" else bucket.abs().max())
                step = norm / coding.levels * (1 if coding.stochastic else 0.5)
                # Beside the level: a few roundings of float32, of numbers that may be denormal.
                assert torch.all(found <= step * (1 + 1e-4) + 2e-45)
    elif isinstance(coding, Signs):
        assert torch.equal(decoded, torch.where(values >= 0, coding.set, coding.clear))


@pytest.mark.parametrize("coding", NEAREST + FLOATS, ids=name)
@settings(max_examples=6)
@given(values=VALUES)
def test_decoded_values_are_encoded_to_themselves(coding: Coding, values: Tensor) -> None:
    decoded = coding.decode(encoded(coding, values), len(values))
    assert same(coding.decode(encoded(coding, decoded), len(values)), decoded)


@pytest.mark.parametrize("coding", CODINGS, ids=name)
def test_many_chunks_are_decoded_into_what_is_given(coding: Coding) -> None:
    count = 2 * CHUNK + 13
    values = values_of(1, count)
    octets = encoded(coding, values)
    out = torch.full((count,), torch.nan)
    assert coding.decode(octets, count, out) is out
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), octets])[1:]  # begins at an odd address
    assert same(coding.decode(shifted, count), out)
    if not isinstance(coding, Levels) or coding.stochastic:
        return
    bucket = coding.bucket or count
    for start in (0, CHUNK // bucket * bucket, count // bucket * bucket):  # in the middle, a bucket is in two chunks
        part = values[start : start + bucket]
        alone = coding.decode(encoded(coding, part), len(part))
        assert torch.allclose(out[start : start + bucket], alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("coding", "values", "description", "octets"),
    [
        (Floats(torch.float32), [1.0, -2.0], "00 00", "0000803f 000000c0"),
        (Floats(torch.float16), [1.0, -1e6], "00 01", "003c fffb"),
        (Floats(torch.bfloat16), [1.0, LARGEST], "00 02", "803f 7f7f"),
        # Norm 2, levels -1 0 1 0 | norm 4, levels 1: digits 0 1 2 1 2.
        (Levels(1, 4, "max", False), [-2, 0.9, 2, -1, 4], "01 01 01 04000000", "00000040 00008040 d2"),
        (Levels(1, 0, "max", False), [0, 0, 0, 0, 0, -8], "01 01 01 00000000", "00000041 79 00"),
        # Norm 7, levels 7 -3 2: digits 14 4 9.
        (Levels(7, 0, "max", False), [7, -3, 1.6], "01 07 01 00000000", "0000e040 4e 09"),
        # Norm 5, levels 6 and -8 of 10.
        (Levels(10, 0, "l2", False), [3, -4], "01 0a 00 00000000", "0000a040 10 02"),
        # Both on a level, which no dither moves.
        (Levels(127, 512, "max", True), [-1, 0, 1], "01 7f 03 00020000", "0000803f 00 7f fe"),
        (Levels(127, 1, "max", False), [0, 3], "01 7f 01 01000000", "00000000 00004040 7f fe"),
        (Signs(-1, 1), [1, -1, 0, -0.0, -3, -4, -5, -6, 7], "02 000080bf 0000803f", "0d 01"),
        (Signs(-0.5, 2), [], "02 000000bf 00000040", ""),
    ],
)
def test_bytes_written_by_hand(coding: Coding, values: list[float], description: str, octets: str) -> None:
    assert coding.write() == bytes.fromhex(description)
    assert encoded(coding, torch.tensor(values, dtype=torch.float32)).numpy().tobytes() == bytes.fromhex(octets)


@pytest.mark.parametrize("coding", CODINGS, ids=name)
def test_a_coding_is_read_from_its_description(coding: Coding) -> None:
    description = coding.write()
    assert coding_of(memoryview(description + b"\xff")) == (coding, len(description))
    for length in range(len(description)):
        with pytest.raises(PayloadError, match="cut short"):
            coding_of(memoryview(description[:length]))


@pytest.mark.parametrize(
    ("coding", "bits"),
    [
        (Levels(1, 0, "max", True), 1.6),
        (Levels(7, 0, "max", True), 4),
        (Levels(8, 0, "max", True), 8),
        (Levels(127, 512, "l2", True), 8 + 32 / 512),
        (Signs(-1, 1), 1),
    ],
    ids=name,
)
def test_bits_of_a_value(coding: Coding, bits: float) -> None:
    assert 8 * coding.size(512_000) / 512_000 == pytest.approx(bits, abs=1e-4)


@pytest.mark.parametrize("coding", STOCHASTIC, ids=name)
def test_the_mean_of_many_draws_is_the_value(coding: Levels) -> None:
    draws = 200
    values = values_of(2, 40)
    generator = np.random.default_rng(3)
    decoded = torch.stack([coding.decode(coding.encode(values, generator), 40) for _ in range(draws)]).double()
    norms = values.double().abs() if coding.bucket == 1 else torch.full((40,), float(_norm(coding, values)))
    scaled = values.double() * coding.levels / norms
    chance = scaled - scaled.floor()
    error = norms / coding.levels * (chance * (1 - chance) / draws).sqrt()
    assert torch.all((decoded.mean(0) - values).abs() <= 5 * error + norms * (2**-16 / coding.levels + 1e-6))
    assert torch.all((decoded * coding.levels / norms - scaled).abs() < 1 + 1e-4)


def _norm(coding: Levels, values: Tensor) -> Tensor:
    return values.double().norm() if coding.norm == "l2" else values.double().abs().max()


def test_randomness_is_the_generators() -> None:
    values = values_of(4, 1000)
    coding = Levels(127, 512, "l2", True)
    assert torch.equal(encoded(coding, values, seed=1), encoded(coding, values, seed=1))
    assert not torch.equal(encoded(coding, values, seed=1), encoded(coding, values, seed=2))
    with pytest.raises(ValueError, match="needs a generator"):
        coding.encode(values)


@pytest.mark.parametrize("coding", NEAREST + L2 + STOCHASTIC, ids=name)
@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 1e-42, 1e-30, 1e30, LARGEST])
def test_levels_of_any_magnitude(coding: Levels, magnitude: float) -> None:
    values = torch.tensor([magnitude, -magnitude, 0.0, magnitude / 2] * 300)
    decoded = coding.decode(encoded(coding, values), len(values))
    assert torch.all(torch.isfinite(decoded))
    assert torch.all(decoded * values >= 0)
    if coding.norm == "max":
        assert torch.equal(decoded[0::4], values[0::4])
        assert torch.equal(decoded[1::4], values[1::4])


@pytest.mark.parametrize("coding", L2 + STOCHASTIC, ids=name)
def test_a_lone_entry_is_its_buckets_norm(coding: Levels) -> None:
    """Its magnitude is the norm, which rounding must not put below it."""
    for seed in range(100):
        values = torch.zeros(7)
        values[seed % 7] = values_of(seed, 1)
        assert torch.equal(coding.decode(encoded(coding, values, seed), 7), values)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("coding", [*NEAREST, *L2], ids=name)
def test_levels_of_entries_that_are_not_finite_are_refused(coding: Levels, bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        coding.encode(torch.tensor([1.0, 2.0, 3.0, bad, 4.0]))


def test_signs_from_values() -> None:
    values = torch.tensor([1.0, -2.0, 3.0, -4.0, 0.0])
    assert Signs.mean_magnitude(values) == Signs(-2, 2)
    assert Signs.two_means(values) == Signs(-3, 4 / 3)
    assert Signs.two_means(torch.tensor([1.0, 2.0])) == Signs(0, 1.5)
    assert Signs.two_means(torch.tensor([-1.0, -2.0])) == Signs(-1.5, 0)
    assert Signs.two_means(torch.empty(0)) == Signs.mean_magnitude(torch.empty(0)) == Signs(0, 0)
    huge = torch.full((2 * CHUNK,), LARGEST)
    assert Signs.mean_magnitude(huge) == Signs(-LARGEST, LARGEST)
    assert Signs.two_means(huge) == Signs(0, LARGEST)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Floats(torch.float64), "found torch.float64"),
        (lambda: Levels(0, 512, "max", True), "found 0, 1 to 127"),
        (lambda: Levels(128, 512, "max", True), "found 128"),
        (lambda: Levels(1, -1, "max", True), "bucket of -1"),
        (lambda: Levels(1, 2**32, "max", True), "bucket of 4294967296"),
        (lambda: Levels(1, 0, "l1", True), "norm 'l1'"),
        (lambda: Shares(torch.float16, 2048), "found 2048 nodes"),
        (lambda: Signs(-1e39, 1), "found -1e\\+39"),
        (lambda: Signs(-1, torch.nan), "found nan"),
    ],
)
def test_codings_that_do_not_exist_are_refused(make: object, reason: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=reason):
        make()


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ("04 00", "value coding 4"),
        ("03 03 0200", "shares of 2 nodes in type 3"),
        ("03 01 0000", "shares of 0 nodes"),
        ("00 03", "type 3"),
        ("01 00 01 04000000", "found 0 levels"),
        ("01 80 01 04000000", "found 128 levels"),
        ("01 01 04 04000000", "flags 4"),
        ("02 0000807f 0000803f", "stand for inf"),
        ("02 0000803f 0000c07f", "and nan"),
    ],
)
def test_descriptions_of_no_coding_are_refused(description: str, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        coding_of(memoryview(bytes.fromhex(description)))


@pytest.mark.parametrize(
    ("coding", "octets", "count", "reason"),
    [
        (Floats(torch.float16), "003c", 2, "found 2 bytes of values, expected 4 for 2"),
        (Levels(1, 4, "max", False), "00000040 d2", 5, "found 5 bytes of values, expected 9 for 5"),
        (Levels(1, 0, "max", False), "000000c0 d2", 5, "norm that is negative"),
        (Levels(1, 0, "max", False), "0000807f d2", 5, "not finite"),
        (Levels(1, 0, "max", False), "0000c07f d2", 5, "not finite"),
        (Levels(1, 0, "max", False), "00000040 f3", 5, "found 243"),
        (Levels(1, 0, "max", False), "00000040 d2", 4, "behind the last digit"),
        (Levels(7, 0, "max", False), "00000040 4f", 2, "found level 15, at most 14"),
        (Levels(3, 0, "max", False), "00000040 47", 2, "found level 7, at most 6"),
        (Levels(7, 0, "max", False), "00000040 4e", 1, "behind the last digit"),
        (Levels(127, 0, "max", False), "00000040 ff", 1, "found level 255, at most 254"),
        (Signs(-1, 1), "0d", 9, "found 1 bytes of values, expected 2"),
        (Signs(-1, 1), "0d 03", 9, "behind the last digit"),
    ],
)
def test_bytes_that_lie_are_refused(coding: Coding, octets: str, count: int, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        coding.decode(torch.tensor(list(bytes.fromhex(octets)), dtype=torch.uint8), count)


def test_mutated_bytes_are_refused_or_stand_for_other_values() -> None:
    rng = np.random.default_rng(0)
    originals = [(coding.write(), encoded(coding, values_of(5, 23)).numpy()) for coding in CODINGS]
    refused = 0
    for _ in range(2000):
        description, octets = originals[rng.integers(len(originals))]
        mutated = np.concatenate([np.frombuffer(description, np.uint8), octets])
        places = rng.integers(0, len(mutated) if rng.random() < 0.7 else len(description), rng.integers(1, 4))
        mutated[places] = rng.integers(0, 256, len(places))
        count = 23 if rng.random() < 0.9 else int(rng.integers(0, 2**32))
        try:
            coding, size = coding_of(memoryview(mutated))
            decoded = coding.decode(torch.from_numpy(mutated[size:]), count)
        except PayloadError:
            refused += 1
            continue
        assert decoded.shape == (count,)
        if not isinstance(coding, Floats):
            assert torch.all(torch.isfinite(decoded))
    assert 700 < refused < 2000


def test_a_count_that_the_bytes_cannot_hold_is_not_believed() -> None:
    for coding in CODINGS:
        with pytest.raises(PayloadError, match="found 1000 bytes of values"):
            coding.decode(torch.zeros(1000, dtype=torch.uint8), 2**40)  # more than there is memory for


class EveryDither:
    """Draws each of the 16-bit numbers once, then some for the norm."""

    def integers(self, *_: object, **__: object) -> np.ndarray:
        return np.arange(2**16 + 4).astype(np.uint16).view(np.uint64)


@pytest.mark.parametrize("level", [0.0, 1e-8, 2**-17, 0.3, 0.5, 0.7001, 1 - 2**-10])
def test_stochastic_rounding_prefers_no_side(level: float) -> None:
    coding, means = Levels(1, 0, "max", True), []
    for value in (level, -level):
        values = torch.tensor([value] * 2**16 + [1.0])
        octets = coding.encode(values, EveryDither())  # type: ignore[arg-type]
        decoded = coding.decode(octets, len(values))[:-1]
        means.append(float(decoded.double().mean()))
    assert means[0] == pytest.approx(level, abs=2**-15)
    assert means[0] == pytest.approx(-means[1], abs=2**-24)
