"""What of a network namespace netlink does not reach: the caller's own namespace is meant."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from pathlib import Path

_SIOCETHTOOL = 0x8946
_OFFLOADS = {
    "tcp segmentation": (0x1E, 0x1F),
    "generic segmentation": (0x23, 0x24),
    "generic receive": (0x2B, 0x2C),
}
"""commands to ask for and to set each (include/uapi/linux/ethtool.h)"""


def stop_offload(name: str) -> None:
    """Have a device sent packets as they would be on a wire: with segmentation left to it, a queue would see 64 kB at
    once. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for _, set_it in _OFFLOADS.values():
            _ethtool(control, name, set_it, 0)


def offloads(name: str) -> list[str]:
    """Which offloads a device still has. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return [what for what, (ask, _) in _OFFLOADS.items() if _ethtool(control, name, ask, 0)]


def _ethtool(control: socket.socket, name: str, command: int, value: int) -> int:
    """struct ethtool_value behind struct ifreq (netdevice(7))."""
    asked = array.array("I", [command, value])
    address, _ = asked.buffer_info()
    fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
    return asked[1]


def write_setting(path: str, value: str) -> None:
    """A setting of this network namespace, below /proc/sys/net. Raises OSError."""
    (Path("/proc/sys/net") / path).write_text(value)


def read_setting(path: str) -> str:
    return (Path("/proc/sys/net") / path).read_text().strip()
