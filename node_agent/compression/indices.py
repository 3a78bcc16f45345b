"""How a set of units is written: which of `universe` units are sent.

    ALL       every unit, no bytes
    BITMAP    one bit a unit, lowest bit first, the last byte padded with zeros
    INTEGERS  unsigned integers of 1, 2 or 4 bytes, the fewest that can number the units, little-endian
    GAPS      how many units are left out before each one, Golomb-coded
    RUNS      a varint, how many runs of units there are; how many units are left out before the first run, and before
              each other run one less than that; the length of each run less one; both Golomb-coded

A Golomb code (Golomb, Run-length encodings, IEEE Trans. Inf. Theory 12, 1966) of divisor M writes x as the quotient
x // M in unary and the remainder x % M. Here the two are kept apart, which lets whole arrays be coded at once:

    divisor     u8, 2 j for M = 2**j, 2 j + 1 for M = 3 * 2**j
    length      varint, bytes of the quotients
    quotients   for each number so many clear bits and a set one, lowest bit first, the last byte padded with zeros
    remainders  x % 2**j, lowest digit first: j // 8 digits of base 256, then one of base 16, 4 and 2 each for the bits
                4, 2 and 1 of j; then x % M // 2**j, if M is a multiple of 3, in base 3. The first digits of all
                numbers come before the second ones of all.

For units drawn independently this takes at most 1.02 times the entropy up to a density of 0.3.
"""

from __future__ import annotations

from bisect import bisect_right
from enum import IntEnum
from math import log, log2

import numpy as np
from numpy.typing import NDArray

from node_agent.compression.octets import (
    PayloadError,
    pack_digits,
    packed_size,
    read_varint,
    unpack_digits,
    write_varint,
)

Numbers = NDArray[np.uint32]

CODES = {2**j: 2 * j for j in range(32)} | {3 * 2**j: 2 * j + 1 for j in range(31)}
"""What is written for each divisor."""
DIVISORS = sorted(CODES)
DIVISOR_OF = {code: divisor for divisor, code in CODES.items()}


class Form(IntEnum):
    ALL = 0
    BITMAP = 1
    INTEGERS = 2
    GAPS = 3
    RUNS = 4


