"""The wire form of a private payload: for some layers, which units are sent (entries, or tiles) and their values.

Little-endian throughout; a message is, without padding,

    header    magic "ESGM", version u8, method u8, number of sections u16, CRC-32 of all that follows u32
    sections  layer u16, form u8, 0 u8, number of units u32, number of values u32
    indices   of each section in turn, in its form
    values    of each section in turn, float32

The form of a section's indices follows from the number of units sent and the number there are, and so does their size:

    ALL       every unit is sent, no bytes
    BITMAP    one bit a unit, lowest bit first, the last byte padded with zeros
    INTEGERS  strictly ascending unsigned integers of 1, 2 or 4 bytes, the fewest that can number the units

whichever is smallest, BITMAP where it is a draw.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAGIC = b"ESGM"
VERSION = 1
HEADER = struct.Struct("<4sBBHI")
SECTION = struct.Struct("<HBxII")
VALUE = np.dtype("<f4")


class PayloadError(ValueError):
    """Bytes that are no message of this method about these layers."""


class Form(IntEnum):
    ALL = 0
    BITMAP = 1
    INTEGERS = 2


@dataclass(frozen=True)
class Space:
    """What a section is about: the layer's number, how many units it has, and how many entries in all of them."""

    layer: int
    units: int
    entries: int


@dataclass(frozen=True)
class Selection:
    """Units, ascending int64, and the float32 values of their entries in the units' order."""

    units: Tensor
    values: Tensor


def encoded_size(spaces: Sequence[Space], units: Sequence[int], values: Sequence[int]) -> int:
    """Bytes of a message in which each space sends so many units with so many values."""
    indices = sum(_form(space, count)[1] for space, count in zip(spaces, units, strict=True))
    return HEADER.size + SECTION.size * len(spaces) + indices + VALUE.itemsize * sum(values)


def encode(method: int, spaces: Sequence[Space], selections: Sequence[Selection]) -> Tensor:
    """The message, a tensor of bytes (torch.uint8)."""
    table, indices = [], []
    for space, selection in zip(spaces, selections, strict=True):
        form, _ = _form(space, len(selection.units))
        table.append(SECTION.pack(space.layer, form, len(selection.units), len(selection.values)))
        indices.append(_pack(space, form, selection.units.numpy()))
    values = [selection.values.numpy().astype(VALUE, copy=False).tobytes() for selection in selections]
    body = b"".join(table + indices + values)
    message = bytearray(HEADER.size + len(body))
    HEADER.pack_into(message, 0, MAGIC, VERSION, method, len(spaces), zlib.crc32(body))
    message[HEADER.size :] = body
    return torch.frombuffer(message, dtype=torch.uint8)


def decode(octets: Tensor, method: int, spaces: Sequence[Space]) -> list[Selection]:
    """What `encode` was given, for the same method and spaces.

    Raises PayloadError for anything else. Sizes are checked against the message and the spaces before they are
    believed, so no more is allocated than the layers have entries."""
    message = octets.numpy().data
    counts = _counts(message, method, spaces)
    at = HEADER.size + SECTION.size * len(spaces)
    units = []
    for space, (count, _) in zip(spaces, counts, strict=True):
        form, size = _form(space, count)
        units.append(_unpack(space, form, count, message[at : at + size]))
        at += size
    selections = []
    for indices, (_, length) in zip(units, counts, strict=True):
        values = np.frombuffer(message, VALUE, length, at).astype(np.float32)
        selections.append(Selection(torch.from_numpy(indices), torch.from_numpy(values)))
        at += VALUE.itemsize * length
    return selections


def _counts(message: memoryview, method: int, spaces: Sequence[Space]) -> list[tuple[int, int]]:
    """The number of units and of values of each section, after every check that needs no index."""
    fixed = HEADER.size + SECTION.size * len(spaces)
    if len(message) < fixed:
        raise PayloadError(f"payload: found {len(message)} bytes, at least {fixed} expected")
    magic, version, sent_method, sections, checksum = HEADER.unpack_from(message)
    if magic != MAGIC:
        raise PayloadError(f"payload: found magic {magic!r}, expected {MAGIC!r}")
    if (version, sent_method, sections) != (VERSION, method, len(spaces)):
        raise PayloadError(
            f"payload: found version {version}, method {sent_method}, {sections} layers; "
            f"expected version {VERSION}, method {method}, {len(spaces)} layers"
        )
    if zlib.crc32(message[HEADER.size :]) != checksum:
        raise PayloadError("payload: damaged, its checksum does not match")
    counts = []
    for number, space in enumerate(spaces):
        layer, form, units, values = SECTION.unpack_from(message, HEADER.size + SECTION.size * number)
        if layer != space.layer:
            raise PayloadError(f"payload: section {number} is about layer {layer}, expected {space.layer}")
        if units > space.units or values > space.entries:
            raise PayloadError(
                f"payload: layer {layer}: found {units} units with {values} values, "
                f"at most {space.units} with {space.entries} exist"
            )
        if form != _form(space, units)[0]:
            raise PayloadError(f"payload: layer {layer}: found index form {form}, expected {_form(space, units)[0]}")
        counts.append((units, values))
    size = encoded_size(spaces, *zip(*counts, strict=True)) if counts else fixed
    if len(message) != size:
        raise PayloadError(f"payload: found {len(message)} bytes, expected {size}")
    return counts


def _integer(space: Space) -> np.dtype[np.unsignedinteger]:
    return np.dtype("<u1" if space.units <= 2**8 else "<u2" if space.units <= 2**16 else "<u4")


def _form(space: Space, count: int) -> tuple[Form, int]:
    """The form of the indices of `count` units, and its size in bytes."""
    if count == space.units:
        return Form.ALL, 0
    bitmap, integers = -(-space.units // 8), count * _integer(space).itemsize
    return (Form.BITMAP, bitmap) if bitmap <= integers else (Form.INTEGERS, integers)


def _pack(space: Space, form: Form, units: NDArray[np.int64]) -> bytes:
    if form is Form.ALL:
        return b""
    if form is Form.INTEGERS:
        return units.astype(_integer(space)).tobytes()
    sent = np.zeros(space.units, dtype=bool)
    sent[units] = True
    return np.packbits(sent, bitorder="little").tobytes()


def _unpack(space: Space, form: Form, count: int, octets: memoryview) -> NDArray[np.int64]:
    if form is Form.ALL:
        return np.arange(space.units)
    if form is Form.INTEGERS:
        units = np.frombuffer(octets, _integer(space)).astype(np.int64)
        if np.any(units[1:] <= units[:-1]) or np.any(units[-1:] >= space.units):
            raise PayloadError(f"payload: layer {space.layer}: indices not ascending or beyond {space.units}")
        return units
    bits = np.unpackbits(np.frombuffer(octets, np.uint8), bitorder="little")
    units = np.flatnonzero(bits)
    if len(units) != count or np.any(units[-1:] >= space.units):
        raise PayloadError(
            f"payload: layer {space.layer}: found {len(units)} bits set, expected {count} below {space.units}"
        )
    return units
