"""TUN devices: network devices whose other end is a file descriptor, one frame a read and a write.

Linux, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

DEVICE = Path("/dev/net/tun")

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUNSETOFFLOAD = 0x400454D0
_CHECKSUM_TSO4_TSO6 = 0x01 | 0x02 | 0x04
_NAME_BYTES = 15
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


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


def open_tun_inside(namespace: str, name: str) -> int:
    """As `open_tun`, in the network namespace behind the path `namespace`; the caller's own namespace stays."""
    return inside(namespace, lambda: open_tun(name))


def inside(namespace: str, act: Callable[[], T]) -> T:
    """What `act` returns, or raises, when it is called in the network namespace behind the path `namespace`.

    It runs in a thread of its own: entering a namespace cannot always be undone, and ends with the thread that did it.
    Raises OSError where the namespace cannot be entered.
    """
    result: Future[T] = Future()

    def enter_and_act() -> None:
        try:
            descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter(descriptor)
            finally:
                os.close(descriptor)
            result.set_result(act())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=enter_and_act)
    thread.start()
    thread.join()
    return result.result()


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
