"""Frames of several TCP packets as a kernel hands them over through a TUN device."""

from __future__ import annotations

import ipaddress
import struct

from edgesim.network.segments import HEADER

MSS = 1000
FIN_PSH_ACK, CWR = 0x19, 0x80
TCPV4 = 1
"""GSO type of a virtio_net_hdr"""


def checksum(data: bytes) -> int:
    """Of the Internet, by its definition (RFC 1071): the complement of the sum in ones' complement."""
    total = 0
    for (word,) in struct.iter_unpack("!H", data + b"\0" * (len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def frame(payload: bytes, sequence: int = 2**32 - 1500, identification: int = 0xFFFE) -> bytes:
    """A frame as the kernel hands it over, of a connection with 12 bytes of options."""
    tcp = struct.pack("!HHIIBBHHH", 5001, 80, sequence, 7, 8 << 4, FIN_PSH_ACK | CWR, 500, 0, 0) + bytes(range(12))
    addresses = ipaddress.ip_address("10.0.0.1").packed + ipaddress.ip_address("10.0.0.2").packed
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp) + len(payload), identification, 0x4000, 64, 6, 0)
    ip += addresses
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return HEADER.pack(1, TCPV4, len(ip) + len(tcp), MSS, len(ip), 16) + ip + tcp + payload
