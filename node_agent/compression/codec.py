"""The wire form of what a node says of some layers.

Little-endian throughout; a message is, without padding,

    header   magic "ESGM", version u8, method u8, number of layers u16, CRC-32 of all that follows u32
    layers   of each in turn: its number u16, dimensions u8, the size of each u32, kind of basis u8,
             the basis as `Basis.write` has it, the coding as `Coding.write` has it, the coded coordinates

so that it can be decoded by whoever has the bytes. Lengths follow from what stands before them. Of a layer without
entries or dimensions the basis is `All`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from math import isfinite, prod

import torch
from torch import Tensor

from node_agent.compression.base import Coded, Layer
from node_agent.compression.basis import KINDS, All
from node_agent.compression.octets import PayloadError
from node_agent.compression.settings import Reduction
from node_agent.compression.values import Floats, coding_of

__all__ = ["HEADER", "LARGEST", "PayloadError", "pack", "section_size", "unpack"]

MAGIC = b"ESGM"
VERSION = 2
HEADER = struct.Struct("<4sBBHI")
LAYER = struct.Struct("<HB")
DIMENSIONS = 16
"""of a layer, at most"""
LARGEST = 2**26
"""entries that a message may be about where the layers are not known beforehand: 256 MiB when decoded"""


class Received(Coded):
    """What a message says of a layer."""

    def coordinates(self, room: Tensor | None = None) -> Tensor:
        """Raises PayloadError where the values are not finite, as no node's are."""
        values = super().coordinates(room)
        # Levels and signs are finite once their norms and numbers are. The extremes are NaN where any value is.
        if isinstance(self.coding, Floats) and values.numel() and not all(map(isfinite, torch.aminmax(values))):
            raise PayloadError(f"payload: layer {self.layer.name}: found values that are NaN or infinite")
        return values


def pack(method: int, coded: Sequence[Coded]) -> Tensor:
    """The message, a tensor of bytes (torch.uint8)."""
    parts: list[bytes | memoryview] = []
    for one in coded:
        shape = one.layer.shape
        parts.append(
            LAYER.pack(one.layer.number, len(shape))
            + struct.pack(f"<{len(shape)}IB", *shape, one.basis.kind)
            + one.basis.write()
            + one.coding.write()
        )
        parts.append(one.octets.numpy().data)
    octets = torch.empty(HEADER.size + sum(map(len, parts)), dtype=torch.uint8)
    message = octets.numpy().data  # a bytearray would make another copy of what is assigned to a slice
    at, checksum = HEADER.size, 0
    for part in parts:
        message[at : at + len(part)] = part
        checksum = zlib.crc32(part, checksum)
        at += len(part)
    HEADER.pack_into(message, 0, MAGIC, VERSION, method, len(coded), checksum)
    return octets


def section_size(layer: Layer, length: int) -> int:
    """Bytes of one layer in a message whose basis, coding and coordinates take so many."""
    return LAYER.size + 4 * len(layer.shape) + 1 + length


def unpack(
    octets: Tensor, method: int, layers: Sequence[Layer] | None = None, reduction: Reduction = "private"
) -> list[Coded]:
    """What `pack` was given, of the same method and about these layers in this order; None: about whichever it is,
    called by their numbers.

    Raises PayloadError for anything else. Sizes are checked against the message and the layers before they are
    believed, so no more is allocated than the layers have entries."""
    message = octets.numpy().data
    count = _read_header(message, method)
    if layers is not None and count != len(layers):
        raise PayloadError(f"payload: found {count} layers, expected {len(layers)}")
    coded: list[Coded] = []
    at, room = HEADER.size, LARGEST
    for place in range(count):
        layer, at = _read_layer(message, at)
        if layers is not None:
            expected = layers[place]
            if (layer.number, layer.shape) != (expected.number, expected.shape):
                raise PayloadError(
                    f"payload: found layer {layer.number} of shape {layer.shape}, "
                    f"expected {expected.number} of {expected.shape}"
                )
            layer = expected
        else:
            room -= prod(max(1, size) for size in layer.shape)  # also where one of them is 0, none is believed
            if room < 0:
                raise PayloadError(f"payload: about more than {LARGEST} entries, and of layers that are not known")
        if at >= len(message) or message[at] not in KINDS:
            raise PayloadError(f"payload: layer {layer.number}: no known kind of basis")
        if message[at] != All.kind and not (layer.shape and layer.numel):
            raise PayloadError(f"payload: layer {layer.number}: found basis {message[at]} of shape {layer.shape}")
        basis, length = KINDS[message[at]].read(message[at + 1 :], layer.shape)
        at += 1 + length
        coding, length = coding_of(message[at:])
        at += length
        length = coding.size(basis.size)
        if len(message) - at < length:
            raise PayloadError(f"payload: layer {layer.number}: found {len(message) - at} bytes of {length}")
        coded.append(Received(layer, basis, coding, octets[at : at + length], reduction))
        at += length
    if at != len(message):
        raise PayloadError(f"payload: found {len(message)} bytes, expected {at}")
    return coded


def _read_header(message: memoryview, method: int) -> int:
    if len(message) < HEADER.size:
        raise PayloadError(f"payload: found {len(message)} bytes, at least {HEADER.size} expected")
    magic, version, sent_method, count, checksum = HEADER.unpack_from(message)
    if magic != MAGIC:
        raise PayloadError(f"payload: found magic {magic!r}, expected {MAGIC!r}")
    if (version, sent_method) != (VERSION, method):
        raise PayloadError(
            f"payload: found version {version}, method {sent_method}; expected version {VERSION}, method {method}"
        )
    if zlib.crc32(message[HEADER.size :]) != checksum:
        raise PayloadError("payload: damaged, its checksum does not match")
    return int(count)


def _read_layer(message: memoryview, at: int) -> tuple[Layer, int]:
    if len(message) < at + LAYER.size:
        raise PayloadError("payload: ends before its last layer")
    number, dimensions = LAYER.unpack_from(message, at)
    at += LAYER.size
    if dimensions > DIMENSIONS or len(message) < at + 4 * dimensions:
        raise PayloadError(f"payload: layer {number}: found {dimensions} dimensions")
    shape = struct.unpack_from(f"<{dimensions}I", message, at)
    return Layer(str(number), shape, number), at + 4 * dimensions
