"""How float32 values are written: as floats of 32 or 16 bits, as levels of a norm, as signs.

A coding is described by a few bytes, its `write()`; `coding_of` reads them, so that a payload says itself how its
values are to be read. Decoding is a function of the bytes alone, in operations that IEEE 754 rounds correctly: all
nodes read the same values, bit for bit. Little-endian throughout.

Values are handled in chunks that stay in a core's cache; beyond the result, no more memory is taken than for one chunk
and the norms.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from node_agent.compression.octets import PayloadError, pack_digits, packed_size, table, unpack_digits

CHUNK = 15 * 2**14  # whole bytes of any digits


class Coding(ABC):
    """A way to write float32 values, each a 1-D contiguous tensor on the CPU."""

    wire: ClassVar[int]
    """What tells the codings apart in their descriptions."""

    @property
    def random(self) -> bool:
        """Whether encoding needs a generator."""
        return False

    @abstractmethod
    def size(self, count: int) -> int:
        """Bytes of so many values."""

    def encode(self, values: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """`size(len(values))` bytes (torch.uint8). What is random comes from `generator`."""
        octets = torch.empty(self.size(len(values)), dtype=torch.uint8)
        self._encode(values, octets, generator)
        return octets

    def decode(self, octets: Tensor, count: int, out: Tensor | None = None) -> Tensor:
        """The float32 values that these bytes stand for, in `out` if there is one.

        Raises PayloadError for bytes that `encode` does not write for so many values."""
        if len(octets) != self.size(count):
            raise PayloadError(f"payload: found {len(octets)} bytes of values, expected {self.size(count)} for {count}")
        values = torch.empty(count) if out is None else out
        self._decode(octets, values)
        return values

    @abstractmethod
    def write(self) -> bytes:
        """The description."""

    @classmethod
    @abstractmethod
    def read(cls, parameters: memoryview) -> tuple[Coding, int]:
        """The coding described by these bytes behind `wire`, and how many they are. Raises PayloadError."""

    @abstractmethod
    def _encode(self, values: Tensor, octets: Tensor, generator: np.random.Generator | None) -> None: ...

    @abstractmethod
    def _decode(self, octets: Tensor, values: Tensor) -> None: ...


@dataclass(frozen=True)
class Floats(Coding):
    """Each value rounded to the nearest of its type, float32, float16 or bfloat16; float16 and bfloat16 saturate at
    their largest finite value."""

    dtype: torch.dtype = torch.float32

    wire = 0
    DTYPES: ClassVar = (torch.float32, torch.float16, torch.bfloat16)

    def __post_init__(self) -> None:
        if self.dtype not in self.DTYPES:
            raise ValueError(f"floats: found {self.dtype}, expected one of {self.DTYPES}")

    def size(self, count: int) -> int:
        return count * self.dtype.itemsize

    def write(self) -> bytes:
        return bytes([self.wire, self.DTYPES.index(self.dtype)])

    @classmethod
    def read(cls, parameters: memoryview) -> tuple[Coding, int]:
        (number,) = _parameters("B", parameters)
        if number >= len(cls.DTYPES):
            raise PayloadError(f"payload: found type {number} of floats, at most {len(cls.DTYPES) - 1} expected")
        return cls(cls.DTYPES[number]), 1

    def _encode(self, values: Tensor, octets: Tensor, generator: np.random.Generator | None) -> None:
        written = octets.view(self.dtype)
        if self.dtype is torch.float32:
            written.copy_(values)
            return
        largest = torch.finfo(self.dtype).max
        scratch = torch.empty(min(CHUNK, len(values)))
        for start, stop in _chunks(len(values)):
            clamped = torch.clamp(values[start:stop], -largest, largest, out=scratch[: stop - start])
            written[start:stop].copy_(clamped)

    def _decode(self, octets: Tensor, values: Tensor) -> None:
        # The bytes may begin at an odd address, where a tensor of another type may not.
        scratch = torch.empty(min(CHUNK, len(values)), dtype=self.dtype)
        for start, stop in _chunks(len(values)):
            chunk = scratch[: stop - start]
            chunk.view(torch.uint8).copy_(octets[self.size(start) : self.size(stop)])
            values[start:stop].copy_(chunk)


@dataclass(frozen=True)
class Shares(Floats):
    """Each value's share in a mean over `nodes`, so that such shares can be summed in their own type.

        x -> y = clamp(x / N, -h, h) rounded to the type,  decoded  N y

    A sum of N halves must not overflow. Halves count up to 2047 * 32 = 65504, and every multiple of 32 up to there is
    one: with h = 32 * floor(2047 / N) the partial sums of saturated entries are exact and end within range, and, as
    rounding is monotone, those of any other entries do too. Entries of magnitude below 2**-25 N become zero. In types
    of the range of float32, N times a sum must not leave it either: for N > 1, h is half the largest value over N**2.
    """

    nodes: int = 1

    wire = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.nodes <= 2047:
            raise ValueError(f"shares: found {self.nodes} nodes, a sum of halves allows at most 2047")

    @property
    def largest(self) -> float:
        if self.dtype == torch.float16:
            return 32.0 * (2047 // self.nodes)
        return torch.finfo(self.dtype).max / (2 * self.nodes**2 if self.nodes > 1 else 1)

    def write(self) -> bytes:
        return super().write() + struct.pack("<H", self.nodes)

    @classmethod
    def read(cls, parameters: memoryview) -> tuple[Coding, int]:
        number, nodes = _parameters("<BH", parameters)
        if number >= len(cls.DTYPES) or not 1 <= nodes <= 2047:
            raise PayloadError(f"payload: found shares of {nodes} nodes in type {number}")
        return cls(cls.DTYPES[number], nodes), 3

    def _encode(self, values: Tensor, octets: Tensor, generator: np.random.Generator | None) -> None:
        written = octets.view(self.dtype)
        scratch = torch.empty(min(CHUNK, len(values)))
        for start, stop in _chunks(len(values)):
            share = torch.div(values[start:stop], self.nodes, out=scratch[: stop - start])
            written[start:stop].copy_(share.clamp_(-self.largest, self.largest))

    def _decode(self, octets: Tensor, values: Tensor) -> None:
        super()._decode(octets, values)
        values.mul_(self.nodes)


@dataclass(frozen=True)
class Levels(Coding):
    """For each bucket of `bucket` entries (0: all in one), with s = `levels` and m its L2 norm or largest magnitude,

        x -> c in {-s, ..., s},  decoded  m (c / s)

    c is the nearest integer to s x / m (halves to the even one) or, stochastically, one of the two next to it with
    probabilities that make the expectation s x / m; dithers, odd multiples of 2**-16, do that to within 2**-16 of a
    level, with no more of it up than down.

    As the decoded value of c = s is m itself, values decoded with the largest magnitude and the nearest level are
    encoded to themselves. The norms come first, then the digits c + s: five a byte for s = 1, two for s <= 7, one for
    s <= 127.

    QSGD (Alistarh et al., NeurIPS 2017): L2, stochastic, bucket 512. TernGrad (Wen et al., NeurIPS 2017): one level,
    largest magnitude, stochastic, one bucket. 8-bit and 4-bit integers: s = 127 and 7, largest magnitude, nearest.
    """

    levels: int
    bucket: int
    norm: Literal["l2", "max"]
    stochastic: bool

    wire = 1
    LARGEST: ClassVar = 127
    PARAMETERS: ClassVar = "<BBI"

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= self.LARGEST:
            raise ValueError(f"levels: found {self.levels}, 1 to {self.LARGEST} allowed")
        if not 0 <= self.bucket < 2**32:
            raise ValueError(f"levels: found a bucket of {self.bucket} entries, 0 to {2**32 - 1} allowed")
        if self.norm not in ("l2", "max"):
            raise ValueError(f"levels: found norm {self.norm!r}, 'l2' or 'max' allowed")

    @property
    def base(self) -> int:
        return 3 if self.levels == 1 else 16 if self.levels <= 7 else 256

    @property
    def random(self) -> bool:
        return self.stochastic

    def buckets(self, count: int) -> int:
        return -(-count // (self.bucket or max(count, 1)))

    def size(self, count: int) -> int:
        return 4 * self.buckets(count) + packed_size(count, self.base)

    def write(self) -> bytes:
        flags = (self.norm == "max") | self.stochastic << 1
        return bytes([self.wire]) + struct.pack(self.PARAMETERS, self.levels, flags, self.bucket)

    @classmethod
    def read(cls, parameters: memoryview) -> tuple[Coding, int]:
        levels, flags, bucket = _parameters(cls.PARAMETERS, parameters)
        if not 1 <= levels <= cls.LARGEST or flags > 3:
            raise PayloadError(
                f"payload: found {levels} levels with flags {flags}, 1 to {cls.LARGEST} with at most 3 expected"
            )
        coding = cls(levels, bucket, "max" if flags & 1 else "l2", bool(flags & 2))
        return coding, struct.calcsize(cls.PARAMETERS)

    def _encode(self, values: Tensor, octets: Tensor, generator: np.random.Generator | None) -> None:
        if self.stochastic and generator is None:
            raise ValueError("levels: stochastic rounding needs a generator")
        norms = self._norms(values)
        head = norms.view(torch.uint8)
        octets[: len(head)] = head
        written = octets[len(head) :].numpy()
        divisors = torch.where(norms > 0, norms, 1)
        scratch, dithers = torch.empty(2, min(CHUNK, len(values)))
        digits = np.empty(len(scratch), np.uint8)
        for start, stop in _chunks(len(values)):
            # No entry exceeds its bucket's norm, so nothing here leaves -s to s: see `_norms`.
            scaled = scratch[: stop - start].copy_(values[start:stop])
            for matrix, buckets in self._rows(scaled, start):
                matrix.div_(divisors[buckets, None])
            scaled.mul_(self.levels)
            if generator is not None and self.stochastic:
                dither = dithers[: stop - start].copy_(_odd_16_bits(generator, stop - start))
                scaled.add_(dither, alpha=2**-16).floor_()
            else:
                scaled.round_()
            scaled.add_(self.levels)
            chunk = digits[: stop - start]
            np.copyto(chunk, scaled.numpy(), casting="unsafe")
            written[packed_size(start, self.base) : packed_size(stop, self.base)] = pack_digits(chunk, self.base)

    def _decode(self, octets: Tensor, values: Tensor) -> None:
        front = 4 * self.buckets(len(values))
        norms = octets[:front].clone().view(torch.float32)
        if not torch.all((norms >= 0) & (norms < torch.inf)):
            raise PayloadError("payload: found a norm that is negative or not finite")
        written = octets[front:].numpy()
        for start, stop in _chunks(len(values)):
            packed = written[packed_size(start, self.base) : packed_size(stop, self.base)]
            digits = unpack_digits(packed, stop - start, self.base)
            if digits.max() > 2 * self.levels:
                raise PayloadError(f"payload: found level {digits.max()}, at most {2 * self.levels} expected")
            chunk = values[start:stop].copy_(torch.from_numpy(digits))
            chunk.sub_(self.levels).div_(self.levels)
            for matrix, buckets in self._rows(chunk, start):
                matrix.mul_(norms[buckets, None])

    def _norms(self, values: Tensor) -> Tensor:
        """Of each bucket, float32, no entry of it larger. Raises ValueError for entries that are not finite.

        Squares of float32 are exact in float64, sums of them and roots are rounded monotonically, and so is the root
        to float32: the L2 norm is not below the magnitude of any entry. Nothing over- or underflows on the way. Where
        the norm itself is beyond float32, the largest float32 takes its place."""
        found = torch.zeros(self.buckets(len(values)), dtype=torch.float64 if self.norm == "l2" else torch.float32)
        for start, stop in _chunks(len(values)):
            for matrix, buckets in self._rows(values[start:stop], start):
                if self.norm == "l2":
                    found[buckets] += torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64).square_()
                else:
                    magnitude = torch.maximum(matrix.amax(1), matrix.amin(1).neg_())
                    found[buckets] = torch.maximum(found[buckets], magnitude)
        if not torch.all(torch.isfinite(found)):
            raise ValueError("levels: found entries that are not finite")
        return found.sqrt_().clamp_(max=torch.finfo(torch.float32).max).float() if self.norm == "l2" else found

    def _rows(self, chunk: Tensor, start: int) -> Iterator[tuple[Tensor, slice]]:
        """The entries from `start` on in matrices of a row each bucket, and which buckets; those of which only a part
        is here have a matrix of their own."""
        bucket = self.bucket or start + len(chunk)
        at, end = 0, len(chunk)
        while at < end:
            number, offset = divmod(start + at, bucket)
            whole = 0 if offset else (end - at) // bucket
            size = whole * bucket if whole else min(bucket - offset, end - at)
            rows = max(whole, 1)
            yield chunk[at : at + size].view(rows, -1), slice(number, number + rows)
            at += size


@dataclass(frozen=True)
class Signs(Coding):
    """A bit each value, set where it is not negative; decoded, a clear bit and a set one stand for two numbers.

    signSGD (Bernstein et al., ICML 2018): -1, 1. With the mean magnitude, EF-signSGD (Karimireddy et al., ICML 2019);
    with the means of either sign, 1-bit SGD (Seide et al., Interspeech 2014); with a threshold, Strom (Interspeech
    2015).
    """

    clear: float
    set: float

    wire = 2
    PARAMETERS: ClassVar = "<ff"

    def __post_init__(self) -> None:
        """Rounds the numbers to float32."""
        for name in ("clear", "set"):
            with np.errstate(over="ignore"):
                number = float(np.float32(getattr(self, name)))
            if not math.isfinite(number):
                raise ValueError(f"signs: found {getattr(self, name)}, a finite float32 expected")
            object.__setattr__(self, name, number)

    @classmethod
    def mean_magnitude(cls, values: Tensor) -> Signs:
        chunks = (values[start:stop] for start, stop in _chunks(len(values)))
        total = sum(float(torch.linalg.vector_norm(chunk, 1, dtype=torch.float64)) for chunk in chunks)
        magnitude = total / max(len(values), 1)
        return cls(-magnitude, magnitude)

    @classmethod
    def two_means(cls, values: Tensor) -> Signs:
        """The mean of the negative values and that of the others, 0 where there are none."""
        below = above = 0.0
        not_negative = 0
        scratch = torch.empty(min(CHUNK, len(values)))
        for start, stop in _chunks(len(values)):
            chunk, clamped = values[start:stop], scratch[: stop - start]
            below += float(torch.clamp(chunk, max=0, out=clamped).sum(dtype=torch.float64))
            above += float(torch.clamp(chunk, min=0, out=clamped).sum(dtype=torch.float64))
            not_negative += int(torch.count_nonzero(chunk >= 0))
        return cls(below / max(len(values) - not_negative, 1), above / max(not_negative, 1))

    def size(self, count: int) -> int:
        return packed_size(count, 2)

    def write(self) -> bytes:
        return bytes([self.wire]) + struct.pack(self.PARAMETERS, self.clear, self.set)

    @classmethod
    def read(cls, parameters: memoryview) -> tuple[Coding, int]:
        clear, set_ = _parameters(cls.PARAMETERS, parameters)
        if not (math.isfinite(clear) and math.isfinite(set_)):
            raise PayloadError(f"payload: found signs that stand for {clear} and {set_}, finite numbers expected")
        return cls(clear, set_), struct.calcsize(cls.PARAMETERS)

    def _encode(self, values: Tensor, octets: Tensor, generator: np.random.Generator | None) -> None:
        read, written = values.numpy(), octets.numpy()
        for start, stop in _chunks(len(values)):
            bits = (read[start:stop] >= 0).view(np.uint8)
            written[packed_size(start, 2) : packed_size(stop, 2)] = pack_digits(bits, 2)

    def _decode(self, octets: Tensor, values: Tensor) -> None:
        read, written = octets.numpy(), values.numpy()
        of_byte = np.where(table(2), np.float32(self.set), np.float32(self.clear))
        whole = len(written) // 8 * 8
        for start, stop in _chunks(whole):
            rows = written[start:stop].reshape(-1, 8)
            np.take(of_byte, read[start // 8 : stop // 8], axis=0, out=rows, mode="clip")
        last = unpack_digits(read[whole // 8 :], len(written) - whole, 2)
        written[whole:] = np.where(last, np.float32(self.set), np.float32(self.clear))


def coding_of(octets: memoryview) -> tuple[Coding, int]:
    """The coding that the front of these bytes describes, and how many of them do. Raises PayloadError."""
    (wire,) = _parameters("B", octets)
    if wire not in CODINGS:
        raise PayloadError(f"payload: found value coding {wire}, at most {max(CODINGS)} expected")
    coding, size = CODINGS[wire].read(octets[1:])
    return coding, 1 + size


CODINGS: dict[int, type[Coding]] = {coding.wire: coding for coding in (Floats, Levels, Signs, Shares)}


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def _odd_16_bits(generator: np.random.Generator, count: int) -> Tensor:
    """Uniform odd integers below 2**16, four from each draw."""
    draws = generator.integers(0, 2**64, -(-count // 4), dtype=np.uint64)
    draws |= np.uint64(0x0001_0001_0001_0001)
    return torch.from_numpy(draws.view(np.uint16)[:count])


def _parameters(form: str, octets: memoryview) -> tuple[int, ...]:
    if len(octets) < struct.calcsize(form):
        raise PayloadError(f"payload: cut short, found {len(octets)} bytes where {struct.calcsize(form)} were expected")
    return struct.unpack_from(form, octets)
