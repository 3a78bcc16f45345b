"""Frames of several TCP packets, cut: every packet must be the one that the sender's kernel would have sent."""

from __future__ import annotations

import struct
from itertools import groupby

from frames import CWR, FIN_PSH_ACK, MSS, checksum, frame
from hypothesis import given
from hypothesis import strategies as st

from edgesim.network.segments import HEADER, Frame, is_large, on_wire


def packets(data: bytes) -> list[tuple[int, int, bytes]]:
    """Sequence number, flags and payload of each packet of a frame, whose headers are checked."""
    flags, kind, headers, size, start, offset = HEADER.unpack_from(data)
    ip, rest = data[HEADER.size : HEADER.size + start], data[HEADER.size + start :]
    assert (flags, offset) == (1, 16)
    assert checksum(ip) == 0
    assert struct.unpack_from("!H", ip, 2)[0] == len(ip) + len(rest)
    # the partial checksum is the sum over the pseudo-header, not yet complemented
    pseudo = ip[12:20] + struct.pack("!II", len(rest), 6)
    assert struct.unpack_from("!H", rest, 16)[0] == checksum(pseudo) ^ 0xFFFF
    sequence = struct.unpack_from("!I", rest, 4)[0]
    header, payload = rest[:32], rest[32:]
    assert headers == len(ip) + len(header)
    assert header[20:] == bytes(range(12))
    if kind == 0:
        assert size == 0
        return [(sequence, header[13], payload)]
    assert (size, len(payload) > size) == (MSS, True)
    pieces = [payload[first : first + size] for first in range(0, len(payload), size)]
    return [((sequence + first * size) % 2**32, header[13], piece) for first, piece in enumerate(pieces)]


def test_a_frame_counts_as_its_packets() -> None:
    # 2,500 bytes are three packets, each with 32 bytes of TCP and 20 of IP
    data = frame(bytes(2500))
    assert is_large(data)
    assert on_wire(data) == (3, 2500 + 3 * (32 + 20))


def test_a_frame_of_one_packet_is_as_long_as_it_is() -> None:
    data = HEADER.pack(0, 0, 0, 0, 0, 0) + bytes(84)
    assert not is_large(data)
    assert on_wire(data) == (1, 84)


@given(st.integers(1, 5 * MSS), st.lists(st.booleans(), min_size=5, max_size=5))
def test_what_is_lost_is_missing_and_the_rest_is_as_it_was(length: int, lost: list[bool]) -> None:
    payload = bytes(index * 7 % 251 for index in range(length))
    whole = Frame(frame(payload))
    sent = [((2**32 - 1500 + first) % 2**32, payload[first : first + MSS]) for first in range(0, len(payload), MSS)]
    kept = [packet for packet, gone in zip(sent, lost, strict=False) if not gone]
    assert whole.packets == len(sent)
    for parts in (whole.without(lost), whole.apart(lost)):
        assert [(sequence, piece) for part in parts for sequence, _, piece in packets(part)] == kept
    assert len(whole.apart(lost)) == len(kept)
    assert len(whole.without(lost)) == sum(not gone for gone, _ in groupby(lost[: len(sent)]))


def test_flags_that_belong_to_the_first_or_last_packet_stay_there() -> None:
    flags = [flags for part in Frame(frame(bytes(3 * MSS))).apart([False] * 3) for _, flags, _ in packets(part)]
    assert flags == [0x10 | CWR, 0x10, FIN_PSH_ACK]


def test_each_packet_has_the_identification_that_counts_on() -> None:
    parts = Frame(frame(bytes(3 * MSS))).apart([False] * 3)
    assert [struct.unpack_from("!H", part, HEADER.size + 4)[0] for part in parts] == [0xFFFE, 0xFFFF, 0]
