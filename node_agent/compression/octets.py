"""What payloads are put together from: small digits, several to a byte, and numbers of any size.

A byte holds as many digits of a base as it has room for, the first in its lowest place:

    base              2    3    4   16  256
    digits a byte     8    5    4    2    1
    bits a digit      1  1.6    2    4    8

Where the digits end within a byte, zeros fill it. A number of any size is a varint: seven bits a byte, lowest first,
the highest bit set in all bytes but the last.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PER_BYTE = {2: 8, 3: 5, 4: 4, 16: 2, 256: 1}


class PayloadError(ValueError):
    """Bytes that no encoder of ours has written, or not for this purpose."""


def tensor_of(octets: bytes) -> Tensor:
    """A copy of them, torch.uint8."""
    return torch.from_numpy(np.frombuffer(octets, np.uint8).copy())


def packed_size(count: int, base: int) -> int:
    """Bytes of so many digits."""
    return -(-count // PER_BYTE[base])


def pack_digits(digits: NDArray[np.uint8], base: int) -> NDArray[np.uint8]:
    """The bytes of these digits, each below `base`."""
    if base == 2:
        return np.packbits(digits, bitorder="little")
    if base == 256:
        return digits
    octets = np.zeros(packed_size(len(digits), base), np.uint8)
    for place in reversed(range(PER_BYTE[base])):
        octets *= np.uint8(base)
        lane = digits[place :: PER_BYTE[base]]
        octets[: len(lane)] += lane
    return octets


def unpack_digits(octets: NDArray[np.uint8], count: int, base: int) -> NDArray[np.uint8]:
    """The inverse, for `packed_size(count, base)` bytes. Raises PayloadError for any not so written."""
    if base == 3 and np.any(octets >= 3**5):
        raise PayloadError(f"payload: found {octets.max()} for five digits of base 3, at most 242 expected")
    if base == 256:
        return octets
    digits = np.unpackbits(octets, bitorder="little") if base == 2 else np.take(table(base), octets, axis=0).reshape(-1)
    if np.any(digits[count:]):
        raise PayloadError("payload: found something behind the last digit, zeros expected")
    return digits[:count]


@cache
def table(base: int) -> NDArray[np.uint8]:
    """The digits of every byte: 256 rows."""
    octets = np.arange(256)[:, None]
    return (octets // base ** np.arange(PER_BYTE[base]) % base).astype(np.uint8)


def write_varint(number: int) -> bytes:
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def read_varint(octets: memoryview) -> tuple[int, int]:
    """The number at the front, below 2**35, and how many bytes it takes. Raises PayloadError for anything else."""
    number = 0
    for place, octet in enumerate(octets[:5]):
        number |= (octet & 0x7F) << 7 * place
        if octet < 0x80:
            if octet == 0 and place:
                break
            return number, place + 1
    raise PayloadError("payload: cut short, or a number written in more bytes than it needs")
