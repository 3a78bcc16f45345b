"""Large TCP packets as a TUN device with offload hands them over: cut only where one of their packets is lost.

The kernel passes up to 64 kB of one connection as one frame: a virtio_net_hdr (Virtual I/O Device version 1.2,
section 5.1.6.2), then the headers of IPv4 and TCP once, then the payload of several packets of `gso_size` bytes. The
receiving device takes it as a network card's offload would. Checksums of TCP are partial: the pseudo-header only.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

HEADER = struct.Struct("=BBHHHH")
"""flags, GSO type, length of headers, payload of a packet, where the checksum starts, where in it it is put"""

_NEEDS_CHECKSUM = 1
_FIN_PSH = 0x09
_CWR = 0x80


class Frame:
    """A frame that holds more than one packet. Of IPv4: namespaces here have no IPv6."""

    def __init__(self, data: bytes) -> None:
        _, self._type, _, self._size, _, _ = HEADER.unpack_from(data)
        self._ip = HEADER.size
        self._tcp = self._ip + 4 * (data[self._ip] & 0x0F)
        self._payload = self._tcp + 4 * (data[self._tcp + 12] >> 4)
        self._data = data
        self.packets = max(1, -(-(len(data) - self._payload) // self._size))
        self.wire_bytes = len(data) - self._payload + self.packets * (self._payload - self._ip)
        """of all its packets, from the header of IP on"""

    def without(self, lost: Sequence[bool]) -> list[bytes]:
        """What is left without the packets that are lost, one value a packet: each run of the others as a frame."""
        return self._runs([index for index in range(self.packets) if not lost[index]])

    def apart(self, lost: Sequence[bool]) -> list[bytes]:
        """Each packet that is not lost as a frame of its own."""
        return [self._run(index, index + 1) for index in range(self.packets) if not lost[index]]

    def _runs(self, kept: Sequence[int]) -> list[bytes]:
        runs = []
        for place, index in enumerate(kept):
            if place == 0 or kept[place - 1] != index - 1:
                first = index
            if place == len(kept) - 1 or kept[place + 1] != index + 1:
                runs.append(self._run(first, index + 1))
        return runs

    def _run(self, first: int, end: int) -> bytes:
        """Packets `first` up to, not including, `end`."""
        payload = self._data[self._payload + first * self._size : self._payload + end * self._size]
        headers = bytearray(self._data[self._ip : self._payload])
        tcp = self._tcp - self._ip
        identification = struct.unpack_from("!H", headers, 4)[0]
        struct.pack_into("!HH", headers, 2, len(headers) + len(payload), (identification + first) & 0xFFFF)
        struct.pack_into("!H", headers, 10, 0)
        struct.pack_into("!H", headers, 10, _folded(headers[:tcp]) ^ 0xFFFF)
        addresses = headers[12:20]
        sequence = struct.unpack_from("!I", headers, tcp + 4)[0]
        struct.pack_into("!I", headers, tcp + 4, (sequence + first * self._size) & 0xFFFFFFFF)
        if first > 0:
            headers[tcp + 13] &= ~_CWR & 0xFF
        if end < self.packets:
            headers[tcp + 13] &= ~_FIN_PSH & 0xFF
        pseudo = bytes(addresses) + struct.pack("!II", 6, len(headers) - tcp + len(payload))
        struct.pack_into("!H", headers, tcp + 16, _folded(pseudo))
        kind, size = (self._type, self._size) if end - first > 1 else (0, 0)
        return b"".join((HEADER.pack(_NEEDS_CHECKSUM, kind, len(headers), size, tcp, 16), headers, payload))


def on_wire(data: bytes) -> tuple[int, int]:
    """How many packets a frame is on the wire, and their bytes from the header of IP on."""
    if not is_large(data):
        return 1, len(data) - HEADER.size
    frame = Frame(data)
    return frame.packets, frame.wire_bytes


def is_large(data: bytes) -> bool:
    """Whether a frame may hold more than one packet."""
    return data[1] != 0


def _folded(data: bytes | bytearray) -> int:
    """The sum that checksums of the Internet are the complement of (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
