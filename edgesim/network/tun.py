"""TUN devices: network devices whose other end is a file descriptor, one frame a read and a write.

Linux, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

DEVICE = Path("/dev/net/tun")

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUNSETOFFLOAD = 0x400454D0
_CHECKSUM_TSO4_TSO6 = 0x01 | 0x02 | 0x04
_NAME_BYTES = 15


def open_tun(name: str) -> int:
    """Create the TUN device `name` in this thread's network namespace; it exists until the returned descriptor, which
    does not block and is not inherited, is closed by all that hold it.

    What is read and written are frames as `edgesim.network.segments` describes them: a virtio_net_hdr, then one packet
    of IP or several of a TCP connection, without their checksums.

    Raises ValueError for a name that no device can have, OSError where the kernel refuses.
    """
    encoded = name.encode()
    if not 0 < len(encoded) <= _NAME_BYTES or b"/" in encoded or b"%" in encoded:
        raise ValueError(f"a device's name: found {name!r}, allowed 1 to {_NAME_BYTES} bytes without / and %")
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", encoded, _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _CHECKSUM_TSO4_TSO6)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
