"""Payloads changed by chance or by malice, most of them with a checksum that fits again."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from node_agent.compression.basis import KINDS, SET_HEAD, Columns, Rows, Seeded, Tiles
from node_agent.compression.codec import HEADER, LAYER, MAGIC, VERSION
from node_agent.compression.tiles import Tiling
from node_agent.compression.values import Floats

SIZES = [0, 1, 2, 3, 5, 2**16 - 1, 2**20, 2**32 - 1]


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


def about(method: int, shape: tuple[int, ...], kind: int, basis: bytes, values: bytes = b"") -> bytes:
    """A message about one layer of any shape, its values float32."""
    layer = LAYER.pack(0, len(shape)) + struct.pack(f"<{len(shape)}IB", *shape, kind)
    body = layer + basis + Floats().write() + values
    return HEADER.pack(MAGIC, VERSION, method, 1, zlib.crc32(body)) + body


def drawn(method: int, generator: np.random.Generator) -> bytes:
    """A message about one layer, often with a dimension that is zero or without measure, in a basis of any kind, with
    no bytes or few for the units and the values."""

    def few() -> int:
        return int(generator.choice(SIZES[:5]))

    shape = tuple(int(generator.choice(SIZES[: few() + 4])) for _ in range(few()))
    units = int(generator.choice([0, 0, few(), shape[0] if shape else 1]))
    chosen = SET_HEAD.pack(int(generator.integers(5)), units) + generator.bytes(int(generator.choice([0, 0, few()])))
    kind = int(generator.choice(list(KINDS)))
    basis = {
        Tiles.kind: Tiling.HEAD.pack(int(generator.integers(3)), int(generator.choice(SIZES[1:6]))) + chosen,
        Seeded.kind: Seeded.HEAD.pack(1, units),
        Rows.kind: bytes([int(generator.integers(3))]) + chosen,
        Columns.kind: Columns.HEAD.pack(few()) + bytes(4 * few()),
    }.get(kind, b"")
    return about(method, shape, kind, basis, bytes(4 * int(generator.choice([0, 0, few()]))))
