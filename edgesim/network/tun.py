"""TUN devices: network devices whose other end is a file descriptor, one IP packet a read and a write.

Linux, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path

from edgesim.network.syscalls import CLONE_NEWNET, setns

DEVICE = Path("/dev/net/tun")

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_NAME_BYTES = 15


def open_tun(name: str) -> int:
    """Create the TUN device `name` in this thread's network namespace; it exists until the returned descriptor, which
    does not block and is not inherited, is closed by all that hold it.

    Raises ValueError for a name that no device can have, OSError where the kernel refuses.
    """
    encoded = name.encode()
    if not 0 < len(encoded) <= _NAME_BYTES or b"/" in encoded or b"%" in encoded:
        raise ValueError(f"a device's name: found {name!r}, allowed 1 to {_NAME_BYTES} bytes without / and %")
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", encoded, _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_tun_inside(namespace: str, name: str) -> int:
    """As `open_tun`, in the network namespace behind the path `namespace`; the caller's own namespace stays."""
    opened: list[int] = []
    failed: list[Exception] = []

    def enter_and_open() -> None:
        try:
            inside = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                setns(inside, CLONE_NEWNET)
            finally:
                os.close(inside)
            opened.append(open_tun(name))
        except (OSError, ValueError) as error:
            failed.append(error)

    # A thread of its own: entering a namespace cannot always be undone, and ends with the thread that did it.
    thread = threading.Thread(target=enter_and_open)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return opened[0]
