"""Payloads changed by chance or by malice, most of them with a checksum that fits again."""

from __future__ import annotations

import zlib

import numpy as np

from node_agent.compression.codec import HEADER


def mutated(payload: bytes, generator: np.random.Generator) -> bytes:
    """One that differs: bits, bytes or numbers replaced, parts cut off, doubled or put in."""
    octets = bytearray(payload)
    for _ in range(int(generator.integers(1, 4))):
        at = int(generator.integers(len(octets))) if octets else 0
        change = generator.integers(6)
        if change == 0 and octets:
            octets[at] ^= 1 << int(generator.integers(8))
        elif change == 1 and octets:
            octets[at] = int(generator.choice([0, 1, 2, 3, 127, 128, 255]))
        elif change == 2:
            del octets[at : at + int(generator.integers(1, 40))]
        elif change == 3:
            octets[at:at] = generator.bytes(int(generator.integers(1, 9)))
        elif change == 4:
            octets[at : at + 4] = int(generator.choice([0, 1, 2**16, 2**31, 2**32 - 1])).to_bytes(4, "little")
        else:
            octets[at:at] = octets[at : at + int(generator.integers(1, 40))]
    if len(octets) >= HEADER.size and generator.random() < 0.95:
        octets[8:12] = zlib.crc32(octets[HEADER.size :]).to_bytes(4, "little")
    return bytes(octets)