def largest_size(count: int, universe: int) -> int:
    """Bytes that no set of so many units exceeds. Raises ValueError for 2**32 units and more."""
    return 0 if count == universe else min(-(-universe // 8), count * _integer(universe).itemsize)


def pack(units: NDArray[np.int64], universe: int) -> tuple[Form, bytes]:
    """The smallest form of these units, strictly ascending and below `universe`; the earlier one where it is a draw.

    Raises ValueError for a universe of 2**32 units and more."""
    count, size = len(units), largest_size(len(units), universe)
    if count == universe:
        return Form.ALL, b""
    if count == 0:
        return Form.INTEGERS, b""
    form = Form.BITMAP if size == -(-universe // 8) else Form.INTEGERS

    gaps = _gaps(units)
    divisor, gaps_size = _best_divisor(gaps)
    if gaps_size < size:
        form, size = Form.GAPS, gaps_size

    # A unit that follows its predecessor directly costs GAPS a quotient of one bit and a remainder, and RUNS nothing;
    # but each run costs it the bit, at the least, of a length.
    runs = 1 + np.count_nonzero(gaps[1:])
    if runs < (count - runs) * (1 + log2(divisor)):
        between, lengths = _runs(gaps, runs)
        divisors, sizes = zip(_best_divisor(between), _best_divisor(lengths), strict=True)
        head = write_varint(runs)
        if len(head) + sum(sizes) < size:
            return Form.RUNS, head + _write_golomb(between, divisors[0]) + _write_golomb(lengths, divisors[1])

    if form is Form.GAPS:
        return form, _write_golomb(gaps, divisor)
    if form is Form.INTEGERS:
        return form, units.astype(_integer(universe)).tobytes()
    sent = np.zeros(universe, dtype=bool)
    sent[units] = True
    return form, np.packbits(sent, bitorder="little").tobytes()


def unpack(form: int, octets: memoryview, count: int, universe: int) -> tuple[NDArray[np.int64], int]:
    """The units, `count` of them and at most `universe`, and how many bytes they take at the front of these.

    Raises PayloadError unless they are strictly ascending and below `universe` and their bytes well formed. What is
    allocated grows with `count` and the bytes there are, with `count` not before these are seen to hold as many."""
    if form == Form.ALL:
        if count != universe:
            raise PayloadError(f"payload: found {count} units called all, expected {universe}")
        return np.arange(count), 0
    if form == Form.BITMAP:
        units, size = _read_bitmap(octets, count, universe)
    elif form == Form.INTEGERS:
        units, size = _read_integers(octets, count, universe)
    elif form == Form.GAPS:
        gaps, size = _read_golomb(octets, count, universe - count)
        units = _positions(gaps)
    elif form == Form.RUNS:
        units, size = _read_runs(octets, count, universe)
    else:
        raise PayloadError(f"payload: found index form {form}, at most {max(Form)} expected")
    if count and units[-1] >= universe:
        raise PayloadError(f"payload: found unit {units[-1]}, expected units below {universe}")
    return units, size


def _integer(universe: int) -> np.dtype[np.unsignedinteger]:
    if universe >= 2**32:
        raise ValueError(f"found {universe} units to number, less than {2**32} allowed")
    return np.dtype("<u1" if universe <= 2**8 else "<u2" if universe <= 2**16 else "<u4")


def _gaps(units: NDArray[np.int64]) -> Numbers:
    """How many units are left out before each."""
    gaps = np.empty(len(units), np.uint32)
    gaps[0] = units[0]
    np.subtract(units[1:], units[:-1], out=gaps[1:], casting="unsafe")
    gaps[1:] -= 1
    return gaps


def _positions(gaps: NDArray[np.int64]) -> NDArray[np.int64]:
    """The units that have these gaps before them."""
    positions = np.cumsum(gaps + 1)
    positions -= 1
    return positions


def _runs(gaps: Numbers, runs: int) -> tuple[Numbers, Numbers]:
    """What RUNS writes of each run: the units left out before it, and its length."""
    starts = np.empty(runs, np.int64)
    starts[0] = 0
    starts[1:] = np.flatnonzero(gaps[1:]) + 1
    between = gaps[starts]
    between[1:] -= 1
    lengths = np.diff(starts, append=len(gaps)) - 1
    return between, lengths.astype(np.uint32)


def _read_bitmap(octets: memoryview, count: int, universe: int) -> tuple[NDArray[np.int64], int]:
    size = -(-universe // 8)
    units = np.flatnonzero(np.unpackbits(_front(octets, size), bitorder="little"))
    if len(units) != count:
        raise PayloadError(f"payload: found {len(units)} bits set, expected {count}")
    return units, size


def _read_integers(octets: memoryview, count: int, universe: int) -> tuple[NDArray[np.int64], int]:
    size = count * _integer(universe).itemsize
    units = _front(octets, size).view(_integer(universe)).astype(np.int64)
    if np.any(units[1:] <= units[:-1]):
        raise PayloadError("payload: found units that do not ascend")
    return units, size


def _read_runs(octets: memoryview, count: int, universe: int) -> tuple[NDArray[np.int64], int]:
    runs, size = read_varint(octets)
    if runs > count:
        raise PayloadError(f"payload: found {runs} runs, at most {count} expected")
    between, between_size = _read_golomb(octets[size:], runs, universe - count)
    size += between_size
    lengths, lengths_size = _read_golomb(octets[size:], runs, count - runs)
    lengths += 1
    if lengths.sum() != count:
        raise PayloadError(f"payload: found runs of {lengths.sum()} units, expected {count}")
    return np.arange(count) + np.repeat(_positions(between), lengths), size + lengths_size


def _best_divisor(numbers: Numbers) -> tuple[int, int]:
    """A divisor that none next to it betters, and the bytes in which it writes these numbers.

    The search starts at ln 2 times the mean, the best one for gaps between units drawn independently."""
    mean = int(numbers.sum()) / len(numbers)
    at = bisect_right(DIVISORS, max(1.0, log(2) * mean)) - 1
    size = _golomb_size(numbers, DIVISORS[at])
    for step in (-1, 1):
        while 0 <= at + step < len(DIVISORS):
            other = _golomb_size(numbers, DIVISORS[at + step])
            if other >= size:
                break
            at, size = at + step, other
    return DIVISORS[at], size


def _golomb_size(numbers: Numbers, divisor: int) -> int:
    count = len(numbers)
    quotients = -(-(count + int((numbers // np.uint32(divisor)).sum())) // 8)
    remainders = sum(packed_size(count, base) for base in _bases(divisor))
    return 1 + len(write_varint(quotients)) + quotients + remainders


def _bases(divisor: int) -> list[int]:
    """Of a remainder's digits, the lowest first; their product is the divisor."""
    bits = divisor.bit_length() - (1 if divisor & (divisor - 1) == 0 else 2)
    bases = [256] * (bits // 8) + [2**width for width in (4, 2, 1) if bits & width]
    return bases if divisor == 2**bits else [*bases, 3]


def _write_golomb(numbers: Numbers, divisor: int) -> bytes:
    quotients = numbers // np.uint32(divisor)
    ends = np.cumsum(quotients, dtype=np.int64)
    ends += np.arange(len(ends))
    unary = np.zeros(ends[-1] + 1, np.uint8)
    unary[ends] = 1
    remainders = numbers - quotients * np.uint32(divisor)
    parts = [pack_digits(unary, 2)]
    for base in _bases(divisor):
        higher = remainders // np.uint32(base)
        parts.append(pack_digits((remainders - higher * np.uint32(base)).astype(np.uint8), base))
        remainders = higher
    head = bytes([CODES[divisor]]) + write_varint(len(parts[0]))
    return head + b"".join(part.tobytes() for part in parts)


def _read_golomb(octets: memoryview, count: int, most: int) -> tuple[NDArray[np.int64], int]:
    """So many numbers of a sum of about `most` at the most, and the bytes they take."""
    code = _front(octets, 1)[0]
    if code not in DIVISOR_OF:
        raise PayloadError(f"payload: found divisor code {code}, at most {max(DIVISOR_OF)} expected")
    divisor = DIVISOR_OF[code]
    length, size = read_varint(octets[1:])
    size += 1
    if length > -(-(count + most // divisor) // 8):
        raise PayloadError(f"payload: found {length} bytes of quotients for {count} numbers of sum {most}")
    ends = np.flatnonzero(unpack_digits(_front(octets[size:], length), 8 * length, 2))
    size += length
    if len(ends) != count or (count and ends[-1] // 8 + 1 != length):
        raise PayloadError(
            f"payload: found {len(ends)} quotients in {length} bytes, expected {count}, the last one there"
        )
    numbers = np.diff(ends, prepend=-1)
    numbers -= 1
    bases = _bases(divisor)
    end = size + sum(packed_size(count, base) for base in bases)
    front = _front(octets, end)
    at = end
    for base in reversed(bases):
        start = at - packed_size(count, base)
        numbers *= base
        numbers += unpack_digits(front[start:at], count, base)
        at = start
    return numbers, end


def _front(octets: memoryview, size: int) -> NDArray[np.uint8]:
    if len(octets) < size:
        raise PayloadError(f"payload: cut short, found {len(octets)} bytes where {size} were expected")
    return np.frombuffer(octets, np.uint8, size)
